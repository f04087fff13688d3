"""CustomResourceDefinitions themselves (apiextensions ``pkg/apis/apiextensions/validation``)."""

from __future__ import annotations

from typing import Any

from kubarium.api import formats
from kubarium.api.cel.rules import compile_rules
from kubarium.api.crds.definition import is_simple_path
from kubarium.api.crds.schema import StructuralSource, builtin_reference, root_schema
from kubarium.api.crds.values import check_value
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.schema import builtin_schemas
from kubarium.api.tables.jsonpath import JsonPathError, compile_path
from kubarium.api.validation.report import Report

_SPEC: Path = (None, "spec")
_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
_FORBIDDEN = (
    "$schema",
    "definitions",
    "dependencies",
    "id",
    "patternProperties",
    "additionalItems",
)
MAX_SELECTABLE_FIELDS = 8
MAX_DEPTH = 100


def check_definition(document: Document, report: Report) -> None:
    """A definition on creation and update."""
    spec = document.get("spec") or {}
    group = spec.get("group") or ""
    names = spec.get("names") or {}
    plural = names.get("plural") or ""
    name = (document.get("metadata") or {}).get("name") or ""
    wanted = f"{plural}.{group}"
    if name and name != wanted:
        detail = 'must be spec.names.plural+"."+spec.group'
        report.invalid(at(None, "metadata", "name"), name, detail)
    _check_group(group, report)
    if not spec.get("scope"):
        report.required(at(_SPEC, "scope"))
    _check_names(names, at(_SPEC, "names"), report)
    _check_versions(spec, report)


def _check_group(group: str, report: Report) -> None:
    path = at(_SPEC, "group")
    if not group:
        report.required(path)
    elif report.format(path, group, formats.dns_subdomain) and "." not in group:
        report.invalid(path, group, "should be a domain with at least one dot")


def _check_names(names: Document, path: Path, report: Report) -> None:
    for key in ("plural", "singular", "kind", "listKind"):
        value = names.get(key) or ""
        if not value:
            if key in ("plural", "kind"):
                report.required(at(path, key))
            continue
        text = value.lower() if key in ("kind", "listKind") else value
        report.format(at(path, key), text, formats.dns1035_label)
    for key in ("shortNames", "categories"):
        for index, value in enumerate(names.get(key) or ()):
            report.format(at(path, key, index), value, formats.dns1035_label)
    if names.get("kind") and names.get("kind") == names.get("listKind"):
        detail = "kind and listKind may not be the same"
        report.invalid(at(path, "listKind"), names["listKind"], detail)


def _check_versions(spec: Document, report: Report) -> None:
    versions = spec.get("versions") or []
    path = at(_SPEC, "versions")
    if not versions:
        report.required(path, "must have at least one version")
        return
    stored = [version for version in versions if version.get("storage")]
    if len(stored) != 1:
        detail = "must have exactly one version marked as storage version"
        report.invalid(path, [v.get("name") for v in versions], detail)
    seen: set[Any] = set()
    for index, version in enumerate(versions):
        place = at(path, index)
        if version.get("name"):
            report.format(at(place, "name"), version["name"], formats.dns1035_label)
            if version["name"] in seen:
                report.invalid(path, version["name"], "must contain unique version names")
            seen.add(version["name"])
        else:
            report.required(at(place, "name"), "must be a DNS-1035 label")
        _check_version(version, place, report)


def _check_version(version: Document, path: Path, report: Report) -> None:
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    place = at(path, "schema", "openAPIV3Schema")
    if schema is None:
        report.required(place, "schemas are required")
    else:
        before = len(report.errors)
        _check_root(schema, place, report)
        if len(report.errors) == before:
            report.errors += compile_rules(root_schema(schema), _text(place)).errors
    _check_subresources(version.get("subresources") or {}, at(path, "subresources"), report)
    for index, column in enumerate(version.get("additionalPrinterColumns") or ()):
        _check_column(column, at(path, "additionalPrinterColumns", index), report)
    fields = version.get("selectableFields") or []
    place = at(path, "selectableFields")
    if len(fields) > MAX_SELECTABLE_FIELDS:
        report.too_many(place, len(fields), MAX_SELECTABLE_FIELDS)
    for index, entry in enumerate(fields):
        if not is_simple_path(entry.get("jsonPath")):
            detail = "must be a valid simple JSON path (.spec.field)"
            report.invalid(at(place, index, "jsonPath"), entry.get("jsonPath", ""), detail)


def _text(path: Path) -> str:
    report = Report()
    report.required(path)
    return report.errors[0].path


def _check_subresources(subresources: Document, path: Path, report: Report) -> None:
    scale = subresources.get("scale")
    if scale is None:
        return
    for key, prefix in (("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")):
        value = scale.get(key) or ""
        if value and not (is_simple_path(value) and value.startswith(prefix)):
            detail = f"should be a json path under {prefix.rstrip('.')}"
            report.invalid(at(path, "scale", key), value, detail)


def _check_column(column: Document, path: Path, report: Report) -> None:
    type_ = column.get("type")
    if type_ and type_ not in _COLUMN_TYPES:
        shown = ",".join(_COLUMN_TYPES)
        report.invalid(at(path, "type"), type_, f"must be one of {shown}")
    format_ = column.get("format")
    if format_ and format_ not in _COLUMN_FORMATS:
        shown = ",".join(_COLUMN_FORMATS)
        report.invalid(at(path, "format"), format_, f"must be one of {shown}")
    json_path = column.get("jsonPath")
    if json_path:
        try:
            compile_path(json_path)
        except JsonPathError as error:
            report.invalid(at(path, "jsonPath"), json_path, str(error))


# --- structural schemas --------------------------------------------------------------------------


def _check_root(schema: Any, path: Path, report: Report) -> None:
    if isinstance(schema, dict) and schema.get("type") != "object":
        detail = "must be object at the root"
        if schema.get("type"):
            report.invalid(at(path, "type"), schema["type"], detail)
        else:
            report.required(at(path, "type"), "must not be empty at the root")
    _check_node(schema, path, report, 0)


def _check_node(schema: Any, path: Path, report: Report, depth: int) -> None:
    if not isinstance(schema, dict):
        report.invalid(path, schema, "must be a schema object")
        return
    if depth > MAX_DEPTH:
        report.forbidden(path, f"must not nest deeper than {MAX_DEPTH} levels")
        return
    _check_node_type(schema, path, report)
    for key in _FORBIDDEN:
        if schema.get(key) is not None:
            report.forbidden(at(path, key), f"{key} is not supported")
    if not _well_shaped(schema, path, report):
        return
    for name, child in (schema.get("properties") or {}).items():
        _check_node(child, at(path, "properties", name), report, depth + 1)
    if isinstance(schema.get("additionalProperties"), dict):
        place = at(path, "additionalProperties")
        _check_node(schema["additionalProperties"], place, report, depth + 1)
        if schema.get("properties"):
            report.forbidden(place, "additionalProperties and properties are mutual exclusive")
    if schema.get("items") is not None:
        _check_node(schema["items"], at(path, "items"), report, depth + 1)
    _check_list(schema, path, report)
    _check_default(schema, path, report)


def _check_node_type(schema: Document, path: Path, report: Report) -> None:
    type_ = schema.get("type")
    reference = schema.get("$ref")
    if reference is not None:
        name = builtin_reference(schema)
        if not name or builtin_schemas().definition(name) is None:
            report.forbidden(at(path, "$ref"), "$ref is not supported")
        return
    if not type_:
        if not any(
            schema.get(key)
            for key in ("x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields")
        ):
            report.required(at(path, "type"), "must not be empty for specified object fields")
    elif type_ not in _TYPES:
        report.not_supported(at(path, "type"), type_, _TYPES)
    if type_ == "array" and schema.get("items") is None:
        report.required(at(path, "items"), "must be specified")


_OBJECTS = ("properties",)
_LISTS = ("required", "enum", "allOf", "anyOf", "oneOf", "x-kubernetes-list-map-keys")


def _well_shaped(schema: Document, path: Path, report: Report) -> bool:
    """Free-form JSON may hold anything: what is walked must be of the right type."""
    fine = True
    for key in _OBJECTS:
        if not isinstance(schema.get(key) or {}, dict):
            report.invalid(at(path, key), schema[key], "must be an object")
            fine = False
    for key in (*_LISTS, "x-kubernetes-validations"):
        if not isinstance(schema.get(key) or [], list):
            report.invalid(at(path, key), schema[key], "must be an array")
            fine = False
    for key in ("allOf", "anyOf", "oneOf"):
        for index, branch in enumerate(schema.get(key) or () if fine else ()):
            if not isinstance(branch, dict):
                report.invalid(at(path, key, index), branch, "must be a schema object")
                fine = False
    return fine


def _check_list(schema: Document, path: Path, report: Report) -> None:
    list_type = schema.get("x-kubernetes-list-type")
    keys = schema.get("x-kubernetes-list-map-keys") or []
    if list_type is None:
        return
    place = at(path, "x-kubernetes-list-type")
    if list_type not in ("atomic", "map", "set"):
        report.not_supported(place, list_type, ("atomic", "map", "set"))
    if schema.get("type") != "array":
        report.invalid(
            at(path, "type"),
            schema.get("type", ""),
            "must be array if x-kubernetes-list-type is specified",
        )
    if list_type != "map":
        return
    place = at(path, "x-kubernetes-list-map-keys")
    if not keys:
        report.required(place, "must not be empty if x-kubernetes-list-type is map")
    items = schema.get("items")
    properties = (items if isinstance(items, dict) else {}).get("properties") or {}
    if isinstance(items, dict) and builtin_reference(items):
        referred = builtin_schemas().definition(builtin_reference(items))
        properties = {key: {} for key in keys if referred is not None and referred.field(key)}
    for index, key in enumerate(keys):
        if isinstance(properties, dict) and key not in properties:
            detail = "must be one of the properties of items"
            report.invalid(at(place, index), key, detail)


def _check_default(schema: Document, path: Path, report: Report) -> None:
    if "default" not in schema or report.errors:
        return
    errors = check_value(StructuralSource().node(schema), schema["default"], at(path, "default"))
    report.errors += errors


def check_definition_update(new: Document, old: Document, report: Report) -> None:
    """Group, scope, plural and kind of a definition stay."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    for field in ("group", "scope"):
        report.immutable(at(_SPEC, field), after.get(field), before.get(field))
    for field in ("plural", "kind"):
        values = [(spec.get("names") or {}).get(field) for spec in (after, before)]
        report.immutable(at(_SPEC, "names", field), values[0], values[1])
    stored = (old.get("status") or {}).get("storedVersions") or []
    present = {version.get("name") for version in after.get("versions") or ()}
    for index, name in enumerate(stored):
        if name not in present:
            path = at(None, "status", "storedVersions", index)
            report.invalid(
                path, name, "missing from spec.versions; must be present in spec.versions"
            )
