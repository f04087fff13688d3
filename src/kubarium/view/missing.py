"""What a pod names and is not there: ResourceClaims that it waits for, and misspelt names."""

from __future__ import annotations

from collections.abc import Collection, Container
from difflib import get_close_matches

from kubarium.api.resource import Document
from kubarium.engine import reasons
from kubarium.engine.model import Key
from kubarium.view.pods import claim_keys


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


def no_such(kind: str, name: str, known: Collection[str], most: int) -> str:
    """That nothing is called so, and what may be meant; ``most`` of the known are named."""
    close = get_close_matches(name, known, 1, 0.6)
    there = ", ".join(sorted(known)[:most]) or "none"
    instead = f"did you mean {close[0]}?" if close else f"there is {there}"
    return f"no {kind} is called {name}; {instead}"
