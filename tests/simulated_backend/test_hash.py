"""The counter hash against plain Python integers, its statistics, and the streams and trains that draw from it."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
from scipy.special import ndtri

from hil.encoding import (
    GAUSS,
    MAX_SLOTS,
    PHI,
    PSI,
    PulseTrain,
    Stream,
    coincidence_counts,
    gauss,
    line_hash,
    mix,
    uniform,
    word,
)
from hil.errors import UsageError
from simulated_backend.kernels.bits import packed_bits

_ALL = 2**32 - 1
KNOWN = {0: 0, 1: 0x688990C0, 2: 0xD1132181, 0xDEADBEEF: 0xE628C683, _ALL: 0x6768824A}


def plain_mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D & _ALL
    x ^= x >> 15
    x = x * 0x846CA68B & _ALL
    return x ^ x >> 16


def plain_unmix(x: int) -> int:
    x ^= x >> 16
    x = x * pow(0x846CA68B, -1, 2**32) & _ALL
    x ^= x >> 15 ^ x >> 30
    x = x * pow(0x7FEB352D, -1, 2**32) & _ALL
    return x ^ x >> 16


def plain_word(key: tuple[int, int], place: int, slot: int) -> int:
    line = plain_mix(key[0] ^ place * 0x9E3779B9 & _ALL) ^ key[1]
    return plain_mix(line + slot * 0x85EBCA6B & _ALL)


def signed(values: list[int]) -> torch.Tensor:
    return torch.tensor([v - 2**32 if v >= 2**31 else v for v in values], dtype=torch.int32)


def unsigned(values: torch.Tensor) -> list[int]:
    return [v & _ALL for v in values.flatten().tolist()]


def some_words(count: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31, (count,), generator=torch.Generator().manual_seed(seed)).to(torch.int32)


def corr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.double().flatten(), b.double().flatten()]))[0, 1])


def test_mix_known_vectors() -> None:
    assert unsigned(mix(signed(list(KNOWN)))) == list(KNOWN.values())


def test_mix_equals_plain_integers_and_can_be_undone() -> None:
    x = some_words(5000)
    mixed = unsigned(mix(x))
    assert mixed == [plain_mix(v) for v in unsigned(x)]
    assert [plain_unmix(v) for v in mixed] == unsigned(x)


def test_mix_is_injective_on_neighbours() -> None:
    x = torch.arange(2**19, dtype=torch.int32)
    for block in (x, x << 13, x - 2**18):
        assert len(mix(block).unique()) == len(block)


def test_mix_avalanche(lab) -> None:
    """Each input bit flips each output bit half the time. 1,024 figures; resolves 2.5 % of bias."""
    x = some_words(2**17)
    for bit in range(32):
        flip = torch.tensor(1 << bit if bit < 31 else -(2**31), dtype=torch.int32)
        change = mix(x) ^ mix(x ^ flip)
        for out in range(0, 32, 5):
            lab.rate_is(int(((change >> out) & 1).sum()), len(x), 0.5, resolves=0.025, figures=224)


def test_word_equals_plain_integers() -> None:
    keys = [(7, 9), (_ALL, 0x80000000), (0x12345678, 0x9ABCDEF0)]
    places, slots = [0, 1, 2, 65537, 2**31 - 1], [0, 1, 30, MAX_SLOTS]
    key = torch.stack([signed([k[0] for k in keys]), signed([k[1] for k in keys])], dim=-1)
    drawn = word(key[:, None, None], signed(places)[:, None], signed(slots))
    assert unsigned(drawn) == [plain_word(k, p, s) for k in keys for p in places for s in slots]
    assert unsigned(line_hash(key[0], signed(places))) == [plain_mix(7 ^ p * 0x9E3779B9 & _ALL) ^ 9 for p in places]
    assert (PHI & _ALL, PSI & _ALL) == (0x9E3779B9, 0x85EBCA6B)


def test_write_noise_draws_at_slot_minus_one() -> None:
    key = signed([5, 6])
    assert unsigned(word(key, signed([3]), -1)) == [plain_word((5, 6), 3, _ALL)]


@pytest.mark.parametrize("p", [2.0**-10, 0.1, 1 / 3, 0.5, 0.9, 1 - 2.0**-10])
def test_bernoulli_rate(lab, p: float) -> None:
    """One key, 2^19 places: fires with probability p to 24 bits. Resolves 0.008."""
    fires = (word(signed([11, 12]), torch.arange(2**19, dtype=torch.int32), 4) >> 8) & 0xFFFFFF
    lab.rate_is(int((fires < round(p * 2**24)).sum()), 2**19, p, resolves=0.008, figures=6)


def test_bernoulli_ends_are_exact() -> None:
    words = some_words(10000) >> 8 & 0xFFFFFF
    assert not (words < 0).any()
    assert (words < 2**24).all()


def test_uniform(lab) -> None:
    """Resolves 0.005 in the mean and 0.6 % in the variance (1/12)."""
    u = uniform(word(signed([1, 2]), torch.arange(2**20, dtype=torch.int32), 0))
    assert 0 < float(u.min()) < 1e-5
    assert 1 - 1e-5 < float(u.max()) <= 1
    lab.mean_is(u, 0.5, resolves=0.005, figures=2)
    lab.var_is(u, 1 / 12, resolves=0.01, figures=2)


def test_gauss_table_moments() -> None:
    """Exact integrals over the 1,024 segments: mean 0, variance 1, excess kurtosis 0.02, largest value 3.84."""
    low, rise = GAUSS.double()
    high = low + rise
    mean = ((low + high) / 2).mean()
    second = (low**2 + low * rise + rise**2 / 3).mean()
    third = ((high**4 - low**4) / (4 * rise)).mean()
    fourth = ((high**5 - low**5) / (5 * rise)).mean()
    assert abs(float(mean)) < 1e-9
    assert abs(float(third)) < 1e-7
    assert float(second) == pytest.approx(1, abs=1e-7)
    assert float(fourth) - 3 == pytest.approx(0.0217, abs=1e-3)
    assert float(high.max()) == pytest.approx(3.839, abs=1e-3)
    torch.testing.assert_close(low[1:], high[:-1], atol=1e-6, rtol=1e-6)


def test_gauss_is_the_normal_quantile() -> None:
    """Inside the table's range the value is ndtri of the word, to the curvature of a segment and the scale (1 + 1e-3)."""
    level = torch.linspace(0.01, 0.99, 981, dtype=torch.float64)
    got = gauss((level * 2.0**32 - 2.0**32 * (level >= 0.5)).round().to(torch.int32))
    torch.testing.assert_close(got.double(), torch.from_numpy(ndtri(level.numpy())), atol=3e-3, rtol=2e-3)


def test_gauss_moments(lab) -> None:
    """2^20 draws. Resolves 0.011 in the mean, 1.6 % in the variance, 0.06 in the kurtosis."""
    z = gauss(word(signed([21, 22]), torch.arange(2**20, dtype=torch.int32), 0))
    lab.mean_is(z, 0.0, resolves=0.011, figures=4)
    lab.var_is(z, 1.0, resolves=0.016, figures=4)
    lab.mean_is(z.double() ** 3, 0.0, resolves=0.05, figures=4)
    lab.mean_is(z.double() ** 4, 3.0217, resolves=0.11, figures=4, rounding=1e-3)


def test_neighbours_are_independent(lab) -> None:
    """Correlation of Gaussians, and of their squares, between neighbouring places, slots, counters and arrays.

    2^18 pairs each, 20 figures; resolves a correlation of 0.023.
    """
    n = 2**18
    place = torch.arange(n, dtype=torch.int32)
    key = signed([31, 32])
    stream = Stream(5, torch.arange(64), "m", "p").keys(4096)
    by_counter = gauss(word(stream, torch.tensor(7, dtype=torch.int32), 0))
    z = gauss(word(key, place, 0))
    pairs = {
        "place": (z[:-1], z[1:]),
        "place + 64": (z[:-64], z[64:]),
        "slot": (z, gauss(word(key, place, 1))),
        "far slot": (z, gauss(word(key, place, 30))),
        "slots on one line": tuple(gauss(word(key, torch.tensor(3, dtype=torch.int32), place)).unfold(0, n - 1, 1)),
        "key word 0": (z, gauss(word(signed([30, 32]), place, 0))),
        "key word 1": (z, gauss(word(signed([31, 33]), place, 0))),
        "swapped key": (z, gauss(word(signed([32, 31]), place, 0))),
        "counter": (by_counter[:, :-1], by_counter[:, 1:]),
        "array": (by_counter[:-1], by_counter[1:]),
    }
    for name, (a, b) in pairs.items():
        band = lab.limit(2 * len(pairs)) / math.sqrt(a.numel())
        assert 2 * band < 0.023
        assert abs(corr(a, b)) < band, name
        assert abs(corr(a**2, b**2)) < 1.1 * band, f"{name}, squares"


def test_joint_firing_of_row_and_col_lines(lab) -> None:
    """Rows and columns with the same line numbers fire independently. Resolves 0.006 in the joint rate 0.3 * 0.4."""
    ids = torch.arange(500)
    x, d = (Stream(9, ids, "m", purpose).keys(1)[:, 0, None, None] for purpose in ("x", "d"))
    line, slot = torch.arange(16, dtype=torch.int32)[:, None], torch.arange(31, dtype=torch.int32)
    fires = [uniform(word(key, line, slot)) < p for key, p in ((x, 0.3), (d, 0.4))]
    lab.rate_is(int((fires[0] & fires[1]).sum()), fires[0].numel(), 0.12, resolves=0.008)


def test_streams_differ_by_every_part_of_their_name() -> None:
    ids = torch.tensor([4])
    streams = [
        Stream(0, ids, "c", "pulse"), Stream(1, ids, "c", "pulse"), Stream(0, ids + 1, "c", "pulse"),
        Stream(0, ids, "a", "pulse"), Stream(0, ids, "c", "mvm"),
    ]  # fmt: skip
    keys = torch.cat([s.keys(8).flatten(0, 1) for s in streams])
    assert len(keys.unique(dim=0)) == 40


def test_array_17_alone_has_the_keys_it_has_in_a_population() -> None:
    crowd, alone = Stream(3, torch.arange(40), "c", "pulse"), Stream(3, torch.tensor([17]), "c", "pulse")
    for count in (1, 5, 2):
        assert torch.equal(crowd.keys(count)[17], alone.keys(count)[0])


def test_keys_come_one_after_the_other() -> None:
    one, many = Stream(3, torch.arange(3), "c", "pulse"), Stream(3, torch.arange(3), "c", "pulse")
    assert torch.equal(torch.cat([one.keys(1) for _ in range(6)], dim=1), many.keys(6))
    assert torch.equal(one.counter, torch.full((3,), 6))


def test_keys_equal_plain_integers() -> None:
    stream = Stream(3, torch.tensor([4, -1]), "layer0.a", "pulse")
    stream.counter += torch.tensor([0, 2**32 - 1])
    for row, identity, start in zip(stream.keys(3), (4, -1), (0, 2**32 - 1), strict=True):
        name = hashlib.blake2b(f"3/{identity}/layer0.a/pulse".encode(), digest_size=8).digest()
        base = [int.from_bytes(name[:4], "little"), int.from_bytes(name[4:], "little")]
        for i in range(3):
            number = start + i & _ALL
            first = plain_mix(base[0] ^ plain_mix(number * 0x9E3779B9 & _ALL))
            assert unsigned(row[i]) == [first, plain_mix(base[1] + number * 0x85EBCA6B & _ALL)]


def test_counters_beyond_32_bits_keep_counting() -> None:
    stream = Stream(3, torch.arange(1), "c", "pulse")
    stream.counter += 2**31 - 2
    assert len(stream.keys(6)[0].unique(dim=0)) == 6


def test_counters_advance_for_active_arrays_only() -> None:
    stream, other = Stream(3, torch.arange(4), "c", "pulse"), Stream(3, torch.arange(4), "c", "pulse")
    stream.keys(3, torch.tensor([True, False, True, False]))
    assert stream.counter.tolist() == [3, 0, 3, 0]
    later, first = stream.keys(1), other.keys(4)
    assert torch.equal(later[0, 0], first[0, 3])
    assert torch.equal(later[1, 0], first[1, 0])


def make_train(arrays: int, samples: int, lines: int, kind: str = "stochastic", seed: int = 1) -> PulseTrain:
    g = torch.Generator().manual_seed(seed)
    p = torch.rand(arrays, samples, lines, generator=g)
    sign = torch.randint(-1, 2, (arrays, samples, lines), generator=g).to(torch.int8)
    slots = torch.randint(0, MAX_SLOTS + 1, (arrays, samples), generator=g).to(torch.int32)
    key = Stream(seed, torch.arange(arrays), "m", "x").keys(samples)
    return PulseTrain(p, sign, slots, key, torch.arange(lines, dtype=torch.int32), kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["stochastic", "spread", "first"])
def test_trains_against_plain_integers(kind: str) -> None:
    train = make_train(2, 3, 5, kind)
    bits = train.bits()
    for a in range(2):
        for s in range(3):
            key = tuple(unsigned(train.key[a, s]))
            total = int(train.slots[a, s])
            for i in range(5):
                p = float(train.probability[a, s, i])
                n = round(float(train.probability[a, s, i] * total))
                fires = {
                    "stochastic": lambda k, key=key, i=i, p=p: plain_word(key, i, k) >> 8 < round(p * 2**24),
                    "first": lambda k, n=n: k < n,
                    "spread": lambda k, n=n, total=total: (k + 1) * n // total > k * n // total,
                }[kind]
                want = sum(1 << k for k in range(total) if train.sign[a, s, i] != 0 and fires(k))
                assert int(bits[a, s, i]) == want
    assert torch.equal(train.fired().sum(dim=-1), bits.clone().apply_(int.bit_count))


@pytest.mark.parametrize("kind", ["stochastic", "spread", "first"])
def test_kernels_draw_the_bits_of_the_definition(kind: str) -> None:
    for train in (make_train(5, 4, 33, kind), make_train(5, 4, 33, kind).at(1, 3).lines(slice(4, 30)).placed(40, 7)):
        assert torch.equal(torch.from_numpy(packed_bits(train).view("int32")), train.bits())


@pytest.mark.parametrize("kind", ["stochastic", "spread", "first"])
def test_a_part_of_a_train_draws_the_same_bits(kind: str) -> None:
    train = make_train(3, 4, 12, kind)
    bits = train.bits()
    assert torch.equal(train.lines(slice(5, 9)).bits(), bits[..., 5:9])
    assert torch.equal(train.at(2).bits(), bits[:, 2:3])
    assert torch.equal(train.at(1, 3).lines(slice(0, 12, 3)).bits(), bits[:, 1:3, 0:12:3])
    placed = train.lines(slice(5, 9)).placed(30, 17).bits()
    assert torch.equal(placed[..., 17:21], bits[..., 5:9])
    assert not placed[..., :17].any()
    assert not placed[..., 21:].any()
    assert train.placed(12, 0) is train


def test_coincidences_are_the_ones_of_both_words() -> None:
    rows, cols = make_train(3, 1, 6, seed=1), make_train(3, 1, 4, seed=2)
    counts = coincidence_counts(rows, cols)
    r, c = rows.bits()[:, 0].tolist(), cols.bits()[:, 0].tolist()
    for a in range(3):
        for i in range(6):
            for j in range(4):
                size = (r[a][i] & c[a][j]).bit_count()
                assert int(counts[a, i, j]) == size * int(rows.sign[a, 0, i]) * int(cols.sign[a, 0, j])
    with pytest.raises(UsageError, match="one sample"):
        coincidence_counts(make_train(1, 2, 3), make_train(1, 2, 3))
