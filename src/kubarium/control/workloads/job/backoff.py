"""How long a Job waits before it replaces failed pods: 10 s, doubled with each failure.

Upstream: ``pkg/controller/job/backoff_utils.go``. Times are seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.control.workloads.pods import container_statuses
from kubarium.runtime.writes import find_condition


@dataclass(frozen=True, slots=True)
class BackoffTimes:
    """First delay and the highest one, in seconds."""

    first_s: float = 10.0
    highest_s: float = 600.0

    def after(self, failures: int) -> float:
        """The delay that follows so many failures in a row."""
        if failures <= 0:
            return 0.0
        return min(self.first_s * float(1 << min(failures - 1, 40)), self.highest_s)


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """Failures since the last success, and when the last one was."""

    failures: int = 0
    last_failure: float | None = None

    def with_finished(
        self, succeeded: Iterable[Document], failed: Iterable[Document]
    ) -> FailureRecord:
        """The record after pods that have ended since."""
        outcomes = sorted(
            [(finished_at(pod), True) for pod in succeeded]
            + [(finished_at(pod), False) for pod in failed]
        )
        record = self
        for at, success in outcomes:
            record = FailureRecord() if success else FailureRecord(record.failures + 1, at)
        return record

    def remaining_s(self, times: BackoffTimes, now: float) -> float:
        """Seconds until the next pod may be created."""
        if self.last_failure is None:
            return 0.0
        return max(0.0, self.last_failure + times.after(self.failures) - now)


def finished_at(pod: Document) -> float:
    """When a pod ended: its last container, or when it ceased to be ready, was deleted or made.

    One that is ready still, and is being deleted, counts as ended since then.
    """
    states = [status.get("state") or {} for status in container_statuses(pod)]
    ends = [
        parse_rfc3339(state["terminated"]["finishedAt"])
        for state in states
        if (state.get("terminated") or {}).get("finishedAt")
    ]
    if ends and not any("running" in state for state in states):
        return max(ends)
    ready = find_condition(pod.get("status", {}), "Ready")
    if ready is not None and ready.get("status") == "False" and ready.get("lastTransitionTime"):
        return parse_rfc3339(ready["lastTransitionTime"])
    metadata = pod["metadata"]
    if "deletionTimestamp" in metadata:
        grace = metadata.get("deletionGracePeriodSeconds", 0)
        return parse_rfc3339(metadata["deletionTimestamp"]) - float(grace)
    return parse_rfc3339(metadata["creationTimestamp"])
