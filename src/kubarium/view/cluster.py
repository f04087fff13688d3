"""A snapshot that follows the documents of a cluster, change by change.

``ClusterView.apply(resource, old, new)`` has the shape of an informer's handler. The scheduler
keeps one for its lifetime; ``kubarium why`` fills one from lists and asks it.

Assumed state (decided, not yet confirmed by a document) survives unrelated changes: a pod document
without a node does not displace a pod that was only assumed, and a claim document without an
allocation frees devices only if an earlier document had one.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from kubarium.api.cel.clauses import clauses
from kubarium.api.cel.sight import attributes_read
from kubarium.api.kinds import (
    COMPOSITE_POD_GROUPS,
    DEVICE_CLASSES,
    DEVICE_TAINT_RULES,
    NAMESPACES,
    NODES,
    POD_DISRUPTION_BUDGETS,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.api.resource import Document, Resource
from kubarium.base.frozen import replacing
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.model import Budget, Claim, Gang, Key, Pod, PodShape
from kubarium.engine.snapshot import Snapshot, advertised_by
from kubarium.view.device_taints import TaintRule, taint_rule
from kubarium.view.devices import (
    ClaimReader,
    allocation_row,
    class_row,
    device_derives,
    device_selects,
    slice_row,
)
from kubarium.view.extended import (
    ExtendedResources,
    extended_owner,
    pending_key,
    served_besides,
)
from kubarium.view.forest import Forest
from kubarium.view.gangs import COSCHEDULING_GROUPS, coscheduling_row, gang_row
from kubarium.view.locality import LOCALITY_RESOURCES, Caches
from kubarium.view.nodes import node_row
from kubarium.view.pods import (
    PodReader,
    gang_key,
    is_bound_since,
    is_finished,
    is_gated,
    node_of,
    says_the_same,
    start_time,
)
from kubarium.view.profiles import scheduler_name
from kubarium.view.quick_selectors import quick_selector
from kubarium.view.selectors import label_selector
from kubarium.view.spreading import SPREADING_RESOURCES, Default
from kubarium.view.volumes import VOLUME_RESOURCES, VolumeBook

# The resources a snapshot is made of, in the order in which they are best applied.
SNAPSHOT_RESOURCES = (
    NAMESPACES,
    NODES,
    DEVICE_CLASSES,
    DEVICE_TAINT_RULES,
    RESOURCE_SLICES,
    RESOURCE_CLAIMS,
    POD_DISRUPTION_BUDGETS,
    *SPREADING_RESOURCES,
    *VOLUME_RESOURCES,
    *LOCALITY_RESOURCES,
    COMPOSITE_POD_GROUPS,
    POD_GROUPS,
    COSCHEDULING_GROUPS,
    PODS,
)

_restarted = replacing(Pod, "started")
_reshaped, _backed = replacing(Pod, "shape"), replacing(Pod, "shape", "claims")
_moved = replacing(Pod, "labels", "claims")


class _Read(NamedTuple):
    """A waiting pod's row, and what it was made of: the pod, and a count of all the rest."""

    document: Document
    reading: int
    row: Pod
    # Whether it was made of nothing else: one with devices for a resource is, of nodes and claims.
    lasting: bool = True


_Apply = Callable[[Document | None, Document | None], None]


def key_of(document: Document) -> Key:
    """(namespace, name); the namespace of a cluster-scoped object is ""."""
    metadata = document["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def is_coscheduling(group: Document) -> bool:
    """Whether a PodGroup is scheduler-plugins' kind."""
    return group.get("apiVersion") == COSCHEDULING_GROUPS.api_version


class ClusterView:
    """Documents in, snapshot out."""

    def __init__(self, *, best_fit: bool = True) -> None:
        """``best_fit`` False makes device allocation take the first fit, as upstream does."""
        stock = Inventory(
            device_selects(),
            best_fit=best_fit,
            derives=device_derives(),
            reads=attributes_read,
            quick=quick_selector,
            clauses=clauses,
        )
        self.snapshot = Snapshot(stock)
        self.reader = PodReader()
        self.unreadable: dict[str, str] = {}
        self._claims = ClaimReader()
        self.class_documents: dict[str, Document] = {}
        self.extended = ExtendedResources()
        self._extended_of: dict[str, Key] = {}
        # By pod, the keys under which claims for its extended resources are decided.
        self._pending: dict[Key, dict[Key, None]] = {}
        # Which nodes there are, by the extended resources that they have themselves.
        self._sorts_of: dict[tuple[str, ...], tuple[frozenset[str], ...]] = {}
        self._sorts_epoch = -1
        self.group_documents: dict[Key, Document] = {}
        self.forest = Forest(self.snapshot)
        self._taint_rules: dict[str, TaintRule] = {}
        self._bound: dict[Key, None] = {}
        self._rows: dict[Key, _Read] = {}
        # Counts changes of what rows are made of besides pods: classes, services and owners.
        self._reading = 0
        self._held: dict[Key, None] = {}
        self._succeeded: dict[Key, dict[Key, None]] = {}
        # By group its pods, each with the scheduler for which it waits, if it does.
        self._members: dict[Key, dict[Key, str]] = {}
        self._apply: dict[Resource, _Apply] = {
            NAMESPACES: self._namespace,
            NODES: self._node,
            DEVICE_CLASSES: self._class,
            DEVICE_TAINT_RULES: self._taint_rule,
            RESOURCE_SLICES: self._slice,
            RESOURCE_CLAIMS: self._claim,
            COMPOSITE_POD_GROUPS: self._composite,
            POD_GROUPS: self._group,
            COSCHEDULING_GROUPS: self._coscheduling,
            POD_DISRUPTION_BUDGETS: self._budget,
            PODS: self._pod,
        }
        self._caches = Caches(self.snapshot)
        for resource in LOCALITY_RESOURCES:
            self._apply[resource] = partial(self._caches.apply, resource)
        self.volumes = volumes = VolumeBook(self.snapshot)
        for resource in VOLUME_RESOURCES:
            self._apply[resource] = partial(volumes.apply, resource)
        for resource in SPREADING_RESOURCES:
            self._apply[resource] = partial(self._spreading, resource)

    @classmethod
    def of(
        cls,
        documents: Mapping[Resource, Iterable[Document]],
        spread_defaults: Iterable[tuple[str, tuple[Default, ...]]] = (),
    ) -> ClusterView:
        """The view of whole lists; what cannot be read is left out, and named in ``unreadable``.

        ``spread_defaults`` are those of schedulers that list their own.
        """
        view = cls()
        view.reader.spreading.defaults.update(spread_defaults)
        for resource in SNAPSHOT_RESOURCES:
            for document in documents.get(resource, ()):
                try:
                    view.apply(resource, None, document)
                except Exception as error:
                    view.unreadable[
                        f"{resource.kind} {'/'.join(filter(None, key_of(document)))}"
                    ] = repr(error)
        return view

    def apply(self, resource: Resource, old: Document | None, new: Document | None) -> None:
        """Take in one change: ``old`` is None on add, ``new`` is None on delete."""
        self._apply[resource](old, new)

    def pod(self, document: Document) -> Pod:
        """The engine's row of a pod, placed or not.

        Extended resources that a DeviceClass answers are a claim instead: the one made for the pod
        if there is one, else one that exists only in the snapshot until the pod is committed.
        """
        key = key_of(document)
        known = self._rows.get(key)
        if known is not None and known.lasting and self._is_of(known, document):
            return known.row
        row, node = self.reader.row(document), node_of(document)
        shapes = self._shapes(row.shape, node)
        if shapes == (row.shape,):
            if not node and self._is_plain(row):
                self._rows[key] = _Read(document, self._reading, row)
            return row
        found = [self._as(row, document, shape) for shape in shapes]
        if len(found) > 1:
            return replace(found[0], variants=tuple(found))
        if not node:
            self._rows[key] = _Read(document, self._reading, found[0], lasting=False)
        return found[0]

    def _is_of(self, read: _Read, document: Document) -> bool:
        return read.document is document and read.reading == self._reading

    def _is_plain(self, row: Pod) -> bool:
        """Whether no device stands for a resource of the pod, on any node there may be."""
        return self.extended.stripped(row.shape) is row.shape

    def _as(self, row: Pod, document: Document, shape: PodShape) -> Pod:
        """The pod in a shape of :meth:`_shapes`, with the claim for what devices stand for."""
        key, bound = self._extended_of.get(row.uid), (document.get("spec") or {}).get("nodeName")
        if not shape.backed or (key is None and bound):
            return _reshaped(row, shape)
        served = served_besides(shape)
        if not bound:
            wanted = self.extended.wanted(document["spec"], served)
            if key is None or self.snapshot.claims[key].spec != wanted.spec:
                key = pending_key(row.key, served)
                self._pending.setdefault(row.key, {})[key] = None
                self.snapshot.claims[key] = Claim(key, wanted.spec, resources=wanted.names)
        assert key is not None
        return _backed(row, shape, (*row.claims, key))

    def shapes(self, document: Document) -> tuple[PodShape, ...]:
        """The shapes that :meth:`pod` gives a pod without a node, and nothing else of it."""
        return self._shapes(self.reader.shape(document), "")

    def _shapes(self, shape: PodShape, node: str) -> tuple[PodShape, ...]:
        """One for each sort of nodes, by the extended resources that they have themselves.

        On the others devices stand for them. With ``node``, the one that is right there.
        """
        names = tuple(name for name, _, _ in self.extended.stripped(shape).backed)
        if not names:
            return (shape,)
        if node:
            row = self.snapshot.node(node)
            own = advertised_by(row) & frozenset(names) if row is not None else frozenset()
            return (self.extended.served_by(shape, own, only=False),)
        sorts = self._sorts(names)
        if sorts == (frozenset(names),):
            return (shape,)
        only = sorts != (frozenset(),)
        return tuple(self.extended.served_by(shape, own, only=only) for own in sorts)

    def _sorts(self, names: tuple[str, ...]) -> tuple[frozenset[str], ...]:
        """The sorts of nodes there are, by which of these resources they have; few first."""
        if self._sorts_epoch != self.snapshot.epoch:
            self._sorts_of.clear()
            self._sorts_epoch = self.snapshot.epoch
        known = self._sorts_of.get(names)
        if known is None:
            nodes = [node for node in self.snapshot.nodes if node is not None]
            found = {advertised_by(node) & frozenset(names) for node in nodes}
            ordered = sorted(found, key=lambda own: (len(own), sorted(own)))
            known = self._sorts_of[names] = tuple(ordered) or (frozenset(),)
        return known

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

    def waiting_for(self, group: Key, ours: Container[Key]) -> list[str]:
        """The schedulers that the group's waiting pods have left to them, but for ``ours``."""
        members = self._members.get(group, {})
        return [name for key, name in members.items() if name and key not in ours]

    def taint_rule_names(self) -> dict[str, str]:
        """For each taint that a DeviceTaintRule puts on devices, as text, the rule's name."""
        return {str(rule.taint): rule.name for rule in self._taint_rules.values()}

    def is_bound(self, pod: Key) -> bool:
        """Whether a document says that the pod has a node."""
        return pod in self._bound

    def forget_assumed(self, pod: Key) -> None:
        """The assumption about a pod turned out wrong: take it off its node."""
        if pod not in self._bound:
            known = self.snapshot.placed(pod)
            self.snapshot.displace(pod)
            for claim in known.volumes if known is not None else ():
                if not self.snapshot.volume_users.get(claim):
                    self.snapshot.forget_volume(claim)

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
            row = self._caches.node(new, node_row(new))
            known = self.snapshot.node(row.name)
            self.snapshot.set_node(row)
            if advertised_by(row) != (advertised_by(known) if known is not None else frozenset()):
                self._served_anew(row.name)
        elif old is not None:
            self.snapshot.remove_node(old["metadata"]["name"])

    def _served_anew(self, node: str) -> None:
        """The pods of a node hold what it serves itself now, whoever served them when they came.

        Upstream counts a pod's extended resources whether or not devices stand for them, so that
        a device plugin that takes over from a DRA driver does not give them away twice.
        """
        placed = self.snapshot.pods_on[self.snapshot.rows[node]]
        for pod in [pod for key, pod in placed.items() if key in self._bound]:
            [shape] = self._shapes(self.extended.whole(pod.shape), node)
            if shape != pod.shape:
                self.snapshot.place(_reshaped(pod, shape), node)

    def _spreading(self, resource: Resource, old: Document | None, new: Document | None) -> None:
        self._reading += 1
        self.reader.spreading.apply(resource, old, new)

    def _class(self, old: Document | None, new: Document | None) -> None:
        self._reading += 1
        if new is not None:
            row = class_row(new)
            self.class_documents[row.name] = new
            self.extended.set_class(new)
            self.snapshot.inventory.set_class(row)
        elif old is not None:
            name = old["metadata"]["name"]
            self.class_documents.pop(name, None)
            self.extended.remove_class(name)
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
            self._extended_of.pop(extended_owner(old), None)
            self.snapshot.remove_claim(key)
            return
        row, allocation = self._claims.row(new), allocation_row(new)
        if allocation is not None and extended_owner(new):
            self._extended_of[extended_owner(new)] = row.key
            owner = new["metadata"]["ownerReferences"][0]["name"]
            self._forget_pending((row.key[0], owner))
        if allocation is not None:
            self._held[row.key] = None
            self.snapshot.set_claim(row, allocation)
        elif self._held.pop(row.key, False) is None:
            self.snapshot.set_claim(row, None)
        else:
            self.snapshot.set_claim(row, self.snapshot.allocations.get(row.key))

    def _composite(self, old: Document | None, new: Document | None) -> None:
        document = new or old
        assert document is not None
        self.forest.set_composite(key_of(document), new)

    def _group(self, old: Document | None, new: Document | None) -> None:
        document = new or old
        assert document is not None
        self.forest.set_group(key_of(document), new)
        if new is not None:
            key = key_of(new)
            self.group_documents[key] = new
            self.snapshot.gangs[key] = gang_row(new)
        elif old is not None:
            self.group_documents.pop(key_of(old), None)
            self.snapshot.gangs.pop(key_of(old), None)

    def _coscheduling(self, old: Document | None, new: Document | None) -> None:
        """A PodGroup of scheduler-plugins; one of the built-in kind of the same name wins."""
        document = new or old
        assert document is not None
        key = key_of(document)
        known = self.group_documents.get(key)
        if known is not None and not is_coscheduling(known):
            return
        if new is not None:
            self.group_documents[key] = {"apiVersion": COSCHEDULING_GROUPS.api_version, **new}
            self.snapshot.gangs[key] = coscheduling_row(new)
        else:
            self.group_documents.pop(key, None)
            self.snapshot.gangs.pop(key, None)

    def _budget(self, old: Document | None, new: Document | None) -> None:
        document = new or old
        assert document is not None
        key = key_of(document)
        if new is None:
            self.snapshot.set_budget(key, None)
            return
        status = new.get("status") or {}
        selector = label_selector((new.get("spec") or {}).get("selector"))
        allowed = int(status.get("disruptionsAllowed") or 0)
        budget = Budget(key, selector, allowed, frozenset(status.get("disruptedPods") or ()))
        self.snapshot.set_budget(key, budget)

    def _pod(self, old: Document | None, new: Document | None) -> None:
        document = new or old
        assert document is not None
        key, group = key_of(document), gang_key(document)
        if group is not None:
            self._note_member(key, group, new)
        node = (new.get("spec") or {}).get("nodeName") if new else None
        read = self._rows.pop(key, None) if node or new is None else None
        if new is None or is_finished(new):
            self._bound.pop(key, None)
            self.snapshot.displace(key)
            self._forget_pending(key)
        elif node:
            self._bound[key] = None
            known = self.snapshot.placed(key) if old is not None else None
            if known is not None and read is not None and self._went(known, read, new):
                arrived = self._arrived(known, new)
                if arrived is not known:
                    self.snapshot.place(arrived, node)
            elif known is None or not self._is_known(known, old, new):
                self.snapshot.place(self.pod(new), node)
            elif (started := start_time(new)) != known.started:
                self.snapshot.place(_restarted(known, started), node)
        elif key in self._bound:  # another pod of the same name
            del self._bound[key]
            self.snapshot.displace(key)

    def _forget_pending(self, pod: Key) -> None:
        """The claims for the pod's extended resources that exist only here."""
        for key in self._pending.pop(pod, ()):
            self.snapshot.remove_claim(key)

    def _went(self, assumed: Pod, read: _Read, new: Document) -> bool:
        """Whether a pod is just where it was assumed to go, and its row but for labels as then."""
        return (
            read.row is assumed
            and read.reading == self._reading
            and not assumed.shape.spread
            and self.snapshot.node_of(assumed.key) == node_of(new)
            and is_bound_since(read.document, new)
            and start_time(new) == assumed.started
            and (not assumed.shape.backed or self._lacks_backed(node_of(new), assumed.shape))
        )

    def _lacks_backed(self, node: str, shape: PodShape) -> bool:
        """Whether devices still stand for all those resources of the shape on the node."""
        row, names = self.snapshot.node(node), [name for name, _, _ in shape.backed]
        return not shape.advertised and row is not None and not advertised_by(row) & set(names)

    def _arrived(self, assumed: Pod, new: Document) -> Pod:
        """The row of a pod that went where it was assumed to go; the same if nothing is new.

        Binding adds the node's topology to its labels; the claim for what devices stand for has
        been made, and is the last one.
        """
        labels, claims = new["metadata"].get("labels") or {}, assumed.claims
        if assumed.shape.backed:
            made = self._extended_of.get(assumed.uid)
            claims = (*claims[:-1], *([made] if made is not None else []))
        if labels == assumed.labels and claims == assumed.claims:
            return assumed
        return _moved(assumed, labels, claims)

    def _is_known(self, known: Pod, old: Document | None, new: Document) -> bool:
        """Whether all that a placed pod's row is made of, but when it started, is as it was."""
        return (
            old is not None
            and not known.terminating
            and self._extended_of.get(known.uid) in (None, *known.claims[-1:])
            and says_the_same(old, new)
            and self.extended.stripped(known.shape) is known.shape
        )

    def _note_member(self, key: Key, group: Key, new: Document | None) -> None:
        members = self._members.setdefault(group, {})
        succeeded = self._succeeded.setdefault(group, {})
        if new is None:
            members.pop(key, None)
            succeeded.pop(key, None)
        else:
            members[key] = _waits_for(new)
            if (new.get("status") or {}).get("phase") == "Succeeded":
                succeeded[key] = None
        if not members:
            del self._members[group]
            del self._succeeded[group]


def _waits_for(pod: Document) -> str:
    """The scheduler that the pod is left to; "" if it waits for none."""
    spec = pod.get("spec") or {}
    going = "deletionTimestamp" in pod["metadata"]
    waits = not (spec.get("nodeName") or going or is_gated(pod) or is_finished(pod))
    return scheduler_name(pod) if waits else ""
