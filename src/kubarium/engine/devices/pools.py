"""From ResourceSlices to the pools that one node can use.

Source: upstream ``dynamic-resource-allocation/structured`` GatherPools, whose rules these are: only
the newest generation counts; a pool with missing slices is incomplete and one that contradicts
itself is invalid, and neither gives devices; slices in order of name, pools of driver and name,
pools with binding conditions last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kubarium.engine.devices.model import Amount, Device, Features, Slice
from kubarium.engine.selectors import NodeTerm

PoolKey = tuple[str, str]
Counters = dict[str, dict[str, Amount]]


@dataclass(slots=True)
class Pool:
    """A pool as one node sees it. ``slices`` hold its devices, ``others`` those of other nodes."""

    driver: str
    name: str
    slices: list[Slice] = field(default_factory=list)
    others: list[Slice] = field(default_factory=list)
    counter_sets: Counters = field(default_factory=dict)
    incomplete: bool = False
    invalid: str = ""

    @property
    def usable(self) -> bool:
        return not self.incomplete and not self.invalid

    @property
    def has_binding_conditions(self) -> bool:
        return any(d.binding_conditions for s in self.slices for d in s.devices)

    def __str__(self) -> str:
        return f"{self.driver}/{self.name}"


def reaches(
    node_name: str,
    terms: tuple[NodeTerm, ...] | None,
    all_nodes: bool,
    node: str,
    labels: Mapping[str, str],
) -> bool:
    """Whether a slice or device with this node selection can be used from ``node``."""
    if node_name:
        return node_name == node
    if all_nodes:
        return True
    return terms is not None and any(t.matches(node, labels) for t in terms)


def device_reaches(owner: Slice, device: Device, node: str, labels: Mapping[str, str]) -> bool:
    """Whether ``device`` of a slice that reaches the node can itself be used from there."""
    if not owner.per_device:
        return True
    return reaches(device.node_name, device.node_terms, device.all_nodes, node, labels)


def slice_reaches(item: Slice, node: str, labels: Mapping[str, str]) -> bool:
    """Whether any device of the slice can be used from the node."""
    if item.node_name or item.all_nodes or item.node_terms is not None:
        return reaches(item.node_name, item.node_terms, item.all_nodes, node, labels)
    return item.per_device and any(device_reaches(item, d, node, labels) for d in item.devices)


def gather(
    near: Iterable[Slice],
    all_of_pool: Callable[[PoolKey], Iterable[Slice]],
    node: str,
    labels: Mapping[str, str],
    features: Features,
    *,
    strict: bool = True,
) -> list[Pool]:
    """The pools that ``node`` can use, in the order in which first fit tries them.

    ``near`` are the slices that may concern the node, ``all_of_pool`` gives every slice of a pool.
    Without ``strict`` two mistakes of drivers go unseen, as upstream: a pool that is complete on
    the node is not compared with what other nodes have of it, so that an older generation gives
    devices until it is deleted; and of slices that disagree about their number the first is
    believed.
    """
    newest: dict[PoolKey, list[Slice]] = {}
    for item in near:
        if not features.partitionable and (item.per_device or item.counter_sets):
            continue
        if slice_reaches(item, node, labels):
            _keep_newest(newest, item)
    pools = [_pool(key, kept, all_of_pool, features, strict) for key, kept in newest.items()]
    found = [pool for pool in pools if pool is not None]
    return sorted(found, key=lambda p: (p.has_binding_conditions, p.driver, p.name))


def _keep_newest(newest: dict[PoolKey, list[Slice]], item: Slice) -> None:
    kept = newest.setdefault((item.driver, item.pool), [])
    if kept and item.generation < kept[0].generation:
        return
    if kept and item.generation > kept[0].generation:
        kept.clear()
    kept.append(item)


def _pool(
    key: PoolKey,
    kept: list[Slice],
    all_of_pool: Callable[[PoolKey], Iterable[Slice]],
    features: Features,
    strict: bool,
) -> Pool | None:
    """One pool; None when a newer generation exists that has nothing for this node."""
    driver, name = key
    generation, wanted = kept[0].generation, kept[0].slice_count
    whole, complete = kept, len(kept) == wanted
    if not complete or strict:
        everywhere = list(all_of_pool(key))
        if any(s.generation > generation for s in everywhere):
            return None
        counts = sorted({s.slice_count for s in everywhere if s.generation == generation})
        if strict and len(counts) > 1:
            return Pool(driver, name, invalid=_disagreement(counts))
    if not complete:
        whole = [s for s in everywhere if s.generation == generation]
        if len(whole) != wanted:
            return Pool(driver, name, incomplete=True)
    return _checked(driver, name, kept, whole, features)


def trouble(slices: Sequence[Slice], features: Features) -> str:
    """What makes the pool of these slices of one generation unusable; "" if all is well."""
    if not slices:
        return ""
    pool = f"pool {slices[0].driver}/{slices[0].pool}"
    counts = sorted({s.slice_count for s in slices})
    if len(counts) > 1:
        return f"{pool} is invalid: {_disagreement(counts)}"
    if len(slices) != counts[0]:
        return f"{pool} is incomplete: {len(slices)} of {counts[0]} slices"
    found = list(slices)
    invalid = _checked(found[0].driver, found[0].pool, found, found, features).invalid
    return f"{pool} is invalid: {invalid}" if invalid else ""


def _disagreement(counts: Sequence[int]) -> str:
    return f"slices disagree about resourceSliceCount: {', '.join(map(str, counts))}"


def _checked(
    driver: str, name: str, kept: list[Slice], whole: list[Slice], features: Features
) -> Pool:
    near = {s.name for s in kept}
    pool = Pool(
        driver,
        name,
        sorted((s for s in kept if not _only_counters(s, features)), key=lambda s: s.name),
        [s for s in whole if s.name not in near and not _only_counters(s, features)],
    )
    pool.invalid = _duplicate_device(pool.slices)
    if features.partitionable and not pool.invalid:
        counters = [s for s in whole if _only_counters(s, features)]
        pool.invalid = _collect_counters(pool, counters) or _bad_counter(pool)
    if pool.invalid:
        pool.slices = []
    return pool


def _only_counters(item: Slice, features: Features) -> bool:
    return features.partitionable and bool(item.counter_sets)


def _duplicate_device(slices: list[Slice]) -> str:
    seen: set[str] = set()
    for device in (d for s in slices for d in s.devices):
        if device.name in seen:
            return f"duplicate device name {device.name}"
        seen.add(device.name)
    return ""


def _collect_counters(pool: Pool, slices: list[Slice]) -> str:
    for name, counters in (c for s in slices for c in s.counter_sets):
        if name in pool.counter_sets:
            return f"duplicate counter set name {name}"
        pool.counter_sets[name] = dict(counters)
    return ""


def _bad_counter(pool: Pool) -> str:
    """A device that consumes counters which do not exist, or fewer than none (ours: upstream would
    let it give counters back)."""
    for device in (d for s in (*pool.slices, *pool.others) for d in s.devices):
        for use in device.consumes:
            known = pool.counter_sets.get(use.counter_set)
            if known is None:
                return f"counter set {use.counter_set} not found"
            for counter, amount in use.counters:
                if counter not in known:
                    return f"counter {counter} not found in counter set {use.counter_set}"
                if amount < 0:
                    return f"device {device.name} consumes a negative amount of counter {counter}"
    return ""
