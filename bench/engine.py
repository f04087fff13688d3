"""The engine alone: scheduler_perf's shapes as snapshots, decided by ``plan_cycle``, timed.

    python bench/engine.py [part of a row's name ...]

What is timed is the decision for pods that wait (filters, scores, devices, gangs, preemption) and
its entry into the snapshot; filling the cluster is not. Times are of this process on its one core
(``process_time``), so that other work on the machine does not count. The figures beside the rows
are kube-scheduler's own published thresholds, which include its API server and were taken on other
machines: read them as orders of size.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import documents as d
import numpy as np
from documents import Document

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.api.resource import Resource
from kubarium.engine.explain import Explainer, Subject
from kubarium.engine.model import (
    HOSTNAME_LABEL,
    Composite,
    Gang,
    Node,
    Pod,
    PodShape,
    PodTerm,
    SpreadConstraint,
    VolumeClaim,
    WeightedPodTerm,
)
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import Decision, Leaf, QueueItem, Tree
from kubarium.engine.selectors import LabelSelector, NodeTerm, Requirement
from kubarium.engine.snapshot import Snapshot
from kubarium.view import why
from kubarium.view.cluster import ClusterView

REPETITIONS = 3
ZONE = "topology.kubernetes.io/zone"
RACK = "kubarium.dev/rack"
MIB = 1024 * 1024
GIB = 1024 * MIB


class Rows(Protocol):
    """What bench/run.py's Report offers."""

    def add(
        self, row: str, figure: str, values: list[float], unit: str, compare: str = ""
    ) -> None: ...


# Worlds


def node(number: int, *, cpu: int = 4000, zones: int = 3, racks: int = 0) -> Node:
    """scheduler_perf's node-default: 4 cpu, 32 GiB, 110 pods."""
    name = f"node-{number:05d}"
    labels = {HOSTNAME_LABEL: name, ZONE: f"zone-{number % zones}"}
    if racks:
        labels[RACK] = f"rack-{number % racks:03d}"
    return Node(name, (("cpu", cpu), ("memory", 32 * GIB), ("pods", 110)), labels)


def world(nodes: int, *, cpu: int = 4000, zones: int = 3, racks: int = 0) -> Placer:
    snapshot = Snapshot()
    for number in range(nodes):
        snapshot.set_node(node(number, cpu=cpu, zones=zones, racks=racks))
    return Placer(snapshot)


def shape(cpu: int = 100, memory: int = 500 * MIB, **wishes: object) -> PodShape:
    """scheduler_perf's pod-default: 100m cpu, 500 MiB."""
    requests = (("cpu", cpu), ("memory", memory))
    return PodShape(requests=requests, nonzero=(cpu, memory), **wishes)  # type: ignore[arg-type]


def singles(
    count: int,
    of: PodShape,
    prefix: str,
    *,
    labels: dict[str, str] | None = None,
    priority: int = 0,
) -> list[QueueItem]:
    return [
        QueueItem(
            (Pod(("bench", f"{prefix}-{i:06d}"), of, f"{prefix}-{i}", labels or {}, priority),)
        )
        for i in range(count)
    ]


def gangs(
    count: int, size: int, of: PodShape, *, topology: str = "", prefix: str = "gang"
) -> list[QueueItem]:
    found = []
    for number in range(count):
        gang = Gang(("bench", f"{prefix}-{number:04d}"), size, topology)
        pods = tuple(
            Pod(("bench", f"{prefix}-{number:04d}-{i:05d}"), of, gang=gang.key) for i in range(size)
        )
        found.append(QueueItem(pods, gang))
    return found


def decide(placer: Placer, items: Iterable[QueueItem]) -> tuple[Decision, ...]:
    return plan_cycle(placer, items).decisions


def selector(key: str, value: str) -> LabelSelector:
    return LabelSelector((Requirement(key, "In", (value,)),))


def term(key: str, value: str, topology: str) -> PodTerm:
    return PodTerm(topology, selector(key, value), ("bench",))


# Rows. Each prepares a world and returns what is to be timed: (function, number of pods).

Prepared = tuple[Callable[[], Sequence[Decision]], int]


@dataclass(frozen=True)
class Row:
    name: str
    prepare: Callable[[], Prepared]
    compare: str
    # How many of the pods are to find a place; None: all.
    placed: int | None = None


def _plain(nodes: int, initial: int, pods: int, of: PodShape, **wishes: object) -> Prepared:
    labels = wishes.pop("labels", None)
    placer = world(nodes, **wishes)  # type: ignore[arg-type]
    decide(placer, singles(initial, shape(), "init"))
    items = singles(pods, of, "pod", labels=labels)  # type: ignore[arg-type]
    return lambda: decide(placer, items), pods


def basic(nodes: int = 5000, pods: int = 10000) -> Prepared:
    return _plain(nodes, 1000, pods, shape())


def unschedulable() -> Prepared:
    """200 pods that fit nowhere are tried again in front of every batch of 1,000 others."""
    placer = world(5000)
    hopeless = singles(200, shape(cpu=9000), "huge", priority=1)
    items = singles(10000, shape(), "pod")

    def run() -> list[Decision]:
        found: list[Decision] = []
        for start in range(0, len(items), 1000):
            found += decide(placer, hopeless + items[start : start + 1000])
        return [d for d in found if d.item.pods[0].priority == 0]

    return run, 10000


def preemption(pods: int = 5000) -> Prepared:
    """Four pods of 900m on each of 5,000 nodes; each newcomer wants 3 cpu: three must go."""
    placer = world(5000)
    decide(placer, singles(20000, shape(cpu=900), "low"))
    items = singles(pods, shape(cpu=3000), "high", priority=10)
    return lambda: decide(placer, items), pods


def anti_affinity() -> Prepared:
    lonely = shape(pod_anti_affinity=(term("color", "green", HOSTNAME_LABEL),))
    return _plain(5000, 1000, 2000, lonely, labels={"color": "green"})


def affinity() -> Prepared:
    close = shape(pod_affinity=(term("color", "blue", ZONE),))
    return _plain(5000, 1000, 5000, close, labels={"color": "blue"}, zones=1)


def preferred_affinity() -> Prepared:
    wish = WeightedPodTerm(1, term("color", "red", HOSTNAME_LABEL))
    return _plain(5000, 1000, 5000, shape(pod_preferred=(wish,)), labels={"color": "red"})


def preferred_anti_affinity() -> Prepared:
    wish = WeightedPodTerm(-1, term("color", "yellow", HOSTNAME_LABEL))
    return _plain(5000, 1000, 5000, shape(pod_preferred=(wish,)), labels={"color": "yellow"})


def node_affinity() -> Prepared:
    zones = NodeTerm((Requirement(ZONE, "In", ("zone-0", "zone-1")),))
    return _plain(5000, 1000, 10000, shape(affinity=(zones,)))


def spread(*, hard: bool) -> Prepared:
    wish = SpreadConstraint(ZONE, 5, hard, selector("color", "blue"))
    return _plain(5000, 1000, 5000, shape(spread=(wish,)), labels={"color": "blue"})


def daemon_set() -> Prepared:
    """15,000 nodes, two pods pinned to each by name, as the DaemonSet controller does."""
    placer = world(15000)
    items = []
    for number in range(30000):
        pin = NodeTerm(
            fields=(Requirement("metadata.name", "In", (f"node-{number % 15000:05d}",)),)
        )
        items += [QueueItem((Pod(("bench", f"ds-{number}"), shape(affinity=(pin,))),))]
    return lambda: decide(placer, items), 30000


def mixed_churn() -> Prepared:
    """10,000 pods in batches of 100; before each a node comes and goes and a huge pod appears."""
    placer = world(5000)
    items = singles(10000, shape(), "pod")
    huge = singles(100, shape(cpu=9000), "huge", priority=10)

    def run() -> list[Decision]:
        found: list[Decision] = []
        for step, start in enumerate(range(0, len(items), 100)):
            placer.snapshot.set_node(node(90000 + step))
            placer.snapshot.remove_node(f"node-{90000 + step - 1:05d}")
            found += decide(placer, [huge[step], *items[start : start + 100]])
        return [d for d in found if d.item.pods[0].priority == 0]

    return run, 10000


def gang_rows(count: int, size: int, *, cpu: int = 100, topology: str = "") -> Prepared:
    placer = world(5000, cpu=32000, racks=50 if topology else 0)
    items = gangs(count, size, shape(cpu=cpu, memory=100 * MIB), topology=topology)
    return lambda: decide(placer, items), count * size


def one_gang(size: int = 1000) -> Prepared:
    placer = world(5000, cpu=32000)
    items = gangs(1, size, shape(cpu=4000))
    return lambda: decide(placer, items), size


def gang_verdict(size: int = 1000) -> Prepared:
    """Half of the nodes are full, and the gang wants one pod on each of 4,000 nodes."""
    placer = world(5000)
    decide(placer, singles(2500, shape(cpu=3000), "init"))
    items = gangs(1, 4000, shape(cpu=3500))
    return lambda: decide(placer, items), 1


def gang_preemption(each: int = 1, size: int = 1000) -> Prepared:
    """All nodes full of ``each`` pods of ten priorities; the gang wants one whole node a pod."""
    placer = world(5000)
    filler = shape(cpu=4000 // each)
    for level in range(10):
        items = singles(500 * each, filler, f"low-{level}", priority=level)
        decide(placer, items)
    gang = Gang(("bench", "urgent"), size, priority=100)
    wish = shape(cpu=4000)
    pods = tuple(
        Pod(("bench", f"urgent-{i:05d}"), wish, priority=100, gang=gang.key) for i in range(size)
    )

    def run() -> tuple[Decision, ...]:
        decisions = decide(placer, [QueueItem(pods, gang)])
        found = decisions[0].preemption
        assert found is not None
        assert len(found.nominations) == size
        return decisions

    return run, 1


def mixed_shapes() -> tuple[PodShape, ...]:
    """Launchers, workers and readers: what a training job is made of."""
    return (shape(cpu=3500), shape(cpu=2000), shape(cpu=500, memory=4 * GIB))


def mixed_gang(size: int = 999) -> Prepared:
    """One gang of three kinds of pods on nodes of 4 cpus."""
    placer = world(5000)
    gang = Gang(("bench", "mixed"), size)
    kinds = mixed_shapes()
    pods = tuple(Pod(("bench", f"mixed-{i:05d}"), kinds[i % 3], gang=gang.key) for i in range(size))
    return lambda: decide(placer, [QueueItem(pods, gang)]), size


def _mixed(
    nodes: int, racks: int, kinds: dict[PodShape, int], topology: str = "", uneven: int = 0
) -> Prepared:
    """One gang of several kinds of pods for which there is no room.

    Nodes are of three makes in each rack; those of the next rack have ``uneven`` milli-cpu more.
    """
    snapshot = Snapshot()
    for number in range(nodes):
        cpu = 4000 + 10 * (number // racks % 3) + uneven * (number % racks)
        snapshot.set_node(node(number, cpu=cpu, racks=racks))
    placer = Placer(snapshot)
    size = sum(kinds.values())
    gang = Gang(("bench", "mixed"), size, topology)
    shapes = [wish for wish, count in kinds.items() for _ in range(count)]
    pods = tuple(
        Pod(("bench", f"mixed-{i:05d}"), wish, gang=gang.key) for i, wish in enumerate(shapes)
    )
    return lambda: decide(placer, [QueueItem(pods, gang)]), 1


def mixed_verdict() -> Prepared:
    """160 pods in one of 90 racks: of the large ones two fit on a node, so sizes alone say no."""
    return _mixed(90 * 54, 90, {shape(cpu=1400): 120, shape(cpu=1200): 40}, RACK)


def mixed_beside() -> Prepared:
    """160 pods in one of 10 racks: what stands in the way is which sizes fit beside which.

    Beside the large pod that a node takes there is room for one small one; a node without it takes
    three, so that no bound by size rules the gang out; and nodes of three makes hide that it is so.
    """
    kinds = {shape(cpu=2080): 60, shape(cpu=1010): 50, shape(cpu=1040): 50}
    return _mixed(600, 10, kinds, RACK)


def mixed_undecided() -> Prepared:
    """195 pods of seven sizes in one of 10 racks, of which no two have the same nodes.

    Three pods fill a node, hardly ever to the brim: their sum is 97 % of a rack. Neither sizes nor
    sums rule the gang out, and arrangements are tried until the budget is spent.
    """
    sizes = (830, 910, 1070, 1190, 1310, 1530, 1730)
    kinds = {shape(cpu=size): 27 + (at < 6) for at, size in enumerate(sizes)}
    return _mixed(600, 10, kinds, RACK, uneven=7)


def composites(
    count: int, groups: int, size: int, *, cpu: int = 100, rack: str = "", zone: str = ""
) -> list[QueueItem]:
    """Composites of equal groups, the groups in a rack each, all of them in one zone."""
    found = []
    for number in range(count):
        root = Composite(("bench", f"set-{number:04d}"), groups, (zone,) if zone else ())
        children = []
        for item in gangs(
            groups,
            size,
            shape(cpu=cpu, memory=100 * MIB),
            topology=rack,
            prefix=f"set-{number:04d}",
        ):
            assert item.gang is not None
            children.append(Leaf(replace(item.gang, parent=root.key), item.pods))
        found.append(QueueItem.of_tree(Tree(root, tuple(children))))
    return found


def composite_rows(count: int, groups: int, size: int) -> Prepared:
    placer = world(5000, cpu=32000, racks=50)
    items = composites(count, groups, size, rack=RACK, zone=ZONE)
    return lambda: decide(placer, items), count * groups * size


def one_composite() -> Prepared:
    placer = world(5000, cpu=32000, racks=50)
    items = composites(1, 8, 125, cpu=4000, rack=RACK, zone=ZONE)
    return lambda: decide(placer, items), 1000


def composite_verdict() -> Prepared:
    """Eight groups of a rack each, and the racks have room for seven."""
    placer = world(5000, racks=50)
    for number in range(5000):
        if number % 50 >= 7:
            placer.snapshot.place(
                Pod(("bench", f"init-{number}"), shape(cpu=1000)), f"node-{number:05d}"
            )
    items = composites(1, 8, 100, cpu=3500, rack=RACK)
    return lambda: decide(placer, items), 1


# Devices

DRIVER = d.DRIVER
EXTENDED = "example.com/gpu"


def dra_world(nodes: int, devices: int, cel: str) -> ClusterView:
    view = ClusterView()
    for number in range(nodes):
        view.snapshot.set_node(node(number, cpu=64000))
    selectors = [{"cel": {"expression": cel}}] if cel else []
    view.apply(
        DEVICE_CLASSES,
        None,
        {"metadata": {"name": "gpu"}, "spec": {"selectors": selectors}},
    )
    for number in range(nodes):
        view.apply(RESOURCE_SLICES, None, _slice(f"node-{number:05d}", devices))
    return view


def _slice(name: str, devices: int) -> dict[str, object]:
    listed = [
        {
            "name": f"gpu-{i}",
            "attributes": {
                "model": {"string": "A100"},
                "index": {"int": i},
                "preferred": {"bool": i % 2 == 0},
                "uuid": {"string": f"GPU-{name}-{i}"},
            },
            "capacity": {"memory": {"value": "80Gi"}},
        }
        for i in range(devices)
    ]
    pool = {"name": name, "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": DRIVER, "nodeName": name, "pool": pool, "devices": listed}
    return {"metadata": {"name": f"{name}-slice"}, "spec": spec}


def _with_claims(view: ClusterView, count: int, prefix: str, cel: str) -> list[QueueItem]:
    exactly: dict[str, object] = {"deviceClassName": "gpu", "count": 1}
    if cel:
        exactly["selectors"] = [{"cel": {"expression": cel}}]
    spec = {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}
    items = []
    wish = shape()
    for number in range(count):
        name = f"{prefix}-{number:05d}"
        metadata = {"name": name, "namespace": "bench", "uid": name}
        view.apply(RESOURCE_CLAIMS, None, {"metadata": metadata, "spec": spec})
        items.append(QueueItem((Pod(("bench", name), wish, name, claims=(("bench", name),)),)))
    return items


def dra(cel: str = "") -> Prepared:
    """2,500 claims are held already; 2,500 more take the rest of the 500 nodes' 5,000 devices."""
    view = dra_world(500, 10, f'device.driver == "{DRIVER}"' if cel else "")
    placer = Placer(view.snapshot)
    decide(placer, _with_claims(view, 2500, "held", cel))
    items = _with_claims(view, 2500, "pod", cel)
    return lambda: decide(placer, items), 2500


def shaped_devices(
    class_: Document,
    claim: Document | None,
    slices: Callable[[str], list[Document]],
    count: int = 2500,
) -> Prepared:
    """500 nodes; half of the pods have their devices already, the other half is decided.

    Without ``claim`` the pods ask for an extended resource that the class answers.
    """
    view = ClusterView()
    view.apply(DEVICE_CLASSES, None, class_)
    for number in range(500):
        view.snapshot.set_node(node(number, cpu=64000))
        for document in slices(f"node-{number:05d}"):
            view.apply(RESOURCE_SLICES, None, document)
    placer = Placer(view.snapshot)

    def items(prefix: str) -> list[QueueItem]:
        found = []
        for number in range(count):
            name = f"{prefix}-{number:05d}"
            metadata = {"name": name, "namespace": "bench", "uid": name}
            if claim is None:
                pod = d.with_extended_resource(EXTENDED) | {"metadata": metadata}
                found.append(QueueItem((view.pod(pod),)))
                continue
            view.apply(RESOURCE_CLAIMS, None, {"metadata": metadata, "spec": claim})
            found.append(
                QueueItem((Pod(("bench", name), shape(), name, claims=(("bench", name),)),))
            )
        return found

    decide(placer, items("held"))
    measured = items("pod")
    return lambda: decide(placer, measured), count


def extended_resource() -> Prepared:
    class_ = d.device_class(f'device.driver == "{DRIVER}"', extended=EXTENDED)
    return shaped_devices(class_, None, lambda name: [d.slice_of_gpus(name, 10)])


def consumable_capacity() -> Prepared:
    return shaped_devices(
        d.device_class(), d.shared_memory(), lambda name: [d.slice_of_gpus(name, 1, shared=True)]
    )


def partitionable() -> Prepared:
    return shaped_devices(
        d.device_class(driver=d.PARTITIONED),
        d.with_backtracking(),
        lambda name: d.partition_slices(name, 5),
        1000,
    )


def dra_gang(size: int = 1000) -> Prepared:
    view = dra_world(500, 8, "")
    items = _with_claims(view, size, "pod", "")
    gang = Gang(("bench", "gang"), size)
    pods = tuple(replace(item.pods[0], gang=gang.key) for item in items)
    placer = Placer(view.snapshot)
    return lambda: decide(placer, [QueueItem(pods, gang)]), size


def match_attribute() -> Prepared:
    """kubernetes#131730: two groups of devices, a claim that would need more of one than it has."""
    view = ClusterView()
    view.snapshot.set_node(node(0, cpu=64000))
    view.apply(DEVICE_CLASSES, None, {"metadata": {"name": "gpu"}, "spec": {}})
    document = _slice("node-00000", 18)
    for i, device in enumerate(document["spec"]["devices"]):
        device["attributes"]["root"] = {"string": f"root-{i % 2}"}
    view.apply(RESOURCE_SLICES, None, document)
    requests = [
        {"name": f"r{i}", "exactly": {"deviceClassName": "gpu", "count": 1}} for i in range(10)
    ]
    constraints = [{"matchAttribute": f"{DRIVER}/root"}]
    spec = {"devices": {"requests": requests, "constraints": constraints}}
    metadata = {"name": "c", "namespace": "bench", "uid": "c"}
    view.apply(RESOURCE_CLAIMS, None, {"metadata": metadata, "spec": spec})
    pod = Pod(("bench", "p"), shape(), "p", claims=(("bench", "c"),))
    placer = Placer(view.snapshot)
    return lambda: decide(placer, [QueueItem((pod,))]), 1


def explain() -> Prepared:
    """``kubarium why`` for a pod that fits on none of 5,000 full nodes, suggestions included."""
    placer = world(5000)
    decide(placer, singles(20000, shape(cpu=900), "low"))
    [item] = singles(1, shape(cpu=3000, node_selector=(Requirement("disk", "In", ("ssd",)),)), "w")
    subject = Subject(item.pods)

    def run() -> list[Decision]:
        verdict = placer.account(item.pods[0])
        found = Explainer(placer).suggest(subject)
        assert verdict.nodes == 5000
        assert found
        return []

    return run, 1


def explain_gang(size: int = 101) -> Prepared:
    """A gang that must stay in one of 50 racks, each of which has room for 100 of its pods."""
    placer = world(5000, racks=50)
    decide(placer, singles(5000, shape(cpu=2500), "low"))
    [item] = gangs(1, size, shape(cpu=1500), topology=RACK)

    def run() -> list[Decision]:
        found = Explainer(placer).suggest(Subject(item.pods, item.gang))
        assert {"lower-min-count", "remove-topology", "add-node"} <= {s.kind for s in found}
        return []

    return run, size


def _asking_pod(view: ClusterView, name: str, exactly: Document) -> Document:
    metadata = {"name": name, "namespace": "bench", "uid": name}
    spec = {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}
    view.apply(RESOURCE_CLAIMS, None, {"metadata": metadata, "spec": spec})
    return {
        "kind": "Pod",
        "metadata": {**metadata},
        "spec": {
            "containers": [{"name": "c", "image": "x"}],
            "resourceClaims": [{"name": "gpu", "resourceClaimName": name}],
        },
    }


def _told(
    view: ClusterView, subject: Document, documents: dict[Resource, list[Document]]
) -> Prepared:
    def run() -> list[Decision]:
        found = why.explain(documents, subject, view)
        while found.children:
            [found] = found.children
        assert found.state == "Pending"
        assert found.suggestions
        assert found.devices
        return []

    return run, 1


def explain_documents() -> Prepared:
    """``kubarium why`` on a view that follows the documents: one device more than a node has."""
    view = dra_world(5000, 8, f'device.driver == "{DRIVER}"')
    pod = _asking_pod(view, "c", {"deviceClassName": "gpu", "count": 9})
    return _told(view, pod, {})


def explain_clauses() -> Prepared:
    """Half of all devices are held, each has a uuid, and one clause of three matches nothing."""
    view = dra_world(5000, 8, f'device.driver == "{DRIVER}"')
    placer = Placer(view.snapshot)
    decide(placer, _with_claims(view, 20000, "held", ""))
    attributes = f'device.attributes["{DRIVER}"]'
    memory = f'device.capacity["{DRIVER}"].memory.compareTo(quantity("96Gi")) >= 0'
    text = f'{attributes}.model == "A100" && {attributes}.index >= 0 && {memory}'
    exactly = {"deviceClassName": "gpu", "selectors": [{"cel": {"expression": text}}]}
    return _told(view, _asking_pod(view, "c", exactly), {})


def explain_uuid(text: str = "") -> Prepared:
    """A selector that reads what differs on every node, and matches nothing."""
    view = dra_world(5000, 8, f'device.driver == "{DRIVER}"')
    attributes = f'device.attributes["{DRIVER}"]'
    text = text or f'{attributes}.model == "A100" && {attributes}.uuid == "GPU-missing"'
    exactly = {"deviceClassName": "gpu", "selectors": [{"cel": {"expression": text}}]}
    return _told(view, _asking_pod(view, "c", exactly), {})


def explain_device_gang(size: int = 64) -> Prepared:
    """A gang of 64 pods with 8 devices each where 63 nodes are left whole."""
    view = dra_world(5000, 8, f'device.driver == "{DRIVER}"')
    placer = Placer(view.snapshot)
    for number, item in enumerate(_with_claims(view, 4937, "held", "")):
        [pod] = item.pods
        within = np.zeros(view.snapshot.capacity, np.bool_)
        within[number] = True
        assert placer.place(pod, within) is not None
    pods = []
    for number in range(size):
        pod = _asking_pod(view, f"rank-{number}", {"deviceClassName": "gpu", "count": 8})
        pod["spec"]["schedulingGroup"] = {"podGroupName": "train"}
        pods.append(pod)
    group = {
        "kind": "PodGroup",
        "metadata": {"name": "train", "namespace": "bench", "uid": "train"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": size}}},
    }
    view.apply(POD_GROUPS, None, group)
    for pod in pods:
        view.apply(PODS, None, pod)
    return _told(view, group, {PODS: pods})


def attached_volumes(nodes: int = 5000, each: int = 20, pods: int = 2000) -> Prepared:
    """Each pod has a CSI volume of its own; nodes attach 39 and have 20 already."""
    placer = world(nodes)
    snapshot = placer.snapshot

    def mounting(name: str) -> Pod:
        key = ("bench", name)
        snapshot.volumes[key] = VolumeClaim(key, attaches=("csi.example.com", name))
        return Pod(key, shape(10, MIB), name, volumes=(key,))

    for number, name in enumerate(list(snapshot.rows)):
        snapshot.volume_limits[name] = {"csi.example.com": 39}
        for item in range(each):
            snapshot.place(mounting(f"old-{number}-{item}"), name)
    waiting = [QueueItem((mounting(f"new-{number}"),)) for number in range(pods)]
    return lambda: decide(placer, waiting), pods


RATES = (
    Row("SchedulingBasic 5,000 nodes 10,000 pods", basic, "680"),
    Row("SchedulingBasic 15,000 nodes 30,000 pods", lambda: basic(15000, 30000), ""),
    Row("SchedulingBasic 5,000 nodes 50,000 pods", lambda: basic(5000, 50000), "810"),
    Row("Unschedulable 5,000 nodes", unschedulable, "590"),
    Row("SchedulingDaemonset 15,000 nodes 30,000 pods", daemon_set, "1,100"),
    Row("Preemption 5,000 nodes 5,000 pods", preemption, "570", 0),
    Row("PodAntiAffinity 5,000 nodes 2,000 pods", anti_affinity, "60"),
    Row("PodAffinity 5,000 nodes 5,000 pods", affinity, "35"),
    Row("PreferredPodAffinity 5,000/5,000", preferred_affinity, "90"),
    Row("PreferredPodAntiAffinity 5,000/5,000", preferred_anti_affinity, "90"),
    Row("NodeAffinity 5,000 nodes 10,000 pods", node_affinity, "220"),
    Row("TopologySpreading 5,000/5,000", lambda: spread(hard=True), ""),
    Row("PreferredTopologySpreading 5,000/5,000", lambda: spread(hard=False), ""),
    Row("NodeVolumeLimits 5,000 nodes 2,000 pods", attached_volumes, ""),
    Row("MixedChurn 5,000 nodes 10,000 pods", mixed_churn, "710"),
    Row("DRA 500 nodes 2,500+2,500 claims", dra, "40 to 250"),
    Row(
        "DRA 500 nodes 2,500+2,500 claims, CEL",
        lambda: dra(f'device.attributes["{DRIVER}"].model == "A100"'),
        "40 to 250",
    ),
    Row("DRA extended resource, 500 nodes", extended_resource, "180"),
    Row("DRA consumable capacity, 500 nodes", consumable_capacity, "no threshold"),
    Row("DRA partitionable with backtracking", partitionable, "no threshold"),
    Row("Gangs 1,000 of 3 on 5,000 nodes", lambda: gang_rows(1000, 3), "no threshold"),
    Row("Gangs 9 of 1,000 on 5,000 nodes", lambda: gang_rows(9, 1000), "no threshold"),
    Row("Gangs 10 of 5,000 on 5,000 nodes", lambda: gang_rows(10, 5000), "no threshold"),
    Row(
        "Topology gangs 750 of 4, 50 racks",
        lambda: gang_rows(750, 4, topology=RACK),
        "no threshold",
    ),
    Row(
        "Composites 500 of 3 x 4, racks in a zone",
        lambda: composite_rows(500, 3, 4),
        "no threshold",
    ),
    Row(
        "Topology gangs 9 of 1,000, 3 zones",
        lambda: gang_rows(9, 1000, topology=ZONE),
        "no threshold",
    ),
)

TIMES = (
    Row("one gang of 1,000 on 5,000 nodes", one_gang, "aim: < 50 ms; KAI: 49 s for 512"),
    Row("one mixed gang of 999 on 5,000 nodes", mixed_gang, "three kinds of pods"),
    Row("one composite of 8 x 125, racks in a zone", one_composite, "no number published"),
    Row("one gang of 1,000 with a device each", dra_gang, "500 nodes of 8 devices"),
    Row("victims for a gang of 1,000, one pod a node", gang_preemption, "no number published", 0),
    Row(
        "victims for a gang of 1,000, four a node",
        lambda: gang_preemption(4),
        "no number published",
        0,
    ),
    Row("verdict on a gang that does not fit", gang_verdict, "aim: < 100 ms", 0),
    Row("verdict on a mixed gang of 160, 90 racks", mixed_verdict, "aim: < 100 ms", 0),
    Row("verdict on a mixed gang of 160, 10 racks", mixed_beside, "aim: < 100 ms", 0),
    Row("verdict on a mixed gang, undecided", mixed_undecided, "5,000 placements tried", 0),
    Row("verdict on a composite that does not fit", composite_verdict, "aim: < 100 ms", 0),
    Row("infeasible matchAttribute", match_attribute, "aim: < 1 s (kubernetes#131730)", 0),
    Row("explain a pod on 5,000 nodes", explain, "aim: < 100 ms", 0),
    Row("explain a gang of 101 in one rack", explain_gang, "aim: < 100 ms", 0),
    Row("explain a claim, 5,000 nodes of 8 devices", explain_documents, "aim: < 100 ms", 0),
    Row("explain a claim of 3 clauses, half in use", explain_clauses, "aim: < 100 ms", 0),
    Row("explain a claim of one uuid, 5,000 nodes", explain_uuid, "aim: < 100 ms", 0),
    Row("explain a gang of 64 with 8 devices each", explain_device_gang, "aim: < 100 ms", 0),
)


def _once(row: Row) -> tuple[float, int]:
    """(seconds, pods) of one repetition in a fresh world; a wrong number placed is an error."""
    run, pods = row.prepare()
    gc.collect()
    gc.disable()
    began = time.process_time()
    decisions = run()
    spent = time.process_time() - began
    gc.enable()
    placed = sum(len(d.placements) for d in decisions)
    if placed != (pods if row.placed is None else row.placed):
        raise AssertionError(f"{row.name}: {placed} of {pods} pods were placed")
    return spent, pods


def _chosen(rows: tuple[Row, ...], parts: Sequence[str]) -> Iterator[Row]:
    for row in rows:
        if not parts or any(part.lower() in row.name.lower() for part in parts):
            yield row


def bench_engine(report: Rows, parts: Sequence[str] = ()) -> None:
    """Decisions a second, and the time of single large ones, median of fresh repetitions."""
    if not list(_chosen((*RATES, *TIMES), parts)):
        names = [row.name for row in (*RATES, *TIMES)]
        sys.exit("\n".join([f"no row is called like {' or '.join(parts)}; rows:", *names]))
    for row in _chosen(RATES, parts):
        rates = [pods / spent for spent, pods in (_once(row) for _ in range(REPETITIONS))]
        compare = f"kube-scheduler: {row.compare} /s" if row.compare else ""
        report.add(
            "engine", row.name, rates, "pods/s", compare.replace("threshold /s", "threshold")
        )
    for row in _chosen(TIMES, parts):
        times = [1000 * _once(row)[0] for _ in range(REPETITIONS)]
        report.add("engine", row.name, times, "ms", row.compare)


class _Lines:
    """A report for the command line: one line a row."""

    def add(self, row: str, figure: str, values: list[float], unit: str, compare: str = "") -> None:
        middle = sorted(values)[len(values) // 2]
        print(f"{figure:45} {middle:10,.1f} {unit:7} {compare}", flush=True)


if __name__ == "__main__":
    bench_engine(_Lines(), sys.argv[1:])
