"""Events about objects, as ``kubectl describe`` shows them.

Recording never blocks and never fails. Repeats are counted on one Event, many similar ones are
combined, and a component that floods one object is rate-limited; the rules and figures are
client-go's (``tools/record/events_cache.go``). An event that names an action has the form of
events.k8s.io (``tools/events``): when in microseconds, by which instance, beside whom, and repeats
as a series.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kubarium.api.kinds import EVENTS
from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339, rfc3339_micro
from kubarium.base.errors import ApiError
from kubarium.client.protocol import MERGE_PATCH
from kubarium.runtime.protocol import Context

_LOG = logging.getLogger("kubarium.events")

QUEUE_LENGTH = 1000  # waiting events; more are dropped, as by client-go's broadcaster
CACHE_LENGTH = 4096  # remembered (object, reason, message)
SIMILAR_EVENTS = 10  # from this many similar ones within the interval on they are combined
SIMILAR_INTERVAL_S = 600.0
BURST = 25  # tokens of one (component, object)
REFILL_PER_S = 1 / 300
MAX_MESSAGE = 1024
MAX_NAME = 253
_COMBINED = "(combined from similar events): "
# Behind a component's name in ``reportingInstance``, where upstream has the name of its host.
_HOST = "kubarium"


@dataclass(frozen=True, slots=True)
class _Told:
    """What happened to whom, as it was recorded."""

    at: float
    reference: Document
    type: str
    reason: str
    message: str
    host: str
    action: str
    related: Document | None
    standing: bool


@dataclass(slots=True)
class _Seen:
    """An Event that was written."""

    name: str
    namespace: str
    count: int
    first: float
    last: float


@dataclass(slots=True)
class _Similar:
    """Messages of one (object, type, reason) within the interval."""

    messages: dict[str, None]
    last: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class EventRecorder:
    """Records events of one component."""

    def __init__(
        self,
        context: Context,
        component: str,
        host_of: Callable[[Document], str] = lambda document: "",
    ) -> None:
        """``component`` is what ``source.component`` and ``reportingComponent`` say; ``host_of`` an
        object is the node that says it, of a component that runs on all of them."""
        self._context = context
        self._component, self._host_of = component, host_of
        self._waiting: deque[_Told] = deque()
        self._drain: asyncio.Task[None] | None = None
        self._seen: OrderedDict[tuple[str, ...], _Seen] = OrderedDict()
        self._similar: OrderedDict[tuple[str, ...], _Similar] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, ...], _Bucket] = OrderedDict()
        self._sequence = 0
        self.dropped = 0

    def event(
        self,
        document: Document,
        type_: str,
        reason: str,
        message: str,
        *,
        field_path: str = "",
        action: str = "",
        related: Document | None = None,
        standing: bool = False,
    ) -> None:
        """Record that ``reason`` happened to ``document``; ``type_`` is Normal or Warning.

        ``field_path`` names the part that it happened to, as ``spec.containers{main}``: parts are
        counted apart. ``action`` is what the component was about when it happened, and ``related``
        another object that had to do with it. What is ``standing`` holds for a while and is told
        anew: it is one Event, whatever it says, with the last message, and no limit keeps it back.
        """
        if len(self._waiting) >= QUEUE_LENGTH:
            self.dropped += 1
            return
        reference = _reference(document)
        if field_path:
            reference["fieldPath"] = field_path
        self._waiting.append(
            _Told(
                self._context.clock.now(),
                reference,
                type_,
                reason,
                message,
                self._host_of(document),
                action,
                None if related is None else _reference(related),
                standing,
            )
        )
        if self._drain is None or self._drain.done():
            loop = asyncio.get_running_loop()
            self._drain = loop.create_task(self._run(), name=f"events/{self._component}")

    async def flush(self) -> None:
        """Until everything recorded so far is written or dropped."""
        while self._drain is not None and not self._drain.done():
            await asyncio.shield(self._drain)

    async def _run(self) -> None:
        while self._waiting:
            told = self._waiting.popleft()
            try:
                await self._write(told)
            except ApiError as error:
                # An event in a namespace that is going or gone is no news.
                self.dropped += 1
                name = told.reference.get("name")
                _LOG.debug("event %s of %s dropped: %s", told.reason, name, error)

    async def _write(self, told: _Told) -> None:
        reference = told.reference
        if not told.standing and not self._allowed(told.at, reference):
            self.dropped += 1
            return
        combined = not told.standing and self._is_one_too_many(told)
        text = _cut(_COMBINED + told.message if combined else told.message)
        # Combined events share one Event, whose message is that of the last one.
        part = reference.get("fieldPath", "")
        said = _COMBINED if combined else "" if told.standing else text
        key = (*_identity(reference), part, told.type, told.reason, told.action, said)
        seen = self._seen.get(key)
        if seen is not None and await self._count_up(seen, told, text):
            self._seen.move_to_end(key)
            return
        self._seen[key] = await self._create(told, text)
        _trim(self._seen)

    def _allowed(self, now: float, reference: Document) -> bool:
        """Token bucket on (component, object): 25 at once, then one in five minutes."""
        key = _identity(reference)
        bucket = self._buckets.setdefault(key, _Bucket(BURST, now))
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.at) * REFILL_PER_S)
        bucket.at = now
        self._buckets.move_to_end(key)
        _trim(self._buckets)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _is_one_too_many(self, told: _Told) -> bool:
        """Whether the object has had too many different messages of this reason lately."""
        key = (*_identity(told.reference), told.type, told.reason)
        similar = self._similar.get(key)
        if similar is None or told.at - similar.last > SIMILAR_INTERVAL_S:
            similar = self._similar[key] = _Similar({}, told.at)
        similar.last = told.at
        self._similar.move_to_end(key)
        _trim(self._similar)
        if told.message in similar.messages:
            return False
        if len(similar.messages) + 1 < SIMILAR_EVENTS:
            similar.messages[told.message] = None
            return False
        return True

    async def _count_up(self, seen: _Seen, told: _Told, message: str) -> bool:
        """Count one more on a written Event; False when it has expired or been deleted."""
        count = seen.count + 1
        patch: Document = {"message": message}
        if told.action:
            patch["series"] = {"count": count, "lastObservedTime": rfc3339_micro(told.at)}
        else:
            patch["count"] = count
        patch["lastTimestamp"] = rfc3339(told.at)
        try:
            await self._context.client.patch(
                EVENTS, seen.name, patch, seen.namespace, patch_type=MERGE_PATCH
            )
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        seen.count = count
        seen.last = told.at
        return True

    async def _create(self, told: _Told, message: str) -> _Seen:
        namespace = told.reference.get("namespace") or "default"
        # client-go names events by the nanosecond; virtual time stands still, so we also count.
        self._sequence += 1
        tail = f".{int(told.at * 1e9) + self._sequence:x}"
        name = told.reference.get("name", "")[: MAX_NAME - len(tail)] + tail
        document: Document = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": told.reference,
            "reason": told.reason,
            "message": message,
            "type": told.type,
            "reportingComponent": self._component,
            **(self._with_action(told) if told.action else self._counted(told)),
        }
        try:
            await self._context.client.create(EVENTS, document, namespace, fresh=True)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            name = f"{name}{self._context.chance.suffix()}"[-MAX_NAME:]
            document["metadata"] = {"name": name, "namespace": namespace}
            await self._context.client.create(EVENTS, document, namespace)
        return _Seen(name, namespace, 1, told.at, told.at)

    def _counted(self, told: _Told) -> Document:
        """The fields of core/v1."""
        return {
            "source": {"component": self._component} | ({"host": told.host} if told.host else {}),
            "reportingInstance": told.host,
            "firstTimestamp": rfc3339(told.at),
            "lastTimestamp": rfc3339(told.at),
            "count": 1,
        }

    def _with_action(self, told: _Told) -> Document:
        """The fields of events.k8s.io; the times of core/v1 too, by which older clients read."""
        found: Document = {
            "action": told.action,
            "eventTime": rfc3339_micro(told.at),
            "firstTimestamp": rfc3339(told.at),
            "lastTimestamp": rfc3339(told.at),
            "reportingInstance": f"{self._component}-{told.host or _HOST}",
        }
        return found if told.related is None else found | {"related": told.related}


def _reference(document: Document) -> Document:
    metadata = document["metadata"]
    reference = {
        "kind": document.get("kind", ""),
        "namespace": metadata.get("namespace", ""),
        "name": metadata.get("name", ""),
        "uid": metadata.get("uid", ""),
        "apiVersion": document.get("apiVersion", ""),
        "resourceVersion": metadata.get("resourceVersion", ""),
    }
    return {name: value for name, value in reference.items() if value}


def _identity(reference: Document) -> tuple[str, ...]:
    return (
        reference.get("kind", ""),
        reference.get("namespace", ""),
        reference.get("name", ""),
        reference.get("uid", ""),
    )


def _cut(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 4]} ..."


def _trim(cache: OrderedDict[tuple[str, ...], Any]) -> None:
    while len(cache) > CACHE_LENGTH:
        cache.popitem(last=False)
