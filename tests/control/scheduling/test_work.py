"""How much work a pod is: counted, not timed, so that a step that comes back is noticed."""

from __future__ import annotations

from collections import Counter

import pytest

from kubarium.api.kinds import (
    EVENTS,
    POD_GROUPS,
    PODS,
    PRIORITY_CLASSES,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
)
from kubarium.api.validation import pods as pod_rules
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.engine.placement import cycle as engine_cycle
from kubarium.testing.cluster import run_virtual

GPU = "gpu.example.com"
PODS_MADE = 60


def cluster(gpus=0):
    capacity = {"cpu": "32", "memory": "64Gi", "pods": "110"}
    devices = [{"profile": GPU, "count": gpus}] if gpus else []
    return ClusterFile([NodePool("node", 4, "simulated", capacity, devices=devices)])


def pod(**spec):
    container = {
        "name": "main",
        "image": "busybox",
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "pod-", "labels": {"app": "work"}},
        "spec": {"containers": [container], **spec},
    }


async def all_running(cluster):
    found = await cluster.pods()
    return len(found) == PODS_MADE and all(p["status"]["phase"] == "Running" for p in found)


def writes_of(cluster, after):
    """Writes by resource since a revision."""
    counts: Counter[str] = Counter()
    subscription = cluster.embedded.store.watch(
        "/", after, lambda change: counts.update([change.key.split("/")[2]])
    )
    subscription.close()
    return counts


@pytest.fixture
def calls(monkeypatch):
    """Counts calls of functions that are replaced by ``count``."""
    counts: Counter[str] = Counter()

    def count(module, name):
        original = getattr(module, name)

        def counted(*args, **kwargs):
            counts[name] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)

    counts.count = count
    return counts


def test_a_pod_is_three_writes_and_one_event(calls):
    calls.count(pod_rules, "check_pod_spec")
    calls.count(engine_cycle, "_decide")

    async def story(cluster):
        before, specs = cluster.embedded.store.revision, calls["check_pod_spec"]
        for _ in range(PODS_MADE):
            await cluster.client.create(PODS, pod(), "default")
        waiting = await cluster.pods()
        await cluster.until(lambda: all_running(cluster))
        writes = writes_of(cluster, before)
        # Created, bound, reported as running.
        assert writes["pods"] == 3 * PODS_MADE
        assert writes["events"] == len((await cluster.client.list(EVENTS, "default")).items)
        assert writes["events"] == PODS_MADE
        # One spec, checked once, decided in few cycles.
        assert calls["check_pod_spec"] - specs <= 1
        assert calls["_decide"] <= PODS_MADE
        # Those of one template share their specs, before and after they are bound.
        assert len({id(p["spec"]) for p in waiting if "nodeName" not in p["spec"]}) == 1
        bound = await cluster.pods()
        assert len({id(p["spec"]["containers"]) for p in bound}) == 1

    run_virtual(story, file=cluster())


def test_a_pod_with_a_claim_from_a_template_is_six_writes_and_one_event():
    request = {"name": "gpu", "exactly": {"deviceClassName": GPU}}
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "gpu"},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }
    claims = [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]

    async def story(cluster):
        await cluster.client.create(RESOURCE_CLAIM_TEMPLATES, template, "default")
        before = cluster.embedded.store.revision
        for _ in range(PODS_MADE):
            await cluster.client.create(PODS, pod(resourceClaims=claims), "default")
        await cluster.until(lambda: all_running(cluster))
        writes = writes_of(cluster, before)
        # Created, told the claim's name, bound, reported as running.
        assert writes["pods"] == 4 * PODS_MADE
        # Created with the finalizer, allocated and reserved.
        assert writes["resourceclaims"] == 2 * PODS_MADE
        assert writes["events"] == PODS_MADE
        made = (await cluster.client.list(RESOURCE_CLAIMS, "default")).items
        assert len({id(claim["spec"]) for claim in made}) == 1

    run_virtual(story, file=cluster(gpus=16))


def test_a_gang_is_decided_once(calls):
    calls.count(engine_cycle, "_decide")
    group = {
        "apiVersion": "scheduling.k8s.io/v1beta1",
        "kind": "PodGroup",
        "metadata": {"name": "gang"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": PODS_MADE}}},
    }

    async def story(cluster):
        await cluster.client.create(POD_GROUPS, group, "default")
        before = cluster.embedded.store.revision
        for _ in range(PODS_MADE):
            member = pod(schedulingGroup={"podGroupName": "gang"})
            await cluster.client.create(PODS, member, "default")
        await cluster.until(lambda: all_running(cluster))
        assert calls["_decide"] == 1
        assert writes_of(cluster, before)["pods"] == 3 * PODS_MADE

    run_virtual(story, file=cluster())


def test_a_pod_that_evicts_others_is_decided_twice(calls):
    calls.count(engine_cycle, "_decide")
    urgent = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "urgent"},
        "value": 1000,
    }
    preemptors = 12

    def with_cpu(cpu, **spec):
        document = pod(**spec)
        document["spec"]["containers"][0]["resources"]["requests"]["cpu"] = cpu
        return document

    async def story(cluster):
        await cluster.client.create(PRIORITY_CLASSES, urgent, "")
        for _ in range(PODS_MADE):  # fifteen on each of four nodes
            await cluster.client.create(PODS, with_cpu("2"), "default")
        await cluster.until(lambda: all_running(cluster))
        before = calls["_decide"]
        for _ in range(preemptors):
            high = with_cpu("8", priorityClassName="urgent")
            await cluster.client.create(PODS, high, "default")

        async def placed():
            found = await cluster.pods()
            high = [p for p in found if p["spec"]["priority"] == 1000]
            return all(p["status"]["phase"] == "Running" for p in high)

        await cluster.until(placed)
        # Once to choose who goes, once when they are gone; those of them that fit into what the
        # cluster had left need no second look.
        assert calls["_decide"] - before <= 2 * preemptors

    run_virtual(story, file=cluster())
