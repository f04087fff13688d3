"""Spread and inter-pod affinity against a naive count over pods."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine import reasons
from kubarium.engine.model import (
    Gang,
    Node,
    Pod,
    PodShape,
    PodTerm,
    SpreadConstraint,
    WeightedPodTerm,
)
from kubarium.engine.placement import filters, topology
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import QueueItem
from kubarium.engine.selectors import LabelSelector, Requirement
from kubarium.engine.snapshot import Snapshot

APP = LabelSelector((Requirement("app", "In", ("x",)),))
TERM = PodTerm("zone", APP, ("ns",))


def cluster(zones, pods=10):
    snapshot = Snapshot()
    for i, zone in enumerate(zones):
        labels = {"zone": zone} if zone else {}
        snapshot.set_node(Node(f"n{i}", (("cpu", 1000), ("pods", pods)), labels))
    return snapshot


def pod(name, app="x", **shape):
    return Pod(("ns", name), PodShape(**shape), labels={"app": app})


zones = st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=5)
there = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["x", "y"])), max_size=8)


def filled(zone_list, placed):
    snapshot = cluster(zone_list)
    counts = dict.fromkeys([z for z in zone_list if z], 0)
    for i, (where, app) in enumerate(placed):
        where %= len(zone_list)
        snapshot.place(pod(f"old-{i}", app), f"n{where}")
        if app == "x" and zone_list[where]:
            counts[zone_list[where]] += 1
    return snapshot, counts


@settings(deadline=None)
@given(zones, there, st.integers(1, 2))
def test_spread_admits_exactly_the_domains_within_the_skew(zone_list, placed, skew):
    snapshot, counts = filled(zone_list, placed)
    newcomer = pod("new", spread=(SpreadConstraint("zone", skew, True, APP),))
    verdict = Placer(snapshot).account(newcomer)
    least = min(counts.values(), default=0)
    for i, zone in enumerate(zone_list):
        why = verdict.by_node[f"n{i}"]
        if not zone:
            assert why == (reasons.SPREAD_LABEL,)
        elif counts[zone] + 1 - least > skew:
            assert why == (reasons.SPREAD,)
        else:
            assert why == ()


@settings(deadline=None)
@given(zones, there)
def test_affinity_and_anti_affinity_look_at_the_domain(zone_list, placed):
    snapshot, counts = filled(zone_list, placed)
    near = Placer(snapshot).account(pod("new", app="y", pod_affinity=(TERM,)))
    away = Placer(snapshot).account(pod("new", app="y", pod_anti_affinity=(TERM,)))
    for i, zone in enumerate(zone_list):
        there_now = bool(zone and counts[zone])
        assert (near.by_node[f"n{i}"] == ()) == there_now
        assert (away.by_node[f"n{i}"] == ()) == (not there_now)


def test_the_first_pod_of_a_series_may_start_anywhere():
    placer = Placer(cluster(["a", "b"]))
    placements = [placer.place(pod(f"p{i}", pod_affinity=(TERM,))) for i in range(4)]
    assert all(placements)
    zone_of = {"n0": "a", "n1": "b"}
    assert len({zone_of[p.node] for p in placements}) == 1


def test_a_pod_that_wants_to_be_alone_keeps_later_ones_away():
    placer = Placer(cluster(["a", "a", "b"]))
    assert placer.place(pod("lonely", pod_anti_affinity=(TERM,)))
    lonely = placer.snapshot.node_of(("ns", "lonely"))
    verdict = placer.account(pod("late"))
    assert verdict.by_node[lonely] == (reasons.EXISTING_ANTI_AFFINITY,)


def test_spread_pods_are_placed_one_by_one_in_turn():
    spread = (SpreadConstraint("zone", 1, True, APP),)
    placer = Placer(cluster(["a", "b", "c"]))
    items = [QueueItem((pod(f"p{i}", spread=spread),)) for i in range(9)]
    plan = plan_cycle(placer, items)
    nodes = [p.node for p in plan.placements()]
    assert {node: nodes.count(node) for node in nodes} == {"n0": 3, "n1": 3, "n2": 3}


def test_a_topology_gang_takes_the_tightest_domain_that_holds_it():
    snapshot = Snapshot()
    for name, zone, cpu in (("a0", "a", 8), ("b0", "b", 2), ("b1", "b", 1), ("c0", "c", 1)):
        snapshot.set_node(Node(name, (("cpu", cpu), ("pods", 10)), {"zone": zone}))
    shape = PodShape(requests=(("cpu", 1),))
    gang = Gang(("ns", "g"), 3, topology_key="zone")
    members = tuple(Pod(("ns", f"p{i}"), shape, gang=gang.key) for i in range(3))
    [decision] = plan_cycle(Placer(snapshot), [QueueItem(members, gang)]).decisions
    assert sorted(p.node for p in decision.placements) == ["b0", "b0", "b1"]
    too_many = tuple(Pod(("ns", f"q{i}"), shape, gang=gang.key) for i in range(9))
    large = Gang(("ns", "h"), 9, topology_key="zone")
    [refused] = plan_cycle(Placer(snapshot), [QueueItem(too_many, large)]).decisions
    assert not refused.placements
    assert "gang needs 9, at most 8 fit within zone=a" in refused.gang_verdict.message()


def test_a_pod_that_is_ending_keeps_others_away_until_it_is_gone():
    """Spread looks past it, (anti-)affinity does not."""
    snapshot = cluster(["a", "b"])
    snapshot.place(Pod(("ns", "old"), PodShape(), labels={"app": "x"}, terminating=True), "n0")
    placer = Placer(snapshot)
    apart = pod("apart", pod_anti_affinity=(TERM,))
    assert placer.place(apart).node == "n1"
    snapshot.displace(("ns", "apart"))
    near = pod("near", app="y", pod_affinity=(TERM,))
    assert placer.place(near).node == "n0"
    constraint = SpreadConstraint("zone", 1, True, APP)
    snapshot.place(pod("one"), "n1")
    assert placer.place(pod("two", spread=(constraint,))).node == "n0"


def test_a_spread_selector_without_clauses_counts_no_pods():
    snapshot = cluster(["a", "b"])
    for i in range(2):
        snapshot.place(pod(f"old-{i}"), "n0")
    snapshot.set_node(Node("n1", (("cpu", 0), ("pods", 0)), {"zone": "b"}))
    constraint = SpreadConstraint("zone", 1, True, LabelSelector(()))
    assert Placer(snapshot).place(pod("new", spread=(constraint,))).node == "n0"


def test_preferences_are_scaled_in_upstreams_order_of_operations():
    """29 of 100: first divided, then multiplied, 28.999… is cut to 28."""
    snapshot = Snapshot()
    for name in ("a", "b", "c"):
        snapshot.set_node(Node(name, (("cpu", 1000), ("pods", 9)), {"zone": name}))
    snapshot.place(pod("x", app="x"), "b")
    snapshot.place(pod("y", app="y"), "c")

    def wish(weight, app):
        selector = LabelSelector((Requirement("app", "In", (app,)),))
        return WeightedPodTerm(weight, PodTerm("zone", selector, ("ns",)))

    wanting = pod("new", app="z", pod_preferred=(wish(29, "x"), wish(100, "y")))
    weighted = topology.score(snapshot, wanting, snapshot.alive)[:3].tolist()
    assert weighted == [0, 2 * 28, 2 * 100]


def waiting(name, app="x"):
    return Pod(("ns", name), PodShape(), labels={"app": app}, priority=9)


def test_a_pod_does_not_go_near_one_that_is_only_nominated():
    """It might never come; upstream filters a second time without the nominated pods."""
    placer = Placer(cluster(["a", "b"]))
    friend, near = waiting("friend"), pod("near", "y", pod_affinity=(TERM,))
    [decision] = plan_cycle(placer, [QueueItem((near,))], nominated=[(friend, "n1")]).decisions
    assert not decision.placements
    assert decision.unplaced[0][1].counts == {reasons.POD_AFFINITY: 2}
    placer.snapshot.place(friend, "n1")
    [decision] = plan_cycle(placer, [QueueItem((near,))]).decisions
    assert [p.node for p in decision.placements] == ["n1"]


def test_a_nominated_pod_counts_on_its_own_node_alone():
    """Elsewhere nobody need be near it, and nobody need stay away from its domain."""
    placer = Placer(cluster(["a", "a"]))
    friend = waiting("friend")
    nominated = [(friend, "n1")]
    shy = pod("shy", "y", pod_anti_affinity=(TERM,))
    [decision] = plan_cycle(placer, [QueueItem((shy,))], nominated=nominated).decisions
    assert [p.node for p in decision.placements] == ["n0"]
    placer = Placer(cluster(["a", "b"]))
    first = pod("first", "x", pod_affinity=(TERM,))  # as there is none yet, it may be alone
    [decision] = plan_cycle(placer, [QueueItem((first,))], nominated=nominated).decisions
    assert [p.node for p in decision.placements] == ["n0"]


wishes = st.sampled_from(
    [
        {"pod_affinity": (TERM,)},
        {"pod_anti_affinity": (TERM,)},
        {"spread": (SpreadConstraint("zone", 1, True, APP),)},
    ]
)


@settings(deadline=None)
@given(zones, there, there, wishes)
def test_what_is_placed_fits_with_the_nominated_pods_and_without(zone_list, placed, coming, wish):
    snapshot, _ = filled(zone_list, placed)
    placer, new = Placer(snapshot), pod("new", **wish)
    nominated = [
        (waiting(f"later-{i}", app), f"n{where % len(zone_list)}")
        for i, (where, app) in enumerate(coming)
    ]
    without = topology.surroundings(snapshot, new).mask(snapshot.capacity)
    allowed = set()
    for i, name in enumerate(f"n{i}" for i in range(len(zone_list))):
        mark = snapshot.checkpoint()
        for friend, node in nominated:
            if node == name:
                snapshot.place(friend, node)
        beside = topology.surroundings(snapshot, new).mask(snapshot.capacity)
        if without[i] and beside[i] and len(snapshot.pods_on[i]) < 10:
            allowed.add(name)
        snapshot.rollback(mark)
    [decision] = plan_cycle(placer, [QueueItem((new,))], nominated=nominated).decisions
    assert bool(decision.placements) == bool(allowed)
    assert all(p.node in allowed for p in decision.placements)
    snapshot.check()


def test_one_row_gives_the_same_answer_as_the_columns_about_declared_features():
    snapshot = Snapshot()
    for name, features in (("a", ()), ("b", ("X",)), ("c", ("X", "Y"))):
        amounts = (("cpu", 4), ("pods", 9))
        snapshot.set_node(Node(name, amounts, features=frozenset(features)))
    for needed, fitting in ((("X",), "bc"), (("X", "Y"), "c"), (("Z",), ""), ((), "abc")):
        shape = PodShape(features=needed)
        mask = filters.static_mask(snapshot, shape)
        rows = {snapshot.rows[name] for name in fitting}
        assert set(mask.nonzero()[0].tolist()) == rows
        assert {r for r in snapshot.rows.values() if filters.row_passes(snapshot, shape, r)} == rows


def test_nodes_without_a_zone_are_of_the_zone_without_a_name():
    """Where the defaults spread, upstream takes a missing label for the empty value."""
    snapshot = Snapshot()
    for name, zone in (("a", ""), ("b", None), ("c", "z")):
        labels = {} if zone is None else {"zone": zone}
        snapshot.set_node(Node(name, (("cpu", 1000), ("pods", 10)), labels))
    for i, where in enumerate("bbc"):
        snapshot.place(pod(f"old-{i}"), where)
    soft = SpreadConstraint("zone", 5, False, APP)
    newcomer = pod("new", spread=(soft,), spread_by_default=True)
    feasible = snapshot.alive.copy()
    # Counts 2 (the pods on b), none for b itself, and 1; each by log 4, plus 4: 7, 0 and 5.
    scores = topology.score(snapshot, newcomer, feasible)
    assert scores[:3].tolist() == [2 * 0, 2 * 100, 2 * 28]
