"""scheduler_perf's shapes, each of which is run both ways (see scheduler.py).

A shape says what there is before, what comes, and how much of it has to find a place. Where devices
are concerned it says it twice: as slices that nobody stands behind, for bare nodes, and as an entry
of a node pool, for simulated nodes whose own driver publishes them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import documents as d
from documents import Document

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    NODES,
    POD_GROUPS,
    PRIORITY_CLASSES,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    SERVICES,
)
from kubarium.client.protocol import Client
from kubarium.cluster.file import NodePool

EXTENDED = "example.com/gpu"
CLASSES = 25  # that stand for an extended resource each
ZONES = [f"zone-{number}" for number in range(3)]
RACKS = [f"rack-{number:03d}" for number in range(50)]
CHURN_EVERY = 500  # pods; upstream: once a second at some 700 pods a second
CHURN_PERIOD_S = 0.25


class Plane(Protocol):
    """A control plane to measure."""

    client: Client
    runs_pods: bool  # whether nodes run pods, and pods are done when they are Running

    async def create(self, resource: object, made: Iterator[Document] | list[Document]) -> None:
        """Create objects, letting the others work in between."""
        ...

    def beside(self, work: Awaitable[None]) -> None:
        """Have work done as long as the measured pods come."""
        ...


Prepare = Callable[[Plane, "Shape"], Awaitable[None]]


@dataclass(frozen=True)
class Devices:
    """Devices of every node, and what pods ask of them, for both kinds of nodes.

    ``pool`` is an entry of a node pool's ``devices``, which brings its own class; ``classes`` and
    ``slices`` stand in for the driver where there is none.
    """

    per_node: int
    classes: list[Document]
    slices: Callable[[str, int], list[Document]]
    pool: dict[str, Any]
    claim: Document | None = None
    pool_claim: Document | None = None
    pool_classes: list[Document] = field(default_factory=list)  # besides the driver's own

    def of_pool(self) -> list[dict[str, Any]]:
        return [{"profile": d.DRIVER, "count": self.per_node, **self.pool}]

    async def prepare(self, plane: Plane, shape: Shape) -> None:
        claim = self.pool_claim if plane.runs_pods else self.claim
        if claim is not None:
            await plane.create(RESOURCE_CLAIM_TEMPLATES, [d.claim_template(claim)])
        await plane.create(DEVICE_CLASSES, self.pool_classes if plane.runs_pods else self.classes)
        if plane.runs_pods:
            return
        for number in range(shape.nodes):
            await plane.create(RESOURCE_SLICES, self.slices(f"node-{number:05d}", self.per_node))


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
    devices: Devices | None = None
    at_a_time: int = 0  # so many come, find a place and go, before the next come; 0: all come
    initial_placed: bool = True
    bare_only: bool = False  # no node could run its pods
    pools: list[NodePool] = field(default_factory=list)  # nodes of their own, if simulated

    def smaller(self, by: int) -> Shape:
        """The same shape with fewer nodes and pods."""
        count, size, topology = self.gangs
        if count * size:
            count, size = (count // by, size) if count >= by * 5 else (count, max(size // by, 2))
        return replace(
            self,
            nodes=max(self.nodes // by, 1),
            measured=count * size or self.measured // by,
            initial=max(self.initial // by - self.at_a_time, 0),  # leaves room for those that come
            gangs=(count, size, topology),
        )

    def node_pools(self) -> list[NodePool]:
        """The shape's nodes as pools of simulated ones, with the labels of documents.node."""
        capacity = {"cpu": self.cpu, "memory": "32Gi", "pods": "110"}
        listed = self.devices.of_pool() if self.devices else []
        topology = {d.ZONE: ZONES, d.RACK: RACKS}
        pool = NodePool(
            "node", self.nodes, "simulated", capacity, topology=topology, devices=listed
        )
        return [pool, *self.pools]

    def arriving(self) -> Iterator[Document]:
        """The pods that are measured, and what comes with them."""
        return (self.pods or _plain)(self)


def _plain(shape: Shape) -> Iterator[Document]:
    document = shape.pod()
    return (document for _ in range(shape.measured))


# Gangs


def _members(shape: Shape) -> Iterator[Document]:
    count, size, _ = shape.gangs
    for number in range(count):
        document = d.member(f"gang-{number:04d}")
        for _ in range(size):
            yield document


async def _with_gangs(plane: Plane, shape: Shape) -> None:
    count, size, topology = shape.gangs
    groups = [d.gang(f"gang-{number:04d}", size, topology) for number in range(count)]
    await plane.create(POD_GROUPS, groups)


def _gangs(name: str, count: int, size: int, topology: str = "") -> Shape:
    return Shape(
        name,
        "no threshold",
        5000,
        count * size,
        cpu="32",
        prepare=_with_gangs,
        pods=_members,
        gangs=(count, size, topology),
    )


# What else comes before, or beside


async def _with_daemon_node(plane: Plane, shape: Shape) -> None:
    if not plane.runs_pods:
        await plane.create(NODES, [d.daemon_node()])


DAEMON_POOL = NodePool(
    d.DAEMON_NODE,
    1,
    "simulated",
    {"cpu": "4", "memory": "32Gi", "pods": "90000"},
    exact_name=True,
)


async def _with_priority(plane: Plane, shape: Shape) -> None:
    await plane.create(PRIORITY_CLASSES, [d.priority_class()])


def _churning(shape: Shape) -> Iterator[Document]:
    """Plain pods; every now and then a pod that fits nowhere is among them."""
    document, huge = shape.pod(), d.pod("9", prefix="huge-", priorityClassName="high")
    for number in range(shape.measured):
        if number % CHURN_EVERY == 0:
            yield huge
        yield document


async def _with_churn(plane: Plane, shape: Shape) -> None:
    """A node and a service come, and go when the next ones come, for as long as pods come.

    Nobody stands behind that node, so that where pods have to run it is cordoned.
    """
    await _with_priority(plane, shape)

    async def churn() -> None:
        step = 90_000
        while True:
            node = d.node(step)
            if plane.runs_pods:
                node["spec"] = {"unschedulable": True}
            await plane.create(NODES, [node])
            await plane.create(SERVICES, [d.service(f"churn-{step}")])
            await asyncio.sleep(CHURN_PERIOD_S)
            await plane.client.delete(NODES, node["metadata"]["name"])
            await plane.client.delete(SERVICES, f"churn-{step}", "default")
            step += 1

    plane.beside(churn())


# Devices


def _gpus(node: str, count: int) -> list[Document]:
    return [d.slice_of_gpus(node, count)]


def _shared_gpus(node: str, count: int) -> list[Document]:
    return [d.slice_of_gpus(node, count, shared=True)]


def _device_shape(
    name: str,
    compare: str,
    devices: Devices,
    pod: Callable[[], Document] = d.with_claim,
    measured: int = 2500,
    initial: int = 2500,
    pods: Callable[[Shape], Iterator[Document]] | None = None,
    at_a_time: int = 0,
) -> Shape:
    """5,000 devices on 500 nodes: half are taken before, the rest is measured."""
    return Shape(
        name,
        compare,
        500,
        measured,
        pod,
        initial,
        pod,
        "64",
        devices.prepare,
        pods,
        devices=devices,
        at_a_time=at_a_time,
    )


def _of_many_classes(shape: Shape) -> Iterator[Document]:
    """Pods that ask for one extended resource after the other."""
    made = [d.with_extended_resource(f"{EXTENDED}-{number}") for number in range(CLASSES)]
    return (made[number % CLASSES] for number in range(shape.measured))


def _many_classes() -> list[Document]:
    return [
        d.device_class(DRIVER_CEL, extended=f"{EXTENDED}-{number}", name=f"gpu-{number}")
        for number in range(CLASSES)
    ]


GROUPS = 100  # that share a claim each


async def _with_sharing_groups(plane: Plane, shape: Shape) -> None:
    await plane.create(DEVICE_CLASSES, [d.device_class()])
    for number in range(GROUPS):
        offered, claim, group = d.device_for_group(number)
        await plane.create(RESOURCE_SLICES, [offered])
        await plane.create(RESOURCE_CLAIMS, [claim])
        await plane.create(POD_GROUPS, [group])


def _sharing(shape: Shape) -> Iterator[Document]:
    made = [d.sharing(number) for number in range(GROUPS)]
    return (made[number % GROUPS] for number in range(shape.measured))


DRA = "40 to 120 /s; 251 measured"
DRIVER_CEL = f'device.driver == "{d.DRIVER}"'
ONE_DEVICE = Devices(
    10, [d.device_class()], _gpus, {}, d.one_device(), d.one_device(class_name=d.DRIVER)
)
DEVICE_SHAPES = (
    _device_shape(
        "DRA claim templates, 500 nodes, no CEL",
        DRA,
        ONE_DEVICE,
    ),
    _device_shape(
        "DRA claim templates, 500 nodes, CEL in class and claim",
        DRA,
        Devices(
            10,
            [d.device_class(DRIVER_CEL)],
            _gpus,
            {"model": "A100"},
            d.one_device(d.MATCHING),
            d.one_device(d.MATCHING, d.DRIVER),
        ),
    ),
    _device_shape(
        "DRA extended resource, 500 nodes",
        "180 to 197 /s",
        Devices(
            10,
            [d.device_class(DRIVER_CEL, extended=EXTENDED)],
            _gpus,
            {"extendedResourceName": EXTENDED},
        ),
        lambda: d.with_extended_resource(EXTENDED),
    ),
    _device_shape(
        "DRA extended resources of 25 classes, 500 nodes",
        "197 /s",
        Devices(10, _many_classes(), _gpus, {}, pool_classes=_many_classes()),
        lambda: d.with_extended_resource(f"{EXTENDED}-0"),
        pods=_of_many_classes,
    ),
    _device_shape(
        "DRA steady state, 500 nodes half full", "60 /s", ONE_DEVICE, measured=2000, at_a_time=10
    ),
    _device_shape(
        "DRA steady state, 500 nodes full but for 10 devices",
        "60 /s",
        ONE_DEVICE,
        measured=1000,
        initial=4990,
        at_a_time=10,
    ),
    _device_shape(
        "DRA consumable capacity, 500 nodes",
        "no threshold",
        Devices(
            1,
            [d.device_class()],
            _shared_gpus,
            {"allowMultiple": True},
            d.part_of_device({"memory": "8Gi"}),
            d.part_of_device({"memory": "8Gi", "compute": "10"}, d.DRIVER),
        ),
    ),
    _device_shape(
        "DRA partitionable with backtracking, 500 nodes",
        "no threshold",
        Devices(
            5,
            [d.device_class(driver=d.PARTITIONED)],
            d.partition_slices,
            {"profile": "nvidia", "model": "A100-40GB", "mig": True},
            d.with_backtracking(),
            d.with_backtracking_mig(),
            [d.device_class(d.NVIDIA_CEL, driver=d.NVIDIA)],
        ),
        measured=1000,
        initial=1000,
    ),
    Shape(
        "DRA claims of 100 groups, 50 pods each, 50 nodes",
        "no threshold",
        50,
        5000,
        cpu="64",
        prepare=_with_sharing_groups,
        pods=_sharing,
        bare_only=True,
    ),
)

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
        prepare=_with_daemon_node,
        pools=[DAEMON_POOL],
    ),
    Shape(
        "PreemptionAsync 5,000 nodes 5,000 pods",
        "570 /s",
        5000,
        5000,
        d.high_priority,
        20000,
        d.low_priority,
        prepare=_with_priority,
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
        prepare=_with_churn,
        pods=_churning,
    ),
    *DEVICE_SHAPES,
    _gangs("Gangs 1,000 of 3 on 5,000 nodes", 1000, 3),
    _gangs("Gangs 9 of 1,000 on 5,000 nodes", 9, 1000),
    _gangs("Gangs 10 of 5,000 on 5,000 nodes", 10, 5000),
    _gangs("Topology gangs 750 of 4, 50 racks", 750, 4, d.RACK),
    _gangs("Topology gangs 9 of 1,000, 3 zones", 9, 1000, d.ZONE),
)
