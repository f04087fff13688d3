"""What the eviction manager does, in which order: images before pods."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from kubarium.node.eviction.manager import EvictionManager
from kubarium.node.eviction.usage import Observed, PodUsage, Signal
from kubarium.node.kubelet_config import read_kubelet_config
from kubarium.node.lifecycle.records import State
from kubarium.node.runner import NodeFacts

MI = 1 << 20
FACTS = NodeFacts("n", "127.0.0.1", {})


class Pod:
    """A pod that runs; it is over once it is told to end."""

    def __init__(self):
        metadata = {"name": "p", "namespace": "ns", "uid": "u"}
        self.node, self.ended = FACTS, []
        self.machine = SimpleNamespace(
            pod={"metadata": metadata, "spec": {"containers": [{"name": "main"}]}},
            finished=False,
            terminating=False,
            released=False,
            containers=[SimpleNamespace(state=State.RUNNING)],
        )

    def deliver(self, event):
        self.ended.append(event.reason)
        self.machine.terminating = True


class Disk:
    """The node's disk (and memory), with so much of it in unused images."""

    def __init__(self, free, images, signal="nodefs.available"):
        self.free, self.images, self.signal = free, images, signal
        self.asked, self.looks = [], 0

    async def wait(self):
        if self.looks:
            raise asyncio.CancelledError

    async def observe(self, node, pods):
        self.looks += 1
        return Observed({self.signal: Signal(self.free, 1000 * MI)}, {"u": PodUsage()})

    async def reclaim(self, least_free):
        self.asked.append(least_free)
        freed, self.images = self.images, 0
        self.free += freed
        return freed


def look(disk, **config):
    """One look of the manager; the pod and what was told."""
    pod, told = Pod(), []
    manager = EvictionManager(
        SimpleNamespace(now=lambda: 0.0),
        {"n": (FACTS, read_kubelet_config(config))},
        {"u": pod},
        disk,
        lambda *said: told.append(said[2]),
        lambda name: None,
        disk.reclaim,
    )
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(manager.run())
    return pod, told, manager


HARD = {"evictionHard": {"nodefs.available": "100Mi"}}


def test_images_that_nobody_uses_go_before_a_pod_does():
    disk = Disk(60 * MI, 50 * MI)
    pod, told, manager = look(disk, **HARD)
    assert pod.ended == []
    assert disk.asked == [100 * MI]
    assert told == ["EvictionThresholdMet"]
    assert manager.conditions("n") == ("DiskPressure",), "for as long as it always lasts"


def test_where_they_are_not_enough_a_pod_goes_too():
    disk = Disk(60 * MI, 30 * MI)
    pod, _, _ = look(disk, **HARD)
    assert pod.ended == ["Evicted"]
    assert disk.looks == 2


def test_what_is_reclaimed_must_reach_the_minimum():
    reclaim = {"evictionMinimumReclaim": {"nodefs.available": "20Mi"}}
    disk = Disk(60 * MI, 50 * MI)
    pod, _, _ = look(disk, **HARD, **reclaim)
    assert (pod.ended, disk.asked) == (["Evicted"], [120 * MI])


def test_a_node_without_images_evicts_after_one_look():
    disk = Disk(60 * MI, 0)
    pod, _, _ = look(disk, **HARD)
    assert (pod.ended, disk.looks) == (["Evicted"], 1)


def test_images_do_not_help_against_want_of_memory():
    disk = Disk(60 * MI, 500 * MI, "memory.available")
    pod, _, _ = look(disk, evictionHard={"memory.available": "100Mi"})
    assert (pod.ended, disk.asked) == (["Evicted"], [])


def test_of_inodes_no_number_of_bytes_is_enough():
    disk = Disk(60, 500, "nodefs.inodesFree")
    pod, _, _ = look(disk, evictionHard={"nodefs.inodesFree": "100"})
    assert (pod.ended, disk.asked) == ([], [None])
