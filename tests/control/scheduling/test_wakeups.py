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
