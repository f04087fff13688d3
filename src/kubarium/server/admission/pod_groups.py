"""PodGroupProtection: groups stay until nothing that belongs to them is left.

Source: upstream ``plugin/pkg/admission/scheduling/podgroupprotection``; KEP-6012 adds composites.
The finalizer is taken off by a controller, ``control.gangs.protection``.
"""

from __future__ import annotations

from kubarium.api.gangs import PROTECTION_FINALIZER
from kubarium.base.errors import forbidden
from kubarium.server.admission.chain import Attempt


def protect_group(attempt: Attempt) -> None:
    """Give a new PodGroup or CompositePodGroup its finalizer."""
    metadata = attempt.document.setdefault("metadata", {})
    held = metadata.get("finalizers") or []
    if PROTECTION_FINALIZER not in held:
        metadata["finalizers"] = [*held, PROTECTION_FINALIZER]


def check_parent(attempt: Attempt) -> None:
    """403 for a pod or group whose parent is being deleted: it would wait for its end in vain."""
    kind, spec = attempt.kind.resource, attempt.document.get("spec") or {}
    if kind.kind == "Pod":
        name = (spec.get("schedulingGroup") or {}).get("podGroupName")
        parent, plural = "PodGroup", "podgroups"
    else:
        name = spec.get("parentCompositePodGroupName")
        parent, plural = "CompositePodGroup", "compositepodgroups"
    if not name:
        return
    key = f"/scheduling.k8s.io/{plural}/{attempt.namespace}/{name}"
    found = attempt.registry.store.get(key)
    if found is None or not found.value["metadata"].get("deletionTimestamp"):
        return
    why = f'cannot create {kind.kind} referencing {parent} "{name}" because it is being deleted'
    raise forbidden(kind.plural, kind.group, attempt.name, why)
