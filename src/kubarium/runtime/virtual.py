"""A virtual event loop: time stands still while anything can run, then jumps to the next timer.

The whole control plane runs on it unchanged: :class:`VirtualClock` satisfies ``base.clock.Clock``.
Order is deterministic: callbacks run first in, first out, and timers due at the same moment fire
in the order in which they were set (asyncio's own heap does not promise that). The loop owns no
file descriptors and no threads; code that tries to wait for the outside world gets an error that
says so instead of a hang.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from asyncio import base_events
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, NoReturn, TypeVar

from kubarium.base.chance import Chance
from kubarium.base.errors import KubariumError

T = TypeVar("T")

# 2026-01-01T00:00:00Z: virtual runs begin at the same moment unless told otherwise.
DEFAULT_EPOCH_S = 1767225600.0
_STUCK_TASKS_NAMED = 12


class VirtualLoopError(KubariumError):
    """Something on the virtual loop waits for what can never happen there."""


class _Timer(asyncio.TimerHandle):
    """A timer that orders by (when, sequence), so that equal times are first in, first out."""

    def __init__(
        self,
        when: float,
        sequence: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: Context | None,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.sequence = sequence

    def __lt__(self, other: asyncio.TimerHandle) -> bool:
        if isinstance(other, _Timer):
            return (self.when(), self.sequence) < (other.when(), other.sequence)
        return NotImplemented


class _TimeLeap:
    """Stands where asyncio expects its selector: instead of waiting, it moves the loop's time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def select(self, timeout_s: float | None) -> list[Any]:
        if timeout_s is None:
            raise VirtualLoopError(self._loop.diagnose())
        if timeout_s > 0:
            self._loop.leap()
        return []

    def close(self) -> None:
        """Nothing is held."""


class VirtualLoop(base_events.BaseEventLoop):
    """An asyncio event loop on virtual time. ``time()`` starts at 0."""

    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, seed: int | str = 0, epoch_s: float = DEFAULT_EPOCH_S) -> None:
        """``epoch_s`` is what ``VirtualClock.now`` says at the start (seconds since 1970)."""
        super().__init__()
        self.epoch_s = epoch_s
        self.chance = Chance(seed)
        self._now_s = 0.0
        self._sequence = 0
        self._clock_resolution = 1e-9
        self._selector = _TimeLeap(self)

    def time(self) -> float:
        return self._now_s

    def leap(self) -> None:
        """Move time to the next timer. Called only when nothing is ready."""
        self._now_s = max(self._now_s, self._scheduled[0].when())
        # asyncio runs timers with when < time + resolution; the sum must exceed the time.
        self._clock_resolution = max(1e-9, 2 * math.ulp(self._now_s))

    def call_at(  # type: ignore[override]  # *args typed as a whole
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self._check_closed()
        self._sequence += 1
        timer = _Timer(when, self._sequence, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def diagnose(self) -> str:
        """Which tasks wait, and for what, when nothing can ever wake them."""
        waiting = sorted(
            f"{task.get_name()} at {_position(task)}"
            for task in asyncio.all_tasks(self)
            if not task.done()
        )
        shown = "; ".join(waiting[:_STUCK_TASKS_NAMED])
        more = len(waiting) - _STUCK_TASKS_NAMED
        return (
            "the virtual loop is stuck: no task can run and no timer is set, so nothing will ever "
            f"happen. Waiting: {shown or 'no task'}"
            + (f"; and {more} more" if more > 0 else "")
            + ". A missing wake-up is a bug; waiting for sockets, threads or processes needs a "
            "real event loop"
        )

    def _check_closed(self) -> None:
        if self.is_closed():
            raise RuntimeError("Event loop is closed")

    def _process_events(self, event_list: list[Any]) -> None:
        """There are no I/O events."""

    def _write_to_self(self) -> None:
        """Nobody sleeps in a selector, so nobody needs waking."""

    def close(self) -> None:
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        super().close()

    def _refuse(self, what: str) -> NoReturn:
        raise VirtualLoopError(
            f"{what} on the virtual loop: virtual time cannot wait for the outside world. Use a "
            "real event loop, or the in-process client and the simulated runtime"
        )

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        self._refuse(f"a thread was asked to run {getattr(func, '__name__', func)!r}")

    def add_reader(self, fd: Any, callback: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        self._refuse("a file descriptor was to be read")

    def add_writer(self, fd: Any, callback: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        self._refuse("a file descriptor was to be written")

    def create_connection(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("a connection was to be opened")

    def create_server(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("a listening socket was to be opened")

    def subprocess_exec(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("a process was to be started")

    def subprocess_shell(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("a process was to be started")


def _position(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    if not frames:
        return "its end"
    code = frames[-1].f_code
    return f"{code.co_qualname} line {frames[-1].f_lineno}"


class VirtualClock:
    """The clock of the virtual loop that is running. Satisfies ``base.clock.Clock``."""

    def now(self) -> float:
        loop = _virtual_loop()
        return loop.epoch_s + loop.time()

    def monotonic(self) -> float:
        return _virtual_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))  # noqa: TID251 - this is the clock


def _virtual_loop() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise VirtualLoopError(
            "VirtualClock was asked for the time on a real event loop; run the code with "
            "kubarium.runtime.virtual.run()"
        )
    return loop


def chance() -> Chance:
    """The running virtual loop's seeded source (see ``run``)."""
    return _virtual_loop().chance


def run(main: Coroutine[Any, Any, T], seed: int | str = 0, epoch_s: float = DEFAULT_EPOCH_S) -> T:
    """Run ``main`` to its end on a fresh virtual loop, then cancel what is left.

    Returns what ``main`` returns. Raises :class:`VirtualLoopError` when everything waits for
    something that cannot happen.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed, epoch_s)) as runner:
        return runner.run(main)
