"""The report's part on the rate of transfer that reaches a given accuracy, at every asymmetry of A."""

from __future__ import annotations

from typing import Any

import numpy as np

from hil.report.section import Figure, Section, Table
from hil.report.style import COLOURS, DASHES, HALF
from hil.report.values import number
from procedures.explore_chunk import BOUND_WEIGHT

__all__ = ["contour_section"]

_OUTSIDE = {-1: "reached by the lowest rate tried", 0: "", 1: "not reached by any rate tried"}


def contour_section(payload: Any, arrays: Any) -> Section:
    """Text, figure and table of a recorded ``RateContour``."""
    alpha, rate, outside = arrays["alpha_a"], arrays["rate"], arrays["outside"]
    inside = int((outside == 0).sum())
    if payload["slope"] is None:
        said = f"Only {inside} of {len(alpha)} asymmetries cross it between two tried rates: no slope can be given."
    else:
        slope = _slope(payload, "slope")
        said = f"Log-log slope over the {inside} asymmetries that cross it: {slope}, predicted +1 where A settles."
    text = (
        f"Lowest lr_C / n_s that reaches {100 * payload['level']:.1f} % (validation) in trainings of the explored length. "
        "Equal effective learning rates, lr_C (b_A / g_A) / (E|g| N n_s), come equally far, so that this contour rises as "
        "alpha_A, also where the best rate is a plateau: requested transfers are clipped at the slots of one update. Where "
        "T_A is longer than the training, A holds all gradients whatever its asymmetry, and the contour is flat. "
        f"{said} {_settled(payload)}"
    )
    rows = tuple(
        (number(float(alpha[k]), 3), number(float(rate[k]), 3), "–" if outside[k] else number(float(arrays["error"][k]), 2),
         _remark(payload, arrays, k))
        for k in range(len(alpha))
    )  # fmt: skip
    figure = Figure("contour", "Rate of transfer that reaches the same accuracy at every asymmetry of A; dashed: slope +1; "
                    "hollow: beyond the tried rates.", lambda fig: _draw(fig, payload, arrays), HALF)  # fmt: skip
    table = Table("Lowest lr_C / n_s that reaches the accuracy; standard error in decades.",
                  ("α_A", "lr_C / n_s", "error", "remark"), rows)  # fmt: skip
    return Section("Rate for equal accuracy", text, (figure,), (table,))


def _slope(payload: Any, name: str) -> str:
    return f"{number(payload[name], 3)} ± {number(payload[name + '_se'], 2)}"


def _settled(payload: Any) -> str:
    if payload["mean_gradient"] is None or payload["training_samples"] is None:
        return "With explain.mean_gradient (E|g|) and training_samples the slope is also given for where A settles."
    count = len(payload["settling"])
    if payload["settling_slope"] is None:
        return f"At {count} of them T_A is below a quarter of the training: too few for a slope of their own."
    return f"Over the {count} with T_A below a quarter of the training: {_slope(payload, 'settling_slope')}."


def _remark(payload: Any, arrays: Any, k: int) -> str:
    words = [_OUTSIDE[int(arrays["outside"][k])]]
    if payload["mean_gradient"] is not None and np.isfinite(arrays["lr_a"][k]):
        time = BOUND_WEIGHT / (arrays["alpha_a"][k] * arrays["lr_a"][k] * payload["mean_gradient"])
        words.append(f"T_A {number(float(time), 2)} samples")
        if k in payload["settling"]:
            words.append("A settles")
    return "; ".join(word for word in words if word)


def _draw(fig: Any, payload: Any, arrays: Any) -> None:
    axes = fig.add_subplot()
    alpha, rate, error = arrays["alpha_a"], arrays["rate"], arrays["error"]
    inside = arrays["outside"] == 0
    axes.set(xscale="log", yscale="log", xlabel="asymmetry α of A", ylabel="lr_C / n_s for equal accuracy")
    spread = np.stack([rate * (1 - 10**-error), rate * (10**error - 1)])
    axes.errorbar(alpha[inside], rate[inside], spread[:, inside], fmt="o", color=COLOURS[0], capsize=2, label="measured")
    if not inside.all():
        axes.plot(alpha[~inside], rate[~inside], "o", markerfacecolor="white", color=COLOURS[0], label="beyond the tried")
    fitted = np.array(payload["settling"], dtype=np.int64) if payload["settling"] else np.flatnonzero(inside)
    if len(fitted):
        anchor = float(np.mean(np.log10(rate[fitted] / alpha[fitted])))
        axes.plot(alpha, alpha * 10**anchor, color=COLOURS[1], linestyle=DASHES[1], label="slope +1")
    axes.legend(loc="best")
