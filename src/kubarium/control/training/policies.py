"""What a JobSet does when a Job of it fails or succeeds. Pure apart from the draft it fills."""

from __future__ import annotations

import re

from kubarium.api.resource import Document
from kubarium.control.training.children import (
    JOB_INDEX,
    REPLICATED_JOB,
    replicas_of,
    replicated_jobs,
)
from kubarium.control.training.status import RESTARTING, ChildJobs, StatusDraft
from kubarium.runtime.writes import find_condition

FAIL = "FailJobSet"
RESTART = "RestartJobSet"
RESTART_UNCOUNTED = "RestartJobSetAndIgnoreMaxRestarts"
RESTART_JOB = "RestartJob"
RESTART_JOB_UNCOUNTED = "RestartJobAndIgnoreMaxRestarts"
_COUNTED = (RESTART, RESTART_JOB)
REACHED_MAX = "ReachedMaxRestarts"
REACHED_MAX_MESSAGE = "jobset failed due to reaching max number of restarts"


def apply_failure_policy(draft: StatusDraft, children: ChildJobs) -> None:
    """Fail or restart the JobSet. Call only when a Job of this attempt has failed."""
    policy = draft.jobset["spec"].get("failurePolicy")
    if policy is None:
        why = "jobset failed due to one or more job failures"
        draft.fail("FailedJobs", _naming(why, first_failed(children.failed)))
        return
    rule, job = _first_match(policy.get("rules") or (), children.failed)
    action = rule["action"] if rule is not None else RESTART
    if action == FAIL:
        reason = "FailJobSetFailurePolicyAction"
        draft.fail(reason, _naming("applying FailJobSet failure policy action", job))
    elif action in _COUNTED and draft.all_counted_restarts >= int(policy.get("maxRestarts", 0)):
        draft.fail(REACHED_MAX, _naming(REACHED_MAX_MESSAGE, job))
    elif action in (RESTART_JOB, RESTART_JOB_UNCOUNTED):
        _restart_job(draft, action, rule, job)
    else:
        _restart(draft, action, rule, job)


def _restart(draft: StatusDraft, action: str, rule: Document | None, job: Document) -> None:
    """Raise the attempt: the next reconcile deletes what belongs to the last one."""
    draft.status["restarts"] = draft.restarts + 1
    if action == RESTART:
        draft.status["restartsCountTowardsMax"] = draft.counted_restarts + 1
    message = _naming(f"applying {action} failure policy action", job)
    reason = f"FailurePolicy_{rule['name']}" if rule is not None else "DefaultFailurePolicy"
    draft.set_condition(RESTARTING, "True", reason, message, "Warning")
    draft.event("Warning", f"{action}FailurePolicyAction", message)


def _restart_job(draft: StatusDraft, action: str, rule: Document | None, job: Document) -> None:
    """The same for one Job: the others go on, and no condition tells of it (as upstream)."""
    labels = job["metadata"]["labels"]
    entries = {entry["name"]: entry for entry in replicated_jobs(draft.jobset)}
    entry, index = entries.get(labels[REPLICATED_JOB]), labels.get(JOB_INDEX, "")
    if entry is None or not index.isdecimal():
        # Somebody changed the labels: which Job to make anew cannot be told, so all are.
        _restart(draft, RESTART if action == RESTART_JOB else RESTART_UNCOUNTED, rule, job)
        return
    draft.restart_job(entry, int(index), counted=action == RESTART_JOB)
    message = _naming(f"applying {action} failure policy action", job)
    draft.event("Warning", f"{action}FailurePolicyAction", message)


def _naming(message: str, job: Document) -> str:
    return f"{message} (first failed job: {job['metadata']['name']})"


def _failure(job: Document) -> Document:
    return find_condition(job.get("status", {}), "Failed") or {}


def first_failed(jobs: list[Document]) -> Document:
    """The Job that failed first; by name among equal times."""
    return min(jobs, key=lambda job: str(_failure(job).get("lastTransitionTime", "")))


def _first_match(
    rules: list[Document] | tuple[()], failed: list[Document]
) -> tuple[Document | None, Document]:
    for rule in rules:
        matching = [job for job in failed if _applies(rule, job)]
        if matching:
            return rule, first_failed(matching)
    return None, first_failed(failed)


def _applies(rule: Document, job: Document) -> bool:
    failure = _failure(job)
    reasons = rule.get("onJobFailureReasons")
    if reasons and failure.get("reason") not in reasons:
        return False
    patterns = rule.get("onJobFailureMessagePatterns")
    if patterns and not any(_matches(item, str(failure.get("message", ""))) for item in patterns):
        return False
    targets = rule.get("targetReplicatedJobs")
    name = (job["metadata"].get("labels") or {}).get(REPLICATED_JOB)
    return bool(name) and (not targets or name in targets)


def _matches(pattern: str, message: str) -> bool:
    try:
        return re.search(pattern, message) is not None
    except re.error:  # a pattern that does not compile matches nothing
        return False


def success_is_reached(jobset: Document, succeeded: list[Document]) -> bool:
    """Whether enough of the targeted Jobs have succeeded."""
    policy = jobset["spec"].get("successPolicy") or {}
    targets = policy.get("targetReplicatedJobs") or [job["name"] for job in replicated_jobs(jobset)]
    have = sum(
        1
        for job in succeeded
        if (job["metadata"].get("labels") or {}).get(REPLICATED_JOB) in targets
    )
    if policy.get("operator", "All") == "Any":
        return have >= 1
    return have >= sum(
        replicas_of(job) for job in replicated_jobs(jobset) if job["name"] in targets
    )
