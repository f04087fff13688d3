"""Who waits for which node."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubarium.control.scheduling.nominations import Nominations
from kubarium.engine.model import Pod, PodShape


def pod(name, priority=0):
    return Pod(("ns", name), PodShape(), name, {}, priority)


def test_those_of_lower_priority_on_the_same_node_are_found():
    book = Nominations()
    for name, priority, node in (("a", 1, "n"), ("b", 5, "n"), ("c", 1, "m")):
        book.put(pod(name, priority), node)
    assert [p.key[1] for p in book.below("n", 5)] == ["a"]
    assert [p.key[1] for p in book.below("n", 9)] == ["a", "b"]
    assert book.below("nowhere", 9) == []


steps = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 2), st.sampled_from(["n", "m", None])),
    max_size=20,
)


@given(steps)
def test_the_book_by_node_says_what_the_book_by_pod_says(steps):
    book, oracle = Nominations(), {}
    for name, priority, node in steps:
        if node is None:
            book.drop(("ns", name))
            oracle.pop(name, None)
        else:
            book.put(pod(name, priority), node)
            oracle[name] = (priority, node)
    assert {(p.key[1], n) for p, n in book.all()} == {(k, n) for k, (_, n) in oracle.items()}
    assert len(book) == len(oracle)
    for node in ("n", "m"):
        found = {p.key[1] for p in book.below(node, 2)}
        assert found == {k for k, (level, where) in oracle.items() if where == node and level < 2}
