"""Checkpoints in a folder: atomic, verified, kept for a while, written by one rank or by all.

    folder/
      step-00000120/            complete: renamed into place when every part is on disk
        rank-00000.npz          one part for each writing rank
        rank-00000.json         its size, digest and what it is
        keep-1f0c…              somebody has asked for it: it is not retired
      .step-00000140.tmp/       being written, or left by a crash; never read

A part is written, synced and then named in its ``.json``; rank 0 renames the folder once all ranks
of the world have theirs. So a folder without a dot is whole, whatever was killed when, and a file
that rotted later is found by its digest and passed over for the one before.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubarium.train import formats
from kubarium.train.fence import Fence, FencedError

# How long rank 0 waits for the other ranks' parts before it gives a save up.
PARTS_TIMEOUT_S = 120.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
KEEP, RESTORED = "keep-", "restored"
POLL_S = 0.01

State = Mapping[str, Any]


class CorruptCheckpointError(Exception):
    """A checkpoint cannot be used: the text names the file and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint on disk that was looked at and found whole."""

    step: int
    folder: Path
    world: int


class Checkpoints:
    """The checkpoints of one run in one folder, which all ranks see (or each its own)."""

    def __init__(
        self,
        folder: str | Path,
        *,
        rank: int = 0,
        world: int = 1,
        sharded: bool = False,
        keep: int = 3,
        keep_every: int = 0,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        """``sharded``: every rank writes its own part; otherwise rank 0 writes for all.

        ``keep`` is how many of the newest stay; ``keep_every`` (steps, 0: none) stay for good.
        ``tell`` is called with a sentence when a checkpoint has to be passed over.
        """
        if keep < 1:
            raise ValueError(f"keep: {keep} must be at least 1, or there is nothing to resume from")
        if not 0 <= rank < world:
            raise ValueError(f"rank: {rank} is not below the world size {world}")
        self.folder = Path(folder)
        self.rank, self.sharded = rank, sharded
        self._writers = world if sharded else 1
        self._keep, self._keep_every, self._tell = keep, keep_every, tell
        self.fence = Fence.of_environment()
        # Who may still want a checkpoint that was asked for; None: it is not known.
        self.wanted: set[str] | None = None

    @property
    def writes(self) -> bool:
        """Whether this rank writes at all."""
        return self.sharded or self.rank == 0

    def save(self, step: int, state: State) -> None:
        """Write this rank's part; on rank 0, return when the whole checkpoint is in place.

        Raises TimeoutError if other ranks' parts do not come, OSError if the disk refuses, and
        FencedError if this rank was cut off and has been replaced. On a full disk older checkpoints
        make way: the newest whole one stays, and those that somebody has asked for or
        ``keep_every`` keeps.
        """
        if not self.writes:
            return
        for may_make_room in (self.rank == 0, False):
            try:
                self._save(step, state)
                return
            except TimeoutError:
                raise
            except OSError as error:
                self._drop_parts(step)
                full = error.errno in _FULL
                if not (may_make_room and full and self._make_room()):
                    raise self._refused(step, error) from error
            self._tell(f"no room for step {step}: older checkpoints make way for it")

    def _save(self, step: int, state: State) -> None:
        beside = self._beside(step)
        beside.mkdir(parents=True, exist_ok=True)
        part = beside / f"rank-{self.rank:05d}{formats.suffix(state)}"
        with part.open("wb") as file:
            formats.write(state, file)
            file.flush()
            os.fsync(file.fileno())
        about = {"file": part.name, "bytes": part.stat().st_size, "sha256": digest(part)}
        about |= {"step": step, "writers": self._writers}
        write_whole(beside / f"rank-{self.rank:05d}.json", json.dumps(about))
        if self.rank == 0:
            self._commit(step, beside)

    def _beside(self, step: int) -> Path:
        """Where a checkpoint is written; apart from what an older attempt may still write."""
        attempt = ".{}-{}".format(*self.fence.number) if self.fence else ""
        return self.folder / f".step-{step:08d}{attempt}.tmp"

    def enter(self) -> None:
        """Before the first look for a checkpoint: this attempt has the folder from now on.
        FencedError if it has been replaced."""
        if self.fence is not None:
            self.fence.enter(self.folder)

    def _holding(self) -> contextlib.AbstractContextManager[None]:
        """Around whatever changes the folder's checkpoints; FencedError likewise."""
        return self.fence.holding(self.folder) if self.fence else contextlib.nullcontext()

    def _drop_parts(self, step: int) -> None:
        """What this rank has written of a checkpoint that will not be: it takes room."""
        for part in self._beside(step).glob(f"rank-{self.rank:05d}*"):
            part.unlink(missing_ok=True)

    def _make_room(self) -> bool:
        """Remove all that may go but the newest whole one; whether there was any."""
        newest = self.newest()
        stays = newest.step if newest is not None else -1
        older = [step for step in self._steps() if step < stays and self._may_go(step)]
        with self._holding():
            for step in older:
                shutil.rmtree(self.place(step), ignore_errors=True)
        return bool(older)

    def _refused(self, step: int, error: OSError) -> OSError:
        steps = self._steps()
        there = f"the newest there is of step {steps[-1]}" if steps else "there is none yet"
        way_out = (
            f"give the folder more room or keep fewer than {self._keep}"
            if error.errno in _FULL
            else "folder= must name a directory that this user may write to"
        )
        text = (
            f"checkpoint of step {step} cannot be saved in {self.folder} ({error.strerror}); "
            f"{there}; {way_out}"
        )
        return type(error)(error.errno, text)

    def begin(self, step: int, state: State) -> Callable[[], None]:
        """Copy the state, so that training may go on and change it; what is returned saves the
        copy, in any thread."""
        copy = formats.copied(state)
        return lambda: self.save(step, copy)

    def _commit(self, step: int, beside: Path) -> None:
        deadline = time.monotonic() + PARTS_TIMEOUT_S
        while len(list(beside.glob("rank-*.json"))) < self._writers:
            if time.monotonic() > deadline:
                there = {int(p.stem.split("-")[1]) for p in beside.glob("rank-*.json")}
                missing = sorted(set(range(self._writers)) - there)
                raise TimeoutError(f"step {step}: no checkpoint part came from ranks {missing}")
            time.sleep(POLL_S)
        final = self.place(step)
        try:
            with self._holding():
                if final.exists():  # the step was done again after a failure; the newer part counts
                    shutil.rmtree(final)
                beside.rename(final)
        except FencedError:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        _sync_folder(self.folder)
        self._retire(step)

    def _retire(self, newest: int) -> None:
        """Remove what is older than the newest ``keep``, and leftovers of saves that failed."""
        if self.wanted is not None:
            for mark in self.folder.glob(f"step-*/{KEEP}*"):
                if mark.name.removeprefix(KEEP) not in self.wanted:
                    mark.unlink(missing_ok=True)
        steps = [s for s in self._steps() if s <= newest and not self._is_kept(s)]
        for step in steps[: -self._keep]:
            if self._may_go(step):
                shutil.rmtree(self.place(step), ignore_errors=True)
        for left in self.folder.glob(".step-*.tmp"):
            if int(left.name[6:14]) < newest:
                shutil.rmtree(left, ignore_errors=True)

    def _may_go(self, step: int) -> bool:
        stays = self._keep_every and step % self._keep_every == 0
        return not stays and not self._is_kept(step)

    def _is_kept(self, step: int) -> bool:
        return any(self.place(step).glob(f"{KEEP}*"))

    def keep(self, step: int, ident: str) -> dict[str, Any]:
        """Let the checkpoint of ``step`` stay until ``ident`` is no longer wanted; its size, and a
        digest over the digests of its parts. CorruptCheckpointError if it is not whole."""
        folder = self.place(step)
        files: dict[str, Mapping[str, Any]] = {}
        for about in parts_of(folder):
            files |= files_of(about)
        for name, of_file in files.items():
            verify(folder / name, of_file)
        (folder / f"{KEEP}{ident}").touch()
        text = "".join(str(about["sha256"]) for about in files.values())
        whole = hashlib.sha256(text.encode()).hexdigest()
        return {"bytes": sum(int(about["bytes"]) for about in files.values()), "sha256": whole}

    def leave_aside(self, beyond: int, run: str) -> None:
        """Before a run that was taken back to a checkpoint saves for the first time: what lies
        beyond it belongs to another course, and is put aside, whoever wants it."""
        if self.is_restored(run):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._holding():
            for step in self._steps():
                place = self.place(step)
                if step > beyond:
                    shutil.rmtree(self.folder / f".aside-{place.name}", ignore_errors=True)
                    place.rename(self.folder / f".aside-{place.name}")
            write_whole(self.folder / RESTORED, run)

    def is_restored(self, run: str) -> bool:
        """Whether ``run`` has saved here since it was taken back to a checkpoint."""
        mark = self.folder / RESTORED
        return mark.exists() and mark.read_text() == run

    def place(self, step: int) -> Path:
        """Where the checkpoint of a step is, once it is whole."""
        return self.folder / f"step-{step:08d}"

    def _steps(self) -> list[int]:
        found = (path.name[5:] for path in self.folder.glob("step-*") if path.is_dir())
        return sorted(int(name) for name in found if name.isdigit())

    def newest(self, at_most: int | None = None) -> Saved | None:
        """The newest checkpoint that is whole, parts verified; None if there is none.

        ``at_most`` bounds the step: the last one common to all ranks, where each has its own disk.
        """
        for step in reversed(self._steps()):
            if at_most is not None and step > at_most:
                continue
            try:
                return self.at(self.place(step), step)
            except CorruptCheckpointError as error:
                self._tell(f"{error}; going back to the one before")
        return None

    def at(self, folder: Path, step: int) -> Saved:
        """The checkpoint ``folder`` (``…/step-…``), wherever it is, verified."""
        abouts = parts_of(folder)
        if "file" not in abouts[0]:
            raise CorruptCheckpointError(
                f"checkpoint {folder}: was written by torch.distributed.checkpoint (dcp=True)"
            )
        # Each rank reads its own part, so each verifies its own.
        mine = abouts[min(self.rank, len(abouts) - 1)]
        verify(folder / str(mine["file"]), mine)
        return Saved(step, folder, len(abouts))

    def load(self, saved: Saved, like: State) -> dict[str, Any]:
        """The state of a checkpoint, in the kind of ``like`` (NumPy or torch).

        Raises CorruptCheckpointError if its names differ from those of ``like``, and ValueError if
        it was written in parts by another number of ranks.
        """
        if self.sharded and saved.world != self._writers:
            raise ValueError(
                f"{saved.folder}: written in {saved.world} parts, this world has {self._writers}"
                " ranks; save whole states (sharded=False), or torch's with dcp=True, to change"
                " the number of ranks"
            )
        about = _about(saved.folder / f"rank-{self.rank if self.sharded else 0:05d}.json")
        with (saved.folder / str(about["file"])).open("rb") as file:
            state = formats.read(str(about["file"]), file)
        if set(state) != set(like):
            missing, extra = sorted(set(like) - set(state)), sorted(set(state) - set(like))
            text = f"checkpoint {saved.folder}: lacks {missing} and has {extra} beyond the state"
            raise CorruptCheckpointError(text)
        return state


def parts_of(folder: Path) -> list[dict[str, Any]]:
    """What the ranks say of their parts. CorruptCheckpointError unless all are there."""
    abouts = [_about(path) for path in sorted(folder.glob("rank-*.json"))]
    if not abouts:
        raise CorruptCheckpointError(f"checkpoint {folder}: has no parts")
    writers = int(abouts[0].get("writers", 0))
    if len(abouts) != writers:
        text = f"checkpoint {folder}: {len(abouts)} of {writers} parts are there"
        raise CorruptCheckpointError(text)
    return abouts


def files_of(about: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The files of one rank's part by name, with sizes and digests: one, or several of torch's."""
    several = about.get("files")
    return dict(several) if isinstance(several, dict) else {str(about.get("file")): about}


def verify(part: Path, about: Mapping[str, Any], digests: bool = True) -> None:
    """CorruptCheckpointError unless the file is as it was written."""
    if not part.is_file():
        raise CorruptCheckpointError(f"checkpoint part {part}: is missing")
    size = part.stat().st_size
    if size != about.get("bytes"):
        text = f"checkpoint part {part}: {size} bytes, written with {about.get('bytes')}"
        raise CorruptCheckpointError(text)
    if digests and digest(part) != about.get("sha256"):
        raise CorruptCheckpointError(f"checkpoint part {part}: its digest is another one")


def _about(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CorruptCheckpointError(f"checkpoint part {path}: {error}") from None
    if not isinstance(found, dict):
        raise CorruptCheckpointError(f"checkpoint part {path}: is no JSON object")
    return found


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that readers see all of it or nothing."""
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
