"""The report: one file that needs nothing else, whatever the run holds; figures of data as they come."""

from __future__ import annotations

import base64
import importlib.util
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from hil.backend import ArrayInfo, Range
from hil.errors import DataError, UsageError
from hil.ledger import Ledger
from hil.report.curves import draw_convergence, draw_curves, draw_traces
from hil.report.figures import (
    draw_bars,
    draw_confusion,
    draw_counts,
    draw_histogram,
    draw_histograms,
    draw_map,
    shared_edges,
)
from hil.report.html import write_report
from hil.report.render import file_name, render
from hil.report.section import Figure, Section, Table
from hil.report.values import number, prefixed, quantity

HOSTILE = "<script>alert('x')</script><img src=x onerror=y>\"'&"
INFO = ArrayInfo(
    arrays=1,
    rows=2,
    cols=3,
    physical=True,
    vendor=HOSTILE,
    model="m",
    serial="s1",
    firmware="f",
    read_v=Range(-0.5, 0.5),
    pulse_v=Range(-2.0, 2.0),
    width_s=Range(1e-9, 1e-3),
)


class Page(HTMLParser):
    """Tags, what they point at, and the text between them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self.words = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.words += data


def line(fig):
    fig.add_subplot().plot([1, 2, 3], [1.0, math.nan, 3.0])


def section(text: str = "first\n\nsecond", name: str = "a figure") -> Section:
    picture = Figure("map", "a map", lambda fig: draw_map(fig, np.eye(3), "conductance (µS)"))
    table = Table("what it is", ("name", "value"), ((text, "1"),))
    return Section(f"part {text}", text, (Figure(name, text, line), picture), (table,))


def written(ledger: Ledger, sections=()) -> tuple[str, Page]:
    path = write_report(ledger.run, sections)
    assert path == ledger.folder / "report.html"
    source = path.read_text(encoding="utf-8")
    return source, Page(source)


@pytest.fixture
def ledger(tmp_path):
    config = {"bench": {"name": "desk", "boards": {"main": [1, 2]}}, "options": {"text": HOSTILE, "nested": [{"a": 1}]}}
    command = f"hil {HOSTILE}"
    ledger = Ledger.create(tmp_path, "train", config, boards={"main": INFO}, seed=7, operator=HOSTILE, command=command)
    yield ledger
    ledger.close()


@pytest.mark.slow
def test_page_needs_nothing_else_and_says_what_was_run(ledger):
    ledger.result("accuracy", 0.93, "1", "test samples", low=0.9)
    ledger.result("current", 3.2e-7, "ampere", "mean", low=1e-6, high=2e-6)
    ledger.result("map", np.zeros((2, 3)), "siemens", "cells")
    ledger.stop("done")
    with Ledger.open(ledger.folder) as run:
        path = write_report(run, [section(), section(name="map")])
    source = path.read_text(encoding="utf-8")
    page = Page(source)
    assert not re.search(r"https?:|//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", source))
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert len([target for target in page.targets if target.startswith("data:image/")]) == 4
    assert all(target.startswith(("data:image/", "#")) for target in page.targets)
    for wanted in ("train on desk", "done", "hil ", "Seed", "0.93 ✓", "≥ 0.9", "320 nA ✗", "1 µA … 2 µA", "array [2, 3]",
                   "s1", "2 × 3", "hardware", "python 3", "boards.main", "1, 2"):  # fmt: skip
        assert wanted in page.words.replace("\N{NO-BREAK SPACE}", " "), wanted
    assert "@media print" in source
    assert "prefers-color-scheme: dark" in source
    figures = {file.name for file in (ledger.folder / "figures").iterdir()}
    assert figures == {"a-figure.svg", "map.png", "map-2.svg", "map-3.png"}
    assert not list(ledger.folder.glob(".report*"))


def test_hostile_text_stays_text(ledger):
    ledger.result(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    ledger.stop("failed", HOSTILE)
    hostile = Section(
        HOSTILE, HOSTILE, (Figure(f"../{HOSTILE}", HOSTILE, line),), (Table(HOSTILE, (HOSTILE,), ((HOSTILE,),)),)
    )
    with Ledger.open(ledger.folder) as run:
        path = write_report(run, [hostile])
    page = Page(path.read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert "x" not in page.targets
    assert page.words.count(HOSTILE) >= 10
    assert all(file.parent == ledger.folder / "figures" for file in (ledger.folder / "figures").rglob("*"))


@pytest.mark.parametrize(
    ("status", "message"), [("interrupted", "KeyboardInterrupt: "), ("refused", "LimitError: up_v"), ("failed", "")]
)
def test_without_sections_or_results(ledger, status, message):
    ledger.safe({"main": status != "failed"})
    ledger.stop(status, message)
    with Ledger.open(ledger.folder) as run:
        page = Page(write_report(run, []).read_text(encoding="utf-8"))
    assert status in page.words
    assert "None recorded." in page.words
    assert message in page.words
    assert ("confirmed that they are grounded" in page.words) == (status != "failed")
    assert ("Not every board" in page.words) == (status == "failed")


def test_running_and_killed(ledger):
    assert "running" in written(ledger)[1].words
    ledger.event("resume", {"since": None})
    ledger.close()
    with Ledger.open(ledger.folder) as run:
        page = Page(write_report(run, []).read_text(encoding="utf-8"))
    assert "killed" in page.words
    assert "Resumed" in page.words
    assert "Took" not in page.words


def test_results_with_owners_share_a_table(ledger):
    for owner, names in {"layer0.a": ("alpha", "states"), "layer0.c": ("alpha",), "SGD": ("accuracy",)}.items():
        for name in names:
            ledger.result(f"{owner}: {name}", 1.5, "1", "what")
    source, page = written(ledger)
    heads = re.findall(r"<tr><th>result</th>(.*?)</tr>", source, re.DOTALL)
    assert [re.findall(r"<th>([^<]*)</th>", head)[:-1] for head in heads] == [["layer0.a", "layer0.c"], ["SGD"]]
    assert page.words.count("–") >= 1


def test_long_results_come_after_the_sections(ledger):
    for place in range(20):
        ledger.result(f"r{place}", place, "1", "what")
    words = written(ledger, [Section("Middle", "")])[1].words
    assert words.index("Middle") < words.index("Results in full") < words.index("r19")


def test_a_missing_extra_is_named(ledger, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    with pytest.raises(UsageError, match=r'matplotlib.*"crosspoint-hil\[plot\]"'):
        write_report(ledger.run, [])


def test_a_folder_that_cannot_be_written(ledger):
    (ledger.folder / "report.html").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        write_report(ledger.run, [])
    assert not list(ledger.folder.glob(".report*"))


@pytest.mark.slow
def test_render_is_repeatable_and_chooses_the_format(tmp_path):
    few, many = Figure("f", "c", line), Figure("m", "c", lambda fig: fig.add_subplot().plot(np.zeros(5000)))
    first, again = render(few, tmp_path, "a"), render(few, tmp_path, "b")
    assert first.uri == again.uri
    assert (tmp_path / "a.svg").read_bytes() == base64.b64decode(first.uri.partition("base64,")[2])
    assert render(many, tmp_path, "c").uri.startswith("data:image/png")


def test_file_names():
    taken: set[str] = set()
    assert [file_name(name, taken) for name in ("layer0.a map", "Layer0.a map", "../../x", "", "…")] == [
        "layer0.a-map",
        "Layer0.a-map-2",
        "x",
        "figure",
        "figure-2",
    ]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.2e-6, "siemens", "1.2 µS"),
        (1e-6, "siemens", "1 µS"),
        (0.0, "volt", "0 V"),
        (-3e-3, "v", "−3 mV"),
        (5e-19, "s", "0.0005 fs"),
        (9000.0, "s", "9 000 s"),
        (0.25, "1", "0.25"),
        (2, "step", "2 step"),
        (34558.2, "1/siemens", "34 558 1/S"),
        (None, "1", "–"),
        (math.nan, "siemens", "–"),
        (math.inf, "siemens", "∞ siemens"),
        (True, "1", "yes"),
        ("text", "1", "text"),
        (np.float64(1e-9), "ampere", "1 nA"),
    ],
)
def test_quantities(value, unit, text):
    assert re.sub("[\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}]", " ", quantity(value, unit)) == text


def test_numbers_and_prefixes():
    assert number(1935.4, 3).replace("\N{NARROW NO-BREAK SPACE}", " ") == "1 940"
    assert number(np.zeros((2, 2))) == "array [2, 2]"
    assert number([1, 2]) == "[1, 2]"
    assert prefixed([], "siemens") == (1.0, "S")
    assert prefixed([1e-6, math.nan, 8e-5], "siemens") == (1e6, "µS")
    assert prefixed([1e-6], "weight") == (1.0, "weight")


NAN = math.nan
RANDOM = np.random.default_rng(0).normal(size=(9, 5))
CURVES = {
    "finite": lambda f: draw_curves(f, {"a": RANDOM, "b": np.arange(6.0)}, "loss", others=np.ones((9, 2))),
    "log": lambda f: draw_curves(f, {"a": [100.0, 10.0, 1.0]}, "loss", log=True),
    "log of zeros": lambda f: draw_curves(f, {"a": [0.0, 1.0]}, "loss", log=True),
    "nan": lambda f: draw_curves(f, {"a": [NAN, NAN], "b": [[1.0, NAN], [NAN, NAN]]}, "loss"),
    "all nan": lambda f: draw_curves(f, {"a": [NAN]}, "loss", log=True),
    "one point": lambda f: draw_curves(f, {"a": [[0.5]]}, "loss", x=[3], xlabel="step"),
    "traces": lambda f: draw_traces(f, [0, 1, 2], np.arange(9.0).reshape(3, 3), np.ones((3, 3)), ["one", "two"], "g"),
    "trace of nan": lambda f: draw_traces(f, [0, 1], [[NAN, 1.0]]),
    "no trace": lambda f: draw_traces(f, [0, 1], np.full((1, 2), NAN)),
    "one reading": lambda f: draw_traces(f, [0], [[1.0]], [[1.0]]),
    "convergence": lambda f: draw_convergence(
        f, {"up": ([1, 2], [[1.0, 0.5], [NAN, NAN]]), "down": ([1, 2], [[-1.0, NAN]])}, "d", target=0.0
    ),
    "convergence of one": lambda f: draw_convergence(f, {"up": ([1], [[1e6]])}, "d"),
    "no convergence": lambda f: draw_convergence(f, {"up": ([1], [[NAN]])}, "d"),
}
DISTRIBUTIONS = {
    "histogram": lambda f: draw_histogram(f, {"a": RANDOM, "b": [0.0, NAN]}, "x", mark=0.0),
    "empty histogram": lambda f: draw_histogram(f, {"a": [NAN]}, "x"),
    "no groups": lambda f: draw_histogram(f, {}, "x"),
    "one value": lambda f: draw_histogram(f, {"a": [1.5e-9]}, "x"),
    "counts": lambda f: draw_counts(f, {"a": [1, 2]}, [0, 1, 2], "x"),
    "panels": lambda f: draw_histograms(f, {"x": [1.0, 2.0], "y": [NAN], "z": [3]}),
    "map": lambda f: draw_map(f, RANDOM**3, "x", signed=True),
    "map with holes": lambda f: draw_map(f, [[1.0, NAN], [2.0, 3.0]], "x"),
    "empty map": lambda f: draw_map(f, np.full((2, 2), NAN), "x", signed=True),
    "one cell": lambda f: draw_map(f, [[0.0]], "x"),
    "long map": lambda f: draw_map(f, np.r_[np.zeros(99), 50.0][None], "x"),
    "confusion": lambda f: draw_confusion(f, [[5, 1], [0, 0]], ["a long name", "b"]),
    "one class": lambda f: draw_confusion(f, [[3]]),
    "many classes": lambda f: draw_confusion(f, np.eye(30)),
    "bars": lambda f: draw_bars(f, {"a": [90.0, 91.0], "b": [NAN], "c": [88.0]}, "%"),
    "bars below zero": lambda f: draw_bars(f, {"a": [-1.0, -2.0]}, "x", zero=False),
    "bars of zero": lambda f: draw_bars(f, {"a": [0.0]}, "x"),
    "no bars": lambda f: draw_bars(f, {"a": []}, "x"),
}


@pytest.mark.parametrize("draw", [*CURVES.values(), *DISTRIBUTIONS.values()], ids=[*CURVES, *DISTRIBUTIONS])
def test_figures_take_what_comes(draw, tmp_path):
    """Drawn as a report draws it, without a warning (they are errors here), labels on every axis that has ticks."""
    shown = []
    render(Figure("f", "c", lambda fig: (draw(fig), shown.append(fig))), tmp_path, "f")
    assert shown[0].axes
    assert all(math.isfinite(end) for axes in shown[0].axes for end in (*axes.get_xlim(), *axes.get_ylim()))


def test_map_shows_missing_cells_grey_and_says_so():
    fig = Canvas()
    draw_map(fig, [[1.0, NAN], [2.0, 3.0]], "conductance (µS)", missing="not measured")
    axes = fig.axes[0]
    assert "not measured (1 of 4)" in axes.get_xlabel()
    shades = axes.images[0].to_rgba(axes.images[0].get_array())
    assert len(set(shades[0, 1, :3])) == 1
    assert fig.axes[1].get_ylabel() == "conductance (µS)"


def test_curves_show_mean_and_whole_spread():
    fig = Canvas()
    draw_curves(fig, {"a": [[1.0, 3.0], [2.0, 6.0]]}, "loss (nat)")
    axes = fig.axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [2.0, 4.0])
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (1.0, 6.0)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "loss (nat)")


def test_histograms_share_bins_and_lose_no_cell():
    rng = np.random.default_rng(3)
    groups = {"a": np.r_[rng.normal(size=500), 1e6], "b": rng.normal(5, 1, 300)}
    edges = shared_edges(list(groups.values()))
    assert edges[-1] < 100
    fig = Canvas()
    draw_histogram(fig, groups, "x")
    drawn = [patch.get_data() for patch in fig.axes[0].patches if not patch.get_fill()]
    assert [int(data.values.sum()) for data in drawn] == [501, 300]
    for data in drawn:
        np.testing.assert_array_equal(data.edges, edges)


def test_whole_numbers_get_whole_bins():
    np.testing.assert_array_equal(shared_edges([[1, 2, 4]]), [0.5, 1.5, 2.5, 3.5, 4.5])
    wide = shared_edges([np.arange(1000)])
    assert np.array_equal(np.diff(wide), np.full(len(wide) - 1, np.diff(wide)[0]))
    assert float(np.diff(wide)[0]).is_integer()
    assert wide[0] < 0
    assert wide[-1] > 999
