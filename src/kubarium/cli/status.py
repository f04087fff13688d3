"""The report behind `kubarium status`."""

from __future__ import annotations

from typing import Any

import orjson
import psutil

from kubarium.api.kinds import NODES, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES
from kubarium.api.resource import Document
from kubarium.cli.console import out
from kubarium.client.http import HttpClient
from kubarium.cluster.state import ServerRecord


async def status_report(client: HttpClient, record: ServerRecord) -> dict[str, Any]:
    """Everything that `status` shows, as JSON."""
    version = orjson.loads(await client.raw("/version"))
    nodes = (await client.list(NODES)).items
    pods = (await client.list(PODS)).items
    slices = (await client.list(RESOURCE_SLICES)).items
    claims = (await client.list(RESOURCE_CLAIMS)).items
    process = record.process()
    return {
        "url": record.url,
        "context": record.context,
        "pid": record.pid,
        "version": version["gitVersion"],
        "readyAfterSeconds": record.ready_after_s,
        "memoryBytes": _memory_bytes(process) if process else 0,
        "nodes": {"total": len(nodes), "ready": sum(map(is_ready, nodes))},
        "pods": _count_phases(pods),
        "devices": {
            "total": sum(len(s["spec"].get("devices", [])) for s in slices),
            "allocated": sum(_allocated(claim) for claim in claims),
        },
        "isolation": list(record.isolation),
    }


def _memory_bytes(server: psutil.Process) -> int:
    """Of the server and the node agents beside it; what they share counts once, where the system
    tells."""
    found = 0
    for process in (server, *server.children(recursive=True)):
        try:
            if process.cmdline() == server.cmdline():  # a fork of the server's, not a container
                full = process.memory_full_info()
                found += getattr(full, "pss", 0) or full.rss
        except psutil.Error:
            continue
    return found


def is_ready(node: Document) -> bool:
    """Whether the node says so."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _count_phases(pods: list[Document]) -> dict[str, int]:
    phases: dict[str, int] = {}
    for pod in pods:
        phase = pod.get("status", {}).get("phase", "Pending")
        phases[phase] = phases.get(phase, 0) + 1
    return dict(sorted(phases.items()))


def _allocated(claim: Document) -> int:
    allocation = claim.get("status", {}).get("allocation") or {}
    return len(allocation.get("devices", {}).get("results", []))


def show_status(report: dict[str, Any]) -> None:
    """The report for people."""
    memory = report["memoryBytes"] / 1e6
    phases = ", ".join(f"{count} {phase}" for phase, count in report["pods"].items())
    nodes, devices = report["nodes"], report["devices"]
    for label, text in (
        ("server", f"{report['url']} ({report['version']}, context {report['context']})"),
        ("process", f"pid {report['pid']}, {memory:.0f} MB"),
        ("nodes", f"{nodes['ready']} of {nodes['total']} ready"),
        ("pods", phases or "none"),
        ("devices", f"{devices['allocated']} of {devices['total']} allocated"),
    ):
        out.print(f"  {label:<9}{text}", markup=False)
    for line in report["isolation"]:
        out.print(f"  {line}", markup=False)
