"""A cell's symmetry point from single alternating pulses, reading after reading: the exact linear filter.

Per cell, in units of its step F* and relative to its mid-range: x the conductance, w the symmetry point, f the step,

    up    x <- x + f - s+ (x - w) + noise,     down    x <- x - f - s- (x - w) + noise,     reading = x + read noise

with (x, w, f) Gaussian, w unknown (flat over far more than the range), f from the calibration, and slopes given. The
transient is part of the model, every reading counts once, and the filter's variance is the error. Settled, its estimate
is T4's w* = (s+ w_d + s- w_u) / (s+ + s-). What the slopes' own errors do to it is found by filtering three times, with
either slope moved by its standard error: w's shift is the error's share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from procedures.fits import Floats

__all__ = ["Tracker"]

_SKIP = 8
"""Readings before the innovations are counted: the first ones only place x, w and f."""


@dataclass
class Tracker:
    """The filter of many cells: ``add`` feeds it, ``estimate`` reads it. Arrays [variant cell], variants of ``_slopes``."""

    s_up: Floats
    s_down: Floats
    mean: Floats
    """[x w f, variant, cell]."""
    cov: Floats
    """xx, xw, xf, ww, wf, ff: [6 variant cell]."""
    pulse_var: Floats
    read_var: Floats
    """[cell], in steps squared; above 0."""
    innovation: Floats
    """Sum of squared innovations over their variance, [cell]."""
    count: NDArray[np.int64]
    """Readings so far, [cell]."""

    @classmethod
    def start(
        cls, first: Floats, first_var: Floats, prior_w: Floats, step_var: Floats, slopes: tuple[Floats, Floats],
        slope_errors: tuple[Floats, Floats], pulse_var: Floats, read_var: Floats,
    ) -> Tracker:  # fmt: skip
        """All [cell], in steps: a reading and its variance, the flat prior's standard deviation, the step's variance."""
        s_up, s_down = _slopes(slopes, slope_errors)
        one = np.ones_like(s_up)
        mean = np.stack([first * one, 0 * one, one])
        zero = 0 * one
        cov = np.stack([first_var * one, zero, zero, prior_w**2 * one, zero, step_var * one])
        return cls(s_up, s_down, mean, cov, pulse_var, read_var, np.zeros_like(first), np.zeros(len(first), np.int64))

    def add(self, y: Floats) -> None:
        """y: [cell read] after each of alternating pulses, up first, a whole number of pairs."""
        x, w, f = self.mean
        xx, xw, xf, ww, wf, ff = self.cov
        for number in range(y.shape[1]):
            sign, s = (-1.0, self.s_down) if number % 2 else (1.0, self.s_up)
            keep, step = 1 - s, f - sign * s * (x - w)
            # Pulse noise grows with the step, as cycle noise does; within limits, while w is still anywhere.
            process = self.pulse_var * np.clip(step / np.maximum(f, 0.1), 0.3, 3.0) ** 2
            x = x + sign * step
            # Covariances with x after the pulse, then its variance.
            xw, xf, old_w, old_f = keep * xw + s * ww + sign * wf, keep * xf + s * wf + sign * ff, xw, xf
            xx = keep * (keep * xx + s * old_w + sign * old_f) + s * xw + sign * xf + process
            total = xx + self.read_var
            surprise = y[:, number] - x
            gain = surprise / total
            self.innovation += np.where(self.count >= _SKIP, (surprise * gain)[0], 1.0)
            self.count += 1
            x, w, f = x + xx * gain, w + xw * gain, f + xf * gain
            ww, wf, ff = ww - xw * xw / total, wf - xw * xf / total, ff - xf * xf / total
            rest = self.read_var / total
            xx, xw, xf = xx * rest, xw * rest, xf * rest
        self.mean = np.stack([x, w, f])
        self.cov = np.stack([xx, xw, xf, ww, wf, ff])

    def estimate(self) -> tuple[Floats, Floats]:
        """w and its standard error, [cell], in steps. The error grows where readings scatter more than the model says."""
        w = self.mean[1]
        scale = np.where(self.count > 8 * _SKIP, self.innovation / np.maximum(self.count, 1), 1.0)
        return w[0], np.sqrt(self.cov[3, 0] * np.maximum(scale, 0.5) + (w[1] - w[0]) ** 2 + (w[2] - w[0]) ** 2)

    def keep(self, cells: NDArray[np.bool_]) -> None:
        """Go on with these cells only."""
        for name in ("s_up", "s_down", "pulse_var", "read_var", "innovation", "count", "mean", "cov"):
            setattr(self, name, getattr(self, name)[..., cells])


def _slopes(slopes: tuple[Floats, Floats], errors: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Variants: as measured; s+ moved by its error; s- moved by its error."""
    up, down = slopes
    return np.stack([up, up + errors[0], up]), np.stack([down, down, down + errors[1]])
