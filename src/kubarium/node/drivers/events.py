"""What drivers say of their devices, written to the Nodes and kept there.

Several may speak of one driver's devices (a schedule, and the machine's own GPUs): the annotation
of events (see ``health``) has one writer, which takes the worst that is said of a device. It is
written anew when somebody removes or changes it, and when a deleted Node is announced again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from kubarium.api.kinds import NODES
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.node.drivers.health import EVENTS_ANNOTATION, Health, format_health, worse
from kubarium.runtime.protocol import Context
from kubarium.runtime.queue import WorkQueue

_LOG = logging.getLogger("kubarium.node")

# An annotation that could not be written is tried again after so many seconds.
RETRY_S = 1.0

# A node and a driver.
Place = tuple[str, str]


class DeviceEvents:
    """A component: keeps the annotations of events of some nodes."""

    name = "device-events"

    def __init__(self, context: Context) -> None:
        self._context = context
        self._nodes = context.informers.get(NODES)
        self._queue = WorkQueue(context.clock)
        self._said: dict[Place, dict[str, Mapping[str, Health]]] = {}
        self._drivers: dict[str, list[str]] = {}

    def say(self, source: str, place: Place, health: Mapping[str, Health]) -> None:
        """All that ``source`` knows of the devices at ``place`` now, instead of what it knew."""
        if place not in self._said:
            self._said[place] = {}
            self._drivers.setdefault(place[0], []).append(place[1])
        known = self._said[place]
        if known.get(source) != health:
            known[source] = dict(health)
            self._queue.add(place)

    def text(self, place: Place) -> str:
        """What the annotation should be."""
        worst: dict[str, Health] = {}
        for health in self._said.get(place, {}).values():
            for device, found in health.items():
                worst[device] = worse(worst[device], found) if device in worst else found
        return format_health(worst)

    async def run(self) -> None:
        """Write until cancelled."""
        self._nodes.on_change(self._changed)
        while True:
            place = await self._queue.take()
            if not await self._write(place):
                self._queue.add_after(place, RETRY_S)
            self._queue.done(place)

    def _changed(self, old: Document | None, new: Document | None) -> None:
        if new is None:
            return
        name = new["metadata"]["name"]
        for driver in self._drivers.get(name, ()):
            if self._written(new, (name, driver)) != self.text((name, driver)):
                self._queue.add((name, driver))

    @staticmethod
    def _written(node: Document, place: Place) -> str:
        annotations = node["metadata"].get("annotations") or {}
        return str(annotations.get(EVENTS_ANNOTATION + place[1]) or "")

    async def _write(self, place: Place) -> bool:
        name, driver = place
        node, text = self._nodes.get(name), self.text(place)
        if node is None or self._written(node, place) == text:
            return True  # a Node that comes back is looked at then
        change = {"metadata": {"annotations": {EVENTS_ANNOTATION + driver: text or None}}}
        try:
            await self._context.client.patch(NODES, name, change)
        except ApiError as error:
            _LOG.warning("node %s: health of %s cannot be written: %s", name, driver, error)
            return False
        return True
