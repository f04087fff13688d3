"""Writes in a version whose shape is not the one stored (``api.versions``).

Such a document conforms to its own version first; from then on it is written in the stored version:
defaulting, admission and validation know that one only, and messages and managedFields name its
fields. A patch is applied to the object as its version shows it, an applied configuration is
translated before it is merged.
"""

from __future__ import annotations

from typing import Any

from kubarium.api.catalog import Catalog, Kind
from kubarium.api.decode import identify
from kubarium.api.managed_fields.declared import check_declared
from kubarium.api.resource import Document, copy_document
from kubarium.api.validation import validate_shape
from kubarium.base.errors import invalid
from kubarium.server.conversion import as_stored
from kubarium.server.deletes import Deleted, Deletes
from kubarium.server.documents import take_in
from kubarium.server.patching import Patch, apply_patch
from kubarium.server.registry import Registry
from kubarium.server.requests import Call, DeleteOptions
from kubarium.server.writes import Writes, Written


class Reshaped:
    """The writing verbs for kinds that are written by way of another version."""

    def __init__(self, registry: Registry, writes: Writes, deletes: Deletes) -> None:
        self._registry = registry
        self._writes = writes
        self._deletes = deletes

    def create(self, kind: Kind, document: Document, namespace: str, call: Call) -> Document:
        """As :meth:`Writes.create`."""
        _check_shape(kind, document, document.get("metadata", {}).get("name", ""))
        stored = as_stored(kind, document, None)
        made = self._writes.create(storage_kind(self._catalog, kind), stored, namespace, call)
        return self._registry.present(kind, made)

    def update(
        self,
        kind: Kind,
        document: Document,
        namespace: str,
        name: str,
        call: Call,
        subresource: str = "",
    ) -> Written:
        """As :meth:`Writes.update`."""
        fresh = copy_document(document)
        take_in(kind, fresh, [], call)
        return self._update(kind, fresh, namespace, name, call, subresource)

    def patch(
        self,
        kind: Kind,
        name: str,
        patch: Patch,
        namespace: str,
        call: Call,
        subresource: str = "",
    ) -> Written:
        """As :meth:`Writes.patch`."""
        if patch.is_apply:
            return self._apply(kind, name, patch, namespace, call, subresource)
        old = self._registry.present(kind, self._registry.fetch(kind, namespace, name).value)
        changed = apply_patch(kind, patch, old, call, subresource, self._registry.clock.now())
        document = copy_document(changed)
        identify(kind, document)
        take_in(kind, document, [], call)
        version = old["metadata"]["resourceVersion"]
        document.setdefault("metadata", {}).setdefault("resourceVersion", version)
        return self._update(kind, document, namespace, name, call, subresource)

    def delete(
        self, kind: Kind, name: str, namespace: str, options: DeleteOptions, call: Call
    ) -> Deleted:
        """As :meth:`Deletes.delete`."""
        stored = storage_kind(self._catalog, kind)
        deleted = self._deletes.delete(stored, name, namespace, options, call)
        return Deleted(self._registry.present(kind, deleted.document), deleted.gone)

    @property
    def _catalog(self) -> Catalog:
        return self._registry.catalog

    def _update(
        self,
        kind: Kind,
        document: Document,
        namespace: str,
        name: str,
        call: Call,
        subresource: str,
    ) -> Written:
        _check_shape(kind, document, name)
        record = self._registry.find(kind, namespace, name)
        stored = as_stored(kind, document, None if record is None else record.value)
        target = storage_kind(self._catalog, kind)
        written = self._writes.update(target, stored, namespace, name, call, subresource)
        return self._shown(kind, written)

    def _apply(
        self,
        kind: Kind,
        name: str,
        patch: Patch,
        namespace: str,
        call: Call,
        subresource: str,
    ) -> Written:
        body: Any = patch.body
        if isinstance(body, dict) and body.get("apiVersion") == kind.resource.api_version:
            check_declared(kind, body)
            body = copy_document(body)
            take_in(kind, body, [], call)
            body = as_stored(kind, body, None)
        target = storage_kind(self._catalog, kind)
        stored = Patch(patch.type, body)
        written = self._writes.patch(target, name, stored, namespace, call, subresource)
        return self._shown(kind, written)

    def _shown(self, kind: Kind, written: Written) -> Written:
        return Written(self._registry.present(kind, written.document), written.created)


def _check_shape(kind: Kind, document: Document, name: str) -> None:
    """ApiError 422 in the fields of the kind's own version."""
    errors = validate_shape(kind, document)
    if errors:
        raise invalid(kind.resource.kind, kind.resource.group, name, errors)


def storage_kind(catalog: Catalog, kind: Kind) -> Kind:
    """The kind under which the objects of ``kind`` are kept."""
    stored = catalog.of(kind.storage)
    assert stored is not None, kind.storage
    return stored
