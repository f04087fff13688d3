"""Pods go where their data is cached."""

from __future__ import annotations

from kubarium.engine import reasons
from kubarium.engine.model import Gang, Node, Pod, PodShape
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.locality import data_scores
from kubarium.engine.plan import QueueItem

from .worlds import placer_of, snapshot_of

WEB, LLAMA = "dataset/web", "model/llama"


def node(name, rack="r1", cpu=4000, **more):
    return Node(name, (("cpu", cpu), ("pods", 10)), {"rack": rack}, **more)


def pod(name, *data, required=False, gang=None):
    shape = PodShape(requests=(("cpu", 1000),), data=data, data_required=required)
    return Pod(("ns", name), shape, gang=gang)


def test_a_node_scores_by_the_bytes_that_it_has():
    found = snapshot_of(
        [node("a", data=((LLAMA, 30), (WEB, 70))), node("b", data=((WEB, 70),)), node("c")]
    )
    assert data_scores(found, pod("p", WEB, LLAMA).shape)[:3].tolist() == [100, 70, 0]
    assert data_scores(found, pod("p", WEB, "dataset/nowhere").shape)[:3].tolist() == [100, 100, 0]


def test_preferred_data_pulls_a_pod_against_a_fuller_node():
    placer = placer_of([node("a", cpu=8000), node("b", data=((WEB, 10),))])
    assert placer.place(pod("plain")).node == "a"
    assert placer.place(pod("reader", WEB)).node == "b"


def test_required_data_rules_nodes_out_and_says_which():
    placer = placer_of([node("a"), node("b", cpu=500, data=((WEB, 10),))])
    reader = pod("reader", WEB, required=True)
    assert placer.place(reader) is None
    assert placer.account(reader).counts == {
        reasons.data_missing(WEB): 1,
        reasons.insufficient("cpu"): 1,
    }
    assert "1 node(s) didn't have dataset/web cached" in placer.account(reader).message()
    placer.snapshot.set_node(node("a", data=((WEB, 10),)))
    assert placer.place(reader).node == "a"


def test_an_images_locality_can_be_required_too():
    placer = placer_of([node("a"), node("b", images=(("cuda:12", 5),))])
    assert placer.place(pod("p", "image/cuda:12", required=True)).node == "b"


def test_a_gang_goes_to_the_rack_that_has_its_data_though_another_is_tighter():
    racks = [
        node("a1", "near-full", cpu=1000),
        node("a2", "near-full", cpu=1000),
        node("b1", "half", data=((WEB, 10),)),
        node("b2", "half"),
        node("c1", "all", data=((WEB, 10),), cpu=1000),
        node("c2", "all", data=((WEB, 10),), cpu=5000),
    ]

    def rack_of(*data):
        gang = Gang(("ns", "g"), 2, topology_key="rack")
        members = tuple(pod(f"g{i}", *data, gang=gang.key) for i in range(2))
        placer = placer_of(racks)
        [decision] = plan_cycle(placer, [QueueItem(members, gang)]).decisions
        return {placer.snapshot.node(p.node).labels["rack"] for p in decision.placements}

    assert rack_of() == {"near-full"}
    assert rack_of(WEB) in ({"half"}, {"all"})
    assert rack_of(WEB, "dataset/unknown") in ({"half"}, {"all"})
    full = [n for n in racks if n.labels["rack"] != "half"] + [
        node("b1", "half", cpu=1000, data=((WEB, 10),)),
        node("b2", "half", cpu=1000),
    ]
    racks[:] = full  # in "half" one of two pods would read from afar
    assert rack_of(WEB) == {"all"}
