"""Gangs that preempt under disruption budgets, judged by trying every choice of victims."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine.model import Budget, Gang, Node, Pod
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import QueueItem
from kubarium.engine.selectors import LabelSelector, Requirement
from kubarium.engine.snapshot import Snapshot

from .test_victims import decide, size, starts_without

checked = settings(deadline=None, max_examples=300)

APPS = ("x", "y")


def of_app(app):
    return LabelSelector((Requirement("app", "In", (app,)),))


@st.composite
def guarded_worlds(draw):
    """Nodes whose pods have budgets; some of them belong to groups that go as a whole or not."""
    snapshot = Snapshot()
    nodes = draw(st.integers(1, 3))
    for i in range(nodes):
        snapshot.set_node(Node(f"n{i}", (("cpu", draw(st.integers(1, 4))), ("pods", 20)), {}))
    placer = Placer(snapshot)
    priorities = {None: None}
    for name in ("g", "h"):
        priority = draw(st.integers(0, 2))
        whole = draw(st.booleans())
        gang = Gang(("ns", name), 1, priority=priority, all_disrupted=whole)
        snapshot.gangs[gang.key] = gang
        priorities[gang.key] = priority
    for i in range(draw(st.integers(1, 6))):
        group = draw(st.sampled_from(list(priorities)))
        own = draw(st.integers(0, 2))
        pod = Pod(
            ("ns", f"p{i}"),
            size(draw(st.integers(1, 2))),
            labels={"app": draw(st.sampled_from((*APPS, "none")))},
            priority=own if group is None else priorities[group],
            started=float(draw(st.integers(1, 9))),
            gang=group,
        )
        placer.place_on(pod, snapshot.rows[f"n{draw(st.integers(0, nodes - 1))}"])
    for app in APPS:
        key = ("ns", f"budget-{app}")
        snapshot.set_budget(key, Budget(key, of_app(app), draw(st.integers(0, 2))))
    return placer


@st.composite
def plain_gangs(draw):
    count = draw(st.integers(1, 3))
    gang = Gang(("ns", "new"), draw(st.integers(1, count)))
    priority = draw(st.sampled_from([1, 2, 9]))
    members = (
        Pod(("ns", f"new-{i}"), size(draw(st.integers(1, 2))), priority=priority, gang=gang.key)
        for i in range(count)
    )
    return QueueItem(tuple(members), gang)


def violations(placer, pods):
    """How many of the pods' evictions their budgets do not allow: the least, if they may choose."""
    broken = 0
    for budget in placer.snapshot.budgets.values():
        covered = sum(budget.covers(pod) for pod in pods)
        broken += max(0, covered - budget.allowed)
    return broken


def harm(placer, pods):
    """Upstream's order of candidates: broken budgets first, then the highest priority."""
    return violations(placer, pods), max(pod.priority for pod in pods)


@checked
@given(guarded_worlds(), plain_gangs())
def test_no_choice_of_victims_would_break_fewer_budgets_or_spare_more_important_ones(placer, item):
    _, victims, able = decide(placer, item)
    if not victims:
        return
    choices = (
        [pod for unit in some for pod in unit]
        for count in range(1, len(able) + 1)
        for some in itertools.combinations(able, count)
    )
    best = min(harm(placer, pods) for pods in choices if starts_without(placer, item, pods))
    assert harm(placer, victims) == best
