"""Memory and processes where control groups are not to be had: measured, stopped, killed, grown."""

from __future__ import annotations

import asyncio
import sys

import pytest

from kubarium.node.config import NodeSpec
from kubarium.node.kubelet_config import read_kubelet_config
from kubarium.node.runtimes.process import memory_watch
from kubarium.node.runtimes.process.cgroups import Cgroups

from .conftest import none_left, process_world

# Takes 30 MiB at first, then 150 MiB in pieces; says its process id before and after.
HOG = (
    "import os,time; a = bytearray(30 << 20); print(os.getpid(), flush=True)\n"
    "for n in range(15): a += bytearray(10 << 20); time.sleep(0.1)\n"
    "print('has', os.getpid(), flush=True); time.sleep(1000)"
)
GROW = {"kubarium.dev/oom-policy": "grow", "kubarium.dev/oom-ceiling": "400Mi"}


@pytest.fixture(autouse=True)
def no_groups(monkeypatch):
    monkeypatch.setattr(Cgroups, "open", lambda tag, **_: Cgroups(shortfall="none here"))


def hog(memory="100Mi"):
    return {
        "command": [sys.executable, "-c", HOG],
        "resources": {"limits": {"memory": memory}, "requests": {"memory": "32Mi"}},
    }


async def condition(world, reason):
    async def question():
        conditions = (await world.get("hog"))["status"].get("conditions") or ()
        found = next((c for c in conditions if c["type"] == "memory.kubarium.dev/main"), {})
        return found if found.get("reason") == reason else None

    return await world.until(question, reason)


def test_without_a_policy_it_is_killed_as_the_kernel_would():
    async def story():
        async with process_world() as world:
            await world.pod("hog", container=hog())
            pod = await world.phase("hog", "Failed")
            ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
            assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
            text = await world.event("hog", "OOMKilling")
            assert text.startswith("Container main ran out of memory: limit 100Mi, peak 1")
            found = await condition(world, "Killed")
            assert "was killed at its limit 100Mi, peak 1" in found["message"]

    asyncio.run(story())


def test_with_a_policy_it_is_stopped_until_it_has_grown_and_goes_on_in_the_same_process():
    async def story():
        async with process_world() as world:
            await world.pod("hog", container=hog(), annotations=GROW)
            found = await condition(world, "AtLimit")
            assert "of its limit 100Mi" in found["message"]
            await asyncio.sleep(1.5)  # it would have all that it wants by now
            assert "has" not in await world.log("hog")
            await world.resize("hog", {"limits": {"memory": "300Mi"}})

            async def grown():
                return "has" in await world.log("hog")

            await world.until(grown, "it goes on")
            first, _, second = (await world.log("hog")).split()
            assert first == second
            pod = await world.get("hog")
            [status] = pod["status"]["containerStatuses"]
            assert (status["restartCount"], status["resources"]["limits"]["memory"]) == (0, "300Mi")

    asyncio.run(story())


def test_whom_nobody_answers_is_killed_in_the_end(monkeypatch):
    monkeypatch.setattr(memory_watch, "HOLD_S", 0.5)

    async def story():
        async with process_world() as world:
            await world.pod("hog", container=hog(), annotations=GROW)
            pod = await world.phase("hog", "Failed")
            ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
            assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)

    asyncio.run(story())


def test_a_limit_below_what_is_measured_is_refused():
    async def story():
        async with process_world() as world:
            quiet = "import time; a = bytearray(60 << 20); time.sleep(1000)"
            limits = {"limits": {"memory": "200Mi"}, "requests": {"memory": "32Mi"}}
            container = {"command": [sys.executable, "-c", quiet], "resources": limits}
            await world.pod("hog", container=container)
            await world.phase("hog", "Running")
            await asyncio.sleep(0.5)
            await world.resize("hog", {"limits": {"memory": "40Mi"}})

            async def refused():
                conditions = (await world.get("hog"))["status"]["conditions"]
                found = [c for c in conditions if c["type"] == "PodResizeInProgress"]
                return found and found[0].get("reason") == "Error" and found[0]

            found = await world.until(refused, "refused")
            assert "is below what it uses" in found["message"]
            assert (await world.get("hog"))["status"]["containerStatuses"][0]["restartCount"] == 0

    asyncio.run(story())


def test_a_fork_bomb_is_counted_and_killed():
    few = NodeSpec("node-1", kubelet=read_kubelet_config({"podPidsLimit": 50}))

    async def story():
        async with process_world(nodes=(few,)) as world:
            script = "n=0; while [ $n -lt 400 ]; do sleep 98765 & n=$((n+1)); done; wait"
            await world.pod("bomb", script)
            await world.pod("other", "sleep 1000", terminationGracePeriodSeconds=0)
            pod = await world.phase("bomb", "Failed")
            state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
            assert state["exitCode"] == 137
            assert "its limit is 50" in await world.event("bomb", "TooManyProcesses")
            assert await none_left("sleep 98765")
            await world.phase("other", "Running")

    asyncio.run(story())
