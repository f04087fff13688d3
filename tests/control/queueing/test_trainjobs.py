"""TrainJobs in queues: one Workload, started by a runtime patch, given back when evicted."""

import pytest

from kubarium.api.kinds import (
    CLUSTER_TRAINING_RUNTIMES,
    JOB_SETS,
    TRAIN_JOBS,
    WORKLOAD_PRIORITY_CLASSES,
    WORKLOADS,
)
from kubarium.cluster import training as stock

QUEUE = "kueue.x-k8s.io/queue-name"
PATCHES = "kueue.x-k8s.io/manager"


def train_job(name="job", nodes=2, seconds=30, queue="lq", priority="", **spec):
    labels = {QUEUE: queue} if queue else {}
    if priority:
        labels["kueue.x-k8s.io/priority-class"] = priority
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "runtimeRef": {"name": "torch-distributed"},
            "trainer": {
                "numNodes": nodes,
                "image": "busybox",
                "command": ["sh", "-c", f"sleep {seconds}" if seconds else "true"],
                "resourcesPerNode": {"requests": {"cpu": "1"}},
            },
            **spec,
        },
    }


@pytest.fixture
def lab(world_run, queues):
    """A story in a world with a queue of 4 CPUs, whose flavor has a label and a taint."""

    def tell(story):
        async def main(world):
            made = queues(world)
            await made.start("default")
            for runtime in stock.runtimes():
                await world.create(CLUSTER_TRAINING_RUNTIMES, runtime)
            toleration = {"key": "batch", "operator": "Exists"}
            await made.flavor("default", nodeLabels={"zone": "a"}, tolerations=[toleration])
            await made.cluster_queue("cq", cpu="4", preemption=PREEMPTION)
            await made.local_queue()
            for name, value in (("low", 1), ("high", 1000)):
                await world.create(
                    WORKLOAD_PRIORITY_CLASSES,
                    {
                        "apiVersion": "kueue.x-k8s.io/v1beta2",
                        "kind": "WorkloadPriorityClass",
                        "metadata": {"name": name},
                        "value": value,
                    },
                )
            await world.settle(1)
            await story(world, made)
            made.check()

        world_run(main)

    return tell


PREEMPTION = {"withinClusterQueue": "LowerPriority"}


async def spec_of(world, name="job"):
    return (await world.get(TRAIN_JOBS, name))["spec"]


def managers(spec):
    return [patch["manager"] for patch in spec.get("runtimePatches", [])]


def test_it_starts_suspended_and_is_admitted_as_one(lab):
    async def story(world, queues):
        job = await world.create(TRAIN_JOBS, train_job(nodes=3))
        assert job["spec"]["suspend"] is True
        await world.settle(5)
        workload = await queues.workload_of(job)
        [pod_set] = workload["spec"]["podSets"]
        assert (pod_set["name"], pod_set["count"]) == ("node", 3)
        spec = await spec_of(world)
        assert spec["suspend"] is False
        assert managers(spec) == [PATCHES]
        for pod in await world.live_pods():
            assert pod["spec"]["nodeSelector"] == {"zone": "a"}
            assert {"key": "batch", "operator": "Exists"} in pod["spec"]["tolerations"]
        await world.settle(60)
        finished = await queues.workload_of(job)
        [condition] = [c for c in finished["status"]["conditions"] if c["type"] == "Finished"]
        assert (condition["status"], condition["reason"]) == ("True", "Succeeded")

    lab(story)


def test_it_waits_until_all_of_it_fits(lab):
    async def story(world, queues):
        await world.create(TRAIN_JOBS, train_job("first", nodes=3))
        await world.settle(3)
        job = await world.create(TRAIN_JOBS, train_job("second", nodes=2, seconds=0))
        await world.settle(5)
        assert (await spec_of(world, "second"))["suspend"] is True
        assert (await world.get(JOB_SETS, "second"))["spec"]["suspend"] is True
        await world.settle(60)
        assert (await spec_of(world, "second"))["suspend"] is False
        assert await queues.workload_of(job) is not None

    lab(story)


def test_a_preempted_one_gives_back_what_admission_added(lab):
    async def story(world, queues):
        own = {
            "manager": "example.io/team",
            "trainingRuntimeSpec": {"template": {"metadata": {"labels": {"team": "a"}}}},
        }
        low = await world.create(
            TRAIN_JOBS,
            train_job("victim", nodes=3, seconds=600, priority="low", runtimePatches=[own]),
        )
        await world.settle(10)
        assert managers(await spec_of(world, "victim")) == ["example.io/team", PATCHES]
        await world.create(TRAIN_JOBS, train_job("winner", nodes=4, seconds=30, priority="high"))
        await world.settle(15)
        spec = await spec_of(world, "victim")
        assert spec["suspend"] is True
        assert managers(spec) == ["example.io/team"]
        assert (await spec_of(world, "winner"))["suspend"] is False
        workload = await queues.workload_of(low)
        [pod_set] = workload["spec"]["podSets"]
        assert "tolerations" not in pod_set["template"]["spec"]
        await world.settle(60)  # the winner ends, and the victim is admitted again
        assert (await spec_of(world, "victim"))["suspend"] is False

    lab(story)


def test_its_jobset_has_no_workload_of_its_own(lab):
    async def story(world, queues):
        await world.create(TRAIN_JOBS, train_job())
        await world.settle(5)
        owners = [w["metadata"]["ownerReferences"][0]["kind"] for w in await queues.workloads()]
        assert owners == ["TrainJob"]

    lab(story)


def test_its_workload_goes_with_it(lab):
    async def story(world, queues):
        await world.create(TRAIN_JOBS, train_job())
        await world.settle(5)
        await world.client.delete(TRAIN_JOBS, "job", "default")
        await world.settle(10)
        assert await world.names(WORKLOADS) == []

    lab(story)


def test_without_a_queue_it_starts_at_once(lab):
    async def story(world, queues):
        await world.create(TRAIN_JOBS, train_job(queue="", nodes=5))
        await world.settle(5)
        assert len(await world.live_pods()) == 5
        assert await queues.workloads() == []

    lab(story)
