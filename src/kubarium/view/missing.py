"""What a pod names and is not there: ResourceClaims that it waits for, and misspelt names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches

from kubarium.api.resource import Document
from kubarium.engine import reasons
from kubarium.engine.model import Claim, Key
from kubarium.view.consumers import made_for_others
from kubarium.view.pods import claims_by_entry

# Objects named of those that are there.
NAMED = 5


def missing_claim(pod: Document, claims: Mapping[Key, Claim]) -> str:
    """kube-scheduler's sentence about the first of the pod's claims that it cannot use yet.

    "" if there is none: all are among ``claims``, and those from templates were made for the pod.
    """
    return next((text for _, text in missing_claims(pod, claims)), "")


def missing_claims(pod: Document, claims: Mapping[Key, Claim]) -> Iterator[tuple[Key, str]]:
    """The claims that the pod cannot use yet, each with kube-scheduler's sentence about it.

    A claim that is still to be made from a template has no name yet.
    """
    metadata, entries = pod["metadata"], (pod.get("spec") or {}).get("resourceClaims")
    if not entries:
        return
    made = {
        status.get("name")
        for status in (pod.get("status") or {}).get("resourceClaimStatuses") or ()
    }
    direct = {entry["name"] for entry in entries if entry.get("resourceClaimName")}
    for name, key in claims_by_entry(pod).items():
        claim = claims.get(key)
        if claim is None and name not in direct and name not in made:
            namespace = metadata.get("namespace", "")
            yield key, reasons.claim_not_created(namespace, metadata["name"])
        elif claim is None:
            yield key, reasons.claim_missing(*key)
        elif name not in direct:
            text = made_for_others(key[1], claim.maker, pod)
            if text:
                yield key, text


def about_claims(
    pod: Document, claims: Mapping[Key, Claim], templates: Collection[Key] | None
) -> Iterator[str]:
    """What to do about each claim that the pod names and cannot use yet, see above.

    ``templates`` None: nobody has listed them.
    """
    metadata, namespace = pod["metadata"], pod["metadata"].get("namespace", "")
    made = {
        status.get("name"): status.get("resourceClaimName")
        for status in (pod.get("status") or {}).get("resourceClaimStatuses") or ()
    }
    known = [name for where, name in claims if where == namespace and "/" not in name]
    for entry in (pod.get("spec") or {}).get("resourceClaims") or ():
        name = entry.get("resourceClaimName")
        template = entry.get("resourceClaimTemplateName")
        if name and (namespace, name) not in claims:
            yield no_such("ResourceClaim", name, known, NAMED)
        elif template and entry.get("name") not in made:
            there = [n for where, n in templates or () if where == namespace]
            if templates is not None and template not in there:
                yield no_such("ResourceClaimTemplate", template, there, NAMED)
            else:
                text = f"claim {entry.get('name')} of pod {metadata['name']} is to be made from"
                yield f"{text} ResourceClaimTemplate {template}, which has not been done yet"
        elif template and (namespace, made.get(entry.get("name")) or "") not in claims:
            claim = made.get(entry.get("name"))
            if claim:
                yield f"claim {claim} was made from ResourceClaimTemplate {template} and is gone"
        elif template:
            claim = made[entry["name"]]
            maker = claims[namespace, claim].maker
            if made_for_others(claim, maker, pod):
                whose = f"that of {maker[0]} {maker[1]}" if maker[0] else "nobody's"
                yield f"claim {claim} is named in the pod's status, but is {whose}"


def no_such(kind: str, name: str, known: Collection[str], most: int) -> str:
    """That nothing is called so, and what may be meant; ``most`` of the known are named."""
    close = get_close_matches(name, known, 1, 0.6)
    there = ", ".join(sorted(known)[:most]) or "none"
    instead = f"did you mean {close[0]}?" if close else f"there is {there}"
    return f"no {kind} is called {name}; {instead}"
