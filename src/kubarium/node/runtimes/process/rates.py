"""What pods use of CPU and memory, for ``metrics.k8s.io``: two looks, and the difference.

CPU time is read by process, one pass over all for every pod: version 1 of control groups counts it
in a hierarchy that our groups are not in, and some machines have none. Time of processes that have
ended is in their parents' figures once those have waited for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil

from kubarium.api.usage import ContainerUse, PodUse
from kubarium.base.clock import Clock
from kubarium.node.eviction.manager import Evictable
from kubarium.node.runtimes.process.oversight import Oversight

# As kubelet's housekeeping does; who asks gets a look that is newer, if the last is not fresh.
LOOK_S = 10.0
FRESH_S = 1.0


@dataclass(slots=True)
class Processes:
    """All processes of the machine at one moment: children by parent, CPU seconds by process."""

    children: dict[int, list[int]] = field(default_factory=dict)
    cpu_s: dict[int, float] = field(default_factory=dict)
    began: dict[int, float] = field(default_factory=dict)  # epoch seconds

    @staticmethod
    def look() -> Processes:
        found = Processes()
        for process in psutil.process_iter(["ppid", "cpu_times", "create_time"]):
            parent, times = process.info["ppid"], process.info["cpu_times"]
            if parent is None or times is None:
                continue  # somebody else's
            found.children.setdefault(parent, []).append(process.pid)
            found.began[process.pid] = process.info["create_time"]
            found.cpu_s[process.pid] = sum(times[:4])  # user, system, and of children waited for
        return found

    def age_s(self, pid: int, now: float) -> float:
        """Seconds for which a process has been there; 0 if it is not."""
        return max(0.0, now - self.began.get(pid, now))

    def below(self, init: int) -> float:
        """CPU seconds of a container's init and of all below it."""
        total, heads = 0.0, [init]
        while heads:
            total += sum(self.cpu_s.get(pid, 0.0) for pid in heads)
            heads = [child for pid in heads for child in self.children.get(pid, ())]
        return total


@dataclass(frozen=True, slots=True)
class _Look:
    init: int
    at: float
    cpu_s: float


class UsageRates:
    """Looks at all pods now and then. A container that is looked at for the first time has used,
    on average, what it has used since it began."""

    def __init__(self, clock: Clock, oversight: Oversight, actors: Mapping[str, Evictable]) -> None:
        """``actors``: the pods, by uid, as they come and go."""
        self._clock = clock
        self._oversight = oversight
        self._actors = actors
        self._looked_at = float("-inf")
        self._before: dict[tuple[str, str], _Look] = {}
        self._found: list[PodUse] = []

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._clock.sleep(LOOK_S)
            self._look()

    def report(self) -> list[PodUse]:
        """What the running pods use."""
        if self._clock.monotonic() - self._looked_at >= FRESH_S:
            self._look()
        return self._found

    def _look(self) -> None:
        now, wall = self._clock.monotonic(), self._clock.now()
        processes = Processes.look() if self._actors else Processes()
        before, self._before = self._before, {}
        self._looked_at, self._found = now, []
        for uid, actor in self._actors.items():
            used: dict[str, ContainerUse] = {}
            window_s = 0.0
            for name, (memory, _, init) in self._oversight.usage(uid).items():
                look = self._before[uid, name] = _Look(init, now, processes.below(init))
                last = before.get((uid, name))
                if last is None or last.init != init:
                    last = _Look(init, now - processes.age_s(init, wall), 0.0)
                span_s = now - last.at
                if span_s > 0:
                    window_s = max(window_s, span_s)
                    rate = max(0.0, look.cpu_s - last.cpu_s) / span_s
                    used[name] = ContainerUse(round(rate * 1e9), memory)
            if used:
                pod = actor.machine.pod
                self._found.append(
                    PodUse(
                        pod["metadata"]["namespace"],
                        pod["metadata"]["name"],
                        pod["spec"]["nodeName"],
                        wall,
                        window_s,
                        used,
                    )
                )
