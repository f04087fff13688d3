"""Jobs, queues and Workloads through the API, on virtual time."""

import pytest

from kubarium.api.kinds import (
    CLUSTER_QUEUES,
    JOBS,
    LOCAL_QUEUES,
    RESOURCE_FLAVORS,
    WORKLOAD_PRIORITY_CLASSES,
    WORKLOADS,
)
from kubarium.base.errors import ApiError
from kubarium.client.protocol import MERGE_PATCH
from kubarium.view.queueing.world import ADMISSION_CHECKS

QUEUE = "kueue.x-k8s.io/queue-name"


def job(name, cpu="1", seconds=30, queue="lq", suspend=True, labels=None, annotations=None, **spec):
    template = {
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "main",
                "image": "busybox",
                "command": ["sleep " + str(seconds)] if seconds else ["true"],
                "resources": {"requests": {"cpu": cpu}},
            }
        ],
    }
    priority_class = spec.pop("priority_class", None)
    if priority_class:
        template["priorityClassName"] = priority_class
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": {**({QUEUE: queue} if queue else {}), **(labels or {})},
            "annotations": annotations or {},
        },
        "spec": {"suspend": suspend, "backoffLimit": 0, "template": {"spec": template}, **spec},
    }


class Story:
    """A cluster with one queue of some cpus, and shorthands for what tests ask of it."""

    def __init__(self, world, queues, conditions):
        self.world = world
        self.queues = queues(world)
        self._conditions = conditions

    async def start(self, cpu="4", flavor_spec=None, **queue):
        await self.queues.start("default")
        await self.queues.flavor("default", **(flavor_spec or {}))
        await self.queues.cluster_queue("cq", cpu=cpu, **queue)
        await self.queues.local_queue()
        await self.world.settle(1)

    async def submit(self, *jobs):
        made = [await self.world.create(JOBS, document) for document in jobs]
        await self.world.settle(2)
        return made if len(made) > 1 else made[0]

    async def fresh(self, document):
        return await self.world.get(JOBS, document["metadata"]["name"])

    async def runs(self, document):
        fresh = await self.fresh(document)
        return not fresh["spec"].get("suspend") and bool(fresh["status"].get("active"))

    async def workload(self, document):
        return await self.queues.workload_of(document)

    async def conditions(self, document):
        return self._conditions(await self.workload(document))

    async def message(self, document, type_):
        workload = await self.workload(document)
        return next(c["message"] for c in workload["status"]["conditions"] if c["type"] == type_)

    async def patch(self, resource, name, change, namespace="", **more):
        await self.world.client.patch(
            resource, name, change, namespace, patch_type=MERGE_PATCH, **more
        )
        await self.world.settle(3)

    async def queue_status(self, name="cq"):
        return (await self.world.get(CLUSTER_QUEUES, name))["status"]


@pytest.fixture
def tell(world_run, queues, conditions):
    def runner(story):
        async def main(world):
            told = Story(world, queues, conditions)
            await story(told)
            told.queues.check()

        world_run(main)

    return runner


def test_a_workload_is_named_and_owned_as_upstream(tell):
    async def story(s):
        await s.start()
        made = await s.submit(job("train"))
        workload = await s.workload(made)
        name = workload["metadata"]["name"]
        assert name.startswith("job-train-")
        assert len(name) == len("job-train-") + 5
        assert workload["metadata"]["finalizers"] == ["kueue.x-k8s.io/resource-in-use"]
        owner = workload["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["controller"]) == ("Job", True)
        assert workload["metadata"]["labels"]["kueue.x-k8s.io/job-uid"] == made["metadata"]["uid"]
        assert workload["spec"]["queueName"] == "lq"

    tell(story)


def test_a_job_that_runs_without_admission_is_suspended(tell):
    async def story(s):
        await s.start(cpu="0")
        made = await s.submit(job("eager", suspend=False))
        fresh = await s.fresh(made)
        assert fresh["spec"]["suspend"] is True
        assert not fresh["status"].get("active")
        assert (await s.conditions(made))["QuotaReserved"] == ("False", "ExceedsMaxQuota")

    tell(story)


def test_a_job_without_a_queue_is_left_alone(tell):
    async def story(s):
        await s.start(cpu="0")
        made = await s.submit(job("free", queue="", suspend=False))
        assert await s.runs(made)
        assert await s.workload(made) is None

    tell(story)


def test_flavor_labels_and_tolerations_come_with_admission_and_go_with_eviction(tell):
    async def story(s):
        toleration = {"key": "spot", "operator": "Exists"}
        await s.start(
            cpu="1",
            flavor_spec={"nodeLabels": {"pool": "cheap"}, "tolerations": [toleration]},
            preemption={"withinClusterQueue": "LowerPriority"},
        )
        await s.world.create(
            WORKLOAD_PRIORITY_CLASSES,
            {
                "apiVersion": "kueue.x-k8s.io/v1beta2",
                "kind": "WorkloadPriorityClass",
                "metadata": {"name": "urgent"},
                "value": 100,
            },
        )
        low = await s.submit(job("low"))
        spec = (await s.fresh(low))["spec"]["template"]
        assert spec["spec"]["nodeSelector"] == {"pool": "cheap"}
        assert spec["spec"]["tolerations"] == [toleration]
        assert spec["metadata"]["labels"]["kueue.x-k8s.io/podset"] == "main"
        urgent = await s.submit(
            job("urgent", seconds=10, labels={"kueue.x-k8s.io/priority-class": "urgent"})
        )
        await s.world.settle(3)
        assert await s.runs(urgent)
        fresh = await s.fresh(low)
        assert fresh["spec"]["suspend"] is True
        template = fresh["spec"]["template"]
        assert "nodeSelector" not in template["spec"]
        assert not template["spec"].get("tolerations")
        assert "kueue.x-k8s.io/podset" not in template["metadata"].get("labels", {})
        assert "kueue.x-k8s.io/stopping" not in fresh["metadata"].get("annotations", {})
        await s.world.settle(15)
        assert await s.runs(low)
        assert (await s.conditions(low))["Evicted"] == ("False", "QuotaReserved")

    tell(story)


def test_partial_admission_shrinks_a_job_that_allows_it(tell):
    async def story(s):
        await s.start(cpu="3")
        made = await s.submit(
            job(
                "flexible",
                parallelism=10,
                completions=10,
                annotations={"kueue.x-k8s.io/job-min-parallelism": "2"},
            )
        )
        fresh = await s.fresh(made)
        assert fresh["spec"]["parallelism"] == 3
        assert fresh["status"]["active"] == 3
        assert (await s.queue_status())["flavorsUsage"][0]["resources"][0]["total"] == "3"

    tell(story)


def test_pods_that_will_not_come_back_give_their_quota_back(tell):
    async def story(s):
        await s.start(cpu="4")
        wide = await s.submit(job("wide", seconds=0, parallelism=4, completions=4))
        pods = await s.world.live_pods()
        for pod in pods[:3]:
            await s.world.set_phase(pod, "Succeeded")
        await s.world.settle(3)
        workload = await s.workload(wide)
        assert workload["status"]["reclaimablePods"] == [{"name": "main", "count": 3}]
        next_one = await s.submit(job("next", cpu="3"))
        assert await s.runs(next_one)

    tell(story)


def test_a_deleted_job_frees_its_quota_and_takes_its_workload_along(tell):
    async def story(s):
        await s.start(cpu="1")
        first = await s.submit(job("first"))
        second = await s.submit(job("second"))
        assert not await s.runs(second)
        await s.world.client.delete(JOBS, "first", "default", propagation_policy="Background")
        await s.world.settle(4)
        assert await s.workload(first) is None
        assert await s.runs(second)

    tell(story)


def test_a_deleted_workload_stops_its_job_and_is_made_anew(tell):
    async def story(s):
        await s.start(cpu="1")
        made = await s.submit(job("work", seconds=0))
        old = await s.workload(made)
        await s.world.client.delete(WORKLOADS, old["metadata"]["name"], "default")
        await s.world.settle(5)
        new = await s.workload(made)
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        assert await s.runs(made)

    tell(story)


def test_hold_lets_running_jobs_finish_and_admits_no_more(tell):
    async def story(s):
        await s.start(cpu="2")
        running = await s.submit(job("running"))
        await s.patch(CLUSTER_QUEUES, "cq", {"spec": {"stopPolicy": "Hold"}})
        status = await s.queue_status()
        active = next(c for c in status["conditions"] if c["type"] == "Active")
        assert (active["status"], active["reason"]) == ("False", "Stopped")
        assert active["message"] == "Can't admit new workloads: is stopped."
        late = await s.submit(job("late"))
        assert (await s.runs(running), await s.runs(late)) == (True, False)
        assert (await s.conditions(late))["QuotaReserved"] == ("False", "Suspended")
        assert await s.message(late, "QuotaReserved") == "ClusterQueue cq is inactive"
        assert (await s.queue_status())["pendingWorkloads"] == 1
        await s.patch(CLUSTER_QUEUES, "cq", {"spec": {"stopPolicy": "None"}})
        assert await s.runs(late)

    tell(story)


def test_hold_and_drain_evicts_and_a_restart_brings_back(tell):
    async def story(s):
        await s.start(cpu="2")
        made = await s.submit(job("work", seconds=60))
        await s.patch(CLUSTER_QUEUES, "cq", {"spec": {"stopPolicy": "HoldAndDrain"}})
        found = await s.conditions(made)
        assert found["Evicted"] == ("True", "ClusterQueueStopped")
        assert found["Requeued"] == ("False", "ClusterQueueStopped")
        assert not await s.runs(made)
        assert await s.world.events("EvictedDueToClusterQueueStopped")
        await s.patch(CLUSTER_QUEUES, "cq", {"spec": {"stopPolicy": "None"}})
        assert await s.runs(made)
        assert (await s.conditions(made))["Requeued"] == ("True", "ClusterQueueRestarted")

    tell(story)


def test_a_stopped_local_queue_drains_only_its_own(tell):
    async def story(s):
        await s.start(cpu="4")
        await s.queues.local_queue("other")
        mine, theirs = await s.submit(job("mine", seconds=60), job("theirs", queue="other"))
        await s.patch(LOCAL_QUEUES, "lq", {"spec": {"stopPolicy": "HoldAndDrain"}}, "default")
        assert (await s.runs(mine), await s.runs(theirs)) == (False, True)
        assert (await s.conditions(mine))["Evicted"] == ("True", "LocalQueueStopped")
        await s.patch(LOCAL_QUEUES, "lq", {"spec": {"stopPolicy": "None"}}, "default")
        assert await s.runs(mine)

    tell(story)


def test_an_inactive_workload_is_evicted_and_returns_when_active(tell):
    async def story(s):
        await s.start(cpu="2")
        made = await s.submit(job("work", seconds=60))
        name = (await s.workload(made))["metadata"]["name"]
        await s.patch(WORKLOADS, name, {"spec": {"active": False}}, "default")
        found = await s.conditions(made)
        assert found["Evicted"] == ("True", "Deactivated")
        assert found["QuotaReserved"] == ("False", "Deactivated")
        assert not await s.runs(made)
        await s.patch(WORKLOADS, name, {"spec": {"active": True}}, "default")
        assert await s.runs(made)

    tell(story)


def test_a_time_limit_deactivates(tell):
    async def story(s):
        await s.start(cpu="2")
        made = await s.submit(
            job("slow", seconds=0, labels={"kueue.x-k8s.io/max-exec-time-seconds": "20"})
        )
        await s.world.settle(15)
        assert await s.runs(made)
        await s.world.settle(10)
        assert not await s.runs(made)
        found = await s.conditions(made)
        assert found["Evicted"] == ("True", "DeactivatedDueToMaximumExecutionTimeExceeded")
        assert (await s.workload(made))["spec"]["active"] is False

    tell(story)


def test_admission_checks_hold_a_reserved_workload_until_they_are_ready(tell):
    async def story(s):
        check = {
            "apiVersion": "kueue.x-k8s.io/v1beta2",
            "kind": "AdmissionCheck",
            "metadata": {"name": "budget"},
            "spec": {"controllerName": "example.com/budget"},
        }
        await s.queues.start("default")
        await s.world.create(ADMISSION_CHECKS, check)
        await s.queues.flavor()
        strategy = {"admissionChecks": [{"name": "budget"}]}
        await s.queues.cluster_queue("cq", admissionChecksStrategy=strategy)
        await s.queues.local_queue()
        made = await s.submit(job("checked"))
        active = next(c for c in (await s.queue_status())["conditions"] if c["type"] == "Active")
        assert active["reason"] == "AdmissionCheckInactive"
        condition = {
            "type": "Active",
            "status": "True",
            "reason": "Active",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        ready = {"status": {"conditions": [condition]}}
        await s.patch(ADMISSION_CHECKS, "budget", ready, subresource="status")
        found = await s.conditions(made)
        assert found["QuotaReserved"] == ("True", "QuotaReserved")
        assert found["Admitted"] == ("False", "UnsatisfiedAdmissionChecks")
        assert not await s.runs(made)
        workload = await s.workload(made)
        state = workload["status"]["admissionChecks"][0]
        assert (state["name"], state["state"]) == ("budget", "Pending")
        passed = {"status": {"admissionChecks": [{**state, "state": "Ready"}]}}
        await s.patch(
            WORKLOADS, workload["metadata"]["name"], passed, "default", subresource="status"
        )
        assert await s.runs(made)

    tell(story)


def test_a_waiting_job_can_move_to_another_queue(tell):
    async def story(s):
        await s.start(cpu="0")
        await s.queues.cluster_queue("roomy", cpu="4")
        await s.queues.local_queue("other", "roomy")
        made = await s.submit(job("wanderer"))
        assert not await s.runs(made)
        await s.patch(JOBS, "wanderer", {"metadata": {"labels": {QUEUE: "other"}}}, "default")
        assert await s.runs(made)

    tell(story)


def test_a_missing_queue_is_named_and_its_creation_is_enough(tell):
    async def story(s):
        await s.start(cpu="4")
        made = await s.submit(job("lost", queue="nowhere"))
        assert (await s.conditions(made))["QuotaReserved"] == ("False", "Misconfigured")
        assert await s.message(made, "QuotaReserved") == "LocalQueue nowhere doesn't exist"
        await s.queues.local_queue("nowhere")
        await s.world.settle(3)
        assert await s.runs(made)

    tell(story)


def test_an_unknown_priority_class_is_told_and_retried(tell):
    async def story(s):
        await s.start(cpu="4")
        made = await s.submit(job("odd", labels={"kueue.x-k8s.io/priority-class": "nope"}))
        assert await s.workload(made) is None
        events = await s.world.events("WorkloadPriorityClassNotFound")
        assert events[0]["message"] == 'WorkloadPriorityClass "nope" not found'

    tell(story)


def test_quota_is_borrowed_in_a_cohort_and_reclaimed(tell):
    async def story(s):
        await s.queues.start("default")
        await s.queues.flavor()
        reclaim = {"reclaimWithinCohort": "Any"}
        for name in ("left", "right"):
            await s.queues.cluster_queue(name, cpu="2", cohortName="team", preemption=reclaim)
            await s.queues.local_queue(name, name)
        borrowers = [job(f"b{i}", queue="left", seconds=60) for i in range(4)]
        jobs = await s.submit(*borrowers)
        assert all([await s.runs(made) for made in jobs])
        usage = (await s.queue_status("left"))["flavorsUsage"][0]["resources"][0]
        assert usage == {"name": "cpu", "total": "4", "borrowed": "2"}
        mine = await s.submit(job("mine", cpu="2", queue="right", seconds=20))
        await s.world.settle(3)
        assert await s.runs(mine)
        assert [await s.runs(made) for made in jobs].count(True) == 2
        workload = next(
            w
            for w in await s.queues.workloads()
            if any(
                c["type"] == "Preempted" and c["status"] == "True"
                for c in w["status"]["conditions"]
            )
        )
        preempted = next(c for c in workload["status"]["conditions"] if c["type"] == "Preempted")
        assert preempted["reason"] == "InCohortReclamation"
        assert "preemptor path: /team/right; preemptee path: /team/left" in preempted["message"]

    tell(story)


def test_queues_and_flavors_in_use_stay_until_they_are_free(tell):
    async def story(s):
        await s.start(cpu="1")
        made = await s.submit(job("work", seconds=20))
        await s.world.client.delete(CLUSTER_QUEUES, "cq")
        await s.world.client.delete(RESOURCE_FLAVORS, "default")
        await s.world.settle(3)
        status = await s.queue_status()
        active = next(c for c in status["conditions"] if c["type"] == "Active")
        assert active["reason"] == "Terminating"
        assert await s.runs(made)
        await s.world.settle(30)
        for resource, name in ((CLUSTER_QUEUES, "cq"), (RESOURCE_FLAVORS, "default")):
            with pytest.raises(ApiError, match="not found"):
                await s.world.get(resource, name)

    tell(story)


def test_a_queue_that_names_an_absent_flavor_says_so_until_it_exists(tell):
    async def story(s):
        await s.queues.start("default")
        await s.queues.cluster_queue("cq", flavors=("ghost",))
        await s.queues.local_queue()
        made = await s.submit(job("work"))
        active = next(c for c in (await s.queue_status())["conditions"] if c["type"] == "Active")
        assert active["reason"] == "FlavorNotFound"
        assert "references missing ResourceFlavor(s): ghost" in active["message"]
        await s.queues.flavor("ghost")
        await s.world.settle(3)
        assert await s.runs(made)

    tell(story)


def test_a_workload_behind_its_equal_is_told_the_same_reason(tell):
    async def story(s):
        await s.start(cpu="1")
        await s.submit(job("running"))
        first, second = await s.submit(job("first"), job("second"))
        for made in (first, second):
            assert (await s.conditions(made))["QuotaReserved"] == ("False", "WaitingForQuota")

    tell(story)


def test_the_same_seed_gives_the_same_history(world_run, queues, conditions):
    def history():
        seen = []

        async def main(world):
            s = Story(world, queues, conditions)
            await s.start(cpu="2", preemption={"withinClusterQueue": "LowerPriority"})
            for index in range(6):
                await s.submit(job(f"j{index}", seconds=10 + index))
            await world.settle(80)
            events = await world.events()
            seen.extend((e["reason"], e["message"], e["firstTimestamp"]) for e in events)

        world_run(main, 7)
        return seen

    assert history() == history()
