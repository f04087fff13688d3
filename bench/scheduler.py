"""scheduler_perf's shapes through the API: pods created while the scheduler binds them.

    python bench/scheduler.py [--quick] [part of a row's name ...]

Two kinds of rows. *bare*: as in upstream's own benchmark, the API server, the scheduler and the
claim controller in one process; nodes are objects that nobody stands behind, and a pod is done when
it is bound. *nodes*: the whole control plane with simulated nodes, and a pod is done when it is
Running. In both, the pods are created within the measured time, through the API, and every pod
costs its events too. Rates are in wall time, less the time for which this process waited for a
core that others held (``/proc/thread-self/schedstat``); those of CPU time are beside them.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import documents as d
from documents import Document

from kubarium.api.catalog import Catalog
from kubarium.api.kinds import (
    DEVICE_CLASSES,
    NODES,
    POD_GROUPS,
    PODS,
    PRIORITY_CLASSES,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_SLICES,
    SERVICES,
)
from kubarium.base.chance import Chance
from kubarium.client.protocol import Client
from kubarium.cluster.bootstrap import bootstrap
from kubarium.cluster.clock import RealClock
from kubarium.cluster.collector import tune_collector
from kubarium.cluster.embedded import CONTROLLER_USER, SCHEDULER_USER, EmbeddedCluster
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.control import devices, scheduling
from kubarium.runtime.informer import SharedInformers
from kubarium.runtime.protocol import Context
from kubarium.server.api_server import ApiServer
from kubarium.server.local import LocalClient
from kubarium.store import MemoryStore, Store

NAMESPACE = "default"
CREATED_AT_ONCE = 50  # pods between two turns of the others
PATIENCE_S = 600.0
QUICK = 10  # how much smaller --quick makes everything
EXTENDED = "example.com/gpu"


class Rows(Protocol):
    """What bench/run.py's Report offers."""

    def add(
        self, row: str, figure: str, values: list[float], unit: str, compare: str = ""
    ) -> None: ...


@dataclass
class Plane:
    """A control plane to measure, and when it is done with a pod."""

    client: Client
    store: Store
    is_done: Callable[[Document], bool]

    async def create(self, resource: object, made: Iterator[Document] | Sequence[Document]) -> None:
        """Create objects, letting the others work in between."""
        for number, document in enumerate(made, 1):
            home = NAMESPACE if resource.namespaced else ""  # type: ignore[attr-defined]
            await self.client.create(resource, document, home)  # type: ignore[arg-type]
            if number % CREATED_AT_ONCE == 0:
                await asyncio.sleep(0)

    async def place(self, pods: Iterator[Document] | Sequence[Document], wanted: int) -> None:
        """Create pods, and return once ``wanted`` of all that come are done."""
        watch = await self.client.watch(PODS, NAMESPACE, resource_version=str(self.store.revision))
        creating = asyncio.ensure_future(self.create(PODS, pods))
        done: dict[str, None] = {}
        try:
            async with asyncio.timeout(PATIENCE_S):
                while len(done) < wanted:
                    for event in await watch.next_batch():
                        if event.type == "MODIFIED" and self.is_done(event.object):
                            done[event.object["metadata"]["name"]] = None
            await creating
        finally:
            watch.close()
            creating.cancel()


def is_bound(pod: Document) -> bool:
    return "nodeName" in pod["spec"]


def is_running(pod: Document) -> bool:
    return bool(pod.get("status", {}).get("phase") == "Running")


@asynccontextmanager
async def bare() -> AsyncIterator[Plane]:
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
        yield Plane(client, store, is_bound)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await informers.close()


@asynccontextmanager
async def simulated(nodes: int, gpus: int) -> AsyncIterator[Plane]:
    """The whole control plane, with nodes that run pods."""
    capacity = {"cpu": "4", "memory": "32Gi", "pods": "110"}
    listed = [{"profile": d.DRIVER, "count": gpus}] if gpus else []
    pool = NodePool("node", nodes, "simulated", capacity, devices=listed)
    cluster = EmbeddedCluster(ClusterFile([pool]), RealClock(), Chance(1))
    async with cluster.running():
        yield Plane(cluster.client, cluster.store, is_running)


# Shapes

Prepare = Callable[[Plane, "Shape"], Awaitable[None]]


@dataclass(frozen=True)
class Shape:
    """What there is before, what comes, and how much of it has to find a place."""

    name: str
    compare: str
    nodes: int
    measured: int
    pod: Callable[[], Document] = d.pod
    initial: int = 0
    initial_pod: Callable[[], Document] = d.pod
    cpu: str = "4"
    prepare: Prepare | None = None
    pods: Callable[[Shape], Iterator[Document]] | None = None
    gangs: tuple[int, int, str] = (0, 0, "")  # how many, of how many, within one of what
    devices_per_node: int = 0
    initial_placed: bool = True

    def smaller(self, by: int) -> Shape:
        """The same shape with fewer nodes and pods."""
        count, size, topology = self.gangs
        if count * size:
            count, size = (count // by, size) if count >= by * 5 else (count, max(size // by, 2))
        return Shape(
            **{
                **self.__dict__,
                "nodes": max(self.nodes // by, 1),
                "measured": count * size or self.measured // by,
                "initial": self.initial // by,
                "gangs": (count, size, topology),
            }
        )


def plain(shape: Shape) -> Iterator[Document]:
    document = shape.pod()
    return (document for _ in range(shape.measured))


def members(shape: Shape) -> Iterator[Document]:
    count, size, _ = shape.gangs
    for number in range(count):
        document = d.member(f"gang-{number:04d}")
        for _ in range(size):
            yield document


async def with_gangs(plane: Plane, shape: Shape) -> None:
    count, size, topology = shape.gangs
    groups = [d.gang(f"gang-{number:04d}", size, topology) for number in range(count)]
    await plane.create(POD_GROUPS, groups)


async def with_daemon_node(plane: Plane, shape: Shape) -> None:
    await plane.create(NODES, [d.daemon_node()])


async def with_priority(plane: Plane, shape: Shape) -> None:
    await plane.create(PRIORITY_CLASSES, [d.priority_class()])


def devices_of(
    class_: Document, claim: Document | None, slices: Callable[[str, int], list[Document]]
) -> Prepare:
    """A class, a claim template and the devices of every node."""

    async def prepare(plane: Plane, shape: Shape) -> None:
        await plane.create(DEVICE_CLASSES, [class_])
        if claim is not None:
            await plane.create(RESOURCE_CLAIM_TEMPLATES, [d.claim_template(claim)])
        for number in range(shape.nodes):
            made = slices(f"node-{number:05d}", shape.devices_per_node)
            await plane.create(RESOURCE_SLICES, made)

    return prepare


def gpus(node: str, count: int) -> list[Document]:
    return [d.slice_of_gpus(node, count)]


def shared_gpus(node: str, count: int) -> list[Document]:
    return [d.slice_of_gpus(node, count, shared=True)]


CHURN_EVERY = 500  # pods; upstream: once a second at some 700 pods a second


def churning(shape: Shape) -> Iterator[Document]:
    """Plain pods; every now and then a pod that fits nowhere is among them."""
    document, huge = shape.pod(), d.pod("9", prefix="huge-", priorityClassName="high")
    for number in range(shape.measured):
        if number % CHURN_EVERY == 0:
            yield huge
        yield document


async def with_churn(plane: Plane, shape: Shape) -> None:
    """A node and a service come, and go when the next ones come, for as long as pods come."""
    await with_priority(plane, shape)

    async def churn() -> None:
        step = 0
        while True:
            await plane.create(NODES, [d.node(90_000 + step)])
            await plane.create(SERVICES, [d.service(f"churn-{step}")])
            await asyncio.sleep(0.25)
            await plane.client.delete(NODES, f"node-{90_000 + step:05d}")
            await plane.client.delete(SERVICES, f"churn-{step}", NAMESPACE)
            step += 1

    BESIDE.append(asyncio.ensure_future(churn()))


BESIDE: list[asyncio.Future[None]] = []


def drivers_own(cel: str = "") -> Prepare:
    """The nodes' own driver has published class and devices already."""

    async def prepare(plane: Plane, shape: Shape) -> None:
        claim = d.one_device(cel)
        claim["devices"]["requests"][0]["exactly"]["deviceClassName"] = d.DRIVER
        await plane.create(RESOURCE_CLAIM_TEMPLATES, [d.claim_template(claim)])

    return prepare


def device_shape(
    name: str,
    compare: str,
    prepare: Prepare,
    pod: Callable[[], Document] = d.with_claim,
    **rest: int,
) -> Shape:
    """5,000 devices on 500 nodes: half are taken before, the rest is measured."""
    return Shape(
        name,
        compare,
        500,
        rest.get("measured", 2500),
        pod,
        rest.get("initial", 2500),
        pod,
        "64",
        prepare,
        devices_per_node=rest.get("devices", 10),
    )


def gang_shape(name: str, count: int, size: int, topology: str = "") -> Shape:
    return Shape(
        name,
        "no threshold",
        5000,
        count * size,
        cpu="32",
        prepare=with_gangs,
        pods=members,
        gangs=(count, size, topology),
    )


DRA = "upstream: 40 to 250 /s"
DRIVER_CEL = f'device.driver == "{d.DRIVER}"'
SHAPES = (
    Shape("SchedulingBasic 5,000 nodes 10,000 pods", "680 /s", 5000, 10000, initial=1000),
    Shape("SchedulingBasic 5,000 nodes 50,000 pods", "810 /s", 5000, 50000, initial=1000),
    Shape("SchedulingBasic 15,000 nodes 30,000 pods", "", 15000, 30000),
    Shape(
        "SchedulingDaemonset 15,000 nodes 30,000 pods",
        "1,100 /s",
        15000,
        30000,
        d.daemon_pod,
        prepare=with_daemon_node,
    ),
    Shape(
        "PreemptionAsync 5,000 nodes 5,000 pods",
        "570 /s",
        5000,
        5000,
        d.high_priority,
        20000,
        d.low_priority,
        prepare=with_priority,
    ),
    Shape(
        "Unschedulable 5,000 nodes 10,000 pods",
        "590 /s",
        5000,
        10000,
        initial=200,
        initial_pod=lambda: d.pod("9"),
        initial_placed=False,
    ),
    Shape(
        "PodAntiAffinity 5,000 nodes 2,000 pods",
        "60 /s",
        5000,
        2000,
        lambda: d.attracted("green", d.HOSTNAME, anti=True),
        1000,
    ),
    Shape(
        "PodAffinity 5,000 nodes 5,000 pods",
        "35 /s",
        5000,
        5000,
        lambda: d.attracted("blue", d.ZONE),
        5000,
    ),
    Shape(
        "PreferredPodAffinity 5,000 nodes 5,000 pods",
        "90 /s",
        5000,
        5000,
        lambda: d.attracted("red", d.HOSTNAME, preferred=True),
        5000,
    ),
    Shape(
        "PreferredPodAntiAffinity 5,000 nodes 5,000 pods",
        "90 /s",
        5000,
        5000,
        lambda: d.attracted("yellow", d.HOSTNAME, anti=True, preferred=True),
        5000,
    ),
    Shape(
        "NodeAffinity 5,000 nodes 10,000 pods",
        "220 /s",
        5000,
        10000,
        lambda: d.in_zones("zone-0", "zone-1"),
        5000,
    ),
    Shape(
        "TopologySpreading 5,000 nodes 5,000 pods",
        "",
        5000,
        5000,
        lambda: d.spread(hard=True),
        5000,
    ),
    Shape(
        "PreferredTopologySpreading 5,000 nodes 5,000 pods",
        "",
        5000,
        5000,
        lambda: d.spread(hard=False),
        5000,
    ),
    Shape(
        "SchedulingWithMixedChurn 5,000 nodes 10,000 pods",
        "710 /s",
        5000,
        10000,
        prepare=with_churn,
        pods=churning,
    ),
    device_shape(
        "DRA claim templates, 500 nodes, no CEL",
        DRA,
        devices_of(d.device_class(), d.one_device(), gpus),
    ),
    device_shape(
        "DRA claim templates, 500 nodes, CEL in class and claim",
        DRA,
        devices_of(d.device_class(DRIVER_CEL), d.one_device(d.MATCHING), gpus),
    ),
    device_shape(
        "DRA extended resource, 500 nodes",
        "180 /s",
        devices_of(d.device_class(DRIVER_CEL, extended=EXTENDED), None, gpus),
        lambda: d.with_extended_resource(EXTENDED),
    ),
    device_shape(
        "DRA consumable capacity, 500 nodes",
        "no threshold",
        devices_of(d.device_class(), d.shared_memory(), shared_gpus),
        devices=1,
    ),
    device_shape(
        "DRA partitionable with backtracking, 500 nodes",
        "no threshold",
        devices_of(d.device_class(driver=d.PARTITIONED), d.with_backtracking(), d.partition_slices),
        initial=1000,
        measured=1000,
        devices=5,
    ),
    gang_shape("Gangs 1,000 of 3 on 5,000 nodes", 1000, 3),
    gang_shape("Gangs 9 of 1,000 on 5,000 nodes", 9, 1000),
    gang_shape("Gangs 10 of 5,000 on 5,000 nodes", 10, 5000),
    gang_shape("Topology gangs 750 of 4, 50 racks", 750, 4, d.RACK),
    gang_shape("Topology gangs 9 of 1,000, 3 zones", 9, 1000, d.ZONE),
)

# On simulated nodes, until Running.
ON_NODES = (
    Shape("SchedulingBasic 5,000 nodes 10,000 pods", "680 /s", 5000, 10000, initial=1000),
    Shape("SchedulingBasic 15,000 nodes 30,000 pods", "", 15000, 30000),
    Shape(
        "DRA claim templates, 500 nodes, no CEL",
        DRA,
        500,
        2500,
        d.with_claim,
        2500,
        d.with_claim,
        prepare=drivers_own(),
        devices_per_node=10,
    ),
    Shape(
        "DRA claim templates, 500 nodes, CEL in class and claim",
        DRA,
        500,
        2500,
        d.with_claim,
        2500,
        d.with_claim,
        prepare=drivers_own(DRIVER_CEL),
        devices_per_node=10,
    ),
    gang_shape("Gangs 1,000 of 3 on 5,000 nodes", 1000, 3),
    gang_shape("Gangs 9 of 1,000 on 5,000 nodes", 9, 1000),
)


@dataclass(frozen=True)
class Rates:
    """Pods a second, by the clock and by this process's CPU time; writes a pod."""

    clock: float
    cpu: float
    writes: float


def waited_s() -> float:
    """Seconds for which this thread was ready to run and others had the cores; 0 if unknown."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


async def measure(shape: Shape, plane: Plane) -> Rates:
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
    await plane.place((shape.pods or plain)(shape), shape.measured)
    cpu, waited = time.process_time() - cpu, waited_s() - waited
    clock = time.perf_counter() - clock - waited
    writes = (plane.store.revision - revision) / shape.measured
    while BESIDE:
        BESIDE.pop().cancel()
    return Rates(shape.measured / clock, shape.measured / cpu, writes)


async def on_bare_nodes(shape: Shape) -> Rates:
    async with bare() as plane:
        await plane.create(NODES, [d.node(i, cpu=shape.cpu) for i in range(shape.nodes)])
        return await measure(shape, plane)


async def on_simulated_nodes(shape: Shape) -> Rates:
    async with simulated(shape.nodes, shape.devices_per_node) as plane:
        return await measure(shape, plane)


Way = tuple[str, tuple[Shape, ...], Callable[[Shape], Awaitable[Rates]]]
WAYS: tuple[Way, ...] = (
    ("bare", SHAPES, on_bare_nodes),
    ("nodes", ON_NODES, on_simulated_nodes),
)


def bench_scheduler(report: Rows, only: Sequence[str] = (), *, quick: bool = False) -> None:
    """Every shape once; ``only`` picks rows by parts of their names."""
    tune_collector()
    for way, shapes, run in WAYS:
        for shape in shapes:
            figure = f"{way}: {shape.name}"
            if only and not any(part.lower() in figure.lower() for part in only):
                continue
            rates = asyncio.run(run(shape.smaller(QUICK) if quick else shape))  # type: ignore[arg-type]
            beside = f"{rates.cpu:,.0f} a CPU second, {rates.writes:.1f} writes a pod"
            threshold = f"; {shape.compare}" if shape.compare else ""
            report.add("scheduler", figure, [rates.clock], "pods/s", beside + threshold)


class _Lines:
    """Prints rows as they come, when this file runs by itself."""

    def add(self, row: str, figure: str, values: list[float], unit: str, compare: str = "") -> None:
        print(f"{figure:62} {values[0]:8,.0f} {unit} {compare}", flush=True)


if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if name != "--quick"]
    bench_scheduler(_Lines(), names, quick="--quick" in sys.argv[1:])
