"""Reading a configuration file field by field, with complaints that name the field."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from kubarium.base.quoted import quoted

API_VERSION = "kubescheduler.config.k8s.io/v1"

# The fields' type upstream, or narrower than it.
MAX_NUMBER = 2**31 - 1

Json = Mapping[str, Any]
Path = tuple[str | int, ...]


class SchedulerConfigError(Exception):
    """A configuration that cannot be used; ``path`` is the field, from the document's root."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{dotted(path)}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


def dotted(path: Path) -> str:
    """``profiles[0].plugins.score``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def mapping(value: object, at: Path) -> Json:
    if not isinstance(value, Mapping):
        raise SchedulerConfigError(at, f"must be a mapping, not {quoted(value)}")
    return value


def section(given: Json, field: str, at: Path) -> Json:
    """A field that is a mapping; empty if it is left out or null."""
    value = given.get(field)
    return {} if value is None else mapping(value, (*at, field))


def entries(value: object, at: Path) -> Iterator[tuple[int, Any]]:
    if value is None:
        return
    if not isinstance(value, list):
        raise SchedulerConfigError(at, f"must be a list, not {quoted(value)}")
    yield from enumerate(value)


def known(value: Json, names: Collection[str], at: Path) -> None:
    """Every field is one of ``names``."""
    for name in value:
        if name not in names:
            raise SchedulerConfigError((*at, name), f"no such field; {instead(name, names)}")


def instead(name: object, known: Collection[str]) -> str:
    """What to write for a name that nobody knows: the one that is close to it, or any."""
    close = get_close_matches(str(name), known, 1, 0.75)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"


def number(given: Json, field: str, default: int, least: int, most: int | None, at: Path) -> int:
    """A whole number from ``least`` to ``most`` (None: the most that the field can hold)."""
    value = given.get(field)
    if value is None:
        return default
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least <= value <= (MAX_NUMBER if most is None else most):
        span = f"{least} to {most}" if most is not None else f"a whole number of at least {least}"
        if whole and value > MAX_NUMBER:
            span = f"{least} to {MAX_NUMBER if most is None else most}"
        raise SchedulerConfigError((*at, field), f"must be {span}, not {quoted(value)}")
    return int(value)


def choice(given: Json, field: str, names: tuple[str, ...], at: Path, default: str = "") -> str:
    """One of ``names``; ``default`` if it is left out or null."""
    value = given.get(field)
    value = default if value is None else value
    if value not in names:
        problem = f"must be one of {', '.join(names)}, not {quoted(value)}"
        raise SchedulerConfigError((*at, field), problem)
    return str(value)


def is_plain(value: object) -> bool:
    """Whether the text or number can be written as JSON that everybody reads."""
    if isinstance(value, str):
        return value.isprintable() and not any("\ud800" <= letter <= "\udfff" for letter in value)
    return isinstance(value, (int, float)) and abs(value) < 2**63  # not NaN either


def writable(value: object, at: Path) -> None:
    """Refuse what no JSON document can hold, or no line of text, wherever it stands."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if not isinstance(name, str) or not is_plain(name):
                raise SchedulerConfigError(at, f"{quoted(name)} is no name of a field")
            writable(item, (*at, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            writable(item, (*at, index))
    elif value is not None and not is_plain(value):
        problem = f"must be plain text or a number of 64 bits, not {quoted(value)}"
        raise SchedulerConfigError(at, problem)


def flag(given: Json, field: str, at: Path) -> bool:
    """True or false, which it is if it is left out or null."""
    value = given.get(field)
    value = False if value is None else value
    if not isinstance(value, bool):
        raise SchedulerConfigError((*at, field), f"must be true or false, not {quoted(value)}")
    return value
