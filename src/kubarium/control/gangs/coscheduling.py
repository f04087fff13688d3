"""The status of scheduler-plugins' PodGroups: how far their pods are, and the phase from that.

Source: scheduler-plugins ``pkg/controllers/podgroup_controller.go``. That the group's pods got
their nodes (phase Scheduling, ``scheduleStartTime``) is the scheduler's to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from kubarium.api.kinds import PODS
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context, Key
from kubarium.view.gangs import COSCHEDULING_GROUPS
from kubarium.view.pods import POD_GROUP_LABEL

_BY_LABEL = "pods-by-coscheduling-group"

PENDING, SCHEDULING, RUNNING = "Pending", "Scheduling", "Running"
FINISHED, FAILED = "Finished", "Failed"


@of_metadata
def _by_label(pod: Document) -> Iterable[str]:
    name = (pod["metadata"].get("labels") or {}).get(POD_GROUP_LABEL)
    return (f"{pod['metadata']['namespace']}/{name}",) if name else ()


@of_metadata
def _of_pod(pod: Document) -> list[Key]:
    name = (pod["metadata"].get("labels") or {}).get(POD_GROUP_LABEL)
    return [(pod["metadata"]["namespace"], name)] if name else []


class CoschedulingStatus:
    """Counts a group's pods by phase; a group that has Finished or Failed stays so."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.controller = Controller("coscheduling-podgroup", context, self.reconcile)
        self._groups = self.controller.watches(COSCHEDULING_GROUPS)
        self._pods = self.controller.watches(PODS, _of_pod)
        self._pods.add_index(_BY_LABEL, _by_label)

    async def reconcile(self, key: Key) -> float | None:
        """Write the group's status if it is another; running it again changes nothing."""
        group = self._groups.get(key[1], key[0])
        if group is None:
            return None
        pods = list(self._pods.by_index(_BY_LABEL, "/".join(key)))
        known = group.get("status") or {}
        status = status_of(group, pods)
        if status == known:
            return None
        try:
            await writes.update_status(self._context, COSCHEDULING_GROUPS, group, status)
        except ApiError as error:
            if error.reason not in ("NotFound", "Conflict"):
                raise
        return None


def status_of(group: Document, pods: Sequence[Document]) -> Document:
    """The status that a group has with these pods."""
    known: Document = group.get("status") or {}
    phase = known.get("phase") or PENDING
    if phase in (FINISHED, FAILED):
        return known
    least = (group.get("spec") or {}).get("minMember") or 1
    counts = Counter((pod.get("status") or {}).get("phase") for pod in pods)
    running, succeeded, failed = (counts[p] for p in ("Running", "Succeeded", "Failed"))
    if len(pods) < least:
        phase = PENDING
    elif succeeded >= least:
        phase = FINISHED
    elif failed and failed + running + succeeded >= least:
        phase = FAILED
    elif running + succeeded >= least:
        phase = RUNNING
    elif phase == RUNNING:
        phase = SCHEDULING
    status = {**known, "phase": phase}
    if phase != PENDING or any(field in known for field in ("running", "succeeded", "failed")):
        status |= {"running": running, "succeeded": succeeded, "failed": failed}
    owners = {
        f"{pod['metadata']['namespace']}/{owner['name']}"
        for pod in pods
        for owner in pod["metadata"].get("ownerReferences") or ()
    }
    if owners and not known.get("occupiedBy"):
        status["occupiedBy"] = ",".join(sorted(owners))
    return status
