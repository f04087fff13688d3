"""What devices the nodes of one agent have, published as slices: as many as the cluster file or the
Node's annotations say, in the health that they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kubarium.api.kinds import NODES
from kubarium.api.resource import Document
from kubarium.base.errors import ConfigError
from kubarium.base.quoted import listed
from kubarium.node.agent_nodes import AskedNodes, OwnNode
from kubarium.node.drivers.health import (
    HEALTH_ANNOTATION,
    Health,
    absent_devices,
    health_changes,
    node_health,
)
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context

# How many devices of a driver a node has, if that differs from the cluster file: patch the Node.
DEVICES_ANNOTATION = "kubarium.dev/devices."
_MAX_DEVICES = 4096
_MAX_DIGITS, _SHOWN = 20, 60  # longer numbers are not even read; so much of them is shown
_NAMED = 8  # devices that there are, where one is spoken of that there is not


class DevicePublication:
    """A node that ``is_away`` publishes nothing until it is back."""

    def __init__(
        self,
        context: Context,
        nodes: Mapping[str, OwnNode],
        is_away: Callable[[str], bool],
        recorder: EventRecorder,
    ) -> None:
        self._context = context
        self._mine = nodes
        self._nodes = context.informers.get(NODES)
        self._is_away = is_away
        self._recorder = recorder
        self._changes = AskedNodes(context.clock, nodes, self.publish)

    def changed(self, name: str) -> None:
        """A node's annotations may ask for others now."""
        self._changes.ask(name)

    def slices_changed(self, name: str, driver: str) -> None:
        """Somebody else has changed or removed what a driver published."""
        node = self._mine.get(name)
        if node is None or driver not in node.publishers:
            return
        node.doubted.add(driver)
        # A Node that is gone is announced anew with its devices; one that is away comes back first.
        if self._nodes.get(name) is not None and not self._is_away(name):
            self._changes.ask(name)

    async def run(self) -> None:
        """Follow changes until cancelled."""
        await self._changes.run()

    async def publish(self, node: OwnNode) -> None:
        """Bring the slices of all its drivers up to date; ApiError."""
        current = self._nodes.get(node.spec.name) or node.document
        assert current is not None
        for driver, publisher in node.publishers.items():
            wanted = self._wanted(node, current, driver)
            if node.published.get(driver) == wanted and driver not in node.doubted:
                continue
            node.doubted.discard(driver)
            if driver not in node.published:
                await publisher.publish_class()
            names = await publisher.publish(current, *wanted)
            before = node.published.get(driver, (0, {}))[1]
            node.published[driver] = wanted
            absent = absent_devices(names, [*before, *wanted[1]])
            for name in (name for name in absent if name in wanted[1]):
                text = f"{driver} {name}: there is no such device; {_some(names)}"
                self._complain(node, current, "InvalidDeviceHealth", text)
            known = [
                {device: h for device, h in health.items() if device not in absent}
                for health in (before, wanted[1])
            ]
            for type_, reason, message in health_changes(driver, *known):
                self._recorder.event(current, type_, reason, message)

    def _wanted(
        self, node: OwnNode, document: Document, driver: str
    ) -> tuple[int, dict[str, Health]]:
        """How many devices of which health; what an annotation gets wrong stays as it was."""
        count, health = node.published.get(driver, (node.counts[driver], {}))
        try:
            count = self._count(node, document, driver)
        except ConfigError as error:
            self._complain(node, document, "InvalidDeviceCount", str(error))
        try:
            health = node_health(document, driver)
        except ConfigError as error:
            key = HEALTH_ANNOTATION + driver
            self._complain(node, document, "InvalidDeviceHealth", f"annotation {key}: {error}")
        return count, health

    def _count(self, node: OwnNode, document: Document, driver: str) -> int:
        """The annotation's count, or the cluster file's; ConfigError if it is nonsense."""
        annotations = document["metadata"].get("annotations") or {}
        text = annotations.get(DEVICES_ANNOTATION + driver)
        if text is None:
            return node.counts[driver]
        if text.isdecimal() and len(text) <= _MAX_DIGITS and int(text) <= _MAX_DEVICES:
            return int(text)
        raise ConfigError(
            f"annotation {DEVICES_ANNOTATION}{driver}: {text[:_SHOWN]!r}: "
            f"must be a whole number from 0 to {_MAX_DEVICES}"
        )

    def _complain(self, node: OwnNode, document: Document, reason: str, message: str) -> None:
        """One warning event for each mistake."""
        if message not in node.complained:
            node.complained[message] = None
            self._recorder.event(document, "Warning", reason, message)


def _some(names: list[str]) -> str:
    return f"there are {listed(names, _NAMED)}" if names else "there are none"
