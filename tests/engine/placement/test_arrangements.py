"""Arrangements of pods that only look at room, against every assignment of pods to nodes."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine.model import Node, Pod, PodShape
from kubarium.engine.placement import packing
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.trial import Budget, Trial
from kubarium.engine.selectors import Requirement
from kubarium.engine.snapshot import Snapshot

checked = settings(deadline=None, max_examples=200)

SSD = (Requirement("disk", "Exists", ()),)


@st.composite
def worlds(draw):
    """(nodes with their free amounts and labels, sizes of pods with their wishes, pods needed)."""
    nodes = [
        (draw(st.integers(2, 7)), draw(st.integers(1, 3)), draw(st.sampled_from(["", "ssd"])))
        for _ in range(draw(st.integers(1, 4)))
    ]
    pods = [
        (draw(st.integers(1, 4)), draw(st.sampled_from([False, False, True])))
        for _ in range(draw(st.integers(1, 5)))
    ]
    return nodes, pods, draw(st.integers(1, len(pods)))


def filled(nodes):
    snapshot = Snapshot()
    for i, (cpu, slots, disk) in enumerate(nodes):
        labels = {"disk": disk} if disk else {}
        snapshot.set_node(Node(f"n{i}", (("cpu", cpu), ("memory", 99), ("pods", slots)), labels))
    return Placer(snapshot)


def pod(number, size, picky):
    shape = PodShape(
        requests=(("cpu", size),), nonzero=(size, 1), node_selector=SSD if picky else ()
    )
    return Pod(("ns", f"p{number}"), shape)


def picture(nodes, pods, where):
    """All that is left to tell of an arrangement: the kinds of pods placed, and what is free."""
    left = Counter()
    for i, (cpu, slots, disk) in enumerate(nodes):
        sizes = [size for (size, _), n in zip(pods, where, strict=True) if n == i]
        left[cpu - sum(sizes), slots - len(sizes), disk] += 1
    placed = Counter(wish for wish, n in zip(pods, where, strict=True) if n >= 0)
    return frozenset(left.items()), frozenset(placed.items())


def every_picture(nodes, pods, needed):
    found = set()
    for where in product(range(-1, len(nodes)), repeat=len(pods)):
        if sum(n >= 0 for n in where) != needed:
            continue
        groups = [
            [p for p, n in zip(pods, where, strict=True) if n == i] for i in range(len(nodes))
        ]
        if all(
            sum(size for size, _ in group) <= cpu
            and len(group) <= slots
            and (disk or not any(picky for _, picky in group))
            for (cpu, slots, disk), group in zip(nodes, groups, strict=True)
        ):
            found.add(picture(nodes, pods, where))
    return found


@checked
@given(worlds())
def test_every_arrangement_is_reached_and_nothing_else(world):
    nodes, pods, needed = world
    placer = filled(nodes)
    waiting = [pod(i, *wish) for i, wish in enumerate(pods)]
    trial, budget, found = Trial(placer), Budget(100_000), set()
    disk = placer.snapshot.labels.get("disk")
    apart = [] if disk is None else [disk]
    for _ in packing.arrangements(trial, budget, waiting, needed, None, apart):
        placer.snapshot.check()
        assert len(trial) == needed
        at = {p.pod.key: int(p.node[1:]) for p in trial.placements}
        found.add(picture(nodes, pods, [at.get(p.key, -1) for p in waiting]))
    assert found == every_picture(nodes, pods, needed)
    assert not placer.snapshot.requested.any()


@checked
@given(worlds())
def test_what_is_packed_fits(world):
    """Best fit decreasing, with the smallest pods if not all are needed."""
    nodes, pods, needed = world
    placer = filled(nodes)
    trial = Trial(placer)
    waiting = [pod(i, *wish) for i, wish in enumerate(pods)]
    if packing.pack(trial, waiting, needed, None):
        assert len(trial) == needed
        placer.snapshot.check()
        assert every_picture(nodes, pods, needed)
        trial.back_to(0)
    assert not placer.snapshot.requested.any()


def test_an_arrangement_stays_within_its_nodes():
    placer = filled([(4, 3, ""), (4, 3, ""), (4, 3, "")])
    within = np.zeros(placer.snapshot.capacity, np.bool_)
    within[placer.snapshot.rows["n2"]] = True
    trial = Trial(placer)
    waiting = [pod(0, 3, False), pod(1, 1, False)]
    for _ in packing.arrangements(trial, Budget(), waiting, 2, within):
        assert {p.node for p in trial.placements} == {"n2"}
        break
    else:
        raise AssertionError("none was found")


def test_what_an_arrangement_may_cost_is_limited():
    """Of 40 pods of 40 sizes none fits beside another; every order of nodes would be tried."""
    placer = filled([(100 + i, 3, "") for i in range(39)])
    waiting = [pod(i, 51 + i, False) for i in range(39)]
    waiting.append(pod(40, 30, False))
    budget = Budget(2_000)
    trial = Trial(placer)
    found = next(iter(packing.arrangements(trial, budget, waiting, 40, None)), "none")
    assert found is None, "the last pod fits beside a small one"
    assert budget.spent <= 2_000
