"""Back-off, event-driven wake-up and the flush, on numbers instead of a clock."""

from __future__ import annotations

from kubarium.control.scheduling.ahead import Ahead
from kubarium.control.scheduling.events import Event, ItemKey
from kubarium.control.scheduling.queue import (
    BACKOFF_MAX_S,
    BACKOFF_START_S,
    FLUSH_AFTER_S,
    SchedulingQueue,
)

A, B = ItemKey(False, ("ns", "a")), ItemKey(False, ("ns", "b"))


def patient(start_s=BACKOFF_START_S, max_s=BACKOFF_MAX_S):
    """A queue in which back-off is always served in full."""
    return SchedulingQueue(start_s, max_s, Ahead(at_once=0))


def failed(queue, key, now, *events):
    assert key in queue.take(now)
    queue.fail(key, frozenset(events), now)


def test_items_are_taken_in_the_order_in_which_they_came():
    queue = SchedulingQueue()
    queue.add(B)
    queue.add(A)
    assert queue.take(0) == [B, A]
    assert queue.take(0) == []


def test_only_an_event_that_helps_wakes_an_item():
    queue = SchedulingQueue()
    queue.add(A)
    failed(queue, A, 0, Event.NODE)
    queue.happened(Event.ROOM, 5)
    assert not queue.has_ready(5)
    queue.happened(Event.NODE, 5)
    assert queue.take(5) == [A]


def test_back_off_doubles_from_one_second_to_ten():
    queue, now, waits = patient(), 0.0, []
    queue.add(A)
    for _ in range(6):
        failed(queue, A, now, Event.ROOM)
        queue.happened(Event.ROOM, now)
        assert not queue.has_ready(now)
        waits.append(queue.next_due() - now)
        now = queue.next_due()
    assert waits == [1, 2, 4, 8, BACKOFF_MAX_S, BACKOFF_MAX_S]


def test_failures_back_off_by_themselves_and_from_when_they_happened():
    queue, now = patient(), 0.0
    queue.add(A)
    for _ in range(5):  # no room, again and again
        failed(queue, A, now, Event.ROOM)
        queue.happened(Event.ROOM, now)
        now = queue.next_due()
    waits = []
    for _ in range(3):  # then room, but the binding meets a conflict, late each time
        assert queue.take(now) == [A]
        now += 30
        queue.retry(A, now)
        waits.append(queue.next_due() - now)
        now = queue.next_due()
    assert waits == [1, 2, 4]
    failed(queue, A, now, Event.ROOM)
    queue.happened(Event.ROOM, now)
    assert queue.next_due() - now == BACKOFF_MAX_S


def test_the_longest_back_off_is_what_it_is_set_to():
    queue, now = patient(1.0, 5000.0), 0.0
    queue.add(A)
    for _ in range(40):
        failed(queue, A, now, Event.ROOM)
        queue.happened(Event.ROOM, now)
        began = now
        while not queue.has_ready(now):
            now = queue.next_due()
    assert now - began == 5000


def test_an_event_during_the_decision_wakes_only_whom_it_helps():
    queue = SchedulingQueue()
    queue.add(A)
    queue.take(0)
    queue.happened(Event.ROOM, 0)
    queue.fail(A, frozenset({Event.DEVICES}), 0)
    assert queue.next_due() == FLUSH_AFTER_S


def test_back_off_that_is_served_already_is_not_served_again():
    queue = SchedulingQueue()
    queue.add(A)
    failed(queue, A, 0, Event.ROOM)
    queue.happened(Event.ROOM, 60)
    assert queue.has_ready(60)


def test_an_event_during_the_decision_is_not_lost():
    queue = patient()
    queue.add(A)
    queue.take(0)
    queue.happened(Event.DEVICES, 0)
    queue.fail(A, frozenset({Event.DEVICES}), 0)
    assert queue.next_due() == 1


def test_everything_is_tried_again_after_five_minutes():
    queue = SchedulingQueue()
    queue.add(A)
    failed(queue, A, 0)
    assert not queue.has_ready(FLUSH_AFTER_S - 1)
    assert queue.has_ready(FLUSH_AFTER_S)


def test_a_held_item_waits_for_its_own_change_and_loses_no_attempt():
    queue = patient()
    queue.add(A)
    queue.take(0)
    queue.hold(A)
    for event in Event:
        queue.happened(event, 1000)
    assert not queue.has_ready(1000)
    queue.add(A)
    failed(queue, A, 1000, Event.ROOM)
    queue.happened(Event.ROOM, 1000)
    assert queue.next_due() == 1001


def test_a_removed_item_leaves_no_timer_behind():
    queue = SchedulingQueue()
    queue.add(A)
    failed(queue, A, 0, Event.ROOM)
    queue.remove(A)
    queue.happened(Event.ROOM, 1)
    assert not queue.has_ready(10_000)
    assert len(queue) == 0
