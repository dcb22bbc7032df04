"""Numbers as people read them: SI prefixes, units, dashes where there is no value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["PREFIXES", "SYMBOLS", "number", "prefixed", "quantity"]

SYMBOLS = {
    "ampere": "A", "a": "A", "joule": "J", "ohm": "Ω", "s": "s", "second": "s", "siemens": "S", "v": "V", "volt": "V",
}  # fmt: skip
"""Units that take a prefix, as this project writes them out -> their symbols."""

PREFIXES = {
    -15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G",
}  # fmt: skip
"""Power of ten -> SI prefix."""


def number(value: Any, digits: int = 4) -> str:
    """A value without its unit, to so many significant digits; an en dash for None and NaN."""
    if isinstance(value, np.ndarray):
        return f"array {list(value.shape)}"
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "–"
    if value.is_integer() and abs(value) < 1e6:
        return number(int(value))
    if 1000 <= abs(value) < 1e6:
        return number(round(value, digits - 1 - math.floor(math.log10(abs(value)))) if digits < 4 else round(value))
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}").replace("inf", "∞")


def quantity(value: Any, unit: str, digits: int = 4) -> str:
    """A value with its unit: ``quantity(1.2e-6, "siemens")`` is "1.2 µS"; unit "1" is left out."""
    if value is None or isinstance(value, (str, bool, np.ndarray)) or (isinstance(value, float) and math.isnan(value)):
        return number(value)
    if unit in SYMBOLS and isinstance(value, (int, float)) and math.isfinite(value):
        factor, label = prefixed(value, unit)
        return f"{number(float(value) * factor, digits)}\N{NO-BREAK SPACE}{label}"
    return number(value, digits) + ("" if unit == "1" else f"\N{NO-BREAK SPACE}{_inverse(unit)}")


def _inverse(unit: str) -> str:
    head, slash, tail = unit.partition("/")
    return f"{head}/{SYMBOLS.get(tail, tail)}" if slash else unit


def prefixed(values: Any, unit: str) -> tuple[float, str]:
    """(factor, unit) that bring values, in ``unit``, to a readable size: the same prefix for all, after the largest.

    Units that are not in SYMBOLS keep their factor of 1; unit "1" gives the label "".
    """
    if unit not in SYMBOLS:
        return 1.0, "" if unit == "1" else unit
    sizes = np.abs(np.asarray(values, dtype=np.float64))
    sizes = sizes[np.isfinite(sizes)]
    largest = float(sizes.max(initial=0.0))
    power = 0 if largest == 0 else 3 * math.floor(math.log10(largest * (1 + 1e-9)) / 3)
    power = min(max(power, min(PREFIXES)), max(PREFIXES))
    # Minutes of computing are seconds to nobody's surprise; kiloseconds are.
    if SYMBOLS[unit] == "s":
        power = min(power, 0)
    return 10.0**-power, PREFIXES[power] + SYMBOLS[unit]
