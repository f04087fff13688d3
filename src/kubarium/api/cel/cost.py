"""The worst case that an expression about a device can cost, as kube-apiserver estimates it.

What is written is measured by this number (units of CEL's cost; a selector may have 1,000,000). It
goes by what the types say: an attribute may be 64 characters long, a device may have 32 of them.
The size of what is computed is unbounded unless a rule tells it (``function_costs``).
Source: cel-go 0.27 ``checker/cost.go``; dynamic-resource-allocation ``cel/compile.go``. What one
device can really cost is another matter: see ``budget``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kubarium.api.cel import ast
from kubarium.api.cel.function_costs import ACCUMULATORS, LIST, Call, own_cost
from kubarium.api.cel.sizes import (
    FALSE,
    NOTHING_KNOWN,
    ONE,
    UNBOUNDED,
    Entries,
    Path,
    Size,
    declared_kind,
    declared_size,
    fixed,
    multiplied,
    size_of_constant,
    united,
)

_MAP, _MESSAGE = 30, 40  # to make one


@dataclass(slots=True)
class _Local:
    """A variable of a comprehension or of ``cel.bind``."""

    path: Path
    size: Size | None
    entries: Entries | None


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
        return min(UNBOUNDED, cost + LIST)

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
        call = Call(self, node, node.operand, node.args, overloads)
        own, size = own_cost(call)
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
        if is_bind and node.accumulator != ACCUMULATORS[1]:
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


def worst_cost(checked: ast.Checked) -> int:
    """The cost of one evaluation at most, in CEL's units; UNBOUNDED at most."""
    return Estimate(checked).cost(checked.root)
