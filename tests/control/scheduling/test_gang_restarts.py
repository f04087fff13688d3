"""Schedulers that die half-way through a gang: the next finishes it, and nothing leaks."""

from __future__ import annotations

import itertools

import pytest

from kubarium.api.kinds import (
    COMPOSITE_POD_GROUPS,
    DEVICE_CLASSES,
    NODES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.base.errors import ApiError
from kubarium.control import devices, gangs
from kubarium.control.scheduling.commit import Committer
from kubarium.view.gangs import COSCHEDULING_GROUPS
from tests.control.scheduling.test_scheduler import claim, device_class, slices

from .crashes import Life, bound_of, check_world
from .test_gang_faults import group, once
from .test_groups import apply, composite, condition, member, node, slice_group, where


def priority_class(name, value):
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
    }


def alone(name, cpu="2", **spec):
    document = member(name, "", cpu=cpu, **spec)
    del document["spec"]["schedulingGroup"]
    return document


def with_claim(name, claim_name, **spec):
    wants = [{"name": "gpu", "resourceClaimName": claim_name}]
    return member(name, "g", cpu="2", resourceClaims=wants, **spec)


async def begin(world, nodes=3, *, gpus=0):
    """Everything but a scheduler: nodes of two cores, with so many devices each."""
    await world.start(*gangs.components(world.context), *devices.components(world.context))
    await apply(world, priority_class("low", 0), priority_class("high", 9))
    await world.create(DEVICE_CLASSES, device_class())
    for i in range(1, nodes + 1):
        await apply(world, node(f"n{i}", "2"))
        if gpus:
            await world.create(RESOURCE_SLICES, slices(f"n{i}", gpus))


async def nominations(world):
    return {
        p["metadata"]["name"]: name
        for p in await world.find(PODS)
        if (name := p["status"].get("nominatedNodeName")) and not p["spec"].get("nodeName")
    }


async def allocated(world):
    return {
        c["metadata"]["name"]
        for c in await world.find(RESOURCE_CLAIMS)
        if (c.get("status") or {}).get("allocation")
    }


def deaths():
    """After so many writes, done or with their last answer lost."""
    return ((writes, lost) for writes in itertools.count(1) for lost in (False, True))


@pytest.mark.parametrize("rival", ["low", "high"])
def test_a_gang_whose_scheduler_died_while_it_was_written_is_finished_by_the_next(world_run, rival):
    async def story(world, writes, lost):
        await begin(world, gpus=1)
        for i in range(3):
            await world.create(RESOURCE_CLAIMS, claim(f"c{i}"))
        first = Life(world, writes, lost=lost)
        await world.settle(0.5)
        await apply(world, group("g", 3), *(with_claim(f"g-{i}", f"c{i}") for i in range(3)))
        await world.settle(5)
        await first.end()
        begun = await bound_of(world, "g")
        await apply(world, alone("rival", priorityClassName=rival))
        second = Life(world)
        await world.settle(30)
        await world.finish_deletions()
        await world.settle(30)
        await check_world(world)
        finished = await bound_of(world, "g")
        if begun:
            told = await condition(world, POD_GROUPS, "g")
            assert told["status"] == "True", f"{writes} {lost}: {begun}"
        if rival == "low":
            assert len(finished) == 3, f"{writes} {lost}"
        elif not begun:
            assert finished == [], f"{writes} {lost}"
            assert await allocated(world) == set(), f"{writes} {lost}"
        await second.end()
        return first.client.dead.is_set()

    for writes, lost in deaths():
        if not world_run(lambda world, w=writes, x=lost: story(world, w, x)):
            break
    assert writes > 8


def test_a_hierarchy_whose_scheduler_died_while_it_was_written_is_finished(world_run):
    async def story(world, writes, lost):
        await begin(world)
        first = Life(world, writes, lost=lost)
        await world.settle(0.5)
        await apply(
            world,
            composite("job", 2, workload="w"),
            slice_group("a", 1, workload="w", rack=False),
            slice_group("b", 2, workload="w", rack=False),
            member("a-0", "a", cpu="2"),
            *(member(f"b-{i}", "b", cpu="2") for i in range(2)),
        )
        await world.settle(5)
        await first.end()
        begun = [*await bound_of(world, "a"), *await bound_of(world, "b")]
        await apply(world, alone("rival", priorityClassName="high"))
        second = Life(world)
        await world.settle(30)
        await check_world(world)
        if begun:
            told = await condition(world, COMPOSITE_POD_GROUPS, "job")
            assert told["status"] == "True", f"{writes} {lost}: {begun}"
            for name in ("a", "b"):
                assert (await condition(world, POD_GROUPS, name))["status"] == "True"
        await second.end()
        return first.client.dead.is_set()

    for writes, lost in deaths():
        if not world_run(lambda world, w=writes, x=lost: story(world, w, x)):
            break
    assert writes > 4


def test_a_coscheduling_group_whose_scheduler_died_while_it_was_written_is_finished(world_run):
    async def story(world, writes, lost):
        await world.install("scheduling.x-k8s.io")
        await begin(world)
        first = Life(world, writes, lost=lost)
        await world.settle(0.5)
        document = {
            "apiVersion": "scheduling.x-k8s.io/v1alpha1",
            "kind": "PodGroup",
            "metadata": {"name": "g"},
            "spec": {"minMember": 3},
        }
        await world.create(COSCHEDULING_GROUPS, document)
        for i in range(3):
            one = alone(f"g-{i}")
            one["metadata"]["labels"] = {"scheduling.x-k8s.io/pod-group": "g"}
            await apply(world, one)
        await world.settle(5)
        await first.end()
        begun = [at for at in (await where(world)).values() if at]
        await apply(world, alone("rival", priorityClassName="high"))
        second = Life(world)
        await world.settle(30)
        await check_world(world)
        if begun:
            phase = (await world.get(COSCHEDULING_GROUPS, "g"))["status"]["phase"]
            assert phase == "Scheduling", f"{writes} {lost}: {begun}"
        else:
            placed = [name for name, at in (await where(world)).items() if at]
            assert placed == ["rival"], f"{writes} {lost}"
        await second.end()
        return first.client.dead.is_set()

    for writes, lost in deaths():
        if not world_run(lambda world, w=writes, x=lost: story(world, w, x)):
            break
    assert writes > 3


def test_victims_of_a_gang_are_no_more_because_its_scheduler_died(world_run):
    """Room that some of them have left already is not given to others of their kind meanwhile."""

    async def story(world, writes, lost):
        await begin(world, 4)
        first = Life(world)
        await world.settle(0.5)
        await apply(world, *(alone(f"v{i}", priorityClassName="low") for i in range(4)))
        await world.settle(2)
        first.client.left, first.client.lost = writes, lost
        high = {"priorityClassName": "high"}
        await apply(world, group("g", 2, **high))
        await apply(world, *(member(f"g-{i}", "g", cpu="2", **high) for i in range(2)))
        await world.settle(3)
        await first.end()
        await apply(world, *(alone(f"rival{i}", priorityClassName="low") for i in range(2)))
        second = Life(world)
        await world.settle(3)
        for left in (1, 0):
            going = [p for p in await world.find(PODS) if "deletionTimestamp" in p["metadata"]]
            name = going[0]["metadata"]["name"]
            await world.client.delete(PODS, name, "default", grace_period_s=0)
            await world.settle(15)
            if left:
                assert len(await nominations(world)) == 2, f"{writes} {lost}"
        await world.settle(10)
        placed = await where(world)
        assert len([name for name in placed if name.startswith("v")]) == 2, f"{writes} {lost}"
        assert len(await bound_of(world, "g")) == 2, f"{writes} {lost}"
        assert not any(placed[f"rival{i}"] for i in range(2)), f"{writes} {lost}"
        assert (await condition(world, POD_GROUPS, "g"))["status"] == "True"
        assert await nominations(world) == {}
        await second.end()
        return first.client.dead.is_set()

    for writes, lost in deaths():
        if not world_run(lambda world, w=writes, x=lost: story(world, w, x)):
            break
    assert writes > 6


def test_a_group_that_goes_whole_does_so_though_the_scheduler_died_on_the_way(world_run):
    """A part of it would be of use to nobody, and hold what others could have."""

    async def story(world, writes, lost):
        await begin(world, 3)
        first = Life(world)
        await world.settle(0.5)
        low, high = {"priorityClassName": "low"}, {"priorityClassName": "high"}
        whole = {"disruptionMode": {"all": {}}}
        await apply(world, group("v", 3, **low, **whole))
        await apply(world, *(member(f"v-{i}", "v", cpu="2", **low) for i in range(3)))
        await world.settle(2)
        first.client.left, first.client.lost = writes, lost
        await apply(world, alone("urgent", **high))
        await world.settle(3)
        await first.end()
        await world.finish_deletions()
        second = Life(world)
        await world.settle(400)
        await world.finish_deletions()
        await world.settle(15)
        placed = await where(world)
        assert placed["urgent"], f"{writes} {lost}"
        assert await bound_of(world, "v") == [], f"{writes} {lost}"
        await second.end()
        return first.client.dead.is_set()

    for writes, lost in deaths():
        if not world_run(lambda world, w=writes, x=lost: story(world, w, x)):
            break
    assert writes > 6


def test_a_group_of_which_a_part_has_gone_goes_whole_though_an_eviction_fails(
    world_run, monkeypatch
):
    """The preemptor has its room by then, and would have no reason to evict the others."""

    async def story(world):
        await begin(world, 3)
        life = Life(world)
        await world.settle(0.5)
        low, whole = {"priorityClassName": "low"}, {"disruptionMode": {"all": {}}}
        await apply(world, group("v", 3, **low, **whole))
        await apply(world, *(member(f"v-{i}", "v", cpu="2", **low) for i in range(3)))
        await world.settle(2)
        real, failed = Committer._evict, []

        async def evict(self, victim, preemptor):
            if victim.key[1] != "v-0" and len(failed) < 3:
                failed.append(victim.key[1])
                raise ApiError(503, "ServiceUnavailable", "the server is down")
            await real(self, victim, preemptor)

        monkeypatch.setattr(Committer, "_evict", evict)
        await apply(world, alone("urgent", priorityClassName="high"))
        await world.settle(3)
        await world.finish_deletions()
        await world.settle(60)
        await world.finish_deletions()
        await world.settle(5)
        assert failed
        assert (await where(world))["urgent"]
        assert await bound_of(world, "v") == []
        await life.end()

    world_run(story)


def test_a_promise_of_a_node_that_went_while_nobody_scheduled_is_taken_back(world_run):
    async def story(world):
        await begin(world, 1)
        first = Life(world)
        await world.settle(0.5)
        await apply(world, alone("v", priorityClassName="low"))
        await world.settle(2)
        high = {"priorityClassName": "high"}
        await apply(world, group("g", 1, **high), member("g-0", "g", cpu="2", **high))
        await world.settle(3)
        assert await nominations(world) == {"g-0": "n1"}
        await first.end()
        await world.client.delete(NODES, "n1")
        await world.client.delete(PODS, "v", "default", grace_period_s=0)
        second = Life(world)
        await world.settle(10)
        assert await nominations(world) == {}
        await second.end()

    world_run(story)


def test_a_gang_that_finds_no_more_victims_gives_its_promises_back(world_run):
    async def story(world):
        await begin(world, 2)
        life = Life(world)
        await world.settle(0.5)
        await apply(world, *(alone(f"v{i}", priorityClassName="low") for i in range(2)))
        await world.settle(2)
        high = {"priorityClassName": "high"}
        await apply(world, group("g", 2, **high))
        await apply(world, *(member(f"g-{i}", "g", cpu="2", **high) for i in range(2)))
        await world.settle(3)
        assert len(await nominations(world)) == 2
        stranger = alone("stranger", cpu="1", priorityClassName="high", nodeName="n2")
        await apply(world, stranger)  # bound past the scheduler
        await world.finish_deletions()
        await world.settle(20)
        assert await bound_of(world, "g") == []
        assert await nominations(world) == {}
        await apply(world, alone("small", priorityClassName="low"))
        await world.settle(20)
        assert (await where(world))["small"] == "n1", "nothing keeps the node for the gang"
        await life.end()

    world_run(story)


def test_a_gang_that_lost_a_member_while_its_victims_went_keeps_no_room(world_run):
    async def story(world):
        await begin(world, 2)
        life = Life(world)
        await world.settle(0.5)
        await apply(world, *(alone(f"v{i}", priorityClassName="low") for i in range(2)))
        await world.settle(2)
        high = {"priorityClassName": "high"}
        await apply(world, group("g", 2, **high))
        await apply(world, *(member(f"g-{i}", "g", cpu="2", **high) for i in range(2)))
        await world.settle(3)
        await world.client.delete(PODS, "g-1", "default", grace_period_s=0)
        await world.finish_deletions()
        await world.settle(5)
        assert await nominations(world) == {}
        await apply(world, *(alone(f"small-{i}", priorityClassName="low") for i in range(2)))
        await world.settle(5)
        placed = await where(world)
        assert {placed[f"small-{i}"] for i in range(2)} == {"n1", "n2"}
        await life.end()

    world_run(story)


def test_room_for_the_rest_of_a_gang_is_kept_while_its_bindings_fail(world_run, monkeypatch):
    """Of two pods one was bound: until the other is, nobody of their priority takes its room."""

    async def story(world):
        await begin(world, 2)
        life = Life(world)
        real, failures = Committer._bind, []

        async def bind(self, placement):
            if placement.pod.key[1] == "g-1" and len(failures) < 3:
                failures.append(world.clock.monotonic())
                raise ApiError(503, "ServiceUnavailable", "the server is down")
            await real(self, placement)

        monkeypatch.setattr(Committer, "_bind", bind)
        await world.settle(0.5)
        await apply(world, group("g"), *(member(f"g-{i}", "g", cpu="2") for i in range(2)))
        await world.settle(0.5)
        await apply(world, alone("rival"))
        await world.settle(20)
        assert len(failures) == 3
        assert await bound_of(world, "g") == ["g-0", "g-1"]
        assert (await where(world))["rival"] is None
        assert (await condition(world, POD_GROUPS, "g"))["status"] == "True"
        await life.end()

    world_run(story)


def test_devices_of_a_gang_that_was_never_bound_do_not_tie_it_to_their_nodes(world_run):
    """What a dead scheduler allocated is given back where the nodes have been taken by others."""

    async def story(world, writes, lost):
        await begin(world, 3, gpus=1)
        for i in range(2):
            await world.create(RESOURCE_CLAIMS, claim(f"c{i}"))
        first = Life(world, writes, lost=lost)
        await world.settle(0.5)
        await apply(world, group("g"), *(with_claim(f"g-{i}", f"c{i}") for i in range(2)))
        await world.settle(5)
        await first.end()
        begun = await bound_of(world, "g")
        if not begun:
            await apply(world, alone("stranger", priorityClassName="high", nodeName="n1"))
        second = Life(world)
        await world.settle(30)
        assert len(await bound_of(world, "g")) == 2, f"{writes} {lost}"
        await check_world(world)
        await second.end()
        return first.client.dead.is_set()

    for writes, lost in deaths():
        if not world_run(lambda world, w=writes, x=lost: story(world, w, x)):
            break
    assert writes > 5


def test_a_claim_of_a_group_that_was_never_bound_is_given_back_too(world_run):
    """Both pods share one device, and with it a node; it is reserved for the group."""

    async def story(world, writes, lost):
        await begin(world, 2, gpus=1)
        await world.create(RESOURCE_CLAIMS, claim("shared"))
        first = Life(world, writes, lost=lost)
        await world.settle(0.5)
        used = {"resourceClaims": [{"name": "gpu", "resourceClaimName": "shared"}]}
        await apply(world, group("g", **used), *(member(f"g-{i}", "g", **used) for i in range(2)))
        await world.settle(5)
        await first.end()
        begun = await bound_of(world, "g")
        if not begun and (held := await device_of(world, "shared")):
            await apply(world, alone("stranger", cpu="1", nodeName=held))
        second = Life(world)
        await world.settle(30)
        assert len(await bound_of(world, "g")) == 2, f"{writes} {lost}"
        status = (await world.get(RESOURCE_CLAIMS, "shared"))["status"]
        assert [user["resource"] for user in status["reservedFor"]] == ["podgroups"]
        await check_world(world)
        await second.end()
        return first.client.dead.is_set()

    for writes, lost in deaths():
        if not world_run(lambda world, w=writes, x=lost: story(world, w, x)):
            break
    assert writes > 3


async def device_of(world, name):
    """The node on which a claim has its device; "" if it has none."""
    status = (await world.get(RESOURCE_CLAIMS, name)).get("status") or {}
    results = ((status.get("allocation") or {}).get("devices") or {}).get("results") or ()
    return results[0]["pool"] if results else ""


def test_a_pod_whose_devices_are_where_it_has_no_room_any_more_gets_others(world_run, monkeypatch):
    async def story(world):
        async def fail():
            raise ApiError(503, "ServiceUnavailable", "the server is down")

        await begin(world, 2, gpus=1)
        await world.create(RESOURCE_CLAIMS, claim("c"))
        once(monkeypatch, "bind", fail)
        life = Life(world)
        await world.settle(0.5)
        wants = [{"name": "gpu", "resourceClaimName": "c"}]
        await apply(world, alone("p", resourceClaims=wants))
        await world.settle(0.2)
        assert (await where(world))["p"] is None
        [found] = await world.find(RESOURCE_CLAIMS)
        [held] = found["status"]["allocation"]["devices"]["results"]
        await apply(world, alone("stranger", nodeName=held["pool"]))
        await world.settle(30)
        other = {"n1": "n2", "n2": "n1"}[held["pool"]]
        assert (await where(world))["p"] == other
        await life.end()

    world_run(story)
