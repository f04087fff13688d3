"""A device that cannot be made ready is left alone for a while: others are tried, then it again."""

from __future__ import annotations

from kubarium.api.kinds import DEVICE_CLASSES, NODES, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES
from kubarium.control.scheduling.resting import REST_S
from tests.control.scheduling.test_scheduler import (
    BROKEN,
    READY,
    begin,
    claim,
    device_class,
    node,
    node_of,
    pod,
    report,
    scheduled_condition,
    slices,
)


async def slow_devices(world, *nodes):
    """One device on each node, which must be made ready before pods may be bound."""
    await begin(world, node(nodes[0]))
    await world.create(DEVICE_CLASSES, device_class())
    for name in nodes:
        if name != nodes[0]:
            await world.create(NODES, node(name))
        slow = slices(name, 1)
        slow["spec"]["devices"][0] |= {
            "bindingConditions": [READY],
            "bindingFailureConditions": [BROKEN],
        }
        await world.create(RESOURCE_SLICES, slow)
    await world.create(RESOURCE_CLAIMS, claim("one"))
    await world.create(PODS, pod("user", claims=["one"]))
    await world.settle(10)


async def pool_of(world, name="one"):
    allocation = (await world.get(RESOURCE_CLAIMS, name)).get("status", {}).get("allocation")
    return allocation["devices"]["results"][0]["pool"] if allocation else None


def test_a_device_that_failed_gives_way_to_one_of_another_node(world_run):
    async def story(world):
        await slow_devices(world, "a", "b")
        assert await pool_of(world) == "a"
        await report(world, "one", BROKEN, reason="NoLink")
        assert await pool_of(world) == "b"
        await report(world, "one", READY)
        assert await node_of(world, "user") == "b"

    world_run(story)


def test_the_only_device_is_tried_again_after_its_rest(world_run):
    async def story(world):
        await slow_devices(world, "a")
        await report(world, "one", BROKEN, reason="NoLink")
        assert await pool_of(world) is None
        message = (await scheduled_condition(world, "user"))["message"]
        where = "gpu.example.com/a/gpu-0 could not be made ready a moment ago"
        why = 'device binding failed: claim=one, reason=NoLink, message="" (device gpu-0 reports'
        assert f"device {where} ({why} Broken)), and is left alone for now" in message
        await world.settle(REST_S)
        assert await pool_of(world) == "a"
        await report(world, "one", READY)
        assert await node_of(world, "user") == "a"

    world_run(story)


def test_a_device_that_is_laid_by_is_free_for_all_afterwards(world_run):
    async def story(world):
        await slow_devices(world, "a", "b")
        await report(world, "one", BROKEN, reason="NoLink")
        await world.create(RESOURCE_CLAIMS, claim("two"))
        await world.create(PODS, pod("other", claims=["two"]))
        await world.settle(5)
        assert await pool_of(world, "two") is None, "a rests, and b is promised"
        await world.settle(REST_S)
        assert await pool_of(world, "two") == "a"

    world_run(story)
