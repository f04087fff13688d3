"""Changes to the cluster: more resources, devices and nodes, uncordoned nodes, pods that end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from kubarium.base.quantity import format_quantity
from kubarium.base.quoted import listed
from kubarium.engine.devices.model import Device, DeviceClass, Rest, SelectorError, Slice
from kubarium.engine.explain.subject import ADD, EVICT, SWITCH, Change, Undo
from kubarium.engine.explain.wishes import Clause, Clauses, joined, reselected
from kubarium.engine.model import (
    HOSTNAME_LABEL,
    UNSCHEDULABLE_TAINT_KEY,
    Node,
    Pod,
    PodShape,
)
from kubarium.engine.placement import resting
from kubarium.engine.placement.victims import broken_by, evict
from kubarium.engine.snapshot import Snapshot
from kubarium.engine.verdict import Suggestion

_EXTRA = "~extra"

# Victims named in a text; the subject of the suggestion has them all.
VICTIMS_NAMED = 3


def amount(resource: str, value: int) -> str:
    """A quantity as Kubernetes writes it: 500m cpu, 2Gi of memory."""
    if resource == "cpu":
        return format_quantity(Fraction(value, 1000))
    return format_quantity(value, binary=value % 1024 == 0)


def is_made_up(node: str) -> bool:
    """Whether the node is one that only a change that is being tried brings."""
    return node.startswith(_EXTRA)


def uncordoned(node: Node) -> Change:
    """The node takes pods again; the taint of the cordon goes with it."""

    def change(snapshot: Snapshot) -> None:
        taints = tuple(t for t in node.taints if t.key != UNSCHEDULABLE_TAINT_KEY)
        snapshot.set_node(replace(node, unschedulable=False, taints=taints))

    suggestion = Suggestion("uncordon", f"uncordon node {node.name}", node=node.name)
    return Change(suggestion, SWITCH, cluster=change)


def shortage(snapshot: Snapshot, row: int, shape: PodShape) -> tuple[tuple[str, int], ...]:
    """What the node lacks for the shape, by resource."""
    missing: list[tuple[str, int]] = []
    for resource, wanted in (*shape.requests, ("pods", 1)):
        index = snapshot.resource_index(resource)
        free = int(snapshot.allocatable[index, row] - snapshot.requested[index, row])
        if wanted > 0 and wanted > free:
            missing.append((resource, wanted - free))
    return tuple(missing)


def enlarged(node: Node, missing: Sequence[tuple[str, int]]) -> Change:
    """The node with more of some resources."""

    def change(snapshot: Snapshot) -> None:
        book = dict(node.allocatable)
        for resource, more in missing:
            book[resource] = book.get(resource, 0) + more
        snapshot.set_node(replace(node, allocatable=tuple(sorted(book.items()))))

    parts = " and ".join(f"{amount(r, more)} more {r}" for r, more in missing)
    first, more = missing[0]
    suggestion = Suggestion("add-resource", f"{parts} on node {node.name}", first, node.name, more)
    return Change(suggestion, ADD, cluster=change)


def more_devices(model: Slice, node: Node, count: int, class_name: str, place: str) -> Change:
    """Devices like the model's one, in a pool of their own on the node."""
    extra = replace(
        model,
        generation=1,
        slice_count=1,
        node_name=node.name,
        devices=tuple(replace(model.devices[0], name=f"extra-{i}") for i in range(count)),
    )

    def change(snapshot: Snapshot) -> Undo:
        inventory = snapshot.inventory
        name = _EXTRA
        while name in inventory.slices:  # other changes may have added devices already
            name += "~"
        inventory.set_slice(replace(extra, name=name, pool=name))
        return lambda: inventory.remove_slice(name)

    noun = "device" if count == 1 else "devices"
    text = f"add {count} more {noun} of class {class_name} on {place}"
    return Change(
        Suggestion("add-devices", text, class_name, node.name, count), ADD, cluster=change
    )


def class_changed(
    device_class: DeviceClass, clause: Clause, clauses: Clauses, *, guarded: bool
) -> Change:
    """A DeviceClass that asks a clause only of devices that have what it reads, or not at all."""
    name = device_class.name
    new = joined((clause.guard, clause.text)) if guarded else ""
    selectors = reselected(device_class.selectors, clause, new, clauses)

    def change(snapshot: Snapshot) -> Undo:
        snapshot.inventory.set_class(replace(device_class, selectors=selectors))
        return lambda: snapshot.inventory.set_class(device_class)

    if guarded:
        text = f"ask `{clause.guard}` before `{clause.text}` in DeviceClass {name}"
        return Change(Suggestion("guard-device-class", text, name), SWITCH - 1, cluster=change)
    text = f"remove `{clause.text}` from DeviceClass {name}"
    return Change(Suggestion("relax-device-class", text, name), SWITCH, cluster=change)


def completed(snapshot: Snapshot, driver: str, pool: str) -> Change | None:
    """The pool with no slices missing, be they empty; None if none are.

    Or with slices that agree about how many they are.
    """
    slices = [
        item
        for item in snapshot.inventory.current_slices(driver, pool)
        if item.driver == driver and item.pool == pool
    ]
    counts = {item.slice_count for item in slices}
    wanted = max(counts, default=0)
    if len(slices) >= wanted and len(counts) < 2:
        return None

    def change(snapshot: Snapshot) -> Undo:
        for item in slices:
            snapshot.inventory.set_slice(replace(item, slice_count=len(slices)))

        def undo() -> None:
            for item in slices:
                snapshot.inventory.set_slice(item)

        return undo

    text = f"let the driver publish all {wanted} slices of pool {driver}/{pool}: {len(slices)}"
    text = f"{text} {'is' if len(slices) == 1 else 'are'} there"
    if len(counts) > 1:
        text = f"let the driver give all slices of pool {driver}/{pool} one resourceSliceCount"
    suggestion = Suggestion("complete-pool", text, f"{driver}/{pool}", amount=wanted)
    return Change(suggestion, SWITCH, cluster=change)


def rested(rests: Sequence[Rest]) -> Change:
    """The devices may be tried again: that takes time and nothing else."""

    def change(snapshot: Snapshot) -> None:
        for rest in rests:
            snapshot.deallocate(resting.key_of(rest))

    until = max(rest.until for rest in rests)
    names = [str(rest.device) for rest in rests]
    shown = listed(names, VICTIMS_NAMED)
    noun = "device" if len(names) == 1 else "devices"
    verb = "is" if len(names) == 1 else "are"
    text = f"wait until {until}: {noun} {shown} {verb} tried again then"
    suggestion = Suggestion("wait-for-device", text, ",".join(names), amount=len(names))
    return Change(suggestion, 0, cluster=change)


def device_like(
    snapshot: Snapshot, class_name: str, selectors: Sequence[str | None]
) -> Slice | None:
    """A slice with one device that class and selectors accept, free or not.

    Of nodes whose devices are alike for these selectors only one is looked at.
    """
    inventory = snapshot.inventory
    owner = inventory.classes.get(class_name)
    if owner is None:
        return None
    wanted = [s for s in (*owner.selectors, *selectors) if s is not None]
    for item in inventory.distinct_slices(wanted):
        for device in item.devices:
            if accepts(snapshot, item.driver, device, wanted):
                plain = replace(device, consumes=(), node_name="", node_terms=None, taints=())
                return replace(
                    item,
                    devices=(plain,),
                    counter_sets=(),
                    per_device=False,
                    node_terms=None,
                    all_nodes=False,
                )
    return None


def accepts(snapshot: Snapshot, driver: str, device: Device, wanted: Sequence[str]) -> bool:
    """Whether all selectors hold for the device."""
    try:
        return all(snapshot.inventory.selects(s, driver, device) for s in wanted)
    except SelectorError:  # a selector that fails matches nothing
        return False


def more_nodes(snapshot: Snapshot, model: Node, count: int, place: str, name: str = "") -> Change:
    """Nodes like one that exists, with free devices like its own; ``name`` is for a single one."""
    local = snapshot.inventory.local_slices(model.name)
    devices = sum(len(item.devices) for item in local)

    def change(snapshot: Snapshot) -> Undo:
        inventory = snapshot.inventory
        made: list[str] = []
        limits = snapshot.volume_limits.get(model.name)
        nodes: list[str] = []
        for number in range(count):
            clone = _clone(model, name or _unused(snapshot, number))
            snapshot.set_node(clone)
            nodes.append(clone.name)
            if limits is not None:
                snapshot.volume_limits[clone.name] = limits
            for item in local:
                slice_name = f"{_EXTRA}-{clone.name}-{item.name}"
                pool = f"{_EXTRA}-{clone.name}-{item.pool}"
                inventory.set_slice(replace(item, name=slice_name, pool=pool, node_name=clone.name))
                made.append(slice_name)

        def undo() -> None:
            for slice_name in made:
                inventory.remove_slice(slice_name)
            for node in nodes if limits is not None else ():
                snapshot.volume_limits.pop(node, None)

        return undo

    noun = "node" if count == 1 else "nodes"
    having = f" with its {devices} {'device' if devices == 1 else 'devices'}" if devices else ""
    text = f"add {count} more {noun} like {model.name}{having}{place}"
    return Change(
        Suggestion("add-node", text, node=model.name, amount=count), ADD + 5, cluster=change
    )


def _unused(snapshot: Snapshot, number: int) -> str:
    """A name that no node has: other changes may have added some already."""
    while f"{_EXTRA}-{number}" in snapshot.rows:
        number += 1
    return f"{_EXTRA}-{number}"


def _clone(node: Node, name: str) -> Node:
    labels = {**node.labels}
    if HOSTNAME_LABEL in labels:
        labels[HOSTNAME_LABEL] = name
    # It has cached nothing yet, whatever its model has.
    return replace(node, name=name, labels=labels, data=(), images=())


def ended(snapshot: Snapshot, pods: Sequence[Pod], node: str) -> Change:
    """Pods end, and with them the claims that nobody else uses are free."""

    def change(snapshot: Snapshot) -> None:
        for pod in pods:
            evict(snapshot, pod)

    names = ["/".join(pod.key) for pod in pods]
    shown = listed(names, VICTIMS_NAMED)
    noun = "pod" if len(names) == 1 else f"{len(names)} pods"
    place = f" on node {node}" if node else ""
    text = f"let {noun} {shown}{place} end{_standing(snapshot, pods)}"
    kind = "free-pod" if len(names) == 1 else "free-pods"
    suggestion = Suggestion(kind, text, ",".join(names), node, len(names))
    return Change(suggestion, EVICT + len(names), cluster=change)


def _standing(snapshot: Snapshot, pods: Sequence[Pod]) -> str:
    """The highest priority among the pods, and the budgets that forbid to evict them."""
    highest = max(pod.priority for pod in pods)
    parts = [f"priority {highest}"] if highest else []
    if broken_by(snapshot, pods):
        broken = [
            "/".join(key)
            for key, budget in snapshot.budgets.items()
            if budget.allowed < sum(map(budget.covers, pods))
        ]
        parts.append(f"disruption budget {', '.join(broken)} allows no eviction")
    return f" ({'; '.join(parts)})" if parts else ""
