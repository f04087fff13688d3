"""Which parts of an object a change is about, and which parts a function reads.

Most changes of a pod are to its status, and most functions that find a pod's owner, group or node
read none of it. A function that says so (``of_metadata``, ``of_spec``) need not be asked again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kubarium.api.resource import Document

F = TypeVar("F", bound=Callable[..., Any])

METADATA, SPEC, STATUS = 1, 2, 4
EVERYTHING = METADATA | SPEC | STATUS

# What counts as metadata; versions, managed fields and generations change with everything else.
_METADATA_FIELDS = ("labels", "ownerReferences", "annotations", "finalizers", "deletionTimestamp")
_READS = "reads_parts"


def of_metadata(function: F) -> F:
    """Say that a function of a document reads its name, namespace, labels, annotations, owners,
    finalizers and deletionTimestamp only."""
    setattr(function, _READS, METADATA)
    return function


def of_spec(function: F) -> F:
    """Say that a function of a document reads its name, namespace and spec only."""
    setattr(function, _READS, SPEC)
    return function


def reads(function: Callable[..., Any]) -> int:
    """The parts that a function reads: all, if it does not say."""
    found: int = getattr(function, _READS, EVERYTHING)
    return found


def changed_parts(old: Document, new: Document) -> int:
    """The parts that may differ between two versions of one object."""
    before, after = old["metadata"], new["metadata"]
    changed = STATUS
    for field in _METADATA_FIELDS:
        if before.get(field) != after.get(field):
            changed |= METADATA
            break
    spec = new.get("spec")
    if old.get("spec") is not spec or spec is None:
        changed |= SPEC
    return changed
