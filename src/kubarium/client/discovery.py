"""What a server serves, and how users name it: ``po``, ``pods``, ``Pod``, ``deployments.apps``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kubarium.api.resource import Document, Resource


@dataclass(frozen=True, slots=True)
class ServedResource:
    """One entry of the discovery documents."""

    resource: Resource
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    subresources: tuple[str, ...] = field(default=())


def parse_aggregated(document: Document) -> list[ServedResource]:
    """Entries of an ``APIGroupDiscoveryList``, in the server's order of preference."""
    return [
        _aggregated_entry(group.get("metadata", {}).get("name", ""), version["version"], entry)
        for group in document.get("items") or ()
        for version in group.get("versions") or ()
        for entry in version.get("resources") or ()
    ]


def _aggregated_entry(group: str, version: str, entry: Document) -> ServedResource:
    kind = (entry.get("responseKind") or {}).get("kind", "")
    namespaced = entry.get("scope") == "Namespaced"
    return ServedResource(
        Resource(group, version, entry["resource"], kind, namespaced),
        entry.get("singularResource", ""),
        tuple(entry.get("shortNames") or ()),
        tuple(entry.get("categories") or ()),
        tuple(entry.get("verbs") or ()),
        tuple(part["subresource"] for part in entry.get("subresources") or ()),
    )


def parse_legacy(document: Document) -> list[ServedResource]:
    """Entries of an ``APIResourceList`` (one group and version)."""
    group, _, version = document["groupVersion"].rpartition("/")
    entries = document.get("resources") or []
    subresources: dict[str, list[str]] = {}
    for entry in entries:
        parent, slash, sub = entry["name"].partition("/")
        if slash:
            subresources.setdefault(parent, []).append(sub)
    return [
        ServedResource(
            Resource(group, version, entry["name"], entry["kind"], bool(entry["namespaced"])),
            entry.get("singularName", ""),
            tuple(entry.get("shortNames") or ()),
            tuple(entry.get("categories") or ()),
            tuple(entry.get("verbs") or ()),
            tuple(subresources.get(entry["name"], ())),
        )
        for entry in entries
        if "/" not in entry["name"]
    ]


def find_resource(served: Iterable[ServedResource], text: str) -> ServedResource | None:
    """The entry that ``text`` names, as kubectl understands it; None when there is none.

    Plural, singular, kind or short name, in any case, alone or followed by ``.group`` or
    ``.version.group``. Among several the server's order decides.
    """
    return next(iter(find_resources(served, text)), None)


def find_resources(served: Iterable[ServedResource], text: str) -> list[ServedResource]:
    """All that ``text`` may mean, such as the PodGroups of two API groups, one of each group."""
    name, _, rest = text.lower().partition(".")
    found: dict[str, ServedResource] = {}
    for entry in served:
        if name in _names(entry) and _group_matches(entry.resource, rest):
            found.setdefault(entry.resource.group, entry)
    return list(found.values())


def find_kind(served: Iterable[ServedResource], api_version: str, kind: str) -> Resource | None:
    """The resource of a document's apiVersion and kind."""
    for entry in served:
        if entry.resource.kind == kind and entry.resource.api_version == api_version:
            return entry.resource
    return None


def _names(entry: ServedResource) -> tuple[str, ...]:
    resource = entry.resource
    singular = entry.singular or resource.kind.lower()
    return (resource.plural, singular, resource.kind.lower(), *entry.short_names)


def _group_matches(resource: Resource, rest: str) -> bool:
    return rest in ("", resource.group, f"{resource.version}.{resource.group}")
