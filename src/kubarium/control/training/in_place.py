"""Restarts in place (restartStrategy InPlaceRestart): pods stay, their containers begin anew. Pure
apart from the draft it fills.

The agent container of each pod writes the attempt that the pod is in as an annotation, and waits
at a barrier. Two numbers in the JobSet's status move the agents:

    currentInPlaceRestartAttempt     all pods are in this attempt: their barriers open
    previousInPlaceRestartAttempt    pods in this attempt or an earlier one restart themselves

Worked example, two pods: 0 0 → current 0, both work. One fails and its containers restart: its
agent writes 1 (current + 1). 0 1 → previous 0: the other's agent exits, and so its containers
restart. 1 1 → current 1, both work again. Source: jobset's ``in_place_restart.go``.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.resource import Document
from kubarium.control.training.children import JOBSET_UID, replicas_of, replicated_jobs
from kubarium.control.training.policies import REACHED_MAX, REACHED_MAX_MESSAGE
from kubarium.control.training.status import StatusDraft
from kubarium.runtime.writes import is_terminating

STRATEGY = "InPlaceRestart"
ATTEMPT = "jobset.sigs.k8s.io/in-place-restart-attempt"
CURRENT = "currentInPlaceRestartAttempt"
PREVIOUS = "previousInPlaceRestartAttempt"


def is_chosen(jobset: Document) -> bool:
    """Whether the JobSet restarts in place."""
    policy = jobset["spec"].get("failurePolicy") or {}
    return bool(policy.get("restartStrategy") == STRATEGY)


def advance(draft: StatusDraft, pods: Iterable[Document]) -> None:
    """Move the two numbers on by what the JobSet's pods say, or fail the JobSet.

    A pod that says nothing yet, or has failed beside its successor, does not count.
    """
    uid = draft.jobset["metadata"]["uid"]
    mine = [pod for pod in pods if _uid_of(pod) == uid]
    attempts = [attempt for pod in mine if (attempt := attempt_of(pod)) is not None]
    limit = int(draft.jobset["spec"]["failurePolicy"].get("maxRestarts", 0))
    # Restarts of the whole JobSet (a Job that failed all the same) that do not count raise the
    # attempts too: a new pod begins with the attempt after the current one.
    uncounted = draft.restarts - draft.counted_restarts
    counted = max(attempts, default=0) - uncounted
    # The second number catches a container that fails before its pod reaches the barrier.
    if counted > limit or max(map(_most_container_restarts, mine), default=0) > limit:
        draft.fail(REACHED_MAX, REACHED_MAX_MESSAGE)
        return
    if len(attempts) == pods_wanted(draft.jobset) and len(set(attempts)) == 1:
        draft.status[CURRENT] = attempts[0]
        return
    latest = max(attempts, default=0)
    if latest > 0 and latest - 1 > draft.status.get(PREVIOUS, -1):
        draft.status[PREVIOUS] = latest - 1


def attempt_of(pod: Document) -> int | None:
    """What the pod's agent wrote; None if it has not, or not a number, or the pod is over."""
    if (pod.get("status") or {}).get("phase") == "Failed" or is_terminating(pod):
        return None
    text = (pod["metadata"].get("annotations") or {}).get(ATTEMPT, "")
    return int(text) if text.isdecimal() else None


def pods_wanted(jobset: Document) -> int:
    """How many pods run side by side; admission has seen to completions being parallelism."""
    return sum(
        replicas_of(entry) * int(entry["template"]["spec"].get("parallelism") or 1)
        for entry in replicated_jobs(jobset)
    )


def _uid_of(pod: Document) -> str:
    return str((pod["metadata"].get("labels") or {}).get(JOBSET_UID, ""))


def _most_container_restarts(pod: Document) -> int:
    status = pod.get("status") or {}
    entries = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    return max((int(entry.get("restartCount") or 0) for entry in entries), default=0)
