"""Pods go where their data is: models, datasets and images that nodes have cached.

Ours; upstream only scores images. ``image/NAME`` is what ImageLocality sees; other names are what
nodes report. Without a report a name is cached nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.model import Pod, PodShape
from kubarium.engine.snapshot import Mask, Snapshot

Scores = NDArray[np.int64]
IMAGE = "image/"
MAX_SCORE = 100


def holders(snapshot: Snapshot, name: str) -> dict[int, int]:
    """Row to size in bytes of what is cached under the name."""
    book = snapshot.images if name.startswith(IMAGE) else snapshot.data
    return book.get(name.removeprefix(IMAGE), {})


def cached(snapshot: Snapshot, name: str) -> Mask:
    """Nodes that have it."""
    mask = np.zeros(snapshot.capacity, np.bool_)
    mask[list(holders(snapshot, name))] = True
    return mask


def data_scores(snapshot: Snapshot, shape: PodShape) -> Scores:
    """The part of the pod's data, in percent of bytes, that each node has.

    Of names that no node has the size is unknown, and they count nowhere. A report without a size
    counts as one byte: of several such names each weighs the same.
    """
    have = np.zeros(snapshot.capacity, np.float64)
    total = 0
    for name in dict.fromkeys(shape.data):
        rows = holders(snapshot, name)
        if rows:
            size = max(1, *rows.values())
            total += size
            have[list(rows)] += size
    scores: Scores = (MAX_SCORE * have / max(total, 1)).astype(np.int64)
    return scores


def locality(snapshot: Snapshot, pods: Sequence[Pod], room: Scores, rows: Mask) -> int:
    """How much of the pods' data a domain has: the mean score of the nodes that would take them.

    ``room`` is how many of the pods each row can take. The rows with most of the data are filled
    first, as the pods' own scores would have it.
    """
    shape = next((pod.shape for pod in pods if pod.shape.data), None)
    if shape is None:
        return 0
    scores = data_scores(snapshot, shape)
    left, sum_ = len(pods), 0
    for row in sorted(np.flatnonzero(rows & (room > 0)).tolist(), key=lambda r: -scores.item(r)):
        taken = min(left, room.item(row))
        sum_ += taken * scores.item(row)
        left -= taken
        if not left:
            break
    return sum_ // len(pods)
