"""Every suggestion, applied by hand to a fresh cluster, makes the subject fit."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    ClaimSpec,
    Device,
    DeviceClass,
    Request,
    RequestEntry,
    Slice,
)
from kubarium.engine.explain import Explainer, Subject
from kubarium.engine.model import Claim, Gang, Node, Pod, PodShape, Taint, Toleration
from kubarium.engine.placement.place import Placer
from kubarium.engine.selectors import Requirement
from kubarium.engine.snapshot import Snapshot

checked = settings(deadline=None, max_examples=80)

TAINT = Taint("dedicated", "gpu", "NoSchedule")


@st.composite
def worlds(draw):
    """(nodes, devices by node, the pods' shape, gang size or 0, claim count)."""
    nodes = [
        Node(
            f"n{i}",
            (("cpu", draw(st.integers(0, 4))), ("pods", draw(st.integers(1, 3)))),
            draw(st.sampled_from([{}, {"rack": "a"}, {"rack": "b"}])),
            draw(st.sampled_from([(), (), (TAINT,)])),
            draw(st.sampled_from([False, False, True])),
        )
        for i in range(draw(st.integers(1, 3)))
    ]
    devices = [draw(st.integers(0, 2)) for _ in nodes]
    selector = draw(st.sampled_from([(), (Requirement("rack", "In", ("a",)),)]))
    shape = PodShape(requests=(("cpu", draw(st.integers(1, 4))),), node_selector=selector)
    return nodes, devices, shape, draw(st.sampled_from([0, 0, 2, 3])), draw(st.integers(0, 3))


class World:
    """A cluster that can be built again with one thing changed."""

    def __init__(self, nodes, devices, shape, gang_size, device_count):
        self.nodes, self.devices = nodes, devices
        self.shape, self.gang_size, self.count = shape, gang_size, device_count
        self.min_count = gang_size
        self.ended: set[tuple[str, str]] = set()

    def placer(self):
        snapshot = Snapshot(Inventory(lambda e, d, device: True))
        snapshot.inventory.set_class(DeviceClass("gpu", ("any",)))
        for node in self.nodes:
            snapshot.set_node(node)
        for node, count in zip(self.nodes, self.devices, strict=True):
            if count:
                made = tuple(Device(f"g{i}") for i in range(count))
                snapshot.inventory.set_slice(
                    Slice(f"s-{node.name}", "d", node.name, 1, 1, made, node_name=node.name)
                )
        holder = Pod(("ns", "holder"), PodShape(requests=(("cpu", 1),)))
        if holder.key not in self.ended:
            snapshot.place(holder, self.nodes[0].name)
        return self._with_claims(snapshot)

    def _with_claims(self, snapshot):
        if self.count:
            request = RequestEntry("r", (Request("r", "gpu", count=self.count),))
            for pod in self.subject().pods:
                snapshot.claims[pod.claims[0]] = Claim(pod.claims[0], ClaimSpec((request,)))
        return Placer(snapshot)

    def subject(self):
        gang = Gang(("ns", "gang"), self.min_count) if self.gang_size else None
        pods = tuple(
            Pod(
                ("ns", f"p{i}"),
                self.shape,
                gang=gang.key if gang else None,
                claims=(("ns", f"c{i}"),) if self.count else (),
            )
            for i in range(self.gang_size or 1)
        )
        return Subject(pods, gang)

    def fits(self):
        return Explainer(self.placer()).fits(self.subject())

    def apply(self, suggestion):
        """Do what the suggestion says, and nothing else."""
        index = next((i for i, n in enumerate(self.nodes) if n.name == suggestion.node), -1)
        match suggestion.kind:
            case "add-devices":
                self.devices[index] += suggestion.amount
            case "add-resource":
                node = self.nodes[index]
                have = dict(node.allocatable)
                for part in suggestion.text.partition(" on node ")[0].split(" and "):
                    amount, _, resource = part.partition(" more ")
                    amount = int(amount.removesuffix("m")) if resource == "cpu" else int(amount)
                    have[resource] = have.get(resource, 0) + amount
                self.nodes[index] = replace(node, allocatable=tuple(sorted(have.items())))
            case "add-node":
                model = self.nodes[index]
                for i in range(suggestion.amount):
                    self.nodes.append(replace(model, name=f"new-{i}"))
                    self.devices.append(0)
            case "uncordon":
                self.nodes[index] = replace(self.nodes[index], unschedulable=False)
            case "tolerate-taint":
                extra = Toleration(TAINT.key, "Equal", TAINT.value, TAINT.effect)
                self.shape = replace(self.shape, tolerations=(extra,))
            case "remove-selector":
                self.shape = replace(self.shape, node_selector=())
            case "lower-min-count":
                self.min_count = suggestion.amount
            case "lower-count":
                self.count = suggestion.amount
            case "free-pod":
                self.ended.add(("ns", "holder"))
            case other:
                raise AssertionError(f"no way to apply {other}")


@checked
@given(worlds())
def test_applying_a_suggestion_makes_it_fit(parts):
    nodes, devices, *rest = parts

    def fresh():
        return World(list(nodes), list(devices), *rest)

    world = fresh()
    placer, subject = world.placer(), world.subject()
    explainer = Explainer(placer)
    if explainer.fits(subject):
        return
    before = placer.snapshot.requested.copy()
    suggestions = explainer.suggest(subject, placer.account(subject.pods[0]))
    width = before.shape[1]
    assert (placer.snapshot.requested[:, :width] == before).all()
    placer.snapshot.check()
    assert not explainer.fits(subject)
    for suggestion in suggestions:
        changed = fresh()
        changed.apply(suggestion)
        assert changed.fits(), suggestion.text


def test_the_smallest_number_of_devices_is_named():
    nodes = [Node(f"n{i}", (("cpu", 100), ("pods", 50))) for i in range(2)]
    world = World(nodes, [7, 5], PodShape(requests=(("cpu", 1),)), 15, 1)
    placer, subject = world.placer(), world.subject()
    found = Explainer(placer).suggest(subject, placer.account(subject.pods[0]))
    [devices] = [s for s in found if s.kind == "add-devices"]
    assert (devices.amount, devices.text) == (3, "add 3 more devices of class gpu on any node")
    [lower] = [s for s in found if s.kind == "lower-min-count"]
    assert lower.amount == 12
