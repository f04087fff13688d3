"""Common CEL selectors decided from a device's row, without CEL: for many devices at once.

An expression becomes a function that says yes, no, or None where CEL itself must be asked: for what
is not covered here (functions, arithmetic, lists, versions), and for whatever CEL would call an
error, such as an attribute that the device lacks. Covered are ``&&``, ``||`` and ``!``, attributes
compared with constants or looked for in a list of them, beginnings, ends and parts of texts,
capacities compared with quantities, presence, and the driver.

None spreads as CEL's errors do: ``false && error`` is false and ``true || error`` is true, in
whatever order they stand.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import lru_cache

from kubarium.api.cel import ast
from kubarium.api.cel.devices import (
    CACHED_SELECTORS,
    MAX_COST,
    compile_device_selector,
    qualified_name,
)
from kubarium.api.cel.environment import CelCompileError
from kubarium.base.quantity import QuantityError, parse_quantity
from kubarium.engine.devices.model import Amount, AttributeValue, Device

Quick = Callable[[str, Device], bool | None]
_Scalar = int | bool | str

_ORDER: dict[str, Callable[[object, object], bool]] = {
    "_>=_": operator.ge,  # type: ignore[dict-item]
    "_>_": operator.gt,  # type: ignore[dict-item]
    "_<=_": operator.le,  # type: ignore[dict-item]
    "_<_": operator.lt,  # type: ignore[dict-item]
    "_==_": operator.eq,
    "_!=_": operator.ne,
}
# The same seen from the other side of the operator.
_TURNED = {"_>=_": "_<=_", "_>_": "_<_", "_<=_": "_>=_", "_<_": "_>_", "_==_": "_==_"}
_TURNED["_!=_"] = "_!=_"
_METHODS = {"isGreaterThan": "_>_", "isLessThan": "_<_"}
_TEXTS: dict[str, Callable[[str, str], bool]] = {
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": str.__contains__,
}


@lru_cache(maxsize=CACHED_SELECTORS)
def quick_selector(expression: str) -> Quick | None:
    """A function of driver and device; None if it could never say yes or no.

    >>> quick = quick_selector('device.attributes["d"].model == "A100"')
    >>> row = Device("g", {"model": AttributeValue("string", frozenset(["A100"]))})
    >>> quick("d", row), quick("other", row)
    (True, None)
    """
    try:
        selector = compile_device_selector(expression)
    except CelCompileError:
        return None
    if selector.cost > MAX_COST:
        return None
    found = _compiled(selector.tree.root)
    if found is None:
        return None

    def quick(driver: str, device: Device) -> bool | None:
        return None if device.opaque else found(driver, device)

    return quick


def _compiled(node: ast.Expr) -> Quick | None:
    if node.kind == "select":
        return _presence(node)
    if node.kind != "call":
        return None
    if node.name == "_&&_":
        return _junction([_compiled(arg) for arg in node.args], decisive=False)
    if node.name == "_||_":
        return _junction([_compiled(arg) for arg in node.args], decisive=True)
    if node.name == "!_":
        return _negation(_compiled(node.args[0]))
    if node.name in _ORDER:
        return _comparison(node.name, node.args[0], node.args[1])
    if node.name == "@in":
        return _membership(node.args[0], node.args[1])
    if node.operand is not None and len(node.args) == 1:
        if node.name in _METHODS:
            return _amounts(node.operand, _METHODS[node.name], node.args[0])
        if node.name in _TEXTS:
            return _text(node.name, node.operand, node.args[0])
    return None


# Connectives


def _junction(parts: list[Quick | None], *, decisive: bool) -> Quick | None:
    """``&&`` (a no decides) or ``||`` (a yes decides)."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    whole: bool | None = not decisive if len(known) == len(parts) else None

    def junction(driver: str, device: Device) -> bool | None:
        outcome = whole
        for part in known:
            answer = part(driver, device)
            if answer is decisive:
                return decisive
            if answer is None:
                outcome = None
        return outcome

    return junction


def _negation(part: Quick | None) -> Quick | None:
    if part is None:
        return None

    def negation(driver: str, device: Device) -> bool | None:
        answer = part(driver, device)
        return None if answer is None else not answer

    return negation


# What is looked at


def _member(node: ast.Expr, owner: str) -> tuple[str, str]:
    """(domain, name) of ``owner["domain"].name`` or ``owner["domain"]["name"]``; else empty."""
    if node.kind == "select" and node.operand is not None:
        domain, name = _domain(node.operand, owner), node.name
    elif node.kind == "call" and node.name == "_[_]" and len(node.args) == 2:
        domain, name = _domain(node.args[0], owner), ast.text_constant(node.args[1])
    else:
        return "", ""
    return (domain, name) if domain and name else ("", "")


def _domain(node: ast.Expr, owner: str) -> str:
    if node.kind == "call" and node.name == "_[_]" and qualified_name(node.args[0]) == owner:
        return ast.text_constant(node.args[1])
    return ""


def _attribute(node: ast.Expr) -> Callable[[str, Device], AttributeValue | None] | None:
    """Reads one attribute; None where it is missing, or there is more than one of the name."""
    domain, short = _member(node, "device.attributes")
    if not domain or (node.kind == "select" and node.test):
        return None
    full = f"{domain}/{short}"

    def read(driver: str, device: Device) -> AttributeValue | None:
        value = device.attributes.get(full)
        if driver != domain:
            return value
        own = device.attributes.get(short)
        if value is None:
            return own
        return value if own is None else None

    return read


def _capacity(node: ast.Expr) -> Callable[[str, Device], Amount | None] | None:
    domain, short = _member(node, "device.capacity")
    if not domain or (node.kind == "select" and node.test):
        return None
    full = f"{domain}/{short}"

    def read(driver: str, device: Device) -> Amount | None:
        value = device.capacity.get(full)
        own = device.capacity.get(short) if driver == domain else None
        if value is not None and own is not None:
            return None
        found = value if value is not None else own
        return None if found is None else found.value

    return read


def _presence(node: ast.Expr) -> Quick | None:
    """``has(device.attributes["domain"].name)``."""
    if not node.test or node.operand is None:
        return None
    for owner in ("device.attributes", "device.capacity"):
        domain = _domain(node.operand, owner)
        if domain:
            return _present(owner == "device.attributes", domain, node.name)
    return None


def _present(is_attribute: bool, domain: str, short: str) -> Quick:
    full = f"{domain}/{short}"

    def present(driver: str, device: Device) -> bool:
        book = device.attributes if is_attribute else device.capacity
        return full in book or (driver == domain and short in book)

    return present


def _is_driver(node: ast.Expr) -> bool:
    return qualified_name(node) == "device.driver"


# Comparisons


def _comparison(name: str, left: ast.Expr, right: ast.Expr) -> Quick | None:
    if left.kind == "const":
        left, right, name = right, left, _TURNED[name]
    compared = left.kind == "call" and left.name == "compareTo" and left.operand is not None
    constant = _constant(right)
    if constant is None:
        return None
    kind, wanted = constant
    if compared:
        assert left.operand is not None
        is_zero = kind == "int" and wanted == 0
        return _amounts(left.operand, name, left.args[0]) if is_zero else None
    holds = _ORDER[name]
    if _is_driver(left):
        return (lambda driver, device: holds(driver, wanted)) if kind == "string" else None
    read = _attribute(left)
    # CEL orders texts by code points and false before true, as Python does.
    return None if read is None else _scalar(read, kind, lambda value: holds(value, wanted))


def _membership(left: ast.Expr, right: ast.Expr) -> Quick | None:
    """An attribute in a list of constants, or a name in a domain."""
    if left.kind == "const":
        short = ast.text_constant(left)
        for owner in ("device.attributes", "device.capacity") if short else ():
            domain = _domain(right, owner)
            if domain:
                return _present(owner == "device.attributes", domain, short)
        return None
    read = _attribute(left)
    if read is None or right.kind != "list" or right.raw or not right.args:
        return None
    constants = [_constant(arg) for arg in right.args]
    kinds = {constant[0] for constant in constants if constant is not None}
    if len(kinds) != 1 or None in constants:
        return None
    wanted = frozenset(constant[1] for constant in constants if constant is not None)
    return _scalar(read, kinds.pop(), wanted.__contains__)


def _text(name: str, operand: ast.Expr, argument: ast.Expr) -> Quick | None:
    read, wanted = _attribute(operand), _constant(argument)
    if read is None or wanted is None or not isinstance(wanted[1], str):
        return None
    part, holds = wanted[1], _TEXTS[name]
    return _scalar(read, "string", lambda value: holds(value, part))  # type: ignore[arg-type]


def _scalar(
    read: Callable[[str, Device], AttributeValue | None],
    kind: str,
    holds: Callable[[_Scalar], bool],
) -> Quick:
    """Of an attribute of exactly this type; None for any other."""

    def scalar(driver: str, device: Device) -> bool | None:
        value = read(driver, device)
        if value is None or value.is_list or value.kind != kind:
            return None
        for item in value.values:
            return holds(item)
        return None

    return scalar


def _amounts(left: ast.Expr, name: str, right: ast.Expr) -> Quick | None:
    """A capacity compared with ``quantity("…")``."""
    read = _capacity(left)
    if read is None or right.kind != "call" or right.name != "quantity" or len(right.args) != 1:
        return None
    text = ast.text_constant(right.args[0])
    try:
        wanted = parse_quantity(text)
    except QuantityError:
        return None
    holds = _ORDER[name]

    def amounts(driver: str, device: Device) -> bool | None:
        value = read(driver, device)
        return None if value is None else holds(value, wanted)

    return amounts


def _constant(node: ast.Expr) -> tuple[str, _Scalar] | None:
    """(type, value) of a text, a whole number or a truth value."""
    if node.kind != "const" or not node.raw:
        return None
    number = node.raw[0] >> 3
    if number == 6:
        return "string", ast.text_constant(node)
    if number not in (2, 3):
        return None
    value, _ = ast.read_varint(node.raw, 1)
    if number == 2:
        return "bool", bool(value)
    return "int", value - (1 << 64) if value >= 1 << 63 else value
