"""Reading container logs: CRI log files, as ``kubectl logs`` asks for them, and why there is none.

A line is ``<RFC 3339 time> <stdout|stderr> <P|F> <text>``; P marks a part of a longer line.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from kubarium.api.logs import LogOptions
from kubarium.api.resource import Document
from kubarium.base.clock import Clock, parse_rfc3339

_CHUNK_BYTES = 64 * 1024
# How often a followed file is looked at.
_FOLLOW_S = 0.1


@dataclass(slots=True)
class _Filter:
    """Turns CRI lines into what the caller asked for; counts bytes against the limit."""

    timestamps: bool
    since: float
    left: int | None
    continued: bool = False

    def lines(self, raw: list[bytes]) -> bytes:
        return self._limit(b"".join(self._shown(line) for line in raw))

    def _shown(self, line: bytes) -> bytes:
        stamp, _, rest = line.partition(b" ")
        _, _, rest = rest.partition(b" ")
        mark, _, text = rest.partition(b" ")
        if self.since and parse_stamp(stamp) < self.since:
            return b""
        head = stamp + b" " if self.timestamps and not self.continued else b""
        self.continued = mark == b"P"
        return head + text + (b"" if self.continued else b"\n")

    def _limit(self, data: bytes) -> bytes:
        if self.left is not None:
            data = data[: self.left]
            self.left -= len(data)
        return data


# What the kubelet says instead of these reasons of a container that waits.
_WAITS = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}


def state_of(pod: Document, container: str) -> Document | None:
    """The status entry of one of the pod's containers, of whatever sort it is."""
    status = pod.get("status") or {}
    for field in ("containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"):
        for entry in status.get(field) or ():
            if entry["name"] == container:
                found: Document = entry
                return found
    return None


def why_no_log(pod: Document, name: str, previous: bool) -> str:
    """What kubectl is told where there is nothing to show, in the kubelet's words.

    Source: validateContainerLogStatus of upstream's ``pkg/kubelet/kubelet_pods.go``.
    """
    subject = f'container "{name}" in pod "{pod["metadata"]["name"]}"'
    entry = state_of(pod, name)
    if entry is None:
        return f"{subject} is not available"
    if previous:
        return f"previous terminated {subject} not found"
    state, last = entry.get("state") or {}, entry.get("lastState") or {}
    if state.get("terminated") or last.get("terminated"):
        return f"{subject} is terminated"
    if state.get("waiting"):
        reason = state["waiting"].get("reason", "")
        return f"{subject} is waiting to start: {_WAITS.get(reason, reason)}"
    return f"{subject} is waiting to start - no logs yet"


def parse_stamp(stamp: bytes) -> float:
    """Seconds of a CRI timestamp; nanoseconds are cut to microseconds."""
    text = stamp.decode()
    head, dot, tail = text.partition(".")
    if not dot:
        return parse_rfc3339(text)
    return parse_rfc3339(f"{head}.{tail.rstrip('Z')[:6]}+00:00")


async def read_log(
    path: str, options: LogOptions, clock: Clock, running: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Pieces of the log at ``path``; with ``follow``, on until ``running()`` is false, also over
    rotations (as kubelet does, what was put aside before is not shown)."""
    since = 0.0
    if options.since_seconds is not None:
        since = clock.now() - options.since_seconds
    elif options.since_time:
        since = parse_rfc3339(options.since_time)
    chosen = _Filter(options.timestamps, since, options.limit_bytes)
    # Reads are of local files in small pieces; a thread for each would cost more than it saves.
    file = open(path, "rb")  # noqa: ASYNC230, SIM115
    try:
        if options.tail_lines is not None:
            file.seek(_tail_start(path, options.tail_lines))
        rest = b""
        while chosen.left is None or chosen.left > 0:
            alive = options.follow and running()
            rotated = options.follow and not _is_at(path, file)
            data = file.read(_CHUNK_BYTES)
            *lines, rest = (rest + data).split(b"\n")
            shown = chosen.lines(lines)
            if shown:
                yield shown
            if data:
                continue
            if rotated:
                file.close()
                file, rest = open(path, "rb"), b""  # noqa: ASYNC230, SIM115
                continue
            if not alive:
                return
            await clock.sleep(_FOLLOW_S)
    finally:
        file.close()


def _is_at(path: str, file: BinaryIO) -> bool:
    """Whether ``file`` is still the one at ``path``, or has been put aside for a new one."""
    try:
        return os.stat(path).st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:  # in between
        return True


def _tail_start(path: str, wanted: int) -> int:
    """Where the last ``wanted`` whole lines begin; parts of one line count once."""
    end = os.path.getsize(path)
    if wanted <= 0:
        return end
    start = end
    for position, line in _lines_backwards(path, end):
        mark = line.split(b" ", 3)[2:3]
        if mark == [b"F"]:
            wanted -= 1
            if wanted < 0:
                return start
        start = position
    return 0


def _lines_backwards(path: str, end: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line) from the last complete line to the first."""
    with open(path, "rb") as file:
        position, rest = end, b""
        while position > 0:
            size = min(_CHUNK_BYTES, position)
            position -= size
            file.seek(position)
            parts = (file.read(size) + rest).split(b"\n")
            rest = parts[0]
            offset = position + len(rest) + 1
            found = []
            for part in parts[1:]:
                found.append((offset, part))
                offset += len(part) + 1
            for entry in reversed(found):
                if entry[1]:
                    yield entry
        if rest:
            yield 0, rest
