"""Who has to go, judged by trying every choice of victims in small worlds."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine.model import Gang, Node, Pod, PodShape, PodTerm
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.disruption import unit_of
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import QueueItem
from kubarium.engine.selectors import LabelSelector, Requirement
from kubarium.engine.snapshot import Snapshot

checked = settings(deadline=None, max_examples=250)

LOUD = LabelSelector((Requirement("sound", "In", ("loud",)),))
FAR_FROM_LOUD = (PodTerm("rack", LOUD, ("ns",)),)


def size(cpu, **more):
    return PodShape(requests=(("cpu", cpu),), **more)


@st.composite
def worlds(draw):
    """Nodes in racks, on which pods of groups run that go as a whole or one by one."""
    snapshot = Snapshot()
    nodes = draw(st.integers(1, 4))
    for i in range(nodes):
        capacity = (("cpu", draw(st.integers(1, 4))), ("pods", 20))
        snapshot.set_node(Node(f"n{i}", capacity, {"rack": draw(st.sampled_from("ab"))}))
    placer, priorities = Placer(snapshot), {None: None}
    for name in ("x", "y"):
        gang = Gang(("ns", name), 1, all_disrupted=draw(st.booleans()))
        snapshot.gangs[gang.key] = gang
        priorities[gang.key] = draw(st.integers(0, 2))
    for i in range(draw(st.integers(1, 7))):
        group = draw(st.sampled_from(list(priorities)))
        own = draw(st.integers(0, 2))
        pod = Pod(
            ("ns", f"p{i}"),
            size(draw(st.integers(1, 2))),
            labels={"sound": draw(st.sampled_from(["loud", "still"]))},
            priority=own if group is None else priorities[group],
            started=float(i + 1),
            gang=group,
        )
        placer.place_on(pod, snapshot.rows[f"n{draw(st.integers(0, nodes - 1))}"])
    return placer


@st.composite
def gangs(draw):
    count = draw(st.integers(1, 3))
    level = draw(st.sampled_from(["", "", "rack"]))
    gang = Gang(("ns", "new"), draw(st.integers(1, count)), level)
    away = draw(st.sampled_from([(), (), FAR_FROM_LOUD]))
    shapes = [size(draw(st.integers(1, 2)), pod_anti_affinity=away) for _ in range(count)]
    priority = draw(st.sampled_from([1, 2, 9]))
    members = (
        Pod(("ns", f"g{i}"), shape, priority=priority, gang=gang.key)
        for i, shape in enumerate(shapes)
    )
    return QueueItem(tuple(members), gang)


lone_pods = st.builds(
    lambda cpu, away, priority: QueueItem(
        (Pod(("ns", "new"), size(cpu, pod_anti_affinity=away), priority=priority),)
    ),
    st.integers(1, 3),
    st.sampled_from([(), (), FAR_FROM_LOUD]),
    st.sampled_from([1, 2, 9]),
)


def starts_without(placer, item, gone):
    mark = placer.snapshot.checkpoint()
    for pod in gone:
        placer.snapshot.displace(pod.key)
    [decision] = plan_cycle(placer, [item], preemption=False).decisions
    placer.snapshot.rollback(mark)
    return bool(decision.placements)


def units(placer):
    found = {}
    for pod, _ in placer.snapshot.placed_pods():
        found.setdefault(unit_of(placer.snapshot, pod) or pod.key, []).append(pod)
    return list(found.values())


def runs_on(placer, item, gone, name):
    """Whether a lone pod has a place on one node once these have gone."""
    snapshot, [lone] = placer.snapshot, item.pods
    mark, within = snapshot.checkpoint(), snapshot.alive & False
    within[snapshot.rows[name]] = True
    for pod in gone:
        snapshot.displace(pod.key)
    placed = placer.place(lone, within)
    snapshot.rollback(mark)
    return placed is not None


def could_start(placer, item, able):
    """Whether evicting whoever may be evicted helps: a lone pod on the node that they leave.

    Who goes from there takes its group along, which may have stood in the way elsewhere.
    """
    if item.gang is not None:
        return starts_without(placer, item, [pod for unit in able for pod in unit])
    home = placer.snapshot.node_of
    return any(
        runs_on(placer, item, [pod for unit in there for pod in unit], name)
        for name in placer.snapshot.rows
        if (there := [unit for unit in able if any(home(pod.key) == name for pod in unit)])
    )


def decide(placer, item):
    """(the decision, victims, units that may go); nothing is changed by deciding."""
    before = placer.snapshot.requested.copy()
    [decision] = plan_cycle(placer, [item]).decisions
    if not decision.placements:
        assert (placer.snapshot.requested == before).all()
        placer.snapshot.check()
    urgency = item.pods[0].priority
    able = [u for u in units(placer) if all(pod.priority < urgency for pod in u)]
    victims = decision.preemption.victims if decision.preemption is not None else ()
    return decision, victims, able


@checked
@given(worlds(), st.one_of(gangs(), lone_pods))
def test_nobody_goes_who_could_stay(placer, item):
    """What goes suffices, goes in whole units of lower priority, and none of these needlessly."""
    decision, victims, able = decide(placer, item)
    if decision.placements:
        return
    gone = {pod.key for pod in victims}
    assert bool(gone) == could_start(placer, item, able)
    if not gone:
        return
    assert starts_without(placer, item, victims)
    going = [unit for unit in able if any(pod.key in gone for pod in unit)]
    assert {pod.key for unit in going for pod in unit} == gone
    for spared in going:
        rest = [pod for unit in going if unit is not spared for pod in unit]
        if item.gang is not None:
            helps = starts_without(placer, item, rest)
        else:
            [(_, name)] = decision.preemption.nominations
            helps = runs_on(placer, item, rest, name)
        assert not helps, f"{spared[0].key} could have stayed"


@checked
@given(worlds(), gangs())
def test_no_choice_of_victims_would_spare_more_important_ones(placer, item):
    """The highest priority among the victims of a gang is the lowest that there is."""
    _, victims, able = decide(placer, item)
    if not victims:
        return
    best = min(
        max(pod.priority for unit in some for pod in unit)
        for count in range(1, len(able) + 1)
        for some in itertools.combinations(able, count)
        if starts_without(placer, item, [pod for unit in some for pod in unit])
    )
    assert max(pod.priority for pod in victims) == best


def test_a_pod_takes_no_group_along_that_is_as_important_as_itself():
    """One pod of the group is less important, but the group goes as a whole or stays."""
    snapshot = Snapshot()
    for name in ("n0", "n1"):
        snapshot.set_node(Node(name, (("cpu", 2), ("pods", 9))))
    snapshot.gangs["ns", "x"] = Gang(("ns", "x"), 2, all_disrupted=True)
    for i, priority in enumerate((0, 9)):
        snapshot.place(Pod(("ns", f"x{i}"), size(2), priority=priority, gang=("ns", "x")), f"n{i}")
    item = QueueItem((Pod(("ns", "new"), size(2), priority=5),))
    [decision] = plan_cycle(Placer(snapshot), [item]).decisions
    assert decision.preemption is None


def test_a_large_gang_evicts_no_more_than_it_lacks_and_the_least_important():
    """The free nodes count first, whatever the scores of the nodes are once all are empty."""
    snapshot = Snapshot()
    for i in range(60):
        snapshot.set_node(Node(f"n{i:02}", (("cpu", 2 if i % 3 else 8), ("pods", 9))))
        if i % 3:
            snapshot.place(Pod(("ns", f"free-or-small-{i}"), size(1)), f"n{i:02}")
            continue
        for j in range(4):
            snapshot.place(Pod(("ns", f"p{i}-{j}"), size(2), priority=j), f"n{i:02}")
    gang = Gang(("ns", "g"), 50)
    members = (Pod(("ns", f"g{i}"), size(1), priority=9, gang=gang.key) for i in range(50))
    [decision] = plan_cycle(Placer(snapshot), [QueueItem(tuple(members), gang)]).decisions
    victims = decision.preemption.victims
    assert len(victims) == 5, "40 find room beside small pods, ten more need five of two"
    assert {pod.priority for pod in victims} == {0}


def test_only_the_least_important_are_taken_off_to_see_that_they_suffice(monkeypatch):
    """Of 200 pods of ten priorities twenty have to go: the rest stays where it is meanwhile."""
    snapshot = Snapshot()
    placer, taken = Placer(snapshot), []
    for i in range(50):
        snapshot.set_node(Node(f"n{i}", (("cpu", 4), ("pods", 20))))
        for k in range(4):
            pod = Pod(("ns", f"p{i}-{k}"), size(1), priority=i // 5, started=1.0)
            placer.place_on(pod, snapshot.rows[f"n{i}"])
    gang = Gang(("ns", "new"), 5)
    members = (Pod(("ns", f"g{i}"), size(4), priority=99, gang=gang.key) for i in range(5))
    item = QueueItem(tuple(members), gang)
    real = snapshot.displace
    monkeypatch.setattr(snapshot, "displace", lambda key: (taken.append(key), real(key)))
    [decision] = plan_cycle(placer, [item]).decisions
    assert {pod.priority for pod in decision.preemption.victims} == {0}
    assert len(decision.preemption.victims) == 20
    assert len({key for key in taken if key[1].startswith("p")}) == 20


def test_of_equal_priority_pods_go_before_groups_and_small_groups_before_large_ones():
    """Upstream's order of importance, where any of them would make room for the gang."""
    snapshot = Snapshot()
    for name, whole in (("small", True), ("large", True), ("loose", False)):
        snapshot.gangs["ns", name] = Gang(("ns", name), 1, all_disrupted=whole)
    started = iter(range(1, 99))

    def run(node, *pods):
        snapshot.set_node(Node(node, (("cpu", len(pods)), ("pods", 9))))
        for name, group in pods:
            gang = ("ns", group) if group else None
            snapshot.place(Pod(("ns", name), size(1), started=next(started), gang=gang), node)

    run("n0", ("p0", ""), ("l0", "loose"))  # the oldest, and yet they go first
    run("n1", ("s0", "small"), ("s1", "small"))
    run("n2", ("b0", "large"), ("b1", "large"), ("b2", "large"))
    gang = Gang(("ns", "new"), 7)

    def victims(count):
        members = (Pod(("ns", f"g{i}"), size(1), priority=9, gang=gang.key) for i in range(count))
        item = QueueItem(tuple(members), replace(gang, min_count=count))
        [decision] = plan_cycle(Placer(snapshot), [item]).decisions
        return {pod.key[1] for pod in decision.preemption.victims}

    assert victims(1) == {"l0"}
    assert victims(2) == {"p0", "l0"}
    assert victims(4) == {"p0", "l0", "s0", "s1"}
    assert victims(7) == {"p0", "l0", "s0", "s1", "b0", "b1", "b2"}
