"""Hierarchies of pod groups through the real API, on virtual time."""

from __future__ import annotations

import pytest
import yaml

from kubarium.api.kinds import (
    COMPOSITE_POD_GROUPS,
    EVENTS,
    GANG_WORKLOADS,
    NODES,
    POD_GROUPS,
    PODS,
    PRIORITY_CLASSES,
)
from kubarium.base.errors import ApiError
from kubarium.control import gangs
from kubarium.control.scheduling import components

RESOURCES = {
    r.kind: r
    for r in (COMPOSITE_POD_GROUPS, GANG_WORKLOADS, NODES, POD_GROUPS, PODS, PRIORITY_CLASSES)
}

TRAINING = """
apiVersion: scheduling.k8s.io/v1beta1
kind: Workload
metadata: {name: training}
spec:
  compositePodGroupTemplates:
    - name: job
      schedulingPolicy: {gang: {minGroupCount: 2}}
      schedulingConstraints: {topology: [{key: example.com/block}]}
      podGroupTemplates:
        - name: slice
          schedulingPolicy: {gang: {minCount: 2}}
          schedulingConstraints: {topology: [{key: example.com/rack}]}
---
apiVersion: scheduling.k8s.io/v1alpha3
kind: CompositePodGroup
metadata: {name: job}
spec:
  workloadRef: {workloadName: training, templateName: job}
  schedulingPolicy: {gang: {minGroupCount: 2}}
  schedulingConstraints: {topology: [{key: example.com/block}]}
"""


def slice_group(name, minimum=2, parent="job", workload="training", rack=True, **spec):
    constraints = {"topology": [{"key": "example.com/rack"}]} if rack else {}
    return {
        "apiVersion": "scheduling.k8s.io/v1beta1",
        "kind": "PodGroup",
        "metadata": {"name": name},
        "spec": {
            "parentCompositePodGroupName": parent,
            "workloadRef": {"workloadName": workload, "templateName": "slice"},
            "schedulingPolicy": {"gang": {"minCount": minimum}},
            "schedulingConstraints": constraints,
            **spec,
        },
    }


def composite(name, least=1, parent="", workload="training", **spec):
    return {
        "apiVersion": "scheduling.k8s.io/v1alpha3",
        "kind": "CompositePodGroup",
        "metadata": {"name": name},
        "spec": {
            **({"parentCompositePodGroupName": parent} if parent else {}),
            "workloadRef": {"workloadName": workload, "templateName": "job"},
            "schedulingPolicy": {"gang": {"minGroupCount": least}},
            **spec,
        },
    }


def member(name, group, cpu="1", **spec):
    resources = {"requests": {"cpu": cpu}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "containers": [{"name": "main", "image": "busybox", "resources": resources}],
            "schedulingGroup": {"podGroupName": group},
            **spec,
        },
    }


def node(name, cpu, block="a"):
    labels = {"example.com/block": block, "example.com/rack": name}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": {"cpu": cpu, "memory": "16Gi", "pods": "110"}},
    }


async def apply(world, *documents):
    for document in documents:
        if isinstance(document, str):
            await apply(world, *yaml.safe_load_all(document))
        else:
            await world.create(RESOURCES[document["kind"]], document)


async def begin(world, *nodes):
    await world.start(*components(world.context), *gangs.components(world.context))
    await apply(world, *nodes)
    await world.settle(0.1)


async def where(world):
    pods = await world.find(PODS)
    return {p["metadata"]["name"]: p["spec"].get("nodeName") for p in pods}


async def condition(world, resource, name, kind=""):
    kind = kind or f"{resource.kind}InitiallyScheduled"
    found = (await world.get(resource, name)).get("status", {}).get("conditions", [])
    return next((c for c in found if c["type"] == kind), {})


def test_two_groups_of_a_composite_start_on_two_racks_of_one_block(world_run):
    async def story(world):
        await begin(world, node("r1", "2"), node("r2", "2"), node("s1", "2", "b"))
        await apply(world, TRAINING, slice_group("one"), slice_group("two"))
        await apply(world, *(member(f"one-{i}", "one") for i in range(2)))
        await world.settle(3)
        assert set((await where(world)).values()) == {None}
        told = await condition(world, COMPOSITE_POD_GROUPS, "job")
        assert (told["status"], told["reason"]) == ("False", "Unschedulable")
        assert "minCount pods" in told["message"]
        await apply(world, *(member(f"two-{i}", "two") for i in range(2)))
        await world.settle()
        placed = await where(world)
        assert {placed["one-0"], placed["two-0"]} == {"r1", "r2"}
        assert placed["one-0"] == placed["one-1"]
        assert placed["two-0"] == placed["two-1"]
        assert (await condition(world, COMPOSITE_POD_GROUPS, "job"))["status"] == "True"
        for name in ("one", "two"):
            assert (await condition(world, POD_GROUPS, name))["status"] == "True"

    world_run(story)


def test_a_composite_without_room_says_which_group_and_starts_when_a_node_comes(world_run):
    async def story(world):
        await begin(world, node("r1", "2"), node("r2", "1"))
        await apply(world, TRAINING, slice_group("one"), slice_group("two"))
        await apply(world, *(member(f"{g}-{i}", g) for g in ("one", "two") for i in range(2)))
        solo = member_alone("solo")
        solo["spec"]["nodeSelector"] = {"example.com/rack": "r2"}
        await apply(world, solo)
        await world.settle(3)
        placed = await where(world)
        assert placed.pop("solo")
        assert set(placed.values()) == {None}
        for resource, name in ((COMPOSITE_POD_GROUPS, "job"), (POD_GROUPS, "one")):
            told = await condition(world, resource, name)
            assert (told["status"], told["reason"]) == ("False", "Unschedulable")
            assert "composite pod group job: needs 2 groups at once" in told["message"]
            assert "pod group two: gang needs 2" in told["message"]
        await apply(world, node("r3", "2"))
        await world.settle(20)
        assert None not in (await where(world)).values()
        assert (await condition(world, COMPOSITE_POD_GROUPS, "job"))["status"] == "True"

    world_run(story)


def member_alone(name, cpu="100m", **spec):
    document = member(name, "none", cpu=cpu, **spec)
    del document["spec"]["schedulingGroup"]
    return document


def test_groups_may_come_in_any_order(world_run):
    async def story(world):
        await begin(world, node("r1", "2"), node("r2", "2"))
        await apply(world, *(member(f"{g}-{i}", g) for g in ("one", "two") for i in range(2)))
        await world.settle(3)
        await apply(world, slice_group("two"), slice_group("one"))
        await world.settle(3)
        assert set((await where(world)).values()) == {None}
        told = await condition(world, PODS, "one-0", "PodScheduled")
        assert "composite pod group job" in told["message"]
        await apply(world, TRAINING)
        await world.settle(12)
        assert None not in (await where(world)).values()

    world_run(story)


def test_the_least_of_groups_starts_and_the_rest_follows_when_there_is_room(world_run):
    async def story(world):
        await begin(world, node("r1", "2"), node("r2", "2"))
        await apply(world, TRAINING, *(slice_group(g) for g in ("one", "two", "three")))
        await apply(
            world,
            *(member(f"{g}-{i}", g) for g in ("one", "two", "three") for i in range(2)),
        )
        await world.settle(3)
        placed = await where(world)
        assert sum(n is not None for n in placed.values()) == 4
        [late] = {name.split("-")[0] for name, n in placed.items() if n is None}
        assert (await condition(world, COMPOSITE_POD_GROUPS, "job"))["status"] == "True"
        assert (await condition(world, POD_GROUPS, late))["status"] == "False"
        await apply(world, node("r3", "2", "b"), node("r4", "2"))
        await world.settle(20)
        assert (await where(world))[f"{late}-0"] == "r4", "the composite stays in its block"
        assert (await condition(world, POD_GROUPS, late))["status"] == "True"

    world_run(story)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([composite("x", parent="y"), composite("y", parent="x")], "cycle: x -> y -> x"),
        ([composite("x", parent="x")], "cycle: x -> x"),
        (
            [
                composite("top"),
                composite("mid", parent="top"),
                composite("low", parent="mid"),
                composite("x", parent="low"),
            ],
            "the hierarchy is 5 levels deep, at most 4 are allowed",
        ),
        (
            [composite("top", workload="other"), composite("x", parent="top")],
            "must refer to one Workload, got: other and training",
        ),
        (
            [composite("top", priorityClassName="high"), composite("x", parent="top")],
            "must have one priority, got: 0 and 9",
        ),
    ],
    ids=["cycle", "own parent", "depth", "workloads", "priorities"],
)
def test_a_malformed_hierarchy_is_invalid_and_others_go_on(world_run, groups, words):
    async def story(world):
        await begin(world, node("r1", "8"))
        high = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
        await apply(world, {**high, "metadata": {"name": "high"}, "value": 9})
        await apply(world, *groups, slice_group("g", 1, parent="x"), member("bad", "g"))
        await apply(world, member_alone("good"))
        await world.settle(4)
        placed = await where(world)
        assert placed == {"bad": None, "good": "r1"}
        for group in groups:
            told = await condition(world, COMPOSITE_POD_GROUPS, group["metadata"]["name"])
            assert (told["status"], told["reason"]) == ("False", "Invalid")
            assert words in told["message"]
        told = await condition(world, POD_GROUPS, "g")
        assert (told["status"], told["reason"]) == ("False", "SchedulerError")
        told = await condition(world, PODS, "bad", "PodScheduled")
        assert (told["status"], told["reason"]) == ("False", "SchedulerError")
        assert words in told["message"]

    world_run(story)


def test_a_hierarchy_starts_once_what_was_wrong_is_gone(world_run):
    async def story(world):
        await begin(world, node("r1", "8"))
        await apply(world, composite("job"), slice_group("g", 1), member("a", "g"))
        await apply(world, slice_group("stray", 1, workload="other"))
        await world.settle(0.5)
        await apply(world, composite("deep-1", parent="job"), composite("deep-2", parent="deep-1"))
        await apply(world, composite("deep-3", parent="deep-2"))
        await apply(world, composite("deep-4", parent="deep-3"))
        await apply(world, member("late", "g"))
        await world.settle(3)
        assert (await where(world))["late"] is None
        told = await condition(world, PODS, "late", "PodScheduled")
        assert "levels deep" in told["message"]
        await world.client.delete(COMPOSITE_POD_GROUPS, "deep-4", "default")
        await world.settle(3)
        told = await condition(world, PODS, "late", "PodScheduled")
        assert "must refer to one Workload" in told["message"]
        await world.client.delete(POD_GROUPS, "stray", "default")
        await world.settle(12)
        assert (await where(world))["late"] == "r1"

    world_run(story)


def test_a_malformed_hierarchy_without_pods_says_so_too(world_run):
    async def story(world):
        await begin(world)
        await apply(world, composite("x", parent="y"), composite("y", parent="x"))
        await world.settle(2)
        assert (await condition(world, COMPOSITE_POD_GROUPS, "x"))["reason"] == "Invalid"

    world_run(story)


def test_more_groups_asked_for_than_there_are_is_a_wait_with_a_reason(world_run):
    async def story(world):
        await begin(world, node("r1", "8"))
        await apply(world, composite("job", 3), slice_group("g", 1), member("a", "g"))
        await world.settle(3)
        told = await condition(world, COMPOSITE_POD_GROUPS, "job")
        assert (told["status"], told["reason"]) == ("False", "Unschedulable")
        assert "minGroupCount" in told["message"]
        assert await where(world) == {"a": None}

    world_run(story)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({}, {"schedulerName": "other"}, "should have the same .spec.schedulerName set"),
        ({}, {"priorityClassName": "high"}, "match the priority of the pod group, got: 0 and 9"),
        (
            {"priorityClassName": "high"},
            {"priorityClassName": "high"},
            "match the priority of the pod group, got: 0 and 9",
        ),
    ],
    ids=["scheduler", "pods differ", "group differs"],
)
def test_pods_of_a_group_that_disagree_are_refused(world_run, first, second, words):
    async def story(world):
        config = world_config("default-scheduler", "other")
        await world.start(*components(world.context, config))
        high = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
        await apply(world, {**high, "metadata": {"name": "high"}, "value": 9}, node("r1", "8"))
        group = slice_group("g", parent="")
        del group["spec"]["parentCompositePodGroupName"]
        await apply(world, group, member("a", "g", **first), member("b", "g", **second))
        await world.settle(3)
        assert set((await where(world)).values()) == {None}
        for resource, name, kind in ((PODS, "a", "PodScheduled"), (POD_GROUPS, "g", "")):
            told = await condition(world, resource, name, kind)
            assert (told["status"], told["reason"]) == ("False", "SchedulerError")
            assert words in told["message"]

    world_run(story)


def world_config(*names):
    from kubarium.engine.placement.profile import Profile
    from kubarium.view.scheduling import SchedulerConfig

    return SchedulerConfig(tuple(Profile(name) for name in names))


def test_a_composite_preempts_another_that_goes_as_a_whole(world_run):
    async def story(world):
        await begin(world, node("r1", "2"), node("r2", "2"))
        high = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
        await apply(world, {**high, "metadata": {"name": "high"}, "value": 9})
        whole = {"disruptionMode": {"all": {}}}
        await apply(world, composite("old", 2, **whole))
        await apply(world, *(slice_group(g, parent="old", rack=False) for g in ("o1", "o2")))
        await apply(world, *(member(f"{g}-{i}", g) for g in ("o1", "o2") for i in range(2)))
        await world.settle(3)
        assert None not in (await where(world)).values()
        urgent = {"priorityClassName": "high"}
        await apply(world, composite("new", 1, **urgent))
        await apply(world, slice_group("n", 2, parent="new", **urgent))
        await apply(world, *(member(f"n-{i}", "n", **urgent) for i in range(2)))
        await world.settle(3)
        await world.finish_deletions()
        await world.settle(20)
        placed = await where(world)
        assert set(placed) == {"n-0", "n-1"}, "the old composite went with both of its groups"
        assert placed["n-0"] == placed["n-1"] is not None
        for resource, name in ((COMPOSITE_POD_GROUPS, "old"), (POD_GROUPS, "o2")):
            told = await condition(world, resource, name, "DisruptionTarget")
            assert (told["status"], told["reason"]) == ("True", "PreemptionByScheduler")
        assert (await condition(world, COMPOSITE_POD_GROUPS, "new"))["status"] == "True"
        # Its pods are made anew and wait; once they run, nothing is about to go any more.
        await apply(world, *(member(f"{g}-{i}", g) for g in ("o1", "o2") for i in range(2)))
        await world.settle(20)
        old = await condition(world, COMPOSITE_POD_GROUPS, "old", "DisruptionTarget")
        assert old["status"] == "True"
        for i in range(2):
            await world.client.delete(PODS, f"n-{i}", "default", grace_period_s=0)
        await world.settle(20)
        assert None not in (await where(world)).values()
        for resource, name in (
            (COMPOSITE_POD_GROUPS, "old"),
            (POD_GROUPS, "o1"),
            (POD_GROUPS, "o2"),
        ):
            told = await condition(world, resource, name, "DisruptionTarget")
            assert (told["status"], told["reason"]) == ("False", "Scheduled")
            assert told["lastTransitionTime"] > old["lastTransitionTime"]
            first = await condition(world, resource, name)
            assert first["status"] == "True"

    world_run(story)


def test_a_group_that_goes_is_not_told_that_it_runs_because_of_another_pod_of_it(world_run):
    """One that is placed beside its minimum while the others are on their way out."""

    async def story(world):
        await begin(world, node("r1", "2"), node("r2", "2"))
        high = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
        await apply(world, {**high, "metadata": {"name": "high"}, "value": 9})
        old = slice_group("old", 1, rack=False)
        del old["spec"]["parentCompositePodGroupName"], old["spec"]["workloadRef"]
        old["spec"]["disruptionMode"] = {"all": {}}
        await apply(world, old, member("a", "old", "2"))
        await world.settle(3)
        [full] = (await where(world)).values()
        pinned = {"priorityClassName": "high", "nodeSelector": {"example.com/rack": full}}
        await apply(world, member_alone("urgent", "2", **pinned))
        await world.settle(3)
        assert (await condition(world, POD_GROUPS, "old", "DisruptionTarget"))["status"] == "True"
        await apply(world, member("b", "old", "1"))
        await world.settle(3)
        assert (await where(world))["b"] is not None
        told = await condition(world, POD_GROUPS, "old", "DisruptionTarget")
        assert told["status"] == "True", "a is still there"
        await world.finish_deletions()
        await world.settle(3)
        told = await condition(world, POD_GROUPS, "old", "DisruptionTarget")
        assert told["status"] == "False"

    world_run(story)


def test_a_group_whose_pods_are_not_to_go_any_more_is_told_so(world_run):
    """As when victims were told and nobody could delete them."""

    async def story(world):
        await begin(world, node("r1", "2"))
        old = slice_group("old", 1, rack=False)
        del old["spec"]["parentCompositePodGroupName"], old["spec"]["workloadRef"]
        old["spec"]["disruptionMode"] = {"all": {}}
        await apply(world, old, member("a", "old"))
        await world.settle(3)
        told = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": "preempting",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for resource, name in ((PODS, "a"), (POD_GROUPS, "old")):
            known = (await world.get(resource, name))["status"]["conditions"]
            status = {"status": {"conditions": [*known, told]}}
            await world.client.patch(resource, name, status, "default", subresource="status")
        await world.settle(3)
        assert (await condition(world, POD_GROUPS, "old", "DisruptionTarget"))["status"] == "True"
        known = (await world.get(PODS, "a"))["status"]["conditions"]
        taken = [c | {"status": "False"} if c["type"] == told["type"] else c for c in known]
        status = {"status": {"conditions": taken}}
        await world.client.patch(PODS, "a", status, "default", subresource="status")
        await world.settle(3)
        assert (await condition(world, POD_GROUPS, "old", "DisruptionTarget"))["status"] == "False"

    world_run(story)


@pytest.mark.parametrize("group", ["g", None], ids=["group", "pod"])
def test_victims_are_told_for_whom_they_go(world_run, group):
    async def story(world):
        await begin(world, node("r1", "2"))
        high = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass"}
        await apply(world, {**high, "metadata": {"name": "high"}, "value": 9})
        await apply(world, member_alone("victim", "2"))
        await world.settle(2)
        urgent = {"priorityClassName": "high"}
        if group:
            gang = slice_group(group, 1, rack=False, **urgent)
            del gang["spec"]["parentCompositePodGroupName"], gang["spec"]["workloadRef"]
            await apply(world, gang, member("a", group, "2", **urgent))
        else:
            await apply(world, member_alone("a", "2", **urgent))
        await world.settle(2)
        victim, a = await world.get(PODS, "victim"), await world.get(PODS, "a")
        [told] = [c for c in victim["status"]["conditions"] if c["type"] == "DisruptionTarget"]
        kind = "podgroup" if group else "pod"
        text = f"default-scheduler: preempting to accommodate a higher priority {kind}"
        assert told["message"] == text
        uid = a["metadata"]["uid"]
        if group:
            uid = (await world.get(POD_GROUPS, group))["metadata"]["uid"]
        said = [e["message"] for e in await world.find(EVENTS) if e["reason"] == "Preempted"]
        assert said == [f"Preempted by {kind} {uid} on node r1"]

    world_run(story)


@pytest.mark.parametrize(
    ("pods", "lacking"),
    [
        ([("a", 2)], "minGroupCount is 2, 1 of its groups is complete"),
        ([("a", 2), ("b", 1)], "fewer than minCount pods of pod group b exist"),
    ],
    ids=["groups", "pods"],
)
def test_a_hierarchy_that_is_not_complete_says_what_is_lacking(world_run, pods, lacking):
    async def story(world):
        await begin(world, node("r1", "8"))
        await apply(world, composite("job", 2))
        for name, count in pods:
            await apply(world, slice_group(name, rack=False))
            await apply(world, *(member(f"{name}-{i}", name) for i in range(count)))
        await world.settle(2)
        told = await condition(world, PODS, "a-0", "PodScheduled")
        quorum = 'waiting for composite pod group "job" tree to meet quorum'
        assert told["message"] == f"{quorum} ({lacking})"

    world_run(story)


def test_groups_go_from_the_pods_up_to_the_root(world_run):
    async def story(world):
        await begin(world, node("r1", "2"))
        await apply(world, composite("job"), slice_group("g", 1), member("a", "g"))
        await world.settle(2)
        assert (await where(world))["a"] == "r1"
        for resource, name in ((COMPOSITE_POD_GROUPS, "job"), (POD_GROUPS, "g")):
            await world.client.delete(resource, name, "default")
        await world.settle(2)
        assert await world.names(POD_GROUPS) == ["g"], "its pod is alive"
        assert await world.names(COMPOSITE_POD_GROUPS) == ["job"], "its group is there"
        await world.set_phase(await world.get(PODS, "a"), "Succeeded")
        await world.settle(2)
        assert await world.names(POD_GROUPS) == []
        assert await world.names(COMPOSITE_POD_GROUPS) == []

    world_run(story)


def test_composites_in_a_circle_can_be_deleted(world_run):
    async def story(world):
        await begin(world)
        await apply(world, composite("x", parent="y"), composite("y", parent="x"))
        for name in ("x", "y"):
            await world.client.delete(COMPOSITE_POD_GROUPS, name, "default")
        await world.settle(2)
        assert await world.names(COMPOSITE_POD_GROUPS) == []

    world_run(story)


def test_a_large_composite_is_not_starved_by_small_pods(world_run):
    """Finite pods leave one after the other; without the reservation new ones fill each gap."""

    async def story(world):
        await begin(world, node("r1", "2"), node("r2", "2"))
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": "j",
            "uid": "u",
            "controller": True,
        }

        def small(i):
            document = member_alone(f"small-{i:02d}")
            document["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "1"
            document["spec"]["restartPolicy"] = "Never"
            document["metadata"]["ownerReferences"] = [owner]
            return document

        await apply(world, *(small(i) for i in range(4)))
        await world.settle(1)
        await apply(world, TRAINING, slice_group("one"), slice_group("two"))
        await apply(world, *(member(f"{g}-{i}", g) for g in ("one", "two") for i in range(2)))
        for i in range(4, 40):
            await apply(world, small(i))
            await world.settle(20)
            running = [p for p in await world.find(PODS) if p["spec"].get("nodeName")]
            alive = [p for p in running if p.get("status", {}).get("phase") != "Succeeded"]
            ends = [p for p in alive if p["metadata"]["name"].startswith("small")]
            if ends and i % 2:
                await world.set_phase(ends[0], "Succeeded")
            if (await where(world))["one-0"]:
                break
        placed = await where(world)
        assert placed["one-0"]
        assert placed["two-1"]
        reasons = [e["reason"] for e in await world.find(EVENTS)]
        assert "Reserved" in reasons

    world_run(story)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedulingPolicy": {"gang": {"minGroupCount": 3}}}, "field is immutable"),
        ({"parentCompositePodGroupName": "other"}, "field is immutable"),
    ],
)
def test_a_composite_does_not_change(world_run, change, words):
    async def story(world):
        await world.start()
        await apply(world, composite("job", 2))
        with pytest.raises(ApiError, match=words):
            await world.client.patch(COMPOSITE_POD_GROUPS, "job", {"spec": change}, "default")

    world_run(story)
