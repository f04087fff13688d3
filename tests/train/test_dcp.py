"""Checkpoints in torch's distributed format: any number of ranks resumes with the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kubarium.train.checkpoints import Checkpoints

pytestmark = pytest.mark.timeout(240)
PROGRAM = Path(__file__).parent / "dcp_ranks.py"


def ranks(*jobs):
    """The answers of the ranks of each job: (what, folder, world, options)."""
    text = json.dumps(
        [[what, str(folder), world, options] for what, folder, world, options in jobs]
    )
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), text], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fit(folder, world, until=20, **options):
    return ("fit", folder, world, {"until": until, **options})


@pytest.mark.torch
def test_a_sharded_tensor_is_loaded_by_any_number_of_ranks(tmp_path):
    saved, *loaded = ranks(
        ("shards", tmp_path, 4, {"save": True}),
        *[("shards", tmp_path, world, {"save": False}) for world in (4, 2, 3, 1)],
    )
    assert [name for name in saved[0] if name.endswith(".json")] == [
        f"rank-0000{rank}.json" for rank in range(4)
    ]
    for found in loaded:
        for answer in found:
            assert answer == [True, [1.0, 1.0, 1.0], 7, [12 // len(found), 4]]


@pytest.mark.torch
@pytest.mark.parametrize("background", [True, False])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, background):
    whole, first, second, other = ranks(
        fit(tmp_path / "a", 2),
        fit(tmp_path / "b", 2, until=13, background=background),
        fit(tmp_path / "b", 2, background=background),
        fit(tmp_path / "b", 3),
    )
    assert [rank["began"] for rank in first] == [0, 0]
    assert [rank["began"] for rank in second] == [10, 10]  # the last save before 13
    assert second[0]["weights"] == whole[0]["weights"]
    assert (second[0]["seen"], second[0]["lr"]) == (whole[0]["seen"], whole[0]["lr"])
    assert [rank["began"] for rank in other] == [20, 20, 20]  # nothing left to do, state loaded
    assert other[2]["weights"] == whole[0]["weights"]


@pytest.mark.torch
def test_one_process_continues_what_two_began_and_the_other_way_round(tmp_path):
    *_, one, two = ranks(
        fit(tmp_path, 2, until=10, total=100),
        fit(tmp_path, 1, until=15, total=100),
        fit(tmp_path, 2, until=20, total=100),
    )
    assert one[0]["began"] == 10
    assert [rank["began"] for rank in two] == [15, 15]
    assert [rank["seen"] for rank in two] == [240, 240]


@pytest.mark.torch
def test_all_ranks_pass_over_what_one_finds_rotten(tmp_path):
    ranks(fit(tmp_path, 2, until=10, total=100))
    [part] = (tmp_path / "step-00000010").glob("__1_*.distcp")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    [found] = ranks(fit(tmp_path, 2, until=11, total=100))
    assert [rank["began"] for rank in found] == [5, 5]
    notes = [note for rank in found for note in rank["notes"]]
    assert [str(part) in note and "digest" in note for note in notes] == [True]


@pytest.mark.torch
def test_a_killed_rank_leaves_whole_checkpoints_only(tmp_path):
    _, again = ranks(
        fit(tmp_path, 2, total=100, until=50, every=1, die_at=9), fit(tmp_path, 2, until=11)
    )
    assert 5 <= again[0]["began"] <= 9
    assert again[0]["began"] == again[1]["began"]
    assert not list(tmp_path.glob(".step-0000000?.*"))  # the next save has swept up


@pytest.mark.torch
def test_only_the_newest_stay(tmp_path):
    ranks(fit(tmp_path, 2))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["step-00000010", "step-00000015", "step-00000020"]


@pytest.mark.torch
def test_what_does_not_fit_is_named(tmp_path):
    _, other, stranger = ranks(
        fit(tmp_path, 2, until=5), ("other", tmp_path, 2, {}), ("stranger", tmp_path / "x", 1, {})
    )
    assert "does not fit the state" in other[0]
    assert "size" in other[0].lower()
    assert stranger == [
        "state 'optimizer': the module that this optimizer trains is not in the state"
    ]


@pytest.mark.torch
def test_each_store_names_the_other(tmp_path):
    ranks(fit(tmp_path / "torch", 1, until=5))
    said = []
    assert Checkpoints(tmp_path / "torch", tell=said.append).newest() is None
    assert "dcp=True" in said[0]
    Checkpoints(tmp_path / "numpy").save(3, {"x": np.zeros(1)})
    [found] = ranks(fit(tmp_path / "numpy", 1, until=5))
    assert found[0]["began"] == 0
    assert "not written by torch.distributed.checkpoint" in found[0]["notes"][0]


def test_without_torch_it_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from kubarium import train\n"
        f"train.Run({str(tmp_path)!r}, dcp=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "dcp=True needs torch: pip install torch" in done.stderr
