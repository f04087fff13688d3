"""A cluster in process, with the few questions that tests ask all the time."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import orjson
import yaml

from kubarium.api.kinds import EVENTS, PODS
from kubarium.api.resource import Document, Resource
from kubarium.base.chance import Chance
from kubarium.base.errors import ApiError
from kubarium.client.protocol import Client
from kubarium.cluster.clock import RealClock
from kubarium.cluster.embedded import EmbeddedCluster
from kubarium.cluster.file import ClusterFile, default_cluster
from kubarium.runtime.virtual import VirtualClock
from kubarium.runtime.virtual import run as run_on_virtual_loop
from kubarium.server.pki import Authority

R = TypeVar("R")
Story = Callable[["TestCluster"], Awaitable[R]]

LOOK_EVERY_S = 0.05


class TestCluster:
    """A running cluster; ``client`` has every verb of the API."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    def __init__(self, embedded: EmbeddedCluster) -> None:
        self.embedded = embedded
        self.client: Client = embedded.client
        self.clock = embedded.clock
        self._history = hashlib.sha256()
        self._subscription = embedded.store.watch("/", embedded.store.revision, self._note)

    def _note(self, change: object) -> None:
        record = getattr(change, "record", None)
        kind, key = getattr(change, "kind", ""), getattr(change, "key", "")
        value = record.value if record else None
        self._history.update(orjson.dumps([kind, key, value], option=orjson.OPT_SORT_KEYS))

    def history_hash(self) -> str:
        """A hash of every write since the start: key, order and content."""
        return self._history.hexdigest()

    async def apply(self, manifests: str | Document, namespace: str = "default") -> list[Document]:
        """Create every object of a manifest (YAML text or one document)."""
        documents = (
            list(yaml.safe_load_all(manifests)) if isinstance(manifests, str) else [manifests]
        )
        created = []
        for document in documents:
            kind = self.embedded.server.catalog.for_document(
                document["apiVersion"], document["kind"]
            )
            if kind is None:
                raise LookupError(f"no kind {document['kind']} in {document['apiVersion']}")
            home = document["metadata"].get("namespace", namespace)
            scope = home if kind.resource.namespaced else ""
            created.append(await self.client.create(kind.resource, document, scope))
        return created

    async def get(self, resource: Resource, name: str, namespace: str = "default") -> Document:
        """One object."""
        return await self.client.get(resource, name, namespace if resource.namespaced else "")

    async def pods(self, namespace: str = "default", selector: str = "") -> list[Document]:
        """All pods of a namespace, by name."""
        return (await self.client.list(PODS, namespace, label_selector=selector)).items

    async def events(self, reason: str = "", namespace: str = "default") -> list[Document]:
        """Events of a namespace, of one reason if given."""
        found = (await self.client.list(EVENTS, namespace)).items
        return [event for event in found if reason in ("", event.get("reason"))]

    async def condition(
        self, resource: Resource, name: str, type_: str, namespace: str = "default"
    ) -> Document:
        """A condition of an object; an empty one if it (or the object) is not there."""
        try:
            document = await self.get(resource, name, namespace)
        except ApiError as error:
            if error.code != 404:
                raise
            return {}
        conditions = document.get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == type_), {})

    async def until(
        self,
        question: Callable[[], Awaitable[R]],
        timeout_s: float = 60,
        what: str = "",
    ) -> R:
        """Ask until the answer is true; the answer. Time is the cluster's own."""
        deadline = self.clock.monotonic() + timeout_s
        while True:
            answer = await question()
            if answer:
                return answer
            if self.clock.monotonic() > deadline:
                raise AssertionError(
                    f"not within {timeout_s} s: {what or question}\n{await self.describe()}"
                )
            await self.clock.sleep(LOOK_EVERY_S)

    async def until_true(
        self,
        resource: Resource,
        name: str,
        condition: str,
        namespace: str = "default",
        timeout_s: float = 60,
    ) -> Document:
        """Until a condition of an object is True; the condition."""

        async def ask() -> Document:
            found = await self.condition(resource, name, condition, namespace)
            return found if found.get("status") == "True" else {}

        return await self.until(ask, timeout_s, f"{resource.kind} {name} {condition}")

    async def describe(self) -> str:
        """Pods and the latest events, for the message of a test that failed."""
        pods = (await self.client.list(PODS)).items
        lines = [
            f"pod {p['metadata']['namespace']}/{p['metadata']['name']} "
            f"{p.get('status', {}).get('phase')} on {p['spec'].get('nodeName')}"
            for p in pods
        ]
        events = (await self.client.list(EVENTS)).items[-30:]
        lines += [
            f"event {e.get('reason')}: {e['involvedObject'].get('name')}: {e.get('message')}"
            for e in events
        ]
        return "\n".join(lines)


async def _tell(embedded: EmbeddedCluster, story: Story[R]) -> R:
    async with embedded.running():
        cluster = TestCluster(embedded)
        answer = await story(cluster)
        embedded.store.check()
        return answer


def run_virtual(
    story: Story[R], nodes: int = 2, seed: int = 0, file: ClusterFile | None = None
) -> R:
    """Run ``story`` against a cluster of simulated nodes on the virtual clock."""
    described = file or default_cluster(nodes, "simulated")

    async def main() -> R:
        return await _tell(EmbeddedCluster(described, VirtualClock(), Chance(seed)), story)

    return run_on_virtual_loop(main(), seed)


def run_real(story: Story[R], root: Path, nodes: int = 2, file: ClusterFile | None = None) -> R:
    """Run ``story`` on the real clock; pods are processes whose files live under ``root``."""
    described = file or default_cluster(nodes)
    clock = RealClock()
    authority = Authority.open(root / "pki", clock)  # signs the tokens that pods are given
    embedded = EmbeddedCluster(described, clock, Chance(), None, root / "nodes", authority)
    return asyncio.run(_tell(embedded, story))
