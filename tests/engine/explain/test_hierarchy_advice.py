"""What would help a composite: in one group, in several, or in the composite itself."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from kubarium.engine.explain import HierarchyQuestion
from kubarium.engine.explain.hierarchy import COMBINATIONS_GIVEN
from kubarium.engine.explain.wishes import whole
from kubarium.engine.model import Composite, Gang, Node, Pod, PodShape
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.tree import place_tree
from kubarium.engine.plan import Leaf, QueueItem, Tree
from kubarium.engine.selectors import Requirement
from kubarium.engine.snapshot import Snapshot

RACK = "rack"


def node(name, cpu=4000, **labels):
    return Node(name, (("cpu", cpu), ("memory", 10**9), ("pods", 10)), labels)


def leaf(name, count, cpu=1000, **selector):
    clauses = tuple(Requirement(k, "In", (v,)) for k, v in sorted(selector.items()))
    shape = PodShape(requests=(("cpu", cpu),), node_selector=clauses)
    key = ("ns", name)
    pods = tuple(Pod(("ns", f"{name}-{i}"), shape, gang=key) for i in range(count))
    return Leaf(Gang(key, count, parent=("ns", "job")), pods)


def tree(*leaves, least=0, keys=()):
    return Tree(Composite(("ns", "job"), least or len(leaves), required_keys=keys), leaves)


def placer_of(nodes):
    snapshot = Snapshot()
    for one in nodes:
        snapshot.set_node(one)
    return Placer(snapshot)


def verdict_of(nodes, job):
    return place_tree(placer_of(nodes), QueueItem.of_tree(job)).gang_verdict


def ask(nodes, job):
    placer = placer_of(nodes)
    verdict = verdict_of(nodes, job)
    assert verdict is not None
    before = placer.snapshot.requested[:, : len(nodes)].copy()
    advice = HierarchyQuestion(placer, whole, job, verdict).advice()
    assert (placer.snapshot.requested[:, : len(nodes)] == before).all()
    assert set(placer.snapshot.rows) == {one.name for one in nodes}
    placer.snapshot.check()
    return advice


def test_two_groups_that_each_need_a_change_are_helped_together():
    job = tree(leaf("one", 2, rack="x"), leaf("two", 2, disk="hdd"))
    advice = ask([node("n0", rack="a", disk="ssd")], job)
    assert not any(advice.of_groups.values())
    first = next(s for s in advice.together if s.kind == "combination")
    assert [part.text for part in first.parts] == [
        "remove node selector clause rack=x in pod group one",
        "remove node selector clause disk=hdd in pod group two",
    ]


def test_a_group_that_fails_second_is_helped_too():
    job = tree(leaf("one", 2), leaf("two", 2, disk="hdd"))
    advice = ask([node("n0", disk="ssd")], job)
    kinds = {s.kind for s in advice.of_groups["ns", "two"]}
    assert "remove-selector" in kinds
    assert not any(s.kind == "combination" for s in advice.together)


def test_what_the_composite_demands_is_lifted():
    nodes = [node("n0", 2000, rack="a"), node("n1", 2000, rack="b")]
    job = tree(leaf("one", 2), leaf("two", 2), keys=(RACK,))
    texts = [s.text for s in ask(nodes, job).together]
    assert "do without the topology constraint rack of composite pod group job" in texts
    assert "lower minGroupCount of composite pod group job from 2 to 1" in texts


def test_nodes_for_several_groups_are_counted_apart():
    """A node of each kind is missing: both additions are made, not one in place of the other."""
    nodes = [node("n0", 1000, rack="a"), node("n1", 1000, rack="b")]
    job = tree(leaf("one", 2, rack="a"), leaf("two", 2, rack="b"))
    advice = ask(nodes, job)
    found = [
        sorted(p.node for p in s.parts)
        for s in advice.together
        if s.kind == "combination" and all(p.kind == "add-node" for p in s.parts)
    ]
    assert found == [["n0", "n1"]]


selectors = st.sampled_from([{}, {}, {"rack": "a"}, {"rack": "x"}, {"disk": "ssd"}])


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.integers(1, 3), selectors), min_size=2, max_size=3),
    st.lists(
        st.tuples(st.sampled_from([1000, 2000, 4000]), st.sampled_from(["a", "b"])),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([(), (), (RACK,)]),
)
def test_every_suggestion_makes_the_hierarchy_start(groups, machines, keys):
    nodes = [node(f"n{i}", cpu, rack=rack) for i, (cpu, rack) in enumerate(machines)]
    leaves = [leaf(f"g{i}", count, **selector) for i, (count, selector) in enumerate(groups)]
    job = tree(*leaves, keys=keys)
    if verdict_of(nodes, job) is None:
        return
    advice = ask(nodes, job)
    given_ = [(s, key) for key, found in advice.of_groups.items() for s in found]
    given_ += [(s, None) for s in advice.together]
    assert sum(s.kind == "combination" for s in advice.together) <= COMBINATIONS_GIVEN
    for suggestion, key in given_:
        event(suggestion.kind)
        there, changed = apply(suggestion, key, list(nodes), job)
        if changed is not None:
            assert verdict_of(there, changed) is None, suggestion.text
    # One selector given up in each group, and nothing else: then something is said.
    free = replace(job, children=tuple(_unselecting(one) for one in leaves))
    if verdict_of(nodes, free) is None:
        assert given_


def _unselecting(one, clause=None):
    def kept(shape):
        left = tuple(c for c in shape.node_selector if clause is not None and str(c) != clause)
        return replace(shape, node_selector=left)

    return replace(one, pods=tuple(replace(p, shape=kept(p.shape)) for p in one.pods))


def apply(suggestion, key, nodes, job):
    """(nodes, tree) with the change made; the tree is None where this test knows no way."""
    for part in suggestion.parts or (suggestion,):
        group = key[1] if key else part.text.rpartition(" in pod group ")[2]
        by_name = {one.name: one for one in nodes}
        match part.kind:
            case "add-node":
                model = by_name[part.node]
                made = len(nodes)
                nodes = nodes + [replace(model, name=f"new-{made + i}") for i in range(part.amount)]
            case "remove-selector":
                job = _changed(job, group, lambda one, s=part.subject: _unselecting(one, s))
            case "lower-min-count":
                least = part.amount
                job = _changed(
                    job,
                    part.subject,
                    lambda one, n=least: replace(one, gang=replace(one.gang, min_count=n)),
                )
            case "lower-min-group-count":
                job = replace(job, group=replace(job.group, min_groups=part.amount))
            case "remove-topology":
                job = replace(job, group=replace(job.group, required_keys=()))
            case _:
                return nodes, None
    return nodes, job


def _changed(job, name, change):
    children = tuple(change(c) if c.key[1] == name else c for c in job.children)
    return replace(job, children=children)
