"""Hangs, answered: the rank that holds up its gang is named and given up."""

from kubarium.api.kinds import EVENTS, JOB_SETS, PODS
from kubarium.base.clock import rfc3339
from kubarium.control.core.garbage import GarbageCollector
from kubarium.control.core.served import ServedResources
from kubarium.control.training.hangs import HangController, StalledRank, culprits
from kubarium.control.training.jobset import JobSetController
from kubarium.control.workloads.job.controller import JobController

from .test_jobset import entry, jobset

WAITS = "makes no progress for 5.0 s after step 7: at recv (socket.py:1) < mean (ddp.py:2)"
READS = "makes no progress for 5.2 s after step 7: at read_batch (data.py:9)"


def stalled(message, reason="NoProgress", number=0):
    return StalledRank({"metadata": {"name": f"rank-{number}"}}, reason, message, 0.0)


def test_the_one_that_is_elsewhere_is_the_cause():
    gang = [stalled(WAITS, number=n) for n in range(3)] + [stalled(READS, number=3)]
    assert culprits(gang, 4) == [gang[3]]


def test_while_a_rank_still_gets_on_nobody_is_to_blame():
    assert culprits([stalled(WAITS)] * 3, 4) == []
    assert culprits([], 4) == []


def test_a_stopped_rank_is_the_cause_at_once():
    gang = [stalled(WAITS), stalled("was stopped", "Stopped", 1)]
    assert culprits(gang, 15) == [gang[1]]


def test_without_a_majority_all_are_given_up():
    same = [stalled(WAITS, number=n) for n in range(3)]
    assert culprits(same, 3) == same
    halves = [stalled(WAITS, number=0), stalled(READS, number=1)]
    assert culprits(halves, 2) == halves


async def started(world, **annotations):
    await world.install("jobset.x-k8s.io")
    await world.start(
        JobSetController(world.context),
        JobController(world.context),
        HangController(world.context),
        GarbageCollector(world.context, ServedResources(world.context)),
    )
    made = entry(pods=3, completionMode="Indexed")
    made["template"]["spec"]["template"]["metadata"] = {"annotations": annotations}
    await world.create(JOB_SETS, jobset(made, failurePolicy={"maxRestarts": 3}))
    await world.settle()
    for pod in await world.live_pods():
        await world.set_phase(pod, "Running")
    await world.settle()


async def stall(world, pod, message, reason="NoProgress"):
    condition = {
        "type": "stalled.kubarium.dev/main",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": rfc3339(world.clock.now()),
    }
    await world.set_phase(pod, "Running", conditions=[condition])


async def hangs(world):
    return [e["message"] for e in await world.find(EVENTS) if e["reason"] == "HangDetected"]


def test_a_gang_whose_rank_hangs_is_brought_back_as_a_whole(world_run):
    async def story(world):
        await started(world, **{"kubarium.dev/hang-timeout": "5s"})
        pods = await world.live_pods()
        for pod in pods[:2]:
            await stall(world, pod, WAITS)
        await world.settle(30)
        assert await hangs(world) == []
        await stall(world, pods[2], READS)
        await world.settle(1)
        assert await hangs(world) == []  # the others may yet say where they are
        await world.settle(2)
        [said] = await hangs(world)
        assert said.startswith(f"rank 2 (pod {pods[2]['metadata']['name']}) makes no progress")
        assert "at read_batch (data.py:9); 2 of the 2 others wait at recv" in said
        await world.finish_deletions()
        await world.settle(30)
        assert (await world.get(JOB_SETS, "train"))["status"]["restarts"] == 1
        old = {pod["metadata"]["uid"] for pod in pods}
        assert not old & {pod["metadata"]["uid"] for pod in await world.live_pods()}

    world_run(story)


def test_a_job_that_only_wants_to_know_is_left_alone(world_run):
    async def story(world):
        annotations = {"kubarium.dev/hang-timeout": "5s", "kubarium.dev/hang-policy": "report"}
        await started(world, **annotations)
        pods = await world.live_pods()
        await stall(world, pods[0], "was stopped by a signal for 1.0 s: at f (a.py:1)", "Stopped")
        await world.settle(30)
        assert len(await hangs(world)) == 1
        assert [p["metadata"]["uid"] for p in await world.live_pods()] == [
            p["metadata"]["uid"] for p in pods
        ]

    world_run(story)


def test_a_policy_that_cannot_be_read_is_said_on_the_pod(world_run):
    async def story(world):
        await started(world, **{"kubarium.dev/hang-timeout": "soon"})
        said = [e for e in await world.find(EVENTS) if e["reason"] == "InvalidHangPolicy"]
        assert len(said) == 3
        assert "'soon' is no positive duration" in said[0]["message"]
        assert len(await world.find(PODS)) == 3

    world_run(story)
