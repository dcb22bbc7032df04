"""What the library of an ArC TWO takes: TypeError for a wrong type, ValueError for a wrong number of timings (as the
library does), ``Wrong`` for everything that the instrument could not do or would silently make into something else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, TypeVar

import numpy as np

__all__ = ["Wrong", "channels", "member", "pairs", "pulses", "timings", "volts", "whole"]

_CHANNELS, _CLUSTERS = 64, 8

Choice = TypeVar("Choice", bound=Enum)


class Wrong(Exception):
    """Out of range."""


def channels(given: Any) -> list[int]:
    """Channel numbers: an iterable of integers, 0 to 63."""
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise TypeError("Invalid argument type, must be an iterable")
    found = np.array(given if isinstance(given, np.ndarray) else list(given), dtype=np.uint64)
    if found.ndim != 1:
        raise TypeError(f"Invalid argument dimensions, must be: 1, found {found.ndim} instead")
    return [_channel(one) for one in found.tolist()]


def _channel(given: Any) -> int:
    number = whole(given)
    if number >= _CHANNELS:
        raise Wrong(f"channel {number} does not exist")
    return number


def whole(given: Any, low: int = 0, high: int = 2**63, grain: int = 1) -> int:
    """An integer from low to high, in steps of grain."""
    if isinstance(given, bool | float) or not hasattr(given, "__index__"):
        raise TypeError(f"an integer is wanted, not {type(given).__name__}")
    number = int(given)
    if not low <= number <= high or number % grain:
        raise Wrong(f"{number} is outside {low} to {high} in steps of {grain}")
    return number


def volts(given: Any, top_v: float) -> float:
    """A voltage of at most ``top_v`` either way."""
    if isinstance(given, bool | str) or not hasattr(given, "__float__"):
        raise TypeError(f"a voltage is wanted, not {type(given).__name__}")
    if not math.fabs(given) <= top_v:
        raise Wrong(f"Invalid voltage or current argument: {given}")
    return float(given)


def member(kind: type[Choice], given: Any) -> Choice:
    """One of an enumeration."""
    if not isinstance(given, kind):
        raise TypeError(f"a {kind.__name__} is wanted, not {type(given).__name__}")
    return given


def pairs(given: Any, top_v: Sequence[float]) -> list[tuple[int, float]]:
    """(channel, voltage) of channels to be configured; top_v: by channel."""
    if not isinstance(given, Sequence):
        raise TypeError(f"a list of (channel, voltage) is wanted, not {type(given).__name__}")
    numbers = [_channel(channel) for channel, _ in given]
    return [(channel, volts(v, top_v[channel])) for channel, (_, v) in zip(numbers, given, strict=True)]


def timings(given: Any) -> list[int | None]:
    """Pulse widths of the 8 clusters, nanoseconds: 40 to 500 million in steps of 10."""
    if not isinstance(given, list):
        raise TypeError(f"a list of timings is wanted, not {type(given).__name__}")
    if len(given) != _CLUSTERS:
        raise ValueError(f"Need {_CLUSTERS} arguments for cluster timings")
    return [None if one is None else whole(one, 40, 500_000_000, 10) for one in given]


def pulses(given: Any, widths: Sequence[int | None], top_v: Sequence[float]) -> list[tuple[int, float, float]]:
    """(channel, pulse voltage, rest voltage): each cluster timed, with one direction of transition."""
    if not isinstance(given, list):
        raise TypeError(f"a list of (channel, voltage, voltage) is wanted, not {type(given).__name__}")
    found, falls = [], dict[int, bool]()
    for number, pulse_v, rest_v in given:
        channel = _channel(number)
        cluster = channel // (_CHANNELS // _CLUSTERS)
        if widths[cluster] is None:
            raise Wrong(f"HS Channel {channel} has no timing associated on cluster {cluster}")
        one = (channel, volts(pulse_v, top_v[channel]), volts(rest_v, top_v[channel]))
        if falls.setdefault(cluster, one[1] <= one[2]) != (one[1] <= one[2]):
            raise Wrong("Attempting to toggle a previously set HS polarity bit")
        found.append(one)
    return found
