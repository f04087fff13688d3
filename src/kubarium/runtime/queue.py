"""The work queue of a controller: keys, de-duplicated, one worker at a time on each.

The rules are client-go's (``util/workqueue``): a key added while it is being worked on is queued
again when that work is done; a delayed key that is added again keeps the earlier time.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque

from kubarium.base.clock import Clock
from kubarium.runtime.protocol import Key

# client-go's ItemExponentialFailureRateLimiter as controllers use it.
FIRST_BACKOFF_S = 0.005
LAST_BACKOFF_S = 1000.0


class WorkQueue:
    """Keys waiting for work. Not thread-safe: it lives on one event loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ready: deque[Key] = deque()
        self._dirty: dict[Key, None] = {}
        self._working: dict[Key, None] = {}
        self._failures: dict[Key, int] = {}
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._sequence = 0
        self._sleeper: asyncio.Task[None] | None = None
        self._sleeps_until = 0.0
        self._waiters: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        """Keys that are ready."""
        return len(self._ready)

    def is_idle(self) -> bool:
        """No key is ready or being worked on (delayed keys may exist)."""
        return not self._ready and not self._working

    def add(self, key: Key) -> None:
        """Queue ``key`` unless it is queued already."""
        if key in self._dirty:
            return
        self._dirty[key] = None
        if key not in self._working:
            self._ready.append(key)
            self._wake_one()

    def add_after(self, key: Key, delay_s: float) -> None:
        """Queue ``key`` once ``delay_s`` seconds have passed, or earlier if asked so before."""
        if delay_s <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + delay_s
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, key))
        self._set_sleeper()

    def retry(self, key: Key) -> float:
        """Queue ``key`` after its back-off, which doubles each time; returns the delay."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay_s = min(FIRST_BACKOFF_S * float(1 << min(failures, 40)), LAST_BACKOFF_S)
        self.add_after(key, delay_s)
        return delay_s

    def forgive(self, key: Key) -> None:
        """Reset the back-off of ``key``."""
        self._failures.pop(key, None)

    async def take(self) -> Key:
        """Wait for a key; call :meth:`done` with it afterwards."""
        while not self._ready:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled() and self._ready:
                    self._wake_one()  # pass the wake-up on
                raise
        key = self._ready.popleft()
        del self._dirty[key]
        self._working[key] = None
        return key

    def done(self, key: Key) -> None:
        """The work on ``key`` is over."""
        del self._working[key]
        if key in self._dirty:
            self._ready.append(key)
            self._wake_one()

    def close(self) -> None:
        """Forget all delayed keys."""
        if self._sleeper is not None:
            self._sleeper.cancel()
            self._sleeper = None
        self._heap.clear()
        self._due.clear()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _set_sleeper(self) -> None:
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)  # replaced by an earlier time, or gone
        if not self._heap:
            return
        due = self._heap[0][0]
        if self._sleeper is not None and not self._sleeper.done():
            if self._sleeps_until <= due:
                return
            self._sleeper.cancel()
        self._sleeps_until = due
        self._sleeper = asyncio.get_running_loop().create_task(self._sleep(due), name="queue-timer")

    async def _sleep(self, due: float) -> None:
        await self._clock.sleep(due - self._clock.monotonic())
        now = self._clock.monotonic()
        # A real clock may wake a hair early; the key is due then.
        now = max(now, due)
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        self._sleeper = None
        self._set_sleeper()
