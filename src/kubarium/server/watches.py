"""Watches: a store subscription, classified for one watcher and buffered until it is read.

Guarantees to a watcher, each with its own test:

* ordered:   events come in order of resourceVersion, each change once
* complete:  every change after the starting point that touches the selection is delivered
* bounded:   at most ``WATCH_BUFFER_EVENTS`` changes wait; past that the watch ends, and the client
             resumes from the last event it was given (or lists again, if that is compacted)
* bookmarks: a bookmark's resourceVersion is one up to which everything was delivered before it
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from kubarium.api.catalog import Kind
from kubarium.api.resource import Document, Resource, WatchEvent
from kubarium.base.errors import FieldError, invalid
from kubarium.server.limits import BOOKMARK_INTERVAL_S, FUTURE_REVISION_WAIT_S, WATCH_BUFFER_EVENTS
from kubarium.server.reads import Matcher, parse_revision, selector_of
from kubarium.server.registry import Registry
from kubarium.server.requests import WatchOptions
from kubarium.store.log import DELETE, Change, Subscription, too_large

INITIAL_EVENTS_END = "k8s.io/initial-events-end"

_ADDED, _MODIFIED, _DELETED, _BOOKMARK = "ADDED", "MODIFIED", "DELETED", "BOOKMARK"


class WatchStream:
    """One watcher's events; satisfies ``client.protocol.Watch``."""

    def __init__(self, registry: Registry, kind: Kind, matches: Matcher | None) -> None:
        self.kind = kind
        self._registry = registry
        self._matches = matches
        self._buffer: deque[WatchEvent] = deque()
        self._ready = asyncio.Event()
        self._subscription: Subscription | None = None
        self._timer: asyncio.Task[None] | None = None
        self._ended = False
        self.overflowed = False
        self.on_close: Callable[[], None] | None = None

    async def next_batch(self) -> list[WatchEvent]:
        """All events that wait, at least one; an empty list when the watch has ended."""
        while not self._buffer:
            if self._ended:
                return []
            self._ready.clear()
            await self._ready.wait()
        batch = list(self._buffer)
        self._buffer.clear()
        return batch

    def close(self) -> None:
        """Stop and forget what waits. Idempotent."""
        self._buffer.clear()
        self._end()

    def _end(self) -> None:
        """No more events; those that wait can still be read."""
        if self._ended:
            return
        self._ended = True
        if self._subscription is not None:
            self._subscription.close()
        if self._timer is not None and self._timer is not _current_task():
            self._timer.cancel()
        self._ready.set()
        if self.on_close is not None:
            self.on_close()

    def follow(self, prefix: str, after_revision: int) -> None:
        """Subscribe to changes; ApiError 410 if ``after_revision`` is compacted."""
        self._subscription = self._registry.store.watch(prefix, after_revision, self._take)
        if self._ended:
            self._subscription.close()

    def initial(self, documents: list[Document], revision: int, mark_end: bool) -> None:
        """Put the present state in front, as ADDED events."""
        self._buffer.extend(WatchEvent(_ADDED, document) for document in documents)
        if mark_end:
            self._buffer.append(self._bookmark(revision, initial_end=True))
        self._ready.set()

    def start_timer(self, bookmarks: bool, timeout_s: float | None) -> None:
        """Send bookmarks and end by time."""
        if bookmarks or timeout_s is not None:
            self._timer = asyncio.create_task(self._keep_time(bookmarks, timeout_s))

    async def _keep_time(self, bookmarks: bool, timeout_s: float | None) -> None:
        clock = self._registry.clock
        begun = clock.monotonic()
        while not self._ended:
            left = None if timeout_s is None else begun + timeout_s - clock.monotonic()
            if left is not None and left <= 0:
                self._end()
                return
            if not bookmarks:
                await clock.sleep(left or 0.0)
                continue
            await clock.sleep(
                BOOKMARK_INTERVAL_S if left is None else min(left, BOOKMARK_INTERVAL_S)
            )
            if left is None or left > BOOKMARK_INTERVAL_S:
                self._push(self._bookmark(self._registry.store.revision))

    def _bookmark(self, revision: int, initial_end: bool = False) -> WatchEvent:
        metadata: Document = {"resourceVersion": str(revision), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
        resource = self.kind.resource
        document = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        return WatchEvent(_BOOKMARK, document)

    def _take(self, change: Change) -> None:
        """The store's sink."""
        event = self._classify(change)
        if event is not None:
            self._push(event)

    def _push(self, event: WatchEvent) -> None:
        if self._ended:
            return
        if len(self._buffer) >= WATCH_BUFFER_EVENTS:
            self.overflowed = True
            self._end()
            return
        self._buffer.append(event)
        self._ready.set()

    def _classify(self, change: Change) -> WatchEvent | None:
        """What the change is to this watcher: entering and leaving a selection count too."""
        present, kind, matches = self._registry.present, self.kind, self._matches
        document = present(kind, change.record.value)
        gone, previous = change.kind == DELETE, change.previous
        if matches is None:
            if gone:
                return WatchEvent(_DELETED, document)
            return WatchEvent(_ADDED if previous is None else _MODIFIED, document)
        was_in = previous is not None and matches(present(kind, previous.value))
        if gone:
            return WatchEvent(_DELETED, document) if was_in else None
        if matches(document):
            return WatchEvent(_MODIFIED if was_in else _ADDED, document)
        if not was_in:
            return None
        assert previous is not None
        left = dict(present(kind, previous.value))
        left["metadata"] = left["metadata"] | {"resourceVersion": str(change.revision)}
        return WatchEvent(_DELETED, left)


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # closed outside a running loop
        return None


class Watches:
    """The watch verb over one registry; knows the open streams so that a shutdown ends them."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._open: dict[WatchStream, None] = {}

    @property
    def open_count(self) -> int:
        """How many watches are open."""
        return len(self._open)

    async def watch(self, kind: Kind, namespace: str, options: WatchOptions) -> WatchStream:
        """Open a watch. ApiError 400 and 422 (options), 410 (compacted), 504 (future)."""
        check_watch_options(options)
        registry = self._registry
        matches = selector_of(kind, options.label_selector, options.field_selector)
        revision = parse_revision(options.resource_version)
        prefix = registry.prefix(kind, namespace)
        with_state = options.send_initial_events
        if with_state is None:
            with_state = revision == 0 and not options.resource_version_match
        if with_state:
            await self._wait_for(revision)
        stream = WatchStream(registry, kind, matches)
        if with_state:
            page = registry.store.range(prefix)
            documents = [registry.present(kind, record.value) for record in page.records]
            if matches is not None:
                documents = [document for document in documents if matches(document)]
            mark = bool(options.send_initial_events and options.allow_bookmarks)
            stream.initial(documents, page.revision, mark)
            stream.follow(prefix, page.revision)
        else:
            stream.follow(prefix, revision or registry.store.revision)
        stream.start_timer(options.allow_bookmarks, options.timeout_s)
        self._register(stream)
        return stream

    def ended(self, kind: Kind) -> WatchStream:
        """A stream that has ended before it began."""
        stream = WatchStream(self._registry, kind, None)
        stream.close()
        return stream

    def _register(self, stream: WatchStream) -> None:
        self._open[stream] = None
        stream.on_close = lambda: self._forget(stream)
        if stream._ended:
            self._forget(stream)

    def _forget(self, stream: WatchStream) -> None:
        self._open.pop(stream, None)

    async def _wait_for(self, revision: int) -> None:
        """Until the store has reached ``revision``, for a short while; then ApiError 504."""
        store, clock = self._registry.store, self._registry.clock
        deadline = clock.monotonic() + FUTURE_REVISION_WAIT_S
        while revision > store.revision:
            if clock.monotonic() >= deadline:
                raise too_large(revision, store.revision)
            await clock.sleep(0.05)

    def end_all(self) -> None:
        """End every open watch (shutdown, or a kind that is no longer served)."""
        for stream in list(self._open):
            stream._end()

    def end_resource(self, resource: Resource) -> None:
        """End the watches of a resource."""
        for stream in list(self._open):
            if stream.kind.resource == resource:
                stream._end()


def check_watch_options(options: WatchOptions) -> None:
    """The combinations that upstream refuses (``metainternalversion/validation``); ApiError 422."""
    match = options.resource_version_match
    errors: list[FieldError] = []
    if options.send_initial_events is None:
        if match:
            detail = (
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            )
            errors.append(FieldError("Forbidden", "resourceVersionMatch", detail=detail))
    elif match != "NotOlderThan":
        detail = 'sendInitialEvents requires setting resourceVersionMatch to "NotOlderThan"'
        errors.append(FieldError("Forbidden", "resourceVersionMatch", detail=detail))
    if errors:
        raise invalid("ListOptions", "meta.k8s.io", "", errors)
