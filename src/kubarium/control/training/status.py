"""The status of a JobSet as it is built up during one reconcile.

Events are kept until the status has been written: an event must not tell what did not happen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339
from kubarium.control.training.children import (
    JOB_INDEX,
    JOB_RESTART_ATTEMPT,
    REPLICATED_JOB,
    RESTART_ATTEMPT,
    replicas_of,
    replicated_jobs,
)

# One number for each Job of a replicated job, in the order of their indexes.
JOB_RESTARTS = "jobRestarts"
JOB_RESTARTS_COUNTED = "jobRestartsCountTowardsMax"
JOB_COUNTERS = (JOB_RESTARTS, JOB_RESTARTS_COUNTED)

COMPLETED = "Completed"
FAILED = "Failed"
SUSPENDED = "Suspended"
RESTARTING = "RestartingJobSet"
STARTUP_IN_PROGRESS = "StartupPolicyInProgress"
STARTUP_COMPLETED = "StartupPolicyCompleted"
_EXCLUSIVE = {STARTUP_IN_PROGRESS: STARTUP_COMPLETED, STARTUP_COMPLETED: STARTUP_IN_PROGRESS}


@dataclass(slots=True)
class ChildJobs:
    """The JobSet's Jobs by what they mean to this attempt; each in order of name."""

    active: list[Document] = field(default_factory=list)
    succeeded: list[Document] = field(default_factory=list)
    failed: list[Document] = field(default_factory=list)
    previous: list[Document] = field(default_factory=list)

    def names(self) -> set[str]:
        """Names that are taken."""
        jobs = [*self.active, *self.succeeded, *self.failed, *self.previous]
        return {job["metadata"]["name"] for job in jobs}


def sort_children(jobs: Iterable[Document], draft: StatusDraft) -> ChildJobs:
    """Jobs of an earlier attempt are ``previous``, whatever became of them."""
    children = ChildJobs()
    for job in sorted(jobs, key=lambda job: str(job["metadata"]["name"])):
        if _is_previous(job, draft):
            children.previous.append(job)
            continue
        finished = finished_type(job)
        if finished == "Failed":
            children.failed.append(job)
        elif finished == "Complete":
            children.succeeded.append(job)
        else:
            children.active.append(job)
    return children


def _is_previous(job: Document, draft: StatusDraft) -> bool:
    """The JobSet, or this Job alone, has been restarted since; labels that are no numbers count
    as old, so that such a Job is made anew."""
    labels = job["metadata"].get("labels") or {}
    attempt = labels.get(RESTART_ATTEMPT, "")
    if not attempt.isdecimal() or int(attempt) < draft.restarts:
        return True
    own, index = labels.get(JOB_RESTART_ATTEMPT), labels.get(JOB_INDEX, "")
    if own is None:  # made by a controller that knew no restarts of single Jobs
        return False
    if not own.isdecimal() or not index.isdecimal():
        return True
    return int(own) < draft.job_restarts(labels.get(REPLICATED_JOB, ""), int(index))


def finished_type(job: Document) -> str:
    """ "Complete" or "Failed" when that condition is True, else ""."""
    for condition in job.get("status", {}).get("conditions") or ():
        if condition.get("type") in ("Complete", "Failed") and condition.get("status") == "True":
            return str(condition["type"])
    return ""


def is_finished(jobset: Document) -> bool:
    """Condition Completed or Failed is True."""
    return any(
        condition["type"] in (COMPLETED, FAILED) and condition.get("status") == "True"
        for condition in jobset.get("status", {}).get("conditions") or ()
    )


def finished_condition(jobset: Document) -> Document | None:
    """The condition that ended the JobSet."""
    for condition in jobset.get("status", {}).get("conditions") or ():
        if condition["type"] in (COMPLETED, FAILED) and condition.get("status") == "True":
            return dict(condition)
    return None


def count_replicated_jobs(
    jobset: Document, children: ChildJobs, before: dict[str, Document]
) -> list[Document]:
    """``status.replicatedJobsStatus``, in the order of the spec.

    ``before`` has the last rows by name: the counters of single Jobs' restarts are kept.
    """
    rows: dict[str, Document] = {
        job["name"]: {
            "name": job["name"],
            "ready": 0,
            "succeeded": 0,
            "failed": 0,
            "active": 0,
            "suspended": 0,
        }
        for job in replicated_jobs(jobset)
    }
    for job in children.active:
        row = rows.get(_replicated_job_of(job))
        if row is not None:
            row["ready"] += int(_is_ready(job))
            row["active"] += int(int(job.get("status", {}).get("active", 0)) > 0)
            row["suspended"] += int(bool(job["spec"].get("suspend")))
    for name, jobs in (("succeeded", children.succeeded), ("failed", children.failed)):
        for job in jobs:
            row = rows.get(_replicated_job_of(job))
            if row is not None:
                row[name] += 1
    for name, row in rows.items():
        old = before.get(name, {})
        row.update({counter: old[counter] for counter in JOB_COUNTERS if old.get(counter)})
    return list(rows.values())


def _replicated_job_of(job: Document) -> str:
    return str((job["metadata"].get("labels") or {}).get(REPLICATED_JOB, ""))


def _is_ready(job: Document) -> bool:
    """All its pods are ready or have succeeded."""
    pods = int(job["spec"].get("parallelism", 1))
    completions = job["spec"].get("completions")
    if completions is not None:
        pods = min(pods, int(completions))
    status = job.get("status", {})
    return int(status.get("succeeded", 0)) + int(status.get("ready", 0)) >= pods


class StatusDraft:
    """A changeable copy of the status, and the events to tell once it is written."""

    def __init__(self, jobset: Document, now: float) -> None:
        self.jobset = jobset
        self.now = now
        self.status: Document = dict(jobset.get("status") or {})
        self.status["conditions"] = list(self.status.get("conditions") or ())
        self.events: list[tuple[str, str, str]] = []

    @property
    def restarts(self) -> int:
        return int(self.status.get("restarts", 0))

    @property
    def counted_restarts(self) -> int:
        """Restarts that count towards ``maxRestarts``."""
        return int(self.status.get("restartsCountTowardsMax", 0))

    @property
    def all_counted_restarts(self) -> int:
        """Those, and the counted restarts of single Jobs."""
        rows = self.rows().values()
        return self.counted_restarts + sum(sum(row.get(JOB_RESTARTS_COUNTED) or ()) for row in rows)

    def job_restarts(self, name: str, index: int) -> int:
        """How often one Job of a replicated job has been restarted by itself."""
        counts = self.rows().get(name, {}).get(JOB_RESTARTS) or ()
        return int(counts[index]) if index < len(counts) else 0

    def restart_job(self, replicated_job: Document, index: int, counted: bool) -> None:
        """Raise the attempt of one Job: the next reconcile deletes the present one."""
        rows = self.rows()
        row = dict(rows[replicated_job["name"]])
        for counter in JOB_COUNTERS if counted else (JOB_RESTARTS,):
            counts = list(row.get(counter) or ())
            counts += [0] * (max(replicas_of(replicated_job), index + 1) - len(counts))
            counts[index] += 1
            row[counter] = counts
        rows[row["name"]] = row
        self.status["replicatedJobsStatus"] = list(rows.values())

    def rows(self) -> dict[str, Document]:
        """``replicatedJobsStatus`` by name."""
        return {row["name"]: row for row in self.status.get("replicatedJobsStatus") or ()}

    def finish(self) -> Document:
        """The status to write."""
        if not self.status["conditions"]:
            del self.status["conditions"]
        return self.status

    def event(self, type_: str, reason: str, message: str) -> None:
        self.events.append((type_, reason, message))

    def set_condition(
        self, type_: str, status: str, reason: str, message: str, event_type: str = "Normal"
    ) -> None:
        """Set a condition; one that would be new and False is left out (upstream's rule)."""
        new: Document = {
            "type": type_,
            "status": status,
            "reason": reason,
            "message": message,
            "lastTransitionTime": rfc3339(self.now),
        }
        conditions: list[Document] = []
        found = changed = False
        for held in self.status["conditions"]:
            if held["type"] == type_:
                found = True
                if held["status"] == status:
                    new["lastTransitionTime"] = held["lastTransitionTime"]
                changed = changed or held != new
                conditions.append(new)
            elif _EXCLUSIVE.get(type_) == held["type"] and held["status"] == status == "True":
                changed = True
                conditions.append({**held, "status": "False"})
            else:
                conditions.append(held)
        if not found and status == "True":
            changed = True
            conditions.append(new)
        if changed:
            self.status["conditions"] = conditions
            self.event(event_type, reason, message)

    def stop_restarting(self, reason: str, message: str) -> None:
        self.set_condition(RESTARTING, "False", reason, message)

    def fail(self, reason: str, message: str) -> None:
        self.set_condition(FAILED, "True", reason, message, "Warning")
        self.stop_restarting("JobSetFailed", "jobset failed")
        self.status["terminalState"] = FAILED

    def complete(self) -> None:
        message = "jobset completed successfully"
        self.set_condition(COMPLETED, "True", "AllJobsCompleted", message)
        self.stop_restarting("JobSetCompleted", message)
        self.status["terminalState"] = COMPLETED

    def suspend(self) -> None:
        message = "jobset is suspended"
        self.set_condition(SUSPENDED, "True", "SuspendedJobs", message)
        self.stop_restarting("JobSetSuspended", message)

    def resume(self) -> None:
        self.set_condition(SUSPENDED, "False", "ResumeJobs", "jobset is resumed")

    def all_ready(self) -> bool:
        """Every Job is ready or has succeeded."""
        wanted = sum(map(replicas_of, replicated_jobs(self.jobset)))
        return bool(wanted == sum(row["ready"] + row["succeeded"] for row in self.rows().values()))

    def has_started(self, replicated_job: Document) -> bool:
        """Every Job of the entry is ready or has ended."""
        row = self.rows()[replicated_job["name"]]
        return bool(replicas_of(replicated_job) == row["ready"] + row["succeeded"] + row["failed"])

    def dependencies_met(self, replicated_job: Document) -> bool:
        """All of ``dependsOn`` has reached the status asked for."""
        rows = self.rows()
        wanted = {job["name"]: replicas_of(job) for job in replicated_jobs(self.jobset)}
        for dependency in replicated_job.get("dependsOn") or ():
            row = rows.get(dependency["name"])
            if row is None:
                return False
            reached = row["succeeded"]
            if dependency["status"] == "Ready":
                reached += row["ready"] + row["failed"]
            if reached != wanted[dependency["name"]]:
                return False
        return True
