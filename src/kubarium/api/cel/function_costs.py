"""What single functions cost beside their operands in the worst case, and how large results are.

Sources: cel-go 0.27 ``checker/cost.go``, ``ext/lists.go`` and ``ext/sets.go``; apiserver
``pkg/cel/library/cost.go``. The walk that asks is in ``cost``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kubarium.api.cel import ast
from kubarium.api.cel.libraries import MAX_INCLUDES
from kubarium.api.cel.sizes import (
    NOTHING_KNOWN,
    ONE,
    UNBOUNDED,
    Size,
    added,
    declared_size,
    fixed,
    multiplied,
    scaled,
    united,
)

if TYPE_CHECKING:
    from kubarium.api.cel.cost import Estimate

_TRAVERSAL = 0.1  # per character
_REGEX = 0.25  # per character of a pattern
LIST = 10  # to make one
_LONGEST_FORMAT = 128  # characters of the regular expression of a named format
ACCUMULATORS = ("@result", "__result__")


@dataclass(slots=True)
class Call:
    """A call whose operands have been estimated: what the rules of single functions look at."""

    estimate: Estimate
    node: ast.Expr
    target: ast.Expr | None
    args: Sequence[ast.Expr]
    overloads: tuple[str, ...]

    def size(self, node: ast.Expr) -> Size:
        return self.estimate.size_or_unknown(node)

    @property
    def operands(self) -> list[ast.Expr]:
        return list(self.node.children())


# What a function costs by itself, and how large its result is if that can be told.
_Answer = tuple[int, Size | None]


def own_cost(call: Call) -> _Answer:
    """What a function costs beside its operands."""
    rule = _RULES.get(call.node.name)
    answer = rule(call) if rule is not None else None
    return (1, None) if answer is None else answer


# Operators


def _nothing(call: Call) -> _Answer:
    return 0, None


def _conditional(call: Call) -> _Answer:
    _, left, right = call.args
    _unite_entries(call, left, right)
    return 0, united(call.size(left), call.size(right))


def _unite_entries(call: Call, left: ast.Expr, right: ast.Expr) -> None:
    one, other = call.estimate.entries(left), call.estimate.entries(right)
    if one is not None and other is not None:
        call.estimate.set_entries(call.node, one.united(other))


def _plus(call: Call) -> _Answer | None:
    left, right = call.args
    kinds = {overload.removeprefix("add_") for overload in call.overloads}
    if not kinds & {"list", "string", "bytes"}:
        return None
    _unite_entries(call, left, right)
    size = added(call.size(left), call.size(right))
    text = scaled(size, _TRAVERSAL)[1] if kinds & {"string", "bytes"} else 0
    return max(text, 1 if kinds - {"string", "bytes"} else 0), size


def _order(call: Call) -> _Answer | None:
    texts = [o for o in call.overloads if o.endswith(("_string", "_bytes"))]
    if not texts:
        return None
    rest = 1 if len(texts) < len(call.overloads) else 0
    return max(_smaller(call), rest), None


def _smaller(call: Call) -> int:
    left, right = call.args
    return scaled(fixed(min(call.size(left)[1], call.size(right)[1])), _TRAVERSAL)[1]


def _equals(call: Call) -> _Answer:
    left, right = map(call.estimate.type_of, call.args)
    name = ast.type_name(left)
    if left == right and name in _CHEAP_TO_COMPARE:
        return 1, None
    if left == right and name == "kubernetes.URL":
        sizes = call.estimate.size(call.args[1])
        return scaled(sizes or ONE, _TRAVERSAL)[1], None
    return _smaller(call), None


def _differs(call: Call) -> _Answer:
    return _smaller(call), None


_CHEAP_TO_COMPARE = ("kubernetes.Quantity", "kubernetes.Semver", "net.IP", "net.CIDR")


def _contained(call: Call) -> _Answer:
    most = call.size(call.args[1])[1] if "in_list" in call.overloads else 0
    return max(most, 1 if "in_map" in call.overloads else 0), None


# Text


def _matches(call: Call) -> _Answer | None:
    if call.target is None:
        return None
    return _pattern(call, call.target, call.args[0]), None


def _pattern(call: Call, text: ast.Expr, pattern: ast.Expr) -> int:
    characters = scaled(added(call.size(text), ONE), _TRAVERSAL)
    return multiplied(characters, scaled(call.size(pattern), _REGEX))[1]


def _find(call: Call) -> _Answer | None:
    if call.target is None:
        return None
    most = call.size(call.target)[1]
    return _pattern(call, call.target, call.args[0]), (0, most)


def _contains(call: Call) -> _Answer | None:
    if call.target is None:
        return None
    sizes = [scaled(call.size(node), _TRAVERSAL) for node in (call.target, call.args[0])]
    return multiplied(*sizes)[1], None


def _affix(call: Call) -> _Answer:
    return scaled(call.size(call.args[0]), _TRAVERSAL)[1], None


def _first_text(call: Call) -> _Answer:
    """Functions that read their first operand once and give something else."""
    return scaled(call.size(call.operands[0]), _TRAVERSAL)[1], None


def _same_text(call: Call) -> _Answer:
    size = call.size(call.operands[0])
    return scaled(size, _TRAVERSAL)[1], size


def _split(call: Call) -> _Answer | None:
    if call.target is None:
        return None
    size = call.size(call.target)
    most = size[1]
    if len(call.args) > 1:
        most = ast.int_constant(call.args[1], most)
    return scaled(size, 2 * _TRAVERSAL)[1], (0, most % (UNBOUNDED + 1))


def _replace(call: Call) -> _Answer | None:
    if call.target is None or len(call.args) < 2:
        return None
    size, old, new = (call.size(node) for node in (call.target, *call.args[:2]))
    return scaled(size, 2 * _TRAVERSAL)[1], added(*_replaced(size, old, new))


def _replaced(size: Size, old: Size, new: Size) -> tuple[Size, Size]:
    """(what is put in, what is kept) of a text in which something is replaced."""
    if old[0] == 0:  # nothing is replaced everywhere: around each character
        most, kept_most = min(UNBOUNDED, size[1] + 1), size[1]
    elif new[1] <= old[0]:
        most, kept_most = 0, size[1]
    else:
        most, kept_most = -(-size[1] // old[0]), 0
    if old[1] == 0:
        least, kept_least = min(UNBOUNDED, size[0] + 1), size[0]
    elif old[1] <= new[0]:
        least, kept_least = 0, size[0]
    else:
        least, kept_least = -(-size[0] // old[1]), 0
    return multiplied((least, most), new), (kept_least, kept_most)


def _join(call: Call) -> _Answer | None:
    if call.target is None:
        return None
    count, size = call.size(call.target), (0, 0)
    if call.estimate.parameters(call.target):
        size = multiplied(count, _element(call))
    if call.args:
        gaps = (max(0, count[0] - 1), max(0, count[1] - 1))
        size = added(size, multiplied(call.size(call.args[0]), gaps))
    return scaled(size, _TRAVERSAL)[1], size


def _element(call: Call) -> Size:
    """How large an element of the target can be, by what is declared."""
    assert call.target is not None
    path = call.estimate.path(call.target)
    if path and path[0] in ACCUMULATORS:
        path = ()
    known = declared_size((*path, "@items")) if path else None
    return NOTHING_KNOWN if known is None else known


def _quote(call: Call) -> _Answer:
    low, high = call.size(call.args[0])
    most = (high * 2 + 2) % (UNBOUNDED + 1)
    return scaled((low, high), _TRAVERSAL)[1], (low + 2, most)


def _to_string(call: Call) -> _Answer | None:
    if "k8s_string__bytes" not in call.overloads:
        return None
    low, high = call.size(call.args[0])
    cost = scaled((low, high), _TRAVERSAL)[1]
    return max(cost, 1 if len(call.overloads) > 1 else 0), (low // 4, high)


def _to_bytes(call: Call) -> _Answer | None:
    if "string_to_bytes" not in call.overloads:
        return None
    low, high = call.size(call.args[0])
    cost = scaled((low, high), _TRAVERSAL)[1]
    return max(cost, 1 if len(call.overloads) > 1 else 0), (low, high * 4 % (UNBOUNDED + 1))


# Lists


def _traversal(call: Call) -> _Answer | None:
    """``sum``, ``min`` and so on: each element once, with its characters."""
    if call.target is None:
        return None
    size, parameters = call.size(call.target), call.estimate.parameters(call.target)
    if not parameters:  # a string, which has indexOf() as well
        return scaled(size, _TRAVERSAL)[1], None
    each = 1
    if ast.type_kind(parameters[0]) in ("string", "bytes"):
        each = min(UNBOUNDED, each + scaled(_element(call), _TRAVERSAL)[1])
    return multiplied(size, fixed(each))[1], None


def _sets(call: Call) -> _Answer:
    left, right = map(call.size, call.args)
    factor = 2 if call.node.name == "sets.equivalent" else 1
    return min(UNBOUNDED, scaled(multiplied(left, right), factor)[1] + 1), None


def _made_list(factor: float, size: Size) -> _Answer:
    return min(UNBOUNDED, scaled(size, factor)[1] + 1 + LIST), size


def _slice(call: Call) -> _Answer | None:
    if call.target is None or len(call.args) != 2:
        return None
    start = ast.int_constant(call.args[0], 0)
    end = ast.int_constant(call.args[1], call.size(call.target)[1])
    return _made_list(1, fixed((max(0, end) - max(0, start)) % (UNBOUNDED + 1)))


def _range(call: Call) -> _Answer:
    return _made_list(1, fixed(max(0, ast.int_constant(call.args[0], UNBOUNDED))))


def _reversed(call: Call) -> _Answer | None:
    return None if call.target is None else _made_list(1, call.size(call.target))


def _flatten(call: Call) -> _Answer | None:
    if call.target is None:
        return None
    depth = max(0, ast.int_constant(call.args[0], UNBOUNDED)) if call.args else 1
    return _made_list(float(depth), call.size(call.target))


def _distinct(call: Call) -> _Answer | None:
    if call.target is None:
        return None
    size = call.size(call.target)
    return _made_list(2, multiplied(size, size))


def _sort(call: Call) -> _Answer | None:
    if call.target is None:
        return None
    size = call.size(call.args[0] if call.args else call.target)
    texts = any("_string_" in o or "_bytes_" in o for o in call.overloads)
    return _made_list(2 + (_TRAVERSAL if texts else 0), multiplied(size, size))


# Kubernetes' own types


def _includes(call: Call) -> _Answer | None:
    return None if call.target is None else (MAX_INCLUDES, None)


def _ip(call: Call) -> _Answer:
    return (1, None) if call.target is not None else _first_text(call)


def _canonical(call: Call) -> _Answer:
    return scaled(call.size(call.args[0]), 2 * _TRAVERSAL)[1], None


def _contains_address(call: Call) -> _Answer:
    """Of an IP address or a network: 16 bytes are compared, twice; a text is read first."""
    cost = scaled(fixed(2 * 16), _TRAVERSAL)[1]
    if call.node.name == "containsCIDR":
        cost += scaled(fixed(16), _TRAVERSAL)[1] + 1
    if any(overload.endswith("_string") for overload in call.overloads):
        cost += scaled(call.size(call.args[0]), _TRAVERSAL)[1]
    return min(UNBOUNDED, cost), None


def _validate(call: Call) -> _Answer:
    characters = scaled(call.size(call.args[0]), _TRAVERSAL)
    return scaled(characters, _LONGEST_FORMAT * _REGEX)[1], None


_RULES: dict[str, Callable[[Call], _Answer | None]] = {
    "_&&_": _nothing,
    "_||_": _nothing,
    "_?_:_": _conditional,
    "_+_": _plus,
    **dict.fromkeys(("_<_", "_<=_", "_>_", "_>=_"), _order),
    "_==_": _equals,
    "_!=_": _differs,
    "@in": _contained,
    "in": _contained,
    "matches": _matches,
    **dict.fromkeys(("find", "findAll"), _find),
    "contains": _contains,
    **dict.fromkeys(("startsWith", "endsWith"), _affix),
    **dict.fromkeys(("url", "lowerAscii", "upperAscii", "substring", "trim"), _same_text),
    **dict.fromkeys(
        ("format", "cidr", "isIP", "isCIDR", "quantity", "isQuantity", "semver", "isSemver"),
        _first_text,
    ),
    "split": _split,
    "replace": _replace,
    "join": _join,
    "strings.quote": _quote,
    "string": _to_string,
    "bytes": _to_bytes,
    **dict.fromkeys(("isSorted", "sum", "max", "min", "indexOf", "lastIndexOf"), _traversal),
    **dict.fromkeys(("sets.contains", "sets.intersects", "sets.equivalent"), _sets),
    "slice": _slice,
    "lists.range": _range,
    "reverse": _reversed,
    "flatten": _flatten,
    "distinct": _distinct,
    **dict.fromkeys(("sort", "@sortByAssociatedKeys"), _sort),
    "includes": _includes,
    "ip": _ip,
    "ip.isCanonical": _canonical,
    **dict.fromkeys(("containsIP", "containsCIDR"), _contains_address),
    "validate": _validate,
}
