"""Telling what became of a decision: conditions, events, victims, devices that are given back.

It goes on beside the next cycles. An item whose victims are being told, or whose devices are being
freed, is not decided meanwhile: others would be chosen beside them, or what goes be counted on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from kubarium.base.clock import Clock
from kubarium.control.scheduling.commit import Committer
from kubarium.control.scheduling.conditions import GroupConditions
from kubarium.control.scheduling.events import ItemKey
from kubarium.control.scheduling.held import SCHEDULER_ERROR, UNSCHEDULABLE, Wait
from kubarium.control.scheduling.left_behind import half_gone
from kubarium.control.scheduling.nominations import Nominations
from kubarium.control.scheduling.queue import SchedulingQueue
from kubarium.control.scheduling.waiting import WaitingPods
from kubarium.engine.model import Pod
from kubarium.engine.placement.devices import movable
from kubarium.engine.plan import Decision, Preemption
from kubarium.view.claim_hints import ClaimHints
from kubarium.view.cluster import ClusterView

_LOG = logging.getLogger("kubarium.scheduler")


class Telling:
    """Writes what people read about items without a place.

    ``wake`` starts the next cycle, ``insist`` does something until it succeeds.
    """

    def __init__(
        self,
        view: ClusterView,
        committer: Committer,
        conditions: GroupConditions,
        waiting: WaitingPods,
        queue: SchedulingQueue,
        nominated: Nominations,
        clock: Clock,
        wake: Callable[[], None],
        insist: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._view = view
        self._committer = committer
        self._conditions = conditions
        self._waiting = waiting
        self._queue = queue
        self._nominated = nominated
        self._clock = clock
        self._wake = wake
        self._insist = insist
        self._hints = ClaimHints(view)
        self._busy: set[ItemKey] = set()
        self._deferred: set[ItemKey] = set()

    def defers(self, key: ItemKey) -> bool:
        """Whether the item is not to be decided now; it will be once it has been told of."""
        if key not in self._busy:
            return False
        self._deferred.add(key)
        self._queue.hold(key)
        return True

    def begin(self, key: ItemKey, decision: Decision) -> None:
        """An item that found no place is about to be told of."""
        if decision.preemption is not None or self._holds_in_vain(decision.item.pods):
            self._busy.add(key)

    async def tell(self, key: ItemKey, decision: Decision) -> None:
        """Conditions and events for what found no place, and the victims of preemption.

        What could not be told is told at the item's next try, which comes after its back-off.
        """
        try:
            await self._tell_all(key, decision)
        except Exception:
            if decision.preemption is not None:  # some victims stay, so that others must be found
                for pod in decision.item.pods:
                    self._nominated.give_up(pod.key)
                self._go_on(decision.preemption)
            self._queue.wake(key, self._clock.monotonic())
            self._wake()
            raise
        finally:
            self._done(key)

    def _go_on(self, preemption: Preemption) -> None:
        """Groups of which a part has gone go whole, whoever is chosen at the next try."""
        snapshot, committer = self._view.snapshot, self._committer
        rest = half_gone(snapshot, preemption, committer.is_going)
        if rest is not None:
            self._insist(partial(committer.preempt, rest))

    async def tell_wait(self, item: ItemKey, wait: Wait, pods: list[Pod]) -> None:
        """Conditions for what is not looked at; devices that it holds meanwhile are given back."""
        gives_back = item not in self._busy and self._holds_in_vain(pods)
        if gives_back:
            self._busy.add(item)
        code = UNSCHEDULABLE if wait.code == UNSCHEDULABLE else SCHEDULER_ERROR
        try:
            for pod in pods:
                if pod.key not in self._waiting.assumed:
                    await self._committer.hold(pod, wait.text, code)
                if gives_back:
                    await self._committer.claims.give_back(pod)
            if item.gang:
                await self._conditions.held(item, wait)
        except Exception:
            self._waiting.held.again(item, self._clock.monotonic())
            self._wake()
            raise
        finally:
            if gives_back:
                self._done(item)

    async def _tell_all(self, key: ItemKey, decision: Decision) -> None:
        text = decision.gang_verdict.message() if decision.gang_verdict else ""
        hint = self._hint_for(decision)
        if text:
            text = f"{text}{hint}"
        preemption, committer = decision.preemption, self._committer
        nominated = committer.nominations(preemption) if preemption is not None else {}
        for pod, verdict in decision.unplaced:
            node = nominated.pop(pod.key, None if self._is_promised(pod) else "")
            told = text or f"{verdict.message()}{hint}"
            code = SCHEDULER_ERROR if verdict.failed and not text else UNSCHEDULABLE
            await committer.refuse(pod, told, code, nominated=node)
        if text and not decision.placements and not decision.unplaced:
            for pod in decision.item.pods:  # nothing was asked of any node
                await committer.refuse(pod, text)
        if preemption is not None:
            for pod, _ in preemption.nominations:
                if pod.key in nominated:
                    await committer.nominate(pod, nominated[pod.key])
            await committer.preempt(preemption)
        else:
            await self._free_devices(decision)
            if key in self._busy:
                for pod in decision.item.pods:
                    await committer.claims.give_back(pod)
        if not decision.placements:
            await self._conditions.decided(decision, text)

    async def _free_devices(self, decision: Decision) -> None:
        """Take back devices that only keep those who wait for them from other nodes."""
        snapshot = self._view.snapshot
        found = (movable(snapshot, pod, why) for pod, why in decision.unplaced if pod.claims)
        for key in dict.fromkeys(key for keys in found for key in keys):
            await self._committer.claims.deallocate(key)
        for pod, _ in decision.unplaced:
            await self._committer.claims.clear(pod)

    def _hint_for(self, decision: Decision) -> str:
        try:
            return self._hints.of(decision, self._clock.monotonic())
        except Exception:  # the refusal is worth more than what is said beside it
            self._view.snapshot.abandon(0)
            _LOG.exception("no hint for %s", decision.item.pods[0].key)
            return ""

    def _is_promised(self, pod: Pod) -> bool:
        """Whether room is being made for the pod, or it is on its way to its node."""
        return pod.key in self._waiting.assumed or self._nominated.node_of(pod.key) is not None

    def _holds_in_vain(self, pods: Iterable[Pod]) -> bool:
        """Whether pods without a place have devices, and no room is being made for them."""
        return any(
            self._committer.claims.held_in_vain(pod) and self._nominated.node_of(pod.key) is None
            for pod in pods
        )

    def _done(self, key: ItemKey) -> None:
        """The item's victims are going, its devices free: what happened meanwhile counts now."""
        self._busy.discard(key)
        if key in self._deferred:
            self._deferred.discard(key)
            self._queue.add(key)
            self._wake()
