"""What an expression can cost at most on one device, in CEL cost units, before it runs there.

cel-cpp has no run-time budget, so this bound, with the sizes that a device really has, stands in
for the run-time limit: an upper bound, where upstream counts what was really evaluated. Costs are
those of cel-go: a variable, a field and a plain call cost 1, string work 0.1 per character, a
comprehension its body times the largest possible range. What the API server goes by when an
expression is written is in ``cost``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kubarium.api.cel import ast
from kubarium.api.cel.sizes import UNBOUNDED

_STRING_FACTOR = 0.1  # per character
_REGEX_FACTOR = 0.25  # per character of the pattern


@dataclass(frozen=True, slots=True)
class Sizes:
    """The largest sizes that values of a device can have (API limits unless measured)."""

    domains: int = 32  # one for each attribute or capacity at worst
    names: int = 32  # in one domain
    value: int = 64  # characters of a string or version, elements of a list
    includes: int = 48  # elements that includes() may look at
    key: int = 63  # characters of a domain; driver names too


@dataclass(slots=True)
class _Estimate:
    """A walk over the tree; ``scope`` maps loop variables to the size of their values."""

    checked: ast.Checked
    sizes: Sizes
    scope: dict[str, int] = field(default_factory=dict)

    def cost(self, node: ast.Expr) -> int:
        if node.kind == "const":
            return 0
        if node.kind == "ident":
            return 1 + node.name.count(".")  # a qualified variable is a chain of selects
        if node.kind == "select":
            return 1 + (self.cost(node.operand) if node.operand is not None else 0)
        if node.kind == "call":
            return self._call(node)
        if node.kind == "comprehension":
            return self._comprehension(node)
        base = _CREATE_COST[node.kind]
        return _bounded(base + sum(self.cost(child) for child in node.children()))

    def _call(self, node: ast.Expr) -> int:
        children = [self.cost(child) for child in node.children()]
        if node.name == "_?_:_":
            return _bounded(children[0] + max(children[1:]))
        return _bounded(sum(children) + self._own(node))

    def _own(self, node: ast.Expr) -> int:
        """What the function itself costs."""
        operands = list(node.children())
        sizes = [self.size(operand) for operand in operands]
        name = node.name
        if name in ("_&&_", "_||_"):
            return 0
        if name in ("_==_", "_!=_"):
            return _characters(min(sizes), _STRING_FACTOR)
        if name == "_+_":
            return 1 if min(sizes) <= 1 else _characters(_bounded(sum(sizes)), _STRING_FACTOR)
        if name in ("in", "@in"):
            is_map = self._is_map(operands[-1])
            return 1 if is_map else max(1, sizes[-1])
        if name == "includes":
            return self.sizes.includes
        if name in ("matches", "find", "findAll"):
            pattern = _characters(sizes[1], _REGEX_FACTOR)
            return _bounded(_characters(_bounded(sizes[0] + 1), _STRING_FACTOR) * pattern)
        if name in _TEXT_FUNCTIONS:
            return _characters(sizes[0], _STRING_FACTOR)
        if name == "lists.range":
            return max(1, ast.int_constant(operands[0], UNBOUNDED))
        if name in _LIST_FUNCTIONS:
            return max(1, sizes[0])
        return 1

    def _comprehension(self, node: ast.Expr) -> int:
        source, initial, condition, step, result = node.args
        total = self.cost(source) + self.cost(initial)
        rounds = self.size(source)
        saved = dict(self.scope)
        element = self._element_size(source)
        self.scope[node.name] = element
        if node.name2:
            self.scope[node.name2] = element
        self.scope[node.accumulator] = rounds if rounds else self.size(initial)
        body = self.cost(condition) + self.cost(step)
        if source.kind == "list" and not source.args:  # cel.bind: the body is the result
            self.scope[node.accumulator] = self.size(initial)
            body = 0
            total -= 10
        total = _bounded(total + rounds * body + self.cost(result))
        self.scope = saved
        return total

    def size(self, node: ast.Expr) -> int:
        """The largest size of a value; 1 for what has none."""
        if node.kind == "const":
            return ast.constant_size(node)
        if node.kind == "ident":
            return self.scope[node.name] if node.name in self.scope else self._path_size(node)
        if node.kind == "list":
            return len(node.args)
        if node.kind == "struct":
            return len(node.entries)
        if node.kind == "comprehension":
            return self._comprehension_size(node)
        if node.kind == "select":
            return self._path_size(node)
        return self._call_size(node)

    def _path_size(self, node: ast.Expr) -> int:
        path = self._path(node)
        if path in ("device.attributes", "device.capacity"):
            return self.sizes.domains
        if path == "device.driver":
            return self.sizes.key
        if "[]" not in path:
            return 1
        return self.sizes.names if path.count("[]") == 1 else self.sizes.value

    def _call_size(self, node: ast.Expr) -> int:
        if node.name in ("_[_]", "_[?_]"):
            return self._path_size(node)
        operands = list(node.children())
        sizes = [self.size(operand) for operand in operands]
        if node.name == "_+_":
            return _bounded(sum(sizes))
        if node.name == "_?_:_":
            return max(sizes[1:])
        if node.name in _BOOLEAN_OR_NUMBER:
            return 1
        if node.name in _TEXT_FUNCTIONS or node.name in ("orValue", "value", "dyn"):
            return max(sizes, default=1)
        return 1

    def _comprehension_size(self, node: ast.Expr) -> int:
        source, initial, _, _, result = node.args
        if source.kind == "list" and not source.args:
            self.scope[node.accumulator] = self.size(initial)
            return self.size(result)
        return self.size(source) if initial.kind in ("list", "struct") else 1

    def _element_size(self, source: ast.Expr) -> int:
        if source.kind == "list":
            return max((self.size(item) for item in source.args), default=0)
        return self.sizes.key if self._is_map(source) else self.sizes.value

    def _is_map(self, node: ast.Expr) -> bool:
        path = self._path(node)
        return path in ("device.attributes", "device.capacity") or path.count("[]") == 1

    def _path(self, node: ast.Expr) -> str:
        if node.kind == "ident":
            return node.name
        if node.kind == "select" and node.operand is not None:
            inner = self._path(node.operand)
            return f"{inner}.{node.name}" if inner == "device" else f"{inner}[]"
        if node.kind == "call" and node.name in ("_[_]", "_[?_]"):
            return f"{self._path(node.args[0])}[]"
        return ""


_CREATE_COST = {"list": 10, "struct": 30}
_TEXT_FUNCTIONS = frozenset(
    [
        "lowerAscii",
        "upperAscii",
        "trim",
        "replace",
        "split",
        "substring",
        "reverse",
        "join",
        "startsWith",
        "endsWith",
        "contains",
        "indexOf",
        "lastIndexOf",
        "format",
        "quote",
        "charAt",
    ]
)
_LIST_FUNCTIONS = frozenset(
    ["isSorted", "sum", "min", "max", "distinct", "flatten", "sort", "slice", "sortBy"]
)
_BOOLEAN_OR_NUMBER = frozenset(
    [
        "_<_",
        "_>_",
        "_<=_",
        "_>=_",
        "_==_",
        "_!=_",
        "_&&_",
        "_||_",
        "!_",
        "_-_",
        "_*_",
        "_/_",
        "_%_",
        "-_",
        "in",
        "@in",
        "size",
        "startsWith",
        "endsWith",
        "contains",
        "matches",
        "indexOf",
        "lastIndexOf",
        "@not_strictly_false",
    ]
)


def _characters(size: int, factor: float) -> int:
    """Cost of looking at this many characters, at least 1 unless there are none."""
    return min(UNBOUNDED, -int(-size * factor // 1)) if size else 0


def _bounded(value: int) -> int:
    return min(value, UNBOUNDED)


def bound(checked: ast.Checked, sizes: Sizes) -> int:
    """The cost of one evaluation at most, UNBOUNDED at most."""
    return _Estimate(checked, sizes).cost(checked.root)
