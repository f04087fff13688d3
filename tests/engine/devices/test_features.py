"""Features of DRA that are alpha or beta in 1.37, as the allocator sees them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    ALL,
    DEFAULT_FEATURES,
    Allocation,
    AllocationError,
    Capacity,
    ClaimSpec,
    Constraint,
    CounterUse,
    Device,
    DeviceId,
    DeviceResult,
    RequestPolicy,
)

from .stock import derives, gpu, inventory, names, request, run, search, selects, spec, text, use

# Compatibility groups (KEP-5963).


def grouped(**groups):
    """Devices by name on one counter set, each with the groups that its letters are."""
    return [Device(name, consumes=use(1, groups=tags)) for name, tags in groups.items()]


def both(stock):
    return run(stock, spec(request(2)))


@pytest.mark.parametrize(
    ("groups", "fit"),
    [
        ({"a": "mf", "b": "vf"}, True),
        ({"a": "m", "b": "v"}, False),
        ({"a": "", "b": ""}, True),
        ({"a": "", "b": "m"}, False),
        ({"a": "m", "b": ""}, False),
    ],
)
def test_devices_on_a_counter_set_share_a_group_or_all_have_none(groups, fit):
    assert (both(inventory(grouped(**groups), counters=[gpu(9)])) is not None) == fit


def test_all_devices_on_a_counter_set_share_one_group_not_pairwise():
    stock = inventory(grouped(a="xy", b="yz", c="xz"), counters=[gpu(9)])
    assert names(both(stock)) == [["a", "b"]]
    assert run(stock, spec(request(3))) is None


def test_devices_in_use_count_and_other_counter_sets_do_not():
    elsewhere = [Device("far", consumes=use(1, "other", groups="v"))]
    devices = [*grouped(a="m", b="v", c="m"), *elsewhere]
    stock = inventory(devices, counters=[gpu(9), gpu(9, "other")])
    stock.enter(Allocation((DeviceResult("r", DeviceId("d", "p", "a")),)))
    assert names(run(stock, spec(request(2)))) == [["c", "far"]]


def test_a_device_on_two_counter_sets_agrees_on_each():
    two = Device("two", consumes=(*use(1, groups="m"), *use(1, "other", groups="v")))
    devices = [two, *grouped(b="m"), Device("c", consumes=use(1, "other", groups="m"))]
    stock = inventory(devices, counters=[gpu(9), gpu(9, "other")])
    assert names(both(stock)) == [["two", "b"]]
    assert run(stock, spec(request(3))) is None


def with_gates(devices, counters=(), **gates):
    features = replace(DEFAULT_FEATURES, **gates)
    stock = Inventory(selects, features, best_fit=False, derives=derives)
    return inventory(devices, counters=counters, into=stock)


def test_without_the_gate_devices_with_groups_are_left_alone():
    devices = grouped(a="m", b="")
    stock = with_gates(devices, [gpu(9)], compatibility_groups=False)
    assert names(run(stock, spec(request()))) == [["b"]]
    stock.enter(Allocation((DeviceResult("r", DeviceId("d", "p", "a")),)))
    assert run(stock, spec(request())) is None


# Derived attributes (KEP-6080).


def topology():
    """GPUs that say numa=…, NICs that say where=…; nic0 is beside gpu1."""
    gpus = [Device(f"gpu{i}", {"d/kind": text("gpu"), "d/numa": text(f"{i}")}) for i in range(2)]
    nic = Device("nic0", {"d/kind": text("nic"), "d/where": text("numa1-port0")})
    return inventory([*gpus, nic])


def aligned(**more):
    numa = (("derived/numa", "numa"),)
    where = (("derived/numa", "where[4:5]"),)
    entries = (
        request(1, "kind=gpu", name="gpu", derived=numa),
        request(1, "kind=nic", name="nic", derived=where),
    )
    return ClaimSpec(entries, (Constraint((), **(more or {"match": "derived/numa"})),))


def test_derived_attributes_align_devices_of_different_drivers():
    assert names(run(topology(), aligned())) == [["gpu1", "nic0"]]
    assert names(run(topology(), aligned(distinct="derived/numa"))) == [["gpu0", "nic0"]]


def test_a_derived_attribute_hides_the_devices_own():
    devices = [Device(f"g{i}", {"d/a": text("same"), "d/b": text(str(i))}) for i in range(2)]
    entry = request(2, derived=(("d/a", "b"),))
    assert run(inventory(devices), spec(entry, match="d/a")) is None
    assert run(inventory(devices), spec(request(2), match="d/a")) is not None


def test_an_expression_that_fails_gives_up_the_whole_claim():
    wrong = (("derived/numa", "nowhere"),)
    with pytest.raises(AllocationError, match="derived attribute derived/numa on device d/p/gpu0"):
        run(topology(), spec(request(1, derived=wrong), match="derived/numa"))


def test_expressions_see_only_devices_that_pass_the_selectors():
    where = (("derived/numa", "where[4:5]"),)
    entry = request(1, "kind=nic", derived=where)
    assert names(run(topology(), spec(entry, match="derived/numa"))) == [["nic0"]]


def test_without_the_gate_claims_with_derived_attributes_are_refused():
    stock = with_gates([Device("g")], derived_attributes=False)
    entry = request(derived=(("derived/a", "a"),))
    with pytest.raises(AllocationError, match="DRADerivedAttributes feature is disabled"):
        search(stock, spec(entry, match="derived/a"))


# Skipped node operations (KEP-5945).


def test_results_say_which_node_operations_their_slice_skips():
    stock = inventory([Device("g")], skip_operations=("*",))
    [found] = run(stock, spec(request()))
    assert found.results[0].skip_operations == ("*",)


# Fractional ranges of consumable capacity.


@pytest.mark.parametrize(("gate", "taken"), [(True, "13/10"), (False, "2")])
def test_fractions_are_rounded_to_steps_only_with_the_gate(gate, taken):
    from fractions import Fraction

    tenth = Fraction(1, 10)
    step = tenth if gate else 1
    policy = RequestPolicy(default=1, minimum=tenth if gate else 0, maximum=4, step=step)
    device = Device("g", {}, {"cores": Capacity(4, policy)}, allow_multiple=True)
    stock = with_gates([device], fractional_range=gate)
    [found] = run(stock, spec(request(capacity=(("cores", Fraction(125, 100)),))))
    assert found.results[0].consumed == (("cores", Fraction(taken)),)


# Names and amounts of capacity.


@pytest.mark.parametrize("published", ["memory", "d/memory"])
@pytest.mark.parametrize("wanted", ["memory", "d/memory"])
def test_the_drivers_domain_may_be_left_out_of_a_capacitys_name(published, wanted):
    """Upstream goes by the name as it is written, and so does first fit."""
    device = Device("g", {}, {published: Capacity(8)}, allow_multiple=True)
    stock = inventory([device], best_fit=True)
    for mode in {}, {"mode": ALL}:
        share = spec(request(capacity=((wanted, 3),), **mode))
        [found] = run(stock, share)
        assert found.results[0].consumed == ((published, 3),)
        first = run(inventory([device]), share)
        assert (first is not None) == (published == wanted)
    assert run(stock, spec(request(capacity=(("e/memory", 3),)))) is None


def test_of_two_amounts_for_one_capacity_the_larger_counts():
    device = Device("g", {}, {"memory": Capacity(8)}, allow_multiple=True)
    for amounts in ((("d/memory", 9), ("memory", 1)), (("d/memory", 1), ("memory", 9))):
        assert run(inventory([device], best_fit=True), spec(request(capacity=amounts))) is None


def test_nobody_can_give_capacity_back_by_asking_for_less_than_none():
    device = Device("g", {}, {"memory": Capacity(8)}, allow_multiple=True)
    with pytest.raises(AllocationError, match="capacity memory: capacity value is negative"):
        run(inventory([device]), spec(request(capacity=(("memory", -3),))))


# Slices that contradict themselves.


@pytest.mark.parametrize(
    ("uses", "problem"),
    [
        ((CounterUse("nowhere", (("memory", 1),)),), "counter set nowhere not found"),
        ((CounterUse("gpu", (("cores", 1),)),), "counter cores not found"),
        ((CounterUse("gpu", (("memory", -1),)),), "device bad consumes a negative amount"),
    ],
)
def test_a_pool_with_counters_that_make_no_sense_gives_nothing(uses, problem):
    stock = inventory([Device("good"), Device("bad", consumes=uses)], counters=[gpu(9)])
    [pool] = stock.pools("n", {})
    assert pool.invalid.startswith(problem)
    with pytest.raises(AllocationError) as found:
        run(stock, spec(request()))
    assert found.value.node_only
