"""The API server: every verb on every kind, in process, without HTTP.

Verbs are synchronous (the store is), so a read-modify-write inside one verb is atomic. Shells
around it add what they need: ``local`` for controllers in the same process, ``http`` for the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from kubarium.api.catalog import Catalog, Kind
from kubarium.api.resource import Document, ListResult
from kubarium.api.streams import StreamSource
from kubarium.api.usage import usage_kinds
from kubarium.base.chance import Chance
from kubarium.base.clock import Clock
from kubarium.base.errors import method_not_allowed
from kubarium.server.admission.plugins import default_chain
from kubarium.server.authn import TokenAuthenticator
from kubarium.server.authz import Authorizer
from kubarium.server.custom_resources import CustomResources
from kubarium.server.deletes import Deleted, Deletes, GracePeriod, check_delete_options
from kubarium.server.documents import Documents
from kubarium.server.limits import DELETE_COLLECTION_STEP
from kubarium.server.logs import LogSource
from kubarium.server.node_pages import PageSource
from kubarium.server.patching import Patch
from kubarium.server.reads import Reads
from kubarium.server.registry import Registry
from kubarium.server.requests import Call, DeleteOptions, ListOptions, WatchOptions
from kubarium.server.reshaped import Reshaped
from kubarium.server.reviews import Reviews
from kubarium.server.strategies.pods import grace_period
from kubarium.server.strategies.table import strategies
from kubarium.server.subresources import Binding, Eviction, Scale
from kubarium.server.usage import UsageReader
from kubarium.server.watches import Watches, WatchStream
from kubarium.server.writes import Writes, Written
from kubarium.store.log import Store

# (kind, namespace, name, document, call) -> what the client is answered.
CreateSubresource = Callable[[Kind, str, str, Document, Call], Document]

GRACE_PERIODS: dict[tuple[str, str], GracePeriod] = {("", "pods"): grace_period}


class TokenIssuer(Protocol):
    """Answers TokenRequests; ``tokens.ServiceAccountTokens`` is one."""

    def answer_request(self, request: Document, namespace: str, name: str) -> Document: ...


def _token_creator(issuer: TokenIssuer) -> CreateSubresource:
    def create(kind: Kind, namespace: str, name: str, request: Document, call: Call) -> Document:
        return issuer.answer_request(request, namespace, name)

    return create


class ApiServer:
    """The verbs of the Kubernetes API over a store.

    ``log_source`` answers the ``log`` subresource of pods, ``stream_source`` exec, attach and port
    forwarding, ``page_source`` GETs of ``nodes/proxy``, ``usage.source`` reads of
    ``metrics.k8s.io``; the wiring sets them to the node agent.
    """

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        clock: Clock,
        chance: Chance,
        *,
        token_authenticators: Sequence[TokenAuthenticator] = (),
        token_issuer: TokenIssuer | None = None,
    ) -> None:
        """``token_authenticators`` answer TokenReviews, ``token_issuer`` TokenRequests."""
        for kind in usage_kinds():
            catalog.add(kind)
        self.registry = Registry(store, catalog, clock, chance)
        self.authorizer = Authorizer(store)
        self.strategies = strategies()
        self.admission = default_chain(self.authorizer)
        self.watches = Watches(self.registry)
        self.log_source: LogSource | None = None
        self.stream_source: StreamSource | None = None
        self.page_source: PageSource | None = None
        self.usage = UsageReader(self.registry)
        self.reads = Reads(self.registry)
        self.deletes = Deletes(self.registry, self.strategies, self.admission, GRACE_PERIODS)
        self.writes = Writes(
            self.registry,
            self.strategies,
            self.admission,
            Documents(self.registry),
            self.deletes.finish,
        )
        self._reshaped = Reshaped(self.registry, self.writes, self.deletes)
        self.custom_resources = CustomResources(
            self.registry, self.deletes, self.watches.end_resource
        )
        self.custom_resources.follow()
        binding, eviction = Binding(self.registry), Eviction(self.registry, self.deletes)
        self.scale = Scale(self.registry, self.writes)
        self._creators: dict[tuple[str, str, str], CreateSubresource] = {
            ("", "pods", "binding"): binding.create,
            ("", "pods", "eviction"): eviction.create,
        }
        if token_issuer is not None:
            self._creators["", "serviceaccounts", "token"] = _token_creator(token_issuer)
        self._reviews = Reviews(
            self.registry, self.authorizer, token_authenticators, binding.create
        )

    @property
    def store(self) -> Store:
        return self.registry.store

    @property
    def catalog(self) -> Catalog:
        return self.registry.catalog

    # reading

    def get(self, kind: Kind, namespace: str, name: str, resource_version: str = "") -> Document:
        """One object. ApiError 404."""
        return self.reads.get(kind, namespace, name, resource_version)

    def list(self, kind: Kind, namespace: str, options: ListOptions) -> ListResult:
        """One page of objects; ``namespace`` "" lists all."""
        return self.reads.list(kind, namespace, options)

    async def read(
        self, kind: Kind, namespace: str, name: str, resource_version: str = ""
    ) -> Document:
        """:meth:`get`, also of what is measured when somebody asks. ApiError 404, 503."""
        if kind.measured:
            return await self.usage.get(kind, namespace, name)
        return self.get(kind, namespace, name, resource_version)

    async def read_page(self, kind: Kind, namespace: str, options: ListOptions) -> ListResult:
        """:meth:`list`, also of what is measured when somebody asks. ApiError 503."""
        if kind.measured:
            return await self.usage.page(kind, namespace, options)
        return self.list(kind, namespace, options)

    async def watch(self, kind: Kind, namespace: str, options: WatchOptions) -> WatchStream:
        """Changes from now, or from a revision on."""
        return await self.watches.watch(kind, namespace, options)

    # writing

    def create(self, kind: Kind, document: Document, namespace: str, call: Call) -> Document:
        """Store a new object. ``document`` must be the caller's to give away."""
        if not kind.stored:
            return self._reviews.create(kind, document, namespace, call)
        if kind.shape is not None:
            return self._reshaped.create(kind, document, namespace, call)
        return self.writes.create(kind, document, namespace, call)

    def create_subresource(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        subresource: str,
        document: Document,
        call: Call,
    ) -> Document:
        """POST to a subresource of an object: binding, eviction, token."""
        creator = self._creators.get((kind.resource.group, kind.resource.plural, subresource))
        if creator is None:
            raise method_not_allowed("create", kind.resource.plural, kind.resource.group)
        return creator(kind, namespace, name, document, call)

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
        """Replace an object or the part that ``subresource`` owns."""
        if subresource == "scale":
            return Written(self.scale.update(kind, namespace, name, document, call), False)
        self._check_subresource(kind, subresource)
        if kind.shape is not None:
            return self._reshaped.update(kind, document, namespace, name, call, subresource)
        return self.writes.update(kind, document, namespace, name, call, subresource, fresh)

    def patch(
        self,
        kind: Kind,
        name: str,
        patch: Patch,
        namespace: str,
        call: Call,
        subresource: str = "",
    ) -> Written:
        """Change an object by a patch."""
        if subresource == "scale":
            return Written(self.scale.patch(kind, namespace, name, patch, call), False)
        self._check_subresource(kind, subresource)
        if kind.shape is not None:
            return self._reshaped.patch(kind, name, patch, namespace, call, subresource)
        return self.writes.patch(kind, name, patch, namespace, call, subresource)

    def delete(
        self, kind: Kind, name: str, namespace: str, options: DeleteOptions, call: Call
    ) -> Deleted:
        """Delete an object, or mark it as being deleted."""
        if kind.shape is not None:
            return self._reshaped.delete(kind, name, namespace, options, call)
        return self.deletes.delete(kind, name, namespace, options, call)

    async def delete_collection(
        self,
        kind: Kind,
        namespace: str,
        selection: ListOptions,
        options: DeleteOptions,
        call: Call,
    ) -> Sequence[Document]:
        """Delete every object that is selected now; the last states of those deleted."""
        check_delete_options(options)
        documents = self.reads.list(kind, namespace, selection).items
        deleted = []
        for number, document in enumerate(documents, 1):
            metadata = document["metadata"]
            name, home = metadata["name"], metadata.get("namespace", "")
            if self.registry.find(kind, home, name) is not None:
                deleted.append(self.delete(kind, name, home, options, call).document)
            if number % DELETE_COLLECTION_STEP == 0:
                await self.registry.clock.sleep(0)
        return deleted

    def _check_subresource(self, kind: Kind, subresource: str) -> None:
        if subresource in ("", "status"):
            if not subresource or kind.has_status:
                return
        elif subresource in self.strategies.of(kind).parts:
            return
        raise method_not_allowed("update", kind.resource.plural, kind.resource.group)
