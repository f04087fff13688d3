"""Draw what a command prints in a terminal as SVG: `python scripts/picture.py out.svg -- command`.

The command runs on a pseudo-terminal of 88 columns, so that it shows colours as it would to a
person; what transient displays drew and erased again is left out.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 88
_CURSOR = re.compile(r"\x1b\[(?:\d*[ABCDGJKH]|\?\d+[hl])|\r(?!\n)")


def run_on_terminal(command: list[str]) -> str:
    """Everything that ``command`` wrote, with colours; lines it erased are gone."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    chunks = []
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:
            break
        if not chunk:
            break
        chunks.append(chunk)
    process.wait()
    return replay(b"".join(chunks).decode("utf-8", "replace"))


def replay(raw: str) -> str:
    """The screen after all cursor movement: enough of a terminal for rich's live displays."""
    lines: list[str] = [""]
    row = 0
    for part in re.split(r"(\x1b\[\d*A|\x1b\[2K|\r\n|\n|\r|\x1b\[\?\d+[hl])", raw):
        if part in ("\n", "\r\n"):
            row += 1
            if row == len(lines):
                lines.append("")
        elif part == "\x1b[2K":
            lines[row] = ""
        elif re.fullmatch(r"\x1b\[\d*A", part):
            row = max(0, row - int(part[2:-1] or 1))
        elif part == "\r" or part.startswith("\x1b[?"):
            continue  # what follows a return is an erasure or the next line
        else:
            lines[row] += part
    while lines and not lines[-1].strip():
        lines.pop()
    return "\n".join(_CURSOR.sub("", line) for line in lines)


def main() -> None:
    target, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        sys.exit("usage: picture.py OUT.svg -- COMMAND …")
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115
    shown = " ".join(command[:1] + command[1:])
    console.print(Text.from_ansi(run_on_terminal(command)))
    Path(target).write_text(console.export_svg(title=f"$ {Path(shown).name}"), encoding="utf-8")


if __name__ == "__main__":
    main()
