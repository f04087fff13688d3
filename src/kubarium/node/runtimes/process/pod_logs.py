"""What containers have said: their logs, and the message with which they ended."""

from __future__ import annotations

import contextlib
from pathlib import Path

from kubarium.api.resource import Document
from kubarium.node.runtimes.process.engine import ExitStatus
from kubarium.node.runtimes.process.pod_records import PodRecord, container_of

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
        text = _last_output(log_path(pod.place, name, attempt))
    return text


def why_no_log(pod: Document, name: str, previous: bool) -> str:
    """What kubectl is told where there is nothing to show, in the kubelet's words."""
    pod_name = pod["metadata"]["name"]
    if previous:
        return f'previous terminated container "{name}" in pod "{pod_name}" not found'
    status = pod.get("status") or {}
    entries = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
        *(status.get("ephemeralContainerStatuses") or ()),
    ]
    for entry in entries:
        if entry["name"] == name and (entry.get("state") or {}).get("waiting"):
            reason = entry["state"]["waiting"].get("reason", "")
            text = "trying and failing to pull image" if "ImagePull" in reason else reason
            waiting = "is waiting to start"
            return f'container "{name}" in pod "{pod_name}" {waiting}: {text}'
    return f'container "{name}" in pod "{pod_name}" is not available'


def _last_output(path: Path) -> str:
    """The end of a log, as a termination message."""
    try:
        lines = path.read_bytes().split(b"\n")[-_FALLBACK_LINES - 1 :]
    except OSError:
        return ""
    texts = [line.split(b" ", 3)[3] for line in lines if line.count(b" ") >= 3]
    return b"".join(text + b"\n" for text in texts)[-_FALLBACK_BYTES:].decode(errors="replace")
