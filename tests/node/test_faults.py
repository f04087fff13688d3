"""Faults on real processes: each does what it says, once, and is said on the pod."""

from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace

from kubarium.api.kinds import PODS
from kubarium.node.faults import FaultActor

from .conftest import process_world

COUNTS = "import time, sys\nfor n in range(10**6): print(n, flush=True); time.sleep(0.05)"


async def order(world, name, **what):
    """One Fault's order; the order itself, to be healed."""
    given = {"ident": f"uid/{what}", "container": "main", "at": world.context.clock.now(), **what}
    patch = {"metadata": {"annotations": {"fault.kubarium.dev/uid": json.dumps(given)}}}
    await world.client.patch(PODS, name, patch, "default")
    return given


async def counter(world, name="victim", **container):
    await world.pod(name, container={"command": [sys.executable, "-c", COUNTS], **container})
    await world.phase(name, "Running")

    async def counts():
        return "5\n" in await world.log(name)

    await world.until(counts, "counting")


async def lines(world, name="victim"):
    return (await world.log(name)).count("\n")


def test_a_killed_container_ends_with_137_and_the_pod_says_why():
    async def story():
        async with process_world() as world:
            await counter(world)
            await order(world, "victim", action="Kill")
            pod = await world.phase("victim", "Failed")
            ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
            assert ended["exitCode"] == 137
            assert (
                await world.event("victim", "FaultInjected") == "Kill of container main, on purpose"
            )

    asyncio.run(story())


def test_a_stopped_container_goes_on_when_its_time_is_over():
    async def story():
        async with process_world() as world:
            await counter(world)
            await order(world, "victim", action="Stop", duration_s=1.0)
            await world.event("victim", "FaultInjected")
            before = await lines(world)
            await world.context.clock.sleep(0.5)
            assert await lines(world) <= before + 2

            async def goes_on():
                return await lines(world) > before + 10

            await world.until(goes_on, "counting again")
            assert (await world.get("victim"))["status"]["phase"] == "Running"

    asyncio.run(story())


def test_an_order_is_carried_out_once():
    async def story():
        async with process_world() as world:
            await counter(world)
            await order(world, "victim", action="Stop", duration_s=0.2)
            await world.event("victim", "FaultInjected")
            patch = {"metadata": {"labels": {"touched": "yes"}}}
            await world.client.patch(PODS, "victim", patch, "default")
            await world.context.clock.sleep(0.5)
            said = [r for r, _ in await world.events("victim") if r == "FaultInjected"]
            assert len(said) == 1

    asyncio.run(story())


def test_memory_is_taken_until_the_kernel_kills():
    async def story():
        async with process_world() as world:
            if "memory" not in world.agent._runner.pods._groups.controllers:
                return
            await counter(world, resources={"limits": {"memory": "64Mi"}})
            await order(world, "victim", action="OutOfMemory", amount=32)
            assert "ran out of memory" in await world.event("victim", "OOMKilling")

    asyncio.run(story())


def test_a_corrupted_file_differs_in_its_middle():
    async def story():
        async with process_world() as world:
            script = (
                "mkdir -p /tmp/c/step; head -c 3000 /dev/zero > /tmp/c/step/part.npz;"
                "while ! od -An -c /tmp/c/step/part.npz | grep -q 377; do sleep 0.05; done;"
                "stat -c %s /tmp/c/step/part.npz"
            )
            await world.pod("victim", script)
            await world.phase("victim", "Running")
            await world.context.clock.sleep(0.3)
            await order(world, "victim", action="CorruptFile", path="/tmp/c")
            assert (await world.output("victim")).strip() == "3000"

    asyncio.run(story())


def test_what_cannot_be_done_is_said():
    async def story():
        async with process_world() as world:
            await counter(world)
            await order(world, "victim", action="OutOfMemory", amount=1)
            text = await world.event("victim", "FaultNotInjected")
            assert text == "OutOfMemory of container main: it has no memory limit to run into"
            await order(world, "victim", action="CorruptFile", path="/nowhere")

            async def said():
                return any("no file under /nowhere" in m for _, m in await world.events("victim"))

            await world.until(said, "the second order's answer")

    asyncio.run(story())


class OnePod:
    """A pod with a network of its own: how long it is held back, and what runs in it."""

    def __init__(self):
        self.held, self.running = None, {"main": 0}

    def running_attempts(self, uid):
        return self.running

    def has_network(self, uid):
        return True

    def delay(self, uid, milliseconds):
        self.held = milliseconds
        return ""


def test_a_delay_is_healed_while_nothing_of_the_pod_runs():
    async def story():
        pods, tasks = OnePod(), []
        clock = SimpleNamespace(now=lambda: 0.0)
        actor = FaultActor(clock, pods, tasks.append, lambda *said: None)

        async def look(**more):
            given = json.dumps({"ident": "uid/0", "action": "Delay", "at": 0, "amount": 50} | more)
            annotations = {"fault.kubarium.dev/uid": given}
            actor.look({"metadata": {"uid": "pod", "annotations": annotations}})
            await tasks.pop()

        await look()
        assert pods.held == 50
        pods.running = {}  # between two attempts
        await look(healed=True)
        assert pods.held is None

    asyncio.run(story())


def test_an_order_that_is_given_once_more_is_not_carried_out_again():
    async def story():
        killed, tasks = [], []

        class Pods(OnePod):
            async def signal_all(self, uid, name, number):
                killed.append(name)

        actor = FaultActor(
            SimpleNamespace(now=lambda: 0.0), Pods(), tasks.append, lambda *said: None
        )
        for at, number in ((1, 0), (2, 0), (3, 1)):
            given = json.dumps({"ident": f"uid/{number}", "action": "Kill", "at": at})
            annotations = {"fault.kubarium.dev/uid": given}
            actor.look({"metadata": {"uid": "pod", "annotations": annotations}})
        for task in tasks:
            await task
        assert killed == ["main", "main"], "one for each injection"

    asyncio.run(story())
