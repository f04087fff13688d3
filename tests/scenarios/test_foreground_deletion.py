"""A pod that is deleted in the foreground waits for nothing that waits for the pod."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import PODS, RESOURCE_CLAIM_TEMPLATES, RESOURCE_CLAIMS
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.testing.cluster import run_virtual

DRIVER, EXTENDED = "gpu.example.com", "example.com/gpu"
TEMPLATE = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "ResourceClaimTemplate",
    "metadata": {"name": "gpu"},
    "spec": {
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": DRIVER}}]}}
    },
}
BY_TEMPLATE = {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]}


@pytest.mark.parametrize("way", ["template", "extended resource"])
def test_a_pod_with_a_device_goes_in_the_foreground_too(way):
    devices = [{"profile": DRIVER, "count": 1, "extendedResourceName": EXTENDED}]
    pool = NodePool("node", 1, "simulated", {"cpu": "4", "pods": "10"}, devices=devices)
    container = {"name": "main", "image": "busybox", "command": ["sleep", "1000"]}
    if way != "template":
        container["resources"] = {"limits": {EXTENDED: "1"}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [container], **(BY_TEMPLATE if way == "template" else {})},
    }

    async def story(cluster):
        await cluster.client.create(RESOURCE_CLAIM_TEMPLATES, TEMPLATE, "default")
        await cluster.client.create(PODS, pod, "default")

        async def runs():
            return [p["status"]["phase"] for p in await cluster.pods()] == ["Running"]

        async def all_gone():
            claims = (await cluster.client.list(RESOURCE_CLAIMS, "default")).items
            return not claims and not await cluster.pods()

        await cluster.until(runs)
        [claim] = (await cluster.client.list(RESOURCE_CLAIMS, "default")).items
        [owner] = claim["metadata"]["ownerReferences"]
        assert owner["controller"]
        assert "blockOwnerDeletion" not in owner
        await cluster.client.delete(PODS, "p", "default", propagation_policy="Foreground")
        await cluster.until(all_gone)

    run_virtual(story, file=ClusterFile([pool]))
