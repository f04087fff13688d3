"""What a pod names and is not there: ResourceClaims that it waits for, and misspelt names."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator
from difflib import get_close_matches

from kubarium.api.resource import Document
from kubarium.engine import reasons
from kubarium.engine.model import Key
from kubarium.view.pods import claim_keys

# Objects named of those that are there.
NAMED = 5


def missing_claim(pod: Document, claims: Container[Key]) -> str:
    """kube-scheduler's sentence about the first claim of the pod that is not in ``claims``.

    "" if all are there. A claim that is still to be made from a template has no name yet.
    """
    entries = (pod.get("spec") or {}).get("resourceClaims") or ()
    direct = [entry.get("resourceClaimName") for entry in entries]
    metadata = pod["metadata"]
    made = {
        status.get("resourceClaimName")
        for status in (pod.get("status") or {}).get("resourceClaimStatuses") or ()
    }
    for key in claim_keys(pod):
        if key in claims:
            continue
        if key[1] in direct or key[1] in made:
            return reasons.claim_missing(*key)
        return reasons.claim_not_created(metadata.get("namespace", ""), metadata["name"])
    return ""


def about_claims(
    pod: Document, claims: Collection[Key], templates: Collection[Key] | None
) -> Iterator[str]:
    """What to do about each claim that the pod names and that is not among ``claims``.

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


def no_such(kind: str, name: str, known: Collection[str], most: int) -> str:
    """That nothing is called so, and what may be meant; ``most`` of the known are named."""
    close = get_close_matches(name, known, 1, 0.6)
    there = ", ".join(sorted(known)[:most]) or "none"
    instead = f"did you mean {close[0]}?" if close else f"there is {there}"
    return f"no {kind} is called {name}; {instead}"
