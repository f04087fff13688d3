"""Health that changes by itself: events at times, from a cluster file or a trace, and failures.

What is so at a moment goes into the Node's annotation of events (see ``events``), which the agent
follows as it follows a command. Under one seed and a virtual clock the same devices fail at
the same times in every run.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from kubarium.base.chance import Chance
from kubarium.node.config import DeviceConfig, FailureModel, HealthEvent, NodeSpec
from kubarium.node.drivers.events import DeviceEvents, Place
from kubarium.node.drivers.health import HEALTHY, Health, read_health, whole_of
from kubarium.node.drivers.profiles import FREE, devices_of, driver_of
from kubarium.runtime.protocol import Context

# Times are sums of floats: what is due within a microsecond is due.
_SAME_MOMENT_S = 1e-6


def health_at(events: Iterable[HealthEvent], now_s: float) -> dict[str, Health]:
    """The health of one driver's devices on one node ``now_s`` seconds after the start.

    Of the events of a device that have begun and not ended, the one that began last counts (of two
    at one time, the later in the list); Healthy ends what was before it.
    """
    latest: dict[str, HealthEvent] = {}
    for event in events:
        ended = event.for_s is not None and now_s >= event.at_s + event.for_s
        if event.at_s > now_s or ended:
            continue
        known = latest.get(event.device)
        if known is None or event.at_s >= known.at_s:
            latest[event.device] = event
    found = {name: read_health(event.health, event.effect) for name, event in latest.items()}
    return {name: health for name, health in found.items() if health != Health(HEALTHY)}


def hardware_of(config: DeviceConfig, node: str) -> list[str]:
    """The names of the pieces of hardware behind a configuration's devices.

    >>> hardware_of(DeviceConfig("gpu.example.com", 1, partitions=2), "n")
    ['gpu-0']
    """
    found: dict[str, None] = {}
    for device in devices_of(config, node, config.count):
        found[whole_of(device["name"]) or device["name"]] = None
    return list(found)


class Failures:
    """When one device fails and recovers, in turn."""

    def __init__(self, model: FailureModel, node: str, driver: str, device: str) -> None:
        self.model = model
        self.health = read_health(model.health, model.effect)
        self._chance = Chance(f"{model.seed}/{node}/{driver}/{device}")
        self._now_s = 0.0
        self._down = False

    def next_s(self) -> float:
        """The time of the next change, by inversion of the exponential distribution."""
        mean_s = self.model.mttr_s if self._down else self.model.mtbf_s
        self._now_s -= mean_s * math.log(1.0 - self._chance.uniform(0.0, 1.0) * (1 - 1e-12))
        self._down = not self._down
        return self._now_s


@dataclass(slots=True)
class _Known:
    """What is planned and what is so for one driver on one node."""

    events: list[HealthEvent] = field(default_factory=list)
    failed: dict[str, Health] = field(default_factory=dict)


class HealthSchedule:
    """A component: says what is planned for the devices of some nodes."""

    name = "device-health-schedule"

    def __init__(
        self,
        context: Context,
        nodes: Iterable[NodeSpec],
        events: Iterable[HealthEvent],
        notes: DeviceEvents,
    ) -> None:
        self._context = context
        self._notes = notes
        self._known: dict[Place, _Known] = {}
        self._due: list[tuple[float, int, Place, str, Failures | None]] = []
        self._count = 0
        hardware: dict[int, list[str]] = {}
        for event in events:
            place = (event.node, event.driver)
            self._known.setdefault(place, _Known()).events.append(event)
            self._push(event.at_s, place)
            if event.for_s is not None:
                self._push(event.at_s + event.for_s, place)
        for node in nodes:
            for config in node.devices:
                if config.failures is None:
                    continue
                # The nodes of a pool share one configuration; names may hold the node's.
                if id(config) not in hardware or config.profile == FREE:
                    hardware[id(config)] = hardware_of(config, node.name)
                devices = hardware[id(config)]
                self._plan_failures(node.name, driver_of(config), config.failures, devices)

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._known)

    def _plan_failures(
        self, node: str, driver: str, model: FailureModel, devices: Iterable[str]
    ) -> None:
        self._known.setdefault((node, driver), _Known())
        for device in devices:
            failures = Failures(model, node, driver, device)
            self._push(failures.next_s(), (node, driver), device, failures)

    def _push(
        self, at_s: float, place: Place, device: str = "", failures: Failures | None = None
    ) -> None:
        self._count += 1
        heapq.heappush(self._due, (at_s, self._count, place, device, failures))

    async def run(self) -> None:
        """Follow the plan from now on."""
        clock = self._context.clock
        start = clock.now()
        places: Iterable[Place] = self._known
        while True:
            now_s = clock.now() - start
            touched = self._advance(now_s)
            for place in {**dict.fromkeys(places), **touched}:
                known = self._known[place]
                planned = known.failed | health_at(known.events, now_s + _SAME_MOMENT_S)
                self._notes.say(self.name, place, planned)
            places = ()
            next_s = self._due[0][0] if self._due else now_s + 3600.0
            await clock.sleep(max(start + next_s - clock.now(), 0.0))

    def _advance(self, now_s: float) -> dict[Place, None]:
        """Let happen what is due; the places that it concerns."""
        touched: dict[Place, None] = {}
        while self._due and self._due[0][0] <= now_s + _SAME_MOMENT_S:
            _, _, place, device, failures = heapq.heappop(self._due)
            touched[place] = None
            if failures is not None:
                self._toggle(place, device, failures)
        return touched

    def _toggle(self, place: Place, device: str, failures: Failures) -> None:
        failed = self._known[place].failed
        if device in failed:
            del failed[device]
        else:
            failed[device] = failures.health
        self._push(failures.next_s(), place, device, failures)
