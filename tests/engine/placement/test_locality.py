"""Pods go where their data is cached."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_a_node_is_believed_by_whatever_name_it_reports_an_image():
    digest = "sha256:" + "a" * 64
    full = (("docker.io/library/busybox:1.36", 5), (f"docker.io/library/busybox@{digest}", 5))
    hub = (("docker.io/org/app:latest", 5),)
    placer = placer_of([node("a", images=full), node("b", images=hub), node("c")])
    for wanted, where in (
        ("busybox:1.36", "a"),
        (f"busybox@{digest}", "a"),
        (f"busybox:1.36@{digest}", "a"),
        ("docker.io/busybox:1.36", "a"),
        ("org/app:latest", "b"),
    ):
        assert placer.place(pod(wanted, f"image/{wanted}", required=True)).node == where
    for other in ("quay.io/busybox:1.36", "busybox:latest", "localhost/busybox:1.36", "app:latest"):
        assert placer.place(pod(other, f"image/{other}", required=True)) is None


def test_sizes_beyond_any_disk_and_long_lists_count_like_others():
    many = tuple((f"dataset/{i:05d}", 1) for i in range(5_000))
    found = snapshot_of([node("a", data=(*many, (WEB, 10**30))), node("b", data=((LLAMA, 1),))])
    scores = data_scores(found, pod("p", WEB, LLAMA).shape)
    assert scores[:2].tolist() == [100, 0]
    assert data_scores(found, pod("p", *(name for name, _ in many)).shape)[:2].tolist() == [100, 0]


def test_what_a_gang_reads_is_what_each_of_its_pods_reads():
    """Of eight pods each has a part of its own: the rack with most parts is theirs."""
    parts = [f"dataset/part-{i}" for i in range(4)]
    racks = [
        *(node(f"a{i}", "first-only", cpu=1000, data=((parts[0], 10),)) for i in range(4)),
        *(node(f"b{i}", "most", cpu=1000, data=((parts[i], 10),)) for i in range(1, 4)),
        node("b0", "most", cpu=1000),
    ]
    gang = Gang(("ns", "g"), 4, topology_key="rack")
    members = tuple(pod(f"g{i}", parts[i], gang=gang.key) for i in range(4))
    placer = placer_of(racks)
    [decision] = plan_cycle(placer, [QueueItem(members, gang)]).decisions
    assert {placer.snapshot.node(p.node).labels["rack"] for p in decision.placements} == {"most"}


def test_pods_of_a_gang_that_read_nothing_are_at_home_anywhere():
    gang = Gang(("ns", "g"), 4, topology_key="rack")
    members = (pod("g0", WEB, gang=gang.key), *(pod(f"g{i}", gang=gang.key) for i in range(1, 4)))
    racks = [
        node("a0", "tight", cpu=1000, data=((WEB, 10),)),
        node("a1", "tight", cpu=3000),
        *(node(f"b{i}", "wide", cpu=9000, data=((WEB, 10),)) for i in range(4)),
    ]
    placer = placer_of(racks)
    [decision] = plan_cycle(placer, [QueueItem(members, gang)]).decisions
    assert {placer.snapshot.node(p.node).labels["rack"] for p in decision.placements} == {"tight"}


NAMES = ("dataset/x", "dataset/y")
_nodes = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from("ab"), st.sets(st.sampled_from(NAMES))),
    min_size=1,
    max_size=4,
)
_readers = st.lists(
    st.tuples(st.integers(1, 2), st.sets(st.sampled_from(NAMES)), st.booleans()),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(_nodes, _readers, st.sampled_from(["", "rack"]))
def test_a_gang_of_which_a_part_needs_data_starts_if_and_only_if_it_can(nodes, readers, key):
    """Against every way to put its pods on nodes, whichever pods come first."""
    gang = Gang(("ns", "g"), len(readers), topology_key=key)
    members = tuple(
        Pod(
            ("ns", f"g{i}"),
            PodShape(
                requests=(("cpu", 1000 * cpu),),
                data=tuple(sorted(names)),
                data_required=required and bool(names),
            ),
            gang=gang.key,
        )
        for i, (cpu, names, required) in enumerate(readers)
    )
    stock = [
        node(f"n{i}", rack, cpu=1000 * cpu, data=tuple((name, 1) for name in sorted(have)))
        for i, (cpu, rack, have) in enumerate(nodes)
    ]
    placer = placer_of(stock)
    [decision] = plan_cycle(placer, [QueueItem(members, gang)]).decisions
    assert bool(decision.placements) == any(
        _is_possible(where, nodes, readers, key)
        for where in itertools.product(range(len(nodes)), repeat=len(readers))
    )
    if decision.placements:
        at = {p.pod.key[1]: int(p.node[1:]) for p in decision.placements}
        where = tuple(at[f"g{i}"] for i in range(len(readers)))
        assert _is_possible(where, nodes, readers, key)


def _is_possible(where, nodes, readers, key):
    if key and len({nodes[n][1] for n in where}) > 1:
        return False
    left = [cpu for cpu, _, _ in nodes]
    for n, (cpu, names, required) in zip(where, readers, strict=True):
        left[n] -= cpu
        if left[n] < 0 or (required and not names <= nodes[n][2]):
            return False
    return True
