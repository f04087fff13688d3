"""Streams into containers, shared by the server that carries them and the node that opens them.

Subresources ``exec``, ``attach`` and ``portforward`` of pods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

STDIN, STDOUT, STDERR = 0, 1, 2


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """``PodExecOptions``, or ``PodAttachOptions`` if ``command`` is empty."""

    container: str = ""
    command: tuple[str, ...] = ()
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    tty: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The standard streams asked for; a terminal has no stderr of its own."""
        asked = (
            ("stdin", self.stdin),
            ("stdout", self.stdout),
            ("stderr", self.stderr and not self.tty),
        )
        return tuple(name for name, wanted in asked if wanted)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended. ``message`` is the runtime's, where it could not be run to its end."""

    code: int
    message: str = ""


class Session(Protocol):
    """A command whose standard streams are at hand. Close it in the end."""

    async def read(self) -> tuple[int, bytes] | None:
        """The next output: STDOUT or STDERR, and bytes. None when there will be no more."""
        ...

    async def write(self, data: bytes) -> None:
        """Standard input; waits while the command does not read it."""
        ...

    def close_input(self) -> None:
        """The end of standard input."""
        ...

    def resize(self, width: int, height: int) -> None:
        """Columns and lines of the terminal."""
        ...

    async def outcome(self) -> Outcome:
        """How the command ended, once it has."""
        ...

    def close(self) -> None:
        """Let go of the streams. Does not end the command."""
        ...


class Connection(Protocol):
    """A connection to a port of a pod. Close it in the end."""

    async def read(self) -> bytes:
        """The next bytes; none at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """Send; ConnectionError if the other side has gone."""
        ...

    def close_input(self) -> None:
        """No more will be sent."""
        ...

    def close(self) -> None: ...


class StreamSource(Protocol):
    """Who opens streams: the node agents. ApiError where it cannot be done."""

    async def open_session(self, namespace: str, name: str, options: StreamOptions) -> Session:
        """Start a command in a container, or attach to the one that runs."""
        ...

    async def open_port(self, namespace: str, name: str, port: int) -> Connection:
        """Connect to a port of a pod; ConnectionError if nothing listens there."""
        ...
