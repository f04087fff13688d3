"""Where a Python process is, seen from outside, also when it is stopped.

py-spy reads the interpreter's frames from the process's memory (process_vm_readv) and needs nothing
in the program; it is asked not to stop the process, since one that is stopped already cannot be.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

# py-spy answers within milliseconds; a process that is just starting may be unreadable for a while.
PATIENCE_S = 5.0
_LIBRARY = re.compile(r"/(site|dist)-packages/|/lib/python3\.|^<")
# Frames shown in a message: the innermost ones say where it waits.
SHOWN_FRAMES = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a Python stack; ``library`` if it is of an installed package or of Python."""

    function: str
    file: str
    line: int
    library: bool = False

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"


async def python_stack(pid: int) -> list[Frame]:
    """The main thread's frames, innermost first; empty if it cannot be read or is no Python."""
    program = _program()
    if program is None:
        return []
    process = await asyncio.create_subprocess_exec(
        program,
        "dump",
        "--nonblocking",
        "--json",
        "--pid",
        str(pid),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            output, _ = await process.communicate()
    except TimeoutError:
        output = b""
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return _frames(output)


def _program() -> str | None:
    """py-spy's executable, which its wheel puts beside the interpreter."""
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if beside.exists() else shutil.which("py-spy")


def _frames(output: bytes) -> list[Frame]:
    try:
        threads: list[dict[str, Any]] = orjson.loads(output)
    except orjson.JSONDecodeError:
        return []
    main = next((t for t in threads if t.get("thread_name") == "MainThread"), None)
    thread = main or (threads[0] if threads else {"frames": []})
    return [
        Frame(
            f["name"],
            f["short_filename"] or f["filename"],
            f["line"],
            _LIBRARY.search(f["filename"]) is not None,
        )
        for f in thread["frames"]
    ]


def shown(frames: Sequence[Frame]) -> str:
    """``recv (socket.py:12) < mean (ddp.py:142) < …``, the innermost frames.

    Where they are all of libraries, the first of the program itself as well.
    """
    if not frames:
        return "its stack cannot be read"
    near, far = frames[:SHOWN_FRAMES], frames[SHOWN_FRAMES:]
    parts = [str(frame) for frame in near]
    own = next((index for index, frame in enumerate(far) if not frame.library), None)
    if own is not None and all(frame.library for frame in near):
        parts += ["…", str(far[own])] if own else [str(far[own])]
        far = far[own + 1 :]
    return " < ".join([*parts, "…"] if far else parts)


def kernel_wait(pid: int) -> str:
    """What a process that is no Python waits for in the kernel; "" if that is not to be had."""
    try:
        text = Path(f"/proc/{pid}/wchan").read_text().strip()
    except OSError:
        return ""
    return "" if text == "0" else text
