"""Limits: strict, in one unit each, compared with what reaches the devices."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hil.backend import ArrayInfo, PulseShape, Range
from hil.errors import LimitError, ShapeError, UsageError
from hil.limits import Limits, check_cells, check_read_v, check_shape, check_volts, excluded_mask

INFO = ArrayInfo(1, 4, 5, True, "v", "fake", "s", "f", Range(-0.4, 0.4), Range(-3.0, 3.0), Range(1e-9, 1e-3))
VALUES = {
    "up_v_max": 2.0,
    "down_v_max": 1.0,
    "width_s_max": 1e-6,
    "half_select_v_max": 1.0,
    "read_v_max": 0.2,
    "pulses_per_cell_max": 100,
    "pulses_per_operation_max": 10,
}
LIMITS = Limits(**VALUES)
SHAPE = PulseShape(up_v=2.0, down_v=-1.0, width_s=1e-6)


def with_limits(**change):
    return Limits(**{**VALUES, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"up_v_max": 0.0},
        {"up_v_max": -1.0},
        {"up_v_max": math.inf},
        {"up_v_max": math.nan},
        {"up_v_max": "2"},
        {"pulses_per_cell_max": 1.0},
        {"pulses_per_cell_max": 0},
        {"gate_v_max": 0.0},
        {"excluded_cells": [[1]]},
        {"excluded_cells": [[1, -1]]},
        {"excluded_rows": [1.0]},
        {"up_v_mx": 1.0},
    ],
    ids=str,
)
def test_a_bad_section_is_refused(change):
    with pytest.raises(ValidationError):
        with_limits(**change)


@pytest.mark.parametrize("name", VALUES)
def test_every_limit_is_needed(name):
    with pytest.raises(ValidationError, match=name):
        Limits(**{key: value for key, value in VALUES.items() if key != name})


def test_toml_values_are_taken_and_frozen():
    limits = with_limits(up_v_max=2, excluded_cells=[[0, 1], [2, 3]], excluded_rows=[3])
    assert limits.excluded_cells == ((0, 1), (2, 3))
    assert limits.excluded_rows == (3,)
    assert hash(limits) == hash(with_limits(excluded_cells=((0, 1), (2, 3)), excluded_rows=(3,)))
    with pytest.raises(ValidationError):
        limits.up_v_max = 3.0


def test_every_field_is_documented():
    assert [name for name, field in Limits.model_fields.items() if not field.description] == []


def test_a_shape_at_the_limits_passes():
    check_shape(SHAPE, INFO, LIMITS, "main")
    check_shape(replace(SHAPE, up_v=-2.0, down_v=1.0), INFO, LIMITS, "main")
    check_shape(SHAPE, INFO, None, "main")


@pytest.mark.parametrize(
    ("change", "limits", "text"),
    [
        ({"up_v": 2.0000001}, {"half_select_v_max": 9.0}, "up_v_max"),
        ({"up_v": -2.0000001}, {"half_select_v_max": 9.0}, "up_v_max"),
        ({"down_v": -1.0000001}, {}, "down_v_max"),
        ({"width_s": 1.1e-6}, {}, "width_s_max"),
        ({"up_v": 3.1}, {"up_v_max": 9.0, "half_select_v_max": 9.0}, "outside what fake does"),
        ({"width_s": 1e-10}, {}, "outside what fake does"),
        ({"width_s": 0.0}, {}, "no pulse"),
        ({"width_s": -1e-6}, {}, "no pulse"),
        ({"up_v": math.nan}, {}, "no pulse"),
        ({"down_v": math.inf}, {}, "no pulse"),
        ({}, {"half_select_v_max": 0.99}, "half_select_v_max"),
        ({"gate_up_v": 1.0}, {}, "without limits.gate_v_max"),
        ({"gate_down_v": -1.1}, {"gate_v_max": 1.0}, "gate_v_max = 1"),
        ({}, {"compliance_a_max": 1e-3}, "without compliance_a"),
        ({"compliance_a": 2e-3}, {"compliance_a_max": 1e-3}, "compliance_a_max"),
        ({"compliance_a": 0.0}, {"compliance_a_max": 1e-3}, "no pulse"),
    ],
    ids=str,
)
def test_a_shape_outside_is_refused(change, limits, text):
    with pytest.raises(LimitError, match=text) as caught:
        check_shape(replace(SHAPE, **change), INFO, with_limits(**limits), "left")
    assert str(caught.value).startswith("boards.left: ")
    assert "\n" not in str(caught.value)


def test_the_half_selected_cell_sees_what_the_scheme_leaves():
    limits = with_limits(half_select_v_max=0.7)
    check_shape(SHAPE, replace(INFO, select_scheme="V/3"), limits, "main")
    check_shape(SHAPE, replace(INFO, select_scheme="selector"), with_limits(half_select_v_max=1e-9), "main")
    with pytest.raises(LimitError, match="V/2 of 2 V"):
        check_shape(SHAPE, INFO, limits, "main")
    deep = with_limits(half_select_v_max=0.7, down_v_max=2.0)
    with pytest.raises(LimitError, match=r"V/2 of 1\.5 V"):
        check_shape(PulseShape(up_v=0.1, down_v=-1.5, width_s=1e-6), INFO, deep, "main")


def test_per_array_values_are_all_compared():
    info = replace(INFO, arrays=3)
    check_shape(replace(SHAPE, up_v=(1.0, 1.5, 2.0)), info, LIMITS, "main")
    with pytest.raises(LimitError, match=r"up_v = 2\.5"):
        check_shape(replace(SHAPE, up_v=(1.0, 2.5, 2.0)), info, LIMITS, "main")
    with pytest.raises(ShapeError, match="2 values for 3 arrays"):
        check_shape(replace(SHAPE, up_v=(1.0, 2.0)), info, LIMITS, "main")


@pytest.mark.parametrize(
    ("read_v", "limits", "text"),
    [(0.21, LIMITS, "read_v_max"), (-0.21, LIMITS, "read_v_max"), (0.41, None, "fake does"), (math.nan, None, "fake does")],
)
def test_read_voltage(read_v, limits, text):
    check_read_v(-0.2, INFO, limits, "main")
    with pytest.raises(LimitError, match=text):
        check_read_v(read_v, INFO, limits, "main")
    with pytest.raises(LimitError, match=text):
        check_volts(torch.tensor([[[0.0, 0.1, read_v]]]), INFO, limits, "main")


def test_a_limit_that_float32_rounds_up_is_still_the_limit():
    assert float(torch.tensor(0.2)) > 0.2
    check_volts(torch.full((1, 1, 4), 0.2), INFO, LIMITS, "main")
    check_volts(torch.full((1, 1, 4), -0.4), INFO, None, "main")
    with pytest.raises(LimitError):
        check_volts(torch.nextafter(torch.full((1, 1, 4), 0.2), torch.tensor(1.0)), INFO, LIMITS, "main")


def test_a_line_at_zero_is_not_driven():
    unipolar = replace(INFO, read_v=Range(0.1, 0.4))
    check_volts(torch.tensor([[[0.0, 0.1]]]), unipolar, LIMITS, "main")
    check_volts(torch.zeros(1, 0, 4), unipolar, LIMITS, "main")


def test_excluded_cells():
    mask = excluded_mask(with_limits(excluded_cells=[[0, 1]], excluded_rows=[3], excluded_cols=[4]), INFO, "main")
    expected = np.zeros((4, 5), dtype=bool)
    expected[0, 1] = expected[3] = expected[:, 4] = True
    np.testing.assert_array_equal(mask, expected)
    for change in ({"excluded_cells": [[4, 0]]}, {"excluded_rows": [4]}, {"excluded_cols": [5]}):
        with pytest.raises(UsageError, match="outside the board"):
            excluded_mask(with_limits(**change), INFO, "main")


def test_pulses_per_cell():
    pulses, worn = np.zeros((1, 4, 5), dtype=np.int64), np.zeros((1, 4, 5), dtype=np.int64)
    excluded = np.zeros((4, 5), dtype=bool)
    pulses[0, 1, 2] = 10
    worn[0, 1, 2] = 90
    worn[0, 0, 0] = 1000
    check_cells(pulses, worn, excluded, LIMITS, "main")
    with pytest.raises(LimitError, match=r"cell \[1, 2\].*pulses_per_cell_max = 100"):
        check_cells(pulses, worn + 1, excluded, LIMITS, "main")
    with pytest.raises(LimitError, match=r"cell \[0, 0\].*pulses_per_operation_max = 9.*\(1 more like it\)"):
        check_cells(pulses + 11 * (worn == 1000), worn * 0, excluded, with_limits(pulses_per_operation_max=9), "main")
    excluded[1, 2] = True
    with pytest.raises(LimitError, match=r"cell \[1, 2\] is excluded"):
        check_cells(pulses, worn, excluded, LIMITS, "main")
    excluded[:] = True
    check_cells(pulses * 0, worn, excluded, LIMITS, "main")
