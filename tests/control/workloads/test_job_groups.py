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


def test_a_workload_of_somebody_else_is_used_and_left_alone(world_run):
    async def story(world):
        await begin(world)
        workload = {
            "apiVersion": "scheduling.k8s.io/v1beta1",
            "kind": "Workload",
            "metadata": {"name": "mine"},
            "spec": {
                "controllerRef": {"apiGroup": "batch", "kind": "Job", "name": "train"},
                "podGroupTemplates": [{"name": "w", "schedulingPolicy": {"gang": {"minCount": 2}}}],
            },
        }
        await world.create(GANG_WORKLOADS, workload)
        await world.create(JOBS, indexed("train", 3, scheduling=GANG))
        await world.settle()
        [kept], [group] = await groups_of(world)
        assert kept["metadata"]["name"] == "mine"
        assert owners(kept) == set()
        assert owners(group) == {("Job", "train", True)}
        assert count(kept) == count(group) == 2, "the template counts, not the Job"

    world_run(story)


def test_two_workloads_for_one_job_are_told_and_the_pods_start_without_a_group(world_run):
    async def story(world):
        await begin(world)
        for name in "ab":
            workload = {
                "apiVersion": "scheduling.k8s.io/v1beta1",
                "kind": "Workload",
                "metadata": {"name": name},
                "spec": {
                    "controllerRef": {"apiGroup": "batch", "kind": "Job", "name": "train"},
                    "podGroupTemplates": [{"name": "w", "schedulingPolicy": {"basic": {}}}],
                },
            }
            await world.create(GANG_WORKLOADS, workload)
        await world.create(JOBS, indexed("train", 2, scheduling=GANG))
        await world.settle()
        assert len(await world.find(PODS)) == 2
        assert "AmbiguousWorkload" in [e["reason"] for e in await world.events()]

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


def test_a_parent_that_does_not_delegate_manages_everything(world_run):
    async def story(world):
        await begin(world)
        await world.create(GANG_WORKLOADS, PARENT)
        document = child("set-a")
        document["spec"]["scheduling"] = GANG
        await world.create(JOBS, document)
        await world.settle()
        workloads, groups = await groups_of(world)
        assert len(workloads) == 1
        assert groups == []

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
