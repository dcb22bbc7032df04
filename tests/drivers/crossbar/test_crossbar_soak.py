"""Exactly once over a bad link, counted by the twin: the short form of the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[3] / "benchmarks" / "exactly_once.py"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["faults", "reboot"])
def test_no_pulse_is_lost_or_doubled(mode: str) -> None:
    command = [sys.executable, str(SOAK), "--mode", mode, "--requests", "700", "--rate", "0.03"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout)
    assert (found["lost"], found["doubled"]) == (0, 0)
    assert found["pulses_done"] > 10_000
    if mode == "faults":
        assert found["pulses_counted"] == found["pulses_done"]
        assert min(found["link"][name] for name in ("dropped", "corrupted", "duplicated")) > 0
        assert found["uncertain_operations"] == 0
    else:
        assert found["reboots"] == 1
        assert found["uncertain_operations"] == found["reported_uncertain"] > 0
