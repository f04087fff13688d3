"""Writes pod statuses, the newest only, and deletes pods whose end has come."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kubarium.api.kinds import PODS
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.node.runner import identity
from kubarium.runtime.protocol import Context, Informer
from kubarium.runtime.writes import update_status

_LOG = logging.getLogger("kubarium.node")

WORKERS = 4
# After a conflict the informer is about to bring the newer document.
_CONFLICT_RETRY_S = 0.02
_FIRST_RETRY_S, _LAST_RETRY_S = 0.5, 30.0

# Makes the status to write from the newest document: a fresh one of the right types, without nulls.
StatusSource = Callable[[Document], Document]


@dataclass(slots=True)
class _Work:
    namespace: str
    name: str
    node: str
    status: StatusSource | None = None
    delete: bool = False
    queued: bool = False
    retry_s: float = 0.0


class StatusWriter:
    """Status writes of one runtime, by pod uid; in order for one pod, side by side for many."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._pods: Informer = context.informers.get(PODS)
        self._work: dict[str, _Work] = {}
        self._queue: deque[str] = deque()
        self._ready = asyncio.Event()
        self._held: dict[str, None] = {}
        self._tasks = asyncio.TaskGroup()

    def write(self, pod: Document, status: StatusSource) -> None:
        """Have ``status`` written soon; a later call before that replaces it."""
        work = self._entry(pod)
        work.status = status
        self._enqueue(pod["metadata"]["uid"], work)

    def delete(self, pod: Document) -> None:
        """Delete the pod with grace period 0, after what is to be written of its status."""
        work = self._entry(pod)
        work.delete = True
        self._enqueue(pod["metadata"]["uid"], work)

    def hold(self, node: str) -> None:
        """What is to be written of a node's pods waits."""
        self._held[node] = None

    def let_go(self, node: str) -> None:
        """Write what has waited."""
        self._held.pop(node, None)
        for uid, work in self._work.items():
            if work.node == node and (work.status is not None or work.delete):
                self._enqueue(uid, work)

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        self._work.pop(uid, None)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._tasks:
            for _ in range(WORKERS):
                self._tasks.create_task(self._serve())

    def _entry(self, pod: Document) -> _Work:
        metadata = pod["metadata"]
        node = pod["spec"].get("nodeName", "")
        return self._work.setdefault(
            metadata["uid"], _Work(metadata.get("namespace", ""), metadata["name"], node)
        )

    def _enqueue(self, uid: str, work: _Work) -> None:
        if not work.queued:
            work.queued = True
            self._queue.append(uid)
            self._ready.set()

    async def _serve(self) -> None:
        while True:
            while not self._queue:
                self._ready.clear()
                await self._ready.wait()
            uid = self._queue.popleft()
            work = self._work.get(uid)
            if work is None:
                continue
            if work.node in self._held:
                work.queued = False
                continue
            try:
                await self._carry_out(uid, work)
                work.retry_s = 0.0
            except Exception as error:
                self._failed(uid, work, error)
                continue
            work.queued = False
            if work.status is not None or work.delete:
                self._enqueue(uid, work)
            else:
                self._work.pop(uid, None)

    async def _carry_out(self, uid: str, work: _Work) -> None:
        pod = self._pods.get(work.name, work.namespace)
        if pod is None or identity(pod) != uid:
            work.status, work.delete = None, False
            return
        if work.status is not None:
            source = work.status
            await update_status(self._context, PODS, pod, source(pod), fresh=True)
            if work.status is source:
                work.status = None
        elif work.delete:
            await self._context.client.delete(
                PODS,
                work.name,
                work.namespace,
                grace_period_s=0,
                uid=pod["metadata"]["uid"],
            )
            work.delete = False

    def _failed(self, uid: str, work: _Work, error: Exception) -> None:
        """Try again later, whatever it was: this pod waits, and no other behind it."""
        known = error if isinstance(error, ApiError) else None
        if known is not None and known.reason == "NotFound":
            self._work.pop(uid, None)
            return
        pause_s = _CONFLICT_RETRY_S
        if known is None or known.reason != "Conflict":
            pause_s = work.retry_s = min(max(work.retry_s * 2, _FIRST_RETRY_S), _LAST_RETRY_S)
            trace = error if known is None else None
            name = f"{work.namespace}/{work.name}"
            _LOG.warning("pod %s: status: %s", name, error or repr(error), exc_info=trace)
        self._tasks.create_task(self._again(uid, pause_s))

    async def _again(self, uid: str, pause_s: float) -> None:
        await self._context.clock.sleep(pause_s)
        self._queue.append(uid)
        self._ready.set()
