"""Faults against the whole control plane on a virtual clock: each action, its cure, its end."""

import pytest

from kubarium.api.kinds import FAULTS, JOBS, NODES
from kubarium.testing import run_virtual
from kubarium.view.faults import orders_of

JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: work}
spec:
  parallelism: 4
  completions: 4
  completionMode: Indexed
  backoffLimit: 20
  template:
    metadata:
      annotations: {kubarium.dev/run-duration: never}
    spec:
      restartPolicy: Never
      tolerations:
        - key: node.kubernetes.io/unreachable
          operator: Exists
          effect: NoExecute
          tolerationSeconds: 30
        - key: node.kubernetes.io/not-ready
          operator: Exists
          effect: NoExecute
          tolerationSeconds: 30
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: DoNotSchedule
          labelSelector: {matchLabels: {job-name: work}}
      containers: [{name: main, image: busybox}]
"""


def fault(name, **spec):
    return {
        "apiVersion": "kubarium.dev/v1alpha1",
        "kind": "Fault",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


async def running(cluster, count=4, timeout_s=200):
    async def ask():
        pods = [p for p in await cluster.pods() if p["status"].get("phase") == "Running"]
        found = [p for p in pods if "deletionTimestamp" not in p["metadata"]]
        return found if len(found) == count else None

    return await cluster.until(ask, timeout_s, f"{count} pods run")


def ready(node):
    conditions = {c["type"]: c["status"] for c in node["status"]["conditions"]}
    return conditions["Ready"]


@pytest.mark.parametrize("action", ["DisconnectNode", "LoseNode"])
def test_a_node_that_is_away_is_tainted_evicted_and_comes_back(action):
    async def story(cluster):
        await cluster.apply(JOB)
        before = {p["metadata"]["uid"]: p for p in await running(cluster)}
        nodes = sorted({p["spec"]["nodeName"] for p in before.values()})
        victim = nodes[0]
        selector = {"matchLabels": {"kubernetes.io/hostname": victim}}
        await cluster.apply(fault("f", action=action, selector=selector, durationSeconds=300))

        async def unknown():
            node = await cluster.get(NODES, victim)
            keys = {t["key"] for t in node["spec"].get("taints") or ()}
            return ready(node) == "Unknown" and "node.kubernetes.io/unreachable" in keys

        began = cluster.clock.now()
        await cluster.until(unknown, 90, "the node is unreachable")
        assert 30 < cluster.clock.now() - began < 60

        async def evicted():
            mine = [p for p in await cluster.pods() if p["spec"].get("nodeName") == victim]
            return mine and all("deletionTimestamp" in p["metadata"] for p in mine)

        await cluster.until(evicted, 60, "its pods are evicted")
        # Nobody there hears of it: they stay, as they do on a machine without power.
        await cluster.clock.sleep(60)
        stuck = [p for p in await cluster.pods() if p["spec"].get("nodeName") == victim]
        assert {p["metadata"]["uid"] for p in stuck} == {
            uid for uid, p in before.items() if p["spec"]["nodeName"] == victim
        }

        async def back():
            node = await cluster.get(NODES, victim)
            left = [p for p in await cluster.pods() if p["metadata"]["uid"] in before]
            return ready(node) == "True" and all(p["spec"]["nodeName"] != victim for p in left)

        await cluster.until(back, 250, "the node is back, and rid of what was evicted")
        assert not (await cluster.get(NODES, victim))["spec"].get("taints")
        assert orders_of(await cluster.get(NODES, victim)) == []
        await running(cluster)
        assert (await cluster.get(FAULTS, "f"))["status"]["phase"] == "Completed"

    run_virtual(story, nodes=2)


def test_a_short_disconnection_costs_no_pod_and_nothing_said_meanwhile_is_lost():
    async def story(cluster):
        await cluster.apply(JOB)
        before = {p["metadata"]["uid"] for p in await running(cluster)}
        await cluster.apply(fault("f", action="DisconnectNode", mode="All", durationSeconds=20))
        await cluster.clock.sleep(5)
        await cluster.apply(JOB.replace("name: work", "name: later"))
        await cluster.clock.sleep(10)
        assert {p["status"]["phase"] for p in await cluster.pods("default", "job-name=later")} == {
            "Pending"
        }
        assert len(await running(cluster, 8)) == 8
        assert before <= {p["metadata"]["uid"] for p in await cluster.pods()}

    run_virtual(story, nodes=2)


def test_a_lost_node_that_is_back_soon_has_lost_what_ran_on_it():
    async def story(cluster):
        await cluster.apply(JOB)
        before = {p["metadata"]["uid"] for p in await running(cluster)}
        await cluster.apply(fault("f", action="LoseNode", mode="All", durationSeconds=10))
        await cluster.clock.sleep(15)
        after = {p["metadata"]["uid"] for p in await running(cluster)}
        assert not before & after
        status = (await cluster.get(JOBS, "work"))["status"]
        assert status["failed"] == 4

    run_virtual(story, nodes=2)


def test_simulated_pods_are_killed_and_run_out_of_memory_by_mtbf():
    async def story(cluster):
        await cluster.apply(JOB)
        await running(cluster)
        schedule = {"meanSecondsBetween": 30, "seed": 1, "times": 4}
        await cluster.apply(fault("k", action="Kill", schedule=schedule))
        await cluster.apply(fault("m", action="OutOfMemory", schedule=schedule | {"seed": 2}))

        async def over():
            found = [(await cluster.get(FAULTS, n)).get("status", {}) for n in ("k", "m")]
            return all(s.get("phase") == "Completed" for s in found)

        await cluster.until(over, 900, "all injections")
        await running(cluster, timeout_s=700)  # a Job's back-off grows to ten minutes
        failed = [p for p in await cluster.pods() if p["status"]["phase"] == "Failed"]
        ends = [p["status"]["containerStatuses"][0]["state"]["terminated"] for p in failed]
        assert sorted(e["reason"] for e in ends) == ["Error"] * 4 + ["OOMKilled"] * 4
        assert {e["exitCode"] for e in ends} == {137}
        return sorted(p["metadata"]["name"] for p in failed)

    assert run_virtual(story, nodes=2) == run_virtual(story, nodes=2)
