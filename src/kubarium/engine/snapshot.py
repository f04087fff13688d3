"""The state of a cluster as columns, changed one node or pod at a time.

A row is a node. Columns are integer arrays over rows: resources (milli-cpu, bytes, counts), label
values (one interned column for each key), taint sets. Nothing is rebuilt for a decision: readers
follow ``touched`` (rows whose free resources changed) and ``epoch`` (a node's labels, taints or
images changed, or a node came or went).

Simulation works on the same object: ``mark = snapshot.checkpoint()``, change it, and
``snapshot.rollback(mark)`` puts everything back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.attached import Attached
from kubarium.engine.devices.holding import Counters, Held
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import Allocation, Rest
from kubarium.engine.devices.pools import PoolKey
from kubarium.engine.groups import Groups
from kubarium.engine.label_columns import LabelColumns
from kubarium.engine.model import (
    CPU,
    MEMORY,
    Budget,
    Claim,
    Composite,
    Disk,
    Gang,
    HostPort,
    Key,
    Node,
    Pod,
    PodTerm,
    Taint,
    VolumeClaim,
)
from kubarium.engine.name_order import NameOrder
from kubarium.engine.tallies import Counts, Tallies
from kubarium.engine.undo import UndoLog
from kubarium.engine.weighing import weighs_the_same

EPHEMERAL, PODS = "ephemeral-storage", "pods"
_FIRST_ROWS = 64
_UNKNOWN = 4  # the row of resources that nothing is known of
_K = TypeVar("_K")
_T = TypeVar("_T")

# Rows touched are remembered this far back; readers that are further behind start afresh.
MAX_TOUCHED = 200_000

# The most that a column says of one node; the difference and the sum of a few still fit. Of less
# than a large amount no number of pods that fits on a node comes near it.
MAX_BOOKED = 2**60
_LARGE = 2**45
_NONZERO = -(2**63)  # a level of its own, below all priorities

Mask = NDArray[np.bool_]


class Snapshot:
    """Nodes, placed pods, claims and devices. See the module for how readers stay current."""

    def __init__(self, inventory: Inventory | None = None) -> None:
        self.inventory = inventory if inventory is not None else Inventory()
        # The row of each resource in the columns, but for one row that is none's, and always zero.
        self.resources: dict[str, int] = {CPU: 0, MEMORY: 1, EPHEMERAL: 2, PODS: 3}
        self.allocatable = np.zeros((8, _FIRST_ROWS), np.int64)
        self.requested = np.zeros((8, _FIRST_ROWS), np.int64)
        self.nonzero = np.zeros((2, _FIRST_ROWS), np.int64)
        self.alive: Mask = np.zeros(_FIRST_ROWS, np.bool_)
        self.unschedulable: Mask = np.zeros(_FIRST_ROWS, np.bool_)
        self.taint_set = np.zeros(_FIRST_ROWS, np.int32)
        self.taint_sets: list[tuple[Taint, ...]] = [()]
        self._taint_ids: dict[tuple[Taint, ...], int] = {(): 0}
        self.label_columns = LabelColumns(_FIRST_ROWS)
        self.labels = self.label_columns.columns
        self.label_values = self.label_columns.values
        self.rows: dict[str, int] = {}
        self.nodes: list[Node | None] = [None] * _FIRST_ROWS
        self.pods_on: list[dict[Key, Pod]] = [{} for _ in range(_FIRST_ROWS)]
        self.ports: dict[tuple[str, int], dict[int, list[HostPort]]] = {}
        self.images: dict[str, dict[int, int]] = {}
        self.data: dict[str, dict[int, int]] = {}
        self.tallies = Tallies(_FIRST_ROWS)
        self.claims: dict[Key, Claim] = {}
        self.allocations: dict[Key, Allocation] = {}
        self.claim_users: dict[Key, dict[Key, None]] = {}
        # By the key of the claim that stands for it (:mod:`kubarium.engine.placement.resting`).
        self.resting: dict[Key, Rest] = {}
        self.gangs: Groups[Gang] = Groups()
        self.composites: Groups[Composite] = Groups()
        self.budgets: dict[Key, Budget] = {}
        self.budget_epoch = 0
        self.volumes: dict[Key, VolumeClaim] = {}
        self.volume_users: dict[Key, dict[Key, None]] = {}
        # Claims whose node is decided but not their binding: (node, volume or "" to be made).
        self.assumed_volumes: dict[Key, tuple[str, str]] = {}
        # By node: how many volumes of a CSI driver it can attach, and what is attached to it.
        self.volume_limits: dict[str, Mapping[str, int]] = {}
        # By node the CSI drivers it has, and drivers without which no pod with their volumes goes.
        self.csi_drivers: dict[str, frozenset[str]] = {}
        self.needed_drivers: set[str] = set()
        self.attachments: dict[str, frozenset[tuple[str, str]]] = {}
        self.attached = Attached()
        self.disks: dict[str, dict[int, list[Disk]]] = {}
        # Per priority what its pods take, by resource and row.
        self._by_priority: dict[int, NDArray[np.int64]] = {}
        self._count_by_priority: dict[int, int] = {}
        # What does not fit into a column: by priority (None: requested), resource and row.
        self._beyond: dict[tuple[int | None, int, int], int] = {}
        self.epoch = 0
        self.touched: list[int] = []
        self.touched_from = 0
        self._free_rows: list[int] = []
        self._order = NameOrder(self.rows)
        self._used_rows = 0
        self._where: dict[Key, tuple[Pod, str]] = {}
        # The placed pods of each group, on unknown nodes too.
        self.gang_pods: dict[Key, dict[Key, None]] = {}
        self._homeless: dict[str, dict[Key, Pod]] = {}
        self._log = UndoLog()
        self._released: dict[Key, tuple[Allocation, Held]] = {}
        # What was left of counters when the first of a pool's allocations was released.
        self._left: dict[PoolKey, Counters] = {}
        self._shared: dict[Callable[[Snapshot], object], object] = {}

    def shared(self, make: Callable[[Snapshot], _T]) -> _T:
        """What readers keep of the snapshot, made once for all of them; ``make`` is its key."""
        found = self._shared.get(make)
        if found is None:
            found = self._shared[make] = make(self)
        return cast("_T", found)

    # Nodes

    @property
    def capacity(self) -> int:
        """The length of every column; rows without a node are not alive."""
        return len(self.alive)

    def node_count(self) -> int:
        return len(self.rows)

    def set_node(self, node: Node) -> None:
        """Add a node or replace the one of the same name; pods on it stay."""
        row = self.rows.get(node.name)
        old = self.nodes[row] if row is not None else None
        if old == node:
            return
        self._log.record(partial(self._restore_node, node.name, old))
        if row is None:
            row = self._new_row(node.name)
        self._write_node(row, node, old)
        if old is None:
            for pod in self._homeless.pop(node.name, {}).values():
                self._occupy(pod, row)

    def remove_node(self, name: str) -> None:
        """Forget a node. Pods placed on it are remembered until they are displaced."""
        row = self.rows.get(name)
        if row is None:
            return
        old = self.nodes[row]
        assert old is not None
        self._log.record(partial(self.set_node, old))
        for pod in tuple(self.pods_on[row].values()):
            self._vacate(pod, row)
            self._homeless.setdefault(name, {})[pod.key] = pod
        self._write_node(row, Node(name, ()), old)
        del self.rows[name]
        self._order.forget(name, row)
        self.epoch += 1
        self.nodes[row] = None
        self.alive[row] = False
        self._free_rows.append(row)

    def _restore_node(self, name: str, old: Node | None) -> None:
        if old is None:
            self.remove_node(name)
        else:
            self.set_node(old)

    def node(self, name: str) -> Node | None:
        row = self.rows.get(name)
        return None if row is None else self.nodes[row]

    def best_row(self, scores: NDArray[np.int64]) -> int:
        """The row with the highest score; of equals the one whose node's name comes first."""
        return self._order.best(scores)

    def by_name(self, rows: NDArray[np.int64]) -> list[int]:
        """Rows in the order of their nodes' names."""
        return self._order.sorted(rows, self.capacity)

    def _new_row(self, name: str) -> int:
        if self._free_rows:
            row = self._free_rows.pop()
        else:
            if self._used_rows == self.capacity:
                self._grow(2 * self.capacity)
            row, self._used_rows = self._used_rows, self._used_rows + 1
        self.rows[name] = row
        self.alive[row] = True
        self._order.insert(name, row, self.capacity)
        return row

    def _grow(self, rows: int) -> None:
        extra = rows - self.capacity
        self.allocatable = np.pad(self.allocatable, ((0, 0), (0, extra)))
        self.requested = np.pad(self.requested, ((0, 0), (0, extra)))
        self.nonzero = np.pad(self.nonzero, ((0, 0), (0, extra)))
        self.alive = np.pad(self.alive, (0, extra))
        self.unschedulable = np.pad(self.unschedulable, (0, extra))
        self.taint_set = np.pad(self.taint_set, (0, extra))
        for priority, book in self._by_priority.items():
            self._by_priority[priority] = np.pad(book, ((0, 0), (0, extra)))
        self.label_columns.grow(rows)
        self.nodes += [None] * extra
        self.pods_on += [{} for _ in range(extra)]
        self.tallies.grow(rows)
        self.epoch += 1

    def _write_node(self, row: int, node: Node, old: Node | None) -> None:
        self.nodes[row] = node
        self.allocatable[:, row] = 0
        for name, amount in node.allocatable:
            # The index may make the columns taller, so it comes before the row is written.
            index = self._index_for(name)
            self.allocatable[index, row] = amount
        self._touch(row)
        if old is not None and (
            (node.labels, node.taints, node.unschedulable, node.images, node.data)
            == (old.labels, old.taints, old.unschedulable, old.images, old.data)
            and node.features == old.features
            and advertised_by(node) == advertised_by(old)
        ):
            return
        self.label_columns.write(row, node.labels, old.labels if old else {})
        self.taint_set[row] = self._taint_id(node.taints)
        self.unschedulable[row] = node.unschedulable
        for image, _ in old.images if old else ():
            _leave(self.images, image, row)
        for image, size in reversed(node.images):  # of one name the first counts
            self.images.setdefault(image, {})[row] = size
        for name, _ in old.data if old else ():
            _leave(self.data, name, row)
        for name, size in node.data:
            self.data.setdefault(name, {})[row] = size
        self.epoch += 1
        self.inventory.node_changed(node.name)

    def _taint_id(self, taints: tuple[Taint, ...]) -> int:
        known = self._taint_ids.get(taints)
        if known is None:
            known = self._taint_ids[taints] = len(self.taint_sets)
            self.taint_sets.append(taints)
        return known

    def resource_index(self, name: str) -> int:
        """The row of a resource in the two-dimensional columns.

        Of one that no node has and no pod was placed with, a row of zeros: what pods may ask for
        is not limited. It is another one once the resource is known, with a new ``epoch``.
        """
        return self.resources.get(name, _UNKNOWN)

    def _index_for(self, name: str) -> int:
        """The row of a resource that is about to be written."""
        index = self.resources.get(name)
        if index is None:
            index = self.resources[name] = len(self.resources) + 1  # after the row of zeros
            self.epoch += 1
            if index == len(self.allocatable):
                self.allocatable = np.pad(self.allocatable, ((0, index), (0, 0)))
                self.requested = np.pad(self.requested, ((0, index), (0, 0)))
                for priority, book in self._by_priority.items():
                    self._by_priority[priority] = np.pad(book, ((0, index), (0, 0)))
        return index

    def allocatable_of(self, name: str) -> NDArray[np.int64]:
        """What each node has of a resource: a view that is good until a new resource is known."""
        column: NDArray[np.int64] = self.allocatable[self.resource_index(name)]
        return column

    def _touch(self, row: int) -> None:
        self.touched.append(row)
        if len(self.touched) > MAX_TOUCHED:
            self.touched_from += len(self.touched)
            self.touched.clear()

    # Pods

    def place(self, pod: Pod, node: str) -> None:
        """Put a pod on a node, or replace what is known of it. The node may be unknown yet."""
        known = self._where.get(pod.key)
        if known is not None and known[0] is pod and known[1] == node:
            return
        if known is not None:
            if known[1] == node and weighs_the_same(known[0], pod):
                self._swap(known[0], pod, node)
                return
            self.displace(pod.key)
        self._log.record(partial(self.displace, pod.key))
        self._where[pod.key] = (pod, node)
        if pod.gang is not None:
            self.gang_pods.setdefault(pod.gang, {})[pod.key] = None
        for claim in pod.claims:
            self.claim_users.setdefault(claim, {})[pod.key] = None
        for volume in pod.volumes:
            self.volume_users.setdefault(volume, {})[pod.key] = None
        row = self.rows.get(node)
        if row is None:
            self._homeless.setdefault(node, {})[pod.key] = pod
        else:
            self._occupy(pod, row)

    def _swap(self, old: Pod, new: Pod, node: str) -> None:
        """Exchange what is known of a placed pod when no column changes."""
        self._log.record(partial(self.place, old, node))
        self._where[new.key] = (new, node)
        row = self.rows.get(node)
        book = self._homeless[node] if row is None else self.pods_on[row]
        book[new.key] = new
        if row is not None and old.labels != new.labels:  # binding adds the node's topology
            self.tallies.remove(old, row)
            self.tallies.add(new, row)
            self._touch(row)

    def displace(self, key: Key) -> None:
        """Take a pod off its node; nothing happens if it is not placed."""
        known = self._where.pop(key, None)
        if known is None:
            return
        pod, node = known
        self._log.record(partial(self.place, pod, node))
        if pod.gang is not None:
            members = self.gang_pods[pod.gang]
            members.pop(key, None)
            if not members:
                del self.gang_pods[pod.gang]
        for claim in pod.claims:
            users = self.claim_users[claim]
            users.pop(key, None)
            if not users:
                del self.claim_users[claim]
        for volume in pod.volumes:
            book = self.volume_users[volume]
            book.pop(key, None)
            if not book:
                del self.volume_users[volume]
        row = self.rows.get(node)
        if row is None:
            self._homeless.get(node, {}).pop(key, None)
        else:
            self._vacate(pod, row)

    def node_of(self, key: Key) -> str | None:
        """The node on which the pod is placed or assumed."""
        known = self._where.get(key)
        return known[1] if known else None

    def placed(self, key: Key) -> Pod | None:
        known = self._where.get(key)
        return known[0] if known else None

    def placed_pods(self) -> Iterator[tuple[Pod, int]]:
        """Every pod on a known node, with the node's row."""
        for row in self.rows.values():
            for pod in self.pods_on[row].values():
                yield pod, row

    def _occupy(self, pod: Pod, row: int) -> None:
        self.pods_on[row][pod.key] = pod
        self._book(pod, row, 1)
        for port in pod.shape.ports:
            self.ports.setdefault((port.protocol, port.port), {}).setdefault(row, []).append(port)
        for disk in pod.disks:
            for name in disk.names:
                self.disks.setdefault(name, {}).setdefault(row, []).append(disk)
        self.tallies.add(pod, row)

    def _vacate(self, pod: Pod, row: int) -> None:
        del self.pods_on[row][pod.key]
        self._book(pod, row, -1)
        for port in pod.shape.ports:
            where = (port.protocol, port.port)
            self.ports[where][row].remove(port)
            if not self.ports[where][row]:
                _leave(self.ports, where, row)
        for disk in pod.disks:
            for name in disk.names:
                self.disks[name][row].remove(disk)
                if not self.disks[name][row]:
                    _leave(self.disks, name, row)
        self.tallies.remove(pod, row)

    def _book(self, pod: Pod, row: int, sign: int) -> None:
        shape = pod.shape
        for name, _ in shape.requests:
            if name not in self.resources:
                self._index_for(name)  # may make the columns taller, so it comes first
        for level, book in ((None, self.requested), self._priority_book(pod.priority, sign)):
            for name, amount in shape.requests:
                if amount < _LARGE:
                    book[self.resources[name], row] += sign * amount
                else:
                    self._add(book, level, self.resources[name], row, sign * amount)
            book[3, row] += sign
        if max(shape.nonzero) < _LARGE:
            self.nonzero[0, row] += sign * shape.nonzero[0]
            self.nonzero[1, row] += sign * shape.nonzero[1]
        else:
            self._add(self.nonzero, _NONZERO, 0, row, sign * shape.nonzero[0])
            self._add(self.nonzero, _NONZERO, 1, row, sign * shape.nonzero[1])
        self._touch(row)

    def _add(
        self, book: NDArray[np.int64], level: int | None, index: int, row: int, amount: int
    ) -> None:
        """Book a large amount. What goes beyond the column is kept beside it, so that it comes off
        again: pods that name their node may ask for more than any node has, and in any number."""
        key = (level, index, row)
        total = book.item(index, row) + amount + self._beyond.pop(key, 0)
        if total > MAX_BOOKED:
            self._beyond[key] = total - MAX_BOOKED
            total = MAX_BOOKED
        book[index, row] = total

    def _priority_book(self, priority: int, sign: int) -> tuple[int, NDArray[np.int64]]:
        book = self._by_priority.get(priority)
        if book is None:
            book = self._by_priority[priority] = np.zeros_like(self.requested)
            self._count_by_priority[priority] = 0
        self._count_by_priority[priority] += sign
        return priority, book

    def below(self, priority: int) -> NDArray[np.int64] | None:
        """What pods of lower priority take, by resource and row; None if there are none.

        Row 3 is the number of such pods.
        """
        books = [
            book
            for level, book in self._by_priority.items()
            if level < priority and self._count_by_priority[level]
        ]
        return sum(books[1:], books[0]) if books else None

    def set_budget(self, key: Key, budget: Budget | None) -> None:
        """Learn a disruption budget (None: it is gone)."""
        if self.budgets.get(key) == budget:
            return
        if budget is None:
            self.budgets.pop(key, None)
        else:
            self.budgets[key] = budget
        self.budget_epoch += 1

    def tally(self, *terms: PodTerm, staying: bool = False) -> Counts:
        """Per row, the placed pods that every term speaks of; ``staying`` leaves out the ending."""
        return self.tallies.selected(terms, self.placed_pods(), staying=staying)

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """Learn a namespace's labels (None: it is gone)."""
        if labels is None:
            self.tallies.namespaces.pop(name, None)
        elif self.tallies.namespaces.get(name) != labels:
            self.tallies.namespaces[name] = labels
            self.tallies.reset_selected()

    def assume_volume(self, claim: Key, node: str, volume: str) -> None:
        """The claim's pod goes to the node, so the claim will have a volume there."""
        if claim not in self.assumed_volumes:
            self._log.record(partial(self.forget_volume, claim))
            self.assumed_volumes[claim] = (node, volume)

    def volume_changed(self, claim: Key) -> None:
        """A claim has another volume than before: nodes of its users are counted again."""
        for user in self.volume_users.get(claim, ()):
            self.volumes_changed_on(self.node_of(user) or "")

    def volumes_changed_on(self, node: str) -> None:
        """A node's volume limits or attachments changed."""
        row = self.rows.get(node)
        if row is not None:
            self._touch(row)

    def forget_volume(self, claim: Key) -> None:
        """The claim is bound, or its pod does not go where it was to go."""
        self.assumed_volumes.pop(claim, None)

    # Claims

    def set_claim(self, claim: Claim, allocation: Allocation | None) -> None:
        """Learn a claim and what it holds; what was known of it is replaced."""
        self.claims[claim.key] = claim
        if self.allocations.get(claim.key) != allocation:
            self.deallocate(claim.key)
            if allocation is not None:
                self.allocate(claim.key, allocation)

    def remove_claim(self, key: Key) -> None:
        """Forget a claim and free its devices."""
        self.deallocate(key)
        self.claims.pop(key, None)

    def allocate(self, key: Key, allocation: Allocation, held: Held | None = None) -> None:
        """Give the claim its devices; ``held`` is what they held of counters if they come back."""
        self._log.record(partial(self.deallocate, key))
        self.allocations[key] = allocation
        self.inventory.enter(allocation, held or {})

    def deallocate(self, key: Key) -> Held:
        """Take the claim's devices back, with what they held; nothing happens if it has none."""
        allocation = self.allocations.pop(key, None)
        if allocation is None:
            return {}
        held = self.inventory.take_out(allocation)
        self._log.record(partial(self.allocate, key, allocation, held))
        return held

    # Simulation

    def release(self, key: Key) -> None:
        """Deallocate, remembering the allocation so that :meth:`reclaim` can give it back."""
        allocation = self.allocations.get(key)
        if allocation is not None:
            for pool in {r.id[:2]: None for r in allocation.results}:
                if pool not in self._left:
                    self._left[pool] = self.inventory.counters_left(pool)
            self._released[key] = (allocation, self.deallocate(key))

    def reclaimable(self, key: Key) -> bool:
        """Whether the claim still has its devices, or could have those it released again."""
        if key in self.allocations:
            return True
        if key not in self._released:
            return True
        allocation, held = self._released[key]
        away = [mine for k, (_, mine) in self._released.items() if k not in self.allocations]
        return self.inventory.could_take_again(allocation, held, away, self._left)

    def reclaim(self, key: Key) -> None:
        """Allocate again what :meth:`release` gave up; nothing if it released nothing."""
        if key not in self.allocations and key in self._released:
            self.allocate(key, *self._released[key])

    def checkpoint(self) -> int:
        """Begin to remember changes; give the mark to exactly one of rollback or keep."""
        return self._log.checkpoint()

    def rollback(self, mark: int) -> None:
        """Undo everything since the checkpoint."""
        self._log.rollback(mark)
        self._forget_released()

    @property
    def open_checkpoints(self) -> int:
        """How many checkpoints have been given to neither rollback nor keep."""
        return self._log.open

    def abandon(self, checkpoints: int) -> None:
        """Roll back the newest until only so many are open: who made them failed half-way."""
        while self._log.open > checkpoints:
            self.rollback(self._log.newest)

    def keep(self, mark: int) -> None:
        """Accept what was done since the checkpoint (an outer checkpoint can still undo it)."""
        self._log.keep(mark)
        self._forget_released()

    def _forget_released(self) -> None:
        """What was released comes back within its simulation, or not at all."""
        if not self._log.open:
            self._released.clear()
            self._left.clear()

    def check(self) -> None:
        """Raise AssertionError unless every column equals the sum of the pods on each node."""
        for name, row in self.rows.items():
            pods = self.pods_on[row].values()
            sums = {PODS: len(self.pods_on[row])}
            for pod in pods:
                assert self._where[pod.key][1] == name, f"{pod.key} is booked on the wrong node"
                for resource, amount in pod.shape.requests:
                    sums[resource] = sums.get(resource, 0) + amount
            for resource, index in self.resources.items():
                booked = self.requested.item(index, row) + self._beyond.get((None, index, row), 0)
                assert booked == sums.get(resource, 0), f"{name}: {resource} booked as {booked}"
        below = self.below(2**31)
        for row in self.rows.values():
            count = len(self.pods_on[row])
            assert count == (0 if below is None else int(below[3, row])), f"row {row}"
        self.tallies.check(self.placed_pods())
        nodes = {row: node for row in self.rows.values() if (node := self.nodes[row]) is not None}
        self.label_columns.check({row: node.labels for row, node in nodes.items()})
        assert not self.allocatable[_UNKNOWN].any(), "something is booked on what is not known"
        assert not self.requested[_UNKNOWN].any(), "something is booked on what is not known"
        self.inventory.ledger.check()


def _leave(book: dict[_K, dict[int, _T]], key: _K, row: int) -> None:
    """The row is no longer among those of the key; a key without rows is forgotten."""
    rows = book.get(key)
    if rows is not None:
        rows.pop(row, None)
        if not rows:
            del book[key]


def advertised_by(node: Node) -> frozenset[str]:
    """The extended resources that the node itself has some of."""
    return frozenset(name for name, amount in node.allocatable if amount > 0 and "/" in name)
