"""``"%d of %s".format([…])``: mistakes that can be told before it runs, as upstream tells them.

Source: cel-go ``ext/formatting.go``, its validator of string formats.
"""

from __future__ import annotations

import re
from collections.abc import Set

from kubarium.api.cel import ast

_SCALARS = ("bool", "int", "uint", "double", "string", "bytes", "timestamp", "duration")
_TEXT = frozenset((*_SCALARS, "list", "map", "type", "null", "dyn"))
# What each clause takes, and how a wrong type is put.
_CLAUSES: dict[str, tuple[Set[str], str]] = {
    "s": (
        _TEXT,
        "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists,"
        " types, durations, and timestamps",
    ),
    "d": ({"int", "uint", "dyn"}, "decimal clause can only be used on integers"),
    "f": ({"double", "string", "dyn"}, "fixed-point clause can only be used on doubles"),
    "e": ({"double", "string", "dyn"}, "scientific clause can only be used on doubles"),
    "b": ({"int", "uint", "bool", "dyn"}, "only integers and bools can be formatted as binary"),
    "x": (
        {"int", "uint", "string", "bytes", "dyn"},
        "only integers, byte buffers, and strings can be formatted as hex",
    ),
    "o": ({"int", "uint", "dyn"}, "octal clause can only be used on integers"),
}
_CLAUSES["X"] = _CLAUSES["x"]
_CLAUSE = re.compile(r"%(?:%|(?:\.[0-9]+)?(.?))", re.DOTALL)


def template_fault(node: ast.Expr, checked: ast.Checked) -> tuple[ast.Expr, str] | None:
    """What is wrong with a call of ``format`` on a constant with a list as it is written."""
    is_known = node.operand is not None and ast.is_text(node.operand)
    if node.kind != "call" or node.name != "format" or not is_known or node.args[0].kind != "list":
        return None
    assert node.operand is not None
    given, used = node.args[0].args, 0
    for clause in _CLAUSE.finditer(ast.text_constant(node.operand)):
        if clause[1] is None:
            continue
        if not clause[1]:
            return node, "unexpected end of string"
        if used >= len(given):
            return node, f"index {used} out of range"
        if clause[1] not in _CLAUSES:
            fault = f'unrecognized formatting clause "{clause[1]}"'
            return node, f"could not parse formatting clause: {fault}"
        kinds, words = _CLAUSES[clause[1]]
        wrong = _misfit(given[used], kinds, checked, deep=clause[1] == "s")
        if wrong is not None:
            name = ast.type_text(_type(wrong, checked)).partition("(")[0]
            return wrong, f"error during formatting: {words}, was given {name}"
        used += 1
    if used < len(given):
        counts = f"(expected {used}, got {len(given)})"
        return node, f"too many arguments supplied to string.format {counts}"
    return None


def _misfit(
    node: ast.Expr, kinds: Set[str], checked: ast.Checked, *, deep: bool
) -> ast.Expr | None:
    """The value that the clause cannot take; of lists and maps as written their parts count too."""
    if ast.type_kind(_type(node, checked)) not in kinds:
        return node
    if not deep or node.kind not in ("list", "struct"):
        return None
    found = (_misfit(child, kinds, checked, deep=True) for child in node.children())
    return next((wrong for wrong in found if wrong is not None), None)


def _type(node: ast.Expr, checked: ast.Checked) -> bytes:
    return checked.types.get(node.id, b"")
