"""The training of :mod:`kubarium.labs.ddp`, with ``kubarium.train`` around its loop.

    python -m kubarium.labs.survive --steps 200 --folder /tmp/checkpoints

What it gains over the plain program: saves in the background, its progress known to the node (so
that a hang is found by its missing steps, and the time of the run is accounted for), and a stop, by
SIGTERM or preemption, that all ranks make at the same step with a checkpoint of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

from kubarium import train
from kubarium.labs.ddp import (
    HIDDEN,
    LEARNING_RATE,
    MOMENTUM,
    World,
    loss_and_gradient,
    say,
    spirals,
)
from kubarium.train.run import rank_and_world


def main() -> None:
    parser = argparse.ArgumentParser(description="data-parallel training that survives")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="of the checkpoints")
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--step-time", type=float, default=0, help="seconds of idling a step")
    parser.add_argument("--sharded", action="store_true", help="every rank saves its own part")
    arguments = parser.parse_args()
    rank, size = rank_and_world()
    address = os.environ.get("MASTER_ADDR", "127.0.0.1")
    say(event="rank", rank=rank, world=size, pid=os.getpid())
    points, label = spirals(rank)
    weights = np.random.default_rng(0).normal(0, 1, 4 * HIDDEN + 1)
    run = train.Run(
        arguments.folder, every=arguments.every, total=arguments.steps, sharded=arguments.sharded
    )
    loss = float("nan")
    try:
        with run:
            with run.phase("rendezvous"):
                world = World(rank, size, address, int(os.environ.get("MASTER_PORT", 29500)), 600)
            state = run.resume({"weights": weights, "velocity": np.zeros_like(weights)})
            if rank == 0:
                say(event="start", world=size, step=run.step)
            for step in run.steps():
                local, gradient = loss_and_gradient(state["weights"], points, label)
                with run.waiting():
                    everyone = world.mean(np.append(gradient, local))
                gradient, loss = everyone[:-1], float(everyone[-1])
                velocity = MOMENTUM * state["velocity"] - LEARNING_RATE * gradient
                state = {"weights": state["weights"] + velocity, "velocity": velocity}
                if rank == 0:
                    say(event="step", step=step, loss=round(loss, 5))
                time.sleep(arguments.step_time)
                run.save_if_due(state)
    except (ConnectionError, TimeoutError) as error:
        sys.exit(f"rank {rank} lost a peer: {error}")
    if rank == 0:
        digest = np.frombuffer(state["weights"].tobytes(), dtype=np.uint64)
        say(event="done", step=arguments.steps, loss=loss, weights=f"{digest.sum():016x}")


if __name__ == "__main__":
    main()
