"""The probe-station rack as a twin: pulse unit, source-measure unit, matrix and prober, four ports of one world.

Links: ``pmu`` (4225-PMU over KXCI), ``smu`` (2636B), ``matrix`` (707B), ``prober`` (SENTIO), each a TCP port. Orders beside
those of the link: ``open_interlock`` (1 opens the door: outputs drop, sources and moves are refused; 0 closes it again) and
``stuck_open`` (a matrix column whose relays do not close any more; 0: they do again).
"""

from __future__ import annotations

import threading

from pydantic import BaseModel, ConfigDict, Field, model_validator

from simulated_backend.twins.clock import DeviceClock
from simulated_backend.twins.faults import FaultPanel
from simulated_backend.twins.keithley_707 import MatrixDevice
from simulated_backend.twins.keithley_2600 import SmuDevice, SmuPhysics
from simulated_backend.twins.keithley_4200 import PmuDevice
from simulated_backend.twins.plugin import Twin
from simulated_backend.twins.rack import Rack, TimesSettings, WiringSettings
from simulated_backend.twins.running import RunningTwin
from simulated_backend.twins.sentio import ProberDevice
from simulated_backend.twins.settings import LinkSettings
from simulated_backend.twins.wafer import Wafer, WaferSettings
from simulated_backend.twins.wire import Device, serve_link

__all__ = ["PortsSettings", "ProbeStationSettings", "start", "twin"]

_STRICT = ConfigDict(frozen=True, extra="forbid")


class PortsSettings(BaseModel):
    """TCP ports; 0 = any that is free."""

    model_config = _STRICT

    pmu: int = Field(default=0, ge=0, le=65535)
    smu: int = Field(default=0, ge=0, le=65535)
    matrix: int = Field(default=0, ge=0, le=65535)
    prober: int = Field(default=0, ge=0, le=65535)


class ProbeStationSettings(BaseModel):
    """The rack, its wafer and its wiring."""

    model_config = _STRICT

    link: LinkSettings = LinkSettings(link="tcp")
    """Of all four ports: speed, time scale, faults."""
    ports: PortsSettings = PortsSettings()
    seed: int = 0
    """Of devices and of the instruments' noise."""
    name: str = "board"
    """Part of the name under which the devices of a die are drawn."""
    wafer: WaferSettings = WaferSettings()
    wiring: WiringSettings = WiringSettings()
    times: TimesSettings = TimesSettings()
    smu: SmuPhysics = SmuPhysics()

    @model_validator(mode="after")
    def _fits(self) -> ProbeStationSettings:
        array, wiring = self.wafer.array, self.wiring
        if self.link.link != "tcp":
            raise ValueError('link.link must be "tcp": these instruments are on the network')
        if (array.rows or 0) > len(wiring.row_columns) or (array.cols or 0) > len(wiring.col_columns):
            raise ValueError("wiring.row_columns and col_columns must name a column for every line of wafer.array")
        return self


def start(settings: ProbeStationSettings, stop: threading.Event) -> RunningTwin:
    """Serve the four ports until ``stop``."""
    panel, clock = FaultPanel(settings.link.faults), DeviceClock(settings.link.time_scale)
    rack = Rack(Wafer(settings.wafer, settings.seed, settings.name), settings.wiring, settings.times, panel, clock)
    devices: dict[str, Device] = {
        "pmu": PmuDevice(rack, settings.seed),
        "smu": SmuDevice(rack, settings.smu, settings.seed),
        "matrix": MatrixDevice(rack),
        "prober": ProberDevice(rack),
    }
    ports = {}
    for name, device in devices.items():
        link = settings.link.model_copy(update={"port": getattr(settings.ports, name)})
        ports[name] = serve_link(link, panel, clock, device, stop)
    orders = {
        "open_interlock": "1 opens the door's interlock, 0 closes it",
        "stuck_open": "a matrix column whose relays do not close any more, 0 for none",
    }
    return RunningTwin(ports, panel, clock, orders, rack.truth)


twin = Twin(
    "probe-station", "a probe-station rack: PMU, SMU, switching matrix and prober, with a wafer", ProbeStationSettings, start
)
"""The entry point."""
