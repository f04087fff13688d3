"""Which changes of the cluster can help which rejected items: kube-scheduler's queueing hints.

Source: EventsToRegister and the hint functions of each plugin in kube-scheduler 1.37. A rejected
item sleeps until an event comes that one of the reasons of its rejection listens to.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    NAMESPACES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
)
from kubarium.api.resource import Document, Resource
from kubarium.control.scheduling.events import Event
from kubarium.engine import reasons
from kubarium.engine.model import Node, Pod, PodShape, PodTerm
from kubarium.engine.placement import filters
from kubarium.engine.placement.cycle import is_plain
from kubarium.engine.placement.profile import Profile
from kubarium.engine.plan import Decision
from kubarium.engine.snapshot import Snapshot, advertised_by
from kubarium.view.locality import CACHED, LOCALITY_RESOURCES
from kubarium.view.nodes import amount
from kubarium.view.volumes import (
    ATTACHMENTS,
    CSI_DRIVERS,
    CSI_NODES,
    VOLUME_RESOURCES,
    is_bound,
)

_DEVICES = ("resourceslices", "deviceclasses", "devicetaintrules")

# Of each of these a hint says whether it makes a node better for a pod, by all that is said of the
# node alone: so whatever stood in the way on the others, everybody listens to all of them.
_NODES = frozenset({Event.NODE, Event.LABELS, Event.TAINTS, Event.CAPACITY})
# Topology domains, and the pods in them.
_NEIGHBOURS = frozenset({Event.NODE_GONE, Event.PODS, Event.LEFT})
_ANY = frozenset(Event)
_LISTENS: dict[str, frozenset[Event]] = {
    reasons.UNSCHEDULABLE: _NODES,
    reasons.NODE_NAME: _NODES,
    reasons.TAINT: _NODES,
    reasons.NODE_AFFINITY: _NODES,
    reasons.NOT_NAMED: _NODES,
    reasons.ADDED_AFFINITY: _NODES,
    reasons.FEATURES: _NODES,
    reasons.HOST_PORTS: frozenset({Event.LEFT}),
    reasons.TOO_MANY_PODS: frozenset({Event.ROOM}),
    reasons.DISK_CONFLICT: frozenset({Event.LEFT}),
    reasons.VOLUME_IN_USE: frozenset({Event.LEFT, Event.VOLUMES}),
    reasons.VOLUME_LIMIT: frozenset({Event.LEFT, Event.VOLUMES}),
    reasons.VOLUME_SPACE: frozenset({Event.VOLUMES}),
    reasons.VOLUME_NODE: frozenset({Event.VOLUMES}),
    reasons.VOLUME_BINDING: frozenset({Event.VOLUMES}),
    reasons.VOLUME_ZONE: frozenset({Event.VOLUMES}),
    reasons.VOLUME_GONE: frozenset({Event.VOLUMES}),
    reasons.SPREAD: _NEIGHBOURS,
    reasons.SPREAD_LABEL: _NODES,
    reasons.POD_AFFINITY: _NEIGHBOURS,
    reasons.POD_ANTI_AFFINITY: _NEIGHBOURS,
    reasons.EXISTING_ANTI_AFFINITY: _NEIGHBOURS,
}
# What is said of devices is long and varied: whatever is not listed listens to all of these. They
# may stand for a part of the node's own resources (KEP-5517), so room helps too.
_OF_DEVICES = frozenset({Event.DEVICES, Event.ROOM})
_EVERYWHERE = frozenset({Event.DEVICES, Event.VOLUMES, Event.LEFT})
_SHORTAGE = reasons.insufficient("")


def helped_by(decision: Decision) -> frozenset[Event]:
    """The events that could make a difference to what found no place."""
    if decision.gang_verdict is not None:
        return _ANY
    events = _NODES if decision.preemption is None else _NODES | {Event.ROOM}
    for pod, verdict in decision.unplaced[:1]:
        if any("/" in name for each in pod.each for name, _ in each.shape.requests):
            events |= {Event.CLASSES}
        if pod.shape.data_required:
            events |= {Event.DATA}
        if verdict.everywhere:
            events |= _EVERYWHERE
        for reason in (*verdict.counts, *verdict.lacking):
            events |= _listens(reason)
    return events


def _listens(reason: str) -> frozenset[Event]:
    if reason.startswith(_SHORTAGE):
        return _LISTENS[reasons.TOO_MANY_PODS]
    if reason.endswith(reasons.NOT_CACHED):
        return _NODES
    if reason.endswith(reasons.NO_DRIVER):
        return _LISTENS[reasons.VOLUME_LIMIT]
    return _LISTENS.get(reason, _OF_DEVICES)


def events_of(resource: Resource, old: Document | None, new: Document | None) -> frozenset[Event]:
    """What a change of anything but pods, groups and ResourceClaims amounts to."""
    if old is not None and new is not None and _uid(old) != _uid(new):
        # The watch was interrupted: one went and another of its name came.
        return events_of(resource, old, None) | events_of(resource, None, new)
    if resource == NODES:
        return _of_node(old, new)
    if resource == NAMESPACES:
        return frozenset({Event.PODS}) if _labels(old) != _labels(new) else frozenset()
    if resource in VOLUME_RESOURCES:
        return _of_volumes(resource, old, new)
    if resource in LOCALITY_RESOURCES:
        return frozenset({Event.DATA}) if new is not None else frozenset()
    if resource.plural in _DEVICES:
        # What goes helps as well: a taint, a slice too many, a class that hides an older one.
        if new is not None and not _differ(old, new):
            return frozenset()
        classes = {Event.CLASSES} if resource == DEVICE_CLASSES else set()
        return frozenset({Event.DEVICES, *classes})
    return frozenset()


def _of_volumes(resource: Resource, old: Document | None, new: Document | None) -> frozenset[Event]:
    if resource == ATTACHMENTS:
        helps = new is None
    elif resource in (CSI_NODES, CSI_DRIVERS):
        helps = new is None or _differ(old, new)  # with them go limits on numbers and sizes
    elif old is None or new is None:
        helps = new is not None
    elif resource == PERSISTENT_VOLUME_CLAIMS:
        owners = [d["metadata"].get("ownerReferences") for d in (old, new)]
        helps = is_bound(old) != is_bound(new) or owners[0] != owners[1] or _differ(old, new)
    elif resource == PERSISTENT_VOLUMES:
        helps = _phase(old) != _phase(new) or _differ(old, new)
    else:
        helps = _differ(old, new)
    return frozenset({Event.VOLUMES}) if helps else frozenset()


def _of_node(old: Document | None, new: Document | None) -> frozenset[Event]:
    if new is None:
        return frozenset({Event.NODE_GONE})
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
    """Whether the node has more of anything, or has none any more of what devices may stand for."""
    before = (old.get("status") or {}).get("allocatable") or {}
    after = (new.get("status") or {}).get("allocatable") or {}
    if before == after:
        return False
    names = dict.fromkeys((*before, *after))
    amounts = ((n, amount(n, before.get(n, "0")), amount(n, after.get(n, "0"))) for n in names)
    return any(now > was or ("/" in name and was > 0 >= now) for name, was, now in amounts)


def _uid(document: Document) -> str:
    uid: str = document["metadata"].get("uid", "")
    return uid


def _phase(document: Document) -> str:
    phase: str = (document.get("status") or {}).get("phase") or ""
    return phase


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


def can_be_used_now(old: Document, new: Document | None) -> bool:
    """Whether a claim that nobody could use any more is gone, another one, or may do now.

    It has fewer users, or its driver has other things to say of its devices.
    """
    if new is None or _uid(old) != _uid(new):
        return True  # one of its name may come
    was, now = old.get("status") or {}, new.get("status") or {}
    users = [len(status.get("reservedFor") or ()) for status in (was, now)]
    return users[0] > users[1] or was.get("devices") != now.get("devices")


# Hints: whether a change helps one item


def node_helps(
    snapshot: Snapshot, name: str, old: Node | None, shape: PodShape, profile: Profile
) -> bool:
    """Whether a pod of the shape could run on the node if nothing else did, and now better.

    ``old`` is the node as it was: one that would have let the pod in, and has no more of what the
    pod asks for, helps it no more than before. None: the node is new, or has cached more.
    """
    row = snapshot.rows.get(name)
    if row is None or not filters.could_hold(snapshot, shape, row, profile):
        return False
    new = snapshot.nodes[row]
    if old is None or new is None or not filters.admits(old, shape, profile):
        return True
    return _gives_more(old, new, shape)


def _gives_more(old: Node, new: Node, shape: PodShape) -> bool:
    """Whether the node has more of something that is asked for, or serves it in another way."""
    before, after = dict(old.allocatable), dict(new.allocatable)
    wanted = ["pods", *(name for name, asked in shape.requests if asked > 0)]
    if any(after.get(name, 0) > before.get(name, 0) for name in wanted):
        return True
    served = {name for name in wanted if "/" in name}
    served |= {name for name, _ in shape.advertised} | {name for name, _, _ in shape.backed}
    return not (advertised_by(old) ^ advertised_by(new)).isdisjoint(served)


def domains_change(old: Node, new: Node, shape: PodShape, avoiding: Iterable[PodTerm]) -> bool:
    """Whether others count in other domains for a pod, or in domains that are counted.

    ``avoiding`` are terms by which others may keep the pod off. Source: PodTopologySpread and
    InterPodAffinity, isSchedulableAfterNodeChange.
    """
    differing = {
        key for key in (*old.labels, *new.labels) if old.labels.get(key) != new.labels.get(key)
    }
    keys = (*_topology_keys(shape), *(term.topology_key for term in avoiding))
    if not differing.isdisjoint(keys):
        return True
    return bool(shape.spread) and filters.admits(old, shape) != filters.admits(new, shape)


def domain_goes(snapshot: Snapshot, labels: Document, pods: Iterable[Pod]) -> bool:
    """Whether a node with these labels, which went, was in a domain that counts for the pods."""
    if any(term.topology_key in labels for term in snapshot.tallies.anti_holders):
        return True
    return any(key in labels for pod in pods for key in _topology_keys(pod.shape))


def _topology_keys(shape: PodShape) -> list[str]:
    """The node labels over which others are counted for the pod."""
    terms = (*shape.pod_affinity, *shape.pod_anti_affinity)
    return [*(c.topology_key for c in shape.spread), *(t.topology_key for t in terms)]


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
    return any(
        _counts(pod, other) or _speak_of(snapshot, pod.shape.pod_affinity, other)
        for pod in pods
        for other in known
    )


def leaving_helps(snapshot: Snapshot, gone: Pod, pods: Iterable[Pod]) -> bool:
    """Whether one of the pods shared something with the one that left, counted or avoided it.

    Who wants to be near it may now be the first of its kind and go anywhere.
    """
    return any(
        _shares(pod, gone)
        or _counts(pod, gone)
        or _speak_of(snapshot, (*pod.shape.pod_affinity, *pod.shape.pod_anti_affinity), gone)
        or _speak_of(snapshot, gone.shape.pod_anti_affinity, pod)
        for pod in pods
    )


def relabelling_helps(snapshot: Snapshot, old: Pod, new: Pod, pods: Iterable[Pod]) -> bool:
    """Whether one of the pods counts or seeks the other only now, or avoids it no longer."""
    return any(
        _counts(pod, old) != _counts(pod, new)
        or any(
            snapshot.tallies.speaks_of(term, old) != snapshot.tallies.speaks_of(term, new)
            for term in (*pod.shape.pod_affinity, *pod.shape.pod_anti_affinity)
        )
        for pod in pods
    )


def ending_helps(gone: Pod, pods: Iterable[Pod]) -> bool:
    """Whether topology spread of one of the pods counted the other until it was told to end."""
    return any(_counts(pod, gone) for pod in pods)


def _counts(pod: Pod, other: Pod) -> bool:
    return pod.namespace == other.namespace and any(
        constraint.selector.matches(other.labels) for constraint in pod.shape.spread
    )


def _speak_of(snapshot: Snapshot, terms: Iterable[PodTerm], other: Pod) -> bool:
    return any(snapshot.tallies.speaks_of(term, other) for term in terms)


def _attaches(pod: Pod) -> bool:
    return bool(pod.volumes) or any(disk.attaches is not None for disk in pod.disks)


def _shares(pod: Pod, gone: Pod) -> bool:
    """Ports or disks that two pods cannot both have; volumes count against one limit."""
    if _attaches(pod) and _attaches(gone):
        return True
    return any(a.collides(b) for a in pod.shape.ports for b in gone.shape.ports) or any(
        a.conflicts(b) for a in pod.disks for b in gone.disks
    )
