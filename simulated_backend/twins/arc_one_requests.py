"""How an ArC ONE reads its wire: arguments one by one, until a request has all of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Refused", "Request", "RequestReader"]

_ARGUMENTS = {"00": 0, "999": 0, "01": 2, "02": 2, "04": 2, "1": 2, "0": 7, "3": 4, "50": 6, "2": 1}
"""Arguments by request; ``50`` and ``2`` want more, by what these say."""

_WHOLE, _REAL = re.compile(r"\d{1,6}"), re.compile(r"-?\d{1,6}\.\d{6}")


class Refused(ValueError):
    """What the board would not do; the word is the name that it is counted under."""


@dataclass(frozen=True)
class Request:
    """A request with all its arguments, still as text."""

    code: str
    arguments: tuple[str, ...]

    def whole(self, number: int, low: int, high: int) -> int:
        """Argument ``number`` as an integer from low to high; Refused("malformed" | "out of range")."""
        text = self.arguments[number]
        if not _WHOLE.fullmatch(text):
            raise Refused("malformed")
        if not low <= int(text) <= high:
            raise Refused("out of range")
        return int(text)

    def real(self, number: int, low: float, high: float) -> float:
        """Argument ``number`` as a float of six decimals from low to high."""
        text = self.arguments[number]
        if not _REAL.fullmatch(text):
            raise Refused("malformed")
        if not low <= float(text) <= high:
            raise Refused("out of range")
        return float(text)


class RequestReader:
    """Collects arguments. As on the board there is no end mark: one that is missing is taken from the next request."""

    def __init__(self) -> None:
        self._code, self._arguments, self._wanted = "", list[str](), 0

    def clear(self) -> None:
        """Forget a request that has begun."""
        self._code, self._arguments = "", []

    def take(self, packet: bytes) -> Request | None:
        """One argument; the request that it completes, if it does. Refused where no request begins like this."""
        text = packet.decode("ascii", errors="replace")
        if self._code:
            self._arguments.append(text)
        elif text in _ARGUMENTS:
            self._code, self._wanted = text, _ARGUMENTS[text]
        else:
            raise Refused("unknown request")
        if len(self._arguments) == self._wanted:
            self._wanted += self._more()
        if len(self._arguments) < self._wanted:
            return None
        request = Request(self._code, tuple(self._arguments))
        self.clear()
        return request

    def _more(self) -> int:
        """How many arguments follow those that are there."""
        have = len(self._arguments)
        if self._code == "50" and have == 6:
            return self._count(3)
        if self._code == "2" and have == 1:
            return 3 if self._arguments[0] == "2" else 2
        if self._code == "2" and have == 4 and self._arguments[0] == "2":
            return 2 * self._count(3)
        return 0

    def _count(self, number: int) -> int:
        """A number of lines or devices that is to follow; one that no board has makes no request to wait for."""
        try:
            return Request(self._code, tuple(self._arguments)).whole(number, 0, 32 * 32)
        except Refused:
            self.clear()
            raise
