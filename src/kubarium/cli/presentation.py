"""What a cluster that came up says."""

from __future__ import annotations

import shutil

from kubarium.cli.console import out
from kubarium.cluster.daemon import Launch
from kubarium.cluster.state import ServerRecord


def announce(record: ServerRecord, launch: Launch, foreground: bool = False) -> None:
    """The lines that tell a user that the cluster is there and what to type next."""
    nodes = sum(pool.count for pool in launch.file.pools)
    out.print(
        f"[bold green]{launch.state.name}[/] is up at {record.url}: {nodes} node"
        f"{'s' if nodes != 1 else ''}, ready in {record.ready_after_s:.2f} s"
    )
    if record.kubeconfig:
        out.print(f"  kubectl context {record.context} is current (in {record.kubeconfig})")
    else:
        out.print(f"  export KUBECONFIG={launch.state.kubeconfig}")
    if foreground:
        out.print("  Ctrl-C stops it and its pods; its objects are kept")
    else:
        named = "" if launch.state.name == "kubarium" else f" --name {launch.state.name}"
        first = "kubectl get nodes" if shutil.which("kubectl") else "(no kubectl on PATH)"
        out.print(f"  {first} · kubarium status{named} · kubarium down{named}")


def announce_shutdown(seconds: float) -> None:
    """The line that tells why a cluster in the foreground does not end at once."""
    out.print(f"nodes shut down, pods have up to {seconds:g} s; Ctrl-C again ends them at once")


def announce_temporary(record: ServerRecord, launch: Launch) -> None:
    """One line for a cluster that only lives as long as the command."""
    nodes = sum(pool.count for pool in launch.file.pools)
    out.print(f"a cluster of {nodes} nodes, ready in {record.ready_after_s:.2f} s")
