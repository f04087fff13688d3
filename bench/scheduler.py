"""scheduler_perf's shapes through the API: pods created while the scheduler binds them.

    python bench/scheduler.py [--quick] [part of a row's name ...]

Every shape (shapes.py) is run twice. *bare*: as in upstream's own benchmark, the API server, the
scheduler and the claim controller in one process; nodes are objects that nobody stands behind, and
a pod is done when it is bound. *nodes*: the whole control plane with simulated nodes, and a pod is
done when it is Running. In both, the pods are created within the measured time, through the API,
and every pod costs its events too. Each row is a process of its own, so that no row pays for what
another one left behind. Rates are in wall time, less the time for which the process waited for a
core that others held (``/proc/thread-self/schedstat``); those of CPU time are beside them.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

import documents as d
import uvloop
from documents import Document
from shapes import SHAPES, Shape

from kubarium.api.catalog import Catalog
from kubarium.api.kinds import NODES, PODS
from kubarium.base.chance import Chance
from kubarium.client.protocol import Client
from kubarium.cluster.bootstrap import bootstrap
from kubarium.cluster.clock import RealClock
from kubarium.cluster.collector import tune_collector
from kubarium.cluster.embedded import CONTROLLER_USER, SCHEDULER_USER, EmbeddedCluster
from kubarium.cluster.file import ClusterFile
from kubarium.control import devices, scheduling
from kubarium.runtime.informer import SharedInformers
from kubarium.runtime.protocol import Context
from kubarium.server.api_server import ApiServer
from kubarium.server.local import LocalClient
from kubarium.store import MemoryStore, Store

NAMESPACE = "default"
CREATED_AT_ONCE = 50  # pods between two turns of the others
PATIENCE_S = 300.0  # for the pods of a shape; then the row is given up
ROW_S = 600.0  # for a row, set-up included
QUICK = 10  # how much smaller --quick makes everything


class Rows(Protocol):
    """What bench/run.py's Report offers."""

    def add(
        self, row: str, figure: str, values: list[float], unit: str, compare: str = ""
    ) -> None: ...


@dataclass
class ControlPlane:
    """A control plane to measure, and when it is done with a pod. Satisfies ``shapes.Plane``."""

    client: Client
    store: Store
    runs_pods: bool
    _beside: list[asyncio.Future[None]] = field(default_factory=list)

    async def create(self, resource: object, made: Iterator[Document] | Sequence[Document]) -> None:
        """Create objects, letting the others work in between."""
        for number, document in enumerate(made, 1):
            home = NAMESPACE if resource.namespaced else ""  # type: ignore[attr-defined]
            await self.client.create(resource, document, home)  # type: ignore[arg-type]
            if number % CREATED_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def place(self, pods: Iterator[Document] | Sequence[Document], wanted: int) -> list[str]:
        """Create pods, and return once ``wanted`` of all that come are done: the names of these."""
        watch = await self.client.watch(PODS, NAMESPACE, resource_version=str(self.store.revision))
        creating = asyncio.ensure_future(self.create(PODS, pods))
        is_done = is_running if self.runs_pods else is_bound
        done: dict[str, None] = {}
        try:
            async with asyncio.timeout(PATIENCE_S):
                while len(done) < wanted:
                    for event in await watch.next_batch():
                        if event.type == "MODIFIED" and is_done(event.object):
                            done[event.object["metadata"]["name"]] = None
            await creating
        finally:
            watch.close()
            creating.cancel()
        return list(done)

    async def turn_over(self, pods: Iterator[Document], at_a_time: int) -> None:
        """Create some pods, delete them once they are done, and so on until all have come."""
        while some := list(islice(pods, at_a_time)):
            for name in await self.place(some, len(some)):
                await self.client.delete(PODS, name, NAMESPACE, grace_period_s=0)

    def beside(self, work: Awaitable[None]) -> None:
        """Have work done until :meth:`rest`."""
        self._beside.append(asyncio.ensure_future(work))

    def rest(self) -> None:
        while self._beside:
            self._beside.pop().cancel()


def is_bound(pod: Document) -> bool:
    return "nodeName" in pod["spec"]


def is_running(pod: Document) -> bool:
    return bool(pod.get("status", {}).get("phase") == "Running")


@asynccontextmanager
async def bare() -> AsyncIterator[ControlPlane]:
    """API server, scheduler and the controllers of claims."""
    clock, chance, store = RealClock(), Chance(1), MemoryStore()
    server = ApiServer(store, Catalog.builtin(), clock, chance.fork("server"))
    client = LocalClient(server, "system:admin", "bench")
    await bootstrap(client)
    informers = SharedInformers(LocalClient(server, CONTROLLER_USER), clock)
    tasks = []
    for user, family in ((CONTROLLER_USER, devices), (SCHEDULER_USER, scheduling)):
        context = Context(LocalClient(server, user), informers, clock, chance.fork(user))
        tasks += [asyncio.ensure_future(c.run()) for c in family.components(context)]
    await informers.wait_synced()
    try:
        yield ControlPlane(client, store, False)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await informers.close()


@asynccontextmanager
async def simulated(shape: Shape) -> AsyncIterator[ControlPlane]:
    """The whole control plane, with nodes that run pods."""
    cluster = EmbeddedCluster(ClusterFile(shape.node_pools()), RealClock(), Chance(1))
    async with cluster.running():
        yield ControlPlane(cluster.client, cluster.store, True)


@dataclass(frozen=True)
class Rates:
    """Pods a second, by the clock and by CPU time; writes a pod; what the row took."""

    clock: float
    cpu: float
    writes: float
    memory_gb: float = 0.0  # the most that the row's process ever had
    row_s: float = 0.0  # the whole row, set-up and end included


def waited_s() -> float:
    """Seconds for which this thread was ready to run and others had the cores; 0 if unknown."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


async def measure(shape: Shape, plane: ControlPlane) -> Rates:
    """Fill the cluster, then time the pods that come."""
    if shape.prepare is not None:
        await shape.prepare(plane, shape)
    initial = shape.initial_pod()
    first = (initial for _ in range(shape.initial))
    if shape.initial and shape.initial_placed:
        await plane.place(first, shape.initial)
    else:
        await plane.create(PODS, first)
    await asyncio.sleep(0.1)
    revision = plane.store.revision
    cpu, clock, waited = time.process_time(), time.perf_counter(), waited_s()
    if shape.at_a_time:
        await plane.turn_over(shape.arriving(), shape.at_a_time)
    else:
        await plane.place(shape.arriving(), shape.measured)
    cpu, waited = time.process_time() - cpu, waited_s() - waited
    clock = time.perf_counter() - clock - waited
    writes = (plane.store.revision - revision) / shape.measured
    plane.rest()
    return Rates(shape.measured / clock, shape.measured / cpu, writes)


async def on_bare_nodes(shape: Shape) -> Rates:
    async with bare() as plane:
        await plane.create(NODES, [d.node(i, cpu=shape.cpu) for i in range(shape.nodes)])
        return await measure(shape, plane)


async def on_simulated_nodes(shape: Shape) -> Rates:
    async with simulated(shape) as plane:
        return await measure(shape, plane)


WAYS: dict[str, Callable[[Shape], Awaitable[Rates]]] = {
    "bare": on_bare_nodes,
    "nodes": on_simulated_nodes,
}
ONE_ROW = "--row"  # of this file's own processes: way, number of the shape, how much smaller


def run_here(way: str, number: int, smaller_by: int) -> Rates:
    """One row in this process."""
    began = time.perf_counter()
    tune_collector()
    shape = SHAPES[number]
    shape = shape.smaller(smaller_by) if smaller_by > 1 else shape
    rates = uvloop.run(WAYS[way](shape))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return Rates(rates.clock, rates.cpu, rates.writes, used, time.perf_counter() - began)


def run_apart(way: str, number: int, smaller_by: int) -> Rates | str:
    """One row in a process of its own, or why there is no result."""
    command = [sys.executable, __file__, ONE_ROW, way, str(number), str(smaller_by)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ROW_S, check=False)
    except subprocess.TimeoutExpired:
        return f"given up after {ROW_S:.0f} s"
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return Rates(**json.loads(lines[-1]))


def bench_scheduler(report: Rows, only: Sequence[str] = (), *, quick: bool = False) -> None:
    """Every shape both ways; ``only`` picks rows by parts of their names."""
    for way, number in _chosen(only):
        rates, shape = run_apart(way, number, QUICK if quick else 1), SHAPES[number]
        figure = _figure(way, shape)
        if isinstance(rates, str):
            report.add("scheduler", figure, [0.0], "pods/s", f"failed: {rates}")
            continue
        beside = (
            f"{rates.cpu:,.0f} a CPU second, {rates.writes:.1f} writes a pod; "
            f"row: {rates.row_s:.0f} s, {rates.memory_gb:.1f} GB"
        )
        threshold = f"; {shape.compare}" if shape.compare else ""
        report.add("scheduler", figure, [rates.clock], "pods/s", beside + threshold)


def _figure(way: str, shape: Shape) -> str:
    return f"{way}: {shape.name}"


def _chosen(parts: Sequence[str]) -> list[tuple[str, int]]:
    """The rows whose names have one of these parts, all if there are none; exits if it is none."""
    rows = [
        (way, number)
        for way in WAYS
        for number, shape in enumerate(SHAPES)
        if way == "bare" or not shape.bare_only
    ]
    names = {row: _figure(row[0], SHAPES[row[1]]) for row in rows}
    lowered = [part.lower() for part in parts]
    chosen = [row for row in rows if any(p in names[row].lower() for p in lowered) or not parts]
    if not chosen:
        sys.exit("\n".join([f"no row is called like {' or '.join(parts)}; rows:", *names.values()]))
    return chosen


class _Lines:
    """Prints rows as they come, when this file runs by itself."""

    def add(self, row: str, figure: str, values: list[float], unit: str, compare: str = "") -> None:
        print(f"{figure:62} {values[0]:8,.0f} {unit} {compare}", flush=True)


def main(arguments: list[str]) -> None:
    if arguments[:1] == [ONE_ROW]:
        way, number, smaller_by = arguments[1:]
        print(json.dumps(asdict(run_here(way, int(number), int(smaller_by)))))
        return
    names = [name for name in arguments if name != "--quick"]
    bench_scheduler(_Lines(), names, quick="--quick" in arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
