"""What the guard records of products that are begun before they are waited for."""

from __future__ import annotations

import pytest
import torch

from hil.errors import HardwareError, PulseOutcomeUnknown
from hil.guard import guard
from hil.posted import HasPostedMvm

VOLTS = torch.tensor([[[0.2, 0.0, 0.1]]])


@pytest.fixture
def poster(kit):
    """A board that begins products; ``wait`` may fail as a verb of its own."""

    class Poster(kit.Fake):
        def post_mvm(self, volts, direction, active=None):
            self._call("post_mvm", volts, direction, active)

            def wait():
                self._call("wait")
                return volts.sum(dim=2, keepdim=True)

            return wait

    return Poster()


def test_only_where_the_board_can(kit, poster, ledger):
    assert isinstance(guard(poster, kit.LIMITS, ledger), HasPostedMvm)
    assert not isinstance(guard(kit.Fake(), kit.LIMITS, ledger), HasPostedMvm)


def test_what_was_sent_before_is_done_with_the_answer_and_the_rest_is_not(kit, poster, ledger):
    guarded = guard(poster, kit.LIMITS, ledger)
    guarded.pulse(kit.counts(r0c0=1), kit.SHAPE)
    wait = guarded.post_mvm(VOLTS, "forward")
    guarded.pulse(kit.counts(r0c0=2), kit.SHAPE)
    assert kit.states(ledger) == [("pulse", "pending"), ("pulse", "pending")]
    assert wait().item() == pytest.approx(0.3)
    assert kit.states(ledger) == [("pulse", "done"), ("pulse", "pending")]
    assert guarded.wear.cells(kit.INFO).reads[0, :, 0].tolist() == [1, 0, 1]
    guarded.status()
    assert kit.states(ledger) == [("pulse", "done"), ("pulse", "done")]


def test_pulses_that_were_lost_are_read_again_and_the_products_asked_for_again(kit, poster, ledger):
    guarded = guard(poster, kit.LIMITS, ledger)
    guarded.pulse(kit.counts(r0c0=1), kit.SHAPE)
    waits = [guarded.post_mvm(VOLTS, "forward") for _ in range(2)]
    poster.calls.clear()
    poster.fault["wait"] = PulseOutcomeUnknown("rebooted")
    assert [wait().item() for wait in waits] == [pytest.approx(0.3)] * 2
    assert kit.states(ledger) == [("pulse", "reread")]
    # The second went the same way: it is not waited for, but asked for anew.
    assert [call[0] for call in poster.calls] == ["read", "mvm", "mvm"]


def test_another_fault_leaves_them_uncertain(kit, poster, ledger):
    guarded = guard(poster, kit.LIMITS, ledger)
    guarded.pulse(kit.counts(r0c0=1), kit.SHAPE)
    wait = guarded.post_mvm(VOLTS, "forward")
    poster.fault["wait"] = HardwareError("gone")
    with pytest.raises(HardwareError, match="gone"):
        wait()
    assert kit.states(ledger) == [("pulse", "uncertain")]


def test_a_link_that_is_away_is_said_when_the_answer_is_wanted(kit, poster, ledger):
    guarded = guard(poster, kit.LIMITS, ledger)
    poster.fault |= {"post_mvm": HardwareError("gone"), "mvm": HardwareError("still gone")}
    wait = guarded.post_mvm(VOLTS, "forward")
    with pytest.raises(HardwareError, match="still gone"):
        wait()
