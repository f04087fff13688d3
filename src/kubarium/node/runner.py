"""What the agent asks of a runtime: pods of its nodes come, change and go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from kubarium.api.logs import LogOptions
from kubarium.api.resource import Document
from kubarium.api.streams import Connection, Session, StreamOptions
from kubarium.api.usage import PodUse


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What pods of a node see of it."""

    name: str
    address: str
    allocatable: dict[str, str]
    # Its pods' addresses; "" where pods share the machine's loopback.
    pod_network: str = ""


def host_of(document: Document) -> str:
    """The node that has something to say of ``document``: a pod's, or the Node itself."""
    if document.get("kind") == "Node":
        return str(document["metadata"]["name"])
    return str((document.get("spec") or {}).get("nodeName") or "")


# (pod, node): why the node does not take a pod that is new to it, as reason and message
Admit = Callable[[Document, str], tuple[str, str] | None]


# Where a pod comes from, and what it mirrors (kubelet's ``types/constants.go``).
CONFIG_SOURCE = "kubernetes.io/config.source"
CONFIG_HASH = "kubernetes.io/config.hash"
CONFIG_SEEN = "kubernetes.io/config.seen"
CONFIG_MIRROR = "kubernetes.io/config.mirror"


def is_mirror(pod: Document) -> bool:
    """Whether the API only shows what a node runs by itself."""
    return CONFIG_MIRROR in (pod["metadata"].get("annotations") or {})


def identity(pod: Document) -> str:
    """The uid by which a node knows a pod: a mirror's is that of the static pod."""
    annotations = pod["metadata"].get("annotations") or {}
    return str(annotations.get(CONFIG_MIRROR) or pod["metadata"]["uid"])


def is_new(pod: Document) -> bool:
    """Whether no agent has begun with the pod."""
    return not (pod.get("status") or {}).get("startTime")


class PodRunner(Protocol):
    """One runtime. ``pod_seen`` and ``pod_gone`` are called from informer handlers: be quick."""

    admit: Admit

    def pod_seen(self, pod: Document, node: NodeFacts) -> None:
        """A pod of one of our nodes is new or has changed."""
        ...

    def pod_gone(self, pod: Document) -> None:
        """A pod of one of our nodes has been removed from the API."""
        ...

    def pod_lost(self, pod: Document) -> None:
        """Its node went down with it: its processes end at once, and nobody is told."""
        ...

    async def reclaim(self, least_free: int | None) -> int:
        """Remove what no pod needs from a disk that has less than ``least_free`` bytes (None: that
        is short of something else); the bytes that were freed."""
        ...

    def hold(self, node: str) -> None:
        """What is to be written of a node's pods waits, until :meth:`let_go`."""
        ...

    def let_go(self, node: str) -> None:
        """Write what has waited."""
        ...

    async def start(self) -> None:
        """Before the nodes are announced."""
        ...

    async def run(self) -> None:
        """Until cancelled; then nothing of ours may be left on the machine."""
        ...

    def usage(self) -> list[PodUse]:
        """What its pods use, as it was measured last."""
        ...

    async def open_session(self, pod: Document, options: StreamOptions) -> Session:
        """A command in a container, or the one that runs; ApiError if that cannot be."""
        ...

    async def open_port(self, pod: Document, port: int) -> Connection:
        """A connection to a port of a pod; ConnectionError, or ApiError if there cannot be one."""
        ...

    def logs(self, pod: Document, options: LogOptions) -> AsyncIterator[bytes]:
        """Output of a container; ApiError if there is none."""
        ...
