"""Keeps the hosts files of running pods in step with the API, in place (they are bind-mounted)."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from kubarium.api.resource import Document
from kubarium.base.clock import Clock
from kubarium.node.network.names import NameSources, namespace_lines, own_lines

# Changes that come together (a gang's addresses) are written together.
_GATHER_S = 0.02


@dataclass(slots=True)
class _Entry:
    path: Path
    namespace: str
    head: str


class HostsFiles:
    """Hosts files by pod uid."""

    def __init__(self, sources: NameSources, domain: str, clock: Clock) -> None:
        self._sources = sources
        self._domain = domain
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._dirty = asyncio.Event()

    def add(self, pod: Document, address: str, path: Path, names: bool = True) -> None:
        """Write a pod's file; with ``names`` of others, keep it up to date from now on."""
        namespace = pod["metadata"].get("namespace", "")
        head = own_lines(pod, address, self._domain)
        if names:
            self._entries[pod["metadata"]["uid"]] = _Entry(path, namespace, head)
            head += namespace_lines(namespace, self._sources, self._domain)
        write_in_place(path, head)

    def drop(self, uid: str) -> None:
        self._entries.pop(uid, None)

    def changed(self) -> None:
        """Some pod or service has changed."""
        self._dirty.set()

    async def run(self) -> None:
        """Rewrite what differs, whenever something has changed."""
        while True:
            await self._dirty.wait()
            await self._clock.sleep(_GATHER_S)
            self._dirty.clear()
            self._write_all()

    def _write_all(self) -> None:
        tails: dict[str, str] = {}
        for entry in self._entries.values():
            if entry.namespace not in tails:
                tails[entry.namespace] = namespace_lines(
                    entry.namespace, self._sources, self._domain
                )
            write_in_place(entry.path, entry.head + tails[entry.namespace])


def write_in_place(path: Path, text: str) -> None:
    """Replace the content but not the inode; one write, so that readers see little of it half."""
    data = text.encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.pread(descriptor, len(data) + 1, 0) == data:
            return
        os.pwrite(descriptor, data, 0)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)
