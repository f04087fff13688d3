"""OpenAPI v3 structural schemas as :class:`kubarium.api.schema.Schema` nodes.

Source of the rules: apiextensions-apiserver ``pkg/apiserver/schema``. ``$ref`` to a definition of
Kubernetes itself (``#/definitions/io.k8s.api.core.v1.PodSpec``) is understood: the bundled
definitions use it where upstream's copy in the whole pod schema.
"""

from __future__ import annotations

from typing import Any

from kubarium.api.schema import DEFINITION_PREFIX, Schema, builtin_schemas

REFERENCE_PREFIX = "#/definitions/"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
Structural = dict[str, Any]

_EXTENSIONS = {
    "x-kubernetes-int-or-string": "int_or_string",
    "x-kubernetes-preserve-unknown-fields": "preserve_unknown",
    "x-kubernetes-embedded-resource": "embedded_resource",
    "x-kubernetes-list-type": "list_type",
    "x-kubernetes-map-type": "map_type",
    "format": "format",
    "nullable": "nullable",
    "pattern": "pattern",
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusiveMinimum": "exclusive_minimum",
    "exclusiveMaximum": "exclusive_maximum",
    "multipleOf": "multiple_of",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_items",
    "maxItems": "max_items",
    "minProperties": "min_properties",
    "maxProperties": "max_properties",
    "uniqueItems": "unique_items",
}
_TUPLES = {
    "required": "required",
    "enum": "enum",
    "x-kubernetes-list-map-keys": "list_map_keys",
    "x-kubernetes-validations": "validations",
}


def builtin_reference(node: Structural) -> str:
    """The definition that a node's ``$ref`` names, or ""."""
    reference = node.get("$ref")
    if isinstance(reference, str) and reference.startswith(REFERENCE_PREFIX + DEFINITION_PREFIX):
        return reference.removeprefix(REFERENCE_PREFIX)
    return ""


class StructuralSource:
    """Builds nodes from pieces of one structural schema."""

    def node(self, reference: Any) -> Schema:
        """The node of a piece; children stay unresolved until somebody asks."""
        piece: Structural = reference if isinstance(reference, dict) else {}
        name = builtin_reference(piece)
        found = builtin_schemas().definition(name) if name else None
        if found is not None:
            return self._with_rules(found, piece)
        return self._build(piece)

    def _with_rules(self, found: Schema, piece: Structural) -> Schema:
        if "x-kubernetes-validations" not in piece:
            return found
        node = found.annotated_copy()
        node.validations = tuple(piece["x-kubernetes-validations"])
        return node

    def _build(self, piece: Structural) -> Schema:
        node = Schema(self, piece.get("type", ""))
        for key, slot in _EXTENSIONS.items():
            if key in piece:
                setattr(node, slot, piece[key])
        for key, slot in _TUPLES.items():
            if key in piece:
                setattr(node, slot, tuple(piece[key]))
        if "default" in piece:
            node.default, node.has_default = piece["default"], True
        extra = piece.get("additionalProperties")
        if extra is True:
            extra = {"x-kubernetes-preserve-unknown-fields": True}
        node.define(
            fields=piece.get("properties", {}),
            items=piece.get("items"),
            additional=extra if isinstance(extra, dict) else None,
        )
        node.all_of = self._branches(piece, "allOf")
        node.any_of = self._branches(piece, "anyOf")
        node.one_of = self._branches(piece, "oneOf")
        if isinstance(piece.get("not"), dict):
            node.not_ = self._build(piece["not"])
        return node

    def _branches(self, piece: Structural, key: str) -> tuple[Schema, ...]:
        return tuple(self._build(branch) for branch in piece.get(key, ()))


def root_schema(structural: Structural) -> Schema:
    """The schema of a whole custom resource: the definition's, and what every object has."""
    properties = structural.get("properties", {})
    common: Structural = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"$ref": REFERENCE_PREFIX + OBJECT_META},
    }
    return StructuralSource().node(
        structural | {"type": "object", "properties": properties | common}
    )
