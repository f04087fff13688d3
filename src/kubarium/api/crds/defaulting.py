"""Defaults of a structural schema (apiextensions: ``defaulting/algorithm.go``)."""

from __future__ import annotations

from typing import Any

from kubarium.api.resource import Document, copy_document
from kubarium.api.schema import Schema


def apply_defaults(schema: Schema, document: Document) -> None:
    """Fill in defaults in place. A null where null is not allowed gives way to the default."""
    _object(schema, document)


def _value(schema: Schema, value: Any) -> None:
    if isinstance(value, dict):
        _object(schema, value)
    elif isinstance(value, list) and schema.items is not None:
        for item in value:
            _value(schema.items, item)


def _object(schema: Schema, value: dict[str, Any]) -> None:
    for name, child in schema.fields().items():
        if name not in value:
            if child.has_default:
                value[name] = copy_document(child.default)
        elif value[name] is None and not child.nullable:
            if child.has_default:
                value[name] = copy_document(child.default)
            elif child.type:
                del value[name]  # as upstream: null on a non-nullable field counts as absent
        if name in value:
            _value(child, value[name])
    values = schema.additional
    if values is not None:
        for name, item in value.items():
            if name in schema.fields():
                continue
            if item is None and not values.nullable and values.has_default:
                value[name] = copy_document(values.default)
            _value(values, value[name])
