"""Checkpoints that somebody asks for, and runs that begin from one."""

import json
import shutil

import numpy as np
import pytest

from kubarium import train
from kubarium.train.requests import RESTORE_VARIABLE, Restore


def run(folder, steps, monkeypatch, tmp_path, before=lambda run, step: None, **more):
    """The state after ``steps`` steps of a run that adds its step number each time."""
    monkeypatch.setenv("KUBARIUM_TRAIN_DIR", str(tmp_path / "node"))
    (tmp_path / "node").mkdir(exist_ok=True)
    with train.Run(folder, every=10, total=steps, rank=0, world=1, keep=1, **more) as made:
        state = made.resume({"sum": np.zeros(1)})
        for step in made.steps():
            before(made, step)
            state = {"sum": state["sum"] + step}
            made.save_if_due(state)
    return int(state["sum"][0])


def ask(tmp_path, *requests, keep=()):
    text = json.dumps({"requests": [{"id": i, "step": s} for i, s in requests], "keep": list(keep)})
    (tmp_path / "node" / "save.json").write_text(text)


def answers(tmp_path):
    path = tmp_path / "node" / "progress-00000.jsonl"
    lines = map(json.loads, path.read_text().splitlines())
    return {line["id"]: line for line in lines if line["event"] == "kept"}


def steps_in(folder):
    return sorted(int(path.name[5:]) for path in folder.glob("step-*"))


def test_the_step_asked_for_is_saved_verified_and_kept_beyond_its_time(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"

    def before(made, step):
        if step == 2:
            ask(tmp_path, ("a", 7), ("late", 1))

    run(folder, 50, monkeypatch, tmp_path, before)
    assert steps_in(folder) == [7, 50]
    found = answers(tmp_path)
    assert found["a"]["folder"] == str(folder / "step-00000007")
    assert found["a"]["writes"]
    assert found["a"]["bytes"] > 0
    assert len(found["a"]["sha256"]) == 64
    assert found["late"]["error"] == "asked for step 1 when the rank had done step 2"


def test_a_copy_that_somebody_made_of_a_kept_checkpoint_stops_no_save(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"

    def before(made, step):
        if step == 2:
            ask(tmp_path, ("a", 7), keep=["a"])
        if step == 15:
            made._wait_for_save()
            shutil.copytree(folder / "step-00000007", folder / "step-best")

    assert run(folder, 50, monkeypatch, tmp_path, before) == sum(range(51))
    assert (folder / "step-best").is_dir()


def test_what_nobody_wants_any_more_is_retired(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"

    def before(made, step):
        if step == 2:
            ask(tmp_path, ("a", 7), ("b", 8), keep=["a", "b"])
        if step == 20:
            ask(tmp_path, keep=["b"])

    run(folder, 50, monkeypatch, tmp_path, before)
    assert steps_in(folder) == [8, 50]


def test_a_run_that_saves_nothing_says_so(tmp_path, monkeypatch):
    run(None, 5, monkeypatch, tmp_path, lambda made, step: step == 2 and ask(tmp_path, ("a", 3)))
    assert answers(tmp_path)["a"]["error"] == "the run saves nothing: folder is None"


def restore(monkeypatch, folder, step, who="run-2"):
    value = {"id": "a", "step": step, "folder": str(folder), "run": who}
    monkeypatch.setenv(RESTORE_VARIABLE, json.dumps(value))


def test_a_run_goes_back_once_and_then_on_from_its_own(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    run(
        folder,
        50,
        monkeypatch,
        tmp_path,
        lambda made, step: step == 2 and ask(tmp_path, ("a", 7), keep=["a"]),
    )
    restore(monkeypatch, folder / "step-00000007", 7)
    begun = []
    assert run(folder, 20, monkeypatch, tmp_path, lambda m, s: begun.append(s)) == sum(range(21))
    assert begun[0] == 8
    assert steps_in(folder) == [7, 20], "what lay beyond is put aside"
    begun.clear()
    run(folder, 30, monkeypatch, tmp_path, lambda m, s: begun.append(s))
    assert begun[0] == 21, "its next attempt goes on from its own checkpoint"


def test_another_folder_is_begun_from_the_checkpoint(tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    run(old, 10, monkeypatch, tmp_path)
    restore(monkeypatch, old / "step-00000010", 10)
    assert run(new, 12, monkeypatch, tmp_path) == sum(range(13))
    assert steps_in(old) == [10]


def test_a_checkpoint_that_is_broken_or_missing_is_not_begun_from(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    run(folder, 10, monkeypatch, tmp_path)
    restore(monkeypatch, folder / "step-00000099", 99)
    with pytest.raises(train.CorruptCheckpointError, match="has no parts"):
        run(folder, 12, monkeypatch, tmp_path)
    monkeypatch.setenv(RESTORE_VARIABLE, "nonsense")
    with pytest.raises(ValueError, match=RESTORE_VARIABLE):
        Restore.of_environment()
