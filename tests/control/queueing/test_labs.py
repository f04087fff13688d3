"""Labs 01 and 03 of the Cloud Native AI Lab, from its unmodified manifests."""

import pytest
import yaml

from kubarium.api.kinds import (
    CLUSTER_QUEUES,
    JOB_SETS,
    JOBS,
    LOCAL_QUEUES,
    NAMESPACES,
    PRIORITY_CLASSES,
    RESOURCE_FLAVORS,
)

BY_KIND = {
    r.kind: r
    for r in (
        CLUSTER_QUEUES,
        JOBS,
        JOB_SETS,
        LOCAL_QUEUES,
        NAMESPACES,
        PRIORITY_CLASSES,
        RESOURCE_FLAVORS,
    )
}


class Lab:
    def __init__(self, world, folder, queues):
        self.world = world
        self.folder = folder
        self.queues = queues(world)

    async def apply(self, *names, namespace="team-a-ns"):
        created = []
        for name in names:
            for document in yaml.safe_load_all((self.folder / f"{name}.yaml").read_text()):
                resource = BY_KIND[document["kind"]]
                where = document["metadata"].get("namespace", namespace)
                created.append(await self.world.create(resource, document, where))
        return created[-1]

    async def set_up(self):
        await self.queues.start("default")
        await self.apply(
            "namespaces",
            "resource-flavor",
            "cluster-queue-a",
            "cluster-queue-b",
            "local-queue-a",
            "local-queue-b",
            "priority-classes",
        )
        await self.world.settle(1)

    async def usage(self, name="team-a-cq"):
        queue = await self.world.get(CLUSTER_QUEUES, name)
        return {r["name"]: r["total"] for r in queue["status"]["flavorsUsage"][0]["resources"]}

    async def running(self, job):
        fresh = await self.world.get(JOBS, job["metadata"]["name"], job["metadata"]["namespace"])
        return not fresh["spec"]["suspend"] and fresh["status"].get("active") == 1


@pytest.fixture
def lab_run(world_run, lab_manifests, queues):
    def runner(story, folder="01-kueue-basics"):
        async def main(world):
            lab = Lab(world, lab_manifests / "01-kueue-basics" / "manifests", queues)
            await lab.set_up()
            lab.folder = lab_manifests / folder / "manifests"
            await story(lab)
            lab.queues.check()

        world_run(main)

    return runner


def test_jobs_are_admitted_until_the_quota_is_used_and_the_next_one_waits(lab_run, conditions):
    async def story(lab):
        world = lab.world
        jobs = [await lab.apply("sample-job") for _ in range(5)]
        await world.settle(2)
        assert [await lab.running(job) for job in jobs].count(True) == 4
        assert await lab.usage() == {"cpu": "4", "memory": "4Gi"}
        queue = await world.get(CLUSTER_QUEUES, "team-a-cq")
        counts = {k: v for k, v in queue["status"].items() if k.endswith("Workloads")}
        assert counts == {"pendingWorkloads": 1, "reservingWorkloads": 4, "admittedWorkloads": 4}
        local = await world.get(LOCAL_QUEUES, "team-a-lq", "team-a-ns")
        assert local["status"]["pendingWorkloads"] == 1
        assert conditions(local)["Active"] == ("True", "Ready")
        waiting = [w for w in await lab.queues.workloads("team-a-ns") if not _admitted(w)]
        assert len(waiting) == 1
        reserved = _condition(waiting[0], "QuotaReserved")
        assert (reserved["status"], reserved["reason"]) == ("False", "WaitingForQuota")
        assert reserved["message"] == (
            "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor "
            "default-cpu, 1 more needed"
        )
        await world.settle(35)
        assert [await lab.running(job) for job in jobs].count(True) == 1
        await world.settle(35)
        assert await lab.usage() == {"cpu": "0", "memory": "0"}
        finished = await lab.queues.workloads("team-a-ns")
        assert all(conditions(w)["Finished"] == ("True", "Succeeded") for w in finished)

    lab_run(story)


def test_a_high_priority_job_evicts_just_enough_and_they_resume_later(lab_run, conditions):
    async def story(lab):
        world = lab.world
        jobs = [await lab.apply("sample-job") for _ in range(4)]
        await world.settle(2)
        urgent = await lab.apply("priority-job")
        await world.settle(3)
        assert await lab.running(urgent)
        assert [await lab.running(job) for job in jobs].count(True) == 2
        assert await lab.usage() == {"cpu": "4", "memory": "4Gi"}
        evicted = [
            w
            for w in await lab.queues.workloads("team-a-ns")
            if conditions(w).get("Evicted") == ("True", "Preempted")
        ]
        assert len(evicted) == 2
        for workload in evicted:
            assert conditions(workload)["Preempted"] == ("True", "InClusterQueue")
            assert conditions(workload)["Requeued"] == ("True", "Preempted")
            assert conditions(workload)["QuotaReserved"][0] == "False"
            message = _condition(workload, "Evicted")["message"]
            assert "due to prioritization in the ClusterQueue" in message
            assert "preemptor path: /team-a-cq; preemptee path: /team-a-cq" in message
        reasons = {e["reason"] for e in await world.events(namespace="team-a-ns")}
        assert {
            "CreatedWorkload",
            "QuotaReserved",
            "Admitted",
            "Started",
            "Preempted",
            "EvictedDueToPreempted",
            "PreemptedWorkload",
            "Stopped",
        } <= reasons
        await world.settle(25)  # the urgent one is done after 20 s
        assert [await lab.running(job) for job in jobs].count(True) == 4
        await world.settle(60)
        assert await lab.usage() == {"cpu": "0", "memory": "0"}
        for job in jobs:
            fresh = await world.get(JOBS, job["metadata"]["name"], "team-a-ns")
            assert conditions(fresh)["Complete"][0] == "True"

    lab_run(story)


def test_the_queue_of_the_other_team_is_its_own(lab_run):
    async def story(lab):
        jobs = [await lab.apply("sample-job-b", namespace="team-b-ns") for _ in range(3)]
        await lab.world.settle(2)
        assert [await lab.running(job) for job in jobs].count(True) == 2
        assert await lab.usage("team-b-cq") == {"cpu": "2", "memory": "2Gi"}
        assert await lab.usage("team-a-cq") == {"cpu": "0", "memory": "0"}

    lab_run(story)


def test_a_jobset_is_admitted_as_one(lab_run, conditions):
    async def story(lab):
        world = lab.world
        jobset = await lab.apply("jobset-with-kueue")
        await world.settle(3)
        workload = await lab.queues.workload_of(jobset)
        assert conditions(workload)["Admitted"] == ("True", "Admitted")
        assert workload["spec"]["podSets"][0]["count"] == 2
        assignment = workload["status"]["admission"]["podSetAssignments"][0]
        assert assignment["resourceUsage"] == {"cpu": "1", "memory": "1Gi"}
        pods = await world.live_pods("team-a-ns")
        assert len(pods) == 2
        # its Jobs carry no queue of their own and get no Workload
        assert len(await lab.queues.workloads("team-a-ns")) == 1
        await world.settle(40)
        workload = await lab.queues.workload_of(jobset)
        assert conditions(workload)["Finished"] == ("True", "Succeeded")

    lab_run(story, "03-jobset-training")


def test_a_jobset_waits_whole_until_all_of_it_fits(lab_run, conditions):
    async def story(lab):
        world = lab.world
        basics = lab.folder
        lab.folder = basics.parents[1] / "01-kueue-basics" / "manifests"
        for _ in range(4):
            await lab.apply("sample-job")
        await world.settle(2)
        lab.folder = basics
        jobset = await lab.apply("jobset-with-kueue")
        await world.settle(3)
        workload = await lab.queues.workload_of(jobset)
        assert conditions(workload)["QuotaReserved"] == ("False", "WaitingForQuota")
        jobs = await world.find(JOBS, "team-a-ns")
        assert not any(
            "training" in job["metadata"]["name"] and not job["spec"]["suspend"] for job in jobs
        )
        await world.settle(35)
        workload = await lab.queues.workload_of(jobset)
        assert conditions(workload)["Admitted"] == ("True", "Admitted")

    lab_run(story, "03-jobset-training")


def _condition(document, type_):
    return next(c for c in document["status"]["conditions"] if c["type"] == type_)


def _admitted(workload):
    return any(
        c["type"] == "Admitted" and c["status"] == "True"
        for c in workload.get("status", {}).get("conditions", ())
    )
