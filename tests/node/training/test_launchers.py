"""What a launcher's words mean for its pod's history, and how it is told its rank."""

import json

from kubarium.node.training.history import MOST_KEPT, History
from kubarium.node.training.launchers import Launch, LaunchState, attempt_in, book


def say(folder, state, attempt=0, code=0, at=0.0):
    beside = folder / "new"
    beside.write_text(json.dumps({"state": state, "attempt": attempt, "code": code, "at": at}))
    beside.rename(folder / "launch.json")


def spans(history):
    return [(s["what"], s["began"], s["ended"]) for s in history.documents()]


def told(launch, world):
    launch.tell(json.dumps({"attempt": 1, "world": world}))


def test_a_rank_and_its_attempts_are_accounted_for(tmp_path):
    history, launch = History(), Launch(tmp_path)
    history.started(0.0)
    words = [
        ("Waiting", 0, 2.0, 3),
        ("Running", 1, 3.0, 3),
        ("Failed", 1, 10.0, 3),
        ("Running", 2, 11.0, 3),
        ("Stopped", 2, 20.0, 3),
        ("Running", 3, 21.0, 4),
    ]
    before = None
    for state, attempt, at, world in words:
        told(launch, world)
        now = LaunchState(state, attempt, 0, at)
        book(history, launch, before, now, was_spare=False)
        if state == "Running":
            step = [[attempt, at + 1, at + 6, 0.0, 1]]
            history.take({"at": at + 6, "event": "steps", "steps": step})
        before = now
    assert spans(history) == [
        ("import", 0.0, 2.0),
        ("rendezvous", 2.0, 3.0),
        ("import", 3.0, 4.0),
        ("step", 4.0, 9.0),
        ("restart", 9.0, 11.0),
        ("restart", 11.0, 12.0),
        ("step", 12.0, 17.0),
        ("resize", 17.0, 21.0),
        ("resize", 21.0, 22.0),
        ("step", 22.0, 27.0),
    ]


def test_of_a_program_that_says_nothing_only_what_lies_between_attempts_is_a_restart(tmp_path):
    history, launch = History(), Launch(tmp_path)
    history.started(0.0)
    words = [
        ("Waiting", 0, 2.0),
        ("Running", 1, 3.0),
        ("Failed", 1, 60.0),
        ("Running", 2, 61.0),
        ("Running", 3, 90.0),
    ]
    before = None
    for state, attempt, at in words:
        told(launch, 3)
        now = LaunchState(state, attempt, 0, at)
        book(history, launch, before, now, was_spare=False)
        before = now
    assert spans(history) == [
        ("import", 0.0, 2.0),
        ("rendezvous", 2.0, 3.0),
        ("restart", 60.0, 61.0),
    ]


def test_what_a_spare_waits_is_told_as_such(tmp_path):
    history, launch = History(), Launch(tmp_path)
    history.started(0.0)
    waiting = LaunchState("Waiting", 0, 0, 2.0)
    book(history, launch, None, waiting, was_spare=False)
    book(history, launch, waiting, LaunchState("Running", 4, 0, 50.0), was_spare=True)
    assert spans(history)[-1] == ("spare", 2.0, 50.0)


def test_words_are_heard_once_and_nonsense_is_passed_over(tmp_path):
    launch = Launch(tmp_path)
    assert launch.look() is None
    say(tmp_path, "Waiting", at=1.0)
    before, now = launch.look()
    assert (before, now.state) == (None, "Waiting")
    assert launch.look() is None
    (tmp_path / "launch.json").write_text("{")
    assert launch.look() is None
    assert launch.said.state == "Waiting"
    say(tmp_path, "Running", 2, at=2.0)
    assert launch.look()[1].attempt == 2
    assert launch.runs
    launch.restart()
    assert not launch.runs
    assert launch.look() is None


def test_what_a_pod_is_told_is_read_without_trust():
    assert attempt_in('{"attempt": 3, "gentle": true}') == (3, True)
    for text in ("", "{", "[]", '{"attempt": "x"}', "null"):
        assert attempt_in(text) == (0, False)


def test_a_history_of_a_thousand_restarts_has_an_end():
    history = History()
    for number in range(2000):
        history.between("restart", number, number + 0.5)
    assert len(history.documents()) <= MOST_KEPT
    assert spans(history)[-1] == ("restart", 1999, 1999.5)
