"""A gang in one decision: at least its minimum of pods, or none.

Pods are placed one after the other in order; identical pods share all work. With a topology
constraint each domain (the nodes with one value of the label) is tried whole: the tightest that
takes all pods, else the one that takes the most (KEP-5732, PodGroupPodsCount and tightest fit).
Several levels and preferred ones are ours: required levels narrow each other, preferred ones are
tried from the narrowest up. Pods that name their data go to a domain that has most of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kubarium.engine import reasons
from kubarium.engine.model import Gang, Pod, PodShape
from kubarium.engine.placement import packing
from kubarium.engine.placement.locality import locality
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import Decision, Placement, QueueItem
from kubarium.engine.snapshot import Mask, Snapshot
from kubarium.engine.verdict import GangVerdict, Verdict


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What one domain gives: ``failed`` is the first pod without a place, with its account."""

    placements: tuple[Placement, ...]
    unplaced: tuple[Pod, ...]
    account: Verdict | None
    domain: str = ""


def place_gang(placer: Placer, item: QueueItem, within: Mask | None = None) -> Decision:
    """Decide a gang; on success its placements are in the snapshot, otherwise nothing is.

    ``within`` limits the nodes (the domain of a group of groups).
    """
    gang = item.gang
    assert gang is not None
    snapshot = placer.snapshot
    needed = max(gang.min_count - gang.scheduled_count, 1 if gang.min_count else 0)
    if len(item.pods) < needed:
        return _waiting(item, gang, reasons.GANG_WAITING)
    mark = snapshot.checkpoint()
    attempt = _best_attempt(placer, item.pods, gang, needed, within)
    if attempt is not None and len(attempt.placements) >= needed:
        snapshot.keep(mark)
        account = attempt.account
        unplaced = tuple((pod, account) for pod in attempt.unplaced if account is not None)
        return Decision(item, attempt.placements, unplaced)
    snapshot.rollback(mark)
    if attempt is None:
        return _waiting(item, gang, reasons.no_domain(_missing_key(snapshot, gang)))
    verdict = GangVerdict(
        gang.key,
        gang.min_count,
        len(attempt.placements) + gang.scheduled_count,
        _greedy_is_exact(snapshot, item.pods, gang),
        attempt.account,
        domain=attempt.domain,
    )
    account = attempt.account
    assert account is not None
    return Decision(item, (), tuple((pod, account) for pod in item.pods), verdict)


def _waiting(item: QueueItem, gang: Gang, why: str) -> Decision:
    verdict = GangVerdict(gang.key, gang.min_count, gang.scheduled_count, True, waiting=why)
    return Decision(item, gang_verdict=verdict)


def _best_attempt(
    placer: Placer, pods: Sequence[Pod], gang: Gang, needed: int, within: Mask | None
) -> _Attempt | None:
    """The attempt to keep, applied to the snapshot; None when no node carries a required key.

    Preferred levels are tried from narrow to wide and count only if they take every pod. Then the
    required domains: the tightest that takes all, else the one that takes the most.
    """
    snapshot = placer.snapshot
    required = gang.required_keys
    room = _room(snapshot, pods)
    for depth in range(len(gang.preferred_keys), 0, -1):
        keys = (*required, *gang.preferred_keys[:depth])
        whole = _whole_in(placer, pods, gang, _domains(snapshot, gang, keys, room, within))
        if whole is not None:
            return whole
    if not required:
        return _attempt(placer, pods, needed, within, "")
    domains = _domains(snapshot, gang, required, room, within)
    whole = _whole_in(placer, pods, gang, domains)
    if whole is not None or not domains:
        return whole
    best: tuple[int, _Domain] | None = None
    for domain in sorted(domains, key=lambda d: (-d.room, d.name)):
        if best is not None and domain.room <= best[0]:
            break  # no domain that follows can take more
        mark = snapshot.checkpoint()
        attempt = _attempt(placer, pods, needed, domain.mask, domain.name)
        snapshot.rollback(mark)
        if best is None or len(attempt.placements) > best[0]:
            best = (len(attempt.placements), domain)
    assert best is not None
    return _attempt(placer, pods, needed, best[1].mask, best[1].name)


def _whole_in(
    placer: Placer, pods: Sequence[Pod], gang: Gang, domains: list[_Domain]
) -> _Attempt | None:
    """The first of the domains, tightest first, that takes every pod; applied to the snapshot."""
    snapshot = placer.snapshot
    for domain in _by_data(snapshot, pods, domains):
        if domain.room < len(pods):
            continue
        mark = snapshot.checkpoint()
        attempt = _attempt(placer, pods, len(pods), domain.mask, domain.name)
        if len(attempt.placements) == len(pods):
            snapshot.keep(mark)
            return attempt
        snapshot.rollback(mark)
    return None


def _by_data(snapshot: Snapshot, pods: Sequence[Pod], domains: list[_Domain]) -> list[_Domain]:
    """The domains with most of the pods' data first; as they were where that is the same."""
    if not any(pod.shape.data for pod in pods):
        return domains
    room = _room(snapshot, pods)
    return sorted(domains, key=lambda d: -locality(snapshot, pods, room, d.mask))


def _room(snapshot: Snapshot, pods: Sequence[Pod]) -> NDArray[np.int64]:
    """Per row at most how many of the pods its free resources could hold: a quick upper bound."""
    least: dict[str, int] = dict(pods[0].shape.requests)
    for shape in dict.fromkeys(pod.shape for pod in pods):
        asked = dict(shape.requests)
        least = {name: min(amount, asked.get(name, 0)) for name, amount in least.items()}
    room = np.where(snapshot.alive, snapshot.allocatable[3] - snapshot.requested[3], 0)
    for name, amount in least.items():
        if amount > 0:
            index = snapshot.resource_index(name)
            room = np.minimum(
                room, (snapshot.allocatable[index] - snapshot.requested[index]) // amount
            )
    return np.maximum(room, 0)


def _greedy(placer: Placer, pods: Sequence[Pod], within: Mask | None, domain: str) -> _Attempt:
    """Place all pods that fit, in order.

    A pod of a shape that has just failed fails again, since placements only take room away (unless
    a pod's place depends on other pods), so it is not tried.
    """
    placements: list[Placement] = []
    unplaced: list[Pod] = []
    account: Verdict | None = None
    hopeless: set[PodShape] = set()
    for pod in pods:
        alike = not pod.claims and not pod.has_volumes and not pod.shape.looks_at_pods
        if alike and pod.shape in hopeless:
            unplaced.append(pod)
            continue
        placement = placer.place(pod, within)
        if placement is not None:
            placements.append(placement)
            continue
        if account is None:
            account = placer.account(pod, within)
        unplaced.append(pod)
        hopeless.add(pod.shape)
    return _Attempt(tuple(placements), tuple(unplaced), account, domain)


def _attempt(
    placer: Placer, pods: Sequence[Pod], needed: int, within: Mask | None, domain: str
) -> _Attempt:
    """Greedily, and by search if that leaves a mixed gang short of its minimum."""
    mark = placer.snapshot.checkpoint()
    greedy = _greedy(placer, pods, within, domain)
    if len(greedy.placements) >= needed:
        placer.snapshot.keep(mark)
        return greedy
    placer.snapshot.rollback(mark)
    found = packing.search(placer, pods, needed, within)
    if found is None:
        return greedy  # only to be counted: nothing of it is in the snapshot any more
    placed = {placement.pod.key for placement in found}
    left = tuple(pod for pod in pods if pod.key not in placed)
    return _Attempt(found, left, greedy.account, domain)


@dataclass(frozen=True, slots=True)
class _Domain:
    """The nodes that share one value of every key, and how many pods they could hold at most."""

    name: str
    _numbers: NDArray[np.int64]
    _number: int
    room: int

    @property
    def mask(self) -> Mask:
        """The domain's rows."""
        rows: Mask = self._numbers == self._number
        return rows


def _domains(
    snapshot: Snapshot,
    gang: Gang,
    keys: tuple[str, ...],
    room: NDArray[np.int64],
    within: Mask | None,
) -> list[_Domain]:
    """Each domain that may be tried, the one with the least room first: large holes stay whole.

    A gang of which some pods already run stays in their domain.
    """
    columns = [snapshot.labels.get(key) for key in keys]
    if any(column is None for column in columns):
        return []
    settled = _settled_row(snapshot, gang)
    open_rows = snapshot.alive.copy() if within is None else snapshot.alive & within
    for column in columns:
        assert column is not None
        open_rows &= column >= 0
        if settled is not None:
            open_rows &= column == column[settled]
    rows = np.flatnonzero(open_rows)
    if not len(rows):
        return []
    codes = np.zeros(len(rows), np.int64)  # one number for each combination of values
    for column in columns:
        assert column is not None
        codes = codes * (int(column.max()) + 1) + column[rows]
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    sums = np.bincount(inverse, weights=room[rows], minlength=len(first)).astype(np.int64)
    numbers = np.full(snapshot.capacity, -1, np.int64)
    numbers[rows] = inverse
    found: list[_Domain] = []
    for number, at in enumerate(first.tolist()):
        node = snapshot.nodes[int(rows[at])]
        assert node is not None
        name = ",".join(f"{key}={node.labels[key]}" for key in keys)
        found.append(_Domain(name, numbers, number, int(sums[number])))
    return sorted(found, key=lambda domain: (domain.room, domain.name))


def _missing_key(snapshot: Snapshot, gang: Gang) -> str:
    for key in gang.required_keys:
        column = snapshot.labels.get(key)
        if column is None or not (snapshot.alive & (column >= 0)).any():
            return key
    return " and ".join(gang.required_keys)


def settled_mask(snapshot: Snapshot, gang: Gang) -> Mask | None:
    """The nodes of the domain in which pods of the gang run; None without one."""
    row = _settled_row(snapshot, gang)
    if row is None or not gang.required_keys:
        return None
    mask = snapshot.alive.copy()
    for key in gang.required_keys:
        column = snapshot.labels.get(key)
        if column is not None:
            mask &= column == column[row]
    return mask


def _settled_row(snapshot: Snapshot, gang: Gang) -> int | None:
    """A row on which a pod of the gang runs."""
    if not gang.scheduled_count or not (gang.required_keys or gang.preferred_keys):
        return None
    return next((row for pod, row in snapshot.placed_pods() if pod.gang == gang.key), None)


def _greedy_is_exact(snapshot: Snapshot, pods: Sequence[Pod], gang: Gang) -> bool:
    """Whether placing one by one provably finds the largest number.

    True for identical pods whose nodes do not influence each other: then each node holds a fixed
    number of them, in whatever order they come. With devices that also needs a single request for
    a number of exclusive, local devices without constraints or counters.
    """
    shapes = {pod.shape for pod in pods}
    if len(shapes) != 1 or next(iter(shapes)).looks_at_pods or next(iter(shapes)).ports:
        return False
    specs = {
        tuple(snapshot.claims[key].spec for key in pod.claims if key in snapshot.claims)
        for pod in pods
    }
    if len(specs) != 1:
        return False
    shared: dict[object, int] = {}
    for key in (key for pod in pods for key in pod.claims):
        shared[key] = shared.get(key, 0) + 1
    if any(count > 1 for count in shared.values()):
        return False
    for spec in next(iter(specs)):
        if len(spec.requests) != 1 or spec.constraints or spec.requests[0].prioritised:
            return False
        if spec.requests[0].alternatives[0].capacity is not None:
            return False
    if not next(iter(specs)):
        return True
    return len(next(iter(specs))) == 1 and all(
        item.node_name and not any(d.consumes or d.allow_multiple for d in item.devices)
        for item in snapshot.inventory.slices.values()
    )
