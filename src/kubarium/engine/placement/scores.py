"""kube-scheduler's default scores with its integer formulas; every score is 0 to 100.

Source: the plugins noderesources (least_allocated, balanced_allocation), imagelocality,
nodeaffinity, tainttoleration of kube-scheduler 1.37. Column forms and one-node forms of a formula
stand together and must agree to the bit: a placement updates one node only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.model import CPU, MEMORY, PREFER_NO_SCHEDULE, PodShape
from kubarium.engine.placement.filters import term
from kubarium.engine.placement.profile import (
    DEFAULT,
    MOST_ALLOCATED,
    REQUESTED_TO_CAPACITY_RATIO,
    Profile,
    Strategy,
)
from kubarium.engine.snapshot import EPHEMERAL, Mask, Snapshot

MAX_SCORE = 100

_MEBI = 1024 * 1024
_IMAGE_MIN = 23 * _MEBI
_IMAGE_MAX_PER_CONTAINER = 1000 * _MEBI

Scores = NDArray[np.int64]


# For a device class the devices of each row and how many are in use.
Counts = Callable[[str], tuple[Scores, Scores]]


def resource_scores(
    snapshot: Snapshot,
    shape: PodShape,
    profile: Profile = DEFAULT,
    rows: slice = slice(None),
    counts: Counts | None = None,
) -> Scores:
    """NodeResourcesFit's strategy plus BalancedAllocation, weighted, for every row of ``rows``.

    ``counts`` is asked where devices stand for an extended resource; without it those do not score.
    """
    weights = profile.weights
    strategy = _strategy_column(snapshot, shape, profile.strategy, rows, counts)
    total = weights.NodeResourcesFit * strategy
    if weights.NodeResourcesBalancedAllocation and balanced(shape, profile) is not None:
        share = _balance(snapshot, shape, profile.balanced, rows, counts)
        total = total + weights.NodeResourcesBalancedAllocation * share
    return total


def _strategy_column(
    snapshot: Snapshot, shape: PodShape, strategy: Strategy, rows: slice, counts: Counts | None
) -> Scores:
    """The weighted mean of the resources' scores; a resource the node lacks has no weight."""
    size = len(snapshot.alive[rows])
    total, weights = np.zeros(size, np.int64), np.zeros(size, np.int64)
    ratio = strategy.kind == REQUESTED_TO_CAPACITY_RATIO
    table = np.array(strategy.ratio_table(), np.int64) if ratio else None
    for name, weight in strategy.resources:
        found = _use(snapshot, shape, name, rows, counts)
        if found is None:
            continue
        used, capacity = found
        if table is not None:
            percent = np.where(used > capacity, 100, used * 100 // np.maximum(capacity, 1))
            scores = table[np.clip(percent, 0, 100)]
            weighed = (capacity > 0) & (scores > 0)
        elif strategy.kind == MOST_ALLOCATED:
            scores = np.minimum(used, capacity) * MAX_SCORE // np.maximum(capacity, 1)
            weighed = capacity > 0
        else:
            scores = _least_column(used, capacity)
            weighed = capacity > 0
        total += np.where(weighed, scores * weight, 0)
        weights += np.where(weighed, weight, 0)
    if ratio:
        return np.floor(total / np.maximum(weights, 1) + 0.5).astype(np.int64)
    return total // np.maximum(weights, 1)


def _use(
    snapshot: Snapshot, shape: PodShape, name: str, rows: slice, counts: Counts | None
) -> tuple[Scores, Scores] | None:
    """(use with the pod, capacity) of a resource; None if it does not concern the pod."""
    if name in (CPU, MEMORY):
        index = 0 if name == CPU else 1
        used: Scores = snapshot.nonzero[index, rows] + shape.nonzero[index]
        return used, snapshot.allocatable[index, rows]
    wanted = shape.request(name)
    if not wanted and name != EPHEMERAL:
        return _devices_in_use(shape, name, rows, counts)
    index = snapshot.resource_index(name)
    return snapshot.requested[index, rows] + wanted, snapshot.allocatable[index, rows]


def _devices_in_use(
    shape: PodShape, name: str, rows: slice, counts: Counts | None
) -> tuple[Scores, Scores] | None:
    """(use with the pod, capacity) of an extended resource that devices stand for, if it is one."""
    device_class, wanted = shape.devices_for(name)
    if not wanted or counts is None:
        return None
    total, used = counts(device_class)
    return used[rows] + wanted, total[rows]


def _balance(
    snapshot: Snapshot,
    shape: PodShape,
    names: tuple[str, ...],
    rows: slice,
    counts: Counts | None,
) -> Scores:
    """What the pod does to the evenness of a node: 75 leaves it as it is, 50 to 100 spans the rest.

    Evenness is 100 less the deviation, in percent, of the shares of each resource that are taken.
    """
    if names == (CPU, MEMORY):
        cpu, memory = snapshot.requested[0, rows], snapshot.requested[1, rows]
        room = snapshot.allocatable[0, rows], snapshot.allocatable[1, rows]
        return _improvement(
            _even_pairs(cpu, memory, *room),
            _even_pairs(cpu + shape.request(CPU), memory + shape.request(MEMORY), *room),
        )
    before: list[NDArray[np.float64]] = []
    after: list[NDArray[np.float64]] = []
    for name in names:
        wanted = shape.request(name)
        if not wanted and name not in (CPU, MEMORY, EPHEMERAL):
            devices = _devices_in_use(shape, name, rows, counts)
            if devices is not None:
                with_pod, capacity = devices
                before.append(_shares(with_pod - shape.devices_for(name)[1], capacity))
                after.append(_shares(with_pod, capacity))
            continue
        index = snapshot.resource_index(name)
        used, capacity = snapshot.requested[index, rows], snapshot.allocatable[index, rows]
        before.append(_shares(used, capacity))
        after.append(_shares(used + wanted, capacity))
    size = len(snapshot.alive[rows])
    return _improvement(_evenness(before, size), _evenness(after, size))


def _improvement(before: Scores, after: Scores) -> Scores:
    """Evenness ranges over 50 points, so that the result is from 50 to 100."""
    half = MAX_SCORE // 2
    return half + (half + after - before) // 2


def _even_pairs(cpu: Scores, memory: Scores, cpu_cap: Scores, memory_cap: Scores) -> Scores:
    """:func:`_evenness` of cpu and memory, in fewer steps."""
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.minimum(cpu / cpu_cap, 1.0)
        second = np.minimum(memory / memory_cap, 1.0)
        scores: Scores = ((1 - np.abs((first - second) / 2)) * MAX_SCORE).astype(np.int64)
    scores[(cpu_cap == 0) | (memory_cap == 0)] = MAX_SCORE  # fewer than two resources: no spread
    return scores


def _shares(used: Scores, capacity: Scores) -> NDArray[np.float64]:
    """The taken part of each row's capacity, at most all of it; NaN where there is none."""
    share = np.minimum(used / np.maximum(capacity, 1), 1.0)
    return np.where(capacity > 0, share, np.nan)


def _evenness(shares: list[NDArray[np.float64]], size: int) -> Scores:
    if not shares:
        return np.full(size, MAX_SCORE, np.int64)
    table = np.array(shares)
    known = ~np.isnan(table)
    count = known.sum(axis=0)
    mean = np.where(known, table, 0).sum(axis=0) / np.maximum(count, 1)
    square = np.where(known, (table - mean) ** 2, 0).sum(axis=0) / np.maximum(count, 1)
    # Of two shares upstream takes half the distance: the same number, rounded differently.
    apart = np.where(known, table, -1.0).max(axis=0) - np.where(known, table, 2.0).min(axis=0)
    deviation = np.where(count > 2, np.sqrt(square), np.where(count == 2, apart / 2, 0.0))
    scores: Scores = ((1 - deviation) * MAX_SCORE).astype(np.int64)
    return scores


def balanced(shape: PodShape, profile: Profile = DEFAULT) -> tuple[int, int] | None:
    """The cpu and memory asked for; None for a pod that asks for nothing that is to be balanced."""
    if not any(shape.request(name) or shape.devices_for(name)[1] for name in profile.balanced):
        return None
    return shape.request(CPU), shape.request(MEMORY)


def _least_column(requested: Scores, capacity: Scores) -> Scores:
    free = capacity - requested
    scores: Scores = free * MAX_SCORE // np.maximum(capacity, 1)
    scores[(free < 0) | (capacity == 0)] = 0
    return scores


def _even_pair(cpu: int, cpu_cap: int, memory: int, memory_cap: int) -> int:
    """:func:`_evenness` of cpu and memory on one node."""
    if not cpu_cap or not memory_cap:
        return MAX_SCORE
    first, second = min(cpu / cpu_cap, 1.0), min(memory / memory_cap, 1.0)
    return int((1 - abs(first - second) / 2) * MAX_SCORE)


def resource_score(
    snapshot: Snapshot,
    shape: PodShape,
    wants: tuple[int, int] | None,
    row: int,
    profile: Profile = DEFAULT,
    counts: Counts | None = None,
) -> int:
    """:func:`resource_scores` of one row."""
    if not profile.plain:
        return int(resource_scores(snapshot, shape, profile, slice(row, row + 1), counts)[0])
    weights = profile.weights
    cpu_cap, memory_cap = snapshot.allocatable.item(0, row), snapshot.allocatable.item(1, row)
    least = known = 0
    for used, capacity in (
        (snapshot.nonzero.item(0, row) + shape.nonzero[0], cpu_cap),
        (snapshot.nonzero.item(1, row) + shape.nonzero[1], memory_cap),
    ):
        if capacity:
            known += 1
            least += (capacity - used) * MAX_SCORE // capacity if used <= capacity else 0
    total = least // known * weights.NodeResourcesFit if known else 0
    if wants is None:
        return total
    cpu, memory = snapshot.requested.item(0, row), snapshot.requested.item(1, row)
    before = _even_pair(cpu, cpu_cap, memory, memory_cap)
    after = _even_pair(cpu + wants[0], cpu_cap, memory + wants[1], memory_cap)
    half = MAX_SCORE // 2
    share = half + (half + after - before) // 2
    return total + weights.NodeResourcesBalancedAllocation * share


def image_scores(snapshot: Snapshot, shape: PodShape) -> Scores:
    """ImageLocality: bytes already on the node, weighted by how widely an image is spread.

    Images of volumes count, but the full score is as many bytes as for the containers alone.
    """
    sums = np.zeros(snapshot.capacity, np.int64)
    nodes = snapshot.node_count()
    if not shape.images or not nodes:
        return sums
    for image in shape.images:
        holders = snapshot.images.get(image)
        if not holders:
            continue
        spread = len(holders) / nodes
        for row, size in holders.items():
            sums[row] += int(size * spread)
    most = _IMAGE_MAX_PER_CONTAINER * max(1, len(shape.images) - shape.mounted)
    return MAX_SCORE * (np.clip(sums, _IMAGE_MIN, most) - _IMAGE_MIN) // (most - _IMAGE_MIN)


def intolerable(snapshot: Snapshot, shape: PodShape) -> Scores | None:
    """PreferNoSchedule taints not tolerated, per row; None if there are none at all."""
    tolerations = [t for t in shape.tolerations if t.effect in ("", PREFER_NO_SCHEDULE)]
    by_set = [
        sum(
            taint.effect == PREFER_NO_SCHEDULE and not any(t.tolerates(taint) for t in tolerations)
            for taint in taints
        )
        for taints in snapshot.taint_sets
    ]
    if not any(by_set):
        return None
    counts: Scores = np.array(by_set, np.int64)[snapshot.taint_set]
    return counts


def preferred_weights(
    snapshot: Snapshot, shape: PodShape, profile: Profile = DEFAULT
) -> Scores | None:
    """Sum of the weights of preferred node terms that match, per row; None without preferences."""
    preferred = shape.preferred + profile.added_preferred
    if not preferred:
        return None
    sums = np.zeros(snapshot.capacity, np.int64)
    for wanted in preferred:
        sums[term(snapshot, wanted.term)] += wanted.weight
    return sums


def normalised(raw: Scores, feasible: Mask, *, reverse: bool) -> Scores:
    """Scaled so that the largest among feasible rows is 100; reversed, the largest becomes 0."""
    most = int(raw[feasible].max(initial=0))
    if most == 0:
        return np.full(len(raw), MAX_SCORE if reverse else 0, np.int64)
    scaled: Scores = raw * MAX_SCORE // most
    return MAX_SCORE - scaled if reverse else scaled
