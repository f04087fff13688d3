"""Job ``spec.scheduling``: the Workload and the PodGroup that the Job controller makes of it."""

from __future__ import annotations

import pytest

from kubarium.api.gangs import PARENT_ANNOTATION, TEMPLATE_ANNOTATION
from kubarium.api.kinds import GANG_WORKLOADS, JOBS, NODES, POD_GROUPS, PODS, PRIORITY_CLASSES
from kubarium.base.errors import ApiError
from kubarium.control import gangs
from kubarium.control.core import components as core_components
from kubarium.control.scheduling import components as scheduler
from kubarium.control.workloads.job.controller import JobController
from kubarium.runtime.writes import owner_reference

from .test_job import indexed, job

GANG = {"schedulingPolicy": {"gang": {}}}


def node(name, cpu):
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"example.com/rack": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": "16Gi", "pods": "110"}},
    }


def sized(document, cpu="1"):
    container = document["spec"]["template"]["spec"]["containers"][0]
    container["resources"] = {"requests": {"cpu": cpu}}
    return document


async def begin(world, *nodes):
    await world.start(JobController(world.context), *gangs.components(world.context))
    for document in nodes:
        await world.create(NODES, document)


async def groups_of(world):
    workloads, groups = await world.find(GANG_WORKLOADS), await world.find(POD_GROUPS)
    return workloads, groups


def count(document):
    holder = document["spec"]
    if "podGroupTemplates" in holder:
        [holder] = holder["podGroupTemplates"]
    return holder["schedulingPolicy"].get("gang", {}).get("minCount")


def owners(document):
    return {
        (o["kind"], o["name"], bool(o.get("controller")))
        for o in document["metadata"].get("ownerReferences", ())
    }


def test_a_gang_job_gets_a_workload_and_a_group_before_its_pods(world_run):
    async def story(world):
        await begin(world)
        scheduling = {
            **GANG,
            "schedulingConstraints": {"topology": [{"key": "example.com/rack"}]},
            "disruptionMode": {"all": {}},
            "resourceClaims": [{"name": "net", "resourceClaimTemplateName": "net"}],
        }
        await world.create(JOBS, indexed("train", 3, scheduling=scheduling))
        await world.settle()
        [workload], [group] = await groups_of(world)
        name = workload["metadata"]["name"]
        assert name.startswith("train-")
        assert workload["spec"]["controllerRef"] == {
            "apiGroup": "batch",
            "kind": "Job",
            "name": "train",
        }
        assert owners(workload) == {("Job", "train", True)}
        assert owners(group) == {("Job", "train", True), ("Workload", name, False)}
        [template] = workload["spec"]["podGroupTemplates"]
        assert group["spec"]["workloadRef"] == {
            "workloadName": name,
            "templateName": template["name"],
        }
        assert count(workload) == count(group) == 3, "parallelism"
        for field in ("schedulingConstraints", "disruptionMode", "resourceClaims"):
            assert group["spec"][field] == template[field] == scheduling[field]
        pods = await world.find(PODS)
        assert len(pods) == 3
        assert {p["spec"]["schedulingGroup"]["podGroupName"] for p in pods} == {
            group["metadata"]["name"]
        }
        stored = await world.get(JOBS, "train")
        assert stored["spec"]["scheduling"]["schedulingPolicy"] == {"gang": {}}, "not written back"

    world_run(story)


def test_without_scheduling_nothing_changes(world_run):
    async def story(world):
        await begin(world)
        await world.create(JOBS, job())
        await world.settle()
        assert await groups_of(world) == ([], [])
        [pod] = await world.find(PODS)
        assert "schedulingGroup" not in pod["spec"]

    world_run(story)


def test_a_policy_that_is_not_named_is_basic(world_run):
    async def story(world):
        await begin(world)
        await world.create(JOBS, job(scheduling={}))
        await world.settle()
        _, [group] = await groups_of(world)
        assert group["spec"]["schedulingPolicy"] == {"basic": {}}

    world_run(story)


@pytest.mark.parametrize(
    ("spec", "least"),
    [
        ({"parallelism": 4}, 4),
        ({"parallelism": 4, "completions": 2}, 2),
        ({"parallelism": 4, "scheduling": {"schedulingPolicy": {"gang": {"minCount": 2}}}}, 2),
        ({}, 1),
    ],
)
def test_the_size_of_the_gang(world_run, spec, least):
    async def story(world):
        await begin(world)
        await world.create(JOBS, job(**{"scheduling": GANG, **spec}))
        await world.settle()
        [workload], [group] = await groups_of(world)
        assert count(workload) == count(group) == least

    world_run(story)


def test_an_elastic_job_takes_its_gang_along(world_run):
    async def story(world):
        await begin(world)
        await world.create(JOBS, indexed("train", 3, scheduling=GANG))
        await world.settle()
        grown = {"spec": {"parallelism": 5, "completions": 5}}
        await world.client.patch(JOBS, "train", grown, "default")
        await world.settle()
        [workload], [group] = await groups_of(world)
        assert count(workload) == count(group) == 5
        assert len(await world.live_pods()) == 5
        explicit = {"spec": {"scheduling": {"schedulingPolicy": {"gang": {"minCount": 2}}}}}
        await world.client.patch(JOBS, "train", explicit, "default")
        await world.settle()
        [workload], [group] = await groups_of(world)
        assert count(workload) == count(group) == 2

    world_run(story)


def test_a_suspended_job_keeps_its_group_and_uses_it_again(world_run):
    async def story(world):
        await begin(world)
        await world.create(JOBS, indexed("train", 2, scheduling=GANG, suspend=True))
        await world.settle()
        assert await groups_of(world) == ([], [])
        await world.client.patch(JOBS, "train", {"spec": {"suspend": False}}, "default")
        await world.settle()
        before = await groups_of(world)
        await world.client.patch(JOBS, "train", {"spec": {"suspend": True}}, "default")
        await world.settle()
        assert await world.live_pods() == []
        await world.client.patch(JOBS, "train", {"spec": {"suspend": False}}, "default")
        await world.settle()
        after = await groups_of(world)
        assert [d["metadata"]["uid"] for (d,) in after] == [d["metadata"]["uid"] for (d,) in before]
        names = {p["spec"]["schedulingGroup"]["podGroupName"] for p in await world.live_pods()}
        assert names == {after[1][0]["metadata"]["name"]}

    world_run(story)


def test_deleting_the_job_takes_everything_with_it(world_run):
    async def story(world):
        await begin(world)
        garbage = core_components(world.context, root_ca="", catalog=world.server.catalog)
        await world.start(*garbage)
        await world.create(JOBS, indexed("train", 2, scheduling=GANG))
        await world.settle()
        await world.client.delete(JOBS, "train", "default", propagation_policy="Background")
        await world.settle(30)
        await world.finish_deletions()
        await world.settle(5)
        assert await groups_of(world) == ([], [])
        assert await world.find(PODS) == []

    world_run(story)


def workload_for(name, owner=None, **spec):
    reference = {"apiGroup": "batch", "kind": "Job", "name": "train"}
    templates = [{"name": "w", "schedulingPolicy": {"gang": {"minCount": 2}}}]
    return {
        "apiVersion": "scheduling.k8s.io/v1beta1",
        "kind": "Workload",
        "metadata": {"name": name, "ownerReferences": [owner_reference(owner)] if owner else []},
        "spec": {"controllerRef": reference, "podGroupTemplates": templates, **spec},
    }


def test_a_workload_of_somebody_else_is_passed_over(world_run):
    async def story(world):
        await begin(world)
        theirs = await world.create(GANG_WORKLOADS, workload_for("theirs"))
        await world.create(JOBS, indexed("train", 3, scheduling=GANG))
        await world.settle()
        workloads, [group] = await groups_of(world)
        [own] = [w for w in workloads if w["metadata"]["name"] != "theirs"]
        assert await world.get(GANG_WORKLOADS, "theirs") == theirs
        assert owners(own) == {("Job", "train", True)}
        assert group["spec"]["workloadRef"]["workloadName"] == own["metadata"]["name"]
        assert count(own) == count(group) == 3
        [link] = [o for o in group["metadata"]["ownerReferences"] if o["kind"] == "Workload"]
        assert "blockOwnerDeletion" not in link, "a Workload goes without waiting for its group"
        told = {e["reason"]: e["message"] for e in await world.events()}
        name = own["metadata"]["name"]
        assert told["WorkloadCreated"] == f"Created Workload {name} for Job train"
        name = group["metadata"]["name"]
        assert told["PodGroupCreated"] == f"Created PodGroup {name} for Job train"

    world_run(story)


def test_a_group_of_somebody_else_is_passed_over(world_run):
    async def story(world):
        await begin(world)
        await world.create(JOBS, indexed("train", 2, scheduling=GANG, suspend=True))
        job = await world.get(JOBS, "train")
        own = await world.create(GANG_WORKLOADS, workload_for("own", job))
        theirs = {
            "apiVersion": "scheduling.k8s.io/v1beta1",
            "kind": "PodGroup",
            "metadata": {"name": "theirs"},
            "spec": {
                "workloadRef": {"workloadName": "own", "templateName": "w"},
                "schedulingPolicy": {"gang": {"minCount": 2}},
            },
        }
        await world.create(POD_GROUPS, theirs)
        await world.client.patch(JOBS, "train", {"spec": {"suspend": False}}, "default")
        await world.settle()
        groups = {g["metadata"]["name"]: g for g in await world.find(POD_GROUPS)}
        del groups["theirs"]
        [group] = groups.values()
        assert owners(group) == {("Job", "train", True), ("Workload", "own", False)}
        names = {p["spec"]["schedulingGroup"]["podGroupName"] for p in await world.find(PODS)}
        assert names == {group["metadata"]["name"]}
        assert [w["metadata"]["uid"] for w in await world.find(GANG_WORKLOADS)] == [
            own["metadata"]["uid"]
        ]

    world_run(story)


def two_templates(job):
    names = ("a", "b")
    templates = [{"name": name, "schedulingPolicy": {"basic": {}}} for name in names]
    return [workload_for("own", job, podGroupTemplates=templates)]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda job: [workload_for(n, job) for n in "ab"], "2 Workloads refer to Job train"),
        (two_templates, "Workload own has 2 PodGroupTemplates (expected 1)"),
    ],
    ids=["two", "shape"],
)
def test_what_others_made_of_the_jobs_own_is_told_and_its_pods_start_alone(world_run, made, why):
    async def story(world):
        await begin(world)
        await world.create(JOBS, indexed("train", 2, scheduling=GANG, suspend=True))
        for workload in made(await world.get(JOBS, "train")):
            await world.create(GANG_WORKLOADS, workload)
        await world.client.patch(JOBS, "train", {"spec": {"suspend": False}}, "default")
        await world.settle()
        pods = await world.find(PODS)
        assert len(pods) == 2
        assert not any("schedulingGroup" in pod["spec"] for pod in pods)
        [event] = await world.events("UnsupportedWorkloadStructure")
        assert event["message"] == f"{why}, falling back to normal scheduling"

    world_run(story)


def test_a_template_that_names_a_group_is_the_users_own_business(world_run):
    async def story(world):
        await begin(world)
        document = indexed("train", 2, scheduling=GANG)
        document["spec"]["template"]["spec"]["schedulingGroup"] = {"podGroupName": "mine"}
        await world.create(JOBS, document)
        await world.settle()
        assert await groups_of(world) == ([], [])
        names = {p["spec"]["schedulingGroup"]["podGroupName"] for p in await world.find(PODS)}
        assert names == {"mine"}

    world_run(story)


PARENT = {
    "apiVersion": "scheduling.k8s.io/v1beta1",
    "kind": "Workload",
    "metadata": {"name": "set"},
    "spec": {
        "controllerRef": {"apiGroup": "jobset.x-k8s.io", "kind": "JobSet", "name": "set"},
        "compositePodGroupTemplates": [
            {
                "name": "all",
                "schedulingPolicy": {"gang": {"minGroupCount": 2}},
                "podGroupTemplates": [
                    {"name": "workers", "schedulingPolicy": {"gang": {"minCount": 2}}}
                ],
            }
        ],
    },
}


def child(name, **annotations):
    document = indexed(name, 2)
    owner = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "name": "set", "uid": "s"}
    document["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
    document["metadata"]["annotations"] = annotations
    return document


def test_a_parent_that_delegates_gets_a_group_for_each_of_its_jobs(world_run):
    async def story(world):
        await begin(world)
        marks = {TEMPLATE_ANNOTATION: "workers", PARENT_ANNOTATION: "all-0"}
        await world.create(JOBS, child("set-a", **marks))
        await world.settle()
        assert await world.find(PODS) == [], "the Workload is not there yet"
        assert "WorkloadMissing" in [e["reason"] for e in await world.events()]
        await world.create(GANG_WORKLOADS, PARENT)
        await world.create(JOBS, child("set-b", **marks))
        await world.settle()
        workloads, groups = await groups_of(world)
        assert [w["metadata"]["name"] for w in workloads] == ["set"]
        assert {next(iter(owners(g))) for g in groups} == {
            ("Job", "set-a", True),
            ("Job", "set-b", True),
        }
        for group in groups:
            assert group["spec"]["parentCompositePodGroupName"] == "all-0"
            assert group["spec"]["workloadRef"]["templateName"] == "workers"
        assert (
            len({p["spec"]["schedulingGroup"]["podGroupName"] for p in await world.find(PODS)}) == 2
        )

    world_run(story)


@pytest.mark.parametrize("theirs", [[PARENT], []], ids=["workload", "none"])
def test_a_parent_that_does_not_delegate_manages_everything(world_run, theirs):
    async def story(world):
        await begin(world)
        for workload in theirs:
            await world.create(GANG_WORKLOADS, workload)
        document = child("set-a")
        document["spec"]["scheduling"] = GANG
        await world.create(JOBS, document)
        await world.settle()
        workloads, groups = await groups_of(world)
        assert len(workloads) == len(theirs)
        assert groups == []
        assert len(await world.find(PODS)) == 2

    world_run(story)


def test_jobs_of_a_cron_job_stand_for_themselves(world_run):
    async def story(world):
        await begin(world)
        document = indexed("nightly-1", 2, scheduling=GANG)
        owner = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly", "uid": "c"}
        document["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
        await world.create(JOBS, document)
        await world.settle()
        [workload], [group] = await groups_of(world)
        assert count(workload) == count(group) == 2

    world_run(story)


@pytest.mark.parametrize("group", ["example.com", ""], ids=["group", "core"])
def test_a_workload_of_another_parent_of_that_name_is_not_the_parents(world_run, group):
    async def story(world):
        await begin(world)
        reference = {**PARENT["spec"]["controllerRef"], "apiGroup": group}
        other = {**PARENT, "spec": {**PARENT["spec"], "controllerRef": reference}}
        await world.create(GANG_WORKLOADS, other)
        await world.create(JOBS, child("set-a", **{TEMPLATE_ANNOTATION: "workers"}))
        await world.settle()
        assert await world.find(POD_GROUPS) == []
        assert await world.events("WorkloadMissing")

    world_run(story)


def test_a_gang_job_starts_whole_when_there_is_room(world_run):
    async def story(world):
        await begin(world, node("r1", "2"), node("r2", "1"))
        await world.start(*scheduler(world.context))
        high = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
        await world.create(PRIORITY_CLASSES, {**high, "metadata": {"name": "high"}, "value": 7})
        document = sized(indexed("train", 4, scheduling=GANG))
        document["spec"]["template"]["spec"]["priorityClassName"] = "high"
        await world.create(JOBS, document)
        await world.settle(3)
        pods = await world.find(PODS)
        assert len(pods) == 4
        assert not any(p["spec"].get("nodeName") for p in pods)
        [told] = pods[0]["status"]["conditions"]
        assert "gang needs 4, at most 3 fit" in told["message"]
        await world.create(NODES, node("r3", "1"))
        await world.settle(12)
        assert all(p["spec"].get("nodeName") for p in await world.find(PODS))

    world_run(story)


@pytest.mark.parametrize(
    ("scheduling", "words"),
    [
        ({"schedulingPolicy": {}}, "scheduling.schedulingPolicy: Invalid value"),
        ({"schedulingPolicy": {"gang": {"minCount": 0}}}, "minCount: Invalid value: 0"),
        (
            {"schedulingPolicy": {"gang": {"minCount": 4}}},
            r"minCount: Invalid value: 4: must be less than or equal to spec.parallelism \(3\)",
        ),
        (
            {"disruptionMode": {"all": {}}},
            "must not be `all` when the scheduling policy is `basic`",
        ),
        (
            {**GANG, "schedulingConstraints": {"topology": [{"key": "a"}, {"key": "b"}]}},
            "topology: Too many: 2",
        ),
        ({**GANG, "resourceClaims": [{"name": "x"}]}, "resourceClaims.*: Invalid value"),
    ],
)
def test_bad_scheduling_is_refused_by_name(world_run, scheduling, words):
    async def story(world):
        await world.start()
        with pytest.raises(ApiError, match=words):
            await world.create(JOBS, indexed("train", 3, scheduling=scheduling))

    world_run(story)


@pytest.mark.parametrize(
    "change",
    [
        {"scheduling": None},
        {"scheduling": {"schedulingPolicy": {"gang": None, "basic": {}}}},
        {"scheduling": {"disruptionMode": {"all": {}}}},
    ],
    ids=["unset", "policy", "mode"],
)
def test_only_the_size_of_a_gang_may_change(world_run, change):
    async def story(world):
        await world.start()
        await world.create(JOBS, indexed("train", 3, scheduling=GANG))
        with pytest.raises(ApiError, match="field is immutable"):
            await world.client.patch(JOBS, "train", {"spec": change}, "default")

    world_run(story)
