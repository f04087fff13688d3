"""Plain PyTorch DDP that knows nothing of Kubarium is hit, and comes back with the same bits.

Its loop, its checkpoint and its resume are the user's own, under torchrun and under plain Python.
"""

import re

import pytest

from kubarium.node.runtimes.process.cgroups import Cgroups
from tests.conftest import kubectls

from .ranks import run_ranks

pytestmark = [
    pytest.mark.torch,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not kubectls(), reason="needs kubectl"),
]
RANKS, STEPS = 3, 200
PROGRAM = """
import os, sys, time
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

for name, given in (("MASTER_ADDR", "MASTER_ADDR"), ("MASTER_PORT", "MASTER_PORT"),
                    ("RANK", "NODE_RANK"), ("WORLD_SIZE", "NNODES")):
    os.environ.setdefault(name, os.environ.get("PET_" + given, ""))
folder, steps = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(1)
net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
# Otherwise DDP orders its buckets anew after the first step, and three ranks' sums with them.
model = DistributedDataParallel(net, find_unused_parameters=True)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
path, began = f"{folder}/last.pt", 0
if os.path.exists(path):
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    began = saved["step"]
dist.barrier()
with open(f"{folder}/pid-{rank}", "w") as file:
    file.write(str(os.getpid()))
print("began at", began, flush=True)
held = []
for step in range(began + 1, steps + 1):
    torch.manual_seed(1000 * step + rank)
    batch = torch.randn(8, 16)
    optimizer.zero_grad()
    loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        print("step", step, loss.item().hex(), flush=True)
        if rank == 0:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(saved, path + ".new")
            os.replace(path + ".new", path)
    if rank == 2 and step == 30 and "--surge" in sys.argv:
        held.append(torch.ones(30_000_000))
    time.sleep(float(os.environ.get("STEP_TIME", "0")))
sums = [parameter.detach().double().sum().item().hex() for parameter in model.parameters()]
print("ended with", sums, flush=True)
dist.destroy_process_group()
"""
COMMANDS = {
    "python": ["python3", "/code/train.py", "/checkpoints", str(STEPS)],
    "torchrun": ["torchrun", "/code/train.py", "/checkpoints", str(STEPS)],
    "bash, torchrun": ["bash", "-c", f"torchrun /code/train.py /checkpoints {STEPS}"],
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The losses and weights of the same ranks when nothing happens to them."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "train.py").write_text(PROGRAM)
    command = [str(folder / "train.py"), str(folder), str(STEPS)]
    return facts(run_ranks(command, RANKS, 300))


def facts(text):
    """The losses by step, and the weights at the end."""
    losses = dict(re.findall(r"^step (\d+) (\S+)$", text, re.MULTILINE))
    return losses, re.findall(r"^ended with (.*)$", text, re.MULTILINE)


class Training:
    """A cluster with one JobSet of the program."""

    def __init__(self, cluster, command, memory="", program=PROGRAM, **annotations):
        self.cluster = cluster
        self.folder, code = cluster.home / "checkpoints", cluster.home / "code"
        self.folder.mkdir(mode=0o777)
        code.mkdir()
        (code / "train.py").write_text(program)
        index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        # As Trainer's torch policy gives them.
        given = {"PET_NNODES": str(RANKS), "PET_NPROC_PER_NODE": "1", "PET_MASTER_PORT": "29500",
                 "PET_MASTER_ADDR": "train-workers-0-0.train", "OMP_NUM_THREADS": "1",
                 "STEP_TIME": "0.03"}  # fmt: skip
        rank = {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": index}}}
        container = {
            "name": "rank",
            "image": "pytorch/pytorch",
            "command": command,
            "env": [{"name": name, "value": value} for name, value in given.items()] + [rank],
            "volumeMounts": [{"name": name, "mountPath": f"/{name}"}
                             for name in ("checkpoints", "code")],
        }  # fmt: skip
        if memory:
            container["resources"] = {"requests": {"memory": "64Mi"}, "limits": {"memory": memory}}
        pod = {
            "metadata": {"annotations": {f"kubarium.dev/{n}": v for n, v in annotations.items()}},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 5,
                "containers": [container],
                "volumes": [{"name": name, "hostPath": {"path": str(cluster.home / name)}}
                            for name in ("checkpoints", "code")],
            },
        }  # fmt: skip
        job = {"parallelism": RANKS, "completions": RANKS, "backoffLimit": 0, "template": pod}
        jobset = {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {"name": "train"},
            "spec": {
                "failurePolicy": {"maxRestarts": 10},
                "replicatedJobs": [{"name": "workers", "template": {"spec": job}}],
            },
        }
        cluster.apply(jobset)

    def pod(self, rank):
        selector = f"batch.kubernetes.io/job-completion-index={rank}"
        names = self.cluster.kubectl("get", "pods", "-l", selector, "-o", "name")
        return names.splitlines()[0]

    def log(self, rank):
        selector = f"batch.kubernetes.io/job-completion-index={rank}"
        return self.cluster.kubectl("logs", "-l", selector, "--tail=-1", check=False)

    def until_saved(self):
        self.cluster.wait_until((self.folder / "last.pt").exists, 200, "a checkpoint")

    def signal(self, rank, name):
        """To the very process that trains."""
        pid = (self.folder / f"pid-{rank}").read_text()
        self.cluster.kubectl("exec", self.pod(rank), "--", "kill", f"-{name}", pid)

    def until_completed(self):
        self.cluster.wait_until(
            lambda: self.cluster.has("Completed", "jobset", "train"), 300, "the run completes"
        )

    def restarts(self):
        return self.cluster.get("jobset", "train")["status"].get("restarts", 0)


@pytest.mark.parametrize("how", COMMANDS)
def test_a_killed_rank_costs_no_more_than_the_last_save(how, start_cluster, uninterrupted):
    training = Training(start_cluster(), COMMANDS[how])
    training.until_saved()
    training.signal(1, "KILL")
    training.cluster.wait_until(lambda: training.restarts() == 1, 60, "a restart")
    training.until_completed()
    text = training.log(0)
    [began] = re.findall(r"began at (\d+)", text)
    assert int(began) >= 10
    assert int(began) % 10 == 0
    losses, weights = facts(text)
    assert weights == uninterrupted[1]
    assert losses.items() <= uninterrupted[0].items()
    assert min(map(int, losses)) == int(began) + 10
    assert training.restarts() == 1


def test_a_stopped_worker_of_torchrun_is_named_with_its_stack(start_cluster, uninterrupted):
    options = {"hang-timeout": "60s"}
    training = Training(start_cluster(), COMMANDS["bash, torchrun"], **options)
    training.until_saved()
    training.signal(2, "STOP")
    [message, *_] = training.cluster.wait_until(
        lambda: training.cluster.events("HangDetected"), 60, "the hang is named"
    )
    assert message.startswith("rank 2 (pod train-workers-0-2-")
    assert "was stopped by a signal" in message
    assert "train.py:" in message
    training.until_completed()
    assert training.restarts() == 1
    assert facts(training.log(0))[1] == uninterrupted[1]


def test_a_rank_over_its_memory_limit_grows_in_place(start_cluster, uninterrupted):
    groups = Cgroups.open("probe-torch-memory")
    versions = {h.version for h in groups.hierarchies if "memory" in h.controllers}
    groups.close()
    if versions != {1}:
        pytest.skip("needs a writable memory controller of version 1, which can hold a group")
    command = [*COMMANDS["torchrun"], "--surge"]
    options = {"oom-policy": "grow", "oom-ceiling": "1Gi"}
    training = Training(start_cluster(), command, memory="128Mi", **options)
    training.until_completed()
    assert training.restarts() == 0
    grown = training.cluster.events("MemoryGrown")
    assert grown
    assert all(message.startswith("rank 2 (pod train-workers-0-2-") for message in grown)
    assert not training.cluster.events("OOMKilling")
    assert facts(training.log(0)) == uninterrupted


SLOW_RANK = """
import os, time
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from kubarium import train

dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
with train.Run("/checkpoints/torch", every=20, total=60, dcp=True) as run:
    state = run.resume({"model": model, "optimizer": optimizer})
    for step in run.steps():
        torch.manual_seed(100 * step + run.rank)
        batch = torch.randn(8, 16)
        time.sleep(0.15 if run.rank == 1 else 0.03)
        with run.waiting():
            dist.barrier()
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
        run.save_if_due(state)
dist.destroy_process_group()
"""


def test_a_straggler_under_torchrun_gets_its_score(start_cluster):
    training = Training(start_cluster(), ["torchrun", "/code/train.py"], program=SLOW_RANK)
    training.until_completed()
    assert sorted(path.name for path in (training.folder / "torch").glob("step-*")) == [
        f"step-{step:08d}" for step in (20, 40, 60)
    ]
    told = training.cluster.kubarium("goodput", "jobset/train").stdout
    [(rank, score)] = re.findall(r"rank (\d) is slow: ([0-9.]+) times", told)
    assert rank == "1"
    assert float(score) > 1.5
