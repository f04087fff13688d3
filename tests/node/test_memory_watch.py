"""A container at its memory limit: it waits, is told of, grows in place, or is given up."""

from __future__ import annotations

import asyncio
import sys

import pytest

from kubarium.api.kinds import PODS
from kubarium.node.runtimes.process import memory_watch
from kubarium.node.runtimes.process.cgroups import Cgroups

from .conftest import process_world

# Takes 30 MiB at first and 90 MiB in a burst; says its process id before and after.
HOG = (
    "import os,time; a = bytearray(30 << 20); print(os.getpid(), flush=True);"
    "b = bytearray(90 << 20); print('has', os.getpid(), flush=True); time.sleep(1000)"
)
GROW = {"kubarium.dev/oom-policy": "grow", "kubarium.dev/oom-ceiling": "400Mi"}


@pytest.fixture(autouse=True)
def needs_memory_groups():
    groups = Cgroups.open("probe-memory-watch")
    able = "memory" in groups.controllers
    version = {h.version for h in groups.hierarchies if "memory" in h.controllers}
    groups.close()
    if not able or version != {1}:
        pytest.skip("needs a writable memory controller of version 1, which can hold a group")


def hog(memory="64Mi"):
    return {
        "command": [sys.executable, "-c", HOG],
        "resources": {"limits": {"memory": memory}, "requests": {"memory": "32Mi"}},
    }


async def short(world, name):
    async def question():
        conditions = (await world.get(name))["status"].get("conditions") or ()
        return next((c for c in conditions if c["type"] == "memory.kubarium.dev/main"), None)

    return await world.until(question, "condition memory.kubarium.dev/main")


def test_a_burst_beyond_the_limit_waits_and_goes_on_in_the_same_process():
    async def story():
        async with process_world() as world:
            await world.pod("hog", container=hog(), annotations=GROW)
            condition = await short(world, "hog")
            assert condition["reason"] == "AtLimit"
            assert "of its limit 64Mi, peak" in condition["message"]
            await world.resize("hog", {"limits": {"memory": "160Mi"}})

            async def grown():
                return "has" in await world.log("hog")

            await world.until(grown, "the burst")

            async def calm():
                pod = await world.get("hog")
                kinds = [c["type"] for c in pod["status"]["conditions"]]
                return pod if "memory.kubarium.dev/main" not in kinds else None

            pod = await world.until(calm, "the condition is gone")
            status = pod["status"]["containerStatuses"][0]
            assert status["restartCount"] == 0
            assert status["resources"]["limits"]["memory"] == "160Mi"
            first, _, second = (await world.log("hog")).split()
            assert first == second

    asyncio.run(story())


def test_whom_nobody_answers_is_killed_as_everywhere_else(monkeypatch):
    monkeypatch.setattr(memory_watch, "HOLD_S", 0.3)

    async def story():
        async with process_world() as world:
            await world.pod("hog", container=hog(), annotations=GROW)
            pod = await world.phase("hog", "Failed")
            ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
            assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
            condition = await short(world, "hog")
            assert condition["reason"] == "Killed"
            assert "was killed at its limit 64Mi, peak 64Mi, exit code 137" in condition["message"]

    asyncio.run(story())


@pytest.mark.parametrize(
    "annotations", [{}, {**GROW, "kubarium.dev/oom-ceiling": "64Mi"}], ids=["no policy", "ceiling"]
)
def test_who_may_not_grow_does_not_wait(annotations):
    async def story():
        async with process_world() as world:
            await world.pod("hog", container=hog(), annotations=annotations)
            pod = await world.phase("hog", "Failed", limit_s=10)
            ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
            assert ended["reason"] == "OOMKilled"

    asyncio.run(story())


def test_a_held_container_can_still_be_deleted():
    async def story():
        async with process_world() as world:
            await world.pod("hog", container=hog(), annotations=GROW)
            await short(world, "hog")
            await world.client.delete(PODS, "hog", "default", grace_period_s=0)

            async def gone():
                return not (await world.client.list(PODS, "default")).items

            await world.until(gone, "deletion")

    asyncio.run(story())


# Starts a rank, as a launcher does, and goes on when that is killed. The rank takes 30 MiB at first
# and 90 MiB once it is told to.
LAUNCHER = """
import os, pathlib, subprocess, sys, time
rank = "import os,time; a = bytearray(30 << 20)\\nwhile not os.path.exists('/tmp/go'):"
rank += " time.sleep(0.01)\\nb = bytearray(90 << 20); print('has', flush=True)"
print("launcher", os.getpid(), flush=True)
print("rank", subprocess.run([sys.executable, "-c", rank]).returncode, flush=True)
time.sleep(1000)
"""


def test_a_rank_that_the_kernel_kills_below_its_launcher_is_told_of_while_the_container_runs():
    async def story():
        async with process_world() as world:
            container = hog() | {"command": [sys.executable, "-c", LAUNCHER]}
            await world.pod("hog", container=container, annotations=GROW)
            pod = await world.phase("hog", "Running")
            pods, uid = world.agent._runner.pods, pod["metadata"]["uid"]

            async def begun():
                return "launcher" in await world.log("hog")

            await world.until(begun, "the launcher")
            pods.oversight.memory.drop(uid, "main")  # the burst comes when nobody holds it
            await pods.execute(uid, "main", 0, ["touch", "/tmp/go"], 5.0)
            condition = await short(world, "hog")
            assert condition["reason"] == "Killed"
            assert condition["message"].startswith("was killed at its limit 64Mi, peak 6")
            assert "rank -9" in await world.log("hog")
            await world.resize("hog", {"limits": {"memory": "160Mi"}})

            async def calm():
                pod = await world.get("hog")
                kinds = [c["type"] for c in pod["status"]["conditions"]]
                return pod if "memory.kubarium.dev/main" not in kinds else None

            status = (await world.until(calm, "the condition is gone"))["status"]
            assert status["containerStatuses"][0]["restartCount"] == 0
            said = [m for r, m in await world.events("hog") if r == "OOMKilling"]
            assert len(said) == 1, "one kill is told of once"

    asyncio.run(story())


def test_a_container_that_was_killed_begins_anew_with_the_limit_that_it_was_given():
    async def story():
        async with process_world() as world:
            once = "import os,time; os.path.exists('/tmp/x/seen') and time.sleep(1000);"
            once += "open('/tmp/x/seen', 'w'); b = bytearray(30 << 20);print('x', flush=True);"
            once += "time.sleep(0.5); c = bytearray(90 << 20)"
            container = hog() | {
                "command": [sys.executable, "-c", once],
                "volumeMounts": [{"name": "x", "mountPath": "/tmp/x"}],
            }
            await world.pod(
                "hog",
                container=container,
                annotations=GROW,
                restartPolicy="OnFailure",
                volumes=[{"name": "x", "emptyDir": {}}],
            )
            pod = await world.phase("hog", "Running")

            async def begun():
                return "x" in await world.log("hog")

            await world.until(begun, "its first memory")
            world.agent._runner.pods.oversight.memory.drop(pod["metadata"]["uid"], "main")
            condition = await short(world, "hog")
            assert condition["reason"] == "Killed"
            assert condition["message"].endswith("exit code 137")
            await asyncio.sleep(0.3)
            status = (await world.get("hog"))["status"]["containerStatuses"][0]
            assert status["restartCount"] == 0, "it waits for what it was promised"
            await world.resize("hog", {"limits": {"memory": "160Mi"}})

            async def again():
                found = (await world.get("hog"))["status"]["containerStatuses"][0]
                return found if found["restartCount"] == 1 and found.get("started") else None

            found = await world.until(again, "its second attempt", limit_s=4)
            assert found["resources"]["limits"]["memory"] == "160Mi"
            assert found["lastState"]["terminated"]["reason"] == "OOMKilled"

    asyncio.run(story())
