"""Which kinds exist: resource, shape, names, scope, subresources. What discovery and routing read.

Conversion: a kind that is served in several versions of the same shape differs only in
``apiVersion``; ``Kind.storage`` says under which resource its objects are stored. The few versions
with another shape (``api.versions``, and events.k8s.io/v1 Events) are translated by the server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubarium.api.resource import Document, Resource
from kubarium.api.schema import BuiltinSchemas, Schema, builtin_schemas
from kubarium.api.versions import SHAPES, Shape

CRUD_VERBS = (
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
)
CREATE_ONLY = ("create",)
READ_ONLY = ("get", "list")
_VERBS = {
    ("", "componentstatuses"): READ_ONLY,
    # One call must not end a whole cluster.
    ("", "namespaces"): tuple(verb for verb in CRUD_VERBS if verb != "deletecollection"),
}


@dataclass(frozen=True, slots=True)
class SelectableField:
    """A field that ``fieldSelector`` may name: where it stands and what it reads when absent."""

    path: tuple[str, ...]
    default: str = ""

    def read(self, document: Mapping[str, Any]) -> str:
        """The value as selectors compare it."""
        value: Any = document
        for key in self.path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None or value == "":
            return self.default
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value)


@dataclass(frozen=True, slots=True)
class ScalePaths:
    """Where ``autoscaling/v1 Scale`` finds its numbers, as field names from the root."""

    spec_replicas: tuple[str, ...]
    status_replicas: tuple[str, ...]
    label_selector: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PrinterColumn:
    """One ``additionalPrinterColumns`` entry of a CustomResourceDefinition."""

    name: str
    type: str
    json_path: str
    description: str = ""
    format: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """A served kind. Compared by identity; ``resource`` is its value.

    ``storage`` is the resource under which objects are kept (another version of the same kind, or
    core events for events.k8s.io); ``shape`` translates if that version has other fields, which is
    also where such a kind is written. ``custom`` kinds come from a CustomResourceDefinition. Kinds
    whose ``verbs`` are only "create" are reviews: answered, never stored; those that cannot be
    created are measured when somebody reads them.
    """

    resource: Resource
    schema: Schema
    storage: Resource
    singular: str
    list_kind: str
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: frozenset[str] = frozenset()
    selectable_fields: Mapping[str, SelectableField] = field(default_factory=dict)
    verbs: tuple[str, ...] = CRUD_VERBS
    columns: tuple[PrinterColumn, ...] | None = None
    scale: ScalePaths | None = None
    shape: Shape | None = None
    custom: bool = False
    deprecation_warning: str = ""

    @property
    def namespaced(self) -> bool:
        return self.resource.namespaced

    @property
    def stored(self) -> bool:
        """Whether objects of this kind exist beyond the call that brings them."""
        return "get" in self.verbs and "create" in self.verbs

    @property
    def measured(self) -> bool:
        """Whether objects of this kind are what is found when somebody reads them."""
        return "create" not in self.verbs

    @property
    def has_status(self) -> bool:
        """Whether status is written by its own subresource only."""
        return "status" in self.subresources

    @property
    def is_storage_version(self) -> bool:
        return self.resource == self.storage


_WORKLOAD_SCALE = ScalePaths(("spec", "replicas"), ("status", "replicas"), ("spec", "selector"))


def _selectable(text: str) -> tuple[str, SelectableField]:
    """``name``, ``name:default`` or ``name=path:default`` of the table of kinds."""
    head, _, default = text.partition(":")
    name, _, path = head.partition("=")
    return name, SelectableField(tuple((path or name).split(".")), default)


def _object_selectors(namespaced: bool) -> dict[str, SelectableField]:
    selectors = {"metadata.name": SelectableField(("metadata", "name"))}
    if namespaced:
        selectors["metadata.namespace"] = SelectableField(("metadata", "namespace"))
    return selectors


EVENTS_GROUP = "events.k8s.io"


def _builtin_kind(schemas: BuiltinSchemas, row: dict[str, Any]) -> Kind:
    namespaced = row.get("namespaced", False)
    group, plural, name = row.get("group", ""), row["plural"], row["kind"]
    resource = Resource(group, row["version"], plural, name, namespaced)
    storage = Resource(group, row.get("storage", row["version"]), plural, name, namespaced)
    if group == EVENTS_GROUP:
        storage = Resource("", "v1", "events", "Event", True)
    subresources = frozenset(row.get("subresources", ()))
    listed = dict(_selectable(text) for text in row.get("selectable", ()))
    return Kind(
        resource=resource,
        schema=schemas.node(row["definition"]),
        storage=storage,
        singular=name.lower(),
        list_kind=f"{name}List",
        short_names=tuple(row.get("short_names", ())),
        categories=tuple(row.get("categories", ())),
        subresources=subresources,
        selectable_fields=_object_selectors(namespaced) | listed,
        verbs=CREATE_ONLY if row.get("create_only") else _VERBS.get((group, plural), CRUD_VERBS),
        scale=_WORKLOAD_SCALE if "scale" in subresources else None,
        shape=SHAPES.get((resource.api_version, name)),
        deprecation_warning=_deprecation(resource),
    )


# Versions on their way out: since which version of Kubernetes, and until which they are served
# (``APILifecycleDeprecated`` and ``Removed`` of k8s.io/api; what is deprecated later is left out).
_DEPRECATED = {
    "resource.k8s.io/v1beta1": ("1.35", "1.38"),
    "resource.k8s.io/v1beta2": ("1.36", "1.39"),
}
_NOT_DEPRECATED = ("DeviceTaintRule",)  # came to its beta versions later


def _deprecation(resource: Resource) -> str:
    found = _DEPRECATED.get(resource.api_version)
    if found is None or resource.kind in _NOT_DEPRECATED:
        return ""
    since, until = found
    what = f"{resource.api_version} {resource.kind}"
    return f"{what} is deprecated in v{since}+, unavailable in v{until}+"


# Listed after all other groups, in this order. See Catalog.groups.
_LAST_GROUPS = ("scheduling.k8s.io", "scheduling.x-k8s.io")


class Catalog:
    """All kinds that a server serves. ``generation`` grows with every change (for caches)."""

    def __init__(self) -> None:
        self.generation = 0
        self._by_route: dict[tuple[str, str, str], Kind] = {}
        self._by_kind: dict[tuple[str, str], Kind] = {}

    @classmethod
    def builtin(cls) -> Catalog:
        """The kinds of Kubernetes 1.37."""
        catalog = cls()
        schemas = builtin_schemas()
        for row in schemas.kinds:
            catalog.add(_builtin_kind(schemas, row))
        return catalog

    def lookup(self, group: str, version: str, plural: str) -> Kind | None:
        """The kind behind a REST path."""
        return self._by_route.get((group, version, plural))

    def of(self, resource: Resource) -> Kind | None:
        """The kind of a resource value."""
        return self._by_route.get((resource.group, resource.version, resource.plural))

    def for_document(self, api_version: str, kind: str) -> Kind | None:
        """The kind that a document's ``apiVersion`` and ``kind`` name."""
        return self._by_kind.get((api_version, kind))

    def kinds(self) -> list[Kind]:
        """All kinds in order of discovery."""
        return list(self._by_route.values())

    def storage_kinds(self) -> Iterator[Kind]:
        """Each stored kind once, in its storage version."""
        return (k for k in self._by_route.values() if k.stored and k.is_storage_version)

    def groups(self) -> dict[str, list[str]]:
        """Versions by group; the first one is preferred. In order of discovery.

        Clients take a bare plural from the first group that has it. The native scheduling group
        comes late: upstream leaves its beta kinds off by default, so that ``workloads`` means
        Kueue's. Only that of coscheduling is later: its ``podgroups`` are always installed here.
        """
        versions: dict[str, list[str]] = {}
        for kind in self._by_route.values():
            known = versions.setdefault(kind.resource.group, [])
            if kind.resource.version not in known:
                known.append(kind.resource.version)
        rank = {group: place for place, group in enumerate(_LAST_GROUPS)}
        ordered = sorted(versions, key=lambda group: rank.get(group, -1))
        return {group: sorted(versions[group], key=version_priority) for group in ordered}

    def in_version(self, group: str, version: str) -> list[Kind]:
        """The kinds of one group version, by plural."""
        found = [
            k
            for k in self._by_route.values()
            if k.resource.group == group and k.resource.version == version
        ]
        return sorted(found, key=lambda kind: kind.resource.plural)

    def add(self, kind: Kind) -> None:
        """Serve a kind; replaces the one with the same group, version and plural."""
        r = kind.resource
        old = self._by_route.get((r.group, r.version, r.plural))
        if old is not None:
            self._by_kind.pop((old.resource.api_version, old.resource.kind), None)
        self._by_route[r.group, r.version, r.plural] = kind
        self._by_kind[r.api_version, r.kind] = kind
        self.generation += 1

    def remove(self, resource: Resource) -> None:
        """Stop serving a kind; nothing happens if it is not served."""
        kind = self._by_route.pop((resource.group, resource.version, resource.plural), None)
        if kind is not None:
            self._by_kind.pop((kind.resource.api_version, kind.resource.kind), None)
            self.generation += 1


def version_priority(version: str) -> tuple[int, int, int, str]:
    """Sort key of Kubernetes versions: GA before beta before alpha, newer first, others last.

    Source: apimachinery ``pkg/version/helpers.go``.

    >>> sorted(["v1alpha1", "v2", "v1beta2", "v1", "foo", "v1beta1"], key=version_priority)
    ['v2', 'v1', 'v1beta2', 'v1beta1', 'v1alpha1', 'foo']
    """
    body = version.removeprefix("v")
    for rank, stage in ((1, "beta"), (2, "alpha")):
        major, mark, minor = body.partition(stage)
        if mark and version[:1] == "v" and _is_number(major) and (not minor or _is_number(minor)):
            return rank, -int(major), -int(minor or 0), ""
    if version[:1] == "v" and _is_number(body):
        return 0, -int(body), 0, ""
    return 3, 0, 0, version


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def kind_name(document: Document) -> str:
    """``kind`` of a document, or "" if it has none or one of the wrong type."""
    name = document.get("kind")
    return name if isinstance(name, str) else ""
