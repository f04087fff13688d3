"""LimitRanger: defaults and bounds for what pods of a namespace may ask for.

Source: upstream ``plugin/pkg/admission/limitranger/admission.go``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction

from kubarium.api.resource import Document
from kubarium.base.errors import forbidden
from kubarium.base.quantity import format_quantity, parse_quantity
from kubarium.server.admission.chain import Attempt

ANNOTATION = "kubernetes.io/limit-ranger"
_RANGES = "/core/limitranges/"
Amounts = Mapping[str, Fraction]


def _items(attempt: Attempt, type_: str) -> Iterator[Document]:
    for record in attempt.registry.store.range(f"{_RANGES}{attempt.namespace}/").records:
        for item in (record.value.get("spec") or {}).get("limits") or ():
            if item.get("type") == type_:
                yield item


def set_default_resources(attempt: Attempt) -> None:
    """Give containers the requests and limits that they do not state."""
    spec = attempt.document.get("spec")
    if not isinstance(spec, dict) or attempt.registry.store.is_empty(_RANGES):
        return
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    for item in _items(attempt, "Container"):
        requests |= item.get("defaultRequest") or {}
        limits |= item.get("default") or {}
    if not requests and not limits:
        return
    said: list[str] = []
    for label, part in (("container", "containers"), ("init container", "initContainers")):
        for container in spec.get(part) or ():
            said += _fill(container, label, requests, limits)
    if said:
        metadata = attempt.document["metadata"]
        note = {ANNOTATION: f"LimitRanger plugin set: {'; '.join(said)}"}
        metadata["annotations"] = (metadata.get("annotations") or {}) | note


def _fill(
    container: Document, label: str, requests: Mapping[str, str], limits: Mapping[str, str]
) -> list[str]:
    resources = dict(container.get("resources") or {})
    said = []
    for part, name, defaults in (
        ("limits", "limit", limits),
        ("requests", "request", requests),
    ):
        present = resources.get(part) or {}
        missing = sorted(set(defaults) - set(present))
        if missing:
            resources[part] = present | {key: defaults[key] for key in missing}
            what = ", ".join(missing)
            said.append(f"{what} {name} for {label} {container.get('name', '')}")
    container["resources"] = resources
    return said


def check_limit_ranges(attempt: Attempt) -> None:
    """ApiError 403 with every bound that a new pod breaks."""
    if attempt.registry.store.is_empty(_RANGES):
        return
    spec = attempt.document.get("spec") or {}
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    problems = [
        problem
        for item in _items(attempt, "Container")
        for container in containers
        for problem in _problems("Container", item, container.get("resources") or {})
    ]
    for item in _items(attempt, "Pod"):
        problems += _problems("Pod", item, _total(spec.get("containers") or []))
    if problems:
        why = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
        raise forbidden("pods", "", attempt.name, why)


def _total(containers: list[Document]) -> Document:
    """Requests and limits of all containers; a limit only counts if all of them have it."""
    total: Document = {}
    for part in ("requests", "limits"):
        amounts = [(c.get("resources") or {}).get(part) or {} for c in containers]
        names = sorted({name for each in amounts for name in each})
        total[part] = {
            name: format_quantity(sum(parse_quantity(a.get(name, 0)) for a in amounts))
            for name in names
            if part == "requests" or all(name in a for a in amounts)
        }
    return total


def _problems(type_: str, item: Document, resources: Document) -> Iterator[str]:
    requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
    for name, bound in (item.get("min") or {}).items():
        start = f"minimum {name} usage per {type_} is {bound}, but "
        if name not in requests:
            yield f"{start}no request is specified"
        elif parse_quantity(requests[name]) < parse_quantity(bound):
            yield f"{start}request is {requests[name]}"
    for name, bound in (item.get("max") or {}).items():
        start = f"maximum {name} usage per {type_} is {bound}, but "
        if name not in limits:
            yield f"{start}no limit is specified"
        elif parse_quantity(limits[name]) > parse_quantity(bound):
            yield f"{start}limit is {limits[name]}"
    for name, bound in (item.get("maxLimitRequestRatio") or {}).items():
        if name not in limits or name not in requests:
            yield (
                f"{name} max limit to request ratio per {type_} is {bound}, "
                "but no request or limit is specified"
            )
            continue
        request = parse_quantity(requests[name])
        ratio = parse_quantity(limits[name]) / request if request else None
        if ratio is None or ratio > parse_quantity(bound):
            shown = "infinite" if ratio is None else f"{float(ratio):.6f}"
            yield (
                f"{name} max limit to request ratio per {type_} is {bound}, "
                f"but provided ratio is {shown}"
            )
