"""A device selector taken apart: the clauses of a conjunction, and what a clause compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from kubarium.api.cel import ast
from kubarium.api.cel.devices import CACHED_SELECTORS, compile_device_selector, qualified_name
from kubarium.api.cel.environment import CelCompileError

_OPENING, _CLOSING = "([{", ")]}"
_OPERATORS = {"_==_": "==", "_!=_": "!=", "_>=_": ">=", "_>_": ">", "_<=_": "<=", "_<_": "<"}
_METHODS = {"isGreaterThan": ">", "isLessThan": "<"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """``name operator wanted``; ``name`` is the full name of an attribute or a capacity.

    ``wanted`` is the constant as it was written: ``A100``, ``96Gi``, ``8``.
    """

    name: str
    is_capacity: bool
    operator: str
    wanted: str


@lru_cache(maxsize=CACHED_SELECTORS)
def clauses(expression: str) -> tuple[str, ...]:
    """The parts of ``a && b && c`` as they were written; the whole if it is no conjunction.

    A device matches if each part matches alone.

    >>> clauses('device.driver == "d" && has(device.attributes["d"].model)')
    ('device.driver == "d"', 'has(device.attributes["d"].model)')
    """
    parts = tuple(_split(expression))
    try:
        wanted = _conjuncts(compile_device_selector(expression).tree.root)
        for part in parts:
            compile_device_selector(part)
    except CelCompileError:
        return (expression,)
    # The text was cut by eye, so the tree has the last word.
    return parts if len(parts) == wanted else (expression,)


def _conjuncts(node: ast.Expr) -> int:
    if node.kind == "call" and node.name == "_&&_":
        return sum(map(_conjuncts, node.args))
    return 1


def _split(text: str) -> list[str]:
    """The text cut at each ``&&`` that stands outside of brackets and quotes."""
    text = text.strip()
    parts: list[str] = []
    depth, start = 0, 0
    for at, token in _tokens(text):
        if token in _OPENING:
            depth += 1
        elif token in _CLOSING:
            depth -= 1
        elif depth == 0 and token in ("||", "?"):
            return [text]
        elif depth == 0 and token == "&&":
            parts.append(text[start:at])
            start = at + 2
    parts.append(text[start:])
    if len(parts) > 1:
        return [piece for part in parts for piece in _split(part)]
    if _is_wrapped(text):
        return _split(text[1:-1])
    return [text]


def _is_wrapped(text: str) -> bool:
    """Whether the first bracket is a round one that closes at the very end."""
    if not text.startswith("("):
        return False
    depth = 0
    for at, token in _tokens(text):
        depth += (token in _OPENING) - (token in _CLOSING)
        if depth == 0:
            return at == len(text) - 1
    return False


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    """Brackets and operators outside of quotes, with their places."""
    at = 0
    while at < len(text):
        char = text[at]
        if char in "\"'":
            at = _end_of_quote(text, at)
            continue
        if text.startswith(("&&", "||"), at):
            yield at, text[at : at + 2]
            at += 2
            continue
        ternary = char == "?" and text[at - 1] not in ".[{," if at else False
        if char in _OPENING or char in _CLOSING or ternary:
            yield at, char
        at += 1


def _end_of_quote(text: str, at: int) -> int:
    quote = text[at : at + 3] if text[at : at + 3] in ('"""', "'''") else text[at]
    raw = at > 0 and text[at - 1] in "rR"
    at += len(quote)
    while at < len(text) and not text.startswith(quote, at):
        at += 2 if text[at] == "\\" and not raw else 1
    return at + len(quote)


@lru_cache(maxsize=CACHED_SELECTORS)
def comparison(clause: str) -> Comparison | None:
    """What a clause compares with what, if it compares one attribute or capacity with a constant.

    >>> comparison('device.attributes["d"].model == "A100"')
    Comparison(name='d/model', is_capacity=False, operator='==', wanted='A100')
    """
    try:
        root = compile_device_selector(clause).tree.root
    except CelCompileError:
        return None
    if root.kind != "call":
        return None
    if root.operand is not None and root.name in _METHODS and len(root.args) == 1:
        return _between(root.operand, _METHODS[root.name], root.args[0])
    if root.name not in _OPERATORS or len(root.args) != 2:
        return None
    left, right = root.args
    compared = left.kind == "call" and left.name == "compareTo" and left.operand is not None
    if compared and _constant(right) == "0":
        assert left.operand is not None
        return _between(left.operand, _OPERATORS[root.name], left.args[0])
    return _between(left, _OPERATORS[root.name], right)


@lru_cache(maxsize=CACHED_SELECTORS)
def guard(clause: str) -> str:
    """What has to hold so that all the attributes and capacities that a clause reads are there.

    A device without one of them makes a selector fail, and with it all decisions about its pods.
    "" if the clause reads none, or asks already.

    >>> guard('device.attributes["d"].model == "A100"')
    'has(device.attributes["d"].model)'
    """
    try:
        root = compile_device_selector(clause).tree.root
    except CelCompileError:
        return ""
    asked: set[tuple[bool, str]] = set()
    read: dict[tuple[bool, str], None] = {}
    for node in _nodes(root):
        plain = replace(node, test=False) if node.test else node
        found = _subject(plain)
        if found[1] and node.test:
            asked.add(found)
        elif found[1]:
            read[found] = None
    return " && ".join(
        f'has(device.{"capacity" if capacity else "attributes"}["{domain}"].{name})'
        for capacity, (domain, _, name) in ((c, n.partition("/")) for c, n in read)
        if (capacity, f"{domain}/{name}") not in asked
    )


def _nodes(node: ast.Expr) -> Iterator[ast.Expr]:
    yield node
    for child in node.children():
        yield from _nodes(child)


def _between(left: ast.Expr, operator: str, right: ast.Expr) -> Comparison | None:
    capacity, name = _subject(left)
    wanted = _constant(right)
    return Comparison(name, capacity, operator, wanted) if name and wanted else None


def _subject(node: ast.Expr) -> tuple[bool, str]:
    """(is a capacity, full name) of ``device.attributes["domain"].name``."""
    if node.kind == "select" and node.operand is not None and not node.test:
        domain, name = node.operand, node.name
    elif node.kind == "call" and node.name == "_[_]":
        domain, name = node.args[0], ast.text_constant(node.args[1])
    else:
        return False, ""
    if domain.kind != "call" or domain.name != "_[_]" or not name:
        return False, ""
    owner, where = qualified_name(domain.args[0]), ast.text_constant(domain.args[1])
    if owner not in ("device.attributes", "device.capacity") or not where:
        return False, ""
    return owner == "device.capacity", f"{where}/{name}"


def _constant(node: ast.Expr) -> str:
    """The constant as text; that of ``quantity("1Gi")`` and ``semver("1.2.3")`` too."""
    if node.kind == "call" and node.name in ("quantity", "semver") and node.args:
        return ast.text_constant(node.args[0])
    if node.kind != "const" or not node.raw:
        return ""
    number = node.raw[0] >> 3
    if number == 6:
        return ast.text_constant(node)
    if number in (2, 3):
        value, _ = ast.read_varint(node.raw, 1)
        if number == 2:
            return "true" if value else "false"
        return str(value - (1 << 64) if value >= 1 << 63 else value)
    return ""
