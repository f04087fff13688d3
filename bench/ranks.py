"""Fifteen ranks of torch on one machine: memory, and time from the TrainJob to the first step."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from kubarium.api.kinds import TRAIN_JOBS
from kubarium.api.logs import LogOptions
from kubarium.testing import run_real

RANKS = 15
PROGRAM = """
import json, os, time
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
for name, given in (("MASTER_ADDR", "MASTER_ADDR"), ("MASTER_PORT", "MASTER_PORT"),
                    ("RANK", "NODE_RANK"), ("WORLD_SIZE", "NNODES")):
    os.environ.setdefault(name, os.environ["PET_" + given])
dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(64, 64))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model(torch.randn(32, 64)).square().mean().backward()
optimizer.step()
stepped = time.time()
dist.barrier()
unique = pss = 0
for pid in os.listdir("/proc"):  # the pod's own: torchrun and the shell count too
    try:
        text = open(f"/proc/{pid}/smaps_rollup").read() if pid.isdigit() else ""
    except OSError:
        continue
    rows = dict(line.split(":") for line in text.splitlines()[1:])
    kb = {key: int(value.split()[0]) for key, value in rows.items()}
    unique += kb.get("Private_Clean", 0) + kb.get("Private_Dirty", 0)
    pss += kb.get("Pss", 0)
dist.barrier()
print(json.dumps({"stepped": stepped, "pss": pss, "uss": unique}), flush=True)
dist.destroy_process_group()
"""
PYTHON = ["python3", "-c", PROGRAM]
# What Kubeflow's SDK makes of CustomTrainer(func=...).
TORCHRUN = [
    "bash",
    "-c",
    f"""
read -r -d '' SCRIPT << 'EOM'
{PROGRAM}
EOM
printf "%s" "$SCRIPT" > "train.py"
torchrun "train.py"
""",
]


def _job(name: str, fork_server: bool, command: list[str]) -> dict[str, Any]:
    annotations = {"kubarium.dev/fork-server": "on" if fork_server else "off"}
    pod = {"metadata": {"annotations": annotations}}
    jobs = [{"name": "node", "template": {"spec": {"template": pod}}}]
    template = {"spec": {"replicatedJobs": jobs}}
    return {
        "apiVersion": TRAIN_JOBS.api_version,
        "kind": TRAIN_JOBS.kind,
        "metadata": {"name": name},
        "spec": {
            "runtimeRef": {"name": "torch-distributed"},
            "runtimePatches": [
                {"manager": "kubarium.dev/bench", "trainingRuntimeSpec": {"template": template}}
            ],
            "trainer": {
                "numNodes": RANKS,
                "command": command,
                "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
            },
        },
    }


def bench_ranks(report: Any) -> None:
    """One run without a fork server, one that has to make one, three that find it there."""
    if importlib.util.find_spec("torch") is None:
        print("ranks: left out, torch is not installed")
        return
    with tempfile.TemporaryDirectory() as home:
        runs = run_real(_story, Path(home), nodes=4)
    for figure, found in runs.items():
        report.add("ranks", f"{figure}: first step of all", [r[0] for r in found], "s")
        report.add("ranks", f"{figure}: unique memory", [r[1] for r in found], "MB")
        report.add("ranks", f"{figure}: proportional memory", [r[2] for r in found], "MB")


async def _story(cluster: Any) -> dict[str, list[tuple[float, float, float]]]:
    found: dict[str, list[tuple[float, float, float]]] = {}
    for kind, command in (("python", PYTHON), ("bash, torchrun", TORCHRUN)):
        mark = kind[:1]
        title = f"{RANKS} ranks, {kind}"
        found[f"{title}, no fork server"] = [await _run(cluster, f"{mark}-cold", False, command)]
        found[f"{title}, its first job"] = [await _run(cluster, f"{mark}-first", True, command)]
        later = [await _run(cluster, f"{mark}-warm-{i}", True, command) for i in range(3)]
        found[f"{title}, later jobs"] = later
    return found


async def _run(
    cluster: Any, name: str, fork_server: bool, command: list[str]
) -> tuple[float, float, float]:
    """Seconds until the last rank has made its first step, and what all ranks use in MB."""
    began = time.time()
    await cluster.apply(_job(name, fork_server, command))
    await cluster.until_true(TRAIN_JOBS, name, "Complete", timeout_s=400)
    said = []
    for pod in await cluster.pods(selector=f"jobset.sigs.k8s.io/jobset-name={name}"):
        chunks = cluster.embedded.logs("default", pod["metadata"]["name"], LogOptions())
        text = b"".join([chunk async for chunk in chunks]).decode()
        lines = [line for line in text.splitlines() if line.startswith("{")]
        said.append(json.loads(lines[-1]))
    await cluster.client.delete(TRAIN_JOBS, name, "default")
    stepped = max(row["stepped"] for row in said) - began
    return stepped, sum(r["uss"] for r in said) / 1e3, sum(r["pss"] for r in said) / 1e3
