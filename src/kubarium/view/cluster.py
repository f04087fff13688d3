"""A snapshot that follows the documents of a cluster, change by change.

``ClusterView.apply(resource, old, new)`` has the shape of an informer's handler. The scheduler
keeps one for its lifetime; ``kubarium why`` fills one from lists and asks it.

Assumed state (decided, not yet confirmed by a document) survives unrelated changes: a pod document
without a node does not displace a pod that was only assumed, and a claim document without an
allocation frees devices only if an earlier document had one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    DEVICE_TAINT_RULES,
    NAMESPACES,
    NODES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.api.resource import Document, Resource
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.model import Gang, Key, Pod
from kubarium.engine.snapshot import Snapshot
from kubarium.view.device_taints import TaintRule, taint_rule
from kubarium.view.devices import allocation_row, claim_row, class_row, device_selects, slice_row
from kubarium.view.gangs import gang_row
from kubarium.view.nodes import node_row
from kubarium.view.pods import PodReader, gang_key, is_finished

# The resources a snapshot is made of, in the order in which they are best applied.
SNAPSHOT_RESOURCES = (
    NAMESPACES,
    NODES,
    DEVICE_CLASSES,
    DEVICE_TAINT_RULES,
    RESOURCE_SLICES,
    RESOURCE_CLAIMS,
    POD_GROUPS,
    PODS,
)

_Apply = Callable[[Document | None, Document | None], None]


def key_of(document: Document) -> Key:
    """(namespace, name); the namespace of a cluster-scoped object is ""."""
    metadata = document["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class ClusterView:
    """Documents in, snapshot out."""

    def __init__(self, *, best_fit: bool = True) -> None:
        """``best_fit`` False makes device allocation take the first fit, as upstream does."""
        self.snapshot = Snapshot(Inventory(device_selects(), best_fit=best_fit))
        self.reader = PodReader()
        self.class_documents: dict[str, Document] = {}
        self.group_documents: dict[Key, Document] = {}
        self._taint_rules: dict[str, TaintRule] = {}
        self._bound: dict[Key, None] = {}
        self._held: dict[Key, None] = {}
        self._succeeded: dict[Key, dict[Key, None]] = {}
        self._members: dict[Key, dict[Key, None]] = {}
        self._apply: dict[Resource, _Apply] = {
            NAMESPACES: self._namespace,
            NODES: self._node,
            DEVICE_CLASSES: self._class,
            DEVICE_TAINT_RULES: self._taint_rule,
            RESOURCE_SLICES: self._slice,
            RESOURCE_CLAIMS: self._claim,
            POD_GROUPS: self._group,
            PODS: self._pod,
        }

    @classmethod
    def of(cls, documents: Mapping[Resource, Iterable[Document]]) -> ClusterView:
        """The view of whole lists."""
        view = cls()
        for resource in SNAPSHOT_RESOURCES:
            for document in documents.get(resource, ()):
                view.apply(resource, None, document)
        return view

    def apply(self, resource: Resource, old: Document | None, new: Document | None) -> None:
        """Take in one change: ``old`` is None on add, ``new`` is None on delete."""
        self._apply[resource](old, new)

    def pod(self, document: Document) -> Pod:
        """The engine's row of a pod, placed or not."""
        return self.reader.row(document)

    def gang(self, key: Key) -> Gang | None:
        """The PodGroup with the number of its pods that have a node or have succeeded."""
        known = self.snapshot.gangs.get(key)
        if known is None:
            return None
        placed = sum(
            (pod := self.snapshot.placed(k)) is not None and not pod.terminating
            for k in self._members.get(key, ())
        )
        return replace(known, scheduled_count=placed + len(self._succeeded.get(key, ())))

    def forget_assumed(self, pod: Key) -> None:
        """The assumption about a pod turned out wrong: take it off its node."""
        if pod not in self._bound:
            self.snapshot.displace(pod)

    def forget_assumed_claim(self, claim: Key) -> None:
        """The assumed allocation was not written: free its devices."""
        if claim not in self._held:
            self.snapshot.deallocate(claim)

    # One function for each resource.

    def _namespace(self, old: Document | None, new: Document | None) -> None:
        document = new or old
        assert document is not None
        labels = (new["metadata"].get("labels") or {}) if new else None
        self.snapshot.set_namespace(document["metadata"]["name"], labels)

    def _node(self, old: Document | None, new: Document | None) -> None:
        if new is not None:
            self.snapshot.set_node(node_row(new))
        elif old is not None:
            self.snapshot.remove_node(old["metadata"]["name"])

    def _class(self, old: Document | None, new: Document | None) -> None:
        if new is not None:
            row = class_row(new)
            self.class_documents[row.name] = new
            self.snapshot.inventory.set_class(row)
        elif old is not None:
            name = old["metadata"]["name"]
            self.class_documents.pop(name, None)
            self.snapshot.inventory.remove_class(name)

    def _slice(self, old: Document | None, new: Document | None) -> None:
        if new is None and old is not None:
            self.snapshot.inventory.remove_slice(old["metadata"]["name"])
        elif new is not None and (old is None or old.get("spec") != new.get("spec")):
            rules = tuple(self._taint_rules.values())
            self.snapshot.inventory.set_slice(slice_row(new, rules))

    def _taint_rule(self, old: Document | None, new: Document | None) -> None:
        document = new or old
        assert document is not None
        name = document["metadata"]["name"]
        before = self._taint_rules.pop(name, None)
        after = taint_rule(new) if new is not None else None
        if after is not None:
            self._taint_rules[name] = after
        if before == after:
            return
        rules = tuple(self._taint_rules.values())
        inventory = self.snapshot.inventory
        for item in tuple(inventory.slices.values()):
            if any(r.concerns_pool(item.driver, item.pool) for r in (before, after) if r):
                assert isinstance(item.source, dict)
                inventory.set_slice(slice_row(item.source, rules))

    def _claim(self, old: Document | None, new: Document | None) -> None:
        if new is None:
            assert old is not None
            key = key_of(old)
            self._held.pop(key, None)
            self.snapshot.remove_claim(key)
            return
        row, allocation = claim_row(new), allocation_row(new)
        if allocation is not None:
            self._held[row.key] = None
            self.snapshot.set_claim(row, allocation)
        elif self._held.pop(row.key, False) is None:
            self.snapshot.set_claim(row, None)
        else:
            self.snapshot.set_claim(row, self.snapshot.allocations.get(row.key))

    def _group(self, old: Document | None, new: Document | None) -> None:
        if new is not None:
            key = key_of(new)
            self.group_documents[key] = new
            self.snapshot.gangs[key] = gang_row(new)
        elif old is not None:
            self.group_documents.pop(key_of(old), None)
            self.snapshot.gangs.pop(key_of(old), None)

    def _pod(self, old: Document | None, new: Document | None) -> None:
        document = new or old
        assert document is not None
        key, group = key_of(document), gang_key(document)
        if group is not None:
            self._note_member(key, group, new)
        node = (new.get("spec") or {}).get("nodeName") if new else None
        if new is None or is_finished(new):
            self._bound.pop(key, None)
            self.snapshot.displace(key)
        elif node:
            self._bound[key] = None
            self.snapshot.place(self.reader.row(new), node)
        elif key in self._bound:  # another pod of the same name
            del self._bound[key]
            self.snapshot.displace(key)

    def _note_member(self, key: Key, group: Key, new: Document | None) -> None:
        members = self._members.setdefault(group, {})
        succeeded = self._succeeded.setdefault(group, {})
        if new is None:
            members.pop(key, None)
            succeeded.pop(key, None)
        else:
            members[key] = None
            if (new.get("status") or {}).get("phase") == "Succeeded":
                succeeded[key] = None
        if not members:
            del self._members[group]
            del self._succeeded[group]
