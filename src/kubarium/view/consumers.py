"""Who consumes a claim: a pod, or its PodGroup for all of its pods (KEP-5729)."""

from __future__ import annotations

from kubarium.api.resource import Document


def _sources(entry: Document) -> tuple[str, str, str]:
    return (
        entry.get("name") or "",
        entry.get("resourceClaimName") or "",
        entry.get("resourceClaimTemplateName") or "",
    )


def is_shared(entry: Document, group: Document | None) -> bool:
    """Whether a pod's ``resourceClaims`` entry is its group's: the same names in both."""
    entries = ((group or {}).get("spec") or {}).get("resourceClaims") or ()
    return any(_sources(entry) == _sources(own) for own in entries)


def group_claims(group: Document | None) -> dict[str, str]:
    """The claims of a PodGroup by its own names for them; those not made yet are left out."""
    if group is None:
        return {}
    made = {
        s.get("name"): s.get("resourceClaimName")
        for s in (group.get("status") or {}).get("resourceClaimStatuses") or ()
    }
    found: dict[str, str] = {}
    for entry in (group.get("spec") or {}).get("resourceClaims") or ():
        name = entry.get("resourceClaimName") or made.get(entry["name"])
        if name:
            found[entry["name"]] = name
    return found


def consumer(claim: str, pod: Document, group: Document | None) -> Document:
    """The ``status.reservedFor`` entry under which the pod uses the claim."""
    spec = pod.get("spec") or {}
    shared = group_claims(group)
    for entry in spec.get("resourceClaims") or ():
        if shared.get(entry["name"]) == claim and is_shared(entry, group):
            assert group is not None
            metadata = group["metadata"]
            return {
                "apiGroup": "scheduling.k8s.io",
                "resource": "podgroups",
                "name": metadata["name"],
                "uid": metadata["uid"],
            }
    metadata = pod["metadata"]
    return {"resource": "pods", "name": metadata["name"], "uid": metadata["uid"]}
