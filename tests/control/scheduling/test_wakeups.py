"""A rejected pod sleeps until something happens that could help it: cycles are counted."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    RESOURCE_SLICES,
)
from kubarium.client.protocol import STRATEGIC_MERGE_PATCH
from kubarium.control.scheduling import components
from kubarium.control.scheduling.ahead import Ahead
from kubarium.control.scheduling.scheduler import Scheduler
from kubarium.control.scheduling.waiting import WaitingPods
from kubarium.view.scheduling import read_config
from kubarium.view.volumes import CSI_NODES

from .test_scheduler import begin, device_class, node, node_of, pod, scheduled_condition, slices

GPU_TAINT = {"key": "gpu", "value": "only", "effect": "NoSchedule"}


async def start(world, *nodes):
    """The scheduler, to count its cycles."""
    for document in nodes:
        await world.create(NODES, document)
    [scheduler] = components(world.context)
    await world.start(scheduler)
    await world.settle(0.1)
    return scheduler


async def change_node(world, name, **parts):
    """Merge into labels, taints (spec) or status of a node."""
    for part, change in parts.items():
        subresource = "status" if part == "status" else ""
        patch = {"metadata": change} if part == "metadata" else {part: change}
        await world.client.patch(NODES, name, patch, subresource=subresource)


async def cycles_of(world, scheduler, happening):
    """How many cycles something causes, back-off included."""
    before = scheduler.cycles
    await happening
    await world.settle(30)
    return scheduler.cycles - before


def relabel(world, **labels):
    return change_node(world, "a", metadata={"labels": labels})


def retaint(world, *taints):
    return change_node(world, "a", spec={"taints": list(taints)})


def resize(world, **amounts):
    return change_node(world, "a", status={"allocatable": amounts})


def pull(world):
    images = [{"names": ["busybox:1"], "sizeBytes": 1}]
    return change_node(world, "a", status={"images": images})


def another_claim(world):
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "other"}}
    return world.create(PERSISTENT_VOLUME_CLAIMS, {**claim, "spec": spec})


def useless_node(world):
    return world.create(NODES, node("tiny", cpu="1", taints=[GPU_TAINT]))


def driver(world):
    document = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSINode",
        "metadata": {"name": "a"},
        "spec": {"drivers": [{"name": "d", "nodeID": "a", "allocatable": {"count": 1}}]},
    }
    return world.create(CSI_NODES, document)


def devices(world):
    return world.create(RESOURCE_SLICES, slices("a", 1))


IRRELEVANT = {
    "too large": [relabel, retaint, pull, another_claim, useless_node, driver, devices],
    "tainted": [relabel, pull, another_claim, useless_node, driver, devices],
    "labelled": [retaint, pull, another_claim, useless_node, driver, devices],
}
WAITING = {
    "too large": pod("p", cpu="6"),
    "tainted": pod("p"),
    "labelled": pod("p", nodeSelector={"disk": "ssd"}),
}


async def waiting(world, kind):
    taints = [GPU_TAINT] if kind == "tainted" else []
    scheduler = await start(world, node("a", taints=taints))
    await world.create(PODS, WAITING[kind])
    await world.settle(30)
    assert (await scheduled_condition(world, "p"))["reason"] == "Unschedulable"
    return scheduler


@pytest.mark.parametrize("kind", IRRELEVANT)
def test_what_cannot_help_wakes_nobody(world_run, kind):
    async def story(world):
        scheduler = await waiting(world, kind)
        for happening in IRRELEVANT[kind]:
            caused = await cycles_of(world, scheduler, happening(world))
            assert caused == 0, happening.__name__

    world_run(story)


@pytest.mark.parametrize(
    ("kind", "cure"),
    [
        ("too large", lambda world: resize(world, cpu="8", memory="16Gi", pods="110")),
        ("too large", lambda world: world.create(NODES, node("b", cpu="8"))),
        ("tainted", retaint),
        ("labelled", lambda world: relabel(world, disk="ssd")),
    ],
)
def test_what_helps_wakes_the_pod_once(world_run, kind, cure):
    async def story(world):
        scheduler = await waiting(world, kind)
        assert await cycles_of(world, scheduler, cure(world)) == 1
        assert await node_of(world, "p")

    world_run(story)


def test_a_node_that_shrinks_or_only_grows_elsewhere_wakes_nobody(world_run):
    async def story(world):
        scheduler = await waiting(world, "too large")
        assert await cycles_of(world, scheduler, resize(world, cpu="2")) == 0
        # More, but still too small for the pod: upstream's isFit.
        assert await cycles_of(world, scheduler, resize(world, cpu="5")) == 0

    world_run(story)


def test_a_node_that_leaves_an_extended_resource_to_dra_wakes_who_asks_for_it(world_run):
    async def story(world):
        name = "example.com/gpu"
        named = device_class()
        named["spec"]["extendedResourceName"] = name
        await world.create(DEVICE_CLASSES, named)
        await world.create(RESOURCE_SLICES, slices("a", 2))
        scheduler = await start(world, node("a"))
        await resize(world, **{name: "1"})
        asks = pod("p")
        asks["spec"]["containers"][0]["resources"]["requests"][name] = "2"
        asks["spec"]["containers"][0]["resources"]["limits"] = {name: "2"}
        await world.create(PODS, asks)
        await world.settle(30)
        assert (await scheduled_condition(world, "p"))["reason"] == "Unschedulable"
        assert await cycles_of(world, scheduler, resize(world, **{name: "0"})) == 1
        assert await node_of(world, "p") == "a"

    world_run(story)


def test_a_pod_that_leaves_makes_room_and_one_that_asks_for_less_too(world_run):
    async def story(world):
        await begin(world, node("a"))
        await world.create(PODS, pod("big", cpu="3"))
        await world.settle()
        await world.create(PODS, pod("p", cpu="2"))
        await world.settle(30)
        assert await node_of(world, "p") is None
        less = {"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": "1"}}}]}}
        await world.client.patch(
            PODS, "big", less, "default", patch_type=STRATEGIC_MERGE_PATCH, subresource="resize"
        )
        await world.settle(30)
        assert await node_of(world, "p") == "a"

    world_run(story)


def test_a_pod_that_wants_company_wakes_for_it_alone(world_run):
    async def story(world):
        scheduler = await start(world, node("a"))
        term = {
            "topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "db"}},
        }
        near = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
        await world.create(PODS, pod("p", affinity=near))
        await world.settle(30)
        assert await node_of(world, "p") is None
        # One cycle places the stranger; the pod is not looked at again.
        assert await cycles_of(world, scheduler, world.create(PODS, pod("stranger"))) == 1
        friend = pod("friend")
        friend["metadata"]["labels"] = {"app": "db"}
        assert await cycles_of(world, scheduler, world.create(PODS, friend)) == 2
        assert await node_of(world, "p") == "a"

    world_run(story)


def test_what_nobody_foresaw_is_found_by_the_flush_after_five_minutes(world_run):
    async def story(world):
        scheduler = await waiting(world, "too large")
        before = scheduler.cycles
        await world.settle(300)
        assert scheduler.cycles == before + 1

    world_run(story)


# Pods that stand in the way of others, and what of theirs matters to whom


def wanting(name, *, app="x", **spec):
    document = pod(name, **spec)
    document["metadata"]["labels"] = {"app": app}
    return document


def with_port(document, port=80):
    document["spec"]["containers"][0]["ports"] = [{"containerPort": port, "hostPort": port}]
    return document


def apart(app="x"):
    term = {
        "topologyKey": "kubernetes.io/hostname",
        "labelSelector": {"matchLabels": {"app": app}},
    }
    required = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    return {"podAntiAffinity": required}


def even(app="x"):
    return [
        {
            "topologyKey": "kubernetes.io/hostname",
            "maxSkew": 1,
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": app}},
        }
    ]


IN_THE_WAY = {
    "port": (with_port(wanting("there")), with_port(wanting("p"))),
    "avoided": (wanting("there"), wanting("p", app="y", affinity=apart())),
    "avoids": (wanting("there", affinity=apart("y")), wanting("p", app="y")),
    "counted": (wanting("there"), wanting("p", topologySpreadConstraints=even())),
}


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_only_who_stood_in_the_way_wakes_others_when_it_goes(world_run, kind):
    async def story(world):
        # The second node is one more domain, and never has room.
        scheduler = await start(world, node("a"), node("b", cpu="100m"))
        there, waits = IN_THE_WAY[kind]
        stranger = with_port(wanting("stranger", app="z"), 81)
        for document in (there, stranger, waits):
            await world.create(PODS, document)
            await world.settle()
        await world.settle(30)
        assert await node_of(world, "p") is None
        if kind != "port":
            relabelled = {"metadata": {"labels": {"app": "w"}}}
            change = world.client.patch(PODS, "stranger", relabelled, "default")
            assert await cycles_of(world, scheduler, change) == 0
        gone = world.client.delete(PODS, "stranger", "default", grace_period_s=0)
        # Insufficient cpu is said of the second node, and room helps against that.
        assert await cycles_of(world, scheduler, gone) <= 1
        assert await node_of(world, "p") is None
        gone = world.client.delete(PODS, "there", "default", grace_period_s=0)
        assert await cycles_of(world, scheduler, gone) == 1
        assert await node_of(world, "p") == "a"

    world_run(story)


@pytest.mark.parametrize("kind", ["port", "avoided", "avoids"])
def test_a_stranger_that_goes_wakes_nobody(world_run, kind):
    async def story(world):
        scheduler = await start(world, node("a"))
        there, waits = IN_THE_WAY[kind]
        for document in (there, with_port(wanting("stranger", app="z"), 81), waits):
            await world.create(PODS, document)
            await world.settle()
        await world.settle(30)
        for change in (
            world.client.delete(PODS, "stranger", "default", grace_period_s=0),
            relabel(world, anything="else"),
            resize(world, memory="32Gi"),
            pull(world),
        ):
            assert await cycles_of(world, scheduler, change) == 0
        assert await node_of(world, "p") is None

    world_run(story)


def test_who_asks_for_less_of_what_nobody_waits_for_wakes_nobody(world_run):
    async def story(world):
        scheduler = await start(world, node("a"))
        big = pod("big", cpu="3")
        big["spec"]["containers"][0]["resources"]["requests"]["memory"] = "8Gi"
        await world.create(PODS, big)
        await world.create(PODS, pod("p", cpu="2"))
        await world.settle(30)
        requests = {"cpu": "3", "memory": "4Gi"}
        less = {"spec": {"containers": [{"name": "main", "resources": {"requests": requests}}]}}
        change = world.client.patch(
            PODS, "big", less, "default", patch_type=STRATEGIC_MERGE_PATCH, subresource="resize"
        )
        assert await cycles_of(world, scheduler, change) == 0

    world_run(story)


def test_a_scheduler_with_its_own_profile_is_woken_as_seldom(world_run):
    """What the profile adds or leaves out is part of what a node must be like."""

    async def story(world):
        added = {"key": "disk", "operator": "In", "values": ["ssd"]}
        required = {"nodeSelectorTerms": [{"matchExpressions": [added]}]}
        args = {"addedAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
        config = read_config(
            {
                "profiles": [
                    {
                        "plugins": {"filter": {"disabled": [{"name": "TaintToleration"}]}},
                        "pluginConfig": [{"name": "NodeAffinity", "args": args}],
                    }
                ]
            }
        )
        await world.create(NODES, node("a", taints=[GPU_TAINT]))
        scheduler = Scheduler(world.context, config)
        await world.start(scheduler)
        await world.create(PODS, pod("p"))
        await world.settle(30)
        assert await node_of(world, "p") is None
        for change in (relabel(world, disk="hdd"), resize(world, memory="32Gi"), retaint(world)):
            assert await cycles_of(world, scheduler, change) == 0
        await retaint(world, GPU_TAINT)
        assert await cycles_of(world, scheduler, relabel(world, disk="ssd")) == 1
        assert await node_of(world, "p") == "a"

    world_run(story)


def test_of_many_pods_that_are_alike_one_is_looked_at(world_run, monkeypatch):
    """However many wait, a node that changes costs as much as one of each kind."""
    looked_at = []
    documents_of = WaitingPods.documents_of

    def counted(self, item):
        looked_at.append(item)
        return documents_of(self, item)

    async def story(world):
        scheduler = await start(world, node("a", taints=[GPU_TAINT]))
        for i in range(30):
            await world.create(PODS, pod(f"p{i}"))
            await world.create(PODS, pod(f"large-{i}", cpu="6"))
        await world.settle(30)
        monkeypatch.setattr(WaitingPods, "documents_of", counted)
        assert await cycles_of(world, scheduler, relabel(world, anything="else")) == 0
        assert len(looked_at) == 2
        await world.create(NODES, node("b", cpu="210"))
        await world.settle(30)
        assert all(p["spec"].get("nodeName") == "b" for p in await world.find(PODS))

    world_run(story)


@pytest.mark.parametrize("ahead", [Ahead(at_once=0), Ahead()], ids=["in full", "ahead of time"])
def test_a_pod_that_is_changed_again_and_again_is_tried_no_oftener_than_others(world_run, ahead):
    async def story(world):
        scheduler = await start(world, node("a"))
        scheduler._queue.ahead = ahead
        await world.create(PODS, pod("p", cpu="6"))
        await world.settle(30)
        before = scheduler.cycles
        for i in range(1000):
            change = {"metadata": {"labels": {"flips": str(i)}}}
            await world.client.patch(PODS, "p", change, "default")
            await world.settle(0.02)
        # 20 s: at once, then after 2, 4, 8 and 10 s of back-off, and what is rationed.
        rationed = ahead.at_once + 20 * ahead.per_s if ahead.at_once else 0
        assert scheduler.cycles - before <= 5 + rationed
        await resize(world, cpu="8")
        await world.settle(11)
        assert await node_of(world, "p") == "a"

    world_run(story)


def test_a_pod_gets_the_room_that_comes_without_waiting_for_its_back_off(world_run):
    async def story(world):
        await start(world, node("a"))
        await world.create(PODS, pod("big", cpu="3"))
        await world.settle(1)
        for name in ("p", "q"):
            await world.create(PODS, pod(name, cpu="3"))
        await world.settle(0.1)
        for gone, came in (("big", "p"), ("p", "q")):
            await world.client.delete(PODS, gone, "default", grace_period_s=0)
            await world.settle(0.1)
            assert await node_of(world, came) == "a"

    world_run(story)


def test_a_pod_that_nothing_helps_is_left_alone(world_run):
    async def story(world):
        scheduler = await start(world, node("a"))
        await world.create(PODS, pod("p", cpu="6"))
        await world.settle(1)
        before = scheduler.cycles
        await world.settle(200)
        assert scheduler.cycles == before

    world_run(story)
