"""Gangs of real processes that lose ranks and go on: with a spare, smaller, and larger again."""

import json
import os
import signal
import socket
import subprocess
import sys

import psutil
import pytest

from tests.conftest import kubectls

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not kubectls(), reason="needs kubectl"),
]

SHARDS = 8
INDEX = "batch.kubernetes.io/job-completion-index"


def jobset(folder, ranks, steps, annotations, **pod):
    """A gang of kubarium.labs.survive that saves every 25 steps."""
    container = {
        "name": "rank",
        "image": "kubarium/train",
        "command": ["python", "-m", "kubarium.labs.survive"],
        "args": [
            f"--steps={steps}",
            "--step-time=0.01",
            "--every=25",
            "--folder=/checkpoints",
            f"--shards={SHARDS}",
        ],
        "env": [
            {"name": "WORLD_SIZE", "value": str(ranks)},
            {"name": "MASTER_ADDR", "value": "train-workers-0-0.train"},
            {"name": "OMP_NUM_THREADS", "value": "1"},
        ],
        "volumeMounts": [{"name": "checkpoints", "mountPath": "/checkpoints"}],
        "resources": {"requests": {"cpu": "100m"}},
    }
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 10,
        "containers": [container],
        "volumes": [{"name": "checkpoints", "hostPath": {"path": str(folder)}}],
        **pod,
    }
    job = {
        "completions": ranks,
        "parallelism": ranks,
        "backoffLimit": 0,
        "template": {"metadata": {"annotations": annotations}, "spec": spec},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "train"},
        "spec": {"replicatedJobs": [{"name": "workers", "template": {"spec": job}}]},
    }


@pytest.fixture
def gang(start_cluster):
    """Starts a gang in a cluster of its own, and knows what a test asks of it."""
    cluster = start_cluster()
    cluster.folder = cluster.home / "checkpoints"
    cluster.folder.mkdir(mode=0o777)

    def start(ranks, steps, **more):
        document = jobset(cluster.folder, ranks, steps, **more)
        (cluster.home / "train.json").write_text(json.dumps(document))
        cluster.kubectl("apply", "-f", str(cluster.home / "train.json"))
        cluster.wait_until(
            lambda: len(list(cluster.folder.glob("step-*"))) > 1, 60, "two checkpoints"
        )

    cluster.start = start
    return cluster


@pytest.fixture(scope="module")
def uninterrupted():
    """The weights after so many steps when nothing happens, whatever the number of ranks."""
    found = {}

    def weights(steps, ranks=2):
        key = (steps, ranks)
        if key not in found:
            found[key] = run_bare(steps, ranks)
        return found[key]

    return weights


def run_bare(steps, ranks):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "kubarium.labs.survive"]
    processes = [
        subprocess.Popen(
            [*command, f"--steps={steps}", f"--shards={SHARDS}"],
            env={  # as bare as a pod's: variables of the shell may choose other BLAS kernels
                "PATH": os.environ["PATH"],
                "RANK": str(rank),
                "WORLD_SIZE": str(ranks),
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=90)[0] for process in processes]
    return json.loads(outputs[0].splitlines()[-1])["weights"]


def pods(cluster, selector=""):
    more = ("-l", selector) if selector else ()
    return cluster.get("pods", *more)["items"]


def rank_pod(cluster, index):
    found = [
        pod
        for pod in pods(cluster, f"{INDEX}={index}")
        if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] == "Running"
    ]
    return found[0] if found else None


def spares(cluster):
    return pods(cluster, "kubarium.dev/spare=true")


def record(cluster):
    job = cluster.get("job", "train-workers-0")
    return json.loads(job["metadata"]["annotations"].get("kubarium.dev/gang", "{}"))


def events(cluster, reason):
    return [e["message"] for e in cluster.get("events")["items"] if e["reason"] == reason]


def waits(pod):
    """Whether a pod's launcher is at the rendezvous."""
    return any(
        c["type"] == "gang.kubarium.dev/rank" and c["reason"] == "Waiting"
        for c in pod["status"].get("conditions", ())
    )


def processes_of(cluster, pod):
    """(launcher, its command) of a pod, as the machine sees them."""
    uid = pod["metadata"]["uid"]
    for process in psutil.process_iter(["cmdline", "environ"]):
        command = process.info["cmdline"] or []
        environment = process.info["environ"] or {}
        mine = environment.get("HOSTNAME") == (
            pod["spec"].get("hostname") or pod["metadata"]["name"]
        )
        if mine and "kubarium.train.launch" in command and process.children():
            return process, process.children()[0]
    raise AssertionError(f"pod {uid} has no process")


def completed(cluster):
    conditions = cluster.get("jobset", "train").get("status", {}).get("conditions", ())
    return any(c["type"] == "Completed" and c["status"] == "True" for c in conditions)


def final_weights(cluster):
    """What some rank 0 has said at its end."""
    for pod in pods(cluster):
        log = cluster.kubectl("logs", pod["metadata"]["name"], check=False)
        for line in log.splitlines():
            if line.startswith("{") and json.loads(line)["event"] == "done":
                return json.loads(line)["weights"]
    return None


def test_a_spare_takes_the_rank_of_a_killed_pod(gang, uninterrupted):
    gang.start(4, 900, annotations={"kubarium.dev/spares": "1"})
    [spare] = gang.wait_until(lambda: spares(gang), 30, "a spare")
    name = spare["metadata"]["name"]
    gang.wait_until(lambda: waits(spares(gang)[0]), 30, "the spare is warm")
    before = {pod["metadata"]["uid"] for pod in pods(gang)}
    lost = rank_pod(gang, 2)
    launcher, _ = processes_of(gang, lost)
    os.kill(launcher.pid, signal.SIGKILL)
    [text] = gang.wait_until(lambda: events(gang, "SparePromoted"), 30, "a promotion")
    assert text.startswith(f"spare {name} has taken rank 2 of pod {lost['metadata']['name']} (")
    assert "exit code 137" in text
    assert "; 4 ranks go on from step " in text
    step = int(text.rpartition(" ")[2])
    assert step % 25 == 0
    now = rank_pod(gang, 2)
    assert now["metadata"]["name"] == name
    # The others are the same pods, and a new spare waits.
    [fresh] = gang.wait_until(lambda: spares(gang), 30, "the spare is replenished")
    assert fresh["metadata"]["uid"] not in before
    gang.wait_until(lambda: completed(gang), 60, "the run completes")
    assert gang.get("jobset", "train")["status"].get("restarts", 0) == 0
    assert final_weights(gang) == uninterrupted(900)
