"""Checkpoints: whole or not there, whatever is killed when; verified; kept for a while."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from kubarium.train import formats
from kubarium.train.checkpoints import Checkpoints, CorruptCheckpointError


def state(value: float) -> dict:
    return {"weights": np.full(50, value), "step": int(value)}


def test_a_state_comes_back_as_it_was(tmp_path):
    book = Checkpoints(tmp_path)
    book.save(7, state(7))
    saved = book.newest()
    assert saved is not None
    assert saved.step == 7
    found = book.load(saved, state(0))
    assert (found["weights"] == 7).all()
    assert int(found["step"]) == 7


def test_only_the_newest_stay_and_those_for_good(tmp_path):
    book = Checkpoints(tmp_path, keep=2, keep_every=40)
    for step in range(10, 100, 10):
        book.save(step, state(step))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-00000040",
        "step-00000080",
        "step-00000090",
    ]


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A disk that takes ``room`` checkpoints; set ``disk.room``."""

    class Disk:
        room = 99

    def write(state, file):
        if len(list(tmp_path.rglob("rank-*.npz"))) > Disk.room:
            file.write(b"half")
            file.flush()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(state, file)

    whole = formats.write
    monkeypatch.setattr(formats, "write", write)
    return Disk


def test_on_a_full_disk_older_checkpoints_make_way(tmp_path, disk):
    said = []
    book = Checkpoints(tmp_path, keep=3, keep_every=20, tell=said.append)
    for step in (10, 20, 30, 40, 50):
        book.save(step, state(step))
    book.keep(30, "asked-for")
    disk.room = 5
    for step in (60, 70):
        book.save(step, state(step))
    left = sorted(int(p.name[5:]) for p in tmp_path.glob("step-*"))
    assert left == [20, 30, 40, 60, 70], "the newest before stays, as do those that are for good"
    assert said == ["no room for step 70: older checkpoints make way for it"]
    assert book.newest().step == 70


def test_a_rotten_checkpoint_is_not_what_others_make_way_for(tmp_path, disk):
    book = Checkpoints(tmp_path, keep=3)
    for step in (10, 20, 30):
        book.save(step, state(step))
    _flip_a_byte(tmp_path / "step-00000030" / "rank-00000.npz")
    disk.room = 3
    book.save(40, state(40))
    left = sorted(p.name for p in tmp_path.iterdir())
    assert left == ["step-00000020", "step-00000030", "step-00000040"]


def test_a_disk_without_any_room_is_named_and_what_there_was_stays(tmp_path, disk):
    book = Checkpoints(tmp_path, keep=3)
    for step in (10, 20):
        book.save(step, state(step))
    disk.room = 0
    with pytest.raises(OSError, match="checkpoint of step 30 cannot be saved in ") as caught:
        book.save(30, state(30))
    assert caught.value.errno == errno.ENOSPC
    assert "the newest there is of step 20" in str(caught.value)
    assert "give the folder more room" in str(caught.value)
    assert book.newest().step == 20
    assert not list(tmp_path.rglob("*.npz"))[1:], "what was half written takes no room"


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="must name a directory"):
        Checkpoints(tmp_path / "file").save(10, state(10))


def _flip_a_byte(part):
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (_flip_a_byte, "its digest is another one"),
        (lambda part: part.write_bytes(part.read_bytes()[:-3]), "bytes, written with"),
        (lambda part: part.unlink(), "is missing"),
        (lambda part: part.with_suffix(".json").write_text("{"), "Expecting"),
        (lambda part: part.with_suffix(".json").unlink(), "has no parts"),
    ],
    ids=["flipped", "short", "gone", "garbled", "unnamed"],
)
def test_a_rotten_checkpoint_is_passed_over_and_named(tmp_path, harm, text):
    said = []
    book = Checkpoints(tmp_path, tell=said.append)
    book.save(10, state(10))
    book.save(20, state(20))
    harm(tmp_path / "step-00000020" / "rank-00000.npz")
    saved = book.newest()
    assert saved is not None
    assert saved.step == 10
    assert text in said[0]
    assert "step-00000020" in said[0]


def test_a_checkpoint_in_parts_is_there_when_all_parts_are(tmp_path):
    ranks = [Checkpoints(tmp_path, rank=r, world=3, sharded=True) for r in range(3)]
    first = threading.Thread(target=ranks[0].save, args=(5, state(0)))
    first.start()
    ranks[1].save(5, state(1))
    assert ranks[1].newest() is None
    ranks[2].save(5, state(2))
    first.join()
    for number, book in enumerate(ranks):
        saved = book.newest()
        assert saved is not None
        assert (book.load(saved, state(0))["weights"] == number).all()


def test_missing_parts_name_their_ranks(tmp_path, monkeypatch):
    monkeypatch.setattr("kubarium.train.checkpoints.PARTS_TIMEOUT_S", 0.0)
    with pytest.raises(TimeoutError, match=r"step 5: no checkpoint part came from ranks \[1, 2\]"):
        Checkpoints(tmp_path, rank=0, world=3, sharded=True).save(5, state(0))


def test_parts_of_another_world_say_what_to_do(tmp_path):
    Checkpoints(tmp_path, rank=0, world=1, sharded=True).save(5, state(0))
    book = Checkpoints(tmp_path, rank=0, world=2, sharded=True)
    saved = book.newest()
    assert saved is not None
    with pytest.raises(ValueError, match="written in 1 parts, this world has 2 ranks"):
        book.load(saved, state(0))


def test_another_models_checkpoint_is_refused_by_name(tmp_path):
    book = Checkpoints(tmp_path)
    book.save(1, state(1))
    saved = book.newest()
    assert saved is not None
    with pytest.raises(CorruptCheckpointError, match=r"lacks \['bias'\] and has \['step'\]"):
        book.load(saved, {"weights": 0, "bias": 0})


def test_what_cannot_be_saved_is_named_and_leaves_no_checkpoint(tmp_path):
    book = Checkpoints(tmp_path)
    with pytest.raises(TypeError, match="state 'model': a function is neither"):
        book.save(1, {"model": state})
    assert book.newest() is None


@pytest.mark.parametrize(
    ("arguments", "text"), [({"keep": 0}, "keep: 0"), ({"rank": 3}, "rank: 3")]
)
def test_impossible_arguments_are_named(tmp_path, arguments, text):
    with pytest.raises(ValueError, match=text):
        Checkpoints(tmp_path, **arguments)


SAVER = """
import sys
import numpy as np
from kubarium.train.checkpoints import Checkpoints
book = Checkpoints(sys.argv[1], keep=2)
for step in range(int(sys.argv[2]), 100000):
    book.save(step, {"weights": np.full(200_000, float(step))})
    print(step, flush=True)
"""


def test_a_kill_at_any_moment_leaves_the_last_save_or_the_one_before(tmp_path):
    begin = 1
    for attempt in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path), str(begin)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(3 + attempt)]
        os.kill(process.pid, signal.SIGKILL)
        rest = [int(line) for line in process.stdout.read().split()]
        process.stdout.close()
        process.wait()
        acknowledged = (said + rest)[-1]
        book = Checkpoints(tmp_path, keep=2)
        saved = book.newest()
        assert saved is not None
        assert saved.step >= acknowledged
        assert (book.load(saved, {"weights": 0})["weights"] == saved.step).all()
        begin = saved.step + 1


def test_the_digest_is_of_what_was_written(tmp_path):
    book = Checkpoints(tmp_path)
    book.save(1, state(1))
    about = json.loads((tmp_path / "step-00000001" / "rank-00000.json").read_text())
    assert about["bytes"] == (tmp_path / "step-00000001" / "rank-00000.npz").stat().st_size
    assert about["writers"] == 1
