"""Why a device is not to be had is what the search for devices finds, too."""

from __future__ import annotations

from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    Allocation,
    ClaimSpec,
    CounterUse,
    Device,
    DeviceClass,
    DeviceId,
    DeviceResult,
    Request,
    RequestEntry,
    Slice,
)
from kubarium.engine.explain.survey import survey
from kubarium.engine.explain.wishes import whole
from kubarium.engine.model import Node
from kubarium.engine.snapshot import Snapshot

SPEC = ClaimSpec((RequestEntry("r", (Request("r", "any"),)),))


def part(name, memory, *groups):
    use = CounterUse("card", (("memory", memory),), frozenset(groups))
    return Device(name, consumes=(use,) if memory else ())


def world(*devices):
    """A card of eight, whose device ``a`` is in use."""
    snapshot = Snapshot(Inventory())
    snapshot.set_node(Node("n", (("pods", 9),)))
    snapshot.inventory.set_class(DeviceClass("any"))
    sets = (("card", (("memory", 8),)),)
    snapshot.inventory.set_slice(Slice("sets", "d", "p", 1, 2, counter_sets=sets, node_name="n"))
    publish(snapshot, *devices)
    held = Allocation((DeviceResult("r", DeviceId("d", "p", "a")),))
    snapshot.allocate(("ns", "holder"), held)
    return snapshot


def publish(snapshot, *devices):
    snapshot.inventory.set_slice(Slice("s", "d", "p", 1, 2, devices, node_name="n"))


def failed(snapshot):
    [found] = survey(snapshot, SPEC, 1, whole)
    assert bool(found.free) == bool(snapshot.inventory.search("n", {}, [("c", SPEC)]).run())
    return found.failed


def test_counters_are_those_that_were_taken_whatever_is_published_since():
    snapshot = world(part("a", 8), part("b", 4))
    short = {"in use": 1, "counter memory of set card: 0 free of 8, 4 wanted": 1}
    assert failed(snapshot) == short
    publish(snapshot, part("a", 0), part("b", 4))
    assert failed(snapshot) == short


def test_groups_are_those_that_were_taken_whatever_is_published_since():
    snapshot = world(part("a", 1, "x"), part("b", 1, "y"))
    other = "compatibility group y, while counter set card is in use with x"
    assert failed(snapshot) == {"in use": 1, other: 1}
    publish(snapshot, part("a", 1, "y"), part("b", 1, "y"))
    assert failed(snapshot) == {"in use": 1, other: 1}
