"""RuntimeClass: what a pod's class says of overhead and scheduling becomes the pod's.

Source: upstream ``plugin/pkg/admission/runtimeclass/admission.go``.
"""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.base.errors import ApiError, forbidden
from kubarium.base.quantity import parse_quantity
from kubarium.server.admission.chain import Attempt

_CLASSES = "/node.k8s.io/runtimeclasses/-/"


def apply_runtime_class(attempt: Attempt) -> None:
    """Set ``overhead``, ``nodeSelector`` and ``tolerations``; 403 if they contradict the pod's or
    there is no such class."""
    spec = attempt.document.get("spec")
    if not isinstance(spec, dict) or not spec.get("runtimeClassName"):
        return
    found = _class_of(attempt, spec["runtimeClassName"])
    overhead = (found.get("overhead") or {}).get("podFixed")
    if overhead:
        if spec.get("overhead") and not _same(spec["overhead"], overhead):
            raise _refused(
                attempt,
                "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
            )
        spec["overhead"] = dict(overhead)
    scheduling = found.get("scheduling") or {}
    if scheduling.get("nodeSelector"):
        spec["nodeSelector"] = _merged(attempt, scheduling["nodeSelector"], spec)
    if scheduling.get("tolerations"):
        given: list[Document] = spec.get("tolerations") or []
        own = [one for one in given if one not in scheduling["tolerations"]]
        spec["tolerations"] = [*(dict(one) for one in scheduling["tolerations"]), *own]


def check_overhead(attempt: Attempt) -> None:
    """A pod's overhead is its class's, and nobody else's to set."""
    spec = attempt.document.get("spec") or {}
    overhead = spec.get("overhead")
    if not overhead:
        return
    name = spec.get("runtimeClassName")
    defined = (_class_of(attempt, name).get("overhead") or {}).get("podFixed") if name else None
    if not defined:
        raise _refused(
            attempt,
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        )


def _merged(attempt: Attempt, wanted: dict[str, str], spec: Document) -> dict[str, str]:
    own = spec.get("nodeSelector") or {}
    for key, value in wanted.items():
        if own.get(key, value) != value:
            raise _refused(
                attempt,
                f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; "
                f"pod.spec.nodeSelector[{key}] = {own[key]}",
            )
    return {**own, **wanted}


def _same(one: Document, other: Document) -> bool:
    try:
        amounts = [{n: parse_quantity(q) for n, q in found.items()} for found in (one, other)]
    except ValueError:
        return False
    return amounts[0] == amounts[1]


def _class_of(attempt: Attempt, name: str) -> Document:
    record = attempt.registry.store.get(_CLASSES + name)
    if record is None:
        raise _refused(attempt, f'pod rejected: RuntimeClass "{name}" not found')
    return record.value


def _refused(attempt: Attempt, why: str) -> ApiError:
    return forbidden("pods", "", attempt.name, why)
