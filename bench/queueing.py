"""Workloads admitted a second: the engine alone, and Jobs through the whole control plane.

The shape is that of Kueue's own scalability test: cohorts of equal queues, each with a quota that
admits everything in the end. Kueue's published baseline admits some 40 workloads a second.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from kubarium.api.kinds import CLUSTER_QUEUES, JOBS, LOCAL_QUEUES, RESOURCE_FLAVORS, WORKLOADS
from kubarium.base.chance import Chance
from kubarium.cluster.clock import RealClock
from kubarium.cluster.embedded import EmbeddedCluster
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.engine.queueing.clusterqueue import ClusterQueue, ResourceGroup
from kubarium.engine.queueing.cycle import plan_cycle
from kubarium.engine.queueing.flavor import Flavor
from kubarium.engine.queueing.quota import NodeSpec, Quota, QuotaTree
from kubarium.engine.queueing.snapshot import Snapshot
from kubarium.engine.queueing.workload import PodSet, Workload, shape_of

COHORTS, QUEUES_PER_COHORT = 5, 6
CPU = ("default", "cpu")
KUEUE = "kueue.x-k8s.io/v1beta2"


def bench_queueing(report: Any) -> None:
    """Three repetitions of the engine, one of the control plane."""
    for count in (3000, 15000):
        rates = [admit(count) for _ in range(3)]
        report.add("queueing", f"{count:,} workloads, 30 queues, engine alone", rates, "/s")
    rate = asyncio.run(jobs_through_the_api(300))
    report.add("queueing", "300 Jobs created, admitted and started through the API", [rate], "/s")


def admit(count: int) -> float:
    """Workloads a second that one plan admits, everything fitting."""
    nodes, rules = [], {}
    per_queue = count // (COHORTS * QUEUES_PER_COHORT)
    for cohort in range(COHORTS):
        for index in range(QUEUES_PER_COHORT):
            name = f"queue-{cohort}-{index}"
            nodes.append(NodeSpec(name, f"cohort-{cohort}", {CPU: Quota(per_queue, None, None)}))
            rules[name] = ClusterQueue(name, (ResourceGroup(("cpu",), ("default",)),))
    snapshot = Snapshot(
        flavors={"default": Flavor("default")},
        queues=rules,
        tree=QuotaTree.build(nodes, ()),
    )
    for number in range(count):
        queue = list(rules)[number % len(rules)]
        made = Workload(
            "ns", f"w-{number}", queue, (PodSet("main", 1, (("cpu", 1),), None),), uid=str(number)
        )
        snapshot.wait(replace(made, shape=shape_of(made)))
    began = time.perf_counter()
    plan = plan_cycle(snapshot, 1000.0)
    spent = time.perf_counter() - began
    assert len(plan.admissions) == count
    return count / spent


async def jobs_through_the_api(count: int) -> float:
    """Jobs a second from creation until each one's Workload is admitted and the Job unsuspended."""
    pool = NodePool("node", 10, "simulated", {"cpu": "64", "memory": "256Gi", "pods": "110"})
    cluster = EmbeddedCluster(ClusterFile([pool]), RealClock(), Chance(1))
    async with cluster.running():
        client = cluster.client
        await client.create(RESOURCE_FLAVORS, _object(KUEUE, "ResourceFlavor", "default"))
        quota = {"name": "cpu", "nominalQuota": str(count)}
        groups = [
            {
                "coveredResources": ["cpu"],
                "flavors": [{"name": "default", "resources": [quota]}],
            }
        ]
        spec = {"namespaceSelector": {}, "resourceGroups": groups}
        await client.create(CLUSTER_QUEUES, _object(KUEUE, "ClusterQueue", "all", spec))
        local = _object(KUEUE, "LocalQueue", "all", {"clusterQueue": "all"})
        await client.create(LOCAL_QUEUES, local, "default")
        began = time.perf_counter()
        for number in range(count):
            await client.create(JOBS, _job(number), "default")
            if number % 20 == 19:
                await asyncio.sleep(0)
        while True:
            jobs = (await client.list(JOBS, "default")).items
            if not any(job["spec"].get("suspend") for job in jobs):
                break
            await asyncio.sleep(0.05)
        spent = time.perf_counter() - began
        assert len((await client.list(WORKLOADS, "default")).items) == count
    return count / spent


def _object(
    version: str, kind: str, name: str, spec: dict[str, Any] | None = None
) -> dict[str, Any]:
    document: dict[str, Any] = {"apiVersion": version, "kind": kind, "metadata": {"name": name}}
    if spec is not None:
        document["spec"] = spec
    return document


def _job(number: int) -> dict[str, Any]:
    container = {"name": "c", "image": "busybox", "resources": {"requests": {"cpu": "1"}}}
    pod = {
        "metadata": {"annotations": {"kubarium.dev/run-duration": "600s"}},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }
    job = _object("batch/v1", "Job", f"job-{number}", {"template": pod})
    job["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "all"}
    return job
