"""Trainer's published example manifests and our own, applied with kubectl to real processes."""

import importlib.util

import pytest

from tests.conftest import ROOT, kubectls

pytestmark = [
    pytest.mark.kubectl,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not kubectls(), reason="kubectl is not installed"),
]
QUEUES = """
apiVersion: kueue.x-k8s.io/v1beta2
kind: ResourceFlavor
metadata: {name: cpu}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: ClusterQueue
metadata: {name: cluster-queue}
spec:
  namespaceSelector: {}
  resourceGroups:
    - coveredResources: [cpu, memory]
      flavors:
        - name: cpu
          resources:
            - {name: cpu, nominalQuota: 6}
            - {name: memory, nominalQuota: 12Gi}
---
apiVersion: kueue.x-k8s.io/v1beta2
kind: LocalQueue
metadata: {name: training-queue, namespace: default}
spec: {clusterQueue: cluster-queue}
"""


@pytest.fixture
def published(shared):
    def path(name):
        found = shared / "manifests/trainer/examples/yaml" / name
        if not found.is_file():
            pytest.skip(f"{name} is absent from the upstream data folder")
        return str(found)

    return path


@pytest.fixture
def cluster(start_cluster):
    return start_cluster("--in-memory")


def completes(cluster, name, timeout_s=90):
    cluster.wait_until(
        lambda: cluster.kubectl("get", "trainjob", name, "--no-headers").split()[1] == "Complete",
        timeout_s,
        f"TrainJob {name} completes",
    )


def logs(cluster, name):
    selector = f"jobset.sigs.k8s.io/jobset-name={name}"
    return cluster.kubectl("logs", "-l", selector, "--tail=-1")


@pytest.mark.shared
def test_03_waits_in_its_queue_and_trains(cluster, published):
    path = published("03-kueue-integration.yaml")
    cluster.kubectl("apply", "-f", path)
    cluster.wait_until(
        lambda: "Suspended" in cluster.kubectl("get", "trainjob", "kueue-example"),
        what="it waits for its queue to be there",
    )
    queues = cluster.home / "queues.yaml"
    queues.write_text(QUEUES)
    cluster.kubectl("apply", "-f", str(queues))
    completes(cluster, "kueue-example")
    assert logs(cluster, "kueue-example").count("Training complete") == 3
    [workload] = cluster.get("workloads.kueue.x-k8s.io")["items"]
    [pod_set] = workload["spec"]["podSets"]
    assert pod_set["count"] == 3


@pytest.mark.shared
def test_04_starts_its_gang_or_says_what_it_lacks(cluster, published):
    """Its program needs no torch, but its image stands for a Python that has it."""
    cluster.kubectl("apply", "-f", published("04-volcano-integration.yaml"))
    if importlib.util.find_spec("torch") is None:
        cluster.wait_until(
            lambda: "pip install torch" in cluster.kubectl("get", "events"),
            what="an event that says what to install",
        )
        return
    completes(cluster, "volcano-example")
    text = logs(cluster, "volcano-example")
    for rank in range(4):
        assert f"Node {rank}/4 started via Volcano gang scheduling" in text
    group = cluster.get("podgroups.scheduling.x-k8s.io", "volcano-example")
    assert group["spec"]["minMember"] == 4


def test_our_own_example_trains_with_numpy_alone(cluster):
    path = ROOT / "examples/training/numpy.yaml"
    cluster.kubectl("apply", "-f", str(path))
    completes(cluster, "spirals")
    text = logs(cluster, "spirals")
    assert text.count('"event": "rank"') == 3
    assert '"event": "done"' in text
    cluster.kubectl("delete", "trainjob", "spirals")
    cluster.wait_until(lambda: not cluster.get("pods,jobsets")["items"], what="all of it goes")
