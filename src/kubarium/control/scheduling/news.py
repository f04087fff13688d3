"""Waiting for an object to change, instead of looking again and again."""

from __future__ import annotations

import asyncio
import contextlib

from kubarium.api.resource import Document
from kubarium.engine.model import Key
from kubarium.runtime.protocol import Informer
from kubarium.view.cluster import key_of


class News:
    """Changes of one resource's objects, told to those who wait for them."""

    def __init__(self, informer: Informer) -> None:
        self._awaited: dict[Key, asyncio.Event] = {}
        informer.on_change(self._changed)

    async def of(self, key: Key, at_most_s: float) -> None:
        """Until the object changes, comes or goes, or the time is over."""
        # Others may wait for the same; what is here goes when the object changes.
        changed = self._awaited.setdefault(key, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most_s):
                await changed.wait()

    def _changed(self, old: Document | None, new: Document | None) -> None:
        if not self._awaited:
            return
        document = new or old
        assert document is not None
        awaited = self._awaited.pop(key_of(document), None)
        if awaited is not None:
            awaited.set()
