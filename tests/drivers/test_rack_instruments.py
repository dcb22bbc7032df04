"""The four drivers against the twin as a process and over a link that loses units."""

from __future__ import annotations

import pytest

from drivers.keithley_707 import Keithley707
from drivers.keithley_2600 import Keithley2600
from drivers.keithley_4200 import Keithley4200, PmuSettings
from drivers.links.twin import StartedTwin, TwinStart
from drivers.sentio import Sentio
from hil.errors import HardwareError, PulseOutcomeUnknown
from simulated_backend.twins.control import Control


@pytest.mark.slow
def test_as_a_process():
    """Four links and the orders of the rack; opening the interlock drops the outputs and stops everything that energises."""
    twin = StartedTwin(TwinStart(name="probe-station", settings={"wafer": {"columns": 1, "rows": 1}}))
    try:
        assert sorted(twin.links) == ["matrix", "pmu", "prober", "smu"]
        with (
            Control(twin.control) as control, Sentio(twin.links["prober"]) as prober,
            Keithley707(twin.links["matrix"]) as matrix, Keithley2600(twin.links["smu"]) as smu,
            Keithley4200(twin.links["pmu"]) as pmu,
        ):  # fmt: skip
            assert prober.separate()
            prober.contact()
            matrix.connect_cell(0, 0, "C", "D")
            assert smu.read(0.2).ampere == pytest.approx(2e-5, rel=1e-3)
            control.order(open_interlock=1)
            assert not prober.door_closed()
            assert smu.status()["output_on"] is False
            with pytest.raises(HardwareError, match="interlock"):
                smu.read(0.2)
            with pytest.raises(HardwareError, match="Interlock"):
                pmu.pulses(1.0, 1e-6, 1)
            assert pmu.outputs_off()
            assert smu.outputs_off()
            assert matrix.open_all()
            assert prober.separate()
            control.order(open_interlock=0)
            assert prober.door_closed()
            truth = control.truth()
            assert truth["contact"] is False
            assert truth["on"] == {}
            assert truth["closed"] == []
            assert control.report()["device_s"] > 1
    finally:
        twin.close()


@pytest.mark.slow
def test_no_pulse_twice_over_a_link_that_loses_units(rack):
    """A train that succeeded was applied once, one of unknown outcome at most once, a failed one never."""
    twin = rack(wafer={"columns": 1, "rows": 1}, seed=2)
    with Sentio(twin.links["prober"]) as prober, Keithley707(twin.links["matrix"]) as matrix:
        prober.contact()
        matrix.connect_cell(0, 0, "A", "B")
        with Keithley4200(twin.links["pmu"], PmuSettings(timeout_s=0.2), sleep=lambda _: None) as pmu:
            twin.panel.set_rates({"drop": 0.01, "seed": 11})
            done = unknown = failed = 0
            for _ in range(25):
                before = twin.panel.counts.get("pulses", 0)
                try:
                    pmu.pulses(1.0, 1e-6, 1)
                    done += 1
                except PulseOutcomeUnknown:
                    unknown += 1
                    assert twin.panel.counts.get("pulses", 0) - before in (0, 1)
                except HardwareError:
                    failed += 1
                    assert twin.panel.counts.get("pulses", 0) == before
            twin.panel.set_rates({"drop": 0.0})
            assert pmu.outputs_off()
    assert twin.panel.counts["dropped"] > 0
    assert unknown + failed > 0, "something was lost, and said so"
    assert done <= twin.panel.counts["pulses"] <= done + unknown
