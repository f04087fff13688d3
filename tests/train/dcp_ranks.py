"""Ranks of torch for test_dcp: each job is (what to do, folder, world, options), run in order.

One process imports torch and forks the ranks of every job: an import a rank would cost seconds.
"""

import json
import os
import sys
import tempfile

import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed.checkpoint
from torch.distributed.checkpoint import state_dict as _names  # noqa: F401 (before the forks)
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from kubarium import train
from kubarium.train.dcp import DistributedCheckpoints

ROWS = 12


def _model(width=8):
    torch.manual_seed(3)
    inner = torch.nn.Sequential(
        torch.nn.Linear(8, width), torch.nn.Tanh(), torch.nn.Linear(width, 1)
    )
    model = DistributedDataParallel(inner) if dist.is_initialized() else inner
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def _digest(model):
    return [p.detach().double().sum().item().hex() for p in model.parameters()]


def _fit(folder, until, total=20, every=5, background=True, die_at=0):
    """Train on data that depends on the step and the whole batch only, not on the world."""
    model, optimizer = _model()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4)
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    notes = []
    with train.Run(folder, every=every, total=total, dcp=True, background=background) as run:
        run._note = notes.append
        run.checkpoints._tell = notes.append
        state = {"model": model, "optimizer": optimizer, "schedule": schedule, "seen": 0}
        state = run.resume(state)
        began = run.step
        for step in run.steps():
            torch.manual_seed(step)
            batch = torch.randn(ROWS, 8).chunk(world)[rank]
            optimizer.zero_grad()
            (model(batch) - batch.sum(1, keepdim=True)).square().mean().backward()
            optimizer.step()
            schedule.step()
            state["seen"] += ROWS
            run.save_if_due(state)
            if step == die_at:
                os.kill(os.getpid(), 9)
            if step == until:
                break
    return {"began": began, "seen": state["seen"], "weights": _digest(model), "notes": notes,
            "lr": optimizer.param_groups[0]["lr"]}  # fmt: skip


def _shards(folder, save):
    """A tensor sharded over all ranks, and one beside it that all ranks have."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    whole = torch.arange(48.0).reshape(12, 4)
    value = distribute_tensor(whole if save else torch.zeros(12, 4), mesh, [Shard(0)])
    state = {"table": value, "bias": torch.ones(3) if save else torch.zeros(3), "epoch": 7}
    book = DistributedCheckpoints(folder)
    if save:
        book.save(1, state)
        dist.barrier()
        return sorted(os.listdir(f"{folder}/step-00000001")) if dist.get_rank() == 0 else []
    found = book.load(book.newest(), state | {"epoch": 0})
    return [torch.equal(found["table"].full_tensor(), whole), found["bias"].tolist(),
            found["epoch"], list(found["table"].to_local().shape)]  # fmt: skip


def _other_model(folder):
    model, optimizer = _model(width=9)
    book = DistributedCheckpoints(folder)
    try:
        book.load(book.newest(), {"model": model, "optimizer": optimizer})
    except train.CorruptCheckpointError as error:
        return str(error)
    return "loaded"


def _stranger(folder):
    """An optimizer without its module."""
    try:
        DistributedCheckpoints(folder).save(1, {"optimizer": _model()[1]})
    except TypeError as error:
        return str(error)
    return "saved"


JOBS = {"fit": _fit, "shards": _shards, "other": _other_model, "stranger": _stranger}


def _rank(rank, world, store, job, folder, options, answer):
    if world > 1 or job == "shards":
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world))
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    found = JOBS[job](folder, **options)
    os.write(answer, json.dumps([rank, found]).encode() + b"\n")
    if dist.is_initialized():
        dist.destroy_process_group()


def _run(job, folder, world, options):
    """What each rank answered; one that died says nothing."""
    read, write = os.pipe()
    with tempfile.TemporaryDirectory() as place:
        for rank in range(world):
            if os.fork() == 0:
                status = 1
                try:
                    _rank(rank, world, f"{place}/store", job, folder, options, write)
                    status = 0
                finally:
                    os._exit(status)
        os.close(write)
        with os.fdopen(read) as pipe:
            answers = dict(json.loads(line) for line in pipe)
        for _ in range(world):
            os.wait()
    return [answers.get(rank) for rank in range(world)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([_run(*job) for job in json.loads(sys.argv[1])]))
