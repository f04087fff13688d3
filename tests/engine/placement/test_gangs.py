"""Gangs beyond the greedy case: levels of topology, mixed packing, reservations."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine.devices.model import ClaimSpec, DeviceClass, Request, RequestEntry
from kubarium.engine.model import Claim, Gang, Node, Pod, PodShape
from kubarium.engine.placement import packing
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.reservation import reserve
from kubarium.engine.placement.trial import Trial
from kubarium.engine.plan import QueueItem

from .worlds import placer_of


def shape(cpu):
    return PodShape(requests=(("cpu", cpu),), nonzero=(cpu, 1))


def node(name, cpu, **labels):
    return Node(name, (("cpu", cpu), ("memory", 1000), ("pods", 100)), labels)


def gang_item(count, cpu, **more):
    gang = Gang(("ns", "g"), more.pop("minimum", count), **more)
    pods = tuple(Pod(("ns", f"g-{i:03d}"), shape(cpu), gang=gang.key) for i in range(count))
    return QueueItem(pods, gang)


def decide(placer, item, **options):
    [decision] = plan_cycle(placer, [item], preemption=False, **options).decisions
    return decision


def nodes_of(decision):
    return sorted({p.node for p in decision.placements})


RACKS = [
    node("a1", 2, zone="a", rack="a-1"),
    node("a2", 2, zone="a", rack="a-2"),
    node("b1", 4, zone="b", rack="b-1"),
    node("b2", 2, zone="b", rack="b-2"),
]


def test_preferred_levels_take_the_narrowest_that_holds_the_gang():
    levels = ("zone", "rack")
    small = decide(placer_of(RACKS), gang_item(2, 1, preferred_keys=levels))
    assert len(nodes_of(small)) == 1
    in_a_rack = decide(placer_of(RACKS), gang_item(4, 1, preferred_keys=levels))
    assert nodes_of(in_a_rack) == ["b1"]
    in_a_zone = decide(placer_of(RACKS), gang_item(6, 1, preferred_keys=levels))
    assert nodes_of(in_a_zone) == ["b1", "b2"]
    anywhere = decide(placer_of(RACKS), gang_item(9, 1, preferred_keys=levels))
    assert len(nodes_of(anywhere)) == 4


def test_the_tightest_domain_is_used_so_that_the_largest_hole_stays_whole():
    placer = placer_of(RACKS)
    decide(placer, gang_item(2, 1, preferred_keys=("rack",)))
    assert not placer.snapshot.pods_on[placer.snapshot.rows["b1"]]


def test_required_levels_narrow_each_other():
    item = gang_item(4, 1, topology_key="zone", inner_keys=("rack",))
    assert nodes_of(decide(placer_of(RACKS), item)) == ["b1"]
    too_large = decide(placer_of(RACKS), gang_item(5, 1, topology_key="zone", inner_keys=("rack",)))
    assert not too_large.placements
    assert too_large.gang_verdict.domain == "zone=b,rack=b-1"
    assert too_large.gang_verdict.placed == 4


def test_a_preferred_level_within_a_required_one():
    item = gang_item(6, 1, topology_key="zone", preferred_keys=("rack",))
    assert nodes_of(decide(placer_of(RACKS), item)) == ["b1", "b2"]


@settings(deadline=None, max_examples=80)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from("ab"), st.sampled_from("xyz")), max_size=6
    ),
    st.integers(1, 8),
)
def test_a_preference_never_keeps_a_gang_from_starting(cluster, size):
    nodes = [
        node(f"n{i}", cpu, zone=zone, rack=f"{zone}{rack}")
        for i, (cpu, zone, rack) in enumerate(cluster)
    ]
    plain = decide(placer_of(nodes), gang_item(size, 1))
    wishful = decide(placer_of(nodes), gang_item(size, 1, preferred_keys=("zone", "rack")))
    assert len(plain.placements) == len(wishful.placements)


def test_a_mixed_gang_of_more_than_64_pods_is_packed_exactly():
    """100 nodes of 10: each takes one pod of 7 and one of 3, and nothing may be wasted."""
    placer = placer_of([node(f"n{i:03d}", 10) for i in range(100)])
    gang = Gang(("ns", "g"), 200)
    pods = tuple(
        Pod(("ns", f"g-{i:03d}"), shape(7 if i % 2 else 3), gang=gang.key) for i in range(200)
    )
    began = time.perf_counter()
    decision = decide(placer, QueueItem(pods, gang))
    assert len(decision.placements) == 200
    assert time.perf_counter() - began < 5
    placer.snapshot.check()


# Reservations


def busy(finite):
    placer = placer_of([node(f"n{i}", 4) for i in range(4)])
    for i in range(4):
        pod = Pod(("ns", f"job-{i}"), shape(3 - i % 2), finite=finite)
        placer.snapshot.place(pod, f"n{i}")
    return placer


def test_a_reservation_takes_no_more_nodes_than_the_gang_needs():
    placer = busy(finite=True)
    before = placer.snapshot.requested.copy()
    found = reserve(placer, gang_item(2, 4))
    assert sorted(node for _, node in found) == ["n1", "n3"], "the nodes with the least to end"
    assert (placer.snapshot.requested == before).all()


def test_nothing_is_reserved_that_waiting_would_not_free():
    assert reserve(busy(finite=False), gang_item(2, 4)) == ()
    assert reserve(busy(finite=True), gang_item(5, 4)) == ()


def test_later_pods_fill_what_the_reservation_leaves_and_no_more():
    placer = busy(finite=True)
    item = gang_item(2, 4)
    reserved = reserve(placer, item)
    small = [QueueItem((Pod(("ns", f"s-{i}"), shape(1), created=9.0),)) for i in range(8)]
    plan = plan_cycle(placer, [*small], preemption=False, nominated=reserved)
    assert sorted(p.node for p in plan.placements()) == ["n0", "n2"]
    for i in (1, 3):
        placer.snapshot.displace(("ns", f"job-{i}"))
    assert nodes_of(decide(placer, item, nominated=reserved)) == ["n1", "n3"]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=6),
    st.integers(1, 4),
)
def test_once_finite_pods_have_ended_a_reserved_gang_fits(cluster, running, size):
    nodes = [node(f"n{i}", cpu) for i, cpu in enumerate(cluster)]
    placer = placer_of(nodes)
    for i, (cpu, finite) in enumerate(running):
        placer.place(Pod(("ns", f"r-{i}"), shape(cpu), finite=finite))
    item = gang_item(size, 2)
    if not reserve(placer, item):
        return
    for pod, _ in list(placer.snapshot.placed_pods()):
        if pod.finite:
            placer.snapshot.displace(pod.key)
    assert decide(placer, item).placements


def test_a_running_gang_keeps_its_domain_at_every_required_level():
    placer: Placer = placer_of(RACKS)
    first = gang_item(2, 1, topology_key="zone", inner_keys=("rack",), minimum=1)
    there = nodes_of(decide(placer, first))
    assert first.gang is not None
    more = tuple(Pod(("ns", f"h-{i}"), shape(1), gang=first.gang.key) for i in range(4))
    later = QueueItem(more, replace(first.gang, scheduled_count=2))
    assert set(nodes_of(decide(placer, later))) <= set(there)


def test_a_group_without_a_minimum_chooses_one_domain_too():
    """The basic policy starts what fits, but in one rack: that which takes the most pods."""
    placer = placer_of([node(f"{rack}{i}", 1, rack=rack) for rack in "abc" for i in range(2)])
    placer.snapshot.set_node(node("b2", 1, rack="b"))
    placer.snapshot.set_node(node("none", 9))
    item = gang_item(4, 1, topology_key="rack", minimum=0)
    decision = decide(placer, item)
    assert nodes_of(decision) == ["b0", "b1", "b2"]
    assert [pod.key[1] for pod, _ in decision.unplaced] == ["g-003"]
    assert item.gang is not None
    later = QueueItem((item.pods[3],), replace(item.gang, scheduled_count=3))
    assert not decide(placer, later).placements, "the rest waits for room in the same rack"


def test_a_group_whose_domain_is_gone_chooses_another_and_no_node_outside_of_any():
    placer = placer_of([node("lost", 9), node("a", 2, rack="a"), node("b", 4, rack="b")])
    gang = Gang(("ns", "g"), 2, "rack", scheduled_count=2)
    for i in range(2):
        placer.snapshot.place(Pod(("ns", f"old-{i}"), shape(1), gang=gang.key), "lost")
    more = tuple(Pod(("ns", f"new-{i}"), shape(1), gang=gang.key) for i in range(2))
    assert nodes_of(decide(placer, QueueItem(more, gang))) == ["a"]


def test_pods_that_are_ending_do_not_hold_a_gang_in_their_domain():
    placer = placer_of([node("a", 1, rack="a"), node("b", 4, rack="b")])
    gang = Gang(("ns", "g"), 3, "rack", scheduled_count=1)
    old = Pod(("ns", "old"), shape(1), gang=gang.key, terminating=True)
    placer.snapshot.place(old, "a")
    placer.snapshot.place(Pod(("ns", "kept"), shape(1), gang=gang.key), "b")
    more = tuple(Pod(("ns", f"new-{i}"), shape(1), gang=gang.key) for i in range(2))
    assert nodes_of(decide(placer, QueueItem(more, gang))) == ["b"]


def with_claim(pod, placer, spec):
    claim = ("ns", f"claim-of-{pod.key[1]}")
    placer.snapshot.set_claim(Claim(claim, spec), None)
    return replace(pod, claims=(claim,))


NOTHING = ClaimSpec((RequestEntry("r", (Request("r", "none"),)),))


def test_a_pod_whose_claim_finds_nothing_does_not_speak_for_those_without_claims():
    """However many there are: beyond a number, gangs are placed one by one or not at all."""
    placer = placer_of([node("n", 5_000)])
    placer.snapshot.inventory.set_class(DeviceClass("none"))
    item = gang_item(2_500, 1, minimum=2_400)
    first, *others = item.pods
    item = QueueItem((with_claim(first, placer, NOTHING), *others), item.gang)
    placer.snapshot.set_node(Node("n", (("cpu", 5_000), ("memory", 9_999), ("pods", 3_000)), {}))
    assert len(decide(placer, item).placements) == 2_499


@pytest.mark.parametrize("names", [("n0", "n1", "n2"), ("n2", "n1", "n0")])
def test_packing_takes_the_first_by_name_of_equal_nodes_in_whatever_order_they_came(names):
    placer = placer_of([node(name, 3) for name in names])
    item = gang_item(3, 1)
    small, other, large = item.pods
    item = QueueItem((small, other, replace(large, shape=shape(3))), item.gang)
    trial = Trial(placer)
    assert packing.pack(trial, item.pods, 3, None)
    assert [p.node for p in trial.placements] == ["n0", "n1", "n1"]
