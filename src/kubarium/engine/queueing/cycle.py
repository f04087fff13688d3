"""The admission cycle, as one pure function.

Kueue takes one head from each ClusterQueue, decides on all of them, commits, and starts again.
:func:`plan_cycle` does the same, but goes on with the next heads on its own picture of the state
until nothing changes any more. That is the outcome of Kueue's repeated cycles as long as nothing
else happens in between, for three reasons: each round *is* one of Kueue's cycles (heads, nominate
all, order, process, requeue), starting from the usage that the round before left; what Kueue's
next snapshot would hold (admissions assumed, evictions still running) is what the next round sees;
and what Kueue forgets between cycles (reserved capacity, other heads' assignments) is undone at
the end of a round. Trees of cohorts share no quota, so each is worked off by itself.
Source: Kueue ``pkg/scheduler/scheduler.go`` and ``pkg/cache/queue/cluster_queue.go``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from kubarium.engine.queueing.assign import Nominated
from kubarium.engine.queueing.assignment import WAITING_FOR_QUOTA, Assignment, Mode
from kubarium.engine.queueing.clusterqueue import ANY, STRICT_FIFO, ClusterQueue
from kubarium.engine.queueing.nomination import nominate, replaced_slice
from kubarium.engine.queueing.plan import (
    ADMISSION_GATED,
    MISCONFIGURED,
    WAITING_FOR_PREEMPTED,
    Admission,
    Eviction,
    LastTried,
    Plan,
    Verdict,
)
from kubarium.engine.queueing.quota import FlavorResource, QuotaNode
from kubarium.engine.queueing.snapshot import Pending, Snapshot, Walk
from kubarium.engine.queueing.tournament import in_order
from kubarium.engine.queueing.victims import Victim, message_for
from kubarium.engine.queueing.workload import Admitted, Key, Workload, usage_of

MAX_ROUNDS = 1_000_000
"""A plan that needs more rounds than this has lost its way; each round of real work admits, evicts
or sets aside at least one workload."""

NO_LONGER_FITS = "Workload no longer fits after processing another workload"
OVERLAPPING = "Workload has overlapping preemption targets with another workload"
OVERLAPPING_BUT_FITS = f"{OVERLAPPING}, but will fit after these preemptions complete"
GATED = "Workload requires preemption, but it's gated"


class _Requeue(Enum):
    """Where a head that was not admitted goes."""

    GENERIC = auto()
    STEPS_ASIDE = auto()
    NO_FIT = auto()
    NO_CANDIDATES = auto()
    AFTER_NOMINATION = auto()
    PENDING_PREEMPTION = auto()
    GATED = auto()


@dataclass(slots=True, eq=False)
class _Head:
    """One queue's head on its way through a round."""

    workload: Workload
    queue: ClusterQueue
    node: QuotaNode
    assignment: Assignment
    victims: list[Victim] = field(default_factory=list)
    reason: str = ""
    message: str = ""
    requeue: _Requeue = _Requeue.GENERIC
    admitted: bool = False
    last_tried: tuple[Mapping[str, int], ...] = ()


_NOTHING = Assignment((), {}, 0, Mode.NO_FIT)


def plan_cycle(
    snapshot: Snapshot,
    now: float,
    *,
    rounds: int | None = None,
    last_tried: LastTried | None = None,
    roots: Collection[str] | None = None,
) -> Plan:
    """Decide on everything that waits; ``snapshot`` is as before on return.

    ``now`` is in seconds since the epoch. ``rounds`` stops after so many of Kueue's cycles.
    ``last_tried`` is a former plan's, to resume its walks over flavors. ``roots`` limits the work
    to cohort trees, or queues without a cohort, of these names.
    """
    plan = _Planner(snapshot, now, dict(last_tried or {}))
    try:
        for names in _trees(snapshot, roots):
            plan.work_off(names, MAX_ROUNDS if rounds is None else rounds)
        return plan.result()
    finally:
        plan.undo()


def _trees(snapshot: Snapshot, roots: Collection[str] | None) -> Iterator[list[str]]:
    """Active queues with waiting workloads, tree by tree, by name."""
    trees: dict[tuple[bool, str], list[str]] = {}
    for name in sorted(snapshot.pending):
        queue, node = snapshot.queues.get(name), snapshot.tree.queues.get(name)
        if queue is None or node is None or queue.inactive or not snapshot.pending[name]:
            continue
        root = node.root
        if roots is None or root.name in roots:
            trees.setdefault((root.is_queue, root.name), []).append(name)
    yield from trees.values()


class _Planner:
    """One run of :func:`plan_cycle`: what is decided so far, and how to undo it."""

    def __init__(self, snapshot: Snapshot, now: float, last_tried: dict[Key, tuple]) -> None:  # type: ignore[type-arg]
        self.snapshot = snapshot
        self.now = now
        self.last_tried: dict[Key, tuple[Mapping[str, int], ...]] = last_tried
        self.admissions: dict[Key, Admission] = {}
        self.evictions: dict[Key, Eviction] = {}
        self.verdicts: dict[Key, Verdict] = {}
        self.skipped: dict[str, int] = {}
        self.cycles = 0
        self._seen: set[tuple[Key, str]] = set()
        self._evicted: list[Admitted] = []

    def result(self) -> Plan:
        return Plan(
            tuple(self.admissions.values()),
            tuple(self.evictions.values()),
            tuple(self.verdicts.values()),
            self._wake_at(),
            self.cycles,
            self.last_tried,
            self.skipped,
        )

    def undo(self) -> None:
        """Take the plan's effects out of the snapshot again, latest first."""
        for admission in reversed(self.admissions.values()):
            workload = admission.workload
            self.snapshot.release(workload.cluster_queue, workload.key)
            if admission.replaces is not None:
                self.snapshot.admit(admission.replaces)
        for admitted in self._evicted:
            holders = self.snapshot.holders[admitted.cluster_queue]
            if holders.get(admitted.key) is not None:
                holders.put(admitted)

    def work_off(self, names: list[str], rounds: int) -> None:
        """Round after round over the queues of one tree, until a round changes nothing."""
        walks = {name: self._walk(name) for name in names}
        for number in range(rounds):
            self.cycles = max(self.cycles, number + 1)
            if not _Round(self, walks).run():
                return

    def _walk(self, name: str) -> Walk:
        return self.snapshot.pending[name].walk(self.now)

    def _wake_at(self) -> float | None:
        times = [
            workload.requeue_at
            for pending in self.snapshot.pending.values()
            for workload in pending.backing_off(self.now)
        ]
        return min(times, default=None)

    def admit(self, head: _Head, replaced: Admitted | None) -> None:
        workload = head.workload
        pod_sets = head.assignment.assigned()
        if replaced is not None:
            self.snapshot.release(replaced.cluster_queue, replaced.key)
        self.snapshot.admit(Admitted(workload, pod_sets, usage_of(pod_sets)))
        self.admissions[workload.key] = Admission(
            workload,
            pod_sets,
            head.assignment.considered(),
            head.assignment.borrowing,
            replaced,
        )
        self.verdicts.pop(workload.key, None)
        self.last_tried.pop(workload.key, None)

    def evict(self, head: _Head) -> bool:
        """Note the head's victims; whether any of them is new."""
        fresh = False
        for victim in head.victims:
            key = victim.admitted.key
            if key in self.evictions:
                continue
            fresh = True
            node = self.snapshot.tree.queues[victim.admitted.cluster_queue]
            message = message_for(head.workload, victim, head.node, node)
            self.evictions[key] = Eviction(victim, head.workload, message)
            if not victim.admitted.evicted:
                self._evicted.append(victim.admitted)
                holders = self.snapshot.holders[victim.admitted.cluster_queue]
                holders.put(replace(victim.admitted, evicted=True))
        return fresh

    def resumes_anew(self, head: _Head) -> bool:
        """Whether the head left flavors to try from a point where it has not been before."""
        mark = (head.workload.key, repr(head.last_tried))
        if mark in self._seen:
            return False
        self._seen.add(mark)
        return True


class _Round:
    """One of Kueue's cycles over the queues of one tree."""

    def __init__(self, planner: _Planner, walks: Mapping[str, Walk]) -> None:
        self.planner = planner
        self.snapshot = planner.snapshot
        self.walks = walks
        self.preempted: dict[Key, Admitted] = {}
        self.reserved: list[tuple[QuotaNode, Mapping[FlavorResource, int]]] = []
        self.progress = False
        self.stop = False

    def run(self) -> bool:
        """Heads, nominate, order, process, requeue. Whether another round may find more."""
        nominated: list[_Head] = []
        rejected: list[_Head] = []
        for name, walk in self.walks.items():
            workload = walk.head()
            if workload is not None:
                head = self._nominate(name, workload)
                (nominated if head.assignment is not _NOTHING else rejected).append(head)
        for head in in_order(nominated, self.snapshot.options):
            self._process(head)
        for node, usage in self.reserved:
            node.discharge(usage)
        for head in (*nominated, *rejected):
            self._requeue(head)
        return self.progress and not self.stop

    def _nominate(self, name: str, workload: Workload) -> _Head:
        queue, node = self.snapshot.queues[name], self.snapshot.tree.queues[name]
        head = _Head(workload, queue, node, _NOTHING)
        if workload.blocked is not None:
            head.reason, head.message = workload.blocked.reason, workload.blocked.message
            if workload.blocked.steps_aside:
                head.requeue = _Requeue.STEPS_ASIDE
            return head
        if not workload.pod_sets:
            head.reason, head.message = MISCONFIGURED, "the workload has no pod sets"
            return head
        self._offer(head, self.planner.last_tried.get(workload.key, ()))
        return head

    def _offer(
        self,
        head: _Head,
        last_tried: tuple[Mapping[str, int], ...],
        nominated: Nominated | None = None,
    ) -> None:
        head.assignment, head.victims = nominate(
            self.snapshot, head.workload, last_tried, nominated
        )
        head.message = head.assignment.message()
        head.last_tried = head.assignment.last_tried

    def _process(self, head: _Head) -> None:
        """Admit, evict for, or turn away one head, given what was decided before it."""
        replaced = replaced_slice(self.snapshot, head.workload)
        fits = self._refresh(head, replaced)
        mode = head.assignment.mode
        if mode is Mode.NO_FIT:
            head.requeue = _Requeue.NO_FIT
            head.reason = head.assignment.no_fit_reason
        elif mode is Mode.PREEMPT and not head.victims:
            head.requeue = _Requeue.NO_CANDIDATES
            head.reason = WAITING_FOR_QUOTA
            if head.queue.preemption.reclaim_within_cohort != ANY:
                self._reserve(head.node, capacity_to_reserve(head.assignment, head.node))
        elif mode is Mode.PREEMPT and head.workload.preemption_gated:
            head.requeue, head.reason, head.message = _Requeue.GATED, ADMISSION_GATED, GATED
            head.last_tried = ()
        elif mode is Mode.DEFERRED_FIT:
            head.requeue = _Requeue.PENDING_PREEMPTION
            head.reason, head.message = WAITING_FOR_PREEMPTED, OVERLAPPING_BUT_FITS
            head.last_tried = ()
            self._reserve(head.node, head.assignment.usage)
        elif self._overlaps(head.victims):
            self._skip(head, OVERLAPPING)
        elif not fits:
            self._skip(head, NO_LONGER_FITS)
        elif mode is Mode.PREEMPT:
            self._preempt(head)
        else:
            head.admitted = True
            self.progress = True
            self.planner.admit(head, replaced)

    def _refresh(self, head: _Head, replaced: Admitted | None) -> bool:
        """Whether the nominated assignment still fits; a new one if others took its victims."""
        overlaps = self._overlaps(head.victims)
        if overlaps and self.snapshot.options.recompute_on_overlap:
            others = [
                gone
                for victim in self.preempted.values()
                if (gone := self.snapshot.release(victim.cluster_queue, victim.key)) is not None
            ]
            self._offer(head, (), head.assignment.nominated)
            for admitted in others:
                self.snapshot.admit(admitted)
            if head.assignment.mode is Mode.FIT:
                head.assignment = replace(head.assignment, mode=Mode.DEFERRED_FIT)
        leaving = dict(self.preempted)
        leaving.update((victim.admitted.key, victim.admitted) for victim in head.victims)
        if replaced is not None:
            leaving[replaced.key] = replaced
            usage: Mapping[FlavorResource, int] = usage_of(head.assignment.assigned())
        else:
            usage = head.assignment.usage
        leavers = list(leaving.values())
        self._charge_all(leavers, -1)
        fits = head.node.fits(usage)
        self._charge_all(leavers, 1)
        return fits

    def _charge_all(self, holders: list[Admitted], sign: int) -> None:
        for admitted in holders:
            node = self.snapshot.tree.queues[admitted.cluster_queue]
            if sign > 0:
                node.charge(admitted.usage)
            else:
                node.discharge(admitted.usage)

    def _overlaps(self, victims: list[Victim]) -> bool:
        return any(victim.admitted.key in self.preempted for victim in victims)

    def _reserve(self, node: QuotaNode, usage: Mapping[FlavorResource, int]) -> None:
        """Charge until the end of the round, so that heads behind do not take it."""
        node.charge(usage)
        self.reserved.append((node, usage))

    def _skip(self, head: _Head, message: str) -> None:
        head.requeue, head.message = _Requeue.AFTER_NOMINATION, message
        head.reason = WAITING_FOR_QUOTA
        if head.assignment.mode is Mode.PREEMPT:
            skipped = self.planner.skipped
            skipped[head.queue.name] = skipped.get(head.queue.name, 0) + 1

    def _preempt(self, head: _Head) -> None:
        if any(victim.admitted.key in self.planner.admissions for victim in head.victims):
            # Upstream would evict what it has just admitted. Commit first, then look again.
            self.stop = True
            self._skip(head, NO_LONGER_FITS)
            return
        self.preempted.update((victim.admitted.key, victim.admitted) for victim in head.victims)
        self._reserve(head.node, head.assignment.usage)
        head.requeue, head.reason = _Requeue.PENDING_PREEMPTION, WAITING_FOR_PREEMPTED
        head.message += f". Pending the preemption of {len(head.victims)} workload(s)"
        head.last_tried = ()
        if self.planner.evict(head):
            self.progress = True

    def _requeue(self, head: _Head) -> None:
        """Where the head stands in the next round."""
        walk, key = self.walks[head.queue.name], head.workload.key
        if head.admitted:
            walk.pop()
            return
        stays = self._stays(head)
        shape = (
            not stays
            and head.queue.strategy != STRICT_FIFO
            and head.requeue
            in (
                _Requeue.NO_FIT,
                _Requeue.NO_CANDIDATES,
            )
        )
        shape = shape and self.snapshot.options.equivalence_hashing
        self.planner.verdicts[key] = Verdict(
            head.workload,
            head.reason,
            head.message,
            inadmissible=not stays,
            stands_for_shape=shape,
            gated=head.requeue is _Requeue.GATED,
            assignment=head.assignment if head.assignment is not _NOTHING else None,
        )
        if head.last_tried:
            self.planner.last_tried[key] = head.last_tried
        else:
            self.planner.last_tried.pop(key, None)
        if not stays:
            self.progress = True
            if shape:
                walk.drop_shape(head.workload)
            else:
                walk.set_aside(head.workload)
        elif _flavors_left(head) and self.planner.resumes_anew(head):
            self.progress = True

    def _stays(self, head: _Head) -> bool:
        """Whether the head is at once in the queue again, rather than inadmissible."""
        if head.queue.strategy == STRICT_FIFO:
            return head.requeue is not _Requeue.STEPS_ASIDE
        return _flavors_left(head) or head.requeue in (
            _Requeue.AFTER_NOMINATION,
            _Requeue.PENDING_PREEMPTION,
        )


def _flavors_left(head: _Head) -> bool:
    return any(index != -1 for tried in head.last_tried for index in tried.values())


def capacity_to_reserve(assignment: Assignment, node: QuotaNode) -> dict[FlavorResource, int]:
    """What a workload that must wait keeps from others: its nominal part, or, where it would
    borrow, all up to the borrowing limit."""
    if assignment.mode is not Mode.PREEMPT:
        return dict(assignment.usage)
    reserved: dict[FlavorResource, int] = {}
    for fr, amount in assignment.usage.items():
        quota = node.quota(fr)
        free = quota.nominal - node.usage.get(fr, 0)
        if not assignment.borrowing:
            reserved[fr] = max(0, min(amount, free))
        elif quota.borrowing_limit is None:
            reserved[fr] = amount
        else:
            reserved[fr] = max(0, min(amount, free + quota.borrowing_limit))
    return reserved


def position_in_queue(pending: Pending, key: Key) -> int | None:
    """0-based place in the ClusterQueue's order; None if it does not wait there."""
    for position, workload in enumerate(pending):
        if workload.key == key:
            return position
    return None
