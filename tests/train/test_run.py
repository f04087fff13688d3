"""One rank's run: resumes to the bit, reports, and stops where all ranks stop."""

import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from kubarium import train
from kubarium.train.run import STOPPED, rank_and_world


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "JOB_COMPLETION_INDEX", "KUBARIUM_TRAIN_DIR"):
        monkeypatch.delenv(name, raising=False)


def loop(folder, total, *, stop_after=None, background=True, every=5):
    """Deterministic 'training'; returns the weights, or None if it ended early."""
    with train.Run(folder, every=every, total=total, background=background) as run:
        state = run.resume({"weights": np.zeros(4)})
        for step in run.steps():
            state = {"weights": state["weights"] * 0.9 + np.sin(step * np.arange(4.0))}
            if step == stop_after:
                run._wait_for_save()  # as a kill just after the save was done
                return None
            run.save_if_due(state)
    return state["weights"]


@pytest.mark.parametrize("background", [True, False])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, background):
    whole = loop(tmp_path / "whole", 40, background=background)
    assert loop(tmp_path / "cut", 40, stop_after=23, background=background) is None
    again = loop(tmp_path / "cut", 40, background=background)
    assert whole.tobytes() == again.tobytes()


def lines(folder):
    return [json.loads(line) for line in (folder / "progress-00000.jsonl").read_text().splitlines()]


def test_progress_names_every_step_once(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBARIUM_TRAIN_DIR", str(tmp_path))
    loop(tmp_path / "checkpoints", 12)
    said = lines(tmp_path)
    steps = [entry for line in said if line["event"] == "steps" for entry in line["steps"]]
    assert [entry[0] for entry in steps] == list(range(1, 13))
    assert [entry[4] for entry in steps] == [1] + [0] * 11
    assert all(began <= ended for _, began, ended, _, _ in steps)
    assert [line["step"] for line in said if line["event"] == "saved"] == [5, 10, 12]
    assert said[0]["event"] == "start"
    assert said[-1]["event"] == "end"


def test_a_background_save_is_not_reached_by_later_changes(tmp_path):
    with train.Run(tmp_path, every=1, total=1) as run:
        weights = np.ones(100_000)
        run.resume({"weights": weights})
        for _ in run.steps():
            run.save_if_due({"weights": weights})
            weights[:] = 2
    saved = train.Checkpoints(tmp_path).newest()
    assert saved is not None
    assert (train.Checkpoints(tmp_path).load(saved, {"weights": 0})["weights"] == 1).all()


def test_a_save_that_fails_in_the_background_is_raised(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        loop(tmp_path / "file", 12)


def test_the_node_bounds_the_step_to_resume_from(tmp_path, monkeypatch):
    loop(tmp_path, 20)
    monkeypatch.setenv("KUBARIUM_RESUME_STEP", "15")
    with train.Run(tmp_path, total=20) as run:
        run.resume({"weights": np.zeros(4)})
        assert run.step == 15


def test_ranks_come_from_the_variables_that_launchers_set(monkeypatch):
    assert rank_and_world() == (0, 1)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
    monkeypatch.setenv("WORLD_SIZE", "15")
    assert rank_and_world() == (3, 15)
    monkeypatch.setenv("RANK", "2")
    assert rank_and_world() == (2, 15)


def test_any_ranks_wish_to_stop_is_agreed_on(tmp_path):
    wishes = [False, False, True]

    def until_agreed():
        with train.Run(tmp_path, every=100, agree=lambda mine: wishes[run.step - 1]) as run:
            for _ in run.steps():
                run.save_if_due({"weights": np.ones(1)})

    with pytest.raises(SystemExit) as ended:
        until_agreed()
    assert ended.value.code == STOPPED
    saved = train.Checkpoints(tmp_path).newest()
    assert saved is not None
    assert saved.step == 3


RANK = """
import sys, time
import numpy as np
from kubarium import train
folder, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
peers = [sys.stdin, sys.stdout]
with train.Run(folder, rank=rank, world=world, sharded=True, every=1000) as run:
    state = run.resume({"x": np.zeros(1)})
    for step in run.steps():
        print(step, flush=True)          # reaches the barrier
        if not sys.stdin.readline():     # released by the barrier
            raise SystemExit(9)
        state = {"x": state["x"] + step}
        run.save_if_due(state)
"""


class Lockstep(threading.Thread):
    """A barrier over pipes: no rank begins step n + 1 before all have finished step n."""

    def __init__(self, ranks):
        super().__init__()
        self.ranks, self.step = ranks, 0

    def run(self):
        while True:
            for rank in self.ranks:
                line = rank.stdout.readline()
                if not line:
                    return
                self.step = int(line)
            for rank in self.ranks:
                rank.stdin.write("go\n")
                rank.stdin.flush()


@pytest.mark.parametrize("repetition", range(3))
def test_ranks_told_to_stop_all_save_the_same_step(tmp_path, monkeypatch, repetition):
    monkeypatch.setenv("KUBARIUM_TRAIN_DIR", str(tmp_path))
    checkpoints = tmp_path / "checkpoints"
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(checkpoints), str(rank), "4"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    barrier = Lockstep(ranks)
    barrier.start()
    while barrier.step < 20 + repetition:
        pass
    for rank in ranks:  # as a node does: first the signal, then the step, ahead of all ranks
        os.kill(rank.pid, signal.SIGTERM)
    (tmp_path / "stop.tmp").write_text(json.dumps({"step": barrier.step + 2000}))
    (tmp_path / "stop.tmp").rename(tmp_path / "stop.json")
    codes = [rank.wait(timeout=60) for rank in ranks]
    barrier.join()
    for rank in ranks:
        rank.stdin.close()
        rank.stdout.close()
    assert codes == [STOPPED] * 4
    saved = train.Checkpoints(checkpoints, rank=0, world=4, sharded=True).newest()
    assert saved is not None
    assert saved.world == 4
    assert saved.step >= 2000


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="every: 0 must be at least 1 step"):
        train.Run(tmp_path, every=0)


def test_importing_it_needs_neither_numpy_nor_torch():
    program = (
        "import sys, kubarium.train; print([m for m in ('numpy', 'torch') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
