"""Kinds of a server that serves them in other versions than ours: older or newer clusters.

What is read goes by one version of each kind. If a server lacks it and has another that is known
here, that one is read, and each document is restated as the version that is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from kubarium.api.catalog import Catalog, Kind, version_priority
from kubarium.api.resource import Document, Resource


def other_versions(resource: Resource) -> list[Resource]:
    """The resource in each other version that is known, the preferred ones first."""
    same = [
        kind.resource
        for kind in _catalog().kinds()
        if (kind.resource.group, kind.resource.plural) == (resource.group, resource.plural)
    ]
    found = [other for other in same if other.version != resource.version]
    return sorted(found, key=lambda other: version_priority(other.version))


def restated(document: Document, read_as: Resource, resource: Resource) -> Document:
    """A document that was read in another version, in that of ``resource``."""
    kind = _known(read_as)
    if kind is not None and kind.shape is not None:
        document = kind.shape.to_stored(document, None)
    return {**document, "apiVersion": resource.api_version, "kind": resource.kind}


def as_wanted(document: Document, read_as: Resource, wanted: Iterable[Resource]) -> Document:
    """A document in the version that ``wanted`` has of its kind; as it is if it has none."""
    for resource in wanted:
        if (resource.group, resource.plural) == (read_as.group, read_as.plural):
            return document if resource == read_as else restated(document, read_as, resource)
    return document


def _known(resource: Resource) -> Kind | None:
    return _catalog().lookup(resource.group, resource.version, resource.plural)


@lru_cache(maxsize=1)
def _catalog() -> Catalog:
    return Catalog.builtin()
