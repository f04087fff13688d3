"""Which changes of the cluster can help which rejected items: kube-scheduler's queueing hints.

Source: EventsToRegister and the hint functions of each plugin in kube-scheduler 1.37. A rejected
item sleeps until an event comes that one of the reasons of its rejection listens to.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    DEVICE_TAINT_RULES,
    NAMESPACES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
)
from kubarium.api.resource import Document, Resource
from kubarium.control.scheduling.queue import Event
from kubarium.engine import reasons
from kubarium.engine.model import Pod, PodShape
from kubarium.engine.placement import filters
from kubarium.engine.placement.cycle import is_plain
from kubarium.engine.plan import Decision
from kubarium.engine.snapshot import Snapshot
from kubarium.view.locality import CACHED, LOCALITY_RESOURCES
from kubarium.view.nodes import amount
from kubarium.view.volumes import ATTACHMENTS, VOLUME_RESOURCES, is_bound

_DEVICES = ("resourceslices", "deviceclasses", "devicetaintrules")

_NODES = frozenset({Event.NODE})
_ANY = frozenset(Event)
_LISTENS: dict[str, frozenset[Event]] = {
    reasons.UNSCHEDULABLE: _NODES | {Event.TAINTS},
    reasons.NODE_NAME: _NODES,
    reasons.TAINT: _NODES | {Event.TAINTS},
    reasons.NODE_AFFINITY: _NODES | {Event.LABELS},
    reasons.ADDED_AFFINITY: _NODES | {Event.LABELS},
    reasons.FEATURES: _NODES | {Event.LABELS},
    reasons.HOST_PORTS: _NODES | {Event.ROOM},
    reasons.TOO_MANY_PODS: _NODES | {Event.ROOM, Event.CAPACITY},
    reasons.DISK_CONFLICT: _NODES | {Event.ROOM},
    reasons.VOLUME_IN_USE: _NODES | {Event.ROOM, Event.VOLUMES},
    reasons.VOLUME_LIMIT: _NODES | {Event.ROOM, Event.VOLUMES},
    reasons.VOLUME_SPACE: _NODES | {Event.VOLUMES},
    reasons.VOLUME_NODE: _NODES | {Event.LABELS, Event.VOLUMES},
    reasons.VOLUME_BINDING: _NODES | {Event.LABELS, Event.VOLUMES},
    reasons.VOLUME_ZONE: _NODES | {Event.LABELS, Event.VOLUMES},
    reasons.SPREAD: _NODES | {Event.LABELS, Event.TAINTS, Event.PODS, Event.ROOM},
    reasons.SPREAD_LABEL: _NODES | {Event.LABELS},
    reasons.POD_AFFINITY: _NODES | {Event.LABELS, Event.PODS},
    reasons.POD_ANTI_AFFINITY: _NODES | {Event.LABELS, Event.PODS, Event.ROOM},
    reasons.EXISTING_ANTI_AFFINITY: _NODES | {Event.LABELS, Event.PODS, Event.ROOM},
}
# What is said of devices is long and varied: whatever is not listed listens to all of these.
_OF_DEVICES = _NODES | {Event.LABELS, Event.CAPACITY, Event.DEVICES, Event.ROOM}
_EVERYWHERE = _NODES | {Event.DEVICES, Event.VOLUMES, Event.ROOM}
_SHORTAGE = reasons.insufficient("")


def helped_by(decision: Decision) -> frozenset[Event]:
    """The events that could make a difference to what found no place."""
    if decision.gang_verdict is not None:
        return _ANY
    events = _NODES if decision.preemption is None else _NODES | {Event.ROOM}
    for _, verdict in decision.unplaced[:1]:
        if verdict.everywhere:
            events |= _EVERYWHERE
        for reason in verdict.counts:
            events |= _listens(reason)
    return events


def _listens(reason: str) -> frozenset[Event]:
    if reason.startswith(_SHORTAGE):
        short = _LISTENS[reasons.TOO_MANY_PODS]
        return short | {Event.CLASSES} if "/" in reason else short
    if reason.endswith(reasons.NOT_CACHED):
        return _NODES | {Event.DATA}
    return _LISTENS.get(reason, _OF_DEVICES)


def events_of(resource: Resource, old: Document | None, new: Document | None) -> frozenset[Event]:
    """What a change of anything but pods, groups and ResourceClaims amounts to."""
    if resource == NODES:
        return _of_node(old, new)
    if resource == NAMESPACES:
        return frozenset({Event.PODS}) if _labels(old) != _labels(new) else frozenset()
    if resource == PERSISTENT_VOLUME_CLAIMS:
        changed = new is not None and (old is None or is_bound(old) != is_bound(new))
        return frozenset({Event.VOLUMES}) if changed or _differ(old, new) else frozenset()
    if resource == ATTACHMENTS:
        return frozenset({Event.VOLUMES}) if new is None else frozenset()
    if resource in VOLUME_RESOURCES:
        return frozenset({Event.VOLUMES}) if _differ(old, new) else frozenset()
    if resource in LOCALITY_RESOURCES:
        return frozenset({Event.DATA}) if new is not None else frozenset()
    if resource.plural in _DEVICES:
        gone = resource == DEVICE_TAINT_RULES and new is None
        if not gone and not _differ(old, new):
            return frozenset()
        classes = {Event.CLASSES} if resource == DEVICE_CLASSES else set()
        return frozenset({Event.DEVICES, *classes})
    return frozenset()


def _of_node(old: Document | None, new: Document | None) -> frozenset[Event]:
    if new is None:
        return frozenset()
    if old is None:
        return frozenset({Event.NODE})
    found: set[Event] = set()
    before, after = old.get("spec") or {}, new.get("spec") or {}
    if any(before.get(f) != after.get(f) for f in ("taints", "unschedulable")):
        found.add(Event.TAINTS)
    features = [(d.get("status") or {}).get("declaredFeatures") for d in (old, new)]
    if _labels(old) != _labels(new) or features[0] != features[1]:
        found.add(Event.LABELS)
    if _grew(old, new):
        found.add(Event.CAPACITY)
    notes = [d["metadata"].get("annotations") or {} for d in (old, new)]
    images = [(d.get("status") or {}).get("images") for d in (old, new)]
    if notes[0].get(CACHED) != notes[1].get(CACHED) or images[0] != images[1]:
        found.add(Event.DATA)
    return frozenset(found)


def _grew(old: Document, new: Document) -> bool:
    """Whether the node has more of anything, or leaves an extended resource to DRA."""
    before = (old.get("status") or {}).get("allocatable") or {}
    after = (new.get("status") or {}).get("allocatable") or {}
    for name in {**before, **after} if before != after else ():
        had, has = (amount(name, quantities.get(name, "0")) for quantities in (before, after))
        if has > had or (had and not has and "/" in name):
            return True
    return False


def _labels(document: Document | None) -> Document:
    return (document or {}).get("metadata", {}).get("labels") or {}


def _differ(old: Document | None, new: Document | None) -> bool:
    """Whether something came or says something else; status of volumes and claims aside."""
    if new is None:
        return False
    if old is None:
        return True
    ignored = ("metadata", "status")
    return any(old.get(f) != new.get(f) for f in {*old, *new} if f not in ignored) or (
        _labels(old) != _labels(new)
    )


# Hints: whether a change helps one item


def node_helps(snapshot: Snapshot, name: str, shape: PodShape) -> bool:
    """Whether a pod of the shape could run on the node if nothing else did."""
    row = snapshot.rows.get(name)
    return row is not None and filters.could_hold(snapshot, shape, row)


def looks_at_one_node(snapshot: Snapshot, pod: Pod) -> bool:
    """Whether what leaves one node can help the pod on that node only."""
    return pod.gang is None and is_plain(snapshot, pod)


def room_helps(snapshot: Snapshot, name: str, shape: PodShape, promised: Iterable[Pod]) -> bool:
    """Whether the node has room for one more pod beside those that were promised room there."""
    row = snapshot.rows.get(name)
    beside = [pod.shape for pod in promised]
    return row is not None and filters.resources_on(snapshot, shape, row, beside)


def placement_helps(snapshot: Snapshot, placed: Iterable[Pod], pods: Iterable[Pod]) -> bool:
    """Whether one of the pods counts, or wants to be near, one that was placed."""
    known = tuple(placed)
    return any(_looks_at(snapshot, pod, other) for pod in pods for other in known)


def _looks_at(snapshot: Snapshot, pod: Pod, other: Pod) -> bool:
    if any(snapshot.tallies.speaks_of(term, other) for term in pod.shape.pod_affinity):
        return True
    return pod.namespace == other.namespace and any(
        constraint.selector.matches(other.labels) for constraint in pod.shape.spread
    )
