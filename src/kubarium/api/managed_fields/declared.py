"""Whether an applied configuration can be merged at all: its fields are known, its items distinct.

Unknown fields are dropped from other writes; of an applied one the manager would come to own what
is not there. Source: structured-merge-diff ``typed/validate.go``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from kubarium.api.catalog import Kind
from kubarium.api.resource import Document
from kubarium.api.schema import Schema
from kubarium.base.errors import ApiError


def check_declared(kind: Kind, document: Document) -> None:
    """ApiError 500, as upstream, naming every field that ``kind`` does not have and every item that
    stands twice in a list of keys."""
    found = list(_complaints(kind.schema, document, ""))
    if not found:
        return
    said = found[0] if len(found) == 1 else "\n  ".join(["errors:", *found])
    metadata, version = document.get("metadata") or {}, kind.resource.api_version
    group_version = version if "/" in version else f"/{version}"
    what = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}; {group_version}"
    raise ApiError(
        500,
        "",
        f"failed to create typed patch object ({what}, Kind={kind.resource.kind}): {said}",
    )


def _complaints(schema: Schema, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        fields, values = schema.fields(), schema.additional
        for key, item in value.items():
            child = fields.get(key) or values
            if child is not None:
                yield from _complaints(child, item, f"{path}.{key}")
            elif schema.has_fields and not schema.preserve_unknown:
                yield f"{path}.{key}: field not declared in schema"
    elif isinstance(value, list) and schema.items is not None:
        seen: set[str] = set()
        for index, item in enumerate(value):
            label = _label(schema, item)
            if label and label in seen:
                yield f"{path}: duplicate entries for key {label}"
            seen.add(label)
            yield from _complaints(schema.items, item, f"{path}{label or f'[{index}]'}")


def _label(schema: Schema, item: Any) -> str:
    """``[name="main"]`` of an item that has all keys of its list, else ""."""
    keys = schema.list_map_keys if schema.list_type == "map" else ()
    if not keys or not isinstance(item, dict) or any(key not in item for key in keys):
        return ""
    return "[" + ",".join(f"{key}={json.dumps(item[key])}" for key in sorted(keys)) + "]"
