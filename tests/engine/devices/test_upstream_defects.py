"""Defects of upstream's allocator, each with the right answer and its number there.

Fixed there or not, they are easy to build in again.
"""

from __future__ import annotations

import pytest

from kubarium.engine import reasons
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    ALL,
    Allocation,
    AllocationError,
    Capacity,
    Device,
    DeviceClass,
    DeviceId,
    DeviceResult,
    Slice,
)
from kubarium.engine.model import Claim, Node, Pod, PodShape
from kubarium.engine.placement.place import Placer
from kubarium.engine.snapshot import Snapshot

from .stock import (
    first_available,
    gpu,
    inventory,
    names,
    request,
    run,
    search,
    selects,
    spec,
    text,
    use,
)


def held(*devices, driver="d", pool="p", **more):
    return Allocation(tuple(DeviceResult("r", DeviceId(driver, pool, d), **more) for d in devices))


SIX = (("memory", 6),)


def shareable(name, attributes=None, **more):
    return Device(name, attributes or {}, {"memory": Capacity(10)}, allow_multiple=True, **more)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_131730_one_device_short_is_recognised_without_trying_every_combination(size):
    groups = [f"numa-{i // (size - 1)}" for i in range(4 * (size - 1))]
    devices = [
        Device(f"g{i}", {"d/numa": text(group), "d/serial": text(str(i))})
        for i, group in enumerate(groups)
    ]
    attempt = search(inventory(devices), spec(request(size), match="d/numa"))
    assert attempt.run() is None
    assert attempt.steps <= 4 * size * size


def test_140436_a_rejected_device_leaves_no_counters_behind():
    devices = [
        Device("a", {"d/numa": text("0")}, consumes=use(3)),
        Device("b", {"d/numa": text("1")}, consumes=use(3)),
        Device("c", {"d/numa": text("1")}, consumes=use(3)),
    ]
    stock = inventory(devices, counters=[gpu(6)])
    assert names(run(stock, spec(request(2), match="d/numa"))) == [["b", "c"]]


def test_140436_a_shared_device_given_back_gives_its_counters_back():
    first = Device("a", {"d/numa": text("0")}, {"m": Capacity(2)}, use(4), allow_multiple=True)
    others = [Device(n, {"d/numa": text("1")}, consumes=use(3)) for n in "bc"]
    stock = inventory([first, *others], counters=[gpu(6)])
    assert names(run(stock, spec(request(2), match="d/numa"))) == [["b", "c"]]


def test_140438_distinct_attribute_holds_within_one_request():
    devices = [Device(f"g{i}", {"d/numa": text(str(i % 2))}) for i in range(6)]
    assert run(inventory(devices), spec(request(3), distinct="d/numa")) is None
    assert names(run(inventory(devices), spec(request(2), distinct="d/numa"))) == [["g0", "g1"]]


def shared_and_other():
    """Two devices on one counter set with room for both; one is shared."""
    shared = Device("shared", {}, {"memory": Capacity(10)}, use(1), allow_multiple=True)
    return [shared, Device("other", consumes=use(1)), Device("third", consumes=use(1))]


def test_139034_shares_given_earlier_count_when_counters_are_counted_anew():
    stock = inventory(shared_and_other(), counters=[gpu(1)])
    stock.enter(held("shared", shared=True, consumed=(("memory", 5),)))
    assert names(run(stock, spec(request(capacity=(("memory", 5),))))) == [["shared"]]
    assert run(stock, spec(request(2))) is None


def test_134100_a_second_share_needs_no_counters_of_its_own():
    stock = inventory(shared_and_other(), counters=[gpu(1)])
    share = request(capacity=(("memory", 5),))
    assert names(run(stock, spec(share), spec(share))) == [["shared"], ["shared"]]
    both = spec(request(name="a", capacity=(("memory", 5),)), request(name="b"))
    assert run(stock, both) is None, "the default is all that is left"


@pytest.mark.parametrize("best_fit", [True, False])
def test_a_second_share_of_a_device_without_capacity_needs_no_counters_either(best_fit):
    """Upstream charges it again, since it knows shares by what they consume; so does first fit."""
    shared = Device("shared", consumes=use(1), allow_multiple=True)
    stock = inventory([shared], counters=[gpu(1)], best_fit=best_fit)
    [first] = run(stock, spec(request()))
    stock.enter(first)
    found = run(stock, spec(request()))
    assert found is None if not best_fit else names(found) == [["shared"]]


def test_140729_admin_access_takes_neither_device_nor_counters():
    stock = inventory([Device("whole", consumes=use(6))], counters=[gpu(6)])
    [admin] = run(stock, spec(request(admin_access=True)))
    stock.enter(admin)
    assert names(run(stock, spec(request()))) == [["whole"]]


@pytest.mark.parametrize("best_fit", [True, False])
def test_administrators_and_others_of_one_pod_get_the_same_device_in_any_order(best_fit):
    """Upstream refuses the pod if the administrator's claim is its first one; so does first fit."""
    stock = inventory([Device("g0"), Device("g1")], best_fit=best_fit)
    watch = spec(request(mode=ALL, admin_access=True))
    assert names(run(stock, spec(request()), watch)) == [["g0"], ["g0", "g1"]]
    found = run(stock, watch, spec(request()))
    assert found is None if not best_fit else names(found) == [["g0", "g1"], ["g0"]]
    assert names(run(stock, watch, watch)) == [["g0", "g1"]] * 2
    both = spec(request(mode=ALL, name="watch", admin_access=True), request(name="use"))
    assert run(stock, both) is None, "one claim cannot have a device twice"
    assert run(stock, spec(request(name="use"), both.requests[0])) is None


def shared_nic(name="n", **more):
    return Device(name, {}, {"bw": Capacity(10)}, allow_multiple=True, **more)


def monitor(name="m", **more):
    return request(1, name=name, admin_access=True, **more)


def test_140729_admin_access_takes_no_capacity_of_a_shared_device():
    stock = inventory([shared_nic()], best_fit=True)
    full = request(1, name="r", capacity=(("bw", 10),))
    both = [["n", "n"]]
    assert names(run(stock, spec(monitor(), full))) == both
    assert names(run(stock, spec(full, monitor()))) == both
    [taken] = run(stock, spec(full))
    stock.enter(taken)
    assert names(run(stock, spec(monitor()))) == [["n"]]
    assert names(run(stock, spec(monitor(mode=ALL)))) == [["n"]]


@pytest.mark.parametrize("watcher_first", [True, False])
def test_140729_in_first_fit_an_administrators_share_counts_within_its_pod_as_upstream(
    watcher_first,
):
    """It has what every share has: an amount, and counters that others do not get."""
    nics = [shared_nic("a", consumes=use(3)), Device("b", consumes=use(3))]
    stock = inventory(nics, counters=[gpu(6)])
    [found] = run(stock, spec(monitor(), request(name="r")))
    assert [(r.id.device, r.consumed) for r in found.results] == [("a", (("bw", 10),)), ("b", ())]
    watch, whole = monitor(capacity=(("bw", 10),)), request(name="r", capacity=(("bw", 10),))
    both = (watch, whole) if watcher_first else (whole, watch)
    assert run(stock, spec(*both)) is None, "all of the capacity is gone"
    narrow = inventory(nics, counters=[gpu(5)])
    assert run(narrow, spec(monitor(), request(name="r"))) is None, "all counters are gone"
    stock.enter(found)
    assert names(run(stock, spec(request(capacity=(("bw", 10),))))) == [["a"]], (
        "not once it is done"
    )


def test_140729_who_shares_a_device_with_an_administrator_still_takes_its_counters():
    nics = [shared_nic(n, consumes=use(3)) for n in "ab"]
    stock = inventory(nics, counters=[gpu(4)])
    shares = [request(1, name=f"r{i}", capacity=(("bw", 10),)) for i in range(2)]
    assert run(stock, spec(*shares)) is None, "the counters are enough for one of them"
    nothing = {"capacity": (("bw", 0),)}
    assert run(stock, spec(monitor("m", mode=ALL, **nothing), *shares)) is None


@pytest.mark.parametrize("best_fit", [True, False])
def test_administrators_reach_shared_devices_that_are_used_up(best_fit):
    """They ignore what ordinary claims have, and take nothing from them; not so in first fit."""
    stock = inventory([shareable("g0"), shareable("g1")], best_fit=best_fit)
    stock.enter(held("g0", shared=True, consumed=(("memory", 10),)))
    everything = spec(request(mode=ALL, admin_access=True))
    if not best_fit:
        assert names(run(stock, everything)) == [["g1"]]
        assert run(stock, spec(request(2, admin_access=True))) is None
        return
    assert names(run(stock, everything)) == [["g0", "g1"]]
    stock.enter(held("g1", shared=True, consumed=(("memory", 4),)))
    both = spec(
        request(name="watch", mode=ALL, admin_access=True), request(name="use", capacity=SIX)
    )
    assert names(run(stock, both)) == [["g0", "g1", "g1"]]
    assert [result.consumed for result in run(stock, both)[0].results] == [(), (), SIX]
    for too_much in ("other", 1), ("memory", 11):
        asked = request(admin_access=True, capacity=(too_much,))
        assert run(stock, spec(asked)) is None, "no device has that much"


def test_an_administrators_share_opens_no_device_for_others():
    """The first ordinary share still takes the counters, of which there are none for g1 then."""
    parts = [
        shareable("g0", consumes=use(1), attributes={"d/kind": text("shared")}),
        Device("g1", {"d/kind": text("whole")}, consumes=use(1)),
    ]
    stock = inventory(parts, counters=[gpu(1)], best_fit=True)
    watch = request(1, "kind=shared", name="watch", admin_access=True)
    share, whole = request(1, "kind=shared", name="s"), request(1, "kind=whole", name="w")
    assert names(run(stock, spec(watch, whole))) == [["g0", "g1"]]
    assert run(stock, spec(watch, share, whole)) is None


def test_140802_a_device_in_use_keeps_its_counters_when_published_without():
    stock = inventory([Device("old", consumes=use(4))], counters=[gpu(6)])
    stock.enter(held("old"))
    inventory([Device("new", consumes=use(3))], counters=[gpu(6)], into=stock, generation=2)
    assert run(stock, spec(request())) is None
    stock.take_out(held("old"))
    assert names(run(stock, spec(request()))) == [["new"]]


def test_140802_a_device_in_use_keeps_its_counters_when_published_smaller():
    stock = inventory([Device("a", consumes=use(4))], counters=[gpu(6)])
    stock.enter(held("a"))
    devices = [Device("a", consumes=use(1)), Device("b", consumes=use(3))]
    inventory(devices, counters=[gpu(6)], into=stock, generation=2)
    assert run(stock, spec(request())) is None


def test_140802_a_device_in_use_that_was_never_seen_closes_the_counters_of_its_pool():
    devices = [Device("part", consumes=use(1)), Device("plain")]
    stock = inventory(devices, counters=[gpu(6)])
    stock.enter(held("gone"))
    assert names(run(stock, spec(request()))) == [["plain"]]
    with pytest.raises(AllocationError) as found:
        run(stock, spec(request(2)))
    assert found.value.node_only
    assert str(found.value) == reasons.counters_unknown("d/p/gone")
    inventory([*devices, Device("gone", consumes=use(6))], counters=[gpu(6)], into=stock)
    assert run(stock, spec(request(2))) is None, "published at last: it holds everything"


def test_140802_compatibility_groups_of_a_device_in_use_are_remembered_too():
    stock = inventory([Device("mig", consumes=use(1, groups=["mig"]))], counters=[gpu(6)])
    stock.enter(held("mig"))
    devices = [Device("mig", consumes=use(1, groups=["vgpu"]))]
    devices.append(Device("vgpu", consumes=use(1, groups=["vgpu"])))
    inventory(devices, counters=[gpu(6)], into=stock, generation=2)
    assert run(stock, spec(request())) is None


def test_138885_all_devices_that_consume_counters():
    devices = [Device(n, consumes=use(2)) for n in "abc"]
    everything = request(0, mode=ALL)
    assert names(run(inventory(devices, counters=[gpu(6)]), spec(everything))) == [["a", "b", "c"]]
    assert run(inventory(devices, counters=[gpu(5)]), spec(everything)) is None


def test_131660_all_devices_given_back_for_the_next_alternative():
    kinds = {"a": "x", "b": "x", "c": "y"}
    devices = [Device(n, {"d/kind": text(kind)}) for n, kind in kinds.items()]
    stock = inventory(devices)
    stock.enter(held("b"))
    entry = first_available(
        ("all-x", {"selectors": ("kind=x",), "mode": ALL, "count": 0}), ("two", {"count": 2})
    )
    [found] = run(stock, spec(entry))
    assert [r.request for r in found.results] == ["r/two", "r/two"]
    assert names([found]) == [["a", "c"]]


def test_131660_all_devices_of_an_alternative_are_given_back_when_a_later_request_fails():
    devices = [Device(n, {"d/kind": text("x")}) for n in "abc"]
    entry = first_available(("all", {"mode": ALL, "count": 0}), ("one", {"count": 1}), name="first")
    [found] = run(inventory(devices), spec(entry, request(2, name="second")))
    assert [r.request for r in found.results] == ["first/one", "second", "second"]


# All devices and a constraint: upstream ends the search at the first one that does not satisfy it.


def numas(**of):
    return [Device(name, {"d/numa": text(numa)}) for name, numa in of.items()]


def every(name, *selectors):
    return request(1, *selectors, name=name, mode=ALL)


def test_all_devices_that_a_constraint_forbids_leave_the_next_alternative():
    options = first_available(("all", {"mode": ALL}), ("one", {}), name="r")
    stock = inventory(numas(a="0", b="1"), best_fit=True)
    [found] = run(stock, spec(options, match="d/numa"))
    assert [r.request for r in found.results] == ["r/one"]


def test_all_devices_that_a_constraint_forbids_send_the_search_back_to_earlier_requests():
    kinds = {"a": "x", "b": "x", "c": "y"}
    devices = [
        Device(d.name, {**d.attributes, "d/kind": text(kinds[d.name])})
        for d in numas(a="0", b="1", c="1")
    ]
    claim = spec(request(1, "kind=x", name="one"), every("rest", "kind=y"), match="d/numa")
    assert names(run(inventory(devices, best_fit=True), claim)) == [["b", "c"]]


def test_two_drivers_with_pools_of_one_name_have_counters_of_their_own():
    device = Device("whole", consumes=use(6))
    stock = inventory([device], counters=[gpu(6)], driver="d")
    inventory([device], counters=[gpu(6)], driver="e", into=stock)
    assert run(stock, spec(request(2))) is not None
    stock.enter(held("whole"))
    [found] = run(stock, spec(request()))
    assert found.results[0].id.driver == "e"


def nodes_with(*, best_fit=True, **values):
    """A placer over nodes with a device for each letter of its value: the device's NUMA node."""
    stock = Inventory(selects, best_fit=best_fit)
    stock.set_class(DeviceClass("any", ("any",)))
    snapshot = Snapshot(stock)
    for name, numas in values.items():
        snapshot.set_node(Node(name, (("cpu", 1), ("memory", 1), ("pods", 9))))
        devices = tuple(Device(f"g{i:02d}", {"d/numa": text(v)}) for i, v in enumerate(numas))
        stock.set_slice(Slice(name, "d", name, 1, 1, devices, node_name=name))
    return Placer(snapshot)


def placed(placer, wanted):
    key = ("ns", "claim")
    placer.snapshot.claims[key] = Claim(key, wanted)
    return placer.place(Pod(("ns", "p"), PodShape(), claims=(key,)))


def test_all_devices_that_do_not_match_are_a_matter_of_that_node():
    """Upstream fails the pod for good if any node that it looks at has devices of two kinds."""
    everything = spec(request(mode=ALL), match="d/numa")
    assert placed(nodes_with(a="01", b="00"), everything).node == "b"
    placer = nodes_with(a="01", b="012")
    assert placed(placer, everything) is None
    verdict = placer.account(Pod(("ns", "p"), PodShape(), claims=(("ns", "claim"),)))
    assert verdict.by_node["a"] == (
        "claim ns/claim, request r: asks for all devices, but they do not satisfy a claim"
        " constraint",
    )


def test_all_devices_that_do_not_match_leave_the_next_alternative():
    stock = inventory(
        [Device("g0", {"d/numa": text("0")}), Device("g1", {"d/numa": text("1")})], best_fit=True
    )
    options = first_available(("all", {"mode": ALL}), ("one", {"count": 1}))
    [found] = run(stock, spec(options, match="d/numa"))
    assert [result.request for result in found.results] == ["r/one"]
    upstreams = inventory([Device("g0", {"d/numa": text("0")}), Device("g1", {})], best_fit=False)
    with pytest.raises(AllocationError, match="cannot add device d/p/g1"):
        run(upstreams, spec(options, match="d/numa"))


@pytest.mark.parametrize("best_fit", [True, False])
def test_more_than_a_claim_can_hold_on_one_node_is_no_matter_of_another(best_fit):
    everything = spec(request(mode=ALL))
    placer = nodes_with(best_fit=best_fit, a="0" * 33, b="0" * 4)
    assert placed(placer, everything).node == "b"
    assert placed(nodes_with(best_fit=best_fit, a="0" * 33), everything) is None
    with pytest.raises(AllocationError, match="exceeds the claim limit of 32") as caught:
        run(inventory([Device("g0")]), spec(request(33)))
    assert not caught.value.node_only
