"""The volume filters as masks over rows.

Source: the plugins volumerestrictions, nodevolumelimits, volumebinding and volumezone of
kube-scheduler 1.37.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from kubarium.engine import reasons
from kubarium.engine.model import Disk, Node, Pod, VolumeClaim
from kubarium.engine.placement.filters import any_term, clause
from kubarium.engine.placement.profile import Profile
from kubarium.engine.selectors import LabelSelector, NodeTerm, Requirement
from kubarium.engine.snapshot import Mask, Snapshot

Terms = tuple[NodeTerm, ...] | None
_BETA = "failure-domain.beta.kubernetes.io/"
_GENERAL = "topology.kubernetes.io/"
ZONE_LABELS = tuple(f"{prefix}{key}" for prefix in (_GENERAL, _BETA) for key in ("zone", "region"))


def problem_of(snapshot: Snapshot, pod: Pod) -> str:
    """What keeps the pod from every node, if anything: a claim that is missing, lost or unbound."""
    for key in pod.volumes:
        claim = snapshot.volumes.get(key)
        if claim is None and key in pod.own_volumes:
            return reasons.volume_claim_not_made(key[1])
        if claim is None:
            return reasons.volume_claim_missing(key[1])
        if claim.problem:
            return claim.problem
        if key in pod.own_volumes and claim.owner != pod.uid:
            return reasons.volume_claim_foreign(key, pod.key)
    return ""


def volume_filters(snapshot: Snapshot, pod: Pod, profile: Profile) -> Iterator[tuple[str, Mask]]:
    """(reason, mask) of each volume filter, in upstream's order."""
    claims = [snapshot.volumes[key] for key in pod.volumes if key in snapshot.volumes]
    if profile.filters("VolumeRestrictions"):
        if pod.disks:
            yield reasons.DISK_CONFLICT, _disks_free(snapshot, pod.disks)
        if any(_taken(snapshot, pod, c) for c in claims):
            yield reasons.VOLUME_IN_USE, np.zeros(snapshot.capacity, np.bool_)
    if profile.filters("NodeVolumeLimits") and snapshot.volume_limits:
        yield reasons.VOLUME_LIMIT, _within_limits(snapshot, claims)
    if profile.filters("VolumeBinding"):
        yield from _bindings(snapshot, claims)
    if profile.filters("VolumeZone"):
        for claim in claims:
            for zone in claim.zones:
                yield reasons.VOLUME_ZONE, _in_zone(snapshot, zone)


# VolumeRestrictions


def _taken(snapshot: Snapshot, pod: Pod, claim: VolumeClaim) -> bool:
    users = snapshot.volume_users.get(claim.key, {})
    return claim.exclusive and any(user != pod.key for user in users)


def _disks_free(snapshot: Snapshot, disks: tuple[Disk, ...]) -> Mask:
    mask = np.ones(snapshot.capacity, np.bool_)
    for disk in disks:
        for name in disk.names:
            for row, others in snapshot.disks.get(name, {}).items():
                if any(disk.conflicts(other) for other in others):
                    mask[row] = False
    return mask


# NodeVolumeLimits


def _within_limits(snapshot: Snapshot, claims: list[VolumeClaim]) -> Mask:
    """Volumes are counted once for each node, whoever uses them; nodes without a limit take all."""
    wanted = {claim.attaches for claim in claims if claim.attaches is not None}
    return snapshot.attached.within_limits(snapshot, wanted)


# VolumeBinding


def _bindings(snapshot: Snapshot, claims: list[VolumeClaim]) -> Iterator[tuple[str, Mask]]:
    waiting: list[VolumeClaim] = []
    for claim in claims:
        if claim.terms is not None:
            yield reasons.VOLUME_NODE, any_term(snapshot, claim.terms)
        if claim.choices is None:
            continue
        assumed = snapshot.assumed_volumes.get(claim.key)
        if assumed is not None:  # a pod that shares the claim has decided it a moment ago
            mask = np.zeros(snapshot.capacity, np.bool_)
            mask[[snapshot.rows[assumed[0]]] if assumed[0] in snapshot.rows else []] = True
            yield reasons.VOLUME_NODE, mask
            continue
        waiting.append(claim)
        allowed, roomy = _provisionable(snapshot, claim)
        static = _reachable(snapshot, [terms for _, terms in _free(snapshot, claim)])
        yield reasons.VOLUME_BINDING, static | allowed
        yield reasons.VOLUME_SPACE, static | roomy
    if len(waiting) > 1:
        yield reasons.VOLUME_BINDING, _matched(snapshot, waiting)


def _free(snapshot: Snapshot, claim: VolumeClaim) -> list[tuple[str, Terms]]:
    """The claim's choices that no other claim is about to take."""
    if not snapshot.assumed_volumes:
        return list(claim.choices or ())
    taken = {volume for _, volume in snapshot.assumed_volumes.values()}
    return [choice for choice in claim.choices or () if choice[0] not in taken]


def _provisionable(snapshot: Snapshot, claim: VolumeClaim) -> tuple[Mask, Mask]:
    """Where a volume may be made, and where besides there is room for it."""
    if claim.provision is None:
        none = np.zeros(snapshot.capacity, np.bool_)
        return none, none
    allowed = _reachable(snapshot, [claim.provision.terms])
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


def _reachable(snapshot: Snapshot, choices: Iterable[Terms]) -> Mask:
    mask = np.zeros(snapshot.capacity, np.bool_)
    for terms in choices:
        if terms is None:
            return snapshot.alive.copy()
        mask |= any_term(snapshot, terms)
    return mask


def _matched(snapshot: Snapshot, waiting: list[VolumeClaim]) -> Mask:
    """Nodes where the claims find a volume each; only matters where they compete for some."""
    names = [name for claim in waiting for name, _ in _free(snapshot, claim)]
    if len(set(names)) == len(names):
        return snapshot.alive.copy()
    mask = np.zeros(snapshot.capacity, np.bool_)
    for node in (node for node in snapshot.nodes if node is not None):
        mask[snapshot.rows[node.name]] = _match(snapshot, waiting, node) is not None
    return mask


def _match(snapshot: Snapshot, waiting: list[VolumeClaim], node: Node) -> dict[str, str] | None:
    """Volume by claim on one node ("" is to be made), the smallest claim first; None if it fails.

    Upstream: findMatchingVolumes, which is as greedy.
    """
    row = snapshot.rows[node.name]
    found: dict[str, str] = {}
    for claim in sorted(waiting, key=lambda c: c.size):
        for name, terms in _free(snapshot, claim):
            if name not in found.values() and _reaches(terms, node):
                found[claim.key[1]] = name
                break
        else:
            if not _provisionable(snapshot, claim)[1][row]:
                return None
            found[claim.key[1]] = ""
    return found


def _reaches(terms: Terms, node: Node) -> bool:
    return terms is None or any(term.matches(node.name, node.labels) for term in terms)


def assume(snapshot: Snapshot, pod: Pod, name: str) -> None:
    """Remember which volumes the pod's waiting claims get on its node, for the pods after it."""
    node = snapshot.node(name)
    claims = [snapshot.volumes[key] for key in pod.volumes if key in snapshot.volumes]
    waiting = [c for c in claims if c.choices is not None and c.key not in snapshot.assumed_volumes]
    if node is None or not waiting:
        return
    for claim, volume in (_match(snapshot, waiting, node) or {}).items():
        snapshot.assume_volume((pod.namespace, claim), name, volume)


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
