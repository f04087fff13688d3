"""Pods: quality of service, first status, and the parts that resize and ephemeral containers own.

Source: upstream ``pkg/registry/core/pod/strategy.go`` and ``pkg/apis/core/helper/qos``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubarium.api.defaulting.pods import default_container
from kubarium.api.resource import Document, copy_document
from kubarium.api.templates import Remembered, content_of
from kubarium.api.validation.pod_updates import check_ephemeral_containers
from kubarium.api.validation.resizes import check_resize
from kubarium.base.errors import FieldError, invalid
from kubarium.base.quantity import parse_quantity
from kubarium.server.registry import Registry
from kubarium.server.requests import Call

DEFAULT_GRACE_S = 30
_QOS_RESOURCES = ("cpu", "memory")
_TERMINAL = ("Succeeded", "Failed")
_REQUIRED, _PREFERRED = (
    f"{w}DuringSchedulingIgnoredDuringExecution" for w in ("required", "preferred")
)


# Classes by what containers ask for, which is the same in all pods of a template.
_CLASSES: Remembered[str] = Remembered()


def qos_class(spec: Document) -> str:
    """Guaranteed, Burstable or BestEffort: by cpu and memory of all containers."""
    whole, parts = spec.get("resources"), [c.get("resources") or {} for c in _containers(spec)]
    content = content_of([whole, parts])
    known = _CLASSES.get(content)
    if known is None:
        known = _qos_class([whole] if whole and _has_any(whole) else parts)
        _CLASSES.put(content, known)
    return known


def _qos_class(parts: list[Document]) -> str:
    if not any(_has_any(resources) for resources in parts):
        return "BestEffort"
    return "Guaranteed" if all(_is_guaranteed(resources) for resources in parts) else "Burstable"


def _containers(spec: Document) -> Iterator[Document]:
    yield from spec.get("initContainers") or ()
    yield from spec.get("containers") or ()


def _has_any(resources: Document | None) -> bool:
    """Whether cpu or memory is asked for or limited, with more than zero."""
    return any(
        name in _QOS_RESOURCES and parse_quantity(amount) > 0
        for part in ("requests", "limits")
        for name, amount in ((resources or {}).get(part) or {}).items()
    )


def _is_guaranteed(resources: Document) -> bool:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for name in _QOS_RESOURCES:
        if name not in limits:
            return False
        limit = limits[name]
        request = requests.get(name, limit)
        if request != limit and parse_quantity(request) != parse_quantity(limit):
            return False
    return True


def prepare_create(registry: Registry, call: Call, pod: Document) -> None:
    """A new pod is Pending; one with scheduling gates says so."""
    spec = pod.get("spec") or {}
    labels = pod["metadata"].get("labels")
    if labels and (spec.get("affinity") or spec.get("topologySpreadConstraints")):
        spec = pod["spec"] = with_label_keys(spec, labels)
    if (spec.get("terminationGracePeriodSeconds") or 0) < 0:
        spec = pod["spec"] = spec | {"terminationGracePeriodSeconds": 1}
    status: Document = {"phase": "Pending", "qosClass": qos_class(spec)}
    if spec.get("schedulingGates"):
        status["conditions"] = [
            {
                "type": "PodScheduled",
                "status": "False",
                "lastTransitionTime": registry.now(),
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }
        ]
    pod["status"] = status


def with_label_keys(spec: Document, labels: Document) -> Document:
    """The spec with a clause in its selectors for each of matchLabelKeys and mismatchLabelKeys.

    The values are those that the pod's labels have when it is created (KEP-3243, KEP-3633).
    """
    found = dict(spec)
    if spec.get("topologySpreadConstraints"):
        constraints = spec["topologySpreadConstraints"]
        found["topologySpreadConstraints"] = [_with_clauses(c, labels) for c in constraints]
    affinity = dict(spec.get("affinity") or {})
    for kind in ("podAffinity", "podAntiAffinity"):
        wanted = dict(affinity.get(kind) or {})
        if wanted.get(_REQUIRED):
            wanted[_REQUIRED] = [_with_clauses(term, labels) for term in wanted[_REQUIRED]]
        if wanted.get(_PREFERRED):
            wanted[_PREFERRED] = [
                {**term, "podAffinityTerm": _with_clauses(term.get("podAffinityTerm"), labels)}
                for term in wanted[_PREFERRED]
            ]
        if wanted:
            affinity[kind] = wanted
    if affinity:
        found["affinity"] = affinity
    return found if found != spec else spec


def _with_clauses(term: Document | None, labels: Document) -> Document:
    """A term, or a constraint, with the clauses; itself where there are none to add."""
    term = term or {}
    clauses = [
        {"key": key, "operator": operator, "values": [labels[key]]}
        for field, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn"))
        for key in term.get(field) or ()
        if key in labels
    ]
    selector = term.get("labelSelector")
    if selector is None or not clauses:
        return term
    known = selector.get("matchExpressions") or []
    return {**term, "labelSelector": {**selector, "matchExpressions": [*known, *clauses]}}


def prepare_status(registry: Registry, call: Call, new: Document, old: Document) -> None:
    """What a status write that does not know it must not lose."""
    before: Document = old.get("status") or {}
    status = new.get("status")
    if status is None:
        status = new["status"] = {}
    for key in ("qosClass", "phase"):
        given = status.get(key)
        if before.get(key) and (not given or (key == "qosClass" and given != before[key])):
            if status is before:
                status = new["status"] = dict(status)
            status[key] = before[key]


def grace_period(pod: Document, asked: int | None) -> int:
    """Seconds between the deletion and the end of a pod; 0 if nobody runs it."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in _TERMINAL:
        return 0
    period = asked
    if period is None:
        period = spec.get("terminationGracePeriodSeconds")
    if period is None:
        period = DEFAULT_GRACE_S
    return 1 if period < 0 else int(period)


def write_ephemeral_containers(new: Document, sent: Document, old: Document) -> None:
    """The ephemeralcontainers subresource: containers may only be added."""
    wanted = copy_document((sent.get("spec") or {}).get("ephemeralContainers") or [])
    for container in wanted:
        default_container(container)
    spec = old["spec"] | {"ephemeralContainers": wanted}
    errors = check_ephemeral_containers(old | {"spec": spec}, old)
    if errors:
        raise invalid("Pod", "", old["metadata"]["name"], errors)
    new["spec"] = spec


def write_resources(new: Document, sent: Document, old: Document) -> None:
    """The resize subresource: cpu and memory of containers, and nothing else."""
    name = old["metadata"]["name"]
    spec, sent_spec = dict(old["spec"]), sent.get("spec") or {}
    for part in ("containers", "initContainers"):
        if part in spec:
            spec[part] = _resized(spec[part], sent_spec.get(part) or [])
    if "resources" in sent_spec:
        spec["resources"] = copy_document(sent_spec["resources"])
    errors = check_resize(old | {"spec": spec}, old)
    kept = (old.get("status") or {}).get("qosClass") or qos_class(old["spec"])
    if qos_class(spec) != kept:
        detail = "Pod QOS Class may not change as a result of resizing"
        errors.insert(0, FieldError("Invalid", "spec", kept, detail))
    if errors:
        raise invalid("Pod", "", name, errors)
    new["spec"] = spec


def _resized(before: list[Document], sent: list[Document]) -> list[dict[str, Any]]:
    """The containers that there are with what was sent about their resources.

    Where others were sent, or the same in another order, they are as they were sent: that is
    refused, and the rest that a client cannot change here is not looked at.
    """
    if [c.get("name") for c in sent] != [c.get("name") for c in before]:
        return sent
    resized = []
    for container, wanted in zip(before, sent, strict=True):
        changed = dict(container)
        for key in ("resources", "resizePolicy"):
            if key in wanted:
                changed[key] = copy_document(wanted[key])
        resized.append(changed)
    return resized
