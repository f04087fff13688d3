"""JobSet's published examples of workload-aware scheduling: groups in the shape of 1.36."""

import pytest
import yaml

from kubarium.api.kinds import JOB_SETS, NODES, POD_GROUPS, RESOURCE_CLAIMS
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.testing import run_virtual

FOLDER = "manifests/jobset/site/static/examples/workload-aware-scheduling"
RACK = "topology.example.com/rack"

pytestmark = pytest.mark.shared


@pytest.fixture
def published(shared):
    def read(*names):
        documents = []
        for name in names:
            file = shared / FOLDER / name
            if not file.is_file():
                pytest.skip(f"{name} is absent from the upstream data folder")
            documents += [item for item in yaml.safe_load_all(file.read_text()) if item]
        for document in documents:
            if document["kind"] == "JobSet":  # what "sleep infinity" is to a simulated pod
                for job in document["spec"]["replicatedJobs"]:
                    template = job["template"]["spec"]["template"]
                    template["metadata"] = {"annotations": {"kubarium.dev/run-duration": "never"}}
        return documents

    return read


def nodes(*sizes, cpu="4"):
    """A rack of so many simulated nodes for each number."""
    size = {"cpu": cpu, "memory": "8Gi", "pods": "20"}
    return ClusterFile(
        [
            NodePool(f"r{n}", count, "simulated", size, {RACK: f"r{n}"})
            for n, count in enumerate(sizes)
        ]
    )


def jobset(name, group, replicas, pods, cpu="3"):
    """The JobSet that the published group is for."""
    container = {
        "name": "worker",
        "image": "busybox",
        "command": ["sleep", "infinity"],
        "resources": {"requests": {"cpu": cpu}},
    }
    spec = {"schedulingGroup": {"podGroupName": group}, "containers": [container]}
    job = {"completions": pods, "parallelism": pods, "template": {"spec": spec}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": name},
        "spec": {
            "replicatedJobs": [{"name": "workers", "replicas": replicas, "template": {"spec": job}}]
        },
    }


def priority_class(name, value):
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
    }


async def places(cluster):
    """Racks of the pods that have a node, "" for one that waits."""
    labels = {
        node["metadata"]["name"]: node["metadata"]["labels"][RACK]
        for node in (await cluster.client.list(NODES)).items
    }
    return [labels.get(pod["spec"].get("nodeName", ""), "") for pod in await cluster.pods()]


@pytest.mark.parametrize(("room", "placed"), [(6, 6), (5, 0)])
def test_a_gang_of_six_is_placed_whole_or_not_at_all(published, room, placed):
    documents = published("workload.yaml", "podgroup.yaml")

    async def story(cluster):
        for document in documents:
            await cluster.apply(document)
        await cluster.apply(jobset("js", "js-abc-workers-def", 3, 2))
        await cluster.clock.sleep(10)
        found = await places(cluster)
        assert len(found) == 6
        assert len([rack for rack in found if rack]) == placed

    run_virtual(story, file=nodes(room))


def test_a_gang_of_four_gets_one_rack(published):
    documents = published("tas/workload.yaml", "tas/podgroup.yaml")

    async def story(cluster):
        for document in documents:
            await cluster.apply(document)
        await cluster.apply(jobset("js", "js-abc-workers-def", 2, 2))
        await cluster.clock.sleep(10)
        assert await places(cluster) == ["r2"] * 4

    run_virtual(story, file=nodes(3, 2, 4))


def test_a_gang_of_more_priority_takes_the_place_of_another_whole(published):
    low = published("preemption/low-priority-jobset.yaml")
    high = published("preemption/high-priority-jobset.yaml")

    async def story(cluster):
        await cluster.apply(priority_class("low-priority", 100))
        await cluster.apply(priority_class("high-priority", 1000))
        for document in low:
            await cluster.apply(document)
        await cluster.until_true(POD_GROUPS, "lp-abc-workers-def", "PodGroupInitiallyScheduled")
        for document in high:
            await cluster.apply(document)
        await cluster.clock.sleep(30)
        pods = await cluster.pods()
        running = [p["metadata"]["name"] for p in pods if p["status"]["phase"] == "Running"]
        assert len(running) == 4
        assert all(name.startswith("hp-js") for name in running)
        group = await cluster.get(POD_GROUPS, "lp-abc-workers-def")
        assert group["spec"]["disruptionMode"] == {"all": {}}
        conditions = {c["type"]: c["reason"] for c in group["status"]["conditions"]}
        assert conditions["DisruptionTarget"] == "PreemptionByScheduler"

    run_virtual(story, file=nodes(4))


def test_the_pods_of_a_group_share_its_claim(published):
    documents = published("dra/jobset.yaml")
    exact = {"name": "gpu", "deviceClassName": "gpu.nvidia.com"}
    template = {
        "apiVersion": "resource.k8s.io/v1beta1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "gpu-claim-template"},
        "spec": {"spec": {"devices": {"requests": [exact]}}},
    }
    claim = {"name": "shared-gpu", "resourceClaimTemplateName": "gpu-claim-template"}
    group = {
        "apiVersion": "scheduling.k8s.io/v1alpha2",
        "kind": "PodGroup",
        "metadata": {"name": "training-workers"},
        "spec": {"schedulingPolicy": {"gang": {"minCount": 6}}, "resourceClaims": [claim]},
    }

    async def story(cluster):
        await cluster.apply(template)
        await cluster.apply(group)
        for document in documents:
            await cluster.apply(document)
        await cluster.clock.sleep(10)
        pods = await cluster.pods()
        assert [pod["spec"]["nodeName"] for pod in pods] == ["gpu-0"] * 6
        [made] = (await cluster.client.list(RESOURCE_CLAIMS, "default")).items
        [user] = made["status"]["reservedFor"]
        assert (user["resource"], user["name"]) == ("podgroups", "training-workers")
        assert (await cluster.get(JOB_SETS, "training-job"))["status"]["replicatedJobsStatus"]

    run_virtual(story, file=with_gpus())


def with_gpus():
    size = {"cpu": "16", "memory": "64Gi", "pods": "20"}
    devices = [{"profile": "nvidia", "model": "H100", "count": 8}]
    return ClusterFile([NodePool("gpu", 1, "simulated", size, devices=devices)])
