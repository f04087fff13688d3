"""What the schema alone demands of built-in kinds: required fields and closed value sets.

In Go a missing string is the empty string, so ``required`` bites on text, lists and objects only;
numbers and booleans have their own rules where zero is not allowed.
"""

from __future__ import annotations

from typing import Any

from kubarium.api.paths import Key, Path
from kubarium.api.schema import Schema
from kubarium.api.validation.report import Report

_TEXTUAL = ("string", "array", "object")
# (definition, field): the schema calls them required although their zero value is legitimate, or
# a rule of their own complains in better words.
_MAY_BE_EMPTY = frozenset(
    (
        ("core.v1.HTTPHeader", "value"),
        ("core.v1.Sysctl", "value"),
        ("core.v1.LimitRangeSpec", "limits"),
        ("core.v1.PodSpec", "containers"),
        ("core.v1.NodeSelector", "nodeSelectorTerms"),
        ("core.v1.PodAffinityTerm", "topologyKey"),
        ("core.v1.Toleration", "operator"),
        ("core.v1.NodeSelectorRequirement", "operator"),
        ("core.v1.PreferredSchedulingTerm", "preference"),
        ("core.v1.Binding", "target"),
        ("storage.v1.CSINodeSpec", "drivers"),
        ("storage.v1.CSINode", "spec"),
        ("rbac.v1.PolicyRule", "verbs"),
        ("apps.v1.ControllerRevision", "data"),
        ("resource.v1.DeviceTaint", "effect"),
        ("resource.v1beta2.DeviceTaint", "effect"),
        ("resource.v1beta1.DeviceTaint", "effect"),
        ("resource.v1.DeviceCapacity", "value"),
        ("resource.v1beta2.DeviceCapacity", "value"),
        ("resource.v1beta1.DeviceCapacity", "value"),
        ("scheduling.v1alpha2.WorkloadSpec", "podGroupTemplates"),
    )
)
_META_REQUIREMENT = "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelectorRequirement"
_NEVER = ("metadata",)
_API = "io.k8s.api."
_required_by_name: dict[str, tuple[str, ...]] = {}


def _required(schema: Schema) -> tuple[str, ...]:
    """The fields whose absence is an error; worked out once for each definition."""
    name = schema.name
    known = _required_by_name.get(name) if name else None
    if known is not None:
        return known
    short = name.removeprefix(_API)
    if name == _META_REQUIREMENT or short.startswith("io.k8s.apiextensions"):
        found: tuple[str, ...] = ()
    else:
        found = tuple(
            field
            for field in schema.required
            if field not in _NEVER
            and (short, field) not in _MAY_BE_EMPTY
            and (child := schema.field(field)) is not None
            and child.type in _TEXTUAL
        )
    if name:
        _required_by_name[name] = found
    return found


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
                _check_item(items, item, (path, index), report)


def _check_object(
    schema: Schema, value: dict[str, Any], path: Path, report: Report, skip: tuple[str, ...]
) -> None:
    if not schema.has_fields:
        values = schema.additional
        if values is not None and values.has_fields:
            for key, item in value.items():
                check_structure(values, item, (path, Key(key)), report)
        return
    for field in _required(schema):
        found = value.get(field)
        if found is None or found == "" or found == []:
            report.required((path, field))
    fields = schema.fields()
    for key, item in value.items():
        child = fields.get(key)
        # A plain text or number of an open set, which is most of them, has nothing to check.
        if child is None or not (child.enum or isinstance(item, (dict, list))) or key in skip:
            continue
        _check_item(child, item, (path, key), report)


def _check_item(schema: Schema, item: Any, path: Path, report: Report) -> None:
    if schema.enum:
        if item not in schema.enum and item != "":
            report.not_supported(path, item, [choice for choice in schema.enum if choice])
    elif isinstance(item, (dict, list)):
        check_structure(schema, item, path, report)
