"""Searches, carried out: trials begin, are measured, end; the test plays the runs."""

import pytest

from kubarium.api.kinds import (
    CLUSTER_TRAINING_RUNTIMES,
    EXPERIMENTS,
    JOBS,
    OPTIMIZATION_JOBS,
    PODS,
    TRAIN_JOBS,
    TRIALS,
)
from kubarium.base.clock import rfc3339
from kubarium.control.core.garbage import GarbageCollector
from kubarium.control.core.served import ServedResources
from kubarium.control.tuning import components
from kubarium.view.tuning import numbered

READ = "metrics.kubarium.dev/read"


def experiment(name="exp", **changed):
    parameters = [
        {"name": "lr", "parameterType": "double", "feasibleSpace": {"min": "0", "max": "1"}}
    ]
    spec = {
        "objective": {"type": "minimize", "objectiveMetricName": "loss"},
        "algorithm": {"algorithmName": "random"},
        "parallelTrialCount": 2,
        "maxTrialCount": 4,
        "parameters": parameters,
        "trialTemplate": {
            "retain": True,
            "trialParameters": [{"name": "rate", "reference": "lr"}],
            "trialSpec": {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "spec": {
                    "template": {
                        "spec": {
                            "restartPolicy": "Never",
                            "containers": [
                                {
                                    "name": "main",
                                    "image": "busybox",
                                    "args": ["--lr=${trialParameters.rate}", "${trialSpec.Name}"],
                                }
                            ],
                        }
                    }
                },
            },
        },
    }
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "Experiment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec | changed,
    }


async def begin(world):
    await world.install("kubeflow.org", "trainer.kubeflow.org")
    collector = GarbageCollector(world.context, ServedResources(world.context))
    await world.start(*components(world.context), collector)


async def finish(world, job, value=None, condition="Complete"):
    """Play the node, the pod and the Job controller."""
    metadata = job["metadata"]
    template = job["spec"]["template"]
    pod = await world.create(
        PODS,
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": metadata["name"], **template["metadata"]},
            "spec": template["spec"],
        },
    )
    if value is not None:
        text = f'{{"loss":{{"latest":"{value}","min":"{value}","max":"9"}}}}'
        said = {"type": READ, "status": "True", "reason": "MetricsRead", "message": text}
        status = {"phase": "Running", "conditions": [said]}
        await world.client.update(PODS, {**pod, "status": status}, "default", subresource="status")
    now = rfc3339(world.clock.now())
    interim = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}[condition]
    conditions = [
        {"type": t, "status": "True", "lastTransitionTime": now, "reason": "Test", "message": "m"}
        for t in (interim, condition)
    ]
    status = {"conditions": conditions, "startTime": now}
    status |= {"completionTime": now} if condition == "Complete" else {}
    job = await world.get(JOBS, metadata["name"])
    await world.client.update(JOBS, {**job, "status": status}, "default", subresource="status")
    await world.settle()


def live(jobs):
    return [j for j in jobs if not (j.get("status") or {}).get("conditions")]


def condition(document, type_):
    found = (document.get("status") or {}).get("conditions") or ()
    return next((c for c in found if c["type"] == type_), {})


def test_an_experiment_begins_trials_as_others_end_and_names_the_best(world_run):
    async def story(world):
        await begin(world)
        await world.create(EXPERIMENTS, experiment())
        await world.settle()
        values = {}
        for value in (0.5, 0.25, 0.75, 1.0):
            jobs = live(await world.find(JOBS))
            assert 1 <= len(jobs) <= 2
            job = jobs[0]
            args = job["spec"]["template"]["spec"]["containers"][0]["args"]
            assert 0 <= float(args[0].removeprefix("--lr=")) <= 1
            assert args[1] == job["metadata"]["name"]
            values[job["metadata"]["name"]] = value
            await finish(world, job, value)
        found = await world.get(EXPERIMENTS, "exp")
        assert condition(found, "Succeeded")["reason"] == "ExperimentMaxTrialsReached"
        assert condition(found, "Running")["status"] == "False"
        best = found["status"]["currentOptimalTrial"]
        assert best["bestTrialName"] == min(values, key=values.get)
        assert best["observation"]["metrics"][0] == {
            "name": "loss", "latest": "0.25", "min": "0.25", "max": "9",
        }  # fmt: skip
        assert found["status"]["trialsSucceeded"] == found["status"]["trials"] == 4
        assert sorted(found["status"]["succeededTrialList"]) == sorted(values)
        await world.client.delete(EXPERIMENTS, "exp", "default")
        await world.settle(10)
        assert await world.find(TRIALS) == await world.find(JOBS) == []

    world_run(story)


def test_a_goal_ends_the_experiment_and_kills_what_still_runs(world_run):
    async def story(world):
        await begin(world)
        goal = {"type": "minimize", "objectiveMetricName": "loss", "goal": 0.3}
        await world.create(EXPERIMENTS, experiment(objective=goal, maxTrialCount=9))
        await world.settle()
        first, second = await world.find(JOBS)
        await finish(world, first, 0.1)
        found = await world.get(EXPERIMENTS, "exp")
        assert condition(found, "Succeeded")["reason"] == "ExperimentGoalReached"
        other = await world.get(TRIALS, second["metadata"]["name"])
        assert condition(other, "Killed")["status"] == "True"
        assert (await world.get(JOBS, second["metadata"]["name"]))["spec"]["suspend"] is True
        assert (await world.get(EXPERIMENTS, "exp"))["status"]["trialsKilled"] == 1

    world_run(story)


def test_failures_and_silence_count_against_the_experiment(world_run):
    async def story(world):
        await begin(world)
        await world.create(EXPERIMENTS, experiment(maxFailedTrialCount=2))
        await world.settle()
        first, second = await world.find(JOBS)
        await finish(world, first, condition="Failed")
        await finish(world, second)
        trial = await world.get(TRIALS, second["metadata"]["name"])
        assert not condition(trial, "MetricsUnavailable")
        await world.settle(10)
        trial = await world.get(TRIALS, second["metadata"]["name"])
        assert "nothing printed loss=<number>" in condition(trial, "MetricsUnavailable")["message"]
        found = await world.get(EXPERIMENTS, "exp")
        assert condition(found, "Failed")["message"] == (
            "Experiment has failed because max failed count has reached"
        )

    world_run(story)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"algorithm": {"algorithmName": "cmaes"}}, "'cmaes' is not served; write one of random"),
        ({"algorithm": {"algorithmName": "grid"}}, "a grid needs feasibleSpace.step"),
        ({"parameters": []}, "spec.parameters: must be specified"),
        ({"earlyStopping": {"algorithmName": "medianstop"}}, "spec.earlyStopping: is not served"),
        ({"metricsCollectorSpec": {"collector": {"kind": "File"}}}, "collector 'File'"),
        (
            {"parameters": [{"name": "lr", "parameterType": "double", "feasibleSpace": {}}]},
            "min and max must be specified",
        ),
        (
            {
                "parameters": [
                    {
                        "name": "n",
                        "parameterType": "int",
                        "feasibleSpace": {"min": "1", "max": "1e999"},
                    }
                ]
            },
            "spec.parameters[n]: max inf must be a finite number",
        ),
    ],
)
def test_what_cannot_be_searched_says_why(world_run, changed, text):
    async def story(world):
        await begin(world)
        await world.create(EXPERIMENTS, experiment(**changed))
        await world.settle()
        found = await world.get(EXPERIMENTS, "exp")
        assert text in condition(found, "Failed")["message"]
        assert await world.find(TRIALS) == []

    world_run(story)


@pytest.mark.parametrize(
    ("run", "text"),
    [
        (None, "runSpec: must be specified"),
        ({"apiVersion": "v1", "kind": "Pod"}, "runSpec.kind: 'Pod' of 'v1' is not served; write"),
        ({"apiVersion": "batch/v1", "kind": "Job"}, "runSpec.spec: must be specified for a Job"),
        ({"apiVersion": "batch/v1", "kind": "Job", "spec": {}}, "runSpec.spec.template: must be"),
    ],
)
def test_a_run_that_cannot_be_says_why(world_run, run, text):
    async def story(world):
        await begin(world)
        template = {"trialSpec": run} if run else {}
        await world.create(EXPERIMENTS, experiment(trialTemplate=template))
        trial = {
            "apiVersion": "kubeflow.org/v1beta1",
            "kind": "Trial",
            "metadata": {"name": "own", "namespace": "default"},
            "spec": {
                "objective": {"type": "minimize", "objectiveMetricName": "loss"},
                **({"runSpec": run} if run else {}),
            },
        }
        await world.create(TRIALS, trial)
        await world.settle()
        assert text in condition(await world.get(TRIALS, "own"), "Failed")["message"]
        said = condition(await world.get(EXPERIMENTS, "exp"), "Failed")["message"]
        assert text.replace("runSpec", "trialSpec") in said

    world_run(story)


def test_an_experiment_whose_trials_are_refused_says_why(world_run):
    async def story(world):
        await begin(world)
        name = "e" * 70  # too long for the label of its trials
        await world.create(EXPERIMENTS, experiment(name))
        await world.settle()
        text = condition(await world.get(EXPERIMENTS, name), "Failed")["message"]
        assert "a trial is refused: " in text
        assert "metadata.labels" in text

    world_run(story)


def optimization_job(**changed):
    template = {
        "spec": {
            "runtimeRef": {"name": "plain"},
            "trainer": {"command": ["train", "--lr=${trialParameters.lr}"]},
        }
    }
    spec = {
        "objectives": [{"metric": "accuracy", "direction": "Maximize"}],
        "parameters": [{"name": "lr", "searchSpace": {"logUniform": {"min": "0.001", "max": "1"}}}],
        "numTrials": 3,
        "parallelTrials": 2,
        "trainJobTemplate": template,
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "OptimizationJob",
        "metadata": {"name": "opt", "namespace": "default"},
        "spec": spec | changed,
    }


async def runtime(world):
    job = {"name": "node", "template": {"spec": {"template": {"spec": {"containers": [
        {"name": "node", "image": "busybox"}]}}}}}  # fmt: skip
    job["template"]["metadata"] = {
        "labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    }
    document = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "ClusterTrainingRuntime",
        "metadata": {"name": "plain", "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {"mlPolicy": {"numNodes": 1}, "template": {"spec": {"replicatedJobs": [job]}}},
    }
    await world.client.create(CLUSTER_TRAINING_RUNTIMES, document)


async def report(world, name, value, end="Complete"):
    job = await world.get(TRAIN_JOBS, name)
    now = rfc3339(world.clock.now())
    ended = {"type": end, "status": "True", "reason": "Test", "message": "m"}
    status = {"conditions": [ended | {"lastTransitionTime": now}]}
    if value is not None:
        metrics = [{"name": "accuracy", "value": value}]
        status["trainerStatus"] = {"metrics": metrics, "lastUpdatedTime": now}
    document = {**job, "status": status}
    await world.client.update(TRAIN_JOBS, document, "default", subresource="status")
    await world.settle(8)


def test_an_optimization_job_names_the_train_job_that_was_best(world_run):
    async def story(world):
        await begin(world)
        await runtime(world)
        await world.create(OPTIMIZATION_JOBS, optimization_job())
        await world.settle()
        jobs = await world.find(TRAIN_JOBS)
        assert len(jobs) == 2
        lr = jobs[0]["spec"]["trainer"]["command"][1].removeprefix("--lr=")
        assert 0.001 <= float(lr) <= 1
        best = jobs[1]["metadata"]["name"]
        await report(world, jobs[0]["metadata"]["name"], "0.7")
        await report(world, best, "0.9")
        [last] = [j for j in await world.find(TRAIN_JOBS) if not j.get("status")]
        await report(world, last["metadata"]["name"], None, "Failed")
        found = await world.get(OPTIMIZATION_JOBS, "opt")
        assert condition(found, "Complete")["reason"] == "TrialsCompleted"
        assert found["status"]["result"]["trainJobName"] == best
        assert [p["name"] for p in found["status"]["result"]["parameters"]] == ["lr"]

    world_run(story)


def test_an_optimization_job_without_any_result_fails_and_says_so(world_run):
    async def story(world):
        await begin(world)
        await runtime(world)
        await world.create(OPTIMIZATION_JOBS, optimization_job(numTrials=1, parallelTrials=1))
        await world.settle()
        [job] = await world.find(TRAIN_JOBS)
        await report(world, job["metadata"]["name"], None)
        found = await world.get(OPTIMIZATION_JOBS, "opt")
        assert condition(found, "Failed")["message"] == "no trial has reported accuracy"

    world_run(story)


def test_a_trial_that_reports_no_number_is_not_the_best(world_run):
    async def story(world):
        await begin(world)
        await runtime(world)
        await world.create(OPTIMIZATION_JOBS, optimization_job(numTrials=2))
        await world.settle()
        jobs = sorted(await world.find(TRAIN_JOBS), key=numbered)
        first, second = (job["metadata"]["name"] for job in jobs)
        await report(world, first, "nan")
        await report(world, second, "0.9")
        await world.settle(10)
        found = await world.get(OPTIMIZATION_JOBS, "opt")
        assert condition(found, "Complete")["message"].startswith("1 of 2 trials succeeded")
        assert found["status"]["result"]["trainJobName"] == second

    world_run(story)
