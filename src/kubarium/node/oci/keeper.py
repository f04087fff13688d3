"""Keeps the store of images within the disk, and the Nodes' lists of them up to date."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence

from kubarium.api.kinds import NODES
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.node.kubelet_config import ImageCollection
from kubarium.node.oci.collect import Disk, may_go, status_images
from kubarium.node.oci.store import ImageStore
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context

_LOG = logging.getLogger("kubarium.node")
# kubelet looks at the disk every five minutes; others may load images at any time.
_COLLECT_S, _LOOK_S = 300.0, 5.0


class ImageKeeper:
    """For all nodes of one agent, whose images are the same."""

    def __init__(
        self,
        context: Context,
        store: ImageStore,
        nodes: Sequence[str],
        recorder: EventRecorder,
        rules: ImageCollection | None = None,
    ) -> None:
        """``rules`` are kubelet's defaults unless given."""
        self._context = context
        self._store = store
        self._nodes = list(nodes)
        self._recorder = recorder
        self._rules = rules or ImageCollection()
        self._shown: dict[str, list[Document]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        clock, due = self._context.clock, 0.0
        while True:
            now = clock.now()
            if now >= due:
                due = now + _COLLECT_S
                await self.collect()
            await self._show()
            await clock.sleep(_LOOK_S)

    def disk(self) -> Disk:
        """The file system of the store."""
        try:
            found = os.statvfs(self._store.root)
        except OSError:
            return Disk(0, 0)  # there is no store yet
        return Disk(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)

    async def collect(self) -> int:
        """Remove images that have not been used for too long, and more while the disk is too full;
        the bytes that were freed."""
        rules, freed = self._rules, 0
        if rules.maximum_age_s:
            freed = await self._free(rules.maximum_age_s)
        wanted = self.disk().to_free(rules.high_percent, rules.low_percent)
        if not wanted or not self._store.records():
            return freed
        found = await self._free(rules.minimum_age_s, wanted)
        if found >= wanted:
            return freed + found
        text = (
            "Failed to garbage collect required amount of images. Attempted to free "
            f"{wanted} bytes, but only found {found} bytes eligible to free."
        )
        for name in self._nodes:
            node = self._context.informers.get(NODES).get(name)
            if node is not None:
                self._recorder.event(node, "Warning", "FreeDiskSpaceFailed", text)
        return freed + found

    async def reclaim(self, least_free: int | None) -> int:
        """Before pods are evicted for want of disk: remove all images that nobody uses, unless the
        store's file system has ``least_free`` bytes, so that it is not what is short; the bytes
        that were freed. None: it is something else than bytes that is short."""
        if least_free is not None and self.disk().free >= least_free:
            return 0
        return await self._free(self._rules.minimum_age_s)

    async def _free(self, age_s: float, enough: int | None = None) -> int:
        """Remove what nobody has used for ``age_s``, until it is ``enough``."""
        freed = 0
        now = self._context.clock.now()
        for name in may_go(self._store.records(), self._store.leased(), now, age_s):
            try:
                freed += await asyncio.to_thread(self._store.remove, [name])
            except OSError as error:
                _LOG.warning("image %s cannot be removed: %s", name, error)
            if enough is not None and freed >= enough:
                break
        return freed

    async def _show(self) -> None:
        images = status_images(self._store.records())
        for name in self._nodes:
            before = self._shown.get(name, [])
            node = self._context.informers.get(NODES).get(name)
            if before == images or node is None:
                continue
            patch = {"status": {"images": images}}
            try:
                await self._context.client.patch(NODES, name, patch, subresource="status")
                self._shown[name] = images
            except ApiError as error:
                _LOG.warning("node %s: images: %s", name, error)
