"""What containers use of memory and processes: measured, said, and held to where no control group
does it for us."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Mapping

from kubarium.base.clock import Clock
from kubarium.node.runtimes.process import measured
from kubarium.node.runtimes.process.cgroups import DEFAULT_PIDS, Cgroups
from kubarium.node.runtimes.process.container_spec import Warn
from kubarium.node.runtimes.process.engine import ExitStatus, ProcessEngine, StartError
from kubarium.node.runtimes.process.memory_watch import Groups, MemoryWatch, Tell
from kubarium.node.runtimes.process.pod_records import PodRecord, PodRecords
from kubarium.view.memory import KILLED, POLICY

# Seconds between two looks at what the kernel has killed.
KILLS_LOOK_S = 0.25


class Oversight:
    """Over all containers of one agent. ``groups`` are those in force now; ``pids`` is how many
    processes a pod may have, by node (None: any number)."""

    def __init__(
        self,
        clock: Clock,
        records: PodRecords,
        engine: ProcessEngine,
        groups: Callable[[], Cgroups],
        pids: Mapping[str, int | None],
        warn: Warn,
        on_pressure: Tell,
    ) -> None:
        self._clock = clock
        self._records = records
        self._engine = engine
        self._groups = groups
        self._pids = pids
        self._warn = warn
        self._on_pressure = on_pressure
        self._measured = measured.MeasuredMemory(self._init_of)
        self.memory = MemoryWatch(clock, self.counter, on_pressure)

    @property
    def counts_memory(self) -> bool:
        """Whether the kernel counts containers' memory for us; else it is measured by process."""
        return "memory" in self._groups().controllers

    def counter(self) -> Groups:
        """Who counts memory."""
        return self._groups() if self.counts_memory else self._measured

    async def run(self) -> None:
        """Kill what exceeds its memory limit, or forks without end, where the kernel does not see
        to it for us."""
        while not {"memory", "pids"} <= set(self._groups().controllers):
            await self._clock.sleep(measured.LOOK_S)
            for pod in list(self._records.by_uid.values()):
                if "pids" not in self._groups().controllers:
                    await self._count(pod)
                if self.counts_memory:
                    continue
                for name in list(pod.running):
                    await self._measure(pod, name)

    async def _count(self, pod: PodRecord) -> None:
        """Kill the containers of a pod that has more processes than it may."""
        most = self._pids.get(pod.facts.pod["spec"].get("nodeName", ""), DEFAULT_PIDS)
        inits = [self._engine.pid_of(pod.containers[name]) for name in pod.running]
        found = sum(measured.processes_below(init) for init in inits if init)
        if most is None or found <= most:
            return
        text = f"Pod has {found} processes, its limit is {most} (podPidsLimit): it is killed"
        self._warn(pod.facts.pod, "TooManyProcesses", text)
        for name in list(pod.running):
            await self._kill(pod.containers[name])

    async def _measure(self, pod: PodRecord, name: str) -> None:
        """Kill a container that uses more memory than it may."""
        limit = pod.memory_limit(name)
        ident = pod.containers[name]
        init = self._engine.pid_of(ident)
        uid = pod.facts.pod["metadata"]["uid"]
        if limit is None or not init or ident in pod.measured or self.memory.is_held(uid, name):
            return
        used = measured.memory_below(init)
        if used > limit:
            pod.measured[ident] = used
            await self._kill(ident)

    async def _kill(self, ident: str) -> None:
        with contextlib.suppress(StartError):
            await self._engine.send_signal(ident, signal.SIGKILL)

    def _init_of(self, uid: str, group: str) -> int:
        pod = self._records.get(uid)
        name = next((n for n in pod.running if pod.groups.get(n) == group), "") if pod else ""
        return self._engine.pid_of(pod.containers[name]) if pod and name else 0

    def usage(self, uid: str) -> dict[str, tuple[int, int, int]]:
        """Of each running container: bytes of memory, number of processes, its init's process."""
        pod = self._records.get(uid)
        found = {}
        for name in pod.running if pod else {}:
            assert pod is not None
            group, init = pod.groups.get(name, ""), self._engine.pid_of(pod.containers[name])
            if self.counts_memory:
                memory = self._groups().working_set(uid, group)
            else:
                memory = measured.memory_below(init) if init else 0
            running = self._groups().processes(uid, group)
            if running is None:
                running = measured.processes_below(init) if init else 0
            found[name] = (memory, running, init)
        return found

    async def follow_kills(self) -> None:
        """Notice what the kernel kills in containers that go on: a rank below its launcher, a
        worker below torchrun. Only where the pod's policy has an answer to it."""
        while True:
            await self._clock.sleep(KILLS_LOOK_S)
            for pod in list(self._records.by_uid.values()):
                if pod.running and POLICY in (pod.facts.pod["metadata"].get("annotations") or {}):
                    self._look_for_kills(pod)

    def _look_for_kills(self, pod: PodRecord) -> None:
        """Tell of kills that the container has outlived by a look: if what was killed is its own
        process, its end is about to be heard of, and tells more."""
        uid = pod.facts.pod["metadata"]["uid"]
        for name in list(pod.running):
            ident = pod.containers[name]
            usage = self._groups().usage(uid, pod.groups.get(name, ""))
            if usage.oom_kills == pod.seen_kills.get(ident, 0):
                self._tell(pod, name, usage.oom_kills, usage.peak_memory, "")
            pod.seen_kills[ident] = usage.oom_kills

    def adopted(self, pod: PodRecord, name: str) -> None:
        """A container was taken over: an agent before us has told of what was killed in it."""
        usage = self._groups().usage(pod.facts.pod["metadata"]["uid"], pod.groups[name])
        pod.kills[pod.containers[name]] = usage.oom_kills

    def tell_kills(self, uid: str) -> None:
        """Tell of what was killed for its memory since the last time in a pod's containers."""
        pod = self._records.get(uid)
        for name in list(pod.running) if pod else ():
            assert pod is not None
            usage = self._groups().usage(uid, pod.groups.get(name, ""))
            self._tell(pod, name, usage.oom_kills, usage.peak_memory, "")

    def ended(self, pod: PodRecord, name: str, ident: str, status: ExitStatus) -> bool:
        """A container has ended: whether something in it was killed for its memory; tells of it."""
        uid = pod.facts.pod["metadata"]["uid"]
        self.memory.drop(uid, name)
        usage = self._groups().usage(uid, pod.groups.get(name, ""))
        by_us = pod.measured.pop(ident, None)
        was_killed = by_us is not None or usage.oom_kills > 0
        if was_killed and status.code != 0:
            kills = usage.oom_kills if by_us is None else pod.kills.get(ident, 0) + 1
            peak = usage.peak_memory if by_us is None else by_us
            self._tell(pod, name, kills, peak, f", exit code {status.code}")
        pod.kills.pop(ident, None)
        pod.seen_kills.pop(ident, None)
        return was_killed and status.code != 0

    def _tell(self, pod: PodRecord, name: str, kills: int, peak: int, how: str) -> None:
        """``kills`` so far; ``peak`` in bytes; ``how`` the container has ended."""
        uid, ident = pod.facts.pod["metadata"]["uid"], pod.containers[name]
        if kills <= pod.kills.get(ident, 0):
            return
        pod.kills[ident] = kills
        held = pod.memory_limit(name)
        limit = f"limit {_mebibytes(held)}" if held else "the pod's limit"
        text = f"Container {name} ran out of memory: {limit}, peak {_mebibytes(peak)}"
        self._warn(pod.facts.pod, "OOMKilling", text)
        if held:
            said = f"was killed at its limit {_mebibytes(held)}, peak {_mebibytes(peak)}"
            self._on_pressure(uid, name, KILLED, f"{said}{how}")


def _mebibytes(amount: int) -> str:
    return f"{amount / (1 << 20):.0f}Mi"
