"""What a procedure contributes to a report: text, tables, figures. Data only; ``hil.report.html`` lays it out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Figure", "Section", "Table"]


@dataclass(frozen=True)
class Figure:
    """One figure. ``draw`` gets an empty matplotlib Figure of ``size`` inches and fills it."""

    name: str
    """File name without ending, unique in the report."""
    caption: str
    """What is seen, with units; one or two sentences."""
    draw: Callable[[Any], None]
    size: tuple[float, float] = (7.0, 3.5)


@dataclass(frozen=True)
class Table:
    """Rows of text beside a figure; ``caption`` says what the columns are."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A part of the report."""

    title: str
    text: str
    """Plain sentences; paragraphs split by empty lines."""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
