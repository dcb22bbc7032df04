"""Operations of which nobody knows whether they were applied: their cells are read again, they are never sent again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hil.ledger import Ledger
from hil.records import Operation

__all__ = ["reread"]


def reread(ledger: Ledger, operations: Sequence[Operation], read: Callable[[Tensor], Tensor]) -> None:
    """Read the cells of each operation, record a ``reread`` event with them, and settle it.

    operations: of one board; read: conductances [array row col] in siemens of a mask, bool [array row col].
    Errors of ``read`` pass through, and leave the operation pending.
    """
    for operation in operations:
        touched = torch.from_numpy(operation.cells.sum(axis=0) > 0)
        g = read(touched)
        payload = {"operation": operation.number, "board": operation.board, "verb": operation.verb}
        ledger.event("reread", {**payload, "cells": int(touched.sum())}, {"mask": touched, "g_siemens": g})
        ledger.settle([operation.number], "reread")
