"""scheduler-plugins' PodGroups: what their fields do when all pods are placed in one decision."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import NODES, PODS, PRIORITY_CLASSES
from kubarium.client.gather import gather
from kubarium.control.scheduling import components
from kubarium.view.gangs import COSCHEDULING_GROUPS
from kubarium.view.why import RESOURCES_NEEDED, explain

from .test_scheduler import node, node_of, pod, scheduled_condition


def podgroup(name="team", **spec):
    return {
        "apiVersion": "scheduling.x-k8s.io/v1alpha1",
        "kind": "PodGroup",
        "metadata": {"name": name},
        "spec": {"minMember": 2, **spec},
    }


def member(name, **spec):
    document = pod(name, **spec)
    document["metadata"]["labels"] = {"scheduling.x-k8s.io/pod-group": "team"}
    return document


async def begin(world, group, *nodes, pods=(), **spec):
    await world.install("scheduling.x-k8s.io")
    for document in nodes:
        await world.create(NODES, document)
    await world.start(*components(world.context))
    for document in pods:
        await world.create(PODS, document)
    await world.settle()
    await world.create(COSCHEDULING_GROUPS, group)
    for name in ("p0", "p1"):
        await world.create(PODS, member(name, **spec))
    await world.settle(15)


async def placed(world):
    return [bool(await node_of(world, name)) for name in ("p0", "p1")]


async def message(world):
    return (await scheduled_condition(world, "p0"))["message"]


def test_a_group_waits_until_the_nodes_have_its_minimum_of_resources_left(world_run):
    async def story(world):
        group = podgroup(minResources={"cpu": "6", "memory": "4Gi"})
        await begin(world, group, node("a"), node("b", cpu="1"))
        assert await placed(world) == [False, False]
        assert await message(world) == "resource gap: map[cpu:1]"
        phase = (await world.get(COSCHEDULING_GROUPS, "team"))["status"]["phase"]
        assert phase == "Pending"
        documents = await gather(world.client, RESOURCES_NEEDED)
        told = explain(documents, {"kind": "Pod", **await world.get(PODS, "p0")})
        assert told.children[0].summary == "resource gap: map[cpu:1]"
        await world.create(NODES, node("c", cpu="1"))
        await world.settle(15)
        assert await placed(world) == [True, True]

    world_run(story)


def test_a_group_whose_minimum_is_lowered_starts(world_run):
    async def story(world):
        await begin(world, podgroup(minResources={"cpu": "6"}), node("a"))
        assert await placed(world) == [False, False]
        lower = {"spec": {"minResources": {"cpu": "2"}}}
        await world.client.patch(COSCHEDULING_GROUPS, "team", lower, "default")
        await world.settle(15)
        assert await placed(world) == [True, True]

    world_run(story)


def test_a_group_with_members_counts_what_they_have_as_left(world_run):
    async def story(world):
        group = podgroup(minResources={"cpu": "4"})
        await begin(world, group, node("a"))
        assert await placed(world) == [True, True]
        await world.client.delete(PODS, "p1", "default", grace_period_s=0)
        await world.create(PODS, member("p1"))
        await world.settle(15)
        assert await placed(world) == [True, True]

    world_run(story)


def test_nobody_is_evicted_for_a_group_that_could_not_start_even_then(world_run):
    async def story(world):
        urgent = {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "urgent"},
            "value": 1000,
        }
        await world.create(PRIORITY_CLASSES, urgent)
        group = podgroup(minResources={"cpu": "9"})
        low = pod("low", cpu="3")
        await begin(world, group, node("a"), pods=[low], cpu="2", priorityClassName="urgent")
        assert await placed(world) == [False, False]
        assert "deletionTimestamp" not in (await world.get(PODS, "low"))["metadata"]
        assert "Insufficient cpu" in await message(world)  # what is in the way is told all the same

    world_run(story)


@pytest.mark.parametrize("seconds", [1, 600])
def test_no_pod_of_a_group_holds_room_while_it_waits_however_long_that_is_allowed(
    world_run, seconds
):
    """Upstream gives the room back after scheduleTimeoutSeconds; here none is taken."""

    async def story(world):
        group = podgroup(scheduleTimeoutSeconds=seconds)
        await begin(world, group, node("a", cpu="1"))
        assert await placed(world) == [False, False]
        await world.create(PODS, pod("other"))
        await world.settle()
        assert await node_of(world, "other") == "a"
        await world.create(NODES, node("b", cpu="2"))
        await world.settle(15)
        assert await placed(world) == [True, True]

    world_run(story)
