"""The allocator's promises beyond upstream's tables: truth, speed and what upstream gets wrong."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine.devices.constraints import ConstraintState
from kubarium.engine.devices.model import (
    DEFAULT_FEATURES,
    Allocation,
    AttributeValue,
    Capacity,
    ClaimSpec,
    Constraint,
    CounterUse,
    Device,
    DeviceId,
    DeviceResult,
    DeviceTaint,
)
from kubarium.engine.devices.search import PATIENCE

from .stock import inventory, names, request, run, selects, spec, text

checked = settings(deadline=None, max_examples=150)


# Infeasible answers are quick (kubernetes#131730). Work is counted, not timed.


@pytest.mark.parametrize("size", [4, 8, 16, 32])
def test_one_device_short_of_a_match_is_recognised_quickly(size):
    groups = [f"numa-{i // (size - 1)}" for i in range(4 * (size - 1))]
    devices = [
        Device(f"g{i}", {"d/numa": text(group), "d/serial": text(str(i))})
        for i, group in enumerate(groups)
    ]
    search = inventory(devices).search("n", {}, [("c", spec(request(size), match="d/numa"))])
    assert search.run() is None
    assert search.steps <= 4 * size * size + PATIENCE * size


def test_devices_that_all_differ_do_not_make_it_slow():
    devices = [
        Device(f"g{i}", {"d/serial": text(str(i))}, {"memory": Capacity(i + 1)}) for i in range(20)
    ]
    stock = inventory(devices)
    search = stock.search("n", {}, [("c", spec(request(21), match=""))])
    assert search.run() is None
    assert search.steps <= 500
    distinct = stock.search("n", {}, [("c", spec(request(21), distinct="d/serial"))])
    assert distinct.run() is None
    assert distinct.steps <= 500


def test_many_claims_for_too_few_devices_end_quickly():
    stock = inventory([Device(f"g{i}") for i in range(14)])
    search = stock.search("n", {}, [(f"c{i}", spec(request())) for i in range(15)])
    assert search.run() is None
    assert search.steps <= 15 * 15


# Truth: a verdict equals that of a search without any cleverness.

kinds = st.sampled_from(["x", "y", "z"])


@st.composite
def problems(draw):
    devices = [
        Device(f"g{i}", {"d/kind": text(draw(kinds)), "d/numa": text(draw(st.sampled_from("01")))})
        for i in range(draw(st.integers(0, 5)))
    ]
    specs = []
    for _ in range(draw(st.integers(1, 2))):
        entries = tuple(
            request(
                draw(st.integers(1, 3)),
                draw(st.sampled_from(["any", "kind=x", "kind=y"])),
                name=f"r{j}",
            )
            for j in range(draw(st.integers(1, 2)))
        )
        constraint = draw(st.sampled_from(["", "match", "distinct"]))
        about = {constraint: draw(st.sampled_from(["d/numa", "d/kind"]))} if constraint else {}
        specs.append(spec(*entries, **about))
    return devices, specs


def brute_force(devices, specs):
    """Every way to hand distinct devices to all wanted places."""
    places = [
        (s, entry)
        for s in specs
        for entry in s.requests
        for _ in range(entry.alternatives[0].count)
    ]
    for chosen in itertools.permutations(devices, len(places)):
        if all(
            selects(e.alternatives[0].selectors[0], "d", d)
            for (_, e), d in zip(places, chosen, strict=True)
        ) and all(_holds(s, places, chosen) for s in specs):
            return True
    return False


def _holds(wanted, places, chosen):
    mine = [d for (s, _), d in zip(places, chosen, strict=True) if s is wanted]
    for constraint in wanted.constraints:
        values = [d.attributes[constraint.match or constraint.distinct] for d in mine]
        if constraint.match and len(set(values)) > 1:
            return False
        if constraint.distinct and len(set(values)) < len(values):
            return False
    return True


@checked
@given(problems(), st.booleans())
def test_the_verdict_agrees_with_brute_force(problem, best_fit):
    devices, specs = problem
    found = run(inventory(devices, best_fit=best_fit), *specs)
    assert (found is not None) == brute_force(devices, specs)
    if found is not None:
        used = [name for claim in names(found) for name in claim]
        assert len(used) == len(set(used))
        wanted = [sum(e.alternatives[0].count for e in s.requests) for s in specs]
        assert [len(claim) for claim in names(found)] == wanted


@checked
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.lists(st.integers(1, 3), max_size=4))
def test_counters_are_never_overcommitted(partitions, claims):
    """A device with 6 memory slices, cut into partitions of the sizes given."""
    devices = [
        Device(f"part-{i}", consumes=(CounterUse("gpu", (("memory", size),)),))
        for i, size in enumerate(partitions)
    ]
    stock = inventory(devices, counters=[("gpu", (("memory", 6),))])
    for count in claims:
        found = run(stock, spec(request(count)))
        if found is not None:
            stock.enter(found[0])
    used = sum(
        size
        for i, size in enumerate(partitions)
        if stock.ledger.in_use(DeviceId("d", "p", f"part-{i}"))
    )
    assert used <= 6
    stock.ledger.check()


@checked
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=8))
def test_the_ledger_forgets_what_was_taken_out(entries):
    stock = inventory([Device(f"g{i}") for i in range(4)])
    results = [
        DeviceResult(
            "r",
            DeviceId("d", "p", f"g{i}"),
            admin or None,
            shared,
            (("memory", 3),) if shared else (),
        )
        for i, admin, shared in entries
    ]
    allocations = [Allocation((r,)) for r in results]
    for allocation in allocations:
        stock.enter(allocation)
        stock.ledger.check()
    for allocation in reversed(allocations):
        stock.take_out(allocation)
        stock.ledger.check()
    assert not list(stock.ledger.devices())


# Best fit.


def test_best_fit_takes_the_smallest_device_that_will_do():
    devices = [
        Device("large", capacity={"memory": Capacity(80)}),
        Device("small", capacity={"memory": Capacity(40)}),
    ]
    assert names(run(inventory(devices, best_fit=True), spec(request()))) == [["small"]]
    assert names(run(inventory(devices, best_fit=False), spec(request()))) == [["large"]]


def test_best_fit_fills_an_opened_device_before_opening_another():
    part = {i: CounterUse(f"gpu-{i}", (("memory", 1),)) for i in (0, 1)}
    devices = [Device(f"g{i}-{j}", consumes=(part[i],)) for i in (0, 1) for j in (0, 1)]
    counters = [(f"gpu-{i}", (("memory", 2),)) for i in (0, 1)]
    stock = inventory(devices, best_fit=True, counters=counters)
    stock.enter(Allocation((DeviceResult("r", DeviceId("d", "p", "g1-0")),)))
    assert names(run(stock, spec(request()))) == [["g1-1"]]


def test_best_fit_leaves_the_larger_group_whole():
    sizes = {"big": 4, "fitting": 2}
    devices = [
        Device(f"{g}-{i}", {"d/numa": text(g)}) for g, size in sizes.items() for i in range(size)
    ]
    found = run(inventory(devices, best_fit=True), spec(request(2), match="d/numa"))
    assert names(found) == [["fitting-0", "fitting-1"]]


def test_a_tainted_device_needs_a_toleration():
    devices = [Device("sick", taints=(DeviceTaint("health", "bad", "NoSchedule"),))]
    assert run(inventory(devices), spec(request())) is None


def test_lists_match_when_they_share_a_value():
    state = ConstraintState(Constraint((), match="d/x"), DEFAULT_FEATURES)
    state.push(AttributeValue("string", frozenset("ab"), True))
    assert state.admits(AttributeValue("string", frozenset("bc"), True))
    state.push(AttributeValue("string", frozenset("bc"), True))
    assert not state.admits(text("a"))
    state.pop()
    assert state.admits(text("a"))


def test_a_constraint_said_twice_is_counted_once():
    devices = [
        Device("plain", capacity={"memory": Capacity(1)}),
        Device("placed", {"d/numa": text("0")}),
    ]
    twice = ClaimSpec((request(),), (Constraint((), match="d/numa"),) * 2)
    found = run(inventory(devices, best_fit=True), spec(request()), twice)
    assert names(found) == [["plain"], ["placed"]]


@pytest.mark.parametrize("best_fit", [False, True])
def test_many_claims_of_many_requests_do_not_exhaust_the_stack(best_fit):
    wanted = spec(*(request(name=f"r{i}") for i in range(32)))
    devices = [Device(f"g{i}") for i in range(12 * 32)]
    assert run(inventory(devices, best_fit=best_fit), *[wanted] * 12) is not None
    assert run(inventory(devices[1:], best_fit=best_fit), *[wanted] * 12) is None
