"""The family's shared picture of the queueing objects, fed by informers."""

from __future__ import annotations

from collections.abc import Callable

from kubarium.api.resource import Document, Resource
from kubarium.engine.queueing.snapshot import Options
from kubarium.runtime.protocol import Context
from kubarium.view.queueing.world import RESOURCES_NEEDED, World


class QueueingCache:
    """A :class:`World` that follows the API. What it holds can be rebuilt from there at any time.

    It subscribes before any controller of the family does, so that a reconcile finds the change
    that woke it already taken in.
    """

    def __init__(self, context: Context, options: Options = Options()) -> None:  # noqa: B008
        self.world = World(options)
        self._context = context
        self._listeners: list[Callable[[], None]] = []
        for resource in RESOURCES_NEEDED:
            context.informers.get(resource).on_change(self._handler(resource))

    def on_change(self, listener: Callable[[], None]) -> None:
        """Called after every change taken in; must be quick."""
        self._listeners.append(listener)

    async def wait_synced(self) -> None:
        for resource in RESOURCES_NEEDED:
            await self._context.informers.get(resource).wait_synced()

    def settled(self) -> World:
        """The picture with everything heard so far worked in."""
        self.world.settle()
        return self.world

    def _handler(self, resource: Resource) -> Callable[[Document | None, Document | None], None]:
        def changed(old: Document | None, new: Document | None) -> None:
            if new is not None:
                self.world.put(resource, new)
            elif old is not None:
                self.world.drop(resource, old)
            for listener in self._listeners:
                listener()

        return changed
