"""The pytest plugin ``hil``: benches for tests, on the emulator or on a board.

Fixtures: ``bench`` (an open ``hil.bench.Bench``, kept open from test to test of a module: its devices are what the tests
before made of them; of a station: that of its first site), ``ledger`` (its run record, new for every module), ``station``
(what brings the bench from site to site; a test takes this or ``bench``), ``board`` (the name of a board of the bench: a
test that takes it runs once for each), ``block`` (a few cells of that board, ``hil.testing.block``), ``reopen``.

Options: ``--bench FILE`` (or the name of a shipped bench; may be given again, or hold several with commas between),
``--hil-pulses N``. A module says where it runs without ``--bench`` by ``pytestmark = pytest.mark.bench(NAME, ...)``, else
that is the emulated board. What may be hardware runs only where ``--bench`` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

# The plugin is loaded with every run of pytest: what it stands on is imported when a test asks for it.
if TYPE_CHECKING:
    from hil.bench import Bench
    from hil.config import BenchConfig
    from hil.ledger import Ledger
    from hil.station import Station
    from hil.testing.block import Block
    from hil.testing.opened import OpenedBench
    from hil.testing.targets import Target

__all__ = [
    "PULSES", "bench", "block", "board", "hil_opened", "hil_target", "ledger", "pytest_addoption", "pytest_configure",
    "pytest_generate_tests", "pytest_terminal_summary", "reopen", "station",
]  # fmt: skip

PULSES = 10_000
"""Pulses that a cell may get from one test, unless ``--hil-pulses`` says otherwise."""

_CACHE = pytest.StashKey["dict[tuple[str, ...], list[Target]]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--bench`` and ``--hil-pulses``; also the first hook of all, so that the checks' assertions say what they saw."""
    pytest.register_assert_rewrite("hil.testing.conformance", "hil.testing.contract_checks", "hil.testing.physics_checks")
    group = parser.getgroup("hil", "crosspoint arrays")
    group.addoption(
        "--bench", action="append", default=[], metavar="FILE", help="bench file or shipped bench to test on (repeatable)"
    )
    group.addoption(
        "--hil-pulses", type=int, default=PULSES, metavar="N", help=f"pulses a cell may get from one test ({PULSES})"
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker ``bench``."""
    config.addinivalue_line("markers", "bench(name, ...): benches to run on unless --bench names others")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for every bench, and for every board of it where the test takes ``board``."""
    if "hil_target" not in metafunc.fixturenames:
        return
    found = _targets(metafunc)
    if "board" in metafunc.fixturenames:
        pairs = [(target, board) for target in found for board in target.boards]
        ids = [f"{target.name}:{board}" for target, board in pairs]
        metafunc.parametrize(("hil_target", "board"), pairs, ids=ids, indirect=True, scope="module")
    else:
        metafunc.parametrize("hil_target", found, ids=[target.name for target in found], indirect=True, scope="module")


def _targets(metafunc: pytest.Metafunc) -> list[Target]:
    from hil.testing.targets import DEFAULT, targets

    mark = metafunc.definition.get_closest_marker("bench")
    fallback = (DEFAULT,) if mark is None else mark.args
    cache = metafunc.config.stash.setdefault(_CACHE, {})
    if fallback not in cache:
        cache[fallback] = targets(metafunc.config.getoption("--bench"), fallback)
    return cache[fallback]


@pytest.fixture(scope="module")
def hil_target(request: pytest.FixtureRequest) -> Target:
    """The bench that a test is to run on."""
    target: Target = request.param
    if target.problem:
        pytest.fail(target.problem, pytrace=False)
    if target.hardware and not target.named:
        pytest.skip(f"{target.bench} may be hardware: name it, --bench {target.bench}")
    return target


@pytest.fixture(scope="module")
def board(request: pytest.FixtureRequest) -> str:
    """The name of a board of the bench; a test that takes it runs for each."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def hil_opened(hil_target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenedBench]:
    """The bench with its record, kept for a module."""
    from hil.testing.opened import OpenedBench

    opened = OpenedBench(hil_target, tmp_path_factory.mktemp("runs"))
    yield opened
    opened.close()


@pytest.fixture
def ledger(hil_opened: OpenedBench) -> Ledger:
    """The run record of the bench."""
    return hil_opened.ledger


@pytest.fixture
def bench(hil_opened: OpenedBench, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The open bench. Fails a test after which a cell has more pulses than ``--hil-pulses`` allows one test."""
    opened = hil_opened.bench
    before = hil_opened.spent()
    yield opened
    spent = max((int((now - before.get(name, 0)).max()) for name, now in hil_opened.spent().items()), default=0)
    request.node.user_properties.append(("pulses_per_cell", spent))
    allowed = request.config.getoption("--hil-pulses")
    if spent > allowed:
        pytest.fail(f"gave a cell {spent} pulses: --hil-pulses allows {allowed}", pytrace=False)


@pytest.fixture
def block(bench: Bench, board: str, request: pytest.FixtureRequest) -> Iterator[Block]:
    """A few cells of the board."""
    from hil.testing.block import block_on

    made = block_on(bench, board, request.config.getoption("--hil-pulses"))
    yield made
    request.node.user_properties += [("catches", note) for note in made.notes]


@pytest.fixture
def reopen(hil_opened: OpenedBench) -> Iterator[Callable[[BenchConfig | None], Bench]]:
    """Opens the bench once more, or another one in its place, beside whatever is open; closed after the test."""
    with ExitStack() as closing:

        def again(config: BenchConfig | None = None) -> Bench:
            return hil_opened.reopened(closing, config)

        yield again


@pytest.fixture
def station(hil_opened: OpenedBench, request: pytest.FixtureRequest) -> Iterator[Station]:
    """The station of the bench, newly opened: the bench itself, one site always in contact, where it names none."""
    if "bench" in request.fixturenames:
        pytest.fail("takes bench and station: a board is opened once, take the bench from a contact", pytrace=False)
    hil_opened.let_go()
    with ExitStack() as closing:
        yield hil_opened.station(closing)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What every test spent and what it would have caught, where ``--bench`` or ``-v`` asks for it."""
    if not config.getoption("--bench") and config.getoption("verbose") < 1:
        return
    reports = [r for found in terminalreporter.stats.values() for r in found if getattr(r, "when", "") == "teardown"]
    lines = [line for report in reports if (line := _line(report))]
    if lines:
        terminalreporter.section("pulses spent on a cell, and errors that a check would catch")
        for line in lines:
            terminalreporter.line(line)


def _line(report: pytest.TestReport) -> str:
    spent = [value for name, value in report.user_properties if name == "pulses_per_cell"]
    notes = [str(value) for name, value in report.user_properties if name == "catches"]
    if not spent:
        return ""
    return f"{report.nodeid.rsplit('::', 1)[-1]}: {spent[0]}" + "".join(f"; {note}" for note in notes)
