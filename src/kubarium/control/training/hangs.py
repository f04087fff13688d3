"""Hangs, answered: the rank that holds up its gang is named, and given up for a new attempt.

The node says of each rank whether it stalls and where it is (see :mod:`kubarium.view.stalls`). A
rank that a signal has stopped is the cause, at once. Otherwise a hang shows as all ranks stalling
together, most of them at the same place, where they wait for their peer; the one that is somewhere
else is the cause (ByteRobust names outliers in the same way). Where all are at one place nobody is
to blame, and the gang as a whole is given up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kubarium.api.kinds import PODS
from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.control.training.ranks import Warnings, named
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context, Key
from kubarium.view.stalls import POLICY, STALLED, STOPPED, TIMEOUT, hang_policy

JOBSET_NAME = "jobset.sigs.k8s.io/jobset-name"
JOB_NAME = "batch.kubernetes.io/job-name"
# Ranks notice a hang within a look of each other: wait for the others' word before judging.
GATHER_S = 1.5


@dataclass(frozen=True, slots=True)
class StalledRank:
    """A pod that stalls, as its node says it."""

    pod: Document
    reason: str
    message: str
    since: float

    @property
    def place(self) -> str:
        """Where it is: the part of the message after the colon, equal for ranks at one place."""
        return self.message.partition(": ")[2]


def culprits(stalled: Sequence[StalledRank], running: int) -> list[StalledRank]:
    """The ranks that hold up the others, of ``running`` in the gang; empty while it is not clear.

    Worked example: of 15 ranks 14 stand in ``recv`` below ``mean`` and one in ``read_batch``. Only
    when all 15 stall is it clear that the one is not just slow.
    """
    stopped = [rank for rank in stalled if rank.reason == STOPPED]
    if stopped:
        return stopped
    if len(stalled) < running or not stalled:
        return []
    places = Counter(rank.place for rank in stalled)
    usual, count = places.most_common(1)[0]
    if count == len(stalled) or count * 2 <= len(stalled):
        return list(stalled)  # all at one place, or all over the place: no single cause
    return [rank for rank in stalled if rank.place != usual]


class HangController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "hang-controller")
        self.controller = Controller("hang-controller", context, self._reconcile, workers=2)
        self._pods = self.controller.watches(PODS, _gang_of)
        self._pods.add_index("gangs", _gang_index)
        self._warnings = Warnings(self._recorder, self._pods)

    async def _reconcile(self, key: Key) -> float | None:
        pods = [p for p in self._pods.by_index("gangs", "/".join(key)) if _runs(p)]
        for pod in pods:
            self._check(pod)
        stalled = [rank for pod in pods for rank in _stalls(pod)]
        found = culprits(stalled, len(pods))
        if not found:
            return None
        now = self._context.clock.now()
        if not any(rank.reason == STOPPED for rank in found):
            left_s = max(rank.since for rank in stalled) + GATHER_S - now
            if left_s > 0:
                return left_s
        for rank in found:
            await self._answer(rank, stalled, len(pods))
        return None

    def _check(self, pod: Document) -> None:
        try:
            hang_policy(pod)
        except ValueError as error:
            self._warnings.tell(pod, "InvalidHangPolicy", str(error), about="InvalidHangPolicy")

    async def _answer(
        self, rank: StalledRank, stalled: Sequence[StalledRank], running: int
    ) -> None:
        pod = rank.pod
        others = [other for other in stalled if other.pod is not pod]
        waiting = Counter(other.place for other in others).most_common(1)
        text = f"{named(pod)} {rank.message}"
        if waiting:
            text += f"; {waiting[0][1]} of the {running - 1} others wait {waiting[0][0]}"
        self._warnings.tell(pod, "HangDetected", text, about="HangDetected")
        try:
            restarts = hang_policy(pod).restarts
        except ValueError:
            return
        if restarts and writes.controller_of(pod) is not None:
            await writes.delete(self._context, PODS, pod, grace_period_s=0)


@of_metadata
def _gang_of(pod: Document) -> tuple[Key, ...]:
    """The gang of a pod that asks for the watch: its JobSet, else its Job."""
    annotations = pod["metadata"].get("annotations") or {}
    if TIMEOUT not in annotations and POLICY not in annotations:
        return ()
    labels = pod["metadata"].get("labels") or {}
    name = labels.get(JOBSET_NAME)
    kind = "jobset" if name else "job"
    found = name or labels.get(JOB_NAME)
    return ((pod["metadata"]["namespace"], f"{kind}/{found}"),) if found else ()


@of_metadata
def _gang_index(pod: Document) -> tuple[str, ...]:
    return tuple("/".join(key) for key in _gang_of(pod))


def _runs(pod: Document) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return phase == "Running" and not writes.is_terminating(pod)


def _stalls(pod: Document) -> Iterator[StalledRank]:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition.get("type", "").startswith(STALLED) and condition.get("status") == "True":
            yield StalledRank(
                pod,
                condition.get("reason", ""),
                condition.get("message", ""),
                parse_rfc3339(condition["lastTransitionTime"]),
            )
            return
