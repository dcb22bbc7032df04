"""Vectors to trains: the rules of theory 1.3, computed by hand and in plain Python, and the moments they promise (T6c)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hil.encoding import MAX_SLOTS, PulseTrain, Stream, UpdateSettings, coincidence_counts, encode, encode_torch
from hil.errors import UsageError


def trains(
    x: list[float], d: list[float], rate: float, step: float, settings: UpdateSettings, arrays: int = 1, seed: int = 0
) -> tuple[PulseTrain, PulseTrain]:
    """The trains of one sample, for ``arrays`` replicas with their own draws."""
    ids = torch.arange(arrays)
    keys = [Stream(seed, ids, "w", purpose).keys(1) for purpose in ("x", "d")]
    full = [torch.tensor(v).expand(arrays, 1, len(v)).contiguous() for v in (x, d)]
    return encode(*full, torch.full((arrays,), rate), torch.full((arrays,), step), settings, *keys)


def plain(
    x: list[float], d: list[float], rate: float, step: float, s: UpdateSettings
) -> tuple[int, list[float], list[float]]:
    """Theory 1.3 in plain Python: slots, p_x, p_d."""
    max_x, max_d = max(abs(v) for v in x), max(abs(v) for v in d)
    k = rate * max_x * max_d / step
    if k == 0:
        return 0, [0.0] * len(x), [0.0] * len(d)
    slots = min(math.ceil(k), s.slots) if s.slot_management else s.slots
    a = b = math.sqrt(rate / (step * slots))
    if s.management:
        if k > slots:
            max_d *= slots / k
        a *= math.sqrt(max_x / max_d)
        b *= math.sqrt(max_d / max_x)
    return slots, [min(1.0, b * abs(v)) for v in x], [min(1.0, a * abs(v)) for v in d]


def check(train: PulseTrain, slots: int, p: list[float]) -> None:
    assert train.slots.tolist() == [[slots]]
    torch.testing.assert_close(train.probability[0, 0], torch.tensor(p), rtol=2e-6, atol=1e-7)


X, D = [1.0, 0.7, 0.3, 0.1, -0.5, 0.0], [0.5, -0.25, 0.1, 0.02]
"""The vectors of the independent simulator's update figures."""


def test_plain_scheme_by_hand() -> None:
    """lr / (dw_min BL) = 0.01 / (0.001 * 10) = 1: the probabilities are the vectors themselves."""
    rows, cols = trains(X, D, 0.01, 0.001, UpdateSettings(slots=10, management=False, slot_management=False))
    check(rows, 10, [abs(v) for v in X])
    check(cols, 10, [abs(v) for v in D])
    assert rows.sign.tolist() == [[[1, 1, 1, 1, -1, 0]]]
    assert cols.sign.tolist() == [[[1, -1, 1, 1]]]


def test_plain_scheme_clips_each_probability_at_one() -> None:
    """sqrt(0.1 / 0.01) = 3.1623: every line above 0.3162 fires always."""
    rows, cols = trains(X, D, 0.1, 0.001, UpdateSettings(slots=10, management=False, slot_management=False))
    root = 10**0.5
    check(rows, 10, [1, 1, 0.3 * root, 0.1 * root, 1, 0])
    check(cols, 10, [1, 0.25 * root, 0.1 * root, 0.02 * root])


def test_managed_scheme_by_hand() -> None:
    """k = 0.01 * 1 * 0.5 / 0.001 = 5 slots; A = sqrt(2) sqrt(1 / 0.5) = 2, B = sqrt(2) sqrt(0.5) = 1."""
    rows, cols = trains(X, D, 0.01, 0.001, UpdateSettings(slots=31))
    check(rows, 5, [1, 0.7, 0.3, 0.1, 0.5, 0])
    check(cols, 5, [1, 0.5, 0.2, 0.04])


def test_managed_scheme_where_the_slots_do_not_suffice() -> None:
    """k = 50 > 10 slots: max|d| counts as 0.5 * 10 / 50 = 0.1, so A = 10, B = 1, and d above 0.1 is clipped, x is not."""
    rows, cols = trains(X, D, 0.1, 0.001, UpdateSettings(slots=10))
    check(rows, 10, [1, 0.7, 0.3, 0.1, 0.5, 0])
    check(cols, 10, [1, 1, 1, 0.2])


def test_slot_management_rounds_up_and_never_exceeds_the_wish() -> None:
    for rate, slots in ((0.0101, 6), (0.01, 5), (0.0099, 5), (0.0001, 1), (0.061, 31), (1.0, 31)):
        assert trains(X, D, rate, 0.001, UpdateSettings(slots=31))[0].slots.tolist() == [[slots]], rate


def test_each_sample_and_array_is_managed_by_itself() -> None:
    g = torch.Generator().manual_seed(1)
    x, d = torch.rand(3, 4, 5, generator=g) - 0.5, torch.rand(3, 4, 6, generator=g) - 0.5
    x[1, 2] = 0
    rate, step = torch.tensor([0.01, 0.1, 0.5]), torch.tensor([0.001, 0.002, 0.01])
    wanted = torch.tensor([31, 7, 3], dtype=torch.int32)
    keys = [Stream(0, torch.arange(3), "w", purpose).keys(4) for purpose in ("x", "d")]
    rows, cols = encode(x, d, rate, step, UpdateSettings(slots=wanted), *keys)
    for a in range(3):
        for s in range(4):
            rule = UpdateSettings(slots=int(wanted[a]))
            slots, p_x, p_d = plain(x[a, s].tolist(), d[a, s].tolist(), float(rate[a]), float(step[a]), rule)
            assert int(rows.slots[a, s]) == int(cols.slots[a, s]) == slots
            torch.testing.assert_close(rows.probability[a, s], torch.tensor(p_x), rtol=2e-6, atol=1e-7)
            torch.testing.assert_close(cols.probability[a, s], torch.tensor(p_d), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("management", [True, False])
@pytest.mark.parametrize("slot_management", [True, False])
def test_the_definition_in_torch_agrees_bit_for_bit(management: bool, slot_management: bool) -> None:
    """``encode`` takes a compiled loop on the CPU and ``encode_torch`` elsewhere: silent, clipped and ordinary samples."""
    g = torch.Generator().manual_seed(6)
    x, d = torch.rand(40, 5, 7, generator=g) - 0.5, torch.rand(40, 5, 9, generator=g) - 0.5
    x[3, 1], d[4, 2], d[5] = 0, 0, 0
    rate, step = 10.0 ** (3 * torch.rand(40, generator=g) - 3), torch.full((40,), 0.002)
    rate[7] = 0
    wanted = torch.randint(1, 32, (40,), generator=g).to(torch.int32)
    settings = UpdateSettings(slots=wanted, management=management, slot_management=slot_management)
    keys = [Stream(0, torch.arange(40), "w", purpose).keys(5) for purpose in ("x", "d")]
    rows, cols = encode(x, d, rate, step, settings, *keys)
    p_x, p_d, sign_x, sign_d, slots = encode_torch(x, d, rate / step, wanted.float(), settings)
    for one, other in (
        (rows.probability, p_x), (cols.probability, p_d), (rows.sign, sign_x), (cols.sign, sign_d), (rows.slots, slots),
        (cols.slots, slots),
    ):  # fmt: skip
        assert torch.equal(one, other)


def test_deterministic_trains() -> None:
    """Inputs fire in round(p BL) evenly spread slots, outputs in the first round(p BL): floor(n_x n_d / BL) coincide."""
    rows, cols = trains(
        X, D, 0.01, 0.001, UpdateSettings(slots=10, management=False, slot_management=False, kind="deterministic")
    )
    spread = [[k for k in range(31) if b >> k & 1] for b in rows.bits()[0, 0].tolist()]
    assert spread == [list(range(10)), [1, 2, 4, 5, 7, 8, 9], [3, 6, 9], [9], [1, 3, 5, 7, 9], []]
    first = [[k for k in range(31) if b >> k & 1] for b in cols.bits()[0, 0].tolist()]
    assert first == [list(range(5)), [0, 1], [0], []]
    counts = coincidence_counts(rows, cols)[0]
    n_x, n_d = [10, 7, 3, 1, 5, 0], [5, 2, 1, 0]
    sign = torch.outer(torch.tensor(X).sign(), torch.tensor(D).sign()).int()
    assert torch.equal(counts, torch.tensor([[i * j // 10 for j in n_d] for i in n_x], dtype=torch.int32) * sign)


@pytest.mark.parametrize("slots", [0, 32])
def test_slots_out_of_range(slots: int) -> None:
    with pytest.raises(UsageError, match="outside 1 to 31"):
        UpdateSettings(slots=slots)
    with pytest.raises(UsageError, match="outside 1 to 31"):
        UpdateSettings(slots=torch.tensor([5, slots]))


@pytest.mark.parametrize(
    ("rate", "settings"),
    [
        (0.01, UpdateSettings(slots=10, management=False, slot_management=False)),
        (0.01, UpdateSettings(slots=31, management=False, slot_management=False)),
        (0.01, UpdateSettings(slots=31)),
        (0.05, UpdateSettings(slots=31)),
        (0.02, UpdateSettings(slots=31, slot_management=False)),
    ],
)
def test_moments_of_the_counts(lab, rate: float, settings: UpdateSettings) -> None:
    """T6c, no probability clipped: E[count] = rate |x d| / dw, Var = BL p (1 - p), p = p_x p_d. 12,000 draws.

    Resolves 0.35 pulses in the means (of up to 25) and 30 % in the variances.
    """
    rows, cols = trains(X, D, rate, 0.001, settings, arrays=12000, seed=4)
    counts = coincidence_counts(rows, cols).double()
    slots, p_x, p_d = plain(X, D, rate, 0.001, settings)
    for i, x in enumerate(X):
        for j, d in enumerate(D):
            p = p_x[i] * p_d[j]
            if p in (0.0, 1.0):
                assert (counts[:, i, j] == math.copysign(slots * p, x * d)).all()
                continue
            lab.mean_is(counts[:, i, j], rate * x * d / 0.001, resolves=0.35, figures=200)
            if slots * p > 0.3:
                lab.var_is(counts[:, i, j], slots * p * (1 - p), resolves=0.3, figures=200)


def test_cells_correlate_through_the_line_they_share(lab) -> None:
    """Cells that share a row correlate, as in hardware; those that share no line do not. 20,000 draws, resolves 0.08."""
    rows, cols = trains(
        [0.6, 0.5], [0.7, 0.4], 1.0, 1.0, UpdateSettings(slots=1, management=False, slot_management=False), 20000
    )
    counts = coincidence_counts(rows, cols).double()

    def corr(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([a, b]))[0, 1])

    band = lab.limit(2) / math.sqrt(20000)
    assert abs(corr(counts[:, 0, 0], counts[:, 1, 1])) < band < 0.04
    p, q, r = 0.7, 0.4, 0.6  # one row at r, two cols at p and q: cov = p q r (1 - r)
    want = r * p * q * (1 - r) / math.sqrt(r * p * (1 - r * p) * r * q * (1 - r * q))
    assert abs(corr(counts[:, 0, 0], counts[:, 0, 1]) - want) < band


VALUE = st.one_of(st.just(0.0), st.floats(-1, 1, width=32).filter(lambda v: abs(v) > 1e-6))
VECTOR = st.lists(VALUE, min_size=1, max_size=7)
RULE = st.builds(
    UpdateSettings, slots=st.integers(1, MAX_SLOTS), management=st.booleans(), slot_management=st.booleans(),
    kind=st.sampled_from(["stochastic", "deterministic"]),
)  # fmt: skip


@pytest.mark.slow
@given(VECTOR, VECTOR, st.floats(1e-4, 10), RULE)
def test_any_vectors_make_lawful_trains(x: list[float], d: list[float], rate: float, settings: UpdateSettings) -> None:
    """Bits inside the slots, silence where x or d is 0, the sign of the product, no probability outside 0 to 1."""
    rows, cols = trains(x, d, rate, 0.001, settings)
    slots, p_x, p_d = plain(x, d, rate, 0.001, settings)
    for train, values, p in ((rows, x, p_x), (cols, d, p_d)):
        assert abs(int(train.slots) - slots) <= (1 if settings.slot_management else 0)  # ceil of a rounded quotient
        assert int(train.slots) <= settings.slots
        assert ((train.probability >= 0) & (train.probability <= 1)).all()
        if int(train.slots) == slots:
            torch.testing.assert_close(train.probability[0, 0], torch.tensor(p), rtol=1e-5, atol=1e-7)
        for value, bits in zip(values, train.bits()[0, 0].tolist(), strict=True):
            assert bits >> int(train.slots) == 0
            assert value != 0 or bits == 0
    counts = coincidence_counts(rows, cols)[0]
    product = torch.outer(torch.tensor(x).sign(), torch.tensor(d).sign())
    assert ((counts == 0) | (counts.sign() == product)).all()
    assert int(counts.abs().max()) <= settings.slots


@given(VECTOR, VECTOR, st.floats(1e-4, 0.03))
def test_expected_update_is_the_outer_product(x: list[float], d: list[float], rate: float) -> None:
    """Where no probability is clipped BL p_x p_d step = rate |x d|, with and without management."""
    for managed in (False, True):
        settings = UpdateSettings(slots=31, management=managed, slot_management=managed)
        rows, cols = trains(x, d, rate, 0.001, settings)
        mean = 0.001 * float(rows.slots) * torch.outer(rows.probability[0, 0], cols.probability[0, 0])
        want = rate * torch.outer(torch.tensor(x).abs(), torch.tensor(d).abs())
        free = (rows.probability[0, 0, :, None] < 1) & (cols.probability[0, 0] < 1)
        torch.testing.assert_close(mean[free], want[free], rtol=1e-5, atol=1e-9)
