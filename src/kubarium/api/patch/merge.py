"""JSON merge patch (RFC 7386)."""

from __future__ import annotations

from typing import Any

from kubarium.base.errors import bad_request


def merge_patch(document: dict[str, Any], patch: Any) -> dict[str, Any]:
    """The document with a merge patch applied: null removes, objects merge, the rest replaces.

    Raises ApiError 400 when the patch is not an object, since an API object is one.

    >>> merge_patch({"a": 1, "b": {"c": 1, "d": 2}}, {"a": None, "b": {"c": 3}})
    {'b': {'c': 3, 'd': 2}}
    """
    if not isinstance(patch, dict):
        raise bad_request(f"Invalid JSON merge patch: expected an object, got {_name(patch)}")
    return _merge(document, patch)


def _merge(target: Any, patch: dict[str, Any]) -> dict[str, Any]:
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            merged[key] = _merge(merged.get(key), value)
        else:
            merged[key] = value
    return merged


def _name(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
