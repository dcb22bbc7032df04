"""A TCP connection with the few methods of a serial port that ``ByteLink`` uses."""

from __future__ import annotations

import socket

__all__ = ["TcpPort"]

_CONNECT_S, _WRITE_S = 5.0, 10.0


class TcpPort:
    """address: ``tcp://HOST:PORT``. OSError for every fault, ValueError for an address that is none."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=_CONNECT_S)
        self._socket.settimeout(_WRITE_S)
        # Else a small message waits for the acknowledgement of the one before it, up to 40 ms.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def is_open(self) -> bool:
        return self.fileno() >= 0

    def fileno(self) -> int:
        """-1 once it is closed."""
        return self._socket.fileno()

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read(self, at_most: int) -> bytes:
        """What is there, after ``select`` has said that something is."""
        data = self._socket.recv(at_most)
        if not data:
            raise ConnectionError("the other end has closed it")
        return data

    def close(self) -> None:
        self._socket.close()
