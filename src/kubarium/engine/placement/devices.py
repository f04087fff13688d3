"""Which nodes can give a pod's claims their devices: asked lazily, remembered until it changes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kubarium.engine import reasons
from kubarium.engine.devices.alike import Kinds, Pattern, Sight, sight_of
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import Allocation, AllocationError, ClaimSpec, Slice
from kubarium.engine.devices.preference import IGNORE, DevicePreference
from kubarium.engine.devices.sights import MAX_SIGHTS
from kubarium.engine.model import Claim, Key, Pod
from kubarium.engine.placement.device_scores import DevicePacking
from kubarium.engine.placement.node_claims import is_mapped
from kubarium.engine.placement.scores import MAX_SCORE, Scores
from kubarium.engine.snapshot import Mask, Snapshot
from kubarium.engine.verdict import Verdict

# Kinds of nodes for which an answer is kept, for nodes of the same kind. A node is of another kind
# after each allocation, so that there is no end to them.
MAX_FOUND = 4_096

_Answer = TypeVar("_Answer")

# Room where devices set no bound.
_UNBOUNDED = 1 << 40

# Upstream: at most this many alternatives in a prioritised list.
_MAX_ALTERNATIVES = 8

# In place of the kind of a row.
_NONE, _UNKNOWN = -1, -2

# Reasons that hold whatever the claims are called.
_NAMELESS = (reasons.CLAIMS, reasons.INVALID_POOLS, reasons.CLAIM_TIMEOUT)

# Upstream: resource.k8s.io ResourceClaimReservedForMaxSize.
MAX_RESERVED = 256


@dataclass(frozen=True, slots=True)
class ClaimsOf:
    """A pod's claims: those to allocate, and those whose allocation already limits the nodes."""

    pending: tuple[Claim, ...] = ()
    held: tuple[tuple[Claim, Allocation], ...] = ()
    problem: str = ""

    @property
    def liked(self) -> int:
        """How early the alternatives stand that the held claims have got; the same on each node."""
        return sum(
            _preference(claim.spec, {result.request for result in allocation.results})
            for claim, allocation in self.held
        )


def claims_of(snapshot: Snapshot, pod: Pod) -> ClaimsOf:
    """Sort the pod's claims; ``problem`` says why none of it can be decided yet."""
    pending: list[Claim] = []
    held: list[tuple[Claim, Allocation]] = []
    group = snapshot.gangs.get(pod.gang) if pod.gang is not None else None
    shared = group.claims if group is not None else ()
    claims: list[Claim] = []
    for key in pod.claims:
        claim = snapshot.claims.get(key)
        if claim is None:
            return ClaimsOf(problem=reasons.claim_missing(*key))
        if claim.deleting:
            return ClaimsOf(problem=reasons.claim_deleted(key[1]))
        claims.append(claim)
    for key, claim in zip(pod.claims, claims, strict=True):
        users = snapshot.claim_users.get(key, ())
        own = group is None or key not in shared
        full = own and len(users) >= MAX_RESERVED and pod.key not in users
        # Users that are no pods, or that are over and not yet taken off the list.
        user = pod.uid if group is None or own else group.uid
        full = full or (claim.reserved >= MAX_RESERVED and user not in claim.reserved_for)
        if full:
            return ClaimsOf(problem=reasons.claim_in_use(key[1]))
        allocation = snapshot.allocations.get(key)
        if allocation is None:
            problem = _unknown_class(snapshot.inventory, claim)
            if problem:
                return ClaimsOf(problem=problem)
            pending.append(claim)
        else:
            tainted = snapshot.inventory.keeps_out(allocation)
            if tainted is not None:
                return ClaimsOf(problem=reasons.claim_tainted(key[1], str(tainted)))
            others = any(user != pod.key for user in users)
            if others and is_mapped(snapshot.inventory, allocation):
                return ClaimsOf(problem=reasons.claim_not_shareable(key[1]))
            held.append((claim, allocation))
    return ClaimsOf(tuple(pending), tuple(held))


def _unknown_class(inventory: Inventory, claim: Claim) -> str:
    for entry in claim.spec.requests:
        for request in entry.alternatives:
            if request.device_class not in inventory.classes:
                return reasons.class_missing(entry.path(request), request.device_class)
    return ""


def movable(snapshot: Snapshot, pod: Pod, verdict: Verdict) -> list[Key]:
    """The pod's claims that hold devices which keep it from nodes, though nobody uses them yet.

    They were allocated for a binding that did not come about. Upstream deallocates such claims when
    the pod finds no node (DynamicResources' PostFilter); a claim that is being deleted waits there
    for the pod, and the pod for its end.
    """
    elsewhere = reasons.CLAIM_ELSEWHERE in verdict.counts
    found: list[Key] = []
    for key in pod.claims:
        allocation = snapshot.allocations.get(key)
        if allocation is None or snapshot.claim_users.get(key):
            continue
        claim = snapshot.claims.get(key)
        limited = elsewhere and allocation.scope.terms is not None
        limited = limited or (claim is not None and (claim.deleting or claim.failed))
        if limited or snapshot.inventory.keeps_out(allocation) is not None:
            found.append(key)
    return found


def held_mask(snapshot: Snapshot, held: Sequence[tuple[Claim, Allocation]]) -> Mask:
    """Nodes from which all devices that the pod's claims already hold can be used."""
    mask = snapshot.alive.copy()
    for claim, allocation in held:
        if claim.failed:
            mask[:] = False
        for name, row in snapshot.rows.items():
            node = snapshot.nodes[row]
            if node is not None and not allocation.scope.admits(name, node.labels):
                mask[row] = False
    return mask


class NodeKinds:
    """The kind of device state of each row, under one sight; kept current node by node.

    A row is looked at when somebody asks: while every node that is asked gives what is wanted,
    kinds cost nothing.
    """

    def __init__(self, snapshot: Snapshot, kinds: Kinds) -> None:
        self._snapshot = snapshot
        self._kinds = kinds
        self._seen = self._epoch = -1
        # _NONE where there is no node, _UNKNOWN where nobody has looked since the last change.
        self._of: NDArray[np.int64] = np.zeros(0, np.int64)
        self._complete = True

    def of(self) -> NDArray[np.int64]:
        """The kind of every row, as things are now."""
        self._follow()
        if not self._complete:
            rows = np.flatnonzero(self._of == _UNKNOWN)
            nodes = [self._snapshot.nodes[row] for row in rows.tolist()]
            known = [(node.name, node.labels) for node in nodes if node is not None]
            self._of[rows] = _NONE
            there = rows[[node is not None for node in nodes]]
            self._of[there] = self._snapshot.inventory.kinds_of(self._kinds, known)
            self._complete = True
        return self._of

    def one(self, row: int) -> int:
        """The kind of one row, as things are now."""
        self._follow()
        known = self._of.item(row)
        if known == _UNKNOWN:
            known = self._of[row] = self._kind(row)
        return known

    def _follow(self) -> None:
        """Forget the rows that changed."""
        snapshot = self._snapshot
        names, now = snapshot.inventory.changes_since(max(self._seen, 0))
        if now == self._seen and self._epoch == snapshot.epoch:
            return
        if names is None or self._seen < 0 or len(self._of) != snapshot.capacity:
            self._of = np.where(snapshot.alive, _UNKNOWN, _NONE)
        else:
            for name in names:
                row = snapshot.rows.get(name)
                if row is not None:
                    self._of[row] = _UNKNOWN
            if self._epoch != snapshot.epoch:
                self._of[~snapshot.alive] = _NONE
        self._complete = False
        self._seen, self._epoch = now, snapshot.epoch

    def _kind(self, row: int) -> int:
        node = self._snapshot.nodes[row]
        if node is None:
            return _NONE
        return self._snapshot.inventory.kind_of(self._kinds, node.name, node.labels)


class KindBooks:
    """One :class:`NodeKinds` for each sight, shared by all claims that see as much.

    By way of :meth:`Snapshot.shared` by all placers too.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._books: dict[Kinds, NodeKinds] = {}

    def under(self, sight: Sight) -> NodeKinds:
        """The kinds of nodes for claims of this sight."""
        kinds = self._snapshot.inventory.sights.kinds(sight)
        found = self._books.pop(kinds, None) or NodeKinds(self._snapshot, kinds)
        self._books[kinds] = found
        if len(self._books) > MAX_SIGHTS:
            del self._books[next(iter(self._books))]
        return found


class DeviceFit:
    """For one list of claim specs: what each node would give, or why it gives nothing.

    Nodes of one kind give the same answer, so that a cluster in which nothing fits costs one search
    for each kind of node. The devices themselves are looked for on the node that is chosen.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        specs: tuple[ClaimSpec, ...],
        preference: DevicePreference | None = None,
        weight: int = 0,
    ) -> None:
        """``weight`` is the score's."""
        self._snapshot = snapshot
        self._order = preference
        self._books = snapshot.shared(KindBooks)
        self._seen = -1
        self._specs = [(f"#{i}", spec) for i, spec in enumerate(specs)]
        self._answers: dict[int, tuple[Allocation, ...]] = {}
        # By kind: why nothing is given, or how much the devices given are liked.
        self._refusals: dict[int, str] = {}
        self._liked: dict[int, int] = {}
        # By kind: what a search gave on a node of the kind.
        self._found: dict[int, Pattern] = {}
        # By row: the last answer that was carried there, of which pattern, on which slices.
        self._made: dict[int, tuple[Pattern, Sequence[Slice], tuple[Allocation, ...]]] = {}
        # Rows known to give nothing, so that a search for the best row need not ask them again.
        self.blocked: Mask = np.zeros(snapshot.capacity, np.bool_)
        self._kinds: NodeKinds | None = None
        self._class_epoch = -1
        self.prioritised = any(spec.prioritised for spec in specs)
        # Nodes whose points are those of before; None: of all.
        self._unscored: dict[str, None] | None = None
        # By kind: how many whole devices are free; None if they can be shared or cut.
        self._rooms: dict[int, int | None] = {}
        self._packing = self._packing_of(preference or snapshot.inventory.preference, weight)

    def _packing_of(self, order: DevicePreference, weight: int) -> DevicePacking | None:
        """None if nodes have no points for their devices."""
        entries = [entry for _, spec in self._specs for entry in spec.requests]
        lists = sum(entry.prioritised for entry in entries)
        # One place further down a list must weigh more than all that packing can.
        most = MAX_SCORE // (_MAX_ALTERNATIVES * lists) - 1 if lists else MAX_SCORE
        takes = any(not r.admin_access for entry in entries for r in entry.alternatives)
        if order.node_strategy == IGNORE or not takes or most <= 0 or not weight:
            return None
        specs = [spec for _, spec in self._specs]
        return DevicePacking(self._snapshot, specs, order, weight * most)

    def name_claims(self, keys: Sequence[Key]) -> None:
        """Whose names errors carry from now on."""
        for kind in [k for k, why in self._refusals.items() if why not in _NAMELESS]:
            del self._refusals[kind]
        self._specs = [("/".join(k), spec) for k, (_, spec) in zip(keys, self._specs, strict=True)]

    def refresh(self) -> None:
        """Forget the answers of nodes whose devices changed."""
        snapshot, inventory = self._snapshot, self._snapshot.inventory
        if self._kinds is None or self._class_epoch != inventory.class_epoch:
            specs = [spec for _, spec in self._specs]
            sight = sight_of(specs, inventory.classes, inventory.sights.sees)
            order = self._order or inventory.preference
            if sight is not None:
                sight |= {attribute.name for attribute in order.attributes}
            self._kinds = self._books.under(sight)
            self._class_epoch = inventory.class_epoch
            self._refusals.clear()
            self._liked.clear()
            self._found.clear()
            self._rooms.clear()
            self._unscored = None
            if self._packing is not None:
                self._packing.forget()
        names, now = inventory.changes_since(max(self._seen, 0))
        if now == self._seen and len(self.blocked) == snapshot.capacity:
            return
        if names is None or self._seen < 0 or len(self.blocked) != snapshot.capacity:
            self._answers.clear()
            self.blocked = np.zeros(snapshot.capacity, np.bool_)
            self._unscored = None
            if self._refusals:
                self.blocked = np.isin(self._kinds.of(), np.fromiter(self._refusals, np.int64))
            names = []
        for name in names:
            row = snapshot.rows.get(name)
            if row is not None:
                self._answers.pop(row, None)
                self.blocked[row] = bool(self._refusals) and self.kind(row) in self._refusals
                if self._unscored is not None:
                    self._unscored[name] = None
        self._seen = now

    def kinds(self) -> NDArray[np.int64]:
        """The number of each row's device state."""
        assert self._kinds is not None
        return self._kinds.of()

    def kind(self, row: int) -> int:
        """The number of the row's device state: equal numbers give equal answers."""
        assert self._kinds is not None
        return self._kinds.one(row)

    def rows_like(self, row: int) -> Mask:
        """All rows of the row's kind."""
        assert self._kinds is not None
        kinds = self._kinds.of()
        mask: Mask = kinds == kinds[row]
        return mask

    def on(self, row: int) -> tuple[Allocation, ...] | str:
        """One allocation for each claim, or the reason against.

        Raises AllocationError when the claims cannot be decided on any node.
        """
        known = self._answers.get(row)
        if known is not None:
            return known
        refusal = self._refusals.get(self.kind(row)) if self._refusals else None
        if refusal is not None:
            self.blocked |= self.rows_like(row)
            return refusal
        found = self._carried(row) or self._ask(row)
        if isinstance(found, str):
            _limit(self._refusals)
            self._refusals[self.kind(row)] = found
            self.blocked |= self.rows_like(row)
        else:
            self._answers[row] = found
        return found

    def _carried(self, row: int) -> tuple[Allocation, ...] | None:
        """The row's answer by way of a node of its kind that has been asked."""
        node = self._snapshot.nodes[row]
        kind = self.kind(row)
        known = self._found.get(kind) if self._found else None
        if known is None or node is None:
            return None
        there = self._snapshot.inventory.own_slices(node.name, node.labels)
        if there is None:
            return None
        # What is taken back after a try leaves nodes as they were.
        before = self._made.get(row)
        if before is not None and before[0] is known and before[1] is there:
            return before[2]
        if len(self._made) >= MAX_FOUND:  # asked for each pod, so that a call is too much
            self._made.clear()
        answer = known.on(there, node.name)
        self._made[row] = (known, there, answer)
        return answer

    def _ask(self, row: int) -> tuple[Allocation, ...] | str:
        node = self._snapshot.nodes[row]
        if node is None:
            return reasons.CLAIMS
        try:
            found = self._snapshot.inventory.search(
                node.name, node.labels, self._specs, self._order
            ).run()
        except AllocationError as error:
            if not error.node_only:
                raise
            return str(error)
        if found is None:
            return reasons.CLAIMS
        slices = self._snapshot.inventory.own_slices(node.name, node.labels)
        if slices is not None:
            _limit(self._found)
            self._found[self.kind(row)] = Pattern(found, slices)
        return tuple(found)

    def refusal(self, row: int) -> str:
        """Why the row gives nothing; "" if it gives what is asked."""
        kind = self.kind(row)
        if kind in self._liked:
            return ""
        answer = self.on(row)
        if isinstance(answer, str):
            return answer
        _limit(self._liked)
        self._liked[kind] = sum(
            _preference(spec, set(allocation.chosen))
            for (_, spec), allocation in zip(self._specs, answer, strict=True)
        )
        return ""

    def refusals(self, rows: Mask) -> Iterator[tuple[str, Mask]]:
        """(reason, rows) for those of the given rows that give nothing, kind by kind."""
        left = rows.copy()
        while left.any():
            first = int(left.argmax())
            alike = left & self.rows_like(first)
            reason = self.refusal(first)
            if reason:
                yield reason, alike
            left &= ~alike

    def mask(self, rows: Mask) -> Mask:
        """Which of the given rows can satisfy the claims."""
        passed = rows.copy()
        for _, refused in self.refusals(rows):
            passed &= ~refused
        return passed

    def ranked(self, total: Scores) -> Scores:
        """The total of each row with the points for its devices; -1 where nothing is given."""
        packing = self._scored()
        if packing is None:
            return np.where(self.blocked, -1, total)
        return np.where(self.blocked | (total < 0), -1, total + packing.points)

    def _scored(self) -> DevicePacking | None:
        packing = self._packing
        if packing is not None:
            packing.refresh(self._unscored, self.kind, self.kinds)
            self._unscored = {}
        return packing

    def room(self, wanted: int) -> NDArray[np.int64]:
        """Per row at most how often claims that together want so many devices could be served."""
        kinds, first, inverse = np.unique(self.kinds(), return_index=True, return_inverse=True)
        rooms = [
            self._room(kind, row, wanted)
            for kind, row in zip(kinds.tolist(), first.tolist(), strict=True)
        ]
        of_rows: NDArray[np.int64] = np.array(rooms, np.int64)[inverse]
        return of_rows

    def _room(self, kind: int, row: int, wanted: int) -> int:
        """:meth:`room` of one row, which is of this kind."""
        node, inventory = self._snapshot.nodes[row], self._snapshot.inventory
        if node is None:
            return 0
        if kind not in self._rooms:
            _limit(self._rooms)
            units = inventory.units(node.name, node.labels, [spec for _, spec in self._specs])
            self._rooms[kind] = inventory.free_devices(units)
        free = self._rooms[kind]
        return _UNBOUNDED if free is None else free // wanted

    def scores(self, feasible: Mask, beside: int = 0) -> Scores:
        """DynamicResources' score: earlier alternatives are better; scaled to 100.

        ``beside`` is what the pod's other claims count, where devices have no points of their own.
        """
        raw = np.zeros(len(feasible), np.int64)
        same = beside if self._packing is None else 0
        for row in np.flatnonzero(feasible).tolist():
            if not self.refusal(row):
                raw[row] = self._liked[self.kind(row)] + same
        most = int(raw.max(initial=0))
        return raw * MAX_SCORE // most if most else raw


def _limit(book: dict[int, _Answer]) -> None:
    """A full book is begun anew before more is noted."""
    if len(book) >= MAX_FOUND:
        book.clear()


def _preference(spec: ClaimSpec, chosen: Collection[str]) -> int:
    """The points for the alternatives that were chosen: eight for the first, one less for each."""
    return sum(
        _MAX_ALTERNATIVES - place
        for entry in spec.requests
        if entry.prioritised
        for place, request in enumerate(entry.alternatives)
        if entry.path(request) in chosen
    )
