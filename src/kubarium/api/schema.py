"""The shape of a document: one node type for built-in kinds and CustomResourceDefinitions alike.

Built-in nodes come from the distilled data file (``scripts/distil_schema.py``), custom ones from a
structural schema (``api.crds``). Both resolve children on first use: a schema that nobody looks
into costs nothing, and recursive definitions need no special case.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any, Protocol

import orjson

KUBERNETES_VERSION = "1.37"
DEFINITION_PREFIX = "io.k8s."
_TYPES = {
    "s": "string",
    "i": "integer",
    "n": "number",
    "b": "boolean",
    "o": "object",
    "a": "array",
    "": "",
}
NO_FIELDS: Mapping[str, Any] = {}


class Source(Protocol):
    """Gives the node for a child reference: an index, or a piece of a structural schema."""

    def node(self, reference: Any) -> Schema: ...


class Schema:
    """What may stand at one place of a document.

    ``type`` is "object", "array", "string", "integer", "number", "boolean", or "" for any value.
    ``name`` is the definition's name (``io.k8s.api.core.v1.PodSpec``) or "". Annotations such as
    ``list_type`` ("", "atomic", "set", "map") carry the meaning of their ``x-kubernetes-…``
    namesakes. ``quantity`` marks quantities, ``nullable`` allows null (custom resources only:
    built-in kinds treat null as absent). Nodes are shared and must not be changed.
    """

    __slots__ = (
        "_fields",
        "_fields_complete",
        "_items",
        "_raw_additional",
        "_raw_fields",
        "_raw_items",
        "_source",
        "_values",
        "all_of",
        "any_of",
        "default",
        "embedded_resource",
        "enum",
        "exclusive_maximum",
        "exclusive_minimum",
        "format",
        "has_default",
        "int_or_string",
        "list_map_keys",
        "list_type",
        "map_type",
        "max_items",
        "max_length",
        "max_properties",
        "maximum",
        "min_items",
        "min_length",
        "min_properties",
        "minimum",
        "multiple_of",
        "name",
        "not_",
        "nullable",
        "one_of",
        "patch_merge_key",
        "patch_strategy",
        "pattern",
        "preserve_unknown",
        "quantity",
        "required",
        "type",
        "unique_items",
        "validations",
    )

    def __init__(self, source: Source, type_: str = "", name: str = "") -> None:
        self.type = type_
        self.name = name
        self.required: tuple[str, ...] = ()
        self.enum: tuple[Any, ...] = ()
        self.format = ""
        self.default: Any = None
        self.has_default = False
        self.nullable = False
        self.int_or_string = False
        self.quantity = False
        self.preserve_unknown = False
        self.embedded_resource = False
        self.list_type = ""
        self.list_map_keys: tuple[str, ...] = ()
        self.map_type = ""
        self.patch_strategy: tuple[str, ...] = ()
        self.patch_merge_key = ""
        self.validations: tuple[dict[str, Any], ...] = ()
        self.minimum: float | None = None
        self.maximum: float | None = None
        self.exclusive_minimum = False
        self.exclusive_maximum = False
        self.multiple_of: float | None = None
        self.min_length: int | None = None
        self.max_length: int | None = None
        self.min_items: int | None = None
        self.max_items: int | None = None
        self.min_properties: int | None = None
        self.max_properties: int | None = None
        self.pattern = ""
        self.unique_items = False
        # Value validations of custom schemas: they add constraints, never fields.
        self.all_of: tuple[Schema, ...] = ()
        self.any_of: tuple[Schema, ...] = ()
        self.one_of: tuple[Schema, ...] = ()
        self.not_: Schema | None = None
        self._source = source
        self._raw_fields: Mapping[str, Any] = NO_FIELDS
        self._raw_items: Any = None
        self._raw_additional: Any = None
        self._fields: dict[str, Schema] = {}
        self._fields_complete = False
        self._items: Schema | None = None
        self._values: Schema | None = None

    def field(self, name: str) -> Schema | None:
        """The node of a named field, or None if the type has no such field."""
        found = self._fields.get(name)
        if found is None and name in self._raw_fields:
            found = self._fields[name] = self._source.node(self._raw_fields[name])
        return found

    def fields(self) -> dict[str, Schema]:
        """All named fields. The same dict at each call: do not change it."""
        if not self._fields_complete:
            self._fields = {name: self._child(name) for name in self._raw_fields}
            self._fields_complete = True
        return self._fields

    def _child(self, name: str) -> Schema:
        return self._fields.get(name) or self._source.node(self._raw_fields[name])

    @property
    def has_fields(self) -> bool:
        """Whether the type names its fields (false for free-form objects and maps)."""
        return bool(self._raw_fields)

    @property
    def field_names(self) -> tuple[str, ...]:
        """Names of the fields, without resolving them."""
        return tuple(self._raw_fields)

    @property
    def items(self) -> Schema | None:
        """The node of an array's items."""
        if self._items is None and self._raw_items is not None:
            self._items = self._source.node(self._raw_items)
        return self._items

    @property
    def additional(self) -> Schema | None:
        """The node of a map's values."""
        if self._values is None and self._raw_additional is not None:
            self._values = self._source.node(self._raw_additional)
        return self._values

    @property
    def required_set(self) -> frozenset[str]:
        """``required`` for membership tests."""
        return frozenset(self.required)

    def at(self, *path: str) -> Schema | None:
        """The node below field names, going through map values too; array items are ``"[]"``.

        None if there is no such place."""
        node: Schema | None = self
        for step in path:
            if node is None:
                return None
            node = node.items if step == "[]" else (node.field(step) or node.additional)
        return node

    def define(self, *, fields: Mapping[str, Any], items: Any, additional: Any) -> None:
        """Set the unresolved children; for the sources that build nodes."""
        self._raw_fields = fields
        self._raw_items = items
        self._raw_additional = additional

    def annotated_copy(self) -> Schema:
        """A node with the same children and constraints whose annotations may be overridden."""
        copy = Schema.__new__(Schema)
        for slot in Schema.__slots__:
            setattr(copy, slot, getattr(self, slot))
        return copy

    def __repr__(self) -> str:
        return f"Schema({self.name or self.type or 'any'})"


class BuiltinSchemas:
    """The data file: kinds, definitions by name, and types by index."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.kinds: list[dict[str, Any]] = data["kinds"]
        self._names: dict[str, int] = data["names"]
        self._types: list[dict[str, Any]] = data["types"]
        self._nodes: list[Schema | None] = [None] * len(self._types)

    def node(self, reference: Any) -> Schema:
        """The node of a type index; the same object at each call."""
        found: Schema | None = self._nodes[reference]
        if found is not None:
            return found
        built = self._build(self._types[reference])
        self._nodes[reference] = built
        return built

    def definition(self, name: str) -> Schema | None:
        """The node of a definition such as ``io.k8s.api.core.v1.PodSpec``; None if unknown."""
        index = self._names.get(name.removeprefix(DEFINITION_PREFIX))
        return None if index is None else self.node(index)

    def definition_names(self) -> list[str]:
        """All definition names, for OpenAPI documents."""
        return [DEFINITION_PREFIX + name for name in self._names]

    def _build(self, entry: dict[str, Any]) -> Schema:
        if "R" in entry:
            return _annotate(self.node(entry["R"]).annotated_copy(), entry)
        name = DEFINITION_PREFIX + entry["n"] if "n" in entry else ""
        node = Schema(self, _TYPES[entry.get("t", "")], name)
        node.required = tuple(entry.get("r", ()))
        node.enum = tuple(entry.get("e", ()))
        node.format = entry.get("m", "")
        node.int_or_string = "x" in entry
        node.quantity = node.format == "quantity"
        node.preserve_unknown = "u" in entry or not (node.type or node.int_or_string)
        node.define(
            fields=entry.get("f", NO_FIELDS), items=entry.get("i"), additional=entry.get("v")
        )
        return _annotate(node, entry)


def _annotate(node: Schema, entry: dict[str, Any]) -> Schema:
    node.list_type = entry.get("l", node.list_type)
    node.list_map_keys = tuple(entry.get("k", node.list_map_keys))
    node.map_type = entry.get("M", node.map_type)
    node.patch_strategy = tuple(entry.get("p", node.patch_strategy))
    node.patch_merge_key = entry.get("K", node.patch_merge_key)
    return node


@lru_cache(maxsize=1)
def builtin_schemas() -> BuiltinSchemas:
    """The schemas of Kubernetes 1.37, read once."""
    path = files("kubarium.api") / "data" / f"kubernetes-{KUBERNETES_VERSION}.json"
    return BuiltinSchemas(orjson.loads(path.read_bytes()))


def definition(name: str) -> Schema:
    """The node of a built-in definition; KeyError if the name is not one.

    >>> definition("io.k8s.api.core.v1.PodSpec").field("containers").patch_merge_key
    'name'
    """
    node = builtin_schemas().definition(name)
    if node is None:
        raise KeyError(name)
    return node
