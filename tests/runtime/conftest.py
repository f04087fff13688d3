"""A tiny list-and-watch source whose misbehaviour the tests script."""

import asyncio
from collections import deque

import pytest

from kubarium.api.resource import ListResult, WatchEvent
from kubarium.base import errors
from kubarium.client.protocol import Watch


class ScriptedWatch(Watch):
    def __init__(self):
        self.events = deque()
        self.closed = False
        self._wake = asyncio.Event()

    def push(self, event):
        self.events.append(event)
        self._wake.set()

    async def next_batch(self):
        while not self.events and not self.closed:
            self._wake.clear()
            await self._wake.wait()
        batch = list(self.events)
        self.events.clear()
        return batch

    def close(self):
        self.closed = True
        self._wake.set()


class ScriptedApi:
    """Objects of one resource with a revision, a history, and a compaction."""

    def __init__(self):
        self.revision = 10
        self.compacted = 0
        self.objects = {}
        self.history = []
        self.watches = []
        self.served = True
        self.lists = 0

    def put(self, name, namespace="default", uid="", **fields):
        self.revision += 1
        key = (namespace, name)
        held = self.objects.get(key)
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": uid or (held["metadata"]["uid"] if held else f"uid-{self.revision}"),
                "resourceVersion": str(self.revision),
                **fields,
            },
        }
        self.objects[key] = document
        self._emit("MODIFIED" if held else "ADDED", document)
        return document

    def remove(self, name, namespace="default"):
        self.revision += 1
        gone = self.objects.pop((namespace, name))
        metadata = {**gone["metadata"], "resourceVersion": str(self.revision)}
        self._emit("DELETED", {**gone, "metadata": metadata})

    def _emit(self, type_, document):
        event = WatchEvent(type_, document)
        self.history.append((self.revision, event))
        for watch in self.watches:
            if not watch.closed:
                watch.push(event)

    def end_watches(self):
        for watch in self.watches:
            watch.close()
        self.watches.clear()

    def compact(self):
        self.compacted = self.revision

    async def list(self, resource, namespace="", **options):
        if not self.served:
            raise errors.ApiError(404, "NotFound", "the server could not find the resource")
        self.lists += 1
        return ListResult([self.objects[key] for key in sorted(self.objects)], str(self.revision))

    async def watch(self, resource, namespace="", *, resource_version="", **options):
        if int(resource_version) < self.compacted:
            raise errors.expired("too old resource version")
        watch = ScriptedWatch()
        for revision, event in self.history:
            if revision > int(resource_version):
                watch.push(event)
        self.watches.append(watch)
        return watch


@pytest.fixture
def api():
    return ScriptedApi()
