"""Composites, groups of groups, decided at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubarium.engine.model import Composite, Gang, HostPort, Node, Pod, PodShape
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.packing import MAX_PODS
from kubarium.engine.placement.reservation import reserve
from kubarium.engine.plan import Leaf, QueueItem, Tree
from kubarium.engine.selectors import Requirement

from .worlds import placer_of


def shape(cpu, **wishes):
    return PodShape(requests=(("cpu", cpu),), nonzero=(cpu, 1), **wishes)


def node(name, cpu, **labels):
    return Node(name, (("cpu", cpu), ("memory", 1000), ("pods", 100)), labels)


def group(name, *sizes, minimum=None, priority=0, **rules):
    """A pod group with a waiting pod for each size."""
    gang = Gang(("ns", name), len(sizes) if minimum is None else minimum, **rules)
    pods = tuple(
        Pod(("ns", f"{name}-{i}"), shape(size), gang=gang.key, priority=priority)
        for i, size in enumerate(sizes)
    )
    return Leaf(gang, pods)


def composite(name, *children, minimum=None, **rules):
    return Tree(
        Composite(("ns", name), len(children) if minimum is None else minimum, **rules), children
    )


def decide(placer, tree, preemption=False):
    [decision] = plan_cycle(placer, [QueueItem.of_tree(tree)], preemption=preemption).decisions
    placer.snapshot.check()
    return decision


def homes(decision):
    found = {}
    for placement in decision.placements:
        found.setdefault(placement.pod.gang[1], set()).add(placement.node)
    return found


def racks(**slots):
    """One node of as many cpus as the rack has slots; the rack's first letter is its block."""
    return [node(rack, cpu, block=rack[0], rack=rack) for rack, cpu in slots.items()]


RACK = {"topology_key": "rack"}


def test_a_composite_starts_whole_or_not_at_all():
    placer = placer_of([node("n", 4)])
    short = decide(placer, composite("job", group("a", 1, 1), group("b", 1, 1, 1)))
    assert not short.placements
    assert not placer.snapshot.requested.any()
    assert decide(placer, composite("job", group("a", 1, 1), group("b", 1, 1))).placements


def test_a_composite_of_a_thousand_groups_starts():
    """More of them than calls may lie within each other, and than attempts at one group."""
    groups = [group(f"g{i}", 1) for i in range(1200)]
    room = Node("n", (("cpu", 1200), ("pods", 1200)))
    assert len(decide(placer_of([room]), composite("job", *groups)).placements) == 1200
    short = decide(placer_of([room]), composite("job", *groups, group("more", 1)))
    assert short.gang_verdict.placed == 1200
    assert not short.gang_verdict.undecided
    some = decide(placer_of([room]), composite("job", *groups, group("more", 1), minimum=1100))
    assert len(some.placements) == 1200


def test_groups_land_in_racks_of_their_own_within_one_block():
    placer = placer_of(racks(a1=3, a2=5, b1=5, b2=5))
    tree = composite(
        "job",
        group("x", *[1] * 5, **RACK),
        group("y", *[1] * 5, **RACK),
        required_keys=("block",),
    )
    assert homes(decide(placer, tree)) == {"x": {"b1"}, "y": {"b2"}}


def test_an_earlier_group_moves_for_a_later_one_as_upstream_does_not():
    """x fits best in a1, the only rack with a node for y: KEP-6012 would give up there."""
    nodes = [*racks(a1=4), *(node(f"a2-{i}", 3, block="a", rack="a2") for i in range(2))]
    tree = composite("job", group("x", 1, 1, 1, **RACK), group("y", 4, **RACK))
    found = homes(decide(placer_of(nodes), tree))
    assert found["y"] == {"a1"}
    assert found["x"] <= {"a2-0", "a2-1"}


def test_pods_beyond_a_minimum_never_take_the_room_of_a_sibling():
    placer = placer_of([node("n", 5)])
    tree = composite("job", group("greedy", *[1] * 5, minimum=2), group("small", 1, 1))
    decision = decide(placer, tree)
    assert sorted(p.pod.gang[1] for p in decision.placements) == ["greedy"] * 3 + ["small"] * 2
    assert [pod.key[1] for pod, _ in decision.unplaced] == ["greedy-3", "greedy-4"]


def test_packing_goes_back_over_the_pods_of_an_earlier_group():
    """One after the other, a's small pod sits where only b's large one fits."""
    nodes = [node("large", 4, disk="ssd"), node("small", 2)]
    a = Leaf(
        Gang(("ns", "a"), 2),
        (
            Pod(("ns", "a-0"), shape(2), gang=("ns", "a")),
            Pod(("ns", "a-1"), shape(1), gang=("ns", "a")),
        ),
    )
    b = group("b", 3)
    decision = decide(placer_of(nodes), composite("job", a, b))
    assert {p.pod.key[1]: p.node for p in decision.placements} == {
        "a-0": "small",
        "a-1": "large",
        "b-0": "large",
    }


def test_the_minimum_of_groups_is_enough():
    placer = placer_of([node("n", 4)])
    tree = composite("job", group("a", 3, 3), group("b", 2), group("c", 2), minimum=2)
    decision = decide(placer, tree)
    assert set(homes(decision)) == {"b", "c"}
    assert {pod.gang[1] for pod, _ in decision.unplaced} == {"a"}


def test_a_basic_composite_starts_what_fits_and_keeps_gangs_whole():
    placer = placer_of([node("n", 3)])
    tree = composite("job", group("a", 2, 2), group("b", 1, 1), group("c", 1), minimum=0)
    assert set(homes(decide(placer, tree))) == {"b", "c"}


def test_four_levels_narrow_each_other():
    nodes = [
        node(
            f"{zone}{block}{rack}",
            2,
            zone=zone,
            block=f"{zone}{block}",
            rack=f"{zone}{block}{rack}",
        )
        for zone in "pq"
        for block in "ab"
        for rack in "12"
    ]
    inner = [
        composite(
            f"replica-{i}",
            group(f"w{i}", 1, 1, topology_key="rack"),
            group(f"d{i}", 1, 1, topology_key="rack"),
            required_keys=("block",),
        )
        for i in range(2)
    ]
    found = homes(decide(placer_of(nodes), composite("job", *inner, required_keys=("zone",))))
    where = {name: next(iter(nodes)) for name, nodes in found.items()}
    assert all(len(nodes) == 1 for nodes in found.values())
    assert len({name[0] for name in where.values()}) == 1
    assert where["w0"][:2] == where["d0"][:2] != where["w1"][:2] == where["d1"][:2]


def test_preferred_levels_of_a_composite_are_tried_and_given_up():
    spread = composite("job", group("a", 1, 1), group("b", 1, 1), preferred_keys=("rack",))
    assert len(set.union(*homes(decide(placer_of(racks(a1=3, a2=4)), spread)).values())) == 1
    assert len(set.union(*homes(decide(placer_of(racks(a1=3, a2=3)), spread)).values())) == 2


def test_the_verdict_names_the_group_that_finds_no_room_and_why():
    placer = placer_of(racks(a1=4, a2=3))
    tree = composite("job", group("first", *[1] * 4, **RACK), group("second", *[1] * 4, **RACK))
    decision = decide(placer, tree)
    verdict = decision.gang_verdict
    assert (verdict.needed, verdict.placed) == (2, 1)
    assert [child.gang[1] for child in verdict.children] == ["second"]
    assert verdict.message() == (
        "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match the placement of the "
        "pod group. composite pod group job: needs 2 groups at once, 1 found room "
        "(pod group second: gang needs 4, at most 3 fit within rack=a2)."
    )
    assert not verdict.undecided


def test_a_composite_without_its_groups_waits():
    decision = decide(placer_of([node("n", 9)]), composite("job", group("a", 1), minimum=2))
    assert not decision.placements
    assert "minGroupCount" in decision.gang_verdict.waiting
    half = composite("job", group("a", 1), group("b", 1, minimum=2))
    assert "pod group b" in decide(placer_of([node("n", 9)]), half).gang_verdict.waiting


def sized(count):
    """Sizes of which three go into a node of 100, one more than ``count`` nodes can take."""
    return [26, 27] * count + [26] * (count + 1)


def says(verdict, undecided):
    assert verdict.undecided == undecided
    assert ("undecided: other arrangements may fit" in verdict.message()) == undecided
    assert "at most" not in verdict.summary()


def even(count):
    """Even sizes, three for each of ``count`` nodes of 1001, and in all two more than 1000 each.

    They cannot fit, since an even sum is at most 1000; neither number nor total says so.
    """
    sizes = [size for i in range(count) for size in (260 + 2 * i, 320 + 4 * i, 420 - 6 * i)]
    return [sizes[0] + 2, *sizes[1:]]


@pytest.mark.parametrize("count", [3, 12])
def test_a_composite_that_does_not_fit_is_searched_to_the_end(count):
    nodes = [node(f"n{i:02d}", 100) for i in range(count)]
    sizes = sized(count)
    tree = composite("job", group("a", *sizes[::2]), group("b", *sizes[1::2]))
    says(decide(placer_of(nodes), tree).gang_verdict, undecided=False)


def test_a_search_that_is_given_up_says_so_and_claims_nothing():
    nodes = [node(f"n{i:02d}", 1001) for i in range(12)]
    sizes = even(12)
    tree = composite("job", group("a", *sizes[::2]), group("b", *sizes[1::2]))
    says(decide(placer_of(nodes), tree).gang_verdict, undecided=True)


def lone_verdict(nodes, sizes):
    lone = group("a", *sizes)
    [gang] = plan_cycle(placer_of(nodes), [QueueItem(lone.pods, lone.gang)]).decisions
    return gang.gang_verdict


@pytest.mark.parametrize("count", [12, 20, 60])
def test_a_gang_for_which_there_is_no_arrangement_is_refused_for_good(count):
    """Beside the large pod that every node takes, there is room for one small one, not for two."""
    nodes = [node(f"n{i:02d}", 100 + i % 3) for i in range(count)]
    verdict = lone_verdict(nodes, [52] * count + [28, 26] * (count // 2 + 1))
    says(verdict, undecided=False)


def test_a_gang_whose_search_is_given_up_says_so_and_claims_nothing():
    nodes = [node(f"n{i:02d}", 1001) for i in range(20)]
    says(lone_verdict(nodes, even(20)), undecided=True)


def wishing(leaf, **wishes):
    """The group with wishes that all of its pods have."""
    pods = tuple(replace(pod, shape=replace(pod.shape, **wishes)) for pod in leaf.pods)
    return replace(leaf, pods=pods)


@pytest.mark.parametrize(
    ("cpu", "nodes", "first", "second", "found"),
    [
        (100, "xn", (100,), (100,), ({"n1"}, {"n0"})),
        (115, "xnnx", (100, 110), (60, 70), ({"n1", "n2"}, {"n0", "n3"})),
    ],
)
def test_nodes_that_only_another_group_tells_apart_are_not_alike(cpu, nodes, first, second, found):
    """The first group could go to any node, the second only to those with a disk."""
    disks = {"x": {"disk": "ssd"}, "n": {}}
    nodes = [node(f"n{i}", cpu, **disks[kind]) for i, kind in enumerate(nodes)]
    picky = wishing(group("b", *second), node_selector=(Requirement("disk", "Exists", ()),))
    where = homes(decide(placer_of(nodes), composite("job", group("a", *first), picky)))
    assert (where["a"], where["b"]) == found


def test_racks_in_which_different_ports_are_taken_are_not_alike():
    """Both have the same room; in the first a pod holds the port that the group asks for."""
    port = HostPort("0.0.0.0", "TCP", 80)
    placer = placer_of(racks(a1=4, a2=4))
    placer.snapshot.place(Pod(("ns", "old"), shape(1, ports=(port,))), "a1")
    placer.snapshot.place(Pod(("ns", "other"), shape(1)), "a2")
    leaf = wishing(group("g", 2, **RACK), ports=(port,))
    assert homes(decide(placer, composite("job", leaf))) == {"g": {"a2"}}


def test_a_gang_with_more_pods_than_its_sizes_leave_room_for_is_refused_without_a_search():
    """No search of 5,000 placements could see through 200 pods: three fit on each node."""
    nodes = [node(f"n{i:02d}", 100) for i in range(60)]
    verdict = lone_verdict(nodes, sized(60))
    says(verdict, undecided=False)
    assert (verdict.needed, verdict.placed) == (181, 180)


def test_a_nested_composite_that_does_not_fit_is_proven():
    """Three racks of a block hold a group each; the fourth finds none, whatever is tried."""
    nodes = racks(a1=3, a2=3, a3=3, b1=3, b2=3, b3=3)
    inner = [
        composite(
            f"i{n}", *(group(f"g{n}{i}", 1, 1, **RACK) for i in range(4)), required_keys=("block",)
        )
        for n in range(2)
    ]
    verdict = decide(placer_of(nodes), composite("job", *inner)).gang_verdict
    assert not verdict.undecided
    assert [child.gang[1] for child in verdict.children] == ["i0", "i1"]
    assert "pod group g03: gang needs 2, at most 1 fit" in verdict.message()


def test_a_group_that_fits_nowhere_ends_the_search_at_once():
    nodes = [node(f"n{i}", 101 + i, rack=f"r{i}") for i in range(12)]
    groups = [group(f"g{i}", 51, 50, **RACK) for i in range(8)]
    tree = composite("job", *groups, group("huge", 200, **RACK))
    verdict = decide(placer_of(nodes), tree).gang_verdict
    assert not verdict.undecided
    assert [child.gang[1] for child in verdict.children] == ["huge"]


def test_too_many_ways_to_place_groups_are_given_up_undecided():
    """Eight groups of a rack each, and seven racks that take one: many orders, all in vain."""
    nodes = [node(f"n{i}", 110 + i, rack=f"r{i}") for i in range(7)]
    nodes += [node(f"m{i}-{j}", 53 + i, rack=f"s{i}") for i in range(3) for j in range(2)]
    tree = composite("job", *(group(f"g{i}", 61 + i, 40, **RACK) for i in range(8)))
    placer = placer_of(nodes)
    verdict = decide(placer, tree).gang_verdict
    assert verdict.undecided
    assert verdict.placed == 7
    assert not placer.snapshot.requested.any()


def test_a_mixed_gang_beyond_the_limit_is_packed_and_else_undecided():
    nodes = [node(f"n{i:03d}", 100) for i in range(70)]
    lone = group("a", *([26, 27] * 105)[:210])
    [decision] = plan_cycle(placer_of(nodes), [QueueItem(lone.pods, lone.gang)]).decisions
    assert len(decision.placements) == 210 > MAX_PODS
    nodes = [node(f"n{i:03d}", 100) for i in range(105)]
    verdict = lone_verdict(nodes, [52] * 105 + [28, 26] * 53)
    assert verdict.needed > MAX_PODS
    assert verdict.undecided


def test_later_pods_of_a_running_composite_stay_in_its_domain():
    placer = placer_of(racks(a1=4, b1=9))
    tree = composite("job", group("w", 1, 1, minimum=1), required_keys=("block",))
    assert homes(decide(placer, tree)) == {"w": {"a1"}}
    gang = replace(tree.children[0].gang, scheduled_count=2)
    more = tuple(Pod(("ns", f"late-{i}"), shape(1), gang=gang.key) for i in range(3))
    later = decide(placer, replace(tree, children=(Leaf(gang, more),)))
    assert homes(later) == {"w": {"a1"}}
    assert len(later.placements) == 2


# Preemption


def running(placer, name, *sizes, priority=0, parent=None, all_disrupted=False, on="n0"):
    gang = Gang(("ns", name), 1, parent=parent, all_disrupted=all_disrupted)
    placer.snapshot.gangs[gang.key] = gang
    for i, size in enumerate(sizes):
        pod = Pod(("ns", f"{name}-{i}"), shape(size), gang=gang.key, priority=priority)
        placer.snapshot.place(pod, on)


def victims(decision):
    return sorted(pod.key[1] for pod in decision.preemption.victims)


def urgent(*groups):
    return composite("urgent", *groups, priority=10)


def test_a_composite_preempts_as_one():
    placer = placer_of([node("n0", 4), node("n1", 4)])
    running(placer, "old", 4)
    running(placer, "other", 4, on="n1")
    tree = urgent(group("a", 4, priority=10), group("b", 1, priority=10))
    decision = decide(placer, tree, preemption=True)
    assert victims(decision) == ["old-0", "other-0"]
    assert {pod.key[1] for pod, _ in decision.preemption.nominations} == {"a-0", "b-0"}
    too_large = urgent(group("a", 4, priority=10), group("b", 5, priority=10))
    assert decide(placer, too_large, preemption=True).preemption is None


@pytest.mark.parametrize(
    ("mode", "gone"), [(True, ["l-0", "r-0"]), (False, ["l-0"])], ids=["all", "single"]
)
def test_a_composite_of_mode_all_goes_as_a_whole(mode, gone):
    placer = placer_of([node("n0", 4), node("n1", 4)])
    root = Composite(("ns", "root"), 2, all_disrupted=mode)
    inner = Composite(("ns", "inner"), 1, parent=root.key)
    placer.snapshot.composites |= {root.key: root, inner.key: inner}
    running(placer, "l", 4, parent=inner.key)
    running(placer, "r", 4, parent=root.key, on="n1")
    tree = urgent(group("a", 3, priority=10))
    decision = decide(placer, tree, preemption=True)
    assert len(victims(decision)) == len(gone)
    assert bool(decision.preemption.units) == mode
    single = QueueItem((Pod(("ns", "solo"), shape(4), priority=10),))
    [decision] = plan_cycle(placer, [single]).decisions
    assert len(victims(decision)) == len(gone)


def test_a_group_with_its_own_higher_priority_is_no_victim():
    placer = placer_of([node("n0", 4)])
    root = Composite(("ns", "root"), 1, all_disrupted=True, priority=20)
    placer.snapshot.composites[root.key] = root
    running(placer, "old", 4, parent=root.key)
    tree = urgent(group("a", 3, priority=10))
    assert decide(placer, tree, preemption=True).preemption is None


def test_a_group_that_may_not_preempt_does_not():
    placer = placer_of([node("n0", 4)])
    running(placer, "old", 4)
    tree = composite("calm", group("a", 3, priority=10), preempts=False)
    assert decide(placer, tree, preemption=True).preemption is None


# Reservations


def test_a_composite_has_a_reservation_like_a_gang():
    placer = placer_of([node(f"n{i}", 4) for i in range(3)])
    for i in range(3):
        placer.snapshot.place(Pod(("ns", f"job-{i}"), shape(3), finite=True), f"n{i}")
    item = QueueItem.of_tree(composite("job", group("a", 4), group("b", 4)))
    reserved = reserve(placer, item)
    assert len({node for _, node in reserved}) == 2
    small = [QueueItem((Pod(("ns", f"s-{i}"), shape(1), created=9.0),)) for i in range(4)]
    plan = plan_cycle(placer, small, preemption=False, nominated=reserved)
    assert len(plan.placements()) == 1, "only beside the reservation"
