"""Where two features of devices meet, case by case: each was wrong once."""

from __future__ import annotations

import pytest

from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    ALL,
    Allocation,
    AllocationError,
    ClaimSpec,
    Constraint,
    CounterUse,
    Device,
    DeviceClass,
    DeviceId,
    DeviceResult,
    Slice,
)
from kubarium.engine.model import Claim
from kubarium.engine.snapshot import Snapshot

from .stock import (
    first_available,
    inventory,
    names,
    request,
    run,
    search,
    selects,
    spec,
    text,
)


def held(stock, *devices, shared=False):
    results = tuple(DeviceResult("", DeviceId("d", "p", n), shared=shared) for n in devices)
    stock.enter(Allocation(results))


def part(name, *uses, **attributes):
    counters = tuple(CounterUse("gpu", (use,)) for use in uses)
    return Device(name, {f"d/{k}": text(v) for k, v in attributes.items()}, consumes=counters)


def test_a_counter_given_away_too_often_keeps_only_those_that_use_it():
    """A pool was published anew with less memory than its devices hold: engines are still there."""
    places = [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1"), ("1", "1")] * 2
    engines = [
        part(f"e{i}", ("engines", 1), kind="e", numa=numa, rack=rack)
        for i, (numa, rack) in enumerate(places)
    ]
    stock = inventory(
        [part("big", ("memory", 4), kind="m"), *engines],
        counters=[("gpu", (("engines", 9), ("memory", 1)))],
        best_fit=True,
    )
    held(stock, "big")
    constraints = (Constraint((), match="d/numa"), Constraint((), match="d/rack"))
    # Only one place has three: there are dead ends enough for the bounds to be asked.
    [found] = run(stock, ClaimSpec((request(3, "kind=e"),), constraints))
    assert names([found]) == [["e3", "e4", "e8"]]


def test_all_of_a_pool_that_is_being_updated_leaves_the_next_alternative():
    stock = inventory([Device("a")], best_fit=True, slice_count=2)
    stock = inventory([Device("b")], pool="q", into=stock)
    wanted = spec(first_available(("all", {"mode": ALL, "count": 0}), ("one", {"count": 1})))
    [found] = run(stock, wanted)
    assert [r.request for r in found.results] == ["r/one"]
    assert names([found]) == [["b"]]


def test_all_of_a_pool_that_is_being_updated_is_why_nothing_is_found():
    stock = inventory([Device("a")], best_fit=True, slice_count=2)
    wanted = spec(first_available(("all", {"mode": ALL, "count": 0}), ("one", {"count": 1})))
    with pytest.raises(AllocationError, match="d/p is currently being updated") as caught:
        run(stock, wanted)
    assert caught.value.node_only


def test_upstreams_order_ends_at_the_pool_that_is_being_updated():
    stock = inventory([Device("a")], slice_count=2)
    stock = inventory([Device("b")], pool="q", into=stock)
    wanted = spec(first_available(("all", {"mode": ALL, "count": 0}), ("one", {"count": 1})))
    with pytest.raises(AllocationError, match="being updated"):
        search(stock, wanted).run()


@pytest.mark.parametrize("best_fit", [True, False])
def test_a_shared_device_that_is_published_as_whole_is_still_in_use(best_fit):
    """Its shares name no capacity, so that nothing but the shares themselves can tell."""
    stock = inventory([Device("nic", allow_multiple=True)], best_fit=best_fit)
    held(stock, "nic", shared=True)
    assert names(run(stock, spec(request()))) == [["nic"]]
    inventory([Device("nic")], into=stock)
    assert run(stock, spec(request())) is None


def test_a_pool_of_an_older_generation_gives_nothing_though_it_is_complete_here():
    """The new generation has moved to another node; the old slice is yet to be deleted.

    Upstream's allocator gives its devices away, and so does first fit.
    """
    for best_fit in (True, False):
        stock = Inventory(selects, best_fit=best_fit)
        stock.set_class(DeviceClass("any", ("any",)))
        stock.set_slice(Slice("old", "d", "p", 1, 1, (Device("a"),), node_name="n"))
        assert names(run(stock, spec(request()))) == [["a"]]
        stock.set_slice(Slice("new", "d", "p", 2, 1, (Device("a"),), node_name="m"))
        assert (run(stock, spec(request())) is None) == best_fit
        stock.remove_slice("new")
        assert names(run(stock, spec(request()))) == [["a"]]


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_slices_that_disagree_about_their_number_are_an_invalid_pool(order):
    """Which of them came first decides upstream, and did here."""
    stock = inventory([Device("other")], driver="e", best_fit=True)
    counts = {"a": 1, "b": 2}
    for name in order:
        device = (Device(name),)
        stock.set_slice(Slice(name, "d", "p", 1, counts[name], device, node_name="n"))
    told = "slices disagree about resourceSliceCount: 1, 2"
    [pool] = [p for p in stock.pools("n", {}) if p.driver == "d"]
    assert pool.invalid == told
    problems = {why for item, why in stock.slices_with_problems() if item.driver == "d"}
    assert problems == {f"pool d/p is invalid: {told}"}
    assert names(run(stock, spec(request()))) == [["other"]]
    with pytest.raises(AllocationError, match="invalid resource pools were encountered"):
        run(stock, spec(request(2)))


def republished(*, first, then, total=8):
    """A snapshot in which a claim holds ``held``, whose driver then said other amounts of it."""
    snapshot = Snapshot(Inventory(selects))
    inventory(
        [part("held", ("memory", first)), part("other", ("memory", 5))],
        counters=[("gpu", (("memory", 8),))],
        best_fit=True,
        into=snapshot.inventory,
    )
    wanted = ClaimSpec((request(),))
    allocation = Allocation((DeviceResult("r", DeviceId("d", "p", "held")),))
    snapshot.set_claim(Claim(("ns", "c"), wanted), allocation)
    inventory(
        [part("held", ("memory", then)), part("other", ("memory", 5))],
        counters=[("gpu", (("memory", total),))],
        into=snapshot.inventory,
    )
    return snapshot


def test_what_a_device_holds_outlasts_a_simulation_in_which_it_was_given_back():
    """Otherwise each look for victims lets a driver's new numbers count for old devices."""
    snapshot = republished(first=4, then=1)
    assert run(snapshot.inventory, spec(request())) is None, "4 of 8 are held, 5 are wanted"
    mark = snapshot.checkpoint()
    snapshot.release(("ns", "c"))
    assert run(snapshot.inventory, spec(request())) is not None
    snapshot.rollback(mark)
    assert run(snapshot.inventory, spec(request())) is None
    mark = snapshot.checkpoint()
    snapshot.release(("ns", "c"))
    snapshot.reclaim(("ns", "c"))
    assert run(snapshot.inventory, spec(request())) is None
    snapshot.rollback(mark)


def test_a_victim_may_keep_what_its_pool_has_not_got_any_more():
    """Nobody took it meanwhile: to end its pod would help no one."""
    snapshot = republished(first=4, then=4, total=2)
    mark = snapshot.checkpoint()
    snapshot.release(("ns", "c"))
    assert snapshot.reclaimable(("ns", "c"))
    snapshot.rollback(mark)


def test_a_victim_cannot_keep_counters_that_others_have_taken():
    snapshot = republished(first=4, then=1)
    mark = snapshot.checkpoint()
    snapshot.release(("ns", "c"))
    other = Allocation((DeviceResult("r", DeviceId("d", "p", "other")),))
    snapshot.set_claim(Claim(("ns", "d"), ClaimSpec((request(),))), other)
    assert not snapshot.reclaimable(("ns", "c")), "it held 4, and 5 of 8 are gone"
    snapshot.rollback(mark)
    assert snapshot.reclaimable(("ns", "c"))
