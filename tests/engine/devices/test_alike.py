"""Nodes of one kind give one answer: shared answers equal those of a search on each node."""

from __future__ import annotations

from dataclasses import fields, replace
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine import reasons
from kubarium.engine.devices import sights
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    ALL,
    Allocation,
    AllocationError,
    AttributeValue,
    Capacity,
    ClaimSpec,
    Constraint,
    CounterUse,
    Device,
    DeviceClass,
    DeviceId,
    DeviceResult,
    DeviceTaint,
    NodeResource,
    Request,
    RequestEntry,
    SelectorError,
    Slice,
)
from kubarium.engine.devices.preference import STRATEGIES, AttributeOrder, DevicePreference
from kubarium.engine.model import Node
from kubarium.engine.placement import devices as module
from kubarium.engine.placement.devices import DeviceFit
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.engine.snapshot import Snapshot

checked = settings(deadline=None, max_examples=600)

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


def derives(expression, driver, device):
    """``a+b``: both attributes' values as one text; ``strict`` fails for devices of kind y."""
    kind = device.attributes["d/kind"]
    if expression == "strict" and "y" in kind.values:
        raise SelectorError("no such key", compile_time=False)
    if expression == "uuid":
        return device.attributes["d/uuid"]
    return text("".join(sorted((*kind.values, *device.attributes["d/numa"].values))))


# Every trait of a device that makes a difference to some search, with the values it may have.
TRAITS = {
    "kind": "xy",
    "numa": "01",
    "memory": [4, 4, 8],
    "taints": [*[()] * 7, (TAINT,)],
    "shared": [False, False, True],
    "groups": [frozenset(), frozenset("a"), frozenset("ab"), frozenset("b")],
    "slices": [1, 1, 2],
    "costs": [(), (), (NodeResource("cpu", multiplier=1000),), (NodeResource("cpu", per_pod=1),)],
    "conditions": [(), (), (), ("ready",)],
    "failures": [(), (), (), ("broken",)],
    "binds": [False, False, False, True],
}


@st.composite
def makes(draw):
    """One make of devices: the traits of each."""
    one = st.fixed_dictionaries({name: st.sampled_from(had) for name, had in TRAITS.items()})
    return draw(st.lists(one, min_size=draw(st.sampled_from([0, 1, 2, 2])), max_size=4))


def devices(make, node, counters=False):
    return tuple(
        Device(
            f"g{i}",
            {"d/kind": text(of["kind"]), "d/numa": text(of["numa"]), "d/uuid": text(f"{node}-{i}")},
            {"memory": Capacity(of["memory"])},
            taints=of["taints"],
            allow_multiple=of["shared"],
            consumes=(CounterUse("set", (("slices", of["slices"]),), of["groups"]),)
            if counters
            else (),
            node_resources=of["costs"],
            binding_conditions=of["conditions"],
            binding_failure_conditions=of["failures"],
            binds_to_node=of["binds"],
        )
        for i, of in enumerate(make)
    )


@st.composite
def tweaked(draw, make):
    """The make, or one that differs in one trait of one device: near twins are the hard case."""
    if not make or draw(st.booleans()):
        return make
    at, trait = draw(st.integers(0, len(make) - 1)), draw(st.sampled_from(sorted(TRAITS)))
    others = [value for value in TRAITS[trait] if value != make[at][trait]]
    changed = {**make[at], trait: draw(st.sampled_from(others))}
    return [*make[:at], changed, *make[at + 1 :]]


@st.composite
def pool(draw, node, make, form):
    """The slices of one node's pool: plain, with counters, or incomplete."""
    if form == "none":
        return []
    made = devices(draw(tweaked(make)), node, form == "counters")
    count = 1 if form == "plain" else 2
    skips = draw(st.sampled_from([(), (), ("NodePrepareResources",)]))
    about = draw(st.sampled_from(["", "", "d/kind"]))
    found = [
        Slice(
            f"{node}-a",
            "d",
            node,
            1,
            count,
            made,
            node_name=node,
            skip_operations=skips,
            partition_attribute=about,
        )
    ]
    if form == "counters":
        sets = (("set", (("slices", draw(st.integers(1, 4))),)),)
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
    about = draw(st.sampled_from([None, None, "match", "distinct"]))
    key = draw(st.sampled_from(["d/numa", "d/kind", "d/made", "d/made", "d/missing"]))
    for i in range(draw(st.sampled_from([1, 1, 1, 2]))):
        selectors = draw(
            st.sampled_from([(), (), (), (), ("kind=x",), ("numa=0", "kind=x"), ("uuid=n0-0",)])
        )
        mode = draw(st.sampled_from([*["ExactCount"] * 5, ALL]))
        capacity = draw(st.sampled_from([None, None, None, (("memory", 3),)]))
        count = 0 if mode == ALL else draw(st.integers(1, 2))
        expression = draw(st.sampled_from(["kind+numa", "kind+numa", "strict", "uuid", ""]))
        made = about is not None and key == "d/made" and expression
        derived = (("d/made", expression),) if made else ()
        request = Request("r", "c", selectors, mode, count, capacity=capacity, derived=derived)
        entries.append(RequestEntry(f"r{i}", (request,)))
    constraints = (Constraint((), **{about: key}),) if about else ()
    return ClaimSpec(tuple(entries), constraints)


@st.composite
def preferences(draw):
    """What an administrator may say about which devices come first; None leaves the default."""
    if draw(st.booleans()):
        return None
    name = st.sampled_from(["d/numa", "numa", "d/uuid", "memory", "d/memory", "d/missing"])
    orders = st.builds(AttributeOrder, name, st.booleans())
    return DevicePreference(
        draw(st.sampled_from(STRATEGIES)), tuple(draw(st.lists(orders, max_size=2)))
    )


@st.composite
def changes(draw):
    """What happens to the cluster, one after the other; then everything is asked again."""
    kind = draw(
        st.sampled_from(
            ["take", "take", "take", "ghost", "free", "slice", "label", "class", "remove"]
        )
    )
    return kind, draw(st.integers(0, 4)), draw(st.integers(0, 3))


def outcome(found):
    return found if isinstance(found, str) else tuple(found)


def alone(snapshot, name, named, preference):
    """What a search on this node says, without any sharing."""
    node = snapshot.node(name)
    try:
        found = snapshot.inventory.search(name, node.labels, named, preference).run()
    except AllocationError as error:
        if not error.node_only:
            raise
        return str(error)
    return reasons.CLAIMS if found is None else tuple(found)


def same_as_alone(fit, snapshot, wanted, preference):
    """Whether the shared answers are right; False when the claims cannot be decided at all."""
    named = [(f"#{i}", spec) for i, spec in enumerate(wanted)]
    fit.refresh()
    try:
        expected = {name: alone(snapshot, name, named, preference) for name in snapshot.rows}
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
@given(st.data(), st.sampled_from([64, 0]), st.sampled_from([4096, 1]))
def test_shared_answers_equal_those_of_each_node(data, many, kept):
    """With ``many`` 0 every selector counts as one whose answers alone are compared.

    With ``kept`` 1 the answer for one kind is remembered, and no other.
    """
    with (
        patch.object(sights, "MANY_COLUMNS", many),
        patch.object(module, "MAX_FOUND", kept),
    ):
        shared_answers_equal_those_of_each_node(data)


def shared_answers_equal_those_of_each_node(data):
    first = data.draw(st.booleans())
    inventory = Inventory(selects, best_fit=not first, reads=reads, derives=derives)
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
    wanted = tuple(
        data.draw(st.lists(specs(), min_size=1, max_size=data.draw(st.sampled_from([1, 1, 2]))))
    )
    preference = data.draw(preferences())
    fit = DeviceFit(snapshot, wanted, preference)
    same_as_alone(fit, snapshot, wanted, preference)
    for kind, which, number in data.draw(st.lists(changes(), max_size=6)):
        name = NODES[which]
        match kind:
            case "take":
                spec = ClaimSpec((RequestEntry("t", (Request("t", "c", capacity=None),)),))
                labels = snapshot.node(name).labels if snapshot.node(name) else {}
                found = inventory.search(name, labels, [("t", spec)]).run()
                if found and ("ns", f"t{which}{number}") not in snapshot.allocations:
                    snapshot.allocate(("ns", f"t{which}{number}"), found[0])
            case "ghost":  # in use and published by nobody, or not yet
                key = ("ns", f"t{which}{number}")
                gone = DeviceId("d", name, f"g{number}")
                if key not in snapshot.allocations and inventory.device(gone) is None:
                    snapshot.allocate(key, Allocation((DeviceResult("t", gone),)))
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
        same_as_alone(fit, snapshot, wanted, preference)
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


def test_kinds_of_nodes_that_are_no_more_are_forgotten(monkeypatch):
    """Each share of a device makes its node another kind: there is no end to them."""
    monkeypatch.setattr(module, "MAX_FOUND", 5)
    snapshot = Snapshot(Inventory(selects, reads=reads))
    snapshot.inventory.set_class(DeviceClass("c", ("any",)))
    snapshot.set_node(Node("n", (("cpu", 1),)))
    device = Device("g", {}, {"memory": Capacity(100)}, allow_multiple=True)
    snapshot.inventory.set_slice(Slice("s", "d", "p", 1, 1, (device,), node_name="n"))
    requests = [Request("r", "c", count=count, capacity=(("memory", 1),)) for count in (1, 2)]
    fits = [DeviceFit(snapshot, (ClaimSpec((RequestEntry("r", (r,)),)),)) for r in requests]
    row = snapshot.rows["n"]
    for number in range(50):
        for fit in fits:
            fit.refresh()
            assert fit.room(1)[row] > 0
        assert not fits[0].refusal(row)
        assert fits[1].refusal(row) == reasons.CLAIMS
        snapshot.allocate(("ns", f"c{number}"), fits[0].on(row)[0])
        for fit in fits:
            books = (fit._refusals, fit._liked, fit._rooms, fit._found, fit._made)
            assert max(map(len, books)) <= 5


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


def test_nodes_that_answer_a_selector_alike_share_one_search():
    """A uuid tells all 200 nodes apart, but no more than who has the one that is asked for."""
    snapshot, asked = stock(200, 4)
    request = Request("r", "c", ("uuid=n7-2",))
    fit = DeviceFit(snapshot, (ClaimSpec((RequestEntry("r", (request,)),)),))
    fit.refresh()
    open_rows = fit.mask(snapshot.alive)
    assert [name for name, row in snapshot.rows.items() if open_rows[row]] == ["n7"]
    assert len(set(fit.kinds()[list(snapshot.rows.values())].tolist())) == 2
    assert len(asked) <= 200 * 4 + 2 * 8


# What tells two devices, or two slices, apart to a search: read by alike.py itself, or by the
# reach of pools, which is asked node by node.
SEEN_OF_A_DEVICE = {
    "attributes": {"d/kind": text("z")},
    "capacity": {"memory": Capacity(16)},
    "consumes": (CounterUse("set", (("slices", 1),)),),
    "taints": (TAINT,),
    "allow_multiple": True,
    "binds_to_node": True,
    "binding_conditions": ("ready",),
    "binding_failure_conditions": ("broken",),
    "node_resources": (NodeResource("cpu", multiplier=1),),
    "opaque": True,
}
REACH = {"node_name", "node_terms", "all_nodes", "per_device"}
# Names only tell which; a source is what the selector predicate reads, and its reach is the sight.
UNSEEN_OF_A_DEVICE = {"name", "source"}
SEEN_OF_A_SLICE = {
    "driver": "e",
    "devices": (Device("g", {"d/kind": text("z")}),),
    "skip_operations": ("NodePrepareResources",),
}
# Pools are made of these before kinds are: incomplete ones stand for themselves. Partition types
# are for those who look at a pool, not for the allocator.
UNSEEN_OF_A_SLICE = {
    "name",
    "pool",
    "generation",
    "slice_count",
    "counter_sets",
    "source",
    "partition_attribute",
}


def test_every_field_of_a_device_is_seen_or_known_not_to_matter():
    assert {f.name for f in fields(Device)} == {
        *SEEN_OF_A_DEVICE,
        *UNSEEN_OF_A_DEVICE,
        *(REACH - {"per_device"}),
    }


def test_every_field_of_a_slice_is_seen_or_known_not_to_matter():
    assert {f.name for f in fields(Slice)} == {*SEEN_OF_A_SLICE, *UNSEEN_OF_A_SLICE, *REACH}


def kind_of(item):
    """The number of the slice among those that the same book has seen."""
    inventory = Inventory(reads=reads)
    one = Slice("one", "d", "one", 1, 1, (Device("g", {"d/kind": text("x")}),), node_name="n0")
    kinds = inventory.sights.kinds(None)
    inventory.set_slice(one)
    inventory.set_slice(item)
    return kinds.slice_kind(one), kinds.slice_kind(item)


@pytest.mark.parametrize("name", sorted(SEEN_OF_A_DEVICE))
def test_devices_that_differ_in_a_field_that_is_seen_are_not_alike(name):
    plain = Device("g", {"d/kind": text("x")})
    other = replace(plain, **{name: SEEN_OF_A_DEVICE[name]})
    one, two = kind_of(Slice("two", "d", "two", 1, 1, (other,), node_name="n1"))
    assert one != two


@pytest.mark.parametrize("name", sorted(SEEN_OF_A_SLICE))
def test_slices_that_differ_in_a_field_that_is_seen_are_not_alike(name):
    plain = Slice("two", "d", "two", 1, 1, (Device("h", {"d/kind": text("x")}),), node_name="n1")
    one, two = kind_of(plain)
    assert one == two
    one, two = kind_of(replace(plain, **{name: SEEN_OF_A_SLICE[name]}))
    assert one != two


def test_a_list_and_its_only_item_are_not_alike():
    """A selector can tell them apart, and constraints where lists are not known."""
    listed = AttributeValue("string", frozenset("x"), is_list=True)
    item = Slice("two", "d", "two", 1, 1, (Device("g", {"d/kind": listed}),), node_name="n1")
    one, two = kind_of(item)
    assert one != two


def make_of(*changed):
    """One device for each of the given changes to the same traits."""
    plain = {name: values[0] for name, values in TRAITS.items()}
    return [{**plain, **one} for one in changed]


def two_nodes(first, second, sets=()):
    """Two nodes of one pool each, whose devices are given."""
    inventory = Inventory(selects, best_fit=False, reads=reads, derives=derives)
    inventory.set_class(DeviceClass("c", ("any",)))
    snapshot = Snapshot(inventory)
    for name, made in (("n0", first), ("n1", second)):
        snapshot.set_node(Node(name, (("cpu", 1),)))
        publish(inventory, name, made, sets)
    return snapshot


def publish(inventory, name, made, sets=()):
    count = 2 if sets else 1
    found = devices(made, name, counters=bool(sets))
    inventory.set_slice(Slice(f"{name}-a", "d", name, 1, count, found, node_name=name))
    if sets:
        counters = Slice(f"{name}-b", "d", name, 1, 2, counter_sets=sets, node_name=name)
        inventory.set_slice(counters)


def answers(snapshot, request, constraints=(), preference=None):
    """What is given on each node by shared answers, which are those of a search on each."""
    wanted = (ClaimSpec((RequestEntry("r", (request,)),), constraints),)
    fit = DeviceFit(snapshot, wanted, preference)
    assert same_as_alone(fit, snapshot, wanted, preference)
    found = (fit.on(row) for row in snapshot.rows.values())
    return [
        "" if isinstance(f, str) else " ".join(r.id.device for r in f[0].results) for f in found
    ]


def test_what_only_a_derivation_reads_tells_nodes_apart():
    snapshot = two_nodes(make_of({}, {}), make_of({}, {"kind": "y"}))
    request = Request("r", "c", count=2, derived=(("d/made", "kind+numa"),))
    assert answers(snapshot, request, (Constraint((), match="d/made"),)) == ["g0 g1", ""]


def test_what_only_a_preference_reads_tells_nodes_apart():
    snapshot = two_nodes(make_of({"numa": "1"}, {}), make_of({}, {"numa": "1"}))
    order = DevicePreference("FirstFit", (AttributeOrder("d/numa"),))
    assert answers(snapshot, Request("r", "c"), preference=order) == ["g1", "g0"]


def test_compatibility_groups_tell_nodes_apart():
    alike, apart = {"groups": frozenset("a")}, {"groups": frozenset("b")}
    sets = (("set", (("slices", 4),)),)
    snapshot = two_nodes(make_of(alike, alike), make_of(alike, apart), sets)
    assert answers(snapshot, Request("r", "c", count=2)) == ["g0 g1", ""]


def test_counters_that_an_unpublished_device_holds_tell_nodes_apart():
    sets = (("set", (("slices", 2),)),)
    snapshot = two_nodes(make_of({}, {"slices": 2}), make_of({}, {}), sets)
    for name in ("n0", "n1"):
        held = Allocation((DeviceResult("t", DeviceId("d", name, "g1")),))
        snapshot.allocate(("ns", name), held)
        publish(snapshot.inventory, name, make_of({}), sets)
    assert answers(snapshot, Request("r", "c")) == ["", "g0"]


def test_a_pool_that_nobody_knows_what_is_held_of_stands_for_itself():
    sets = (("set", (("slices", 2),)),)
    snapshot = two_nodes(make_of({}), make_of({}), sets)
    unknown = Allocation((DeviceResult("t", DeviceId("d", "n0", "ghost")),))
    snapshot.allocate(("ns", "t"), unknown)
    assert answers(snapshot, Request("r", "c")) == ["", "g0"]
