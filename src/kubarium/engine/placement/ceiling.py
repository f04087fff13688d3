"""How many pods of a group could find room at most: counted generously, without placing any.

Pods that ask for at least so much of a resource need so much each, whatever else is placed: of
these no more fit on a node than its free amount divided by that. Each size that occurs in the
group gives one such bound, the smaller pods coming on top. And all together take no more than
there is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.model import Pod, PodShape
from kubarium.engine.placement.place import Placer
from kubarium.engine.snapshot import Mask
from kubarium.engine.sums import exact_sum

_Column = NDArray[np.int64]

# Sizes looked at for each resource, largest first.
MAX_SIZES = 16


def most_placed(placer: Placer, pods: Sequence[Pod], within: Mask | None) -> int:
    """An upper bound for the number of the pods that can be placed together.

    ``within`` limits the nodes. Pods on the snapshot stay where they are.
    """
    if any(pod.variants for pod in pods):
        return len(pods)
    counts = Counter(pod.shape for pod in pods)
    able = {shape: placer.able(shape, within) for shape in counts}
    snapshot, profile = placer.snapshot, placer.profile
    bound = sum(n for shape, n in counts.items() if able[shape].any())
    if not profile.filters("NodeResourcesFit"):
        return bound
    slots = np.maximum(snapshot.allocatable[3] - snapshot.requested[3], 0)
    for name in dict.fromkeys(name for shape in counts for name, _ in shape.requests):
        if profile.ignores(name):
            continue
        index = snapshot.resource_index(name)
        free = np.maximum(snapshot.allocatable[index] - snapshot.requested[index], 0)
        bound = min(
            bound, _by_size(name, counts, able, free, slots), _in_all(name, counts, able, free)
        )
    return bound


def _by_size(
    name: str,
    counts: Counter[PodShape],
    able: dict[PodShape, Mask],
    free: _Column,
    slots: _Column,
) -> int:
    """The least of the bounds of one resource."""
    total = bound = counts.total()
    sizes = sorted({shape.request(name) for shape in counts} - {0}, reverse=True)
    for size in sizes[:MAX_SIZES]:
        large = [shape for shape in counts if shape.request(name) >= size]
        nodes = np.logical_or.reduce([able[shape] for shape in large])
        room = int(np.minimum(free[nodes] // size, slots[nodes]).sum())
        number = sum(counts[shape] for shape in large)
        bound = min(bound, total - number + min(room, number))
    return bound


def _in_all(name: str, counts: Counter[PodShape], able: dict[PodShape, Mask], free: _Column) -> int:
    """How many of the smallest the free amount of all nodes is enough for."""
    left = exact_sum(free[np.logical_or.reduce(list(able.values()))])
    found = 0
    for size, number in sorted((shape.request(name), n) for shape, n in counts.items()):
        taken = min(number, left // size) if size else number
        found += taken
        if taken < number:
            break
        left -= taken * size
    return found
