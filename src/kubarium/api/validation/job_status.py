"""The status of a Job: counters, indexes and conditions that agree (KEP-4368).

Source: batch/validation/validation.go.
"""

from __future__ import annotations

from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.jobs import INDEXES, holds, parse_indexes
from kubarium.api.validation.report import Report
from kubarium.base.errors import OMITTED


def check_job_status(new: Document, old: Document, report: Report) -> None:
    """Terminal conditions never flip; counters are not negative (KEP-4368)."""
    after, before = new.get("status") or {}, old.get("status") or {}
    path: Path = (None, "status")
    for field in ("active", "succeeded", "failed", "ready", "terminating"):
        report.not_negative(at(path, field), after.get(field))
    if (after.get("ready") or 0) > (after.get("active") or 0):
        detail = "cannot set more ready pods than active"
        report.invalid(at(path, "ready"), after.get("ready"), detail)
    if before.get("completionTime") and after.get("completionTime") != before["completionTime"]:
        spot = at(path, "completionTime")
        report.immutable(spot, after.get("completionTime"), before["completionTime"])
    for type_ in ("Failed", "Complete"):
        if holds(before, type_) and not holds(after, type_):
            detail = f"cannot disable the terminal {type_}=True condition"
            report.invalid(at(path, "conditions"), OMITTED, detail)
    if holds(after, "Complete") and holds(after, "Failed"):
        detail = "cannot set Complete=True and Failed=true conditions"
        report.invalid(at(path, "conditions"), OMITTED, detail)
    _check_uncounted(after.get("uncountedTerminatedPods") or {}, report)
    if after != before:
        _check_endings(after, before, report)
        _check_counters(new.get("spec") or {}, after, before, report)
        _check_indexes(new.get("spec") or {}, after, before, report)
        _check_start(new.get("spec") or {}, after, before, report)


# What must have gone before a terminal condition, and what must not be beside one (KEP-4368).
_INTERIM = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}


def _check_endings(after: Document, before: Document, report: Report) -> None:
    conditions = at(None, "status", "conditions")
    for type_, interim in _INTERIM.items():
        if not holds(after, type_) or holds(before, type_):
            continue
        if not holds(after, interim):
            detail = f"cannot set {type_}=True condition without the {interim}=true condition"
            report.invalid(conditions, OMITTED, detail)
        for field in ("active", "terminating"):
            if after.get(field):
                detail = f"{field}>0 is invalid for finished job"
                report.invalid(at(None, "status", field), after[field], detail)
        uncounted = after.get("uncountedTerminatedPods") or {}
        if uncounted.get("succeeded") or uncounted.get("failed"):
            detail = "must be empty for finished job"
            report.invalid(at(None, "status", "uncountedTerminatedPods"), uncounted, detail)
        if not after.get("startTime"):
            report.required(
                at(None, "status", "startTime"), "startTime is required for finished job"
            )
    if holds(after, "Complete") and holds(after, "FailureTarget"):
        detail = "cannot set Complete=True and FailureTarget=true conditions"
        report.invalid(conditions, OMITTED, detail)
    path, time = at(None, "status", "completionTime"), after.get("completionTime")
    if holds(after, "Complete") and not time:
        report.required(path, "completionTime is required for Complete jobs")
    elif time and not holds(after, "Complete"):
        detail = "cannot set completionTime when there is no Complete=True condition"
        report.invalid(path, time, detail)
    elif time and after.get("startTime") and time < after["startTime"]:
        report.invalid(path, time, "must be equal to or after `startTime`")


def _check_counters(spec: Document, after: Document, before: Document, report: Report) -> None:
    """``failed`` only grows; ``succeeded`` too, but for an elastic Job that shrinks."""
    growing = ("failed",) if spec.get("completionMode") == "Indexed" else ("failed", "succeeded")
    for field in growing:
        if int(after.get(field) or 0) < int(before.get(field) or 0):
            detail = f"cannot decrease the {field} counter"
            report.invalid(at(None, "status", field), after.get(field) or 0, detail)


def _check_indexes(spec: Document, after: Document, before: Document, report: Report) -> None:
    completions = int(spec.get("completions") or 0)
    for field in ("completedIndexes", "failedIndexes"):
        text = after.get(field) or ""
        if not text or text == before.get(field):
            continue
        path = at(None, "status", field)
        if spec.get("completionMode") != "Indexed":
            report.invalid(
                path, text, f"cannot set non-empty {field} when non-indexed completion mode"
            )
            continue
        try:
            parse_indexes(text, completions)
        except ValueError as error:
            report.invalid(path, text, f"error parsing {field}: {error}")
            return
    _check_overlap(after, report)


def _check_overlap(status: Document, report: Report) -> None:
    """No index has both failed and completed."""
    failed = status.get("failedIndexes") or ""
    spans = _spans(status.get("completedIndexes") or "")
    for low, high in _spans(failed):
        for first, final in spans:
            if low <= final and first <= high:
                detail = f"failedIndexes and completedIndexes overlap at index: {max(low, first)}"
                report.invalid(at(None, "status", "failedIndexes"), failed, detail)
                return


def _spans(text: str) -> list[tuple[int, int]]:
    """First and last index of each part of ``1,3-5``; nothing of what cannot be parsed."""
    if not text or INDEXES.fullmatch(text) is None:
        return []
    parts = [part.partition("-") for part in text.split(",")]
    return [(int(low), int(high or low)) for low, _, high in parts]


def _check_uncounted(pods: Document, report: Report) -> None:
    """Pods that have ended and are not in the counters yet: each is there once."""
    seen: set[str] = set()
    for field in ("succeeded", "failed"):
        for index, uid in enumerate(pods.get(field) or ()):
            path = at(None, "status", "uncountedTerminatedPods", field, index)
            if uid:
                report.unique(path, uid, seen)
            else:
                report.invalid(path, uid, "must not be empty")


def _check_start(spec: Document, after: Document, before: Document, report: Report) -> None:
    """Set once; anew only around a suspension."""
    if not before.get("startTime") or after.get("startTime") == before["startTime"]:
        return
    if spec.get("suspend") or holds(before, "Suspended"):
        return
    detail = "startTime cannot be changed or removed for an unsuspended job"
    report.required(at(None, "status", "startTime"), detail)
