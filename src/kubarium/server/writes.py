"""create, update and patch of any kind: the order of steps that every write goes through.

create: identity -> defaulting -> admission -> kind's preparation -> validation -> quota -> store
update: lock -> parts that the path may write -> defaulting -> admission -> preparation ->
        generation -> validation -> managedFields -> store, or nothing if nothing changed
patch:  patch what is stored, then as update; apply may create

Documents in the store are shared, so an update never changes the old one: it starts from a new top
level, takes unchanged parts over by reference and copies the parts that differ.
(Upstream: ``apiserver/pkg/registry/generic/registry/store.go`` and ``registry/rest``.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kubarium.api.catalog import Kind
from kubarium.api.decode import identify
from kubarium.api.resource import Document, copy_document
from kubarium.base.errors import ApiError, already_exists, not_found
from kubarium.server.admission.chain import CREATE, UPDATE, Attempt, Chain
from kubarium.server.documents import Documents, take_in
from kubarium.server.limits import GENERATE_NAME_ATTEMPTS
from kubarium.server.metadata import (
    Metadata,
    check_finalizers,
    check_new,
    check_same_name,
    check_version,
    generate_name,
    keep_system_fields,
    place,
    stamp_new,
    take_metadata,
)
from kubarium.server.patching import Patch, apply_patch
from kubarium.server.registry import Registry
from kubarium.server.requests import Call
from kubarium.server.strategy import Strategies, Strategy
from kubarium.store.log import Record

# Top-level keys that never count as desired state.
_FRAME = frozenset({"apiVersion", "kind", "metadata", "status"})


class Written(NamedTuple):
    """The object after a write, and whether the write made it."""

    document: Document
    created: bool


class Writes:
    """The writing verbs over one registry, except deletion."""

    def __init__(
        self,
        registry: Registry,
        strategies: Strategies,
        admission: Chain,
        documents: Documents,
        deleted_by_update: Callable[[Kind, Record, Document, Call], Document],
    ) -> None:
        """``deleted_by_update`` finishes a deletion when an update removed the last finalizer."""
        self._registry = registry
        self._strategies = strategies
        self._admission = admission
        self._documents = documents
        self._deleted_by_update = deleted_by_update

    # create

    def create(self, kind: Kind, document: Document, namespace: str, call: Call) -> Document:
        """Store a new object. ``document`` is fresh: it is changed and becomes the stored one."""
        metadata = take_metadata(document)
        place(kind, metadata, namespace)
        check_new(kind, metadata)
        if generate_name(self._registry, metadata):
            for _ in range(1, GENERATE_NAME_ATTEMPTS):
                if self._registry.find(kind, namespace, metadata["name"]) is None:
                    break
                del metadata["name"]
                generate_name(self._registry, metadata)
        return self._create(kind, document, namespace, call)

    def _create(
        self, kind: Kind, document: Document, namespace: str, call: Call, applied: bool = False
    ) -> Document:
        registry, strategy = self._registry, self._strategies.of(kind)
        metadata = document["metadata"]
        name = metadata["name"]
        frame = {"apiVersion": kind.resource.api_version, "kind": kind.resource.kind}
        document = frame | {"metadata": metadata} | document | frame
        stamp_new(registry, metadata, strategy.generation)
        if kind.has_status and not strategy.status_on_create:
            document.pop("status", None)
        self._documents.default(kind, document)
        # Before admission, as upstream: what the server adds by itself is nobody's.
        if not applied:
            document = self._track_new(kind, strategy, document, call)
        attempt = Attempt(registry, call, CREATE, kind, namespace, name, "", document)
        self._admission.run(attempt)
        if strategy.prepare_create is not None:
            strategy.prepare_create(registry, call, document)
        if not call.prechecked:
            self._documents.validate_new(kind, document)
        if registry.find(kind, namespace, name) is not None:
            raise already_exists(kind.resource.plural, kind.resource.group, name)
        self._admission.validate(attempt)
        return registry.commit(kind, document, None, call.dry_run)

    def _track_new(
        self, kind: Kind, strategy: Strategy, document: Document, call: Call
    ) -> Document:
        """Whoever creates an object owns what it sent, but no status that is not its to write."""
        if not kind.has_status or strategy.status_on_create or "status" not in document:
            return self._documents.track(kind, None, document, call, "")
        status = document.pop("status")
        return self._documents.track(kind, None, document, call, "") | {"status": status}

    # update

    def update(
        self,
        kind: Kind,
        document: Document,
        namespace: str,
        name: str,
        call: Call,
        subresource: str = "",
        fresh: bool = False,
    ) -> Written:
        """Replace an object, or the part of it that ``subresource`` owns.

        A ``fresh`` document conforms to its kind and is the caller's to give away; any other is
        not changed. ApiError 400, 404, 409 or 422.
        """
        document = dict(document)
        document["metadata"] = dict(take_metadata(document))
        place(kind, document["metadata"], namespace)
        check_same_name(document["metadata"], name)
        record = self._registry.find(kind, namespace, name)
        if record is None:
            return self._create_on_update(kind, document, namespace, name, call, subresource)
        if not fresh:
            old = self._registry.present(kind, record.value)
            self._documents.take_in_changes(kind, document, old, call)
            document["metadata"] = dict(document["metadata"])
        return Written(self._replace(kind, record, document, call, subresource, False), False)

    def _create_on_update(
        self,
        kind: Kind,
        document: Document,
        namespace: str,
        name: str,
        call: Call,
        subresource: str,
    ) -> Written:
        metadata = document["metadata"]
        if subresource or not self._strategies.of(kind).create_on_update:
            raise self._registry.missing(kind, name)
        if metadata.get("resourceVersion") or metadata.get("uid"):
            raise self._registry.missing(kind, name)
        return Written(self.create(kind, copy_document(document), namespace, call), True)

    def _replace(
        self,
        kind: Kind,
        record: Record,
        document: Document,
        call: Call,
        subresource: str,
        applied: bool,
        owner: str = "",
    ) -> Document:
        """``document``: a new top level with new metadata; parts are ``old``'s own or fresh."""
        registry, strategy = self._registry, self._strategies.of(kind)
        old = registry.present(kind, record.value)
        metadata, old_metadata = document["metadata"], old["metadata"]
        name = old_metadata["name"]
        check_version(kind, metadata, old_metadata, strategy.overwrites(kind), name)
        keep_system_fields(metadata, old_metadata)
        check_finalizers(kind, metadata, old_metadata)
        if subresource:
            new = self._with_part(kind, strategy, document, old, subresource)
        else:
            new = self._with_desired(kind, document, old)
        if not applied:
            new = self._documents.track(kind, old, new, call, owner or subresource)
        attempt = Attempt(
            registry,
            call,
            UPDATE,
            kind,
            old_metadata.get("namespace", ""),
            name,
            subresource,
            new,
            old,
        )
        self._admission.run(attempt)
        prepare = {"": strategy.prepare_update, "status": strategy.prepare_status}.get(subresource)
        if prepare is not None:
            prepare(registry, call, new, old)
        if subresource != "status":
            _count_generation(strategy, new, old)
        self._documents.validate_change(kind, new, old, subresource)
        self._admission.validate(attempt)
        if new == old:
            return old
        if _deletion_is_complete(new, old):
            return self._deleted_by_update(kind, record, new, call)
        return registry.commit(kind, new, record, call.dry_run)

    def _with_desired(self, kind: Kind, document: Document, old: Document) -> Document:
        """The new object of a write to the main resource: all but a separate status."""
        changed = False
        for key, value in document.items():
            if key == "metadata" or key == "apiVersion" or key == "kind":
                continue
            if key in old and value == old[key]:
                document[key] = old[key]
            elif key != "status" or not kind.has_status:
                changed = True
        if kind.has_status:
            if "status" in old:
                document["status"] = old["status"]
            else:
                document.pop("status", None)
        document["apiVersion"], document["kind"] = old["apiVersion"], old["kind"]
        if changed or len(document) != len(old):
            self._documents.default(kind, document)
        _adopt_equal_metadata(document["metadata"], old["metadata"])
        return document

    def _with_part(
        self, kind: Kind, strategy: Strategy, document: Document, old: Document, subresource: str
    ) -> Document:
        """The new object of a write to a subresource that owns a part (status, resize, ...)."""
        new = dict(old)
        if subresource != "status":
            new["metadata"] = dict(old["metadata"])
            _take(new["metadata"], document["metadata"], "managedFields")
            strategy.parts[subresource](new, document, old)
            return new
        if "status" in document and document["status"] is not None:
            new["status"] = document["status"]
        else:
            new.pop("status", None)
        metadata = dict(old["metadata"])
        for key in strategy.status_writes:
            _take(metadata, document["metadata"], key)
        _take(metadata, document["metadata"], "managedFields")
        new["metadata"] = metadata
        return new

    # patch

    def patch(
        self,
        kind: Kind,
        name: str,
        patch: Patch,
        namespace: str,
        call: Call,
        subresource: str = "",
        owner: str = "",
    ) -> Written:
        """Change an object by one of the four patch types; apply creates what is missing.

        ``owner`` is the subresource that managedFields name, if it is not the one written.
        """
        record = self._registry.find(kind, namespace, name)
        if record is None:
            return self._create_by_apply(kind, name, patch, namespace, call, subresource)
        old = self._registry.present(kind, record.value)
        document = apply_patch(kind, patch, old, call, subresource, self._registry.clock.now())
        document = dict(document)
        identify(kind, document)
        document["metadata"] = dict(take_metadata(document))
        place(kind, document["metadata"], namespace)
        check_same_name(document["metadata"], name)
        self._documents.take_in_changes(kind, document, old, call)
        document["metadata"] = dict(document["metadata"])
        document["metadata"].setdefault("resourceVersion", old["metadata"]["resourceVersion"])
        written = self._replace(kind, record, document, call, subresource, patch.is_apply, owner)
        return Written(written, False)

    def _create_by_apply(
        self, kind: Kind, name: str, patch: Patch, namespace: str, call: Call, subresource: str
    ) -> Written:
        if not patch.is_apply or subresource:
            raise not_found(kind.resource.plural, kind.resource.group, name)
        document = apply_patch(kind, patch, None, call, "", self._registry.clock.now())
        document = copy_document(document)
        metadata = take_metadata(document)
        metadata.setdefault("name", name)
        place(kind, metadata, namespace)
        check_same_name(metadata, name)
        if metadata.get("uid"):
            raise uid_of_nothing(kind, name, metadata["uid"])
        check_new(kind, metadata)
        take_in(kind, document, [], call)
        return Written(self._create(kind, document, namespace, call, applied=True), True)


def _take(target: Metadata, source: Metadata, key: str) -> None:
    if key in source:
        target[key] = source[key]
    else:
        target.pop(key, None)


def _adopt_equal_metadata(new: Metadata, old: Metadata) -> None:
    """Share what does not differ; what is empty is absent."""
    for key in list(new):
        value = new[key]
        if isinstance(value, (dict, list)):
            if value == old.get(key):
                new[key] = old[key]
            elif not value and key != "managedFields":  # an empty list there is a command
                del new[key]
        elif value is None or value == "":
            del new[key]


def _count_generation(strategy: Strategy, new: Document, old: Document) -> None:
    """Raise ``metadata.generation`` if the desired state differs."""
    if not strategy.generation:
        return
    differs = any(
        new.get(key) != old.get(key)
        for key in new.keys() | old.keys()
        if key not in _FRAME and key not in strategy.not_desired
    )
    if not differs and strategy.generation_counts_annotations:
        differs = new["metadata"].get("annotations") != old["metadata"].get("annotations")
    if differs:
        new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1


def _deletion_is_complete(new: Document, old: Document) -> bool:
    """Whether an update removed what kept a deleted object alive."""
    metadata = new["metadata"]
    if "deletionTimestamp" not in old["metadata"] or metadata.get("finalizers"):
        return False
    if metadata.get("deletionGracePeriodSeconds"):
        return False
    # A namespace also waits for spec.finalizers.
    if new["kind"] == "Namespace" and new["apiVersion"] == "v1":
        return not (new.get("spec") or {}).get("finalizers")
    return True


def uid_of_nothing(kind: Kind, name: str, uid: str) -> ApiError:
    """409 for an apply that insists on an object that is not there."""
    registry_error = not_found(kind.resource.plural, kind.resource.group, name)
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {kind.resource.qualified} "{name}": '
        f"uid mismatch: the provided object specified uid {uid}, and no existing object was found",
        registry_error.details,
    )
