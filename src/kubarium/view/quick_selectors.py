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
from collections.abc import Callable, Sequence
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
from kubarium.engine.devices.model import Device

# For each of some devices of one driver.
Quick = Callable[[str, Sequence[Device]], list[bool | None]]
_Scalar = int | bool | str
_Values = frozenset[_Scalar]

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
    """A function of a driver and its devices; None if it could never say yes or no.

    >>> quick = quick_selector('device.attributes["d"].model == "A100"')
    >>> row = Device("g", {"model": AttributeValue("string", frozenset(["A100"]))})
    >>> quick("d", [row]), quick("other", [row])
    ([True], [None])
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

    def quick(driver: str, devices: Sequence[Device]) -> list[bool | None]:
        answers = found(driver, devices)
        if True in [device.opaque for device in devices]:
            return [None if d.opaque else a for d, a in zip(devices, answers, strict=True)]
        return answers

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

    def junction(driver: str, devices: Sequence[Device]) -> list[bool | None]:
        columns = [part(driver, devices) for part in known]
        return [
            decisive if decisive in answers else None if None in answers else whole
            for answers in zip(*columns, strict=True)
        ]

    return junction


def _negation(part: Quick | None) -> Quick | None:
    if part is None:
        return None

    def negation(driver: str, devices: Sequence[Device]) -> list[bool | None]:
        return [None if answer is None else not answer for answer in part(driver, devices)]

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


def _attribute(node: ast.Expr) -> tuple[str, str]:
    """(domain, name) of an attribute that is read; else empty."""
    is_test = node.kind == "select" and node.test
    return ("", "") if is_test else _member(node, "device.attributes")


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

    def present(driver: str, devices: Sequence[Device]) -> list[bool | None]:
        books = [d.attributes if is_attribute else d.capacity for d in devices]
        if driver == domain:
            return [full in book or short in book for book in books]
        return [full in book for book in books]

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
        return _driver(lambda driver: holds(driver, wanted)) if kind == "string" else None
    if name == "_==_":
        return _scalar(left, kind, lambda values: wanted in values)
    # CEL orders texts by code points and false before true, as Python does.
    return _scalar(left, kind, lambda values: holds(next(iter(values)), wanted))


def _driver(holds: Callable[[str], bool]) -> Quick:
    return lambda driver, devices: [holds(driver)] * len(devices)


def _membership(left: ast.Expr, right: ast.Expr) -> Quick | None:
    """An attribute in a list of constants, or a name in a domain."""
    if left.kind == "const":
        short = ast.text_constant(left)
        for owner in ("device.attributes", "device.capacity") if short else ():
            domain = _domain(right, owner)
            if domain:
                return _present(owner == "device.attributes", domain, short)
        return None
    if right.kind != "list" or right.raw or not right.args:
        return None
    constants = [_constant(arg) for arg in right.args]
    kinds = {constant[0] for constant in constants if constant is not None}
    if len(kinds) != 1 or None in constants:
        return None
    wanted = frozenset(constant[1] for constant in constants if constant is not None)
    return _scalar(left, kinds.pop(), lambda values: not wanted.isdisjoint(values))


def _text(name: str, operand: ast.Expr, argument: ast.Expr) -> Quick | None:
    constant = _constant(argument)
    if constant is None or constant[0] != "string":
        return None
    part, holds = str(constant[1]), _TEXTS[name]
    return _scalar(operand, "string", lambda values: holds(str(next(iter(values))), part))


def _scalar(node: ast.Expr, kind: str, holds: Callable[[_Values], bool]) -> Quick | None:
    """About an attribute of exactly this type; None for any other, and if it is there twice."""
    domain, short = _attribute(node)
    if not domain:
        return None
    full = f"{domain}/{short}"

    def scalar(driver: str, devices: Sequence[Device]) -> list[bool | None]:
        own = driver == domain
        answers: list[bool | None] = []
        for device in devices:
            value = device.attributes.get(full)
            other = device.attributes.get(short) if own else None
            if other is not None:
                value = other if value is None else None
            if value is None or value.kind != kind or value.is_list:
                answers.append(None)
            else:
                answers.append(holds(value.values))
        return answers

    return scalar


def _amounts(left: ast.Expr, name: str, right: ast.Expr) -> Quick | None:
    """A capacity compared with ``quantity("…")``."""
    domain, short = _member(left, "device.capacity")
    if not domain or right.kind != "call" or right.name != "quantity" or len(right.args) != 1:
        return None
    text = ast.text_constant(right.args[0])
    try:
        wanted = parse_quantity(text)
    except QuantityError:
        return None
    full, holds = f"{domain}/{short}", _ORDER[name]

    def amounts(driver: str, devices: Sequence[Device]) -> list[bool | None]:
        answers: list[bool | None] = []
        for device in devices:
            found = [device.capacity.get(full)]
            if driver == domain:
                found.append(device.capacity.get(short))
            values = [capacity.value for capacity in found if capacity is not None]
            answers.append(holds(values[0], wanted) if len(values) == 1 else None)
        return answers

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
