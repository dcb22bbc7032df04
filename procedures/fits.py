"""Least squares of the linear-step device on N-up / N-down curves (theory D2, T1, T3). Arrays only: no bench, no torch.

Over m equal pulses the expected conductance is exactly linear in the one before, whatever the cycle noise (T1):

    E[y_{k+1} | y_k] = A (1 - phi) + phi y_k,    phi = (1 - s)^m,    fixed point A = D / s

phi is estimated with the *predicted* curve as instrument, sum z (y_{k+1} - a - phi y_k) = 0 with z from y_0 and a first
fit, not with y_k itself: the noise of a reading and the noise of earlier pulses are then uncorrelated with z, so that
neither biases the slope. Errors take the residuals as they are (process noise may grow with the step) and the exact
correlation of a reading with both increments it is part of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BranchFit", "Floats", "end_of_range", "fit_branch", "shrunk", "step_at_symmetry_point", "symmetry_point"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class BranchFit:
    """One polarity of the linear-step device, per cell: a pulse moves y by D - s y. All arrays are [cell]."""

    d: Floats
    """Step D at y = 0."""
    s: Floats
    """Slope per pulse."""
    var_d: Floats
    var_s: Floats
    cov_ds: Floats
    end: Floats
    """Fixed point A = D / s."""
    end_se: Floats
    reached: Floats
    """Mean over cycles of the last reading of a branch."""
    reached_se: Floats
    clipped: NDArray[np.bool_]
    """The curve stops short of where the fit says it goes: a hard bound; samples near it are left out."""


@dataclass(frozen=True)
class _Line:
    """y_{k+1} = a + phi y_k with covariances, [cell] each."""

    a: Floats
    phi: Floats
    var_a: Floats
    var_phi: Floats
    cov: Floats

    def fixed_point(self) -> tuple[Floats, Floats]:
        """A = a / (1 - phi) and its standard error."""
        gap = np.where(np.abs(1 - self.phi) < 1e-12, 1e-12, 1 - self.phi)
        point = self.a / gap
        variance = (self.var_a + 2 * point * self.cov + point**2 * self.var_phi) / gap**2
        return point, np.sqrt(np.maximum(variance, 0))


def fit_branch(y: Floats, pulses: int, read_var: Floats, pulse_var: Floats) -> BranchFit:
    """Fit up branches: y [cell cycle read], the reads 0..B of each branch, ``pulses`` pulses apart, rising to the last.

    Down branches are given mirrored (-y). read_var, pulse_var: variance of a reading, and of one step near the
    symmetry point, [cell]; the second stands for the process noise where readings drown it.
    """
    safe = _safe_samples(y)
    line = _fit_line(y, safe, read_var, pulse_var * pulses)
    cycles = y.shape[1]
    reached = y[:, :, -1].mean(axis=1)
    reached_se = np.sqrt(y[:, :, -1].var(axis=1, ddof=1) / cycles)
    span = reached - y[:, :, 0].min(axis=1)
    predicted, predicted_var = _last(line, y)
    blur = 3 * np.sqrt(predicted_var + reached_se**2)
    clipped = predicted - reached > np.maximum(0.01 * np.abs(span), blur)
    # Where it cannot be told whether a bound cuts the end, the end tells nothing.
    whole = ~clipped & (blur < 0.15 * np.abs(span))
    keep = np.where(whole[:, None, None], True, safe)
    if whole.any():
        line = _fit_line(y, keep, read_var, pulse_var * pulses)
    end, end_se = line.fixed_point()
    return BranchFit(*_per_pulse(line, pulses), end, end_se, reached, reached_se, clipped)


def symmetry_point(up: BranchFit, down: BranchFit) -> tuple[Floats, Floats]:
    """T3: w* = (D+ - D-) / (s+ + s-) and its standard error; ``down`` was fitted to mirrored curves."""
    total = _away_from_zero(up.s + down.s)
    w = (up.d - down.d) / total
    variance = up.var_d - 2 * w * up.cov_ds + w**2 * up.var_s + down.var_d + 2 * w * down.cov_ds + w**2 * down.var_s
    return w, np.sqrt(np.maximum(variance, 0)) / np.abs(total)


def step_at_symmetry_point(up: BranchFit, down: BranchFit) -> tuple[Floats, Floats, Floats]:
    """F* = (D+ s- + D- s+) / (s+ + s-), its variance, and its covariance with s+ + s-; ``down`` was mirrored."""
    total = _away_from_zero(up.s + down.s)
    w = (up.d - down.d) / total
    a, b = down.s / total, up.s / total
    variance = a**2 * (up.var_d - 2 * w * up.cov_ds + w**2 * up.var_s)
    variance += b**2 * (down.var_d + 2 * w * down.cov_ds + w**2 * down.var_s)
    with_slopes = a * (up.cov_ds - w * up.var_s) + b * (down.cov_ds + w * down.var_s)
    return a * up.d + b * down.d, np.maximum(variance, 0), with_slopes


def end_of_range(fit: BranchFit, other: BranchFit) -> tuple[Floats, Floats]:
    """Where the range ends on this side, and its standard error; ``other`` is the fit of the opposite, mirrored side.

    A hard bound: where the branch stops. A soft one: the fixed point, if it is known to 5 % of the range and lies no
    further away than the branch travelled. Else what was reached, with the distance to the fixed point as its error.
    """
    span = np.maximum(fit.reached + other.reached, 0)
    beyond = fit.end - fit.reached
    soft = ~fit.clipped & (fit.end_se < 0.05 * (span + np.abs(beyond))) & (beyond < span) & (fit.s > 0)
    open_end = ~fit.clipped & ~soft
    unknown = np.where(fit.s > 0, np.hypot(beyond, fit.end_se), 10 * span)
    error = np.where(soft, fit.end_se, np.where(open_end, np.maximum(fit.reached_se, unknown), fit.reached_se))
    return np.where(soft, fit.end, fit.reached), error


def _safe_samples(y: Floats) -> NDArray[np.bool_]:
    """bool [cell cycle read]: increments that a hard bound at the end of the branch cannot have cut, by the mean curve."""
    later = y[:, 1:] if y.shape[1] > 2 else y
    mean, scatter = later.mean(axis=1), later.std(axis=1, ddof=1)
    left = mean[:, -1:] - mean[:, 1:]
    safe = left > 0.5 * np.diff(mean, axis=1) + 3 * scatter[:, 1:]
    safe[safe[:, 1:].sum(axis=1) < 4] = True
    all_safe = np.repeat(safe[:, None, :], y.shape[1], axis=1)
    # The first branch starts wherever the cell was: it reaches the bound sooner.
    ahead = (mean[:, :-1] < y[:, :1, 0]).sum(axis=1)
    place = np.arange(safe.shape[1]) + ahead[:, None]
    inside = place < safe.shape[1]
    all_safe[:, 0] = inside & np.take_along_axis(safe, np.where(inside, place, 0), axis=1)
    return all_safe


def _fit_line(y: Floats, keep: NDArray[np.bool_], read_var: Floats, process_var: Floats) -> _Line:
    before, after = y[:, :, :-1], y[:, :, 1:]
    weight = np.broadcast_to(keep, before.shape).astype(np.float64)
    a, phi = _solve(before, before, after, weight)
    phi = np.clip(phi, 0.0, 1.0)
    a = _mean(after, weight) - phi * _mean(before, weight)
    curve = np.empty_like(before)
    curve[:, :, 0] = before[:, :, 0]
    for k in range(1, curve.shape[2]):
        curve[:, :, k] = a[:, None] + phi[:, None] * curve[:, :, k - 1]
    # The first increment shares its reading with the instrument.
    if weight.shape[2] > 4:
        weight[:, :, 0] = 0
    a, phi = _solve(curve, before, after, weight)
    return _Line(a, phi, *_covariance(a, phi, curve, before, after, weight, read_var, process_var))


def _last(line: _Line, y: Floats) -> tuple[Floats, Floats]:
    """Where branches from y_0 end by the fit, the mean over cycles and its variance, [cell]."""
    end, by_a, by_phi = y[:, :, 0].mean(axis=1), np.zeros_like(line.a), np.zeros_like(line.a)
    for _ in range(y.shape[2] - 1):
        by_a, by_phi, end = 1 + line.phi * by_a, end + line.phi * by_phi, line.a + line.phi * end
    return end, np.maximum(by_a**2 * line.var_a + 2 * by_a * by_phi * line.cov + by_phi**2 * line.var_phi, 0)


def _mean(x: Floats, weight: Floats) -> Floats:
    result: Floats = (x * weight).sum(axis=(1, 2)) / weight.sum(axis=(1, 2))
    return result


def _solve(z: Floats, before: Floats, after: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """a and phi from sum w (after - a - phi before) = 0 and the same times z."""
    centred = (z - _mean(z, weight)[:, None, None]) * weight
    phi = (centred * after).sum(axis=(1, 2)) / _away_from_zero((centred * before).sum(axis=(1, 2)))
    return _mean(after, weight) - phi * _mean(before, weight), phi


def _covariance(
    a: Floats, phi: Floats, z: Floats, before: Floats, after: Floats, weight: Floats, read_var: Floats, process_var: Floats
) -> tuple[Floats, Floats, Floats]:
    """var a, var phi, cov(a, phi), each [cell]."""
    column = (slice(None), None, None)
    used = weight.sum(axis=(1, 2))
    centred = (z - _mean(z, weight)[column]) * weight
    for_phi = centred / _away_from_zero((centred * before).sum(axis=(1, 2)))[column]
    for_a = weight / used[column] - _mean(before, weight)[column] * for_phi
    residual = (after - a[column] - phi[column] * before) * weight
    increment = a[column] + (phi[column] - 1) * z
    squares = _process_noise(residual, weight, increment, (1 + phi**2) * read_var, a, process_var)

    def of_reading(f: Floats) -> Floats:
        """Weight of each reading: it ends one increment and starts the next."""
        result: Floats = np.pad(f, ((0, 0), (0, 0), (1, 0))) - phi[column] * np.pad(f, ((0, 0), (0, 0), (0, 1)))
        return result

    def product(f: Floats, g: Floats) -> Floats:
        result: Floats = (squares * f * g).sum(axis=(1, 2)) + read_var * (of_reading(f) * of_reading(g)).sum(axis=(1, 2))
        return result

    return product(for_a, for_a), product(for_phi, for_phi), product(for_a, for_phi)


def _process_noise(
    residual: Floats, weight: Floats, increment: Floats, reading: Floats, middle: Floats, process_var: Floats
) -> Floats:
    """Variance that the pulses bring to every increment, [cell cycle read]: a constant part and one that grows with the
    square of the increment.

    Noise that scales with the step dies out towards a soft bound, noise of another kind does not: what the residuals say
    about that, with what readings bring (``reading``, known) taken off, is the median over the cells, because a little
    constant noise weighs heavily where the end of a range is concerned. process_var: of an increment as large as
    ``middle``; taken where readings drown the noise.
    """
    column = (slice(None), None, None)
    used = weight.sum(axis=(1, 2))
    size = np.maximum((increment**2 * weight).sum(axis=(1, 2)) / _away_from_zero(used), 1e-300)
    power = np.maximum((residual**2).sum(axis=(1, 2)) / np.maximum(used - 2, 1), 1e-300)
    x = increment**2 / size[column]
    known = (reading / power)[column]
    y = residual**2 * (used / np.maximum(used - 2, 1) / power)[column] - known
    trust = weight

    def total(values: Floats) -> Floats:
        result: Floats = (trust * values).sum(axis=(1, 2))
        return result

    # A square scatters in proportion to its mean: the second and third pass weigh accordingly.
    for _ in range(3):
        n, sx, sxx, sy, sxy = total(np.ones_like(x)), total(x), total(x**2), total(y), total(x * y)
        det = n * sxx - sx**2
        flat = det < 1e-9 * n * sxx
        det = np.where(flat, 1.0, det)
        constant = np.where(flat, sy / n, (sxx * sy - sx * sxy) / det)
        growing = np.where(flat, 0.0, (n * sxy - sx * sy) / det)
        trust = weight / np.maximum(np.maximum(constant, 0)[column] + np.maximum(growing, 0)[column] * x + known, 1e-3) ** 2
    both = constant + np.maximum(growing, 0)
    told = constant[both > 1e-3] / both[both > 1e-3]
    share = float(np.clip(np.median(told), 0, 1)) if told.size else 0.0
    shape = share + (1 - share) * x
    exact = _away_from_zero(total(shape**2))
    scale = total(shape * y) / exact
    at_middle = np.maximum(share + (1 - share) * middle**2 / size, 1e-3)
    scale = np.where(scale < 3 * np.sqrt(2 / exact), process_var / power / at_middle, scale)
    weighted: Floats = weight * (power * scale)[column] * shape
    return weighted


def _per_pulse(line: _Line, pulses: int) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """d, s, var d, var s, cov(d, s): s = 1 - phi^(1/m), D = a h with h = s / (1 - phi)."""
    phi, m = np.maximum(line.phi, 1e-6), pulses
    gap = 1 - phi
    near = np.abs(gap) < 1e-6
    apart = np.where(near, 1.0, gap)
    s = -np.expm1(np.log(phi) / m)
    ds = -(phi ** (1 / m - 1)) / m
    h = np.where(near, 1 / m, s / apart)
    dh = np.where(near, -(1 - 1 / m) / (2 * m), (ds * apart + s) / apart**2)
    d_phi = line.a * dh
    var_d = h**2 * line.var_a + 2 * h * d_phi * line.cov + d_phi**2 * line.var_phi
    return line.a * h, s, np.maximum(var_d, 0), ds**2 * line.var_phi, ds * (h * line.cov + d_phi * line.var_phi)


def shrunk(value: Floats, error: Floats) -> Floats:
    """Noisy values drawn towards their median, as far as their scatter is explained by their errors; all [cell].

    For variances, whose own errors would make the bars computed from them too short in every other cell.
    """
    if len(value) < 3:
        return value
    middle = np.median(value)
    scatter = (1.4826 * np.median(np.abs(value - middle))) ** 2
    between = max(float(scatter - np.median(error) ** 2), 0.0)
    trust = between / np.maximum(between + error**2, 1e-300)
    return middle + trust * (value - middle)


def _away_from_zero(x: Floats) -> Floats:
    return np.where(np.abs(x) < 1e-300, 1e-300, x)
