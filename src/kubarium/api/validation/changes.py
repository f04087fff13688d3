"""What counts as a change of a document that may not change."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any


def settled(value: Any, plain: Collection[str] = ()) -> Any:
    """A value without the empty texts and lists in it, which mean as much as none.

    ``plain`` are fields whose false and zero do too; others tell three states.

    >>> settled({"a": "", "b": [{"c": []}], "d": {}, "tty": False}, ("tty",))
    {'b': [{}], 'd': {}}
    """
    if isinstance(value, dict):
        return {
            key: settled(item, plain)
            for key, item in value.items()
            if item is not None and item not in ("", []) and (item or key not in plain)
        }
    return [settled(item, plain) for item in value] if isinstance(value, list) else value


def same(new: Any, old: Any, plain: Collection[str] = ()) -> bool:
    """Whether nothing changed that means anything."""
    return new == old or bool(settled(new, plain) == settled(old, plain))
