"""JAX ranks find each other by what Trainer gives them, and come back when one is hit."""

import re

import pytest

from kubarium.cluster import training
from tests.conftest import kubectls

pytestmark = [
    pytest.mark.jax,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not kubectls(), reason="needs kubectl"),
]
STEPS = 60
PROGRAM = """
import os, sys, time
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import multihost_utils

jax.distributed.initialize(os.environ["JAX_COORDINATOR_ADDRESS"],
                           int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"]))
rank = jax.process_index()
path, began, weights = "/checkpoints/last.npz", 0, jnp.zeros(8)
if os.path.exists(path):
    with np.load(path) as saved:
        began, weights = int(saved["step"]), jnp.array(saved["weights"])
multihost_utils.sync_global_devices("loaded")
with open(f"/checkpoints/pid-{rank}", "w") as file:
    file.write(str(os.getpid()))
print("rank", rank, "of", jax.process_count(), "began at", began, flush=True)

@jax.jit
def gradient(weights, batch):
    return jax.grad(lambda w: jnp.mean((batch @ w - batch.sum(1)) ** 2))(weights)

for step in range(began + 1, int(sys.argv[1]) + 1):
    batch = jax.random.normal(jax.random.key(1000 * step + rank), (16, 8))
    parts = multihost_utils.process_allgather(gradient(weights, batch))
    weights = weights - 0.1 * jnp.asarray(parts).reshape(-1, 8).mean(0)
    if step % 10 == 0 and rank == 0:
        np.savez(path + ".new.npz", step=step, weights=np.asarray(weights))
        os.replace(path + ".new.npz", path)
    time.sleep(0.05)
print("ended with", [float(w).hex() for w in weights], flush=True)
"""


def runtime(folder):
    """The stock runtime, with a folder for checkpoints and restarts of the whole gang."""
    [found] = [r for r in training.runtimes() if r["metadata"]["name"] == "jax-distributed"]
    found |= {"kind": "TrainingRuntime", "metadata": found["metadata"] | {"name": "jax-restarts"}}
    jobset = found["spec"]["template"]["spec"]
    jobset["failurePolicy"] = {"maxRestarts": 5}
    job = jobset["replicatedJobs"][0]["template"]["spec"]
    job["backoffLimit"] = 0
    pod = job["template"]["spec"]
    pod |= {"restartPolicy": "Never", "terminationGracePeriodSeconds": 2}
    pod["volumes"] = [{"name": "checkpoints", "hostPath": {"path": str(folder)}}]
    pod["containers"][0]["volumeMounts"] = [{"name": "checkpoints", "mountPath": "/checkpoints"}]
    return found


def job(name):
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {
            "runtimeRef": {"name": "jax-restarts", "kind": "TrainingRuntime"},
            "trainer": {"numNodes": 2, "command": ["python3", "-c", PROGRAM, str(STEPS)]},
        },
    }


def test_a_killed_rank_brings_all_back_to_the_last_save_with_the_same_bits(start_cluster):
    cluster = start_cluster()
    folder = cluster.home / "checkpoints"
    folder.mkdir(mode=0o777)

    def until_complete(name):
        cluster.wait_until(
            lambda: cluster.has("Complete", "trainjob", name), 200, f"{name} completes"
        )
        return cluster.kubectl("logs", "-l", f"{JOBSET}={name},{INDEX}=0", "--tail=-1")

    cluster.apply(runtime(folder))
    cluster.apply(job("calm"))
    calm = until_complete("calm")
    assert "rank 0 of 2 began at 0" in calm
    (folder / "last.npz").unlink()
    cluster.apply(job("hit"))
    cluster.wait_until((folder / "last.npz").exists, 100, "a checkpoint")
    pid = (folder / "pid-1").read_text()
    selector = f"{JOBSET}=hit,{INDEX}=1"
    [name] = cluster.kubectl("get", "pods", "-l", selector, "-o", "name").split()
    cluster.kubectl("exec", name, "--", "kill", "-KILL", pid)
    hit = until_complete("hit")
    [began] = re.findall(r"began at (\d+)", hit)
    assert int(began) >= 10
    assert hit.splitlines()[-1] == calm.splitlines()[-1]
    assert cluster.get("jobset", "hit")["status"]["restarts"] == 1


JOBSET, INDEX = "jobset.sigs.k8s.io/jobset-name", "batch.kubernetes.io/job-completion-index"
