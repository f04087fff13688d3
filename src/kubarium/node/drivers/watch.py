"""Slices of our pools that somebody else deletes or changes: drivers publish them anew."""

from __future__ import annotations

from collections.abc import Callable

from kubarium.api.kinds import RESOURCE_SLICES
from kubarium.api.resource import Document
from kubarium.runtime.protocol import Context


class SliceWatch:
    """Says of which node's driver the slices are no longer as they were.

    Our own writes are told of too: whoever looks then finds all as it should be.
    """

    def __init__(self, context: Context, stale: Callable[[str, str], None]) -> None:
        """``stale`` is called with node and driver."""
        self._slices = context.informers.get(RESOURCE_SLICES)
        self._stale = stale

    async def start(self) -> None:
        """Watch from now on."""
        await self._slices.wait_synced()
        self._slices.on_change(self._changed)

    def _changed(self, old: Document | None, new: Document | None) -> None:
        if old is None or (new is not None and new.get("spec") == old.get("spec")):
            return
        spec = old.get("spec") or {}
        if spec.get("nodeName"):
            self._stale(spec["nodeName"], spec["driver"])
