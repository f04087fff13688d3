"""What was decided is written beside the next cycle, many decisions at a time.

A gang is written step by step, all of its pods through each: claims reserved, volumes and devices
ready, bound. What fails on the way is undone and decided again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from kubarium.base.clock import Clock
from kubarium.base.errors import ApiError
from kubarium.control.scheduling.claims import NotReadyError
from kubarium.control.scheduling.commit import Committer, Staged
from kubarium.control.scheduling.events import Event, ItemKey
from kubarium.control.scheduling.held import SCHEDULER_ERROR
from kubarium.control.scheduling.queue import SchedulingQueue
from kubarium.control.scheduling.waiting import WaitingPods
from kubarium.engine.devices.model import Rest
from kubarium.engine.model import Key
from kubarium.engine.placement.profile import Profile
from kubarium.engine.plan import Decision, Placement, QueueItem
from kubarium.view.pods import seconds
from kubarium.view.resting import REST_S

_Step = TypeVar("_Step", Placement, Staged)

_LOG = logging.getLogger("kubarium.scheduler")

# Decisions written side by side; matters only where a write waits for a network.
WRITERS = 16

# No cycle begins while more decisions than this wait to be written: each cycle looks at all pods
# for which room is being made, so that many small ones cost more than a few large ones.
BACKLOG = 64

# Between two tries to tell what must not be lost.
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 30.0


class Writing:
    """Decisions on their way to the API."""

    def __init__(
        self,
        committer: Committer,
        waiting: WaitingPods,
        queue: SchedulingQueue,
        clock: Clock,
        wake: Callable[[], None],
        profile_of: Callable[[QueueItem], Profile],
        bound: Callable[[Decision], Awaitable[None]],
        undone: Callable[[Placement], None],
        keep: Callable[[Placement], None],
    ) -> None:
        """``wake`` is called when an item may be decided anew; profiles say how long pods wait.

        ``bound`` is told of each decision with those of its placements that were written,
        ``undone`` of each placement that was not; before that ``keep``, if it is one of a gang of
        which others may be bound.
        """
        self._bound = bound
        self._undone = undone
        self._keep = keep
        self._profile_of = profile_of
        self._committer = committer
        self._waiting = waiting
        self._queue = queue
        self._clock = clock
        self._wake = wake
        self._works: asyncio.Queue[Coroutine[Any, Any, None]] = asyncio.Queue()
        self._relieved = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._closed = False

    def start(self, tasks: asyncio.TaskGroup, name: str) -> None:
        """Write, in tasks of this group, until they are cancelled."""
        self._tasks = tasks
        for number in range(WRITERS):
            writer = tasks.create_task(self._run(), name=f"{name}/commit-{number}")
            writer.add_done_callback(self._close)  # also of one that never began

    def _close(self, _: object) -> None:
        """Scheduling has ended: nobody will do what waits, nor what informers still ask for."""
        self._closed = True
        while not self._works.empty():
            self._works.get_nowait().close()

    def is_idle(self) -> bool:
        """Nothing waits to be written."""
        return self._works.empty()

    def put(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this after what was put before."""
        if self._closed:
            work.close()
        else:
            self._works.put_nowait(work)

    async def until_written(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do this; if it fails, again and again, ever more seldom, or until its object is gone."""
        try:
            await work()
        except Exception:
            self._tasks.create_task(self._again(work), name="tell-again")
            raise

    async def _again(self, work: Callable[[], Awaitable[None]]) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            await self._clock.sleep(pause_s)
            try:
                await work()
            except Exception as error:
                _report(error)
                if not isinstance(error, ApiError) or error.reason == "NotFound":
                    return
            else:
                return
            pause_s = min(2 * pause_s, LAST_PAUSE_S)

    def put_placements(self, key: ItemKey, decision: Decision) -> None:
        """Bind the pods for which the decision has nodes."""
        work = self._place(key, decision)
        if self._takes_long(decision):
            self._tasks.create_task(self._written(work), name=f"prepare/{key.key[1]}")
        else:
            self.put(work)

    async def relief(self) -> None:
        """Until few enough decisions wait."""
        while self._works.qsize() > BACKLOG:
            self._relieved.clear()
            await self._relieved.wait()

    def _takes_long(self, decision: Decision) -> bool:
        """Volumes or devices must be made ready, for which others must not wait: maybe minutes."""
        return any(
            self._committer.volumes.waits(placement.pod)
            or self._committer.claims.waits_for_devices(placement)
            for placement in decision.placements
        )

    async def _run(self) -> None:
        while True:
            work = await self._works.get()
            if self._works.qsize() <= BACKLOG:
                self._relieved.set()
            await self._written(work)
            await self._clock.sleep(0)

    async def _written(self, work: Awaitable[None]) -> None:
        """One piece of work, which must not end scheduling for all others if it fails."""
        try:
            await work
        except Exception as error:
            _report(error)

    async def _place(self, key: ItemKey, decision: Decision) -> None:
        bound: list[Placement] = []
        try:
            bound = await self._write_all(decision)
        finally:
            if len(bound) < len(decision.placements):
                self._queue.retry(key, self._clock.monotonic())
            else:
                self._queue.remove(key)
                left = self._waiting.members.pods_of(key) if key.gang else ()
                if any(member not in self._waiting.assumed for member in left):
                    self._queue.add(key)
            self._wake()
        await self._bound(replace(decision, placements=tuple(bound)))

    async def _write_all(self, decision: Decision) -> list[Placement]:
        """Take all pods through each step together; those that were bound in the end.

        A gang of which too few are left before the first is bound gives up its claims; those that
        were deleted meanwhile are not left.
        """
        placements, committer = decision.placements, self._committer
        fresh = _allocated(placements)

        async def all_through(
            left: Sequence[_Step],
            work: Callable[[_Step], Awaitable[Staged]],
            keep: Callable[[Placement], None] | None = None,
        ) -> list[Staged]:
            done: list[Staged] = []
            for one in left:
                try:
                    done.append(await work(one))
                except Exception as error:
                    placement = one.placement if isinstance(one, Staged) else one
                    if keep is not None:
                        keep(placement)
                    await self._undo(placement, error, fresh)
            return done

        staged = await all_through(placements, committer.reserve)
        if not await self._may_start(decision, staged, fresh):
            return []
        profile = self._profile_of(decision.item)
        ready = await all_through(staged, lambda s: committer.prepare(s, profile))
        is_group = decision.item.gang is not None or decision.item.tree is not None
        if len(ready) > 1 and is_group:
            ready = await all_through(ready, committer.confirm)
        if not await self._may_start(decision, ready, fresh):
            return []
        may_run_in_part = is_group and (len(ready) > 1 or decision.item.begun)
        keep = self._keep if may_run_in_part else None
        return [staged.placement for staged in await all_through(ready, committer.bind, keep)]

    async def _may_start(self, decision: Decision, left: list[Staged], fresh: list[Key]) -> bool:
        """Whether those that are left may go on without the others; if not, they are undone."""
        missing, item = len(decision.placements) - len(left), decision.item
        if not missing:
            return True
        gang = item.gang if item.tree is None else None
        if item.tree is None and (
            gang is None or len(left) + gang.scheduled_count >= gang.min_count
        ):
            return True
        error = NotReadyError(f"{missing} other pod(s) of the group could not be bound")
        for staged in left:
            await self._written(self._committer.claims.discard(staged.placement.pod))
            await self._undo(staged.placement, error, fresh)
        return False

    async def _undo(self, placement: Placement, error: Exception, fresh: list[Key]) -> None:
        """Forget an assumption whose write failed; what fails meanwhile is done at the next try.

        ``fresh`` are the claims that the decision allocates: of these the pod gives up its share,
        and the last one of those who share them the devices.
        """
        pod, claims = placement.pod, [claim for claim, _ in placement.allocations]
        if not isinstance(error, (ApiError, NotReadyError)):
            _report(error)
        if isinstance(error, NotReadyError):
            if error.devices:
                resting = self._committer.resting.lay_by(error.devices, error.why, pod)
                self._rest(resting, REST_S)
            shared = [claim for claim in fresh if claim in pod.claims]
            keys = list(dict.fromkeys([*claims, *shared]))
            await self._written(self._committer.claims.release(pod, keys))
        self._waiting.give_up(pod, claims)
        self._undone(placement)
        if not (isinstance(error, ApiError) and error.reason == "NotFound"):
            # Upstream too calls whatever fails once the pod has its place an error.
            text = str(error) or repr(error)
            told = self._committer.refuse(pod, text, SCHEDULER_ERROR, nominated="")
            await self._written(told)

    async def recall_rests(self) -> None:
        """Leave alone the devices that a scheduler before this one left alone, as far as known."""
        try:
            rests = await self._committer.resting.recall()
        except ApiError as error:
            _LOG.warning("devices that rest are not known: %s", error)
            return
        for rest in rests:
            left_s = seconds(rest.until) - self._clock.now()
            self._rest([rest], min(max(left_s, 0.0), REST_S))  # whatever their clock said

    def _rest(self, resting: list[Rest], pause_s: float) -> None:
        self._tasks.create_task(self._take_up(resting, pause_s), name="devices-rest")

    async def _take_up(self, resting: list[Rest], pause_s: float) -> None:
        """Devices that could not be made ready may be tried again after a while."""
        await self._clock.sleep(pause_s)
        self._committer.resting.take_up(resting)
        self._queue.happened(Event.DEVICES, self._clock.monotonic())
        self._wake()


def _report(error: Exception) -> None:
    """A line for a call that failed, a traceback for what nobody foresaw."""
    known = isinstance(error, (ApiError, NotReadyError))
    level = logging.WARNING if known else logging.ERROR
    trace = None if known else error
    _LOG.log(level, "a scheduling decision was not written: %s", error, exc_info=trace)


def _allocated(placements: Sequence[Placement]) -> list[Key]:
    """The claims that get their devices with these placements."""
    return list(dict.fromkeys(claim for p in placements for claim, _ in p.allocations))
