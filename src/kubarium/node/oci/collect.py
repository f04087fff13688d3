"""Which images go when the disk fills up, and what a Node says of those that are there.

Source: kubelet's ``images/image_gc_manager.go`` and ``nodestatus/setters.go``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from kubarium.api.resource import Document
from kubarium.node.oci.reference import FILES
from kubarium.node.oci.store import LOADED, Record
from kubarium.view.nodes import normalised_image

# kubelet's nodeStatusMaxImages.
MOST_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system, in bytes."""

    total: int
    free: int

    def to_free(self, high_percent: int, low_percent: int) -> int:
        """0 below the high threshold; above it, what is to go for the low one to be reached. A high
        threshold of 100 is never reached."""
        used = self.total - self.free
        if not self.total or high_percent >= 100 or used * 100 < self.total * high_percent:
            return 0
        return used - self.total * low_percent // 100


def may_go(
    records: Mapping[str, Record], leased: Collection[str], now: float, age_s: float
) -> list[str]:
    """Names of images that nobody has used for ``age_s`` and that can be had again, the longest
    unused first. One that was loaded by hand cannot: it stays until somebody removes it."""
    found = [
        (max(record.used_at, record.loaded_at), name)
        for name, record in records.items()
        if record.origin != LOADED and record.manifest not in leased
    ]
    return [name for last, name in sorted(found) if now - last >= age_s]


def status_images(records: Mapping[str, Record]) -> list[Document]:
    """``status.images`` of a Node: the largest first."""
    by_image: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for name, record in sorted(records.items()):
        names = by_image.setdefault(record.manifest, [])
        names += [text for text in _names(name, record) if text not in names]
        sizes[record.manifest] = record.size
    ordered = sorted(by_image, key=lambda manifest: (-sizes[manifest], manifest))
    return [{"names": by_image[m], "sizeBytes": sizes[m]} for m in ordered[:MOST_SHOWN]]


def _names(name: str, record: Record) -> list[str]:
    """By digest, by tag, and as people write it: the scheduler compares texts."""
    if name.partition(":")[0] in FILES:
        return list(dict.fromkeys((name, normalised_image(name))))  # pods' names get a tag
    repository = name.partition("@")[0]
    head, slash, tail = repository.rpartition("/")
    repository = f"{head}{slash}{tail.partition(':')[0]}"
    short = name.removeprefix("docker.io/").removeprefix("library/")
    return list(dict.fromkeys([f"{repository}@{record.index or record.manifest}", name, short]))
