"""The ArC TWO driver against the twin, which reaches it through the stand-in of the vendor's library."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from drivers.arc_two import ArcTwo, plugin
from drivers.arc_two_settings import ArcTwoSettings
from drivers.links.twin import StartedTwin, TwinStart
from hil.backend import PulseShape
from hil.bench import open_bench
from hil.config import load_bench
from hil.driving import drive
from hil.encoding import PulseTrain, coincidence_counts
from hil.errors import HardwareError, PulseOutcomeUnknown
from hil.plugins import Wanted
from simulated_backend.array import EmulatedArray
from simulated_backend.devices import DeviceSettings
from simulated_backend.settings import EmulatorSettings
from simulated_backend.twins.arc_two import start
from simulated_backend.twins.arc_two_settings import ArcTwoTwinSettings
from simulated_backend.twins.control import Control
from simulated_backend.twins.running import RunningTwin

ROWS, COLS = 6, 5
ARRAY = EmulatorSettings(rows=ROWS, cols=COLS, device=DeviceSettings(stuck=0.5))
"""Half of the cells are stuck anywhere in the range, so that conductances differ."""
SHAPE = PulseShape(1.25, -1.25, 1e-6)
READ_V = 655 * 20 / 2**16
NOISE_A = 170e-12
SIGMAS = 6.5
"""Standard deviations allowed to a Gaussian: exceeded with probability 8e-11, so below 1e-6 for all figures of this file."""
EVERY = torch.ones(1, ROWS, COLS, dtype=torch.bool)
STAND_IN = "simulated_backend.twins.pyarc2_stand_in"
WANTED = Wanted("main", "", None, None, torch.zeros(1, dtype=torch.int64), 0)


def adc_a(ohms: float) -> float:
    """Half a step of the ADC."""
    return 10.24 / 2**17 / ohms / 2


def settings(**changes: Any) -> ArcTwoSettings:
    channels = {"words": [16, 17, 18, 63, 62, 61], "bits": [0, 1, 2, 3, 32]}
    return ArcTwoSettings.model_validate(
        {"module": STAND_IN, "firmware": "fw.bin", "serial": "chip", "channels": channels, "timeout_s": 0.05} | changes
    )


@pytest.fixture
def twin() -> Iterator[RunningTwin]:
    stop = threading.Event()
    chosen = settings(id=0).channels
    yield start(ArcTwoTwinSettings(array=ARRAY, seed=3, words=chosen.words, bits=chosen.bits), stop)
    stop.set()


@pytest.fixture
def board(twin: RunningTwin) -> Iterator[ArcTwo]:
    with plugin.open(settings(id=int(twin.links["main"].rpartition(":")[2])), WANTED) as made:
        yield made


def truth(twin: RunningTwin, name: str) -> torch.Tensor:
    return torch.tensor(twin.truth()[name], dtype=torch.float64)


def flushes(twin: RunningTwin) -> int:
    return int(twin.truth()["calls"]["execute"])


def untroubled(twin: RunningTwin) -> bool:
    return not {"rejected", "floating_lines"} & set(twin.panel.counts)


def test_reads_show_the_true_conductances(twin, board):
    # The smallest error it is sure to see: 15 nS of 100 uS.
    mask = EVERY.clone()
    mask[0, 2, 3] = mask[0, 4] = False
    before = flushes(twin)
    g = board.read(mask)
    assert flushes(twin) == before + 1
    band = (adc_a(110e3) + SIGMAS * NOISE_A) / READ_V
    torch.testing.assert_close(g[mask].double(), truth(twin, "g_siemens")[mask[0]], rtol=1e-6, atol=band)
    assert g[~mask].isnan().all()
    assert untroubled(twin)


def test_averages_lower_the_noise(twin, board):
    # The mean of 64 readings has an eighth of the noise; the ADC's steps stay, dithered or not.
    g = board.read(EVERY, averages=64)
    band = (adc_a(110e3) + SIGMAS * NOISE_A / 8) / READ_V
    torch.testing.assert_close(g[0].double(), truth(twin, "g_siemens"), rtol=1e-6, atol=band)


def test_the_devices_are_those_of_the_emulated_board(twin, board):
    alike = EmulatedArray(ARRAY, ROWS, COLS, seed=3, name="main")
    band = (adc_a(110e3) + SIGMAS * NOISE_A) / READ_V
    torch.testing.assert_close(board.read(EVERY), alike.read(EVERY), rtol=1e-6, atol=band)


def test_pulses_are_applied_as_often_as_asked(twin, board):
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(-4, 5, (1, ROWS, COLS), generator=generator, dtype=torch.int32)
    before, flushed = board.read(EVERY), flushes(twin)
    board.pulse(counts, SHAPE)
    assert flushes(twin) == flushed + 1
    torch.testing.assert_close(truth(twin, "pulses_up"), counts[0].clamp(min=0).double())
    torch.testing.assert_close(truth(twin, "pulses_down"), (-counts[0]).clamp(min=0).double())
    assert twin.panel.counts["pulses"] == int(counts.abs().sum())
    assert untroubled(twin)
    # Cells without a pulse stay, half-selected ones too.
    still = counts == 0
    torch.testing.assert_close(board.read(EVERY)[still], before[still], rtol=0.0, atol=3e-8)


def test_up_and_down_move_the_right_way(twin, board):
    before = board.read(EVERY)
    board.pulse(torch.full((1, ROWS, COLS), 30, dtype=torch.int32), SHAPE)
    between = board.read(EVERY)
    board.pulse(torch.full((1, ROWS, COLS), -60, dtype=torch.int32), SHAPE)
    assert (between - before).mean() > 5e-7
    assert (board.read(EVERY) - between).mean() < -5e-7


def test_products_are_those_of_the_conductances_read_back(twin, board):
    g = board.read(EVERY)[0].double()
    generator = torch.Generator().manual_seed(2)
    for direction, lines, matrix in (("forward", ROWS, g), ("backward", COLS, g.T)):
        volts = (torch.rand(1, 4, lines, generator=generator) - 0.5) * 0.4
        before = flushes(twin)
        applied, current, saturated = drive(board, volts, 0.2, direction, None)
        assert flushes(twin) == before + 1
        # Each conductance is off by its own reading's error, the product by its own.
        read_back = applied.double().abs().sum(dim=2, keepdim=True) * (adc_a(110e3) + SIGMAS * NOISE_A) / READ_V
        band = float(read_back.max()) + adc_a(830.0) + SIGMAS * NOISE_A
        torch.testing.assert_close(current.double(), applied.double() @ matrix, rtol=1e-6, atol=band)
        assert saturated is not None
        assert not saturated.any()


def test_updates_pulse_the_coincidences(twin, board):
    generator = torch.Generator().manual_seed(4)
    slots = torch.full((1, 3), 31, dtype=torch.int32)
    trains = []
    for lines in (ROWS, COLS):
        bits = torch.randint(0, 2**31 - 1, (1, 3, lines), generator=generator).to(torch.int32)
        signs = torch.randint(-1, 2, (1, 3, lines), generator=generator).to(torch.int8)
        trains.append(PulseTrain.given(bits, signs, slots))
    rows, cols = trains
    counts = [coincidence_counts(rows.at(sample), cols.at(sample))[0] for sample in range(3)]
    before = flushes(twin)
    board.update(rows, cols, SHAPE)
    assert flushes(twin) == before + 1
    up = torch.stack([one.clamp(min=0) for one in counts]).sum(dim=0)
    down = torch.stack([(-one).clamp(min=0) for one in counts]).sum(dim=0)
    assert int(up.sum()) > 20
    assert int(down.sum()) > 20
    torch.testing.assert_close(truth(twin, "pulses_up"), up.double())
    torch.testing.assert_close(truth(twin, "pulses_down"), down.double())
    assert board.status()["passes"] == twin.truth()["calls"]["pulse_slice_fast_open"]
    assert untroubled(twin)


def test_traces_see_every_pulse(twin, board):
    mask = EVERY.clone()
    mask[0, 1] = False
    polarity = torch.tensor([1] * 40 + [-1] * 20, dtype=torch.int8)
    before = flushes(twin)
    out = board.trace(polarity, mask, SHAPE, every=20)
    assert flushes(twin) == before + 1
    assert out.shape == (1, ROWS, COLS, 3)
    mean = out[mask].double().mean(dim=0)
    assert mean[0] < mean[1]
    assert mean[2] < mean[1]
    torch.testing.assert_close(truth(twin, "pulses_up"), 40.0 * mask[0].double())
    assert out[~mask].isnan().all()
    assert untroubled(twin)


def test_safe_leaves_every_channel_tied_to_ground(twin, board):
    board.read(EVERY)
    assert board.safe()
    found = twin.truth()
    assert all(found["grounded"])
    assert set(found["volts"]) == {0.0}
    # What comes next releases it.
    assert not board.read(EVERY).isnan().any()
    assert untroubled(twin)


def test_a_fault_before_anything_is_done(twin, board):
    twin.panel.order("refuse", 1)
    with pytest.raises(HardwareError, match="FPGA Error"):
        board.read(EVERY)
    assert not board.read(EVERY).isnan().any()
    twin.panel.order("refuse", 1)
    with pytest.raises(PulseOutcomeUnknown):
        board.pulse(torch.ones(1, ROWS, COLS, dtype=torch.int32), SHAPE)
    assert "pulses" not in twin.panel.counts


def test_a_fault_after_the_pulses(twin, board):
    twin.panel.order("lose", 1)
    with pytest.raises(PulseOutcomeUnknown):
        board.pulse(torch.ones(1, ROWS, COLS, dtype=torch.int32), SHAPE)
    # Never sent twice.
    board.read(EVERY)
    assert twin.panel.counts["pulses"] == ROWS * COLS


def test_a_blind_channel_is_named(twin, board):
    twin.panel.order("blind", 32)
    with pytest.raises(HardwareError, match="channel 32 gave no reading"):
        board.read(EVERY)


def test_a_hanging_board(twin, board):
    twin.panel.order("hang", 1)
    with pytest.raises(HardwareError, match="still busy"):
        board.read(EVERY)
    assert not board.safe()


def test_a_board_that_is_gone(twin, board):
    twin.panel.order("unplug", 0.0)
    with pytest.raises(PulseOutcomeUnknown):
        board.pulse(torch.ones(1, ROWS, COLS, dtype=torch.int32), SHAPE)
    assert not board.safe()
    board.close()
    with pytest.raises(HardwareError, match="is closed"):
        board.read(EVERY)


def test_one_harness_at_a_time(twin, board):
    with pytest.raises(HardwareError, match="another harness"):
        plugin.open(settings(id=int(twin.links["main"].rpartition(":")[2])), WANTED)


@pytest.mark.slow
def test_the_shipped_bench_starts_its_twin_and_ends_it(tmp_path, monkeypatch):
    started: list[StartedTwin] = []

    def begin(wanted: TwinStart) -> StartedTwin:
        started.append(StartedTwin(wanted))
        return started[-1]

    monkeypatch.setattr("drivers.arc_two.StartedTwin", begin)
    with open_bench(load_bench("twin-arc-two"), tmp_path) as bench, Control(started[0].control) as control:
        info = bench.infos["main"]
        assert (info.rows, info.cols, info.physical, info.serial) == (32, 32, True, "twin-arc-two")
        g = bench.read_cells("main", torch.ones(1, 32, 32, dtype=torch.bool))
        seen = torch.tensor(control.truth()["g_siemens"])
        torch.testing.assert_close(g[0], seen, rtol=1e-6, atol=(adc_a(110e3) + SIGMAS * NOISE_A) / READ_V)
        assert not {"rejected", "floating_lines"} & set(control.report()["counts"])
    with pytest.raises(OSError, match="refused"):
        Control(started[0].control)
