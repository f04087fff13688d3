"""A device that cannot be made ready is left alone for a while: others are tried, then it again."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    EVENTS,
    NODES,
    POD_GROUPS,
    PODS,
    PRIORITY_CLASSES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.base.errors import ApiError
from kubarium.client.gather import gather
from kubarium.control.scheduling.recorders import Recorders
from kubarium.control.scheduling.resting import RestingDevices
from kubarium.engine import reasons
from kubarium.engine.devices.model import DeviceId
from kubarium.engine.explain.survey import RESTS
from kubarium.engine.model import Pod, PodShape
from kubarium.runtime.informer import SharedInformers
from kubarium.server.local import LocalClient
from kubarium.view import why
from kubarium.view.cluster import ClusterView
from kubarium.view.resting import REST_S
from tests.control.scheduling.test_scheduler import (
    BROKEN,
    DRIVER,
    READY,
    begin,
    claim,
    components,
    device_class,
    group,
    node,
    node_of,
    pod,
    priority_class,
    report,
    scheduled_condition,
    slices,
    slow_slices,
)


async def slow_devices(world, *nodes):
    """One device on each node, which must be made ready before pods may be bound."""
    await begin(world, node(nodes[0]))
    await world.create(DEVICE_CLASSES, device_class())
    for name in nodes:
        if name != nodes[0]:
            await world.create(NODES, node(name))
        await world.create(RESOURCE_SLICES, slow_slices(name))
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
        where = "gpu.example.com/a/gpu-0 could not be made ready"
        why = 'device binding failed: claim=one, reason=NoLink, message="" (device gpu-0 reports'
        assert f"device {where} ({why} Broken)), and is left alone until 20" in message
        await world.settle(REST_S)
        assert await pool_of(world) == "a"
        await report(world, "one", READY)
        assert await node_of(world, "user") == "a"

    world_run(story)


def test_what_was_laid_by_is_taken_up_and_what_was_laid_by_anew_is_not(world_run):
    """By who asks, not by the clock, whose timers may be early by its resolution."""

    async def story(world):
        view, device = ClusterView(), DeviceId(DRIVER, "a", "gpu-0")
        waiting = Pod(("default", "p"), PodShape())
        devices = RestingDevices(world.context, view, Recorders(world.context))
        first = devices.lay_by([device], "no link", waiting)
        assert view.snapshot.inventory.ledger.in_use(device)
        again = devices.lay_by([device], "no link", waiting)
        devices.take_up(first)
        assert view.snapshot.inventory.ledger.in_use(device)
        devices.take_up(again)
        assert not view.snapshot.inventory.ledger.in_use(device)
        assert not view.snapshot.resting
        devices.take_up(again)

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


async def asked(world, name="user", resource=PODS):
    """What `kubarium why` says of an object now."""
    documents = await gather(world.client, why.RESOURCES_NEEDED)
    subject = {"kind": resource.kind, **await world.get(resource, name)}
    return why.explain(documents, subject, now=world.clock.now())


def test_who_asks_is_told_that_a_device_rests_why_and_until_when(world_run):
    async def story(world):
        await slow_devices(world, "a")
        await report(world, "one", BROKEN, reason="NoLink")
        told = await asked(world)
        [rest] = told.devices[0]["resting"]
        assert rest["device"] == "gpu.example.com/a/gpu-0"
        assert "reason=NoLink" in rest["text"]
        assert rest["text"].endswith(f"and is left alone until {rest['until']}")
        assert rest["until"] in (await scheduled_condition(world, "user"))["message"]
        assert rest["text"] in told.reasons
        assert told.devices[0]["failed"] == {RESTS: 1}
        first = told.suggestions[0]
        assert (first.kind, first.subject) == ("wait-for-device", rest["device"])
        assert rest["until"] in first.text
        claim_told = await asked(world, "one", RESOURCE_CLAIMS)
        assert rest["text"] in claim_told.children[0].reasons
        other = await asked(world, "a", NODES)
        assert rest["text"] in other.reasons
        assert "pool gpu.example.com/a: 0 of 1 devices in use" in other.reasons
        await world.settle(REST_S)
        assert "rest" not in str((await asked(world)).to_json())

    world_run(story)


def test_each_rest_of_a_device_that_fails_for_hours_is_told(world_run):
    async def story(world):
        await slow_devices(world, "a")
        for number in range(60):
            await report(world, "one", BROKEN, reason=f"NoLink{number}")
            [rest] = (await asked(world)).devices[0]["resting"]
            assert f"reason=NoLink{number}," in rest["text"]
            await world.settle(REST_S)
        told = [e for e in await world.find(EVENTS) if e["reason"].startswith("DeviceRests")]
        assert {e["reason"]: e.get("series", {}).get("count") for e in told} == {
            "DeviceRests": None,
            "DeviceRestsAgain": 59,
        }

    world_run(story)


async def begin_anew(world):
    """The control plane ends, and another begins that knows only what is written."""
    for task in world.tasks:
        task.cancel()
    await asyncio.gather(*world.tasks, return_exceptions=True)
    world.tasks.clear()
    informers = SharedInformers(world.controller_client, world.clock)
    await world.start(*components(replace(world.context, informers=informers)))
    await world.settle(1)


def test_a_device_rests_also_for_a_scheduler_that_is_started_meanwhile(world_run):
    async def story(world):
        await with_a_holder(world)
        await begin_anew(world)
        assert await pool_of(world) is None
        message = (await scheduled_condition(world, "user"))["message"]
        assert "NoLink" in message
        assert f"preemption: {reasons.DEVICE_RESTS}" in message
        await world.settle(REST_S)
        assert await pool_of(world) == "a", "its rest is over"
        await report(world, "one", BROKEN, reason="NoLink")
        assert "deletionTimestamp" in (await world.get(PODS, "low"))["metadata"], "it failed again"

    world_run(story)


def test_a_scheduler_that_is_not_told_of_rests_tries_all_devices(world_run, monkeypatch):
    async def story(world):
        await slow_devices(world, "a")
        await report(world, "one", BROKEN, reason="NoLink")
        every = LocalClient.list

        async def without_events(client, resource, *args, **options):
            if resource == EVENTS:
                raise ApiError(503, "ServiceUnavailable", "not now")
            return await every(client, resource, *args, **options)

        monkeypatch.setattr(LocalClient, "list", without_events)
        await begin_anew(world)
        assert await pool_of(world) == "a"

    world_run(story)


async def with_a_holder(world, **member):
    """A device of node a that cannot be made ready, one of node b that a lesser pod has."""
    await begin(world, node("b"))
    await world.create(DEVICE_CLASSES, device_class())
    await world.create(RESOURCE_SLICES, slices("b", 1))
    await world.create(RESOURCE_CLAIMS, claim("held"))
    await world.create(PODS, pod("low", claims=["held"]))
    await world.settle(5)
    await world.create(NODES, node("a"))
    await world.create(RESOURCE_SLICES, slow_slices("a"))
    await world.create(PRIORITY_CLASSES, priority_class("urgent"))
    await world.create(RESOURCE_CLAIMS, claim("one"))
    if member:
        train = group("train", 1)
        train["spec"]["priorityClassName"] = "urgent"
        await world.create(POD_GROUPS, train)
    await world.create(PODS, pod("user", claims=["one"], priorityClassName="urgent", **member))
    await world.settle(10)
    assert await node_of(world, "low") == "b"
    assert await pool_of(world) == "a"
    await report(world, "one", BROKEN, reason="NoLink")
    assert await pool_of(world) is None


async def free(world, name):
    """The claim gives its devices back."""
    freed = {"status": {"allocation": None, "reservedFor": None, "devices": None}}
    await world.client.patch(RESOURCE_CLAIMS, name, freed, "default", subresource="status")


def test_nobody_is_evicted_because_a_device_rests(world_run):
    async def story(world):
        await with_a_holder(world)
        message = (await scheduled_condition(world, "user"))["message"]
        assert f"preemption: {reasons.DEVICE_RESTS}" in message
        told = await asked(world)
        assert told.facts["preemption"] == reasons.DEVICE_RESTS
        assert (
            "preemption: nobody is evicted while a device rests with which it fits" in told.reasons
        )
        await world.settle(REST_S)
        assert await pool_of(world) == "a"
        assert "deletionTimestamp" not in (await world.get(PODS, "low"))["metadata"]
        await report(world, "one", READY)
        assert await node_of(world, "user") == "a"

    world_run(story)


def test_a_device_that_fails_after_its_rest_too_keeps_nobody_from_those_of_others(world_run):
    async def story(world):
        await with_a_holder(world)
        await world.settle(REST_S)
        assert await pool_of(world) == "a"
        await report(world, "one", BROKEN, reason="NoLink")
        await world.settle(5)
        assert "deletionTimestamp" in (await world.get(PODS, "low"))["metadata"]
        await world.finish_deletions()
        await free(world, "held")
        await world.settle(20)
        assert await node_of(world, "user") == "b"

    world_run(story)


def test_a_device_that_was_made_ready_since_fails_for_the_first_time(world_run):
    async def story(world):
        await with_a_holder(world)
        await world.settle(REST_S)
        await report(world, "one", READY)
        assert await node_of(world, "user") == "a"
        await world.client.delete(PODS, "user", "default")
        await world.finish_deletions()
        await free(world, "one")
        await world.create(RESOURCE_CLAIMS, claim("two"))
        await world.create(PODS, pod("next", claims=["two"], priorityClassName="urgent"))
        await world.settle(10)
        assert await pool_of(world, "two") == "a"
        await report(world, "two", BROKEN, reason="NoLink")
        await world.settle(5)
        message = (await scheduled_condition(world, "next"))["message"]
        assert f"preemption: {reasons.DEVICE_RESTS}" in message
        assert "deletionTimestamp" not in (await world.get(PODS, "low"))["metadata"]

    world_run(story)


def test_a_gang_evicts_nobody_because_a_device_rests(world_run):
    async def story(world):
        await with_a_holder(world, group="train")
        assert await node_of(world, "user") is None
        assert "deletionTimestamp" not in (await world.get(PODS, "low"))["metadata"]
        assert reasons.DEVICE_RESTS in (await scheduled_condition(world, "user"))["message"]
        await world.settle(REST_S)
        assert await pool_of(world) == "a"

    world_run(story)
