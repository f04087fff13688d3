"""Real processes, watched: a stopped one is named with its Python stack; ranks stop together."""

from __future__ import annotations

import asyncio
import sys

from kubarium.api.kinds import PODS
from kubarium.node.training.processes import below

from .conftest import process_world

# Reports steps as kubarium.train does, and stops where it is told to.
PROGRAM = """
import json, os, sys, time
folder = os.environ["KUBARIUM_TRAIN_DIR"]
def say(event, **facts):
    with open(folder + "/progress-00000.jsonl", "a") as file:
        file.write(json.dumps({"at": time.time(), "event": event, **facts}) + "\\n")
import signal
signal.signal(signal.SIGTERM, lambda *_: None)
def inner_loop(step):
    began = time.time()
    time.sleep(0.02)
    say("steps", steps=[[step, began, time.time(), 0.0, int(step == 1)]])
def main():
    print("pid", os.getpid(), flush=True)
    say("start", step=0, world=2)
    for step in range(1, 100000):
        inner_loop(step)
        try:
            stop = json.load(open(folder + "/stop.json"))["step"]
        except OSError:
            continue
        if step >= stop:
            print("stopped at", step, flush=True)
            sys.exit(143)
main()
"""
OWNER = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "name": "train",
    "uid": "0b3fbbf0-0000-4000-8000-000000000001",
    "controller": True,
}


async def rank(world, number, **annotations):
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"rank-{number}",
            "namespace": "default",
            "annotations": annotations,
            "ownerReferences": [OWNER],
        },
        "spec": {
            "nodeName": world.agent.node_names[0],
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 10,
            "containers": [
                {"name": "main", "image": "busybox", "command": [sys.executable, "-c", PROGRAM]}
            ],
        },
    }
    return await world.create(PODS, document)


async def host_pid(world, name):
    """The process's id as the machine sees it; the program itself sees another."""
    pod = await world.get(name)
    runner = world.agent._runner
    init = runner.processes_of(pod["metadata"]["uid"])["main"]

    async def question():
        return below(init)

    return (await world.until(question, "a child"))[0]


async def condition(world, name, is_there=True):
    async def question():
        conditions = (await world.get(name))["status"].get("conditions") or ()
        found = [c for c in conditions if c["type"] == "stalled.kubarium.dev/main"]
        return (found or [True])[0] if bool(found) == is_there else None

    return await world.until(question, "condition stalled.kubarium.dev/main")


async def steps(world, name, least):
    pod = await world.get(name)

    async def question():
        found = world.agent._runner.training.progress(pod["metadata"]["uid"])
        return found is not None and found.step >= least

    await world.until(question, f"step {least} of {name}")


def test_a_stopped_rank_is_named_with_its_stack_and_forgiven_when_it_goes_on():
    async def story():
        async with process_world() as world:
            await rank(world, 0, **{"kubarium.dev/hang-timeout": "60s"})
            await world.phase("rank-0", "Running")
            await steps(world, "rank-0", 5)
            pid = await host_pid(world, "rank-0")
            stop = await asyncio.create_subprocess_exec("kill", "-STOP", str(pid))
            await stop.wait()
            found = await condition(world, "rank-0")
            assert found["reason"] == "Stopped"
            assert "was stopped by a signal for" in found["message"]
            assert "after step" in found["message"]
            assert "inner_loop (" in found["message"] or "main (" in found["message"]
            go = await asyncio.create_subprocess_exec("kill", "-CONT", str(pid))
            await go.wait()
            await condition(world, "rank-0", is_there=False)

    asyncio.run(story())


def test_whoever_is_asked_to_end_first_all_ranks_stop_at_one_step():
    async def story():
        async with process_world() as world:
            for number in range(3):
                await rank(world, number)
            for number in range(3):
                await world.phase(f"rank-{number}", "Running")
                await steps(world, f"rank-{number}", 5)
            await world.client.delete(PODS, "rank-1", "default")
            for number in (0, 2):
                pod = await world.phase(f"rank-{number}", "Failed")
                ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
                assert ended["exitCode"] == 143
            said = {(await world.log(f"rank-{n}")).split("stopped at")[1] for n in (0, 2)}
            assert len(said) == 1

    asyncio.run(story())


def test_pods_that_are_no_ranks_have_no_training_folder():
    async def story():
        async with process_world() as world:
            await world.pod("plain", "echo dir=$KUBARIUM_TRAIN_DIR; ls -d /run/kubarium/train")
            assert "dir=\n" in await world.output("plain")
            assert "/run/kubarium/train\n" not in await world.log("plain")

    asyncio.run(story())
