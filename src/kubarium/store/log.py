"""The versioned, watchable store: one global revision, one change each.

Every write appends one :class:`Change` and raises the revision by one, as in etcd. A worked
example (an empty store is at revision 1, as etcd's is, because "0" means "any" in the API):

    put a       -> revision 2    history: PUT a@2
    put b       -> revision 3    history: PUT a@2, PUT b@3
    put a       -> revision 4    history: PUT a@2, PUT b@3, PUT a@4
    delete b    -> revision 5    history: PUT a@2, PUT b@3, PUT a@4, DELETE b@5

    range("", revision=3)        -> a@2, b@3   (the changes after 3 are undone, newest first)
    watch("", after_revision=3)  -> PUT a@4, DELETE b@5, then whatever comes
    compact(4)                   -> history: DELETE b@5; revisions below 4 are gone (410)
    range("", revision=4)        -> a@4, b@3   (still readable: nothing after 4 is lost)
    watch("", after_revision=3)  -> 410

Keys are ``/<group or "core">/<plural>/<namespace or "-">/<name>``. The first two segments name a
*shard*: an ordered key set, a history and subscriptions of its own, so that a write of a pod
costs nothing to the watchers of nodes, and a list of nodes does not look at pods.

Writes are synchronous, in memory and single-threaded. **Values are shared and must not be changed
after they were put.** :class:`SqliteStore` (``store.sqlite``) adds a log on disk by the two hooks
``_persist`` and ``_forget``.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from heapq import merge
from itertools import islice
from typing import Any, Literal, NamedTuple

from kubarium.base.errors import ApiError, KubariumError, expired
from kubarium.store.keys import END, SortedKeys
from kubarium.store.limits import HISTORY_CHANGES, HISTORY_S, HISTORY_SLACK

Document = dict[str, Any]

PUT: Literal["PUT"] = "PUT"
DELETE: Literal["DELETE"] = "DELETE"

FIRST_REVISION = 1

_log = logging.getLogger(__name__)


class Record(NamedTuple):
    """One version of one key. ``create_revision`` is that of the put that made the key exist."""

    key: str
    value: Document
    create_revision: int
    mod_revision: int


class Change(NamedTuple):
    """One write. ``record`` of a DELETE is the last state, with the deletion's revision."""

    kind: Literal["PUT", "DELETE"]
    key: str
    record: Record
    previous: Record | None
    revision: int


@dataclass(frozen=True, slots=True)
class RangeResult:
    """A page: ``count`` is how many records there are from ``start`` on, this page included."""

    records: list[Record]
    revision: int
    more: bool
    count: int


class CasError(KubariumError):
    """The expected revision does not hold; ``current`` is what is there (None: nothing)."""

    def __init__(self, key: str, expected: int, current: Record | None) -> None:
        found = f"revision {current.mod_revision}" if current else "nothing"
        super().__init__(f"{key}: expected revision {expected}, found {found}")
        self.key = key
        self.expected = expected
        self.current = current


Sink = Callable[[Change], None]


class Subscription:
    """A live watch. A sink that raises is cut off, and ``error`` says why."""

    __slots__ = ("_detach", "closed", "error", "prefix", "seen", "sink")

    def __init__(self, prefix: str, seen: int, sink: Sink) -> None:
        self.prefix = prefix
        self.seen = seen  # the newest revision that the sink has been offered
        self.sink = sink
        self.closed = False
        self.error: Exception | None = None
        self._detach: Callable[[], None] | None = None

    def close(self) -> None:
        """Deliver nothing more. Idempotent; may be called from within the sink."""
        self.closed = True
        if self._detach is not None:
            self._detach()
            self._detach = None

    def offer(self, change: Change) -> None:
        """Hand ``change`` to the sink unless it has had it; never raises."""
        if self.closed or change.revision <= self.seen:
            return
        self.seen = change.revision
        try:
            self.sink(change)
        except Exception as error:
            # It has missed a change, so whatever it holds is wrong from here on.
            self.error = error
            _log.exception("watch of %r was cut off: its sink failed", self.prefix)
            self.close()


Listeners = dict[str, tuple[Subscription, ...]]


class _Shard:
    """All keys of one resource: their order, their changes, and who watches them."""

    __slots__ = ("changed_at", "history", "keys", "listeners", "odd_listeners", "prefix")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.keys = SortedKeys()
        self.changed_at = 0
        self.history: list[Change] = []
        self.listeners: Listeners = {}  # by the shard's prefix, or prefix + "namespace/"
        self.odd_listeners: Listeners = {}  # any longer prefix: asked one by one

    def changes_after(self, revision: int) -> list[Change]:
        return self.history[bisect_right(self.history, revision, key=_revision_of) :]

    def interested(self, key: str) -> tuple[Subscription, ...]:
        """The subscriptions of this shard that ``key`` concerns, in a deterministic order."""
        found = self.listeners.get(self.prefix, ())
        found += self.listeners.get(key[: key.rindex("/") + 1], ())
        for prefix, subscriptions in self.odd_listeners.items():
            if key.startswith(prefix):
                found += subscriptions
        return found


def _revision_of(change: Change) -> int:
    return change.revision


def shard_prefix(key: str) -> str:
    """``/core/pods/`` of ``/core/pods/default/web``; "" if ``key`` has not two whole segments."""
    if not key.startswith("/"):
        return ""
    first = key.find("/", 1)
    return key[: key.find("/", first + 1) + 1] if first > 0 else ""


# Ranges are asked for again and again: by admission, of every namespace.
_whole = lru_cache(maxsize=4096)(shard_prefix)


class Store:
    """The whole store in memory; subclasses make it durable."""

    def __init__(self) -> None:
        self._revision = FIRST_REVISION
        self._compacted = 0
        self._records: dict[str, Record] = {}
        self._shards: dict[str, _Shard] = {}
        self._wide_listeners: Listeners = {}  # prefixes that span shards
        self._undelivered: deque[tuple[_Shard, Change]] = deque()
        self._delivering = False
        self._marks: deque[tuple[float, int]] = deque()  # (time, revision then), for tick()

    # Reading

    @property
    def revision(self) -> int:
        """The revision of the newest change."""
        return self._revision

    @property
    def compacted(self) -> int:
        """The oldest revision that can still be read, and after which a watch may start."""
        return self._compacted

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> Record | None:
        """The newest version of ``key``, or None."""
        return self._records.get(key)

    def changed_at(self, prefix: str) -> int:
        """The revision of the last change of any key of a resource (``/group/plural/``).

        0 if there was none since this process began; what was worked out from a range of the
        resource holds as long as this stays what it is.
        """
        shard = self._shards.get(prefix)
        return shard.changed_at if shard is not None else 0

    def is_empty(self, prefix: str) -> bool:
        """Whether there is no key of a resource (``/group/plural/``)."""
        shard = self._shards.get(prefix)
        return shard is None or not shard.keys

    def get_at(self, key: str, revision: int) -> Record | None:
        """``key`` as it was at ``revision``; ApiError 410 if that is compacted, 504 if to come."""
        self._check_readable(revision, paging=False)
        shard = self._shards.get(shard_prefix(key))
        for change in shard.changes_after(revision) if shard else ():
            if change.key == key:
                return change.previous
        return self._records.get(key)

    def range(
        self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0
    ) -> RangeResult:
        """The records whose key has ``prefix``, in key order.

        ``start`` is the first key wanted (a whole key; the next page starts at the last key +
        "\\0"), ``limit`` 0 means all, ``revision`` 0 means now. ApiError 410 if ``revision`` is
        compacted, 504 if it has not happened yet.
        """
        whole = _whole(prefix)
        if not revision and whole and self.is_empty(whole):
            return RangeResult([], self._revision, False, 0)
        low, high = max(prefix, start), prefix + END
        if revision and revision != self._revision:
            self._check_readable(revision, paging=bool(start))
            return self._range_at(prefix, low, high, limit, revision)
        shards = self._shards_of(prefix)
        keys = (key for shard in shards for key in shard.keys.between(low, high))
        page = [self._records[key] for key in (islice(keys, limit) if limit else keys)]
        count = sum(shard.keys.count(low, high) for shard in shards) if limit else len(page)
        return RangeResult(page, self._revision, count > len(page), count)

    def _range_at(self, prefix: str, low: str, high: str, limit: int, revision: int) -> RangeResult:
        shards = self._shards_of(prefix)
        then: dict[str, Record | None] = {}  # keys changed since, as they were at ``revision``
        for shard in shards:
            for change in reversed(shard.changes_after(revision)):
                if low <= change.key < high:
                    then[change.key] = change.previous
        unchanged = sum(shard.keys.count(low, high) for shard in shards)
        unchanged -= sum(1 for key in then if key in self._records)
        count = unchanged + sum(1 for record in then.values() if record)
        changed = sorted((record for record in then.values() if record), key=_key_of)
        rest = (
            self._records[key]
            for shard in shards
            for key in shard.keys.between(low, high)
            if key not in then
        )
        records = merge(rest, changed, key=_key_of)
        page = list(islice(records, limit) if limit else records)
        return RangeResult(page, revision, count > len(page), count)

    # Writing

    def put(self, key: str, value: Document, expected: int | None = None) -> int:
        """Write ``value`` and return the new revision, which is exactly ``revision + 1``.

        ``expected`` is the mod_revision that must hold, 0 that the key must not exist, None no
        condition; CasError otherwise, and then nothing has changed.
        """
        current = self._expect(key, expected)
        revision = self._revision + 1
        created = current.create_revision if current else revision
        record = Record(key, value, created, revision)
        self._commit(Change(PUT, key, record, current, revision))
        return revision

    def delete(self, key: str, expected: int | None = None, final: Document | None = None) -> int:
        """Remove ``key`` and return the new revision; CasError if it is not there or not as
        ``expected``. ``final`` is the last state that watchers shall see (with the deletion's
        resourceVersion); without it they see the last value put.
        """
        current = self._expect(key, expected)
        if current is None:
            raise CasError(key, expected or 0, None)
        revision = self._revision + 1
        value = current.value if final is None else final
        record = Record(key, value, current.create_revision, revision)
        self._commit(Change(DELETE, key, record, current, revision))
        return revision

    def _expect(self, key: str, expected: int | None) -> Record | None:
        current = self._records.get(key)
        if expected is not None and expected != (current.mod_revision if current else 0):
            raise CasError(key, expected, current)
        return current

    def _commit(self, change: Change) -> None:
        shard = self._shard_at(change.key)
        self._persist(change)  # first: if it refuses, nothing has happened
        self._apply(shard, change)
        if self._revision - self._compacted > HISTORY_CHANGES + HISTORY_SLACK:
            self.compact(self._revision - HISTORY_CHANGES)
        self._publish(shard, change)

    def _apply(self, shard: _Shard, change: Change) -> None:
        self._revision = shard.changed_at = change.revision
        shard.history.append(change)
        if change.kind == DELETE:
            del self._records[change.key]
            shard.keys.remove(change.key)
            return
        self._records[change.key] = change.record
        if change.previous is None:
            shard.keys.add(change.key)

    # Watching

    def watch(self, prefix: str, after_revision: int, sink: Sink) -> Subscription:
        """Call ``sink`` for every change under ``prefix`` after ``after_revision``, in order.

        Past changes come before this returns (what the sink raises then, the caller gets); later
        ones come within the write that makes them. A revision that is still to come waits for
        it. ApiError 410 if ``after_revision`` is compacted.
        """
        if after_revision < self._compacted:
            raise too_old(after_revision, self._compacted)
        subscription = Subscription(prefix, after_revision, sink)
        while past := self._changes(prefix, subscription.seen):  # again, if the sink itself wrote
            for change in past:
                subscription.seen = change.revision
                sink(change)
                if subscription.closed:
                    return subscription
        self._attach(subscription)
        return subscription

    def _changes(self, prefix: str, after_revision: int) -> list[Change]:
        parts = [
            [c for c in shard.changes_after(after_revision) if c.key.startswith(prefix)]
            for shard in self._shards_of(prefix)
        ]
        return list(merge(*parts, key=_revision_of))

    def _attach(self, subscription: Subscription) -> None:
        prefix = subscription.prefix
        shard = shard_prefix(prefix)
        if not shard:
            listeners = self._wide_listeners
        elif prefix == shard or (prefix.endswith("/") and prefix.count("/") == 4):
            listeners = self._shard_at(prefix).listeners
        else:
            listeners = self._shard_at(prefix).odd_listeners
        # Tuples are replaced, not changed: a delivery under way keeps the one it walks over.
        listeners[prefix] = (*listeners.get(prefix, ()), subscription)

        def detach() -> None:
            left = tuple(other for other in listeners[prefix] if other is not subscription)
            if left:
                listeners[prefix] = left
            else:
                del listeners[prefix]

        subscription._detach = detach

    def _publish(self, shard: _Shard, change: Change) -> None:
        """Deliver, unless a delivery is under way: then a sink wrote, and its turn comes after."""
        self._undelivered.append((shard, change))
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._undelivered:
                self._deliver(*self._undelivered.popleft())
        finally:
            self._delivering = False

    def _deliver(self, shard: _Shard, change: Change) -> None:
        found = shard.interested(change.key)
        for prefix, subscriptions in self._wide_listeners.items():
            if change.key.startswith(prefix):
                found += subscriptions
        for subscription in found:
            subscription.offer(change)

    # Compaction

    def compact(self, revision: int) -> None:
        """Forget the changes up to ``revision``; the state at it stays readable.

        Compacting to what is compacted already does nothing; ValueError for the future.
        """
        if revision > self._revision:
            raise ValueError(f"cannot compact to {revision}: the store is at {self._revision}")
        if revision <= self._compacted:
            return
        self._compacted = revision
        dead: list[int] = []
        for shard in self._shards.values():
            end = bisect_right(shard.history, revision, key=_revision_of)
            for change in shard.history[:end]:
                if change.previous is not None:
                    dead.append(change.previous.mod_revision)
                if change.kind == DELETE:
                    dead.append(change.revision)
            del shard.history[:end]
        self._forget(revision, dead)

    def tick(self, now: float) -> None:
        """Compact what is older than HISTORY_S. Call every few seconds; ``now`` is monotonic."""
        if not self._marks or self._marks[-1][1] != self._revision:
            self._marks.append((now, self._revision))
        while self._marks and self._marks[0][0] <= now - HISTORY_S:
            self.compact(self._marks.popleft()[1])

    # Durability

    async def durable(self) -> None:
        """Return when everything written before this call will survive a kill -9."""

    def close(self) -> None:
        """Flush and let go of files and threads. Idempotent."""

    def _persist(self, change: Change) -> None:
        """Hook: put ``change`` on its way to disk, or raise and so refuse it."""

    def _forget(self, compacted: int, dead: list[int]) -> None:
        """Hook: the log rows of the revisions ``dead`` are no longer needed."""

    def _restore(self, compacted: int, changes: Iterable[Change]) -> None:
        """Rebuild from a log whose live records up to ``compacted`` come as PUTs."""
        self._compacted = compacted
        self._revision = max(compacted, FIRST_REVISION)
        for change in changes:
            shard = self._shard_at(change.key)
            if change.revision <= compacted:
                self._records[change.key] = change.record
                shard.keys.add(change.key)
            else:
                self._apply(shard, change)

    # Shards

    def _shard_at(self, key: str) -> _Shard:
        prefix = shard_prefix(key)
        shard = self._shards.get(prefix)
        if shard is None:
            if not prefix:
                raise ValueError(f"not a key of the form /group/plural/namespace/name: {key!r}")
            shard = self._shards[prefix] = _Shard(prefix)
        return shard

    def _shards_of(self, prefix: str) -> list[_Shard]:
        """The shards that ``prefix`` touches, in key order."""
        whole = shard_prefix(prefix)
        if whole:
            shard = self._shards.get(whole)
            return [shard] if shard else []
        return [self._shards[name] for name in sorted(self._shards) if name.startswith(prefix)]

    def _check_readable(self, revision: int, *, paging: bool) -> None:
        if revision > self._revision:
            raise too_large(revision, self._revision)
        if revision < self._compacted:
            raise expired(CONTINUE_TOO_OLD if paging else LIST_TOO_OLD)

    def check(self) -> None:
        """Raise AssertionError if an invariant is broken; costs a walk over everything."""
        held = 0
        revisions: list[int] = []
        for prefix, shard in self._shards.items():
            shard.keys.check()
            held += len(shard.keys)
            for key in shard.keys.between("", END):
                assert shard_prefix(key) == prefix, f"{key} lies in shard {prefix}"
                assert self._records[key].key == key, f"{key} holds another key's record"
            revisions.extend(change.revision for change in shard.history)
            _check_chain(shard.history, self._records)
        assert held == len(self._records), "records and ordered keys differ"
        expected = list(range(max(self._compacted, FIRST_REVISION) + 1, self._revision + 1))
        assert sorted(revisions) == expected, "the history has a gap or a double"
        for record in self._records.values():
            assert record.create_revision <= record.mod_revision <= self._revision
        assert not self._undelivered, "a change was not delivered"


class MemoryStore(Store):
    """A store that dies with the process: tests, simulations, throw-away clusters."""


def _key_of(record: Record) -> str:
    return record.key


def _check_chain(history: list[Change], records: dict[str, Record]) -> None:
    """Each key's changes must link: ``previous`` is what the change before it left."""
    last: dict[str, Record | None] = {}
    for change in history:
        if change.key in last:
            assert change.previous == last[change.key], f"{change.key}: broken chain"
        created = change.revision if change.previous is None else change.previous.create_revision
        assert change.record.create_revision == created, f"{change.key}: wrong create_revision"
        last[change.key] = change.record if change.kind == PUT else None
    for key, record in last.items():
        assert records.get(key) == record, f"{key}: history and records differ"


# Messages of 410 answers are those of apiserver's storage layer (etcd3/store.go, errors.go) and
# watch cache (cacher/watch_cache.go); clients show them and conformance tests compare them.
CONTINUE_TOO_OLD = (
    "The provided continue parameter is too old "
    "to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to "
    "retrieve the remainder of the results. Continuing with the provided "
    "token results in an inconsistent list - objects that were created, "
    "modified, or deleted between the time the first chunk was returned "
    "and now may show up in the list."
)
LIST_TOO_OLD = "The resourceVersion for the provided list is too old."


def too_old(revision: int, oldest: int) -> ApiError:
    """410 for a watch that starts before the oldest revision held."""
    return expired(f"too old resource version: {revision} ({oldest})")


def too_large(revision: int, current: int) -> ApiError:
    """504 for a revision that has not happened; clients retry after a second."""
    message = f"Too large resource version: {revision}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return ApiError(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})
