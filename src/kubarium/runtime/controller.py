"""A controller: informers put keys on a queue, workers reconcile them.

A reconcile is level-based: it reads all that it needs from informers, writes what should be, and
doing it twice changes nothing. It returns seconds after which to look again, or None.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError
from kubarium.runtime.informer import key_of
from kubarium.runtime.parts import EVERYTHING, reads
from kubarium.runtime.protocol import Context, Informer, Key
from kubarium.runtime.queue import WorkQueue

Reconcile = Callable[[Key], Awaitable[float | None]]

# How many failures a controller remembers, for status pages and tests.
ERRORS_KEPT = 100


@dataclass(frozen=True, slots=True)
class ReconcileError:
    """One failed reconcile."""

    at: float
    key: Key
    message: str


class Controller:
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, name: str, context: Context, reconcile: Reconcile, workers: int = 1) -> None:
        """``workers`` reconcile different keys side by side."""
        self._name = name
        self._context = context
        self._reconcile = reconcile
        self._workers = workers
        self._queue = WorkQueue(context.clock)
        self._informers: list[Informer] = []
        self._log = logging.getLogger(f"kubarium.{name}")
        self._logged: dict[str, None] = {}
        self.errors: deque[ReconcileError] = deque(maxlen=ERRORS_KEPT)
        self.reconciles = 0
        self.failures = 0

    @property
    def name(self) -> str:
        return self._name

    def enqueue(self, key: Key, after_s: float = 0) -> None:
        """Have ``key`` reconciled, ``after_s`` seconds from now."""
        self._queue.add_after(key, after_s)

    def is_idle(self) -> bool:
        """Nothing is ready or in work."""
        return self._queue.is_idle()

    def reads(self, resource: Resource) -> Informer:
        """The informer of ``resource``; the workers start only once it is synced."""
        informer = self._context.informers.get(resource)
        if informer not in self._informers:
            self._informers.append(informer)
        return informer

    def watches(
        self, resource: Resource, map_fn: Callable[[Document], Iterable[Key]] | None = None
    ) -> Informer:
        """Reconcile the keys that ``map_fn`` gives for every old and new state of an object.

        ``map_fn`` may say which parts of an object it reads (``runtime.parts``).

        Without ``map_fn``: the object's own key.
        """
        informer = self.reads(resource)
        queue = self._queue

        def own(old: Document | None, new: Document | None) -> None:
            document = new if new is not None else old
            if document is not None:
                queue.add(key_of(document))

        parts = reads(map_fn) if map_fn is not None else EVERYTHING

        def mapped(old: Document | None, new: Document | None) -> None:
            assert map_fn is not None
            if old is not None and (new is None or parts & informer.changed):
                for key in map_fn(old):
                    queue.add(key)
            if new is not None:
                for key in map_fn(new):
                    queue.add(key)

        informer.on_change(own if map_fn is None else mapped)
        return informer

    async def run(self) -> None:
        for informer in list(self._informers):
            await informer.wait_synced()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._workers):
                    group.create_task(self._work(), name=f"{self._name}/{number}")
        finally:
            self._queue.close()

    async def _work(self) -> None:
        while True:
            key = await self._queue.take()
            try:
                await self._reconcile_once(key)
            finally:
                self._queue.done(key)
            # In process, a reconcile may never wait for anything: let the others run.
            await self._context.clock.sleep(0)

    async def _reconcile_once(self, key: Key) -> None:
        self.reconciles += 1
        try:
            after_s = await self._reconcile(key)
        except Exception as error:
            self._failed(key, error)
            return
        self._queue.forgive(key)
        if after_s is not None:
            self._queue.add_after(key, after_s)

    def _failed(self, key: Key, error: Exception) -> None:
        delay_s = self._queue.retry(key)
        if isinstance(error, ApiError) and error.reason in ("Conflict", "NotFound"):
            return  # our copy was behind; the retry reads again
        self.failures += 1
        text = str(error) or repr(error)
        self.errors.append(ReconcileError(self._context.clock.now(), key, text))
        self._report(key, error, text, delay_s)

    def _report(self, key: Key, error: Exception, text: str, delay_s: float) -> None:
        """One line for a failed call; a traceback only the first time a bug of ours shows."""
        name = "/".join(part for part in key if part)
        if isinstance(error, ApiError):
            self._log.info("%s: %s; again in %gs", name, text, delay_s)
            return
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        if place in self._logged:
            self._log.warning("%s: %r at %s; again in %gs", name, error, place, delay_s)
            return
        self._logged[place] = None
        self._log.error("%s: %r", name, error, exc_info=error)


class ControllerComponent:
    """A component that is one controller and nothing beside it: subclasses make ``controller``.

    Satisfies :class:`kubarium.runtime.protocol.Component`.
    """

    controller: Controller

    @property
    def name(self) -> str:
        return self.controller.name

    async def run(self) -> None:
        await self.controller.run()
