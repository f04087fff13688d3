"""Pressure on nodes: conditions, taints, who is evicted, who is not taken, and how it ends."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import NODES, PODS
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.testing import run_real, run_virtual

MEMORY_TAINT = "node.kubernetes.io/memory-pressure"


def nodes(count=1, runtime="simulated", memory="4Gi", storage="10Gi", **kubelet):
    capacity = {"cpu": "8", "memory": memory, "pods": "50", "ephemeral-storage": storage}
    return ClusterFile([NodePool("node", count, runtime, capacity, kubelet=kubelet)])


def pod(name, *, requests=None, priority=None, node="node-0", limits=None, **annotations):
    container = {"name": "main", "image": "busybox", "resources": {"requests": requests or {}}}
    if limits:
        container["resources"]["limits"] = limits
    spec = {"nodeName": node, "containers": [container]}
    if priority:
        spec["priorityClassName"] = priority
    marks = {f"kubarium.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    metadata = {"name": name, "annotations": marks}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


async def failed(cluster, name, timeout_s=60.0):
    async def ask():
        status = (await cluster.get(PODS, name)).get("status", {})
        return status if status.get("phase") == "Failed" else None

    return await cluster.until(ask, timeout_s, f"{name} fails")


async def taints(cluster):
    found = (await cluster.get(NODES, "node-0"))["spec"].get("taints") or []
    return [(taint["key"], taint["effect"]) for taint in found]


CLASS = """
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 1000
"""


def test_memory_pressure_evicts_who_uses_more_than_requested_and_passes():
    async def story(cluster):
        await cluster.apply(CLASS)
        modest = {"memory": "2Gi"}
        await cluster.apply(pod("modest", requests=modest, memory_usage="1900Mi"))
        await cluster.apply(
            pod("dear", requests={"memory": "100Mi"}, priority="high", memory_usage="900Mi")
        )
        for name in ("modest", "dear"):
            await cluster.until_true(PODS, name, "Ready")
        await cluster.apply(
            pod("greedy", requests={"memory": "200Mi"}, memory_usage="1250Mi", run_duration="never")
        )
        status = await failed(cluster, "greedy")
        assert status["reason"] == "Evicted"
        assert status["message"] == (
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 46Mi. "
            "Container main was using 1250Mi, request is 200Mi, "
            "has larger consumption of memory. "
        )
        target = await cluster.condition(PODS, "greedy", "DisruptionTarget")
        assert (target["status"], target["reason"]) == ("True", "TerminationByKubelet")
        assert target["message"] == status["message"]
        pressure = await cluster.condition(NODES, "node-0", "MemoryPressure")
        assert (pressure["status"], pressure["reason"]) == ("True", "KubeletHasInsufficientMemory")
        assert pressure["message"] == "kubelet has insufficient memory available"

        async def tainted():
            return await taints(cluster) == [(MEMORY_TAINT, "NoSchedule")]

        await cluster.until(tainted, what="a taint")
        reasons = {event["reason"] for event in await cluster.events()}
        assert {"Evicted", "EvictionThresholdMet", "NodeHasInsufficientMemory"} <= reasons

        # Best effort is not taken under memory pressure, others are.
        await cluster.apply(pod("idle"))
        status = await failed(cluster, "idle")
        assert (status["reason"], status["message"]) == (
            "Evicted",
            "Pod was rejected: The node had condition: [MemoryPressure]. ",
        )
        await cluster.apply(pod("burstable", requests={"memory": "10Mi"}))
        await cluster.until_true(PODS, "burstable", "Ready")
        tolerant = pod("tolerant")
        tolerant["spec"]["tolerations"] = [{"key": MEMORY_TAINT, "operator": "Exists"}]
        await cluster.apply(tolerant)
        await cluster.until_true(PODS, "tolerant", "Ready")

        async def over():
            found = await cluster.condition(NODES, "node-0", "MemoryPressure")
            return found["status"] == "False"

        began = cluster.clock.now()
        await cluster.until(over, 400, "pressure is over")
        assert cluster.clock.now() - began > 200, "not before the transition period"
        await cluster.until_true(PODS, "modest", "Ready")
        for name in ("modest", "dear"):
            assert (await cluster.get(PODS, name))["status"]["phase"] == "Running"

        async def clean():
            return not await taints(cluster)

        await cluster.until(clean, what="no taint")

    run_virtual(story, file=nodes())


def test_disk_pressure_takes_no_pod_but_critical_ones():
    async def story(cluster):
        await cluster.apply(
            pod("writes", requests={"memory": "1Mi"}, ephemeral_storage_usage="9900Mi")
        )
        status = await failed(cluster, "writes")
        assert status["message"].startswith("The node was low on resource: ephemeral-storage. ")
        assert "Container main was using 9900Mi, request is 0" in status["message"]
        found = await cluster.condition(NODES, "node-0", "DiskPressure")
        assert (found["status"], found["reason"]) == ("True", "KubeletHasDiskPressure")
        await cluster.apply(pod("next", requests={"memory": "1Mi"}))
        status = await failed(cluster, "next")
        assert status["message"] == "Pod was rejected: The node had condition: [DiskPressure]. "
        system = pod("system", priority="system-node-critical")
        system["metadata"]["namespace"] = "kube-system"
        await cluster.apply(system)
        await cluster.until_true(PODS, "system", "Ready", "kube-system")

    run_virtual(story, file=nodes())


def test_too_many_processes():
    async def story(cluster):
        await cluster.apply(pod("forks", pids="32000", run_duration="never"))
        status = await failed(cluster, "forks")
        assert status["message"] == (
            "The node was low on resource: pids. Threshold quantity: 1k, available: 768. "
        )
        found = await cluster.condition(NODES, "node-0", "PIDPressure")
        assert (found["status"], found["reason"]) == ("True", "KubeletHasInsufficientPID")

    run_virtual(story, file=nodes(evictionHard={"pid.available": "1000"}))


def test_a_soft_threshold_gives_pods_time():
    async def story(cluster):
        await cluster.apply(pod("slow", memory_usage="3500Mi", run_duration="never"))
        await cluster.until_true(PODS, "slow", "Ready")
        began = cluster.clock.now()
        await cluster.until_true(NODES, "node-0", "MemoryPressure")
        assert (await cluster.get(PODS, "slow"))["status"]["phase"] == "Running"
        await failed(cluster, "slow", 200)
        assert cluster.clock.now() - began >= 90

    soft = {
        "evictionHard": {},
        "evictionSoft": {"memory.available": "1Gi"},
        "evictionSoftGracePeriod": {"memory.available": "90s"},
        "evictionMaxPodGracePeriod": 10,
    }
    run_virtual(story, file=nodes(**soft))


def test_limits_on_local_storage_hold_without_any_pressure():
    async def story(cluster):
        limits = {"ephemeral-storage": "1Gi"}
        await cluster.apply(
            pod("hoards", limits=limits, ephemeral_storage_usage="1100Mi", run_duration="never")
        )
        status = await failed(cluster, "hoards")
        assert (status["reason"], status["message"]) == (
            "Evicted",
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
        )
        assert not await cluster.condition(PODS, "hoards", "DisruptionTarget")

    run_virtual(story, file=nodes())


def test_a_deployment_replaces_what_was_evicted_elsewhere():
    deployment = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
      annotations: {kubarium.dev/memory-usage: 4050Mi}
    spec:
      containers: [{name: main, image: busybox}]
"""

    async def story(cluster):
        await cluster.apply(deployment)

        async def moved():
            pods = await cluster.pods(selector="app=web")
            return {p["spec"].get("nodeName") for p in pods} >= {"node-0", "node-1"}

        await cluster.until(moved, 120, "it was evicted and made anew on the other node")

    run_virtual(story, file=nodes(2))


# Measured ------------------------------------------------------------------------------------


def script(name, text, **spec):
    document = pod(name)
    container = document["spec"]["containers"][0]
    container["command"] = ["sh", "-c", text]
    container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    document["spec"] |= {"restartPolicy": "Never", "volumes": [{"name": "data", "emptyDir": {}}]}
    document["spec"] |= spec
    return document


async def still_well(cluster):
    ready = await cluster.condition(NODES, "node-0", "Ready")
    assert ready["status"] == "True"


@pytest.mark.timeout(90)
def test_scripts_that_fill_the_disk_are_evicted_and_the_node_stays_ready(tmp_path):
    async def story(cluster):
        fill = "i=0; while :; do head -c 4000000 /dev/zero > /data/$i; i=$((i+1)); sleep 0.05; done"
        volumes = [{"name": "data", "emptyDir": {"sizeLimit": "20Mi"}}]
        await cluster.apply(script("sized", fill, volumes=volumes))
        limited = script("limited", fill.replace("/data", "/var/tmp"))
        amounts = {"ephemeral-storage": "30Mi"}
        limited["spec"]["containers"][0]["resources"] = {"limits": amounts}
        await cluster.apply(limited)
        await cluster.apply(script("plain", "sleep 1000", terminationGracePeriodSeconds=0))
        status = await failed(cluster, "sized", 30)
        assert (status["reason"], status["message"]) == (
            "Evicted",
            'Usage of EmptyDir volume "data" exceeds the limit "20Mi". ',
        )
        status = await failed(cluster, "limited", 30)
        assert status["message"] == (
            "Pod ephemeral local storage usage exceeds the total limit of containers 30Mi. "
        )
        assert (await cluster.get(PODS, "plain"))["status"]["phase"] == "Running"
        await still_well(cluster)

        async def given_back():
            return not list((tmp_path / "nodes/pods").glob("*/volumes/data/*"))

        await cluster.until(given_back, what="the disk is free again")

    run_real(story, tmp_path, file=nodes(runtime="process"))


@pytest.mark.timeout(90)
def test_a_disk_that_fills_is_relieved(tmp_path):
    async def story(cluster):
        fill = (
            "i=0; while [ $i -lt 60 ]; do head -c 5000000 /dev/zero > /data/$i; i=$((i+1)); "
            "sleep 0.02; done; sleep 1000"
        )
        await cluster.apply(script("fills", fill))
        status = await failed(cluster, "fills", 30)
        assert status["message"].startswith("The node was low on resource: ephemeral-storage. ")
        assert (await cluster.condition(NODES, "node-0", "DiskPressure"))["status"] == "True"
        await still_well(cluster)

    file = nodes(runtime="process", storage="300Mi", evictionHard={"nodefs.available": "100Mi"})
    run_real(story, tmp_path, file=file)


@pytest.mark.timeout(90)
def test_memory_that_runs_out_is_measured(tmp_path):
    async def story(cluster):
        hog = "exec python3 -c 'import time; b = bytearray(150 << 20); time.sleep(1000)'"
        await cluster.apply(script("hog", hog))
        quiet = script("quiet", "sleep 1000", terminationGracePeriodSeconds=0)
        quiet["spec"]["containers"][0]["resources"] = {"requests": {"memory": "20Mi"}}
        await cluster.apply(quiet)
        status = await failed(cluster, "hog", 30)
        assert status["reason"] == "Evicted"
        assert "Container main was using 1" in status["message"]
        assert (await cluster.get(PODS, "quiet"))["status"]["phase"] == "Running"
        await still_well(cluster)

    run_real(story, tmp_path, file=nodes(runtime="process", memory="200Mi"))
