"""The whole control plane on a virtual clock: deterministic, and hours pass in no time."""

import time

import pytest
import yaml

from kubarium.api.kinds import JOB_SETS, JOBS, NODES, PODS, RESOURCE_CLAIMS, WORKLOADS
from kubarium.cluster.file import ClusterFile, NodePool, read_cluster_file
from kubarium.testing import run_virtual
from tests.conftest import ROOT

EXAMPLES = ROOT / "examples"

GANG = """
apiVersion: scheduling.k8s.io/v1beta1
kind: PodGroup
metadata: {name: gang}
spec:
  schedulingPolicy: {gang: {minCount: 3}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: gpu}
spec:
  spec:
    devices:
      requests:
        - name: gpu
          exactly: {deviceClassName: gpu.example.com}
---
apiVersion: batch/v1
kind: Job
metadata: {name: gang}
spec:
  parallelism: 3
  completions: 3
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      schedulingGroup: {podGroupName: gang}
      resourceClaims: [{name: gpu, resourceClaimTemplateName: gpu}]
      containers:
        - name: work
          image: busybox
          resources: {claims: [{name: gpu}]}
"""


def example(name: str) -> str:
    return (EXAMPLES / name).read_text()


def lasting(manifest: str, seconds: int) -> str:
    """The same manifest whose simulated pods take ``seconds``."""
    documents = list(yaml.safe_load_all(manifest))
    for document in documents:
        template = document.get("spec", {}).get("template")
        if template:
            annotations = template.setdefault("metadata", {}).setdefault("annotations", {})
            annotations[DURATION] = f"{seconds}s"
    return yaml.safe_dump_all(documents)


DURATION = "kubarium.dev/run-duration"
FAILS = "kubarium.dev/exit-code"


def gpus(*counts: int) -> ClusterFile:
    """A simulated node for each count, with so many devices."""
    devices = [[{"profile": "gpu.example.com", "count": count}] for count in counts]
    pools = [
        NodePool(f"node-{index}", 1, "simulated", devices=given, exact_name=True)
        for index, given in enumerate(devices)
    ]
    return ClusterFile(pools)


async def admitted(cluster) -> list[str]:
    found = (await cluster.client.list(WORKLOADS, "default")).items
    return sorted(
        workload["metadata"]["ownerReferences"][0]["name"]
        for workload in found
        if any(
            c["type"] == "Admitted" and c["status"] == "True"
            for c in workload.get("status", {}).get("conditions", [])
        )
    )


async def all_at_once(cluster) -> str:
    """Jobs, a failing JobSet, queues with preemption and a gang with devices, together."""
    await cluster.apply(example("queues/queues.yaml"))
    await cluster.apply(lasting(example("queues/jobs.yaml"), 30))
    await cluster.apply(example("jobset/fails-once.yaml"))
    await cluster.apply(GANG)
    await cluster.clock.sleep(5)
    await cluster.apply(lasting(example("queues/urgent.yaml"), 10))
    await cluster.until_true(JOBS, "gang", "Complete", timeout_s=600)
    for name in ("first", "second", "third", "urgent"):
        await cluster.until_true(JOBS, name, "Complete", timeout_s=600)
    await cluster.clock.sleep(60)
    return cluster.history_hash()


def test_the_same_seed_gives_the_same_history():
    first = run_virtual(all_at_once, seed=1, file=gpus(2, 2))
    assert run_virtual(all_at_once, seed=1, file=gpus(2, 2)) == first
    assert run_virtual(all_at_once, seed=2, file=gpus(2, 2)) != first


def test_lab_01_queues_admit_by_quota_and_priority_preempts():
    async def story(cluster):
        await cluster.apply(example("queues/queues.yaml"))
        await cluster.apply(lasting(example("queues/jobs.yaml"), 30))
        await cluster.until(lambda: admitted(cluster), 10)
        await cluster.clock.sleep(2)
        assert await admitted(cluster) == ["first", "second"]
        assert len(await cluster.pods()) == 2
        [waiting] = [
            w
            for w in (await cluster.client.list(WORKLOADS, "default")).items
            if w["metadata"]["ownerReferences"][0]["name"] == "third"
        ]
        said = await cluster.condition(WORKLOADS, waiting["metadata"]["name"], "QuotaReserved")
        assert (
            "insufficient unused quota for cpu in flavor any-node, 1 more needed"
            in (said["message"])
        )
        await cluster.apply(lasting(example("queues/urgent.yaml"), 10))

        async def preempted():
            return await admitted(cluster) == ["urgent"]

        await cluster.until(preempted, 20, "the urgent job alone holds the quota")
        for name in ("urgent", "first", "second", "third"):
            await cluster.until_true(JOBS, name, "Complete", timeout_s=600)

    run_virtual(story, file=gpus(0, 0))


def test_lab_02_claims_are_allocated_and_released():
    async def story(cluster):
        await cluster.apply(example("devices/pods.yaml"))

        async def ended():
            phases = [pod["status"].get("phase") for pod in await cluster.pods()]
            return phases == ["Succeeded", "Succeeded"]

        async def allocated():
            claim = await cluster.get(RESOURCE_CLAIMS, "one-gpu")
            return claim.get("status", {}).get("allocation")

        allocation = await cluster.until(allocated, 20, "the claim is allocated")
        [result] = allocation["devices"]["results"]
        assert (result["request"], result["driver"]) == ("gpu", "gpu.example.com")
        await cluster.until(ended, 600, "both pods ended")

        async def released():
            claims = (await cluster.client.list(RESOURCE_CLAIMS, "default")).items
            return not any(claim.get("status", {}).get("reservedFor") for claim in claims)

        await cluster.until(released, 60, "claims are free again")

    run_virtual(story, file=read_cluster_file_simulated("cluster/gpus.yaml"))


def read_cluster_file_simulated(name: str) -> ClusterFile:
    file = read_cluster_file(EXAMPLES / name)
    pools = [
        NodePool(
            p.name,
            min(p.count, 3),
            "simulated",
            p.capacity,
            p.labels,
            p.topology,
            p.taints,
            p.devices,
        )
        for p in file.pools
    ]
    return ClusterFile(pools)


def test_lab_03_a_lost_worker_restarts_the_whole_set():
    async def story(cluster):
        await cluster.apply(example("jobset/fails-once.yaml"))

        async def running():
            pods = await cluster.pods()
            alive = [p for p in pods if p["status"].get("phase") == "Running"]
            return alive if len(alive) == 2 else None

        manifest = yaml.safe_load(example("jobset/fails-once.yaml"))
        assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 2
        pods = await cluster.until(running, 20, "two workers run")
        old = {pod["metadata"]["uid"] for pod in pods}
        await cluster.client.patch(
            PODS,
            pods[0]["metadata"]["name"],
            {"status": {"phase": "Failed"}},
            "default",
            subresource="status",
        )

        async def restarted():
            found = await cluster.pods()
            return len(found) == 2 and not old & {pod["metadata"]["uid"] for pod in found}

        await cluster.until(restarted, 60, "both workers are new")
        job_set = await cluster.get(JOB_SETS, "fails-once")
        assert job_set["status"]["restarts"] == 1
        await cluster.until_true(JOB_SETS, "fails-once", "Completed", timeout_s=600)

    run_virtual(story)


def test_a_gang_with_devices_waits_whole_and_starts_together():
    async def story(cluster):
        await cluster.apply(GANG)
        await cluster.clock.sleep(60)
        assert [pod["spec"].get("nodeName") for pod in await cluster.pods()] == [None] * 3
        claims = (await cluster.client.list(RESOURCE_CLAIMS, "default")).items
        assert not any(claim.get("status", {}).get("allocation") for claim in claims)
        annotations = {"kubarium.dev/devices.gpu.example.com": "2"}
        await cluster.client.patch(NODES, "node-1", {"metadata": {"annotations": annotations}})
        await cluster.until_true(JOBS, "gang", "Complete", timeout_s=120)
        starts = {pod["status"]["startTime"] for pod in await cluster.pods()}
        assert len(starts) == 1

    run_virtual(story, file=gpus(1, 1))


@pytest.mark.timeout(60)
def test_an_hour_of_back_off_takes_seconds():
    """A pod that crashes is restarted after 10 s, 20 s … 5 min: 12 to 20 times in an hour."""
    crashing = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "crash", "annotations": {DURATION: "1s", FAILS: "1"}},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]},
    }

    async def story(cluster):
        await cluster.apply(crashing)
        began = cluster.clock.monotonic()
        await cluster.clock.sleep(3600)
        assert cluster.clock.monotonic() - began == pytest.approx(3600)
        [pod] = await cluster.pods()
        return pod["status"]["containerStatuses"][0]["restartCount"]

    began = time.monotonic()
    restarts = run_virtual(story)
    assert 12 <= restarts <= 20
    assert time.monotonic() - began < 30


def test_nodes_declare_that_they_restart_all_containers_so_pods_that_ask_for_it_run():
    """Features that nodes have must be declared, or the scheduler keeps such pods waiting."""

    async def story(cluster):
        rule = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [3]}}
        container = {
            "name": "main",
            "image": "busybox",
            "restartPolicy": "Never",
            "restartPolicyRules": [rule],
        }
        spec = {"restartPolicy": "Never", "containers": [container]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
        await cluster.apply(pod)
        await cluster.until_true(PODS, "p", "PodScheduled")

    run_virtual(story)
