"""Follows the ranks of one agent's nodes: their progress, their stalls, and their common stop.

A rank is a pod of a Job. Its training folder is its own and empty at first; programs that use
:mod:`kubarium.train` report there, of all others we see whether they run and whether they write.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from kubarium.api.resource import Document
from kubarium.engine.training.gang import FAILED, RUNNING
from kubarium.node.training import launchers, processes
from kubarium.node.training.checkpoints import FILE as SAVE_FILE
from kubarium.node.training.checkpoints import request_text
from kubarium.node.training.launchers import Launch, write_whole
from kubarium.node.training.progress import RankProgress, stop_step
from kubarium.node.training.recorder import Recorder
from kubarium.node.training.stacks import kernel_wait, python_stack, shown
from kubarium.node.training.stalls import Sample, Stall, StallRule
from kubarium.runtime.protocol import Context
from kubarium.view import elastic
from kubarium.view.stalls import STALLED, STOPPED, hang_policy

LOOK_S = 0.5
# How much of a report is read at a time: a rank writes some 10 KB a second at most.
_READ_BYTES = 1 << 20
FOLDER_VARIABLE = "KUBARIUM_TRAIN_DIR"
FOLDER = "/run/kubarium/train"
STOP_FILE = "stop.json"

_JOBSET = "jobset.sigs.k8s.io/jobset-uid"


class Ranks(Protocol):
    """What the watch asks of the runtime."""

    def processes_of(self, uid: str) -> dict[str, int]:
        """The first process of each running container."""
        ...

    def output_bytes(self, uid: str, name: str) -> int:
        """How much a container has written so far."""
        ...

    def tell_kills(self, uid: str) -> None:
        """Something of the pod has ended: say now if it was killed for its memory."""
        ...

    def note(self, uid: str, kind: str, reason: str, message: str) -> None:
        """Say a condition of a pod; no longer with an empty reason."""
        ...


# Runs work beside everything else.
Spawn = Callable[[Coroutine[Any, Any, None]], None]


@dataclass(slots=True)
class _Rank:
    """One pod; ``rules`` and ``stalls`` are by container."""

    pod: Document
    folder: Path
    progress: dict[str, RankProgress] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    rules: dict[str, StallRule] = field(default_factory=dict)
    stalls: dict[str, Stall] = field(default_factory=dict)
    hung: dict[str, float] = field(default_factory=dict)
    launch: Launch | None = None
    saved: int = -1
    requests: dict[str, int] = field(default_factory=dict)

    @property
    def gang(self) -> str:
        """What trains together: the pods of a JobSet, else those of one owner."""
        labels = self.pod["metadata"].get("labels") or {}
        owners = self.pod["metadata"].get("ownerReferences") or ()
        return labels.get(_JOBSET) or next((o["uid"] for o in owners if o.get("controller")), "")


def is_rank(pod: Document) -> bool:
    """Whether the pod is one of a Job's."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return any(o.get("controller") and o.get("kind") == "Job" for o in owners)


class TrainingWatch:
    """See the module."""

    def __init__(self, context: Context, ranks: Ranks, spawn: Spawn) -> None:
        self._clock = context.clock
        self.recorder = Recorder(context, self._newest)
        self._runtime = ranks
        self._spawn = spawn
        self._ranks: dict[str, _Rank] = {}

    def add(self, pod: Document, folder: Path) -> None:
        """A container of a rank is about to start: its last attempt's stop is over."""
        uid = pod["metadata"]["uid"]
        folder.mkdir(parents=True, exist_ok=True)
        os.chmod(folder, 0o777)  # the container's user may be anyone
        (folder / STOP_FILE).unlink(missing_ok=True)
        (folder / SAVE_FILE).unlink(missing_ok=True)
        rank = self._ranks.setdefault(uid, _Rank(pod, folder))
        rank.pod = pod
        rank.rules.clear()
        rank.requests = {}
        self.recorder.started(pod)
        if elastic.asks(pod["metadata"].get("annotations")):
            rank.launch = rank.launch or Launch(folder)
            rank.launch.restart()
            self._runtime.note(uid, elastic.CONDITION, "", "")
            self.told(pod, folder)

    def told(self, pod: Document, folder: Path) -> None:
        """A pod was seen: hand its launcher the rank that it is given, if that is news. Ranks that
        make way for it may first save a common step, where there is time."""
        text = launchers.wanted_world(pod)
        if not elastic.asks(pod["metadata"].get("annotations")) or not folder.exists():
            return
        uid = pod["metadata"]["uid"]
        rank = self._ranks.setdefault(uid, _Rank(pod, folder))
        rank.pod = pod
        rank.launch = rank.launch or Launch(folder)
        if not text or text == rank.launch.told:
            return
        number, gentle = launchers.attempt_in(text)
        said = rank.launch.said
        if gentle and said is not None and rank.launch.runs and said.attempt < number:
            self.stop(uid)
        rank.launch.tell(text)

    def ended(self, uid: str, outcome: str) -> None:
        """A container of a rank has ended."""
        rank = self._ranks.get(uid)
        if rank is not None:
            self._read(rank)
            self._spawn(self.recorder.ended(uid, outcome))

    def drop(self, uid: str) -> None:
        """The pod is over."""
        self._ranks.pop(uid, None)
        self.recorder.drop(uid)

    def progress(self, uid: str) -> RankProgress | None:
        """What a rank has reported, read up to this moment; None if nothing."""
        rank = self._ranks.get(uid)
        if rank is None:
            return None
        self._read(rank)
        return self._newest(uid)

    def _newest(self, uid: str) -> RankProgress | None:
        rank = self._ranks.get(uid)
        reports = rank.progress.values() if rank else ()
        return max(reports, key=lambda p: p.at, default=None)

    def stop(self, uid: str) -> None:
        """A rank is asked to end: have its whole gang save and stop at one step."""
        rank = self._ranks.get(uid)
        if rank is None:
            return
        gang = self._training_with(rank)
        if any((other.folder / STOP_FILE).exists() for other in gang):
            return  # agreed on already
        for other in gang:
            self._read(other)
        step = stop_step([p for other in gang for p in other.progress.values()])
        if step is None:
            return
        for other in gang:
            write_whole(other.folder / STOP_FILE, json.dumps({"step": step}))

    def _training_with(self, rank: _Rank) -> list[_Rank]:
        """The rank's gang as far as it trains: no spare, and nobody who waits for a new attempt."""
        return [
            other
            for other in self._ranks.values()
            if other.gang == rank.gang and (other.launch is None or other.launch.runs)
        ]

    # Checkpoints that somebody asks for

    def ask_save(self, uid: str, ident: str, keep: list[str]) -> str:
        """Have all ranks of the pod's gang save at one step, for a checkpoint of this name."""
        rank = self._ranks.get(uid)
        if rank is None:
            return "the pod is no rank of a Job, or does not run"
        gang = self._training_with(rank)
        if any(ident in other.requests for other in gang):
            return ""  # asked for already, with another rank's
        for other in gang:
            self._read(other)
        step = stop_step([p for other in gang for p in other.progress.values()])
        if step is None:
            return "the program reports no steps: wrap its training loop in kubarium.train"
        for other in gang:
            other.requests[ident] = step
            text = request_text(other.requests, keep)
            write_whole(other.folder / SAVE_FILE, text)
        return ""

    def kept(self, uid: str, ident: str) -> list[dict[str, Any]]:
        """What the ranks of the pod's gang have answered; [] before the pod's own has."""
        rank = self._ranks.get(uid)
        if rank is None:
            return [{"error": "the pod has ended"}]
        found = []
        for other in self._ranks.values():
            if other.gang == rank.gang:
                self._read(other)
                found += [
                    (other, p.kept[ident]) for p in other.progress.values() if ident in p.kept
                ]
        if not any(other is rank for other, _ in found):
            return []
        return [line for other, line in sorted(found, key=lambda pair: pair[0] is not rank)]

    async def follow_launchers(self) -> None:
        """Look at launchers until cancelled: more often, as gangs wait for it."""
        while True:
            await self._clock.sleep(launchers.LOOK_S)
            for uid, rank in list(self._ranks.items()):
                if rank.launch is not None:
                    self._look_at_launch(uid, rank, rank.launch)

    def _look_at_launch(self, uid: str, rank: _Rank, launch: Launch) -> None:
        self._hear(rank, launch)
        said = launch.said
        if said is None:
            return
        if said.state == RUNNING:
            newest = self._newest(uid)
            begun = newest is not None and newest.began_at >= said.at
            if not begun and self._clock.now() - said.at < launchers.START_S:
                return
            step = newest.resumed_from if begun and newest is not None else -1
        else:
            self._read(rank)
            newest = self._newest(uid)
            step = newest.step if newest is not None and newest.step else -1
        if launch.noted is None or (launch.noted.state, launch.noted.attempt) != (
            said.state,
            said.attempt,
        ):
            if said.state == FAILED:  # before the gang hears of it, and goes back together
                self._runtime.tell_kills(uid)
            saved = self._gang_saved(rank)
            report = elastic.Report(said.state, said.attempt, said.code, step, saved)
            launch.noted = report
            text = elastic.report_message(report)
            self._runtime.note(uid, elastic.CONDITION, said.state, text)

    def _hear(self, rank: _Rank, launch: Launch) -> None:
        """Take in what the launcher has said; a new attempt counts its progress anew."""
        found = launch.look()
        if found is None:
            return
        before, now = found
        self._take_in(rank)
        was_spare = elastic.HOSTNAME in (rank.pod["metadata"].get("annotations") or {})
        history = self.recorder.of(rank.pod).history
        launchers.book(history, launch, before, now, was_spare)
        if now.state == RUNNING:
            rank.progress = {}
            rank.requests = {}
            rank.rules.clear()

    def _gang_saved(self, rank: _Rank) -> int:
        """The newest step that the gang has saved: of ranks that all save, the last of them."""
        saved = []
        for other in self._ranks.values():
            if other.gang == rank.gang and not elastic.is_spare(other.pod):
                for progress in other.progress.values():
                    other.saved = max(other.saved, progress.saved_step)
                saved.append(other.saved)
        return min(saved) if saved and min(saved) >= 0 else max(saved, default=-1)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._clock.sleep(LOOK_S)
            for uid, rank in list(self._ranks.items()):
                self._read(rank)
                for name, init in self._runtime.processes_of(uid).items():
                    self._look(uid, rank, name, init)
            await self.recorder.look()

    # Reports

    def _read(self, rank: _Rank) -> None:
        """Take in what is new in the rank's files."""
        if rank.launch is not None:
            self._hear(rank, rank.launch)
        self._take_in(rank)

    def _take_in(self, rank: _Rank) -> None:
        for path in _reports(rank.folder):
            progress = rank.progress.setdefault(path.name, RankProgress())
            try:
                size = path.stat().st_size
                place = rank.places.get(path.name, 0)
                if size < place:  # begun anew
                    place = 0
                    progress.restart()
                if size == place:
                    continue
                with path.open("rb") as file:
                    file.seek(place)
                    data = file.read(_READ_BYTES)
            except OSError:
                continue
            rank.places[path.name] = place + len(data)
            history = self.recorder.of(rank.pod).history
            for line in progress.feed(data):
                history.take(line)

    # Stalls

    def _look(self, uid: str, rank: _Rank, name: str, init: int) -> None:
        try:
            timeout_s = hang_policy(rank.pod).timeout_s
        except ValueError:  # said on the pod by the controller that reads it
            return
        if timeout_s is None or not init or (rank.launch is not None and not rank.launch.runs):
            return
        rule = rank.rules.setdefault(name, StallRule(timeout_s))
        pids = processes.below(init)
        stopped = [pid for pid in pids if processes.is_stopped(pid)]
        steps = sum(p.step + p.saved_step for p in rank.progress.values())
        output = self._runtime.output_bytes(uid, name)
        # Without reports, a rank that has written anything counts as begun.
        began = any(p.step for p in rank.progress.values()) if rank.progress else output > 0
        found = rule.look(Sample(bool(stopped), (steps, output), began), self._clock.monotonic())
        before = rank.stalls.get(name)
        if found is not None:
            now, lasting = self._clock.now(), self._clock.monotonic() - found.since
            hung_at = rank.hung.setdefault(name, now - lasting)
            self.recorder.of(rank.pod).history.hang(hung_at, now)
        if found is None:
            if before is not None:
                del rank.stalls[name], rank.hung[name]
                self._runtime.note(uid, STALLED + name, "", "")
        elif before is None or before.reason != found.reason:
            rank.stalls[name] = found
            self._spawn(self._tell(uid, rank, name, found, stopped or pids[::-1]))

    async def _tell(self, uid: str, rank: _Rank, name: str, stall: Stall, pids: list[int]) -> None:
        """Say that the rank stalls, and where it is."""
        where = "it has no process that runs"
        for pid in pids:
            frames = await python_stack(pid)
            where = f"at {shown(frames)}" if frames else where
            if frames:
                break
        else:
            waits = next((text for pid in pids if (text := kernel_wait(pid))), "")
            where = f"waits in the kernel in {waits}" if waits else where
        if rank.stalls.get(name) is not stall:
            return  # it went on meanwhile
        lasting = self._clock.monotonic() - stall.since
        what = "was stopped by a signal" if stall.reason == STOPPED else "makes no progress"
        step = max((p.step for p in rank.progress.values()), default=0)
        after = f" after step {step}" if step else ""
        text = f"{what} for {lasting:.1f} s{after}: {where}"
        self._runtime.note(uid, STALLED + name, stall.reason, text)


def _reports(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith("progress-") and entry.is_file(follow_symlinks=False):
                yield Path(entry.path)
