"""The JSONPath that printer columns use: fields, indexes, wildcards and simple filters.

``.status.conditions[?(@.type=="Ready")].status``, ``.metadata.labels.app\\.kubernetes\\.io/name``,
``.spec.ports[0].port``, ``.items[*].name``. Source of the grammar: client-go ``util/jsonpath``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import orjson

_FIELD = re.compile(r"\.((?:[^.\[\\]|\\.)+)")
_QUOTED = re.compile(r"""\[(?:'([^']*)'|"([^"]*)")\]""")
_INDEX = re.compile(r"\[(-?[0-9]+|\*)\]")
_SLICE = re.compile(r"\[(-?[0-9]+)?:(-?[0-9]+)?\]")
_FILTER = re.compile(
    r"""\[\?\(\s*@\.?((?:[^.\[\]=!<>\s\\]|\\.|\.)*)\s*(==|!=|<=|>=|<|>)?\s*"""
    r"""(?:"([^"]*)"|'([^']*)'|([^)\s"']+))?\s*\)\]"""
)

# A name and its argument: field and a name, index and a number, slice and a slice, all and None,
# filter and (path, operator, literal).
Step = tuple[str, Any]


class JsonPathError(ValueError):
    """The text is not a JSONPath that columns may use."""


@lru_cache(maxsize=1024)
def compile_path(path: str) -> tuple[Step, ...]:
    """The steps of a path; :class:`JsonPathError` says where it cannot be read."""
    text = path.strip().removeprefix("{").removesuffix("}").removeprefix("$")
    if text and text[0] not in ".[":
        text = f".{text}"
    steps: list[Step] = []
    position = 0
    while position < len(text):
        step, position = _next_step(text, position, path)
        steps.append(step)
    return tuple(steps)


def _next_step(text: str, position: int, path: str) -> tuple[Step, int]:
    if match := _FIELD.match(text, position):
        name = match[1].replace("\\", "")
        return (("all", None) if name == "*" else ("field", name)), match.end()
    if match := _QUOTED.match(text, position):
        return ("field", match[1] if match[1] is not None else match[2]), match.end()
    if match := _INDEX.match(text, position):
        return (("all", None) if match[1] == "*" else ("index", int(match[1]))), match.end()
    if match := _SLICE.match(text, position):
        bounds = [int(bound) if bound else None for bound in match.groups()]
        return ("slice", slice(*bounds)), match.end()
    if match := _FILTER.match(text, position):
        quoted = match[3] if match[3] is not None else match[4]
        literal = quoted if quoted is not None else _bare(match[5])
        inner = compile_path(f".{match[1]}") if match[1] else ()
        return ("filter", (inner, match[2], literal)), match.end()
    raise JsonPathError(f"cannot read {path!r} at {text[position:]!r}")


def _bare(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _follow(steps: tuple[Step, ...], value: Any) -> Iterator[Any]:
    if not steps:
        yield value
        return
    for child in _children(steps[0], value):
        yield from _follow(steps[1:], child)


def _children(step: Step, value: Any) -> list[Any]:
    kind, argument = step
    if kind == "field":
        return [value[argument]] if isinstance(value, dict) and argument in value else []
    if kind == "index":
        inside = isinstance(value, list) and -len(value) <= argument < len(value)
        return [value[argument]] if inside else []
    if kind == "slice":
        return value[argument] if isinstance(value, list) else []
    members = (
        value
        if isinstance(value, list)
        else list(value.values())
        if isinstance(value, dict)
        else []
    )
    if kind == "all":
        return members
    return [member for member in members if _passes(argument, member)]


def _passes(condition: tuple[tuple[Step, ...], str | None, Any], member: Any) -> bool:
    steps, operator, literal = condition
    found = next(_follow(steps, member), None)
    if operator is None:
        return found is not None
    if operator == "==":
        return bool(found == literal)
    if operator == "!=":
        return bool(found != literal)
    numbers = (int, float)
    comparable = isinstance(found, numbers) and isinstance(literal, numbers)
    if not comparable and not (isinstance(found, str) and isinstance(literal, str)):
        return False
    return bool(
        {"<": found < literal, ">": found > literal, "<=": found <= literal}.get(
            operator, found >= literal
        )
    )


def first_match(path: str, document: Any) -> tuple[bool, Any]:
    """Whether ``path`` leads anywhere in ``document``, and to which value first.

    A path that cannot be read leads nowhere: definitions are checked when they are written.
    """
    try:
        steps = compile_path(path)
    except JsonPathError:
        return False, None
    for value in _follow(steps, document):
        return value is not None, value
    return False, None


def render(value: Any) -> str:
    """A value as text: strings as they are, the rest as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
