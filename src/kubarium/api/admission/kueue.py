"""Defaults and checks of Kueue's objects, and of jobs in queues, beyond schema and CEL.

Source: Kueue ``pkg/webhooks`` and ``pkg/controller/jobframework``. Call :func:`default` on create
before the schema's validation, and :func:`validate` after it, so that types can be relied on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kubarium.api import formats
from kubarium.api.resource import Document
from kubarium.api.selectors import label_selector
from kubarium.base.errors import ApiError, FieldError
from kubarium.base.quantity import QuantityError, parse_quantity

PREFIX = "kueue.x-k8s.io/"
QUEUE_NAME = PREFIX + "queue-name"
PRIORITY_CLASS = PREFIX + "priority-class"
MAX_EXECUTION = PREFIX + "max-exec-time-seconds"
MIN_PARALLELISM = PREFIX + "job-min-parallelism"
COMPLETIONS_FOLLOW = PREFIX + "job-completions-equal-parallelism"
RESOURCE_IN_USE = PREFIX + "resource-in-use"
DEFAULT_QUEUE = "default"

IMMUTABLE = "field is immutable"
NEGATIVE = "must be greater than or equal to 0"
MAX_FLAVORS = 256
MAX_RESOURCES = 256
MAX_COMBINATIONS = 512

JOB_KINDS = (
    ("batch/v1", "Job"),
    ("jobset.x-k8s.io/v1alpha2", "JobSet"),
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
)
"""(apiVersion, kind) of what queues and is held back until admission."""

Errors = list[FieldError]


def default(document: Document, *, default_queue: bool = False) -> None:
    """Fill in what Kueue's webhooks would on create, in place.

    ``default_queue``: the namespace has a LocalQueue named "default", which then is the queue of
    every job that names none. A job with a queue starts suspended; a job that another job made
    does not, because it follows that one.
    """
    if _kind(document) in ("ClusterQueue", "ResourceFlavor"):
        metadata = document.setdefault("metadata", {})
        finalizers = list(metadata.get("finalizers") or ())
        if RESOURCE_IN_USE not in finalizers:
            metadata["finalizers"] = [*finalizers, RESOURCE_IN_USE]
    elif _is_job(document) and not _made_by_a_job(document):
        if default_queue and not queue_name(document):
            metadata = document.setdefault("metadata", {})
            metadata["labels"] = {**(metadata.get("labels") or {}), QUEUE_NAME: DEFAULT_QUEUE}
        if queue_name(document) and isinstance(document.get("spec"), dict):
            document["spec"]["suspend"] = True


def validate(new: Document, old: Document | None, *, default_queue: bool = False) -> Errors:
    """Complaints about a create (``old`` None) or an update; [] for kinds that it does not know."""
    check = _CHECKS.get(_kind(new))
    if check is not None:
        return check(new, old)
    if _is_job(new):
        return _job(new, old, default_queue)
    return []


def _kind(document: Document) -> str:
    """The kind of one of Kueue's own objects, else ""."""
    ours = str(document.get("apiVersion", "")).startswith(PREFIX)
    return str(document.get("kind", "")) if ours else ""


def _is_job(document: Mapping[str, Any]) -> bool:
    return (document.get("apiVersion"), document.get("kind")) in JOB_KINDS


def queue_name(document: Document) -> str:
    labels = (document.get("metadata") or {}).get("labels") or {}
    return str(labels.get(QUEUE_NAME) or "")


def _made_by_a_job(document: Document) -> bool:
    owners = (document.get("metadata") or {}).get("ownerReferences") or ()
    return any(owner.get("controller") and _is_job(owner) for owner in owners)


# jobs


def _job(new: Document, old: Document | None, default_queue: bool) -> Errors:
    errors = _job_labels(new)
    if new["kind"] == "Job":
        if old is None or _annotation(old, MIN_PARALLELISM) != _annotation(new, MIN_PARALLELISM):
            errors += _min_parallelism(new)
        errors += _completions_follow(new)
    if old is not None:
        errors += _job_update(new, old, default_queue)
    return errors


def _job_labels(job: Document) -> Errors:
    errors: Errors = []
    name = _label(job, QUEUE_NAME)
    if name is not None:
        complaints = formats.dns_subdomain(name)
        if complaints:
            errors.append(
                FieldError("Invalid", _label_path(QUEUE_NAME), name, ",".join(complaints))
            )
    limit = _label(job, MAX_EXECUTION)
    if limit is not None:
        path = _label_path(MAX_EXECUTION)
        number = _integer(limit)
        if number is None:
            errors.append(FieldError("Invalid", path, limit, "must be a whole number of seconds"))
        elif number <= 0:
            errors.append(FieldError("Invalid", path, number, "should be greater than 0"))
    return errors


def _min_parallelism(job: Document) -> Errors:
    text = _annotation(job, MIN_PARALLELISM)
    if text is None:
        return []
    path = f"metadata.annotations[{MIN_PARALLELISM}]"
    number = _integer(text)
    if number is None:
        return [FieldError("Invalid", path, text, "must be a whole number of pods")]
    count = _pods(job["spec"])
    if number <= 0 or number >= count:
        return [FieldError("Invalid", path, number, f"should be between 0 and {count - 1}")]
    return []


def _completions_follow(job: Document) -> Errors:
    text = _annotation(job, COMPLETIONS_FOLLOW)
    if text is None:
        return []
    path = f"metadata.annotations[{COMPLETIONS_FOLLOW}]"
    if text not in ("true", "false"):
        return [FieldError("Invalid", path, text, 'must be "true" or "false"')]
    if text == "false":
        return []
    spec = job["spec"]
    errors: Errors = []
    if spec.get("completionMode", "NonIndexed") == "NonIndexed":
        detail = "should not be enabled for NonIndexed jobs"
        errors.append(FieldError("Invalid", path, text, detail))
    if spec.get("parallelism", 1) != spec.get("completions", 1):
        detail = f"should be equal to parallelism when {COMPLETIONS_FOLLOW} annotation is true"
        errors.append(FieldError("Invalid", "spec.completions", spec.get("completions"), detail))
    return errors


def _job_update(new: Document, old: Document, default_queue: bool) -> Errors:
    errors: Errors = []
    suspended = _suspended(new)
    path = _label_path(QUEUE_NAME)
    if not suspended and queue_name(new) != queue_name(old):
        errors.append(FieldError("Invalid", path, queue_name(new), IMMUTABLE))
    if not queue_name(new) and queue_name(old) and default_queue:
        detail = "queue-name must not be empty in namespace with default queue"
        errors.append(FieldError("Invalid", path, "", detail))
    limits = _label(new, MAX_EXECUTION), _label(old, MAX_EXECUTION)
    if not (suspended and _suspended(old)) and limits[0] != limits[1]:
        path = _label_path(MAX_EXECUTION)
        errors.append(FieldError("Invalid", path, limits[0] or "", IMMUTABLE))
    errors += _priority_class_update(new, old, suspended)
    partial = _annotation(old, MIN_PARALLELISM) is not None
    sizes = [document["spec"].get("parallelism", 1) for document in (new, old)]
    if partial and (old["spec"].get("suspend") is not True) and sizes[0] != sizes[1]:
        detail = "cannot change when partial admission is enabled and the job is not suspended"
        errors.append(FieldError("Forbidden", "spec.parallelism", None, detail))
    return errors


def _priority_class_update(new: Document, old: Document, suspended: bool) -> Errors:
    before, after = _label(old, PRIORITY_CLASS) or "", _label(new, PRIORITY_CLASS) or ""
    path = _label_path(PRIORITY_CLASS)
    if not suspended and after and not before:
        detail = "WorkloadPriorityClass cannot be added to a non-suspended workload"
        return [FieldError("Invalid", path, after, detail)]
    if before and not after:
        detail = "WorkloadPriorityClass cannot be removed from a workload"
        return [FieldError("Invalid", path, after, detail)]
    return []


def _suspended(job: Document) -> bool:
    stopping = _annotation(job, PREFIX + "stopping") == "true"
    return (job.get("spec") or {}).get("suspend") is True and not stopping


def _pods(spec: Mapping[str, Any]) -> int:
    parallelism = int(spec.get("parallelism", 1))
    completions = spec.get("completions")
    return parallelism if completions is None else min(parallelism, int(completions))


def _label(document: Document, name: str) -> str | None:
    return (document["metadata"].get("labels") or {}).get(name)


def _annotation(document: Document, name: str) -> str | None:
    return (document["metadata"].get("annotations") or {}).get(name)


def _label_path(name: str) -> str:
    return f"metadata.labels[{name}]"


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


# quotas


def _cluster_queue(new: Document, old: Document | None) -> Errors:
    spec = new.get("spec") or {}
    groups = spec.get("resourceGroups") or ()
    errors = _resource_groups(groups, "spec.resourceGroups", spec.get("cohortName"), "cohort")
    try:
        label_selector(spec.get("namespaceSelector"))
    except ApiError as error:
        value = spec.get("namespaceSelector")
        errors.append(FieldError("Invalid", "spec.namespaceSelector", value, error.message))
    preemption = spec.get("preemption") or {}
    borrow = (preemption.get("borrowWithinCohort") or {}).get("policy", "Never")
    if preemption.get("reclaimWithinCohort", "Never") == "Never" and borrow != "Never":
        detail = "reclaimWithinCohort=Never and borrowWithinCohort.Policy!=Never"
        errors.append(FieldError("Invalid", "spec.preemption", preemption, detail))
    errors += _fungibility(spec.get("flavorFungibility") or {})
    errors += _fair_sharing(spec.get("fairSharing") or {})
    errors += _sizes(groups)
    errors += _checks_on_flavors(spec)
    policy = "concurrentAdmissionPolicy"
    if old is not None and (old.get("spec") or {}).get(policy) != spec.get(policy):
        errors.append(FieldError("Invalid", f"spec.{policy}", spec.get(policy), IMMUTABLE))
    return errors


def _cohort(new: Document, _old: Document | None) -> Errors:
    spec = new.get("spec") or {}
    groups = spec.get("resourceGroups") or ()
    return _fair_sharing(spec.get("fairSharing") or {}) + _resource_groups(
        groups, "spec.resourceGroups", spec.get("parentName"), "parent"
    )


def _resource_groups(
    groups: Iterable[Document], path: str, parent: str | None, parent_word: str
) -> Errors:
    """``parent_word`` is how messages call what a limit needs: cohort or parent."""
    errors: Errors = []
    resources: set[str] = set()
    flavors: set[str] = set()
    for index, group in enumerate(groups):
        covered = group.get("coveredResources") or []
        for number, name in enumerate(covered):
            where = f"{path}[{index}].coveredResources[{number}]"
            errors.extend(
                FieldError("Invalid", where, name, text) for text in formats.qualified_name(name)
            )
            if name in resources:
                errors.append(FieldError("Duplicate", where, name))
            resources.add(name)
        for number, flavor in enumerate(group.get("flavors") or ()):
            where = f"{path}[{index}].flavors[{number}]"
            errors += _flavor_quotas(flavor, covered, where, parent, parent_word)
            if flavor["name"] in flavors:
                errors.append(FieldError("Duplicate", f"{where}.name", flavor["name"]))
            flavors.add(flavor["name"])
    return errors


def _flavor_quotas(
    flavor: Document, covered: list[str], path: str, parent: str | None, parent_word: str
) -> Errors:
    errors: Errors = []
    for number, (quota, name) in enumerate(
        zip(flavor.get("resources") or (), covered, strict=False)
    ):
        where = f"{path}.resources[{number}]"
        if quota["name"] != name:
            detail = "must match the name in coveredResources"
            errors.append(FieldError("Invalid", f"{where}.name", quota["name"], detail))
        errors += _not_negative(quota.get("nominalQuota", 0), f"{where}.nominalQuota")
        for limit in ("borrowingLimit", "lendingLimit"):
            if quota.get(limit) is not None:
                errors += _limit(quota, limit, where, parent, parent_word)
    return errors


def _limit(quota: Document, limit: str, path: str, parent: str | None, parent_word: str) -> Errors:
    value, where = quota[limit], f"{path}.{limit}"
    errors = _not_negative(value, where)
    if not parent:
        detail = f"must be nil when {parent_word} is empty"
        errors.append(FieldError("Invalid", where, str(value), detail))
    bounded = limit == "lendingLimit" and parent_word == "cohort" and not errors
    if bounded and parse_quantity(value) > parse_quantity(quota.get("nominalQuota", 0)):
        detail = "must be less than or equal to the nominalQuota"
        errors.append(FieldError("Invalid", where, str(value), detail))
    return errors


def _not_negative(value: Any, path: str) -> Errors:
    try:
        negative = parse_quantity(value) < 0
    except QuantityError as error:
        return [FieldError("Invalid", path, value, str(error))]
    return [FieldError("Invalid", path, str(value), NEGATIVE)] if negative else []


def _fungibility(fungibility: Document) -> Errors:
    preference = fungibility.get("preference")
    both = ("whenCanBorrow", "whenCanPreempt")
    if preference is None or all(fungibility.get(name) == "TryNextFlavor" for name in both):
        return []
    detail = (
        f'preference "{preference}" requires both whenCanBorrow and whenCanPreempt to be '
        "TryNextFlavor"
    )
    return [FieldError("Invalid", "spec.flavorFungibility.preference", preference, detail)]


def _fair_sharing(fair_sharing: Document) -> Errors:
    weight = fair_sharing.get("weight")
    if weight is None:
        return []
    errors = _not_negative(weight, "spec.fairSharing")
    if not errors and 0 < parse_quantity(weight) <= parse_quantity("1n"):
        detail = "When not 0, weight must be > 10e-9"
        errors.append(FieldError("Invalid", "spec.fairSharing", str(weight), detail))
    return errors


def _sizes(groups: Iterable[Document]) -> Errors:
    groups = list(groups)
    path = "spec.resourceGroups"
    errors: Errors = []
    for what, field, limit in (
        ("flavors", "flavors", MAX_FLAVORS),
        ("covered resources", "coveredResources", MAX_RESOURCES),
    ):
        total = sum(len(group.get(field) or ()) for group in groups)
        if total > limit:
            detail = (
                f"total number of {what} across all resourceGroups must be ≤ {limit}, got {total}"
            )
            errors.append(FieldError("Invalid", path, total, detail))
    for index, group in enumerate(groups):
        total = sum(len(flavor.get("resources") or ()) for flavor in group.get("flavors") or ())
        if total > MAX_COMBINATIONS:
            detail = (
                "number of flavor-resource combinations in a resourceGroup must be ≤ "
                f"{MAX_COMBINATIONS}, got {total}"
            )
            errors.append(FieldError("Invalid", f"{path}[{index}]", total, detail))
    return errors


def _checks_on_flavors(spec: Document) -> Errors:
    groups = spec.get("resourceGroups") or ()
    known = sorted({f["name"] for group in groups for f in group.get("flavors") or ()})
    checks = (spec.get("admissionChecksStrategy") or {}).get("admissionChecks") or ()
    shown = ", ".join(f'"{name}"' for name in known)
    return [
        FieldError(
            "NotSupported",
            f"spec.admissionChecksStrategy.admissionChecks[{index}].onFlavors[{number}]",
            flavor,
            f"supported values: {shown}",
        )
        for index, check in enumerate(checks)
        for number, flavor in enumerate(check.get("onFlavors") or ())
        if flavor not in known
    ]


# flavors


def _resource_flavor(new: Document, _old: Document | None) -> Errors:
    spec = new.get("spec") or {}
    errors = _labels(spec.get("nodeLabels") or {}, "spec.nodeLabels")
    seen: set[tuple[str, str]] = set()
    for index, taint in enumerate(spec.get("nodeTaints") or ()):
        path = f"spec.nodeTaints[{index}]"
        key, value = taint.get("key", ""), taint.get("value", "")
        errors += _all("Invalid", f"{path}.key", key, formats.qualified_name(key))
        errors += _all("Invalid", f"{path}.value", value, formats.label_value(value))
        pair = (key, taint.get("effect", ""))
        if pair in seen:
            detail = "taints must be unique by key and effect pair"
            errors.append(FieldError("Duplicate", path, taint, detail))
        seen.add(pair)
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        key = toleration.get("key") or ""
        if key:
            path = f"spec.tolerations[{index}].key"
            errors += _all("Invalid", path, key, formats.qualified_name(key))
    return errors


def _labels(labels: Mapping[str, str], path: str) -> Errors:
    errors: Errors = []
    for key, value in sorted(labels.items()):
        errors += _all("Invalid", path, key, formats.qualified_name(key))
        errors += _all("Invalid", path, value, formats.label_value(value))
    return errors


def _all(kind: str, path: str, value: Any, complaints: Iterable[str]) -> Errors:
    return [FieldError(kind, path, value, text) for text in complaints]


# workloads


def _workload(new: Document, old: Document | None) -> Errors:
    spec, status = new.get("spec") or {}, new.get("status") or {}
    pod_sets = spec.get("podSets") or ()
    errors: Errors = []
    for index, pod_set in enumerate(pod_sets):
        errors += _pod_set(pod_set, f"spec.podSets[{index}]")
    shrinking = sum(pod_set.get("minCount") is not None for pod_set in pod_sets)
    if shrinking > 1:
        detail = "at most one podSet can use minCount"
        errors.append(FieldError("Invalid", "spec.podSets", shrinking, detail))
    names = [pod_set.get("name") or "main" for pod_set in pod_sets]
    if _reserves(new):
        errors += _admission(status.get("admission"), names)
    errors += _reclaimable(new)
    if old is not None and _reserves(old):
        errors += _reserved_update(new, old)
    return errors


def _pod_set(pod_set: Document, path: str) -> Errors:
    spec = (pod_set.get("template") or {}).get("spec") or {}
    path = f"{path}.template.spec"
    holders = [
        (f"{path}.{kind}[{number}]", container)
        for kind in ("initContainers", "containers")
        for number, container in enumerate(spec.get(kind) or ())
    ]
    errors: Errors = []
    for where, holder in [*holders, (path, spec)]:
        for kind in ("requests", "limits"):
            amounts = (holder.get("resources") or {}).get(kind) or {}
            for name, quantity in amounts.items():
                at = f"{where}.resources.{kind}[{name}]"
                if name == "pods":
                    detail = "the key is reserved for internal kueue use"
                    errors.append(FieldError("Invalid", at, "pods", detail))
                errors += _not_negative(quantity, at)
    return errors


def _admission(admission: Document | None, names: list[str]) -> Errors:
    path = "status.admission"
    if admission is None:
        detail = "must be set while the QuotaReserved condition is true"
        return [FieldError("Required", path, None, detail)]
    errors: Errors = []
    for index, assignment in enumerate(admission.get("podSetAssignments") or ()):
        where = f"{path}.podSetAssignments[{index}]"
        name = assignment.get("name") or "main"
        if name not in names:
            errors.append(FieldError("NotFound", f"{where}.name", name))
        count = assignment.get("count") or 0
        for resource, quantity in (assignment.get("resourceUsage") or {}).items():
            units = parse_quantity(quantity) * (1000 if resource == "cpu" else 1)
            if count and units % count:
                at = f"{where}.resourceUsage[{resource}]"
                errors.append(FieldError("Invalid", at, quantity, f"is not a multiple of {count}"))
    return errors


def _reclaimable(workload: Document) -> Errors:
    pod_sets = (workload.get("spec") or {}).get("podSets") or ()
    sizes = {ps.get("name") or "main": int(ps.get("count", 1)) for ps in pod_sets}
    errors: Errors = []
    for entry in (workload.get("status") or {}).get("reclaimablePods") or ():
        path = f"status.reclaimablePods[{entry['name']}]"
        if entry["name"] not in sizes:
            shown = ", ".join(f'"{name}"' for name in sorted(sizes))
            detail = f"supported values: {shown}"
            errors.append(FieldError("NotSupported", f"{path}.name", entry["name"], detail))
        elif int(entry["count"]) > sizes[entry["name"]]:
            detail = f"should be less or equal to {sizes[entry['name']]}"
            errors.append(FieldError("Invalid", f"{path}.count", entry["count"], detail))
    return errors


def _reserved_update(new: Document, old: Document) -> Errors:
    """What must not change while quota is reserved."""
    errors: Errors = []
    before, after = ((d.get("spec") or {}).get("podSets") or [] for d in (old, new))
    if len(before) != len(after):
        errors.append(FieldError("Invalid", "spec.podSets", after, IMMUTABLE))
    else:
        errors.extend(
            FieldError("Invalid", f"spec.podSets[{index}]", b, IMMUTABLE)
            for index, (a, b) in enumerate(zip(before, after, strict=True))
            if _without_smaller_count(b, a) != a
        )
    if _reserves(new):
        errors += _reclaimable_update(new, old)
    admissions = [(d.get("status") or {}).get("admission") for d in (new, old)]
    if all(admissions) and _fixed(admissions[0]) != _fixed(admissions[1]):
        errors.append(FieldError("Invalid", "status.admission", admissions[0], IMMUTABLE))
    return errors


def _without_smaller_count(new: Document, old: Document) -> Document:
    """Elastic jobs may shrink in place."""
    if int(new.get("count", 1)) < int(old.get("count", 1)):
        return {**new, "count": old.get("count", 1)}
    return new


def _reclaimable_update(new: Document, old: Document) -> Errors:
    after = {e["name"]: e for e in (new.get("status") or {}).get("reclaimablePods") or ()}
    errors: Errors = []
    for entry in (old.get("status") or {}).get("reclaimablePods") or ():
        path = f"status.reclaimablePods[{entry['name']}]"
        if entry["name"] not in after:
            errors.append(FieldError("Required", path, None, "cannot be removed"))
        elif after[entry["name"]]["count"] < entry["count"]:
            detail = f"cannot be less than {entry['count']}"
            count = after[entry["name"]]["count"]
            errors.append(FieldError("Invalid", f"{path}.count", count, detail))
    return errors


def _fixed(admission: Document | None) -> Document:
    """An admission without what the second scheduling pass may still fill in."""
    late = ("topologyAssignment", "delayedTopologyRequest")
    admission = admission or {}
    assignments = [
        {name: value for name, value in assignment.items() if name not in late}
        for assignment in admission.get("podSetAssignments") or ()
    ]
    return {**admission, "podSetAssignments": assignments}


def _reserves(workload: Document) -> bool:
    return any(
        condition.get("type") == "QuotaReserved" and condition.get("status") == "True"
        for condition in (workload.get("status") or {}).get("conditions") or ()
    )


_CHECKS: Mapping[str, Callable[[Document, Document | None], Errors]] = {
    "ClusterQueue": _cluster_queue,
    "Cohort": _cohort,
    "ResourceFlavor": _resource_flavor,
    "Workload": _workload,
}
