# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""What a pulse does to a tile of cells, as Triton device functions: every model of ``devices.MODELS``.

Operation for operation as ``reference``; kernels are launched without contraction of products and sums, so that the
linear family and piecewise steps are equal to the bit. Exponentials and powers are taken in float64 and rounded once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from simulated_backend.kernels.cuda_draws import normal

__all__ = ["FAMILIES", "NAMES", "load_cells", "pulses", "seen_after"]

FAMILIES = {"constant": 0, "linear": 0, "soft_bounds": 0, "exponential": 1, "power": 2, "piecewise": 3}
"""Models as a compile-time number; those of the linear family are one."""

NAMES: dict[int, tuple[str, ...]] = {
    0: ("s_up", "s_down"),
    1: ("z", "z_slope", "a_up", "a_down", "gamma_up", "gamma_down"),
    2: ("power",),
    3: (),
}
"""Parameters of a family beside d, low, high and noise, in the order in which kernels take them."""

_LINEAR = tl.constexpr(0)
_EXPONENTIAL = tl.constexpr(1)
_POWER = tl.constexpr(2)
_SMALL = tl.constexpr(1e-12)


@triton.jit
def load_cells(params, at, mask, FAMILY: tl.constexpr, MULTIPLICATIVE: tl.constexpr):
    """Parameters of the cells at offset ``at``; what the family does not have stands in by another, and is not loaded."""
    d_up = tl.load(params[0] + at, mask=mask, other=0.0)
    d_down = tl.load(params[1] + at, mask=mask, other=0.0)
    low = tl.load(params[2] + at, mask=mask, other=0.0)
    high = tl.load(params[3] + at, mask=mask, other=0.0)
    noise_up, noise_down = d_up, d_down
    if not MULTIPLICATIVE:
        noise_up = tl.load(params[4] + at, mask=mask, other=0.0)
        noise_down = tl.load(params[5] + at, mask=mask, other=0.0)
    p1, p2, p3, p4, p5, p6 = d_up, d_up, d_up, d_up, d_up, d_up
    if FAMILY <= _POWER:
        p1 = tl.load(params[6] + at, mask=mask, other=0.0)
    if FAMILY <= _EXPONENTIAL:
        p2 = tl.load(params[7] + at, mask=mask, other=0.0)
    if FAMILY == _EXPONENTIAL:
        p3 = tl.load(params[8] + at, mask=mask, other=0.0)
        p4 = tl.load(params[9] + at, mask=mask, other=0.0)
        p5 = tl.load(params[10] + at, mask=mask, other=0.0)
        p6 = tl.load(params[11] + at, mask=mask, other=0.0)
    return d_up, d_down, low, high, noise_up, noise_down, p1, p2, p3, p4, p5, p6


@triton.jit
def _interpolated(w, up, low, high, nodes, at, mask, UP: tl.constexpr, DOWN: tl.constexpr):
    """Piecewise linear step at unit d. nodes: addresses of UP + DOWN tensors, int64."""
    share = tl.div_rn(w - low, tl.maximum(high - low, _SMALL))
    share = tl.minimum(tl.maximum(share, 0.0), 1.0)
    last = tl.where(up, UP - 1, DOWN - 1)
    place = share * last.to(tl.float32)
    left = tl.minimum(tl.floor(place).to(tl.int32), last - 1)
    first = nodes + tl.where(up, left, left + UP)
    here = tl.load(first, mask=mask, other=0).to(tl.pointer_type(tl.float32))
    there = tl.load(first + 1, mask=mask, other=0).to(tl.pointer_type(tl.float32))
    a = tl.load(here + at, mask=mask, other=0.0)
    b = tl.load(there + at, mask=mask, other=0.0)
    return a + (place - left.to(tl.float32)) * (b - a)


@triton.jit
def pulses(
    w, number, up, cells, at, place, c2c, pairs, nodes, FAMILY: tl.constexpr, MULTIPLICATIVE: tl.constexpr,
    UP: tl.constexpr, DOWN: tl.constexpr,
):  # fmt: skip
    """The state after ``number`` pulses of polarity ``up`` on every cell of a tile; pulse k draws number k of its place."""
    d_up, d_down, low, high, noise_up, noise_down, p1, p2, p3, p4, p5, p6 = cells
    d = tl.where(up, d_up, d_down)
    extra = tl.where(up, noise_up, noise_down)
    if FAMILY == _LINEAR:
        slope = tl.where(up, -p1, p2)
    elif FAMILY == _EXPONENTIAL:
        scale = tl.where(up, p3, p4)
        gamma = tl.where(up, p5, -p6)
    most = tl.max(number)
    for k in range(0, most):
        on = number > k
        if FAMILY == _LINEAR:
            size = d + slope * w
        elif FAMILY == _EXPONENTIAL:
            z = p1 + p2 * w
            grow = scale * tl.exp((gamma * z).to(tl.float64)).to(tl.float32)
            size = d * tl.maximum(1.0 - grow, 0.0)
        elif FAMILY == _POWER:
            room = tl.div_rn(tl.maximum(tl.where(up, high - w, w - low), 0.0), tl.maximum(high - low, _SMALL))
            some = tl.where(room > 0, room, 1.0).to(tl.float64)
            factor = tl.exp2(p1.to(tl.float64) * tl.log2(some)).to(tl.float32)
            size = d * tl.where(room > 0, factor, tl.where(p1 == 0, 1.0, tl.where(p1 > 0, 0.0, float("inf"))))
        else:
            size = d * _interpolated(w, up, low, high, nodes, at, on, UP, DOWN)
        if c2c > 0:
            xi = c2c * normal(place, tl.full([], k, tl.uint32), pairs, on)
            if MULTIPLICATIVE:
                size = size * (1.0 + xi)
            else:
                size = size + xi * extra
        moved = tl.minimum(tl.maximum(tl.where(up, w + size, w - size), low), high)
        w = tl.where(on, moved, w)
    return w


@triton.jit
def seen_after(w, low, high, place, write, pairs, mask):
    """What a cell shows after a write: its hidden state and the write noise."""
    xi = normal(place, tl.full([], 0xFFFFFFFF, tl.uint32), pairs, mask)
    return w + tl.where(high > low, write, 0.0) * xi
