"""The inventory says what changed, and its pools follow the slices."""

from __future__ import annotations

import kubarium.engine.devices.inventory as module
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import Allocation, Device, DeviceId, DeviceResult, Slice


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
