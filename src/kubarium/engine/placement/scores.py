"""kube-scheduler's default scores with its integer formulas; every score is 0 to 100.

Source: the plugins noderesources (least_allocated, balanced_allocation), imagelocality,
nodeaffinity, tainttoleration of kube-scheduler 1.35. Column forms and one-node forms of a formula
stand together and must agree to the bit: a placement updates one node only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.model import PREFER_NO_SCHEDULE, PodShape
from kubarium.engine.placement.filters import term
from kubarium.engine.snapshot import CPU, MEMORY, Mask, Snapshot

MAX_SCORE = 100

WEIGHT_TAINTS = 3
WEIGHT_AFFINITY = 2
WEIGHT_RESOURCES = 1
WEIGHT_BALANCE = 1
WEIGHT_IMAGES = 1
WEIGHT_SPREAD = 2
WEIGHT_POD_AFFINITY = 2
WEIGHT_DEVICES = 2

_MEBI = 1024 * 1024
_IMAGE_MIN = 23 * _MEBI
_IMAGE_MAX_PER_CONTAINER = 1000 * _MEBI

Scores = NDArray[np.int64]


def resource_scores(snapshot: Snapshot, shape: PodShape) -> Scores:
    """LeastAllocated plus BalancedAllocation, weighted, for every row."""
    cpu, memory = snapshot.allocatable[0], snapshot.allocatable[1]
    least = _least_column(snapshot.nonzero[0] + shape.nonzero[0], cpu)
    least += _least_column(snapshot.nonzero[1] + shape.nonzero[1], memory)
    known = (cpu > 0).astype(np.int64) + (memory > 0)
    least //= np.maximum(known, 1)
    total = least * WEIGHT_RESOURCES
    wants = balanced(shape)
    if wants is not None:
        total += WEIGHT_BALANCE * _balance_column(
            snapshot.requested[0] + wants[0], cpu, snapshot.requested[1] + wants[1], memory
        )
    return total


def balanced(shape: PodShape) -> tuple[int, int] | None:
    """The cpu and memory asked for; None for a best-effort pod, which is not balanced."""
    if not shape.requests:
        return None
    return shape.request(CPU), shape.request(MEMORY)


def _least_column(requested: Scores, capacity: Scores) -> Scores:
    free = capacity - requested
    scores: Scores = free * MAX_SCORE // np.maximum(capacity, 1)
    scores[(free < 0) | (capacity == 0)] = 0
    return scores


def _balance_column(cpu: Scores, cpu_cap: Scores, memory: Scores, memory_cap: Scores) -> Scores:
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.minimum(cpu / cpu_cap, 1.0)
        second = np.minimum(memory / memory_cap, 1.0)
        scores: Scores = ((1 - np.abs((first - second) / 2)) * MAX_SCORE).astype(np.int64)
    scores[(cpu_cap == 0) | (memory_cap == 0)] = MAX_SCORE  # fewer than two resources: no spread
    return scores


def resource_score(
    snapshot: Snapshot, shape: PodShape, wants: tuple[int, int] | None, row: int
) -> int:
    """:func:`resource_scores` of one row."""
    cpu_cap, memory_cap = snapshot.allocatable.item(0, row), snapshot.allocatable.item(1, row)
    least = known = 0
    for used, capacity in (
        (snapshot.nonzero.item(0, row) + shape.nonzero[0], cpu_cap),
        (snapshot.nonzero.item(1, row) + shape.nonzero[1], memory_cap),
    ):
        if capacity:
            known += 1
            least += (capacity - used) * MAX_SCORE // capacity if used <= capacity else 0
    total = least // known * WEIGHT_RESOURCES if known else 0
    if wants is None:
        return total
    if not cpu_cap or not memory_cap:
        return total + WEIGHT_BALANCE * MAX_SCORE
    first = min((snapshot.requested.item(0, row) + wants[0]) / cpu_cap, 1.0)
    second = min((snapshot.requested.item(1, row) + wants[1]) / memory_cap, 1.0)
    return total + WEIGHT_BALANCE * int((1 - abs((first - second) / 2)) * MAX_SCORE)


def image_scores(snapshot: Snapshot, shape: PodShape) -> Scores:
    """ImageLocality: bytes already on the node, weighted by how widely an image is spread."""
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
    most = _IMAGE_MAX_PER_CONTAINER * len(shape.images)
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


def preferred_weights(snapshot: Snapshot, shape: PodShape) -> Scores | None:
    """Sum of the weights of preferred node terms that match, per row; None without preferences."""
    if not shape.preferred:
        return None
    sums = np.zeros(snapshot.capacity, np.int64)
    for wanted in shape.preferred:
        sums[term(snapshot, wanted.term)] += wanted.weight
    return sums


def normalised(raw: Scores, feasible: Mask, *, reverse: bool) -> Scores:
    """Scaled so that the largest among feasible rows is 100; reversed, the largest becomes 0."""
    most = int(raw[feasible].max(initial=0))
    if most == 0:
        return np.full(len(raw), MAX_SCORE if reverse else 0, np.int64)
    scaled: Scores = raw * MAX_SCORE // most
    return MAX_SCORE - scaled if reverse else scaled
