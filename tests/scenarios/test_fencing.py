"""A rank on a node that was cut off runs on beside its successor, and can do it no harm."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.conftest import kubectls

from .test_elastic import INDEX, completed, pods, rank_pod, record, spares, waits

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not kubectls(), reason="needs kubectl"),
]

# Ranks that need nobody to go on: rank 0 saves who it is with every fifth step, and tells whoever
# asks at the rendezvous of its attempt. What it saves is noted, to be compared with what is there.
PROGRAM = """
import os, socket, sys, threading, time
import numpy as np
from kubarium import train

rank, attempt = int(os.environ["RANK"]), int(os.environ["KUBARIUM_ATTEMPT"])
place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
def answer():
    with socket.create_server(("0.0.0.0", place[1])) as server:
        while True:
            peer, _ = server.accept()
            with peer:
                peer.sendall(str(attempt).encode())
def ask():
    while True:
        try:
            with socket.create_connection(place, 1.0) as peer:
                return peer.recv(99).decode()
        except OSError:
            time.sleep(0.05)
if rank == 0:
    threading.Thread(target=answer, daemon=True).start()
else:
    print("attempt", attempt, "joined", ask(), flush=True)
try:
    with train.Run("/checkpoints", every=5, total=int(sys.argv[1]), keep=1000) as run:
        state = run.resume({"attempt": np.zeros(1)})
        print("attempt", attempt, "from", run.step, flush=True)
        for step in run.steps():
            time.sleep(0.04)
            run.save_if_due({"attempt": np.full(1, attempt)})
except train.FencedError as error:
    print("fenced:", error, flush=True)
    time.sleep(1000)
"""


def jobset(folder, steps):
    """Two ranks and a spare, each on a node of its own."""
    apart = {
        "labelSelector": {"matchLabels": {"batch.kubernetes.io/job-name": "train-workers-0"}},
        "topologyKey": "kubernetes.io/hostname",
    }
    container = {
        "name": "rank",
        "image": "kubarium/train",
        "command": ["python", "-c", PROGRAM, str(steps)],
        "volumeMounts": [{"name": "checkpoints", "mountPath": "/checkpoints"}],
    }
    spec = {
        "restartPolicy": "Never",
        "containers": [container],
        "affinity": {
            "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}
        },
        "volumes": [{"name": "checkpoints", "hostPath": {"path": str(folder)}}],
    }
    template = {"metadata": {"annotations": {"kubarium.dev/spares": "1"}}, "spec": spec}
    job = {"completions": 2, "parallelism": 2, "backoffLimit": 0, "template": template}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "train"},
        "spec": {"replicatedJobs": [{"name": "workers", "template": {"spec": job}}]},
    }


def test_a_rank_of_an_attempt_that_is_over_cannot_write_into_the_next_ones_checkpoints(
    start_cluster,
):
    cluster = start_cluster("--nodes", "4")
    folder = cluster.home / "checkpoints"
    folder.mkdir(mode=0o777)
    cluster.apply(jobset(folder, 700))
    cluster.wait_until(lambda: len(list(folder.glob("step-*"))) > 1, 60, "two checkpoints")
    cluster.wait_until(lambda: spares(cluster) and waits(spares(cluster)[0]), 30, "a warm spare")
    stale = rank_pod(cluster, 0)
    uid, node = stale["metadata"]["uid"], stale["spec"]["nodeName"]
    [log] = cluster.home.rglob(f"pods/{uid}/logs/rank/0.log")
    cut_off = {
        "apiVersion": "kubarium.dev/v1alpha1",
        "kind": "Fault",
        "metadata": {"name": "cut-off"},
        "spec": {
            "action": "DisconnectNode",
            "selector": {"matchLabels": {"kubernetes.io/hostname": node}},
        },
    }
    cluster.apply(cut_off)
    name = stale["metadata"]["name"]
    cluster.wait_until(
        lambda: "is away" in cluster.kubectl("logs", name, check=False), 20, "the node is away"
    )
    # As somebody does who sees it NotReady, or the gang's controller once it is: nobody asks the
    # node, whose rank trains on.
    cluster.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    cluster.wait_until(lambda: cluster.events("SparePromoted"), 30, "the spare has rank 0")
    assert record(cluster)["attempt"] == 2
    successor = rank_pod(cluster, 0)
    assert successor["metadata"]["uid"] != uid

    def fenced():
        return "fenced: " in log.read_text()

    cluster.wait_until(fenced, 30, "the rank that was cut off has learned of it")
    assert (
        "fenced: /checkpoints: attempt 2 of this run has the checkpoints, this rank is of "
        "attempt 1: it was cut off and replaced, and saves no more"
    ) in log.read_text()
    assert log.exists(), "its pod runs on: no node has ended it"
    cluster.wait_until(lambda: completed(cluster), 90, "the run completes")

    said = {
        pod["metadata"]["labels"][INDEX]: cluster.kubectl("logs", pod["metadata"]["name"])
        for pod in pods(cluster, INDEX)
        if pod["spec"]["nodeName"] != node
    }
    [line] = [one for one in said["0"].splitlines() if "attempt 2 from" in one]
    resumed = int(line.rpartition(" ")[2])
    assert resumed > 0, "from what the first attempt had saved"
    assert "attempt 2 joined 2" in said["1"], "the rendezvous of an attempt is its own"
    writers = {}
    for place in folder.glob("step-*"):
        with np.load(place / "rank-00000.npz") as found:
            writers[int(place.name[5:])] = int(found["attempt"][0])
    assert max(writers) == 700
    assert {step for step, attempt in writers.items() if attempt == 1} == set(
        range(5, resumed + 1, 5)
    ), "nothing of the first attempt has come after the second began"
    assert json.loads((folder / "attempt.json").read_text())["number"] == [0, 2]

    cluster.kubectl("delete", "fault", "cut-off")
    cluster.wait_until(lambda: not log.exists(), 30, "the node is back, and has ended the rank")
