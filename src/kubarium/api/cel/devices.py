"""Device selectors of dynamic resource allocation.

The variable ``device`` has ``driver``, ``attributes[domain][id]``, ``capacity[domain][id]`` and
``allowMultipleAllocations``. An unknown domain is an empty map; an unknown id is a run-time error,
as Kubernetes has it: guard it with ``"id" in device.attributes["domain"]`` or ``has(...)``.
Source: dynamic-resource-allocation ``cel/compile.go``.

A device is prepared once, then any number of selectors can be asked about it:

>>> selector = compile_device_selector('device.attributes["gpu.example.com"].model == "A100"')
>>> device = prepare_device("gpu.example.com", {"model": {"string": "A100"}})
>>> selector.matches_prepared(device)
True
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from kubarium.api.cel import ast
from kubarium.api.cel.budget import Sizes, bound
from kubarium.api.cel.cost import worst_cost
from kubarium.api.cel.environment import (
    BOOL_FALSE,
    BOOL_TRUE,
    OPAQUE,
    CelCompileError,
    CelRuntimeError,
    Environment,
    evaluate,
    hides_opaque,
)
from kubarium.api.cel.libraries import INCLUDES_FUNCTIONS, ITERABLE, KUBERNETES_FUNCTIONS, UNLIKE
from kubarium.api.cel.messages import (
    NOT_ITERABLE,
    at_offset,
    failed,
    not_a_bool,
    runtime_message,
    type_text,
)
from kubarium.api.cel.values import CelValueError, Semver, quantity, semver, uncarry

MAX_EXPRESSION_BYTES = 10 * 1024
MAX_COST = 1_000_000  # units per evaluation, about 0.1 s upstream (CelSelectorExpressionMaxCost)
CACHED_SELECTORS = 4096  # distinct expressions kept; a cluster has tens

MAX_ATTRIBUTES = 32  # attributes and capacities of one device together

_Domains = dict[str, dict[str, Any]]
_DOMAIN_MAPS = ("device.attributes", "device.capacity")
_FIELDS = ("driver", "attributes", "capacity", "allowMultipleAllocations")
_PLAIN_FIELDS = ("device.driver", "device.allowMultipleAllocations")
_ERROR = cel.Type.ERROR


@lru_cache(maxsize=4)
def _environment(lists: bool, multiple_allocations: bool) -> Environment:
    # Without the list gate a value is google.protobuf.Any to the checker: usable, not iterable.
    value = "dyn" if lists else "google.protobuf.Any"
    variables = {
        "device": "dyn",
        "device.driver": "string",
        "device.attributes": f"map<string,map<string,{value}>>",
        "device.capacity": "map<string,map<string,kubernetes.Quantity>>",
    }
    if multiple_allocations:
        variables["device.allowMultipleAllocations"] = "bool"
    functions = [*KUBERNETES_FUNCTIONS, *(INCLUDES_FUNCTIONS if lists else ())]
    return Environment(variables, functions)


@dataclass(frozen=True, slots=True)
class PreparedDevice:
    """A device as selectors see it, converted for cel-cpp once."""

    activation: cel.Activation = field(repr=False)
    maps: tuple[_Domains, _Domains] = field(repr=False)
    oversized: bool = False
    """It has more attributes than the API allows, so that no selector's estimate holds."""

    def sizes(self) -> Sizes:
        """The largest sizes that really occur, for estimates."""
        names = [name for domains in self.maps for name in domains]
        inner = [values for domains in self.maps for values in domains.values()]
        values = [len(v) for m in inner for v in m.values() if isinstance(v, str | list)]
        longest = max(values, default=1)
        return Sizes(
            domains=max((len(domains) for domains in self.maps), default=0),
            names=max((len(m) for m in inner), default=0),
            value=longest,
            includes=longest,
            key=max((len(name) for m in (names, *inner) for name in m), default=1),
        )


@dataclass(frozen=True, slots=True, eq=False)
class DeviceSelector:
    """A compiled selector. ``cost`` is the estimated worst case, in CEL cost units."""

    expression: str
    cost: int
    _program: cel.Expression = field(repr=False)
    _checked: ast.Checked = field(repr=False)

    @property
    def tree(self) -> ast.Checked:
        """The checked expression as it was written; not to be changed."""
        return self._checked

    def matches(
        self,
        driver: str,
        attributes: Mapping[str, Mapping[str, Any]],
        capacity: Mapping[str, Mapping[str, Any]],
        allow_multiple: bool = False,
    ) -> bool:
        """Whether a device of this driver matches; see :func:`prepare_device` for arguments.

        Raises CelRuntimeError.
        """
        return self.matches_prepared(prepare_device(driver, attributes, capacity, allow_multiple))

    def matches_prepared(self, device: PreparedDevice) -> bool:
        """Whether a prepared device matches. Raises CelRuntimeError."""
        if self.cost > MAX_COST or device.oversized:
            check_budget(self._checked, device)
        result = evaluate(self._program, device.activation)
        try:
            value = result.value()
        except TypeError:  # Python cannot have an optional, which a dynamic value may hide
            raise CelRuntimeError(
                "CEL result of type optional_type could not be converted to bool"
            ) from None
        if value is True or value is False:
            return bool(value)
        kind = result.type()
        if kind == _ERROR:
            message = runtime_message(str(value))
            if message == NOT_ITERABLE:
                message = _what_is_not_iterable(self._checked, device) or message
            raise CelRuntimeError(message)
        raise CelRuntimeError(not_a_bool(kind, value))


def _what_is_not_iterable(checked: ast.Checked, device: PreparedDevice) -> str:
    """cel-cpp does not say what it was to iterate over; ask again with every range looked at."""
    looked = copy.deepcopy(checked)
    nodes = list(looked.root.walk())
    if any(hides_opaque(node, looked) for node in nodes):
        return ""
    fresh = looked.next_id()
    for node in nodes:
        if node.kind == "comprehension" and not looked.made_of(node.args[0]) & OPAQUE:
            node.args[0] = ast.Expr(fresh, "call", ITERABLE.name, None, [node.args[0]])
            fresh += 1
    _default_domains(looked)
    result = evaluate(_environment(True, True).link(looked), device.activation)
    return runtime_message(str(result.value())) if result.type() == _ERROR else ""


def check_budget(checked: ast.Checked, device: PreparedDevice) -> None:
    """cel-cpp cannot stop a running evaluation: refuse one that could cost too much.

    The bound is the worst case with the sizes that this device really has.
    """
    if bound(checked, device.sizes()) > MAX_COST:
        raise CelRuntimeError("operation cancelled: actual cost limit exceeded")


def prepare_device(
    driver: str,
    attributes: Mapping[str, Mapping[str, Any]],
    capacity: Mapping[str, Mapping[str, Any]] | None = None,
    allow_multiple: bool = False,
) -> PreparedDevice:
    """A device ready for selectors.

    ``attributes`` and ``capacity`` are the maps of a ``resource.k8s.io`` Device: names with or
    without a domain (then the driver's name is the domain), attribute values such as
    ``{"int": 1}``, capacities such as ``{"value": "1Gi"}``. Raises CelRuntimeError naming a value
    that is not what its type says.
    """
    by_domain = _by_domain(driver, "attribute", attributes, _attribute)
    capacities = _by_domain(driver, "capacity", capacity or {}, _capacity)
    data = {
        "device": {
            "driver": driver,
            "attributes": by_domain,
            "capacity": capacities,
            "allowMultipleAllocations": allow_multiple,
        },
        "device.driver": driver,
        "device.attributes": by_domain,
        "device.capacity": capacities,
        "device.allowMultipleAllocations": allow_multiple,
    }
    return PreparedDevice(
        _environment(True, True).activation(data),
        (by_domain, capacities),
        len(attributes) + len(capacity or ()) > MAX_ATTRIBUTES,
    )


def _by_domain(
    driver: str, what: str, values: Mapping[str, Mapping[str, Any]], read: Any
) -> dict[str, dict[str, Any]]:
    domains: dict[str, dict[str, Any]] = {}
    for qualified, value in values.items():
        domain, _, name = qualified.rpartition("/")
        try:
            domains.setdefault(domain or driver, {})[name] = read(value)
        except CelValueError as error:
            raise CelRuntimeError(f"{what} {qualified}: {error}") from None
    return domains


def _attribute(value: Mapping[str, Any]) -> Any:
    for kind, content in value.items():
        if content is None:
            continue
        if kind in ("int", "bool", "string"):
            return content
        if kind == "version":
            return _version(content)
        if kind in ("ints", "bools", "strings"):
            return list(content)
        if kind == "versions":
            return [_version(item) for item in content]
    raise CelValueError("unsupported attribute value")


def _version(text: str) -> bytes:
    try:
        return semver(text)
    except CelValueError as error:
        raise CelValueError(f"parse semantic version: {error}") from None


def _capacity(value: Mapping[str, Any]) -> bytes:
    return quantity(str(value.get("value", "0")))


@lru_cache(maxsize=CACHED_SELECTORS)
def compile_device_selector(
    expression: str, *, list_attributes: bool = True, multiple_allocations: bool = True
) -> DeviceSelector:
    """The selector of a CEL expression; equal texts give the same object.

    The two flags are the feature gates DRAListTypeAttributes and DRAConsumableCapacity. All that
    this version knows is allowed by default, as for expressions that are stored already; a writer
    that checks a new expression passes the gates. Raises CelCompileError with upstream's wording.
    """
    checked, result = _checked(expression, list_attributes, multiple_allocations)
    if result not in ("bool", "dyn" if list_attributes else "google.protobuf.Any"):
        raise CelCompileError(f"must evaluate to bool or the unknown type, not {result}")
    return DeviceSelector(expression, *_linked(checked, list_attributes, multiple_allocations))


def _linked(
    checked: ast.Checked, list_attributes: bool, multiple_allocations: bool
) -> tuple[int, cel.Expression, ast.Checked]:
    """The worst case of an expression, its program, and the tree as it was written."""
    cost = worst_cost(checked)
    original = copy.deepcopy(checked)
    _default_domains(checked)
    _check_kinds(checked)
    environment = _environment(list_attributes, multiple_allocations)
    return cost, environment.link(checked), original


def _checked(
    expression: str, list_attributes: bool, multiple_allocations: bool
) -> tuple[ast.Checked, str]:
    """The tree of an expression about ``device``, and the name of its result type."""
    if len(expression.encode()) > MAX_EXPRESSION_BYTES:
        raise CelCompileError(f"may not be more than {MAX_EXPRESSION_BYTES} bytes")
    environment = _environment(list_attributes, multiple_allocations)
    checked, result = environment.check(_without_presence_tests(expression))
    _check_fields(checked, expression, multiple_allocations)
    return checked, "kubernetes.DRADevice" if checked.root.name == "device" else result


_PRESENCE = re.compile(
    r"\bhas\(\s*device\s*\.\s*(?:driver|attributes|capacity|allowMultipleAllocations)\s*\)"
)


def _without_presence_tests(expression: str) -> str:
    """``has(device.driver)`` is always true and costs 1; cel-cpp would read ``device.driver``.

    Spaces keep the columns that error messages name.
    """
    return _PRESENCE.sub(lambda match: "(!false)".ljust(len(match[0])), expression)


def _check_fields(checked: ast.Checked, expression: str, multiple_allocations: bool) -> None:
    """``device`` is dynamic to the checker; find the fields that it does not have."""
    allowed = _FIELDS if multiple_allocations else _FIELDS[:-1]
    wrong = [
        at_offset(f"undefined field '{node.name}'", expression, checked.position(node))
        for node in checked.root.walk()
        if node.kind == "select" and node.operand is not None and node.name not in allowed
        if node.operand.kind == "ident" and node.operand.name == "device"
    ]
    if wrong:
        raise CelCompileError(failed(wrong))


def _default_domains(checked: ast.Checked) -> None:
    """``device.attributes[x]`` and ``.x`` become ``device.attributes[?x].orValue({})``.

    And ``has(device.attributes.x)`` is true.
    """
    aliases = _aliases(checked)
    fresh = checked.next_id()
    for node in list(checked.root.walk()):
        of, where = _lookup(node, fresh + 2)
        if of is None or where is None:
            continue
        if qualified_name(of) not in _DOMAIN_MAPS and of.name not in aliases:
            continue
        if node.test:
            node.kind, node.name, node.operand, node.raw = "const", "", None, BOOL_TRUE
        else:
            lookup = ast.Expr(fresh, "call", "_[?_]", None, [of, where])
            empty = ast.Expr(fresh + 1, "struct")
            node.kind, node.name, node.operand, node.args = "call", "orValue", lookup, [empty]
            checked.overloads.pop(node.id, None)
            fresh += 3


def _lookup(node: ast.Expr, fresh: int) -> tuple[ast.Expr | None, ast.Expr | None]:
    """What is looked up in what, by brackets or by a name, which gets the id ``fresh``."""
    if node.kind == "call" and node.name == "_[_]":
        return node.args[0], node.args[1]
    if node.kind == "select":
        return node.operand, ast.Expr(fresh, "const", raw=ast.text_literal(node.name))
    return None, None


def _check_kinds(checked: ast.Checked) -> None:
    """``a == b`` becomes ``a == b || (type(a) == bytes && unlike(a, b))``.

    A version or quantity on the left is an error beside a value of another type, as upstream. Our
    types travel as bytes, so that other values are told apart without a call into Python.
    """
    fresh = checked.next_id()
    nodes = list(checked.root.walk())
    if any(hides_opaque(node, checked) for node in nodes):
        return
    for node in nodes:
        if node.kind != "call" or node.name != "_==_" or _never_ours(node.args[0]):
            continue
        left, right = node.args
        if checked.made_of(left) & OPAQUE:
            continue
        equal = ast.Expr(node.id, "call", "_==_", None, [left, right])
        kind = ast.Expr(fresh, "call", "type", None, [left])
        bytes_ = ast.Expr(fresh + 1, "ident", "bytes")
        carried = ast.Expr(fresh + 2, "call", "_==_", None, [kind, bytes_])
        other = right
        if checked.made_of(right) & OPAQUE:  # of no type that ours could be equal to
            other = ast.Expr(fresh + 6, "const", raw=BOOL_FALSE)
        unlike = ast.Expr(fresh + 3, "call", UNLIKE.name, None, [left, other])
        both = ast.Expr(fresh + 4, "call", "_&&_", None, [carried, unlike])
        node.id, node.name, node.args = fresh + 5, "_||_", [equal, both]
        fresh += 7


def _never_ours(node: ast.Expr) -> bool:
    """Whether the value is a constant, a literal or a plain field of the device."""
    return node.kind in ("const", "list", "struct") or qualified_name(node) in _PLAIN_FIELDS


def _aliases(checked: ast.Checked) -> set[str]:
    """Names that ``cel.bind`` gives to one of the domain maps."""
    found: set[str] = set()
    for node in checked.root.walk():
        if node.kind == "comprehension" and qualified_name(node.args[1]) in _DOMAIN_MAPS:
            found.add(node.accumulator)
    return found


def qualified_name(node: ast.Expr) -> str:
    """``device.attributes`` for the tree of that; "" for anything but a chain of names."""
    if node.kind == "select" and node.operand is not None and not node.test:
        return f"{qualified_name(node.operand)}.{node.name}"
    return node.name if node.kind == "ident" else ""


@dataclass(frozen=True, slots=True)
class DerivedAttribute:
    """A compiled derived attribute (KEP-6080). ``cost`` is as for selectors."""

    expression: str
    cost: int
    _program: cel.Expression = field(repr=False)
    _checked: ast.Checked = field(repr=False)

    def value(self, device: PreparedDevice) -> tuple[str, tuple[Any, ...], bool]:
        """The attribute's type (as in a ResourceSlice), its values, and whether it is a list.

        Raises CelRuntimeError, also for a result that no attribute can have.
        """
        if self.cost > MAX_COST or device.oversized:
            check_budget(self._checked, device)
        found = evaluate(self._program, device.activation)
        value = found.value()
        if found.type() == _ERROR:
            raise CelRuntimeError(runtime_message(str(value)))
        if not isinstance(value, list):
            kind, plain = _scalar(value, found.type())
            return kind, (plain,), False
        items = [_scalar(item.value(), item.type()) for item in value]
        kinds = {kind for kind, _ in items}
        if len(kinds) > 1:
            raise CelRuntimeError("a derived attribute must not mix types in a list")
        return next(iter(kinds), "string"), tuple(plain for _, plain in items), True


def _scalar(value: Any, type_: cel.Type) -> tuple[str, Any]:
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int) and type_ == cel.Type.INT:
        return "int", value
    if isinstance(value, str):
        return "string", value
    if isinstance(value, bytes | bytearray) and isinstance(found := uncarry(bytes(value)), Semver):
        return "version", str(found)
    name = type_text(type_)
    raise CelRuntimeError(
        f"CEL result of type {name} cannot be an attribute: must be string, int, bool, semver or a"
        " list of these"
    )


_ATTRIBUTE_TYPES = ("string", "int", "bool", "kubernetes.Semver", "dyn", "google.protobuf.Any")


@lru_cache(maxsize=CACHED_SELECTORS)
def compile_derived_attribute(
    expression: str, *, list_attributes: bool = True, multiple_allocations: bool = True
) -> DerivedAttribute:
    """The derived attribute of a CEL expression, in the environment of selectors.

    Raises CelCompileError, also for an expression that can give no attribute's type.
    """
    checked, result = _checked(expression, list_attributes, multiple_allocations)
    if result not in _ATTRIBUTE_TYPES and not result.startswith("list("):
        raise CelCompileError(
            "must evaluate to string, int, bool, semver, a list of these, or the unknown type, "
            f"not {result}"
        )
    return DerivedAttribute(expression, *_linked(checked, list_attributes, multiple_allocations))
