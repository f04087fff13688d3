"""The garbage collector: deletes what nobody owns any more.

Source of the rules: upstream ``pkg/controller/garbagecollector``. Background: dependents of an
absent owner are deleted. Foreground: the owner waits (finalizer foregroundDeletion) until the
dependents that block it are gone. Orphan: the owner waits (finalizer orphan) until its dependents
have lost their reference to it. An owner is only held to be absent when the API says so.
"""

from __future__ import annotations

import asyncio
from functools import partial

from kubarium.api.resource import Document, Resource, copy_document
from kubarium.base.errors import ApiError
from kubarium.control.core.graph import FOREGROUND, ORPHAN, Graph, Node
from kubarium.control.core.served import ServedResources
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.informer import key_of
from kubarium.runtime.protocol import Context, Informer, Key

# An owner of a kind that is not served may come with its CRD: look again after so long.
UNKNOWN_KIND_RETRY_S = 60.0


class GarbageCollector:
    """Satisfies :class:`kubarium.runtime.protocol.Component`. Keys of its queue are uids."""

    def __init__(self, context: Context, served: ServedResources) -> None:
        self._context = context
        self._served = served
        self._graph = Graph()
        self._absent: dict[str, None] = {}  # uids that the API has said do not exist
        self._informers: list[Informer] = []
        self._recorder = EventRecorder(context, "garbage-collector-controller")
        self.controller = Controller(
            "garbage-collector-controller", context, self._reconcile, workers=8
        )
        served.on_resource(self._follow)

    @property
    def name(self) -> str:
        return self.controller.name

    @property
    def graph(self) -> Graph:
        """For invariant checks."""
        return self._graph

    async def run(self) -> None:
        # Complete knowledge first: an owner must not be let go while dependents are unseen.
        await self._served.wait_synced()
        await asyncio.gather(*(informer.wait_synced() for informer in self._informers))
        await self.controller.run()

    def _follow(self, resource: Resource) -> None:
        informer = self._context.informers.get(resource)
        if informer not in self._informers:
            self._informers.append(informer)
            informer.on_change(partial(self._changed, resource))

    # changes

    def _changed(self, resource: Resource, old: Document | None, new: Document | None) -> None:
        if new is None:
            assert old is not None
            self._gone(old)
            return
        uid = new["metadata"]["uid"]
        self._absent.pop(uid, None)
        node = self._graph.put(resource, old, new)
        if writes.is_terminating(new) and (node.is_deleting_dependents or node.is_orphaning):
            self._enqueue(uid)
            if old is None or not Node(resource, old).is_deleting_dependents:
                self._enqueue_dependents(uid)
        if old is None or old["metadata"].get("ownerReferences") != node.owners:
            self._check_owners(uid, node)

    def _check_owners(self, uid: str, node: Node) -> None:
        for reference in node.owners:
            owner = self._graph.nodes.get(reference["uid"])
            if owner is None or owner.is_deleting_dependents or not _is_same(owner, reference):
                self._enqueue(uid)
                return

    def _gone(self, document: Document) -> None:
        uid = document["metadata"]["uid"]
        node = self._graph.nodes.get(uid)
        self._graph.drop(document)
        self._enqueue_dependents(uid)
        if node is not None:
            for reference in node.owners:  # an owner may have waited for this one
                owner = self._graph.nodes.get(reference["uid"])
                if owner is not None and owner.is_deleting_dependents:
                    self._enqueue(reference["uid"])

    def _enqueue(self, uid: str) -> None:
        self.controller.enqueue(("", uid))

    def _enqueue_dependents(self, uid: str) -> None:
        for dependent in self._graph.dependents.get(uid, ()):
            self._enqueue(dependent)

    # one object

    async def _reconcile(self, key: Key) -> float | None:
        uid = key[1]
        node = self._graph.nodes.get(uid)
        if node is None:
            return None
        if node.is_orphaning:
            await self._orphan_dependents(uid, node)
            return None
        if node.is_deleting_dependents:
            await self._delete_dependents(uid, node)
            return None
        if writes.is_terminating(node.document) or not node.owners:
            return None
        return await self._collect(uid, node)

    async def _orphan_dependents(self, uid: str, node: Node) -> None:
        for dependent in self._graph.dependents_of(uid):
            await self._drop_references(dependent, {uid})
        await writes.remove_finalizer(self._context, node.resource, node.document, ORPHAN)

    async def _delete_dependents(self, uid: str, node: Node) -> None:
        blocking = self._graph.blocking_dependents(uid)
        if not blocking:
            await writes.remove_finalizer(self._context, node.resource, node.document, FOREGROUND)
            return
        for dependent in blocking:
            if not dependent.is_deleting_dependents:
                self._enqueue(dependent.document["metadata"]["uid"])

    async def _collect(self, uid: str, node: Node) -> float | None:
        """Delete ``node`` if no owner is left; else forget the owners that are gone."""
        solid: list[Document] = []
        dangling: set[str] = set()
        waiting: set[str] = set()
        unknown = False
        for reference in node.owners:
            owner = self._graph.nodes.get(reference["uid"])
            verdict = await self._owner_state(node, reference, owner)
            if verdict == "unknown":
                unknown = True
            elif verdict == "absent":
                dangling.add(reference["uid"])
            elif verdict == "waiting":
                waiting.add(reference["uid"])
            else:
                solid.append(reference)
        if unknown and not solid:
            return UNKNOWN_KIND_RETRY_S
        if solid:
            if dangling or waiting:
                await self._drop_references(node, dangling | waiting)
            return None
        if waiting and self._graph.dependents.get(uid):
            await self._delete_in_foreground(uid, node)
            return None
        await self._delete(node, _policy_of(node))
        return None

    async def _owner_state(self, node: Node, reference: Document, owner: Node | None) -> str:
        """ "there", "waiting" (for its dependents), "absent", or "unknown" (kind not served)."""
        if owner is not None and _is_same(owner, reference):
            return "waiting" if owner.is_deleting_dependents else "there"
        if reference["uid"] in self._absent:
            return "absent"
        resource = self._served.find(reference.get("apiVersion", ""), reference.get("kind", ""))
        if resource is None:
            return "unknown"
        namespace = node.document["metadata"].get("namespace", "")
        if resource.namespaced and not namespace:
            self._refuse_scope(node, reference)
            return "there"
        scope = namespace if resource.namespaced else ""
        try:
            found = await self._context.client.get(resource, reference["name"], scope)
        except ApiError as error:
            if error.code != 404:
                raise
            self._note_absent(reference["uid"])
            return "absent"
        if found["metadata"]["uid"] == reference["uid"]:
            return "there"
        self._note_absent(reference["uid"])
        return "absent"

    def _refuse_scope(self, node: Node, reference: Document) -> None:
        self._recorder.event(
            node.document,
            "Warning",
            "OwnerRefInvalidNamespace",
            f"ownerRef [{reference['apiVersion']}/{reference['kind']}, namespace: , name: "
            f"{reference['name']}, uid: {reference['uid']}] does not exist in namespace",
        )

    def _note_absent(self, uid: str) -> None:
        # Upstream keeps the last 500 of them.
        if len(self._absent) >= 500:
            self._absent.pop(next(iter(self._absent)))
        self._absent[uid] = None

    async def _delete_in_foreground(self, uid: str, node: Node) -> None:
        """Its own dependents go first. In a circle somebody must stop blocking."""
        if any(dependent.is_deleting_dependents for dependent in self._graph.dependents_of(uid)):
            references = [
                {**reference, "blockOwnerDeletion": False}
                if reference.get("blockOwnerDeletion")
                else reference
                for reference in node.owners
            ]
            if references != node.owners:
                await self._set_references(node, references)
        await self._delete(node, "Foreground")

    async def _delete(self, node: Node, policy: str) -> None:
        await writes.delete(self._context, node.resource, node.document, propagation_policy=policy)

    async def _drop_references(self, node: Node, uids: set[str]) -> None:
        kept = [reference for reference in node.owners if reference["uid"] not in uids]
        if kept != node.owners:
            await self._set_references(node, kept)

    async def _set_references(self, node: Node, references: list[Document]) -> None:
        informer = self._context.informers.get(node.resource)
        namespace, name = key_of(node.document)
        current = informer.get(name, namespace) or node.document
        metadata = current["metadata"]
        change = {
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
            "ownerReferences": copy_document(references) or None,
        }
        try:
            await writes.patch(self._context, node.resource, current, {"metadata": change})
        except ApiError as error:
            if error.reason != "NotFound":
                raise


def _is_same(owner: Node, reference: Document) -> bool:
    """Whether the object with that uid is the one that the reference names."""
    group = reference["apiVersion"].rpartition("/")[0]
    held = (owner.resource.group, owner.resource.kind, owner.document["metadata"]["name"])
    return held == (group, reference["kind"], reference["name"])


def _policy_of(node: Node) -> str:
    """A finalizer that is there already says how its own dependents are to be treated."""
    finalizers = node.document["metadata"].get("finalizers") or ()
    if ORPHAN in finalizers:
        return "Orphan"
    return "Foreground" if FOREGROUND in finalizers else "Background"
