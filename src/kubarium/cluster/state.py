"""Where a cluster keeps its files, and the record of the process that serves it.

$KUBARIUM_HOME (default ~/.kubarium)/clusters/NAME/
    store.db  pki/  kubeconfig  server.json  server.log  nodes/
"""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import psutil

from kubarium.base.errors import ConfigError
from kubarium.base.trees import remove_tree

# To a server whose nodes shut down gracefully: end the pods at once.
AT_ONCE = signal.SIGQUIT
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """What ``server.json`` says of the serving process. ``started`` tells a re-used pid apart."""

    pid: int
    started: float
    url: str
    context: str
    kubeconfig: str = ""
    previous_context: str = ""
    ready_after_s: float = 0.0
    isolation: tuple[str, ...] = ()
    # How long its nodes need at most to shut down gracefully; 0: they do not.
    shutdown_s: float = 0.0

    def process(self) -> psutil.Process | None:
        """The process, if it still is the one that wrote the record."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started) < 1.0 and process.is_running():
                return process if process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            pass
        return None


class StateDirectory:
    """The files of one cluster."""

    def __init__(self, name: str, home: Path | None = None) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"--name {name!r}: use lower-case letters, digits and '-', at most 63"
            )
        default = Path(os.environ.get("KUBARIUM_HOME") or Path.home() / ".kubarium")
        self.name = name
        self.root = (home or default) / "clusters" / name
        self.store = self.root / "store.db"
        self.pki = self.root / "pki"
        self.kubeconfig = self.root / "kubeconfig"
        self.record = self.root / "server.json"
        self.log = self.root / "server.log"
        self.nodes = self.root / "nodes"

    @property
    def context(self) -> str:
        """The kubeconfig context: ``kubarium``, or ``kubarium-NAME`` for further clusters."""
        return "kubarium" if self.name == "kubarium" else f"kubarium-{self.name}"

    def create(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(
                f"{self.root}: cannot be created: {error}; set KUBARIUM_HOME to a writable folder"
            ) from None

    def read_record(self) -> ServerRecord | None:
        """The record of a *running* server, else None (a stale record is not an error)."""
        try:
            record = ServerRecord(**orjson.loads(self.record.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return record if record.process() else None

    def write_record(self, record: ServerRecord) -> None:
        beside = self.record.with_suffix(".tmp")
        beside.write_bytes(orjson.dumps(asdict(record), option=orjson.OPT_INDENT_2))
        beside.chmod(0o600)
        beside.replace(self.record)

    def forget_record(self) -> None:
        self.record.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the cluster's files; ConfigError if some cannot be."""
        remove_tree(self.root)
        if self.root.exists():
            raise ConfigError(
                f"{self.root}: some of its files cannot be deleted (somebody else's?); "
                "remove them yourself"
            )


def stop(record: ServerRecord, grace_s: float = 15.0, now: bool = False) -> bool:
    """Have the server end, SIGKILL if it has not ``grace_s`` after the time that its nodes need to
    shut down (``now``: they do not). True if it stopped by itself in time."""
    process = record.process()
    if process is None:
        return True
    children = process.children(recursive=True)
    process.send_signal(AT_ONCE if now else signal.SIGTERM)
    try:
        process.wait(grace_s if now else grace_s + record.shutdown_s)
        clean = True
    except psutil.TimeoutExpired:
        process.kill()
        clean = False
    deadline = time.monotonic() + 2
    for child in children:  # each container dies with the agent; this is for one that would not
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except psutil.TimeoutExpired:
            child.kill()
        except psutil.Error:
            continue
    return clean
