"""Pods go where their data is: models, datasets and images that nodes have cached.

Ours; upstream only scores images. ``image/NAME`` is what ImageLocality sees, in whatever spelling;
other names are what nodes report. Without a report a name is cached nowhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.model import Pod, PodShape
from kubarium.engine.snapshot import Mask, Snapshot

Scores = NDArray[np.int64]
IMAGE = "image/"
MAX_SCORE = 100

_HUB, _LIBRARY = "docker.io/", "library/"


def holders(snapshot: Snapshot, name: str) -> Mapping[int, int]:
    """Row to size in bytes of what is cached under the name."""
    books = _books(snapshot, name)
    if len(books) < 2:
        return books[0] if books else {}
    found: dict[int, int] = {}
    for book in reversed(books):
        found.update(book)
    return found


def has(snapshot: Snapshot, name: str, row: int) -> bool:
    """Whether the node of the row has cached it."""
    return any(row in book for book in _books(snapshot, name))


def _books(snapshot: Snapshot, name: str) -> list[dict[int, int]]:
    if not name.startswith(IMAGE):
        return [snapshot.data[name]] if name in snapshot.data else []
    known = snapshot.images
    return [known[one] for one in spellings(name.removeprefix(IMAGE)) if one in known]


@lru_cache(maxsize=1024)
def spellings(image: str) -> tuple[str, ...]:
    """The names under which nodes may report an image, its own first.

    People leave out the registry docker.io, nodes do not; by a digest a tag is of no account.

    >>> spellings("busybox:1.36")
    ('busybox:1.36', 'docker.io/library/busybox:1.36')
    >>> spellings("quay.io/app:v1@sha256:ab")
    ('quay.io/app:v1@sha256:ab', 'quay.io/app@sha256:ab')
    """
    names = [image]
    repository, at, digest = image.partition("@")
    if at and repository.rfind(":") > repository.rfind("/"):
        names.append(f"{repository[: repository.rfind(':')]}@{digest}")
    for name in tuple(names):
        host, slash, rest = name.partition("/")
        if slash and host + slash == _HUB:
            names += [rest, rest.removeprefix(_LIBRARY)]
            names += [] if "/" in rest else [f"{_HUB}{_LIBRARY}{rest}"]
        elif not slash:
            names.append(f"{_HUB}{_LIBRARY}{name}")
        elif not ("." in host or ":" in host or host == "localhost"):
            names.append(f"{_HUB}{name}")
    return tuple(dict.fromkeys(names))


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
    total = 0.0
    for name in dict.fromkeys(shape.data):
        rows = holders(snapshot, name)
        if rows:
            size = float(max(1, *rows.values()))
            total += size
            have[list(rows)] += size
    scores: Scores = (MAX_SCORE * have / max(total, 1.0)).astype(np.int64)
    return scores


def locality(snapshot: Snapshot, pods: Sequence[Pod], room: Scores, rows: Mask) -> int:
    """How much of the pods' data a domain has: the mean score of the nodes that would take them.

    ``room`` is how many of the pods each row can take. For pods that read the same, the rows with
    most of the data are filled first, as the pods' own scores would have it; pods that read
    nothing are at home anywhere.
    """
    readers = Counter(pod.shape.data for pod in pods if pod.shape.data)
    able, sum_ = np.flatnonzero(rows & (room > 0)).tolist(), 0
    for data, count in readers.items():
        scores = data_scores(snapshot, PodShape(data=data))
        left = count
        for row in sorted(able, key=lambda r: -scores.item(r)):
            taken = min(left, room.item(row))
            sum_ += taken * scores.item(row)
            left -= taken
            if not left:
                break
    return sum_ // max(1, readers.total())
