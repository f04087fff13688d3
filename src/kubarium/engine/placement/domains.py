"""Topology domains: the nodes that share one value of each of a group's labels.

Bounds come with them: how many pods a domain could hold at most, so that most domains need not be
tried at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.devices.model import ClaimSpec
from kubarium.engine.model import Gang, Key, Pod
from kubarium.engine.placement.devices import claims_of
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import Profile
from kubarium.engine.snapshot import Mask, Snapshot


@dataclass(frozen=True, slots=True)
class Domain:
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


def room_for(placer: Placer, pods: Sequence[Pod]) -> NDArray[np.int64]:
    """Per row at most how many of the pods its free resources and devices could hold.

    A quick upper bound.
    """
    snapshot, profile = placer.snapshot, placer.profile
    if profile.filters("NodeResourcesFit"):
        room = np.where(snapshot.alive, snapshot.allocatable[3] - snapshot.requested[3], 0)
    else:
        room = np.where(snapshot.alive, len(pods), 0)
    for name, amount in least_asked(profile, pods).items():
        index = snapshot.resource_index(name)
        room = np.minimum(room, (snapshot.allocatable[index] - snapshot.requested[index]) // amount)
    by_devices = _device_room(placer, pods)
    if by_devices is not None:
        room = np.minimum(room, by_devices)
    return np.maximum(room, 0)


def least_asked(profile: Profile, pods: Sequence[Pod]) -> dict[str, int]:
    """Of each resource that every one of the pods asks for, and the profile looks at, the least."""
    if not profile.filters("NodeResourcesFit"):
        return {}
    least: dict[str, int] = dict(pods[0].shape.requests)
    for shape in dict.fromkeys(one.shape for pod in pods for one in pod.each):
        asked = dict(shape.requests)
        least = {name: min(amount, asked.get(name, 0)) for name, amount in least.items()}
    return {name: n for name, n in least.items() if n > 0 and not profile.ignores(name)}


def _device_room(placer: Placer, pods: Sequence[Pod]) -> NDArray[np.int64] | None:
    """Per row how many of the pods its free devices could serve at most.

    None unless each pod has pending claims of its own, all of them alike.
    """
    snapshot = placer.snapshot
    if not all(pod.claims for pod in pods) or any(pod.variants for pod in pods):
        return None
    specs: dict[tuple[ClaimSpec, ...], None] = {}
    seen: set[Key] = set()
    for pod in pods:
        found = [snapshot.claims.get(key) for key in pod.claims]
        if any(claim is None or claim.key in seen for claim in found):
            return None
        seen.update(pod.claims)
        specs[tuple(claim.spec for claim in found if claim is not None)] = None
        if len(specs) > 1:
            return None
    claims = claims_of(snapshot, pods[0])
    if claims.problem or claims.held:
        return None
    fit = placer.device_fit(claims)
    wanted = sum(claim.spec.least_devices for claim in claims.pending)
    return fit.room(wanted) if fit is not None and wanted > 0 else None


def domains_of(
    snapshot: Snapshot,
    keys: tuple[str, ...],
    room: NDArray[np.int64],
    within: Mask | None,
    settled: int | None,
) -> list[Domain]:
    """Each domain that may be tried, the one with the least room first: large holes stay whole.

    ``settled`` is a row where pods of the group run already: the group stays in its domain.
    """
    columns = [snapshot.labels.get(key) for key in keys]
    if any(column is None for column in columns):
        return []
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
    found: list[Domain] = []
    for number, at in enumerate(first.tolist()):
        node = snapshot.nodes[int(rows[at])]
        assert node is not None
        name = ",".join(f"{key}={node.labels[key]}" for key in keys)
        found.append(Domain(name, numbers, number, int(sums[number])))
    return sorted(found, key=lambda domain: (domain.room, domain.name))


def holes(snapshot: Snapshot, mask: Mask, static: Sequence[Mask]) -> bytes:
    """Equal for nodes with the same free amounts, as often each, whichever nodes they are.

    ``static`` are masks that tell nodes apart besides.
    """
    free = (snapshot.allocatable - snapshot.requested)[:, mask]
    rows = np.vstack([free, *(one[mask] for one in static)]).T
    return rows[np.lexsort(rows.T)].tobytes()


def missing_key(snapshot: Snapshot, keys: tuple[str, ...]) -> str:
    """The key that no node carries; all of them if only their combination is missing."""
    for key in keys:
        column = snapshot.labels.get(key)
        if column is None or not (snapshot.alive & (column >= 0)).any():
            return key
    return " and ".join(keys)


def row_of_gangs(
    snapshot: Snapshot, gangs: Iterable[Gang], keys: tuple[str, ...] = ()
) -> int | None:
    """A row on which a pod of one of the gangs runs; None if none of them has a domain.

    Pods that are ending hold nobody to where they are, nor do nodes that have lost one of ``keys``.
    """
    columns = [snapshot.labels.get(key) for key in keys]
    for gang in gangs:
        for member in snapshot.gang_pods.get(gang.key, ()) if gang.scheduled_count else ():
            pod, row = snapshot.placed(member), snapshot.rows.get(snapshot.node_of(member) or "")
            if pod is None or row is None or pod.terminating:
                continue
            if all(column is not None and column[row] >= 0 for column in columns):
                return row
    return None


def mask_around(snapshot: Snapshot, keys: tuple[str, ...], row: int) -> Mask:
    """The nodes that share the row's value of every key."""
    mask = snapshot.alive.copy()
    for key in keys:
        column = snapshot.labels.get(key)
        if column is not None:
            mask &= column == column[row]
    return mask
