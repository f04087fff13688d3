"""The worst case that an expression about a device can cost, as kube-apiserver estimates it.

What is written is measured by this number (units of CEL's cost; a selector may have 1,000,000). It
goes by what the types say: an attribute may be 64 characters long, a device may have 32 of them.
The size of what is computed is unbounded unless a rule below tells it.
Source: cel-go 0.27 ``checker/cost.go`` and ``ext/lists.go``, ``ext/sets.go``; apiserver
``pkg/cel/library/cost.go``; dynamic-resource-allocation ``cel/compile.go``. What one device can
really cost is another matter: see ``budget``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kubarium.api.cel import ast
from kubarium.api.cel.libraries import MAX_INCLUDES
from kubarium.api.cel.sizes import (
    FALSE,
    NOTHING_KNOWN,
    ONE,
    UNBOUNDED,
    Entries,
    Path,
    Size,
    added,
    declared_kind,
    declared_size,
    fixed,
    multiplied,
    scaled,
    size_of_constant,
    united,
)

_TRAVERSAL = 0.1  # per character
_REGEX = 0.25  # per character of a pattern
_LIST, _MAP, _MESSAGE = 10, 30, 40  # to make one
_LONGEST_FORMAT = 128  # characters of the regular expression of a named format
_ACCUMULATORS = ("@result", "__result__")


@dataclass(slots=True)
class _Local:
    """A variable of a comprehension or of ``cel.bind``."""

    path: Path
    size: Size | None
    entries: Entries | None


@dataclass(slots=True)
class _Call:
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


class Estimate:
    """One walk over a checked tree."""

    def __init__(self, checked: ast.Checked) -> None:
        self._checked = checked
        self._paths: dict[int, Path] = {}
        self._sizes: dict[int, Size] = {}
        self._entries: dict[int, Entries] = {}
        self._locals: dict[str, list[_Local]] = {}

    # Costs

    def cost(self, node: ast.Expr) -> int:
        """The cost of a node with all below it."""
        return _KINDS[node.kind](self, node)

    def _constant(self, node: ast.Expr) -> int:
        return 0

    def _ident(self, node: ast.Expr) -> int:
        local = self._local(node)
        if local is None and node.name.startswith("device."):
            # The device's fields are variables to cel-cpp; upstream selects them.
            self._paths[node.id] = tuple(node.name.split("."))
            return 2
        self._paths[node.id] = local.path if local else (node.name,)
        return 1

    def _select(self, node: ast.Expr) -> int:
        assert node.operand is not None
        cost = self.cost(node.operand)
        if node.test:  # has() costs what it looks into
            return cost
        if self.kind(node.operand) in ("map", "message", "parameter"):
            cost += 1
        self._paths[node.id] = (*self.path(node.operand), node.name)
        return cost

    def _list(self, node: ast.Expr) -> int:
        cost = sum(self.cost(item) for item in node.args)
        self._entries[node.id] = Entries("list", ONE, self._any_of(node.args))
        return min(UNBOUNDED, cost + _LIST)

    def _struct(self, node: ast.Expr) -> int:
        cost = sum(self.cost(child) for child in node.children())
        if node.name:
            return min(UNBOUNDED, cost + _MESSAGE)
        keys = [entry.key for entry in node.entries if entry.key is not None]
        values = [entry.value for entry in node.entries]
        self._entries[node.id] = Entries("map", self._any_of(keys), self._any_of(values))
        return min(UNBOUNDED, cost + _MAP)

    def _any_of(self, nodes: Sequence[ast.Expr]) -> Size:
        found = (0, 0) if not nodes else (UNBOUNDED, 0)
        for node in nodes:
            found = united(found, self.size_or_unknown(node))
        return found

    def _call(self, node: ast.Expr) -> int:
        if node.name == "dyn":
            [argument] = node.args
            cost = 1 + self.cost(argument)
            self._copy(node, argument)
            return min(UNBOUNDED, cost)
        costs = [self.cost(child) for child in node.children()]
        overloads = self._checked.overloads.get(node.id, ())
        if not overloads:
            return 0
        call = _Call(self, node, node.operand, node.args, overloads)
        own, size = _own_cost(call)
        if {"index_list", "index_map"} & set(overloads):
            size = self._index(node, overloads)
        if size is None:
            size = self.size(node)
        if size is not None:
            self._sizes[node.id] = size
        if node.name == "_?_:_":
            return min(UNBOUNDED, costs[0] + max(costs[1:]))
        return min(UNBOUNDED, sum(costs) + own)

    def _index(self, node: ast.Expr, overloads: Sequence[str]) -> Size | None:
        container = node.args[0]
        step = "@values" if "index_map" in overloads else "@items"
        self._paths[node.id] = (*self.path(container), step)
        entries = self.entries(container)
        return entries.value if entries else None

    def _comprehension(self, node: ast.Expr) -> int:
        source, initial, condition, step, result = node.args
        cost = self.cost(source) + self.cost(initial)
        made = _Local(self.path(initial), self.size(initial), self.entries(initial))
        is_bind = source.kind == "list" and not source.args and condition.raw == FALSE
        if is_bind and node.accumulator != _ACCUMULATORS[1]:
            with_result = self._within({node.accumulator: made}, [result])
            self._copy(node, result)
            return min(UNBOUNDED, cost + with_result)
        loop = self._within({node.accumulator: made, **self._loop(node)}, [condition, step])
        cost += self._within({node.accumulator: made}, [result])
        rounds = self.size_or_unknown(source)
        self._remember(node, initial, step, rounds)
        return min(UNBOUNDED, cost + multiplied(rounds, fixed(loop))[1])

    def _within(self, variables: Mapping[str, _Local], nodes: Sequence[ast.Expr]) -> int:
        """The cost of nodes that can see some variables."""
        for name, local in variables.items():
            self._locals.setdefault(name, []).append(local)
        cost = sum(self.cost(node) for node in nodes)
        for name in variables:
            self._locals[name].pop()
        return min(UNBOUNDED, cost)

    def _loop(self, node: ast.Expr) -> dict[str, _Local]:
        """The loop variables: one is of items or keys, two are of indices or keys, and values."""
        source = node.args[0]
        entries, path = self.entries(source), self.path(source)
        is_list = (entries.kind if entries else self.kind(source)) == "list"
        sizes = (entries.key, entries.value) if entries else (None, None)
        key = _Local((*path, "@indices" if is_list else "@keys"), sizes[0], None)
        value = _Local((*path, "@items" if is_list else "@values"), sizes[1], None)
        if node.name2:
            return {node.name: key, node.name2: value}
        return {node.name: value if is_list else key}

    def _remember(self, node: ast.Expr, initial: ast.Expr, step: ast.Expr, rounds: Size) -> None:
        if initial.kind == "const":
            size = self.size(initial)
            if size is not None:
                self._sizes[node.id] = size
        elif initial.kind in ("list", "struct"):
            self._sizes[node.id] = rounds
            entries = self.entries(step)
            if entries is not None:
                self._entries[node.id] = entries

    # What is known of nodes

    def _local(self, node: ast.Expr) -> _Local | None:
        stack = self._locals.get(node.name) if node.kind == "ident" else None
        return stack[-1] if stack else None

    def path(self, node: ast.Expr) -> Path:
        """Where in the device the node's value is from; empty if it is not."""
        local = self._local(node)
        return local.path if local else self._paths.get(node.id, ())

    def kind(self, node: ast.Expr) -> str:
        """The kind of a node's type."""
        return declared_kind(self.path(node)) or ast.type_kind(self._checked.type_of(node))

    def parameters(self, node: ast.Expr) -> list[bytes]:
        """The parameters of a node's type: of a list what its items are."""
        return ast.type_parameters(self._checked.type_of(node))

    def type_of(self, node: ast.Expr) -> bytes:
        return self._checked.type_of(node)

    def size(self, node: ast.Expr) -> Size | None:
        """How large a node's value can be; None if nothing is known."""
        if node.id in self._sizes:
            return self._sizes[node.id]
        known = size_of_constant(node)
        if known is not None:
            return known
        known = declared_size(self.path(node))
        if known is not None:
            self._sizes[node.id] = known
            return known
        if ast.is_scalar(self._checked.type_of(node)):
            return ONE
        local = self._local(node)
        return local.size if local else None

    def size_or_unknown(self, node: ast.Expr) -> Size:
        known = self.size(node)
        return NOTHING_KNOWN if known is None else known

    def entries(self, node: ast.Expr) -> Entries | None:
        """How large the entries of a list or map can be; None if nothing is known."""
        if node.id in self._entries:
            return self._entries[node.id]
        local = self._local(node)
        return local.entries if local else None

    def set_entries(self, node: ast.Expr, entries: Entries | None) -> None:
        if entries is not None:
            self._entries[node.id] = entries

    def _copy(self, node: ast.Expr, source: ast.Expr) -> None:
        size = self.size(source)
        if size is not None:
            self._sizes[node.id] = size
        self.set_entries(node, self.entries(source))


_KINDS: dict[str, Callable[[Estimate, ast.Expr], int]] = {
    "const": Estimate._constant,
    "ident": Estimate._ident,
    "select": Estimate._select,
    "call": Estimate._call,
    "list": Estimate._list,
    "struct": Estimate._struct,
    "comprehension": Estimate._comprehension,
}


def _own_cost(call: _Call) -> _Answer:
    """What a function costs beside its operands."""
    rule = _RULES.get(call.node.name)
    answer = rule(call) if rule is not None else None
    return (1, None) if answer is None else answer


# Operators


def _nothing(call: _Call) -> _Answer:
    return 0, None


def _conditional(call: _Call) -> _Answer:
    _, left, right = call.args
    _unite_entries(call, left, right)
    return 0, united(call.size(left), call.size(right))


def _unite_entries(call: _Call, left: ast.Expr, right: ast.Expr) -> None:
    one, other = call.estimate.entries(left), call.estimate.entries(right)
    if one is not None and other is not None:
        call.estimate.set_entries(call.node, one.united(other))


def _plus(call: _Call) -> _Answer | None:
    left, right = call.args
    kinds = {overload.removeprefix("add_") for overload in call.overloads}
    if not kinds & {"list", "string", "bytes"}:
        return None
    _unite_entries(call, left, right)
    size = added(call.size(left), call.size(right))
    text = scaled(size, _TRAVERSAL)[1] if kinds & {"string", "bytes"} else 0
    return max(text, 1 if kinds - {"string", "bytes"} else 0), size


def _order(call: _Call) -> _Answer | None:
    texts = [o for o in call.overloads if o.endswith(("_string", "_bytes"))]
    if not texts:
        return None
    rest = 1 if len(texts) < len(call.overloads) else 0
    return max(_smaller(call), rest), None


def _smaller(call: _Call) -> int:
    left, right = call.args
    return scaled(fixed(min(call.size(left)[1], call.size(right)[1])), _TRAVERSAL)[1]


def _equals(call: _Call) -> _Answer:
    left, right = map(call.estimate.type_of, call.args)
    name = ast.type_name(left)
    if left == right and name in _CHEAP_TO_COMPARE:
        return 1, None
    if left == right and name == "kubernetes.URL":
        sizes = call.estimate.size(call.args[1])
        return scaled(sizes or ONE, _TRAVERSAL)[1], None
    return _smaller(call), None


def _differs(call: _Call) -> _Answer:
    return _smaller(call), None


_CHEAP_TO_COMPARE = ("kubernetes.Quantity", "kubernetes.Semver", "net.IP", "net.CIDR")


def _contained(call: _Call) -> _Answer:
    most = call.size(call.args[1])[1] if "in_list" in call.overloads else 0
    return max(most, 1 if "in_map" in call.overloads else 0), None


# Text


def _matches(call: _Call) -> _Answer | None:
    if call.target is None:
        return None
    return _pattern(call, call.target, call.args[0]), None


def _pattern(call: _Call, text: ast.Expr, pattern: ast.Expr) -> int:
    characters = scaled(added(call.size(text), ONE), _TRAVERSAL)
    return multiplied(characters, scaled(call.size(pattern), _REGEX))[1]


def _find(call: _Call) -> _Answer | None:
    if call.target is None:
        return None
    most = call.size(call.target)[1]
    return _pattern(call, call.target, call.args[0]), (0, most)


def _contains(call: _Call) -> _Answer | None:
    if call.target is None:
        return None
    sizes = [scaled(call.size(node), _TRAVERSAL) for node in (call.target, call.args[0])]
    return multiplied(*sizes)[1], None


def _affix(call: _Call) -> _Answer:
    return scaled(call.size(call.args[0]), _TRAVERSAL)[1], None


def _first_text(call: _Call) -> _Answer:
    """Functions that read their first operand once and give something else."""
    return scaled(call.size(call.operands[0]), _TRAVERSAL)[1], None


def _same_text(call: _Call) -> _Answer:
    size = call.size(call.operands[0])
    return scaled(size, _TRAVERSAL)[1], size


def _split(call: _Call) -> _Answer | None:
    if call.target is None:
        return None
    size = call.size(call.target)
    most = size[1]
    if len(call.args) > 1:
        most = ast.int_constant(call.args[1], most)
    return scaled(size, 2 * _TRAVERSAL)[1], (0, most % (UNBOUNDED + 1))


def _replace(call: _Call) -> _Answer | None:
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


def _join(call: _Call) -> _Answer | None:
    if call.target is None:
        return None
    count, size = call.size(call.target), (0, 0)
    if call.estimate.parameters(call.target):
        size = multiplied(count, _element(call))
    if call.args:
        gaps = (max(0, count[0] - 1), max(0, count[1] - 1))
        size = added(size, multiplied(call.size(call.args[0]), gaps))
    return scaled(size, _TRAVERSAL)[1], size


def _element(call: _Call) -> Size:
    """How large an element of the target can be, by what is declared."""
    assert call.target is not None
    path = call.estimate.path(call.target)
    if path and path[0] in _ACCUMULATORS:
        path = ()
    known = declared_size((*path, "@items")) if path else None
    return NOTHING_KNOWN if known is None else known


def _quote(call: _Call) -> _Answer:
    low, high = call.size(call.args[0])
    most = (high * 2 + 2) % (UNBOUNDED + 1)
    return scaled((low, high), _TRAVERSAL)[1], (low + 2, most)


def _to_string(call: _Call) -> _Answer | None:
    if "k8s_string__bytes" not in call.overloads:
        return None
    low, high = call.size(call.args[0])
    cost = scaled((low, high), _TRAVERSAL)[1]
    return max(cost, 1 if len(call.overloads) > 1 else 0), (low // 4, high)


def _to_bytes(call: _Call) -> _Answer | None:
    if "string_to_bytes" not in call.overloads:
        return None
    low, high = call.size(call.args[0])
    cost = scaled((low, high), _TRAVERSAL)[1]
    return max(cost, 1 if len(call.overloads) > 1 else 0), (low, high * 4 % (UNBOUNDED + 1))


# Lists


def _traversal(call: _Call) -> _Answer | None:
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


def _sets(call: _Call) -> _Answer:
    left, right = map(call.size, call.args)
    factor = 2 if call.node.name == "sets.equivalent" else 1
    return min(UNBOUNDED, scaled(multiplied(left, right), factor)[1] + 1), None


def _made_list(factor: float, size: Size) -> _Answer:
    return min(UNBOUNDED, scaled(size, factor)[1] + 1 + _LIST), size


def _slice(call: _Call) -> _Answer | None:
    if call.target is None or len(call.args) != 2:
        return None
    start = ast.int_constant(call.args[0], 0)
    end = ast.int_constant(call.args[1], call.size(call.target)[1])
    return _made_list(1, fixed((max(0, end) - max(0, start)) % (UNBOUNDED + 1)))


def _range(call: _Call) -> _Answer:
    return _made_list(1, fixed(max(0, ast.int_constant(call.args[0], UNBOUNDED))))


def _reversed(call: _Call) -> _Answer | None:
    return None if call.target is None else _made_list(1, call.size(call.target))


def _flatten(call: _Call) -> _Answer | None:
    if call.target is None:
        return None
    depth = max(0, ast.int_constant(call.args[0], UNBOUNDED)) if call.args else 1
    return _made_list(float(depth), call.size(call.target))


def _distinct(call: _Call) -> _Answer | None:
    if call.target is None:
        return None
    size = call.size(call.target)
    return _made_list(2, multiplied(size, size))


def _sort(call: _Call) -> _Answer | None:
    if call.target is None:
        return None
    size = call.size(call.args[0] if call.args else call.target)
    texts = any("_string_" in o or "_bytes_" in o for o in call.overloads)
    return _made_list(2 + (_TRAVERSAL if texts else 0), multiplied(size, size))


# Kubernetes' own types


def _includes(call: _Call) -> _Answer | None:
    return None if call.target is None else (MAX_INCLUDES, None)


def _ip(call: _Call) -> _Answer:
    return (1, None) if call.target is not None else _first_text(call)


def _canonical(call: _Call) -> _Answer:
    return scaled(call.size(call.args[0]), 2 * _TRAVERSAL)[1], None


def _contains_address(call: _Call) -> _Answer:
    """Of an IP address or a network: 16 bytes are compared, twice; a text is read first."""
    cost = scaled(fixed(2 * 16), _TRAVERSAL)[1]
    if call.node.name == "containsCIDR":
        cost += scaled(fixed(16), _TRAVERSAL)[1] + 1
    if any(overload.endswith("_string") for overload in call.overloads):
        cost += scaled(call.size(call.args[0]), _TRAVERSAL)[1]
    return min(UNBOUNDED, cost), None


def _validate(call: _Call) -> _Answer:
    characters = scaled(call.size(call.args[0]), _TRAVERSAL)
    return scaled(characters, _LONGEST_FORMAT * _REGEX)[1], None


_RULES: dict[str, Callable[[_Call], _Answer | None]] = {
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


def worst_cost(checked: ast.Checked) -> int:
    """The cost of one evaluation at most, in CEL's units; UNBOUNDED at most."""
    return Estimate(checked).cost(checked.root)
