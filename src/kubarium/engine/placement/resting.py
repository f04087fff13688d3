"""Devices that could not be made ready and are left alone for a while.

They count as in use meanwhile, for a claim that no API knows. That is no reason to evict anybody:
who would fit with them back waits for that. It is one once a device has failed at its next try too,
or else a broken device would keep a pod from those that others hold for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from kubarium.engine.devices.model import Allocation, ClaimSpec, DeviceResult, Rest
from kubarium.engine.model import Claim, Key
from kubarium.engine.placement.gang import settled_mask
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.tree import place_item
from kubarium.engine.plan import Decision, QueueItem
from kubarium.engine.snapshot import Snapshot


def key_of(rest: Rest) -> Key:
    """Of the claim that stands for the rest; no other has no namespace."""
    return "", str(rest.device)


def lay_by(snapshot: Snapshot, rest: Rest) -> Key:
    """Give the device to nobody until :func:`take_up` is told what this returns."""
    key = key_of(rest)
    snapshot.resting[key] = rest
    whole = Allocation((DeviceResult("", rest.device),))
    snapshot.set_claim(Claim(key, ClaimSpec(())), whole)
    return key


def take_up(snapshot: Snapshot, key: Key) -> None:
    """Let pods have the device again."""
    snapshot.resting.pop(key, None)
    snapshot.remove_claim(key)


@contextmanager
def laid_by(snapshot: Snapshot, rests: Iterable[Rest]) -> Iterator[None]:
    """Meanwhile these devices rest; those that do already are left as they are."""
    new = [rest for rest in rests if key_of(rest) not in snapshot.resting]
    keys = [lay_by(snapshot, rest) for rest in new]
    try:
        yield
    finally:
        for key in keys:
            take_up(snapshot, key)


def will_do(placer: Placer, decision: Decision) -> bool:
    """Whether what found no place would, if devices that rest for the first time were back.

    False if no pod has claims. The snapshot is as before afterwards.
    """
    snapshot, item = placer.snapshot, decision.item
    keys = [key for key, rest in snapshot.resting.items() if not rest.again]
    if not keys or not any(one.claims for pod in item.pods for one in pod.each):
        return False
    mark = snapshot.checkpoint()
    try:
        for key in keys:
            snapshot.deallocate(key)
        if item.tree is not None or decision.gang_verdict is not None:
            return bool(place_item(placer, item).placements)
        return _has_place_for_one(placer, item)
    finally:
        snapshot.rollback(mark)


def _has_place_for_one(placer: Placer, item: QueueItem) -> bool:
    within = settled_mask(placer.snapshot, item.gang) if item.gang is not None else None
    return any(placer.place(pod, within) is not None for pod in item.pods)
