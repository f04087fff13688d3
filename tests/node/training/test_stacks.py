"""How a Python stack is told in one line."""

import orjson
import pytest

from kubarium.node.training.stacks import _frames, shown

PACKAGES = "/venv/lib/python3.11/site-packages"


def stack(*files):
    frames = [
        {"name": f"f{n}", "filename": file, "short_filename": file.rpartition("/")[2], "line": n}
        for n, file in enumerate(files)
    ]
    return _frames(orjson.dumps([{"thread_name": "MainThread", "frames": frames}]))


TORCH = f"{PACKAGES}/torch/nn.py"
SOCKET = "/usr/lib/python3.11/socket.py"
TRAIN = "/work/train.py"
FOUR = "f0 (nn.py:0) < f1 (nn.py:1) < f2 (nn.py:2) < f3 (nn.py:3)"


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ((), "its stack cannot be read"),
        ((SOCKET, TRAIN), "f0 (socket.py:0) < f1 (train.py:1)"),
        ((TORCH,) * 4, FOUR),
        ((TORCH,) * 5, f"{FOUR} < …"),
        ((*(TORCH,) * 4, TRAIN), f"{FOUR} < f4 (train.py:4)"),
        ((*(TORCH,) * 6, TRAIN, TRAIN), f"{FOUR} < … < f6 (train.py:6) < …"),
        ((*(TORCH,) * 4, "<frozen runpy>", SOCKET, TRAIN), f"{FOUR} < … < f6 (train.py:6)"),
        (
            (TORCH, TRAIN, TORCH, TORCH, TORCH, TRAIN),
            "f0 (nn.py:0) < f1 (train.py:1) < f2 (nn.py:2) < f3 (nn.py:3) < …",
        ),
    ],
)
def test_a_stack_is_told_by_its_innermost_frames_and_the_programs_own(files, text):
    assert shown(stack(*files)) == text
