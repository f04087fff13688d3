"""`make bench`: measurements on this machine, each row several times, median and spread.

    python bench/run.py [--quick] [row ...]

Rows: startup api store nodes questions engine queueing scheduler training ranks; ``--quick``
makes scheduler's shapes ten times smaller.

Rows that have something to compare with print it beside their own figure: published gates of kwok
and of kube-scheduler's own benchmark are other machines' numbers, so read them as orders of size.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from engine import bench_engine
from queueing import bench_queueing
from ranks import bench_ranks
from rich.console import Console
from rich.table import Table
from scheduler import bench_scheduler
from training import bench_training

from kubarium.api.catalog import Catalog
from kubarium.api.kinds import CONFIG_MAPS, NAMESPACES, NODES, PODS, RESOURCE_CLAIMS
from kubarium.base.chance import Chance
from kubarium.client.http import HttpClient
from kubarium.cluster.clock import RealClock
from kubarium.cluster.collector import tune_collector
from kubarium.cluster.embedded import EmbeddedCluster
from kubarium.cluster.file import ClusterFile, NodePool
from kubarium.cluster.state import StateDirectory
from kubarium.server.api_server import ApiServer
from kubarium.server.local import LocalClient
from kubarium.store import MemoryStore
from kubarium.store.sqlite import SqliteStore

console = Console(highlight=False, width=120)
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"generateName": "pod-", "labels": {"app": "bench"}},
    "spec": {
        "containers": [
            {
                "name": "pause",
                "image": "registry.k8s.io/pause:3.10",
                "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}},
            }
        ]
    },
}
CONFIG = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "c-"}}
# After a start, until a cluster is idle and has all its processes.
SETTLE_S = 2.0


class Report:
    def __init__(self) -> None:
        self.table = Table("row", "figure", "median", "min – max", "compare", box=None)
        self.figures: dict[str, float] = {}

    def add(self, row: str, figure: str, values: list[float], unit: str, compare: str = "") -> None:
        median = statistics.median(values)
        self.figures[f"{row}: {figure}"] = median
        spread = f"{min(values):,.4g} – {max(values):,.4g}" if len(values) > 1 else ""
        self.table.add_row(row, figure, f"{median:,.4g} {unit}", spread, compare)
        console.print(f"[bright_black]{row}: {figure}: {median:,.4g} {unit} {compare}[/]")


def bench_startup(report: Report) -> None:
    """`kubarium up --detach` to a first answered `get nodes`, five times, in fresh homes."""
    total, ready, memory, whole = [], [], [], []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as home:
            environment = os.environ | {"KUBARIUM_HOME": home, "KUBECONFIG": f"{home}/config"}
            command = [sys.executable, "-m", "kubarium.cli.main"]
            began = time.perf_counter()
            subprocess.run(
                [*command, "up", "--detach"], env=environment, check=True, capture_output=True
            )
            asyncio.run(_get_nodes(f"{home}/config"))
            total.append(time.perf_counter() - began)
            time.sleep(SETTLE_S)
            record = StateDirectory("kubarium", Path(home)).read_record()
            assert record
            process = record.process()
            assert process
            ready.append(record.ready_after_s)
            memory.append(process.memory_info().rss / 1e6)
            processes = [process, *process.children(recursive=True)]
            # What processes share is counted once.
            whole.append(sum(p.memory_full_info().pss for p in processes) / 1e6)
            subprocess.run([*command, "reset"], env=environment, check=True, capture_output=True)
    report.add("startup", "up --detach to get nodes", total, "s", "aim: < 2 s, designed for 1 s")
    report.add("startup", "server after its imports", ready, "s")
    report.add("startup", "resident memory, server", memory, "MB")
    report.add("startup", "memory, all its processes", whole, "MB", "aim: < 150 MB")


async def _get_nodes(kubeconfig: str) -> None:
    async with HttpClient.from_kubeconfig(kubeconfig) as client:
        assert (await client.list(NODES)).items


def bench_api(report: Report) -> None:
    """Objects a second, in process and through HTTPS with one and with 16 connections."""
    report.add("api", "create pods, in process", asyncio.run(_in_process(PODS, POD)), "/s")
    rates = asyncio.run(_in_process(CONFIG_MAPS, CONFIG))
    report.add("api", "create ConfigMaps, in process", rates, "/s")
    for workers in (1, 16):
        rates = asyncio.run(_over_https(workers))
        figure = f"create ConfigMaps, HTTPS, {workers} in flight"
        report.add("api", figure, rates, "/s", "acknowledged on disk")


async def _in_process(resource, document, count: int = 2000) -> list[float]:
    rates = []
    for _ in range(5):
        server = ApiServer(MemoryStore(), Catalog.builtin(), RealClock(), Chance(1))
        client = LocalClient(server, "system:admin")
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
        await client.create(NAMESPACES, namespace)
        began = time.perf_counter()
        for _ in range(count):
            await client.create(resource, document, "default")
        rates.append(count / (time.perf_counter() - began))
    return rates


async def _over_https(workers: int, count: int = 600) -> list[float]:
    """The client runs in this process as well, so both halves of the exchange are in the figure."""
    rates = []
    with tempfile.TemporaryDirectory() as home:
        state = StateDirectory("bench", Path(home))
        state.create()
        pool = NodePool("node", 1, "simulated", {"cpu": "1", "memory": "1Gi", "pods": "1"})
        cluster = EmbeddedCluster.on_disk(state, ClusterFile([pool]))
        async with cluster.serving() as access:
            path = Path(home) / "config"
            path.write_text(json.dumps(access.kubeconfig("bench")))
            async with HttpClient.from_kubeconfig(str(path)) as client:

                async def work(number: int) -> None:
                    for _ in range(number):
                        await client.create(CONFIG_MAPS, CONFIG, "default")

                await work(20)
                for _ in range(3):
                    began = time.perf_counter()
                    await asyncio.gather(*(work(count // workers) for _ in range(workers)))
                    rates.append(count / (time.perf_counter() - began))
    return rates


def bench_store(report: Report) -> None:
    """Acknowledged writes on SQLite with fsync: one at a time, and 64 that share a commit."""
    for batch in (1, 64):
        rates = []
        for _ in range(3):
            with tempfile.TemporaryDirectory() as home:
                rates.append(asyncio.run(_write(Path(home) / "store.db", batch)))
        report.add("store", f"durable writes, {batch} a commit", rates, "/s")


async def _write(path: Path, batch: int, count: int = 640) -> float:
    store = SqliteStore.open(path)
    began = time.perf_counter()
    for number in range(count):
        store.put(f"/core/configmaps/default/c{number}", {"data": {"n": str(number)}}, 0)
        if number % batch == batch - 1:
            await store.durable()
    rate = count / (time.perf_counter() - began)
    store.close()
    return rate


def bench_nodes(report: Report, nodes: int = 5000, pods: int = 10000) -> None:
    """kwok's own gate: 5,000 nodes Ready in 60 s, 10,000 pods Running in 60 s."""
    ready, running = asyncio.run(_fill(nodes, pods))
    report.add("nodes", f"{nodes:,} simulated nodes Ready", [ready], "s", "kwok's gate: 60 s")
    figure = f"{pods:,} pods created, scheduled, Running"
    report.add("nodes", figure, [running], "s", "kwok's gate: 60 s, without a scheduler")
    report.add(
        "nodes",
        f"pods a second through the API on {nodes:,} nodes",
        [pods / running],
        "/s",
        "kube-scheduler's threshold: 680 /s",
    )


async def _fill(nodes: int, pods: int) -> tuple[float, float]:
    tune_collector()
    capacity = {"cpu": "32", "memory": "256Gi", "pods": "110"}
    pool = NodePool("node", nodes, "simulated", capacity)
    cluster = EmbeddedCluster(ClusterFile([pool]), RealClock(), Chance(1))
    began = time.perf_counter()
    async with cluster.running():
        ready = time.perf_counter() - began
        began = time.perf_counter()
        for number in range(pods):
            await cluster.client.create(PODS, POD, "default")
            if number % 50 == 49:
                await asyncio.sleep(0)
        while await _count_running(cluster) < pods:  # noqa: ASYNC110 - as a client would ask
            await asyncio.sleep(0.5)
        return ready, time.perf_counter() - began


async def _count_running(cluster: EmbeddedCluster) -> int:
    items = (await cluster.client.list(PODS, "default")).items
    return sum(1 for pod in items if pod.get("status", {}).get("phase") == "Running")


GPU_CLUSTER = """
apiVersion: kubarium.dev/v1alpha1
kind: Cluster
spec:
  nodePools:
  - name: gpu
    count: 5000
    runtime: simulated
    devices: [{profile: gpu.example.com, count: 8}]
"""
TOO_MANY = {
    "metadata": {"name": "wide", "namespace": "default"},
    "spec": {
        "devices": {
            "requests": [
                {"name": "gpus", "exactly": {"deviceClassName": "gpu.example.com", "count": 9}}
            ]
        }
    },
}
WAITING = {
    "metadata": {"name": "wide", "namespace": "default"},
    "spec": {
        "containers": [{**POD["spec"]["containers"][0], "resources": {"claims": [{"name": "g"}]}}],
        "resourceClaims": [{"name": "g", "resourceClaimName": "wide"}],
    },
}


def bench_questions(report: Report) -> None:
    """5,000 nodes of 8 devices from the command to Ready, and `kubarium why` of a pod there."""
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"KUBARIUM_HOME": home, "KUBECONFIG": f"{home}/config"}
        file = Path(home, "cluster.yaml")
        file.write_text(GPU_CLUSTER)

        def command(*arguments: str) -> float:
            began = time.perf_counter()
            line = [sys.executable, "-m", "kubarium.cli.main", *arguments]
            subprocess.run(line, env=environment, check=True, capture_output=True)
            return time.perf_counter() - began

        ready = command("up", "--detach", "--in-memory", "--file", str(file))
        try:
            report.add("questions", "up --detach, 5,000 nodes of 8 devices", [ready], "s")
            asyncio.run(_ask_too_much(f"{home}/config"))
            answered = [command("why", "pod/wide") for _ in range(5)]
            figure = "kubarium why, the whole command, 5,000 nodes of 8 devices"
            report.add("questions", figure, answered, "s")
        finally:
            command("down")


async def _ask_too_much(kubeconfig: str) -> None:
    """A pod that wants more devices than a node has, and time to be told so."""
    async with HttpClient.from_kubeconfig(kubeconfig) as client:
        await client.create(RESOURCE_CLAIMS, TOO_MANY, "default")
        await client.create(PODS, WAITING, "default")
        while not (await client.get(PODS, "wide", "default"))["status"].get("conditions"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


ROWS: dict[str, Callable[[Report], None]] = {
    "startup": bench_startup,
    "api": bench_api,
    "store": bench_store,
    "nodes": bench_nodes,
    "questions": bench_questions,
    "engine": bench_engine,
    "queueing": bench_queueing,
    "scheduler": bench_scheduler,
    "training": bench_training,
    "ranks": bench_ranks,
}


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--quick"]
    chosen = arguments or list(ROWS)
    unknown = [name for name in chosen if name not in ROWS]
    if unknown:
        sys.exit(f"no such row: {', '.join(unknown)}; rows: {', '.join(ROWS)}")
    report = Report()
    for name in chosen:
        if name == "scheduler":
            bench_scheduler(report, quick="--quick" in sys.argv[1:])
        else:
            ROWS[name](report)
    console.print(report.table)


if __name__ == "__main__":
    main()
