"""A deferred resize makes room for itself among pods of lower priority on its node (KEP-5836)."""

from __future__ import annotations

from kubarium.api.kinds import NODES, PODS
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.testing import run_real, run_virtual

CLASS = """
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {{name: {name}}}
value: {value}
preemptionPolicy: {policy}
"""
PATCH = "application/strategic-merge-patch+json"


def nodes(count=1, runtime="simulated", cpu="4"):
    capacity = {"cpu": cpu, "memory": "4Gi", "pods": "20"}
    return ClusterFile([NodePool("node", count, runtime, capacity)])


def pod(name, cpu, priority="", grace=0, command=None):
    amounts = {"cpu": cpu, "memory": "64Mi"}
    container = {
        "name": "main",
        "image": "busybox",
        "resources": {"requests": amounts, "limits": amounts},
    }
    if command:
        container["command"] = command
    spec = {"terminationGracePeriodSeconds": grace, "containers": [container]}
    if priority:
        spec["priorityClassName"] = priority
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


async def begin(cluster, *pods):
    for name, value, policy in (
        ("urgent", 100, "PreemptLowerPriority"),
        ("high", 50, "PreemptLowerPriority"),
        ("patient", 100, "Never"),
    ):
        await cluster.apply(CLASS.format(name=name, value=value, policy=policy))
    for document in pods:
        await cluster.apply(document)
    for document in pods:
        await cluster.until_true(PODS, document["metadata"]["name"], "Ready")


async def resize(cluster, name, cpu):
    amounts = {"cpu": cpu, "memory": "64Mi"}
    resources = {"requests": amounts, "limits": amounts}
    patch = {"spec": {"containers": [{"name": "main", "resources": resources}]}}
    await cluster.client.patch(PODS, name, patch, "default", subresource="resize", patch_type=PATCH)


async def granted(cluster, name, cpu, timeout_s=60.0):
    async def ask():
        found = await cluster.get(PODS, name)
        entry = found["status"]["containerStatuses"][0]
        return found if entry["resources"]["requests"]["cpu"] == cpu else None

    return await cluster.until(ask, timeout_s, f"{name} has {cpu}")


async def deferred(cluster, name):
    async def ask():
        found = await cluster.condition(PODS, name, "PodResizePending")
        return found.get("reason") == "Deferred"

    await cluster.until(ask, 60, f"{name} is deferred")


async def preempted(cluster):
    found = await cluster.events("Preempted")
    return sorted(event["involvedObject"]["name"] for event in found)


async def names(cluster):
    return sorted(p["metadata"]["name"] for p in await cluster.pods())


def test_a_simulated_pod_grows_in_place_without_anybody_going():
    async def story(cluster):
        await begin(cluster, pod("me", "1", "urgent"), pod("low", "1"))
        await resize(cluster, "me", "2")
        found = await granted(cluster, "me", "2")
        assert found["status"]["containerStatuses"][0]["restartCount"] == 0
        assert await preempted(cluster) == []
        assert len(await cluster.events("ResizeCompleted")) == 1

    run_virtual(story, file=nodes())


def test_a_deferred_resize_evicts_no_more_than_it_needs_and_is_then_granted():
    async def story(cluster):
        pods = [
            pod("me", "1", "urgent"),
            pod("mid", "1", "high"),
            pod("low-1", "1"),
            pod("low-2", "1"),
        ]
        await begin(cluster, *pods)
        await resize(cluster, "me", "2")
        found = await granted(cluster, "me", "2")
        assert len(await preempted(cluster)) == 1
        assert "mid" in await names(cluster)
        conditions = {c["type"]: c for c in found["status"]["conditions"]}
        assert conditions["PodScheduled"]["status"] == "True"
        assert "PodResizePending" not in conditions
        assert "nominatedNodeName" not in found["status"]
        await resize(cluster, "me", "4")
        await granted(cluster, "me", "4")
        assert await names(cluster) == ["me"]

    run_virtual(story, file=nodes())


def test_a_slow_victim_is_waited_for_and_its_room_is_not_given_to_a_new_pod():
    async def story(cluster):
        pods = [
            pod("me", "2", "urgent"),
            pod("low-1", "1", grace=120),
            pod("low-2", "1", grace=120),
        ]
        for document in pods[1:]:  # the deletion is held up, as by a long grace period
            document["metadata"]["finalizers"] = ["example.com/hold"]
        await begin(cluster, *pods)
        await resize(cluster, "me", "3")
        await deferred(cluster, "me")
        await cluster.apply(pod("sneaky", "1"))
        await cluster.clock.sleep(900)  # flushes and retries
        victims = await preempted(cluster)
        assert len(victims) == 1
        patch = {"metadata": {"finalizers": None}}
        await cluster.client.patch(PODS, victims[0], patch, "default")
        await granted(cluster, "me", "3")
        assert not (await cluster.get(PODS, "sneaky"))["spec"].get("nodeName")
        assert await preempted(cluster) == victims

    run_virtual(story, file=nodes())


def test_who_may_not_preempt_waits_and_says_why():
    async def story(cluster):
        await begin(cluster, pod("me", "2", "patient"), pod("low", "2"))
        await resize(cluster, "me", "3")
        await deferred(cluster, "me")
        await cluster.clock.sleep(30)
        assert await preempted(cluster) == []
        texts = [e["message"] for e in await cluster.events("FailedScheduling")]
        assert any(text.endswith("preemptionPolicy=Never.") for text in texts)
        await cluster.client.delete(PODS, "low", "default")
        await granted(cluster, "me", "3")

    run_virtual(story, file=nodes())


def test_a_node_can_forbid_it_and_allow_it_again():
    async def story(cluster):
        forbid = {"spec": {"podPreemptionPolicy": {"disableResizePreemption": ["example.com/us"]}}}
        await cluster.client.patch(NODES, "node-0", forbid)
        await begin(cluster, pod("me", "2", "urgent"), pod("low", "2"))
        await resize(cluster, "me", "3")
        await deferred(cluster, "me")
        await cluster.clock.sleep(30)
        assert await preempted(cluster) == []
        texts = [e["message"] for e in await cluster.events("FailedScheduling")]
        assert "0/1 nodes are available: 1 node had resize preemption disabled." in texts
        await cluster.client.patch(NODES, "node-0", {"spec": {"podPreemptionPolicy": None}})
        await granted(cluster, "me", "3")
        assert await preempted(cluster) == ["low"]

    run_virtual(story, file=nodes())


def test_two_deferred_resizes_are_both_granted_the_more_important_first():
    async def story(cluster):
        pods = [pod("first", "1", "urgent"), pod("second", "1", "high")]
        await begin(cluster, *pods, pod("low-1", "1"), pod("low-2", "1"))
        await resize(cluster, "second", "2")
        await resize(cluster, "first", "2")
        await granted(cluster, "first", "2")
        await granted(cluster, "second", "2")
        assert await preempted(cluster) == ["low-1", "low-2"]

    run_virtual(story, file=nodes())


def test_pods_on_other_nodes_are_left_alone():
    async def story(cluster):
        await begin(cluster, pod("me", "3", "urgent"), pod("elsewhere", "3"))
        mine = (await cluster.get(PODS, "me"))["spec"]["nodeName"]
        assert (await cluster.get(PODS, "elsewhere"))["spec"]["nodeName"] != mine
        low = pod("low", "1")
        low["spec"]["nodeName"] = mine
        await cluster.apply(low)
        await cluster.until_true(PODS, "low", "Ready")
        await resize(cluster, "me", "4")
        await granted(cluster, "me", "4")
        assert await names(cluster) == ["elsewhere", "me"]

    run_virtual(story, file=nodes(2))


def test_with_real_processes_the_victim_ends_and_the_limits_of_the_pod_rise(tmp_path):
    sleep = ["sh", "-c", "exec sleep 1000"]

    async def story(cluster):
        await begin(
            cluster,
            pod("me", "100m", "urgent", command=sleep),
            pod("low", "300m", command=sleep),
        )
        await resize(cluster, "me", "200m")
        found = await granted(cluster, "me", "200m")
        assert found["status"]["containerStatuses"][0]["restartCount"] == 0
        assert await preempted(cluster) == ["low"]
        assert await names(cluster) == ["me"]

    run_real(story, tmp_path, file=nodes(runtime="process", cpu="400m"))
