"""What a device selector looks at, and what it is made of, read from its checked tree."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from kubarium.api.cel import ast
from kubarium.api.cel.devices import (
    CACHED_SELECTORS,
    MAX_COST,
    compile_device_selector,
    qualified_name,
)
from kubarium.api.cel.environment import CelCompileError

_ATTRIBUTES = "device.attributes"
# Every reader of a device knows these.
_OPEN = ("device.driver", "device.capacity", "device.allowMultipleAllocations")
_LOOKUPS = ("_[_]", "_[?_]", "_?._")


class _EverythingError(Exception):
    """The expression handles the map of attributes as a whole."""


@lru_cache(maxsize=CACHED_SELECTORS)
def attributes_read(expression: str) -> frozenset[str] | None:
    """Fully qualified names of the attributes on which the selector's outcome can depend.

    None when that may be any attribute: the map is handed on as a whole, or the expression is so
    costly that the size of the device decides. Driver and capacity are not counted.

    >>> attributes_read('device.attributes["gpu.example.com"].model == "A100"')
    frozenset({'gpu.example.com/model'})
    """
    try:
        selector = compile_device_selector(expression)
    except CelCompileError:
        return frozenset()  # fails whatever the device is
    if selector.cost > MAX_COST:
        return None
    try:
        return frozenset(_read(selector.tree.root))
    except _EverythingError:
        return None


def _read(node: ast.Expr) -> Iterator[str]:
    name = qualified_name(node)
    if name in _OPEN:
        return
    if name in (_ATTRIBUTES, "device"):
        raise _EverythingError
    domain, attribute, rest = _lookup(node)
    if attribute:
        yield f"{domain}/{attribute}"
    for child in rest if attribute else node.children():
        yield from _read(child)


def _lookup(node: ast.Expr) -> tuple[str, str, list[ast.Expr]]:
    """(domain, name, subexpressions still to look at) if the node reads one attribute."""
    if node.kind == "select" and node.operand is not None:
        return _domain(node.operand), node.name if _domain(node.operand) else "", []
    if node.kind != "call" or len(node.args) != 2:
        return "", "", []
    left, right = node.args
    if node.name == "@in":
        left, right = right, left
    elif node.name not in _LOOKUPS:
        return "", "", []
    domain, name = _domain(left), ast.text_constant(right)
    return (domain, name, []) if domain and name else ("", "", [])


def _domain(node: ast.Expr) -> str:
    """The domain if the node is ``device.attributes["domain"]``."""
    lookup = node.kind == "call" and node.name in ("_[_]", "_[?_]") and len(node.args) == 2
    if lookup and qualified_name(node.args[0]) == _ATTRIBUTES:
        return ast.text_constant(node.args[1])
    return ""
