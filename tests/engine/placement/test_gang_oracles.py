"""Gangs and composites against oracles: what exists is found, and nothing is over-allocated."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine.devices.model import (
    ClaimSpec,
    Device,
    DeviceClass,
    Request,
    RequestEntry,
    Slice,
)
from kubarium.engine.model import (
    Claim,
    Composite,
    Gang,
    Node,
    Pod,
    PodShape,
    PodTerm,
    SpreadConstraint,
)
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import Leaf, QueueItem, Tree
from kubarium.engine.selectors import LabelSelector, NodeTerm, Requirement

from .oracles import leaves_of, solver_says, some_assignment, starts
from .worlds import placer_of, snapshot_of

checked = settings(deadline=None, max_examples=150)
few = settings(deadline=None, max_examples=50)

BLOCK, RACK = "block", "rack"


@st.composite
def racked_nodes(draw, most):
    found = []
    for i in range(draw(st.integers(1, most))):
        block, rack = draw(st.sampled_from("ab")), draw(st.sampled_from("xy"))
        labels = {BLOCK: block, RACK: block + rack}
        if draw(st.integers(0, 9)) == 0:
            del labels[RACK]
        if draw(st.booleans()):
            labels["disk"] = "ssd"
        resources = (
            ("cpu", draw(st.integers(0, 6))),
            ("memory", draw(st.integers(2, 6))),
            ("pods", draw(st.integers(1, 4))),
        )
        found.append(Node(f"n{i}", resources, labels))
    return found


def wishes():
    ssd = Requirement("disk", "Exists", ())
    not_a = NodeTerm((Requirement(BLOCK, "NotIn", ("a",)),))
    return st.builds(
        lambda cpu, memory, selector, affinity: PodShape(
            requests=(("cpu", cpu), ("memory", memory)),
            node_selector=selector,
            affinity=affinity,
            nonzero=(cpu, memory),
        ),
        st.integers(1, 4),
        st.integers(1, 3),
        st.sampled_from([(), (), (), (ssd,)]),
        st.sampled_from([None, None, (not_a,)]),
    )


def keys(*levels):
    return st.sampled_from([(), (), *((level,) for level in levels)])


@st.composite
def leaf(draw, name, most):
    size = draw(st.integers(1, most))
    minimum = draw(st.integers(0, size))
    required, preferred = draw(keys(RACK, BLOCK)), draw(keys(RACK))
    gang = Gang(("ns", name), minimum, inner_keys=required, preferred_keys=preferred)
    pods = tuple(Pod(("ns", f"{name}-{i}"), draw(wishes()), gang=gang.key) for i in range(size))
    return Leaf(gang, pods)


@st.composite
def trees(draw, groups=3, size=2):
    """Up to three levels; the middle one stands alone or holds the first groups."""
    children = [draw(leaf(f"g{i}", size)) for i in range(draw(st.integers(1, groups)))]
    if draw(st.booleans()):
        inner = draw(st.integers(1, len(children)))
        middle = Composite(("ns", "middle"), draw(st.integers(0, inner)), draw(keys(BLOCK, RACK)))
        children = [Tree(middle, tuple(children[:inner])), *children[inner:]]
    root = Composite(
        ("ns", "root"), draw(st.integers(0, len(children))), draw(keys(BLOCK)), draw(keys(RACK))
    )
    return Tree(root, tuple(children))


def decide(placer, group):
    item = (
        QueueItem(group.pods, group.gang) if isinstance(group, Leaf) else QueueItem.of_tree(group)
    )
    [decision] = plan_cycle(placer, [item], preemption=False).decisions
    return decision


def is_whole(cluster, tree, decision) -> bool:
    """Whether what was placed starts the tree, domains included, and no group runs in part."""
    by_name = {node.name: node for node in cluster}
    placed = {p.pod.key: by_name[p.node] for p in decision.placements}
    partial = [
        group
        for group in leaves_of(tree)
        if any(pod.key in placed for pod in group.pods) and not starts(group, placed)
    ]
    return starts(tree, placed) and not partial


@checked
@given(racked_nodes(3), trees())
def test_a_composite_starts_exactly_when_some_assignment_exists(cluster, tree):
    placer = placer_of(cluster)
    decision = decide(placer, tree)
    placer.snapshot.check()
    if decision.placements:
        assert is_whole(cluster, tree, decision)
    else:
        assert not decision.gang_verdict.undecided
        assert not some_assignment(cluster, tree)


@checked
@given(racked_nodes(4), leaf("g", 4))
def test_a_gang_with_levels_starts_exactly_when_some_assignment_exists(cluster, group):
    if not group.gang.min_count:
        return
    decision = decide(placer_of(cluster), group)
    if decision.placements:
        assert is_whole(cluster, group, decision)
    else:
        assert not decision.gang_verdict.undecided
        assert not some_assignment(cluster, group)


@few
@given(racked_nodes(7), trees(groups=4, size=3))
def test_a_composite_agrees_with_a_constraint_solver(cluster, tree):
    cp_model = pytest.importorskip("ortools.sat.python.cp_model", reason="needs ortools")
    decision = decide(placer_of(cluster), tree)
    if decision.placements:
        assert is_whole(cluster, tree, decision)
        assert solver_says(cp_model, cluster, tree) is not False
    elif decision.gang_verdict is None or not decision.gang_verdict.undecided:
        assert not solver_says(cp_model, cluster, tree)


@few
@given(racked_nodes(8), leaf("g", 10))
def test_a_mixed_gang_agrees_with_a_constraint_solver(cluster, group):
    cp_model = pytest.importorskip("ortools.sat.python.cp_model", reason="needs ortools")
    if not group.gang.min_count:
        return
    decision = decide(placer_of(cluster), group)
    if decision.placements:
        assert is_whole(cluster, group, decision)
        assert solver_says(cp_model, cluster, group) is not False
    elif not decision.gang_verdict.undecided:
        assert not solver_says(cp_model, cluster, group)


@checked
@given(racked_nodes(4), trees())
def test_a_composite_is_all_or_nothing_and_never_over_allocates(cluster, tree):
    placer = placer_of(cluster)
    before = placer.snapshot.requested.copy()
    decision = decide(placer, tree)
    snapshot = placer.snapshot
    snapshot.check()
    for row in snapshot.rows.values():
        assert (snapshot.requested[:, row] <= snapshot.allocatable[:, row]).all()
    keys_placed = {p.pod.key for p in decision.placements}
    assert len(keys_placed) == len(decision.placements)
    assert {pod.key for pod, _ in snapshot.placed_pods()} == keys_placed
    if not decision.placements:
        assert (snapshot.requested == before).all()
        assert decision.gang_verdict is not None
    else:
        assert is_whole(cluster, tree, decision)


@checked
@given(racked_nodes(4), trees(), racked_nodes(1))
def test_adding_a_node_never_makes_a_fitting_composite_unfit(cluster, tree, extra):
    [added] = extra
    larger = [*cluster, Node("n9", added.allocatable, added.labels)]
    before, after = decide(placer_of(cluster), tree), decide(placer_of(larger), tree)
    within_budget = after.gang_verdict is None or not after.gang_verdict.undecided
    assert after.placements or not before.placements or not within_budget


@checked
@given(racked_nodes(5), trees())
def test_the_same_composite_gets_the_same_places(cluster, tree):
    first, second = decide(placer_of(cluster), tree), decide(placer_of(cluster), tree)
    assert [(p.pod.key, p.node) for p in first.placements] == [
        (p.pod.key, p.node) for p in second.placements
    ]
    if first.gang_verdict is not None:
        assert first.gang_verdict.message() == second.gang_verdict.message()


# Pods that look at each other


def neighbourly(name, cpu, near="", apart="", spread=""):
    def term(app):
        return PodTerm("rack", LabelSelector((Requirement("app", "In", (app,)),)), ("ns",))

    selector = LabelSelector((Requirement("app", "In", (spread,)),))
    constraints = (SpreadConstraint("rack", 1, True, selector),) if spread else ()
    shape = PodShape(
        requests=(("cpu", cpu),),
        nonzero=(cpu, 1),
        pod_affinity=(term(near),) if near else (),
        pod_anti_affinity=(term(apart),) if apart else (),
        spread=constraints,
    )
    app = name.split("-")[0]
    return Pod(("ns", name), shape, labels={"app": app}, gang=("ns", "g"))


apps = st.sampled_from(["p", "q"])


@st.composite
def neighbours(draw):
    return [
        neighbourly(
            f"{draw(apps)}-{i}",
            draw(st.integers(1, 3)),
            draw(st.sampled_from(["", "", "p", "q"])),
            draw(st.sampled_from(["", "", "", "p", "q"])),
            draw(st.sampled_from(["", "", "", "p"])),
        )
        for i in range(draw(st.integers(1, 4)))
    ]


@few
@given(
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from("xyz")), min_size=1, max_size=3),
    neighbours(),
)
def test_a_gang_of_pods_that_look_at_each_other_starts_if_some_order_lets_it(sizes, pods):
    cluster = [
        Node(f"n{i}", (("cpu", cpu), ("memory", 99), ("pods", 9)), {"rack": rack})
        for i, (cpu, rack) in enumerate(sizes)
    ]
    group = Leaf(Gang(("ns", "g"), len(pods)), tuple(pods))
    decision = decide(placer_of(cluster), group)
    if decision.placements:
        return
    assert not decision.gang_verdict.undecided
    assert not _some_order(placer_of(cluster), cluster, pods)


def _some_order(placer, cluster, left) -> bool:
    """Every pod next, on every node: the sequential rule of the API read literally."""
    if not left:
        return True
    for pod in left:
        rest = [other for other in left if other is not pod]
        for node in cluster:
            only = placer.snapshot.alive & False
            only[placer.snapshot.rows[node.name]] = True
            if placer.place(pod, only) is None:
                continue
            if _some_order(placer, cluster, rest):
                return True
            placer.snapshot.displace(pod.key)
    return False


# Devices


def device_world(counts, wants):
    """Nodes with so many devices each; a claim for so many by each pod."""
    snapshot = snapshot_of(
        [Node(f"n{i}", (("cpu", 100), ("memory", 99), ("pods", 9))) for i in range(len(counts))]
    )
    snapshot.inventory.set_class(DeviceClass("gpu", ()))
    for i, count in enumerate(counts):
        devices = tuple(Device(f"g{d}") for d in range(count))
        snapshot.inventory.set_slice(Slice(f"s{i}", "d", f"n{i}", 1, 1, devices, node_name=f"n{i}"))
    for i, want in enumerate(wants):
        snapshot.claims["ns", f"c{i}"] = Claim(("ns", f"c{i}"), _spec(want))
    return snapshot


def _spec(count):
    return ClaimSpec((RequestEntry("r", (Request("r", "gpu", count=count),)),))


@few
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
    st.lists(st.integers(1, 3), min_size=1, max_size=5),
    st.integers(1, 3),
)
def test_groups_with_devices_start_exactly_when_the_devices_suffice(counts, wants, cut):
    placer = Placer(device_world(counts, wants))
    parts = [list(range(len(wants)))[:cut], list(range(len(wants)))[cut:]]
    children = []
    for name, part in zip("ab", parts, strict=True):
        if part:
            gang = Gang(("ns", name), len(part))
            pods = tuple(
                Pod(("ns", f"p{i}"), PodShape(), gang=gang.key, claims=(("ns", f"c{i}"),))
                for i in part
            )
            children.append(Leaf(gang, pods))
    tree = Tree(Composite(("ns", "root"), len(children)), tuple(children))
    decision = decide(placer, tree)
    placer.snapshot.check()
    plain = [Node(f"n{i}", (("cpu", c), ("pods", 9), ("memory", 9))) for i, c in enumerate(counts)]
    same = Tree(
        tree.group,
        tuple(
            Leaf(
                child.gang,
                tuple(
                    Pod(
                        pod.key,
                        PodShape(requests=(("cpu", wants[int(pod.key[1][1:])]),)),
                        gang=pod.gang,
                    )
                    for pod in child.pods
                ),
            )
            for child in children
        ),
    )
    if decision.placements:
        assert is_whole(plain, same, decision)
        used = {}
        for placement in decision.placements:
            for _, allocation in placement.allocations:
                for result in allocation.results:
                    used[result.id] = used.get(result.id, 0) + 1
        assert all(count == 1 for count in used.values())
        assert sum(used.values()) == sum(wants)
    elif not decision.gang_verdict.undecided:
        assert not some_assignment(plain, same)


def test_equal_pods_whose_devices_prove_nothing_are_not_searched():
    """Their verdict is not proven, but a search over nodes would cost much and change nothing."""
    snapshot = device_world([2, 2], [])
    double = ClaimSpec(tuple(RequestEntry(name, (Request(name, "gpu"),)) for name in "ab"))
    gang = Gang(("ns", "g"), 3)
    pods = []
    for i in range(3):
        snapshot.claims["ns", f"c{i}"] = Claim(("ns", f"c{i}"), double)
        pods.append(Pod(("ns", f"p{i}"), PodShape(), gang=gang.key, claims=(("ns", f"c{i}"),)))
    verdict = decide(Placer(snapshot), Leaf(gang, tuple(pods))).gang_verdict
    assert verdict.placed == 2
    assert verdict.undecided
    assert verdict.tried == len(pods)


# Preemption


@checked
@given(racked_nodes(4), trees(), trees(), st.data())
def test_removing_the_victims_makes_the_composite_fit(cluster, old, new, data):
    """What is evicted suffices, is all of lower priority, and takes whole units along."""
    placer = placer_of(cluster)
    modes = {}
    for number, leaf in enumerate(old.leaves()):
        whole = data.draw(st.booleans())
        gang = Gang(("ns", f"old-{number}"), 1, parent=("ns", "old"), all_disrupted=whole)
        placer.snapshot.gangs[gang.key] = gang
        modes[gang.key] = whole
        for i, pod in enumerate(leaf.pods):
            placer.place(Pod(("ns", f"old-{number}-{i}"), pod.shape, gang=gang.key))
    all_of_it = data.draw(st.booleans())
    placer.snapshot.composites["ns", "old"] = Composite(("ns", "old"), 1, all_disrupted=all_of_it)
    running = {pod.key: pod for pod, _ in placer.snapshot.placed_pods()}
    urgent = _with_priority(new, 9)
    item = QueueItem.of_tree(urgent)
    before = placer.snapshot.requested.copy()
    [decision] = plan_cycle(placer, [item]).decisions
    if decision.preemption is None:
        return
    assert (placer.snapshot.requested == before).all(), "a plan changes nothing"
    gone = {victim.key for victim in decision.preemption.victims}
    assert gone
    for gang in {running[key].gang for key in gone}:
        unit = {k for k, p in running.items() if all_of_it or p.gang == gang}
        if all_of_it or modes[gang]:
            assert unit <= gone, "a unit goes as a whole"
    for key in gone:
        placer.snapshot.displace(key)
    [again] = plan_cycle(placer, [item], preemption=False).decisions
    assert again.placements


def _with_priority(group, priority):
    if isinstance(group, Leaf):
        return Leaf(group.gang, tuple(replace(pod, priority=priority) for pod in group.pods))
    return Tree(group.group, tuple(_with_priority(child, priority) for child in group.children))
