"""The wall clock is set an hour on or back while pods wait: nobody is lost, and nobody spins."""

from __future__ import annotations

import asyncio

import pytest

from kubarium.api.kinds import DEVICE_CLASSES, NODES, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES
from kubarium.control.scheduling.ahead import Ahead
from kubarium.control.scheduling.queue import FLUSH_AFTER_S

from .test_scheduler import claim, device_class, node, node_of, pod, slices
from .test_wakeups import resize, start

HOUR_S = 3600.0


def jump(seconds):
    """What somebody does who sets the clock; time goes on as before."""
    asyncio.get_running_loop().epoch_s += seconds


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
def test_who_found_no_room_is_tried_at_the_flush_and_when_there_is_room(world_run, seconds):
    async def story(world):
        scheduler = await start(world, node("a"))
        await world.create(PODS, pod("p", cpu="6"))
        await world.settle(30)
        jump(seconds)
        before = scheduler.cycles
        await world.settle(FLUSH_AFTER_S - 40)
        assert scheduler.cycles == before
        await world.settle(20)
        assert scheduler.cycles == before + 1
        jump(-seconds)
        await world.settle(20)
        assert scheduler.cycles == before + 1
        await resize(world, cpu="8")
        await world.settle(1)
        assert await node_of(world, "p") == "a"

    world_run(story)


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
def test_back_off_is_as_long_as_it_was(world_run, seconds):
    async def story(world):
        scheduler = await start(world, node("a"))
        scheduler._queue.ahead = Ahead(at_once=0)  # back-off is served in full
        await world.create(PODS, pod("big", cpu="3"))
        await world.create(PODS, pod("p", cpu="4"))
        await world.settle(0.5)
        await resize(world, cpu="5")  # it helps nobody, but that has to be looked at
        jump(seconds)
        before = scheduler.cycles
        await world.settle(0.3)
        assert scheduler.cycles == before
        await resize(world, cpu="8")
        await world.settle(0.5)
        assert await node_of(world, "p") == "a"
        assert scheduler.cycles == before + 1

    world_run(story)


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
def test_devices_that_are_made_ready_get_the_time_that_they_have(world_run, seconds):
    async def story(world):
        await start(world, node("a"))
        await world.create(DEVICE_CLASSES, device_class())
        offered = slices("a", 1)
        offered["spec"]["devices"][0] |= {
            "bindsToNode": True,
            "bindingConditions": ["example.com/ready"],
            "bindingFailureConditions": ["example.com/failed"],
        }
        await world.create(RESOURCE_SLICES, offered)
        await world.create(RESOURCE_CLAIMS, claim("gpu"))
        await world.create(PODS, pod("p", claims=["gpu"]))
        await world.settle(10)
        found = await world.get(RESOURCE_CLAIMS, "gpu")
        allocated = found["status"]["allocation"]["allocationTimestamp"]
        jump(seconds)
        await world.settle(570)
        found = await world.get(RESOURCE_CLAIMS, "gpu")
        assert found["status"]["allocation"]["allocationTimestamp"] == allocated
        await world.settle(60)  # ten minutes are over
        found = await world.get(RESOURCE_CLAIMS, "gpu")
        again = (found["status"].get("allocation") or {}).get("allocationTimestamp")
        assert again != allocated
        assert await node_of(world, "p") is None

    world_run(story)


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
def test_pods_that_come_before_and_after_go_their_way(world_run, seconds):
    async def story(world):
        await start(world, node("a"))
        await world.create(PODS, pod("early"))
        jump(seconds)
        await world.create(PODS, pod("late"))
        await world.settle(2)
        assert await node_of(world, "early") == "a"
        assert await node_of(world, "late") == "a"
        await world.create(NODES, node("b"))
        await world.create(PODS, pod("last", cpu="4"))
        await world.settle(2)
        assert await node_of(world, "last") == "b"

    world_run(story)
