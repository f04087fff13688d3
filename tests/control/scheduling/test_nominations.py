"""Who waits for which node."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubarium.control.scheduling.nominations import Nominations, devices_are_coming
from kubarium.engine.devices.model import Allocation, ClaimSpec, DeviceId, DeviceResult, Rest
from kubarium.engine.model import Claim, Node, Pod, PodShape
from kubarium.engine.placement.resting import lay_by
from kubarium.engine.snapshot import Snapshot


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


NODES = ("n", "m")
CPU = 4


def sized(name, cpu, priority=0, uid=""):
    shape = PodShape(requests=(("cpu", cpu),))
    return Pod(("ns", name), shape, uid or name, {}, priority)


occupants = st.lists(st.tuples(st.sampled_from(NODES), st.integers(1, 2)), max_size=8)
preemptors = st.lists(
    st.tuples(st.sampled_from(NODES), st.integers(1, 4), st.integers(1, 2)), max_size=4
)


@given(occupants, preemptors, st.sets(st.integers(0, 7)))
def test_room_names_exactly_those_whom_it_could_help(occupants, preemptors, gone):
    snapshot, book = Snapshot(), Nominations()
    for name in NODES:
        snapshot.set_node(Node(name, (("cpu", CPU), ("pods", 110))))
    placed, free = {}, dict.fromkeys(NODES, CPU)
    for number, (node, cpu) in enumerate(occupants):
        if free[node] >= cpu:
            free[node] -= cpu
            placed[number] = (sized(f"old-{number}", cpu), node)
            snapshot.place(*placed[number])
    waiting = []
    for number, (node, cpu, priority) in enumerate(preemptors):
        waits = sized(f"new-{number}", cpu, priority)
        victims = tuple(p for p, where in placed.values() if where == node)
        book.put(waits, node, victims)
        book.be_patient(waits.key)
        waiting.append((waits, node, cpu))
    for number in gone & placed.keys():
        old, node = placed.pop(number)
        snapshot.displace(old.key)
        free[node] += dict(old.shape.requests)["cpu"]
    for node in NODES:
        own, others = book.room_on(snapshot, node)
        left = any(where == node for _, where in placed.values())
        for waits, where, cpu in waiting:
            promised = sum(
                c
                for p, n, c in waiting
                if n == node and p is not waits and p.priority >= waits.priority
            )
            fits = promised + cpu <= free[node]
            if where == node:
                assert (waits.key in own) == (fits or not left)
            else:
                assert (waits.key in others) == fits


def test_a_pod_that_came_in_the_place_of_a_victim_is_not_waited_for():
    snapshot, book = Snapshot(), Nominations()
    snapshot.set_node(Node("n", (("cpu", CPU), ("pods", 110))))
    victim, waits = sized("web-0", 2, uid="first"), sized("new", 4, 9)
    snapshot.place(victim, "n")
    book.put(waits, "n", (victim,))
    assert book.is_coming(snapshot, waits.key)
    snapshot.displace(victim.key)
    snapshot.place(sized("web-0", 2, uid="second"), "n")
    assert not book.is_coming(snapshot, waits.key)


def test_a_patient_pod_that_asks_for_something_else_is_known_under_one_shape_only():
    snapshot, book = Snapshot(), Nominations()
    for name in NODES:
        snapshot.set_node(Node(name, (("cpu", CPU), ("pods", 110))))
    for cpu in (1, 2):
        book.put(sized("new", cpu), NODES[0])
        book.be_patient(("ns", "new"))
    assert book.room_on(snapshot, NODES[1]) == ([], [("ns", "new")])
    book.drop(("ns", "new"))
    assert book.room_on(snapshot, NODES[1]) == ([], [])


def test_a_device_that_rests_is_none_that_is_given_back():
    snapshot = Snapshot()
    waiting = Pod(("ns", "a"), PodShape(), "a", claims=(("ns", "mine"),))
    device = DeviceId("gpu.example.com", "n", "gpu-0")
    lay_by(snapshot, Rest.of(device, "no link", "2026-01-01T00:00:30Z"))
    assert not devices_are_coming(snapshot, [waiting])
    left = Allocation((DeviceResult("gpu", device._replace(device="gpu-1")),))
    snapshot.set_claim(Claim(("ns", "left"), ClaimSpec(())), left)
    assert devices_are_coming(snapshot, [waiting])
