"""cel-cpp's messages in the words of cel-go, which kube-apiserver uses.

Sources: cel-go ``checker/errors.go``, ``common/errors.go``, ``common/types``, ``interpreter``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from cel_expr_python import cel

from kubarium.api.cel.libraries import type_name
from kubarium.api.cel.values import uncarry

TRAILER = re.compile(r" \[[A-Z_]+\]$")
_BLOCK = re.compile(r"\n(?=ERROR: <input>:)")
_PLACE = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): (.*)\Z", re.DOTALL)


def compile_message(text: str, expression: str) -> str:
    """What is wrong with an expression, in the order of its text."""
    text = TRAILER.sub("", text).removeprefix("INVALID_ARGUMENT: ")
    blocks = [_block(block, expression) for block in _BLOCK.split(text)]
    return failed([block for block in blocks if block[1]])


def failed(errors: Iterable[tuple[tuple[int, int], str]]) -> str:
    """The errors of one expression, each with its place, in the order of the text."""
    return "compilation failed: " + "\n".join(error for _, error in sorted(errors))


def _block(block: str, expression: str) -> tuple[tuple[int, int], str]:
    """(line and column, one error as cel-go has it); an error without a place is left out."""
    match = _PLACE.match(block)
    if match is None:
        return (0, 0), block
    line, column, said = int(match[1]), int(match[2]), match[3]
    if line < 0:
        return (0, 0), ""
    said, _, snippet = said.partition("\n")
    column, words = _reworded(said, line, column, expression)
    if column == int(match[2]):
        tail = "\n" + snippet if snippet else ""
        return (line, column), f"ERROR: <input>:{line}:{column}: {words}{tail}"
    return (line, column), located(words, expression, line, column)


def located(words: str, expression: str, line: int, column: int) -> str:
    """An error at a place, counted from 1, with the line and a mark below it."""
    source = expression.split("\n")[line - 1].replace("\t", " ")
    before = source[: column - 1]
    dots = "".join("." if ord(c) < 128 else "\uff0e" for c in before)
    here = source[column - 1 : column]
    mark = "^" if not here or ord(here) < 128 else "\uff3e"
    return f"ERROR: <input>:{line}:{column}: {words}\n | {source}\n | {dots}{mark}"


def at_offset(words: str, expression: str, offset: int) -> tuple[tuple[int, int], str]:
    """(line and column, :func:`located`) of an error at so many characters from the start."""
    before = expression[:offset].split("\n")
    line, column = len(before), len(before[-1]) + 1
    return (line, column), located(words, expression, line, column)


_WORDS = (
    (re.compile(r"cannot be the range of a comprehension"), "cannot be range of a comprehension"),
    (re.compile(r"has\(\) argument must be a field selection"), "invalid argument to has() macro"),
    (
        re.compile(r"^(?:map|filter)\(\) variable name must be a simple identifier"),
        "argument is not an identifier",
    ),
    (
        re.compile(r"^\w+\(\) (?:first |second )?variable name must be a simple identifier"),
        "argument must be a simple name",
    ),
    (re.compile(r"\\u003F"), "?"),
    (re.compile(r"^invalid hex (u?int literal)"), r"invalid \1"),
    (
        re.compile(r"^Invalid string literal: Illegal escape sequence: Unicode value .*"),
        "invalid unicode code point",
    ),
    (
        re.compile(r"^expression of type '([a-z_]+)' cannot be the operand of a select operation"),
        r"type '\1' does not support field selection",
    ),
    (
        re.compile(r"^expression of type '(.*)' cannot be the operand of a select operation"),
        r"unexpected failed resolution of '\1'",
    ),
    (re.compile(r"^(type )'null_type'"), r"\1'null'"),
)
_NO_MATCH = re.compile(r"found no matching overload for '([^']+)' applied to '(.*)'$")
_UNDECLARED = re.compile(r"undeclared reference to '([^']+)'(.*)$")
_TYPES = re.compile(r"\b(?:null_type|google\.protobuf\.(?:Any|Timestamp|Duration))\b")
_FREE = re.compile(r"\bT%[0-9]+")  # a type that nothing has settled
_SHORT = {
    "null_type": "null",
    "google.protobuf.Any": "any",
    "google.protobuf.Timestamp": "timestamp",
    "google.protobuf.Duration": "duration",
}


def _reworded(said: str, line: int, column: int, expression: str) -> tuple[int, str]:
    for pattern, words in _WORDS:
        said = pattern.sub(words, said)
    if match := _NO_MATCH.match(said):
        return column, _no_match(match[1], match[2], _text_before(expression, line, column))
    if (match := _UNDECLARED.match(said)) and "." in match[1]:
        chain, first = match[1].rpartition(".")[0], match[1].partition(".")[0]
        if _text_before(expression, line, column).endswith(chain):
            return column - len(chain), f"undeclared reference to '{first}'{match[2]}"
    return column, said


def _text_before(expression: str, line: int, column: int) -> str:
    lines = expression.split("\n")
    return lines[line - 1][: column - 1] if line <= len(lines) else ""


def _no_match(name: str, types: str, before: str) -> str:
    types = _FREE.sub("dyn", _TYPES.sub(lambda found: _SHORT[found[0]], types))
    parts = split_types(types[1:-1])
    if name in ("_&&_", "_||_"):
        wrong = next((part for part in parts if part not in ("bool", "dyn")), "dyn")
        return f"expected type 'bool' but found '{wrong}'"
    if re.search(rf"\.\s*{re.escape(name)}\s*\Z", before) and parts:
        types = f"{parts[0]}.({', '.join(parts[1:])})"
    return f"found no matching overload for '{name}' applied to '{types}'"


def split_types(text: str) -> list[str]:
    """The types in a list of them, which may have parameters.

    >>> split_types("map(string, int), bool")
    ['map(string, int)', 'bool']
    """
    parts, depth = [""], 0
    for char in text:
        depth += (char in "<(") - (char in ">)")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


# --- at run time ---------------------------------------------------------------------------------

NOT_ITERABLE = "no such overload: expected iterable type"
_NO_KEY = re.compile(r'^NOT_FOUND: Key not found in map : "?(.*?)"?$')
_NO_OVERLOAD = re.compile(r"^UNKNOWN: No matching overloads found : (.*)$")
_OPERATOR = re.compile(r"^(_[-+*/%<>]=?_|-_)\((\w+|\*opaque\*)")
_MEMBER = re.compile(r"^\(.*\)\.\w+\(")
# Operands of an operator that cel-go knows, only not with the other one.
_NUMBERS = {"int64", "uint64", "double", "string", "duration", "timestamp"}
_KNOWN = {
    "_+_": _NUMBERS | {"list"},
    "_%_": _NUMBERS - {"double"},
    "-_": {"bool", "string", "timestamp", "int64", "double"},
    **dict.fromkeys(("_<_", "_<=_", "_>_", "_>=_"), _NUMBERS | {"bool"}),
}
_PLAIN = ("!_", "_&&_", "_||_", "<jump_condition>", "@in", "_?_:_")
_RUN = (
    (re.compile(r"^divide by zero$"), "division by zero"),
    (re.compile(r"^Index error: index=(-?\d+) size=\d+$"), r"index out of bounds: \1"),
    (re.compile(r"^Type conversion error"), "type conversion error"),
    (
        re.compile(r"^cannot convert string to (\w+)$"),
        r"type conversion error from 'string' to '\1'",
    ),
    (
        re.compile(r"^String to (\w+) conversion failed$"),
        r"type conversion error from 'string' to 'google.protobuf.\1'",
    ),
    (re.compile(r"^(?:int64|double) out of uint64 range$"), "unsigned integer overflow"),
    (re.compile(r"^(?:uint64|double) out of int64 range$"), "integer overflow"),
    (
        re.compile(r"^decimal clause can only be used on numbers"),
        "error during formatting: decimal clause can only be used on integers",
    ),
)


def runtime_message(text: str) -> str:
    """An error of an evaluation.

    >>> runtime_message('NOT_FOUND: Key not found in map : "x"')
    'no such key: x'
    >>> runtime_message("UNKNOWN: No matching overloads found : _<_(map, string)")
    'no such overload: _<_'
    """
    if match := _NO_KEY.match(text):
        return f"no such key: {match[1]}"
    if match := _NO_OVERLOAD.match(text):
        return _no_overload(match[1])
    text = re.sub(r"^[A-Z_]+: ", "", text)
    for pattern, words in _RUN:
        text = pattern.sub(words, text)
    return text


def _no_overload(call: str) -> str:
    if call == "<iter_range>":
        return NOT_ITERABLE
    if call in _PLAIN or _MEMBER.match(call):
        return "no such overload"
    if match := _OPERATOR.match(call):
        known = match[2] in _KNOWN.get(match[1], _NUMBERS)
        return "no such overload" if known else f"no such overload: {match[1]}"
    return "no such overload: " + re.sub(r"\b(u?int)64\b", r"\1", call)


_CONVERSIONS = {
    "int": "unsupported type conversion from 'int' to bool",
    "uint": "unsupported type conversion from 'uint' to bool",
    "string": "unsupported native conversion from string to 'bool'",
    "type": "type conversion not supported for 'type'",
}
_NATIVE = {
    "list": "list",
    "map": "map",
    "double": "Double",
    "bytes": "Bytes",
    "null_type": "'null_type'",
    "kubernetes.NamedFormat": "'Format'",
}
_LONG = {
    "null": "null_type",
    "duration": "google.protobuf.Duration",
    "timestamp": "google.protobuf.Timestamp",
}


def not_a_bool(kind: cel.Type, value: Any) -> str:
    """Why a result is no answer: it is of some other type."""
    name = type_text(kind)
    if isinstance(value, bytes | bytearray):
        name = type_name(uncarry(bytes(value)))
    name = _LONG.get(name, name)
    native = _NATIVE.get(name, f"'{name.rpartition('.')[2]}'")
    why = _CONVERSIONS.get(name, f"type conversion error from {native} to 'bool'")
    return f"CEL result of type {name} could not be converted to bool: {why}"


def type_text(type_: cel.Type) -> str:
    """A type's name without parameters: ``list``, ``bool``, ``kubernetes.Quantity``."""
    name: str = type_.name().split("<")[0].split("(")[0]
    return name.lower() if name.isupper() else name
