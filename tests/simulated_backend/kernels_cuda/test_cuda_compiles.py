"""The update kernel compiles for a GPU of compute capability 9.0, which takes no GPU: the interpreter checks no types."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

PROGRAM = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from simulated_backend.kernels import cuda

f, train = "*fp32", ("*fp32", "*i8", "*i32", "*i32", "*i32", "*i8")
types = {
    "rows_of": train, "cols_of": train, "key": "*i32", "active": "*u8", "state": f, "hidden": f, "params": (f,) * 12,
    "nodes": "*i64", "c2c": f, "write": f, "count_up": "*i32", "count_down": "*i32", "pairs": "*i64", "rows": "i32",
    "cols": "i32", "samples": "i32",
}
fixed = {
    "ROW_KIND": 0, "COL_KIND": 0, "ACTIVE": True, "HIDDEN": True, "COUNTED": True, "FAMILY": 0, "MULTIPLICATIVE": True,
    "UP": 0, "DOWN": 0, "ROWS": cuda.ROWS, "COLS": cuda.COLS, "ONE": False,
}
names = cuda._update.arg_names
source = ASTSource(
    cuda._update, {n: types.get(n, "constexpr") for n in names}, {(names.index(n),): value for n, value in fixed.items()}
)
made = triton.compile(
    source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False, "num_warps": cuda.WARPS}
)
assert "popc" in made.asm["ptx"]
assert "fma.rn.f32" not in made.asm["ptx"]
print(len(made.asm["cubin"]))
"""


@pytest.mark.slow
def test_update_compiles_for_a_gpu(tmp_path) -> None:
    """With the population count as one instruction, and no product contracted with a sum."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 0
