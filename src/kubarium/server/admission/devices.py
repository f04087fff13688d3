"""Claims: administrative access is for namespaces that an administrator has labelled, and device
configuration is what its driver takes.

Source: KEP-5018, which upstream checks in the strategies of ResourceClaim and its template; the
webhooks of the drivers that Kubarium plays, here without a webhook.
"""

from __future__ import annotations

from kubarium.api.device_configs import complaints
from kubarium.api.resource import Document
from kubarium.base.errors import FieldError, invalid
from kubarium.server.admission.chain import Attempt

LABEL = "resource.kubernetes.io/admin-access"


def check_admin_access(attempt: Attempt) -> None:
    """ApiError 422 for a request with ``adminAccess`` where it is not allowed."""
    spec, root = _claim_spec(attempt)
    for index, request in enumerate((spec.get("devices") or {}).get("requests") or ()):
        if (request.get("exactly") or {}).get("adminAccess") or request.get("adminAccess"):
            _needs_label(attempt, f"{root}.devices.requests[{index}].adminAccess")
            return


def check_admin_results(attempt: Attempt) -> None:
    """The same of a new allocation, which a status may bring whatever the claim asks for."""
    assert attempt.old is not None
    if any(_admin_results(attempt.old)):
        return  # an allocation does not change
    for index, admin in enumerate(_admin_results(attempt.document)):
        if admin:
            _needs_label(attempt, f"status.allocation.devices.results[{index}].adminAccess")
            return


def _admin_results(claim: Document) -> list[bool]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results = (allocation.get("devices") or {}).get("results") or ()
    return [bool(result.get("adminAccess")) for result in results]


def _needs_label(attempt: Attempt, path: str) -> None:
    record = attempt.registry.store.get(f"/core/namespaces/-/{attempt.namespace}")
    labels = (record.value["metadata"].get("labels") or {}) if record else {}
    if labels.get(LABEL) != "true":
        detail = (
            f"admin access to devices requires the `{LABEL}: true` label on the containing"
            " namespace"
        )
        resource = attempt.kind.resource
        errors = [FieldError("Forbidden", path, detail=detail)]
        raise invalid(resource.kind, resource.group, attempt.name, errors)


def check_device_configs(attempt: Attempt) -> None:
    """ApiError 422 for each opaque configuration that its driver would refuse."""
    spec, root = _claim_spec(attempt)
    errors = complaints((spec.get("devices") or {}).get("config") or [], root)
    if errors:
        resource = attempt.kind.resource
        raise invalid(resource.kind, resource.group, attempt.name, errors)


def _claim_spec(attempt: Attempt) -> tuple[Document, str]:
    """The spec of a claim or of a template's claims, and where it stands."""
    spec: Document = attempt.document.get("spec") or {}
    if attempt.kind.resource.plural == "resourceclaimtemplates":
        return spec.get("spec") or {}, "spec.spec"
    return spec, "spec"
