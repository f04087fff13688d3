"""Where objects of all kinds live: keys, versions, and the two steps that touch the store.

Everything above (reads, writes, deletes, watches) is written in terms of this class, so that only
here it is known how a key looks and how a resourceVersion comes about.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from kubarium.api.catalog import Catalog, Kind
from kubarium.api.resource import Document
from kubarium.base.chance import Chance
from kubarium.base.clock import Clock, rfc3339
from kubarium.base.errors import ApiError, conflict, not_found
from kubarium.server.conversion import as_served, convert
from kubarium.store.log import CasError, Record, Store

CLUSTER_SCOPE = "-"


class Registry:
    """Documents in the store, addressed by kind, namespace and name."""

    def __init__(self, store: Store, catalog: Catalog, clock: Clock, chance: Chance) -> None:
        self.store = store
        self.catalog = catalog
        self.clock = clock
        self.chance = chance
        # Where cluster IPs come from. On loopback each is reachable without any privilege; the
        # wiring names another range where pods have a network of their own.
        self.service_range = IPv4Network("127.96.0.0/16")

    def now(self) -> str:
        """The current time as ``metav1.Time``."""
        return rfc3339(self.clock.now())

    def key(self, kind: Kind, namespace: str, name: str) -> str:
        """``/<group or "core">/<plural>/<namespace or "-">/<name>``."""
        return f"{self.prefix(kind, namespace or CLUSTER_SCOPE)}{name}"

    def prefix(self, kind: Kind, namespace: str = "") -> str:
        """The prefix of all objects of a kind, or of those of one namespace."""
        storage = kind.storage
        if not namespace:
            return f"/{storage.group or 'core'}/{storage.plural}/"
        return f"/{storage.group or 'core'}/{storage.plural}/{namespace}/"

    def find(self, kind: Kind, namespace: str, name: str) -> Record | None:
        """The stored record, in its storage version, or None."""
        return self.store.get(self.key(kind, namespace, name))

    def fetch(self, kind: Kind, namespace: str, name: str) -> Record:
        """The stored record; ApiError 404 if there is none."""
        record = self.find(kind, namespace, name)
        if record is None:
            raise self.missing(kind, name)
        return record

    def read(self, kind: Kind, namespace: str, name: str) -> Document | None:
        """The document in the kind's own version, or None. Shared: not to be changed."""
        record = self.find(kind, namespace, name)
        return None if record is None else self.present(kind, record.value)

    def present(self, kind: Kind, stored: Document) -> Document:
        """A stored document in the version of ``kind``; itself if it is kept in that version."""
        if stored["apiVersion"] == kind.resource.api_version:
            return stored
        return as_served(kind, stored)

    def missing(self, kind: Kind, name: str) -> ApiError:
        """404 for ``name``."""
        return not_found(kind.resource.plural, kind.resource.group, name)

    def commit(
        self, kind: Kind, document: Document, record: Record | None, dry_run: bool
    ) -> Document:
        """Store ``document`` (fresh, in the kind's version) in place of ``record``.

        The resourceVersion is the revision that the write gets: writes are synchronous and come
        from one thread, so it is known beforehand. Raises ApiError 409 if another write came
        between, which can only be one made by an admission step of this same request.
        """
        metadata = document["metadata"]
        if dry_run:
            if record is not None:
                metadata["resourceVersion"] = str(record.mod_revision)
            return document
        stored = document if kind.is_storage_version else convert(document, kind.storage)
        metadata = stored["metadata"]
        metadata["resourceVersion"] = str(self.store.revision + 1)
        if record is None:
            key = self.key(kind, metadata.get("namespace", ""), metadata["name"])
            expected = 0
        else:
            key, expected = record.key, record.mod_revision
        try:
            self.store.put(key, stored, expected)
        except CasError:
            raise self.modified(kind, metadata["name"]) from None
        return self.present(kind, stored)

    def remove(
        self, kind: Kind, record: Record, dry_run: bool, final: Document | None = None
    ) -> Document:
        """Delete ``record``; ``final`` is its last state in the storage version, if it changed.

        The state that watchers see, and that is returned, carries the deletion's revision.
        """
        last = dict(record.value if final is None else final)
        if not dry_run:
            last["metadata"] = last["metadata"] | {"resourceVersion": str(self.store.revision + 1)}
            try:
                self.store.delete(record.key, record.mod_revision, last)
            except CasError:
                raise self.modified(kind, last["metadata"]["name"]) from None
        return self.present(kind, last)

    def modified(self, kind: Kind, name: str) -> ApiError:
        """409: somebody else wrote in between."""
        return conflict(kind.resource.plural, kind.resource.group, name)

    def kind_of(self, group: str, version: str, plural: str) -> Kind:
        """The kind as served; ApiError 404 as for an unknown path."""
        kind = self.catalog.lookup(group, version, plural)
        if kind is None:
            raise unknown_resource(f"{plural}.{version}.{group}" if group else plural)
        return kind


def unknown_resource(what: str) -> ApiError:
    """404 for a resource that is not served."""
    return ApiError(
        404, "NotFound", "the server could not find the requested resource", {"name": what}
    )
