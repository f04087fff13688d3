"""The training of :mod:`kubarium.labs.ddp`, with ``kubarium.train`` around its loop.

    python -m kubarium.labs.survive --steps 200 --folder /tmp/checkpoints

What it gains over the plain program: saves in the background, its progress known to the node (so
that a hang is found by its missing steps, and the time of the run is accounted for), and a stop, by
SIGTERM or preemption, that all ranks make at the same step with a checkpoint of it.

With ``--shards`` the data is cut into so many parts, whatever the number of ranks, and gradients
are summed in the parts' order: a gang that shrinks and grows on its way ends with the same bits.
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


def shards_of(rank: int, world: int, shards: int) -> range:
    """The shards of the data that a rank works on: all ranks' together are 0, 1, … in order."""
    if shards < world:
        raise SystemExit(f"--shards: {shards} is less than one for each of {world} ranks")
    return range(rank * shards // world, (rank + 1) * shards // world)


def main() -> None:
    parser = argparse.ArgumentParser(description="data-parallel training that survives")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="of the checkpoints")
    parser.add_argument("--every", type=int, default=20, help="steps between checkpoints")
    parser.add_argument("--step-time", type=float, default=0, help="seconds of idling a step")
    parser.add_argument(
        "--shards", type=int, default=0, help="of the data, whatever the number of ranks (one each)"
    )
    parser.add_argument("--sharded", action="store_true", help="every rank saves its own part")
    arguments = parser.parse_args()
    rank, size = rank_and_world()
    address = os.environ.get("MASTER_ADDR", "127.0.0.1")
    say(event="rank", rank=rank, world=size, pid=os.getpid())
    shards = shards_of(rank, size, arguments.shards or size)
    data = [spirals(shard) for shard in shards]
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
                parts = []
                for points, label in data:
                    local, gradient = loss_and_gradient(state["weights"], points, label)
                    parts.append(np.append(gradient, local))
                with run.waiting():
                    everyone = world.sum_in_order(parts) / (arguments.shards or size)
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
