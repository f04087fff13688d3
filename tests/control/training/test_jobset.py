import hashlib

import pytest

from kubarium.api.admission import jobset as admission
from kubarium.api.kinds import JOB_SETS, JOBS, PERSISTENT_VOLUME_CLAIMS, PODS, SERVICES
from kubarium.api.resource import copy_document
from kubarium.control.core.garbage import GarbageCollector
from kubarium.control.core.served import ServedResources
from kubarium.control.training.jobset import JobSetController
from kubarium.control.workloads.job.controller import JobController


def entry(name="workers", replicas=1, pods=2, **job):
    rest = {key: job.pop(key) for key in ("dependsOn", "groupName") if key in job}
    return {
        "name": name,
        "replicas": replicas,
        "template": {
            "spec": {
                "parallelism": pods,
                "completions": pods,
                "backoffLimit": 0,
                "template": {
                    "spec": {
                        "restartPolicy": "Never",
                        "containers": [{"name": "main", "image": "busybox"}],
                    }
                },
                **job,
            }
        },
        **rest,
    }


def jobset(*entries, name="train", **spec):
    document = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name},
        "spec": {"replicatedJobs": list(entries) or [entry()], **spec},
    }
    admission.default(document)
    assert admission.validate(document, None) == []
    return document


async def started(world):
    await world.install("jobset.x-k8s.io")
    served = ServedResources(world.context)
    await world.start(
        JobSetController(world.context),
        JobController(world.context),
        GarbageCollector(world.context, served),
    )


async def all_to(world, phase, **kwargs):
    for pod in await world.live_pods():
        await world.set_phase(pod, phase, **kwargs)
    await world.settle()


async def fail_one_job(world, name):
    [pod, *_] = [
        pod
        for pod in await world.live_pods()
        if pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == name
    ]
    await world.set_phase(pod, "Failed", exit_code=1)
    await world.settle()
    await world.finish_deletions()
    await world.settle()


def test_jobs_carry_upstreams_names_and_labels(world_run):
    async def story(world):
        await started(world)
        leader = entry("leader", pods=1, groupName="front")
        workers = entry("workers", replicas=2)
        coordinator = {"replicatedJob": "leader", "jobIndex": 0, "podIndex": 0}
        created = await world.create(JOB_SETS, jobset(leader, workers, coordinator=coordinator))
        await world.settle()
        assert await world.names(JOBS) == ["train-leader-0", "train-workers-0", "train-workers-1"]
        job = await world.get(JOBS, "train-workers-1")
        key = hashlib.sha1(b"default/train-workers-1", usedforsecurity=False).hexdigest()
        expected = {
            "jobset.sigs.k8s.io/jobset-name": "train",
            "jobset.sigs.k8s.io/jobset-uid": created["metadata"]["uid"],
            "jobset.sigs.k8s.io/replicatedjob-name": "workers",
            "jobset.sigs.k8s.io/restart-attempt": "0",
            "jobset.sigs.k8s.io/replicatedjob-replicas": "2",
            "jobset.sigs.k8s.io/global-replicas": "3",
            "jobset.sigs.k8s.io/job-index": "1",
            "jobset.sigs.k8s.io/job-key": key,
            "jobset.sigs.k8s.io/job-global-index": "2",
            "jobset.sigs.k8s.io/group-name": "default",
            "jobset.sigs.k8s.io/group-replicas": "2",
            "jobset.sigs.k8s.io/job-group-index": "1",
            "jobset.sigs.k8s.io/coordinator": "train-leader-0-0.train",
        }
        template = job["spec"]["template"]
        for metadata in (job["metadata"], template["metadata"]):
            assert expected.items() <= metadata["labels"].items()
            assert expected.items() <= metadata["annotations"].items()
        assert template["spec"]["subdomain"] == "train"
        service = await world.get(SERVICES, "train")
        assert service["spec"]["clusterIP"] == "None"
        assert service["spec"]["publishNotReadyAddresses"] is True
        assert service["spec"]["selector"] == {"jobset.sigs.k8s.io/jobset-name": "train"}
        hostnames = sorted(pod["spec"]["hostname"] for pod in await world.live_pods())
        assert "train-workers-1-0" in hostnames

    world_run(story)


def test_a_jobset_completes_when_all_jobs_have(world_run, conditions):
    async def story(world):
        await started(world)
        await world.create(JOB_SETS, jobset(entry(replicas=2)))
        await world.settle()
        await all_to(world, "Running")
        status = (await world.get(JOB_SETS, "train"))["status"]
        assert status["replicatedJobsStatus"] == [
            {
                "name": "workers",
                "ready": 2,
                "succeeded": 0,
                "failed": 0,
                "active": 2,
                "suspended": 0,
            }
        ]
        await all_to(world, "Succeeded")
        done = await world.get(JOB_SETS, "train")
        assert conditions(done) == {"Completed": ("True", "AllJobsCompleted")}
        assert done["status"]["terminalState"] == "Completed"
        assert len(await world.events("AllJobsCompleted")) == 1

    world_run(story)


def test_any_success_policy_ends_it_and_removes_what_still_runs(world_run, conditions):
    async def story(world):
        await started(world)
        policy = {"operator": "Any", "targetReplicatedJobs": ["driver"]}
        document = jobset(entry("driver", pods=1), entry("workers"), successPolicy=policy)
        await world.create(JOB_SETS, document)
        await world.settle()
        await all_to(world, "Running")
        for pod in await world.live_pods():
            if pod["spec"]["hostname"] == "train-driver-0-0":
                await world.set_phase(pod, "Succeeded")
        await world.settle()
        await world.finish_deletions()
        await world.settle(5)
        done = await world.get(JOB_SETS, "train")
        assert conditions(done) == {"Completed": ("True", "AllJobsCompleted")}
        assert await world.names(JOBS) == ["train-driver-0"]

    world_run(story)


def test_without_a_failure_policy_the_first_failed_job_ends_it(world_run, conditions):
    async def story(world):
        await started(world)
        await world.create(JOB_SETS, jobset(entry(replicas=2)))
        await world.settle()
        await all_to(world, "Running")
        await fail_one_job(world, "train-workers-1")
        await world.finish_deletions()
        await world.settle()
        failed = await world.get(JOB_SETS, "train")
        assert conditions(failed) == {"Failed": ("True", "FailedJobs")}
        [event] = await world.events("FailedJobs")
        assert event["message"] == (
            "jobset failed due to one or more job failures (first failed job: train-workers-1)"
        )
        assert await world.names(JOBS) == ["train-workers-1"]

    world_run(story)


def test_deleting_one_pod_restarts_the_whole_jobset(world_run, conditions):
    async def story(world):
        await started(world)
        await world.create(JOB_SETS, jobset(entry(replicas=2), failurePolicy={"maxRestarts": 3}))
        await world.settle()
        await all_to(world, "Running")
        first = {pod["metadata"]["uid"] for pod in await world.live_pods()}
        [pod, *_] = await world.live_pods()
        await world.client.delete(PODS, pod["metadata"]["name"], "default")
        for _ in range(4):
            await world.settle()
            await world.finish_deletions()
        await world.settle()
        pods = await world.live_pods()
        assert len(pods) == 4
        assert not first & {pod["metadata"]["uid"] for pod in pods}
        assert {
            pod["metadata"]["labels"]["jobset.sigs.k8s.io/restart-attempt"] for pod in pods
        } == {"1"}
        restarted = await world.get(JOB_SETS, "train")
        assert restarted["status"]["restarts"] == 1
        assert restarted["status"]["restartsCountTowardsMax"] == 1
        assert conditions(restarted)["RestartingJobSet"] == ("True", "DefaultFailurePolicy")
        await all_to(world, "Running")
        ready = await world.get(JOB_SETS, "train")
        assert conditions(ready)["RestartingJobSet"] == ("False", "JobsReady")
        assert len(await world.events("RestartJobSetFailurePolicyAction")) == 1

    world_run(story)


@pytest.mark.parametrize("strategy", ["Recreate", "BlockingRecreate"])
def test_max_restarts_are_kept(world_run, conditions, strategy):
    async def story(world):
        await started(world)
        policy = {"maxRestarts": 2, "restartStrategy": strategy}
        await world.create(JOB_SETS, jobset(entry(replicas=2), failurePolicy=policy))
        for _ in range(3):
            await world.settle()
            await all_to(world, "Running")
            await fail_one_job(world, "train-workers-0")
            await world.finish_deletions()
            await world.settle()
        failed = await world.get(JOB_SETS, "train")
        assert failed["status"]["restarts"] == 2
        assert conditions(failed)["Failed"] == ("True", "ReachedMaxRestarts")
        assert failed["status"]["terminalState"] == "Failed"

    world_run(story)


def test_blocking_recreate_waits_until_every_old_job_is_gone(world_run):
    async def story(world):
        await started(world)
        policy = {"maxRestarts": 2, "restartStrategy": "BlockingRecreate"}
        await world.create(JOB_SETS, jobset(entry(replicas=2), failurePolicy=policy))
        await world.settle()
        await all_to(world, "Running")
        for pod in await world.live_pods():
            if pod["spec"]["hostname"].startswith("train-workers-0-"):
                await world.set_phase(pod, "Failed", exit_code=1)
        await world.settle(10)
        attempts = {
            job["metadata"]["name"]: job["metadata"]["labels"]["jobset.sigs.k8s.io/restart-attempt"]
            for job in await world.find(JOBS)
        }
        assert attempts == {"train-workers-1": "0"}
        await world.finish_deletions()
        await world.settle()
        assert len(await world.names(JOBS)) == 2

    world_run(story)


@pytest.mark.parametrize(
    ("action", "restarts", "counted", "expected"),
    [
        ("FailJobSet", 0, 0, ("Failed", "FailJobSetFailurePolicyAction")),
        ("RestartJobSet", 1, 1, ("RestartingJobSet", "FailurePolicy_mine")),
        ("RestartJobSetAndIgnoreMaxRestarts", 1, 0, ("RestartingJobSet", "FailurePolicy_mine")),
    ],
)
def test_failure_policy_rules(world_run, conditions, action, restarts, counted, expected):
    async def story(world):
        await started(world)
        rule = {
            "name": "mine",
            "action": action,
            "onJobFailureReasons": ["BackoffLimitExceeded"],
            "targetReplicatedJobs": ["workers"],
        }
        policy = {"maxRestarts": 1, "rules": [rule]}
        await world.create(JOB_SETS, jobset(entry(pods=1), failurePolicy=policy))
        await world.settle()
        await fail_one_job(world, "train-workers-0")
        state = await world.get(JOB_SETS, "train")
        assert state["status"].get("restarts", 0) == restarts
        assert state["status"].get("restartsCountTowardsMax", 0) == counted
        type_, reason = expected
        assert conditions(state)[type_] == ("True", reason)

    world_run(story)


def test_depends_on_holds_jobs_back(world_run):
    async def story(world):
        await started(world)
        first = entry("first", pods=1)
        ready = entry("ready", pods=1, dependsOn=[{"name": "first", "status": "Ready"}])
        done = entry("done", pods=1, dependsOn=[{"name": "first", "status": "Complete"}])
        await world.create(JOB_SETS, jobset(first, ready, done))
        await world.settle()
        assert await world.names(JOBS) == ["train-first-0"]
        [pod] = await world.live_pods()
        await world.set_phase(pod, "Running")
        await world.settle()
        assert await world.names(JOBS) == ["train-first-0", "train-ready-0"]
        await world.set_phase(pod, "Succeeded")
        await world.settle()
        assert await world.names(JOBS) == ["train-done-0", "train-first-0", "train-ready-0"]

    world_run(story)


def test_in_order_startup(world_run, conditions):
    async def story(world):
        await started(world)
        policy = {"startupPolicyOrder": "InOrder"}
        document = jobset(entry("a", pods=1), entry("b", pods=1), startupPolicy=policy)
        await world.create(JOB_SETS, document)
        await world.settle()
        assert await world.names(JOBS) == ["train-a-0"]
        assert conditions(await world.get(JOB_SETS, "train")) == {
            "StartupPolicyInProgress": ("True", "InOrderStartupPolicyInProgress")
        }
        await all_to(world, "Running")
        assert await world.names(JOBS) == ["train-a-0", "train-b-0"]
        await all_to(world, "Running")
        assert conditions(await world.get(JOB_SETS, "train")) == {
            "StartupPolicyInProgress": ("False", "InOrderStartupPolicyInProgress"),
            "StartupPolicyCompleted": ("True", "InOrderStartupPolicyCompleted"),
        }

    world_run(story)


def test_suspended_jobsets_resume_with_what_the_queue_wrote(world_run, conditions):
    async def story(world):
        await started(world)
        await world.create(JOB_SETS, jobset(suspend=True))
        await world.settle()
        held = await world.get(JOB_SETS, "train")
        assert conditions(held) == {"Suspended": ("True", "SuspendedJobs")}
        assert await world.live_pods() == []
        [row] = held["status"]["replicatedJobsStatus"]
        assert row["suspended"] == 1
        changed = copy_document(held)
        template = changed["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
        template["spec"]["nodeSelector"] = {"flavor": "a"}
        template["spec"]["tolerations"] = [{"key": "gpu", "operator": "Exists"}]
        changed["spec"]["suspend"] = False
        assert admission.validate(changed, held) == []
        await world.client.update(JOB_SETS, changed)
        await world.settle()
        pods = await world.live_pods()
        assert len(pods) == 2
        for pod in pods:
            assert pod["spec"]["nodeSelector"] == {"flavor": "a"}
            assert {"key": "gpu", "operator": "Exists"} in pod["spec"]["tolerations"]
        assert conditions(await world.get(JOB_SETS, "train")) == {
            "Suspended": ("False", "ResumeJobs")
        }
        await all_to(world, "Running")
        await world.client.patch(JOB_SETS, "train", {"spec": {"suspend": True}}, "default")
        await world.settle()
        assert await world.live_pods() == []
        await world.finish_deletions()
        await world.client.patch(JOB_SETS, "train", {"spec": {"suspend": False}}, "default")
        await world.settle()
        assert len(await world.live_pods()) == 2
        assert (await world.get(JOB_SETS, "train"))["status"].get("restarts", 0) == 0

    world_run(story)


def test_a_finished_jobset_goes_when_its_time_is_over(world_run):
    async def story(world):
        await started(world)
        await world.create(JOB_SETS, jobset(ttlSecondsAfterFinished=60))
        await world.settle()
        await all_to(world, "Succeeded")
        await world.settle(50)
        assert await world.names(JOB_SETS) == ["train"]
        await world.settle(20)
        assert await world.names(JOB_SETS) == []
        await world.settle(20)
        assert await world.names(JOBS) == []
        assert await world.names(SERVICES) == []

    world_run(story)


def test_claims_are_made_and_mounted(world_run):
    async def story(world):
        await started(world)
        document = jobset(entry(pods=1))
        pod = document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        pod["containers"][0]["volumeMounts"] = [
            {"name": "kept", "mountPath": "/kept"},
            {"name": "scratch", "mountPath": "/scratch"},
        ]
        claim = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        }
        document["spec"]["volumeClaimPolicies"] = [
            {
                "templates": [{"metadata": {"name": "kept"}, "spec": claim}],
                "retentionPolicy": {"whenDeleted": "Retain"},
            },
            {"templates": [{"metadata": {"name": "scratch"}, "spec": claim}]},
        ]
        admission.default(document)
        assert admission.validate(document, None) == []
        await world.create(JOB_SETS, document)
        await world.settle()
        assert await world.names(PERSISTENT_VOLUME_CLAIMS) == ["kept-train", "scratch-train"]
        [pod] = await world.live_pods()
        claims = [
            volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["spec"]["volumes"]
            if "persistentVolumeClaim" in volume
        ]
        assert claims == ["kept-train", "scratch-train"]
        await world.client.delete(JOB_SETS, "train", "default")
        await world.settle()
        assert await world.names(PERSISTENT_VOLUME_CLAIMS) == ["kept-train"]

    world_run(story)


def test_an_idle_jobset_causes_no_writes(world_run):
    async def story(world):
        await started(world)
        await world.create(JOB_SETS, jobset())
        await world.settle()
        await all_to(world, "Running")
        before = world.server.store.revision
        await world.settle(3600)
        assert world.server.store.revision == before

    world_run(story)


def test_a_jobset_of_another_controller_is_left_alone(world_run):
    async def story(world):
        await started(world)
        await world.create(JOB_SETS, jobset(managedBy="kueue.x-k8s.io/multikueue"))
        await world.settle()
        assert await world.names(JOBS) == []

    world_run(story)


def test_the_same_seed_gives_the_same_objects(world_run):
    async def story(world):
        await started(world)
        await world.create(JOB_SETS, jobset(entry(replicas=3), failurePolicy={"maxRestarts": 1}))
        await world.settle()
        await all_to(world, "Running")
        await fail_one_job(world, "train-workers-1")
        found = [await world.find(resource) for resource in (JOB_SETS, JOBS, PODS)]
        return found, await world.events()

    assert world_run(story, seed=3) == world_run(story, seed=3)
