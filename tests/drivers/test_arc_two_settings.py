"""Settings of the ArC TWO driver, and how it opens: its vendor's library by name."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from drivers.arc_two import plugin
from drivers.arc_two_settings import ArcTwoSettings
from hil.errors import HardwareError, UsageError
from hil.plugins import Wanted

WANTED = Wanted("main", "", None, None, torch.zeros(1, dtype=torch.int64), 0)


def settings(**changes: Any) -> ArcTwoSettings:
    channels = {"words": [16, 48], "bits": [0, 33]}
    return ArcTwoSettings.model_validate({"id": 7, "firmware": "fw.bin", "serial": "chip", "channels": channels} | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": None}, "either id"),
        ({"twin": {"name": "arc-two"}}, "either id"),
        ({"read_v": 11.0}, "outside what the DAC does"),
        ({"read_v": 1e-4}, "outside what the DAC does"),
        ({"settle_s": 100e-9}, "neither 0 nor 320 ns"),
        ({"settle_s": 330e-9}, "neither 0 nor 320 ns"),
        ({"idle": "Float"}, "HardGnd"),
        ({"channels": {"words": [16], "bits": [17]}}, "shares the cluster"),
        ({"address": 1}, "Extra inputs"),
    ],
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        settings(**changes)


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarc2", None)
    with pytest.raises(UsageError, match=r"pip install crosspoint-hil\[arc2\]"):
        plugin.open(settings(), WANTED)


def test_the_vendors_own_library_without_a_board():
    pytest.importorskip("pyarc2")
    with pytest.raises(HardwareError, match=r"ArC TWO 63 does not open .*check id") as caught:
        plugin.open(settings(id=63), WANTED)
    assert type(caught.value.__cause__).__name__ == "ArC2Error"
    assert not plugin.elastic(settings())
