"""A gang that is hit: named, brought back, at the step that all ranks had saved."""

import json
import os
import signal

import psutil
import pytest
import yaml

from kubarium.node.network.trial import refusal
from tests.conftest import ROOT, kubectls

from .ranks import run_ranks

EXAMPLE = ROOT / "examples" / "training" / "survive.yaml"

pytestmark = pytest.mark.skipif(not kubectls(), reason="needs kubectl")


@pytest.fixture
def training(start_cluster):
    """The example with its checkpoints in the cluster's home, running."""
    cluster = start_cluster()
    folder = cluster.home / "checkpoints"
    folder.mkdir(mode=0o777)
    text = EXAMPLE.read_text()
    _, jobset = yaml.safe_load_all(text)
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    pod["volumes"] = [{"name": "checkpoints", "hostPath": {"path": str(folder)}}]
    pod["containers"][0]["args"] = [
        "--steps=600",
        "--step-time=0.01",
        "--every=25",
        "--folder=/checkpoints",
    ]
    cluster.apply(jobset)
    cluster.folder = folder
    cluster.wait_until(lambda: len(list(folder.glob("step-*"))) > 1, 60, "two checkpoints")
    return cluster


@pytest.fixture(scope="module")
def uninterrupted():
    """The weights that the same eight ranks end with when nothing happens to them."""
    text = run_ranks(["-m", "kubarium.labs.survive", "--steps=600"], 8, 90)
    return json.loads(text.splitlines()[-1])["weights"]


def said(cluster, event):
    """What rank 0's current attempt has said of one kind."""
    selector = "batch.kubernetes.io/job-completion-index=0"
    log = cluster.kubectl("logs", "-l", selector, "--tail=-1", check=False)
    facts = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return [fact for fact in facts if fact["event"] == event]


def histories(cluster):
    """Each attempt of each rank, as the node has written it down."""
    return [h["status"] for h in cluster.get("rankhistories")["items"] if "status" in h]


def completed(cluster):
    return cluster.has("Completed", "jobset", "train")


def process_of(rank):
    """A rank's process as the machine sees it."""
    for process in psutil.process_iter(["cmdline", "environ"]):
        environment = process.info["environ"] or {}
        command = process.info["cmdline"] or []
        if "kubarium.labs.survive" in command and environment.get("JOB_COMPLETION_INDEX") == rank:
            return process
    raise AssertionError(f"rank {rank} has no process")


def test_a_stopped_rank_is_named_and_the_gang_brought_back(training, uninterrupted):
    os.kill(process_of("5").pid, signal.SIGSTOP)

    [message, *_] = training.wait_until(
        lambda: training.events("HangDetected"), 15, "the hang is named"
    )
    assert message.startswith("rank 5 (pod train-workers-0-5-")
    assert "was stopped by a signal" in message
    assert "main (" in message
    training.wait_until(lambda: completed(training), 90, "the run completes")
    assert training.get("jobset", "train")["status"]["restarts"] == 1
    assert any(s.get("resumedFrom") for s in histories(training))
    assert said(training, "done")[0]["weights"] == uninterrupted


def test_a_deleted_rank_takes_all_to_one_saved_step_and_no_step_is_lost(training, uninterrupted):
    before = {path.name for path in training.folder.glob("step-*")}
    training.kubectl(
        "delete", "pod", "-l", "batch.kubernetes.io/job-completion-index=3", "--wait=false"
    )
    training.wait_until(
        lambda: training.get("jobset", "train")["status"].get("restarts") == 1, 30, "a restart"
    )

    def resumed():
        found = {s["resumedFrom"] for s in histories(training) if s.get("resumedFrom")}
        return found.pop() if len(found) == 1 else 0

    step = training.wait_until(resumed, 30, "a new attempt")
    assert f"step-{step:08d}" not in before
    ended = [s for s in histories(training) if s.get("outcome", "Completed") != "Completed"]
    assert [(s["outcome"], s["step"]) for s in ended] == [("ExitCode 143", step)] * 8
    training.wait_until(lambda: completed(training), 90, "the run completes")
    assert said(training, "done")[0]["weights"] == uninterrupted


@pytest.mark.skipif(bool(refusal()), reason=f"no pod networks here: {refusal()}")
def test_a_gang_under_a_partition_hangs_is_named_and_brought_back(training, uninterrupted):
    fault = {
        "apiVersion": "kubarium.dev/v1alpha1",
        "kind": "Fault",
        "metadata": {"name": "cut"},
        "spec": {"action": "Partition", "rank": 5},
    }
    training.apply(fault)

    [message, *_] = training.wait_until(
        lambda: training.events("HangDetected"), 30, "the hang is named"
    )
    assert "makes no progress" in message
    training.wait_until(lambda: completed(training), 90, "the run completes")
    assert training.get("jobset", "train")["status"]["restarts"] == 1
    assert said(training, "done")[0]["weights"] == uninterrupted
    training.wait_until(
        lambda: training.get("fault", "cut")["status"]["phase"] == "Completed",
        15,
        "nothing in force",
    )
    training.kubectl("delete", "fault", "cut", "--timeout=10s")
