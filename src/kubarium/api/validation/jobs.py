"""batch/v1: Jobs and CronJobs (source: pkg/apis/batch/validation/validation.go)."""

from __future__ import annotations

import re
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.gangs import check_kept, check_modes, check_policy
from kubarium.api.validation.metadata import check_label_selector
from kubarium.api.validation.pods import check_pod_template
from kubarium.api.validation.report import IMMUTABLE, Report
from kubarium.api.validation.workloads import selector_matches
from kubarium.base.errors import OMITTED

_SPEC: Path = (None, "spec")
MAX_RULES = 20
MAX_EXIT_CODES = 255
MAX_INDEXED_PARALLELISM = 100_000
MAX_COMPLETIONS_WITH_INDEX_LIMIT = 100_000
MAX_FAILED_INDEXES = 10_000
MAX_MANAGED_BY = 63
MAX_CRON_JOB_NAME = 52
_COUNTS = (
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
)
_ACTIONS = '["Count" "FailIndex" "FailJob" "Ignore"]'
_REPLACEMENTS = ("TerminatingOrFailed", "Failed")


def check_job(document: Document, report: Report) -> None:
    """batch/v1 Job on creation: the selector must have been generated or be the user's own."""
    spec = document.get("spec") or {}
    _check_indexed_name(document, spec, report)
    check_job_spec(spec, _SPEC, report)
    selector = spec.get("selector")
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
    if spec.get("manualSelector") and selector is None:
        report.required(at(_SPEC, "selector"))
    if selector is not None:
        check_label_selector(selector, at(_SPEC, "selector"), report)
        if not selector_matches(selector, labels):
            path = at(_SPEC, "template", "metadata", "labels")
            report.invalid(path, labels, "`selector` does not match template `labels`")


def _check_indexed_name(document: Document, spec: Document, report: Report) -> None:
    """The hostname of the last pod of an indexed Job must still be a DNS label."""
    completions = spec.get("completions") or 0
    name = (document.get("metadata") or {}).get("name") or ""
    if spec.get("completionMode") != "Indexed" or completions <= 0 or not name:
        return
    for complaint in formats.dns_label(f"{name}-{completions - 1}"):
        detail = f"will not able to create pod with invalid DNS label: {complaint}"
        report.invalid(at(None, "metadata", "name"), name, detail)


def check_job_spec(spec: Document, path: Path, report: Report) -> None:
    """A Job's spec, also inside a CronJob."""
    for field in _COUNTS:
        report.not_negative(at(path, field), spec.get(field))
    template = spec.get("template") or {}
    check_pod_template(template, at(path, "template"), report)
    policy = (template.get("spec") or {}).get("restartPolicy") or "Always"
    spot = at(path, "template", "spec", "restartPolicy")
    if policy == "Always":
        report.required(spot, 'valid values: "OnFailure", "Never"')
    elif policy not in ("OnFailure", "Never"):
        report.not_supported(spot, policy, ("OnFailure", "Never"))
    replacement = spec.get("podReplacementPolicy")
    if replacement is not None:
        choices = _REPLACEMENTS[-1:] if spec.get("podFailurePolicy") is not None else _REPLACEMENTS
        if replacement not in choices:
            report.not_supported(at(path, "podReplacementPolicy"), replacement, choices)
    manager = spec.get("managedBy")
    if manager == "":
        report.required(at(path, "managedBy"))
    elif manager is not None:
        report.format(at(path, "managedBy"), manager, formats.domain_prefixed)
        if len(manager) > MAX_MANAGED_BY:
            report.too_long(at(path, "managedBy"), MAX_MANAGED_BY)
    if spec.get("scheduling") is not None:
        _check_scheduling(spec, path, report)
    _check_completion_mode(spec, path, report)
    _check_per_index(spec, path, policy, report)
    if spec.get("podFailurePolicy") is not None:
        _check_failure_policy(spec, path, policy, report)
    if spec.get("successPolicy") is not None:
        _check_success_policy(spec, path, report)


def _check_scheduling(spec: Document, path: Path, report: Report) -> None:
    """How the Job's pods start (KEP-5547): what the controller compiles to a Workload."""
    scheduling, place = spec["scheduling"], at(path, "scheduling")
    policy = scheduling.get("schedulingPolicy")
    check_policy(policy, at(place, "schedulingPolicy"), report, count_required=False)
    # Without a policy it is basic, of which no part goes as a whole.
    check_modes({"schedulingPolicy": {"basic": {}}, **scheduling}, place, report)
    least = ((policy or {}).get("gang") or {}).get("minCount")
    parallelism = 1 if spec.get("parallelism") is None else spec["parallelism"]
    if least is not None and least > parallelism:
        detail = f"must be less than or equal to spec.parallelism ({parallelism})"
        report.invalid(at(place, "schedulingPolicy", "gang", "minCount"), least, detail)


def _check_completion_mode(spec: Document, path: Path, report: Report) -> None:
    if spec.get("completionMode") != "Indexed":
        return
    completions = spec.get("completions")
    if completions is None:
        detail = "when completion mode is Indexed"
        report.required(at(path, "completions"), detail)
    parallelism = spec.get("parallelism") or 0
    if parallelism > MAX_INDEXED_PARALLELISM:
        limit = f"must be less than or equal to {MAX_INDEXED_PARALLELISM}"
        detail = f"{limit} when completion mode is Indexed"
        report.invalid(at(path, "parallelism"), parallelism, detail)


def _check_per_index(spec: Document, path: Path, policy: str, report: Report) -> None:
    limit, failed = spec.get("backoffLimitPerIndex"), spec.get("maxFailedIndexes")
    if limit is None:
        if failed is not None:
            spot = at(path, "backoffLimitPerIndex")
            report.required(spot, "when maxFailedIndexes is specified")
        return
    if spec.get("completionMode") != "Indexed":
        detail = "requires indexed completion mode"
        report.invalid(at(path, "backoffLimitPerIndex"), limit, detail)
    if policy != "Never":
        spot = at(path, "template", "spec", "restartPolicy")
        report.invalid(spot, policy, 'must be set to "Never" when backoffLimitPerIndex is set')
    completions = spec.get("completions")
    if completions is None:
        return
    if failed is not None and failed > completions:
        detail = "must be less than or equal to completions"
        report.invalid(at(path, "maxFailedIndexes"), failed, detail)
    if completions > MAX_COMPLETIONS_WITH_INDEX_LIMIT:
        if failed is None:
            detail = (
                f"must be specified when completions is above {MAX_COMPLETIONS_WITH_INDEX_LIMIT}"
            )
            report.required(at(path, "maxFailedIndexes"), detail)
        elif failed > MAX_FAILED_INDEXES:
            detail = (
                f"must be less than or equal to {MAX_FAILED_INDEXES} when completions is above "
            )
            spot = at(path, "maxFailedIndexes")
            report.invalid(spot, failed, f"{detail}{MAX_COMPLETIONS_WITH_INDEX_LIMIT}")


# --- policies ------------------------------------------------------------------------------------


def _check_failure_policy(spec: Document, path: Path, policy: str, report: Report) -> None:
    place = at(path, "podFailurePolicy")
    if policy != "Never":
        spot = at(path, "template", "spec", "restartPolicy")
        report.invalid(spot, policy, 'only "Never" is supported when podFailurePolicy is specified')
    rules = spec["podFailurePolicy"].get("rules") or []
    if len(rules) > MAX_RULES:
        report.too_many(at(place, "rules"), len(rules), MAX_RULES)
    names = _container_names(spec)
    for index, rule in enumerate(rules):
        _check_failure_rule(rule, spec, at(place, "rules", index), names, report)


def _container_names(spec: Document) -> set[str]:
    pod = (spec.get("template") or {}).get("spec") or {}
    containers = [*(pod.get("containers") or ()), *(pod.get("initContainers") or ())]
    return {container.get("name", "") for container in containers}


def _check_failure_rule(
    rule: Document, spec: Document, path: Path, names: set[str], report: Report
) -> None:
    if not rule.get("action"):
        report.required(at(path, "action"), f"valid values: {_ACTIONS}")
    if rule.get("action") == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
        detail = "requires the backoffLimitPerIndex to be set"
        report.invalid(at(path, "action"), "FailIndex", detail)
    codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions") or []
    if codes is not None and conditions:
        detail = "specifying both OnExitCodes and OnPodConditions is not supported"
        report.invalid(path, OMITTED, detail)
    elif codes is None and not conditions:
        detail = "specifying one of OnExitCodes and OnPodConditions is required"
        report.invalid(path, OMITTED, detail)
    if codes is not None:
        _check_exit_codes(codes, at(path, "onExitCodes"), names, report)
    if len(conditions) > MAX_RULES:
        report.too_many(at(path, "onPodConditions"), len(conditions), MAX_RULES)
    for index, pattern in enumerate(conditions):
        spot = at(path, "onPodConditions", index)
        report.format(at(spot, "type"), pattern.get("type") or "", formats.qualified_name)
        if pattern.get("status") not in ("False", "True", "Unknown"):
            choices = ("False", "True", "Unknown")
            report.not_supported(at(spot, "status"), pattern.get("status", ""), choices)


def _check_exit_codes(codes: Document, path: Path, names: set[str], report: Report) -> None:
    container = codes.get("containerName")
    if container is not None and container not in names:
        detail = "must be one of the container or initContainer names in the pod template"
        report.invalid(at(path, "containerName"), container, detail)
    if not codes.get("operator"):
        report.required(at(path, "operator"), 'valid values: ["In" "NotIn"]')
    values = codes.get("values") or []
    place = at(path, "values")
    if not values:
        report.invalid(place, codes.get("values"), "at least one value is required")
        return
    if len(values) > MAX_EXIT_CODES:
        report.too_many(place, len(values), MAX_EXIT_CODES)
    seen: set[int] = set()
    for index, value in enumerate(values):
        report.unique(at(place, index), value, seen)
        if codes.get("operator") == "In" and value == 0:
            report.invalid(at(place, index), value, "must not be 0 for the In operator")
    if values != sorted(values):
        report.invalid(place, values, "must be ordered")


INDEXES = re.compile(r"[0-9]+(?:-[0-9]+)?(?:,[0-9]+(?:-[0-9]+)?)*")


def parse_indexes(text: str, completions: int) -> int:
    """How many indexes ``1,3-5`` names; ValueError says what is wrong.

    >>> parse_indexes("1,3-5", 6)
    4
    """
    if not text:
        return 0
    if INDEXES.fullmatch(text) is None:
        raise ValueError("cannot parse indexes: use numbers and ranges such as 1,3-5")
    total, last = 0, -1
    for part in text.split(","):
        low, _, high = part.partition("-")
        first, final = int(low), int(high or low)
        if first <= last or (high and final <= first):
            raise ValueError("indexes must be in increasing order")
        if final >= completions:
            raise ValueError("too large index")
        total += final - first + 1
        last = final
    return total


def _check_success_policy(spec: Document, path: Path, report: Report) -> None:
    place = at(path, "successPolicy")
    if spec.get("completionMode") != "Indexed":
        detail = "requires indexed completion mode"
        report.invalid(place, spec["successPolicy"], detail)
        return
    rules = spec["successPolicy"].get("rules") or []
    if not rules:
        detail = "at least one rules must be specified when the successPolicy is specified"
        report.required(at(place, "rules"), detail)
    if len(rules) > MAX_RULES:
        report.too_many(at(place, "rules"), len(rules), MAX_RULES)
    completions = spec.get("completions") or 0
    for index, rule in enumerate(rules):
        _check_success_rule(rule, completions, at(place, "rules", index), report)


def _check_success_rule(rule: Document, completions: int, path: Path, report: Report) -> None:
    count, indexes = rule.get("succeededCount"), rule.get("succeededIndexes")
    if count is None and indexes is None:
        detail = "at least one of succeededCount or succeededIndexes must be specified"
        report.required(path, detail)
    named = completions
    if indexes is not None:
        try:
            named = parse_indexes(indexes, completions)
        except ValueError as error:
            detail = f"error parsing succeededIndexes: {error}"
            report.invalid(at(path, "succeededIndexes"), indexes, detail)
    if count is not None:
        report.not_negative(at(path, "succeededCount"), count)
        if count > completions:
            detail = (
                f"must be less than or equal to {completions} (the number of specified completions)"
            )
            report.invalid(at(path, "succeededCount"), count, detail)
        elif count > named:
            detail = (
                f"must be less than or equal to {named} (the number of indexes in the specified "
                "succeededIndexes field)"
            )
            report.invalid(at(path, "succeededCount"), count, detail)


# --- updates -------------------------------------------------------------------------------------

_FROZEN = (
    "completionMode",
    "podFailurePolicy",
    "backoffLimitPerIndex",
    "managedBy",
    "successPolicy",
    "selector",
    "podReplacementPolicy",
)
_DIRECTIVES = ("nodeSelector", "tolerations", "schedulingGates")


def check_job_update(new: Document, old: Document, report: Report) -> None:
    """What a Job may change, and when (KEP-2926, KEP-3715, KEP-5440)."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    if after == before:
        return
    for field in _FROZEN:
        report.immutable(at(_SPEC, field), after.get(field), before.get(field))
    _check_scheduling_kept(after, before, report)
    _check_completions(after, before, report)
    _check_template(after, before, old.get("status") or {}, report)
    check_job_spec(after, _SPEC, report)


def _check_scheduling_kept(after: Document, before: Document, report: Report) -> None:
    """Only ``gang.minCount`` may change, and the whole neither comes nor goes."""
    new, old, path = after.get("scheduling"), before.get("scheduling"), at(_SPEC, "scheduling")
    if new is None or old is None:
        if new is not old:
            report.invalid(path, new, IMMUTABLE)
        return
    check_kept(new, old, path, report)


def _check_completions(after: Document, before: Document, report: Report) -> None:
    new, old = after.get("completions"), before.get("completions")
    if new == old:
        return
    elastic = before.get("completionMode") == "Indexed" and None not in (new, old)
    path = at(_SPEC, "completions")
    if not elastic:
        report.immutable(path, new, old)
    elif new != after.get("parallelism"):
        detail = f"can only be modified in tandem with {path_of_parallelism()}"
        report.invalid(path, new, detail)


def path_of_parallelism() -> str:
    """The field that an elastic Job changes together with completions."""
    return "spec.parallelism"


def _check_template(after: Document, before: Document, status: Document, report: Report) -> None:
    old, new = before.get("template") or {}, after.get("template") or {}
    if old == new:
        return
    if before.get("suspend") and status.get("startTime") is None:
        old, new = _blank_directives(old), _blank_directives(new)
    elif before.get("suspend") and holds(status, "Suspended") and not status.get("active"):
        old, new = _blank_requests(old), _blank_requests(new)  # KEP-5440: also after it has run
    if old != new:
        report.immutable(at(_SPEC, "template"), after.get("template"), before.get("template"))


def _blank_directives(template: Document) -> Document:
    """A template without what a suspended Job may change: where it runs and what it requests."""
    metadata = dict(template.get("metadata") or {})
    metadata.pop("labels", None)
    metadata.pop("annotations", None)
    spec = {k: v for k, v in (template.get("spec") or {}).items() if k not in _DIRECTIVES}
    affinity = dict(spec.get("affinity") or {})
    affinity.pop("nodeAffinity", None)
    spec.pop("affinity", None)
    if affinity:
        spec["affinity"] = affinity
    for field in ("containers", "initContainers"):
        if field in spec:
            spec[field] = [_blank_resources(container) for container in spec[field]]
    return {**template, "metadata": metadata, "spec": spec}


def _blank_requests(template: Document) -> Document:
    """A template without what its containers request, but for claims."""
    spec = dict(template.get("spec") or {})
    for field in ("containers", "initContainers"):
        if field in spec:
            spec[field] = [_blank_resources(container) for container in spec[field]]
    return {**template, "spec": spec}


def _blank_resources(container: Document) -> Document:
    claims: Any = (container.get("resources") or {}).get("claims")
    return {**container, "resources": {"claims": claims}}


def holds(status: Document, type_: str) -> bool:
    """Whether a condition of a status is true."""
    conditions = status.get("conditions") or ()
    return any(c.get("type") == type_ and c.get("status") == "True" for c in conditions)


# --- CronJob -------------------------------------------------------------------------------------

_MACROS = frozenset(
    ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# Lowest and highest value and the names of each field, from minute to day of the week.
_CRON_FIELDS: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    (0, 59, ()),
    (0, 23, ()),
    (1, 31, ()),
    (1, 12, _MONTHS),
    (0, 6, _DAYS),
)


def check_cron_job(document: Document, report: Report) -> None:
    """batch/v1 CronJob."""
    spec = document.get("spec") or {}
    name = (document.get("metadata") or {}).get("name") or ""
    if len(name) > MAX_CRON_JOB_NAME:
        detail = f"must be no more than {MAX_CRON_JOB_NAME} characters"
        report.invalid(at(None, "metadata", "name"), name, detail)
    schedule = spec.get("schedule") or ""
    if schedule:
        _check_schedule(schedule, report)
    for field in (
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ):
        report.not_negative(at(_SPEC, field), spec.get(field))
    zone = spec.get("timeZone")
    if zone is not None and not re.fullmatch(r"[A-Za-z0-9_+/-]+", zone):
        report.invalid(at(_SPEC, "timeZone"), zone, f"unknown time zone {zone}")
    job_spec = (spec.get("jobTemplate") or {}).get("spec") or {}
    path = at(_SPEC, "jobTemplate", "spec")
    if job_spec.get("manualSelector"):
        report.not_supported(at(path, "manualSelector"), True, ("nil", "false"))
    check_job_spec(job_spec, path, report)


def _check_schedule(schedule: str, report: Report) -> None:
    path = at(_SPEC, "schedule")
    if "TZ" in schedule:
        detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        report.invalid(path, schedule, detail)
    elif complaint := cron_complaint(schedule):
        report.invalid(path, schedule, complaint)


def cron_complaint(schedule: str) -> str:
    """What is wrong with a five-field schedule, or "".

    >>> cron_complaint("*/5 * * * mon-fri"), cron_complaint("61 * * * *")
    ('', 'end of range (61) above maximum (59): 61')
    """
    if schedule.startswith("@"):
        every = schedule.startswith("@every ") and len(schedule) > len("@every ")
        return "" if every or schedule in _MACROS else f"unrecognized descriptor: {schedule}"
    parts = schedule.split()
    if len(parts) != len(_CRON_FIELDS):
        return f"expected exactly 5 fields, found {len(parts)}: {parts}"
    for text, (low, high, names) in zip(parts, _CRON_FIELDS, strict=True):
        for entry in text.split(","):
            complaint = _range_complaint(entry.lower(), low, high, names)
            if complaint:
                return complaint
    return ""


def _range_complaint(entry: str, low: int, high: int, names: tuple[str, ...]) -> str:
    span, slash, step = entry.partition("/")
    if slash and (not step.isdigit() or int(step) == 0):
        return f"step of range should be a positive number: {entry}"
    if span in ("*", "?"):
        return ""
    bounds = []
    for bound in span.split("-"):
        if bound in names:
            bounds.append(names.index(bound) + low)
        elif bound.isdigit():
            bounds.append(int(bound))
        else:
            return f"failed to parse int from {bound}: {entry}"
    if len(bounds) > 2:
        return f"too many hyphens: {entry}"
    if bounds[0] < low:
        return f"beginning of range ({bounds[0]}) below minimum ({low}): {entry}"
    if bounds[-1] > high:
        return f"end of range ({bounds[-1]}) above maximum ({high}): {entry}"
    if bounds[0] > bounds[-1]:
        return f"beginning of range ({bounds[0]}) beyond end of range ({bounds[-1]}): {entry}"
    return ""
