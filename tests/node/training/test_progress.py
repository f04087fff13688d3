"""Reports of ranks, read as they come; and the step at which all of them stop."""

import json

from hypothesis import given
from hypothesis import strategies as st

from kubarium.node.training.progress import RankProgress, stop_step


def line(event, **facts):
    return json.dumps({"at": 1.0, "event": event, **facts}).encode() + b"\n"


def steps(*numbers, length=0.1):
    return line("steps", steps=[[n, n * length, (n + 1) * length, 0.0, 0] for n in numbers])


def test_a_rank_s_place_is_what_it_last_said():
    rank = RankProgress()
    rank.feed(line("start", step=40, world=8) + steps(41, 42) + line("saved", step=40))
    assert (rank.step, rank.resumed_from, rank.saved_step, rank.world) == (42, 40, 40, 8)
    rank.feed(line("start", step=40, world=8))  # a new attempt begins where the last save was
    assert rank.step == 40


@given(st.integers(0, 400))
def test_lines_may_come_in_any_pieces(cut):
    data = line("start", step=3, world=2) + steps(4, 5) + line("saved", step=5) + steps(6)
    whole, parts = RankProgress(), RankProgress()
    whole.feed(data)
    parts.feed(data[:cut])
    parts.feed(data[cut:])
    assert (whole.step, whole.saved_step) == (parts.step, parts.saved_step) == (6, 5)


@given(st.lists(st.one_of(st.binary(max_size=40), st.just(steps(7))), max_size=8))
def test_whatever_else_is_in_the_file_is_passed_over(pieces):
    rank = RankProgress()
    rank.feed(b"\n".join(pieces) + b"\n" + steps(9))
    assert rank.step == 9


def test_what_is_json_but_not_ours_is_passed_over():
    rank = RankProgress()
    for text in ('{"at": 1}', "[1]", '{"event": 3, "at": 1}', '{"event": "steps", "at": "now"}'):
        assert rank.feed(text.encode() + b"\n") == []
    rank.feed(line("steps", steps=[[1, 2], "x", None, [8, 0.0, 0.1, 0.0, 0]]))
    assert rank.step == 8


def reported(step, length=0.1):
    rank = RankProgress()
    rank.feed(steps(*range(1, step + 1), length=length))
    return rank


def test_all_stop_ahead_of_the_rank_that_is_furthest():
    assert stop_step([reported(40, 0.125), reported(41, 0.125)]) == 41 + 5  # half a second
    assert stop_step([reported(40, 10.0), reported(41, 10.0)]) == 43
    assert stop_step([reported(1, 0.001)]) > 300


def test_nobody_is_asked_to_stop_who_has_not_begun():
    assert stop_step([]) is None
    assert stop_step([RankProgress()]) is None
    ended = reported(5)
    ended.feed(line("end"))
    assert stop_step([ended]) is None
