"""The verbs that every component uses on API objects, as protocols.

Two implementations: ``server.local`` calls the API server in the same process, ``client.http``
speaks to any cluster. Both raise :class:`kubarium.base.errors.ApiError`. Documents they hand out
are shared: copy before changing (``api.resource.copy_document``).
"""

from __future__ import annotations

from typing import Protocol

from kubarium.api.resource import Document, ListResult, Resource, WatchEvent

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class Watch(Protocol):
    """A stream of changes. Events come in batches so that a busy reader wakes once for many."""

    async def next_batch(self) -> list[WatchEvent]:
        """Wait for at least one event; an empty list means that the stream has ended."""
        ...

    def close(self) -> None:
        """Stop; a waiting ``next_batch`` returns an empty list."""
        ...


class Reader(Protocol):
    async def get(self, resource: Resource, name: str, namespace: str = "") -> Document: ...

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
        """``namespace`` "" lists all namespaces."""
        ...

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
    ) -> Watch:
        """Changes after ``resource_version``; ApiError 410 Expired if it is compacted."""
        ...


class Writer(Protocol):
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
        """``name`` with ``subresource`` posts to a subresource (binding, eviction, token).

        A ``fresh`` document is the caller's to give away, and has the fields and types of its kind
        for sure, no nulls and canonical quantities: in process it is neither copied nor converted.
        """
        ...

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
        """``fresh`` as in :meth:`create`; of the parts that the write is about."""
        ...

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Document | list[Document],
        namespace: str = "",
        *,
        patch_type: str = MERGE_PATCH,
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
        force: bool = False,
    ) -> Document: ...

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
        """The deleted object, or the object that now waits for its finalizers."""
        ...

    async def delete_collection(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        propagation_policy: str = "",
    ) -> None: ...


class Client(Reader, Writer, Protocol):
    """All verbs. Each component gets one that carries its own identity (user agent and user)."""
