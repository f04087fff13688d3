"""Reads metrics from what ranks print, for pods that ask for it (:mod:`kubarium.view.tuning`).

What Katib's sidecar does with a copy of the output in a shared volume, the node does where it
writes the log: lines ``<name>=<number>``, of names that were asked for. The latest, least and
greatest value of each become a condition of the pod.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

import orjson

from kubarium.api.resource import Document
from kubarium.base.clock import Clock
from kubarium.view.tuning import DEFAULT_FORMAT, METRICS, METRICS_READ

LOOK_S = 1.0
_READ_BYTES = 1 << 20
# Of a line; metrics are at its beginning or it is none of their lines.
_MOST_LINE = 4096
_FORMAT = re.compile(DEFAULT_FORMAT)


class Outputs(Protocol):
    """What the reader asks of the runtime."""

    def log_path(self, uid: str, name: str) -> Path | None:
        """The current log of a container that runs or has just ended."""
        ...

    def note(self, uid: str, kind: str, reason: str, message: str) -> None:
        """Say a condition of a pod."""
        ...


class Readings:
    """Metrics by name: lines in, the latest, least and greatest value of each out. Pure."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(names)
        self.values: dict[str, dict[str, str]] = {}

    def feed(self, line: str) -> bool:
        """Take in a line; whether it had any of the metrics."""
        found = False
        for name, text, *_ in _FORMAT.findall(line[:_MOST_LINE]):
            try:
                value = float(text)
            except ValueError:
                continue
            if name not in self._names or not math.isfinite(value):
                continue
            found = True
            known = self.values.setdefault(name, {"latest": text, "min": text, "max": text})
            known["latest"] = text
            if value < float(known["min"]):
                known["min"] = text
            if value > float(known["max"]):
                known["max"] = text
        return found


class _Followed:
    """One container's output, over its attempts and its log's rotations."""

    def __init__(self, name: str, metrics: Iterable[str]) -> None:
        self.name = name
        self.readings = Readings(metrics)
        self._file: BinaryIO | None = None
        self._rest = b""

    def read(self, path: Path | None) -> bool:
        """Take in what is new; whether there were metrics in it."""
        found = self._drain()
        if path is not None and not self._is_open(path):
            self.close()
            with contextlib.suppress(OSError):
                self._file = path.open("rb")
            found = self._drain() or found
        return found

    def _is_open(self, path: Path) -> bool:
        if self._file is None:
            return False
        try:
            return os.stat(path).st_ino == os.fstat(self._file.fileno()).st_ino
        except OSError:
            return True

    def _drain(self) -> bool:
        found = False
        while self._file is not None and (data := self._file.read(_READ_BYTES)):
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                text = line.split(b" ", 3)[-1].decode(errors="replace")  # CRI: time, stream, mark
                found = self.readings.feed(text) or found
            self._rest = self._rest[-(1 << 16) :]
        return found

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._rest = None, b""


class MetricsReader:
    """Follows the pods of one agent."""

    def __init__(self, clock: Clock, outputs: Outputs) -> None:
        self._clock = clock
        self._outputs = outputs
        self._pods: dict[str, _Followed] = {}

    def look(self, pod: Document) -> None:
        """A pod was seen: it may want to be read."""
        uid = pod["metadata"]["uid"]
        asked = (pod["metadata"].get("annotations") or {}).get(METRICS, "").split()
        if asked and uid not in self._pods:
            self._pods[uid] = _Followed(pod["spec"]["containers"][0]["name"], asked)

    def read(self, uid: str) -> None:
        """Read up to this moment: before it is said that a container has ended."""
        followed = self._pods.get(uid)
        if followed is None:
            return
        if followed.read(self._outputs.log_path(uid, followed.name)):
            text = orjson.dumps(followed.readings.values).decode()
            self._outputs.note(uid, METRICS_READ, "MetricsRead", text)

    def drop(self, uid: str) -> None:
        """The pod is over."""
        followed = self._pods.pop(uid, None)
        if followed is not None:
            followed.close()

    async def run(self) -> None:
        try:
            while True:
                await self._clock.sleep(LOOK_S)
                for uid in list(self._pods):
                    self.read(uid)
        finally:
            for followed in self._pods.values():
                followed.close()
