"""What is told of kills for memory, from counts that the kernel keeps: each once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from kubarium.node.runtimes.process.cgroups import Amounts, Usage
from kubarium.node.runtimes.process.engine import ExitStatus
from kubarium.node.runtimes.process.oversight import Oversight
from kubarium.node.runtimes.process.pod_records import PodRecord, PodRecords

MI = 1 << 20


class World:
    """One container under a memory limit; ``kills`` is what its control group has counted."""

    def __init__(self):
        self.kills, self.said, self.pressed = 0, [], []
        groups = SimpleNamespace(
            controllers=("memory", "pids"),
            usage=lambda uid, name: Usage(
                memory=10 * MI, peak_memory=64 * MI, oom_kills=self.kills
            ),
        )
        facts = SimpleNamespace(pod={"metadata": {"uid": "u"}, "spec": {}})
        self.pod = PodRecord(facts, Path("/nowhere"), None, {})
        self.records = PodRecords()
        self.records.by_uid["u"] = self.pod
        self.oversight = Oversight(
            SimpleNamespace(),
            self.records,
            SimpleNamespace(),
            lambda: groups,
            {},
            lambda pod, reason, text: self.said.append(text),
            lambda *pressed: self.pressed.append(pressed[3]),
        )
        self.start("first")

    def start(self, ident):
        self.kills = 0
        self.pod.containers["main"], self.pod.running["main"] = ident, None
        self.pod.groups["main"], self.pod.amounts["main"] = ident, Amounts(memory=64 * MI)

    def end(self, code):
        ident = self.pod.containers["main"]
        self.pod.running.clear()
        return self.oversight.ended(self.pod, "main", ident, ExitStatus(code, 0))


@pytest.fixture
def world():
    return World()


def test_a_kill_that_the_container_outlives_is_told_of_once(world):
    world.oversight.tell_kills("u")
    assert world.said == []
    world.kills = 1
    for _ in range(2):
        world.oversight.tell_kills("u")
    assert world.pressed == ["was killed at its limit 64Mi, peak 64Mi"]
    world.kills = 3
    world.oversight.tell_kills("u")
    assert len(world.said) == len(world.pressed) == 2


def test_an_end_that_follows_is_out_of_memory_without_being_told_of_again(world):
    world.kills = 1
    world.oversight.tell_kills("u")
    assert world.end(1), "torchrun, whose worker was killed"
    assert len(world.said) == 1


def test_a_kill_that_ends_the_container_says_how(world):
    world.kills = 1
    assert world.end(137)
    assert world.pressed == ["was killed at its limit 64Mi, peak 64Mi, exit code 137"]


@pytest.mark.parametrize(("kills", "code"), [(0, 1), (0, 0), (2, 0), (2, 137)])
def test_nothing_is_kept_of_an_attempt_that_is_over(world, kills, code):
    world.kills = kills
    world.oversight.tell_kills("u")
    world.pod.seen_kills["first"] = kills
    assert world.end(code) == (kills > 0 and code != 0)
    assert world.pod.kills == world.pod.seen_kills == {}
    world.start("second")
    world.kills = 1
    world.oversight.tell_kills("u")
    assert world.said, "the next attempt's count begins at zero"
