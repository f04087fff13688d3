"""What the schema alone demands of built-in kinds: required fields and closed value sets."""

from __future__ import annotations

from typing import Any

from kubarium.api.paths import Key, Path
from kubarium.api.schema import Schema
from kubarium.api.validation.demands import Demands, choices_of, demands_of
from kubarium.api.validation.report import Report


def check_structure(
    schema: Schema, value: Any, path: Path, report: Report, skip: tuple[str, ...] = ()
) -> None:
    """Report missing required fields and unsupported values below ``value``.

    ``skip`` names fields of this level that are not looked into (metadata, status).
    """
    if isinstance(value, dict):
        _check_object(schema, value, path, report, skip)
    elif isinstance(value, list):
        items = schema.items
        if items is not None and (items.has_fields or items.enum):
            for index, item in enumerate(value):
                if items.enum:
                    if item not in items.enum and item != "":
                        report.not_supported((path, index), item, filter(None, items.enum))
                else:
                    check_structure(items, item, (path, index), report)


def _check_object(
    schema: Schema, value: dict[str, Any], path: Path, report: Report, skip: tuple[str, ...]
) -> None:
    if not schema.has_fields:
        values = schema.additional
        if values is not None and values.has_fields:
            for key, item in value.items():
                check_structure(values, item, (path, Key(key)), report)
        return
    demands = demands_of(schema)
    fields = schema.fields()
    for field in demands.required:
        found = value.get(field)
        if found is None or found == "" or (found == [] and fields[field].type == "array"):
            _report_missing(fields[field], (path, field), report)
    for key, item in value.items():
        child = fields.get(key)
        # A plain text or number of an open set, which is most of them, has nothing to check.
        if child is None or not (child.enum or isinstance(item, (dict, list))):
            continue
        if key in skip or key in demands.own:
            continue
        if not child.enum:
            check_structure(child, item, (path, key), report)
        elif item not in child.enum or item == "":
            _check_choice(schema, key, child, item, path, demands, report)


def _report_missing(schema: Schema, path: Path, report: Report) -> None:
    """In Go a part that is left out is there and empty: what is required in it is missing."""
    if schema.has_fields and schema.required:
        check_structure(schema, {}, path, report)
    else:
        report.required(path)


def _check_choice(
    schema: Schema,
    field: str,
    child: Schema,
    item: Any,
    path: Path,
    demands: Demands,
    report: Report,
) -> None:
    if item != "" or field in demands.never_empty:
        report.not_supported((path, field), item, choices_of(schema, field, child))
