"""The streams of a command in a container, to which a client's connection is bridged."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubarium.api.streams import STDERR, STDOUT, Outcome

_READ_BYTES = 32 * 1024
# Output of what a command has left running is no longer waited for.
_DRAIN_S = 0.5
_END_OF_INPUT = b"\x04"


@dataclass(frozen=True, slots=True)
class ExecResult:
    """``code`` 126: could not be started; 124: timed out."""

    code: int
    output: str


class ProcessSession:
    """Satisfies :class:`kubarium.api.streams.Session`. Owns the descriptors that it is given."""

    def __init__(self, streams: Mapping[str, int], ended: asyncio.Task[ExecResult] | None) -> None:
        """``streams`` by name (stdin, stdout, stderr, terminal); ``ended`` is None for one that is
        attached: it ends with the output."""
        self._ended = ended
        self._streams = dict(streams)
        self._terminal = streams.get("terminal", -1)
        self._input = streams.get("stdin", self._terminal)
        self._outputs: dict[int, int] = {}
        for name, index in (("stdout", STDOUT), ("stderr", STDERR), ("terminal", STDOUT)):
            # Who has attached reads a terminal's output beside its log, not instead of it.
            if name in streams and not (name == "terminal" and "stdout" in streams):
                self._outputs[streams[name]] = index
        self._open = dict.fromkeys(streams.values())
        for descriptor in self._open:
            os.set_blocking(descriptor, False)

    def hand_over(self) -> dict[str, int]:
        """The descriptors by name, for another process to serve; they are no longer ours."""
        names = {name: one for name, one in self._streams.items() if one in self._open}
        self._input = self._terminal = -1
        self._open.clear()
        self._outputs.clear()
        return names

    async def read(self) -> tuple[int, bytes] | None:
        """The next output: which stream, and bytes. None when there will be no more."""
        while self._outputs:
            for descriptor, index in list(self._outputs.items()):
                try:
                    data = os.read(descriptor, _READ_BYTES)
                except BlockingIOError:
                    continue
                except OSError:  # a terminal that nobody holds any more
                    data = b""
                if data:
                    return index, data
                self._drop(descriptor)
            if self._outputs and not await self._more():
                return None
        return None

    async def _more(self) -> bool:
        """Until there may be output; false if the command has ended and none came any more."""
        ready = asyncio.ensure_future(readable(*self._outputs))
        waiting: list[asyncio.Future[Any]] = [ready]
        if self._ended is not None and not self._ended.done():
            waiting.append(self._ended)
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                await asyncio.wait([ready], timeout=_DRAIN_S)
            return ready.done()
        finally:
            ready.cancel()

    async def write(self, data: bytes) -> None:
        """Standard input; dropped if the command does not read it any more."""
        while data and self._input >= 0:
            try:
                data = data[os.write(self._input, data) :]
            except BlockingIOError:
                await writable(self._input)
            except OSError:
                self.close_input()

    def close_input(self) -> None:
        """The end of standard input."""
        if self._input < 0:
            return
        if self._input == self._terminal:
            with contextlib.suppress(OSError):
                os.write(self._input, _END_OF_INPUT)
        else:
            self._drop(self._input)
        self._input = -1

    def resize(self, width: int, height: int) -> None:
        """Columns and lines of the terminal; without one nothing happens."""
        if self._terminal >= 0:
            size = struct.pack("HHHH", min(height, 65535), min(width, 65535), 0, 0)
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    async def outcome(self) -> Outcome:
        """How the command ended, once it has."""
        if self._ended is None:
            return Outcome(0)
        result = await asyncio.shield(self._ended)
        return Outcome(result.code, result.output)

    def close(self) -> None:
        """Let go of the streams; a command on a terminal is hung up."""
        self._input = self._terminal = -1
        for descriptor in list(self._open):
            self._drop(descriptor)

    def _drop(self, descriptor: int) -> None:
        if descriptor in self._open:
            del self._open[descriptor]
            self._outputs.pop(descriptor, None)
            os.close(descriptor)


async def readable(*descriptors: int) -> None:
    """Until one of them can be read."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    try:
        for descriptor in descriptors:
            loop.add_reader(descriptor, _wake, ready)
        await ready
    finally:
        for descriptor in descriptors:
            loop.remove_reader(descriptor)


async def writable(descriptor: int) -> None:
    """Until it can be written."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_writer(descriptor, _wake, ready)
        await ready
    finally:
        loop.remove_writer(descriptor)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
