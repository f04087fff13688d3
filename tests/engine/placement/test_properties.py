"""What must hold of every plan."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine.model import Composite, Gang, Node, Pod, PodShape
from kubarium.engine.placement.ceiling import most_placed
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.fit import Fit
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import Leaf, QueueItem, Tree
from kubarium.engine.snapshot import Snapshot

from .worlds import clusters, naive_fits, nodes, placer_of, pods, shapes, snapshot_of

checked = settings(deadline=None, max_examples=120)


def singles(batch):
    return [QueueItem((pod,)) for pod in batch]


def where(plan):
    return [(p.pod.key, p.node) for p in plan.placements()]


@checked
@given(clusters(), pods())
def test_no_node_is_ever_overcommitted(cluster, batch):
    placer = placer_of(cluster)
    plan_cycle(placer, singles(batch), preemption=False)
    snapshot = placer.snapshot
    snapshot.check()
    for row in snapshot.rows.values():
        assert (snapshot.requested[:, row] <= snapshot.allocatable[:, row]).all()


@checked
@given(clusters(), pods())
def test_the_same_input_gives_the_same_plan(cluster, batch):
    first = plan_cycle(placer_of(cluster), singles(batch))
    second = plan_cycle(placer_of(cluster), singles(list(reversed(batch))))
    assert where(first) == where(second)
    messages = [v.message() for d in first.decisions for _, v in d.unplaced]
    assert messages == [v.message() for d in second.decisions for _, v in d.unplaced]


@checked
@given(clusters(), pods())
def test_a_pod_is_placed_exactly_when_some_node_takes_it(cluster, batch):
    placer = placer_of(cluster)
    there = {node.name: [] for node in cluster}
    for pod in batch:
        able = {n.name for n in cluster if naive_fits(n, pod.shape, there[n.name])}
        placement = placer.place(pod)
        if placement is None:
            assert not able
            verdict = placer.account(pod)
            assert sum(bool(why) for why in verdict.by_node.values()) == len(cluster)
        else:
            assert placement.node in able
            there[placement.node].append(pod.shape)


@checked
@given(clusters(), shapes(), st.integers(1, 6), st.integers(1, 6))
def test_a_gang_is_whole_or_absent(cluster, shape, size, minimum):
    placer = placer_of(cluster)
    gang = Gang(("ns", "gang"), minimum)
    members = tuple(Pod(("ns", f"g-{i}"), shape, gang=gang.key) for i in range(size))
    before = placer.snapshot.requested.copy()
    [decision] = plan_cycle(placer, [QueueItem(members, gang)], preemption=False).decisions
    if decision.placements:
        assert len(decision.placements) >= min(minimum, size)
        assert size >= minimum
    else:
        assert (placer.snapshot.requested == before).all()
        assert decision.gang_verdict is not None
    placer.snapshot.check()


@checked
@given(clusters(most=3), st.lists(shapes(), min_size=1, max_size=4))
def test_a_gang_fits_exactly_when_some_assignment_exists(cluster, mix):
    gang = Gang(("ns", "gang"), len(mix))
    members = tuple(Pod(("ns", f"g-{i}"), s, gang=gang.key) for i, s in enumerate(mix))
    [decision] = plan_cycle(
        placer_of(cluster), [QueueItem(members, gang)], preemption=False
    ).decisions
    assert bool(decision.placements) == _some_assignment(cluster, mix)


@checked
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.integers(0, 2),
)
def test_a_mixed_gang_is_packed_if_it_can_be(sizes, wishes, spare):
    """Only cpu matters here, so that packing is all there is to it."""
    cluster = [
        Node(f"n{i}", (("cpu", size), ("memory", 10**9), ("pods", 10)))
        for i, size in enumerate(sizes)
    ]
    mix = [PodShape(requests=(("cpu", wish),), nonzero=(wish, 1)) for wish in wishes]
    needed = max(1, len(mix) - spare)
    gang = Gang(("ns", "gang"), needed)
    members = tuple(Pod(("ns", f"g-{i}"), s, gang=gang.key) for i, s in enumerate(mix))
    placer = placer_of(cluster)
    [decision] = plan_cycle(placer, [QueueItem(members, gang)], preemption=False).decisions
    possible = any(
        _some_assignment(cluster, chosen) for chosen in itertools.combinations(mix, needed)
    )
    assert bool(decision.placements) == possible
    placer.snapshot.check()


def _some_assignment(cluster, mix):
    for chosen in itertools.product(cluster, repeat=len(mix)):
        there = {node.name: [] for node in cluster}
        for node, shape in zip(chosen, mix, strict=True):
            if not naive_fits(node, shape, there[node.name]):
                break
            there[node.name].append(shape)
        else:
            return True
    return False


@checked
@given(clusters(most=4), st.lists(shapes(), min_size=1, max_size=5), nodes(index=9))
def test_adding_a_node_never_makes_a_fitting_gang_unfit(cluster, mix, extra):
    gang = Gang(("ns", "gang"), len(mix))
    item = QueueItem(
        tuple(Pod(("ns", f"g-{i}"), s, gang=gang.key) for i, s in enumerate(mix)), gang
    )
    [less] = plan_cycle(placer_of(cluster), [item], preemption=False).decisions
    [more] = plan_cycle(placer_of([*cluster, extra]), [item], preemption=False).decisions
    assert more.placements or not less.placements


@checked
@given(clusters(least=1), shapes(), st.data())
def test_a_fit_kept_current_equals_a_fresh_one(cluster, shape, data):
    snapshot = snapshot_of(cluster)
    kept = Fit(snapshot, shape)
    kept.refresh()
    for step in range(data.draw(st.integers(1, 8))):
        action = data.draw(st.sampled_from(["place", "displace", "change", "remove"]))
        name = data.draw(st.sampled_from([n.name for n in cluster]))
        if action == "place":
            snapshot.place(Pod(("ns", f"p{step}"), data.draw(shapes())), name)
        elif action == "displace":
            snapshot.displace(("ns", f"p{data.draw(st.integers(0, 8))}"))
        elif action == "change":
            snapshot.set_node(data.draw(nodes(index=int(name.rpartition("-")[2]))))
        else:
            snapshot.remove_node(name)
        fresh = Fit(snapshot, shape).refresh()
        assert kept.refresh().tolist() == fresh.tolist()
    snapshot.check()


@checked
@given(clusters(least=1), st.data())
def test_a_rollback_restores_every_column(cluster, data):
    snapshot = snapshot_of(cluster)
    for i in range(3):
        snapshot.place(Pod(("ns", f"old-{i}"), data.draw(shapes())), cluster[0].name)
    before = _columns(snapshot)
    mark = snapshot.checkpoint()
    for step in range(data.draw(st.integers(1, 6))):
        action = data.draw(st.sampled_from(["place", "displace", "change", "remove"]))
        name = data.draw(st.sampled_from([n.name for n in cluster]))
        if action == "place":
            snapshot.place(Pod(("ns", f"new-{step}"), data.draw(shapes())), name)
        elif action == "displace":
            snapshot.displace(("ns", f"old-{data.draw(st.integers(0, 2))}"))
        elif action == "change":
            snapshot.set_node(data.draw(nodes(index=int(name.rpartition("-")[2]))))
        else:
            snapshot.remove_node(name)
    snapshot.rollback(mark)
    assert _columns(snapshot) == before
    snapshot.check()


def _columns(snapshot):
    rows = {
        name: (
            snapshot.nodes[row],
            snapshot.requested[:, row].tolist(),
            snapshot.allocatable[:, row].tolist(),
            snapshot.nonzero[:, row].tolist(),
            sorted(snapshot.pods_on[row]),
            bool(snapshot.unschedulable[row]),
            snapshot.taint_sets[int(snapshot.taint_set[row])],
        )
        for name, row in snapshot.rows.items()
    }
    return dict(sorted(rows.items())), int(np.sum(snapshot.alive))


def test_nodes_without_limits_are_no_obstacle_to_groups():
    """Sums over such nodes do not fit in 64 bits."""
    snapshot = Snapshot()
    for i in range(200):
        capacity = (("cpu", 8), ("example.com/slots", 2**56), ("pods", 9))
        snapshot.set_node(Node(f"n{i}", capacity, {"rack": "r"}))
    small, large = (
        PodShape(requests=(("cpu", n), ("example.com/slots", 1)), nonzero=(n, 1)) for n in (1, 3)
    )
    wanted = (("example.com/slots", 2**56),)
    gang = Gang(("ns", "g"), 4, "rack", min_resources=wanted)
    pods = tuple(Pod(("ns", f"p{i}"), small if i % 2 else large, gang=gang.key) for i in range(4))
    assert most_placed(Placer(snapshot), pods, None) == 4
    tree = Tree(Composite(("ns", "t"), 1), (Leaf(gang, pods),))
    for item in (QueueItem(pods, gang), QueueItem.of_tree(tree)):
        mark = snapshot.checkpoint()
        [decision] = plan_cycle(Placer(snapshot), [item]).decisions
        snapshot.rollback(mark)
        assert len(decision.placements) == 4
