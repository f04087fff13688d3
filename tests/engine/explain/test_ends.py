"""Whose end is suggested: the scheduler's own order of nodes, over all nodes."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine.explain import Explainer, Subject
from kubarium.engine.model import Budget, Node, Pod, PodShape
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.preemption import rank_of
from kubarium.engine.selectors import LabelSelector, Requirement
from kubarium.engine.snapshot import Snapshot

APP = LabelSelector((Requirement("app", "In", ("web",)),))


def world(holders, nodes=4, budget=None):
    """Nodes of 4 CPU; ``holders`` are (node, cpu, priority, covered by the budget)."""
    snapshot = Snapshot()
    for i in range(nodes):
        snapshot.set_node(Node(f"n{i}", (("cpu", 4000), ("pods", 10))))
    if budget is not None:
        snapshot.set_budget(("ns", "b"), Budget(("ns", "b"), APP, budget))
    for number, (at, cpu, priority, covered) in enumerate(holders):
        shape = PodShape(requests=(("cpu", cpu),))
        labels = {"app": "web"} if covered else {}
        snapshot.place(Pod(("ns", f"h{number}"), shape, labels=labels, priority=priority), f"n{at}")
    return Placer(snapshot)


def freed(placer, cpu):
    subject = Subject((Pod(("ns", "new"), PodShape(requests=(("cpu", cpu),))),))
    if Explainer(placer).fits(subject):
        return None
    found = [s for s in Explainer(placer).suggest(subject) if s.kind.startswith("free-pod")]
    return found[0] if found else None


@pytest.mark.parametrize("nodes", [30, 500])
def test_the_least_important_pod_is_found_on_whatever_node_it_runs(nodes):
    holders = [(i, 4000, 5, False) for i in range(nodes)]
    holders[nodes - 3] = (nodes - 3, 4000, 1, False)
    found = freed(world(holders, nodes), 1000)
    assert (found.subject, found.node) == (f"ns/h{nodes - 3}", f"n{nodes - 3}")


holders = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from([500, 1000, 2000]),
        st.integers(0, 3),
        st.booleans(),
    ),
    min_size=4,
    max_size=12,
)


def room(rows):
    return {n: 4000 - sum(cpu for at, cpu, _, _ in rows if at == n) for n in range(4)}


@settings(deadline=None, max_examples=200)
@given(holders, st.sampled_from([1000, 2000, 4000]), st.sampled_from([None, 0, 1]))
def test_no_other_pods_that_would_do_are_less_important(rows, cpu, budget):
    """Budgets broken first, then the highest priority: no set of one node's pods has less."""
    if min(room(rows).values()) < 0:
        return
    placer = world(rows, budget=budget)
    found = freed(placer, cpu)
    if found is None:
        assert max(room(rows).values()) >= cpu
        return
    snapshot = placer.snapshot
    chosen = tuple(
        p for p, _ in snapshot.placed_pods() if "/".join(p.key) in found.subject.split(",")
    )
    best = rank_of(snapshot, chosen)[:2]
    for row in snapshot.rows.values():
        pods = list(snapshot.pods_on[row].values())
        free = 4000 - sum(p.shape.request("cpu") for p in pods)
        for size in range(1, len(pods) + 1):
            for some in combinations(pods, size):
                if free + sum(p.shape.request("cpu") for p in some) >= cpu:
                    rank = rank_of(snapshot, some)
                    assert best[1] <= rank[1] or best[0] < rank[0], (found.text, some)
