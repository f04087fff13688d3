"""Conditions of searches and trials, as Katib writes them."""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339
from kubarium.runtime import writes


def is_over(document: Document, types: Iterable[str]) -> bool:
    """Whether one of these conditions is true."""
    return any(writes.condition_is_true(document, type_) for type_ in types)


def note(
    status: Document, now: float, type_: str, reason: str, message: str, value: str = "True"
) -> None:
    """Set a condition in a status that may be changed, unless it has this value and reason."""
    before = writes.find_condition(status, type_) or {}
    if (before.get("status"), before.get("reason")) != (value, reason):
        held = status.get("conditions") or ()
        status["conditions"] = writes.set_condition(
            held, type_, value, reason, message, now, lastUpdateTime=rfc3339(now)
        )
