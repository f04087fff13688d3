"""Gangs whose groups, members, Jobs and nodes change while they wait, start or run."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import (
    COMPOSITE_POD_GROUPS,
    DEVICE_CLASSES,
    DEVICE_TAINT_RULES,
    GANG_WORKLOADS,
    JOBS,
    NODES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_SLICES,
)
from kubarium.control import core, devices, gangs
from kubarium.control.scheduling import components
from kubarium.control.workloads.job.controller import JobController
from tests.control.scheduling.test_scheduler import claim, device_class, slices
from tests.control.workloads.test_job import indexed
from tests.control.workloads.test_job_groups import GANG, sized

from .crashes import bound_of
from .test_gang_faults import group
from .test_gang_restarts import priority_class
from .test_groups import (
    apply,
    begin,
    composite,
    condition,
    member,
    node,
    slice_group,
    where,
)

MERGE = "application/merge-patch+json"


async def set_minimum(world, count, name="g"):
    policy = {"spec": {"schedulingPolicy": {"gang": {"minCount": count}}}}
    await world.client.patch(POD_GROUPS, name, policy, "default")


async def ungate(world, name):
    gates = {"spec": {"schedulingGates": []}}
    await world.client.patch(PODS, name, gates, "default", patch_type=MERGE)


async def force_away(world, name="g"):
    """The group, without waiting for its pods."""
    await world.client.delete(POD_GROUPS, name, "default")
    await world.settle(0.5)
    if name in await world.names(POD_GROUPS):
        none = {"metadata": {"finalizers": None}}
        await world.client.patch(POD_GROUPS, name, none, "default", patch_type=MERGE)
    await world.settle(0.5)
    assert name not in await world.names(POD_GROUPS)


async def status(world, name="g"):
    return (await condition(world, POD_GROUPS, name)).get("status")


def members(count, start=0, **spec):
    return [member(f"g-{i}", "g", **spec) for i in range(start, start + count)]


# The minimum


def test_a_lower_minimum_lets_a_waiting_gang_start_at_once(world_run):
    async def story(world):
        await begin(world, node("n", "2"))
        await apply(world, group("g", 3), *members(3))
        await world.settle(3)
        assert (await bound_of(world, "g"), await status(world)) == ([], "False")
        await set_minimum(world, 2)
        await world.settle(2)
        assert len(await bound_of(world, "g")) == 2
        assert await status(world) == "True"

    world_run(story)


def test_a_higher_minimum_holds_what_waits_and_leaves_what_runs(world_run):
    async def story(world):
        await begin(world, node("n", "2"))
        await apply(world, group("g", 2), *members(2))
        await world.settle(3)
        await set_minimum(world, 4)
        await apply(world, *members(1, 2))
        await apply(world, node("m", "1"))
        await world.settle(15)
        assert len(await bound_of(world, "g")) == 2, "two more are wanted at once, one exists"
        told = await condition(world, PODS, "g-2", "PodScheduled")
        assert "minCount pods" in told["message"]
        await apply(world, *members(1, 3))
        await world.settle(15)
        assert len(await bound_of(world, "g")) == 2, "two more are wanted at once, one fits"
        await apply(world, node("o", "1"))
        await world.settle(15)
        assert len(await bound_of(world, "g")) == 4
        assert await status(world) == "True"

    world_run(story)


# The group itself


@pytest.mark.parametrize("moment", ["waiting for pods", "waiting for room", "running"])
def test_a_group_made_anew_under_its_name_takes_over(world_run, moment):
    async def story(world):
        await begin(world, node("n", "1" if moment == "waiting for room" else "2"))
        first = 1 if moment == "waiting for pods" else 2
        await apply(world, group("g", 2), *members(first))
        await world.settle(3)
        before = (await world.get(POD_GROUPS, "g"))["metadata"]["uid"]
        await force_away(world)
        if moment != "running":
            await world.settle(3)
            told = await condition(world, PODS, "g-0", "PodScheduled")
            assert 'pod group "g" to appear' in told["message"]
        await apply(world, group("g", 2))
        await world.settle(3)
        assert (await world.get(POD_GROUPS, "g"))["metadata"]["uid"] != before
        assert await status(world) == ("True" if moment == "running" else "False")
        if moment == "waiting for pods":
            await apply(world, *members(1, 1))
        if moment == "waiting for room":
            await apply(world, node("m", "1"))
        await world.settle(15)
        assert len(await bound_of(world, "g")) == 2
        assert await status(world) == "True"

    world_run(story)


def test_a_workload_made_anew_changes_nothing_about_its_running_gang(world_run):
    async def story(world):
        await begin(world, node("n", "2"))
        template = {"name": "t", "schedulingPolicy": {"gang": {"minCount": 2}}}
        workload = {
            "apiVersion": "scheduling.k8s.io/v1beta1",
            "kind": "Workload",
            "metadata": {"name": "w"},
            "spec": {"podGroupTemplates": [template]},
        }
        named = {"workloadRef": {"workloadName": "w", "templateName": "t"}}
        await apply(world, workload, group("g", 2, **named), *members(1))
        await world.settle(2)
        await world.client.delete(GANG_WORKLOADS, "w", "default")
        await apply(world, workload, *members(1, 1))
        await world.settle(5)
        assert len(await bound_of(world, "g")) == 2
        await world.client.delete(GANG_WORKLOADS, "w", "default")
        await world.settle(5)
        assert len(await bound_of(world, "g")) == 2

    world_run(story)


# Members


def test_gates_are_lifted_one_by_one_and_the_last_starts_the_gang(world_run):
    async def story(world):
        await begin(world, node("n", "4"))
        gated = {"schedulingGates": [{"name": "example.com/a"}]}
        await apply(world, group("g", 3), *members(3, **gated), *members(1, 3))
        for i in range(3):
            await world.settle(5)
            assert await bound_of(world, "g") == [], f"{i} lifted"
            told = await condition(world, PODS, "g-3", "PodScheduled")
            if i < 2:
                assert "minCount pods" in told["message"]
                await ungate(world, f"g-{i}")
            else:
                break
            if i == 1:
                await world.settle(5)
                assert len(await bound_of(world, "g")) == 3, "the minimum is there"
                break
        gate = await condition(world, PODS, "g-2", "PodScheduled")
        assert gate.get("reason") == "SchedulingGated"
        await ungate(world, "g-2")
        await world.settle(5)
        assert len(await bound_of(world, "g")) == 4

    world_run(story)


def test_a_member_of_a_scheduler_that_nobody_runs_is_missed_and_said_so(world_run):
    async def story(world):
        await begin(world, node("n", "4"))
        await apply(world, group("g", 2), *members(1), *members(1, 1, schedulerName="other"))
        await world.settle(5)
        assert await bound_of(world, "g") == []
        for resource, name, kind in ((PODS, "g-0", "PodScheduled"), (POD_GROUPS, "g", "")):
            told = await condition(world, resource, name, kind)
            assert "minCount pods" in told["message"]
            assert "1 of them left to scheduler other" in told["message"]
        await world.client.delete(PODS, "g-1", "default", grace_period_s=0)
        await apply(world, *members(1, 2))
        await world.settle(5)
        assert await bound_of(world, "g") == ["g-0", "g-2"]

    world_run(story)


def test_a_member_of_another_priority_holds_all_until_it_goes(world_run):
    async def story(world):
        await begin(world, node("n", "4"))
        await apply(world, priority_class("high", 9))
        await apply(world, group("g", 2), *members(2))
        await world.settle(2)
        assert len(await bound_of(world, "g")) == 2
        await apply(world, *members(1, 2, priorityClassName="high"))
        await world.settle(5)
        assert len(await bound_of(world, "g")) == 2, "who runs goes on"
        told = await condition(world, PODS, "g-2", "PodScheduled")
        assert told["reason"] == "SchedulerError"
        assert await status(world) == "True"

    world_run(story)


# Jobs


async def begin_jobs(world, *nodes):
    await world.start(
        JobController(world.context),
        *gangs.components(world.context),
        *components(world.context),
        *core.components(world.context),
    )
    await apply(world, *nodes)
    await world.settle(0.1)


async def bound_pods(world):
    return sorted(
        p["metadata"]["name"] for p in await world.live_pods() if p["spec"].get("nodeName")
    )


def test_a_job_whose_gang_waits_may_be_suspended_scaled_and_resumed(world_run):
    async def story(world):
        await begin_jobs(world, node("n", "2"))
        await world.create(JOBS, sized(indexed("train", 3, scheduling=GANG)))
        await world.settle(5)
        assert await bound_pods(world) == []
        change = {"spec": {"suspend": True}}
        await world.client.patch(JOBS, "train", change, "default")
        await world.settle(5)
        assert await world.live_pods() == []
        change = {"spec": {"parallelism": 2, "completions": 2}}
        change["spec"]["scheduling"] = {"schedulingPolicy": {"gang": {"minCount": 2}}}
        await world.client.patch(JOBS, "train", change, "default")
        await world.client.patch(JOBS, "train", {"spec": {"suspend": False}}, "default")
        await world.settle(15)
        assert len(await bound_pods(world)) == 2
        [found] = await world.find(POD_GROUPS)
        assert await status(world, found["metadata"]["name"]) == "True"

    world_run(story)


def test_pods_of_a_waiting_gang_that_were_deleted_are_made_again_and_start(world_run):
    async def story(world):
        await begin_jobs(world, node("n", "2"))
        await world.create(JOBS, sized(indexed("train", 3, scheduling=GANG)))
        await world.settle(5)
        for pod in await world.live_pods():
            name = pod["metadata"]["name"]
            await world.client.delete(PODS, name, "default", grace_period_s=0)
        await world.settle(5)
        await apply(world, node("m", "1"))
        await world.settle(120)  # each counts as a failure, after which the Job backs off
        assert len(await bound_pods(world)) == 3

    world_run(story)


# What runs loses members


@pytest.mark.parametrize("mode", ["single", "all"])
@pytest.mark.parametrize("how", ["taint", "node lost", "drained"])
def test_what_a_running_gang_loses_is_replaced_and_the_rest_runs_on(world_run, mode, how):
    """Disruption modes are about preemption alone, as upstream."""

    async def story(world):
        await begin_jobs(world, node("n1", "2"), node("n2", "2"))
        rules = {**GANG, "disruptionMode": {mode: {}}}
        await world.create(JOBS, sized(indexed("train", 4, scheduling=rules, backoffLimit=9)))
        await world.settle(3)
        assert len(await bound_pods(world)) == 4
        before = set(await bound_pods(world))
        there = [p["metadata"]["name"] for p in await world.live_pods() if at(p) == "n1"]
        if how == "taint":
            taints = [{"key": "away", "effect": "NoExecute"}]
            await world.client.patch(NODES, "n1", {"spec": {"taints": taints}})
        elif how == "node lost":
            await world.client.delete(NODES, "n1")
        else:
            await world.client.patch(NODES, "n1", {"spec": {"unschedulable": True}})
            for name in there:
                eviction = {
                    "apiVersion": "policy/v1",
                    "kind": "Eviction",
                    "metadata": {"name": name},
                }
                await world.client.create(
                    PODS, eviction, "default", name=name, subresource="eviction"
                )
        await world.settle(60)
        await world.finish_deletions()
        for name in there:  # a node that is gone has nobody to end its pods
            if name in await world.names(PODS):
                await world.client.delete(PODS, name, "default", grace_period_s=0)
        await world.settle(60)
        staying = before - set(there)
        assert staying <= set(await bound_pods(world)), "who was not evicted runs on"
        waiting = [p for p in await world.live_pods() if not at(p)]
        assert len(waiting) == 2
        for pod in waiting:
            told = await condition(world, PODS, pod["metadata"]["name"], "PodScheduled")
            assert told["status"] == "False"
        await apply(world, node("n3", "1"))
        await world.settle(30)
        assert len(await bound_pods(world)) == 2, "two are lacking, and one has room"
        await apply(world, node("n4", "1"))
        await world.settle(30)
        assert len(await bound_pods(world)) == 4
        [found] = await world.find(POD_GROUPS)
        assert await status(world, found["metadata"]["name"]) == "True"

    def at(pod):
        return pod["spec"].get("nodeName")

    world_run(story)


# Hierarchies


@pytest.mark.parametrize("lost", ["leaf", "inner group", "root"])
def test_a_nested_hierarchy_that_lost_a_part_comes_back_whole(world_run, lost):
    async def story(world):
        await begin(world, node("r1", "2"), node("r2", "2"))
        await apply(
            world,
            composite("root", 2),
            composite("inner", 1, "root"),
            slice_group("a", 2, "inner"),
            slice_group("b", 2, "root"),
        )
        await apply(world, *(member(f"{g}-{i}", g) for g in "ab" for i in range(2)))
        await world.settle(5)
        assert all((await where(world)).values())
        if lost == "leaf":
            for i in range(2):
                await world.client.delete(PODS, f"a-{i}", "default", grace_period_s=0)
            await world.settle(2)
            await apply(world, *(member(f"a-{i}", "a") for i in (2, 3)))
        elif lost == "inner group":
            for i in range(2):
                await world.client.delete(PODS, f"a-{i}", "default", grace_period_s=0)
            await world.client.delete(POD_GROUPS, "a", "default")
            await world.client.delete(COMPOSITE_POD_GROUPS, "inner", "default")
            await world.settle(3)
            await apply(world, *(member(f"a-{i}", "a") for i in (2, 3)))
            await world.settle(3)
            assert await bound_of(world, "a") == []
            await apply(world, composite("inner", 1, "root"), slice_group("a", 2, "inner"))
        else:
            for g in "ab":
                for i in range(2):
                    await world.client.delete(PODS, f"{g}-{i}", "default", grace_period_s=0)
                await world.client.delete(POD_GROUPS, g, "default")
            for name in ("inner", "root"):
                await world.client.delete(COMPOSITE_POD_GROUPS, name, "default")
            await world.settle(3)
            await apply(world, slice_group("a", 2, "inner"), slice_group("b", 2, "root"))
            await apply(world, *(member(f"{g}-{i}", g) for g in "ab" for i in range(2)))
            await world.settle(3)
            assert not any((await where(world)).values())
            await apply(world, composite("inner", 1, "root"), composite("root", 2))
        await world.settle(20)
        assert len(await bound_of(world, "a")) == 2
        assert len(await bound_of(world, "b")) == 2
        for name in ("inner", "root"):
            assert (await condition(world, COMPOSITE_POD_GROUPS, name))["status"] == "True"

    world_run(story)


def test_members_on_tainted_devices_are_evicted_and_replaced_elsewhere(world_run):
    async def story(world):
        await begin_jobs(world, *(node(f"n{i}", "2") for i in (1, 2)))
        await world.start(*devices.components(world.context))
        await world.create(DEVICE_CLASSES, device_class())
        for name in ("n1", "n2"):
            await world.create(RESOURCE_SLICES, slices(name, 1))
        template = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": "gpu"},
            "spec": {"spec": claim("x")["spec"]},
        }
        await world.create(RESOURCE_CLAIM_TEMPLATES, template)
        document = sized(indexed("train", 2, scheduling=GANG, backoffLimit=9))
        spec = document["spec"]["template"]["spec"]
        spec["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]
        await world.create(JOBS, document)
        await world.settle(5)
        before = await bound_pods(world)
        assert len(before) == 2
        rule = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceTaintRule",
            "metadata": {"name": "hot"},
            "spec": {
                "deviceSelector": {"pool": "n1"},
                "taint": {"key": "example.com/hot", "effect": "NoExecute"},
            },
        }
        await world.create(DEVICE_TAINT_RULES, rule)
        await world.settle(10)
        await world.finish_deletions()
        await world.settle(60)
        [staying] = await bound_pods(world)
        assert staying in before
        [waiting] = [p for p in await world.live_pods() if not p["spec"].get("nodeName")]
        name = waiting["metadata"]["name"]
        told = await condition(world, PODS, name, "PodScheduled")
        assert told["status"] == "False"
        await apply(world, node("n3", "1"))
        await world.create(RESOURCE_SLICES, slices("n3", 1))
        await world.settle(30)
        assert await bound_pods(world) == sorted([staying, name])

    world_run(story)
