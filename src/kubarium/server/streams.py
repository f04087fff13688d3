"""Responses without an end: watch events as frames, and logs.

Each object of a watch is encoded once for all watchers who read the same form of it: a write has
one revision, so (type, version, revision) names the bytes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import orjson

from kubarium.api.catalog import Kind
from kubarium.api.resource import WatchEvent
from kubarium.base.clock import Clock
from kubarium.server.handlers import WatchAnswer
from kubarium.server.limits import ENCODED_EVENTS
from kubarium.server.representation import present_event

# Events that are encoded and sent in one piece before other tasks get a turn.
EVENTS_PER_CHUNK = 256

_Key = tuple[str, str, str, str]


class WatchEncoder:
    """Watch events as newline-separated JSON frames."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._encoded: dict[_Key, bytes] = {}
        self.reused = 0  # frames that another watcher had paid for

    def frames(self, kind: Kind, events: Sequence[WatchEvent], answer: WatchAnswer) -> bytes:
        """The frames of ``events``, joined."""
        if answer.media.as_:
            return b"".join(self._formed(kind, event, answer) for event in events)
        return b"".join(self._whole(kind, event) for event in events)

    def _formed(self, kind: Kind, event: WatchEvent, answer: WatchAnswer) -> bytes:
        now = self._clock.now()
        form = present_event(kind, event, answer.media, now, answer.include_object)
        return _frame(event.type, orjson.dumps(form))

    def _whole(self, kind: Kind, event: WatchEvent) -> bytes:
        if event.type in ("BOOKMARK", "ERROR"):
            return _frame(event.type, orjson.dumps(event.object))
        resource = kind.resource
        revision = event.object["metadata"]["resourceVersion"]
        key = (event.type, resource.api_version, resource.kind, revision)
        found = self._encoded.get(key)
        if found is not None:
            self.reused += 1
            return found
        if len(self._encoded) >= ENCODED_EVENTS:
            self._forget_oldest()
        frame = self._encoded[key] = _frame(event.type, orjson.dumps(event.object))
        return frame

    def _forget_oldest(self) -> None:
        """Make room by a quarter: dicts keep the order of insertion."""
        for key in list(self._encoded)[: ENCODED_EVENTS // 4]:
            del self._encoded[key]


def _frame(type_: str, encoded: bytes) -> bytes:
    return b'{"type":"' + type_.encode() + b'","object":' + encoded + b"}\n"


async def watch_chunks(
    answer: WatchAnswer,
    encoder: WatchEncoder,
    durable: Callable[[], Awaitable[None]],
    clock: Clock,
) -> AsyncIterator[bytes]:
    """The body of a watch response. What it shows is on disk before it is shown."""
    if answer.first is not None:
        yield _frame("ERROR", orjson.dumps(answer.first.status()))
        return
    stream = answer.stream
    while batch := await stream.next_batch():
        await durable()
        for start in range(0, len(batch), EVENTS_PER_CHUNK):
            if start:
                await clock.sleep(0)
            part = batch[start : start + EVENTS_PER_CHUNK]
            yield encoder.frames(stream.kind, part, answer)
