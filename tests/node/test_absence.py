"""Nodes away on purpose, with real processes: what goes on, what ends, what is caught up."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from kubarium.api.kinds import NODES, PODS
from kubarium.base.errors import ApiError

from .conftest import process_world, processes_with

TICKS = "import time\nwhile True: print('tick', flush=True); time.sleep(0.05)"


async def leave(world, action):
    order = {"ident": "uid/0", "action": action, "at": world.context.clock.now()}
    await annotate(world, json.dumps(order))


async def annotate(world, text):
    patch = {"metadata": {"annotations": {"fault.kubarium.dev/uid": text}}}
    await world.client.patch(NODES, world.agent.node_names[0], patch, "")
    await world.context.clock.sleep(0.2)


async def run(world, name, marker, **spec):
    command = [sys.executable, "-c", TICKS, marker]
    pod = await world.pod(name, container={"command": command}, **spec)
    await world.phase(name, "Running")
    return pod["metadata"]["uid"]


def test_pods_of_a_disconnected_node_go_on_and_are_heard_of_later():
    async def story():
        async with process_world() as world:
            await run(world, "stays", "absence-stays")
            await run(world, "goes", "absence-goes")
            await world.pod("ends", "sleep 0.6; exit 3")
            await world.phase("ends", "Running")
            await leave(world, "DisconnectNode")
            await world.client.delete(PODS, "goes", "default", grace_period_s=1)
            await world.pod("comes", "sleep 100")
            with pytest.raises(ApiError, match="is away: it does not answer"):
                await world.log("stays")
            await world.context.clock.sleep(1.5)
            assert processes_with("absence-goes")
            assert processes_with("absence-stays")
            assert (await world.get("ends"))["status"]["phase"] == "Running"
            assert (await world.get("comes"))["status"]["phase"] == "Pending"
            await annotate(world, None)
            ended = await world.phase("ends", "Failed")
            assert ended["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
            await world.phase("comes", "Running")
            await world.gone("goes")
            assert processes_with("absence-stays")
            assert (await world.log("stays")).count("tick") > 20

    asyncio.run(story())


@pytest.mark.parametrize("away_s", [0.0, 1.0])
def test_a_lost_node_comes_back_without_what_ran_on_it(away_s):
    async def story():
        async with process_world() as world:
            await run(world, "never", "absence-never")
            await run(world, "always", "absence-always", restartPolicy="Always")
            await leave(world, "LoseNode")
            await world.context.clock.sleep(away_s)
            if away_s:
                assert not processes_with("absence-never")
                assert (await world.get("never"))["status"]["phase"] == "Running"
            await annotate(world, None)
            await world.phase("never", "Failed")

            async def restarted():
                pod = await world.get("always")
                [status] = pod["status"]["containerStatuses"]
                return status["restartCount"] == 1 and status["state"].get("running")

            await world.until(restarted, "the pod that restarts always runs again", 30)
            assert processes_with("absence-always")

    asyncio.run(story())
