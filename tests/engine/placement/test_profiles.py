"""Scheduler profiles: strategies by upstream's formulas, plugins off, weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.engine import reasons
from kubarium.engine.model import Composite, Gang, Node, Pod, PodShape, Taint
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import (
    MOST_ALLOCATED,
    REQUESTED_TO_CAPACITY_RATIO,
    Profile,
    Strategy,
    Weights,
)
from kubarium.engine.placement.scores import resource_score, resource_scores
from kubarium.engine.plan import Leaf, QueueItem, Tree
from kubarium.engine.selectors import NodeTerm, Requirement

from .worlds import clusters, shapes, snapshot_of


def node(name, cpu=4000, memory=8000, **more):
    return Node(name, (("cpu", cpu), ("memory", memory), ("pods", 10)), **more)


def shape(cpu, memory=0):
    requests = tuple((n, a) for n, a in (("cpu", cpu), ("memory", memory)) if a)
    return PodShape(requests=requests, nonzero=(cpu, memory))


def only_resources(strategy):
    weights = Weights(NodeResourcesBalancedAllocation=0)
    return Profile("s", weights=weights, strategy=strategy)


def score(strategy, wish, one):
    snapshot = snapshot_of([one])
    return int(resource_scores(snapshot, wish, only_resources(strategy))[0])


def test_most_allocated_prefers_the_fuller_node():
    # (1000*100/4000 + 4000*100/8000) / 2 = (25 + 50) / 2
    assert score(Strategy(MOST_ALLOCATED), shape(1000, 4000), node("n")) == 37
    snapshot = snapshot_of([node("empty"), node("used")])
    snapshot.place(Pod(("ns", "old"), shape(1000, 1000)), "used")
    profile = only_resources(Strategy(MOST_ALLOCATED))
    placement = Placer(snapshot, profile).place(Pod(("ns", "new"), shape(1000, 1000)))
    assert placement is not None
    assert placement.node == "used"


def test_most_allocated_counts_a_resource_over_its_capacity_as_full():
    assert score(Strategy(MOST_ALLOCATED, (("cpu", 1),)), shape(9000), node("n")) == 100


def test_weights_of_resources_count():
    strategy = Strategy(MOST_ALLOCATED, (("cpu", 3), ("memory", 1)))
    assert score(strategy, shape(1000, 4000), node("n")) == (3 * 25 + 50) // 4


@pytest.mark.parametrize(
    ("cpu", "expected"),
    # Points (0, 0), (50, 10), (100, 0): up to 100 at half, down again after.
    [(1000, 50), (2000, 100), (3000, 50), (4000, 0), (8000, 0)],
)
def test_requested_to_capacity_ratio_follows_its_shape(cpu, expected):
    ratio = Strategy(REQUESTED_TO_CAPACITY_RATIO, (("cpu", 1),), ((0, 0), (50, 10), (100, 0)))
    assert score(ratio, shape(cpu), node("n")) == expected


def test_a_resource_that_scores_nothing_drops_out_of_the_ratio():
    both = (("cpu", 1), ("memory", 1))
    ratio = Strategy(REQUESTED_TO_CAPACITY_RATIO, both, ((0, 0), (100, 10)))
    assert score(ratio, PodShape(requests=(("cpu", 2000),), nonzero=(2000, 0)), node("n")) == 50


@given(
    clusters(least=1),
    shapes(),
    st.sampled_from(
        [
            Strategy(),
            Strategy(MOST_ALLOCATED, (("cpu", 2), ("memory", 1))),
            Strategy(REQUESTED_TO_CAPACITY_RATIO, (("cpu", 1),), ((0, 10), (100, 0))),
        ]
    ),
)
def test_one_row_and_all_rows_agree(cluster, wish, strategy):
    snapshot = snapshot_of(cluster)
    profile = Profile(strategy=strategy)
    wants = (wish.request("cpu"), wish.request("memory")) if wish.requests else None
    column = resource_scores(snapshot, wish, profile)
    for row in snapshot.rows.values():
        assert resource_score(snapshot, wish, wants, row, profile) == column[row]


def test_a_filter_that_is_off_turns_nothing_away():
    tainted = node("n", taints=(Taint("dedicated", "gpu", "NoSchedule"),))
    pod = Pod(("ns", "p"), shape(1000))
    assert Placer(snapshot_of([tainted])).place(pod) is None
    lenient = Profile(disabled=frozenset({"TaintToleration"}))
    assert Placer(snapshot_of([tainted]), lenient).place(pod) is not None


def test_an_affinity_that_names_nodes_is_heeded_though_its_filter_is_off():
    """Upstream narrows the nodes before any filter (NodeAffinity, PreFilter)."""
    named = (NodeTerm(fields=(Requirement("metadata.name", "In", ("b",)),)),)
    pod = Pod(("ns", "p"), PodShape(affinity=named))
    off = frozenset({"NodeAffinity"})
    for profile, chosen in (
        (Profile(disabled=off), "b"),
        (Profile(disabled=off, unprepared=off), "a"),
        (Profile(unprepared=off), "b"),
    ):
        placement = Placer(snapshot_of([node("a"), node("b")]), profile).place(pod)
        assert placement is not None
        assert placement.node == chosen
        left = Placer(snapshot_of([node("a")]), profile).account(pod)
        told = {reasons.NOT_NAMED: 1} if not profile.unprepared else {}
        if profile.filters("NodeAffinity"):
            told = {reasons.NODE_AFFINITY: 1}
        assert left.counts == told


def test_fit_that_is_off_overcommits_only_for_its_own_profile():
    snapshot = snapshot_of([node("n", cpu=1000)])
    pod = Pod(("ns", "p"), shape(5000))
    assert Placer(snapshot).place(pod) is None
    assert Placer(snapshot, Profile(disabled=frozenset({"NodeResourcesFit"}))).place(pod)


def test_added_affinity_keeps_the_profiles_pods_to_its_nodes():
    wanted = (NodeTerm((Requirement("pool", "In", ("a",)),)),)
    profile = Profile(added_affinity=wanted)
    snapshot = snapshot_of([node("x", labels={"pool": "b"}), node("y", labels={"pool": "a"})])
    placer = Placer(snapshot, profile)
    placement = placer.place(Pod(("ns", "p"), shape(1000)))
    assert placement is not None
    assert placement.node == "y"
    verdict = placer.account(Pod(("ns", "q"), shape(9000)))
    assert verdict.counts == {reasons.ADDED_AFFINITY: 1, "Insufficient cpu": 1}


@pytest.mark.parametrize(
    "profile",
    [
        Profile(disabled=frozenset({"NodeResourcesFit"})),
        Profile(ignored_groups=frozenset({"example.com"})),
    ],
)
def test_a_gang_in_a_domain_is_not_bounded_by_what_its_profile_ignores(profile):
    """No node has the resource; whoever counts it, it is not this scheduler."""
    wish = PodShape(requests=(("example.com/fpga", 1),), nonzero=(1, 1))
    placer = Placer(snapshot_of([node(f"n{i}", labels={"rack": "r"}) for i in range(2)]), profile)
    gang = Gang(("ns", "g"), 3, "rack")
    pods = tuple(Pod(("ns", f"p{i}"), wish, gang=gang.key) for i in range(3))
    [alone] = plan_cycle(placer, [QueueItem(pods, gang)]).decisions
    assert len(alone.placements) == 3
    placer = Placer(snapshot_of([node(f"n{i}", labels={"rack": "r"}) for i in range(2)]), profile)
    tree = Tree(Composite(("ns", "t"), 1), (Leaf(gang, pods),))
    [grouped] = plan_cycle(placer, [QueueItem.of_tree(tree)]).decisions
    assert len(grouped.placements) == 3


OTHERS = tuple((f"example.org/r{i}", 1) for i in range(4))  # so that one more needs a new column


@pytest.mark.parametrize(
    ("profile", "wish", "more"),
    [
        (Profile(disabled=frozenset({"TaintToleration"})), (), ()),
        (Profile(ignored_groups=frozenset({"example.com"})), (("example.com/fpga", 1),), ()),
        (Profile(ignored_groups=frozenset({"example.com"})), (("example.com/fpga", 1),), OTHERS),
    ],
)
def test_a_gang_evicts_by_the_rules_of_its_own_profile(profile, wish, more):
    capacity = (("cpu", 4), ("pods", 10), *more)
    taints = (Taint("dedicated", "gpu", "NoSchedule"),) if not wish else ()
    snapshot = snapshot_of([Node("n", capacity, taints=taints)])
    for i in range(2):
        snapshot.place(Pod(("ns", f"low{i}"), shape(2)), "n")
    gang = Gang(("ns", "g"), 2)
    asks = PodShape(requests=(("cpu", 2), *wish), nonzero=(2, 0))
    pods = tuple(Pod(("ns", f"p{i}"), asks, gang=gang.key, priority=1) for i in range(2))
    [decision] = plan_cycle(Placer(snapshot, profile), [QueueItem(pods, gang)]).decisions
    assert decision.preemption is not None
    assert len(decision.preemption.victims) == 2


def test_a_gang_evicts_where_devices_stand_for_what_it_asks_for():
    """No node has the resource itself: the second variant, which does not ask for it, is meant."""
    snapshot = snapshot_of([Node("n", (("cpu", 4), ("pods", 10)))])
    for i in range(2):
        snapshot.place(Pod(("ns", f"low{i}"), shape(2)), "n")
    gang = Gang(("ns", "g"), 2)
    by_plugin = PodShape(
        requests=(("cpu", 2), ("example.com/gpu", 1)), advertised=(("example.com/gpu", True),)
    )
    by_devices = PodShape(requests=(("cpu", 2),), advertised=(("example.com/gpu", False),))
    pods = []
    for i in range(2):
        each = [
            Pod(("ns", f"p{i}"), one, gang=gang.key, priority=1) for one in (by_plugin, by_devices)
        ]
        pods.append(replace(each[0], variants=tuple(each)))
    [decision] = plan_cycle(Placer(snapshot), [QueueItem(tuple(pods), gang)]).decisions
    assert decision.preemption is not None
    assert len(decision.preemption.victims) == 2
