"""A Job counts every pod exactly once, whatever fails and whenever the controller dies."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.api.kinds import JOBS, PODS
from kubarium.base.chance import Chance
from kubarium.base.errors import ApiError
from kubarium.control.workloads.job.backoff import BackoffTimes
from kubarium.control.workloads.job.controller import JobController
from kubarium.runtime.informer import SharedInformers
from kubarium.runtime.protocol import Context
from kubarium.runtime.virtual import run


class UnreliableClient:
    """Fails some writes: before they happen, or after (the answer is lost)."""

    def __init__(self, client, chance, rate):
        self._client = client
        self._chance = chance
        self.rate = rate

    def __getattr__(self, name):
        method = getattr(self._client, name)
        if name not in ("create", "update", "patch", "delete"):
            return method

        async def unreliable(*args, **kwargs):
            draw = self._chance.uniform(0, 1)
            if draw < self.rate / 2:
                raise ApiError(500, "InternalError", "lost before the write")
            answer = await method(*args, **kwargs)
            if draw < self.rate:
                raise ApiError(500, "InternalError", "lost after the write")
            return answer

        return unreliable


def document(completions, mode):
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "work"},
        "spec": {
            "completions": completions,
            "parallelism": completions,
            "completionMode": mode,
            "backoffLimit": 1000,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "main", "image": "busybox"}],
                }
            },
        },
    }


async def start_controller(world, chance, rate):
    client = UnreliableClient(world.controller_client, chance, rate)
    informers = SharedInformers(client, world.clock)
    context = Context(client, informers, world.clock, chance)
    controller = JobController(context, BackoffTimes(first_s=0.1, highest_s=1))
    task = asyncio.create_task(controller.run())
    return client, informers, task


async def stop_controller(informers, task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await informers.close()


@given(
    seed=st.integers(0, 10**6),
    mode=st.sampled_from(["Indexed", "NonIndexed"]),
    rate=st.sampled_from([0.0, 0.1, 0.4]),
    failures=st.integers(0, 6),
    crashes=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_every_pod_is_counted_exactly_once(world_class, seed, mode, rate, failures, crashes):
    async def main():
        world = world_class(seed)
        chance = Chance(seed)
        await world.start()
        client, informers, task = await start_controller(world, chance, rate)
        await world.create(JOBS, document(4, mode))
        left_to_fail, left_to_crash, failed = failures, crashes, 0
        for _ in range(400):
            await world.clock.sleep(chance.uniform(0.01, 1))
            live = await world.live_pods()
            if live and left_to_fail:
                await world.set_phase(live[chance.below(len(live))], "Failed", exit_code=1)
                left_to_fail -= 1
                failed += 1
            elif live:
                await world.set_phase(live[chance.below(len(live))], "Succeeded")
            if left_to_crash and chance.below(4) == 0:
                await stop_controller(informers, task)
                client, informers, task = await start_controller(world, chance, rate)
                left_to_crash -= 1
            job = await world.get(JOBS, "work")
            if any(c["type"] == "Complete" for c in job["status"].get("conditions", ())):
                break
        client.rate = 0
        await world.clock.sleep(2000)
        job = await world.get(JOBS, "work")
        await stop_controller(informers, task)
        return job, await world.find(PODS), failed

    job, pods, failed = run(main())
    status = job["status"]
    assert [c["type"] for c in status["conditions"]] == ["SuccessCriteriaMet", "Complete"]
    succeeded = [pod for pod in pods if pod["status"]["phase"] == "Succeeded"]
    if mode == "Indexed":
        assert status["completedIndexes"] == "0-3"
        assert status["succeeded"] == 4
    else:
        assert status["succeeded"] == len(succeeded) >= 4
    assert status.get("failed", 0) == failed
    assert status["uncountedTerminatedPods"] == {}
    assert not any(pod["metadata"].get("finalizers") for pod in pods)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_gives_the_same_history(world_class, seed):
    async def main():
        world = world_class(seed)
        chance = Chance(seed)
        await world.start()
        _, informers, task = await start_controller(world, chance, 0.3)
        await world.create(JOBS, document(3, "Indexed"))
        for _ in range(20):
            await world.clock.sleep(1)
            for pod in await world.live_pods():
                await world.set_phase(pod, "Succeeded")
        found = await world.find(JOBS) + await world.find(PODS) + await world.events()
        await stop_controller(informers, task)
        return world.server.store.revision, found

    assert run(main(), seed) == run(main(), seed)
