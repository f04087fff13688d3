"""Kinds that extend the API server."""

from __future__ import annotations

from typing import Any

from kubarium.api.resource import Document
from kubarium.api.tables.columns import NONE, UNSET, Printer, age, condition, printer, spec_of
from kubarium.api.tables.durations import UNKNOWN


def _definition(d: Document, now: float) -> list[Any]:
    return [d["metadata"].get("creationTimestamp") or UNKNOWN]


def _webhooks(d: Document, now: float) -> list[Any]:
    return [len(d.get("webhooks") or ()), age(d, now)]


def _kind(reference: Document | None) -> str:
    if not reference:
        return UNSET
    return f"{reference.get('apiVersion', '')}/{reference.get('kind', '')}"


def _validating_policy(d: Document, now: float) -> list[Any]:
    spec = spec_of(d)
    return [len(spec.get("validations") or ()), _kind(spec.get("paramKind")), age(d, now)]


def _mutating_policy(d: Document, now: float) -> list[Any]:
    spec = spec_of(d)
    return [len(spec.get("mutations") or ()), _kind(spec.get("paramKind")), age(d, now)]


def _policy_binding(d: Document, now: float) -> list[Any]:
    spec = spec_of(d)
    reference = spec.get("paramRef") or {}
    namespace, name = reference.get("namespace"), reference.get("name")
    shown = f"{namespace}/{name}" if namespace else name or UNSET
    return [spec.get("policyName", ""), shown, age(d, now)]


def _api_service(d: Document, now: float) -> list[Any]:
    service = spec_of(d).get("service")
    shown = f"{service.get('namespace')}/{service.get('name')}" if service else "Local"
    available = condition(d, "Available")
    state = NONE
    if available is not None:
        state = str(available.get("status", ""))
        if state != "True" and available.get("reason"):
            state = f"{state} ({available['reason']})"
    return [shown, state, age(d, now)]


_ADMISSION = "admissionregistration.k8s.io"
PRINTERS: dict[tuple[str, str], Printer] = {
    ("apiextensions.k8s.io", "CustomResourceDefinition"): printer("Created At:date", _definition),
    (_ADMISSION, "MutatingWebhookConfiguration"): printer("Webhooks:integer|Age", _webhooks),
    (_ADMISSION, "ValidatingWebhookConfiguration"): printer("Webhooks:integer|Age", _webhooks),
    (_ADMISSION, "ValidatingAdmissionPolicy"): printer(
        "Validations:integer|ParamKind|Age", _validating_policy
    ),
    (_ADMISSION, "MutatingAdmissionPolicy"): printer(
        "Mutations:integer|ParamKind|Age", _mutating_policy
    ),
    (_ADMISSION, "ValidatingAdmissionPolicyBinding"): printer(
        "PolicyName|ParamRef|Age", _policy_binding
    ),
    (_ADMISSION, "MutatingAdmissionPolicyBinding"): printer(
        "PolicyName|ParamRef|Age", _policy_binding
    ),
    ("apiregistration.k8s.io", "APIService"): printer("Service|Available|Age", _api_service),
}
