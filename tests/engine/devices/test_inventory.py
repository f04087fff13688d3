"""The inventory says what changed, and its pools follow the slices."""

from __future__ import annotations

import kubarium.engine.devices.inventory as module
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    Allocation,
    AttributeValue,
    CounterUse,
    Device,
    DeviceId,
    DeviceResult,
    DeviceTaint,
    Slice,
)


def local(node, generation=1, count=1, name=""):
    devices = (Device("g"),)
    title = name or f"s-{node}-{generation}"
    return Slice(title, "d", node, generation, count, devices, node_name=node)


def test_a_local_change_concerns_its_node_only():
    stock = Inventory()
    stock.set_slice(local("a"))
    _, place = stock.changes_since(0)
    stock.enter(Allocation((DeviceResult("r", DeviceId("d", "a", "g")),)))
    assert stock.changes_since(place)[0] == ["a"]


def test_a_network_device_concerns_every_node():
    stock = Inventory()
    stock.set_slice(Slice("wide", "d", "net", 1, 1, (Device("g"),), all_nodes=True))
    _, place = stock.changes_since(0)
    stock.enter(Allocation((DeviceResult("r", DeviceId("d", "net", "g")),)))
    assert stock.changes_since(place)[0] is None


def test_a_reader_that_is_far_behind_starts_afresh(monkeypatch):
    monkeypatch.setattr(module, "MAX_CHANGES", 3)
    stock = Inventory()
    for i in range(5):
        stock.node_changed(f"n{i}")
    names, place = stock.changes_since(0)
    assert names is None
    stock.node_changed("last")
    assert stock.changes_since(place)[0] == ["last"]


def test_only_the_newest_generation_counts_and_it_must_be_whole():
    stock = Inventory()
    stock.set_slice(local("a", generation=1))
    assert [p.usable for p in stock.pools("a", {})] == [True]
    stock.set_slice(local("a", generation=2, count=2))
    [pool] = stock.pools("a", {})
    assert pool.incomplete
    stock.set_slice(local("a", generation=2, count=2, name="other"))
    [pool] = stock.pools("a", {})
    assert pool.invalid == "duplicate device name g"
    stock.remove_slice("s-a-2")
    stock.remove_slice("other")
    assert [p.usable for p in stock.pools("a", {})] == [True]


def test_what_a_device_held_of_counters_is_what_it_gets_back_also_nothing():
    """It was whole when it was given away, and is published as a part of a card since."""
    stock = Inventory()
    result = DeviceResult("r", DeviceId("d", "a", "g"))
    stock.set_slice(local("a", count=2))
    sets = (("card", (("memory", 8),)),)
    stock.set_slice(Slice("sets", "d", "a", 1, 2, counter_sets=sets, node_name="a"))
    stock.enter(Allocation((result,)))
    part = Device("g", consumes=(CounterUse("card", (("memory", 8),)),))
    stock.set_slice(Slice("s-a-1", "d", "a", 1, 2, (part,), node_name="a"))
    assert stock.counters_left(("d", "a")) == {("card", "memory"): 8}
    stock.enter(Allocation((result,)), stock.take_out(Allocation((result,))))
    assert stock.counters_left(("d", "a")) == {("card", "memory"): 8}


def test_answers_of_selectors_are_limited_though_no_slice_changes(monkeypatch):
    monkeypatch.setattr(module, "SELECTOR_CACHE", 10)
    stock = Inventory(
        lambda expression, driver, device: True,
        derives=lambda expression, driver, device: AttributeValue("string", frozenset("x")),
    )
    device = Device("g")
    for i in range(50):
        assert stock.selects(f"expression {i}", "d", device)
        assert stock.derives(f"expression {i}", "d", device).values == {"x"}
        assert len(stock._answers) <= 10
        assert len(stock._derived) <= 10


def test_nodes_that_come_and_go_with_their_pools_leave_nothing_behind():
    """As with an autoscaler: every name is new."""
    stock = Inventory(lambda expression, driver, device: True)

    def books():
        every = {**vars(stock), **vars(stock.sights)}
        found = {n: len(book) for n, book in every.items() if isinstance(book, dict)}
        del found["_answers"]  # limited by itself
        return found

    def come_and_go(number):
        name = f"n{number}"
        attributes = {f"a{number}": AttributeValue("string", frozenset(("x",)))}
        taint = DeviceTaint("sick", f"since {number}", "NoSchedule")
        uses = (CounterUse("card", (("memory", 1),)),)
        devices = (Device("g", attributes, consumes=uses, taints=(taint,)),)
        counters = (("card", (("memory", 8),)),)
        stock.set_slice(Slice(name, "d", name, 1, 2, devices, node_name=name))
        stock.set_slice(Slice(f"{name}-c", "d", name, 1, 2, (), counters, name))
        stock.node_changed(name)
        assert stock.device_taints() == [taint]
        assert stock.shelf(name, {}).candidates
        assert stock.whole_slices(name) is None
        held = Allocation((DeviceResult("r", DeviceId("d", name, "g")),))
        stock.enter(held)
        stock.take_out(held)
        stock.remove_slice(name)
        stock.remove_slice(f"{name}-c")
        stock.pools(name, {})
        stock.node_changed(name)

    come_and_go(0)
    before = books()
    for number in range(1, 5):
        come_and_go(number)
    assert books() == before
