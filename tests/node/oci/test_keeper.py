"""The store when the disk fills up, as the agent keeps it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from kubarium.node.kubelet_config import ImageCollection
from kubarium.node.oci.collect import Disk
from kubarium.node.oci.keeper import ImageKeeper
from kubarium.node.oci.load import find_at_path, load
from kubarium.node.oci.reference import parse_reference
from kubarium.node.oci.store import ImageStore
from kubarium.node.oci.unpack import Budget
from tests.node.oci.images import Built, entry, layer


class World:
    """A store with three images, and a disk of a size that tests choose."""

    def __init__(self, tmp_path, **rules):
        self.now = 0.0
        self.events = []
        self.store = ImageStore(
            tmp_path / "images", lambda: self.now, Budget(str(tmp_path), spare_bytes=0)
        )
        for name in ("a", "b"):
            Built([layer(entry(name, name.encode() * 5000))]).layout(tmp_path / name)
            reference = parse_reference(f"oci:{tmp_path}/{name}")
            self.store.unpacked(find_at_path(self.store, reference))
            self.now += 100
        Built([layer(entry("c", b"c"))]).archive(tmp_path / "c.tar", names=["c:1"])
        load(self.store, str(tmp_path / "c.tar"))
        self.now += 1000
        clock = SimpleNamespace(now=lambda: self.now)
        node = {"metadata": {"name": "n"}}
        informers = SimpleNamespace(get=lambda kind: SimpleNamespace(get=lambda name: node))
        context = SimpleNamespace(clock=clock, informers=informers)
        recorder = SimpleNamespace(event=lambda *event: self.events.append(event[1:]))
        rules = ImageCollection(**rules)
        self.keeper = ImageKeeper(context, self.store, ["n"], recorder, rules)

    def collect(self, disk):
        self.keeper.disk = lambda: disk
        return asyncio.run(self.keeper.collect())

    @property
    def names_in_full(self):
        return list(self.store.records())

    @property
    def names(self):
        return [name.rpartition("/")[2] for name in self.store.records()]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_a_disk_with_room_costs_nothing(world):
    assert world.collect(Disk(1000, 500)) == 0
    assert world.names == ["c:1", "a", "b"]


def test_the_longest_unused_goes_and_no_more_than_needed(world):
    freed = world.collect(Disk(20, 3))  # one byte over
    assert freed >= 1
    assert world.names == ["c:1", "b"]
    assert world.events == []


def test_what_runs_and_what_was_loaded_by_hand_stays_and_that_is_said(world):
    name = next(name for name in world.store.records() if name.endswith("/a"))
    world.store.lease("container", world.store.find(name))
    world.collect(Disk(1 << 40, 0))
    assert world.names == ["c:1", "a"]
    [(kind, reason, text)] = world.events
    assert (kind, reason) == ("Warning", "FreeDiskSpaceFailed")
    assert text.startswith("Failed to garbage collect required amount of images. Attempted to free")


def test_what_was_just_used_stays(world):
    world.now = 210.0
    world.collect(Disk(1 << 40, 0))
    assert world.names == ["c:1", "b"]


def test_a_full_disk_without_images_is_somebody_elses_business(tmp_path):
    world = World(tmp_path)
    world.store.remove(list(world.store.records()))
    assert world.collect(Disk(1000, 0)) == 0
    assert world.events == []


def test_the_thresholds_are_the_configurations(tmp_path):
    world = World(tmp_path, high_percent=60, low_percent=40, minimum_age_s=1150.0)
    assert world.collect(Disk(1000, 401)) == 0
    world.collect(Disk(1 << 40, 400))
    assert world.names == ["c:1", "b"], "b was used too late"
    never = World(tmp_path / "never", high_percent=100)
    assert never.collect(Disk(1000, 0)) == 0
    assert len(never.names) == 3


def test_what_was_not_used_for_too_long_goes_whatever_room_there_is(tmp_path):
    world = World(tmp_path, maximum_age_s=1150.0)
    assert world.collect(Disk(1000, 900)) > 0
    assert world.names == ["c:1", "b"]


def test_before_pods_are_evicted_all_goes_that_can_be_had_again(world):
    world.keeper.disk = lambda: Disk(1000, 500)
    assert asyncio.run(world.keeper.reclaim(500)) == 0, "it is not the disk that is short"
    assert asyncio.run(world.keeper.reclaim(501)) > 0
    assert world.names == ["c:1"]
    assert world.events == []


def test_short_of_inodes_it_goes_too(world):
    world.store.lease("container", world.store.find(world.names_in_full[1]))
    world.keeper.disk = lambda: Disk(1000, 1000)
    assert asyncio.run(world.keeper.reclaim(None)) > 0
    assert len(world.names) == 2
