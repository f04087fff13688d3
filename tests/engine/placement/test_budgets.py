"""Gangs that preempt under disruption budgets, judged by trying every choice of victims."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine.model import Budget, Gang, Node, Pod
from kubarium.engine.placement.disruption import unit_of
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import QueueItem
from kubarium.engine.selectors import LabelSelector, Requirement
from kubarium.engine.snapshot import Snapshot

from .test_victims import decide, runs_on, size, starts_without

checked = settings(deadline=None, max_examples=300)

APPS = ("x", "y")


def of_app(app):
    return LabelSelector((Requirement("app", "In", (app,)),))


@st.composite
def guarded_worlds(draw, least=1, levels=3):
    """Nodes whose pods have budgets; some of them belong to groups that go as a whole or not."""
    snapshot = Snapshot()
    nodes = draw(st.integers(1, 3))
    for i in range(nodes):
        snapshot.set_node(Node(f"n{i}", (("cpu", draw(st.integers(1, 4))), ("pods", 20)), {}))
    placer = Placer(snapshot)
    priorities = {None: None}
    for name in ("g", "h"):
        priority = draw(st.integers(0, levels - 1))
        whole = draw(st.booleans())
        gang = Gang(("ns", name), 1, priority=priority, all_disrupted=whole)
        snapshot.gangs[gang.key] = gang
        priorities[gang.key] = priority
    for i in range(draw(st.integers(least, 6))):
        group = draw(st.sampled_from(list(priorities)))
        own = draw(st.integers(0, levels - 1))
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


def importance(placer, unit):
    """Upstream's MoreImportantVictim, of units whose pods have one priority."""
    whole = unit_of(placer.snapshot, unit[0]) is not None
    oldest = min((pod.started, pod.created, pod.key) for pod in unit)
    return (-unit[0].priority, not whole, -len(unit), oldest)


def upstreams_choice(placer, item, able, name):
    """(rank, victims) of one node for a lone pod: all go, and the most important come back."""
    snapshot = placer.snapshot
    there = [unit for unit in able if any(snapshot.node_of(p.key) == name for p in unit)]
    there.sort(key=lambda unit: importance(placer, unit))
    if not there or not runs_on(placer, item, [p for unit in there for p in unit], name):
        return None
    allowed = {key: budget.allowed for key, budget in snapshot.budgets.items()}
    broken = []
    for unit in there:
        exceeding = 0
        for pod in unit:
            covering = [key for key, budget in snapshot.budgets.items() if budget.covers(pod)]
            for key in covering:
                allowed[key] -= 1
            exceeding += any(allowed[key] < 0 for key in covering)
        broken.append(exceeding)
    order = sorted(range(len(there)), key=lambda n: not broken[n])
    gone = list(order)
    for number in order:
        rest = [n for n in gone if n != number]
        if runs_on(placer, item, [p for n in rest for p in there[n]], name):
            gone = rest
    pods = [p for n in gone for p in there[n]]
    highest = max(pod.priority for pod in pods)
    latest = min(pod.started for pod in pods if pod.priority == highest)
    total = sum(pod.priority + 2**31 for pod in pods)
    rank = (sum(broken[n] for n in gone), highest, total, len(pods), -latest, name)
    return rank, {pod.key for pod in pods}


@checked
@given(guarded_worlds(4, 2), st.integers(1, 3), st.sampled_from([1, 9]))
def test_a_lone_pod_evicts_whom_upstream_would_budgets_and_groups_included(placer, cpu, priority):
    item = QueueItem((Pod(("ns", "new"), size(cpu), priority=priority),))
    decision, victims, able = decide(placer, item)
    if decision.placements:
        return
    choices = (upstreams_choice(placer, item, able, name) for name in placer.snapshot.rows)
    best = min((choice for choice in choices if choice is not None), default=None)
    assert {pod.key for pod in victims} == (best[1] if best is not None else set())
