"""Where the time of a run went: accounts that add up, whatever the spans look like."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine.training import goodput
from kubarium.engine.training.goodput import STEP, Span, account, stragglers

moments = st.floats(0, 100, allow_nan=False)
spans = st.builds(
    lambda a, b, what, step, waited, first, done: Span(
        min(a, b), max(a, b), what, step, waited, first, done
    ),
    moments,
    moments,
    st.sampled_from((STEP, *goodput.ACCOUNTS)),
    st.integers(1, 6),
    st.floats(0, 5),
    st.booleans(),
    st.booleans(),
)


def steps(at: float, numbers: range, length: float = 1.0, **more) -> list[Span]:
    return [
        Span(at + i * length, at + (i + 1) * length, STEP, n, **more) for i, n in enumerate(numbers)
    ]


def test_the_example_of_the_module():
    rank = [
        Span(0, 2, goodput.QUEUE),
        *steps(2, range(1, 4), 2.0),
        Span(8, 9, goodput.RESTART),
        Span(9, 10, STEP, 3),
    ]
    found = account([rank, rank], 0, 10)
    found.check()
    named = {name: value for name, value in found.seconds.items() if value}
    assert named == {"queue": 4, "productive": 12, "restart": 2, "recomputed": 2}
    assert found.effective == pytest.approx(0.6)
    assert found.scheduling_goodput == pytest.approx(0.8)
    assert found.runtime_goodput == pytest.approx(0.75)


@settings(max_examples=300)
@given(st.lists(st.lists(spans, max_size=12), max_size=4), moments, moments)
def test_accounts_sum_to_wall_time_times_ranks(ranks, one, other):
    found = account(ranks, min(one, other), max(one, other))
    found.check()
    assert 0 <= found.effective <= 1 + 1e-9


@settings(max_examples=100)
@given(st.lists(spans, max_size=10), st.randoms())
def test_the_order_in_which_spans_arrive_does_not_matter(rank, shuffle):
    mixed = list(rank)
    shuffle.shuffle(mixed)
    first, second = account([rank], 0, 100), account([mixed], 0, 100)
    assert math.isclose(sum(first.seconds.values()), sum(second.seconds.values()))
    first.check()
    second.check()


def test_a_step_that_a_crash_interrupted_is_lost():
    rank = [*steps(0, range(1, 3)), Span(2, 2.5, STEP, 3, done=False), *steps(4, range(3, 4))]
    found = account([rank], 0, 5)
    assert found.seconds["productive"] == 3
    assert found.seconds["recomputed"] == 0.5
    assert found.seconds["other"] == 1.5


def test_a_first_step_costs_what_it_takes_beyond_a_usual_one():
    rank = [Span(0, 5, STEP, 1, first=True), *steps(5, range(2, 7))]
    found = account([rank], 0, 10)
    assert found.seconds["first_step"] == 4
    assert found.seconds["productive"] == 6


def test_waiting_for_a_slow_rank_is_a_loss_of_those_who_wait():
    fast = [Span(i, i + 1, STEP, i + 1, waited_s=0.6) for i in range(10)]
    slow = [Span(i, i + 1, STEP, i + 1, waited_s=0.0) for i in range(10)]
    found = account([fast, fast, slow], 0, 10)
    assert found.seconds["straggler"] == pytest.approx(12)
    assert found.seconds["productive"] == pytest.approx(18)
    scores = stragglers([fast, fast, slow])
    assert scores == pytest.approx([1.0, 1.0, 2.5])


def test_waiting_while_another_rank_saves_is_the_save():
    writer = [Span(0, 1, STEP, 1), Span(1, 3, goodput.CHECKPOINT), Span(3, 4, STEP, 2)]
    reader = [Span(0, 1, STEP, 1), Span(1, 4, STEP, 2, waited_s=2.0)]
    found = account([writer, reader], 0, 4)
    assert found.seconds["checkpoint"] == 4
    assert found.seconds["productive"] == pytest.approx(4)


def test_a_span_of_several_steps_counts_as_these_steps():
    whole = [Span(0, 10, STEP, 10, count=10), Span(12, 20, STEP, 13, count=8)]
    single = [
        *steps(0, range(1, 11)),
        *steps(12, range(6, 14)),  # resumed from step 5: five are done again
    ]
    found, wanted = account([whole], 0, 20), account([single], 0, 20)
    assert found.seconds["productive"] == wanted.seconds["productive"] == 13
    assert found.seconds["recomputed"] == wanted.seconds["recomputed"] == 5


def test_a_save_within_a_span_of_steps_is_taken_out_of_it():
    found = account([[Span(0, 10, STEP, 8, count=8), Span(4, 6, goodput.CHECKPOINT)]], 0, 10)
    assert found.seconds["checkpoint"] == 2
    assert found.seconds["productive"] == 8


def test_a_rank_without_steps_has_no_score():
    assert math.isnan(stragglers([[], steps(0, range(1, 3))])[0])


def test_a_rank_that_never_reported_is_other():
    assert account([[]], 0, 10).seconds["other"] == 10


def test_unknown_names_and_backward_runs_are_refused():
    with pytest.raises(ValueError, match="'coffee' is no account"):
        account([[Span(0, 1, "coffee")]], 0, 1)
    with pytest.raises(ValueError, match="ends at 1, before it begins at 2"):
        account([], 2, 1)


def test_a_run_without_time_has_held_nothing():
    found = account([], 10, 20)
    assert (found.rank_seconds, found.effective) == (0, 0)
    assert (found.scheduling_goodput, found.runtime_goodput) == (0, 0)
