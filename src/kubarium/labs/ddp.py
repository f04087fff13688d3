"""Data-parallel training in one file: every rank is a process, gradients travel over TCP.

    python -m kubarium.labs.ddp --steps 200 --checkpoint-dir /tmp/ckpt

Environment: RANK (or JOB_COMPLETION_INDEX), WORLD_SIZE, MASTER_ADDR, MASTER_PORT; or what Kubeflow
Trainer says instead: PET_NODE_RANK, PET_NNODES, PET_MASTER_ADDR, PET_MASTER_PORT.

A two-layer network learns two interleaved spirals. Each rank holds its own shard of the data,
computes a gradient, sends it to rank 0, and gets the mean back; so all ranks take the same step.
Rank 0 saves a checkpoint every few steps. A rank that loses a peer exits with code 1 at once: it is
the controller's business to bring the whole gang back, and the script's to resume where it was.

Sums run in rank order, so that a run resumed from a checkpoint ends with the same weights, to the
last bit, as one that was never interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
HIDDEN = 32
SAMPLES_PER_RANK = 64
LEARNING_RATE = 0.2
MOMENTUM = 0.9


# --- the wire: length-prefixed float64 arrays over TCP, star-shaped around rank 0 ---------------


def send(peer: socket.socket, payload: bytes) -> None:
    peer.sendall(struct.pack("!Q", len(payload)) + payload)


def receive(peer: socket.socket) -> bytes:
    def exactly(count: int) -> bytes:
        chunks = bytearray()
        while len(chunks) < count:
            chunk = peer.recv(count - len(chunks))
            if not chunk:
                raise ConnectionError("the peer closed its connection")
            chunks += chunk
        return bytes(chunks)

    (length,) = struct.unpack("!Q", exactly(8))
    return exactly(length)


def resolve(name: str) -> str:
    """The address of ``name``: from the resolver, or from the hosts file that the node maintains
    for machines where a pod cannot have an /etc/hosts of its own."""
    try:
        return socket.gethostbyname(name)
    except OSError:
        hosts = os.environ.get("KUBARIUM_HOSTS_FILE")
        if hosts:
            for line in Path(hosts).read_text().splitlines():
                address, *names = line.split("#")[0].split() or [""]
                if name in names:
                    return address
        raise


def given(*names: str) -> str:
    """The first of some environment variables that says something."""
    return next((os.environ[name] for name in names if os.environ.get(name)), "")


class World:
    """All ranks, connected. ``mean`` is the one collective that data parallelism needs."""

    def __init__(self, rank: int, size: int, address: str, port: int, timeout_s: float) -> None:
        self.rank, self.size = rank, size
        self.peers: list[socket.socket] = []
        if size > 1:
            connect = self._gather_peers if rank == 0 else self._join
            connect(address, port, time.monotonic() + timeout_s)

    def _gather_peers(self, address: str, port: int, deadline: float) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((os.environ.get("POD_IP", ""), port))
        listener.listen(self.size)
        by_rank: dict[int, socket.socket] = {}
        while len(by_rank) < self.size - 1:
            listener.settimeout(2)
            try:
                peer, _ = listener.accept()
            except TimeoutError:
                missing = sorted(set(range(1, self.size)) - by_rank.keys())
                say(event="waiting", missing=missing)
                if time.monotonic() > deadline:
                    sys.exit(f"rank 0 waited in vain for ranks {missing} of {self.size}")
                continue
            peer.settimeout(60)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            by_rank[int(receive(peer))] = peer
        listener.close()
        self.peers = [by_rank[rank] for rank in sorted(by_rank)]
        for peer in self.peers:
            send(peer, b"go")

    def _join(self, address: str, port: int, deadline: float) -> None:
        while True:
            try:
                peer = socket.create_connection((resolve(address), port), timeout=5)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    sys.exit(f"rank {self.rank} cannot reach rank 0 at {address}:{port}: {error}")
                time.sleep(0.1)
        peer.settimeout(None)  # the world may still be incomplete: wait as long as it takes
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        send(peer, str(self.rank).encode())
        receive(peer)
        peer.settimeout(60)
        self.peers = [peer]

    def sum_in_order(self, parts: Sequence[Array]) -> Array:
        """The sum of all ranks' parts, one after the other in the order of ranks: the same bits
        however the parts are spread over ranks, so that the number of ranks may change."""
        own = np.stack(parts)
        if self.rank:
            send(self.peers[0], own.tobytes())
            return np.frombuffer(receive(self.peers[0]))
        total: Array = own[0].copy()
        for part in own[1:]:
            total += part
        for peer in self.peers:
            for part in np.frombuffer(receive(peer)).reshape(-1, own.shape[1]):
                total += part
        for peer in self.peers:
            send(peer, total.tobytes())
        return total

    def mean(self, values: Array) -> Array:
        """The mean of ``values`` over all ranks, the same bits on every rank."""
        if self.size == 1:
            return values
        if self.rank:
            send(self.peers[0], values.tobytes())
            return np.frombuffer(receive(self.peers[0]))
        total = values.copy()
        for peer in self.peers:
            total += np.frombuffer(receive(peer))
        total /= self.size
        for peer in self.peers:
            send(peer, total.tobytes())
        return total


# --- the model: 2 inputs, one hidden layer, one output, written out by hand ----------------------


def spirals(rank: int) -> tuple[Array, Array]:
    """This rank's shard: points on two interleaved spirals and which of them each lies on."""
    draw = np.random.default_rng(1000 + rank)
    label = draw.integers(0, 2, SAMPLES_PER_RANK).astype(float)
    angle = draw.uniform(0.3, 3.0, SAMPLES_PER_RANK) * np.pi
    turn = angle + np.pi * label
    points = np.stack([angle * np.cos(turn), angle * np.sin(turn)], axis=1) / np.pi
    return points + draw.normal(0, 0.03, points.shape), label


def unpack(weights: Array) -> tuple[Array, Array, Array, float]:
    w1 = weights[: 2 * HIDDEN].reshape(2, HIDDEN)
    b1, w2 = weights[2 * HIDDEN : 3 * HIDDEN], weights[3 * HIDDEN : 4 * HIDDEN]
    return w1, b1, w2, float(weights[-1])


def loss_and_gradient(weights: Array, points: Array, label: Array) -> tuple[float, Array]:
    """Mean binary cross-entropy and its gradient, flattened like ``weights``."""
    w1, b1, w2, b2 = unpack(weights)
    hidden = np.tanh(points @ w1 + b1)
    probability = 1 / (1 + np.exp(-(hidden @ w2 + b2)))
    clipped = np.clip(probability, 1e-9, 1 - 1e-9)
    loss = -np.mean(label * np.log(clipped) + (1 - label) * np.log(1 - clipped))
    d_out = (probability - label) / len(label)
    d_hidden = np.outer(d_out, w2) * (1 - hidden**2)
    gradient = [(points.T @ d_hidden).ravel(), d_hidden.sum(0), hidden.T @ d_out, [d_out.sum()]]
    return float(loss), np.concatenate(gradient)


# --- checkpoints: written beside, then renamed, so that a kill never leaves half a file ---------


def save(folder: Path, step: int, weights: Array, velocity: Array) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f".step-{step:06d}.tmp"
    with beside.open("wb") as file:
        np.savez(file, step=step, weights=weights, velocity=velocity)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(folder / f"step-{step:06d}.npz")


def load(folder: Path) -> tuple[int, Array, Array] | None:
    newest = max(folder.glob("step-*.npz"), default=None)
    if newest is None:
        return None
    with np.load(newest) as saved:
        return int(saved["step"]), saved["weights"], saved["velocity"]


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def train(world: World, arguments: argparse.Namespace) -> float:
    points, label = spirals(world.rank)
    draw = np.random.default_rng(0)
    weights = draw.normal(0, 1, 4 * HIDDEN + 1)
    velocity, start, loss = np.zeros_like(weights), 0, float("nan")
    saved = load(arguments.checkpoint_dir) if arguments.checkpoint_dir else None
    if saved:
        start, weights, velocity = saved
    if world.rank == 0:
        say(event="start", world=world.size, step=start, resumed=saved is not None)
    held: list[bytearray] = []
    for step in range(start + 1, arguments.steps + 1):
        if arguments.surge and arguments.surge[:2] == [world.rank, step]:
            held.append(bytearray(arguments.surge[2] << 20))  # touched, so that it is really there
        local, gradient = loss_and_gradient(weights, points, label)
        everyone = world.mean(np.append(gradient, local))
        gradient, loss = everyone[:-1], float(everyone[-1])
        velocity = MOMENTUM * velocity - LEARNING_RATE * gradient
        weights = weights + velocity
        if world.rank == 0:
            say(event="step", step=step, loss=round(loss, 5))
            if arguments.checkpoint_dir and step % arguments.checkpoint_every == 0:
                save(arguments.checkpoint_dir, step, weights, velocity)
                say(event="checkpoint", step=step)
        if arguments.step_time:
            time.sleep(arguments.step_time)
    if world.rank == 0:
        digest = np.frombuffer(weights.tobytes(), dtype=np.uint64)
        say(event="done", step=arguments.steps, loss=loss, weights=f"{digest.sum():016x}")
    return loss


def surge(text: str) -> list[int]:
    rank, step, mebibytes = (int(part) for part in text.split(":"))
    return [rank, step, mebibytes]


def main() -> None:
    parser = argparse.ArgumentParser(description="data-parallel training over TCP, in NumPy")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--checkpoint-dir", type=Path)
    parser.add_argument("--checkpoint-every", type=int, default=20, help="steps")
    parser.add_argument("--step-time", type=float, default=0, help="seconds of idling a step")
    parser.add_argument(
        "--surge", type=surge, metavar="RANK:STEP:MIB", help="take more memory once, to see OOM"
    )
    parser.add_argument("--rendezvous-timeout", type=float, default=600, help="seconds")
    arguments = parser.parse_args()
    rank = int(given("RANK", "PET_NODE_RANK", "JOB_COMPLETION_INDEX") or 0)
    size = int(given("WORLD_SIZE", "PET_NNODES") or 1)
    say(event="rank", rank=rank, world=size, pid=os.getpid())
    address = given("MASTER_ADDR", "PET_MASTER_ADDR") or "127.0.0.1"
    port = int(given("MASTER_PORT", "PET_MASTER_PORT") or 29500)
    world = World(rank, size, address, port, arguments.rendezvous_timeout)
    try:
        train(world, arguments)
    except (ConnectionError, TimeoutError) as error:
        sys.exit(f"rank {rank} lost a peer: {error}")


if __name__ == "__main__":
    main()
