"""Places in documents, as linked pairs while walking and as text in messages.

A walk hands down ``(parent, key)``: one small tuple for each node and no string work unless
something is wrong there.
"""

from __future__ import annotations

from typing import Any

# None is the root; otherwise (parent, field name or index).
Path = tuple[Any, str | int] | None


class Key(str):
    """A key of a map: field errors write it in brackets, ``limits[cpu]``."""

    __slots__ = ()


def path_text(path: Path) -> str:
    """``spec.containers[0].limits[cpu]``.

    >>> path_text((((None, "spec"), "containers"), 0))
    'spec.containers[0]'
    """
    steps: list[str] = []
    while path is not None:
        path, key = path
        steps.append(f"[{key}]" if isinstance(key, (int, Key)) else f".{key}")
    return "".join(reversed(steps)).removeprefix(".")


def at(path: Path, *steps: str | int) -> Path:
    """The place below ``path``.

    >>> path_text(at(None, "spec", "ports", 0))
    'spec.ports[0]'
    """
    for step in steps:
        path = (path, step)
    return path
