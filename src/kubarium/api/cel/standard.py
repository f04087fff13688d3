"""Functions of CEL's own libraries that cel-cpp has otherwise than cel-go, as cel-go has them.

Places in a text are counted in characters, and a text ends where it ends: cel-cpp refuses
``"a".substring(0, 1)``. Source: cel-go ``ext/strings.go`` and ``common/types/duration.go``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from kubarium.api.cel.libraries import Function, type_name
from kubarium.api.cel.values import CelValueError, uncarry


def _checked(name: str, text: Any, *places: Any) -> str:
    if isinstance(text, str) and all(type(place) is int for place in places):
        return text
    kinds = ", ".join(type_name(uncarry(value)) for value in (text, *places))
    raise CelValueError(f"no such overload: {name}({kinds})")


def _inside(text: str, place: int) -> None:
    if not 0 <= place <= len(text):
        raise CelValueError(f"index out of range: {place}")


def _substring(text: Any, start: Any) -> str:
    text = _checked("substring", text, start)
    _inside(text, start)
    return str(text[start:])


def _part(text: Any, start: Any, end: Any) -> str:
    text = _checked("substring", text, start, end)
    if start > end:
        raise CelValueError(f"invalid substring range. start: {start}, end: {end}")
    _inside(text, start)
    _inside(text, end)
    return str(text[start:end])


def _char_at(text: Any, place: Any) -> str:
    text = _checked("charAt", text, place)
    _inside(text, place)
    return str(text[place : place + 1])


def _index_of(text: Any, wanted: Any, start: Any) -> int:
    text = _checked("indexOf", text, start)
    wanted = _checked("indexOf", wanted)
    if not wanted:
        return int(start)
    if start < 0:
        raise CelValueError(f"index out of range: {start}")
    found: int = text.find(wanted, start)
    return found


def _last_index_of(text: Any, wanted: Any, last: Any) -> int:
    text = _checked("lastIndexOf", text, last)
    wanted = _checked("lastIndexOf", wanted)
    if not wanted:
        return int(last)
    if last < 0:
        raise CelValueError(f"index out of range: {last}")
    found: int = -1 if last >= len(text) else text.rfind(wanted, 0, last + len(wanted))
    return found


def _milliseconds(length: Any) -> int:
    """All of a duration in milliseconds, not those beside its seconds."""
    if not isinstance(length, timedelta):
        raise CelValueError(f"no such overload: getMilliseconds({type_name(uncarry(length))})")
    return int(length / timedelta(milliseconds=1))


def _function(name: str, parameters: tuple[str, ...], result: str, call: Any) -> Function:
    return Function(f"k8s.{name}", "", parameters, result, call)


# By the overload that each of them stands for; receivers come as the first argument.
STANDARD: dict[str, Function] = {
    "string_substring_int": _function("substring", ("string", "int"), "string", _substring),
    "string_substring_int_int": _function("substring", ("string", "int", "int"), "string", _part),
    "string_char_at_int": _function("charAt", ("string", "int"), "string", _char_at),
    "string_index_of_string_int": _function(
        "indexOf", ("string", "string", "int"), "int", _index_of
    ),
    "string_last_index_of_string_int": _function(
        "lastIndexOf", ("string", "string", "int"), "int", _last_index_of
    ),
    "duration_to_milliseconds": _function("milliseconds", ("duration",), "int", _milliseconds),
}
