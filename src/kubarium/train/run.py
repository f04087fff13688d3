"""One rank's run: steps, saves, progress, and a stop that all ranks make at the same step.

A stop (SIGTERM, preemption, resize) must find every rank saved at one step, or the states do not
fit together. Ranks in lockstep differ by at most one step, so the node writes ``stop.json`` with a
step a little ahead of all of them; each rank saves there and ends. Where a script can reduce over
ranks itself (``agree=``), any rank's wish to stop is agreed on at the next step instead, which
needs nobody's help.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from kubarium.train.checkpoints import Checkpoints, CorruptCheckpointError, Saved
from kubarium.train.progress import FOLDER_VARIABLE, Progress
from kubarium.train.requests import Restore, SaveRequests

# The exit code of a rank that saved and stopped because it was told to: not a failure of its own.
STOPPED = 143
# Without a common step from the node, a rank that got SIGTERM goes on for at most this long.
ALONE_S = 2.0

State = Mapping[str, Any]


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of ranks, by the variables that launchers set."""
    names = (("RANK", "WORLD_SIZE"), ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES"))
    for rank, world in names:
        if os.environ.get(rank, "").isdigit() and os.environ.get(world, "").isdigit():
            return int(os.environ[rank]), int(os.environ[world])
    index = os.environ.get("JOB_COMPLETION_INDEX", "0")
    return int(index), int(os.environ.get("WORLD_SIZE") or 0) or int(index) + 1


class Run:
    """A context manager around the training loop; see the package's example."""

    def __init__(
        self,
        folder: str | Path | None,
        *,
        every: int = 100,
        total: int | None = None,
        rank: int | None = None,
        world: int | None = None,
        sharded: bool = False,
        dcp: bool = False,
        keep: int = 3,
        keep_every: int = 0,
        background: bool = True,
        agree: Callable[[bool], bool] | None = None,
    ) -> None:
        """``folder`` None saves nothing. ``every`` is in steps, ``total`` None is without end.

        ``dcp``: the state is torch's (modules, optimizers, sharded tensors) and saved by
        ``torch.distributed.checkpoint``, so that another number of ranks can resume. Initialize
        ``torch.distributed`` before; a state's values are then restored in place.

        ``background``: a save stalls training only for a copy of the state. ``agree`` is given
        whether this rank wants to stop and returns whether any rank does (a max-reduction).
        """
        if every < 1:
            raise ValueError(f"every: {every} must be at least 1 step")
        found_rank, found_world = rank_and_world()
        self.rank = found_rank if rank is None else rank
        self.world = found_world if world is None else world
        self.every, self.total = every, total
        self.step = 0
        self.progress = Progress(os.environ.get(FOLDER_VARIABLE), self.rank)
        self.checkpoints: Checkpoints | None = None
        if folder and dcp:
            from kubarium.train.dcp import DistributedCheckpoints  # noqa: PLC0415 (imports torch)

            self.checkpoints = DistributedCheckpoints(
                folder, keep=keep, keep_every=keep_every, tell=self._note
            )
        elif folder:
            self.checkpoints = Checkpoints(
                folder,
                rank=self.rank,
                world=self.world,
                sharded=sharded,
                keep=keep,
                keep_every=keep_every,
                tell=self._note,
            )
        self._requests, self._restore = SaveRequests(self.progress), Restore.of_environment()
        self._asked: dict[int, list[str]] = {}
        self._background, self._agree = background, agree
        self._saving: threading.Thread | None = None
        self._save_error: BaseException | None = None
        self._waited = self._began = 0.0
        self._asked_at: float | None = None
        self._stop_step: int | None = None
        self._first = True
        self._last_state_step = -1
        self._old_handler: Any = None

    # The context

    def __enter__(self) -> Run:
        if threading.current_thread() is threading.main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, self._on_sigterm)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None or kind is SystemExit:
            self._wait_for_save()
        self.progress.event("end", step=self.step, error=kind.__name__ if kind else "")
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        self._asked_at = time.monotonic()

    def _note(self, text: str) -> None:
        print(f"kubarium.train: {text}", file=sys.stderr, flush=True)
        self.progress.event("note", text=text)

    @contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """Around what is neither a step nor a save: ``rendezvous``, ``resize``, …"""
        began = time.time()
        try:
            yield
        finally:
            self.progress.event("phase", what=what, began=began, ended=time.time())

    # Resuming and stepping

    def resume(self, state: State) -> dict[str, Any]:
        """The newest whole checkpoint's state, or ``state`` itself if there is none. FencedError if
        a newer attempt of the run has begun elsewhere.

        ``KUBARIUM_RESTORE`` names the checkpoint to begin with, until this run has saved itself;
        ``KUBARIUM_RESUME_STEP``, where the node sets it, is the last step that all ranks have.
        """
        at_most = os.environ.get("KUBARIUM_RESUME_STEP", "")
        restore = self._restore
        if self.checkpoints:
            self.checkpoints.enter()
        if self.checkpoints and restore and not self.checkpoints.is_restored(restore.run):
            saved: Saved | None = self.checkpoints.at(restore.folder, restore.step)
        else:
            saved = (
                self.checkpoints.newest(int(at_most) if at_most.isdigit() else None)
                if self.checkpoints
                else None
            )
        found = dict(state)
        if saved is not None and self.checkpoints is not None:
            found = self.checkpoints.load(saved, state)
            self.step = saved.step
        self.progress.event("start", step=self.step, resumed=saved is not None, world=self.world)
        return found

    def steps(self) -> Iterator[int]:
        """The numbers of the steps still to do, from the one after the resumed one; timed."""
        while self.total is None or self.step < self.total:
            self.step += 1
            self._began, self._waited = time.time(), 0.0
            yield self.step
            self._report_step()

    def _report_step(self) -> None:
        self.progress.step(self.step, self._began, time.time(), self._waited, self._first)
        self._first = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for peers (a collective): tells slow ranks from those that wait."""
        began = time.time()
        try:
            yield
        finally:
            self._waited += time.time() - began

    # Saving and stopping

    def save_if_due(self, state: State) -> None:
        """Call at the end of each step. Saves every ``every`` steps, at the end, and to stop.

        A stop ends the process with exit code 143 after the save is on disk.
        """
        stop = self._stops_here()
        asked = self._requests.due(self.step)
        due = self.step % self.every == 0 or self.step == self.total
        if asked:
            self._asked[self.step] = asked
        if stop or due or asked:
            self.save(state)
        if stop:
            self._wait_for_save()
            self._report_step()  # the loop is left here, before it would do so
            self.progress.event("stop", step=self.step)
            raise SystemExit(STOPPED)

    def save(self, state: State) -> None:
        """Save now; in the background if so asked, with one save under way at a time."""
        if self.checkpoints is None or not self.checkpoints.writes:
            self._answer(self.step)
            return
        began, step = time.time(), self.step
        self._wait_for_save()
        finish = self.checkpoints.begin(step, state)
        if self._background:
            self._saving = threading.Thread(target=self._write, args=(step, finish), daemon=False)
            self._saving.start()
        else:
            self._write(step, finish)
            self._raise_save_error()
        self.progress.event("save", step=step, began=began, ended=time.time())

    def _write(self, step: int, finish: Callable[[], None]) -> None:
        try:
            assert self.checkpoints is not None
            self.checkpoints.wanted = self._requests.keep
            if self._restore is not None and self.rank == 0:
                self.checkpoints.leave_aside(self._restore.step, self._restore.run)
            finish()
            self.progress.event("saved", step=step)
            self._answer(step)
        except BaseException as error:  # handed to the training thread, which raises it
            self._save_error = error

    def _answer(self, step: int) -> None:
        """Say to whoever has asked for a checkpoint of this step that it is there."""
        asked = self._asked.pop(step, [])
        if asked and self.checkpoints is None:
            for ident in asked:
                self._requests.answer(ident, step, error="the run saves nothing: folder is None")
        elif asked and self.checkpoints is not None:
            try:
                self._requests.kept(asked, step, self.checkpoints)
            except (OSError, CorruptCheckpointError) as error:
                for ident in asked:
                    self._requests.answer(ident, step, error=str(error))

    def _wait_for_save(self) -> None:
        if self._saving is not None:
            self._saving.join()
            self._saving = None
        self._raise_save_error()

    def _raise_save_error(self) -> None:
        error, self._save_error = self._save_error, None
        if error is not None:
            raise error

    def _stops_here(self) -> bool:
        """Whether all ranks stop after this step."""
        wish = self._asked_at is not None
        if self._agree is not None:
            return self._agree(wish)
        if self._stop_step is None:
            self._stop_step = self._common_stop()
        if self._stop_step is not None:
            return self.step >= self._stop_step
        alone = self.world == 1 or self.progress.folder is None
        return wish and (alone or time.monotonic() - (self._asked_at or 0.0) > ALONE_S)

    def _common_stop(self) -> int | None:
        """The step in ``stop.json``; None as long as the node has not written one."""
        if self.progress.folder is None:
            return None
        try:
            found = json.loads((self.progress.folder / "stop.json").read_text())
            return int(found["step"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
