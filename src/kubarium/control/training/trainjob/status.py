"""The status of a TrainJob: what its JobSet says, and what only the TrainJob knows. Pure."""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.runtime.writes import condition_is_true, find_condition, set_condition

SUSPENDED = "Suspended"
COMPLETE = "Complete"
FAILED = "Failed"
DEADLINE_EXCEEDED = "DeadlineExceeded"
# A JobSet's end -> the TrainJob's.
_ENDS = {"Completed": COMPLETE, "Failed": FAILED}
_COUNTS = ("ready", "succeeded", "failed", "active", "suspended")


def is_finished(trainjob: Document) -> bool:
    """Condition Complete or Failed is True."""
    return any(condition_is_true(trainjob, type_) for type_ in (COMPLETE, FAILED))


class StatusDraft:
    """A changeable copy of the status."""

    def __init__(self, trainjob: Document, now: float) -> None:
        self.trainjob = trainjob
        self.now = now
        self.status: Document = dict(trainjob.get("status") or {})

    @property
    def is_finished(self) -> bool:
        return is_finished(self.status)

    def _set(self, type_: str, status: str, reason: str, message: str) -> None:
        held = self.status.get("conditions") or ()
        conditions = set_condition(held, type_, status, reason, message, self.now)
        self.status["conditions"] = conditions

    def fail(self, reason: str, message: str) -> None:
        self._set(FAILED, "True", reason, message)

    def note_suspension(self) -> None:
        """Suspended is only there once the TrainJob has been suspended."""
        if self.trainjob["spec"].get("suspend"):
            self._set(SUSPENDED, "True", SUSPENDED, "TrainJob is suspended")
        elif condition_is_true(self.status, SUSPENDED):
            self._set(SUSPENDED, "False", "Resumed", "TrainJob is resumed")

    def follow(self, jobset: Document) -> None:
        """Take over the JobSet's end, with its reason, and its counts of Jobs."""
        failed = find_condition(self.status, FAILED) or {}
        for theirs, ours in _ENDS.items():
            found = find_condition(jobset, theirs)
            over_time = ours == FAILED and failed.get("reason") == DEADLINE_EXCEEDED
            if found and found.get("status") == "True" and not over_time:
                self._set(ours, "True", found["reason"], found.get("message", ""))
        rows = (jobset.get("status") or {}).get("replicatedJobsStatus")
        if rows:
            self.status["jobsStatus"] = [
                {"name": row["name"], **{key: int(row.get(key) or 0) for key in _COUNTS}}
                for row in rows
            ]

    def deadline(self) -> float | None:
        """When the TrainJob is out of time; None if it has no limit or is not running.

        A resumed TrainJob has its whole time again.
        """
        spec = self.trainjob["spec"]
        limit_s = spec.get("activeDeadlineSeconds")
        if not limit_s or self.is_finished or spec.get("suspend"):
            return None
        suspended = find_condition(self.status, SUSPENDED)
        if suspended is not None and suspended["status"] == "False":
            since = suspended["lastTransitionTime"]
        else:
            since = self.trainjob["metadata"]["creationTimestamp"]
        return parse_rfc3339(since) + float(limit_s)

    def exceed_deadline(self) -> None:
        self.fail(DEADLINE_EXCEEDED, "TrainJob exceeded its active deadline")
