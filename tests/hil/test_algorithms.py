"""The training algorithms: what is moved when, against an independent implementation's numbers, and per array."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from scipy.stats import binom

from hil.algorithms.digital import DigitalSGD
from hil.algorithms.sgd import AnalogSGD
from hil.algorithms.tiki_taka import TikiTaka, TikiTakaRates
from hil.encoding import UpdateSettings
from hil.errors import UsageError
from simulated_backend.settings import PeripherySettings

STEP = 0.001
PEER = json.loads((Path(__file__).parents[1] / "data" / "a10_transfer_mechanics.json").read_text())
FULL = UpdateSettings(slots=31, slot_management=False)
NOISY = PeripherySettings(full_scale=0.5)


def per_array(value, arrays, dtype=torch.float32):
    return torch.full((arrays,), value, dtype=dtype) if isinstance(value, (int, float)) else torch.tensor(value, dtype=dtype)


def tiki_taka(
    desk, inputs, outputs, ids=None, *, lr_a=STEP, lr_c=1.0, n_s=1, gamma=0.0, n_reads=1, transfer="inputs",
    update=None, transfer_update=None, **made,
):  # fmt: skip
    """Tiki-Taka on two arrays of its own; rates are numbers, or lists with one number per array."""
    ids = torch.zeros(1, dtype=torch.int64) if ids is None else ids
    a, c = (desk.tile(inputs, outputs, ids=ids, name=f"m.{role}", **made) for role in "ac")
    n = len(ids)
    rates = TikiTakaRates(
        per_array(lr_a, n), per_array(lr_c, n), per_array(n_s, n, torch.int64), per_array(gamma, n),
        per_array(n_reads, n, torch.int64), transfer, update or UpdateSettings(), transfer_update or UpdateSettings(),
    )  # fmt: skip
    return TikiTaka(a, c, rates)


def ones(algorithm, samples=1):
    """A sample whose gradient is -1 everywhere: every element of A rises by lr_a."""
    return torch.ones(algorithm.arrays, samples, algorithm.inputs), -torch.ones(algorithm.arrays, samples, algorithm.outputs)


def learn(algorithm, x, d, batch, active=None):
    for start in range(0, x.shape[1], batch):
        part = slice(start, start + batch)
        algorithm.step(x[:, part], d[:, part], 1, 1.0, active)


def inside(desk, algorithm, k=slice(None)):
    """Everything inside both boards, of one array or all."""
    return {f"{role}.{n}": v[k] for role, tile in algorithm.tiles.items() for n, v in desk.inside(tile).items()}


def same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        if name.endswith("_s"):
            # Virtual time is a sum of durations: equal to rounding, however it is cut.
            torch.testing.assert_close(left[name], right[name], rtol=1e-6, atol=0)
        else:
            assert torch.equal(left[name], right[name]), name


class TestTransferMechanics:
    """Every sample adds one step to all of A; event k reads line (k - 1) mod n and adds k steps to it on C (theory 1.6)."""

    arrays = 1500

    @pytest.mark.parametrize("transfer", ["inputs", "outputs"])
    def test_which_line_and_what_value(self, desk, transfer):
        """Mean of C over replicas within dw_min sqrt(BL p (1 - p) / replicas); false alarm 1e-6; resolves half a step.

        Untouched lines are exact. The independent numbers, one realisation with 1,000 slots, must lie inside the 1e-6
        interval of their own binomial law around the same means: it is the same mechanics.
        """
        slots = 31
        algorithm = tiki_taka(
            desk, 4, 3, torch.arange(self.arrays), transfer=transfer, transfer_update=FULL, model="constant"
        )  # fmt: skip
        lines = 4 if transfer == "inputs" else 3
        mean, spread = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)
        peer_before = torch.zeros(3, 4, dtype=torch.int64)
        before = torch.zeros(self.arrays, 3, 4, dtype=torch.int32)
        for k in range(1, 9):
            algorithm.step(*ones(algorithm), 1, 1.0, None)
            a = desk.pulses(algorithm.tiles["a"])
            assert torch.equal(a, torch.full_like(a, k))
            c = desk.pulses(algorithm.tiles["c"]).transpose(1, 2)
            touched = torch.zeros(3, 4, dtype=torch.bool)
            touched[(slice(None), (k - 1) % lines) if transfer == "inputs" else ((k - 1) % lines,)] = True
            assert torch.equal(c[:, ~touched], before[:, ~touched])
            mean[touched] += k
            spread[touched] += slots * (k / slots) * (1 - k / slots)
            desk.mean_is(c, mean, spread.clamp(min=1e-9).sqrt(), resolves=2.0)
            peer = torch.tensor(PEER[transfer][k - 1])
            jump = peer - peer_before
            assert torch.equal(jump[~touched], torch.zeros_like(jump[~touched]))
            low, high = (binom.ppf(q, PEER["slots"], k / PEER["slots"]) for q in (1e-8, 1 - 1e-8))
            assert bool(((jump[touched] >= low) & (jump[touched] <= high)).all())
            before, peer_before = c, peer

    @pytest.mark.parametrize("transfer", ["inputs", "outputs"])
    def test_value_is_exact_where_slots_follow_the_value(self, desk, transfer):
        """With slot management a line of equal values fires in all its slots: C gets exactly k steps."""
        certain = UpdateSettings(kind="deterministic")
        algorithm = tiki_taka(desk, 4, 3, transfer=transfer, model="constant", transfer_update=certain)
        wanted = torch.zeros(3, 4, dtype=torch.int32)
        for k in range(1, 9):
            algorithm.step(*ones(algorithm), 1, 1.0, None)
            index = (slice(None), (k - 1) % 4) if transfer == "inputs" else ((k - 1) % 3,)
            wanted[index] += k
            torch.testing.assert_close(desk.pulses(algorithm.tiles["c"]).transpose(1, 2)[0], wanted, rtol=0, atol=1)

    def test_sign_a_accumulates_minus_the_gradient_and_c_adds_what_is_read(self, desk):
        algorithm = tiki_taka(desk, 2, 2, model="constant")
        x = torch.tensor([[[1.0, -1.0]]])
        d = torch.tensor([[[1.0, -1.0]]])
        for _ in range(2):
            algorithm.step(x, d, 1, 1.0, None)
        down = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
        torch.testing.assert_close(algorithm.tiles["a"].weights()[0], 2 * STEP * down, rtol=1e-3, atol=1e-6)
        assert torch.equal(algorithm.tiles["c"].weights()[0].sign(), down)

    def test_n_reads_lines_are_moved_at_once_and_the_next_line_wraps(self, desk):
        algorithm = tiki_taka(desk, 4, 3, n_s=2, n_reads=3, model="constant")
        touched = []
        before = desk.pulses(algorithm.tiles["c"])
        for _ in range(6):
            algorithm.step(*ones(algorithm), 1, 1.0, None)
            after = desk.pulses(algorithm.tiles["c"])
            touched.append((after != before).any(dim=2)[0].nonzero()[:, 0].tolist())
            before = after
        assert touched == [[], [0, 1, 2], [], [0, 1, 3], [], [0, 2, 3]]
        assert algorithm.state_dict()["next"].tolist() == [9 % 4]

    def test_factor_scales_the_transfer_not_the_accumulation(self, desk):
        """The schedule is that of C's learning rate; A's rate is absolute."""
        algorithm = tiki_taka(desk, 4, 3, model="constant", transfer_update=UpdateSettings(kind="deterministic"))
        x, d = ones(algorithm)
        algorithm.step(x, d, 1, 4.0, None)
        assert bool((desk.pulses(algorithm.tiles["a"]) == 1).all())
        assert desk.pulses(algorithm.tiles["c"])[0, 0].tolist() == [4, 4, 4]

    @pytest.mark.parametrize("transfer", ["inputs", "outputs"])
    def test_transfer_reads_skip_bound_management(self, desk, transfer):
        """A line beyond full scale is moved as the saturated ADC shows it (theory 1.4)."""
        small = NOISY.model_copy(update={"out_noise": 0.0, "full_scale": 0.25})
        algorithm = tiki_taka(desk, 4, 3, transfer=transfer, periphery=small)
        desk.put(algorithm.tiles["a"], torch.full((1, 3, 4), 0.5))
        before = desk.inside(algorithm.tiles["a"])["counter_mvm"].clone()
        algorithm.step(*ones(algorithm), 1, 0.01, None)
        c = desk.pulses(algorithm.tiles["c"]).max()
        assert int(c) <= 3
        assert torch.equal(desk.inside(algorithm.tiles["a"])["counter_mvm"], before)

    def test_gamma_shows_a_in_forward_and_backward(self, desk, draw):
        algorithm = tiki_taka(desk, 4, 3, torch.arange(3), gamma=[0.0, 0.25, 1.0])
        wa, wc = 0.2 * torch.tanh(draw((3, 3, 4), 1)), 0.2 * torch.tanh(draw((3, 3, 4), 2))
        desk.put(algorithm.tiles["a"], wa)
        desk.put(algorithm.tiles["c"], wc)
        w = wc + torch.tensor([0.0, 0.25, 1.0])[:, None, None] * wa
        x, d = draw((3, 2, 4), 3), draw((3, 2, 3), 4)
        torch.testing.assert_close(algorithm.forward(x), torch.einsum("aoi,asi->aso", w, x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(algorithm.backward(d), torch.einsum("aoi,aso->asi", w, d), rtol=1e-5, atol=1e-5)

    def test_gamma_0_hides_a(self, desk):
        algorithm = tiki_taka(desk, 4, 3, periphery=NOISY)
        algorithm.forward(torch.ones(1, 2, 4))
        assert desk.inside(algorithm.tiles["a"])["counter_mvm"].tolist() == [0]


class TestPopulation:
    """Every array of a population is the array alone, bit for bit, with the periphery's noise and saturation."""

    rates: ClassVar = {
        "lr_a": [0.01, 0.03, 0.01, 0.02], "lr_c": [0.1, 0.1, 0.5, 0.2], "n_s": [1, 2, 3, 5],
        "gamma": [0.0, 0.0, 0.3, 0.1], "n_reads": [1, 2, 1, 3],
    }  # fmt: skip
    ids = torch.tensor([7, 3, 3, 11])

    def run(self, desk, draw, rates, ids, pick, batch, transfer="inputs", active=None):
        algorithm = tiki_taka(desk, 5, 4, ids, transfer=transfer, periphery=NOISY, clean=False, **rates)
        x, d = draw((4, 14, 5), 1)[pick], draw((4, 14, 4), 2)[pick]
        for start in range(0, 14, batch):
            y = algorithm.forward(x[:, start : start + batch])
            g = algorithm.backward(d[:, start : start + batch])
            algorithm.step(x[:, start : start + batch] + 0.1 * g, d[:, start : start + batch] + 0.1 * y, 1, 1.0, active)
        return algorithm

    @pytest.mark.parametrize("transfer", ["inputs", "outputs"])
    @pytest.mark.parametrize("batch", [1, 7])
    def test_tiki_taka_with_its_own_rates_and_period(self, desk, draw, batch, transfer):
        together = self.run(desk, draw, self.rates, self.ids, slice(None), batch, transfer)
        assert int(desk.pulses(together.tiles["c"]).abs().flatten(1).sum(dim=1).min()) > 0
        for k in range(4):
            rates = {name: [values[k]] for name, values in self.rates.items()}
            alone = self.run(desk, draw, rates, self.ids[k : k + 1], slice(k, k + 1), batch, transfer)
            same(inside(desk, alone, 0), inside(desk, together, k))
            for name in ("samples", "next"):
                assert torch.equal(alone.state_dict()[name][0], together.state_dict()[name][k])

    @pytest.mark.parametrize("batch", [1, 7])
    def test_stopped_arrays_stay_as_they_are_and_the_others_do_not_notice(self, desk, draw, batch):
        active = torch.tensor([True, False, True, False])
        together = self.run(desk, draw, self.rates, self.ids, slice(None), batch, active=active)
        assert together.state_dict()["samples"].tolist() == [14, 0, 14, 0]
        for tile in together.tiles.values():
            assert int(desk.pulses(tile)[~active].abs().sum()) == 0
        for k in (0, 2):
            rates = {name: [values[k]] for name, values in self.rates.items()}
            alone = self.run(desk, draw, rates, self.ids[k : k + 1], slice(k, k + 1), batch)
            same(inside(desk, alone, 0), inside(desk, together, k))

    def test_analog_sgd(self, desk, draw):
        lr = torch.tensor([0.01, 0.02, 0.005, 0.1])
        x, d = draw((4, 6, 5), 1), draw((4, 6, 4), 2)

        def run(pick):
            tile = desk.tile(5, 4, ids=self.ids[pick], periphery=NOISY, clean=False)
            algorithm = AnalogSGD(tile, lr[pick])
            learn(algorithm, x[pick], d[pick], 3)
            return algorithm

        together = run(slice(None))
        for k in range(4):
            same(inside(desk, run(slice(k, k + 1)), 0), inside(desk, together, k))


class TestBatches:
    @pytest.mark.parametrize("batch", [2, 5, 12])
    def test_a_batch_is_cut_at_every_transfer(self, desk, draw, batch):
        """Given the same (x, d), the pulses of a batch are those of its samples one by one, transfers in between."""
        ids = torch.arange(3)
        x, d = draw((3, 12, 5), 1), draw((3, 12, 4), 2)
        result = []
        for size in (1, batch):
            algorithm = tiki_taka(
                desk, 5, 4, ids, lr_a=0.01, lr_c=0.3, n_s=[2, 3, 7], n_reads=2, periphery=NOISY, clean=False
            )  # fmt: skip
            learn(algorithm, x, d, size)
            result.append(inside(desk, algorithm))
        same(*result)

    def test_n_s_counts_samples_not_pairs(self, desk, draw):
        """Two calls per sample: four samples are two transfers with n_s = 2, and the pairs of a sample stay together."""
        algorithm = tiki_taka(desk, 5, 4, n_s=2)
        algorithm.step(draw((1, 8, 5), 1), draw((1, 8, 4), 2), 2, 1.0, None)
        assert algorithm.state_dict()["samples"].tolist() == [4]
        assert algorithm.state_dict()["next"].tolist() == [2]
        assert algorithm.tiles["a"].state_dict()["in"].tolist() == [8]

    def test_a_saved_state_goes_on_bit_for_bit(self, desk, draw):
        x, d = draw((1, 10, 5), 1), draw((1, 10, 4), 2)
        made = {"lr_a": 0.01, "lr_c": 0.3, "n_s": 3, "n_reads": 2, "periphery": NOISY, "clean": False}
        through, first, second = (tiki_taka(desk, 5, 4, **made) for _ in range(3))
        learn(through, x, d, 1)
        learn(first, x[:, :4], d[:, :4], 1)
        second.load_state_dict(first.state_dict())
        for role, tile in second.tiles.items():
            tile.place.regions[0].backend.load_state_dict(desk.inside(first.tiles[role]))
        learn(second, x[:, 4:], d[:, 4:], 1)
        same(inside(desk, second), inside(desk, through))


class TestErrors:
    def test_counts_below_one(self, desk):
        for bad in ({"n_s": 0}, {"n_reads": 0}):
            with pytest.raises(UsageError, match="tiki-taka: n_s and n_reads are counts of at least 1: correct them"):
                tiki_taka(desk, 2, 2, **bad)

    def test_tiles_of_different_size(self, desk):
        rates = tiki_taka(desk, 2, 2)._rates
        with pytest.raises(UsageError, match="A is 2 x 2, C is 3 x 2: they must be alike"):
            TikiTaka(desk.tile(2, 2), desk.tile(3, 2), rates)


class TestAnalogSGD:
    def test_descends_the_gradient_in_expectation(self, desk, draw):
        """W moves by -lr d x^T: 2,000 replicas of constant steps; false alarm 1e-6, resolves 0.001 (theory T6c)."""
        n, lr = 2000, 0.003
        tile = desk.tile(4, 3, ids=torch.arange(n), model="constant", seed=2)
        x, d = draw((1, 1, 4), 1), draw((1, 1, 3), 2)
        AnalogSGD(tile, torch.full((n,), lr)).step(x.expand(n, -1, -1), d.expand(n, -1, -1), 1, 2.0, None)
        change = 2 * lr * torch.einsum("so,si->oi", d[0], x[0]).double()
        desk.mean_is(tile.weights(), -change, STEP * (change.abs() / STEP).clamp(min=1e-3).sqrt(), resolves=1e-3)

    def test_one_pair_with_certain_pulses_is_exact(self, desk):
        tile = desk.tile(1, 1, model="constant")
        x = torch.ones(1, 1, 1)
        AnalogSGD(tile, torch.tensor([0.02]), UpdateSettings(kind="deterministic")).step(x, x, 1, 1.0, None)
        torch.testing.assert_close(tile.weights(), torch.full((1, 1, 1), -0.02), rtol=0, atol=1e-5)


class TestDigitalSGD:
    def test_is_torch_optim_sgd(self, draw):
        """Three layers with rates of their own against three torch modules, 20 steps; float32 rounding apart."""
        lr = [0.01, 0.1, 0.5]
        digital = DigitalSGD(3, 5, 4, torch.tensor(lr))
        start = 0.3 * draw((3, 4, 5), 1)
        digital.weight = start
        modules = [torch.nn.Linear(5, 4, bias=False) for _ in lr]
        with torch.no_grad():
            for k, module in enumerate(modules):
                module.weight.copy_(start[k])
        optimizers = [torch.optim.SGD(m.parameters(), lr=rate) for m, rate in zip(modules, lr, strict=True)]
        for step in range(20):
            x, y = draw((3, 6, 5), 10 + step), draw((3, 6, 4), 50 + step)
            error = (digital.forward(x) - y) / 6
            torch.testing.assert_close(digital.backward(error), torch.bmm(error, digital.weight), rtol=1e-5, atol=1e-6)
            digital.step(x, error, 1, 1.0, None)
            for k, (module, optimizer) in enumerate(zip(modules, optimizers, strict=True)):
                optimizer.zero_grad()
                (0.5 * (module(x[k]) - y[k]).square().sum() / 6).backward()
                optimizer.step()
        torch.testing.assert_close(digital.weight, torch.stack([m.weight.detach() for m in modules]), rtol=1e-4, atol=1e-5)

    def test_stopped_arrays_and_factor(self, draw):
        digital = DigitalSGD(2, 3, 2, torch.tensor([0.1, 0.1]))
        x, d = draw((2, 4, 3), 1), draw((2, 4, 2), 2)
        digital.step(x, d, 1, 3.0, torch.tensor([True, False]))
        torch.testing.assert_close(digital.weight[0], -0.3 * torch.einsum("so,si->oi", d[0], x[0]))
        assert float(digital.weight[1].abs().max()) == 0.0

    def test_an_array_is_trained_alike_alone_and_in_a_population(self, draw):
        x, d = draw((9, 5, 17), 1), draw((9, 5, 13), 2)
        lr = torch.linspace(0.1, 1.0, 9)

        def run(pick):
            digital = DigitalSGD(len(lr[pick]), 17, 13, lr[pick])
            for _ in range(3):
                digital.step(x[pick], d[pick] + digital.forward(x[pick]), 1, 1.0, None)
            return digital.weight

        together = run(slice(None))
        assert all(torch.equal(run(slice(k, k + 1))[0], together[k]) for k in range(9))
