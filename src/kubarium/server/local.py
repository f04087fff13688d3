"""The client in the same process: the verbs of ``client.protocol.Client`` without any wire.

Documents go in and out as they are: what comes in is copied where it is kept, what goes out is the
store's own and must not be changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kubarium.api.catalog import Kind
from kubarium.api.decode import conform, identify
from kubarium.api.resource import Document, ListResult, Resource, copy_document
from kubarium.server.api_server import ApiServer
from kubarium.server.documents import STRICT, take_in
from kubarium.server.patching import MERGE_PATCH, Patch
from kubarium.server.registry import unknown_resource
from kubarium.server.requests import Call, DeleteOptions, ListOptions, Requester, WatchOptions
from kubarium.server.watches import WatchStream

JsonPatch = list[Document]


def _check_fresh(kind: Kind, document: Document) -> None:
    """AssertionError for a document that does not conform to its kind as its writer said."""
    conforming = copy_document(document)
    unknown = conform(kind, conforming)
    assert not unknown, f"{kind.resource.kind}: {unknown}"
    for name, value in document.items():
        assert value == conforming.get(name), f"{kind.resource.kind}.{name}: {value}"


@dataclass(frozen=True, slots=True)
class LocalUser:
    """A component of the control plane in this process."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ("system:masters", "system:authenticated")
    extra: dict[str, tuple[str, ...]] = field(default_factory=dict)


class LocalClient:
    """All verbs, as ``user``, trusted: what runs in the process needs no authorisation.

    ``manager`` is the field manager of its writes, "" for the user's name. What a ``prechecked``
    client creates is ours and known to be valid (``Call.prechecked``).
    """

    # Whether documents that are said to conform are looked at all the same: in tests.
    checks_fresh = False

    def __init__(
        self,
        server: ApiServer,
        user: str | Requester,
        manager: str = "",
        *,
        prechecked: bool = False,
    ) -> None:
        self._server = server
        self._prechecked = prechecked
        self._user: Requester = LocalUser(user) if isinstance(user, str) else user
        self._manager = manager or self._user.name.rpartition(":")[2]
        self._kinds: dict[Resource, Kind] = {}
        self._generation = -1

    def _kind(self, resource: Resource) -> Kind:
        catalog = self._server.catalog
        if catalog.generation != self._generation:
            self._kinds.clear()
            self._generation = catalog.generation
        kind = self._kinds.get(resource)
        if kind is None:
            kind = catalog.of(resource)
            if kind is None:
                raise unknown_resource(resource.qualified)
            self._kinds[resource] = kind
        return kind

    def _call(self, manager: str, dry_run: bool, force: bool = False) -> Call:
        manager = manager or self._manager
        return Call(self._user, manager, dry_run, STRICT, force, self._prechecked)

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Document:
        return await self._server.read(self._kind(resource), namespace, name)

    async def list(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_token: str = "",
        resource_version: str = "",
        resource_version_match: str = "",
    ) -> ListResult:
        options = ListOptions(
            label_selector,
            field_selector,
            limit,
            continue_token,
            resource_version,
            resource_version_match,
        )
        return await self._server.read_page(self._kind(resource), namespace, options)

    async def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        allow_bookmarks: bool = False,
        send_initial_events: bool = False,
        timeout_s: float | None = None,
    ) -> WatchStream:
        options = WatchOptions(
            label_selector,
            field_selector,
            resource_version,
            "NotOlderThan" if send_initial_events else "",
            allow_bookmarks,
            send_initial_events or None,
            timeout_s,
        )
        return await self._server.watch(self._kind(resource), namespace, options)

    async def create(
        self,
        resource: Resource,
        document: Document,
        namespace: str = "",
        *,
        name: str = "",
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
        fresh: bool = False,
    ) -> Document:
        call = self._call(field_manager, dry_run)
        own = document if fresh else copy_document(document)
        namespace = namespace or own.get("metadata", {}).get("namespace", "")
        kind = self._kind(resource)
        if subresource:
            return self._server.create_subresource(kind, namespace, name, subresource, own, call)
        identify(kind, own)
        if not fresh:
            take_in(kind, own, [], call)
        elif self.checks_fresh:
            _check_fresh(kind, own)
        return self._server.create(kind, own, namespace, call)

    async def update(
        self,
        resource: Resource,
        document: Document,
        namespace: str = "",
        *,
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
        fresh: bool = False,
    ) -> Document:
        call = self._call(field_manager, dry_run)
        metadata = document["metadata"]
        namespace = namespace or metadata.get("namespace", "")
        kind = self._kind(resource)
        if fresh and self.checks_fresh:
            _check_fresh(kind, document)
        return self._server.update(
            kind, document, namespace, metadata["name"], call, subresource, fresh
        ).document

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Document | JsonPatch,
        namespace: str = "",
        *,
        patch_type: str = MERGE_PATCH,
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
        force: bool = False,
    ) -> Document:
        call = self._call(field_manager, dry_run, force)
        kind = self._kind(resource)
        body = Patch(patch_type, patch)
        return self._server.patch(kind, name, body, namespace, call, subresource).document

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        propagation_policy: str = "",
        grace_period_s: int | None = None,
        uid: str = "",
        resource_version: str = "",
        dry_run: bool = False,
    ) -> Document:
        options = DeleteOptions(propagation_policy, grace_period_s, uid, resource_version, dry_run)
        call = self._call("", dry_run)
        return self._server.delete(self._kind(resource), name, namespace, options, call).document

    async def delete_collection(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        propagation_policy: str = "",
    ) -> None:
        selection = ListOptions(label_selector, field_selector)
        options = DeleteOptions(propagation_policy)
        call = self._call("", False)
        kind = self._kind(resource)
        await self._server.delete_collection(kind, namespace, selection, options, call)
