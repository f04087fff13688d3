"""Changing one place of a shared document without touching the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kubarium.api.resource import Document


def with_part(document: Document, keys: tuple[str, ...], change: Callable[[Any], Any]) -> Document:
    """A copy in which the value at ``keys`` is ``change`` of it; ``document`` where it is absent
    or not inside of objects (the schema's check has then something to say, or nothing is there)."""
    key, *rest = keys
    if not isinstance(document, dict) or document.get(key) is None:
        return document
    value = document[key]
    new = with_part(value, tuple(rest), change) if rest else change(value)
    return document if new is value else document | {key: new}


def each(change: Callable[[Document], Document]) -> Callable[[Any], Any]:
    """``change`` for every object of a list; what is no list of objects stays."""

    def changed(items: Any) -> Any:
        if not isinstance(items, list):
            return items
        return [change(item) if isinstance(item, dict) else item for item in items]

    return changed
