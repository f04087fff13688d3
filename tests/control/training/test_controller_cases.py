"""The cases of JobSet's own controller tests, said anew: a story a row.

Upstream: ``test/integration/controller/jobset_controller_test.go``; ``docs/conformance.md`` counts
them. There as here, Jobs are moved by hand.
"""

import pytest

from kubarium.api.kinds import JOB_SETS, JOBS, PERSISTENT_VOLUME_CLAIMS, PODS, SERVICES
from kubarium.api.resource import copy_document
from tests.control.training.conftest import LABEL, Case, document, entry, one_and_three

ALL = "a-0 b-0 b-1 b-2"
COMPLETED = {"Completed": "True AllJobsCompleted"}
FRESH = "0.0 0.0 0.0 0.0"


def policy(limit=1, *rules, **rest):
    return {"maxRestarts": limit, "rules": [dict(rule) for rule in rules], **rest}


def rule(action, *reasons, on=(), like=()):
    made = {"action": action}
    if reasons:
        made["onJobFailureReasons"] = list(reasons)
    if on:
        made["targetReplicatedJobs"] = list(on)
    if like:
        made["onJobFailureMessagePatterns"] = list(like)
    return made


PFP, BACKOFF, INDEXES = "PodFailurePolicy", "BackoffLimitExceeded", "MaxFailedIndexesExceeded"
RESTARTED = {"restarts": 1, "counted": 1, "attempts": "1.0 1.0 1.0 1.0", "state": ""}
UNCOUNTED = {"restarts": 1, "counted": 0, "state": ""}
FAILED = {"restarts": 0, "counted": 0, "state": "Failed"}
MATCHED = [rule("FailJobSet", PFP, like=["exit code [0-9]+"])]


async def keep_jobs(play):
    """From now on Jobs that are deleted stay until a "drop" lets them go."""
    for name in await play._names():
        change = {"metadata": {"finalizers": ["test/keeps"]}}
        await play.world.client.patch(JOBS, name, change, "default")


def drop(*names):
    async def act(play):
        for name in names:
            change = {"metadata": {"finalizers": None}}
            await play.world.client.patch(JOBS, f"js-{name}", change, "default")
        await play.world.settle(3)

    return act


async def delete_service(play):
    await play.world.client.delete(SERVICES, "js", "default")
    await play.world.settle(3)
    assert (await play.world.get(SERVICES, "js"))["spec"]["clusterIP"] == "None"


async def one_headless_service(play):
    [service] = await play.world.find(SERVICES)
    assert service["metadata"]["name"] == play.name
    assert service["spec"]["selector"] == {LABEL + "jobset-name": play.name}
    job = (await play.world.find(JOBS))[0]
    assert job["spec"]["template"]["spec"]["subdomain"] == play.name


async def a_stranger_of_the_same_name(play):
    reference = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "name": play.name,
        "uid": "12345678-0000-0000-0000-000000000000",
        "controller": True,
    }
    [job, *_] = await play.world.find(JOBS)
    stranger = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "z-stranger-0",
            "labels": {LABEL + "jobset-name": play.name},
            # Not collected as an orphan while it is looked at.
            "ownerReferences": [reference],
            "finalizers": ["test/keeps"],
        },
        "spec": {"template": {"spec": job["spec"]["template"]["spec"]}},
    }
    await play.world.create(JOBS, stranger)


async def coordinator_everywhere(play):
    for job in await play.world.find(JOBS):
        for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
            assert metadata["labels"][LABEL + "coordinator"] == "js-a-0-0.js"
            assert metadata["annotations"][LABEL + "coordinator"] == "js-a-0-0.js"


def template_becomes(labels, annotations, spec, resume):
    async def act(play):
        jobset = await play.world.get(JOB_SETS, "js")
        entries = copy_document(jobset["spec"])["replicatedJobs"]
        for item in entries:
            pod = item["template"]["spec"]["template"]
            pod["metadata"] = {"labels": labels, "annotations": annotations}
            pod["spec"] |= spec
        change = {"spec": {"replicatedJobs": entries, "suspend": not resume}}
        await play.patch(change)
        await play.world.settle(3)

    return act


async def template_is_in_the_jobs(play):
    for job in await play.world.find(JOBS):
        pod = job["spec"]["template"]
        assert pod["metadata"]["labels"]["label"] == "value"
        assert pod["metadata"]["labels"][LABEL + "jobset-name"] == "js", "what was there stays"
        assert pod["metadata"]["annotations"]["note"] == "value"
        assert pod["spec"]["nodeSelector"] == {"zone": "z"}
        assert {"key": "k", "operator": "Exists"} in pod["spec"]["tolerations"]


NEW_TEMPLATE = (
    {"label": "value"},
    {"note": "value"},
    {"nodeSelector": {"zone": "z"}, "tolerations": [{"key": "k", "operator": "Exists"}]},
)


def size_becomes(pods):
    async def act(play):
        jobset = await play.world.get(JOB_SETS, "js")
        entries = copy_document(jobset["spec"])["replicatedJobs"]
        entries[0]["template"]["spec"] |= {"parallelism": pods, "completions": pods}
        await play.patch({"spec": {"replicatedJobs": entries}})
        await play.world.settle(3)
        [job] = await play.world.find(JOBS)
        assert (job["spec"]["parallelism"], job["spec"]["completions"]) == (pods, pods)

    return act


CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}


def with_claims(**spec):
    def template(name):
        return {"metadata": {"name": name}, "spec": CLAIM}

    mounts = [{"name": name, "mountPath": f"/{name}"} for name in ("kept", "scratch")]
    container = {"name": "main", "image": "busybox", "volumeMounts": mounts}
    return document(
        entry("a", pod={"containers": [container]}),
        volumeClaimPolicies=[
            {"templates": [template("kept")], "retentionPolicy": {"whenDeleted": "Retain"}},
            {"templates": [template("scratch")], "retentionPolicy": {"whenDeleted": "Delete"}},
        ],
        **spec,
    )


async def two_claims(play):
    kept, scratch = await play.world.find(PERSISTENT_VOLUME_CLAIMS)
    assert (kept["metadata"]["name"], scratch["metadata"]["name"]) == ("kept-js", "scratch-js")
    assert "ownerReferences" not in kept["metadata"]
    assert scratch["metadata"]["ownerReferences"][0]["name"] == "js"
    assert kept["metadata"]["labels"] == {LABEL + "jobset-name": "js"}
    [job] = await play.world.find(JOBS)
    volumes = job["spec"]["template"]["spec"]["volumes"]
    assert [volume["persistentVolumeClaim"]["claimName"] for volume in volumes] == [
        "kept-js",
        "scratch-js",
    ]


async def jobset_is_gone(play):
    assert await play.world.names(JOB_SETS) == []


def after(name, status):
    return {"name": name, "status": status}


def relabelled(job, **labels):
    async def act(play):
        change = {LABEL + name.replace("_", "-"): value for name, value in labels.items()}
        patch = {"metadata": {"labels": change}}
        await play.world.client.patch(JOBS, f"js-{job}", patch, "default")
        await play.world.settle(3)

    return act


IN_ORDER = {"startupPolicyOrder": "InOrder"}
PROGRESS = {"StartupPolicyInProgress": "True InOrderStartupPolicyInProgress"}
STARTED = {
    "StartupPolicyInProgress": "False InOrderStartupPolicyInProgress",
    "StartupPolicyCompleted": "True InOrderStartupPolicyCompleted",
}
RESUMED = {"Suspended": "False ResumeJobs"}
SUSPENDED = {"conditions": {"Suspended": "True SuspendedJobs"}}
CHAIN = (
    entry("a"),
    entry("b", replicas=3, dependsOn=[after("a", "Ready")]),
)
TWO = (entry("a", pods=2),)
HAPPY = ("complete *", {"conditions": COMPLETED, "state": "Completed"})

CASES = [
    # --- jobs come and go
    Case("all jobs are created", one_and_three(), ({"jobs": ALL, "attempts": FRESH},)),
    Case("completes when all jobs have", one_and_three(), HAPPY),
    Case("completes on its first run", one_and_three(failurePolicy=policy(1)), HAPPY),
    Case(
        "a job of the same owner's name but another uid is no child",
        one_and_three(),
        (
            a_stranger_of_the_same_name,
            "complete a",
            "complete b",
            {"conditions": COMPLETED, "rows": {"a": "0 1 0 0 0", "b": "0 3 0 0 0"}},
        ),
    ),
    Case(
        "is not complete while one job is missing",
        one_and_three(),
        ("complete a", "complete b-0", "complete b-1", {"conditions": {}, "state": ""}),
    ),
    Case(
        "setting suspend later is allowed",
        one_and_three(),
        ("suspend", {**SUSPENDED, "suspended": ALL}),
    ),
    # --- success policy
    Case(
        "success of all, of no list: every job",
        one_and_three(successPolicy={"operator": "All"}),
        ("complete b", {"conditions": {}}, "complete a", {"conditions": COMPLETED}),
    ),
    Case(
        "success of all jobs of those listed",
        one_and_three(successPolicy={"operator": "All", "targetReplicatedJobs": ["b"]}),
        ("complete a", {"conditions": {}}, "complete b", {"conditions": COMPLETED}),
    ),
    Case(
        "success of any job of those listed",
        one_and_three(successPolicy={"operator": "Any", "targetReplicatedJobs": ["b"]}),
        ("complete a", {"conditions": {}}, "complete b-1", {"conditions": COMPLETED}),
    ),
    Case(
        "success of any job at all",
        one_and_three(successPolicy={"operator": "Any"}),
        ("complete a", {"conditions": COMPLETED}),
    ),
    # --- failure policy
    Case(
        "without a failure policy one failure ends it",
        one_and_three(),
        ("fail b-1", {**FAILED, "conditions": {"Failed": "True FailedJobs"}}),
    ),
    Case(
        "fails on its first run if no restart is allowed",
        one_and_three(failurePolicy=policy(0)),
        ("fail a-0", {**FAILED, "conditions": {"Failed": "True ReachedMaxRestarts"}}),
    ),
    Case(
        "fails after the last restart",
        one_and_three(failurePolicy=policy(1)),
        (
            "fail a-0",
            RESTARTED,
            "fail b-2",
            {"restarts": 1, "state": "Failed"},
            {
                "conditions": {
                    "RestartingJobSet": "False JobSetFailed",
                    "Failed": "True ReachedMaxRestarts",
                }
            },
        ),
    ),
    Case(
        "FailJobSet ends it at once",
        one_and_three(failurePolicy=policy(1, rule("FailJobSet", PFP))),
        (
            f"fail a-0 {PFP}",
            {**FAILED, "conditions": {"Failed": "True FailJobSetFailurePolicyAction"}},
        ),
    ),
    Case(
        "FailJobSet does not apply for another reason",
        one_and_three(failurePolicy=policy(1, rule("FailJobSet", PFP))),
        (f"fail a-0 {BACKOFF}", RESTARTED),
    ),
    Case(
        "FailJobSet does not apply to another message",
        one_and_three(failurePolicy=policy(1, rule("FailJobSet", like=["exit code [0-9]+"]))),
        (f"fail a-0 {PFP} went away", RESTARTED),
    ),
    Case(
        "FailJobSet does not apply to another message though the reason matches",
        one_and_three(failurePolicy=policy(1, *MATCHED)),
        (f"fail a-0 {PFP} went away", RESTARTED),
    ),
    Case(
        "FailJobSet applies when reason and message match",
        one_and_three(failurePolicy=policy(1, *MATCHED)),
        (f"fail a-0 {PFP} exit code 3", FAILED),
    ),
    Case(
        "FailJobSet applies when a part of the message matches",
        one_and_three(failurePolicy=policy(1, *MATCHED)),
        (f"fail a-0 {PFP} pod p failed with exit code 42 at last", FAILED),
    ),
    Case(
        "RestartJobSet restarts, and counts",
        one_and_three(failurePolicy=policy(1, rule("RestartJobSet", PFP), rule("FailJobSet"))),
        (
            f"fail a-0 {PFP}",
            {
                **RESTARTED,
                "event": "FailurePolicy_failurePolicyRule0 RestartJobSetFailurePolicyAction",
            },
            f"fail a-0 {PFP}",
            {"restarts": 1, "state": "Failed", "own": {}},
        ),
    ),
    Case(
        "RestartingJobSet is true until all jobs are ready",
        one_and_three(failurePolicy=policy(2)),
        (
            "fail a-0",
            {"conditions": {"RestartingJobSet": "True DefaultFailurePolicy"}},
            "ready b",
            {"conditions": {"RestartingJobSet": "True DefaultFailurePolicy"}},
            "ready a",
            {"conditions": {"RestartingJobSet": "False JobsReady"}},
            "fail b-0",
            {"conditions": {"RestartingJobSet": "True DefaultFailurePolicy"}},
            "suspend",
            {
                "conditions": {
                    "RestartingJobSet": "False JobSetSuspended",
                    "Suspended": "True SuspendedJobs",
                }
            },
        ),
    ),
    Case(
        "RestartJobSet counts with restarts of single jobs",
        one_and_three(failurePolicy=policy(2, rule("RestartJob", PFP), rule("RestartJobSet"))),
        (
            f"fail a-0 {PFP}",
            "fail b-0",
            {"restarts": 1, "counted": 1, "own": {"a": [1]}, "attempts": "1.1 1.0 1.0 1.0"},
            "fail b-1",
            {"restarts": 1, "state": "Failed"},
        ),
    ),
    Case(
        "RestartJob restarts that job only, and counts",
        one_and_three(failurePolicy=policy(1, rule("RestartJob", PFP), rule("FailJobSet"))),
        (
            f"fail b-1 {PFP}",
            {
                "restarts": 0,
                "counted": 0,
                "own": {"b": [0, 1, 0]},
                "own_counted": {"b": [0, 1, 0]},
                "attempts": "0.0 0.0 0.1 0.0",
                "conditions": {},
                "event": "RestartJobFailurePolicyAction",
            },
            f"fail b-1 {PFP}",
            {"own": {"b": [0, 1, 0]}, "conditions": {"Failed": "True ReachedMaxRestarts"}},
        ),
    ),
    Case(
        "RestartJobAndIgnoreMaxRestarts restarts that job, and does not count",
        one_and_three(
            failurePolicy=policy(0, rule("RestartJobAndIgnoreMaxRestarts", PFP), rule("FailJobSet"))
        ),
        (
            f"fail a-0 {PFP}",
            f"fail a-0 {PFP}",
            {"own": {"a": [2]}, "own_counted": {}, "attempts": "0.2 0.0 0.0 0.0", "state": ""},
        ),
    ),
    Case(
        "Recreate makes each job anew as it goes",
        one_and_three(failurePolicy=policy(1, restartStrategy="Recreate")),
        (
            keep_jobs,
            "fail a-0",
            {"restarts": 1, "attempts": FRESH},
            drop("a-0", "b-0", "b-1"),
            {"attempts": "1.0 1.0 1.0 0.0"},
            drop("b-2"),
            {"attempts": "1.0 1.0 1.0 1.0"},
        ),
    ),
    Case(
        "BlockingRecreate makes none before all have gone",
        one_and_three(failurePolicy=policy(1, restartStrategy="BlockingRecreate")),
        (
            keep_jobs,
            "fail a-0",
            drop("a-0", "b-0", "b-1"),
            {"jobs": "b-2", "attempts": "0.0"},
            drop("b-2"),
            {"attempts": "1.0 1.0 1.0 1.0"},
        ),
    ),
    Case(
        "BlockingRecreate and RestartJob wait for that job only",
        one_and_three(
            failurePolicy=policy(1, rule("RestartJob"), restartStrategy="BlockingRecreate")
        ),
        (keep_jobs, "fail b-0", drop("b-0"), {"attempts": "0.0 0.1 0.0 0.0"}),
    ),
    Case(
        "RestartJobSetAndIgnoreMaxRestarts never reaches the limit",
        one_and_three(
            failurePolicy=policy(
                1, rule("RestartJobSetAndIgnoreMaxRestarts", PFP), rule("FailJobSet")
            )
        ),
        (
            f"fail a-0 {PFP}",
            UNCOUNTED,
            f"fail a-0 {PFP}",
            f"fail b-0 {PFP}",
            {"restarts": 3, "counted": 0, "state": "", "own": {}},
        ),
    ),
    Case(
        "RestartJobSetAndIgnoreMaxRestarts does not count beside restarts of single jobs",
        one_and_three(
            failurePolicy=policy(
                1,
                rule("RestartJobSetAndIgnoreMaxRestarts", PFP),
                rule("RestartJob", BACKOFF),
                rule("FailJobSet"),
            )
        ),
        (
            f"fail b-0 {BACKOFF}",
            f"fail a-0 {PFP}",
            {"restarts": 1, "counted": 0, "own": {"b": [1, 0, 0]}, "state": ""},
        ),
    ),
    Case(
        "a rule of listed replicated jobs applies to a job of theirs",
        one_and_three(failurePolicy=policy(1, rule("FailJobSet", "FailedIndexes", on=["b"]))),
        ("fail b-0 FailedIndexes", FAILED),
    ),
    Case(
        "a rule of listed replicated jobs does not apply to others",
        one_and_three(failurePolicy=policy(1, rule("FailJobSet", BACKOFF, on=["a"]))),
        (f"fail b-0 {BACKOFF}", RESTARTED),
    ),
    Case(
        "rules in order: the first that matches fails it",
        one_and_three(
            failurePolicy=policy(
                1, rule("FailJobSet", INDEXES, on=["a"]), rule("RestartJobSet", INDEXES, on=["a"])
            )
        ),
        (f"fail a-0 {INDEXES}", FAILED),
    ),
    Case(
        "rules in order: the first that matches restarts it",
        one_and_three(
            failurePolicy=policy(
                1, rule("RestartJobSet", INDEXES, on=["a"]), rule("FailJobSet", INDEXES, on=["a"])
            )
        ),
        (f"fail a-0 {INDEXES}", RESTARTED),
    ),
    Case(
        "rules in order: uncounted restarts, then one that ends it",
        one_and_three(
            failurePolicy=policy(
                1, rule("RestartJobSetAndIgnoreMaxRestarts", INDEXES, on=["a"]), rule("FailJobSet")
            )
        ),
        (
            f"fail a-0 {INDEXES}",
            f"fail a-0 {INDEXES}",
            f"fail a-0 {INDEXES}",
            {"restarts": 3, "counted": 0, "state": ""},
            "fail b-0",
            {"restarts": 3, "counted": 0, "state": "Failed"},
        ),
    ),
    Case(
        "succeeds after one failure",
        one_and_three(failurePolicy=policy(1)),
        (
            "complete a-0",
            "fail b-0",
            RESTARTED,
            "complete *",
            {
                "conditions": {
                    "RestartingJobSet": "False JobSetCompleted",
                    **COMPLETED,
                },
                "rows": {"a": "0 1 0 0 0", "b": "0 3 0 0 0"},
            },
        ),
    ),
    Case(
        "a job whose index was taken away is made anew",
        one_and_three(),
        (relabelled("b-1", job_index=None), {"attempts": FRESH, "jobs": ALL, "state": ""}),
    ),
    Case(
        "of a failed job that cannot be told any more, the set is restarted",
        one_and_three(failurePolicy=policy(1, rule("RestartJob"))),
        (
            relabelled("b-1", replicatedjob_name="nobody"),
            "fail b-1",
            {**RESTARTED, "own": {}},
        ),
    ),
    # --- suspend and resume
    Case(
        "created suspended",
        one_and_three(suspend=True),
        ({**SUSPENDED, "suspended": ALL, "rows": {"a": "0 0 0 0 1", "b": "0 0 0 0 3"}},),
    ),
    Case(
        "resumed with what was changed in the templates",
        one_and_three(suspend=True),
        (
            template_becomes(*NEW_TEMPLATE, resume=True),
            {"suspended": "", "conditions": RESUMED},
            template_is_in_the_jobs,
        ),
    ),
    Case(
        "resumed after it had run, with what was changed meanwhile",
        one_and_three(),
        (
            "ready *",
            "suspend",
            {**SUSPENDED, "suspended": ALL},
            template_becomes(*NEW_TEMPLATE, resume=True),
            {"suspended": "", "conditions": RESUMED, "restarts": 0},
            template_is_in_the_jobs,
        ),
    ),
    Case(
        "suspended while it runs",
        one_and_three(),
        ("ready *", "suspend", {**SUSPENDED, "suspended": ALL, "state": ""}),
    ),
    # --- what belongs to it
    Case("a service that is deleted comes back", one_and_three(), (delete_service, *HAPPY)),
    Case(
        "one headless service with host names on",
        one_and_three(network={"enableDNSHostnames": True}),
        (one_headless_service, *HAPPY),
    ),
    Case(
        "of a generated name, the service bears the whole name",
        document(entry("a"), metadata={"generateName": "js-", "name": None}),
        (one_headless_service,),
    ),
    Case("claims: one is kept, one is owned", with_claims(), (two_claims,)),
    Case(
        "claims are made for a suspended set too",
        with_claims(suspend=True),
        (two_claims, SUSPENDED),
    ),
    Case(
        "the coordinator is named on all jobs and pods",
        one_and_three(coordinator={"replicatedJob": "a", "jobIndex": 0, "podIndex": 0}),
        (coordinator_everywhere,),
    ),
    # --- statuses
    Case(
        "counts of a set that has succeeded",
        one_and_three(),
        ("complete *", {"rows": {"a": "0 1 0 0 0", "b": "0 3 0 0 0"}}),
    ),
    Case(
        "counts follow the jobs",
        one_and_three(),
        (
            {"rows": {"a": "0 0 0 0 0", "b": "0 0 0 0 0"}},
            "active b",
            {"rows": {"a": "0 0 0 0 0", "b": "0 0 0 3 0"}},
            "ready b-0",
            "complete b-1",
            {"rows": {"a": "0 0 0 0 0", "b": "1 1 0 2 0"}},
        ),
    ),
    Case(
        "active jobs go when it has succeeded",
        one_and_three(successPolicy={"operator": "Any", "targetReplicatedJobs": ["b"]}),
        ("ready *", "complete b-1", {"conditions": COMPLETED, "jobs": "b-1"}),
    ),
    Case(
        "active jobs go when it has failed",
        one_and_three(),
        ("ready *", "fail b-1", {"state": "Failed", "jobs": "b-1"}),
    ),
    # --- startup policy
    Case(
        "in order, suspended: all jobs are there and wait",
        one_and_three(startupPolicy=IN_ORDER, suspend=True),
        ({**SUSPENDED, "suspended": ALL},),
    ),
    Case(
        "in any order, suspended: all jobs are there and wait",
        one_and_three(startupPolicy={"startupPolicyOrder": "AnyOrder"}, suspend=True),
        ({**SUSPENDED, "suspended": ALL},),
    ),
    Case(
        "in any order, resumed: all at once",
        one_and_three(startupPolicy={"startupPolicyOrder": "AnyOrder"}, suspend=True),
        ("resume", {"suspended": "", "conditions": RESUMED}),
    ),
    Case(
        "in order, resumed: one after the other",
        one_and_three(startupPolicy=IN_ORDER, suspend=True),
        (
            "resume",
            {"suspended": "b-0 b-1 b-2"},
            "ready a",
            {"suspended": "", "conditions": {"Suspended": "True SuspendedJobs", **PROGRESS}},
            "ready b",
            {"conditions": {**RESUMED, **STARTED}},
        ),
    ),
    Case(
        "in order: nothing of the second before the first is ready",
        one_and_three(startupPolicy=IN_ORDER),
        (
            {"jobs": "a-0", "conditions": PROGRESS},
            "active a",
            {"jobs": "a-0"},
            "ready a",
            {"jobs": ALL, "rows": {"a": "1 0 0 1 0", "b": "0 0 0 0 0"}},
            "active b",
            {"conditions": PROGRESS, "rows": {"a": "1 0 0 1 0", "b": "0 0 0 3 0"}},
            "ready b",
            {"conditions": STARTED, "rows": {"a": "1 0 0 1 0", "b": "3 0 0 3 0"}},
        ),
    ),
    Case(
        "in order, again after a restart",
        one_and_three(startupPolicy=IN_ORDER, failurePolicy=policy(1)),
        (
            "ready a",
            "ready b",
            "complete a-0",
            "fail b-0",
            {"jobs": "a-0", "attempts": "1.0"},
            {
                "conditions": {
                    "StartupPolicyInProgress": "True InOrderStartupPolicyInProgress",
                    "StartupPolicyCompleted": "False InOrderStartupPolicyCompleted",
                    "RestartingJobSet": "True DefaultFailurePolicy",
                }
            },
            "ready a",
            {"jobs": ALL, "attempts": "1.0 1.0 1.0 1.0"},
            "ready b",
            {"conditions": {**STARTED, "RestartingJobSet": "False JobsReady"}},
        ),
    ),
    # --- depends on
    Case(
        "b waits until a is ready",
        document(*CHAIN),
        ({"jobs": "a-0"}, "active a", {"jobs": "a-0"}, "ready a", {"jobs": ALL}, *HAPPY),
    ),
    Case(
        "b waits until a is complete, c until b is ready",
        document(
            entry("a"),
            entry("b", dependsOn=[after("a", "Complete")]),
            entry("c", dependsOn=[after("b", "Ready")]),
        ),
        (
            "ready a",
            {"jobs": "a-0"},
            "complete a",
            {"jobs": "a-0 b-0"},
            "active b",
            {"jobs": "a-0 b-0"},
            "ready b",
            {"jobs": "a-0 b-0 c-0"},
        ),
    ),
    Case(
        "c waits until a and b are complete",
        document(
            entry("a"),
            entry("b"),
            entry("c", dependsOn=[after("a", "Complete"), after("b", "Complete")]),
        ),
        ("complete a", "ready b", {"jobs": "a-0 b-0"}, "complete b", {"jobs": "a-0 b-0 c-0"}),
    ),
    Case(
        "c waits until a is ready and b complete",
        document(
            entry("a"),
            entry("b"),
            entry("c", dependsOn=[after("a", "Ready"), after("b", "Complete")]),
        ),
        ("complete b", {"jobs": "a-0 b-0"}, "ready a", {"jobs": "a-0 b-0 c-0"}),
    ),
    Case(
        "resumed, b waits until a is ready",
        document(*CHAIN, suspend=True),
        (
            {"jobs": "a-0", "suspended": "a-0"},
            "resume",
            {"jobs": "a-0", "suspended": ""},
            "ready a",
            {"jobs": ALL, "suspended": "", "conditions": RESUMED},
        ),
    ),
    # --- the rest
    Case(
        "elastic jobs grow and shrink in place", document(*TWO), (size_becomes(4), size_becomes(1))
    ),
    Case(
        "its time over, it goes",
        one_and_three(ttlSecondsAfterFinished=60),
        ("fail a-0", {"jobs": "a-0"}, "wait 50", {"state": "Failed"}, "wait 20", jobset_is_gone),
    ),
    Case(
        "without a time to live it stays",
        one_and_three(),
        ("complete *", "wait 86400", {"state": "Completed"}),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(tell, case):
    tell(case)


def test_managed_by_another_controller(tell):
    written = {
        "conditions": [
            {
                "type": "Failed",
                "status": "False",
                "reason": "ByTest",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
        "restarts": 1,
        "replicatedJobsStatus": [
            {"name": "a", "ready": 2, "succeeded": 3, "failed": 4, "active": 5, "suspended": 6}
        ],
    }

    async def nothing_happens(play):
        assert await play.world.names(JOBS) == []

    async def its_status_is_left_alone(play):
        jobset = await play.world.get(JOB_SETS, "js")
        await play.world.client.update(
            JOB_SETS, {**jobset, "status": written}, "default", subresource="status"
        )
        await play.world.settle(60)
        assert (await play.world.get(JOB_SETS, "js"))["status"] == written

    held = one_and_three(managedBy="example.com/other", suspend=True)
    story = (nothing_happens, "resume", nothing_happens, its_status_is_left_alone)
    tell(Case("managed by another", held, story))


def test_a_job_that_cannot_be_made_is_an_event_that_counts(tell):
    async def one_event_many_times(play):
        await play.world.settle(30)
        [event] = await play.world.events("JobCreationFailed")
        assert event["type"] == "Warning"
        assert event["count"] > 1
        assert "image" in event["message"]

    broken = document(entry("a", pod={"containers": [{"name": "main"}]}))
    tell(Case("invalid template", broken, (one_event_many_times,)))


def test_pods_are_no_business_of_this_controller(tell):
    async def no_pods(play):
        assert await play.world.names(PODS) == []

    tell(Case("no pods", one_and_three(), (no_pods,)))
