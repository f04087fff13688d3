"""`up`: a cluster's life begins. The server is forked from here: what is imported stays in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kubarium.base.errors import ConfigError
from kubarium.cli import presentation
from kubarium.cli.console import err, out
from kubarium.cluster import kubeconfig as kubeconfigs
from kubarium.cluster.daemon import Launch, start_detached, start_here
from kubarium.cluster.file import ClusterFile, default_cluster, read_cluster_file
from kubarium.cluster.state import StateDirectory

DEFAULT_NODES = 2

MAX_PORT = 65535


def kubeconfig_target(named: Path | None) -> Path:
    """The file that gets our context."""
    return named or kubeconfigs.default_kubeconfig()


def up(
    name: str,
    file: Path | None,
    nodes: int | None,
    simulated: bool,
    detach: bool,
    port: int,
    in_memory: bool,
    target: Path | None,
) -> None:
    """Bring a cluster up, here or in the background."""
    if not 0 <= port <= MAX_PORT:
        raise ConfigError(f"--port {port}: give 1 to {MAX_PORT}, or 0 for any that is free")
    state = StateDirectory(name)
    cluster = described(file, nodes, simulated)
    running = state.read_record()
    if running:
        out.print(f"{name} runs already at {running.url} (context {running.context})")
        return
    launch = Launch(state, cluster, port, in_memory, target)
    for field in launch.file.ignored:
        err.print(f"[yellow]note:[/] {file}: {field} has no meaning here and is ignored")
    if target:
        kubeconfigs.check(target)  # before anything starts
    if detach:
        presentation.announce(start_detached(launch), launch)
    else:
        start_here(
            launch,
            lambda record: presentation.announce(record, launch, foreground=True),
            presentation.announce_shutdown,
        )


def described(file: Path | None, nodes: int | None, simulated: bool) -> ClusterFile:
    """The cluster that the flags describe."""
    if file and nodes is not None:
        raise ConfigError("--file and --nodes exclude each other: the file says how many nodes")
    if nodes is not None and not 1 <= nodes <= 20000:
        raise ConfigError(f"--nodes {nodes}: give 1 to 20000 nodes")
    runtime = "simulated" if simulated else "process"
    if file is None:
        return default_cluster(nodes or DEFAULT_NODES, runtime)
    cluster = read_cluster_file(file)
    if simulated:
        cluster = replace(cluster, pools=[replace(p, runtime=runtime) for p in cluster.pools])
    return cluster
