"""Writes that fail, and decisions that raise: nobody is lost, and the others are scheduled."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    NODES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.base.errors import ApiError, conflict
from kubarium.control.scheduling import components
from kubarium.engine.placement.place import Placer
from tests.control.scheduling.test_scheduler import (
    claim,
    device_class,
    events,
    group,
    node,
    node_of,
    pod,
    scheduled_condition,
    slices,
)


class Faulty:
    """A client whose calls fail as ``faults`` say: (verb, resource, name, subresource) -> errors,
    taken one for each call. Lost answers are raised after the write."""

    def __init__(self, client):
        self._client = client
        self.faults = {}
        self.lost = set()
        self.failed = []

    def fail(self, verb, resource, name, subresource="", *errors, lost=False):
        call = (verb, resource, name, subresource)
        self.faults.setdefault(call, []).extend(errors)
        if lost:
            self.lost.add(call)

    def __getattr__(self, verb):
        method = getattr(self._client, verb)
        if verb not in ("get", "create", "update", "patch", "delete"):
            return method

        async def call(resource, target, *args, **options):
            name = options.get("name") or (
                target if isinstance(target, str) else target["metadata"].get("name", "")
            )
            key = (verb, resource, name, options.get("subresource", ""))
            left = self.faults.get(key)
            if not left:
                return await method(resource, target, *args, **options)
            error = left.pop(0)
            self.failed.append(key)
            if key in self.lost:
                await method(resource, target, *args, **options)
            raise error

        return call


def unavailable(text="the server is down"):
    return ApiError(503, "ServiceUnavailable", text)


async def begin(world, *nodes):
    """A scheduler behind a client that can be made to fail."""
    client = Faulty(world.controller_client)
    for document in nodes:
        await world.create(NODES, document)
    found = components(replace(world.context, client=client))
    await world.start(*found)
    await world.settle(0.1)
    return client, found[0]


def no_traceback(caplog):
    assert not [r.getMessage() for r in caplog.records if r.exc_info], caplog.text


def test_a_pod_whose_binding_and_refusal_both_fail_is_tried_again(world_run, caplog):
    async def story(world):
        client, _ = await begin(world, node("n", cpu="4"))
        client.fail("create", PODS, "a", "binding", unavailable(), unavailable())
        client.fail("patch", PODS, "a", "status", unavailable(), unavailable())
        await world.create(PODS, pod("a"))
        await world.create(PODS, pod("b"))
        await world.settle(0.5)
        assert await node_of(world, "b") == "n"
        await world.settle(20)
        assert len(client.failed) == 4
        assert await node_of(world, "a") == "n"

    with caplog.at_level(logging.WARNING):
        world_run(story)
    no_traceback(caplog)


@pytest.mark.parametrize("outage", [0, 3])
def test_a_binding_whose_answer_is_lost_is_a_binding(world_run, outage):
    async def story(world):
        client, scheduler = await begin(world, node("n", cpu="1"))
        client.fail("get", PODS, "a", "", *[unavailable()] * outage)
        client.fail("create", PODS, "a", "binding", unavailable(), lost=True)
        await world.create(PODS, pod("a"))
        await world.settle(5)
        assert await node_of(world, "a") == "n"
        assert len(await events(world, "Scheduled")) == 1
        assert not await events(world, "FailedScheduling")
        scheduler.view.snapshot.check()

    world_run(story)


def test_what_nobody_foresaw_while_one_pod_is_written_holds_up_no_other(world_run):
    async def story(world):
        client, _ = await begin(world, node("n", cpu="4"))
        client.fail("create", PODS, "a", "binding", KeyError("uid"))
        await world.create(PODS, pod("a"))
        await world.create(PODS, pod("b"))
        await world.settle(0.5)
        assert await node_of(world, "b") == "n"
        await world.settle(10)
        assert await node_of(world, "a") == "n"

    world_run(story)


@pytest.mark.parametrize("error", [unavailable(), KeyError("allocation")], ids=["503", "a bug"])
def test_devices_that_cannot_be_given_back_end_no_scheduler(world_run, error):
    """A pod waits for a device that is never ready; what gives the device back fails too."""

    async def story(world):
        slow = slices("n", 1)
        slow["spec"]["devices"][0] |= {
            "bindingConditions": ["ready"],
            "bindingFailureConditions": ["broken"],
        }
        client, _ = await begin(world, node("n", cpu="4"))
        for resource, document in (
            (RESOURCE_CLAIMS, claim("c")),
            (DEVICE_CLASSES, device_class()),
            (RESOURCE_SLICES, slow),
        ):
            await world.create(resource, document)
        await world.create(PODS, pod("a", claims=["c"]))
        await world.settle(1)
        held = await world.get(RESOURCE_CLAIMS, "c")
        [result] = held["status"]["allocation"]["devices"]["results"]
        broken = {"type": "broken", "status": "True", "reason": "Smoke", "message": "it burns"}
        broken["lastTransitionTime"] = "2026-01-01T00:00:00Z"
        where = {name: result[name] for name in ("driver", "pool", "device")}
        status = {**held["status"], "devices": [{**where, "conditions": [broken]}]}
        client.fail("update", RESOURCE_CLAIMS, "c", "status", error)
        await world.client.update(
            RESOURCE_CLAIMS, {**held, "status": status}, "default", subresource="status"
        )
        await world.settle(8)
        assert client.failed
        await world.create(PODS, pod("other"))
        await world.settle(2)
        assert await node_of(world, "other") == "n"
        assert "binding failed" in str(await events(world, "FailedScheduling"))

    world_run(story)


@pytest.mark.parametrize("verb", ["update", "bind"])
def test_pods_that_share_a_claim_do_not_wait_for_one_whose_write_failed(world_run, verb):
    """Both are decided on the one allocation, which then is not written with the first of them."""

    async def story(world):
        client, scheduler = await begin(world, node("n", cpu="4"))
        if verb == "update":
            client.fail("update", RESOURCE_CLAIMS, "c", "status", unavailable(), unavailable())
        else:
            client.fail("create", PODS, "a", "binding", unavailable())
        for resource, document in (
            (DEVICE_CLASSES, device_class()),
            (RESOURCE_SLICES, slices("n", 1)),
            (RESOURCE_CLAIMS, claim("c")),
            (PODS, pod("a", claims=["c"])),
            (PODS, pod("b", claims=["c"])),
        ):
            await world.create(resource, document)
        await world.settle(30)
        assert client.failed
        assert await node_of(world, "a") == await node_of(world, "b") == "n"
        held = (await world.get(RESOURCE_CLAIMS, "c"))["status"]
        assert [entry["name"] for entry in held["reservedFor"]] == ["a", "b"] or verb == "update"
        scheduler.view.snapshot.check()

    world_run(story)


def test_a_claim_that_no_pod_could_take_is_free_for_others(world_run):
    """The pod that would have brought the allocation goes; the other's claims are all forgotten."""

    async def story(world):
        client, scheduler = await begin(world, node("n", cpu="4"))
        down = [unavailable() for _ in range(8)]
        client.fail("update", RESOURCE_CLAIMS, "c", "", *down)
        for resource, document in (
            (DEVICE_CLASSES, device_class()),
            (RESOURCE_SLICES, slices("n", 1)),
            (RESOURCE_CLAIMS, claim("c")),
            (RESOURCE_CLAIMS, claim("d")),
            (PODS, pod("a", claims=["c"])),
            (PODS, pod("b", claims=["c"])),
        ):
            await world.create(resource, document)
        await world.settle(0.2)
        for name in ("a", "b"):
            await world.client.delete(PODS, name, "default", grace_period_s=0)
        await world.create(PODS, pod("e", claims=["d"]))
        await world.settle(20)
        assert await node_of(world, "e") == "n"
        assert not scheduler.view.snapshot.allocations.get(("default", "c"))

    world_run(story)


def test_a_gang_that_started_says_so_whoever_writes_to_its_group(world_run):
    async def story(world):
        client, _ = await begin(world, node("n", cpu="4"))
        await world.create(POD_GROUPS, group("g", 2))
        moved_on = conflict("podgroups", "scheduling.k8s.io", "g")
        client.fail("update", POD_GROUPS, "g", "status", moved_on, unavailable(), unavailable())
        for name in ("a", "b"):
            await world.create(PODS, pod(name, group="g"))
        await world.settle(30)
        assert len(client.failed) == 3
        conditions = (await world.get(POD_GROUPS, "g"))["status"]["conditions"]
        assert [(c["type"], c["status"]) for c in conditions] == [
            ("PodGroupInitiallyScheduled", "True")
        ]

    world_run(story)


def test_a_refusal_that_could_not_be_written_is_told_later(world_run):
    async def story(world):
        client, _ = await begin(world, node("n", cpu="1"))
        client.fail("patch", PODS, "big", "status", unavailable())
        await world.create(PODS, pod("big", cpu="8"))
        await world.settle(30)
        assert client.failed
        assert "Insufficient cpu" in (await scheduled_condition(world, "big"))["message"]

    world_run(story)


@pytest.mark.parametrize("where", ["place", "account"])
def test_a_pod_whose_decision_raises_is_told_and_the_others_go_on(world_run, monkeypatch, where):
    """Whatever the bug, it is one pod's; what had been decided beside it is decided again."""
    broken = [True]

    def failing(original):
        def place(self, one, *args, **options):
            if broken and one.key[1].startswith("bad"):
                self.snapshot.checkpoint()  # as if it had failed in the midst of a simulation
                self.snapshot.place(one, "n")
                raise ZeroDivisionError("a bug")
            return original(self, one, *args, **options)

        return place

    monkeypatch.setattr(Placer, where, failing(getattr(Placer, where)))

    async def story(world):
        _, scheduler = await begin(world, node("n", cpu="4"))
        await world.create(PODS, pod("bad", cpu="1" if where == "place" else "9"))
        for name in ("a", "c"):
            await world.create(PODS, pod(name))
        await world.settle(3)
        assert await node_of(world, "a") == await node_of(world, "c") == "n"
        told = await scheduled_condition(world, "bad")
        assert (told["reason"], "ZeroDivisionError('a bug')" in told["message"]) == (
            "SchedulerError",
            True,
        )
        scheduler.view.snapshot.check()
        assert scheduler.view.snapshot.open_checkpoints == 0
        broken.clear()
        await world.create(NODES, node("m", cpu="16"))
        await world.settle(15)
        assert await node_of(world, "bad") in ("n", "m")
        scheduler.view.snapshot.check()

    world_run(story)


def test_a_gang_whose_reading_raises_is_told_and_the_others_go_on(world_run, monkeypatch):
    async def story(world):
        _, scheduler = await begin(world, node("n", cpu="4"))
        original = scheduler.view.gang

        def gang(key):
            if key[1] == "bad":
                raise TypeError("a bug")
            return original(key)

        monkeypatch.setattr(scheduler.view, "gang", gang)
        for name in ("bad", "good"):
            await world.create(POD_GROUPS, group(name, 1))
            await world.create(PODS, pod(f"{name}-0", group=name))
        await world.settle(3)
        assert await node_of(world, "good-0") == "n"
        assert (await scheduled_condition(world, "bad-0"))["reason"] == "SchedulerError"

    world_run(story)
