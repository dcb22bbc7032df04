"""What every test runs under: one torch thread, deterministic algorithms, repeatable examples."""

from __future__ import annotations

import os

import torch
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=40)
settings.load_profile("repeatable")
torch.set_num_threads(1)
# Triton's kernels run in its interpreter where there is no GPU; it must know before triton is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
torch.use_deterministic_algorithms(True)
