"""Who consumes a claim: a pod, or its PodGroup for all of its pods (KEP-5729).

Source: ``k8s.io/dynamic-resource-allocation/resourceclaim``.
"""

from __future__ import annotations

from kubarium.api.resource import Document

GROUP = "scheduling.k8s.io"


def is_group_consumer(entry: Document) -> bool:
    """Whether a ``reservedFor`` entry is a PodGroup; others' groups are none of ours."""
    return entry.get("resource") == "podgroups" and entry.get("apiGroup") == GROUP


def is_pod_consumer(entry: Document) -> bool:
    """Whether a ``reservedFor`` entry is a pod."""
    return entry.get("resource") == "pods" and not entry.get("apiGroup")


def group_name(pod: Document) -> str:
    """The PodGroup that a pod belongs to; "" if to none."""
    group = (pod.get("spec") or {}).get("schedulingGroup") or {}
    return group.get("podGroupName") or ""


def is_reserved_for(claim: Document, pod: Document) -> bool:
    """Whether the pod, or its group, may use the claim. Pods do not know their group's uid."""
    uid, group = pod["metadata"].get("uid"), group_name(pod)
    return any(
        entry.get("uid") == uid
        or (is_group_consumer(entry) and bool(group) and entry.get("name") == group)
        for entry in (claim.get("status") or {}).get("reservedFor") or ()
    )


def maker_of(claim: Document) -> tuple[str, str, str]:
    """(kind, name, uid) of the Pod or PodGroup that a claim was generated for; empty without."""
    for owner in claim["metadata"].get("ownerReferences") or ():
        kind, version = owner.get("kind"), owner.get("apiVersion") or ""
        pod = kind == "Pod" and version == "v1"
        if owner.get("controller") and (
            pod or (kind == "PodGroup" and version.startswith(f"{GROUP}/"))
        ):
            return kind, owner["name"], owner["uid"]
    return "", "", ""


def not_made_for(claim: Document, pod: Document) -> str:
    """Upstream's sentence if the claim of one of the pod's templates is not the pod's own.

    "" for claims that the pod names itself, which need no owner.
    """
    name = claim["metadata"]["name"]
    made = [
        status.get("name")
        for status in (pod.get("status") or {}).get("resourceClaimStatuses") or ()
        if status.get("resourceClaimName") == name
    ]
    entries = (pod.get("spec") or {}).get("resourceClaims") or () if made else ()
    if not any(e.get("resourceClaimTemplateName") and e.get("name") in made for e in entries):
        return ""
    return made_for_others(name, maker_of(claim), pod)


def made_for_others(name: str, maker: tuple[str, str, str], pod: Document) -> str:
    """Upstream's sentence if a claim that should be the pod's own was not made for it, nor for its
    group; "" otherwise. ``maker`` is :func:`maker_of` the claim."""
    metadata, (kind, owner, uid) = pod["metadata"], maker
    group = group_name(pod)
    if (kind == "Pod" and uid == metadata["uid"]) or (kind == "PodGroup" and owner == group):
        return ""
    namespace = metadata.get("namespace", "")
    text = (
        f"ResourceClaim {namespace}/{name} was not created for Pod {namespace}/{metadata['name']}"
    )
    if group:
        return f"{text} (neither Pod nor PodGroup {group} is the owner)"
    return f"{text} (Pod is not owner)"


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
                "apiGroup": GROUP,
                "resource": "podgroups",
                "name": metadata["name"],
                "uid": metadata["uid"],
            }
    metadata = pod["metadata"]
    return {"resource": "pods", "name": metadata["name"], "uid": metadata["uid"]}
