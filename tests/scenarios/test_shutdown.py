"""Graceful shutdown of nodes: who ends when, what is said, and how the node comes back."""

from __future__ import annotations

import os
import signal

import pytest

from kubarium.api.kinds import NODES, PODS
from kubarium.base.clock import parse_rfc3339
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.node.kubelet_config import ShutdownGroup
from kubarium.node.shutdown import group_of
from kubarium.testing import run_virtual
from kubarium.view.shutdown import ANNOTATION
from tests.scenarios.conftest import RawClient, cluster_of
from tests.scenarios.test_crash import MARKER, agents, marked_processes, running, status, until

MESSAGE = "Pod was terminated in response to imminent node shutdown."
BY_PRIORITY = [
    {"priority": 0, "shutdownGracePeriodSeconds": 20},
    {"priority": 1000, "shutdownGracePeriodSeconds": 10},
]


def test_a_pod_belongs_to_the_highest_group_that_is_not_above_it():
    groups = [ShutdownGroup(0, 1), ShutdownGroup(100, 2), ShutdownGroup(1000, 3)]
    found = [group_of(groups, priority) for priority in (-5, 0, 99, 100, 101, 999, 1000, 2**31)]
    assert found == [0, 0, 0, 1, 1, 1, 2, 2]


def nodes(count=2, **kubelet):
    return ClusterFile([NodePool("node", count, "simulated", kubelet=kubelet)])


def pod(name, node="node-0", priority="", **spec):
    spec |= {"nodeName": node, "containers": [{"name": "main", "image": "busybox"}]}
    if priority:
        spec["priorityClassName"] = priority
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


async def order(cluster, value):
    await cluster.client.patch(NODES, "node-0", {"metadata": {"annotations": {ANNOTATION: value}}})


def test_pods_end_by_priority_the_node_is_silent_and_comes_back():
    classes = """
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: high}
value: 5000
"""

    async def story(cluster):
        await cluster.apply(classes)
        for document in (pod("low"), pod("high", priority="high"), pod("else", "node-1")):
            await cluster.apply(document)
        for name in ("low", "high", "else"):
            await cluster.until_true(PODS, name, "Ready")
        await order(cluster, "configured")

        async def ended(name):
            found = (await cluster.get(PODS, name))["status"]
            return found if found["phase"] == "Failed" else None

        found = await cluster.until(lambda: ended("high"), what="high ends")
        assert (found["reason"], found["message"]) == ("Terminated", MESSAGE)
        target = await cluster.condition(PODS, "high", "DisruptionTarget")
        assert (target["reason"], target["message"]) == ("TerminationByKubelet", MESSAGE)
        first = (await ended("low"))["containerStatuses"][0]["state"]["terminated"]
        last = found["containerStatuses"][0]["state"]["terminated"]
        assert parse_rfc3339(first["finishedAt"]) <= parse_rfc3339(last["finishedAt"])
        ready = await cluster.condition(NODES, "node-0", "Ready")
        assert (ready["status"], ready["reason"], ready["message"]) == (
            "False",
            "KubeletNotReady",
            "node is shutting down",
        )
        assert (await cluster.get(PODS, "else"))["status"]["phase"] == "Running"

        async def unknown():
            return (await cluster.condition(NODES, "node-0", "Ready"))["status"] == "Unknown"

        await cluster.until(unknown, 120, "it is silent")
        await cluster.apply(pod("waits", tolerations=[{"operator": "Exists"}]))
        await cluster.clock.sleep(5)
        assert "startTime" not in (await cluster.get(PODS, "waits"))["status"], "nobody is there"
        await order(cluster, None)
        await cluster.until_true(NODES, "node-0", "Ready")
        await cluster.until_true(PODS, "waits", "Ready")
        reasons = [event["message"] for event in await cluster.events("NodeShutdown")]
        assert "Shutdown manager detected shutdown event" in reasons

    run_virtual(story, file=nodes(shutdownGracePeriodByPodPriority=BY_PRIORITY))


def test_nothing_is_taken_while_pods_end():
    async def story(cluster):
        await cluster.apply(pod("slow"))
        await cluster.until_true(PODS, "slow", "Ready")
        runner = cluster.embedded.agents[0]._runner
        actor = next(iter(runner.actors.values()))
        actor._do_SignalContainer = lambda wanted: None  # it does not heed any signal
        await order(cluster, "30s")

        async def shutting():
            return (await cluster.condition(NODES, "node-0", "Ready"))["status"] == "False"

        await cluster.until(shutting, what="it shuts down")
        await cluster.apply(pod("late", tolerations=[{"operator": "Exists"}]))

        async def refused():
            found = (await cluster.get(PODS, "late")).get("status", {})
            return found if found.get("phase") == "Failed" else None

        found = await cluster.until(refused, what="late is refused")
        assert (found["reason"], found["message"]) == (
            "NodeShutdown",
            "Pod was rejected: Pod was rejected as the node is shutting down.",
        )
        await order(cluster, None)
        await cluster.until_true(NODES, "node-0", "Ready")
        reasons = [event["message"] for event in await cluster.events("NodeShutdown")]
        assert "Shutdown manager detected shutdown cancellation" in reasons

    run_virtual(story, file=nodes())


# With processes --------------------------------------------------------------------------------

FILE = """
apiVersion: kubarium.dev/v1alpha1
kind: Cluster
spec:
  nodePools:
  - name: node
    count: 2
    kubelet: {shutdownGracePeriod: 8s, shutdownGracePeriodCriticalPods: 2s}
"""


@pytest.fixture
def cluster(tmp_path):
    with cluster_of(tmp_path, FILE) as started:
        yield started


def trapping(name, seconds, node="node-0"):
    text = f"trap 'sleep {seconds}; echo saved; exit 0' TERM; while :; do sleep 0.05; done"
    container = {"name": "c", "image": "busybox", "command": ["sh", "-c", f"{text} # {MARKER}"]}
    document = pod(name, node, restartPolicy="Always", terminationGracePeriodSeconds=30)
    document["spec"]["containers"] = [container]
    return document


def two_that_trap(api):
    """``saves`` ends within its time, ``late`` does not; both run."""
    for document in (trapping("saves", 1), trapping("late", 60, "node-1")):
        assert api("POST", "/api/v1/namespaces/default/pods", document).code == 201
    for name in ("saves", "late"):
        until(lambda name=name: running(api, name), f"{name} runs")


@pytest.mark.timeout(120)
def test_a_command_shuts_a_node_down_and_switches_it_on(cluster):
    api = RawClient(cluster.kubeconfig)
    assert api("POST", "/api/v1/namespaces/default/pods", trapping("saves", 1)).code == 201
    until(lambda: running(api, "saves"), "it runs")
    said = cluster.kubarium("node", "shutdown", "node-0").stdout
    assert "pod default/saves has ended" in said
    found = status(api, "saves")
    assert (found["phase"], found["reason"]) == ("Failed", "Terminated")
    assert found["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    assert api("GET", "/api/v1/namespaces/default/pods/saves/log").body.endswith("saved\n")
    assert "is ready" in cluster.kubarium("node", "start", "node-0").stdout
    wrong = cluster.kubarium("node", "shutdown", "nowhere", check=False)
    assert "no node 'nowhere'; there are node-0, node-1" in wrong.stderr
    wrong = cluster.kubarium("node", "shutdown", "node-0", "--grace", "soon", check=False)
    assert "write a duration" in wrong.stderr


@pytest.mark.timeout(120)
def test_sigterm_of_the_agent_is_a_shutdown_where_it_is_configured(cluster):
    api = RawClient(cluster.kubeconfig)
    two_that_trap(api)
    [agent] = agents(cluster)
    os.kill(agent.pid, signal.SIGTERM)
    until(lambda: [a for a in agents(cluster) if a.pid != agent.pid], "a new agent", 30)
    assert not marked_processes()
    exits = {}
    for name in ("saves", "late"):
        found = status(api, name)
        assert (found["phase"], found["reason"], found["message"]) == (
            "Failed",
            "Terminated",
            MESSAGE,
        )
        exits[name] = found["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    assert exits == {"saves": 0, "late": 137}, "six seconds, not thirty"
    for name in ("node-0", "node-1"):
        path = f"/api/v1/nodes/{name}"

        def ready(path=path):
            conditions = api("GET", path).body["status"]["conditions"]
            return next(c["status"] for c in conditions if c["type"] == "Ready") == "True"

        until(ready, f"{name} is ready again")


@pytest.mark.timeout(120)
def test_down_is_a_shutdown_where_it_is_configured_and_says_who_has_ended(cluster):
    api = RawClient(cluster.kubeconfig)
    two_that_trap(api)
    said = cluster.kubarium("down").stdout
    assert "nodes shut down, pods have up to 10 s; without that: kubarium down --now" in said
    assert "  pod default/saves has ended\n  pod default/late has ended" in said
    assert "kubarium is down" in said
    assert not marked_processes()
    cluster.kubarium("up", "--detach", "-f", str(cluster.home / "cluster.yaml"))
    api = RawClient(cluster.kubeconfig)
    exits = {}
    for name in ("saves", "late"):
        found = status(api, name)
        assert (found["phase"], found["reason"]) == ("Failed", "Terminated")
        exits[name] = found["containerStatuses"][0]["state"]["terminated"]["exitCode"]
    assert exits == {"saves": 0, "late": 137}
    assert api("POST", "/api/v1/namespaces/default/pods", trapping("next", 1)).code == 201
    until(lambda: running(api, "next"), "the nodes are on again")


@pytest.mark.timeout(120)
def test_down_now_leaves_pods_no_time(cluster):
    api = RawClient(cluster.kubeconfig)
    path = "/api/v1/namespaces/default/pods"
    assert api("POST", path, trapping("saves", 60)).code == 201
    until(lambda: running(api, "saves"), "it runs")
    said = cluster.kubarium("down", "--now").stdout
    assert said == "kubarium is down\n"
    assert not marked_processes()
    cluster.kubarium("up", "--detach", "-f", str(cluster.home / "cluster.yaml"))
    api = RawClient(cluster.kubeconfig)
    until(lambda: running(api, "saves"), "it was not ended for good, and runs again")
    assert "reason" not in status(api, "saves")
