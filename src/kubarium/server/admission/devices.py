"""Administrative access to devices is for namespaces that an administrator has labelled.

Source: KEP-5018; upstream checks this in the strategies of ResourceClaim and its template.
"""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.base.errors import FieldError, invalid
from kubarium.server.admission.chain import Attempt

LABEL = "resource.kubernetes.io/admin-access"


def check_admin_access(attempt: Attempt) -> None:
    """ApiError 422 for each request with ``adminAccess`` where it is not allowed."""
    spec: Document = attempt.document.get("spec") or {}
    root = "spec"
    if attempt.kind.resource.plural == "resourceclaimtemplates":
        spec, root = spec.get("spec") or {}, "spec.spec"
    requests = (spec.get("devices") or {}).get("requests") or []
    asking = [
        index
        for index, request in enumerate(requests)
        if (request.get("exactly") or {}).get("adminAccess") or request.get("adminAccess")
    ]
    if not asking:
        return
    record = attempt.registry.store.get(f"/core/namespaces/-/{attempt.namespace}")
    labels = (record.value["metadata"].get("labels") or {}) if record else {}
    if labels.get(LABEL) == "true":
        return
    detail = (
        f"admin access to devices requires the `{LABEL}: true` label on the containing namespace"
    )
    errors = [
        FieldError("Forbidden", f"{root}.devices.requests[{index}].adminAccess", detail=detail)
        for index in asking
    ]
    resource = attempt.kind.resource
    raise invalid(resource.kind, resource.group, attempt.name, errors)
