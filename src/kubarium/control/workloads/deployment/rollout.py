"""How many pods each ReplicaSet of a Deployment should have. Pure.

Source: upstream ``pkg/controller/deployment/{rolling,sync}.go`` and ``util/deployment_util.go``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from kubarium.api.resource import Document

REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MOST = "deployment.kubernetes.io/max-replicas"


def replicas_of(replica_set: Document) -> int:
    """``spec.replicas``."""
    return int(replica_set["spec"].get("replicas", 1))


def available_of(replica_set: Document) -> int:
    """``status.availableReplicas``."""
    return int(replica_set.get("status", {}).get("availableReplicas", 0))


def wanted_by(deployment: Document) -> int:
    """The Deployment's ``spec.replicas``."""
    return int(deployment["spec"].get("replicas", 1))


def by_age(replica_sets: list[Document]) -> list[Document]:
    """Oldest first; by name among equals."""
    return sorted(
        replica_sets,
        key=lambda item: (item["metadata"]["creationTimestamp"], item["metadata"]["name"]),
    )


def scaled_value(value: Any, total: int, round_up: bool) -> int:
    """A number, or a percentage of ``total``.

    >>> scaled_value("25%", 10, True), scaled_value("25%", 10, False), scaled_value(3, 10, True)
    (3, 2, 3)
    """
    if isinstance(value, str) and value.endswith("%"):
        share = int(value[:-1]) * total / 100
        return math.ceil(share) if round_up else math.floor(share)
    return int(value)


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a rolling update may stray from the wanted number of pods."""

    surge: int
    unavailable: int


def limits_of(deployment: Document) -> Limits:
    """maxSurge (rounded up) and maxUnavailable (rounded down); both zero would never move."""
    strategy = deployment["spec"].get("strategy") or {}
    if strategy.get("type") == "Recreate":
        return Limits(0, 0)
    rolling = strategy.get("rollingUpdate") or {}
    wanted = wanted_by(deployment)
    surge = scaled_value(rolling.get("maxSurge", "25%"), wanted, True)
    unavailable = scaled_value(rolling.get("maxUnavailable", "25%"), wanted, False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Limits(surge, min(unavailable, wanted) if wanted else unavailable)


def new_size(deployment: Document, new: Document, everything: list[Document]) -> int:
    """What the new ReplicaSet may grow (or must shrink) to."""
    wanted, size = wanted_by(deployment), replicas_of(new)
    if size >= wanted:
        return wanted
    if (deployment["spec"].get("strategy") or {}).get("type") == "Recreate":
        return wanted
    room = wanted + limits_of(deployment).surge - sum(map(replicas_of, everything))
    return size + max(0, min(room, wanted - size))


def shrink_old(deployment: Document, new: Document, old: list[Document]) -> dict[str, int]:
    """New sizes, by name, of the old ReplicaSets that are to shrink now.

    Pods that do not work anyway go first; then so many as leave enough available ones.
    """
    everything = [*old, new]
    least = wanted_by(deployment) - limits_of(deployment).unavailable
    missing_in_new = replicas_of(new) - available_of(new)
    room = sum(map(replicas_of, everything)) - least - missing_in_new
    sizes = {item["metadata"]["name"]: replicas_of(item) for item in by_age(old)}
    if room <= 0:
        return {}
    before = dict(sizes)
    removed_unhealthy: dict[str, int] = {}
    for item in by_age(old):
        name = item["metadata"]["name"]
        broken = max(0, sizes[name] - available_of(item))
        cut = min(room - sum(removed_unhealthy.values()), broken)
        removed_unhealthy[name] = max(0, cut)
        sizes[name] -= removed_unhealthy[name]
    spare = sum(map(available_of, everything)) - least
    for item in by_age(old):
        name = item["metadata"]["name"]
        cut = max(0, min(sizes[name], spare))
        sizes[name] -= cut
        spare -= cut
    return {name: size for name, size in sizes.items() if size != before[name]}


def scale_proportionally(deployment: Document, active: list[Document]) -> dict[str, int]:
    """New sizes, by name, when ``spec.replicas`` changes in the middle of a rollout.

    Every active ReplicaSet gets its share of the difference; what rounding leaves goes to the
    first in order (largest first when growing, youngest first among equals).
    """
    total = sum(map(replicas_of, active))
    wanted = wanted_by(deployment)
    allowed = wanted + limits_of(deployment).surge if wanted > 0 else 0
    to_add = allowed - total
    oldest_first = by_age(active)
    in_order = oldest_first[::-1] if to_add > 0 else oldest_first
    ranked = sorted(in_order, key=lambda item: -replicas_of(item))
    sizes: dict[str, int] = {}
    added = 0
    for item in ranked:
        size = replicas_of(item)
        share = 0 if to_add == 0 else _share(deployment, item, to_add, added)
        sizes[item["metadata"]["name"]] = size + share
        added += share
    if ranked:
        first = ranked[0]["metadata"]["name"]
        sizes[first] = max(0, sizes[first] + to_add - added)
    return sizes


def _share(deployment: Document, replica_set: Document, to_add: int, added: int) -> int:
    if not replicas_of(replica_set):
        return 0
    allowed = to_add - added
    fraction = _fraction(deployment, replica_set)
    return min(fraction, allowed) if to_add > 0 else max(fraction, allowed)


def _fraction(deployment: Document, replica_set: Document) -> int:
    """How much this one would change if all changed in proportion (Go rounds half up)."""
    size = replicas_of(replica_set)
    if wanted_by(deployment) == 0:
        return -size
    limit = wanted_by(deployment) + limits_of(deployment).surge
    annotations = replica_set["metadata"].get("annotations") or {}
    text = annotations.get(MOST, "")
    base = int(text) if text.isdecimal() and int(text) else _present_total(deployment)
    if base <= 0:
        return 0
    return math.floor(size * limit / base + 0.5) - size


def _present_total(deployment: Document) -> int:
    return int(deployment.get("status", {}).get("replicas", 0))
