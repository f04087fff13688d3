"""Which pods go together when one of them is preempted (disruption mode ``all``).

The unit of a pod is the highest group above it that may only be disrupted as a whole: its pod group
or one of the composites around that (KEP-5710, KEP-6012). A pod without one goes alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kubarium.engine.model import Composite, Gang, Key, Pod
from kubarium.engine.snapshot import Snapshot

# Upstream: WorkloadMaxTreeDepth. Levels of a hierarchy of groups, the pod groups included.
MAX_TREE_DEPTH = 4

# Whether the group is a composite, and its key: the two kinds have names of their own.
Unit = tuple[bool, Key]


def unit_of(snapshot: Snapshot, pod: Pod) -> Unit | None:
    """The group that the pod goes with; None if it goes alone."""
    gang = snapshot.gangs.get(pod.gang) if pod.gang is not None else None
    if gang is None:
        return None
    found: Unit | None = (False, gang.key) if gang.all_disrupted else None
    for composite in ancestors(snapshot, gang):
        if composite.all_disrupted:
            found = (True, composite.key)
    return found


def ancestors(snapshot: Snapshot, gang: Gang) -> list[Composite]:
    """The composites around a pod group, from the inside; a malformed hierarchy is cut off."""
    found: list[Composite] = []
    parent = gang.parent
    while parent is not None and len(found) < MAX_TREE_DEPTH:
        composite = snapshot.composites.get(parent)
        if composite is None:
            break
        found.append(composite)
        parent = composite.parent
    return found


def whole_units(snapshot: Snapshot, victims: tuple[Pod, ...]) -> tuple[Pod, ...]:
    """Victims, with all pods of the units that they belong to."""
    units = units_of(snapshot, victims)
    if not units:
        return victims
    whole = {v.key: v for v in victims}
    whole |= {pod.key: pod for unit in units for pod in pods_of_unit(snapshot, unit)}
    return tuple(whole.values())


def units_of(snapshot: Snapshot, victims: Iterable[Pod]) -> dict[Unit, None]:
    """The units of which the victims are a part."""
    found = (unit_of(snapshot, victim) for victim in victims if victim.gang is not None)
    return dict.fromkeys(unit for unit in found if unit is not None)


def pods_of_unit(snapshot: Snapshot, unit: Unit) -> Iterator[Pod]:
    """All placed pods that go if one of the unit does."""
    composite, key = unit
    gangs = [key]
    if composite:
        known = ((name, snapshot.gangs.get(name)) for name in snapshot.gang_pods)
        gangs = [
            name
            for name, gang in known
            if gang is not None and any(c.key == key for c in ancestors(snapshot, gang))
        ]
    for name in gangs:
        for member in snapshot.gang_pods.get(name, ()):
            pod = snapshot.placed(member)
            if pod is not None:
                yield pod


def units_to_spare(snapshot: Snapshot, pods: Iterable[Pod], priority: int) -> set[Unit]:
    """Units of ``pods`` of which the group or a pod has the priority: they cannot go as a whole."""
    found: set[Unit] = set()
    for unit in units_of(snapshot, pods):
        own = priority_of(snapshot, unit)
        if (own is not None and own >= priority) or any(
            pod.priority >= priority for pod in pods_of_unit(snapshot, unit)
        ):
            found.add(unit)
    return found


def priority_of(snapshot: Snapshot, unit: Unit) -> int | None:
    """The priority that the group itself has."""
    composite, key = unit
    group = snapshot.composites.get(key) if composite else snapshot.gangs.get(key)
    return group.priority if group is not None else None
