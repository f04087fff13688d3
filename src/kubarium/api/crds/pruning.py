"""Removing what a structural schema does not name (``x-kubernetes-preserve-unknown-fields``)."""

from __future__ import annotations

from typing import Any

from kubarium.api.paths import Path, path_text
from kubarium.api.resource import Document
from kubarium.api.schema import Schema

_OBJECT_FIELDS = frozenset(("apiVersion", "kind", "metadata"))


def prune(schema: Schema, document: Document) -> list[str]:
    """Drop unknown fields in place and return their paths. ``metadata`` is not looked into."""
    unknown: list[str] = []
    _prune(schema, document, None, unknown, is_resource=True)
    return unknown


def _prune(
    schema: Schema, value: Any, path: Path, unknown: list[str], *, is_resource: bool = False
) -> None:
    if isinstance(value, dict):
        _prune_object(schema, value, path, unknown, is_resource or schema.embedded_resource)
    elif isinstance(value, list) and schema.items is not None:
        for index, item in enumerate(value):
            _prune(schema.items, item, (path, index), unknown)


def _prune_object(
    schema: Schema, value: dict[str, Any], path: Path, unknown: list[str], is_resource: bool
) -> None:
    fields, values = schema.fields(), schema.additional
    dropped = []
    for key, item in value.items():
        if is_resource and key in _OBJECT_FIELDS:
            continue
        child = fields.get(key) or values
        if child is not None:
            _prune(child, item, (path, key), unknown)
        elif not schema.preserve_unknown:
            dropped.append(key)
            unknown.append(path_text((path, key)))
    for key in dropped:
        del value[key]
