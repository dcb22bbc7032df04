"""Channel maps, and pulses cut into passes that the instrument's clusters allow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from drivers.arc_two_channels import ChannelMap, Pass, pulse_passes, update_passes
from hil.encoding import PulseTrain, coincidence_counts

WIRED = ChannelMap(words=(16, 17, 48), bits=(0, 33, 1))


@pytest.mark.parametrize(
    ("words", "bits", "words_of"),
    [
        ((16, 16), (0,), "channel 16 is on two lines"),
        ((16,), (0, 16), "channel 16 is on two lines"),
        ((16, 64), (0,), "less than 64"),
        ((16,), (-1,), "greater than or equal to 0"),
        ((16, 8), (15,), "channel 15 shares the cluster 8 to 15 with words"),
        ((), (1,), "at least 1 item"),
    ],
)
def test_impossible_maps_are_refused(words, bits, words_of):
    with pytest.raises(ValidationError, match=words_of):
        ChannelMap(words=words, bits=bits)


def test_swapped_sides_are_possible():
    # Half-bias needs different clusters, whichever side they are called.
    assert ChannelMap(words=(0, 1), bits=(16, 17)).words == (0, 1)


def test_a_pass_splits_the_voltage_and_grounds_every_other_channel():
    one = Pass(rows=(0, 2), cols=(1,), up=True)
    assert WIRED.active(one, 1.5) == [(16, 0.75, 0.0), (48, 0.75, 0.0), (33, -0.75, 0.0)]
    assert sorted([*WIRED.idle(one), 16, 48, 33]) == list(range(64))
    assert WIRED.clusters(one, 100) == [None, None, 100, None, 100, None, 100, None]


def test_pulses_go_row_by_row():
    counts = np.array([[2, -1, 0], [0, 0, 0], [1, 3, 0]], dtype=np.int32)
    assert list(pulse_passes(counts)) == [
        Pass((0,), (0,), True), Pass((0,), (0,), True), Pass((0,), (1,), False),
        Pass((2,), (0, 1), True), Pass((2,), (1,), True), Pass((2,), (1,), True),
    ]  # fmt: skip


def test_a_slot_takes_four_passes():
    every = torch.ones(1, 1, 2, dtype=torch.int32)
    signs = torch.tensor([[[1, -1]]], dtype=torch.int8)
    train = PulseTrain.given(every, signs, torch.ones(1, 1, dtype=torch.int32))
    assert list(update_passes(train, train)) == [
        Pass((0,), (0,), True), Pass((1,), (1,), True), Pass((0,), (1,), False), Pass((1,), (0,), False),
    ]  # fmt: skip


def trains(rows: int, cols: int, samples: int, seed: int) -> tuple[PulseTrain, PulseTrain]:
    """Random trains of 31 slots; lines with any sign, some without."""
    generator = torch.Generator().manual_seed(seed)
    slots = torch.full((1, samples), 31, dtype=torch.int32)
    made = []
    for lines in (rows, cols):
        bits = torch.randint(0, 2**31 - 1, (1, samples, lines), generator=generator).to(torch.int32)
        signs = torch.randint(-1, 2, (1, samples, lines), generator=generator).to(torch.int8)
        made.append(PulseTrain.given(bits, signs, slots))
    return made[0], made[1]


def test_passes_of_an_update_add_up_to_its_coincidences():
    rows, cols = trains(5, 4, samples=6, seed=3)
    got = np.zeros((5, 4), dtype=np.int64)
    for one in update_passes(rows, cols):
        assert len(one.rows) * len(one.cols) > 0
        got[np.ix_(one.rows, one.cols)] += 1 if one.up else -1
    want = sum(coincidence_counts(rows.at(sample), cols.at(sample))[0] for sample in range(6))
    assert np.abs(got).sum() > 20
    np.testing.assert_array_equal(got, np.asarray(want))


def test_a_silent_update_has_no_pass():
    rows, cols = trains(3, 3, samples=2, seed=4)
    none = PulseTrain.given(torch.zeros(1, 2, 3, dtype=torch.int32), cols.sign, cols.slots)
    assert list(update_passes(rows, none)) == []
