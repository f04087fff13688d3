"""The training program: ranks agree, loss falls, and a resumed run ends in the same bits."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from kubarium.labs import ddp


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_world(size, *arguments):
    """Start ``size`` ranks, wait for all; rank 0's facts and the exit codes."""
    port = free_port()
    ranks = []
    for rank in range(size):
        environment = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "kubarium.labs.ddp", *arguments]
        ranks.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=60)[0] for process in ranks]
    facts = [json.loads(line) for line in outputs[0].splitlines()]
    return facts, [process.returncode for process in ranks]


def test_the_gradient_is_the_derivative_of_the_loss():
    points, label = ddp.spirals(0)
    weights = np.random.default_rng(1).normal(0, 1, 4 * ddp.HIDDEN + 1)
    _, gradient = ddp.loss_and_gradient(weights, points, label)
    for index in (0, ddp.HIDDEN, 2 * ddp.HIDDEN + 3, 3 * ddp.HIDDEN + 5, 4 * ddp.HIDDEN):
        nudge = np.zeros_like(weights)
        nudge[index] = 1e-6
        above, _ = ddp.loss_and_gradient(weights + nudge, points, label)
        below, _ = ddp.loss_and_gradient(weights - nudge, points, label)
        assert gradient[index] == pytest.approx((above - below) / 2e-6, abs=1e-6)


def test_a_resumed_run_ends_in_the_same_weights_to_the_last_bit(tmp_path):
    whole, codes = run_world(3, "--steps", "60")
    assert codes == [0, 0, 0]
    arguments = ("--checkpoint-dir", str(tmp_path), "--checkpoint-every", "20")
    run_world(3, "--steps", "47", *arguments)
    resumed, _ = run_world(3, "--steps", "60", *arguments)
    assert resumed[1] == {"event": "start", "world": 3, "step": 40, "resumed": True}
    assert resumed[-1] == whole[-1]
    losses = [fact["loss"] for fact in whole if fact["event"] == "step"]
    assert losses[-1] < losses[0] / 2


def test_a_truncated_checkpoint_in_the_making_is_not_used(tmp_path):
    (tmp_path / ".step-000099.tmp").write_bytes(b"half")
    assert ddp.load(tmp_path) is None
