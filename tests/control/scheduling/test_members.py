"""Which item decides which pods, while parents come and go."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.control.scheduling.events import ItemKey
from kubarium.control.scheduling.members import Members
from kubarium.engine.snapshot import Snapshot
from kubarium.view.forest import Forest

GROUPS, COMPOSITES = "abc", "xyz"
steps = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(GROUPS), st.integers(0, 2)),
    st.tuples(st.just("drop"), st.sampled_from(GROUPS), st.integers(0, 2)),
    st.tuples(st.just("group"), st.sampled_from(GROUPS), st.sampled_from([None, "", *COMPOSITES])),
    st.tuples(
        st.just("composite"), st.sampled_from(COMPOSITES), st.sampled_from([None, "", *COMPOSITES])
    ),
)


def document(name, parent):
    spec = {"parentCompositePodGroupName": parent} if parent else {}
    return {"metadata": {"name": name, "namespace": "ns"}, "spec": spec}


@settings(deadline=None, max_examples=300)
@given(st.lists(steps, max_size=30))
def test_every_waiting_pod_is_decided_by_the_top_of_its_hierarchy(story):
    forest = Forest(Snapshot())
    members = Members(forest)
    waiting, documents, queued = {}, {}, set()
    for kind, name, value in story:
        key = ("ns", name)
        if kind == "add":
            pod = ("ns", f"{name}-{value}")
            waiting.setdefault(key, set()).add(pod)
            queued.add(members.add(key, pod))
        elif kind == "drop":
            pod = ("ns", f"{name}-{value}")
            left = members.drop(key, pod)
            waiting.get(key, set()).discard(pod)
            if not waiting.get(key):
                waiting.pop(key, None)
            queued.discard(left)
        else:
            composite = kind == "composite"
            old = documents.get((kind, name))
            new = None if value is None else document(name, value)
            if old is None and new is None:
                continue
            documents[kind, name] = new
            (forest.set_composite if composite else forest.set_group)(key, new)
            changed = [d for d in (old, new) if d is not None]
            roots = [r for d in changed for r in forest.roots_around(d, composite=composite)]
            groups = {k: None for r in roots for c, k in forest.below(r) if not c}
            if not composite:
                groups[key] = None
            gone, todo = members.reroute(groups)
            queued -= gone.keys()
            queued |= todo.keys()
        _check(forest, members, waiting, queued)


def _check(forest, members, waiting, queued):
    by_item = {}
    for group, pods in waiting.items():
        root = forest.root_of(group)
        item = ItemKey(True, group) if root is None else ItemKey(True, root, True)
        by_item.setdefault(item, set()).update(pods)
        assert set(members.pods(group)) == pods
    assert queued == set(by_item), "an item is queued exactly when it has pods to decide"
    for item, pods in by_item.items():
        assert set(members.pods_of(item)) == pods
