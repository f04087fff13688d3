"""What the writer of a new object comes to own, remembered by the shape of such objects.

Pods of a template, their claims and a component's events come by the thousand and differ in names
and texts only, which decide nothing here. Their shape, of names alone, is found in a tenth of the
time that it takes to work the set out (:func:`kubarium.api.managed_fields.typed.compare`).
"""

from __future__ import annotations

from collections.abc import Hashable

from kubarium.api.managed_fields import fieldset
from kubarium.api.managed_fields.fieldset import FieldSet
from kubarium.api.managed_fields.typed import (
    STRIPPED_META,
    added,
    compare,
    member_schema,
    single_leaf,
)
from kubarium.api.resource import Document
from kubarium.api.schema import DEFINITION_PREFIX, Schema
from kubarium.api.templates import TEMPLATED_DEFINITIONS, Remembered, content_of

_SETS: Remembered[FieldSet] = Remembered()

_OWNERS = "ownerReferences"  # the one part of most shapes that names another object


def created_set(document: Document, schema: Schema | None) -> FieldSet:
    """The paths that a new object sets, apart from the server's: ``compare({}, document)``.

    Shared and not to be changed; equal sets are one object where their shape is remembered.
    """
    shape = _shape(document, schema)
    if shape is None:
        return fieldset.intern(compare({}, document, schema).changed)
    metadata = document.get("metadata") or {}
    owners = metadata.get(_OWNERS)
    known = _SETS.get(shape)
    if known is None:
        known = compare({}, document, schema).changed
        _SETS.put(shape, known)
    elif owners:  # its place is that of the owners by which the shape became known
        fields = added({_OWNERS: owners}, member_schema(schema, "metadata"))
        known = {**known, "f:metadata": {**known["f:metadata"], **fields}}
    return known


def _shape(document: Document, schema: Schema | None) -> Hashable:
    """What a new object's set depends on, its owners apart; None if that is more than names."""
    if schema is None or not schema.name.startswith(DEFINITION_PREFIX):
        return None
    parts: list[Hashable] = [schema.name]
    for name, value in document.items():
        parts.append(name)
        if not isinstance(value, (dict, list)):
            continue
        if name == "metadata" and isinstance(value, dict):
            parts.append(_metadata_shape(value))
        elif name == "spec" and schema.name in TEMPLATED_DEFINITIONS:
            content = content_of(value)
            if content is None:
                return None
            parts.append(content)
        elif not single_leaf(schema, name):
            return None
    return tuple(parts)


def _metadata_shape(metadata: Document) -> Hashable:
    """Names of labels and annotations, but all of a list, whose items are paths."""
    parts: list[Hashable] = []
    for name, value in metadata.items():
        if name in STRIPPED_META:
            continue
        parts.append(name)
        if name == _OWNERS and value:
            parts.append(True)
        elif isinstance(value, (dict, list)):
            parts.append(tuple(map(str, value)))
    return tuple(parts)
