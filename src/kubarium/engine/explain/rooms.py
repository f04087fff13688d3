"""How many pods could find room at most: what rules out most changes without trying them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.explain.obstacles import Obstacles
from kubarium.engine.explain.subject import Change, Subject
from kubarium.engine.model import Node
from kubarium.engine.snapshot import Snapshot


class Rooms:
    """An upper bound for one subject: nodes by the rules they fail, and the room on each.

    It is a bound only while all pods are alike and none looks at the others' labels; otherwise
    everything has to be tried.
    """

    def __init__(self, snapshot: Snapshot, subject: Subject, obstacles: Obstacles) -> None:
        self._snapshot = snapshot
        self._subject = subject
        self._obstacles = obstacles
        uneven = subject.shape.looks_at_pods or any(pod.variants for pod in subject.pods)
        self._bounded = _are_alike(snapshot, subject) and not uneven
        codes = obstacles.codes[obstacles.rows]
        self._row_codes = dict(zip(obstacles.rows.tolist(), codes.tolist(), strict=True))
        self.domains = self._domain_codes()
        self._by_code: dict[tuple[int, int], int] = {}
        if self._bounded:
            self._count(codes)

    def _count(self, codes: NDArray[np.int64]) -> None:
        """Room by (domain, code)."""
        rows = self._obstacles.rows
        room = np.ones(len(rows), np.int64)
        if self._subject.is_gang:
            room = self._room(self._subject.shape.requests)[rows]
        domains = self.domains[rows]
        keys, inverse = np.unique(np.stack((domains, codes)), axis=1, return_inverse=True)
        sums = np.bincount(inverse.reshape(-1), weights=room).astype(np.int64)
        self._by_code = {
            (int(keys[0, i]), int(keys[1, i])): int(sums[i]) for i in range(keys.shape[1])
        }

    def by_request(self, resource: str) -> Callable[[int], int]:
        """At most how many pods fit in the best domain if each asks for so much of a resource.

        On nodes that pass all rules but that about the resource; ``amount`` is more than 0.
        """
        obstacles, snapshot = self._obstacles, self._snapshot
        lifted = sum(
            obstacles.bit(rule)
            for rule in obstacles.rules
            if rule.kind == "resource" and rule.subject == resource
        )
        rows = obstacles.rows[(obstacles.codes[obstacles.rows] & ~lifted) == 0]
        rows = rows[self.domains[rows] >= 0]
        others = tuple((n, a) for n, a in self._subject.shape.requests if n != resource)
        beside = self._room(others)[rows]
        index = snapshot.resource_index(resource)
        free = (snapshot.allocatable[index] - snapshot.requested[index])[rows].clip(min=0)
        _, domain = np.unique(self.domains[rows], return_inverse=True)
        domain = domain.reshape(-1)

        def most(amount: int) -> int:
            room = np.minimum(beside, free // amount)
            return int(np.bincount(domain, weights=room).max(initial=0))

        return most

    def _room(self, requests: tuple[tuple[str, int], ...]) -> NDArray[np.int64]:
        """Per row at most how many of the pods fit beside what is there, or 1 if a rule fails."""
        snapshot = self._snapshot
        room: NDArray[np.int64] = snapshot.allocatable[3] - snapshot.requested[3]
        for name, wanted in requests:
            if wanted > 0:
                index = snapshot.resource_index(name)
                free = snapshot.allocatable[index] - snapshot.requested[index]
                room = np.minimum(room, free // wanted)
        return room.clip(min=0)

    def _domain_codes(self) -> NDArray[np.int64]:
        """One number for each combination of the gang's required labels; -1 without all of them."""
        snapshot, gang = self._snapshot, self._subject.gang
        numbers = np.zeros(snapshot.capacity, np.int64)
        if gang is None or not self._subject.is_gang:
            return numbers
        for key in gang.required_keys:
            column = snapshot.labels.get(key)
            if column is None:
                return np.full(snapshot.capacity, -1, np.int64)
            width = int(column.max(initial=0)) + 1
            numbers = np.where((column < 0) | (numbers < 0), -1, numbers * width + column)
        return numbers

    def domain_names(self) -> dict[int, str]:
        """``rack=r1`` for each row that is in a domain of the gang; empty without a constraint."""
        gang = self._subject.gang
        if gang is None or not self._subject.is_gang or not gang.required_keys:
            return {}
        found: dict[int, str] = {}
        for row in self._obstacles.rows.tolist():
            node = self._snapshot.nodes[row]
            if node is not None and self.domains[row] >= 0:
                found[row] = ",".join(f"{k}={node.labels[k]}" for k in gang.required_keys)
        return found

    def on_fresh(self, node: Node) -> int:
        """At most how many of the pods fit on an empty node like this."""
        book = dict(node.allocatable)
        room = book.get("pods", 0)
        for name, wanted in self._subject.shape.requests:
            if wanted > 0:
                room = min(room, book.get(name, 0) // wanted)
        return room

    def enough(self, changes: Iterable[Change]) -> bool:
        """Whether the changes might open room for all that is needed."""
        if not self._bounded:
            return True
        lifted, everywhere, row = 0, False, -1
        for change in changes:
            lifted |= change.lifts
            row = max(row, change.row)
            # Fewer pods needed, or more room than is counted here.
            everywhere = everywhere or change.gang is not None or change.fresh
        if everywhere:
            return True
        if row >= 0 and not self._subject.is_gang:
            return not self._row_codes[row] & ~lifted
        found: dict[int, int] = {}
        for (domain, code), room in self._by_code.items():
            if not code & ~lifted and domain >= 0:
                found[domain] = found.get(domain, 0) + room
        return max(found.values(), default=0) >= (
            self._subject.needed if self._subject.is_gang else 1
        )


def _are_alike(snapshot: Snapshot, subject: Subject) -> bool:
    specs = {
        tuple(snapshot.claims[key].spec for key in pod.claims if key in snapshot.claims)
        for pod in subject.pods
    }
    return len(specs) == 1 and len({pod.shape for pod in subject.pods}) == 1
