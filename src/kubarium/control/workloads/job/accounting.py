"""Counting ended pods exactly once, whatever crashes in between (KEP-2307). Pure.

Three steps: the uid goes into ``status.uncountedTerminatedPods`` (for Indexed successes the index
into ``completedIndexes``), the finalizer leaves the pod, the uid leaves the list and the counter
grows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339
from kubarium.control.workloads import pods as podlib
from kubarium.control.workloads.job.decide import Outcome
from kubarium.control.workloads.job.facts import JobFacts, index_of, is_tracked
from kubarium.control.workloads.job.indexes import IndexSet
from kubarium.runtime import writes

# Uids noted in one pass (upstream MaxUncountedPods): keeps the status small.
MOST_UNCOUNTED = 500


@dataclass(slots=True)
class Accounting:
    """What this pass accounts for. ``release`` are the pods that lose their finalizer."""

    release: list[Document] = field(default_factory=list)
    indexes: list[int] = field(default_factory=list)
    succeeded: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    is_cut: bool = False

    def __len__(self) -> int:
        return len(self.indexes) + len(self.succeeded) + len(self.failed)


def account(facts: JobFacts, outcome: Outcome | None) -> Accounting:
    """Which pods are to be accounted for now."""
    result = Accounting()
    for pod in facts.pods:
        if not is_tracked(pod) or not _may_release(facts, pod, outcome):
            continue
        if len(result) >= MOST_UNCOUNTED:
            result.is_cut = True
            break
        result.release.append(pod)
        _note(facts, pod, outcome, result)
    return result


def _may_release(facts: JobFacts, pod: Document, outcome: Outcome | None) -> bool:
    if facts.is_deleted or outcome is not None or podlib.phase(pod) == "Succeeded":
        return True
    if not facts.is_failed(pod):
        return False
    held = facts.held_back.get(index_of(pod))
    return held is None or held["metadata"]["uid"] != pod["metadata"]["uid"]


def _note(facts: JobFacts, pod: Document, outcome: Outcome | None, result: Accounting) -> None:
    uid = pod["metadata"]["uid"]
    if podlib.phase(pod) == "Succeeded":
        if uid in facts.uncounted_failed:
            return
        if not facts.is_indexed:
            if uid not in facts.uncounted_succeeded:
                result.succeeded.append(uid)
        elif facts.has_valid_index(pod) and index_of(pod) not in facts.previous_indexes:
            result.indexes.append(index_of(pod))
        return
    # Once a Job fails, every pod that has not ended counts as failed.
    fails = facts.is_failed(pod) or (outcome is not None and outcome.is_failure)
    is_new = uid not in facts.uncounted_failed and facts.has_valid_index(pod)
    if fails and is_new and facts.is_counted(pod):
        result.failed.append(uid)


def noted_status(facts: JobFacts, status: Document, noted: Accounting) -> Document:
    """Step one: ``status`` with the new uids and indexes in it."""
    status = dict(status)
    status["uncountedTerminatedPods"] = _uncounted(
        [*facts.uncounted_succeeded, *noted.succeeded], [*facts.uncounted_failed, *noted.failed]
    )
    if facts.is_indexed:
        indexes = facts.previous_indexes | IndexSet.of(noted.indexes)
        _set(status, "succeeded", len(indexes))
        _set(status, "completedIndexes", str(indexes))
    if facts.per_index_limit is not None:
        status["failedIndexes"] = str(facts.failed_indexes)
    return status


def counted_status(status: Document, tracked_uids: set[str]) -> Document:
    """Step three: uids whose pods have lost their finalizer move into the counters."""
    uncounted = status.get("uncountedTerminatedPods") or {}
    kept: dict[str, list[str]] = {}
    status = dict(status)
    for outcome in ("succeeded", "failed"):
        uids = uncounted.get(outcome) or []
        kept[outcome] = [uid for uid in uids if uid in tracked_uids]
        counted = len(uids) - len(kept[outcome])
        if counted:
            status[outcome] = int(status.get(outcome, 0)) + counted
    status["uncountedTerminatedPods"] = _uncounted(kept["succeeded"], kept["failed"])
    return status


def finished_status(status: Document, outcome: Outcome, now: float) -> Document:
    """``status`` with the terminal condition that follows from the interim one."""
    type_ = "Failed" if outcome.is_failure else "Complete"
    status = dict(status)
    status["conditions"] = writes.set_condition(
        status.get("conditions") or [],
        type_,
        "True",
        outcome.reason,
        outcome.message,
        now,
        lastProbeTime=rfc3339(now),
    )
    if not outcome.is_failure:
        status["completionTime"] = rfc3339(now)
    return status


def _uncounted(succeeded: list[str], failed: list[str]) -> Document:
    lists = {"succeeded": succeeded, "failed": failed}
    return {name: uids for name, uids in lists.items() if uids}


def _set(status: Document, name: str, value: int | str) -> None:
    """As Go writes it: nothing of 0 or an empty text."""
    if value:
        status[name] = value
    else:
        status.pop(name, None)
