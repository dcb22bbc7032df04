"""The tile: weights and siemens, analog products with every reference, noise and bound management, regions, lines."""

from __future__ import annotations

import pytest
import torch

from hil.config import ReadConfig
from hil.encoding import UpdateSettings
from hil.errors import ShapeError
from hil.place import Allocator
from simulated_backend.settings import PeripherySettings

REFERENCES = ["none", "mid", "cell"]
# Behind "none" the currents are those of whole conductances, two weight units each: rounding grows with them.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def weights(draw, arrays, inputs, outputs, seed=1):
    return 0.3 * torch.tanh(draw((arrays, outputs, inputs), seed))


def ideal(reference="cell", **changed):
    return PeripherySettings.ideal(reference).model_copy(update=changed)


class TestWeights:
    def test_are_conductance_above_the_reference_by_the_scale(self, desk, draw):
        tile = desk.tile(5, 3, ids=torch.arange(2))
        w = weights(draw, 2, 5, 3)
        desk.put(tile, w)
        torch.testing.assert_close(tile.weights(), w, rtol=0, atol=2e-6)
        g = 100e-6 + 50e-6 * w.transpose(1, 2).double()
        torch.testing.assert_close(tile.conductance().double(), g, rtol=1e-5, atol=0)

    def test_follow_a_new_reference(self, desk, draw):
        tile = desk.tile(4, 3)
        w = weights(draw, 1, 4, 3)
        desk.put(tile, w)
        by = 0.05 * draw((1, 4, 3), 2)
        tile.set_reference(tile.reference + by * 50e-6)
        torch.testing.assert_close(tile.weights(), w - by.transpose(1, 2), rtol=0, atol=3e-6)

    def test_scale_comes_from_the_nominal_range_and_bound(self, desk):
        nominal = desk.nominal.model_copy(update={"bound_weight": 1.2})
        tile = desk.tile(2, 2, nominal=nominal)
        wide = desk.tile(2, 2)
        desk.put(wide, torch.full((1, 2, 2), 0.2))
        tile.pulse(torch.full((1, 2, 2), 10, dtype=torch.int32))
        wide.pulse(torch.full((1, 2, 2), 10, dtype=torch.int32))
        # The same ten pulses are twice the weight where a siemens is worth twice as much.
        up = tile.weights() / (10 * 0.001)
        torch.testing.assert_close(up, torch.full_like(up, 2.0), rtol=0.01, atol=0)


@pytest.mark.parametrize("reference", REFERENCES)
class TestProducts:
    def test_are_those_of_the_conductances_read_back(self, desk, draw, reference):
        tile = desk.tile(12, 7, ids=torch.arange(3), periphery=ideal(reference), clean=False)
        desk.put(tile, weights(draw, 3, 12, 7))
        w = tile.weights().double()
        x, d = draw((3, 5, 12), 3), draw((3, 5, 7), 4)
        torch.testing.assert_close(tile.forward(x).double(), torch.einsum("aoi,asi->aso", w, x.double()), **CLOSE)
        torch.testing.assert_close(tile.backward(d).double(), torch.einsum("aoi,aso->asi", w, d.double()), **CLOSE)

    def test_follow_a_reference_set_later(self, desk, draw, reference):
        tile = desk.tile(6, 4, periphery=ideal(reference))
        desk.put(tile, weights(draw, 1, 6, 4))
        x, d = draw((1, 2, 6), 3), draw((1, 2, 4), 4)
        before = tile.forward(x), tile.backward(d)
        by = 0.1 * draw((1, 6, 4), 5)
        tile.set_reference(tile.reference + by * 50e-6)
        torch.testing.assert_close(tile.forward(x), before[0] - torch.einsum("aio,asi->aso", by, x), **CLOSE)
        torch.testing.assert_close(tile.backward(d), before[1] - torch.einsum("aio,aso->asi", by, d), **CLOSE)

    def test_do_not_touch_the_devices(self, desk, draw, reference):
        tile = desk.tile(6, 4, periphery=ideal(reference))
        before = desk.siemens(tile)
        tile.set_reference(tile.reference + 3e-6)
        tile.forward(draw((1, 2, 6), 3))
        tile.read_line(torch.zeros(1, dtype=torch.int64), "forward")
        torch.testing.assert_close(desk.siemens(tile), before, rtol=0, atol=1e-11)

    def test_a_line_is_the_line_of_the_matrix_in_both_directions(self, desk, draw, reference):
        tile = desk.tile(6, 4, ids=torch.arange(3), periphery=ideal(reference))
        desk.put(tile, weights(draw, 3, 6, 4))
        w = tile.weights()
        for line in (torch.tensor([0, 3, 5]), torch.tensor([5, 5, 1])):
            wanted = torch.stack([w[a, :, k] for a, k in enumerate(line.tolist())])
            torch.testing.assert_close(tile.read_line(line, "forward"), wanted, **CLOSE)
        line = torch.tensor([3, 0, 2])
        wanted = torch.stack([w[a, k] for a, k in enumerate(line.tolist())])
        torch.testing.assert_close(tile.read_line(line, "backward"), wanted, **CLOSE)

    def test_inactive_arrays_give_zero(self, desk, draw, reference):
        tile = desk.tile(6, 4, ids=torch.arange(3), periphery=ideal(reference))
        desk.put(tile, weights(draw, 3, 6, 4))
        active = torch.tensor([True, False, True])
        x, d = draw((3, 2, 6), 3), draw((3, 2, 4), 4)
        for got, full in (
            (tile.forward(x, active), tile.forward(x)), (tile.backward(d, active), tile.backward(d)),
            (tile.read_line(torch.zeros(3, dtype=torch.int64), "forward", active),
             tile.read_line(torch.zeros(3, dtype=torch.int64), "forward")),
        ):  # fmt: skip
            assert torch.equal(got[active], full[active])
            assert torch.equal(got[1], torch.zeros_like(got[1]))


class TestNoiseManagement:
    def test_the_result_scales_with_the_input_through_a_dac(self, desk, draw):
        """x and 8 x drive the same DAC levels; a power of two makes the equality exact."""
        tile = desk.tile(9, 5, periphery=PeripherySettings(out_noise=0.0))
        desk.put(tile, weights(draw, 1, 9, 5))
        x, d = draw((1, 4, 9), 3), draw((1, 4, 5), 4)
        assert torch.equal(tile.forward(8 * x), 8 * tile.forward(x))
        assert torch.equal(tile.backward(d / 8), tile.backward(d) / 8)

    def test_is_per_sample(self, desk, draw):
        """A large neighbour in the batch costs a small sample no resolution."""
        tile = desk.tile(9, 5, periphery=PeripherySettings(out_noise=0.0))
        desk.put(tile, weights(draw, 1, 9, 5))
        small = 1e-3 * draw((1, 1, 9), 3)
        both = torch.cat([small, 100 * draw((1, 1, 9), 4)], dim=1)
        assert torch.equal(tile.forward(both)[:, :1], tile.forward(small))

    def test_a_zero_sample_gives_zero(self, desk, draw):
        tile = desk.tile(9, 5)
        desk.put(tile, weights(draw, 1, 9, 5))
        assert torch.equal(tile.forward(torch.zeros(1, 2, 9)), torch.zeros(1, 2, 5))


class TestBoundManagement:
    small = PeripherySettings(dac_bits=0, adc_bits=0, full_scale=0.5, out_noise=1e-3)

    def reads(self, desk, tile):
        return desk.inside(tile)["counter_mvm"].tolist()

    def test_a_saturated_sample_is_repeated_at_half_the_input_until_it_fits(self, desk):
        """Eight inputs of 1 on weights of 0.3 give 2.4: 0.5 of full scale needs three halvings; 0.06 needs none."""
        tile = desk.tile(8, 2, periphery=self.small.model_copy(update={"out_noise": 0.0}))
        desk.put(tile, torch.full((1, 2, 8), 0.3))
        x = torch.ones(1, 2, 8)
        x[0, 1, 1:] = 0.0
        torch.testing.assert_close(tile.forward(x), torch.tensor([[[2.4, 2.4], [0.3, 0.3]]]), rtol=1e-5, atol=1e-5)

    def test_only_arrays_that_saturate_read_again(self, desk):
        tile = desk.tile(8, 2, ids=torch.arange(3), periphery=self.small)
        w = torch.full((3, 2, 8), 0.3)
        w[1] = 0.01
        w[2] = 0.1
        desk.put(tile, w)
        tile.forward(torch.ones(3, 2, 8))
        # 2.4 needs three repeats of its two samples, 0.08 none, 0.8 one.
        assert self.reads(desk, tile) == [8, 2, 4]

    def test_only_samples_that_saturate_are_replaced(self, desk):
        """The first reading of a sample that fits stands, whatever its neighbours need."""
        read, alone = (desk.tile(8, 2, periphery=self.small) for _ in range(2))
        for tile in (read, alone):
            desk.put(tile, torch.full((1, 2, 8), 0.3))
        x = torch.zeros(1, 2, 8)
        x[0, 0, 0] = 1.0
        fits = alone.forward(torch.cat([x[:, :1], x[:, :1]], dim=1))[0, 0]
        x[0, 1] = 1.0
        assert torch.equal(read.forward(x)[0, 0], fits)

    def test_an_array_is_managed_alike_alone_and_in_a_population(self, desk, draw):
        periphery = PeripherySettings(full_scale=0.4)
        together = desk.tile(8, 3, ids=torch.arange(4), periphery=periphery)
        w = weights(draw, 4, 8, 3) * torch.tensor([0.1, 1.0, 2.0, 0.5])[:, None, None]
        desk.put(together, w)
        x = draw((4, 5, 8), 6)
        y = [together.forward(x) for _ in range(2)]
        for k in range(4):
            alone = desk.tile(8, 3, ids=torch.tensor([k]), periphery=periphery)
            desk.put(alone, w[k : k + 1])
            assert all(torch.equal(alone.forward(x[k : k + 1])[0], both[k]) for both in y)

    def test_is_bounded(self, desk):
        tile = desk.tile(8, 2, periphery=self.small.model_copy(update={"full_scale": 1e-5}))
        desk.put(tile, torch.full((1, 2, 8), 0.3))
        y = tile.forward(torch.ones(1, 1, 8))
        assert self.reads(desk, tile) == [11]
        assert bool(y.isfinite().all())

    def test_can_be_off_and_is_off_backward_and_for_lines(self, desk):
        for read in (ReadConfig(bound_management=False), ReadConfig()):
            tile = desk.tile(8, 8, periphery=self.small, read=read)
            desk.put(tile, torch.full((1, 8, 8), 0.55))
            for got in (tile.backward(torch.ones(1, 1, 8)), tile.read_line(torch.zeros(1, dtype=torch.int64), "forward")):
                torch.testing.assert_close(got, torch.full_like(got, 0.5))
            assert self.reads(desk, tile) == [2]
            tile.forward(torch.ones(1, 1, 8))
            assert (self.reads(desk, tile) == [3]) == (not read.bound_management)

    @pytest.mark.parametrize("reference", REFERENCES)
    def test_undoes_saturation_with_every_reference(self, desk, draw, reference):
        periphery = ideal(reference, full_scale=3.0)
        tile = desk.tile(16, 4, periphery=periphery)
        w = weights(draw, 1, 16, 4)
        desk.put(tile, w)
        x = torch.ones(1, 1, 16)
        torch.testing.assert_close(tile.forward(x), torch.einsum("aoi,asi->aso", w, x), rtol=1e-4, atol=1e-4)


class TestRegions:
    """A board of 10 x 8 holds a small matrix and then one of 11 x 6 that fits nowhere whole."""

    def split(self, desk, periphery, ids=None, seed=0):
        board = desk.board(10, 9, ids=ids, name="board", seed=seed, periphery=periphery)
        allocator = Allocator(board)
        first = desk.tile(3, 4, ids=ids, name="first", board=board, allocator=allocator)
        tile = desk.tile(11, 6, ids=ids, name="m", board=board, allocator=allocator)
        assert len(tile.place.regions) > 1
        return first, tile

    @pytest.mark.parametrize("reference", REFERENCES)
    def test_a_split_matrix_gives_the_product_of_the_whole_one(self, desk, draw, reference):
        ids = torch.arange(2)
        whole = desk.tile(11, 6, ids=ids, periphery=ideal(reference))
        _, split = self.split(desk, ideal(reference), ids)
        w = weights(draw, 2, 11, 6)
        x, d = draw((2, 3, 11), 3), draw((2, 3, 6), 4)
        for tile in (whole, split):
            desk.put(tile, w)
            tile.set_reference(tile.reference + 1e-6)
        torch.testing.assert_close(split.weights(), whole.weights(), rtol=0, atol=1e-6)
        torch.testing.assert_close(split.forward(x), whole.forward(x), **CLOSE)
        torch.testing.assert_close(split.backward(d), whole.backward(d), **CLOSE)
        line = torch.tensor([10, 2])
        torch.testing.assert_close(split.read_line(line, "forward"), whole.read_line(line, "forward"), **CLOSE)
        line = torch.tensor([5, 1])
        torch.testing.assert_close(split.read_line(line, "backward"), whole.read_line(line, "backward"), **CLOSE)

    @pytest.mark.parametrize("kind", ["stochastic", "deterministic"])
    def test_a_split_matrix_gets_the_pulses_of_the_whole_one(self, desk, draw, kind):
        ids = torch.arange(2)
        whole = desk.tile(11, 6, ids=ids)
        first, split = self.split(desk, ideal(), ids)
        x, d = draw((2, 5, 11), 3), draw((2, 5, 6), 4)
        for tile in (whole, split):
            tile.update(x, d, torch.tensor([0.004, 0.02]), UpdateSettings(kind=kind), torch.tensor([True, True]))
            tile.update(x, -d, torch.tensor([0.004, 0.02]), UpdateSettings(kind=kind), torch.tensor([False, True]))
        assert int(desk.pulses(whole).abs().sum()) > 100
        assert torch.equal(desk.pulses(split), desk.pulses(whole))
        assert int(desk.pulses(first).abs().sum()) == 0

    def test_matrices_on_one_board_leave_each_other_alone(self, desk, draw):
        first, second = self.split(desk, ideal())
        before = desk.siemens(first)
        second.update(draw((1, 4, 11), 1), draw((1, 4, 6), 2), torch.full((1,), 0.02), UpdateSettings())
        second.pulse(torch.full((1, 11, 6), -3, dtype=torch.int32))
        second.set_reference(second.reference + 5e-6)
        assert torch.equal(desk.siemens(first), before)
        before = desk.siemens(second)
        first.update(draw((1, 4, 3), 1), draw((1, 4, 4), 2), torch.full((1,), 0.02), UpdateSettings())
        first.pulse(torch.full((1, 3, 4), 7, dtype=torch.int32))
        first.set_reference(first.reference - 5e-6)
        assert torch.equal(desk.siemens(second), before)

    @pytest.mark.parametrize("reference", REFERENCES)
    def test_reading_one_matrix_of_a_board_sees_nothing_of_the_other(self, desk, draw, reference):
        first, second = self.split(desk, ideal(reference))
        desk.put(first, torch.full((1, 4, 3), 0.25))
        x = draw((1, 2, 3), 1)
        before = first.forward(x)
        second.pulse(torch.full((1, 11, 6), 200, dtype=torch.int32))
        assert torch.equal(first.forward(x), before)

    def test_saturation_counts_sensed_lines_only(self, desk):
        """A neighbour that would saturate the ADC does not make a matrix read again."""
        board = desk.board(4, 8, name="board", periphery=TestBoundManagement.small)
        allocator = Allocator(board)
        quiet, loud = (desk.tile(4, 4, name=n, board=board, allocator=allocator) for n in ("quiet", "loud"))
        desk.put(quiet, torch.full((1, 4, 4), 0.01))
        desk.put(loud, torch.full((1, 4, 4), 0.5))
        quiet.forward(torch.ones(1, 1, 4))
        assert desk.state(board)["counter_mvm"].tolist() == [1]


def test_a_wrong_shape_is_refused_in_one_line(desk):
    tile = desk.tile(4, 3, name="layer0.c")
    with pytest.raises(ShapeError, match=r"layer0\.c forward: \[1, 2, 3\] needs \[1 sample 4\]"):
        tile.forward(torch.ones(1, 2, 3))
    with pytest.raises(ShapeError, match=r"layer0\.c backward: \[2, 2, 3\] needs \[1 sample 3\]"):
        tile.backward(torch.ones(2, 2, 3))
