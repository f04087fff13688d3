"""A rank that was cut off and replaced puts nothing among its successors' checkpoints."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium import train
from kubarium.train.checkpoints import Checkpoints
from kubarium.train.fence import Fence, FencedError


def told(monkeypatch, run="r", restarts=0, attempt=0):
    monkeypatch.setenv("KUBARIUM_RUN", run)
    monkeypatch.setenv("KUBARIUM_RESTARTS", str(restarts))
    monkeypatch.setenv("KUBARIUM_ATTEMPT", str(attempt))


def state(value):
    return {"weights": np.full(3, value)}


def checkpoints(monkeypatch, folder, restarts=0, attempt=1, run="r", **more):
    told(monkeypatch, run, restarts, attempt)
    return Checkpoints(folder, **more)


def of(folder):
    return json.loads((folder / "attempt.json").read_text())


def test_outside_kubarium_there_is_no_fence(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBARIUM_RUN", raising=False)
    monkeypatch.setenv("KUBARIUM_ATTEMPT", "3")
    book = Checkpoints(tmp_path)
    book.enter()
    book.save(1, state(1.0))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_once_a_new_attempt_has_begun_the_old_one_saves_no_more(tmp_path, monkeypatch):
    old = checkpoints(monkeypatch, tmp_path, attempt=1)
    old.enter()
    old.save(5, state(1.0))
    new = checkpoints(monkeypatch, tmp_path, attempt=2)
    new.enter()
    assert new.newest().step == 5
    text = "attempt 2 of this run has the checkpoints, this rank is of attempt 1: it was cut off"
    with pytest.raises(FencedError, match=text):
        old.save(6, state(1.0))
    assert new.newest().step == 5
    assert not list(tmp_path.glob(".step-*")), "what it wrote on the way is gone"
    new.save(6, state(2.0))
    with pytest.raises(FencedError):
        old.save(6, state(1.0))
    assert (new.load(new.newest(), state(0.0))["weights"] == 2.0).all()


def test_a_set_that_was_restarted_is_newer_whatever_its_gangs_count(tmp_path, monkeypatch):
    old = checkpoints(monkeypatch, tmp_path, restarts=0, attempt=7)
    old.save(5, state(1.0))
    checkpoints(monkeypatch, tmp_path, restarts=1, attempt=1).enter()
    with pytest.raises(FencedError, match="attempt 1 after restart 1 of this run"):
        old.save(6, state(1.0))


def test_a_rank_that_comes_back_late_finds_out_before_it_resumes(tmp_path, monkeypatch):
    checkpoints(monkeypatch, tmp_path, attempt=3).enter()
    told(monkeypatch, attempt=2)
    with train.Run(tmp_path) as run, pytest.raises(FencedError):
        run.resume(state(0.0))


def test_a_rank_that_is_cut_off_while_it_trains_ends_with_its_next_save(tmp_path, monkeypatch):
    told(monkeypatch, attempt=1)
    newer = Fence("r", (0, 2))

    def program():
        with train.Run(tmp_path, every=2, total=10, background=False) as run:
            found = run.resume(state(0.0))
            for step in run.steps():
                if step == 5:
                    newer.enter(tmp_path)
                run.save_if_due(found)

    with pytest.raises(FencedError):
        program()
    assert Checkpoints(tmp_path).newest().step == 4


def test_parts_of_an_attempt_that_is_over_do_not_count_for_the_next(tmp_path, monkeypatch):
    """The second rank is cut off while it writes; the first waits for its successor's part."""
    stale = checkpoints(monkeypatch, tmp_path, rank=1, world=2, sharded=True, attempt=1)
    stale.save(5, state(1.0))
    first = checkpoints(monkeypatch, tmp_path, rank=0, world=2, sharded=True, attempt=2)
    second = checkpoints(monkeypatch, tmp_path, rank=1, world=2, sharded=True, attempt=2)
    first.enter()
    saving = threading.Thread(target=first.save, args=(5, state(2.0)))
    saving.start()
    saving.join(0.3)
    assert saving.is_alive(), "the part of attempt 1 is not taken for its own"
    second.save(5, state(3.0))
    saving.join(10)
    assert (second.load(second.newest(), state(0.0))["weights"] == 3.0).all()


def test_runs_do_not_lock_each_other_out(tmp_path, monkeypatch):
    trainer = checkpoints(monkeypatch, tmp_path, run="trainer", attempt=4)
    trainer.save(5, state(1.0))
    reader = checkpoints(monkeypatch, tmp_path, run="reader", attempt=1)
    reader.enter()
    assert of(tmp_path) == {"run": "trainer", "number": [0, 4]}, "it only reads"
    trainer.save(6, state(1.0))
    heir = checkpoints(monkeypatch, tmp_path, run="heir", attempt=1)
    heir.enter()
    heir.save(7, state(2.0))
    assert of(tmp_path) == {"run": "heir", "number": [0, 1]}


def test_a_second_attempt_has_the_folder_before_its_first_save(tmp_path, monkeypatch):
    checkpoints(monkeypatch, tmp_path, run="former", attempt=9).save(5, state(1.0))
    old = checkpoints(monkeypatch, tmp_path, attempt=1)
    old.enter()
    checkpoints(monkeypatch, tmp_path, attempt=2).enter()
    with pytest.raises(FencedError):
        old.save(6, state(1.0))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": "r"}', '{"run": "r", "number": [1]}'])
def test_a_number_that_cannot_be_read_locks_nobody_out(tmp_path, monkeypatch, text):
    (tmp_path / "attempt.json").write_text(text)
    book = checkpoints(monkeypatch, tmp_path)
    book.enter()
    book.save(1, state(1.0))
    assert of(tmp_path) == {"run": "r", "number": [0, 1]}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_only_read_needs_no_fence(tmp_path, monkeypatch):
    checkpoints(monkeypatch, tmp_path / "c", attempt=1).save(5, state(1.0))
    (tmp_path / "c").chmod(0o500)
    book = checkpoints(monkeypatch, tmp_path / "c", attempt=2)
    book.enter()
    assert book.newest().step == 5


NUMBERS = st.tuples(st.integers(0, 2), st.integers(0, 3))


@given(st.lists(st.tuples(st.sampled_from(["enter", "save"]), NUMBERS), max_size=12))
def test_whoever_gets_through_is_no_older_than_anybody_before(tmp_path_factory, moves):
    folder = tmp_path_factory.mktemp("fence")
    newest = None
    for what, number in moves:
        fence = Fence("r", number)
        try:
            if what == "enter":
                fence.enter(folder)
            else:
                with fence.holding(folder):
                    pass
        except FencedError:
            assert newest is not None
            assert number < newest
        else:
            assert newest is None or number >= newest
            newest = number
