"""When a rank counts as stalled."""

from hypothesis import given
from hypothesis import strategies as st

from kubarium.node.training.stalls import NO_PROGRESS, STOPPED, STOPPED_S, Sample, StallRule


def test_a_rank_that_gets_on_never_stalls():
    rule = StallRule(5.0)
    for second in range(100):
        assert rule.look(Sample(False, (second,), True), second) is None


def test_no_progress_counts_from_the_last_step():
    rule = StallRule(5.0)
    assert rule.look(Sample(False, (7,), True), 10) is None
    assert rule.look(Sample(False, (7,), True), 14.9) is None
    stall = rule.look(Sample(False, (7,), True), 15)
    assert stall is not None
    assert (stall.reason, stall.since) == (NO_PROGRESS, 10)
    assert rule.look(Sample(False, (8,), True), 16) is None


def test_importing_and_rendezvous_may_take_as_long_as_they_like():
    rule = StallRule(5.0)
    assert rule.look(Sample(False, (0,), False), 0) is None
    assert rule.look(Sample(False, (0,), False), 3600) is None


def test_a_stopped_process_is_named_without_waiting_for_the_timeout():
    rule = StallRule(600.0)
    assert rule.look(Sample(True, (7,), True), 10) is None
    stall = rule.look(Sample(True, (7,), True), 10 + STOPPED_S)
    assert stall is not None
    assert (stall.reason, stall.since) == (STOPPED, 10)
    assert rule.look(Sample(False, (7,), True), 12) is None


def test_one_that_a_debugger_stops_for_a_moment_is_not():
    rule = StallRule(600.0)
    for moment in range(10):
        assert rule.look(Sample(moment % 2 == 0, (7,), True), moment * 0.5) is None


@given(st.lists(st.tuples(st.floats(0.01, 2), st.booleans(), st.booleans(), st.booleans())))
def test_a_stall_is_never_older_than_the_last_sign_of_life(looks):
    rule, now, mark, moved = StallRule(3.0), 0.0, 0, 0.0
    rule.look(Sample(False, (mark,), True), now)
    for wait, moves, stopped, began in looks:
        now += wait
        mark += moves
        moved = now if moves else moved
        stall = rule.look(Sample(stopped, (mark,), began), now)
        if stall is not None and stall.reason == NO_PROGRESS:
            assert stall.since == moved
            assert began
            assert now - moved >= 3.0
