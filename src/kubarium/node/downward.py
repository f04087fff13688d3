"""The downward API: fields and resources of a pod as text (source: ``pkg/fieldpath``)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubarium.api.resource import Document
from kubarium.base.errors import KubariumError
from kubarium.base.quantity import parse_quantity


class UnsupportedField(KubariumError):
    """The pod names a field that the downward API does not have."""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What is known of a pod when its containers start, beyond its document."""

    pod: Document
    pod_ips: tuple[str, ...]
    host_ip: str
    allocatable: Mapping[str, str]


_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['(.+)'\]$")


def field_value(facts: PodFacts, path: str) -> str:
    """The text of ``fieldRef.fieldPath``."""
    metadata, spec = facts.pod["metadata"], facts.pod["spec"]
    subscript = _SUBSCRIPT.match(path)
    if subscript:
        return str((metadata.get(subscript[1]) or {}).get(subscript[2], ""))
    if path in ("metadata.labels", "metadata.annotations"):
        entries = metadata.get(path.partition(".")[2]) or {}
        return "\n".join(f"{key}={json.dumps(entries[key])}" for key in sorted(entries))
    values = {
        "metadata.name": metadata["name"],
        "metadata.namespace": metadata.get("namespace", ""),
        "metadata.uid": metadata["uid"],
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "status.hostIP": facts.host_ip,
        "status.hostIPs": facts.host_ip,
        "status.podIP": facts.pod_ips[0] if facts.pod_ips else "",
        "status.podIPs": ",".join(facts.pod_ips),
    }
    if path not in values:
        raise UnsupportedField(f"unsupported fieldPath: {path}")
    return str(values[path])


def resource_value(facts: PodFacts, reference: Mapping[str, Any], own_container: str) -> str:
    """The text of a ``resourceFieldRef``: whole units of the divisor, rounded up."""
    name = reference.get("containerName") or own_container
    spec = facts.pod["spec"]
    entries = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    container = next((entry for entry in entries if entry["name"] == name), None)
    if container is None:
        raise UnsupportedField(f"container {name} not found")
    side, _, resource = reference["resource"].partition(".")
    resources = container.get("resources") or {}
    amount = (resources.get(side) or {}).get(resource)
    if amount is None and side == "limits":
        amount = facts.allocatable.get(resource, "0")
    divisor = parse_quantity(reference.get("divisor") or "1") or parse_quantity("1")
    value = parse_quantity(amount or "0") / divisor
    return str(-((-value.numerator) // value.denominator))
