"""An agent's nodes in the API: announced, kept alive by leases, their status kept up to date."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from kubarium.api.kinds import LEASES, NODES
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.node.agent_nodes import AskedNodes, NodeAction, OwnNode, insist, spread
from kubarium.node.drivers.health import without_events
from kubarium.node.eviction.manager import Tell
from kubarium.node.registration import (
    LEASE_NAMESPACE,
    STATUS_PERIOD_S,
    NodeHealth,
    changes,
    lease_document,
    lease_seconds,
    node_document,
    node_status,
    pod_cidr,
)
from kubarium.runtime.protocol import Context
from kubarium.runtime.writes import update_status

_LOG = logging.getLogger("kubarium.node")
# Nodes are announced by so many tasks at once.
_WORKERS = 16


class NodePresence:
    """``health`` is what a node says of itself; one that ``is_away`` says nothing, and one that
    ``is_off`` renews no lease. ``publish_devices`` is asked with each announcement."""

    def __init__(
        self,
        context: Context,
        nodes: Mapping[str, OwnNode],
        health: Callable[[str], NodeHealth],
        is_away: Callable[[str], bool],
        is_off: Callable[[str], bool],
        publish_devices: NodeAction,
        tell: Tell,
    ) -> None:
        self._context = context
        self._mine = nodes
        self._nodes = context.informers.get(NODES)
        self._health = health
        self._is_away = is_away
        self._is_off = is_off
        self._publish_devices = publish_devices
        self._tell = tell
        self._duration_s = lease_seconds(len(nodes))
        self._changes = AskedNodes(context.clock, nodes, self._write_or_announce)
        self._returned: asyncio.Queue[str] = asyncio.Queue()

    def changed(self, name: str) -> None:
        """What a node says of itself is another now: it is written at once."""
        self._changes.ask(name)

    def returned(self, name: str) -> None:
        """A node was away and is heard again."""
        self._returned.put_nowait(name)

    async def announce_all(self) -> None:
        """Until the API has all nodes and their devices."""
        waiting = list(self._mine.values())[::-1]

        async def work() -> None:
            while waiting:
                await insist(self._context.clock, self._announce, waiting.pop())

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_WORKERS, len(waiting))):
                group.create_task(work())

    async def run(self) -> None:
        """Keep them so, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_leases())
            group.create_task(self._refresh_status())
            group.create_task(self._changes.run())
            group.create_task(self._follow_returns())

    async def _announce(self, node: OwnNode) -> None:
        now = self._context.clock.now()
        facts = node.facts
        document = node_document(
            node.spec, facts.allocatable, facts.address, node.machine_id, now, facts.pod_network
        )
        try:
            node.document = await self._context.client.create(NODES, document)
            node.doubted.update(node.published)  # what an earlier Node owned goes with it
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            await self._take_over(node, document)
        await self._renew(node)
        await self._publish_devices(node)

    async def _take_over(self, node: OwnNode, wanted: Document) -> None:
        """The Node is there already (a restart): bring labels and status up to date."""
        found = await self._context.client.get(NODES, node.spec.name)
        metadata = {
            **found["metadata"],
            "labels": {**(found["metadata"].get("labels") or {}), **wanted["metadata"]["labels"]},
        }
        spec = dict(found.get("spec") or {})
        if not spec.get("podCIDR"):
            spec |= pod_cidr(node.facts.pod_network) if node.facts.pod_network else {}
        if metadata.get("annotations"):  # events of an earlier run are not known to last
            metadata["annotations"] = without_events(metadata["annotations"])
        changed = {**found, "metadata": metadata, "spec": spec}
        if changed != found:
            found = await self._context.client.update(NODES, changed)
        node.document = found
        await self._write_status(node)

    async def _write_status(self, node: OwnNode) -> None:
        if self._is_away(node.spec.name):
            return
        current = self._nodes.get(node.spec.name) or node.document
        assert current is not None
        facts = node.facts
        status = node_status(
            node.spec,
            facts.allocatable,
            facts.address,
            node.machine_id,
            current.get("status") or {},
            self._context.clock.now(),
            self._health(node.spec.name),
        )
        self._tell_of_pressure(node, current, status)
        node.document = await update_status(self._context, NODES, current, status)

    async def _renew(self, node: OwnNode) -> None:
        if self._is_away(node.spec.name) or self._is_off(node.spec.name):
            return
        assert node.document is not None
        now = self._context.clock.now()
        lease = lease_document(node.document, self._duration_s, now)
        client = self._context.client
        try:
            await client.patch(LEASES, node.spec.name, {"spec": lease["spec"]}, LEASE_NAMESPACE)
        except ApiError as error:
            if error.reason != "NotFound":
                raise
            await client.create(LEASES, lease, LEASE_NAMESPACE)

    async def _renew_leases(self) -> None:
        """Every lease once in a quarter of its duration, spread evenly over that time."""
        period_s = self._duration_s / 4
        clock = self._context.clock
        groups = spread(list(self._mine.values()), max(int(period_s), 1))
        while True:
            for group in groups:
                await clock.sleep(period_s / len(groups))
                for node in group:
                    await self._try(self._renew, node)

    async def _refresh_status(self) -> None:
        groups = spread(list(self._mine.values()), int(STATUS_PERIOD_S))
        while True:
            for group in groups:
                await self._context.clock.sleep(STATUS_PERIOD_S / len(groups))
                for node in group:
                    if not self._is_off(node.spec.name):
                        await self._try(self._write_status, node)

    async def _write_or_announce(self, node: OwnNode) -> None:
        """The status, or all of a Node that somebody deleted."""
        try:
            await self._write_status(node)
        except ApiError as error:
            if error.reason != "NotFound":
                raise
            await self._announce(node)

    def _tell_of_pressure(self, node: OwnNode, before: Document, status: Document) -> None:
        known = (before.get("status") or {}).get("conditions") or ()
        for reason in changes(known, status["conditions"]):
            name = node.spec.name
            self._tell(name, "Normal", reason, f"Node {name} status is now: {reason}")

    async def _try(self, action: NodeAction, node: OwnNode) -> None:
        """Once; the next period tries again. A Node that somebody deleted is announced anew."""
        try:
            await action(node)
        except ApiError as error:
            if error.reason == "NotFound":
                await self._try_announce(node)
            elif error.reason != "Conflict":
                _LOG.warning("node %s: %s", node.spec.name, error)

    async def _try_announce(self, node: OwnNode) -> None:
        try:
            await self._announce(node)
        except ApiError as error:
            _LOG.warning("node %s: cannot be announced: %s", node.spec.name, error)

    async def _follow_returns(self) -> None:
        while True:
            node = self._mine[await self._returned.get()]
            await self._try(self._renew, node)
            await self._try(self._write_status, node)
