"""The control socket of a twin: JSON lines over TCP, for tests and for whoever wants to see a harness in trouble.

``{"get": "report"}`` counters, device time, wire time; ``{"get": "truth"}`` what only the twin knows;
``{"set": {"drop": 0.01}}`` rates of ``FaultSettings``; ``{"order": {"unplug": 0.5}}`` something once;
``{"stop": true}``. Each is answered by one JSON line; ``{"error": ...}`` for what it does not know.
"""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from types import TracebackType
from typing import Any, Self

from simulated_backend.twins.running import RunningTwin

__all__ = ["LINK_ORDERS", "Control", "serve_control"]

LINK_ORDERS = {"freeze": "seconds without a byte read or sent", "unplug": "seconds for which the link is gone"}


def serve_control(twin: RunningTwin, stop: threading.Event) -> str:
    """Serve the control socket in threads until ``stop``; returns its address, HOST:PORT."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            for line in self.rfile:
                try:
                    answer = _answer(json.loads(line), twin, stop)
                except (ValueError, KeyError, TypeError, AttributeError) as exc:
                    answer = {"error": " ".join(str(exc).split())}
                self.wfile.write(json.dumps(answer).encode() + b"\n")

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True, name="twin control").start()
    host, port = server.server_address[:2]
    return f"{host!s}:{port}"


def _answer(wanted: dict[str, Any], twin: RunningTwin, stop: threading.Event) -> dict[str, Any]:
    if "set" in wanted:
        twin.panel.set_rates(wanted["set"])
    elif "order" in wanted:
        known = {*LINK_ORDERS, *twin.orders}
        for name, value in wanted["order"].items():
            if name not in known:
                raise ValueError(f"order {name!r} is unknown: one of {', '.join(sorted(known))}")
            twin.panel.order(name, float(value))
    elif wanted.get("get") == "truth":
        return twin.truth()
    elif wanted.get("get") == "report":
        return twin.report()
    elif "stop" in wanted:
        stop.set()
    else:
        raise ValueError("give one of get, set, order, stop")
    return {"ok": True}


class Control:
    """A client of a twin's control socket. address: HOST:PORT."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        self._lines = self._socket.makefile("rb")

    def ask(self, **wanted: Any) -> dict[str, Any]:
        """Send one request; RuntimeError with the twin's own words where it refuses."""
        self._socket.sendall(json.dumps(wanted).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._lines.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def report(self) -> dict[str, Any]:
        """Counters and times."""
        return self.ask(get="report")

    def truth(self) -> dict[str, Any]:
        """What only the twin knows."""
        return self.ask(get="truth")

    def rates(self, **changes: float) -> None:
        """Change fault rates."""
        self.ask(set=changes)

    def order(self, **orders: float) -> None:
        """Have something happen once."""
        self.ask(order=orders)

    def close(self) -> None:
        """Let go."""
        self._lines.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
