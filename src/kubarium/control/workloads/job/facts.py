"""What a Job and its pods amount to at one moment. Pure; upstream's ``syncJobCtx``."""

from __future__ import annotations

from functools import cached_property

from kubarium.api.labels import COMPLETION_INDEX
from kubarium.api.resource import Document
from kubarium.control.workloads import pods as podlib
from kubarium.control.workloads.job.indexes import IndexSet
from kubarium.control.workloads.job.policy import FAIL_INDEX, judge_failure
from kubarium.runtime import writes
from kubarium.view.elastic import is_spare, policy_of, record_of, report_of, world_of
from kubarium.view.memory import larger, learned, owed

TRACKING = "batch.kubernetes.io/job-tracking"
FAILURES = "batch.kubernetes.io/job-index-failure-count"
IGNORED_FAILURES = "batch.kubernetes.io/job-index-ignored-failure-count"
_NO_INDEX = -1


def is_finished(job: Document) -> bool:
    """Condition Complete or Failed is True."""
    return any(
        condition.get("type") in ("Complete", "Failed") and condition.get("status") == "True"
        for condition in job.get("status", {}).get("conditions") or ()
    )


def is_tracked(pod: Document) -> bool:
    """The pod's outcome is not fully accounted for yet."""
    return TRACKING in (pod["metadata"].get("finalizers") or ())


def index_of(pod: Document) -> int:
    """The completion index on the pod, -1 if it has none."""
    text = pod["metadata"].get("annotations", {}).get(COMPLETION_INDEX, "")
    return int(text) if text.isdecimal() else _NO_INDEX


def _annotated_count(pod: Document, name: str) -> int:
    text = pod["metadata"].get("annotations", {}).get(name, "0")
    return int(text) if text.isdecimal() else 0


class JobFacts:
    """Everything that the decisions about one Job read. Built anew for each reconcile."""

    def __init__(self, job: Document, pods: list[Document], now: float) -> None:
        self.job = job
        self.spec: Document = job["spec"]
        self.status: Document = job.get("status") or {}
        self.elastic = policy_of(job)
        # Spares are the Job's pods, but none of its ranks: nothing of them is counted.
        self.spares = [pod for pod in pods if is_spare(pod)]
        self.pods = pods = [pod for pod in pods if not is_spare(pod)]
        self.now = now
        self.parallelism = int(self.spec.get("parallelism", 1))
        self.completions: int | None = self.spec.get("completions")
        self.is_indexed = self.spec.get("completionMode") == "Indexed"
        self.per_index_limit: int | None = self.spec.get("backoffLimitPerIndex")
        self.failure_policy: Document | None = self.spec.get("podFailurePolicy")
        self.replaces_only_failed = self.spec.get("podReplacementPolicy") == "Failed"
        self.is_suspended = bool(self.spec.get("suspend"))
        self.is_deleted = writes.is_terminating(job)
        uncounted = self.status.get("uncountedTerminatedPods") or {}
        self.uncounted_succeeded = dict.fromkeys(uncounted.get("succeeded") or ())
        self.uncounted_failed = dict.fromkeys(uncounted.get("failed") or ())
        self.active = [pod for pod in pods if podlib.is_active(pod)]
        self.terminating = [
            pod for pod in pods if writes.is_terminating(pod) and not podlib.is_terminal(pod)
        ]
        self.ready = sum(1 for pod in self.active if podlib.is_ready(pod))
        new = [pod for pod in pods if self._is_new(pod)]
        self.new_succeeded = [pod for pod in new if podlib.phase(pod) == "Succeeded"]
        self.new_failed = [
            pod for pod in new if podlib.phase(pod) != "Succeeded" and self.is_failed(pod)
        ]
        self.previous_indexes = self._parse("completedIndexes")
        self.succeeded_indexes = self.previous_indexes | IndexSet.of(
            index_of(pod) for pod in self.new_succeeded
        )
        self.failed_indexes = self._failed_indexes()
        self.held_back = self._held_back()

    def _parse(self, field: str) -> IndexSet:
        if not self.is_indexed:
            return IndexSet()
        return IndexSet.parse(self.status.get(field) or "", self.completions or 0)

    def _is_new(self, pod: Document) -> bool:
        """Not in the status in any form yet, and of an index that still exists."""
        uid = pod["metadata"]["uid"]
        if not is_tracked(pod) or uid in self.uncounted_succeeded or uid in self.uncounted_failed:
            return False
        return self.has_valid_index(pod)

    def has_valid_index(self, pod: Document) -> bool:
        """In an Indexed Job: the index is one of the present completions."""
        return not self.is_indexed or 0 <= index_of(pod) < (self.completions or 0)

    def is_failed(self, pod: Document) -> bool:
        """Failed, or being deleted where such pods are replaced at once."""
        if podlib.phase(pod) == "Failed":
            return True
        if self.replaces_only_failed:
            return False
        return writes.is_terminating(pod) and podlib.phase(pod) != "Succeeded"

    @cached_property
    def learned_memory(self) -> dict[str, dict[str, int]]:
        """Memory limits in bytes that new pods begin with, by index and container: what is written
        on the Job, and what its killed pods show that is not written there yet."""
        return larger(learned(self.job), owed(self.pods))

    @property
    def has_begun(self) -> bool:
        """A gang's ranks have all been made once: a missing one has been lost."""
        return bool(record_of(self.job))

    def is_covered(self, pod: Document) -> bool:
        """A gang that restarts in place answers for the loss of this rank."""
        if self.elastic is None:
            return False
        return report_of(pod) is not None or bool(world_of(pod))

    def is_counted(self, pod: Document) -> bool:
        """Whether this failure counts (podFailurePolicy may say Ignore).

        A gang that restarts in place answers for the ranks that it loses; what never got as far as
        its launcher is a failure as anywhere.
        """
        if self.is_covered(pod):
            return False
        return judge_failure(self.failure_policy, pod).is_counted

    @property
    def succeeded(self) -> int:
        """Completions so far, also those not in the status yet."""
        if self.is_indexed:
            return len(self.succeeded_indexes)
        counted = int(self.status.get("succeeded", 0))
        return counted + len(self.new_succeeded) + len(self.uncounted_succeeded)

    @property
    def failed(self) -> int:
        """Counted failures so far, also those not in the status yet."""
        new = sum(1 for pod in self.new_failed if self.is_counted(pod))
        return int(self.status.get("failed", 0)) + new + len(self.uncounted_failed)

    # back-off limit per index

    def _failed_indexes(self) -> IndexSet:
        if self.per_index_limit is None:
            return IndexSet()
        new = (
            index_of(pod)
            for pod in self.pods
            if is_tracked(pod) and self.has_valid_index(pod) and self._fails_its_index(pod)
        )
        return self._parse("failedIndexes") | IndexSet.of(new)

    def _fails_its_index(self, pod: Document) -> bool:
        if podlib.phase(pod) == "Succeeded" or not self.is_failed(pod):
            return False
        verdict = judge_failure(self.failure_policy, pod)
        if verdict.action == FAIL_INDEX:
            return True
        assert self.per_index_limit is not None
        return verdict.is_counted and _annotated_count(pod, FAILURES) >= self.per_index_limit

    def _held_back(self) -> dict[int, Document]:
        """By index: the last failed pod of an index that is to be tried again.

        Its finalizer stays until its successor exists, since only the pod knows the count.
        """
        if self.per_index_limit is None or self.is_deleted:
            return {}
        replaced = {index_of(pod) for pod in self.active}
        last: dict[int, Document] = {}
        for pod in self.pods:
            index = index_of(pod)
            if not is_tracked(pod) or not self.has_valid_index(pod) or not self.is_failed(pod):
                continue
            if podlib.phase(pod) == "Succeeded" or index in replaced:
                continue
            if index in self.succeeded_indexes or index in self.failed_indexes:
                continue
            if index not in last or _tries(pod) > _tries(last[index]):
                last[index] = pod
        return last

    def failure_counts_for(self, index: int) -> tuple[int, int]:
        """(counted, ignored) failures to write on the next pod of an index."""
        pod = self.held_back.get(index)
        if pod is None:
            return 0, 0
        counted, ignored = _annotated_count(pod, FAILURES), _annotated_count(pod, IGNORED_FAILURES)
        if self.is_counted(pod):
            return counted + 1, ignored
        return counted, ignored + 1


def _tries(pod: Document) -> int:
    return _annotated_count(pod, FAILURES) + _annotated_count(pod, IGNORED_FAILURES)
