"""The volume filters: VolumeRestrictions, VolumeBinding and VolumeZone as masks over rows.

Source: the plugins volumerestrictions, volumebinding and volumezone of kube-scheduler 1.35.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kubarium.engine import reasons
from kubarium.engine.model import Pod, VolumeClaim
from kubarium.engine.placement.filters import any_term, clause
from kubarium.engine.placement.profile import Profile
from kubarium.engine.selectors import NodeTerm
from kubarium.engine.snapshot import Mask, Snapshot


def problem_of(snapshot: Snapshot, pod: Pod) -> str:
    """What keeps the pod from every node, if anything: a claim that is missing or lost."""
    for key in pod.volumes:
        claim = snapshot.volumes.get(key)
        if claim is None:
            return reasons.volume_claim_missing(key[1])
        if claim.problem:
            return claim.problem
    return ""


def volume_filters(snapshot: Snapshot, pod: Pod, profile: Profile) -> Iterator[tuple[str, Mask]]:
    """(reason, mask) of each volume filter, in upstream's order."""
    claims = [snapshot.volumes[key] for key in pod.volumes if key in snapshot.volumes]
    if profile.filters("VolumeRestrictions") and any(_taken(snapshot, pod, c) for c in claims):
        yield reasons.VOLUME_IN_USE, np.zeros(snapshot.capacity, np.bool_)
    if profile.filters("VolumeBinding"):
        for claim in claims:
            if claim.terms is not None:
                yield reasons.VOLUME_NODE, any_term(snapshot, claim.terms)
            if claim.choices is not None:
                yield reasons.VOLUME_BINDING, _reachable(snapshot, claim.choices)
    if profile.filters("VolumeZone"):
        for claim in claims:
            for zone in claim.zones:
                yield reasons.VOLUME_ZONE, clause(snapshot, zone)


def _taken(snapshot: Snapshot, pod: Pod, claim: VolumeClaim) -> bool:
    users = snapshot.volume_users.get(claim.key, {})
    return claim.exclusive and any(user != pod.key for user in users)


def _reachable(snapshot: Snapshot, choices: tuple[tuple[NodeTerm, ...] | None, ...]) -> Mask:
    mask = np.zeros(snapshot.capacity, np.bool_)
    for terms in choices:
        if terms is None:
            return snapshot.alive.copy()
        mask |= any_term(snapshot, terms)
    return mask
