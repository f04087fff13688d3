"""Who owns whom, kept up to date from the informers of all resources.

One entry for each object; dependents are found by the owner's uid, also while the owner itself has
not been seen yet. Each change costs a few dictionary look-ups.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kubarium.api.resource import Document, Resource
from kubarium.runtime.writes import is_terminating

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
Uid = str


@dataclass(slots=True)
class Node:
    """An object as the collector sees it."""

    resource: Resource
    document: Document

    @property
    def owners(self) -> list[Document]:
        """``metadata.ownerReferences``, of those that name an object."""
        references = self.document["metadata"].get("ownerReferences") or ()
        return [reference for reference in references if reference.get("uid")]

    @property
    def is_deleting_dependents(self) -> bool:
        """Foreground deletion: it waits for its dependents to go."""
        return is_terminating(self.document) and self._has_finalizer(FOREGROUND)

    @property
    def is_orphaning(self) -> bool:
        """Deletion that waits until its dependents have been let go."""
        return is_terminating(self.document) and self._has_finalizer(ORPHAN)

    def _has_finalizer(self, name: str) -> bool:
        return name in (self.document["metadata"].get("finalizers") or ())


@dataclass(slots=True)
class Graph:
    """Nodes by uid, and the uids of dependents by the uid of the owner."""

    nodes: dict[Uid, Node] = field(default_factory=dict)
    dependents: dict[Uid, dict[Uid, None]] = field(default_factory=dict)

    def put(self, resource: Resource, old: Document | None, new: Document) -> Node:
        """Take in a new or changed object."""
        uid = new["metadata"]["uid"]
        node = self.nodes.get(uid)
        if node is None:
            node = self.nodes[uid] = Node(resource, new)
        else:
            node.document = new
        before = _owner_uids(old) if old is not None else []
        after = _owner_uids(new)
        if before == after:
            return node
        for owner in before:
            self._unlink(owner, uid)
        for owner in after:
            self.dependents.setdefault(owner, {})[uid] = None
        return node

    def drop(self, document: Document) -> None:
        """Forget an object that is gone."""
        uid = document["metadata"]["uid"]
        node = self.nodes.pop(uid, None)
        if node is not None:
            for owner in _owner_uids(node.document):
                self._unlink(owner, uid)

    def dependents_of(self, uid: Uid) -> list[Node]:
        """Objects that name ``uid`` among their owners, in order of arrival."""
        return [self.nodes[item] for item in self.dependents.get(uid, ()) if item in self.nodes]

    def blocking_dependents(self, uid: Uid) -> list[Node]:
        """Those whose reference says blockOwnerDeletion."""
        return [
            node
            for node in self.dependents_of(uid)
            if any(ref["uid"] == uid and ref.get("blockOwnerDeletion") for ref in node.owners)
        ]

    def _unlink(self, owner: Uid, dependent: Uid) -> None:
        held = self.dependents.get(owner)
        if held is not None:
            held.pop(dependent, None)
            if not held:
                del self.dependents[owner]

    def check(self) -> None:
        """Invariant: the links are those that the documents state; AssertionError if not."""
        stated: dict[Uid, set[Uid]] = {}
        for uid, node in self.nodes.items():
            for owner in _owner_uids(node.document):
                stated.setdefault(owner, set()).add(uid)
        held = {owner: set(uids) for owner, uids in self.dependents.items()}
        assert held == stated, f"owner links differ: held {held}, stated {stated}"


def _owner_uids(document: Document) -> list[Uid]:
    references = document["metadata"].get("ownerReferences") or ()
    return [reference["uid"] for reference in references if reference.get("uid")]
