"""A GPU that fails by schedule, and what everybody sees: taints, statuses, events, metrics."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from kubarium.api.kinds import PODS, RESOURCE_SLICES
from kubarium.cluster.file import read_cluster_file
from kubarium.testing import run_virtual
from tests.conftest import ROOT

DRIVER = "gpu.nvidia.com"
CLUSTER = """
apiVersion: kubarium.dev/v1alpha1
kind: Cluster
spec:
  nodePools:
    - name: dgx
      runtime: simulated
      devices: [{profile: nvidia, model: H100, count: 2}]
  deviceHealth:
    trace: failures.csv
"""
TRACE = """at,node,device,health,effect,for
60,dgx-0,gpu-0,xid-79,NoExecute,5m
60,dgx-0,gpu-1,unmonitored,,5m
"""
WORK = """
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: gpu}
spec: {spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: gpu.nvidia.com}}]}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: train
  annotations: {kubarium.dev/run-duration: never, kubarium.dev/gpu-utilization: "50"}
spec:
  resourceClaims: [{name: gpu, resourceClaimTemplateName: gpu}]
  containers: [{name: main, image: busybox, resources: {claims: [{name: gpu}]}}]
"""


def file(tmp_path, trace=TRACE):
    (tmp_path / "failures.csv").write_text(trace)
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    return read_cluster_file(tmp_path / "cluster.yaml")


async def taints(cluster):
    (slice_,) = (await cluster.client.list(RESOURCE_SLICES)).items
    return {
        device["name"]: [f"{t['key']}={t.get('value', '')}:{t['effect']}" for t in device["taints"]]
        for device in slice_["spec"]["devices"]
        if device.get("taints")
    }


def test_a_fatal_error_evicts_and_its_end_lets_in_again(tmp_path):
    async def story(cluster):
        start = cluster.clock.now()
        await cluster.apply(WORK)
        pod = (await cluster.get(PODS, "train"))["metadata"]["uid"]

        async def at(second):
            await cluster.clock.sleep(start + second - cluster.clock.now())

        await at(50)
        assert await taints(cluster) == {}
        assert (await cluster.get(PODS, "train"))["status"]["phase"] == "Running"
        await at(70)
        assert await taints(cluster) == {
            "gpu-0": [f"{DRIVER}/xid=79:NoExecute"],
            "gpu-1": [f"{DRIVER}/unmonitored=:None"],
        }
        messages = {e["message"] for e in await cluster.events("DeviceUnhealthy")}
        assert messages == {f"{DRIVER} gpu-0 is Unhealthy: taint {DRIVER}/xid=79:NoExecute"}
        assert len(await cluster.events("DeviceTainted")) == 1
        gone = [p for p in await cluster.pods() if p["metadata"]["uid"] == pod]
        assert not gone or gone[0]["status"]["phase"] == "Failed"
        await at(362)
        assert await taints(cluster) == {}
        healed = {e["message"] for e in await cluster.events("DeviceHealthy")}
        assert healed == {f"{DRIVER} gpu-0 is healthy", f"{DRIVER} gpu-1 is healthy"}

    run_virtual(story, file=file(tmp_path))


def test_health_is_in_the_status_of_the_container(tmp_path):
    mild = TRACE.replace("NoExecute", "NoSchedule")

    async def story(cluster):
        start = cluster.clock.now()
        await cluster.apply(WORK)

        async def health_at(second):
            await cluster.clock.sleep(start + second - cluster.clock.now())
            status = (await cluster.get(PODS, "train"))["status"]["containerStatuses"][0]
            return [
                (r["resourceID"], r["health"])
                for entry in status.get("allocatedResourcesStatus", ())
                for r in entry["resources"]
            ]

        assert await health_at(50) == []
        assert await health_at(70) == [(f"{DRIVER}/dgx-0/gpu-0", "Unhealthy")]
        assert await health_at(370) == [(f"{DRIVER}/dgx-0/gpu-0", "Healthy")]

    run_virtual(story, file=file(tmp_path, mild))


def values(page, name):
    return {
        sample.labels["device"]: (sample.value, sample.labels["pod"])
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
        if sample.name == name
    }


def test_metrics_follow_the_pod_and_the_error(tmp_path):
    mild = TRACE.replace("NoExecute", "NoSchedule")

    async def story(cluster):
        start = cluster.clock.now()
        await cluster.apply(WORK)
        await cluster.clock.sleep(start + 50 - cluster.clock.now())
        page, kind = cluster.embedded.node_page("dgx-0", "metrics")
        assert kind.startswith("text/plain; version=0.0.4")
        busy, idle = values(page, "DCGM_FI_DEV_GPU_UTIL").values()
        assert 46 <= busy[0] <= 54
        assert (busy[1], idle) == ("train", (0, ""))
        await cluster.clock.sleep(30)
        page, _ = cluster.embedded.node_page("dgx-0", "metrics")
        assert values(page, "DCGM_FI_DEV_XID_ERRORS")["nvidia0"] == (79, "train")
        assert cluster.embedded.node_page("dgx-0", "pods") is None
        assert cluster.embedded.node_page("nobody", "metrics") is None

    run_virtual(story, file=file(tmp_path, mild))


def test_the_example_of_failing_gpus():
    example = read_cluster_file(ROOT / "examples/cluster/failing-gpus.yaml")

    async def story(cluster):
        seen = {}
        for minute in range(61):
            seen[minute] = await taints_of_all(cluster)
            await cluster.clock.sleep(60)
        assert seen[0] == {}
        assert seen[11]["gpu-0/gpu-3"] == "xid"
        assert "gpu-0/gpu-3" not in seen[41]
        assert any(place.startswith("old-") for found in seen.values() for place in found)
        return seen

    assert run_virtual(story, seed=1, file=example) == run_virtual(story, seed=2, file=example)


async def taints_of_all(cluster):
    slices = (await cluster.client.list(RESOURCE_SLICES)).items
    return {
        f"{slice_['spec']['nodeName']}/{device['name']}": taint["key"].partition("/")[2]
        for slice_ in slices
        for device in slice_["spec"].get("devices") or ()
        for taint in device.get("taints") or ()
    }
