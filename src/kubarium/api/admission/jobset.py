"""Defaults and checks of a JobSet that its CRD's schema cannot express.

Source: jobset's ``pkg/webhooks/jobset_webhook.go``. Call :func:`default` before the schema's
validation and :func:`validate` after it, so that types can be relied on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from kubarium.api import formats
from kubarium.api.resource import Document
from kubarium.base.errors import FieldError

MAX_INT32 = 2**31 - 1
MAX_NAME = 63
MAX_RULE_NAME = 128
# generateName leaves five random characters open; names are checked as if they were these.
_ANY_SUFFIX = "abcde"
_RULE_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
_FAILURE_REASONS = (
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "FailedIndexes",
    "MaxFailedIndexesExceeded",
    "PodFailurePolicy",
)
_JOB_ACTIONS = ("RestartJob", "RestartJobAndIgnoreMaxRestarts")
# As many numbers as a replicated job's status may hold.
MAX_REPLICAS_OF_JOB_ACTIONS = 1024
_IN_PLACE = "InPlaceRestart"
_SIZES = ("parallelism", "completions")
_ENDINGS = ("Completed", "Failed")
# Paths of changed fields in one complaint.
_MOST_SHOWN = 3
# What Kueue may change in a pod template while the JobSet is suspended.
_MUTABLE_METADATA = ("labels", "annotations")
_MUTABLE_SPEC = ("nodeSelector", "tolerations", "schedulingGates")


def default(doc: Document) -> None:
    """Fill in what the webhook would, in place; ``doc`` must be the caller's own copy."""
    spec = doc.setdefault("spec", {})
    if not isinstance(spec, dict):
        return  # left to the schema to complain about
    if spec.get("successPolicy") is None:
        spec["successPolicy"] = {"operator": "All"}
    if spec.get("startupPolicy") is None:
        spec["startupPolicy"] = {"startupPolicyOrder": "AnyOrder"}
    network = {} if spec.get("network") is None else spec["network"]
    if isinstance(network, dict):
        names = {"enableDNSHostnames": True, "publishNotReadyAddresses": True}
        spec["network"] = names | network
    for entry in _maps(spec.get("replicatedJobs")):
        _default_replicated_job(entry)
    failure_policy = spec.get("failurePolicy")
    if isinstance(failure_policy, dict):
        for position, rule in enumerate(_maps(failure_policy.get("rules"))):
            if not rule.get("name"):
                rule["name"] = f"failurePolicyRule{position}"
    for policy in _maps(spec.get("volumeClaimPolicies")):
        if policy.get("retentionPolicy") is None:
            policy["retentionPolicy"] = {"whenDeleted": "Delete"}


def _default_replicated_job(entry: Document) -> None:
    template = entry.get("template")
    job = template.get("spec") if isinstance(template, dict) else None
    if not isinstance(job, dict):
        return
    if job.get("completionMode") is None:
        job["completionMode"] = "Indexed"
    pod = job.get("template")
    pod_spec = pod.get("spec") if isinstance(pod, dict) else None
    if isinstance(pod_spec, dict) and not pod_spec.get("restartPolicy"):
        pod_spec["restartPolicy"] = "OnFailure"


def _maps(value: Any) -> list[Document]:
    """The mappings in a list; anything else is left to the schema to complain about."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def validate(new: Document, old: Document | None) -> list[FieldError]:
    """All complaints about a new JobSet, or about the change from ``old`` to ``new``."""
    if old is not None:
        return _validate_change(new, old)
    spec = new.get("spec") or {}
    entries = spec.get("replicatedJobs") or []
    names = [entry.get("name", "") for entry in entries]
    return [
        *_check_in_place(spec, entries),
        *_check_network(spec.get("network") or {}),
        *_check_managed_by(spec),
        *_check_replicated_jobs(_name_of(new), entries),
        *_check_targets(
            spec.get("successPolicy") or {}, names, "spec.successPolicy.targetReplicatedJobs"
        ),
        *_check_failure_policy(spec.get("failurePolicy") or {}, names),
        *_check_job_actions(spec.get("failurePolicy") or {}, entries),
        *_check_coordinator(new, entries),
        *_check_claims(new, entries),
    ]


def _name_of(doc: Document) -> str:
    metadata = doc.get("metadata") or {}
    return metadata.get("name") or f"{metadata.get('generateName', '')}{_ANY_SUFFIX}"


def _check_in_place(spec: Document, entries: list[Document]) -> list[FieldError]:
    """Restarts in place: all pods run at once, and no failure may end or double one of them."""
    if (spec.get("failurePolicy") or {}).get("restartStrategy") != _IN_PLACE:
        return []
    errors: list[FieldError] = []
    for position, entry in enumerate(entries):
        path = f"spec.replicatedJobs[{position}].template.spec"
        job = (entry.get("template") or {}).get("spec") or {}
        for field, wanted in (("backoffLimit", MAX_INT32), ("podReplacementPolicy", "Failed")):
            if job.get(field) != wanted:
                errors.append(_needed_in_place(f"{path}.{field}", job.get(field), f"be {wanted}"))
        size = job.get("completions")
        if size is None or size != job.get("parallelism"):
            detail = f"be set and equal to parallelism, which is {_shown(job.get('parallelism'))},"
            errors.append(_needed_in_place(f"{path}.completions", size, detail))
    return errors


def _needed_in_place(path: str, value: Any, what: str) -> FieldError:
    return _invalid(path, value, f"must {what} with restartStrategy {_IN_PLACE}")


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value)


def _check_network(network: Document) -> list[FieldError]:
    subdomain = network.get("subdomain")
    if not subdomain:
        return []
    complaints = [*formats.dns_subdomain(subdomain), *formats.dns1035_label(subdomain)]
    return [_invalid("spec.network.subdomain", subdomain, text) for text in complaints]


def _check_managed_by(spec: Document) -> list[FieldError]:
    manager = spec.get("managedBy")
    if manager is None:
        return []
    path = "spec.managedBy"
    errors = [_invalid(path, manager, text) for text in formats.domain_prefixed(manager)]
    if len(manager) > MAX_NAME:
        errors.append(
            FieldError("TooLong", path, manager, f"may not be more than {MAX_NAME} bytes")
        )
    return errors


def _check_replicated_jobs(jobset: str, entries: list[Document]) -> list[FieldError]:
    errors: list[FieldError] = []
    earlier: list[str] = []
    for position, entry in enumerate(entries):
        path = f"spec.replicatedJobs[{position}]"
        errors += _check_names(jobset, entry, path)
        errors += _check_depends_on(entry, earlier, path)
        job = (entry.get("template") or {}).get("spec") or {}
        pods = int(job.get("parallelism", 1)) * int(entry.get("replicas", 1))
        if pods > MAX_INT32:
            detail = f"replicas times parallelism must not exceed {MAX_INT32}"
            errors.append(_invalid(f"{path}.replicas", entry.get("replicas"), detail))
        earlier.append(entry.get("name", ""))
    return errors


def _check_names(jobset: str, entry: Document, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    if group := entry.get("groupName"):
        errors += _name_errors(f"{path}.groupName", group, "the group name is too long")
    job = f"{jobset}-{entry.get('name', '')}-{max(int(entry.get('replicas', 1)) - 1, 0)}"
    errors += _name_errors(f"{path}.name", job, _too_long("job"))
    spec = (entry.get("template") or {}).get("spec") or {}
    completions = spec.get("completions")
    if not errors and spec.get("completionMode") == "Indexed" and completions is not None:
        pod = f"{job}-{max(int(completions) - 1, 0)}-{_ANY_SUFFIX}"
        errors += _name_errors(f"{path}.name", pod, _too_long("pod"))
    return errors


def _too_long(what: str) -> str:
    return (
        f"JobSet name is too long, {what} names generated for this JobSet will exceed "
        f"{MAX_NAME} characters"
    )


def _name_errors(path: str, name: str, too_long: str) -> list[FieldError]:
    """RFC 1035 complaints; the length is said in the JobSet's own words."""
    if len(name) > MAX_NAME:
        return [_invalid(path, name, too_long)]
    return [_invalid(path, name, text) for text in formats.dns1035_label(name)]


def _check_depends_on(entry: Document, earlier: list[str], path: str) -> list[FieldError]:
    dependencies = entry.get("dependsOn") or []
    if dependencies and not earlier:
        return [
            FieldError(
                "Forbidden", f"{path}.dependsOn", None, "can't be set for the first ReplicatedJob"
            )
        ]
    return [
        _invalid(
            f"{path}.dependsOn[{position}].name",
            dependency.get("name"),
            f"replicatedJob {entry.get('name')} can only depend on one listed before it: "
            f"{', '.join(earlier)}",
        )
        for position, dependency in enumerate(dependencies)
        if dependency.get("name") not in earlier
    ]


def _check_targets(policy: Document, names: list[str], path: str) -> list[FieldError]:
    return [
        _invalid(
            f"{path}[{position}]",
            name,
            f"does not appear in spec.replicatedJobs: {', '.join(names)}",
        )
        for position, name in enumerate(policy.get("targetReplicatedJobs") or ())
        if name not in names
    ]


def _check_failure_policy(policy: Document, names: list[str]) -> list[FieldError]:
    errors: list[FieldError] = []
    first_of: dict[str, int] = {}
    for position, rule in enumerate(policy.get("rules") or ()):
        path = f"spec.failurePolicy.rules[{position}]"
        name = rule.get("name", "")
        errors += _check_rule_name(name, f"{path}.name")
        if name in first_of:
            errors.append(FieldError("Duplicate", f"{path}.name", name))
        first_of.setdefault(name, position)
        errors += _check_targets(rule, names, f"{path}.targetReplicatedJobs")
        errors += _each(rule, "onJobFailureReasons", path, _reason_complaint)
        errors += _each(rule, "onJobFailureMessagePatterns", path, _pattern_complaint)
    return errors


def _check_job_actions(policy: Document, entries: list[Document]) -> list[FieldError]:
    """Restarts of single Jobs are counted one by one, which bounds how many there may be."""
    actions = [rule.get("action") for rule in policy.get("rules") or ()]
    if not any(action in _JOB_ACTIONS for action in actions):
        return []
    detail = (
        f"must be at most {MAX_REPLICAS_OF_JOB_ACTIONS} where a rule of the failure policy has "
        f"action {' or '.join(_JOB_ACTIONS)}; split it into several replicatedJobs"
    )
    return [
        _invalid(f"spec.replicatedJobs[{position}].replicas", entry["replicas"], detail)
        for position, entry in enumerate(entries)
        if int(entry.get("replicas", 1)) > MAX_REPLICAS_OF_JOB_ACTIONS
    ]


def _check_rule_name(name: str, path: str) -> list[FieldError]:
    if not 1 <= len(name) <= MAX_RULE_NAME:
        return [_invalid(path, name, f"must be 1 to {MAX_RULE_NAME} characters long")]
    if _RULE_NAME.fullmatch(name) is None:
        detail = (
            "must start with a letter, continue with letters, digits or '_,:', and end with a "
            "letter, a digit or '_'"
        )
        return [_invalid(path, name, detail)]
    return []


def _each(
    rule: Document, field: str, path: str, complain: Callable[[str], str]
) -> Iterable[FieldError]:
    for position, value in enumerate(rule.get(field) or ()):
        if text := complain(value):
            yield _invalid(f"{path}.{field}[{position}]", value, text)


def _reason_complaint(reason: str) -> str:
    if reason in _FAILURE_REASONS:
        return ""
    return f"is not a recognized job failure reason; these are {', '.join(_FAILURE_REASONS)}"


def _pattern_complaint(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return f"is not a regular expression: {error}"
    return ""


def _check_coordinator(doc: Document, entries: list[Document]) -> list[FieldError]:
    chosen = (doc.get("spec") or {}).get("coordinator")
    if not chosen:
        return []
    path = "spec.coordinator"
    name = chosen.get("replicatedJob", "")
    entry = next((item for item in entries if item.get("name") == name), None)
    if entry is None:
        return [_invalid(f"{path}.replicatedJob", name, "does not appear in spec.replicatedJobs")]
    job = (entry.get("template") or {}).get("spec") or {}
    if job.get("completionMode") != "Indexed" or job.get("completions") is None:
        detail = "its Job must be Indexed and say how many completions it has"
        return [_invalid(f"{path}.replicatedJob", name, detail)]
    errors: list[FieldError] = []
    for field, size in (
        ("jobIndex", int(entry.get("replicas", 1))),
        ("podIndex", int(job["completions"])),
    ):
        index = int(chosen.get(field, 0))
        if not 0 <= index < size:
            errors.append(
                _invalid(f"{path}.{field}", index, f"must be at least 0 and below {size}")
            )
    return errors or _check_coordinator_label(doc, chosen)


def _check_coordinator_label(doc: Document, chosen: Document) -> list[FieldError]:
    jobset = _name_of(doc)
    subdomain = ((doc["spec"].get("network") or {}).get("subdomain")) or jobset
    endpoint = (
        f"{jobset}-{chosen['replicatedJob']}-{chosen.get('jobIndex', 0)}"
        f"-{chosen.get('podIndex', 0)}.{subdomain}"
    )
    why = "long JobSet, ReplicatedJob or subdomain name? It becomes a label value, which"
    return [
        _invalid("spec.coordinator", endpoint, f"{why} {text}")
        for text in formats.label_value(endpoint)
    ]


def check_existing_claim(
    policy_at: int, at: int, policy: Document, template: Document, existing: Document
) -> list[FieldError]:
    """A claim that is there already is taken over: it must be the same, and be kept."""
    path = f"spec.volumeClaimPolicies[{policy_at}]"
    name = existing["metadata"]["name"]
    errors: list[FieldError] = []
    asked, held = template.get("spec") or {}, existing.get("spec") or {}
    if any(held.get(field) != value for field, value in asked.items()):
        where = f"{path}.templates[{at}].spec"
        detail = (
            f"does not match the existing PersistentVolumeClaim {name}; delete that, or give "
            "this template another name"
        )
        errors.append(_invalid(where, asked, detail))
    retention = (policy.get("retentionPolicy") or {}).get("whenDeleted", "Delete")
    if retention != "Retain":
        where = f"{path}.retentionPolicy.whenDeleted"
        detail = f"must be Retain, since the PersistentVolumeClaim {name} exists already"
        errors.append(_invalid(where, retention, detail))
    return errors


def claim_names(doc: Document) -> list[tuple[int, int, Document, Document, str]]:
    """(index of policy, index of template, policy, template, name of the claim)."""
    return [
        (policy_at, at, policy, template, f"{template['metadata']['name']}-{_name_of(doc)}")
        for policy_at, policy in enumerate((doc.get("spec") or {}).get("volumeClaimPolicies") or ())
        for at, template in enumerate(policy.get("templates") or ())
        if (template.get("metadata") or {}).get("name")
    ]


def _check_claims(doc: Document, entries: list[Document]) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: set[str] = set()
    for policy_at, policy in enumerate((doc.get("spec") or {}).get("volumeClaimPolicies") or ()):
        for at, template in enumerate(policy.get("templates") or ()):
            name = (template.get("metadata") or {}).get("name", "")
            path = f"spec.volumeClaimPolicies[{policy_at}].templates[{at}].metadata.name"
            if name in seen:
                errors.append(FieldError("Duplicate", path, name))
            seen.add(name)
            errors += [_invalid(path, name, text) for text in formats.dns_subdomain(name)]
            if len(f"{name}-{_name_of(doc)}") > formats.SUBDOMAIN_MAX:
                errors.append(_invalid(path, name, "the claim's name would be too long"))
            errors += _check_mounts(entries, name, path)
    return errors


def _check_mounts(entries: list[Document], claim: str, path: str) -> list[FieldError]:
    errors: list[FieldError] = []
    mounted = False
    for position, entry in enumerate(entries):
        job = (entry.get("template") or {}).get("spec") or {}
        pod = (job.get("template") or {}).get("spec") or {}
        for at, volume in enumerate(pod.get("volumes") or ()):
            if volume.get("name") == claim:
                pod_path = f"spec.replicatedJobs[{position}].template.spec.template.spec"
                where = f"{pod_path}.volumes[{at}].name"
                errors.append(_invalid(where, claim, "conflicts with a claim of that name"))
        mounted = mounted or any(
            mount.get("name") == claim
            for field in ("initContainers", "containers")
            for container in pod.get(field) or ()
            for mount in container.get("volumeMounts") or ()
        )
    if not mounted:
        errors.append(_invalid(path, claim, "no container has a volumeMount of that name"))
    return errors


def _validate_change(new: Document, old: Document) -> list[FieldError]:
    new_spec, old_spec = new.get("spec") or {}, old.get("spec") or {}
    wanted = new_spec.get("replicatedJobs") or []
    held = old_spec.get("replicatedJobs") or []
    held_by_name = {entry.get("name"): entry for entry in held}
    errors = _check_sizes(wanted, held_by_name, _ending(old))
    wanted = [_sized_as(entry, held_by_name.get(entry.get("name"))) for entry in wanted]
    if new_spec.get("suspend") or old_spec.get("suspend"):
        wanted = [_masked(entry, held_by_name.get(entry.get("name"))) for entry in wanted]
    if wanted != held:
        value = new_spec.get("replicatedJobs")
        detail = f"field is immutable: {_difference(wanted, held_by_name)}"
        errors.append(_invalid("spec.replicatedJobs", value, detail))
    if new_spec.get("managedBy") != old_spec.get("managedBy"):
        errors.append(_invalid("spec.managedBy", new_spec.get("managedBy"), "field is immutable"))
    return errors


def _ending(doc: Document) -> str:
    """Completed or Failed once the JobSet is, else ""."""
    for condition in (doc.get("status") or {}).get("conditions") or ():
        if condition.get("type") in _ENDINGS and condition.get("status") == "True":
            return str(condition["type"])
    return ""


def _check_sizes(
    entries: list[Document], held_by_name: dict[Any, Document], ending: str
) -> list[FieldError]:
    """Indexed Jobs may grow and shrink: parallelism and completions together (KEP-463)."""
    errors: list[FieldError] = []
    for position, entry in enumerate(entries):
        held = held_by_name.get(entry.get("name"))
        job = (entry.get("template") or {}).get("spec") or {}
        if held is None or not _is_indexed(job):
            continue
        held_job = held["template"]["spec"]
        changed = [field for field in _SIZES if job.get(field) != held_job.get(field)]
        path = f"spec.replicatedJobs[{position}].template.spec"
        if changed and ending:
            detail = (
                f"{' and '.join(changed)} of a JobSet that is {ending} can't be changed; "
                "create a new one"
            )
            errors.append(FieldError("Forbidden", path, None, detail))
        elif changed:
            errors += _size_complaints(job, changed, path)
    return errors


def _size_complaints(job: Document, changed: list[str], path: str) -> list[FieldError]:
    errors = [
        _invalid(f"{path}.{field}", job[field], "must be at least 1; suspend the JobSet instead")
        for field in changed
        if job.get(field) is not None and int(job[field]) < 1
    ]
    if job.get("parallelism") != job.get("completions"):
        detail = (
            f"must equal parallelism, which is {_shown(job.get('parallelism'))}: "
            "both change together"
        )
        errors.append(_invalid(f"{path}.completions", job.get("completions"), detail))
    return errors


def _is_indexed(job: Document) -> bool:
    return job.get("completionMode") == "Indexed"


def _sized_as(entry: Document, held: Document | None) -> Document:
    """``entry`` with the size that it had, if that may change."""
    job = (entry.get("template") or {}).get("spec") or {}
    if held is None or not _is_indexed(job):
        return entry
    same = {name: value for name, value in job.items() if name not in _SIZES}
    held_job = held["template"]["spec"]
    same |= {field: held_job[field] for field in _SIZES if field in held_job}
    return {**entry, "template": {**entry["template"], "spec": same}}


def _difference(wanted: list[Document], held_by_name: dict[Any, Document]) -> str:
    """What was changed, in words, and what could be done instead."""
    names = [entry.get("name") for entry in wanted]
    if names != list(held_by_name):
        return "entries can't be added, removed or reordered; create a new JobSet"
    found = [path for entry in wanted for path in _changed(entry, held_by_name[entry["name"]], "")]
    shown = ", ".join(found[:_MOST_SHOWN]) + (", ..." if len(found) > _MOST_SHOWN else "")
    return (
        f"{shown} was changed; while the JobSet is suspended the pod template's "
        f"{', '.join((*_MUTABLE_METADATA, *_MUTABLE_SPEC))} may be"
    )


def _changed(new: Any, old: Any, path: str) -> list[str]:
    """Paths below an entry at which two documents differ."""
    if isinstance(new, dict) and isinstance(old, dict):
        return [
            found
            for name in dict.fromkeys((*new, *old))
            for found in _changed(new.get(name), old.get(name), f"{path}.{name}".lstrip("."))
        ]
    return [] if new == old else [path]


def _masked(entry: Document, held: Document | None) -> Document:
    """``entry`` with the fields that may change set to what they were."""
    if held is None:
        return entry
    job, held_job = entry["template"]["spec"], held["template"]["spec"]
    pod, held_pod = job["template"], held_job["template"]
    masked = {
        **pod,
        "metadata": _restore(pod.get("metadata"), held_pod.get("metadata"), _MUTABLE_METADATA),
        "spec": _restore(pod.get("spec"), held_pod.get("spec"), _MUTABLE_SPEC),
    }
    if not masked["metadata"] and "metadata" not in held_pod:
        del masked["metadata"]
    return {**entry, "template": {**entry["template"], "spec": {**job, "template": masked}}}


def _restore(new: Document | None, old: Document | None, fields: tuple[str, ...]) -> Document:
    result = {name: value for name, value in (new or {}).items() if name not in fields}
    result.update({name: value for name, value in (old or {}).items() if name in fields})
    return result


def _invalid(path: str, value: Any, detail: str) -> FieldError:
    return FieldError("Invalid", path, value, detail)
