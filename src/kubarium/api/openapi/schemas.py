"""Component schemas: the OpenAPI form of :class:`kubarium.api.schema.Schema` nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kubarium.api.catalog import Kind
from kubarium.api.openapi.descriptions import TypeDescription, describe
from kubarium.api.schema import Schema, builtin_schemas

LIST_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"
OBJECT_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
DELETE_OPTIONS = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"
STATUS = "io.k8s.apimachinery.pkg.apis.meta.v1.Status"
SCALE = "io.k8s.api.autoscaling.v1.Scale"
PATCH = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch"

_UNDESCRIBED = TypeDescription()
Json = dict[str, Any]


def definition_name(kind: Kind) -> str:
    """The component of a kind: upstream's, or the reversed group for a custom one.

    ``jobset.x-k8s.io/v1alpha2`` JobSet is ``io.x-k8s.jobset.v1alpha2.JobSet``.
    """
    if kind.schema.name:
        return kind.schema.name
    resource = kind.resource
    reverse = ".".join(reversed(resource.group.split(".")))
    return f"{reverse}.{resource.version}.{resource.kind}"


def group_version_kind(kind: Kind, name: str = "") -> Json:
    """The value that clients match ``x-kubernetes-group-version-kind`` with."""
    resource = kind.resource
    return {"group": resource.group, "kind": name or resource.kind, "version": resource.version}


@dataclass(slots=True)
class Components:
    """Collects the definitions that documents refer to.

    ``version`` is 2 or 3: where references point to and how unions are written.
    """

    version: int
    described: bool = True
    rendered: dict[str, Json] = field(default_factory=dict)

    def reference(self, name: str) -> Json:
        """A reference to a definition, which is rendered too if it is a built-in one."""
        if name not in self.rendered:
            schema = builtin_schemas().definition(name)
            if schema is not None:
                self._define(name, schema)
        return self._pointer(name)

    def _pointer(self, name: str) -> Json:
        prefix = "#/definitions/" if self.version == 2 else "#/components/schemas/"
        return {"$ref": prefix + name}

    def add_kind(self, kind: Kind) -> None:
        """Render a kind and its list."""
        name = definition_name(kind)
        if name not in self.rendered:
            self._define(name, kind.schema)
        self._mark(name, group_version_kind(kind))
        if kind.custom:
            self._add_standard_fields(name)
        if "list" in kind.verbs:
            self._add_list(kind, name)

    def _add_standard_fields(self, name: str) -> None:
        """Custom schemas leave out what every object has."""
        properties = self.rendered[name].setdefault("properties", {})
        properties.setdefault("apiVersion", {"type": "string"})
        properties.setdefault("kind", {"type": "string"})
        properties["metadata"] = self._wrapped(OBJECT_META, {})

    def _mark(self, name: str, gvk: Json) -> None:
        marks = self.rendered[name].setdefault("x-kubernetes-group-version-kind", [])
        if gvk not in marks:
            marks.append(gvk)

    def _add_list(self, kind: Kind, name: str) -> None:
        list_name = name.removesuffix(kind.resource.kind) + kind.list_kind
        self.rendered[list_name] = {
            "description": f"{kind.list_kind} is a list of {kind.resource.kind}",
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"},
                "items": {"type": "array", "items": self._wrapped(name, {})},
                "kind": {"type": "string"},
                "metadata": self._wrapped(LIST_META, {}),
            },
        }
        self._mark(list_name, group_version_kind(kind, kind.list_kind))

    def list_reference(self, kind: Kind) -> Json:
        """A reference to the list of a kind."""
        name = definition_name(kind)
        return self._pointer(name.removesuffix(kind.resource.kind) + kind.list_kind)

    def _define(self, name: str, schema: Schema) -> None:
        self.rendered[name] = {}  # stands for itself while its children are rendered
        texts = describe(name) if self.described and schema.name else _UNDESCRIBED
        document = self._body(schema, texts)
        if texts.text:
            document = {"description": texts.text, **document}
        self.rendered[name] = document

    def _child(self, schema: Schema, description: str = "") -> Json:
        """A schema in a place: a reference if it has a name."""
        if not schema.name:
            document = self._body(schema, _UNDESCRIBED)
        else:
            extensions = _extensions(schema)
            if description:
                extensions = {"description": description, **extensions}
            return self._wrapped(schema.name, extensions)
        return {"description": description, **document} if description else document

    def _wrapped(self, name: str, siblings: Json) -> Json:
        """A reference with siblings, which OpenAPI 3.0 allows only around an ``allOf``."""
        reference = self.reference(name)
        if self.version == 2 or not siblings:
            return reference | siblings
        return {**siblings, "allOf": [reference]}

    def _body(self, schema: Schema, texts: TypeDescription) -> Json:
        document = self._type(schema)
        properties = {
            name: self._child(child, texts.fields.get(name, ""))
            for name, child in sorted(schema.fields().items())
        }
        if properties:
            document["properties"] = properties
        if schema.required:
            document["required"] = list(schema.required)
        if schema.items is not None:
            document["items"] = self._child(schema.items)
        if schema.additional is not None:
            document["additionalProperties"] = self._child(schema.additional)
        document |= _constraints(schema)
        return document | _extensions(schema)

    def _type(self, schema: Schema) -> Json:
        if schema.quantity and self.version == 3:
            return {"oneOf": [{"type": "string"}, {"type": "number"}]}
        if schema.int_or_string:
            if schema.name and self.version == 2:
                return {"type": "string", "format": "int-or-string"}
            if schema.name:
                union = [{"type": "integer"}, {"type": "string"}]
                return {"format": "int-or-string", "oneOf": union}
            return {"x-kubernetes-int-or-string": True}
        document: Json = {"type": schema.type} if schema.type else {}
        if schema.format and not schema.quantity:
            document["format"] = schema.format
        return document


_CONSTRAINTS = {
    "minimum": "minimum",
    "maximum": "maximum",
    "multiple_of": "multipleOf",
    "min_length": "minLength",
    "max_length": "maxLength",
    "min_items": "minItems",
    "max_items": "maxItems",
    "min_properties": "minProperties",
    "max_properties": "maxProperties",
}


def _constraints(schema: Schema) -> Json:
    found = {
        name: value
        for attribute, name in _CONSTRAINTS.items()
        if (value := getattr(schema, attribute)) is not None
    }
    if schema.pattern:
        found["pattern"] = schema.pattern
    if schema.enum:
        found["enum"] = list(schema.enum)
    if schema.has_default:
        found["default"] = schema.default
    if schema.nullable:
        found["nullable"] = True
    return found


def _extensions(schema: Schema) -> Json:
    found: Json = {}
    if schema.list_type:
        found["x-kubernetes-list-type"] = schema.list_type
    if schema.list_map_keys:
        found["x-kubernetes-list-map-keys"] = list(schema.list_map_keys)
    if schema.map_type:
        found["x-kubernetes-map-type"] = schema.map_type
    if schema.patch_strategy:
        found["x-kubernetes-patch-strategy"] = ",".join(schema.patch_strategy)
    if schema.patch_merge_key:
        found["x-kubernetes-patch-merge-key"] = schema.patch_merge_key
    if schema.preserve_unknown and schema.type == "object" and not schema.name:
        found["x-kubernetes-preserve-unknown-fields"] = True
    if schema.embedded_resource:
        found["x-kubernetes-embedded-resource"] = True
    if schema.validations:
        found["x-kubernetes-validations"] = list(schema.validations)
    return found
