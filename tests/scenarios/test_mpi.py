"""TrainJobs of the mpi policy: Open MPI's launcher reaches pods by SSH, in their own networks."""

from __future__ import annotations

import re

import pytest
import yaml

from kubarium.node.images import lacking
from kubarium.node.mpi_images import PROGRAMS
from tests.conftest import ROOT, RunningCluster, kubectls

MISSING = lacking(PROGRAMS)
pytestmark = [
    pytest.mark.kubectl,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not kubectls(), reason="kubectl is not installed"),
    pytest.mark.skipif(bool(MISSING), reason=f"this machine lacks {MISSING}: programs, packages"),
    # The SDK's thread pools and sockets are closed by nobody.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
EXAMPLE = ROOT / "examples/training/mpi.yaml"
HELLO = "echo rank $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE on $(hostname)"
RANKS = 'echo "rank $OMPI_COMM_WORLD_RANK attempt $ATTEMPT"'
ATTEMPT = {
    "name": "ATTEMPT",
    "valueFrom": {
        "fieldRef": {"fieldPath": "metadata.labels['jobset.sigs.k8s.io/restart-attempt']"}
    },
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    running = RunningCluster(tmp_path_factory.mktemp("mpi"), "--in-memory")
    documents = list(yaml.safe_load_all(EXAMPLE.read_text()))
    running.apply(documents[0])
    yield running
    running.stop()


def runtime(cluster, name, change):
    """The example's runtime under a ``name`` of its own, with ``change`` made to its spec."""
    document = next(yaml.safe_load_all(EXAMPLE.read_text()))
    document["metadata"]["name"] = name
    change(document["spec"])
    cluster.apply(document)


def train(cluster, name, command, runtime="mpi-distributed", nodes=3, **trainer):
    cluster.apply(
        {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainJob",
            "metadata": {"name": name},
            "spec": {
                "runtimeRef": {"name": runtime},
                "trainer": {"numNodes": nodes, "command": command, **trainer},
            },
        }
    )


def state(cluster, name):
    conditions = cluster.get("trainjob", name).get("status", {}).get("conditions") or [{}]
    return conditions[-1].get("type")


def ends(cluster, name, how="Complete"):
    cluster.wait_until(lambda: state(cluster, name), 90, f"TrainJob {name} ends")
    assert state(cluster, name) == how, launcher_says(cluster, name)


def pods(cluster, name, job):
    selector = f"jobset.sigs.k8s.io/jobset-name={name},jobset.sigs.k8s.io/replicatedjob-name={job}"
    return cluster.get("pods", "-l", selector)["items"]


def launcher_says(cluster, name, *more):
    texts = [
        cluster.kubectl("logs", pod["metadata"]["name"], *more, check=False)
        for pod in pods(cluster, name, "launcher")
    ]
    return "\n".join(texts)


def ranks_say(cluster, name):
    """What ranks have printed, in order of rank; Open MPI may warn of its own."""
    lines = launcher_says(cluster, name).splitlines()
    return sorted(line for line in lines if line.startswith("rank "))


def test_ranks_of_three_pods_find_each_other_and_their_words_are_the_launchers(cluster):
    train(cluster, "hello", ["mpirun", "sh", "-c", HELLO])
    ends(cluster, "hello")
    assert ranks_say(cluster, "hello") == [
        "rank 0 of 3 on hello-launcher-0-0",
        "rank 1 of 3 on hello-node-0-0",
        "rank 2 of 3 on hello-node-0-1",
    ]
    [launcher] = pods(cluster, "hello", "launcher")
    assert launcher["status"]["phase"] == "Succeeded"
    cluster.wait_until(lambda: not pods(cluster, "hello", "node"), what="the nodes go")


def test_every_node_has_as_many_ranks_as_slots(cluster):
    train(cluster, "slots", ["mpirun", "sh", "-c", HELLO], nodes=2, numProcPerNode=2)
    ends(cluster, "slots")
    hosts = re.findall(r"of 4 on (\S+)", launcher_says(cluster, "slots"))
    assert sorted(hosts) == ["slots-launcher-0-0"] * 2 + ["slots-node-0-0"] * 2


def test_a_launcher_that_is_no_node_only_launches(cluster):
    runtime(cluster, "apart", lambda spec: spec["mlPolicy"]["mpi"].update(runLauncherAsNode=False))
    train(cluster, "apart", ["mpirun", "sh", "-c", HELLO], "apart", nodes=2)
    ends(cluster, "apart")
    hosts = re.findall(r"of 2 on (\S+)", launcher_says(cluster, "apart"))
    assert sorted(hosts) == ["apart-node-0-0", "apart-node-0-1"]


def test_ranks_may_be_roots(cluster):
    def as_root(spec):
        del spec["mlPolicy"]["mpi"]["sshAuthMountPath"]
        for job in spec["template"]["spec"]["replicatedJobs"]:
            pod = job["template"]["spec"]["template"]["spec"]
            del pod["securityContext"], pod["containers"][0]["securityContext"]
            if job["name"] == "node":
                pod["containers"][0]["args"] = ["-De"]

    runtime(cluster, "roots", as_root)
    command = ["mpirun", "--allow-run-as-root", "sh", "-c", "echo rank of $(id -u), $(hostname)"]
    train(cluster, "roots", command, "roots", nodes=2)
    ends(cluster, "roots")
    assert ranks_say(cluster, "roots") == [
        "rank of 0, roots-launcher-0-0",
        "rank of 0, roots-node-0-0",
    ]


def fails_at_once(spec):
    for job in spec["template"]["spec"]["replicatedJobs"]:
        job["template"]["spec"]["backoffLimit"] = 0
        job["template"]["spec"]["template"]["spec"]["restartPolicy"] = "Never"


def test_a_rank_that_fails_ends_all_and_the_job_says_so(cluster):
    runtime(cluster, "strict", fails_at_once)
    script = f"{HELLO}; [ $OMPI_COMM_WORLD_RANK != 2 ] || exit 7; sleep 600"
    train(cluster, "fails", ["mpirun", "sh", "-c", script], "strict")
    ends(cluster, "fails", "Failed")
    assert len(ranks_say(cluster, "fails")) == 3
    # mpirun names the rank, too, but now and then ends before it has said so.
    assert "a non-zero exit code" in launcher_says(cluster, "fails")
    [condition] = cluster.get("trainjob", "fails")["status"]["conditions"]
    assert condition["reason"] == "FailedJobs"
    [launcher] = pods(cluster, "fails", "launcher")
    assert launcher["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 7


def test_a_failure_policy_begins_the_whole_job_anew(cluster):
    def restarts_once(spec):
        fails_at_once(spec)
        spec["template"]["spec"]["failurePolicy"] = {"maxRestarts": 1}

    runtime(cluster, "again", restarts_once)
    script = f'{RANKS}; [ "$OMPI_COMM_WORLD_RANK-$ATTEMPT" != 1-0 ] || exit 3'
    command = ["mpirun", "-x", "ATTEMPT", "sh", "-c", script]
    train(cluster, "again", command, "again", env=[ATTEMPT])
    ends(cluster, "again")
    assert cluster.get("jobset", "again")["status"]["restarts"] == 1
    assert ranks_say(cluster, "again") == [f"rank {rank} attempt 1" for rank in range(3)]


def test_a_node_that_dies_ends_its_ranks_and_the_launcher_begins_anew(cluster):
    train(cluster, "loses", ["mpirun", "sh", "-c", f"{HELLO}; sleep 600"])

    def ranks(least):
        """Where ranks are, of a launcher that has been started again so often."""
        found = pods(cluster, "loses", "launcher")
        statuses = found[0]["status"].get("containerStatuses") if found else None
        if not statuses or statuses[0]["restartCount"] < least:
            return []
        hosts = re.findall(r"of 3 on (\S+)", launcher_says(cluster, "loses"))
        return hosts if len(hosts) == 3 else []

    before = cluster.wait_until(lambda: ranks(0), what="three ranks")
    victim = pods(cluster, "loses", "node")[1]["metadata"]["name"]
    cluster.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
    # More than once, if the node's successor has no address yet when it looks for it.
    after = cluster.wait_until(lambda: ranks(1), 90, "three ranks again")
    assert sorted(after) == sorted(before)
    names = {pod["metadata"]["name"] for pod in pods(cluster, "loses", "node")}
    assert victim not in names
    cluster.kubectl("delete", "trainjob", "loses")
    left = "pods,jobsets,secrets,configmaps"
    cluster.wait_until(
        lambda: "loses" not in cluster.kubectl("get", left, "-o", "name"), what="all of it goes"
    )


def test_our_own_example_trains(cluster):
    pytest.importorskip("mpi4py", reason="needs mpi4py")
    cluster.kubectl("apply", "-f", str(EXAMPLE))
    ends(cluster, "line")
    assert [re.sub(r" on \S+:", "", line) for line in ranks_say(cluster, "line")] == [
        f"rank {rank} of 3 [2.0, -1.0, 0.5]" for rank in range(3)
    ]


def sum_over_ranks(steps):
    import numpy as np
    from kubeflow.trainer import update_trainjob_status
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    total = np.zeros(2)
    for step in range(steps):
        world.Allreduce(np.full(2, float(world.rank + step)), total)
    print("rank", world.rank, "of", world.size, total.tolist(), flush=True)
    if world.rank == 0:
        print("sent", update_trainjob_status(100, 0, {"total": total[0]}), flush=True)


def test_a_function_is_trained_by_the_unmodified_sdk(cluster):
    sdk = pytest.importorskip("kubeflow.trainer", reason="needs kubeflow==0.5.0")
    pytest.importorskip("mpi4py", reason="needs mpi4py")
    config = sdk.KubernetesBackendConfig(namespace="default", config_file=str(cluster.kubeconfig))
    client = sdk.TrainerClient(config)
    trainer = sdk.CustomTrainer(func=sum_over_ranks, func_args={"steps": 4}, num_nodes=3)
    name = client.train(runtime="mpi-distributed", trainer=trainer)
    job = client.wait_for_job_status(name, timeout=120, polling_interval=1)
    assert job.status == "Complete"
    # Ranks are 0 to 2, the last step adds 3 to each.
    said = list(client.get_job_logs(name))
    assert {"sent True", *(f"rank {rank} of 3 [12.0, 12.0]" for rank in range(3))} <= set(said)
    progress = cluster.get("trainjob", name)["status"]["trainerStatus"]
    assert progress["progressPercentage"] == 100
    assert progress["metrics"] == [{"name": "total", "value": "12.0"}]
