"""The filters that look at nodes alone: which node fails on what, in upstream's words and order."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kubarium.engine.model import Node, Pod, PodShape, Taint
from kubarium.engine.placement import filters
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.preemption import resolvable
from kubarium.engine.placement.profile import Profile
from kubarium.engine.plan import QueueItem
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.engine.snapshot import Snapshot


def cluster(*nodes):
    snapshot = Snapshot()
    for node in nodes:
        snapshot.set_node(node)
    return snapshot


def node(name, cpu=1000, **more):
    return Node(name, (("cpu", cpu), ("pods", 10)), {"host": name}, **more)


def naming(*names, operator="In"):
    return NodeTerm(fields=tuple(Requirement("metadata.name", operator, (n,)) for n in names))


def account(snapshot, shape, profile=None):
    placer = Placer(snapshot, profile) if profile else Placer(snapshot)
    return placer.account(Pod(("ns", "p"), shape))


def test_a_pod_that_names_its_node_is_told_of_that_node():
    """As the pods of a DaemonSet: the other nodes are left out before any filter is asked."""
    shape = PodShape(requests=(("cpu", 2000),), affinity=(naming("b"),))
    verdict = account(cluster(node("a"), node("b"), node("c", taints=())), shape)
    assert verdict.message() == (
        "0/3 nodes are available: 1 Insufficient cpu,"
        " 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    )
    assert not resolvable(verdict.by_node["a"])


def test_nodes_that_are_not_named_have_no_other_reason():
    kept = (Taint("k", "", "NoSchedule"),)
    snapshot = cluster(node("a", unschedulable=True), node("b", taints=kept), node("c"))
    verdict = account(snapshot, PodShape(affinity=(naming("gone"), naming("b"))))
    assert verdict.message() == (
        "0/3 nodes are available: 1 node(s) had untolerated taint(s),"
        " 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    )


def test_a_term_that_names_two_nodes_at_once_fits_nowhere():
    shape = PodShape(affinity=(naming("a", "b"),))
    verdict = account(cluster(node("a"), node("b")), shape)
    assert verdict.message() == "0/2 nodes are available: pod affinity terms conflict."
    off = Profile("other", disabled=frozenset({"NodeAffinity"}))
    assert account(cluster(node("a")), shape, off).counts == {}


def test_so_does_one_that_nodes_of_two_sorts_would_serve():
    """On some by a device plugin, on others by DRA: what holds everywhere is said once of all."""
    key, shape = ("ns", "p"), PodShape(affinity=(naming("a", "b"),))
    by_dra = replace(shape, requests=(("cpu", 1),))
    pod = Pod(key, shape, variants=(Pod(key, shape), Pod(key, by_dra)))
    placer = Placer(cluster(node("a"), node("b")))
    told = placer.account(pod)
    assert told.message() == "0/2 nodes are available: pod affinity terms conflict."
    assert placer.lacking_on(pod, 0) == (told.everywhere,)


def test_a_term_without_a_name_leaves_no_node_out():
    other = NodeTerm((Requirement("host", "In", ("z",)),))
    verdict = account(cluster(node("a")), PodShape(affinity=(naming("b"), other)))
    assert verdict.counts == {"node(s) didn't match Pod's node affinity/selector": 1}


def test_declared_features_are_asked_for_last():
    able = node("able", cpu=500, features=frozenset({"F"}))
    shape = PodShape(requests=(("cpu", 800),), features=("F",))
    verdict = account(cluster(able, node("small", cpu=500), node("large")), shape)
    assert verdict.message() == (
        "0/3 nodes are available: 1 node(s) didn't match Pod's required features,"
        " 2 Insufficient cpu."
    )
    assert [resolvable(verdict.by_node[name]) for name in ("able", "small", "large")] == [
        True,
        True,
        False,
    ]


def test_what_a_node_has_not_declared_no_eviction_brings():
    """The node is asked for its features once there would be room."""
    snapshot = cluster(node("a"))
    snapshot.place(Pod(("ns", "low"), PodShape(requests=(("cpu", 1000),))), "a")
    pod = Pod(("ns", "p"), PodShape(requests=(("cpu", 1000),), features=("F",)), priority=1)
    (decision,) = plan_cycle(Placer(snapshot), [QueueItem((pod,))]).decisions
    assert decision.preemption is None
    assert decision.unplaced[0][1].message() == (
        "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: "
        "0/1 nodes are available: 1 node(s) didn't match Pod's required features."
    )


names = st.sampled_from(["a", "b", "c", "gone"])
fields = st.tuples(st.sampled_from(["In", "NotIn"]), names)
terms = st.builds(
    lambda chosen, labels: NodeTerm(
        tuple(Requirement("host", "In", (n,)) for n in labels),
        tuple(Requirement("metadata.name", operator, (n,)) for operator, n in chosen),
    ),
    st.lists(fields, max_size=3),
    st.lists(names, max_size=1),
)


@given(st.lists(terms, min_size=1, max_size=3))
def test_no_node_that_the_affinity_matches_is_left_out(affinity):
    snapshot = cluster(node("a"), node("b"), node("c"))
    shape = PodShape(affinity=tuple(affinity))
    named = filters.named_by_affinity(shape)
    matching = {n for n, row in snapshot.rows.items() if filters.affine(snapshot, shape)[row]}
    assert named is None or matching <= named
    assert (Placer(snapshot).place(Pod(("ns", "p"), shape)) is not None) == bool(matching)
