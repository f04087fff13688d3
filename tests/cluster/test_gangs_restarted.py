"""A whole cluster that stops while a gang evicts others and starts, and is started again."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import JOBS, POD_GROUPS, PODS, RESOURCE_CLAIMS
from kubarium.base.chance import Chance
from kubarium.cluster.embedded import EmbeddedCluster
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.runtime.virtual import VirtualClock, run
from kubarium.store import MemoryStore
from kubarium.testing.cluster import TestCluster

GPU = "gpu.example.com"
CAPACITY = {"cpu": "4", "memory": "16Gi", "pods": "20"}

MANIFESTS = f"""
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {{name: urgent}}
value: 9
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {{name: gpu}}
spec:
  spec:
    devices:
      requests: [{{name: gpu, exactly: {{deviceClassName: {GPU}}}}}]
"""

JOB = """
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  parallelism: {count}
  completions: {count}
  completionMode: Indexed
  {scheduling}
  template:
    spec:
      restartPolicy: Never
      priorityClassName: {priority}
      terminationGracePeriodSeconds: 1
      containers:
        - name: main
          image: busybox
          command: [sleep, "100000"]
          resources:
            requests: {{cpu: "3"}}
            claims: [{{name: gpu}}]
      resourceClaims: [{{name: gpu, resourceClaimTemplateName: gpu}}]
"""

GANG = "scheduling: {schedulingPolicy: {gang: {}}, disruptionMode: {all: {}}}"


class Kept(MemoryStore):
    """What outlives the cluster."""

    def close(self):
        """It stays open for the next."""


def job(name, count, priority="", scheduling=""):
    return JOB.format(name=name, count=count, priority=priority or '""', scheduling=scheduling)


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.05, 0.1, 0.3, 1.0, 1.5, 2.5, 4.0])
def test_a_gang_starts_whole_whenever_its_cluster_stopped(after_s):
    async def story():
        clock, store = VirtualClock(), Kept()
        devices = [{"profile": GPU, "count": 1}]
        file = ClusterFile([NodePool("node", 3, "simulated", CAPACITY, devices=devices)])

        async with EmbeddedCluster(file, clock, Chance(1), store).running() as embedded:
            cluster = TestCluster(embedded)
            await cluster.apply(MANIFESTS)
            await cluster.apply(job("low", 3))
            await cluster.until(lambda: running(cluster, "low", 3))
            await cluster.apply(job("train", 2, "urgent", GANG))
            await clock.sleep(after_s)
        async with EmbeddedCluster(file, clock, Chance(2), store).running() as embedded:
            cluster = TestCluster(embedded)
            await cluster.until(lambda: running(cluster, "train", 2), 240)
            await clock.sleep(60)
            assert await running(cluster, "train", 2)
            assert await running(cluster, "low", 1), "no more were evicted than had to go"
            await nothing_leaks(cluster)
            [group] = (await cluster.client.list(POD_GROUPS, "default")).items
            told = await cluster.condition(
                POD_GROUPS, group["metadata"]["name"], "PodGroupInitiallyScheduled"
            )
            assert told["status"] == "True"
            policy = "Background"
            await cluster.client.delete(JOBS, "train", "default", propagation_policy=policy)
            await cluster.until(lambda: running(cluster, "low", 3), 900)

    run(story(), 0)


async def running(cluster, name, count):
    pods = await cluster.pods(selector=f"job-name={name}")
    return sum(p["status"].get("phase") == "Running" for p in pods) == count


async def nothing_leaks(cluster):
    """Devices belong to pods that have a node, and no room is promised to pods that have one."""
    pods = (await cluster.client.list(PODS, "default")).items
    with_node = {p["metadata"]["uid"] for p in pods if p["spec"].get("nodeName")}
    for claim in (await cluster.client.list(RESOURCE_CLAIMS, "default")).items:
        status = claim.get("status") or {}
        users = {entry["uid"] for entry in status.get("reservedFor") or ()}
        if status.get("allocation"):
            assert users, claim["metadata"]["name"]
            assert users <= with_node, claim["metadata"]["name"]
    assert not [p for p in pods if p["status"].get("nominatedNodeName")]
