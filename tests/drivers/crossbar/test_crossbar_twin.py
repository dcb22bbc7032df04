"""Driver and twin, each on its end of a real link."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch

from drivers.crossbar_backend import CrossbarBoard
from drivers.crossbar_contact import Patience
from drivers.crossbar_serial import CrossbarSettings, plugin
from drivers.links.byte_link import ByteLink
from hil.backend import ArrayBackend, PulseShape
from hil.encoding import PulseTrain, Stream, UpdateSettings, encode
from hil.errors import HardwareError, PulseOutcomeUnknown
from hil.limits import Limits
from hil.plugins import Wanted
from simulated_backend.array import EmulatedArray
from simulated_backend.devices import DeviceSettings
from simulated_backend.settings import EmulatorSettings
from simulated_backend.twins.board import start
from simulated_backend.twins.board_settings import BoardSettings
from simulated_backend.twins.running import RunningTwin

SHAPE, STRONG = PulseShape(1.0, -1.0, 1e-6), PulseShape(1.2, -0.9, 2e-6)
LIMITS = Limits(
    up_v_max=1.5, down_v_max=1.5, width_s_max=1e-4, half_select_v_max=0.75, read_v_max=0.2, pulses_per_cell_max=10**9,
    pulses_per_operation_max=10**6,
)  # fmt: skip
SIDE = 32


def array(side: int, **changes: Any) -> EmulatorSettings:
    """Devices with spreads and noise everywhere, so that every random number counts."""
    device = DeviceSettings(dw_min=0.005, c2c=0.3, dw_min_dtod=0.3)
    periphery = {"read_noise_siemens": 1e-7, "in_noise": 0.01, **changes}
    return EmulatorSettings(rows=side, cols=side, device=device, periphery=periphery)  # type: ignore[arg-type]


Made = tuple[CrossbarBoard, RunningTwin]


@pytest.fixture
def pair() -> Iterator[Callable[..., Made]]:
    """Makes a driver on a twin in this process."""
    with ExitStack() as closing:

        def make(settings: BoardSettings, reply_s: float = 0.5) -> Made:
            stop = threading.Event()
            twin = start(settings, stop)
            closing.callback(stop.set)
            board = CrossbarBoard(ByteLink(twin.links["main"], 2_000_000), "main", 0.2, "me", LIMITS, Patience(reply_s))
            closing.callback(board.close)
            return board, twin

        yield make


def trains(number: int, samples: int) -> tuple[PulseTrain, PulseTrain]:
    """As a tile encodes them."""
    generator = torch.Generator().manual_seed(number)
    x, d = (torch.randn(1, samples, SIDE, generator=generator) for _ in range(2))
    keys = [Stream(number, torch.zeros(1, dtype=torch.int64), "m", name).keys(samples) for name in ("x", "d")]
    return encode(x, d, torch.tensor([0.05]), torch.tensor([0.005]), UpdateSettings(), *keys)


def story(board: ArrayBackend, levels: int) -> list[torch.Tensor]:
    """Every verb, with state in between; what it returned."""
    generator = torch.Generator().manual_seed(11)
    grain = 0.4 / (levels - 1) if levels > 2 else 0.2
    most = (levels - 1) // 2 if levels > 2 else 1
    every = torch.ones(1, SIDE, SIDE, dtype=torch.bool)
    some = torch.rand(1, SIDE, SIDE, generator=generator) < 0.2
    out = [board.read(every)]
    board.set_reference(torch.where(some, out[0], torch.nan))  # type: ignore[attr-defined]
    for number in range(4):
        board.pulse(torch.randint(-9, 10, (1, SIDE, SIDE), generator=generator, dtype=torch.int32), STRONG)
        board.update(*trains(number, 1 + 8 * number), SHAPE)
        codes = torch.randint(-most, most + 1, (1, 3, SIDE), generator=generator)
        volts = codes.float() * grain
        out += [board.mvm(volts, "forward"), board.mvm(volts[:, :1], "backward"), board.read(some, averages=4)]
        polarity = torch.where(torch.rand(90, generator=generator) < 0.6, 1, -1).to(torch.int8)
        out.append(board.trace(polarity, some, SHAPE, 7))
    out += [board.trace(torch.ones(80, dtype=torch.int8), every, SHAPE, 1), board.read(every)]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("link", ["pty", "tcp"])
@pytest.mark.parametrize(("bits", "max_body"), [(7, 65535), (1, 65535), (7, 8192)])
def test_bit_identical_with_the_array_itself(pair: Callable[..., Made], link: str, bits: int, max_body: int) -> None:
    """Splitting by max_body changes nothing either."""
    settings = array(SIDE, dac_bits=bits)
    made = {"link": {"link": link}, "array": settings, "seed": 5, "name": "left", "max_body": max_body}
    board, twin = pair(BoardSettings.model_validate(made))
    direct = EmulatedArray(settings, SIDE, SIDE, seed=5, name="left")
    levels = 127 if bits == 7 else 2
    for got, wanted in zip(story(board, levels), story(direct, levels), strict=True):
        assert torch.equal(got.nan_to_num(-1.0), wanted.nan_to_num(-1.0))
    truth, state = twin.truth(), direct.state_dict()
    for name in ("pulses_up", "pulses_down"):
        assert truth[name] == state[name][0].tolist()
    assert twin.report()["counts"].keys() <= {"units", "pulses", *(k for k in twin.panel.counts if k.startswith("executed"))}


@pytest.mark.slow
@pytest.mark.parametrize("link", ["pty", "tcp"])
def test_a_twin_as_a_process(link: str) -> None:
    """Opened by the plugin, a second harness refused, stopped with it."""
    settings = CrossbarSettings.model_validate(
        {"twin": {"name": "board", "settings": {"link": {"link": link}, "array": {"rows": 4, "cols": 4}}}}
    )
    wanted = Wanted("main", "", None, None, torch.zeros(1, dtype=torch.int64), 0, LIMITS)
    with plugin.open(settings, wanted) as board:
        address = board.status()["link"]
        with pytest.raises(HardwareError, match="another harness"):
            plugin.open(CrossbarSettings(link=address), wanted)
        mask = torch.ones(1, 4, 4, dtype=torch.bool)
        before = board.read(mask)
        board.pulse(mask.to(torch.int32) * 20, SHAPE)
        assert bool((board.read(mask) > before).all())
        assert board.status()["board"]["pulses"] == 320
        assert board.safe() is True
    with pytest.raises(HardwareError):
        ByteLink(address)


def soon(condition: Callable[[], bool]) -> None:
    """Wait until it holds, ten seconds at most."""
    deadline = time.monotonic() + 10
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("link", ["pty", "tcp"])
def test_exactly_once_over_a_bad_link(pair: Callable[..., Made], link: str) -> None:
    """A tenth of the frames dropped, damaged or doubled in each direction: no pulse lost, none doubled."""
    faults = {"drop": 0.04, "corrupt": 0.03, "duplicate": 0.03, "seed": 3}
    made = {"link": {"link": link, "faults": faults}, "array": {"rows": 2, "cols": 2}}
    board, twin = pair(BoardSettings.model_validate(made), reply_s=0.02)
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    up = down = 0
    for n in range(1, 201):
        sign = 1 if n % 3 else -1
        board.pulse(mask.to(torch.int32) * sign * n, SHAPE)
        up, down = (up + n, down) if sign > 0 else (up, down + n)
        if n % 10 == 0:
            board.read(mask)
    board.status()
    truth = twin.truth()
    assert truth["pulses_up"] == [[up, up], [up, up]]
    assert truth["pulses_down"] == [[down, down], [down, down]]
    assert min(twin.panel.counts[name] for name in ("dropped", "corrupted", "duplicated", "resent")) > 0


@pytest.mark.slow
@pytest.mark.parametrize("link", ["pty", "tcp"])
def test_exactly_once_over_unplugging(pair: Callable[..., Made], link: str) -> None:
    board, twin = pair(BoardSettings.model_validate({"link": {"link": link}, "array": {"rows": 2, "cols": 2}}), reply_s=0.05)
    one = torch.ones(1, 2, 2, dtype=torch.int32)
    total = 0
    for _ in range(3):
        twin.panel.order("unplug", 0.1)
        for n in range(1, 40):
            board.pulse(one * n, SHAPE)
            total += n
        board.read(one.bool())
        soon(lambda: twin.panel.pending("unplug") is None)
    board.status()
    assert twin.truth()["pulses_up"] == [[total, total], [total, total]]
    assert twin.panel.counts["unplugged"] == 3


@pytest.mark.slow
def test_reboots_in_the_middle_of_pulses(pair: Callable[..., Made]) -> None:
    """Operations that are known to be done are done once; of the others the caller is told."""
    board, twin = pair(BoardSettings.model_validate({"array": {"rows": 1, "cols": 1}}), reply_s=0.02)
    one = torch.ones(1, 1, 1, dtype=torch.int32)
    known = possible = unknown = 0
    for n in range(1, 61):
        if n % 20 == 10:
            twin.panel.order("reboot", 5)
        possible += n
        try:
            board.pulse(one * n, SHAPE)
            board.read(one.bool())
            known += n
        except PulseOutcomeUnknown:
            unknown += 1
    done = twin.truth()["pulses_up"][0][0]
    assert unknown == 3
    assert known <= done < possible
    assert board.status()["reboots"] == 3


@pytest.mark.slow
def test_the_heartbeat_keeps_the_board_armed(pair: Callable[..., Made]) -> None:
    """A host that is busy elsewhere for longer than the watchdog's time; then one whose heart has stopped."""
    board, twin = pair(BoardSettings.model_validate({"array": {"rows": 2, "cols": 2}, "watchdog_s": 1.0}))
    beats = board._port
    soon(lambda: beats.heartbeats >= 4)
    assert twin.truth()["armed"]
    beats.beat = None
    soon(lambda: not twin.truth()["armed"])
    board.pulse(torch.ones(1, 2, 2, dtype=torch.int32), SHAPE)
    status = board.status()
    assert (status["board"]["trips"], status["board"]["pulses"]) == (1, 4)


@pytest.mark.slow
def test_an_interlock_that_opens(pair: Callable[..., Made]) -> None:
    """The barrier says how far it came; closed again, the board goes on."""
    board, twin = pair(BoardSettings.model_validate({"array": {"rows": 2, "cols": 2}}))
    one = torch.ones(1, 2, 2, dtype=torch.int32)
    twin.panel.order("open_interlock", 5)
    board.pulse(one * 3, SHAPE)
    board.pulse(one * 4, SHAPE)
    with pytest.raises(HardwareError, match="5 pulses applied, INTERLOCK"):
        board.status()
    assert sum(map(sum, twin.truth()["pulses_up"])) == 5
    twin.panel.order("close_interlock", 1)
    board.read(one.bool())
    board.pulse(one, SHAPE)
    assert board.status()["board"]["pulses"] == 9
