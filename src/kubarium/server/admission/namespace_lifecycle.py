"""NamespaceLifecycle: content needs a live namespace, and some namespaces are not deleted."""

from __future__ import annotations

from kubarium.api.kinds import NAMESPACES
from kubarium.base.errors import forbidden, not_found
from kubarium.server.admission.chain import Attempt

IMMORTAL = ("default", "kube-system", "kube-public")

# Answered from what is sent alone, so that a review may name a namespace that is not there.
_REVIEWS = ("authorization.k8s.io", "authentication.k8s.io")


def namespace_must_take_content(attempt: Attempt) -> None:
    """404 if the namespace is absent, 403 if it is being deleted."""
    resource = attempt.kind.resource
    if not resource.namespaced or resource.group in _REVIEWS:
        return
    record = attempt.registry.store.get(f"/core/namespaces/-/{attempt.namespace}")
    if record is None:
        raise not_found(NAMESPACES.plural, "", attempt.namespace)
    if "deletionTimestamp" not in record.value["metadata"]:
        return
    why = (
        f"unable to create new content in namespace {attempt.namespace} "
        "because it is being terminated"
    )
    error = forbidden(resource.plural, resource.group, attempt.name, why)
    error.details["causes"] = [
        {
            "reason": "NamespaceTerminating",
            "message": f"namespace {attempt.namespace} is being terminated",
            "field": "metadata.namespace",
        }
    ]
    raise error


def protect(attempt: Attempt) -> None:
    """403 for the namespaces that the cluster itself needs."""
    if attempt.name in IMMORTAL:
        raise forbidden("namespaces", "", attempt.name, "this namespace may not be deleted")
