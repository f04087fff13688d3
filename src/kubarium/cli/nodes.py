"""`kubarium node`: switches nodes off, with time for their pods, and on again."""

from __future__ import annotations

import asyncio
from difflib import get_close_matches
from pathlib import Path

from kubarium.api.kinds import NODES, PODS
from kubarium.api.resource import Document
from kubarium.base.duration import duration_s
from kubarium.base.errors import ApiError, ConfigError
from kubarium.base.quoted import listed
from kubarium.cli.connection import asking
from kubarium.cli.console import out
from kubarium.cli.status import is_ready
from kubarium.client.http import HttpClient
from kubarium.view.shutdown import ANNOTATION, CONFIGURED, is_ordered

_LOOK_S = 0.2
# Nodes named where none has the name that is asked for.
NAMED = 10
_ENDED = ("Succeeded", "Failed")


def shutdown(
    node: str, grace: str, wait: bool, name: str, kubeconfig: Path | None, context: str
) -> None:
    """Give the order; with ``wait`` return when no pod of the node's runs any more."""
    if grace:
        try:
            duration_s(grace)
        except ValueError:
            raise ConfigError(f"--grace {grace!r}: write a duration, as 30s or 1m30s") from None
    asking(name, kubeconfig, context, lambda client: _shut_down(client, node, grace, wait))


def start(node: str, name: str, kubeconfig: Path | None, context: str) -> None:
    """Take the order back, and wait until the node is ready."""
    asking(name, kubeconfig, context, lambda client: _start(client, node))


async def _shut_down(client: HttpClient, name: str, grace: str, wait: bool) -> None:
    if is_ordered(await node_named(client, name)):
        out.print(f"node {name} is being shut down already, or is off")
    else:
        await _annotate(client, name, grace or CONFIGURED)
        out.print(f"node {name} shuts down")
    seen: dict[str, None] = {}
    while wait:
        pods = (await client.list(PODS, field_selector=f"spec.nodeName={name}")).items
        running = [pod for pod in pods if pod.get("status", {}).get("phase") not in _ENDED]
        for pod in filter(was_terminated, pods):
            metadata = pod["metadata"]
            if metadata["uid"] not in seen:
                seen[metadata["uid"]] = None
                out.print(f"  pod {metadata['namespace']}/{metadata['name']} has ended")
        if not running:
            out.print(f"node {name} is off; switch it on with: kubarium node start {name}")
            return
        await asyncio.sleep(_LOOK_S)


def was_terminated(pod: Document) -> bool:
    """Whether its node has ended it in order to shut down."""
    status = pod.get("status") or {}
    return status.get("phase") in _ENDED and status.get("reason") == "Terminated"


async def terminated(client: HttpClient) -> list[Document]:
    """All pods of which that is true; ApiError or OSError."""
    return list(filter(was_terminated, (await client.list(PODS)).items))


async def _start(client: HttpClient, name: str) -> None:
    if not is_ordered(await node_named(client, name)):
        raise ConfigError(f"node {name} is not shut down; kubectl get node {name} says how it is")
    await _annotate(client, name, None)
    while not is_ready(await node_named(client, name)):  # noqa: ASYNC110 (another process)
        await asyncio.sleep(_LOOK_S)
    out.print(f"node {name} is ready")


async def node_named(client: HttpClient, name: str) -> Document:
    """The node; ConfigError with what there is instead."""
    try:
        return await client.get(NODES, name)
    except ApiError as error:
        if error.reason != "NotFound":
            raise
        names = [item["metadata"]["name"] for item in (await client.list(NODES)).items]
        close = get_close_matches(name, names, 1, 0.75)
        instead = f"did you mean {close[0]}?" if close else f"there are {listed(names, NAMED)}"
        raise ConfigError(f"no node {name!r}; {instead}") from None


async def _annotate(client: HttpClient, name: str, value: str | None) -> None:
    await client.patch(NODES, name, {"metadata": {"annotations": {ANNOTATION: value}}})
