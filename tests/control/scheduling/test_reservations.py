"""Room reserved for a gang that waits: small pods neither starve it nor delay it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.api.kinds import EVENTS, NODES, POD_GROUPS, PODS
from kubarium.control.scheduling.queue import BACKOFF_MAX_S
from kubarium.control.scheduling.reservations import RESERVE_AFTER_S
from kubarium.runtime.virtual import run
from tests.control.conftest import World

from .crashes import Life, bound_of, check_world
from .test_gang_faults import group
from .test_gang_restarts import alone, begin, priority_class
from .test_groups import apply, member, where

LONGEST_RUN_S = 40
NODES_IN_ALL, CORES = 3, 2
# A minute; until a pod ends, so that it is tried and reserved for; until all others have ended.
# Each time it may be in back-off, and a node says a second later what has ended.
WAIT_S = 60 + 2 * (LONGEST_RUN_S + BACKOFF_MAX_S + 1)


def finite(name, cpu="1", **spec):
    return alone(name, cpu=cpu, restartPolicy="Never", **spec)


async def end(world, name):
    await world.client.patch(
        PODS, name, {"status": {"phase": "Succeeded"}}, "default", subresource="status"
    )


class Stream:
    """Small pods that end by themselves, as many waiting at any time as the cluster could hold."""

    def __init__(self, world, seed):
        self._world = world
        self._random = random.Random(seed)
        self._ends = {}
        self._made = 0

    async def second(self):
        """A second of the stream's life."""
        waiting = 0
        for name, at in (await where(self._world)).items():
            if not name.startswith("small"):
                continue
            if at is None:
                waiting += 1
            elif name not in self._ends:
                self._ends[name] = self._world.clock.monotonic() + self._random.randint(
                    1, LONGEST_RUN_S
                )
        for name, due in self._ends.items():
            if due is not None and due <= self._world.clock.monotonic():
                await end(self._world, name)
                self._ends[name] = None
        for _ in range(NODES_IN_ALL * CORES - waiting):
            self._made += 1
            await apply(self._world, finite(f"small-{self._made}"))
        await self._world.settle(1)


async def big_gang(world, **spec):
    await apply(world, group("g", NODES_IN_ALL))
    await apply(world, *(member(f"g-{i}", "g", cpu="2", **spec) for i in range(NODES_IN_ALL)))


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 10**6), st.sampled_from([None, None, 30, 75]))
def test_a_gang_that_needs_every_node_is_not_starved_by_small_ones(seed, restart_at):
    """Also if its scheduler dies meanwhile, before or after it has reserved."""

    async def story(world):
        await begin(world, NODES_IN_ALL)
        life, stream = Life(world), Stream(world, seed)
        for _ in range(5):
            await stream.second()
        await big_gang(world)
        for second in range(int(WAIT_S)):
            if second == restart_at:
                await life.end()
                life = Life(world)
            await stream.second()
            if len(await bound_of(world, "g")) == NODES_IN_ALL:
                break
            assert await bound_of(world, "g") == []
        assert len(await bound_of(world, "g")) == NODES_IN_ALL
        await check_world(world)
        await life.end()

    async def main():
        await story(World(seed))

    run(main(), seed)


async def reserved_world(world, nodes=3, busy="2"):
    """Every node is full of pods that end; a gang of one core more than is free on two waits."""
    await begin(world, nodes)
    life = Life(world)
    await world.settle(0.5)
    await apply(world, *(finite(f"busy-{i}", cpu=busy) for i in range(nodes)))
    await world.settle(1)
    await apply(world, group("g"), *(member(f"g-{i}", "g", cpu="2") for i in range(2)))
    await world.settle(RESERVE_AFTER_S + 2)
    return life


def nodes_of(life):
    return {node for _, node in life.scheduler._reservations.places()}


@pytest.mark.parametrize("how", ["tainted", "cordoned", "labelled", "taken", "gone"])
def test_a_reservation_moves_when_its_node_is_of_no_use_any_more(world_run, how):
    async def story(world):
        selector = {"nodeSelector": {"disk": "ssd"}} if how == "labelled" else {}
        await begin(world, 3)
        for i in (1, 2, 3):
            label = {"metadata": {"labels": {"disk": "ssd"}}}
            await world.client.patch(NODES, f"n{i}", label)
        life = Life(world)
        await world.settle(0.5)
        await apply(world, *(finite(f"busy-{i}", cpu="2") for i in range(3)))
        await world.settle(1)
        await apply(world, group("g"))
        await apply(world, *(member(f"g-{i}", "g", cpu="2", **selector) for i in range(2)))
        await world.settle(RESERVE_AFTER_S + 2)
        held = nodes_of(life)
        assert len(held) == 2
        lost = min(held)
        taint = {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"}
        change = {
            "tainted": {"spec": {"taints": [taint]}},
            "cordoned": {"spec": {"unschedulable": True}},
            "labelled": {"metadata": {"labels": {"disk": None}}},
        }.get(how)
        if change:
            await world.client.patch(NODES, lost, change)
        elif how == "gone":
            await world.client.delete(NODES, lost)
        else:
            [busy] = [name for name, node in (await where(world)).items() if node == lost]
            await end(world, busy)
            await apply(world, alone("stranger", cpu="1", nodeName=lost))
        await world.settle(BACKOFF_MAX_S + 2)
        moved = nodes_of(life)
        assert len(moved) == 2
        assert lost not in moved
        await apply(world, *(finite(f"small-{i}") for i in range(4)))
        for name, node in (await where(world)).items():
            if node in moved and name.startswith("busy"):
                await end(world, name)
        await world.settle(20)
        assert len(await bound_of(world, "g")) == 2
        await life.end()

    world_run(story)


def test_a_reservation_is_there_again_before_the_next_scheduler_decides_anything(world_run):
    async def story(world):
        life = await reserved_world(world)
        held = nodes_of(life)
        await life.end()
        # Half of a reserved node becomes free while nobody schedules, and small pods wait for it.
        for i in range(3):
            at = (await where(world))[f"busy-{i}"]
            if at == min(held):
                await end(world, f"busy-{i}")
        await apply(world, *(finite(f"small-{i}") for i in range(3)))
        life = Life(world)
        await world.settle(5)
        assert not any(
            node for name, node in (await where(world)).items() if name.startswith("small")
        )
        for name in await where(world):
            if name.startswith("busy"):
                await end(world, name)
        await world.settle(20)
        assert len(await bound_of(world, "g")) == 2
        await life.end()

    world_run(story)


def test_a_pod_of_the_gang_that_is_made_anew_does_not_send_it_to_the_end_of_the_line(world_run):
    async def story(world):
        life = await reserved_world(world)
        assert nodes_of(life)
        await world.client.delete(PODS, "g-1", "default", grace_period_s=0)
        await apply(world, member("g-2", "g", cpu="2"))
        await world.settle(5)
        assert len(nodes_of(life)) == 2
        await apply(world, *(finite(f"small-{i}") for i in range(3)))
        for i in range(3):
            await end(world, f"busy-{i}")
            await world.settle(2)
        await world.settle(20)
        assert len(await bound_of(world, "g")) == 2
        await life.end()

    world_run(story)


def test_a_gang_that_lacks_pods_keeps_no_reservation(world_run):
    async def story(world):
        life = await reserved_world(world)
        policy = {"spec": {"schedulingPolicy": {"gang": {"minCount": 3}}}}
        await world.client.patch(POD_GROUPS, "g", policy, "default")
        await world.settle(3)
        assert nodes_of(life) == set()
        await apply(world, *(finite(f"small-{i}") for i in range(3)))
        await end(world, "busy-0")
        await world.settle(15)
        placed = await where(world)
        assert sum(placed[f"small-{i}"] is not None for i in range(3)) == 2
        await life.end()

    world_run(story)


def test_pods_whose_end_is_unknown_are_not_waited_for(world_run):
    """Nothing is reserved that only they would free, so that nothing is kept empty in vain."""

    async def story(world):
        await begin(world, 2)
        life = Life(world)
        await world.settle(0.5)
        await apply(world, alone("service", cpu="1"), finite("busy", cpu="2"))
        await world.settle(1)
        await apply(world, group("g"), *(member(f"g-{i}", "g", cpu="2") for i in range(2)))
        await world.settle(400)
        assert nodes_of(life) == set()
        assert life.scheduler._reservations.next_due() is None
        await apply(world, alone("late", cpu="1"))
        await world.settle(5)
        assert (await where(world))["late"]
        await life.end()

    world_run(story)


def test_a_pod_whose_end_is_unknown_never_takes_reserved_room(world_run):
    """It may run beside the reservation, as anything may, but not on what a run will leave."""

    async def story(world):
        life = await reserved_world(world)
        held = nodes_of(life)
        [free] = {"n1", "n2", "n3"} - held
        await apply(world, *(alone(f"service-{i}", cpu="1") for i in range(4)))
        for i in range(3):
            await end(world, f"busy-{i}")
            await world.settle(3)
        await world.settle(15)
        placed = await where(world)
        assert len(await bound_of(world, "g")) == 2
        assert {placed[f"service-{i}"] for i in range(4)} == {free, None}
        await life.end()

    world_run(story)


def test_a_gang_of_higher_priority_is_not_kept_waiting_by_what_is_reserved_for_another(world_run):
    """It may not evict anybody, so that it waits for the same nodes as the less important one."""

    async def story(world):
        life = await reserved_world(world)
        held, _ = life.scheduler._reservations.held
        assert held.key == ("default", "g")
        await apply(world, {**priority_class("meek", 9), "preemptionPolicy": "Never"})
        urgent = {"priorityClassName": "meek"}
        large = {**group("h", 3), "spec": {**group("h", 3)["spec"], **urgent}}
        await apply(world, large, *(member(f"h-{i}", "h", cpu="2", **urgent) for i in range(3)))
        await world.settle(RESERVE_AFTER_S + 2)
        held, _ = life.scheduler._reservations.held
        assert held.key == ("default", "h")
        for i in range(3):
            await end(world, f"busy-{i}")
            await world.settle(30)
        assert (len(await bound_of(world, "h")), await bound_of(world, "g")) == (3, [])
        for i in range(3):
            await end(world, f"h-{i}")
        await world.settle(30)
        assert len(await bound_of(world, "g")) == 2
        await check_world(world)
        await life.end()

    world_run(story)


def test_of_two_gangs_that_need_every_node_one_comes_after_the_other(world_run):
    """Neither small pods nor the other gang keep one waiting for good."""

    async def story(world):
        await begin(world, NODES_IN_ALL)
        life, stream = Life(world), Stream(world, 7)
        for _ in range(5):
            await stream.second()
        order = []
        for name in ("first", "second"):
            ranks = [member(f"{name}-{i}", name, cpu="2", restartPolicy="Never") for i in range(3)]
            await apply(world, group(name, NODES_IN_ALL), *ranks)
        for _ in range(4 * int(WAIT_S)):
            await stream.second()
            for name in ("first", "second"):
                bound = await bound_of(world, name)
                assert len(bound) in (0, NODES_IN_ALL)
                if bound and name not in order:
                    order.append(name)
                    for one in bound:
                        await end(world, one)
            if len(order) == 2:
                break
        assert order == ["first", "second"]
        await check_world(world)
        await life.end()

    world_run(story)


async def is_told(world, name):
    """Whether the group has heard of a reservation."""
    events = [e for e in await world.find(EVENTS) if e["reason"] == "Reserved"]
    return name in [event["involvedObject"]["name"] for event in events]


def test_a_gang_is_tried_when_it_has_waited_long_enough_and_not_until_then(world_run):
    async def story(world):
        await begin(world, 3)
        life = Life(world)
        await world.settle(0.5)
        await apply(world, *(finite(f"busy-{i}", cpu="2") for i in range(3)))
        await world.settle(1)
        await apply(world, group("g"), *(member(f"g-{i}", "g", cpu="2") for i in range(2)))
        await world.settle(1)
        cycles = life.scheduler.cycles
        await world.settle(RESERVE_AFTER_S - 2)
        assert (life.scheduler.cycles, await is_told(world, "g")) == (cycles, False)
        await world.settle(1.5)
        assert life.scheduler.cycles == cycles + 1, "one try, when it is due"
        assert await is_told(world, "g")
        await life.end()

    world_run(story)


def test_what_one_gang_has_reserved_is_the_next_ones_once_it_is_gone(world_run):
    """Without a word from any node: nothing else happens."""

    async def story(world):
        life = await reserved_world(world)
        await apply(world, group("h"), *(member(f"h-{i}", "h", cpu="2") for i in range(2)))
        await world.settle(2 * RESERVE_AFTER_S)
        assert not await is_told(world, "h")
        for i in range(2):
            await world.client.delete(PODS, f"g-{i}", "default", grace_period_s=0)
        await world.settle(BACKOFF_MAX_S + 2)
        held, _ = life.scheduler._reservations.held
        assert held.key == ("default", "h")
        assert await is_told(world, "h")
        await life.end()

    world_run(story)


@pytest.mark.parametrize("how", ["scheduled", "bound by others"])
def test_a_reservation_moves_when_a_more_important_pod_takes_its_node(world_run, how):
    async def story(world):
        life = await reserved_world(world, busy="1")
        lost = min(nodes_of(life))
        await world.client.patch(NODES, lost, {"metadata": {"labels": {"disk": "ssd"}}})
        at = {"nodeSelector": {"disk": "ssd"}, "priorityClassName": "high"}
        at = at if how == "scheduled" else {"nodeName": lost}
        await world.settle(30)
        await apply(world, alone("service", cpu="1", **at))
        await world.settle(BACKOFF_MAX_S + 2)
        assert (await where(world))["service"] == lost
        moved = nodes_of(life)
        assert len(moved) == 2
        assert lost not in moved
        await life.end()

    world_run(story)
