"""What every benchmark prints beside its figures: the machine, the versions, medians with their spread, and the peer's."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

__all__ = ["emit", "machine", "peer_lines", "spread"]


def machine() -> dict[str, Any]:
    """Processor, cores, threads, versions, load."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "threads": numba.get_num_threads(),
        "torch_threads": torch.get_num_threads(), "python": platform.python_version(), "torch": torch.__version__,
        "numba": numba.__version__, "numpy": np.__version__, "load": round(os.getloadavg()[0], 2),
    }  # fmt: skip


def spread(values: Sequence[float], digits: int = 4) -> dict[str, float]:
    """Median, lowest and highest, to so many significant digits."""
    found = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: float(f"{value:.{digits}g}") for name, value in found.items()}


def emit(bench: str, **figures: Any) -> None:
    """One JSON line."""
    print(json.dumps({"bench": bench, **figures, "machine": machine()}), flush=True)


def peer_lines(python: str, script: str | Path, *arguments: str) -> list[dict[str, Any]]:
    """What one of the peer's scripts prints in the peer's own interpreter: its JSON lines."""
    command = [python, "-W", "ignore", str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(script).parent)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
