"""The volume plugins as masks and scores over rows.

Source: the plugins volumerestrictions, nodevolumelimits, volumebinding and volumezone of
kube-scheduler 1.37.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from kubarium.engine import reasons
from kubarium.engine.attached import Volume
from kubarium.engine.model import Disk, Key, Node, Pod, VolumeClaim
from kubarium.engine.placement.filters import any_term, clause
from kubarium.engine.placement.profile import DEFAULT, Profile, ratio_table
from kubarium.engine.placement.scores import Scores
from kubarium.engine.selectors import LabelSelector, NodeTerm, Requirement
from kubarium.engine.snapshot import Mask, Snapshot

Terms = tuple[NodeTerm, ...] | None
# What one plugin says of all rows; of a row it gives all reasons that hold.
Group = list[tuple[str, Mask]]
_BETA = "failure-domain.beta.kubernetes.io/"
_GENERAL = "topology.kubernetes.io/"
ZONE_LABELS = tuple(f"{prefix}{key}" for prefix in (_GENERAL, _BETA) for key in ("zone", "region"))


def problem_of(snapshot: Snapshot, pod: Pod, profile: Profile = DEFAULT) -> str:
    """What keeps the pod from every node, if anything: a claim that is missing, lost or unbound.

    The order is that in which upstream's plugins look at the claims (PreFilter).
    """
    claims = {key: snapshot.volumes.get(key) for key in pod.volumes}
    binds = profile.prepares("VolumeBinding")
    zones = profile.prepares("VolumeZone") or profile.filters("VolumeZone")
    for key, claim in claims.items() if profile.prepares("VolumeRestrictions") or zones else ():
        if claim is None and key not in pod.own_volumes:
            return reasons.volume_claim_missing(key[1])
    for key, claim in claims.items():
        own = key in pod.own_volumes
        if claim is None:
            missing = reasons.volume_claim_not_made if own else reasons.volume_claim_missing
            return missing(key[1])
        if claim.problem and (binds or (zones and not own)):
            return claim.problem
        if own and claim.owner != pod.uid:
            return reasons.volume_claim_foreign(key, pod.key)
    known = [claim for claim in claims.values() if claim is not None]
    named = [claim for claim in known if claim.key not in pod.own_volumes]
    if any(claim.unbound for claim in (known if binds else named if zones else ())):
        return reasons.VOLUMES_UNBOUND
    for claim in named if zones else ():
        if claim.gone:
            return reasons.volume_missing(claim.gone)
    return ""


def volume_filters(
    snapshot: Snapshot, pod: Pod, profile: Profile, nominated: tuple[Key, ...] = ()
) -> Iterator[Group]:
    """The reasons and masks of each volume filter, in upstream's order.

    ``nominated`` pods may never come to their nodes: at most there their claims are in use.
    """
    claims = [snapshot.volumes[key] for key in pod.volumes if key in snapshot.volumes]
    if profile.filters("VolumeRestrictions"):
        disks = tuple(disk for disk in pod.disks if disk.names)
        if disks:
            yield [(reasons.DISK_CONFLICT, _disks_free(snapshot, disks))]
        taken = dict.fromkeys(user for c in claims for user in _users(snapshot, pod, c))
        promised = all(user in nominated for user in taken)
        # Upstream's PreFilter skips the plugin unless the pod has disks or somebody has its claim.
        if taken and not (promised and not disks):
            mask = np.full(snapshot.capacity, promised)
            mask[[snapshot.rows[n] for n in map(snapshot.node_of, taken) if n in snapshot.rows]] = 0
            yield [(reasons.VOLUME_IN_USE, mask)]
    if profile.filters("NodeVolumeLimits"):
        yield from _limits(snapshot, attached_for(snapshot, pod))
    if profile.filters("VolumeBinding") and claims:
        yield _bindings(snapshot, claims)
    if profile.filters("VolumeZone"):
        for claim in claims:
            for zone in claim.zones if claim.key not in pod.own_volumes else ():
                yield [(reasons.VOLUME_ZONE, _in_zone(snapshot, zone))]


# VolumeRestrictions


def _users(snapshot: Snapshot, pod: Pod, claim: VolumeClaim) -> Iterator[Key]:
    """Other pods that have a claim which only one pod may have."""
    users = snapshot.volume_users.get(claim.key, {}) if claim.exclusive else ()
    return (user for user in users if user != pod.key)


def _disks_free(snapshot: Snapshot, disks: tuple[Disk, ...]) -> Mask:
    mask = np.ones(snapshot.capacity, np.bool_)
    for disk in disks:
        for name in disk.names:
            for row, others in snapshot.disks.get(name, {}).items():
                if any(disk.conflicts(other) for other in others):
                    mask[row] = False
    return mask


# NodeVolumeLimits


def attached_for(snapshot: Snapshot, pod: Pod) -> set[Volume]:
    """What a node attaches for the pod: CSI drivers and volumes."""
    claims = (snapshot.volumes.get(key) for key in pod.volumes)
    sources = (*claims, *pod.disks)
    return {s.attaches for s in sources if s is not None and s.attaches is not None}


def _limits(snapshot: Snapshot, wanted: set[Volume]) -> Iterator[Group]:
    """Drivers that a node must have, and how many volumes it can attach.

    Volumes are counted once for each node, whoever uses them; nodes without a limit take all.
    """
    for driver in sorted({driver for driver, _ in wanted} & snapshot.needed_drivers):
        mask = np.zeros(snapshot.capacity, np.bool_)
        have = (name for name, drivers in snapshot.csi_drivers.items() if driver in drivers)
        mask[[snapshot.rows[name] for name in have if name in snapshot.rows]] = True
        yield [(reasons.driver_missing(driver), mask)]
    if wanted and snapshot.volume_limits:
        yield [(reasons.VOLUME_LIMIT, snapshot.attached.within_limits(snapshot, wanted))]


# VolumeBinding


def _bindings(snapshot: Snapshot, claims: list[VolumeClaim]) -> Group:
    """Which volumes a node cannot reach or get; a row is told of the first claim of each kind."""
    reached, there = snapshot.alive.copy(), snapshot.alive.copy()
    left = snapshot.alive.copy()
    for claim in claims:
        assumed = snapshot.assumed_volumes.get(claim.key) if claim.choices is not None else None
        if assumed is not None:  # a pod that shares the claim has decided it a moment ago
            mask = _row_of(snapshot, assumed[0])
        elif claim.terms is not None:
            mask = any_term(snapshot, claim.terms)
        elif claim.gone:
            there &= ~left
            break
        else:
            continue
        reached &= mask | ~left
        left &= mask
    found: Group = [(reasons.VOLUME_NODE, reached), (reasons.VOLUME_GONE, there)]
    waiting = waiting_of(snapshot, claims)
    if waiting:
        bound, room = _matched(snapshot, waiting)
        found += [(reasons.VOLUME_BINDING, bound), (reasons.VOLUME_SPACE, room)]
    return found


def waiting_of(snapshot: Snapshot, claims: Iterable[VolumeClaim]) -> list[VolumeClaim]:
    """Those that get a volume with their pod's node, in the order in which they choose.

    First those whose volumes are being made already, then the smallest first (upstream:
    FindPodVolumes).
    """
    waiting = [c for c in claims if c.choices is not None and c.key not in snapshot.assumed_volumes]
    return sorted(waiting, key=lambda c: (not c.selected, 0 if c.selected else c.size))


def _row_of(snapshot: Snapshot, name: str) -> Mask:
    mask = np.zeros(snapshot.capacity, np.bool_)
    if name in snapshot.rows:
        mask[snapshot.rows[name]] = True
    return mask


def _matched(snapshot: Snapshot, waiting: list[VolumeClaim]) -> tuple[Mask, Mask]:
    """(where a volume is there or may be made for each, where there is room for those to be made).

    A row is told of the first claim that fails, and where one volume is being made already there
    is no other place.
    """
    bound, room, left = snapshot.alive.copy(), snapshot.alive.copy(), snapshot.alive.copy()
    for claim in waiting:
        if claim.selected:
            left &= _row_of(snapshot, claim.selected)
    bound &= left
    found = _chosen(snapshot, waiting, left)
    for claim in waiting:
        allowed, roomy = _provisionable(snapshot, claim)
        static = found[claim.key] >= 0
        bound &= static | allowed | ~left
        room &= static | ~allowed | roomy | ~left
        left &= static | roomy
    return bound, room


def _chosen(
    snapshot: Snapshot, waiting: list[VolumeClaim], rows: Mask
) -> dict[Key, NDArray[np.int64]]:
    """By claim, for each row, the index of the volume that it takes of its choices; -1: none.

    Greedy, as upstream's findMatchingVolumes: what one claim takes the next ones cannot have.
    """
    times: dict[str, int] = {}
    for claim in waiting:
        for name, _ in claim.choices or ():
            times[name] = times.get(name, 0) + 1
    gone: dict[str, Mask] = {}
    taken = {volume for _, volume in snapshot.assumed_volumes.values()}
    found: dict[Key, NDArray[np.int64]] = {}
    for claim in waiting:
        chosen = found[claim.key] = np.full(snapshot.capacity, -1, np.int64)
        left = rows.copy()
        for index, (name, terms) in enumerate(claim.choices or ()):
            if claim.selected or not left.any():
                break
            if name in taken:
                continue
            mask = left if terms is None else left & any_term(snapshot, terms)
            if name in gone:
                mask = mask & ~gone[name]
            chosen[mask] = index
            if times[name] > 1:
                gone[name] = gone.get(name, False) | mask
            left = left & ~mask
    return found


def _provisionable(snapshot: Snapshot, claim: VolumeClaim) -> tuple[Mask, Mask]:
    """Where a volume may be made, and where besides there is room for it."""
    if claim.provision is None:
        none = np.zeros(snapshot.capacity, np.bool_)
        return none, none
    terms = claim.provision.terms
    allowed = snapshot.alive.copy() if terms is None else any_term(snapshot, terms)
    if claim.provision.room is None:
        return allowed, allowed
    roomy = np.zeros(snapshot.capacity, np.bool_)
    for selector in claim.provision.room:
        roomy |= _selected(snapshot, selector)
    return allowed, allowed & roomy


def _selected(snapshot: Snapshot, selector: LabelSelector) -> Mask:
    mask = snapshot.alive.copy()
    for requirement in selector.requirements:
        mask &= clause(snapshot, requirement)
    return mask


def competed(snapshot: Snapshot, waiting: list[VolumeClaim]) -> Mask:
    """Where the claims find a volume each, as far as they compete for some."""
    names = [name for claim in waiting for name, _ in claim.choices or ()]
    if len(set(names)) == len(names):
        return snapshot.alive.copy()
    bound, room = _matched(snapshot, waiting)
    return bound & room


def _match(snapshot: Snapshot, waiting: list[VolumeClaim], node: Node) -> dict[Key, str]:
    """Volume by claim on one node, "" where one is to be made: what _chosen says of one row."""
    taken = {volume for _, volume in snapshot.assumed_volumes.values()}
    found: dict[Key, str] = {}
    for claim in waiting:
        found[claim.key] = ""
        for name, terms in claim.choices or () if not claim.selected else ():
            if name not in taken and _reaches(terms, node):
                found[claim.key] = name
                taken.add(name)
                break
    return found


def _reaches(terms: Terms, node: Node) -> bool:
    return terms is None or any(term.matches(node.name, node.labels) for term in terms)


def assume(snapshot: Snapshot, pod: Pod, name: str) -> None:
    """Remember which volumes the pod's waiting claims get on its node, for the pods after it."""
    node = snapshot.node(name)
    claims = [snapshot.volumes[key] for key in pod.volumes if key in snapshot.volumes]
    waiting = waiting_of(snapshot, claims)
    if node is None or not waiting:
        return
    for claim, volume in _match(snapshot, waiting, node).items():
        snapshot.assume_volume(claim, name, volume)


def volume_score(snapshot: Snapshot, pod: Pod, rows: Mask, profile: Profile) -> Scores | None:
    """VolumeBinding's score by how full storage becomes (KEP-4049); None if it is 0 everywhere.

    Where volumes that exist are taken, what is asked for of their capacity counts; elsewhere, of
    what is left where volumes are made. Several storage classes are averaged.
    """
    weight = profile.weights.VolumeBinding * profile.filters("VolumeBinding")
    claims = [snapshot.volumes[key] for key in pod.volumes if key in snapshot.volumes]
    waiting = waiting_of(snapshot, claims)
    if not weight or not any(_has_capacity(claim) for claim in waiting):
        return None
    chosen = _chosen(snapshot, waiting, rows)
    exist, made = _Usage(snapshot.capacity), _Usage(snapshot.capacity)
    for claim in waiting:
        taken = chosen[claim.key]
        if claim.capacities:
            static = rows & (taken >= 0)
            bytes_ = np.array((*claim.capacities, 0), np.int64)[taken]
            exist.add(claim.storage_class, static, claim.size, bytes_)
        room = claim.provision
        left = rows & (taken < 0)
        for selector, most in zip(room.room or (), room.room_bytes, strict=False) if room else ():
            mask = left & _selected(snapshot, selector)
            made.set(claim.storage_class, mask, claim.size, most)
            left &= ~mask
    table = np.array(ratio_table(profile.storage_shape), np.int64)
    return weight * np.where(exist.present(), exist.score(table), made.score(table))


def _has_capacity(claim: VolumeClaim) -> bool:
    return bool(claim.capacities or (claim.provision is not None and claim.provision.room_bytes))


class _Usage:
    """By storage class and row: bytes asked for, and bytes of which they are taken."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._classes: dict[str, tuple[Mask, Scores, Scores]] = {}

    def _of(self, name: str) -> tuple[Mask, Scores, Scores]:
        if name not in self._classes:
            zeros = np.zeros(self._capacity, np.int64)
            self._classes[name] = (zeros.astype(np.bool_), zeros, zeros.copy())
        return self._classes[name]

    def add(self, name: str, mask: Mask, wanted: int, have: Scores) -> None:
        """Another volume."""
        present, requested, capacity = self._of(name)
        present |= mask
        requested[mask] += wanted
        capacity[mask] += have[mask]

    def set(self, name: str, mask: Mask, wanted: int, have: int) -> None:
        """Another volume out of the same room."""
        present, requested, capacity = self._of(name)
        present |= mask
        requested[mask] += wanted
        capacity[mask] = have

    def present(self) -> Mask:
        mask = np.zeros(self._capacity, np.bool_)
        for present, _, _ in self._classes.values():
            mask |= present
        return mask

    def score(self, table: Scores) -> Scores:
        """The mean over the classes of each row, rounded; 0 without any."""
        total, count = np.zeros(self._capacity, np.int64), np.zeros(self._capacity, np.int64)
        for present, requested, capacity in self._classes.values():
            full = (capacity == 0) | (requested > capacity)
            used = np.where(full, 100, _percent(requested, np.maximum(capacity, 1)))
            total += np.where(present, table[used], 0)
            count += present
        mean = total / np.maximum(count, 1)
        rounded: Scores = np.floor(mean + 0.5).astype(np.int64)
        return rounded


def _percent(part: Scores, whole: Scores) -> Scores:
    """100 * part // whole without overflow, for 0 <= part <= whole; more is cut off."""
    part = np.minimum(part, whole)
    # Exabytes times 100 do not fit in 64 bits.
    return np.array(
        [100 * p // w for p, w in zip(part.tolist(), whole.tolist(), strict=True)], np.int64
    )


# VolumeZone


def _in_zone(snapshot: Snapshot, zone: Requirement) -> Mask:
    """Nodes of the volume's zone or region; a node that says nothing of either passes.

    A volume with the label of old days also fits a node that has only the label of today.
    """
    mask = clause(snapshot, zone)
    if zone.key.startswith(_BETA):
        today = Requirement(_GENERAL + zone.key.removeprefix(_BETA), zone.operator, zone.values)
        absent = clause(snapshot, Requirement(zone.key, "DoesNotExist", ()))
        mask = mask | (absent & clause(snapshot, today))
    silent = snapshot.alive.copy()
    for key in ZONE_LABELS:
        silent &= clause(snapshot, Requirement(key, "DoesNotExist", ()))
    return mask | silent
