"""Nodes of one kind give one answer: shared answers equal those of a search on each node."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine import reasons
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    ALL,
    AllocationError,
    AttributeValue,
    Capacity,
    ClaimSpec,
    Constraint,
    CounterUse,
    Device,
    DeviceClass,
    DeviceTaint,
    Request,
    RequestEntry,
    Slice,
)
from kubarium.engine.model import Node
from kubarium.engine.placement.devices import DeviceFit
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.engine.snapshot import Snapshot

checked = settings(deadline=None, max_examples=400)

NODES = ["n0", "n1", "n2", "n3", "n4"]
TAINT = DeviceTaint("bad", "", "NoSchedule")


def selects(expression, driver, device):
    """``any``, or ``name=value`` about the attribute d/name."""
    if expression == "any":
        return True
    name, _, value = expression.partition("=")
    found = device.attributes.get(f"d/{name}")
    return found is not None and value in found.values


def reads(expression):
    return frozenset() if expression == "any" else frozenset((f"d/{expression.partition('=')[0]}",))


def text(value):
    return AttributeValue("string", frozenset((value,)))


@st.composite
def makes(draw):
    """One make of devices: (kind, numa, memory, tainted, shared) of each."""
    one = st.tuples(
        st.sampled_from("xy"),
        st.sampled_from("01"),
        st.sampled_from([4, 4, 8]),
        st.sampled_from([False, False, False, True]),
        st.sampled_from([False, False, True]),
    )
    return draw(st.lists(one, max_size=3))


def devices(make, node, counters=False):
    return tuple(
        Device(
            f"g{i}",
            {"d/kind": text(kind), "d/numa": text(numa), "d/uuid": text(f"{node}-{i}")},
            {"memory": Capacity(memory)},
            taints=(TAINT,) if tainted else (),
            allow_multiple=shared,
            consumes=(CounterUse("set", (("slices", 1),)),) if counters else (),
        )
        for i, (kind, numa, memory, tainted, shared) in enumerate(make)
    )


@st.composite
def tweaked(draw, make):
    """The make, or one that differs in one trait of one device: near twins are the hard case."""
    if not make or draw(st.booleans()):
        return make
    at, trait = draw(st.integers(0, len(make) - 1)), draw(st.integers(0, 4))
    values = ["x" if make[at][0] == "y" else "y", "1" if make[at][1] == "0" else "0"]
    values += [12 - make[at][2], not make[at][3], not make[at][4]]
    changed = (*make[at][:trait], values[trait], *make[at][trait + 1 :])
    return [*make[:at], changed, *make[at + 1 :]]


@st.composite
def pool(draw, node, make, form):
    """The slices of one node's pool: plain, with counters, or incomplete."""
    if form == "none":
        return []
    made = devices(draw(tweaked(make)), node, form == "counters")
    count = 1 if form == "plain" else 2
    found = [Slice(f"{node}-a", "d", node, 1, count, made, node_name=node)]
    if form == "counters":
        sets = (("set", (("slices", draw(st.integers(0, 2))),)),)
        found.append(Slice(f"{node}-b", "d", node, 1, 2, counter_sets=sets, node_name=node))
    return found


FORMS = st.sampled_from(["plain", "plain", "plain", "counters", "incomplete", "none"])


@st.composite
def wide_pool(draw):
    """Devices that several nodes reach, each for itself or all alike; or nothing."""
    form = draw(st.sampled_from(["none", "none", "none", "rack", "each"]))
    if form == "none":
        return []
    made = devices(draw(makes()), "wide")
    if form == "rack":
        terms = (NodeTerm((Requirement("rack", "In", ("a",)),)),)
        return [Slice("wide", "d", "wide", 1, 1, made, node_terms=terms)]
    placed = tuple(
        Device(d.name, d.attributes, d.capacity, node_name=draw(st.sampled_from(NODES)))
        for d in made
    )
    return [Slice("wide", "d", "wide", 1, 1, placed, per_device=True)]


@st.composite
def specs(draw):
    entries = []
    for i in range(draw(st.integers(1, 2))):
        selectors = draw(st.sampled_from([(), ("kind=x",), ("numa=0", "kind=x"), ("uuid=n0-0",)]))
        mode = draw(st.sampled_from(["ExactCount", "ExactCount", "ExactCount", ALL]))
        capacity = draw(st.sampled_from([None, None, (("memory", 3),)]))
        count = 0 if mode == ALL else draw(st.integers(1, 2))
        request = Request("r", "c", selectors, mode, count, capacity=capacity)
        entries.append(RequestEntry(f"r{i}", (request,)))
    about = draw(st.sampled_from([None, None, "match", "distinct"]))
    key = draw(st.sampled_from(["d/numa", "d/kind", "d/missing"]))
    constraints = (Constraint((), **{about: key}),) if about else ()
    return ClaimSpec(tuple(entries), constraints)


@st.composite
def changes(draw):
    """What happens to the cluster, one after the other; then everything is asked again."""
    kind = draw(
        st.sampled_from(["take", "take", "take", "free", "slice", "label", "class", "remove"])
    )
    return kind, draw(st.integers(0, 4)), draw(st.integers(0, 3))


def outcome(found):
    return found if isinstance(found, str) else tuple(found)


def alone(snapshot, name, named):
    """What a search on this node says, without any sharing."""
    node = snapshot.node(name)
    try:
        found = snapshot.inventory.search(name, node.labels, named).run()
    except AllocationError as error:
        if not error.node_only:
            raise
        return str(error)
    return reasons.CLAIMS if found is None else tuple(found)


def same_as_alone(fit, snapshot, wanted):
    """Whether the shared answers are right; False when the claims cannot be decided at all."""
    named = [(f"#{i}", spec) for i, spec in enumerate(wanted)]
    fit.refresh()
    try:
        expected = {name: alone(snapshot, name, named) for name in snapshot.rows}
    except AllocationError:
        return False
    refused = {}
    for reason, mask in fit.refusals(snapshot.alive):
        refused |= dict.fromkeys((n for n, row in snapshot.rows.items() if mask[row]), reason)
    for name, row in snapshot.rows.items():
        assert outcome(fit.on(row)) == expected[name], name
        assert refused.get(name, "") == (expected[name] if name in refused else ""), name
        assert (name in refused) == isinstance(expected[name], str), name
        assert fit.blocked[row] <= isinstance(expected[name], str), name
    return True


@checked
@given(st.data())
def test_shared_answers_equal_those_of_each_node(data):
    inventory = Inventory(selects, best_fit=data.draw(st.booleans()), reads=reads)
    snapshot = Snapshot(inventory)
    make, form = data.draw(makes()), data.draw(FORMS)
    inventory.set_class(DeviceClass("c", ("any",)))
    for name in NODES:
        rack = data.draw(st.sampled_from([{}, {"rack": "a"}]))
        snapshot.set_node(Node(name, (("cpu", 1),), rack))
        for item in data.draw(pool(name, make, form)):
            inventory.set_slice(item)
    for item in data.draw(wide_pool()):
        inventory.set_slice(item)
    wanted = tuple(data.draw(st.lists(specs(), min_size=1, max_size=2)))
    fit = DeviceFit(snapshot, wanted)
    same_as_alone(fit, snapshot, wanted)
    for kind, which, number in data.draw(st.lists(changes(), max_size=6)):
        name = NODES[which]
        match kind:
            case "take":
                spec = ClaimSpec((RequestEntry("t", (Request("t", "c", capacity=None),)),))
                labels = snapshot.node(name).labels if snapshot.node(name) else {}
                found = inventory.search(name, labels, [("t", spec)]).run()
                if found and ("ns", f"t{which}{number}") not in snapshot.allocations:
                    snapshot.allocate(("ns", f"t{which}{number}"), found[0])
            case "free":
                snapshot.deallocate(("ns", f"t{which}{number}"))
            case "slice":
                for item in data.draw(pool(name, make, data.draw(FORMS))):
                    inventory.set_slice(item)
            case "remove":
                if number:
                    inventory.remove_slice(f"{name}-a")
                else:
                    snapshot.remove_node(name)
            case "label":
                snapshot.set_node(Node(name, (("cpu", 1),), {"rack": "ab"[number % 2]}))
            case "class":
                selector = ["any", "kind=x", "kind=y", "uuid=n1-0"][number]
                inventory.set_class(DeviceClass("c", (selector,)))
        same_as_alone(fit, snapshot, wanted)
    inventory.ledger.check()


def stock(nodes, per_node):
    """Nodes of one make whose devices differ in name of pool and uuid only."""
    asked = []

    def counting(expression, driver, device):
        asked.append(device)
        return selects(expression, driver, device)

    snapshot = Snapshot(Inventory(counting, reads=reads))
    snapshot.inventory.set_class(DeviceClass("c", ("kind=x",)))
    for i in range(nodes):
        name = f"n{i}"
        snapshot.set_node(Node(name, (("cpu", 1),)))
        made = tuple(
            Device(f"g{j}", {"d/kind": text("x"), "d/uuid": text(f"{name}-{j}")})
            for j in range(per_node)
        )
        snapshot.inventory.set_slice(Slice(name, "d", name, 1, 1, made, node_name=name))
    return snapshot, asked


def test_one_search_answers_for_all_nodes_that_look_alike():
    snapshot, asked = stock(200, 4)
    fit = DeviceFit(snapshot, (ClaimSpec((RequestEntry("r", (Request("r", "c", count=5),)),)),))
    fit.refresh()
    [(reason, mask)] = list(fit.refusals(snapshot.alive))
    assert reason == reasons.CLAIMS
    assert int(mask.sum()) == 200
    assert len(asked) <= 8
    assert fit.blocked[list(snapshot.rows.values())].all()


@pytest.mark.parametrize("selector", ["uuid=n7-2"])
def test_a_selector_that_names_one_device_finds_its_node(selector):
    snapshot, _ = stock(20, 4)
    request = Request("r", "c", (selector,))
    fit = DeviceFit(snapshot, (ClaimSpec((RequestEntry("r", (request,)),)),))
    fit.refresh()
    open_rows = fit.mask(snapshot.alive)
    assert [name for name, row in snapshot.rows.items() if open_rows[row]] == ["n7"]
