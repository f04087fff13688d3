"""ComputeDomains on simulated GB200 racks: who joins, when pods start, and what is left behind."""

from __future__ import annotations

import pytest
import yaml

from kubarium.api.kinds import (
    COMPUTE_DOMAIN_CLIQUES,
    COMPUTE_DOMAINS,
    CUSTOM_RESOURCE_DEFINITIONS,
    JOBS,
    NODES,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_SLICES,
)
from kubarium.base.errors import ApiError
from kubarium.cluster.file import ClusterFile, NodePool, default_cluster, read_cluster_file
from kubarium.testing import run_virtual
from tests.conftest import ROOT

CLIQUE = "nvidia.com/gpu.clique"
LABEL = "resource.nvidia.com/computeDomain"
DRIVER_NAMESPACE = "dra-driver-nvidia-gpu"


def racks(nodes=4, nvlink_nodes=2):
    devices = [{"profile": "nvidia", "model": "GB200", "count": 4, "nvlinkNodes": nvlink_nodes}]
    return ClusterFile([NodePool("tray", nodes, "simulated", devices=devices)])


def domain(name="cd", template="channel", **spec):
    channel = {"resourceClaimTemplate": {"name": template}}
    channel |= {"allocationMode": spec.pop("mode")} if "mode" in spec else {}
    return {
        "apiVersion": "resource.nvidia.com/v1beta1",
        "kind": "ComputeDomain",
        "metadata": {"name": name},
        "spec": {"channel": channel, **spec},
    }


def pod(name, node=None, template="channel"):
    spec = {
        "restartPolicy": "Never",
        "resourceClaims": [{"name": "channel", "resourceClaimTemplateName": template}],
        "containers": [
            {"name": "c", "image": "busybox", "resources": {"claims": [{"name": "channel"}]}}
        ],
    }
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    metadata = {"name": name, "annotations": {"kubarium.dev/run-duration": "never"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


async def runs(cluster, name):
    async def ask():
        return (await cluster.get(PODS, name)).get("status", {}).get("phase") == "Running"

    await cluster.until(ask, 60, f"{name} runs")


async def status(cluster, name="cd"):
    return (await cluster.get(COMPUTE_DOMAINS, name)).get("status") or {}


async def cliques(cluster):
    found = await cluster.client.list(COMPUTE_DOMAIN_CLIQUES, DRIVER_NAMESPACE)
    return {c["metadata"]["name"]: c["daemons"] for c in found.items}


async def labels(cluster, key):
    nodes = (await cluster.client.list(NODES)).items
    return {n["metadata"]["name"]: n["metadata"]["labels"].get(key) for n in nodes}


def test_a_gang_takes_one_rack_and_its_domain():
    file = read_cluster_file(ROOT / "examples/cluster/gb200.yaml")
    manifest = (ROOT / "examples/devices/compute-domain.yaml").read_text()

    async def story(cluster):
        await cluster.apply(manifest)

        async def joined():
            found = await status(cluster, "train")
            return found if len(found.get("nodes", ())) == 6 else None

        found = await cluster.until(joined, 60, "six nodes have joined")
        assert len({node["cliqueID"] for node in found["nodes"]}) == 1
        assert [node["index"] for node in found["nodes"]] == list(range(6))
        pods = await cluster.pods()
        assert {p["spec"]["nodeName"] for p in pods} == {n["name"] for n in found["nodes"]}

        async def ready():
            return (await status(cluster, "train"))["status"] == "Ready"

        await cluster.until(ready, 60, "the domain is ready")
        addresses = {n["name"]: n["ipAddress"] for n in found["nodes"]}
        node = await cluster.get(NODES, found["nodes"][0]["name"])
        assert addresses[node["metadata"]["name"]] == node["status"]["addresses"][0]["address"]
        await cluster.until_true(JOBS, "train", "Complete", timeout_s=600)

        async def left():
            return not await cliques(cluster)

        await cluster.until(left, 60, "the nodes have left")
        assert set((await labels(cluster, LABEL)).values()) == {None}
        return cluster.history_hash()

    assert run_virtual(story, seed=3, file=file) == run_virtual(story, seed=3, file=file)


def test_a_rack_too_small_for_the_gang_takes_none_of_it():
    documents = list(
        yaml.safe_load_all((ROOT / "examples/devices/compute-domain.yaml").read_text())
    )

    async def story(cluster):
        for document in documents:
            await cluster.apply(document)
        await cluster.clock.sleep(30)
        assert {p["spec"].get("nodeName") for p in await cluster.pods()} == {None}
        assert await status(cluster, "train") == {"status": "Ready"}  # of no nodes, none wanted

    run_virtual(story, file=racks(8, 4))


def test_a_pod_waits_for_its_own_node_only():
    async def story(cluster):
        await cluster.apply(domain(numNodes=2))
        await cluster.until(lambda: status(cluster), 10)
        assert (await status(cluster))["status"] == "NotReady"
        await cluster.apply(pod("one", "tray-0"))
        await runs(cluster, "one")
        [said] = {e["message"] for e in await cluster.events("FailedPrepareDynamicResources")}
        assert "current node not ready in ComputeDomain" in said
        found = await status(cluster)
        assert (found["status"], len(found["nodes"])) == ("NotReady", 1)
        await cluster.apply(pod("two", "tray-3"))  # of another rack: a clique of its own
        await runs(cluster, "two")
        await cluster.clock.sleep(1)
        found = await status(cluster)
        assert found["status"] == "Ready"
        assert [
            (n["name"], n["index"]) for n in sorted(found["nodes"], key=lambda n: n["name"])
        ] == [
            ("tray-0", 0),
            ("tray-3", 0),
        ]
        assert len(await cliques(cluster)) == 2

    run_virtual(story, file=racks())


def test_a_node_serves_one_channel_and_one_domain():
    async def story(cluster):
        await cluster.apply(domain("a", "a-channel"))
        await cluster.apply(domain("b", "b-channel"))
        await cluster.apply(pod("first", "tray-0", "a-channel"))
        await runs(cluster, "first")
        await cluster.apply(pod("second", "tray-0", "b-channel"))
        await cluster.clock.sleep(20)
        assert not (await cluster.get(PODS, "second"))["spec"].get("nodeName")
        uid = (await cluster.get(COMPUTE_DOMAINS, "a"))["metadata"]["uid"]
        assert (await labels(cluster, LABEL))["tray-0"] == uid
        await cluster.client.delete(PODS, "first", "default", grace_period_s=0)
        await runs(cluster, "second")
        other = (await cluster.get(COMPUTE_DOMAINS, "b"))["metadata"]["uid"]
        assert (await labels(cluster, LABEL))["tray-0"] == other
        assert not (await status(cluster, "a")).get("nodes")

    run_virtual(story, file=racks())


@pytest.mark.parametrize(("mode", "wanted"), [(None, "Single"), ("All", "All")])
def test_the_template_leads_into_the_domain(mode, wanted):
    async def story(cluster):
        await cluster.apply(domain(**({"mode": mode} if mode else {})))
        await cluster.clock.sleep(1)
        own = await cluster.get(COMPUTE_DOMAINS, "cd")
        template = await cluster.get(RESOURCE_CLAIM_TEMPLATES, "channel")
        assert own["metadata"]["finalizers"] == [LABEL]
        assert template["metadata"]["finalizers"] == [LABEL]
        assert template["metadata"]["labels"] == {
            LABEL: own["metadata"]["uid"],
            "resource.nvidia.com/computeDomainTarget": "Workload",
        }
        devices = template["spec"]["spec"]["devices"]
        assert devices["requests"][0]["exactly"]["deviceClassName"] == (
            "compute-domain-default-channel.nvidia.com"
        )
        assert devices["config"][0]["opaque"]["parameters"] == {
            "apiVersion": "resource.nvidia.com/v1beta1",
            "kind": "ComputeDomainChannelConfig",
            "domainID": own["metadata"]["uid"],
            "allocationMode": wanted,
        }

    run_virtual(story, file=racks())


def test_the_spec_is_immutable_and_checked():
    async def story(cluster):
        await cluster.apply(domain())
        change = {"spec": {"numNodes": 3}}
        with pytest.raises(ApiError, match=r"computeDomain\.spec is immutable"):
            await cluster.client.patch(COMPUTE_DOMAINS, "cd", change, "default")
        with pytest.raises(ApiError, match="allocationMode"):
            await cluster.apply(domain("other", mode="Some"))
        with pytest.raises(ApiError, match="numNodes"):
            await cluster.apply(domain("other", numNodes=-1))

    run_virtual(story, file=racks())


def test_a_domain_takes_everything_of_it_along():
    async def story(cluster):
        await cluster.apply(domain())
        await cluster.apply(pod("one", "tray-0"))
        await runs(cluster, "one")
        await cluster.client.delete(COMPUTE_DOMAINS, "cd", "default")
        await cluster.clock.sleep(2)
        for resource, name in ((COMPUTE_DOMAINS, "cd"), (RESOURCE_CLAIM_TEMPLATES, "channel")):
            with pytest.raises(ApiError, match="not found"):
                await cluster.get(resource, name)
        assert await cliques(cluster) == {}
        assert (await labels(cluster, LABEL))["tray-0"] is None

    run_virtual(story, file=racks())


def test_a_template_of_somebody_else_is_left_alone():
    async def story(cluster):
        request = {"name": "x", "exactly": {"deviceClassName": "gpu.nvidia.com"}}
        mine = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": "channel"},
            "spec": {"spec": {"devices": {"requests": [request]}}},
        }
        await cluster.apply(mine)
        await cluster.apply(domain())
        await cluster.clock.sleep(1)
        [event] = await cluster.events("ResourceClaimTemplateExists")
        assert "belongs to somebody else" in event["message"]
        await cluster.client.delete(COMPUTE_DOMAINS, "cd", "default")
        await cluster.clock.sleep(1)
        assert await cluster.get(RESOURCE_CLAIM_TEMPLATES, "channel")

    run_virtual(story, file=racks())


def test_a_claim_of_another_namespace_is_refused():
    async def story(cluster):
        await cluster.apply(domain())
        await cluster.clock.sleep(1)
        uid = (await cluster.get(COMPUTE_DOMAINS, "cd"))["metadata"]["uid"]
        template = await cluster.get(RESOURCE_CLAIM_TEMPLATES, "channel")
        copy = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaimTemplate",
            "metadata": {"name": "stolen", "namespace": "kube-public"},
            "spec": template["spec"],
        }
        await cluster.apply(copy)
        await cluster.apply(pod("thief", template="stolen"), "kube-public")
        await cluster.clock.sleep(5)
        [event, *_] = await cluster.events("FailedPrepareDynamicResources", "kube-public")
        assert "namespace is different than the ComputeDomain's namespace" in event["message"]
        assert uid not in (await labels(cluster, LABEL)).values()

    run_virtual(story, file=racks())


def test_each_node_publishes_one_channel_and_one_daemon_and_racks_share_a_label():
    async def story(cluster):
        slices = (await cluster.client.list(RESOURCE_SLICES)).items
        fabric = [s for s in slices if s["spec"]["driver"] == "compute-domain.nvidia.com"]
        assert len(fabric) == 4
        assert [d["name"] for d in fabric[0]["spec"]["devices"]] == ["channel-0", "daemon-0"]
        found = list((await labels(cluster, CLIQUE)).values())
        assert found[0] == found[1] != found[2] == found[3]

    run_virtual(story, file=racks())


def test_without_a_fabric_the_kinds_are_not_served():
    async def story(cluster):
        found = (await cluster.client.list(CUSTOM_RESOURCE_DEFINITIONS)).items
        assert not [c for c in found if c["spec"]["group"] == "resource.nvidia.com"]

    run_virtual(story, file=default_cluster(1, "simulated"))


IMEX = "demo/specs/imex"


@pytest.mark.parametrize("name", ["channel-injection", "channel-injection-all"])
def test_the_published_channel_demos(shared, name):
    path = shared / "manifests" / "dra-driver-nvidia-gpu" / IMEX / f"{name}.yaml"
    if not path.is_file():
        pytest.skip("the NVIDIA driver's manifests are absent from the upstream data folder")
    documents = [d for d in yaml.safe_load_all(path.read_text()) if d]

    async def story(cluster):
        for document in documents:
            await cluster.apply(document)
        [name] = [d["metadata"]["name"] for d in documents if d["kind"] == "Pod"]
        await runs(cluster, name)
        [cd] = [d["metadata"]["name"] for d in documents if d["kind"] == "ComputeDomain"]
        await cluster.clock.sleep(1)
        assert (await status(cluster, cd))["status"] == "Ready"

    run_virtual(story, file=racks())
