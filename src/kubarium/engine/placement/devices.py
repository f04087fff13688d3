"""Which nodes can give a pod's claims their devices: asked lazily, remembered until it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kubarium.engine import reasons
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import Allocation, AllocationError, ClaimSpec
from kubarium.engine.devices.preference import DevicePreference
from kubarium.engine.model import Claim, Key, Pod
from kubarium.engine.placement.node_claims import is_mapped
from kubarium.engine.placement.scores import MAX_SCORE, Scores
from kubarium.engine.snapshot import Mask, Snapshot

# Upstream: at most this many alternatives in a prioritised list.
_MAX_ALTERNATIVES = 8

# Upstream: resource.k8s.io ResourceClaimReservedForMaxSize.
MAX_RESERVED = 256


@dataclass(frozen=True, slots=True)
class ClaimsOf:
    """A pod's claims: those to allocate, and those whose allocation already limits the nodes."""

    pending: tuple[Claim, ...] = ()
    held: tuple[tuple[Claim, Allocation], ...] = ()
    problem: str = ""


def claims_of(snapshot: Snapshot, pod: Pod) -> ClaimsOf:
    """Sort the pod's claims; ``problem`` says why none of it can be decided yet."""
    pending: list[Claim] = []
    held: list[tuple[Claim, Allocation]] = []
    group = snapshot.gangs.get(pod.gang) if pod.gang is not None else None
    shared = group.claims if group is not None else ()
    for key in pod.claims:
        claim = snapshot.claims.get(key)
        if claim is None:
            return ClaimsOf(problem=reasons.claim_missing(*key))
        if claim.deleting:
            return ClaimsOf(problem=reasons.claim_deleted(key[1]))
        users = snapshot.claim_users.get(key, ())
        if len(users) >= MAX_RESERVED and pod.key not in users and key not in shared:
            return ClaimsOf(problem=reasons.claim_in_use(key[1]))
        problem = _unknown_class(snapshot.inventory, claim)
        if problem:
            return ClaimsOf(problem=problem)
        allocation = snapshot.allocations.get(key)
        if allocation is None:
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


def held_mask(snapshot: Snapshot, held: Sequence[tuple[Claim, Allocation]]) -> Mask:
    """Nodes from which all devices that the pod's claims already hold can be used."""
    mask = snapshot.alive.copy()
    for _, allocation in held:
        for name, row in snapshot.rows.items():
            node = snapshot.nodes[row]
            if node is not None and not allocation.scope.admits(name, node.labels):
                mask[row] = False
    return mask


class DeviceFit:
    """For one list of claim specs: what each node would give, or why it gives nothing."""

    def __init__(
        self,
        snapshot: Snapshot,
        specs: tuple[ClaimSpec, ...],
        preference: DevicePreference | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._order = preference
        self._specs = [(f"#{i}", spec) for i, spec in enumerate(specs)]
        self._answers: dict[int, tuple[Allocation, ...] | str] = {}
        # Rows known to give nothing, so that a search for the best row need not ask them again.
        self.blocked: Mask = np.zeros(snapshot.capacity, np.bool_)
        self._seen = 0
        self.prioritised = any(spec.prioritised for spec in specs)

    def name_claims(self, keys: Sequence[Key]) -> None:
        """Whose names errors carry from now on."""
        self._specs = [("/".join(k), spec) for k, (_, spec) in zip(keys, self._specs, strict=True)]

    def refresh(self) -> None:
        """Forget the answers of nodes whose devices changed."""
        names, self._seen = self._snapshot.inventory.changes_since(self._seen)
        if names is None or len(self.blocked) != self._snapshot.capacity:
            self._forget_all()
            return
        for name in names:
            row = self._snapshot.rows.get(name)
            if row is not None:
                self._answers.pop(row, None)
                self.blocked[row] = False

    def _forget_all(self) -> None:
        self._answers.clear()
        self.blocked = np.zeros(self._snapshot.capacity, np.bool_)

    def on(self, row: int) -> tuple[Allocation, ...] | str:
        """One allocation for each claim, or the reason against.

        Raises AllocationError when the claims cannot be decided on any node.
        """
        known = self._answers.get(row)
        if known is None:
            known = self._ask(row)
            self._answers[row] = known
            self.blocked[row] = isinstance(known, str)
        return known

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
        return reasons.CLAIMS if found is None else tuple(found)

    def mask(self, rows: Mask) -> Mask:
        """Which of the given rows can satisfy the claims."""
        passed = np.zeros(len(rows), np.bool_)
        for row in np.flatnonzero(rows).tolist():
            passed[row] = not isinstance(self.on(row), str)
        return passed

    def scores(self, feasible: Mask) -> Scores:
        """DynamicResources' score: earlier alternatives are better; scaled to 100."""
        raw = np.zeros(len(feasible), np.int64)
        for row in np.flatnonzero(feasible).tolist():
            answer = self.on(row)
            if not isinstance(answer, str):
                raw[row] = sum(
                    self._preference(spec, allocation)
                    for (_, spec), allocation in zip(self._specs, answer, strict=True)
                )
        most = int(raw.max(initial=0))
        return raw * MAX_SCORE // most if most else raw

    @staticmethod
    def _preference(spec: ClaimSpec, allocation: Allocation) -> int:
        return sum(
            _MAX_ALTERNATIVES - [entry.path(r) for r in entry.alternatives].index(chosen)
            for entry, chosen in zip(spec.requests, allocation.chosen, strict=True)
            if entry.prioritised
        )
