"""Out of memory, answered: limits grow in place, are remembered, and move without room."""

import json

import pytest

from kubarium.api.kinds import EVENTS, JOB_SETS, JOBS, PODS
from kubarium.base.errors import ApiError
from kubarium.control.core.garbage import GarbageCollector
from kubarium.control.core.served import ServedResources
from kubarium.control.training.jobset import JobSetController
from kubarium.control.training.learning import remember
from kubarium.control.training.memory import MemoryController
from kubarium.control.workloads.job.controller import JobController

from .test_jobset import entry, jobset

POLICY = {"kubarium.dev/oom-policy": "grow", "kubarium.dev/oom-ceiling": "300Mi"}


def wanted(annotations, memory="100Mi", **job):
    made = entry(pods=3, **job)
    template = made["template"]["spec"]["template"]
    template["metadata"] = {"annotations": annotations}
    template["spec"]["containers"][0]["resources"] = {"limits": {"memory": memory}}
    made["template"]["spec"]["completionMode"] = "Indexed"
    return jobset(made)


async def started(world, document, *, answered=True):
    """``answered``: with the controller that answers to pods that are short of memory."""
    await world.install("jobset.x-k8s.io")
    served = ServedResources(world.context)
    await world.start(
        JobSetController(world.context),
        JobController(world.context),
        *([MemoryController(world.context)] if answered else []),
        GarbageCollector(world.context, served),
    )
    await world.create(JOB_SETS, document)
    await world.settle()


async def rank(world, index):
    pods = await world.live_pods()
    label = "batch.kubernetes.io/job-completion-index"
    return next(p for p in pods if p["metadata"]["labels"][label] == str(index))


async def report(world, pod, *conditions, phase="Running", **status):
    current = await world.get(PODS, pod["metadata"]["name"])
    found = {**current.get("status", {}), "phase": phase, "conditions": list(conditions), **status}
    await world.client.update(PODS, {**current, "status": found}, "default", subresource="status")
    await world.settle()


def short(reason="AtLimit", message="uses 100Mi of its limit 100Mi, peak 100Mi", generation=1):
    return {
        "type": "memory.kubarium.dev/main",
        "status": "True",
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
    }


def limit_of(pod):
    return pod["spec"]["containers"][0]["resources"]["limits"]["memory"]


async def messages(world, reason):
    return [e["message"] for e in await world.find(EVENTS) if e["reason"] == reason]


def test_the_rank_that_is_short_grows_in_place_and_no_other(world_run):
    async def story(world):
        await started(world, wanted(POLICY))
        pods = {p["metadata"]["uid"] for p in await world.live_pods()}
        pod = await rank(world, 1)
        await report(world, pod, short())
        assert limit_of(await rank(world, 1)) == "150Mi"
        assert limit_of(await rank(world, 0)) == limit_of(await rank(world, 2)) == "100Mi"
        assert {p["metadata"]["uid"] for p in await world.live_pods()} == pods
        assert await messages(world, "MemoryGrown") == [
            f"rank 1 (pod {pod['metadata']['name']}): container main uses 100Mi of its limit 100Mi,"
            " peak 100Mi; limit grown from 100Mi to 150Mi in place"
        ]

    world_run(story)


def test_it_grows_again_only_when_the_last_growth_is_in_force(world_run):
    async def story(world):
        await started(world, wanted(POLICY))
        pod = await rank(world, 1)

        await report(world, pod, short())
        await report(world, pod, short(message="again"))
        assert limit_of(await rank(world, 1)) == "150Mi"
        await report(world, pod, short(message="later", generation=2))
        assert limit_of(await rank(world, 1)) == "225Mi"
        await report(world, pod, short(message="more", generation=3))
        assert limit_of(await rank(world, 1)) == "300Mi"
        await report(world, pod, short(message="needs yet more", generation=4))
        assert limit_of(await rank(world, 1)) == "300Mi"
        said = await messages(world, "MemoryCeilingReached")
        assert len(said) == 1
        assert said[0].endswith("needs yet more; kubarium.dev/oom-ceiling allows no more")

    world_run(story)


def test_a_rank_that_was_killed_begins_its_next_attempt_with_more(world_run):
    async def story(world):
        await started(world, wanted(POLICY))
        pod = await rank(world, 2)
        said = "was killed at its limit 100Mi, peak 100Mi, exit code 137"
        await report(world, pod, short("Killed", said))
        assert limit_of(await rank(world, 2)) == "150Mi"
        assert (await messages(world, "MemoryGrown"))[0].endswith(
            f"container main {said}; limit grown from 100Mi to 150Mi for its restart"
        )

    world_run(story)


def test_what_was_learned_survives_the_pod_the_job_and_a_restart_of_the_set(world_run):
    async def story(world):
        document = wanted(POLICY, backoffLimit=0)
        document["spec"]["failurePolicy"] = {"maxRestarts": 3}
        await started(world, document)
        pod = await rank(world, 1)
        await report(
            world,
            pod,
            short("Killed", "was killed"),
            phase="Failed",
            containerStatuses=[
                {
                    "name": "main",
                    "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
                }
            ],
        )
        await world.settle(60)
        current = await world.get(JOB_SETS, "train")
        assert current["status"]["restarts"] == 1
        learned = json.loads(current["metadata"]["annotations"]["kubarium.dev/learned-memory"])
        assert learned == {"train-workers-0/1": {"main": 150 << 20}}
        job = (await world.find(JOBS))[0]
        assert job["metadata"]["annotations"]["kubarium.dev/learned-memory"]
        assert limit_of(await rank(world, 1)) == "150Mi"
        assert limit_of(await rank(world, 0)) == "100Mi"
        assert (await messages(world, "MemoryLearned"))[0].endswith(
            "container main was killed; the next pod begins with 150Mi instead of 100Mi"
        )

    world_run(story)


def oom_killed(pod):
    """What its node says of a pod that has ended by the kernel's hand."""
    ended = {"name": "main", "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}
    return short("Killed", "was killed"), {"phase": "Failed", "containerStatuses": [ended]}


def test_a_pod_that_follows_a_killed_one_need_not_wait_for_anybody_to_write_down_what_it_needs(
    world_run,
):
    async def story(world):
        await started(world, wanted(POLICY, backoffLimit=6), answered=False)
        condition, ended = oom_killed(pod := await rank(world, 1))
        await report(world, pod, condition, **ended)
        await world.settle(60)
        after = await rank(world, 1)
        assert after["metadata"]["uid"] != pod["metadata"]["uid"]
        assert limit_of(after) == "150Mi"
        assert limit_of(await rank(world, 0)) == "100Mi"

    world_run(story)


def test_a_set_that_begins_anew_has_seen_first_what_its_killed_pods_need(world_run):
    async def story(world):
        document = wanted(POLICY, backoffLimit=0)
        document["spec"]["failurePolicy"] = {"maxRestarts": 3}
        await started(world, document, answered=False)
        for index in (0, 2):
            condition, ended = oom_killed(pod := await rank(world, index))
            current = await world.get(PODS, pod["metadata"]["name"])
            status = {**current.get("status", {}), **ended, "conditions": [condition]}
            await world.client.update(
                PODS, {**current, "status": status}, "default", subresource="status"
            )
        await world.settle(60)
        assert (await world.get(JOB_SETS, "train"))["status"]["restarts"] == 1
        limits = [limit_of(await rank(world, index)) for index in range(3)]
        assert limits == ["150Mi", "100Mi", "150Mi"]

    world_run(story)


def test_ranks_that_are_killed_together_do_not_forget_each_other(world_run):
    async def story(world):
        await started(world, wanted(POLICY, backoffLimit=6))
        pods = [await rank(world, index) for index in range(3)]
        for pod in pods:  # all are said before anybody has looked at one
            current = await world.get(PODS, pod["metadata"]["name"])
            status = {
                **current.get("status", {}),
                "phase": "Running",
                "conditions": [short("Killed", "was killed")],
            }
            await world.client.update(
                PODS, {**current, "status": status}, "default", subresource="status"
            )
        await world.settle()
        job = (await world.find(JOBS))[0]
        learned = json.loads(job["metadata"]["annotations"]["kubarium.dev/learned-memory"])
        assert learned == {str(index): {"main": 150 << 20} for index in range(3)}

    world_run(story)


def test_a_size_is_not_written_over_one_that_was_learned_meanwhile(world_run):
    async def story(world):
        await started(world, wanted(POLICY))
        job = (await world.find(JOBS))[0]
        assert await remember(world.context, JOBS, job, {"0": {"main": 150 << 20}})
        with pytest.raises(ApiError, match="modified"):
            await remember(world.context, JOBS, job, {"1": {"main": 150 << 20}})
        job = (await world.find(JOBS))[0]
        assert await remember(world.context, JOBS, job, {"1": {"main": 150 << 20}})
        assert not await remember(world.context, JOBS, (await world.find(JOBS))[0], {"1": {}})

    world_run(story)


def test_a_spare_that_takes_a_rank_gets_what_that_rank_needs(world_run):
    async def story(world):
        document = wanted(POLICY, backoffLimit=6)
        await started(world, document)
        pod = await rank(world, 1)
        job = (await world.find(JOBS))[0]
        sizes = json.dumps({"1": {"main": 200 << 20}, "2": {"main": 250 << 20}})
        change = {"metadata": {"annotations": {"kubarium.dev/learned-memory": sizes}}}
        await world.client.patch(JOBS, job["metadata"]["name"], change, "default")
        await world.settle()
        assert limit_of(await rank(world, 1)) == "100Mi", "it was made for its rank"
        change = {"metadata": {"annotations": {"kubarium.dev/hostname": "train-workers-0-1"}}}
        await world.client.patch(PODS, pod["metadata"]["name"], change, "default")
        await world.settle()
        assert limit_of(await rank(world, 1)) == "200Mi"

    world_run(story)


@pytest.mark.parametrize("kind", ["grow", "move"])
def test_a_node_without_room_is_left_only_if_the_policy_says_so(world_run, kind):
    async def story(world):
        await started(world, wanted({**POLICY, "kubarium.dev/oom-policy": kind}, backoffLimit=6))
        pod = await rank(world, 1)
        await report(world, pod, short())
        waits = {"type": "PodResizePending", "status": "True", "reason": "Deferred"}
        await report(world, pod, short(), waits)
        await world.settle(60)
        now = await rank(world, 1)
        moved = now["metadata"]["uid"] != pod["metadata"]["uid"]
        assert moved == (kind == "move")
        assert limit_of(now) == "150Mi"
        assert len(await messages(world, "MovedForMemory")) == int(moved)

    world_run(story)


def test_a_policy_that_cannot_be_read_is_said_once_on_the_pod(world_run):
    async def story(world):
        await started(world, wanted({"kubarium.dev/oom-policy": "grow"}))
        pod = await rank(world, 0)
        await report(world, pod, short())
        await report(world, pod, short(message="again"))
        assert limit_of(await rank(world, 0)) == "100Mi"
        said = await messages(world, "InvalidOOMPolicy")
        assert len(said) == 3  # one for each of the three pods
        assert "annotation kubarium.dev/oom-ceiling: is missing" in said[0]

    world_run(story)


def test_without_a_policy_nothing_happens(world_run):
    async def story(world):
        await started(world, wanted({}))
        await report(world, await rank(world, 0), short())
        assert limit_of(await rank(world, 0)) == "100Mi"

    world_run(story)
