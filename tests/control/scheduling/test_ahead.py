"""Tries ahead of a back-off's end: whose, how many, and what they cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kubarium.control.scheduling.ahead import AT_ONCE, COST_OF_GROUP, PER_S, Ahead
from kubarium.control.scheduling.events import Event, ItemKey
from kubarium.control.scheduling.queue import SchedulingQueue

A, B, C = (ItemKey(False, ("ns", name)) for name in "abc")
ROOM = frozenset({Event.ROOM})
KIND = "pods of one template"


def pods(number):
    return [ItemKey(False, ("ns", f"pod-{index:03d}")) for index in range(number)]


def in_back_off(*keys, now=0.0, kind=None):
    """A queue in which these items found no place, and then something happened that helps them."""
    queue = SchedulingQueue()
    for key in keys:
        queue.add(key)
    for key in queue.take(now):
        queue.fail(key, ROOM, now, kind)
    queue.happened(Event.ROOM, now)
    return queue


def in_vain(queue, now, kind=None):
    taken = queue.take(now)
    for key in taken:
        queue.fail(key, ROOM, now, kind)
    return taken


def test_with_nothing_else_ready_back_off_is_not_waited_for():
    queue = in_back_off(A)
    assert queue.has_ready(0.1)
    assert queue.take(0.1) == [A]


def test_what_is_ready_comes_first_and_alone():
    queue = in_back_off(A)
    queue.add(B)
    assert queue.take(0.1) == [B]
    queue.remove(B)
    assert queue.take(0.1) == [A]


def test_an_error_serves_its_back_off_in_full():
    queue = SchedulingQueue()
    queue.add(A)
    queue.take(0)
    queue.retry(A, 0)
    queue.happened(Event.ROOM, 0)
    assert not queue.has_ready(0.9)
    assert queue.has_ready(1)


def test_those_that_are_alike_come_one_by_one_for_as_long_as_there_is_room():
    queue = in_back_off(A, B, C, kind=KIND)
    assert queue.take(0.1) == [A]
    queue.remove(A)  # it found a place
    assert queue.take(0.1) == [B]
    queue.fail(B, ROOM, 0.1, KIND)
    assert not queue.has_ready(0.1)  # what B did not find, C would not


def test_after_one_in_vain_the_next_event_gives_those_that_are_alike_another_try():
    queue = in_back_off(A, B, kind=KIND)
    assert in_vain(queue, 0.1, KIND) == [A]
    queue.happened(Event.DEVICES, 0.2)  # which helps neither
    assert not queue.has_ready(0.2)
    queue.happened(Event.ROOM, 0.3)
    assert queue.take(0.3) == [B]


def test_others_are_tried_whoever_was_tried_in_vain():
    queue = in_back_off(A, B)
    assert queue.take(0.1) == [A, B]


def test_a_try_in_vain_costs_an_item_nothing():
    queue = in_back_off(A)
    for now in (0.1, 0.2, 0.3):
        assert in_vain(queue, now) == [A]
        queue.happened(Event.ROOM, now)
    assert in_vain(queue, 1.0) == [A]  # its first back-off has ended, as it would have
    queue.happened(Event.ROOM, 1.0)
    assert queue.next_due() <= 1.0  # may be tried again at once
    assert in_vain(queue, 1.5) == [A]
    queue.happened(Event.ROOM, 3.1)  # and the second lasts two seconds from the first's end
    assert queue.take(3.1) == [A]
    queue.fail(A, ROOM, 3.1)
    queue.happened(Event.ROOM, 3.1)
    queue.ahead = Ahead(at_once=0)
    assert queue.next_due() == 3.1 + 4


def test_a_held_item_is_not_woken_by_the_end_of_the_back_off_that_it_did_not_wait_for():
    queue = in_back_off(A)
    queue.take(0.1)
    queue.hold(A)
    assert not queue.has_ready(2)


def test_only_so_many_may_be_in_vain():
    queue = in_back_off(*pods(100))
    assert len(in_vain(queue, 0.1)) == AT_ONCE
    assert not queue.has_ready(0.1)
    due = queue.next_due()
    assert due == 0.1 + 1 / PER_S
    assert len(in_vain(queue, due)) == 1
    assert len(in_vain(queue, due + 0.2)) == PER_S / 5


def test_the_end_of_back_off_is_waited_for_by_nobody_longer():
    queue = in_back_off(*pods(100))
    in_vain(queue, 0.1)
    assert len(queue.take(1.0)) == 100 - AT_ONCE


def test_a_group_counts_as_several():
    groups = [ItemKey(True, ("ns", f"gang-{index}")) for index in range(10)]
    queue = in_back_off(*groups)
    assert len(in_vain(queue, 0.1)) == AT_ONCE / COST_OF_GROUP


def test_what_finds_a_place_is_not_rationed():
    queue = in_back_off(*pods(100), kind=KIND)
    for _ in range(100):
        (key,) = queue.take(0.1)
        queue.remove(key)
    assert not queue.has_ready(0.1)


def test_what_goes_leaves_nothing_behind():
    queue = in_back_off(A, B, kind=KIND)
    in_vain(queue, 0.1, KIND)
    queue.remove(A)
    queue.remove(B)
    queue.happened(Event.ROOM, 0.2)
    assert not queue.has_ready(100)
    assert queue.ahead == Ahead(_spent=1.0, _spent_at=0.1)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("add", "event", "vain", "place", "error", "hold", "remove", "wait")),
        st.integers(0, 5),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_no_item_is_lost_and_few_tries_are_in_vain(steps):
    items = [*pods(4), ItemKey(True, ("ns", "gang-0")), ItemKey(True, ("ns", "gang-1"))]
    queue, now, spent = SchedulingQueue(), 0.0, 0.0
    for step, number in steps:
        key = items[number]
        if step == "add":
            queue.add(key)
        elif step == "event":
            queue.happened(Event.ROOM, now)
        elif step == "remove":
            queue.remove(key)
        elif step == "wait":
            now += 0.1 * number
        else:
            early = not queue._ready
            for taken in queue.take(now):
                if step == "vain":
                    spent += (COST_OF_GROUP if taken.gang else 1) if early else 0
                    queue.fail(taken, ROOM, now, KIND if not taken.gang else None)
                elif step == "place":
                    queue.remove(taken)
                elif step == "error":
                    queue.retry(taken, now)
                else:
                    queue.hold(taken)
                    queue.add(taken)
        assert spent <= AT_ONCE + now * PER_S + 1e-6
    left = len(queue)
    # Everything that is still there is taken in the end, none of it twice.
    queue.happened(Event.ROOM, now)
    taken = []
    while len(taken) < left:
        due = queue.next_due()
        now = max(now, due) if due is not None else now
        batch = queue.take(now)
        assert batch or due is not None
        taken += batch
        for key in batch:
            queue.remove(key)
    assert len(set(taken)) == left
