"""Upstream's formulas, number by number."""

from __future__ import annotations

from hypothesis import given, settings

from kubarium.engine.model import Node, Pod, PodShape, PreferredTerm
from kubarium.engine.placement import scores
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import Profile, Weights
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.engine.snapshot import Snapshot

from .worlds import SOFT_TAINT, clusters, shapes, snapshot_of

MEBI = 1024 * 1024


def snapshot(*nodes):
    found = Snapshot()
    for node in nodes:
        found.set_node(node)
    return found


def node(name, cpu=4000, memory=10_000, **more):
    return Node(name, (("cpu", cpu), ("memory", memory), ("pods", 10)), **more)


def test_least_allocated_and_balanced_of_a_known_node():
    # upstream's test "nothing scheduled, resources requested, differently sized nodes":
    # least: cpu (4000-3000)*100/4000 = 25, memory (10000-5000)*100/10000 = 50, mean 37
    # evenness: 100 before, |0.75 - 0.5| / 2 = 0.125 off after it, so 87: 50 + (50 + 87 - 100) / 2
    shape = PodShape(requests=(("cpu", 3000), ("memory", 5000)), nonzero=(3000, 5000))
    found = snapshot(node("a"))
    assert scores.resource_scores(found, shape)[0] == 37 + 68


def test_a_best_effort_pod_is_not_balanced():
    shape = PodShape(nonzero=(1000, 1000))
    assert scores.resource_scores(snapshot(node("a")), shape)[0] == (75 + 90) // 2


def test_balance_rewards_the_change_for_the_better():
    """kubernetes#135573: 75 leaves a node as even as it was, 50 and 100 are the extremes."""
    half = PodShape(requests=(("cpu", 2000), ("memory", 5000)), nonzero=(2000, 5000))
    assert balance(half) == 75
    lopsided = PodShape(requests=(("cpu", 4000),), nonzero=(4000, 0))
    assert balance(lopsided) == 50  # from 100 to 50
    filler = PodShape(requests=(("memory", 10_000),), nonzero=(0, 10_000))
    assert balance(filler, (lopsided,)) == 100  # from 50 to 100


def balance(shape, placed=()):
    found = snapshot(node("a"))
    for i, other in enumerate(placed):
        found.place(Pod(("ns", f"old-{i}"), other), "a")
    profile = Profile(weights=Weights(NodeResourcesFit=0))
    return int(scores.resource_scores(found, shape, profile)[0])


def test_a_pod_that_asks_for_devices_only_is_not_balanced():
    gpu = PodShape(requests=(("nvidia.com/gpu", 1),))
    assert balance(gpu) == 0
    three = Profile(
        weights=Weights(NodeResourcesFit=0), balanced=("cpu", "memory", "nvidia.com/gpu")
    )
    found = snapshot(Node("a", (("cpu", 4000), ("memory", 10_000), ("nvidia.com/gpu", 4))))
    # Shares 0, 0 and 1/4: their deviation is 0.1178, so evenness falls from 100 to 88.
    assert scores.resource_scores(found, gpu, three)[0] == 50 + (50 + 88 - 100) // 2


@settings(deadline=None)
@given(clusters(), shapes())
def test_one_row_and_all_rows_agree_to_the_bit(cluster, shape):
    found = snapshot_of(cluster)
    column = scores.resource_scores(found, shape)
    wants = scores.balanced(shape)
    for row in found.rows.values():
        assert scores.resource_score(found, shape, wants, row) == column[row]


def test_an_image_that_is_there_counts_by_its_size_and_spread():
    shape = PodShape(images=("model:latest",))
    holder = node("a", images=(("model:latest", 1023 * MEBI),))
    found = scores.image_scores(snapshot(holder, node("b")), shape)
    # 1023 MiB on one of two nodes counts 511.5 MiB: 100 * (511.5 - 23) / (1000 - 23) = 50
    assert found[:2].tolist() == [50, 0]


def test_an_image_that_is_mounted_counts_but_asks_for_no_more():
    """Upstream: the bound is 1000 MiB for each container, and volumes are none."""
    holder = node("a", images=(("model:1", 1000 * MEBI), ("app:1", 0)))
    shape = PodShape(images=("app:1", "model:1"), mounted=1)
    assert scores.image_scores(snapshot(holder), shape)[0] == 100
    both = PodShape(images=("app:1", "model:1"))  # 100 * (1000 - 23) / (2000 - 23)
    assert scores.image_scores(snapshot(holder), both)[0] == 49


def test_of_an_image_that_a_node_lists_twice_the_first_size_counts():
    twice = node("a", images=(("app:1", 1000 * MEBI), ("app:1", 5)))
    assert scores.image_scores(snapshot(twice), PodShape(images=("app:1",)))[0] == 100


def test_preferred_nodes_and_soft_taints_move_a_pod():
    ssd = PreferredTerm(10, NodeTerm((Requirement("disk", "In", ("ssd",)),)))
    pod = Pod(("ns", "p"), PodShape(preferred=(ssd,)))
    found = Placer(snapshot(node("a", cpu=8000), node("b", labels={"disk": "ssd"}))).place(pod)
    assert found is not None
    assert found.node == "b"
    plain = Pod(("ns", "q"), PodShape())
    placer = Placer(snapshot(node("a", cpu=8000, taints=(SOFT_TAINT,)), node("b")))
    placed = placer.place(plain)
    assert placed is not None
    assert placed.node == "b"
