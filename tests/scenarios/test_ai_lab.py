"""The Cloud Native AI Lab, labs 00 to 03: its manifests as published, an unmodified kubectl, and
the outcomes that its readers are promised."""

import pytest

from tests.conftest import ROOT, kubectls

pytestmark = [
    pytest.mark.kubectl,
    pytest.mark.shared,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not kubectls(), reason="kubectl is not installed"),
]

CLUSTER = str(ROOT / "examples" / "cluster" / "ai-lab.yaml")


def condition(document, kind):
    found = [c for c in document.get("status", {}).get("conditions", []) if c["type"] == kind]
    return found[0] if found else {}


def is_true(document, kind):
    return condition(document, kind).get("status") == "True"


@pytest.fixture
def queues(start_cluster, lab_manifests):
    """Lab 01 up to the point where jobs are submitted."""
    cluster = start_cluster("-f", CLUSTER)
    folder = lab_manifests / "01-kueue-basics" / "manifests"
    for name in ("namespaces", "resource-flavor", "cluster-queue-a", "cluster-queue-b",
                 "local-queue-a", "local-queue-b", "priority-classes"):  # fmt: skip
        cluster.kubectl("apply", "-f", str(folder / f"{name}.yaml"))
    return cluster, folder


def workloads(cluster):
    return cluster.get("workloads.kueue.x-k8s.io", "-n", "team-a-ns")["items"]


def admitted(cluster):
    return [w["metadata"]["name"] for w in workloads(cluster) if is_true(w, "Admitted")]


def usage(cluster, queue="team-a-cq"):
    status = cluster.get("clusterqueue", queue).get("status", {})
    return {
        resource["name"]: resource["total"]
        for flavor in status.get("flavorsUsage", [])
        for resource in flavor["resources"]
    }


def test_lab_00_two_workers_with_labels_and_zones(start_cluster):
    cluster = start_cluster("-f", CLUSTER)
    nodes = cluster.get("nodes", "-l", "node.kubernetes.io/gpu-type=simulated")["items"]
    zones = sorted(n["metadata"]["labels"]["topology.kubernetes.io/zone"] for n in nodes)
    assert zones == ["zone-a", "zone-b"]
    assert all(is_true(node, "Ready") for node in nodes)
    table = cluster.kubectl("get", "nodes", "-L", "topology.kubernetes.io/zone")
    assert "Ready" in table
    assert "zone-b" in table


def test_lab_00_the_labs_own_kind_file_gives_the_same_nodes(start_cluster, lab_manifests):
    cluster = start_cluster("-f", str(lab_manifests / "00-setup" / "kind-cluster.yaml"))
    names = cluster.kubectl("get", "nodes", "-o", "name").split()
    assert [name.removeprefix("node/") for name in names] == [
        "ai-workshop-control-plane",
        "ai-workshop-worker",
        "ai-workshop-worker2",
    ]


def test_lab_01_jobs_queue_and_priority_preempts(queues):
    cluster, folder = queues
    namespace = ("-n", "team-a-ns")
    for _ in range(5):
        cluster.kubectl("create", "-f", str(folder / "sample-job.yaml"), *namespace)
    cluster.wait_until(lambda: len(admitted(cluster)) == 4, 20, "four jobs admitted")
    cluster.wait_until(lambda: usage(cluster).get("cpu") == "4", 10, "usage of 4 CPUs")
    assert usage(cluster)["memory"] == "4Gi"

    waiting = [w for w in workloads(cluster) if not is_true(w, "Admitted")]
    assert len(waiting) == 1
    reason = condition(waiting[0], "QuotaReserved")
    assert reason["status"] == "False"
    assert (
        "insufficient unused quota for cpu in flavor default-cpu, 1 more needed"
        in (reason["message"])
    )
    table = cluster.kubectl("get", "clusterqueue,localqueue,workloads", *namespace)
    assert "PENDING WORKLOADS" in table
    assert "RESERVED IN" in table
    pods = cluster.get("pods", *namespace)["items"]
    assert len(pods) == 4
    cluster.wait_until(
        lambda: all(
            p["status"]["phase"] == "Running" for p in cluster.get("pods", *namespace)["items"]
        ),
        20,
        "four pods running as user 65534",
    )

    cluster.kubectl("create", "-f", str(folder / "priority-job.yaml"), *namespace)

    def urgent():
        owned = (w for w in workloads(cluster) if "priority-job" in w["metadata"]["name"])
        return next((w for w in owned if is_true(w, "Admitted")), None)

    cluster.wait_until(urgent, 20, "the high-priority job admitted")
    evicted = [w for w in workloads(cluster) if is_true(w, "Evicted")]
    assert len(evicted) == 2, "2 CPUs are freed by evicting two jobs of 1 CPU, and no more"
    assert all(condition(w, "Preempted")["reason"] == "InClusterQueue" for w in evicted)
    assert usage(cluster)["cpu"] == "4"

    def all_finished():
        return all(is_true(w, "Finished") for w in workloads(cluster))

    cluster.wait_until(all_finished, 150, "the evicted jobs resumed and all six finished")
    jobs = cluster.get("jobs", *namespace)["items"]
    assert [job["status"].get("succeeded") for job in jobs] == [1] * 6
    logs = cluster.kubectl("logs", *namespace, "-l", "batch.kubernetes.io/job-name", "--tail=-1")
    assert "HIGH PRIORITY job completed" in logs


def test_lab_01_generate_name_needs_create(queues):
    cluster, folder = queues
    said = cluster.kubectl("apply", "-f", str(folder / "sample-job.yaml"), check=False)
    assert "cannot use generate name with apply" in said


def test_lab_02_the_claim_is_allocated_and_the_pod_runs(start_cluster, lab_manifests):
    cluster = start_cluster("-f", CLUSTER)
    folder = lab_manifests / "02-dra-resource-claims" / "manifests"
    for name in ("device-class", "resource-claim", "resource-claim-template", "pod-with-claim"):
        cluster.kubectl("apply", "-f", str(folder / f"{name}.yaml"))

    def running():
        return cluster.get("pod", "gpu-consumer")["status"].get("phase") == "Running"

    cluster.wait_until(running, 20, "the pod runs")
    claim = cluster.get("resourceclaim", "gpu-claim")
    [device] = claim["status"]["allocation"]["devices"]["results"]
    assert device["request"] == "gpu-request"
    assert device["driver"] == "simulated.example.com"
    assert claim["status"]["reservedFor"][0]["name"] == "gpu-consumer"
    assert "allocated,reserved" in cluster.kubectl("get", "resourceclaim")
    cluster.wait_until(
        lambda: "Pod started with claimed GPU device" in cluster.kubectl("logs", "gpu-consumer"),
        10,
    )
    assert cluster.get("resourceslices")["items"]


def test_lab_03_a_deleted_pod_restarts_the_whole_jobset(start_cluster, lab_manifests):
    cluster = start_cluster("-f", CLUSTER)
    manifest = lab_manifests / "03-jobset-training" / "manifests" / "jobset-simple.yaml"
    cluster.kubectl("apply", "-f", str(manifest))
    select = ("-l", "jobset.sigs.k8s.io/jobset-name=training-sim")

    def running():
        pods = cluster.get("pods", *select)["items"]
        alive = [p for p in pods if p["status"].get("phase") == "Running"]
        return alive if len(alive) == 2 and len(pods) == 2 else None

    first = cluster.wait_until(running, 20, "two workers run")
    hosts = sorted(pod["spec"]["hostname"] for pod in first)
    assert hosts == ["training-sim-workers-0-0", "training-sim-workers-1-0"]
    cluster.kubectl("delete", "pod", first[0]["metadata"]["name"])
    old = {pod["metadata"]["uid"] for pod in first}

    def restarted():
        pods = running()
        return pods if pods and not old & {pod["metadata"]["uid"] for pod in pods} else None

    cluster.wait_until(restarted, 40, "both workers are new")
    assert cluster.get("jobset", "training-sim")["status"]["restarts"] == 1
    cluster.wait_until(
        lambda: is_true(cluster.get("jobset", "training-sim"), "Completed"), 100, "it completes"
    )


def test_lab_03_a_jobset_is_admitted_as_one(queues, lab_manifests):
    cluster, _ = queues
    manifest = lab_manifests / "03-jobset-training" / "manifests" / "jobset-with-kueue.yaml"
    namespace = ("-n", "team-a-ns")
    cluster.kubectl("apply", "-f", str(manifest), *namespace)
    cluster.wait_until(lambda: len(admitted(cluster)) == 1, 20, "the JobSet's workload admitted")
    [workload] = workloads(cluster)
    [pod_set] = workload["status"]["admission"]["podSetAssignments"]
    assert pod_set["count"] == 2
    assert usage(cluster)["cpu"] == "1"

    def both_run():
        pods = cluster.get("pods", *namespace)["items"]
        return len(pods) == 2 and all(p["status"].get("phase") == "Running" for p in pods)

    cluster.wait_until(both_run, 20, "both workers run")
    assert not cluster.get("jobset", "training-with-kueue", *namespace)["spec"].get("suspend")
    cluster.wait_until(
        lambda: is_true(cluster.get("jobset", "training-with-kueue", *namespace), "Completed"), 90
    )
    cluster.wait_until(lambda: usage(cluster).get("cpu") == "0", 10, "the quota is free again")
