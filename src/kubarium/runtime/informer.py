"""Shared informers: one watched, indexed, read-only copy of each resource.

Guarantees (tests/runtime/test_informer.py checks each):

* After ``wait_synced`` the copy equals the API at some revision, and it only moves forward.
* Every object that appears, changes or goes is reported to every handler exactly once, in order;
  an object that was deleted and re-created under its name is reported as gone, then as new.
* A watch that ends is resumed where it stopped; one that is too old (410) leads to a new list,
  and what went in between is reported as gone.
* An object that an index or a handler cannot cope with is missing there, and stops nothing else.
* Read your writes: what ``observe`` and ``forget`` were told is there (or gone) at once, and a
  late watch event cannot undo it. This replaces client-go's expectations.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from kubarium.api.resource import Document, Resource, WatchEvent
from kubarium.base.clock import Clock
from kubarium.base.errors import ApiError
from kubarium.client.protocol import Reader
from kubarium.runtime.parts import EVERYTHING, changed_parts, reads
from kubarium.runtime.protocol import ChangeHandler, Key

_LOG = logging.getLogger("kubarium.informer")

# client-go's reflector: 800 ms doubling to 30 s.
FIRST_RETRY_S = 0.8
LAST_RETRY_S = 30.0
# A long batch yields to other tasks after so many events.
EVENTS_BEFORE_YIELD = 500


def key_of(document: Document) -> Key:
    """(namespace, name) of a document."""
    metadata = document["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def revision_of(document: Document) -> int:
    """``metadata.resourceVersion`` as a number; versions are comparable since 1.35 (KEP-5504)."""
    text = document["metadata"].get("resourceVersion", "")
    return int(text) if text.isdecimal() else 0


@dataclass(slots=True)
class _Index:
    """Keys by the strings that ``values`` gives, each bucket in order of arrival.

    ``parts``: a change of no other parts of an object cannot change what ``values`` gives.
    """

    values: Callable[[Document], Iterable[str]]
    parts: int
    buckets: dict[str, dict[Key, None]] = field(default_factory=dict)
    by_key: dict[Key, tuple[str, ...]] = field(default_factory=dict)

    def put(self, key: Key, document: Document) -> None:
        values = self.values(document)
        if type(values) is tuple and len(values) < 2:
            new = values
        else:
            new = tuple(dict.fromkeys(values))
        old = self.by_key.get(key, ())
        if old == new:
            return
        self._leave(key, [value for value in old if value not in new])
        if new:
            self.by_key[key] = new
        else:
            self.by_key.pop(key, None)
        for value in new:
            self.buckets.setdefault(value, {})[key] = None

    def drop(self, key: Key) -> None:
        self._leave(key, self.by_key.pop(key, ()))

    def _leave(self, key: Key, values: Iterable[str]) -> None:
        for value in values:
            bucket = self.buckets[value]
            del bucket[key]
            if not bucket:
                del self.buckets[value]


@dataclass(slots=True)
class InformerStatistics:
    """What one informer holds and has done."""

    objects: int = 0
    events: int = 0
    lists: int = 0
    watches: int = 0
    failures: int = 0
    synced: bool = False
    served: bool = True
    last_error: str = ""


class SharedInformer:
    """Satisfies :class:`kubarium.runtime.protocol.Informer` for one resource."""

    def __init__(self, resource: Resource, client: Reader, clock: Clock) -> None:
        self.resource = resource
        self.statistics = InformerStatistics()
        self._client = client
        self._clock = clock
        self._documents: dict[Key, Document] = {}
        self._order: list[Key] = []
        self._indexes: dict[str, _Index] = {}
        self._handlers: list[ChangeHandler] = []
        self.changed = EVERYTHING
        self._synced = asyncio.Event()
        self._revision = 0  # all changes of this resource up to here have been delivered
        self._resume_from = ""
        self._gone: dict[str, None] = {}  # uids that forget() removed and the watch still shows

    # reading

    def get(self, name: str, namespace: str = "") -> Document | None:
        return self._documents.get((namespace, name))

    def items(self, namespace: str = "") -> list[Document]:
        if not self._documents:
            return []
        if not namespace:
            return [self._documents[key] for key in self._order]
        first = bisect_left(self._order, (namespace, ""))
        last = bisect_left(self._order, (namespace + "\0", ""))
        return [self._documents[key] for key in self._order[first:last]]

    def __len__(self) -> int:
        return len(self._documents)

    def add_index(self, name: str, values: Callable[[Document], Iterable[str]]) -> None:
        if name in self._indexes:
            return
        index = _Index(values, reads(values))
        for key in self._order:
            self._enter(index, key, self._documents[key])
        self._indexes[name] = index

    def by_index(self, name: str, value: str) -> list[Document]:
        """In order of arrival in the bucket. KeyError when the index was never added."""
        keys = self._indexes[name].buckets.get(value)
        return [self._documents[key] for key in keys] if keys else []

    def on_change(self, handler: ChangeHandler) -> None:
        self._handlers.append(handler)
        for key in list(self._order):
            self._tell((handler,), None, self._documents[key], EVERYTHING)

    def has_synced(self) -> bool:
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        await self._synced.wait()

    # read your writes

    def observe(self, document: Document) -> None:
        metadata = document.get("metadata")
        if not metadata or "name" not in metadata or document.get("kind") == "Status":
            return
        if revision_of(document) > self._revision and metadata.get("uid") not in self._gone:
            self._put(document)

    def forget(self, document: Document) -> None:
        uid = document["metadata"].get("uid", "")
        held = self._documents.get(key_of(document))
        if held is not None and held["metadata"].get("uid", "") == uid:
            self._gone[uid] = None
            self._drop(key_of(document), held)

    # following the API

    async def run(self) -> None:
        """List, then watch, for ever; failures are waited out with back-off."""
        retry_s = FIRST_RETRY_S
        while True:
            try:
                if not self._resume_from:
                    await self._list()
                if await self._watch():
                    retry_s = FIRST_RETRY_S
                    continue
            except ApiError as error:
                self._note(error)
            except Exception as error:  # whatever it is, what comes later must not be missed
                self._note(error)
            await self._clock.sleep(retry_s)
            retry_s = min(retry_s * 2, LAST_RETRY_S)

    def _note(self, error: Exception) -> None:
        self.statistics.failures += 1
        self.statistics.last_error = str(error)
        if isinstance(error, ApiError) and error.code == 410:
            self._resume_from = ""
        elif isinstance(error, ApiError) and error.code == 404:
            self._not_served()
        elif isinstance(error, (ApiError, OSError, ValueError)):
            _LOG.info("%s: %s", self.resource.qualified, error)
        else:
            _LOG.error("%s: %r", self.resource.qualified, error, exc_info=error)

    def _not_served(self) -> None:
        """The resource does not exist (a CRD not installed yet): an empty copy, asked again."""
        self._resume_from = ""
        self.statistics.served = False
        self._replace([])
        self._synced.set()

    async def _list(self) -> None:
        result = await self._client.list(self.resource)
        items = result.items
        while result.continue_token:
            result = await self._client.list(self.resource, continue_token=result.continue_token)
            items = items + result.items
        self.statistics.lists += 1
        self.statistics.served = True
        self._gone.clear()
        self._replace(items)
        self._advance(result.resource_version)
        self._synced.set()

    def _replace(self, items: list[Document]) -> None:
        listed = {key_of(item): item for item in items}
        for key in [key for key in self._order if key not in listed]:
            self._drop(key, self._documents[key])
        for item in items:
            self._put(item)

    async def _watch(self) -> bool:
        """Follow one stream to its end; True when it brought anything."""
        watch = await self._client.watch(
            self.resource, resource_version=self._resume_from, allow_bookmarks=True
        )
        self.statistics.watches += 1
        progress = False
        try:
            while batch := await watch.next_batch():
                for position, event in enumerate(batch, 1):
                    self._take(event)
                    if position % EVENTS_BEFORE_YIELD == 0:
                        await self._clock.sleep(0)
                progress = True
        finally:
            watch.close()
        return progress

    def _take(self, event: WatchEvent) -> None:
        self.statistics.events += 1
        document = event.object
        if event.type == "ERROR":
            raise ApiError.from_status(document)
        if event.type in ("ADDED", "MODIFIED"):
            if document["metadata"].get("uid") not in self._gone:
                self._put(document)
        elif event.type == "DELETED":
            self._take_deletion(document)
        self._advance(document["metadata"].get("resourceVersion", ""))

    def _take_deletion(self, document: Document) -> None:
        uid = document["metadata"].get("uid", "")
        self._gone.pop(uid, None)
        held = self._documents.get(key_of(document))
        if held is not None and held["metadata"].get("uid", "") == uid:
            self._drop(key_of(document), document)

    def _advance(self, version: str) -> None:
        if version:
            self._resume_from = version
            if version.isdecimal():
                self._revision = max(self._revision, int(version))

    # the copy

    def _put(self, document: Document) -> None:
        key = key_of(document)
        held = self._documents.get(key)
        if held is not None:
            if held["metadata"].get("uid") != document["metadata"].get("uid"):
                if revision_of(document) < revision_of(held):
                    return
                self._drop(key, held)
                held = None
            elif revision_of(document) <= revision_of(held):
                return
        if held is None:
            insort(self._order, key)
        self._documents[key] = document
        changed = EVERYTHING if held is None else changed_parts(held, document)
        for index in self._indexes.values():
            if index.parts & changed:
                self._enter(index, key, document)
        self._tell(self._handlers, held, document, changed)

    def _enter(self, index: _Index, key: Key, document: Document) -> None:
        """Index one object; one that the index's function cannot read is under no value."""
        try:
            index.put(key, document)
        except Exception as error:
            index.drop(key)
            self.statistics.failures += 1
            self.statistics.last_error = repr(error)
            _LOG.exception("%s: an index function raised", self.resource.qualified)

    def _drop(self, key: Key, last: Document) -> None:
        del self._documents[key]
        del self._order[bisect_left(self._order, key)]
        for index in self._indexes.values():
            index.drop(key)
        self._tell(self._handlers, last, None, EVERYTHING)

    def _tell(
        self,
        handlers: Iterable[ChangeHandler],
        old: Document | None,
        new: Document | None,
        changed: int,
    ) -> None:
        for handler in handlers:
            self.changed = changed  # a handler's own writes may have told of other changes
            try:
                handler(old, new)
            except Exception as error:  # one bad handler must not stop the others
                self.statistics.failures += 1
                self.statistics.last_error = repr(error)
                _LOG.exception("%s: a change handler raised", self.resource.qualified)


class SharedInformers:
    """Satisfies :class:`kubarium.runtime.protocol.Informers`; informers start on first use."""

    def __init__(self, client: Reader, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._informers: dict[Resource, SharedInformer] = {}
        self._tasks: dict[Resource, asyncio.Task[None]] = {}

    def get(self, resource: Resource) -> SharedInformer:
        """The shared informer; its first list starts as soon as the event loop runs."""
        informer = self._informers.get(resource)
        if informer is None:
            informer = SharedInformer(resource, self._client, self._clock)
            self._informers[resource] = informer
        if resource not in self._tasks:
            self._start(resource, informer)
        return informer

    def _start(self, resource: Resource, informer: SharedInformer) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # asked while wiring, before the loop runs: start() catches up
            return
        name = f"informer/{resource.qualified}"
        self._tasks[resource] = loop.create_task(informer.run(), name=name)

    def start(self) -> None:
        """Start what was asked for before the event loop ran."""
        for resource in list(self._informers):
            self.get(resource)

    async def wait_synced(self) -> None:
        """Until every informer asked for so far holds its first list."""
        self.start()
        for informer in list(self._informers.values()):
            await informer.wait_synced()

    def statistics(self) -> dict[str, dict[str, Any]]:
        """By ``plural.group``: objects, events, lists, watches, failures, last_error."""
        answer: dict[str, dict[str, Any]] = {}
        for resource, informer in self._informers.items():
            counts = informer.statistics
            answer[resource.qualified] = {
                "objects": len(informer),
                "events": counts.events,
                "lists": counts.lists,
                "watches": counts.watches,
                "failures": counts.failures,
                "synced": informer.has_synced(),
                "served": counts.served,
                "lastError": counts.last_error,
            }
        return answer

    async def stop(self, resource: Resource) -> None:
        """Stop and drop the informer of a resource that is no longer served."""
        self._informers.pop(resource, None)
        if task := self._tasks.pop(resource, None):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Stop all informers."""
        for resource in list(self._informers):
            await self.stop(resource)
