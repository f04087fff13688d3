import pytest

from kubarium.api.kinds import JOBS, PODS
from kubarium.api.labels import COMPLETION_INDEX
from kubarium.base.clock import rfc3339
from kubarium.control.workloads.job.backoff import finished_at
from kubarium.control.workloads.job.controller import JobController
from kubarium.control.workloads.job.facts import FAILURES, TRACKING
from kubarium.control.workloads.job.indexes import IndexSet
from kubarium.control.workloads.job.policy import judge_failure, match_success


def job(name="work", restart="Never", **spec):
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "template": {
                "spec": {
                    "restartPolicy": restart,
                    "containers": [{"name": "main", "image": "busybox"}],
                }
            },
            **spec,
        },
    }


def indexed(name="work", completions=3, **spec):
    spec = {"parallelism": completions, **spec}
    return job(name, completions=completions, completionMode="Indexed", **spec)


def by_index(pods):
    return {int(pod["metadata"]["annotations"][COMPLETION_INDEX]): pod for pod in pods}


def test_a_job_runs_one_pod_and_completes(world_run, conditions):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, job())
        await world.settle()
        [pod] = await world.find(PODS)
        assert pod["metadata"]["name"].startswith("work-")
        assert TRACKING in pod["metadata"]["finalizers"]
        assert (await world.get(JOBS, "work"))["status"]["active"] == 1
        await world.set_phase(pod, "Running")
        await world.settle()
        assert (await world.get(JOBS, "work"))["status"]["ready"] == 1
        await world.set_phase(pod, "Succeeded")
        await world.settle()
        done = await world.get(JOBS, "work")
        assert conditions(done) == {
            "SuccessCriteriaMet": ("True", "CompletionsReached"),
            "Complete": ("True", "CompletionsReached"),
        }
        assert done["status"]["succeeded"] == 1
        assert done["status"]["uncountedTerminatedPods"] == {}
        assert "active" not in done["status"]
        assert done["status"]["completionTime"]
        [pod] = await world.find(PODS)
        assert not pod["metadata"].get("finalizers")
        assert [event["reason"] for event in await world.events()] == [
            "SuccessfulCreate",
            "Completed",
        ]

    world_run(story)


def test_indexed_pods_carry_their_identity(world_run):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, indexed(completions=3, parallelism=2))
        await world.settle()
        pods = by_index(await world.find(PODS))
        assert sorted(pods) == [0, 1]
        pod = pods[1]
        assert pod["metadata"]["name"].startswith("work-1-")
        assert pod["metadata"]["labels"][COMPLETION_INDEX] == "1"
        assert pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "work"
        assert pod["spec"]["hostname"] == "work-1"
        [variable] = pod["spec"]["containers"][0]["env"]
        assert variable["name"] == "JOB_COMPLETION_INDEX"
        assert "succeeded" not in (await world.get(JOBS, "work"))["status"]
        await world.set_phase(pods[0], "Succeeded")
        await world.settle()
        assert sorted(by_index(await world.live_pods())) == [1, 2]
        status = (await world.get(JOBS, "work"))["status"]
        assert (status["completedIndexes"], status["succeeded"]) == ("0", 1)

    world_run(story)


def test_a_failed_pod_is_replaced_after_ten_then_twenty_seconds(world_run):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, job())
        await world.settle()
        for delay_s in (10, 20):
            [pod] = await world.live_pods()
            await world.set_phase(pod, "Failed", exit_code=1)
            await world.settle(delay_s - 1)
            assert await world.live_pods() == []
            await world.settle(2)
            assert len(await world.live_pods()) == 1
        assert (await world.get(JOBS, "work"))["status"]["failed"] == 2

    world_run(story)


def test_the_back_off_limit_fails_the_job_and_removes_its_pods(world_run, conditions):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, indexed(backoffLimit=0))
        await world.settle()
        pods = by_index(await world.find(PODS))
        for pod in pods.values():
            await world.set_phase(pod, "Running")
        await world.set_phase(pods[0], "Failed", exit_code=1)
        await world.settle()
        waiting = await world.get(JOBS, "work")
        assert conditions(waiting) == {"FailureTarget": ("True", "BackoffLimitExceeded")}
        assert waiting["status"]["terminating"] == 2
        await world.finish_deletions()
        await world.settle()
        failed = await world.get(JOBS, "work")
        assert conditions(failed)["Failed"] == ("True", "BackoffLimitExceeded")
        assert failed["status"]["failed"] == 3
        assert failed["status"]["terminating"] == 0
        [event] = await world.events("BackoffLimitExceeded")
        assert event["message"] == "Job has reached the specified backoff limit"

    world_run(story)


def test_a_deleted_pod_counts_as_failed(world_run, conditions):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, job(backoffLimit=0))
        await world.settle()
        [pod] = await world.find(PODS)
        await world.set_phase(pod, "Running")
        await world.client.delete(PODS, pod["metadata"]["name"], "default")
        await world.settle()
        await world.finish_deletions()
        await world.settle()
        assert await world.find(PODS) == []
        assert conditions(await world.get(JOBS, "work"))["Failed"] == (
            "True",
            "BackoffLimitExceeded",
        )

    world_run(story)


def test_suspending_removes_pods_without_counting_them(world_run, conditions):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, indexed(suspend=True))
        await world.settle()
        assert await world.find(PODS) == []
        held = await world.get(JOBS, "work")
        assert conditions(held) == {"Suspended": ("True", "JobSuspended")}
        assert "startTime" not in held["status"]
        await world.client.patch(JOBS, "work", {"spec": {"suspend": False}}, "default")
        await world.settle()
        assert len(await world.live_pods()) == 3
        running = await world.get(JOBS, "work")
        assert conditions(running) == {"Suspended": ("False", "JobResumed")}
        assert running["status"]["startTime"]
        await world.client.patch(JOBS, "work", {"spec": {"suspend": True}}, "default")
        await world.settle()
        assert await world.find(PODS) == []
        held = await world.get(JOBS, "work")
        assert "failed" not in held["status"]
        assert "active" not in held["status"]
        counts = {event["reason"]: event["count"] for event in await world.events()}
        assert counts["Suspended"] == 2
        assert counts["Resumed"] == 1

    world_run(story)


def test_the_deadline_fails_the_job(world_run, conditions):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, job(activeDeadlineSeconds=60))
        await world.settle(58)
        assert conditions(await world.get(JOBS, "work")) == {}
        await world.settle(5)
        assert conditions(await world.get(JOBS, "work"))["Failed"] == ("True", "DeadlineExceeded")

    world_run(story)


def test_a_work_queue_job_completes_when_one_succeeds_and_all_have_ended(world_run, conditions):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, job(parallelism=3))
        await world.settle()
        first, *rest = await world.live_pods()
        await world.set_phase(first, "Succeeded")
        await world.settle(30)
        assert len(await world.live_pods()) == 2
        for pod in rest:
            await world.set_phase(pod, "Succeeded")
        await world.settle()
        done = await world.get(JOBS, "work")
        assert conditions(done)["Complete"][0] == "True"
        assert done["status"]["succeeded"] == 3

    world_run(story)


@pytest.mark.parametrize(
    ("rules", "exit_code", "expected"),
    [
        (
            [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}],
            42,
            ("Failed", "PodFailurePolicy", 1),
        ),
        (
            [{"action": "Ignore", "onExitCodes": {"operator": "NotIn", "values": [1]}}],
            42,
            ("", "", 0),
        ),
        (
            [{"action": "Count", "onExitCodes": {"operator": "In", "values": [42]}}],
            42,
            ("Failed", "BackoffLimitExceeded", 1),
        ),
    ],
)
def test_pod_failure_policy_decides(world_run, conditions, rules, exit_code, expected):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, job(backoffLimit=0, podFailurePolicy={"rules": rules}))
        await world.settle()
        [pod] = await world.live_pods()
        await world.set_phase(pod, "Failed", exit_code=exit_code)
        await world.settle(30)
        state = await world.get(JOBS, "work")
        type_, reason, failed = expected
        assert state["status"].get("failed", 0) == failed
        if type_:
            assert conditions(state)[type_] == ("True", reason)
        else:
            assert conditions(state) == {}
            assert len(await world.live_pods()) == 1

    world_run(story)


def test_fail_job_names_the_container_and_the_rule(world_run):
    async def story(world):
        await world.start(JobController(world.context))
        rules = [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]
        await world.create(JOBS, job(podFailurePolicy={"rules": rules}))
        await world.settle()
        [pod] = await world.live_pods()
        await world.set_phase(pod, "Failed", exit_code=42)
        await world.settle()
        [event] = await world.events("PodFailurePolicy")
        assert event["message"] == (
            f"Container main for pod default/{pod['metadata']['name']} failed with exit code 42 "
            "matching FailJob rule at index 0"
        )

    world_run(story)


def test_each_index_has_its_own_back_off_limit(world_run, conditions):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, indexed(completions=2, backoffLimitPerIndex=1))
        await world.settle()
        pods = by_index(await world.live_pods())
        await world.set_phase(pods[1], "Succeeded")
        await world.set_phase(pods[0], "Failed", exit_code=1)
        await world.settle(12)
        [again] = await world.live_pods()
        assert again["metadata"]["annotations"][FAILURES] == "1"
        await world.set_phase(again, "Failed", exit_code=1)
        await world.settle(30)
        failed = await world.get(JOBS, "work")
        assert failed["status"]["failedIndexes"] == "0"
        assert failed["status"]["completedIndexes"] == "1"
        assert failed["status"]["failed"] == 2
        assert conditions(failed)["Failed"] == ("True", "FailedIndexes")

    world_run(story)


def test_success_policy_ends_the_job_early(world_run, conditions):
    async def story(world):
        await world.start(JobController(world.context))
        policy = {"rules": [{"succeededIndexes": "0"}]}
        await world.create(JOBS, indexed(successPolicy=policy))
        await world.settle()
        pods = by_index(await world.live_pods())
        await world.set_phase(pods[0], "Succeeded")
        await world.settle()
        done = await world.get(JOBS, "work")
        assert conditions(done) == {
            "SuccessCriteriaMet": ("True", "SuccessPolicy"),
            "Complete": ("True", "SuccessPolicy"),
        }
        assert await world.live_pods() == []
        assert done["status"]["succeeded"] == 1
        assert "failed" not in done["status"]

    world_run(story)


def test_replacement_policy_failed_waits_for_the_pod_to_end(world_run):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, job(podReplacementPolicy="Failed"))
        await world.settle()
        [pod] = await world.live_pods()
        await world.set_phase(pod, "Running")
        await world.client.delete(PODS, pod["metadata"]["name"], "default")
        await world.settle(20)
        status = (await world.get(JOBS, "work"))["status"]
        assert await world.live_pods() == []
        assert status["terminating"] == 1
        [pod] = await world.find(PODS)
        await world.set_phase(pod, "Failed", exit_code=137)
        await world.settle(15)
        assert len(await world.live_pods()) == 1

    world_run(story)


def test_an_elastic_job_shrinks_from_the_top_and_grows_again(world_run):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, indexed(completions=4))
        await world.settle()
        for size in (2, 5):
            patch = {"spec": {"completions": size, "parallelism": size}}
            await world.client.patch(JOBS, "work", patch, "default")
            await world.settle()
            assert sorted(by_index(await world.live_pods())) == list(range(size))
        assert "failed" not in (await world.get(JOBS, "work"))["status"]

    world_run(story)


def test_on_failure_restarts_count_towards_the_limit(world_run, conditions):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, job(restart="OnFailure", backoffLimit=2))
        await world.settle()
        [pod] = await world.live_pods()
        await world.set_phase(pod, "Running", restarts=2)
        await world.settle()
        assert conditions(await world.get(JOBS, "work"))["FailureTarget"] == (
            "True",
            "BackoffLimitExceeded",
        )

    world_run(story)


def test_a_deleted_job_lets_its_pods_go(world_run):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, job())
        await world.settle()
        await world.client.delete(JOBS, "work", "default", propagation_policy="Background")
        await world.settle()
        [pod] = await world.find(PODS)
        assert not pod["metadata"].get("finalizers")

    world_run(story)


def test_jobs_of_another_controller_are_left_alone(world_run):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, job(managedBy="example.com/other"))
        await world.settle()
        assert await world.find(PODS) == []
        assert not (await world.get(JOBS, "work")).get("status")

    world_run(story)


def test_an_idle_job_causes_no_writes(world_run):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, indexed())
        await world.settle()
        for pod in await world.live_pods():
            await world.set_phase(pod, "Running")
        await world.settle()
        before = world.server.store.revision
        await world.settle(3600)
        assert world.server.store.revision == before

    world_run(story)


def test_five_hundred_pods_and_more_are_all_counted(world_run, conditions):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, job(completions=600, parallelism=600))
        await world.settle(30)
        pods = await world.live_pods()
        assert len(pods) == 600
        for pod in pods:
            await world.set_phase(pod, "Succeeded")
        await world.settle(30)
        done = await world.get(JOBS, "work")
        assert conditions(done)["Complete"][0] == "True"
        assert done["status"]["succeeded"] == 600

    world_run(story)


def test_more_successes_than_wanted_are_told(world_run):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, job(completions=1))
        await world.settle()
        [pod] = await world.find(PODS)
        kept = ("labels", "ownerReferences", "finalizers")
        twin = {"name": "twin", **{name: pod["metadata"][name] for name in kept}}
        second = await world.create(PODS, pod | {"metadata": twin, "status": {}})
        for each in (pod, second):
            await world.set_phase(each, "Succeeded")
        await world.settle()
        assert (await world.get(JOBS, "work"))["status"]["succeeded"] == 2
        told = [(e["type"], e["reason"], e["message"]) for e in await world.events()]
        text = "Too many succeeded pods running after completion count reached"
        assert ("Warning", "TooManySucceededPods", text) in told

    world_run(story)


def test_the_container_that_failed_is_told_before_its_helpers():
    def ended(name):
        return {"name": name, "state": {"terminated": {"exitCode": 42}}}

    pod = {
        "metadata": {"namespace": "default", "name": "p"},
        "status": {
            "initContainerStatuses": [ended("sidecar")],
            "containerStatuses": [ended("main")],
        },
    }
    rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}
    message = judge_failure({"rules": [rule]}, pod).message
    assert message.startswith("Container main for pod default/p failed with exit code 42")
    rule["onExitCodes"]["containerName"] = "sidecar"
    assert judge_failure({"rules": [rule]}, pod).message.startswith("Container sidecar for")


def test_a_pod_that_was_deleted_is_replaced_after_the_back_off(world_run):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, job())
        await world.settle()
        [pod] = await world.find(PODS)
        await world.set_phase(pod, "Running")
        await world.settle(100)
        await world.client.delete(PODS, pod["metadata"]["name"], "default")
        await world.settle(1)
        await world.finish_deletions()
        await world.settle(8)
        assert await world.find(PODS) == []
        await world.settle(2)
        assert len(await world.find(PODS)) == 1

    world_run(story)


def test_a_pod_with_a_container_that_still_runs_has_not_ended_with_the_first():
    ended = {"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T00:00:00Z"}}
    pod = {
        "metadata": {
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "deletionTimestamp": "2026-01-01T00:10:30Z",
            "deletionGracePeriodSeconds": 30,
        },
        "status": {
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:05Z",
                }
            ],
            "containerStatuses": [{"name": "a", "state": ended}, {"name": "b", "state": {}}],
        },
    }
    assert rfc3339(finished_at(pod)) == "2026-01-01T00:00:00Z"
    pod["status"]["containerStatuses"][1]["state"] = {"running": {}}
    assert rfc3339(finished_at(pod)) == "2026-01-01T00:10:00Z"


def test_the_index_of_a_pod_stays_in_its_name_however_long_that_is(world_run):
    async def story(world):
        await world.start(JobController(world.context))
        await world.create(JOBS, indexed("a" * 60, completions=2))
        await world.settle()
        names = sorted(await world.names(PODS))
        assert [name[:58] for name in names] == ["a" * 55 + "-0-", "a" * 55 + "-1-"]
        assert {len(name) for name in names} == {63}

    world_run(story)


def test_a_success_policy_for_more_than_there_is_wants_all_that_there_is():
    policy = {"rules": [{"succeededIndexes": "0-9", "succeededCount": 8}]}
    assert match_success(policy, 3, IndexSet.of([0, 1])) == ""
    assert match_success(policy, 3, IndexSet.of([0, 1, 2])) == "Matched rules at index 0"
    assert match_success(policy, 0, IndexSet.of([])) == ""
