"""The voltage law: what a pulse's voltage and width do to step and asymmetry, and what a reference does not change."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hil.backend import PulseShape
from simulated_backend.settings import LawSettings

MODELS: dict[str, dict[str, Any]] = {
    "constant": {},
    "soft_bounds": {},
    "linear": {"slope_up": 0.5, "slope_down": 0.3},
    "power": {"power": 2.0},
    "exponential": {"exp_a": 0.5, "exp_scale_up": 0.2, "exp_scale_down": 0.1, "exp_gamma_up": 1.0, "exp_gamma_down": 1.0},
    "piecewise": {"nodes_up": (1.5, 1.0, 0.2), "nodes_down": (0.1, 1.0, 1.6)},
}


def kappa(law: LawSettings, volts: float, nominal: float, width_s: float) -> float:
    return (width_s / law.width_s) ** law.width_power * math.sinh(abs(volts) / law.v_0) / math.sinh(abs(nominal) / law.v_0)


SHAPES = [
    PulseShape(1.2, -1.0, 1e-6),
    PulseShape(1.0, -0.8, 1e-6),
    PulseShape(0.9, -1.1, 4e-6),
    PulseShape(1.0, -1.0, 25e-8),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reference", [0.0, 0.15])
def test_the_voltage_law(lab, kernel: str, shape: PulseShape, reference: float) -> None:
    """Step kappa (D - kappa^bend s w) in true weight, for each polarity its own kappa; the reference changes nothing."""
    law = LawSettings(up_v=1.0, down_v=-1.0, v_0=0.4, width_power=0.5, bend=0.5)
    array = lab.emulate(1, 5, kernel=kernel, model="linear", dw_min=0.004, slope_up=0.6, slope_down=0.8, board={"law": law})
    p = lab.params(array)
    if reference:
        array.set_reference(torch.full((1, 1, 5), 100e-6 + reference * 50e-6))
    true = torch.tensor([-0.4, -0.2, 0.0, 0.2, 0.4], dtype=torch.float64)
    for sign, volts, nominal in ((1, shape.up_v, law.up_v), (-1, shape.down_v, law.down_v)):
        k = kappa(law, float(volts), nominal, float(shape.width_s))
        d, s = (p["d_up"], -p["s_up"]) if sign > 0 else (p["d_down"], p["s_down"])
        want = k * (d + k**law.bend * s * true)
        lab.put(array, state=(true - reference)[None, None])
        before = lab.weight(array)
        lab.pulse(array, sign, shape)
        torch.testing.assert_close(sign * (lab.weight(array) - before), want, rtol=1e-4, atol=2e-7)


def test_stronger_pulses_are_more_asymmetric(lab) -> None:
    """a = (s+ + s-)^2 / (2 (D+ s- + D- s+)) grows as kappa^bend; measured by two pulses from either side of the SP."""
    law = LawSettings()
    array = lab.emulate(1, 2, dw_min=0.002, board={"law": law})

    def asymmetry(shape: PulseShape) -> float:
        ends = []
        for sign in (1, -1):
            lab.put(array, state=torch.tensor([[[-0.1, 0.1]]]))
            before = lab.weight(array)
            lab.pulse(array, sign, shape)
            ends.append((sign * (lab.weight(array) - before))[0, 0])
        (up_a, up_b), (down_a, down_b) = ends
        s_up, s_down = (up_a - up_b) / 0.2, (down_b - down_a) / 0.2
        d_up, d_down = (up_a + up_b) / 2, (down_a + down_b) / 2
        return float((s_up + s_down) ** 2 / (2 * (d_up * s_down + d_down * s_up)))

    assert asymmetry(lab.nominal) == pytest.approx(1 / 0.6, rel=1e-3)
    for volts in (0.9, 1.15, 1.3):
        k = kappa(law, volts, 1.0, 1e-6)
        assert asymmetry(PulseShape(volts, -volts, 1e-6)) == pytest.approx(k**law.bend / 0.6, rel=1e-3)


def test_the_nominal_shape_has_exactly_the_stored_parameters(lab, kernel: str) -> None:
    """Bit-identical whether named with or without per-array values, before and after a reference is set."""
    device = {"kernel": kernel, "clean": False, "dw_min": 0.01}
    arrays = [lab.emulate(4, 5, arrays=2, **device) for _ in range(2)]
    tuples = PulseShape((1.0, 1.0), (-1.0, -1.0), (1e-6, 1e-6))
    for array, shape in zip(arrays, (lab.nominal, tuples), strict=True):
        lab.pulse(array, 7, shape)
        array.set_reference(torch.full((2, 4, 5), 97e-6))
        lab.pulse(array, -3, shape)
    one, two = (array.state_dict() for array in arrays)
    assert all(torch.equal(one[key], two[key]) for key in one if not key.endswith("_s"))  # but for rounding of the clocks
    p, w = lab.params(arrays[0]), lab.weight(arrays[0])
    quiet = lab.emulate(4, 5, arrays=2, **(device | {"c2c": 0.0}))
    quiet.set_reference(torch.full((2, 4, 5), 97e-6))
    lab.put(quiet, state=w)
    lab.pulse(quiet, 1, PulseShape(1.2, -1.0, 1e-6))
    lab.put(quiet, state=w)
    lab.pulse(quiet, 1)
    want = torch.minimum(w + p["d_up"] - p["s_up"] * w, p["high"])
    torch.testing.assert_close(lab.weight(quiet), want, rtol=0, atol=2e-7)


def test_shapes_per_array(lab, kernel: str) -> None:
    """Each array has its own voltages and widths."""
    array = lab.emulate(1, 1, kernel=kernel, arrays=3, dw_min=0.002)
    lab.pulse(array, 1, PulseShape((1.0, 1.1, 1.0), -1.0, (1e-6, 1e-6, 9e-6)))
    law = LawSettings()
    want = [0.002 * k for k in (1.0, kappa(law, 1.1, 1.0, 1e-6), 3.0)]
    assert lab.weight(array).flatten().tolist() == pytest.approx(want, rel=1e-5)


def test_references_do_not_change_the_device(lab, kernel: str) -> None:
    """Conductances along a pulse sequence are the same with any reference, to rounding, for every model."""
    for model, fields in MODELS.items():
        if kernel != "reference" and model not in ("constant", "linear", "soft_bounds"):
            continue
        seen = []
        for reference in (None, 94e-6):
            array = lab.emulate(3, 4, kernel=kernel, clean=False, model=model, dw_min=0.02, **fields)
            if reference is not None:
                array.set_reference(torch.full((1, 3, 4), reference))
            lab.pulse(array, 6)
            lab.pulse(array, -11)
            lab.pulse(array, 2, PulseShape(1.1, -1.0, 1e-6))
            seen.append(array.read(lab.mask(array)))
        torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=3e-10)
