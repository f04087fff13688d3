"""CustomResourceDefinitions drive the catalog: what is defined is served, at once.

A definition's status is worked out while it is written (``prepare_*``), so that the answer to the
request already says Established. The catalog follows the store (``CustomResources.follow``): what
is stored is what is served, also after a restart.

Deletion: the finalizer below holds a definition until its objects are gone. They are deleted like
any others, so their own finalizers hold in turn; each one that goes wakes the check again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from kubarium.api.catalog import Kind
from kubarium.api.crds.definition import established_status, kinds_of
from kubarium.api.kinds import CUSTOM_RESOURCE_DEFINITIONS
from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError
from kubarium.server.authn import MASTERS, User
from kubarium.server.deletes import Deletes
from kubarium.server.registry import Registry
from kubarium.server.requests import Call, DeleteOptions
from kubarium.store.log import DELETE, Change, Subscription

FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
_PREFIX = "/apiextensions.k8s.io/customresourcedefinitions/"
_CLEANER = User("system:apiserver", groups=(MASTERS,))
_LOG = logging.getLogger("kubarium.server")


def prepare_create(registry: Registry, call: Call, crd: Document) -> None:
    """Accept the names, and hold the definition while it has objects."""
    metadata = crd["metadata"]
    finalizers = metadata.get("finalizers") or []
    if FINALIZER not in finalizers:
        metadata["finalizers"] = [*finalizers, FINALIZER]
    crd["status"] = _status(registry, crd)


def prepare_update(registry: Registry, call: Call, new: Document, old: Document) -> None:
    """Accept changed names and note a new storage version."""
    if new["spec"] is not old["spec"]:
        new["status"] = _status(registry, new)


def _status(registry: Registry, crd: Document) -> Document:
    spec = crd["spec"]
    if not _is_whole(spec):  # validation comes next and says what is missing
        return crd.get("status") or {}
    own = (spec["group"], spec["names"]["plural"])
    others = [
        kind
        for kind in registry.catalog.kinds()
        if (kind.resource.group, kind.resource.plural) != own
    ]
    return established_status(crd, others, registry.clock.now())


def _is_whole(spec: Document) -> bool:
    """Whether all is there that the definition's status is made from."""
    names, versions = spec.get("names") or {}, spec.get("versions") or ()
    return bool(
        spec.get("group") and names.get("plural") and names.get("kind") and versions
    ) and all(isinstance(v, dict) and v.get("name") for v in versions)


def is_established(crd: Document) -> bool:
    """Whether the definition's kinds are to be served."""
    conditions = (crd.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


class CustomResources:
    """Keeps the catalog equal to the stored definitions, and cleans up after deleted ones."""

    def __init__(
        self, registry: Registry, deletes: Deletes, ended: Callable[[Resource], None]
    ) -> None:
        """``ended`` is told of resources that are no longer served (to end their watches)."""
        self._registry = registry
        self._deletes = deletes
        self._ended = ended
        self._served: dict[str, list[Kind]] = {}
        self._cleaning: dict[str, Subscription] = {}

    def follow(self) -> None:
        """Serve what is stored, and whatever comes."""
        store = self._registry.store
        page = store.range(_PREFIX)
        for record in page.records:
            self._serve(record.value, None)
        store.watch(_PREFIX, page.revision, self._take)

    def _take(self, change: Change) -> None:
        crd = change.record.value
        name = crd["metadata"]["name"]
        if change.kind == DELETE:
            self._withdraw(name)
            return
        self._serve(crd, change.previous.value if change.previous else None)

    def _serve(self, crd: Document, previous: Document | None) -> None:
        name = crd["metadata"]["name"]
        if previous is None or previous["spec"] is not crd["spec"] or name not in self._served:
            self._replace(name, kinds_of(crd) if is_established(crd) else [])
        if "deletionTimestamp" in crd["metadata"]:
            self._clean(name)

    def _replace(self, name: str, kinds: list[Kind]) -> None:
        catalog = self._registry.catalog
        resources = [kind.resource for kind in kinds]
        for kind in self._served.get(name, ()):
            if kind.resource not in resources:
                catalog.remove(kind.resource)
                self._ended(kind.resource)
        for kind in kinds:
            catalog.add(kind)
        if kinds:
            self._served[name] = kinds
        else:
            self._served.pop(name, None)

    def _withdraw(self, name: str) -> None:
        subscription = self._cleaning.pop(name, None)
        if subscription is not None:
            subscription.close()
        self._replace(name, [])

    # cleaning up

    def _clean(self, name: str) -> None:
        """Begin to delete a definition's objects; go on when they are gone."""
        if name in self._cleaning:
            return
        kinds = self._served.get(name)
        if not kinds:
            self._release(name)
            return
        storage = next((kind for kind in kinds if kind.is_storage_version), kinds[0])
        prefix = self._registry.prefix(storage)
        store = self._registry.store
        call = Call(_CLEANER, "apiextensions")
        for record in store.range(prefix).records:
            metadata = record.value["metadata"]
            try:
                self._deletes.delete(
                    storage,
                    metadata["name"],
                    metadata.get("namespace", ""),
                    DeleteOptions(),
                    call,
                )
            except ApiError as error:  # an admission step refuses: the definition stays
                _LOG.warning("%s %s stays: %s", name, metadata["name"], error)

        def check(change: Change) -> None:
            if change.kind == DELETE and not store.range(prefix, limit=1).records:
                self._release(name)

        if store.range(prefix, limit=1).records:
            self._cleaning[name] = store.watch(prefix, store.revision, check)
        else:
            self._release(name)

    def _release(self, name: str) -> None:
        """Remove our finalizer; with the last one the definition goes."""
        registry = self._registry
        kind = registry.kind_of(
            CUSTOM_RESOURCE_DEFINITIONS.group,
            CUSTOM_RESOURCE_DEFINITIONS.version,
            CUSTOM_RESOURCE_DEFINITIONS.plural,
        )
        record = registry.find(kind, "", name)
        if record is None:
            return
        metadata = dict(record.value["metadata"])
        left = [each for each in metadata.get("finalizers") or () if each != FINALIZER]
        metadata["finalizers"] = left
        new = record.value | {"metadata": metadata}
        if left:
            registry.commit(kind, new, record, dry_run=False)
            return
        metadata.pop("finalizers")
        self._deletes.finish(kind, record, new, Call(_CLEANER, "apiextensions"))
