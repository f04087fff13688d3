"""Checkpoints of torch modules and optimizers in torch's own distributed format (DCP).

Every rank writes the shards that it holds, whole tensors that all ranks hold are written once, and
any number of ranks can resume: torch reads of each file what a rank needs. The folder is the one of
:mod:`kubarium.train.checkpoints`, atomic, with digests and retention in the same way:

    step-00000120/
      .metadata, __0_0.distcp, …   torch.distributed.checkpoint's own files
      rank-00000.json              which of them this rank wrote: sizes and digests

Modules, optimizers and whatever else has a ``state_dict`` are restored in place; tensors too;
numbers come back as values. A file of this format holds pickles (torch's decision): unlike those of
NumPy and ``torch.save`` here, it must come from somebody you trust.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubarium.train import checkpoints
from kubarium.train.checkpoints import Checkpoints, CorruptCheckpointError, Saved

State = Mapping[str, Any]


class DistributedCheckpoints(Checkpoints):
    """As Checkpoints, for states of torch. Every rank must call every method: they agree."""

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int = 3,
        keep_every: int = 0,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Rank and world size are those of ``torch.distributed``, if it is initialized by now."""
        dist = _torch().distributed
        self._group: Any = None
        rank, world = 0, 1
        if dist.is_available() and dist.is_initialized():
            rank, world = dist.get_rank(), dist.get_world_size()
            # One of our own: a save in the background must not mix with the program's collectives.
            self._group = dist.new_group(backend="gloo")
        super().__init__(
            folder,
            rank=rank,
            world=world,
            sharded=True,
            keep=keep,
            keep_every=keep_every,
            tell=tell,
        )
        self._token = ""

    # Saving

    def save(self, step: int, state: State) -> None:
        """Return when the checkpoint is in place (rank 0) or this rank's part is (others)."""
        self.begin(step, state)()

    def begin(self, step: int, state: State) -> Callable[[], None]:
        """Copy the state (``async_save``); what is returned writes the rest, in any thread."""
        dcp = _dcp()
        beside = self._beside(step)
        beside.mkdir(parents=True, exist_ok=True)
        writer = dcp.FileSystemWriter(beside, single_file_per_rank=True, sync_files=True)
        saving = dcp.async_save(
            _flat(state),
            storage_writer=writer,
            process_group=self._group,
            no_dist=self._group is None,
        )
        future: Future[Any] = getattr(saving, "upload_completion", saving)

        def finish() -> None:
            future.result()
            self._describe(step, beside)
            if self.rank == 0:
                self._commit(step, beside)

        return finish

    def _beside(self, step: int) -> Path:
        """Where a checkpoint is written. No two attempts share a folder, or the leavings of one
        that was killed would count as parts of the next."""
        if not self._token:
            drawn = [secrets.token_hex(4)]
            if self._group is not None:
                _torch().distributed.broadcast_object_list(drawn, 0, group=self._group)
            self._token = drawn[0]
        return self.folder / f".step-{step:08d}.{self._token}.tmp"

    def _describe(self, step: int, beside: Path) -> None:
        """Name what this rank wrote, when it is on disk."""
        mine = sorted(beside.glob(f"__{self.rank}_*.distcp"))
        if self.rank == 0:
            mine.append(beside / ".metadata")
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": checkpoints.digest(path)}
            for path in mine
        }
        about = {"files": files, "step": step, "writers": self._writers}
        text = json.dumps(about)
        checkpoints.write_whole(beside / f"rank-{self.rank:05d}.json", text)

    # Finding and loading

    def newest(self, at_most: int | None = None) -> Saved | None:
        """As in Checkpoints; each rank verifies a share of the files, and all return the same."""
        while True:
            mine = super().newest(at_most)
            lowest, highest = self._extremes(mine.step if mine else -1)
            if lowest == highest:
                return mine
            at_most = lowest

    def _extremes(self, step: int) -> tuple[int, int]:
        if self._group is None:
            return step, step
        torch = _torch()
        pair = torch.tensor([step, -step])
        torch.distributed.all_reduce(pair, torch.distributed.ReduceOp.MIN, group=self._group)
        return int(pair[0]), -int(pair[1])

    def at(self, folder: Path, step: int) -> Saved:
        """As in Checkpoints; this rank verifies its share of the digests."""
        abouts = checkpoints.parts_of(folder)
        files: dict[str, dict[str, Any]] = {}
        for about in abouts:
            found = about.get("files")
            if not isinstance(found, dict):
                text = f"checkpoint {folder}: was not written by torch.distributed.checkpoint"
                raise CorruptCheckpointError(text)
            files |= found
        for number, (name, about) in enumerate(sorted(files.items())):
            ours = number % self._writers == self.rank
            checkpoints.verify(folder / name, about, digests=ours)
        return Saved(step, folder, len(abouts))

    def load(self, saved: Saved, like: State) -> dict[str, Any]:
        """Restore what can be restored in place; the state, with numbers as they were saved.

        Any number of ranks may have written it. Raises CorruptCheckpointError if the state has
        something that the checkpoint lacks, or in another shape.
        """
        dcp = _dcp()
        flat = _flat(like)
        try:
            dcp.load(
                flat,
                storage_reader=dcp.FileSystemReader(saved.folder),
                process_group=self._group,
                no_dist=self._group is None,
            )
        except OSError:
            raise
        except (Exception, dcp.CheckpointException) as error:  # torch's is a BaseException
            text = f"checkpoint {saved.folder}: does not fit the state: {_first_line(error)}"
            raise CorruptCheckpointError(text) from error
        return _restored(like, flat)


# States ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Parts:
    """The values of a state, by how torch saves them."""

    modules: dict[str, Any]
    optimizers: dict[str, Any]
    stateful: dict[str, Any]


def _parts(state: State) -> _Parts:
    torch = _torch()
    modules = {n: v for n, v in state.items() if isinstance(v, torch.nn.Module)}
    optimizers = {n: v for n, v in state.items() if isinstance(v, torch.optim.Optimizer)}
    stateful = {
        n: v
        for n, v in state.items()
        if n not in modules and n not in optimizers and hasattr(v, "load_state_dict")
    }
    return _Parts(modules, optimizers, stateful)


def _model_of(name: str, optimizer: Any, modules: Mapping[str, Any]) -> Any:
    """The module whose parameters the optimizer has: they are named after it."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for module in modules.values():
        if held & {id(parameter) for parameter in module.parameters()}:
            return module
    raise TypeError(f"state {name!r}: the module that this optimizer trains is not in the state")


def _flat(state: State) -> dict[str, Any]:
    """What DCP saves: by names that do not depend on the number of ranks or on wrappers (DDP)."""
    names = _state_dict_module()
    parts = _parts(state)
    flat = dict(state)
    for name, module in parts.modules.items():
        flat[name] = names.get_model_state_dict(module)
    for name, optimizer in parts.optimizers.items():
        model = _model_of(name, optimizer, parts.modules)
        flat[name] = names.get_optimizer_state_dict(model, optimizer)
    for name, value in parts.stateful.items():
        flat[name] = value.state_dict()
    return flat


def _restored(like: State, flat: Mapping[str, Any]) -> dict[str, Any]:
    names = _state_dict_module()
    parts = _parts(like)
    found = dict(flat)
    for name, module in parts.modules.items():
        names.set_model_state_dict(module, flat[name])
        found[name] = module
    for name, optimizer in parts.optimizers.items():
        model = _model_of(name, optimizer, parts.modules)
        names.set_optimizer_state_dict(model, optimizer, flat[name])
        found[name] = optimizer
    for name, value in parts.stateful.items():
        value.load_state_dict(flat[name])
        found[name] = value
    return found


def _first_line(error: BaseException) -> str:
    """The reason within what torch raises: one exception a rank, wrapped."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


# torch, if it is there -------------------------------------------------------------------------


def _torch() -> Any:
    try:
        import torch  # noqa: PLC0415 (an extra, and slow to import)
    except ImportError as error:
        raise ImportError(
            "dcp=True needs torch: pip install torch (states of NumPy arrays are saved without)"
        ) from error
    return torch


def _dcp() -> Any:
    _torch()
    import torch.distributed.checkpoint as dcp  # noqa: PLC0415

    return dcp


def _state_dict_module() -> Any:
    import torch.distributed.checkpoint.state_dict as names  # noqa: PLC0415

    return names
