"""A pod that evicts others: when it is decided again, and that it is never left behind."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    NODES,
    PODS,
    PRIORITY_CLASSES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.base.errors import forbidden

from .test_scheduler import claim, device_class, node, node_of, pod, slices
from .test_wakeups import cycles_of, start

HOSTNAME = "kubernetes.io/hostname"
CLASSES = {"urgent": 1000, "critical": 2000}


def on(name, where, cpu="1", **spec):
    return pod(name, cpu=cpu, nodeSelector={HOSTNAME: where}, **spec)


async def begin(world, *nodes, pods=()):
    scheduler = await start(world, *nodes)
    for name, value in CLASSES.items():
        document = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
        await world.create(
            PRIORITY_CLASSES, {**document, "metadata": {"name": name}, "value": value}
        )
    for document in pods:
        await world.create(PODS, document)
    await world.settle()
    return scheduler


async def leave(world, *names):
    """The node has ended these pods."""
    for name in names:
        await world.client.delete(PODS, name, "default", grace_period_s=0)


async def preemptor(world, name="urgent", priority="urgent", cpu="2"):
    await world.create(PODS, pod(name, cpu=cpu, priorityClassName=priority))
    await world.settle(20)
    return await nominated(world, name)


async def nominated(world, name="urgent"):
    return (await world.get(PODS, name))["status"].get("nominatedNodeName")


async def going(world):
    return sorted(
        p["metadata"]["name"]
        for p in await world.find(PODS)
        if "deletionTimestamp" in p["metadata"]
    )


TWO_NODES = (node("a", cpu="2"), node("b", cpu="2"))
OCCUPANTS = (on("a1", "a"), on("a2", "a"), on("b1", "b", "500m"), on("b2", "b", "1500m"))


def test_it_sleeps_while_its_victims_go_and_is_decided_once_when_they_are_gone(world_run):
    async def story(world):
        scheduler = await begin(world, *TWO_NODES, pods=OCCUPANTS)
        where = await preemptor(world)
        victims = [f"{where}1", f"{where}2"]
        assert await going(world) == victims
        elsewhere = "b1" if where == "a" else "a1"
        assert await cycles_of(world, scheduler, leave(world, elsewhere)) == 0
        assert await cycles_of(world, scheduler, leave(world, victims[0])) == 0
        assert await cycles_of(world, scheduler, leave(world, victims[1])) == 1
        assert await node_of(world, "urgent") == where

    world_run(story)


def test_room_that_comes_elsewhere_is_taken(world_run):
    async def story(world):
        scheduler = await begin(world, *TWO_NODES, pods=OCCUPANTS)
        where = await preemptor(world)
        other = "b" if where == "a" else "a"
        assert await cycles_of(world, scheduler, leave(world, f"{other}1")) == 0
        assert await cycles_of(world, scheduler, leave(world, f"{other}2")) == 1
        assert await node_of(world, "urgent") == other

    world_run(story)


def test_room_that_another_was_promised_wakes_only_that_one(world_run):
    async def story(world):
        scheduler = await begin(world, *TWO_NODES, pods=OCCUPANTS)
        first = await preemptor(world, "urgent-1")
        second = await preemptor(world, "urgent-2")
        assert {first, second} == {"a", "b"}
        assert await cycles_of(world, scheduler, leave(world, "a1", "a2")) == 1
        placed = "urgent-1" if first == "a" else "urgent-2"
        assert await node_of(world, placed) == "a"
        assert await cycles_of(world, scheduler, leave(world, "b1", "b2")) == 1

    world_run(story)


def test_a_new_node_is_taken_at_once(world_run):
    async def story(world):
        await begin(world, *TWO_NODES, pods=OCCUPANTS)
        await preemptor(world)
        await world.create(NODES, node("c", cpu="2"))
        await world.settle(10)
        assert await node_of(world, "urgent") == "c"

    world_run(story)


def test_a_node_that_goes_takes_the_promise_with_it(world_run):
    async def story(world):
        await begin(world, *TWO_NODES, pods=OCCUPANTS)
        where = await preemptor(world)
        other = "b" if where == "a" else "a"
        await world.client.delete(NODES, where)
        await world.settle(10)
        assert await nominated(world) == other
        await leave(world, f"{other}1", f"{other}2")
        await world.settle(10)
        assert await node_of(world, "urgent") == other

    world_run(story)


def test_who_loses_its_node_to_a_higher_priority_makes_room_elsewhere(world_run):
    async def story(world):
        await begin(world, *TWO_NODES, pods=OCCUPANTS)
        first = await preemptor(world)
        # The node whose pods go already costs the least.
        only_there = {"nodeSelector": {HOSTNAME: first}}
        await world.create(
            PODS, pod("critical", cpu="2", priorityClassName="critical", **only_there)
        )
        await world.settle(20)
        other = "b" if first == "a" else "a"
        assert await nominated(world) == other
        assert await going(world) == ["a1", "a2", "b1", "b2"]
        await world.finish_deletions()
        await world.settle(20)
        assert await node_of(world, "critical") == first
        assert await node_of(world, "urgent") == other

    world_run(story)


def test_room_that_a_stranger_took_is_looked_for_again(world_run):
    async def story(world):
        await begin(world, *TWO_NODES, pods=OCCUPANTS)
        where = await preemptor(world)
        # Bound past the scheduler, before the last victim has left.
        await world.create(
            PODS, pod("stranger", cpu="1", nodeName=where, priorityClassName="critical")
        )
        await leave(world, f"{where}1", f"{where}2")
        await world.settle(20)
        other = "b" if where == "a" else "a"
        assert await nominated(world) == other
        assert await going(world) == [f"{other}1", f"{other}2"]

    world_run(story)


def node_told(document):
    return (document.get("status") or {}).get("nominatedNodeName")


def condition_of(document):
    (condition,) = document["status"]["conditions"]
    return condition["message"]


def test_who_finds_no_more_victims_gives_its_promise_back(world_run):
    async def story(world):
        await begin(world, node("a", cpu="2"), pods=[on("a1", "a"), on("a2", "a")])
        assert await preemptor(world) == "a"
        await world.create(
            PODS, pod("stranger", cpu="1", nodeName="a", priorityClassName="critical")
        )
        await leave(world, "a1", "a2")
        seen = []
        world.context.informers.get(PODS).on_change(lambda old, new: seen.append((old, new)))
        await world.settle(20)
        assert await nominated(world) is None
        taken_back = [
            condition_of(new) != condition_of(old)
            for old, new in seen
            if old is not None and new is not None and node_told(old) and not node_told(new)
        ]
        assert taken_back == [True], "in the write that says why"
        await world.create(PODS, pod("small"))
        await world.settle(20)
        assert await node_of(world, "small") == "a"

    world_run(story)


@pytest.mark.parametrize("error", [forbidden("pods", "", "a1", "not now"), KeyError("a bug")])
def test_victims_that_were_not_evicted_are_tried_again(world_run, monkeypatch, error):
    async def story(world):
        scheduler = await begin(world, node("a", cpu="2"), pods=[on("a1", "a"), on("a2", "a")])
        committer, refusals = scheduler._committer, []
        evict = committer._evict

        async def once_refused(victim, by):
            if not refusals:
                refusals.append(victim.key[1])
                raise error
            await evict(victim, by)

        monkeypatch.setattr(committer, "_evict", once_refused)
        assert await preemptor(world) == "a"
        assert refusals
        assert await going(world) == ["a1", "a2"]
        await leave(world, "a1", "a2")
        await world.settle(10)
        assert await node_of(world, "urgent") == "a"

    world_run(story)


def test_while_its_victims_are_told_no_others_are_chosen(world_run, monkeypatch):
    async def story(world):
        scheduler = await begin(world, *TWO_NODES, pods=OCCUPANTS)
        committer = scheduler._committer
        evict = committer._evict

        async def slowly(victim, by):
            await world.clock.sleep(5)
            await evict(victim, by)

        monkeypatch.setattr(committer, "_evict", slowly)
        await world.create(PODS, pod("urgent", cpu="2", priorityClassName="urgent"))
        await world.settle(3)
        where = await nominated(world)
        other = "b" if where == "a" else "a"
        # The other node becomes the better choice, and the pod is to be decided again.
        await leave(world, f"{other}1")
        label = {"metadata": {"labels": {"x": "y"}}}
        await world.client.patch(PODS, "urgent", label, "default")
        await world.settle(30)
        assert await nominated(world) == where
        assert await going(world) == [f"{where}1", f"{where}2"]
        await leave(world, f"{where}1", f"{where}2")
        await world.settle(10)
        assert await node_of(world, "urgent") == where

    world_run(story)


def test_one_that_waits_for_devices_keeps_its_promise_until_they_are_free(world_run):
    async def story(world):
        # Its victims' devices are given back some time after the pods have gone.
        await begin(world, node("a", cpu="4"))
        await world.create(DEVICE_CLASSES, device_class())
        await world.create(RESOURCE_SLICES, slices("a", 1))
        await world.create(RESOURCE_CLAIMS, claim("first"))
        await world.create(PODS, pod("low", claims=["first"]))
        await world.settle()
        await world.create(RESOURCE_CLAIMS, claim("second"))
        await world.create(PODS, pod("urgent", claims=["second"], priorityClassName="urgent"))
        await world.settle(20)
        assert await nominated(world) == "a"
        await leave(world, "low")
        await world.settle(20)
        assert await nominated(world) == "a"

    world_run(story)
