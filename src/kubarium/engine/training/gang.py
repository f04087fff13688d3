"""A gang's next attempt: who takes part, as which rank, and when it is worth beginning one. Pure.

An attempt is a list of pods in the order of their ranks. It breaks when one of them is lost or ends
with an error; then all go back together, in place. Worked example, eight ranks and a spare:

    attempt 1    pods 0 1 2 3 4 5 6 7           pod 3 is killed; the spare becomes pod 3'
    attempt 2    pods 0 1 2 3' 4 5 6 7          its node is lost, and nowhere is room for another
    attempt 3    pods 0 1 2 4 5 6 7             seven ranks, numbered anew without a gap
    attempt 4    pods 0 1 2 3" 4 5 6 7          room again: all stop at one step, and none is lost

Whoever has a completion index and an idle launcher can take part; a pod's rank is its place among
those that do, in the order of their indexes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

WAITING, RUNNING, FAILED = "Waiting", "Running", "Failed"
STOPPED, SUCCEEDED = "Stopped", "Succeeded"

# Ranks that end because a peer did are heard of within a moment of each other; so is a lost pod.
GATHER_S = 0.5
# Where the scheduler has said that there is no room for a missing rank, this long is waited.
HOPELESS_S = 2.0
# A pod that has its room and has not come up is waited for much longer.
COMING_S = 120.0
# A rank that was killed for its memory gets its larger limit within so long, or goes on without.
GROWING_S = 5.0

WAIT, BEGIN, DONE, GIVE_UP = "wait", "begin", "done", "give up"


@dataclass(frozen=True, slots=True)
class Member:
    """A pod with a completion index whose launcher is up.

    ``starts`` counts its container's starts: another number is another launcher. ``saved`` is the
    newest step that its node knows to be saved by the gang, -1 if none.
    """

    uid: str
    index: int
    starts: int = 0
    state: str = WAITING
    attempt: int = 0
    code: int = 0
    saved: int = -1


@dataclass(frozen=True, slots=True)
class Attempt:
    """The present attempt, 0 before the first: uids in the order of ranks with their starts.

    ``failures`` of ranks in a row, with nothing saved beyond ``saved`` between them.
    """

    number: int = 0
    ranks: tuple[tuple[str, int], ...] = ()
    failures: int = 0
    saved: int = -1


@dataclass(frozen=True, slots=True)
class Sizes:
    """``wanted`` ranks, and no fewer than ``least``; ``wait_s`` for room, ``restarts`` in a row."""

    wanted: int
    least: int
    wait_s: float
    restarts: int


@dataclass(frozen=True, slots=True)
class Scene:
    """What is there besides the members, and since when the gang has been broken.

    ``leaving`` are uids that are being deleted with time to save. ``coming`` pods have a node and
    are not up; ``hopeless``: the scheduler has no room for any other missing rank. ``growing``: the
    memory limit of a member is about to be raised, after it was killed at the old one.
    """

    members: Sequence[Member]
    leaving: frozenset[str] = frozenset()
    coming: int = 0
    hopeless: bool = False
    broken_s: float = 0.0
    growing: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """``what`` to do; ``ranks`` are uids for BEGIN, ``look_in_s`` when to ask again for WAIT.

    ``gentle``: ranks that still run may first save a common step. ``lost`` and ``failed`` are ranks
    of the attempt that is over; a failure is a rank's own only if nothing was lost.
    """

    what: str
    ranks: tuple[str, ...] = ()
    gentle: bool = False
    lost: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    failures: int = 0
    saved: int = -1
    is_broken: bool = False
    look_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class _State:
    """The present attempt as its members report it; numbers are ranks."""

    lost: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    succeeded: list[int] = field(default_factory=list)


def decide(attempt: Attempt, scene: Scene, sizes: Sizes) -> Decision:
    """What the gang's controller is to do now."""
    by_uid = {member.uid: member for member in scene.members}
    state = _state(attempt, by_uid)
    saved = max([attempt.saved, *(m.saved for m in scene.members)])
    if attempt.number and len(state.succeeded) == len(attempt.ranks):
        return Decision(DONE, saved=saved)
    broken = not attempt.number or bool(state.lost or state.failed or state.stopped)
    if not broken:
        return _grow(attempt, scene, sizes, by_uid, saved)
    failures = 0 if saved > attempt.saved else attempt.failures
    if state.failed and not state.lost:
        failures += 1
    found = Decision(
        WAIT,
        lost=tuple(state.lost),
        failed=tuple(state.failed),
        failures=failures,
        saved=saved,
        is_broken=True,
    )
    if state.running and state.failed and scene.broken_s < GATHER_S:
        return replace(found, look_in_s=GATHER_S - scene.broken_s)
    if failures > sizes.restarts:
        return replace(found, what=GIVE_UP)
    if scene.growing and scene.broken_s < GROWING_S:
        return replace(found, look_in_s=GROWING_S - scene.broken_s)
    ready = _in_order(scene.members)[: sizes.wanted]
    if len(ready) < sizes.wanted:
        needed_s = min(sizes.wait_s, HOPELESS_S) if scene.hopeless else sizes.wait_s
        if scene.coming:
            needed_s = max(needed_s, COMING_S)
        if len(ready) < sizes.least:
            return found
        if scene.broken_s < needed_s:
            return replace(found, look_in_s=needed_s - scene.broken_s)
    leaving = {attempt.ranks[rank][0] for rank in state.lost} <= scene.leaving
    gentle = bool(state.running) and leaving and not state.failed
    return replace(found, what=BEGIN, ranks=tuple(m.uid for m in ready), gentle=gentle)


def _grow(
    attempt: Attempt, scene: Scene, sizes: Sizes, by_uid: Mapping[str, Member], saved: int
) -> Decision:
    """An attempt that goes well: it makes way only for a larger one."""
    ready = _in_order(scene.members)[: sizes.wanted]
    ending = any(by_uid[uid].state == SUCCEEDED for uid, _ in attempt.ranks)
    if len(ready) > len(attempt.ranks) and not scene.coming and not ending:
        uids = tuple(m.uid for m in ready)
        return Decision(BEGIN, uids, gentle=True, failures=attempt.failures, saved=saved)
    return Decision(WAIT, failures=attempt.failures, saved=saved)


def _state(attempt: Attempt, by_uid: Mapping[str, Member]) -> _State:
    state = _State()
    for rank, (uid, starts) in enumerate(attempt.ranks):
        member = by_uid.get(uid)
        if member is None or member.starts != starts:
            state.lost.append(rank)
        elif member.attempt < attempt.number:
            state.running.append(rank)  # it has not heard of its rank yet
        elif member.state == FAILED:
            state.failed.append(rank)
        elif member.state == STOPPED:
            state.stopped.append(rank)
        elif member.state == SUCCEEDED:
            state.succeeded.append(rank)
        else:
            state.running.append(rank)
    return state


def _in_order(members: Sequence[Member]) -> list[Member]:
    """By index; of two pods with one index the one that is further along."""
    best: dict[int, Member] = {}
    for member in sorted(members, key=lambda m: (m.index, -m.attempt, m.uid)):
        best.setdefault(member.index, member)
    return list(best.values())
