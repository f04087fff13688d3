"""Pods that an earlier agent left running: what it wrote down of them, beside what still runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from kubarium.node.lifecycle.adoption import Adopted, AdoptedContainer
from kubarium.node.runtimes.process import checkpoint
from kubarium.node.runtimes.process.checkpoint import Checkpoint, StartedContainer
from kubarium.node.runtimes.process.engine import ExitStatus
from kubarium.node.runtimes.process.init import OUTCOME
from kubarium.node.runtimes.process.pod_logs import log_path
from kubarium.node.runtimes.process.pod_records import container_ident

# Of a container that is gone without having said how it ended.
_LOST = ExitStatus(137, 0)


class EarlierPods:
    """Those that nobody has taken over yet. ``place`` holds the pods' folders; ``is_running`` says
    so of a container's ident."""

    def __init__(self, place: Path, is_running: Callable[[str], bool]) -> None:
        self._place = place
        self._is_running = is_running
        self._found: dict[str, Checkpoint] = {}

    def read(self) -> None:
        """Learn what there is."""
        for place in self._place.iterdir():
            found = checkpoint.read(place)
            if found is not None:
                self._found[found.uid] = found
            else:  # its agent was killed before anything had been started in it
                shutil.rmtree(place, ignore_errors=True)

    def idents(self) -> set[str]:
        """Of all their containers."""
        return {
            container_ident(uid, name, started.attempt)
            for uid, found in self._found.items()
            for name, started in found.containers.items()
        }

    def find(self, uid: str) -> Adopted | None:
        """What is left of a pod; None if nothing."""
        found = self._found.get(uid)
        if found is None:
            return None
        containers = {
            name: AdoptedContainer(
                started.attempt,
                f"kubarium://{container_ident(uid, name, started.attempt)}",
                started.image_id,
                started.started_at,
            )
            for name, started in found.containers.items()
            if self._was_started(uid, name, started)
        }
        found.containers = {n: c for n, c in found.containers.items() if n in containers}
        return Adopted((found.address,), containers)

    def _was_started(self, uid: str, name: str, started: StartedContainer) -> bool:
        """Or whether the agent was killed between writing it down and doing it."""
        if started.started_at or self._is_running(container_ident(uid, name, started.attempt)):
            return True
        log = log_path(self._place / uid, name, started.attempt)
        return checkpoint.outcome(log, OUTCOME) is not None

    def take(self, uid: str) -> Checkpoint:
        """A pod is taken over."""
        return self._found.pop(uid)

    def take_unknown(self, known: Callable[[str], bool]) -> Iterator[tuple[Checkpoint, list[str]]]:
        """Pods that nobody knows any more, each with those of its containers that run."""
        for uid in [uid for uid in self._found if not known(uid)]:
            found = self._found.pop(uid)
            idents = [container_ident(uid, n, c.attempt) for n, c in found.containers.items()]
            yield found, [ident for ident in idents if self._is_running(ident)]

    def how_ended(self, uid: str, name: str, attempt: int) -> ExitStatus | None:
        """How a container ended that was taken over; None if it runs."""
        ended = checkpoint.outcome(log_path(self._place / uid, name, attempt), OUTCOME)
        if ended is not None:
            return ExitStatus(ended[0], ended[1])
        return None if self._is_running(container_ident(uid, name, attempt)) else _LOST
