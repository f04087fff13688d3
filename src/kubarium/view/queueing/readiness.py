"""Whether a queue can admit, and whether a workload may be considered; with Kueue's messages.

Source: Kueue ``cache/scheduler/clusterqueue.go`` inactiveReason, ``core/workload_controller.go``
getQueueBlocker, ``workload/resources.go`` ValidateAdmissibility.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kubarium.api.resource import Document
from kubarium.api.selectors import label_selector
from kubarium.base.errors import ApiError, FieldError
from kubarium.base.quantity import QuantityError
from kubarium.engine.queueing.plan import (
    ADMISSION_GATED,
    DEACTIVATED,
    MISCONFIGURED,
    ON_HOLD,
    SUSPENDED,
)
from kubarium.engine.queueing.workload import Blocked
from kubarium.view.queueing.documents import (
    ADMISSION_GATED_BY_ANNOTATION,
    QUOTA_RESERVED,
    condition,
    is_true,
)
from kubarium.view.queueing.requests import pod_requests, requests_over_limits

NAMESPACE_MISMATCH = "workload namespace doesn't match ClusterQueue selector"


@dataclass(frozen=True, slots=True)
class Readiness:
    """A queue's Active condition."""

    active: bool
    reason: str
    message: str


READY = Readiness(True, "Ready", "Can admit new workloads")


def is_terminating(document: Document) -> bool:
    return bool(document["metadata"].get("deletionTimestamp"))


def stop_policy(document: Document) -> str:
    """None, Hold or HoldAndDrain."""
    return str((document.get("spec") or {}).get("stopPolicy") or "None")


def admission_check_names(cluster_queue: Document) -> list[str]:
    """The checks that a ClusterQueue asks for on some flavor or on all."""
    strategy = (cluster_queue.get("spec") or {}).get("admissionChecksStrategy") or {}
    return sorted({check["name"] for check in strategy.get("admissionChecks") or ()})


def flavor_names(cluster_queue: Document) -> list[str]:
    groups = (cluster_queue.get("spec") or {}).get("resourceGroups") or ()
    names = (flavor["name"] for group in groups for flavor in group.get("flavors") or ())
    return list(dict.fromkeys(names))


def cluster_queue_readiness(
    document: Document,
    flavors: Container[str],
    checks: Mapping[str, Document],
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> Readiness:
    """``checks`` are the AdmissionChecks by name; ``flavors`` holds the names that exist.

    ``left_out`` says of Cohorts that are not in the tree what is wrong with their chains.
    """
    if is_terminating(document):
        return Readiness(
            False, "Terminating", "Can't admit new workloads; clusterQueue is terminating"
        )
    problems: list[tuple[str, str]] = []
    if stop_policy(document) != "None":
        problems.append(("Stopped", "is stopped"))
    missing = [name for name in flavor_names(document) if name not in flavors]
    if missing:
        problems.append(
            ("FlavorNotFound", f"references missing ResourceFlavor(s): {','.join(missing)}")
        )
    names = admission_check_names(document)
    unknown = [name for name in names if name not in checks]
    if unknown:
        text = f"references missing AdmissionCheck(s): {','.join(unknown)}"
        problems.append(("AdmissionCheckNotFound", text))
    idle = [name for name in names if name in checks and not is_true(checks[name], "Active")]
    if idle:
        text = f"references inactive AdmissionCheck(s): {','.join(idle)}"
        problems.append(("AdmissionCheckInactive", text))
    cohort = (document.get("spec") or {}).get("cohortName") or ""
    if cohort in left_out:
        text = f"belongs to Cohort {cohort}, whose chain of parents {left_out[cohort]}"
        problems.append(("Unknown", text))
    if not problems:
        return READY
    texts = ", ".join(text for _, text in problems)
    return Readiness(False, problems[0][0], f"Can't admit new workloads: {texts}.")


def queue_blocker(
    workload: Document,
    local_queue: Document | None,
    cluster_queue: Document | None,
    readiness: Readiness | None,
) -> tuple[str, str] | None:
    """(reason, message) that keeps a workload out of every queue; None when it may wait in one."""
    spec = workload.get("spec") or {}
    if spec.get("active") is False:
        return DEACTIVATED, "The workload is deactivated"
    reserved = condition(workload, QUOTA_RESERVED)
    if reserved is not None and reserved.get("reason") == ON_HOLD:
        return ON_HOLD, str(reserved.get("message", ""))
    name = spec.get("queueName") or ""
    if local_queue is None or is_terminating(local_queue):
        return MISCONFIGURED, f"LocalQueue {name} doesn't exist"
    if stop_policy(local_queue) != "None":
        return SUSPENDED, f"LocalQueue {name} is inactive"
    target = (local_queue.get("spec") or {}).get("clusterQueue") or ""
    if cluster_queue is None or readiness is None:
        return MISCONFIGURED, f"ClusterQueue {target} doesn't exist"
    if not readiness.active:
        return SUSPENDED, f"ClusterQueue {target} is inactive"
    gate = (workload["metadata"].get("annotations") or {}).get(ADMISSION_GATED_BY_ANNOTATION)
    if gate:
        return ADMISSION_GATED, f"Admission is gated by: {gate}"
    return None


def admissibility(
    workload: Document, namespace: Document | None, cluster_queue: Document
) -> Blocked | None:
    """Why the queue must turn the workload away whatever its quota."""
    name = workload["metadata"].get("namespace", "")
    if namespace is None:
        return Blocked(MISCONFIGURED, f'workload namespace "{name}" does not exist')
    try:
        selector = label_selector((cluster_queue.get("spec") or {}).get("namespaceSelector"))
    except ApiError as error:
        return Blocked(MISCONFIGURED, f"invalid namespace selector: {error.message}")
    if not selector.matches(namespace["metadata"].get("labels")):
        return Blocked(MISCONFIGURED, NAMESPACE_MISMATCH, steps_aside=True)
    errors = _resource_errors(workload)
    if errors:
        texts = errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]"
        return Blocked(MISCONFIGURED, f"resources validation failed: {texts}")
    return None


def _resource_errors(workload: Document) -> list[str]:
    errors: list[str] = []
    for index, pod_set in enumerate((workload.get("spec") or {}).get("podSets") or ()):
        path = f"spec.podSets[{index}].template.spec"
        pod_spec = (pod_set.get("template") or {}).get("spec") or {}
        try:
            pod_requests(pod_spec)
        except QuantityError as error:
            errors.append(f"{path}: {error}")
            continue
        for kind in ("initContainers", "containers"):
            for number, container in enumerate(pod_spec.get(kind) or ()):
                over = requests_over_limits(container.get("resources"))
                errors.extend(_over_limit(f"{path}.{kind}[{number}]", over))
        errors.extend(
            _over_limit(f"{path}.resources", requests_over_limits(pod_spec.get("resources")))
        )
    return errors


def _over_limit(path: str, resources: list[str]) -> list[str]:
    if not resources:
        return []
    return [str(FieldError("Invalid", path, resources, "requests must not exceed its limits"))]
