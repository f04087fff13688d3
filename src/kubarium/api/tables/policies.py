"""Quotas, budgets, priorities, RBAC, certificates, flow control."""

from __future__ import annotations

from typing import Any

from kubarium.api.resource import Document
from kubarium.api.tables.columns import NONE, UNSET, Printer, age, printer, spec_of, status_of
from kubarium.api.tables.durations import UNKNOWN, human


def _created_at(d: Document, now: float) -> list[Any]:
    return [d["metadata"].get("creationTimestamp") or UNKNOWN]


def _quota(d: Document, now: float) -> list[Any]:
    status = status_of(d)
    hard, used = status.get("hard") or {}, status.get("used") or {}
    requests: list[str] = []
    limits: list[str] = []
    for name in sorted(hard):
        text = f"{name}: {used.get(name, '0')}/{hard[name]}"
        (limits if name.startswith("limits") else requests).append(text)
    return [", ".join(requests), ", ".join(limits), age(d, now)]


def _limit_range(d: Document, now: float) -> list[Any]:
    return _created_at(d, now)


def _budget(d: Document, now: float) -> list[Any]:
    spec = spec_of(d)
    available, unavailable = spec.get("minAvailable"), spec.get("maxUnavailable")
    return [
        "N/A" if available is None else str(available),
        "N/A" if unavailable is None else str(unavailable),
        status_of(d).get("disruptionsAllowed", 0),
        age(d, now),
    ]


def _priority_class(d: Document, now: float) -> list[Any]:
    return [
        d.get("value", 0),
        bool(d.get("globalDefault")),
        age(d, now),
        d.get("preemptionPolicy") or "PreemptLowerPriority",
    ]


def _subjects(d: Document, kind: str) -> str:
    found = []
    for subject in d.get("subjects") or ():
        if subject.get("kind") != kind:
            continue
        name = subject.get("name", "")
        found.append(f"{subject.get('namespace', '')}/{name}" if kind == "ServiceAccount" else name)
    return ", ".join(found)


def _binding(d: Document, now: float) -> list[Any]:
    role = d.get("roleRef") or {}
    return [
        f"{role.get('kind', '')}/{role.get('name', '')}",
        age(d, now),
        *(_subjects(d, kind) for kind in ("User", "Group", "ServiceAccount")),
    ]


def _signing_request(d: Document, now: float) -> list[Any]:
    spec = spec_of(d)
    seconds = spec.get("expirationSeconds")
    return [
        age(d, now),
        spec.get("signerName") or NONE,
        spec.get("username", ""),
        NONE if seconds is None else human(seconds),
        _signing_state(d),
    ]


def _signing_state(d: Document) -> str:
    status = status_of(d)
    types = {entry.get("type") for entry in status.get("conditions") or ()}
    found = []
    for type_ in ("Denied", "Approved"):
        if type_ in types:
            found.append(type_)
            break
    if "Failed" in types:
        found.append("Failed")
    if status.get("certificate"):
        found.append("Issued")
    return ",".join(found) or "Pending"


def _flow_schema(d: Document, now: float) -> list[Any]:
    spec = spec_of(d)
    distinguisher = (spec.get("distinguisherMethod") or {}).get("type") or NONE
    conditions = status_of(d).get("conditions") or ()
    dangling = next((c.get("status") for c in conditions if c.get("type") == "Dangling"), "?")
    return [
        (spec.get("priorityLevelConfiguration") or {}).get("name", ""),
        spec.get("matchingPrecedence", 0),
        distinguisher,
        age(d, now),
        dangling,
    ]


def _priority_level(d: Document, now: float) -> list[Any]:
    spec = spec_of(d)
    limited = spec.get("limited") or {}
    queuing = (limited.get("limitResponse") or {}).get("queuing") or {}
    return [
        spec.get("type", ""),
        str(limited.get("nominalConcurrencyShares", NONE)),
        *(str(queuing.get(key, NONE)) for key in ("queues", "handSize", "queueLengthLimit")),
        age(d, now),
    ]


def _runtime_class(d: Document, now: float) -> list[Any]:
    return [d.get("handler", ""), age(d, now)]


def _bundle(d: Document, now: float) -> list[Any]:
    return [spec_of(d).get("signerName") or UNSET, age(d, now)]


_BINDING = "Role|Age|+Users|+Groups|+ServiceAccounts"
_RBAC = "rbac.authorization.k8s.io"
PRINTERS: dict[tuple[str, str], Printer] = {
    ("", "ResourceQuota"): printer("Request|Limit|Age", _quota),
    ("", "LimitRange"): printer("Created At", _limit_range),
    ("policy", "PodDisruptionBudget"): printer(
        "Min Available|Max Unavailable|Allowed Disruptions:integer|Age", _budget
    ),
    ("scheduling.k8s.io", "PriorityClass"): printer(
        "Value:integer|Global-Default:boolean|Age|PreemptionPolicy", _priority_class
    ),
    (_RBAC, "Role"): printer("Created At", _created_at),
    (_RBAC, "ClusterRole"): printer("Created At", _created_at),
    (_RBAC, "RoleBinding"): printer(_BINDING, _binding),
    (_RBAC, "ClusterRoleBinding"): printer(_BINDING, _binding),
    ("certificates.k8s.io", "CertificateSigningRequest"): printer(
        "Age|SignerName|Requestor|RequestedDuration|Condition", _signing_request
    ),
    ("certificates.k8s.io", "ClusterTrustBundle"): printer("SignerName|Age", _bundle),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"): printer(
        "PriorityLevel|MatchingPrecedence:integer|DistinguisherMethod|Age|MissingPL", _flow_schema
    ),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"): printer(
        "Type|NominalConcurrencyShares|Queues|HandSize|QueueLengthLimit|Age", _priority_level
    ),
    ("node.k8s.io", "RuntimeClass"): printer("Handler|Age", _runtime_class),
}
