"""What containers have said: their logs, and the message with which they ended."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from kubarium.api.logs import LogOptions
from kubarium.api.resource import Document
from kubarium.base.clock import Clock
from kubarium.base.errors import bad_request
from kubarium.node.logs import read_log, why_no_log
from kubarium.node.runtimes.process.engine import ExitStatus
from kubarium.node.runtimes.process.pod_records import PodRecord, PodRecords, container_of

_TERMINATION_BYTES = 4096
_FALLBACK_BYTES, _FALLBACK_LINES = 2048, 80


def log_path(place: Path, name: str, attempt: int) -> Path:
    """The log of one attempt of a container."""
    return place / "logs" / name / f"{attempt}.log"


def logged_attempts(place: Path, name: str) -> list[int]:
    """The attempts of a container whose logs are there, the newest one last."""
    return sorted(int(path.stem) for path in (place / "logs" / name).glob("*.log"))


def termination_file(place: Path, name: str, attempt: int) -> Path:
    """Where a container may write why it ended."""
    return place / "etc" / f"termination-{name}-{attempt}"


def termination_message(pod: PodRecord, name: str, attempt: int, status: ExitStatus) -> str:
    """What a container that has ended leaves as its message."""
    path = termination_file(pod.place, name, attempt)
    text = ""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        text = file.read(_TERMINATION_BYTES).decode(errors="replace")
    policy = container_of(pod.facts.pod, name).get("terminationMessagePolicy")
    if not text and status.code and policy == "FallbackToLogsOnError":
        text = last_output(log_path(pod.place, name, attempt))
    return text


def last_output(path: Path) -> str:
    """The end of a log, as a termination message shows it."""
    try:
        lines = path.read_bytes().split(b"\n")[-_FALLBACK_LINES - 1 :]
    except OSError:
        return ""
    texts = [line.split(b" ", 3)[3] for line in lines if line.count(b" ") >= 3]
    return b"".join(text + b"\n" for text in texts)[-_FALLBACK_BYTES:].decode(errors="replace")


class PodOutput:
    """The logs of one agent's pods, read."""

    def __init__(self, records: PodRecords, clock: Clock) -> None:
        self._records = records
        self._clock = clock

    def size(self, uid: str, name: str) -> int:
        """Bytes that a running container has written to its log."""
        pod = self._records.get(uid)
        attempt = self._records.attempt(pod, name) if pod else None
        if pod is None or attempt is None:
            return 0
        try:
            return log_path(pod.place, name, attempt).stat().st_size
        except OSError:
            return 0

    def path(self, uid: str, name: str) -> Path | None:
        """The log of a container's newest attempt, if it has one."""
        pod = self._records.get(uid)
        attempts = logged_attempts(pod.place, name) if pod else []
        return log_path(pod.place, name, attempts[-1]) if pod and attempts else None

    def read(self, pod: Document, options: LogOptions) -> AsyncIterator[bytes]:
        """The output of one container of ``pod``; ApiError 400 if there is none to show."""
        uid, name = pod["metadata"]["uid"], options.container
        known = self._records.get(uid)
        attempts = logged_attempts(known.place, name) if known else []
        shown = attempts[:-1] if options.previous else attempts
        if known is None or not shown:
            raise bad_request(why_no_log(pod, name, options.previous))
        attempt, ident = shown[-1], known.containers.get(name, "")

        def running() -> bool:
            return self._records.idents.get(ident) == (uid, name, attempt)

        path = log_path(known.place, name, attempt)
        return read_log(str(path), options, self._clock, running)
