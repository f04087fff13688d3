"""What a function says it reads is all that it is asked again for, and indexes stay right."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.kinds import PODS
from kubarium.runtime.informer import SharedInformer
from kubarium.runtime.parts import (
    EVERYTHING,
    METADATA,
    SPEC,
    STATUS,
    changed_parts,
    of_metadata,
    of_spec,
    reads,
)


@of_metadata
def _color(pod):
    color = (pod["metadata"].get("labels") or {}).get("color")
    return (color,) if color else ()


@of_spec
def _node(pod):
    node = pod["spec"].get("nodeName")
    return (node,) if node else ()


def _phase(pod):
    phase = (pod.get("status") or {}).get("phase")
    return (phase,) if phase else ()


INDEXES = {"color": _color, "node": _node, "phase": _phase}
some = st.sampled_from(["", "a", "b"])
steps = st.lists(st.tuples(st.sampled_from("pq"), some, some, some, st.booleans()), max_size=20)


def test_a_function_that_says_nothing_reads_everything():
    assert (reads(_color), reads(_node), reads(_phase)) == (METADATA, SPEC, EVERYTHING)


def test_a_status_write_changes_the_status_only():
    old = {"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"nodeName": "n"}}
    new = {**old, "metadata": {**old["metadata"], "resourceVersion": "2"}, "status": {"phase": "x"}}
    assert changed_parts(old, new) == STATUS
    relabelled = {**new, "metadata": {**new["metadata"], "labels": {}}}
    assert changed_parts(new, relabelled) == STATUS | METADATA
    moved = {**new, "spec": {"nodeName": "m"}}
    assert changed_parts(new, moved) == STATUS | SPEC


@given(steps)
def test_indexes_hold_what_their_functions_give(changes):
    async def play():
        informer = SharedInformer(PODS, None, None)
        for name, values in INDEXES.items():
            informer.add_index(name, values)
        for number, (name, color, node, phase, gone) in enumerate(changes, 1):
            held = informer.get(name, "default")
            if gone and held is not None:
                informer.forget(held)
                continue
            spec = held["spec"] if held and held["spec"]["nodeName"] == node else {"nodeName": node}
            metadata = {"namespace": "default", "name": name, "uid": f"{name}-{number}"}
            if held is not None:
                metadata["uid"] = held["metadata"]["uid"]
            metadata |= {"resourceVersion": str(number), "labels": {"color": color}}
            informer.observe({"metadata": metadata, "spec": spec, "status": {"phase": phase}})
            for index, values in INDEXES.items():
                for value in "ab":
                    expected = [p for p in informer.items() if value in values(p)]
                    found = informer.by_index(index, value)
                    assert sorted(map(id, found)) == sorted(map(id, expected))

    asyncio.run(play())
