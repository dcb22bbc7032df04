"""Layers, optimizer and loss: torch's gradients, the order of pairs, digital parameters, schedulers, saved weights."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from hil.algorithms.digital import DigitalSGD
from hil.algorithms.sgd import AnalogSGD
from hil.algorithms.tiki_taka import TikiTaka, TikiTakaRates
from hil.encoding import UpdateSettings
from hil.errors import ShapeError, UsageError
from hil.nn import AnalogLinear, AnalogOptimizer, population_loss


class Recorder:
    """An algorithm that keeps what it is told, with weights of its own."""

    def __init__(self, weight):
        self.arrays, self.outputs, self.inputs = weight.shape
        self.weight, self.tiles, self.steps = weight, {}, []

    def forward(self, x):
        return torch.einsum("aoi,asi->aso", self.weight, x)

    def backward(self, d):
        return torch.einsum("aoi,aso->asi", self.weight, d)

    def step(self, x, d, calls, factor, active):
        self.steps.append((x.clone(), d.clone(), calls, factor, active))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def recorder(draw, arrays=2, inputs=4, outputs=3, seed=1, **options):
    return AnalogLinear(Recorder(0.3 * draw((arrays, outputs, inputs), seed)), **options)


def digital(draw, arrays, inputs, outputs, lr=0.1, seed=1, **options):
    algorithm = DigitalSGD(arrays, inputs, outputs, torch.full((arrays,), lr))
    algorithm.weight = 0.5 * draw((arrays, outputs, inputs), seed)
    return AnalogLinear(algorithm, **options)


class TestGradients:
    @pytest.mark.parametrize(("bias", "scale"), [(False, False), (True, True)])
    def test_equal_autograd_behind_an_ideal_periphery(self, desk, draw, bias, scale):
        """Two layers of tiles, a tanh and a bias against the same network in torch: inputs, biases, scales, (x, d)."""
        ids = torch.arange(3)
        layers, weights = [], []
        for number, (inputs, outputs) in enumerate([(6, 5), (5, 4)]):
            tile = desk.tile(inputs, outputs, ids=ids, name=f"layer{number}")
            weights.append((0.3 * torch.tanh(draw((3, outputs, inputs), number))).requires_grad_())
            desk.put(tile, weights[-1].detach())
            layers.append(AnalogLinear(AnalogSGD(tile, torch.zeros(3)), bias, scale))
            if bias and scale:
                with torch.no_grad():
                    layers[-1].bias.copy_(0.1 * draw((3, outputs), 20 + number))
                    layers[-1].output_scale.copy_(1 + 0.3 * draw((3, 1), 30 + number))
        digital = [[p.detach().clone().requires_grad_() for p in (m.output_scale, m.bias) if p is not None] for m in layers]
        x, y = draw((3, 7, 6), 5), torch.arange(7) % 4
        mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        out = layers[1](torch.tanh(layers[0](mine)))
        population_loss(cross_entropy, out, y).backward()

        def torch_layer(number, h):
            h = torch.einsum("aoi,asi->aso", weights[number], h)
            return h * digital[number][0][:, None] + digital[number][1][:, None] if digital[number] else h

        expected = torch_layer(1, torch.tanh(torch_layer(0, theirs)))
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=2e-5)
        sum(cross_entropy(expected[a], y) for a in range(3)).backward()
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=2e-5)
        for layer, weight, own in zip(layers, weights, digital, strict=True):
            ((_, sample, d),) = layer.queue
            torch.testing.assert_close(torch.einsum("aso,asi->aoi", d, sample), weight.grad, rtol=1e-4, atol=2e-5)
            for p, q in zip([p for p in (layer.output_scale, layer.bias) if p is not None], own, strict=True):
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=2e-5)

    def test_a_first_layer_learns_though_its_input_needs_no_gradient(self, draw):
        layer = recorder(draw)
        layer(draw((2, 5, 4), 2)).sum().backward()
        AnalogOptimizer(layer).step()
        assert len(layer.algorithm.steps) == 1

    def test_the_backward_product_is_left_out_where_nobody_needs_it(self, draw):
        layer = recorder(draw)
        layer.algorithm.backward = None
        layer(draw((2, 5, 4), 2)).sum().backward()

    def test_nothing_is_queued_without_gradients(self, draw):
        layer = recorder(draw)
        with torch.no_grad():
            layer(draw((2, 5, 4), 2))
        assert layer.queue == []
        assert layer.calls == 0

    def test_samples_for_all_arrays_alike(self, draw):
        layer = recorder(draw)
        x = draw((5, 4), 2)
        torch.testing.assert_close(layer(x), layer(x.expand(2, 5, 4)))


class TestPairs:
    def test_of_a_sample_follow_each_other_oldest_first(self, draw):
        """Autograd comes back through the calls in reverse; the device sees them in the order of time."""
        layer = recorder(draw)
        xs = [draw((2, 3, 4), 10 + t) for t in range(4)]
        weight = torch.arange(1.0, 5.0)
        sum(w * layer(x).sum() for w, x in zip(weight, xs, strict=True)).backward()
        AnalogOptimizer(layer).step()
        ((x, d, calls, _, _),) = layer.algorithm.steps
        assert calls == 4
        assert torch.equal(x, torch.stack(xs, dim=2).flatten(1, 2))
        assert torch.equal(d[:, :, 0], weight.repeat(3).expand(2, 12))

    def test_n_s_counts_samples_whatever_the_calls(self, desk, draw):
        one = torch.ones(1, dtype=torch.int64)
        zero = torch.zeros(1)
        tiles = [desk.tile(4, 3, name=name) for name in "ac"]
        layer = AnalogLinear(TikiTaka(*tiles, TikiTakaRates(zero + 0.01, zero + 0.1, 2 * one, zero, one)))
        optimizer = AnalogOptimizer(layer)
        for step in range(3):
            optimizer.zero_grad()
            sum(layer(draw((1, 1, 4), 7 * step + t)).square().sum() for t in range(5)).backward()
            optimizer.step()
        assert layer.algorithm.state_dict()["samples"].tolist() == [3]
        assert layer.algorithm.state_dict()["next"].tolist() == [1]
        assert tiles[0].state_dict()["in"].tolist() == [15]

    def test_are_forgotten_by_zero_grad_and_after_a_step(self, draw):
        layer = recorder(draw)
        optimizer = AnalogOptimizer(layer)
        layer(draw((2, 3, 4), 2)).sum().backward()
        optimizer.zero_grad()
        optimizer.step()
        assert layer.algorithm.steps == []
        layer(draw((2, 3, 4), 2)).sum().backward()
        optimizer.step()
        optimizer.step()
        assert len(layer.algorithm.steps) == 1

    def test_a_call_outside_the_loss_is_left_out(self, draw):
        layer = recorder(draw)
        layer(draw((2, 3, 4), 2))
        layer(draw((2, 3, 4), 3)).sum().backward()
        AnalogOptimizer(layer).step()
        ((x, _, calls, _, _),) = layer.algorithm.steps
        assert calls == 1
        assert torch.equal(x, draw((2, 3, 4), 3))


class TestOptimizer:
    def test_analog_and_digital_parameters_learn_together(self, draw):
        """A least-squares problem that needs weights, bias and scale; each is at its optimum in the end."""
        layer = digital(draw, 2, 3, 2, lr=0.1, bias=True, output_scale=True)
        optimizer = AnalogOptimizer(layer, digital_lr=0.05)
        wanted = 0.5 * draw((2, 2, 3), 8)
        x = draw((2, 40, 3), 9)
        y = torch.einsum("aoi,asi->aso", wanted, x) + 0.7
        start = [p.detach().clone() for p in (layer.bias, layer.output_scale)]
        for _ in range(400):
            optimizer.zero_grad()
            loss = (layer(x) - y).square().mean(dim=(1, 2)).sum()
            loss.backward()
            optimizer.step()
        assert float(loss.detach()) < 1e-4
        torch.testing.assert_close(layer.bias.detach(), torch.full((2, 2), 0.7), rtol=0, atol=0.02)
        assert all(not torch.equal(a, b) for a, b in zip(start, (layer.bias, layer.output_scale), strict=True))

    def test_schedulers_act_through_the_first_group(self, draw):
        layer = recorder(draw)
        optimizer = AnalogOptimizer(layer)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            layer(draw((2, 1, 4), 2)).sum().backward()
            optimizer.step()
            scheduler.step()
        factors = torch.tensor([factor for *_, factor, _ in layer.algorithm.steps])
        torch.testing.assert_close(factors, torch.tensor([1.0, 1.0, 0.1, 0.1, 0.01]))

    def test_stopped_arrays_learn_nothing(self, draw):
        layer = digital(draw, 2, 3, 2, bias=True, output_scale=True)
        optimizer = AnalogOptimizer(layer)
        optimizer.active = torch.tensor([True, False])
        before = [p.clone() for p in (layer.algorithm.weight, layer.bias, layer.output_scale)]
        layer(draw((2, 4, 3), 3)).square().sum().backward()
        optimizer.step()
        for old, new in zip(before, (layer.algorithm.weight, layer.bias, layer.output_scale), strict=True):
            assert not torch.equal(new[0], old[0])
            assert torch.equal(new[1], old[1])

    def test_the_mask_goes_to_the_algorithm(self, draw):
        layer = recorder(draw)
        optimizer = AnalogOptimizer(layer)
        optimizer.active = torch.tensor([False, True])
        layer(draw((2, 1, 4), 2)).sum().backward()
        optimizer.step()
        assert torch.equal(layer.algorithm.steps[0][4], optimizer.active)


class TestSavedWeights:
    def layer(self, desk, seed=0):
        one, zero = torch.ones(2, dtype=torch.int64), torch.zeros(2)
        tiles = [desk.tile(6, 5, ids=torch.arange(2), name=name, seed=seed) for name in "ac"]
        return AnalogLinear(TikiTaka(*tiles, TikiTakaRates(zero + 0.01, zero + 0.1, one, zero, one)), bias=True)

    def test_go_out_and_come_back_by_programming(self, desk, draw, tmp_path):
        saved, other = self.layer(desk), self.layer(desk, seed=5)
        for number, tile in enumerate(saved.algorithm.tiles.values()):
            desk.put(tile, 0.25 * torch.tanh(draw((2, 5, 6), number)))
        with torch.no_grad():
            saved.bias.fill_(0.3)
        torch.save(saved.state_dict(), tmp_path / "state.pt")
        other.load_state_dict(torch.load(tmp_path / "state.pt"))
        torch.testing.assert_close(other.bias, saved.bias)
        for tile in other.algorithm.tiles.values():
            assert int(desk.pulses(tile).abs().sum()) == 0
        done = other.program()
        for role, tile in other.algorithm.tiles.items():
            assert bool(done[role].success.all())
            torch.testing.assert_close(tile.weights(), saved.algorithm.tiles[role].weights(), rtol=0, atol=0.7 * 0.001)
        assert other.program() == {}

    def test_of_another_size_are_refused_in_one_line(self, desk):
        layer = self.layer(desk)
        state = layer.state_dict()
        state["_extra_state"]["weight_c"] = torch.zeros(2, 5, 7)
        with pytest.raises(ShapeError, match=r"weight_c is missing or not \[2 5 6\]$"):
            layer.load_state_dict(state)


class TestPopulationLoss:
    def test_is_the_sum_over_arrays_of_the_mean_over_samples(self, draw):
        output, target = draw((3, 5, 4), 1), torch.arange(15).view(3, 5) % 4
        expected = sum(cross_entropy(output[a], target[a]) for a in range(3))
        torch.testing.assert_close(population_loss(cross_entropy, output, target), expected)
        shared = torch.arange(5) % 4
        expected = sum(cross_entropy(output[a], shared) for a in range(3))
        torch.testing.assert_close(population_loss(cross_entropy, output, shared), expected)

    def test_gives_every_array_the_gradient_it_would_see_alone(self, draw):
        output, target = draw((4, 5, 3), 1).requires_grad_(), torch.arange(20).view(4, 5) % 3
        population_loss(cross_entropy, output, target).backward()
        for a in range(4):
            alone = output[a : a + 1].detach().clone().requires_grad_()
            population_loss(cross_entropy, alone, target[a : a + 1]).backward()
            assert torch.equal(alone.grad[0], output.grad[a])

    def test_training_one_array_more_changes_nothing_for_the_others(self, draw):
        def run(arrays):
            layer = digital(draw, 3, 4, 3)
            layer = AnalogLinear(DigitalSGD(arrays, 4, 3, torch.tensor([0.1, 0.2, 0.3])[:arrays]))
            layer.algorithm.weight = (0.5 * draw((3, 3, 4), 1))[:arrays]
            optimizer = AnalogOptimizer(layer)
            for step in range(5):
                optimizer.zero_grad()
                population_loss(cross_entropy, layer(draw((3, 6, 4), 10 + step)[:arrays]), torch.arange(6) % 3).backward()
                optimizer.step()
            return layer.algorithm.weight

        assert torch.equal(run(3)[:2], run(2))


class TestErrors:
    def test_input_of_the_wrong_shape(self, draw):
        with pytest.raises(ShapeError, match=r"^AnalogLinear: x \[2, 3, 5\] needs \[2 sample 4\]$"):
            recorder(draw)(draw((2, 3, 5), 1))

    def test_batches_of_two_sizes_before_one_step(self, draw):
        layer = recorder(draw)
        (layer(draw((2, 3, 4), 1)).sum() + layer(draw((2, 2, 4), 1)).sum()).backward()
        with pytest.raises(UsageError, match=r"^AnalogLinear: called with batches of \[2, 3\] samples .*: use one size$"):
            AnalogOptimizer(layer).step()

    def test_a_model_without_analog_layers(self):
        with pytest.raises(UsageError, match=r"^AnalogOptimizer: the model has no AnalogLinear: use an ordinary optimizer$"):
            AnalogOptimizer(torch.nn.Linear(2, 2))


def test_deterministic_training_of_a_tile_reaches_the_target(desk, draw):
    """The whole chain on constant, noise-free devices: least squares to within a few steps."""
    tile = desk.tile(3, 2, model="constant")
    layer = AnalogLinear(AnalogSGD(tile, torch.tensor([0.05]), UpdateSettings()))
    optimizer = AnalogOptimizer(layer)
    wanted = 0.3 * torch.tanh(draw((1, 2, 3), 1))
    for step in range(150):
        x = draw((1, 4, 3), 100 + step)
        optimizer.zero_grad()
        loss = 0.5 * (layer(x) - torch.einsum("aoi,asi->aso", wanted, x)).square().sum(dim=2).mean(dim=1).sum()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(tile.weights(), wanted, rtol=0, atol=0.02)
