"""Limits of the snapshot are reached, and readers that fall behind start afresh."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kubarium.engine.snapshot as module
from kubarium.engine.model import (
    HOSTNAME_LABEL,
    Disk,
    HostPort,
    Node,
    Pod,
    PodShape,
    PodTerm,
    WeightedPodTerm,
)
from kubarium.engine.placement.cycle import is_plain
from kubarium.engine.placement.filters import clause
from kubarium.engine.placement.fit import Fit
from kubarium.engine.placement.place import Placer
from kubarium.engine.selectors import LabelSelector, Requirement
from kubarium.engine.snapshot import Snapshot

SHAPE = PodShape(requests=(("cpu", 1),))


def node(name, cpu=10):
    return Node(name, (("cpu", cpu), ("pods", 100)))


def test_columns_grow_with_the_cluster_and_with_new_resources():
    snapshot = Snapshot()
    for i in range(200):
        snapshot.set_node(Node(f"n{i}", (("cpu", i), ("pods", 1), (f"vendor/{i % 12}", 5))))
    fit = Fit(snapshot, PodShape(requests=(("vendor/7", 5),))).refresh()
    able = [name for name, row in snapshot.rows.items() if fit[row] >= 0]
    assert able == [f"n{i}" for i in range(200) if i % 12 == 7]
    snapshot.check()


def test_a_removed_row_is_used_again_and_carries_nothing_over():
    snapshot = Snapshot()
    snapshot.set_node(Node("old", (("cpu", 5), ("gpu", 2), ("pods", 3)), {"rack": "a"}))
    snapshot.place(Pod(("ns", "p"), SHAPE), "old")
    row = snapshot.rows["old"]
    snapshot.remove_node("old")
    snapshot.set_node(node("new"))
    assert snapshot.rows["new"] == row
    assert snapshot.allocatable[snapshot.resource_index("gpu"), row] == 0
    assert int(snapshot.requested[:, row].sum()) == 0
    assert int(snapshot.labels["rack"][row]) == -1
    snapshot.check()


def test_a_reader_that_is_far_behind_starts_afresh(monkeypatch):
    monkeypatch.setattr(module, "MAX_TOUCHED", 10)
    snapshot = Snapshot()
    for name in ("a", "b"):
        snapshot.set_node(node(name, cpu=100))
    fit = Fit(snapshot, SHAPE)
    fit.refresh()
    for i in range(50):
        snapshot.place(Pod(("ns", f"p{i}"), SHAPE), "a")
    assert fit.refresh().tolist() == Fit(snapshot, SHAPE).refresh().tolist()


def test_a_new_document_of_a_placed_pod_touches_no_column():
    snapshot = Snapshot()
    snapshot.set_node(node("a"))
    snapshot.place(Pod(("ns", "p"), SHAPE), "a")
    touched = len(snapshot.touched)
    snapshot.place(Pod(("ns", "p"), SHAPE, started=5.0), "a")
    assert len(snapshot.touched) == touched
    assert snapshot.placed(("ns", "p")).started == 5.0


def test_nested_checkpoints_undo_independently():
    snapshot = Snapshot()
    snapshot.set_node(node("a"))
    outer = snapshot.checkpoint()
    snapshot.place(Pod(("ns", "kept"), SHAPE), "a")
    inner = snapshot.checkpoint()
    snapshot.place(Pod(("ns", "dropped"), SHAPE), "a")
    snapshot.rollback(inner)
    assert snapshot.node_of(("ns", "kept")) == "a"
    assert snapshot.node_of(("ns", "dropped")) is None
    snapshot.rollback(outer)
    assert snapshot.node_of(("ns", "kept")) is None
    snapshot.check()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=40))
def test_rows_are_in_the_order_of_names_however_nodes_come_and_go(changes):
    snapshot = Snapshot()
    for comes, number in changes:
        name = f"n{number * 7 % 13:02d}"
        if comes:
            snapshot.set_node(node(name))
        else:
            snapshot.remove_node(name)
        rows = np.flatnonzero(snapshot.alive)
        names = [snapshot.nodes[row].name for row in snapshot.by_name(rows)]
        assert names == sorted(snapshot.rows)
        if names:
            scores = np.where(snapshot.alive, 1, -1)
            assert snapshot.nodes[snapshot.best_row(scores)].name == names[0]


def test_the_order_of_names_survives_growth_and_rollback():
    snapshot = Snapshot()
    snapshot.set_node(node("m"))
    assert snapshot.by_name(np.flatnonzero(snapshot.alive))
    mark = snapshot.checkpoint()
    for i in range(200):
        snapshot.set_node(node(f"n{i:03d}"))
    snapshot.set_node(node("a"))
    assert snapshot.nodes[snapshot.best_row(np.where(snapshot.alive, 1, -1))].name == "a"
    snapshot.rollback(mark)
    assert snapshot.by_name(np.flatnonzero(snapshot.alive)) == [snapshot.rows["m"]]


def test_more_than_a_column_holds_is_booked_and_comes_off_again():
    snapshot = Snapshot()
    snapshot.set_node(node("a"))
    huge = PodShape(requests=(("cpu", 2**56), ("vendor/gpu", 2**60)), nonzero=(2**56, 2**56))
    pods = [Pod(("ns", f"p{i}"), huge, priority=i % 2) for i in range(300)]
    small = Pod(("ns", "small"), SHAPE)
    snapshot.place(small, "a")
    for pod in pods:
        snapshot.place(pod, "a")
        snapshot.check()
    assert Fit(snapshot, SHAPE).refresh()[snapshot.rows["a"]] < 0
    for pod in pods[::2] + pods[1::2]:
        snapshot.displace(pod.key)
        snapshot.check()
    row = snapshot.rows["a"]
    assert snapshot.requested[:, row].tolist()[:4] == [1, 0, 0, 1]
    assert snapshot.nonzero[:, row].tolist() == list(SHAPE.nonzero)
    assert Fit(snapshot, SHAPE).refresh()[row] >= 0


def test_a_term_that_no_pod_carries_any_more_is_forgotten():
    """A job's anti-affinity by its own name, say: there are ever more of them."""
    snapshot = Snapshot()
    snapshot.set_node(node("a"))
    other = Pod(("ns", "other"), SHAPE, labels={"job": "j0"})
    for i in range(3):
        selector = LabelSelector((Requirement("job", "In", (f"j{i}",)),))
        term = PodTerm("zone", selector, ("ns",))
        wishes = (WeightedPodTerm(5, term), WeightedPodTerm(-5, term))
        shape = replace(SHAPE, pod_anti_affinity=(term,), pod_affinity=(term,))
        pods = [
            Pod(("ns", f"p{i}"), shape),
            Pod(("ns", f"q{i}"), shape),
            Pod(("ns", f"r{i}"), replace(SHAPE, pod_preferred=wishes[:1])),
            Pod(("ns", f"s{i}"), replace(SHAPE, pod_preferred=wishes[1:])),
        ]
        for pod in pods:
            snapshot.place(pod, "a")
            snapshot.check()
        assert not is_plain(snapshot, other)
        for pod in pods:
            snapshot.displace(pod.key)
            snapshot.check()
    assert is_plain(snapshot, other)
    assert not snapshot.tallies.anti_holders


def test_what_pods_only_ask_for_makes_no_columns():
    """Anybody may make up names of resources, for pods that then wait."""
    snapshot = Snapshot()
    snapshot.set_node(node("a"))
    placer, before = Placer(snapshot), snapshot.allocatable.nbytes
    for i in range(40):
        wish = PodShape(requests=(("cpu", 1), (f"example.com/r{i}", 1)))
        verdict = placer.account(Pod(("ns", "p"), wish, priority=i))
        assert verdict.counts == {f"Insufficient example.com/r{i}": 1}
        assert placer.place(Pod(("ns", "p"), wish)) is None
    assert snapshot.allocatable.nbytes == before
    snapshot.check()


@pytest.mark.parametrize("resource", ["example.com/fpga", "hugepages-2Mi"])
def test_a_resource_that_becomes_known_counts_for_shapes_that_asked_before(resource):
    snapshot = Snapshot()
    snapshot.set_node(node("a"))
    fit = Fit(snapshot, PodShape(requests=((resource, 2),)))
    row = snapshot.rows["a"]
    assert fit.refresh()[row] < 0
    snapshot.set_node(Node("a", (("cpu", 10), (resource, 2), ("pods", 100))))
    assert fit.refresh()[row] >= 0
    snapshot.place(Pod(("ns", "p"), PodShape(requests=((resource, 1),))), "a")
    assert fit.refresh()[row] < 0
    snapshot.check()


def test_nodes_that_come_and_go_leave_no_values_behind():
    """Each with a hostname, images, data, ports and disks of its own."""
    snapshot = Snapshot()
    for i in range(500):
        labels = {HOSTNAME_LABEL: f"n{i}", "zone": "z"}
        own = ((f"image{i}", 5), (f"image{i}", 7))
        name = f"n{i}"
        snapshot.set_node(Node(name, (("pods", 9),), labels, images=own, data=((f"m{i}", 1),)))
        shape = replace(SHAPE, ports=(HostPort("0.0.0.0", "TCP", i),))
        disk = Disk("gce", (f"disk{i}",))
        snapshot.place(Pod(("ns", f"p{i}"), shape, disks=(disk,)), name)
        snapshot.check()
        if i > 2:
            snapshot.displace(("ns", f"p{i - 3}"))
            snapshot.remove_node(f"n{i - 3}")
            snapshot.check()
    assert snapshot.label_columns.numbers(HOSTNAME_LABEL) < 9
    assert len(snapshot.label_values[HOSTNAME_LABEL]) == 3
    books = (snapshot.images, snapshot.data, snapshot.ports, snapshot.disks)
    assert [len(book) for book in books] == [3, 3, 3, 3]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.none() | st.dictionaries(st.sampled_from("xy"), st.sampled_from("pqr")),
        ),
        max_size=20,
    )
)
def test_selectors_see_the_labels_that_nodes_have_now(changes):
    snapshot = Snapshot()
    have = {}
    for name, labels in changes:
        if labels is None:
            have.pop(name, None)
            snapshot.remove_node(name)
        else:
            have[name] = labels
            snapshot.set_node(Node(name, (("pods", 9),), labels))
        snapshot.check()
        for operator in ("In", "NotIn", "Exists", "DoesNotExist"):
            one = Requirement("x", operator, ("p", "q"))
            mask = clause(snapshot, one) & snapshot.alive
            found = {n for n, row in snapshot.rows.items() if mask[row]}
            assert found == {n for n, own in have.items() if one.holds(own.get("x"))}
