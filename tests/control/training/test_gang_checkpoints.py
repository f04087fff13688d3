"""GangCheckpoint and PodCheckpoint as the control plane sees them; the test plays the nodes."""

import pytest

from kubarium.api.kinds import GANG_CHECKPOINTS, JOBS, POD_CHECKPOINTS, PODS
from kubarium.base.errors import ApiError
from kubarium.control.core.garbage import GarbageCollector
from kubarium.control.core.served import ServedResources
from kubarium.control.training.checkpoints import (
    GangCheckpointController,
    PodCheckpointController,
)
from kubarium.control.workloads.job.controller import JobController
from kubarium.view.checkpoints import with_condition


def job(ranks=3):
    container = {"name": "main", "image": "busybox", "command": ["train"]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train"},
        "spec": {
            "completionMode": "Indexed",
            "completions": ranks,
            "parallelism": ranks,
            "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
        },
    }


def checkpoint(name="now", **spec):
    return {
        "apiVersion": "kubarium.dev/v1alpha1",
        "kind": "GangCheckpoint",
        "metadata": {"name": name},
        "spec": {"target": {"kind": "Job", "name": "train"}, **spec},
    }


async def begun(world, **spec):
    await world.install("kubarium.dev", "checkpoint.k8s.io")
    served = ServedResources(world.context)
    await world.start(
        JobController(world.context),
        PodCheckpointController(world.context),
        GangCheckpointController(world.context),
        GarbageCollector(world.context, served),
    )
    await world.create(JOBS, job())
    await world.settle()
    for pod in await world.live_pods():
        await world.set_phase(pod, "Running")
    await world.create(GANG_CHECKPOINTS, checkpoint(**spec))
    await world.settle()


async def saved(world, part, step, sha256="a1"):
    place = {"type": "Volume", "volume": {"path": f"/ckpt/step-{step:08d}"}}
    status = with_condition(
        part,
        "CheckpointCompleted",
        "saved",
        world.clock.now(),
        step=step,
        sha256=sha256,
        bytes=7,
        checkpointLocation=place,
    )
    name = part["metadata"]["name"]
    await world.client.patch(
        POD_CHECKPOINTS, name, {"status": status}, "default", subresource="status"
    )
    await world.settle(1)


async def ready(world):
    found = await world.get(GANG_CHECKPOINTS, "now")
    [condition] = found["status"]["conditions"]
    return found["status"], condition


def test_each_rank_has_its_part_and_all_are_ready_together(world_run):
    async def story(world):
        await begun(world, timeoutSeconds=60)
        parts = await world.find(POD_CHECKPOINTS)
        assert [part["metadata"]["name"] for part in parts] == ["now-0", "now-1", "now-2"]
        pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in await world.find(PODS)}
        for part in parts:
            source = part["spec"]["sourcePod"]
            assert pods[source["name"]] == source["uid"]
            assert part["spec"]["timeoutSeconds"] == 60
        for part in parts:
            status, condition = await ready(world)
            assert condition["reason"] == "CheckpointInProgress"
            await saved(world, part, 40)
        status, condition = await ready(world)
        assert (condition["status"], condition["reason"]) == ("True", "CheckpointCompleted")
        assert (status["step"], status["ranks"], status["sha256"]) == (40, 3, "a1")
        assert status["path"] == "/ckpt/step-00000040"

    world_run(story)


def test_ranks_that_saved_different_steps_are_no_checkpoint(world_run):
    async def story(world):
        await begun(world)
        for number, part in enumerate(await world.find(POD_CHECKPOINTS)):
            await saved(world, part, 40 + number)
        _, condition = await ready(world)
        assert condition["reason"] == "CheckpointFailed"
        assert condition["message"].endswith("different states, at steps 40, 41, 42")

    world_run(story)


def test_one_rank_that_fails_fails_the_whole(world_run):
    async def story(world):
        await begun(world)
        part = (await world.find(POD_CHECKPOINTS))[1]
        status = with_condition(part, "CheckpointFailed", "no space left", world.clock.now())
        await world.client.patch(
            POD_CHECKPOINTS, "now-1", {"status": status}, "default", subresource="status"
        )
        await world.settle(1)
        _, condition = await ready(world)
        assert condition["reason"] == "CheckpointFailed"
        assert condition["message"].endswith(": no space left")

    world_run(story)


def test_a_checkpoint_that_no_node_takes_up_fails_in_time(world_run):
    async def story(world):
        await begun(world, timeoutSeconds=30)
        await world.settle(25)
        _, condition = await ready(world)
        assert condition["reason"] == "CheckpointInProgress"
        await world.settle(6)
        _, condition = await ready(world)
        assert condition["message"].endswith("no node has taken it up within 30 s")

    world_run(story)


def test_it_goes_when_its_time_is_over_and_its_parts_with_it(world_run):
    async def story(world):
        await begun(world, ttlSecondsAfterFinished=100)
        for part in await world.find(POD_CHECKPOINTS):
            await saved(world, part, 40)
        await world.settle(90)
        assert await world.names(GANG_CHECKPOINTS) == ["now"]
        await world.settle(20)
        assert await world.names(GANG_CHECKPOINTS) == []
        assert await world.names(POD_CHECKPOINTS) == []

    world_run(story)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"timeoutSeconds": 0}, "spec.timeoutSeconds"),
        ({"timeoutSeconds": 3601}, "spec.timeoutSeconds"),
        ({"target": {"kind": "Deployment", "name": "x"}}, "spec.target.kind"),
        ({"target": {"kind": "Job", "name": ""}}, "spec.target.name"),
    ],
)
def test_what_cannot_be_is_refused(world_run, spec, why):
    async def story(world):
        await world.start()
        await world.install("kubarium.dev", "checkpoint.k8s.io")
        with pytest.raises(ApiError) as refused:
            await world.create(GANG_CHECKPOINTS, checkpoint(**spec))
        assert why in str(refused.value)

    world_run(story)


def test_its_spec_cannot_be_changed(world_run):
    async def story(world):
        await begun(world)
        change = {"spec": {"timeoutSeconds": 5}}
        with pytest.raises(ApiError) as refused:
            await world.client.patch(GANG_CHECKPOINTS, "now", change, "default")
        assert "spec is immutable" in str(refused.value)

    world_run(story)


def test_a_pod_is_only_restored_from_what_is_ready(world_run):
    async def story(world):
        await begun(world)
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "again",
                "annotations": {"kubarium.dev/restore-from": "gangcheckpoint/now"},
            },
            "spec": {"containers": [{"name": "main", "image": "busybox"}]},
        }
        with pytest.raises(ApiError) as refused:
            await world.create(PODS, pod)
        assert "is not ready to restore from" in str(refused.value)
        for part in await world.find(POD_CHECKPOINTS):
            await saved(world, part, 40)
        made = await world.create(PODS, pod)
        [variable] = [
            v for v in made["spec"]["containers"][0]["env"] if v["name"] == "KUBARIUM_RESTORE"
        ]
        assert '"step": 40, "folder": "/ckpt/step-00000040"' in variable["value"]
        assert '"run": "again"' in variable["value"]
        pod["metadata"] |= {"name": "ranked", "labels": {"jobset.sigs.k8s.io/jobset-uid": "u-1"}}
        made = await world.create(PODS, pod)
        assert '"run": "u-1"' in made["spec"]["containers"][0]["env"][-1]["value"]

    world_run(story)
