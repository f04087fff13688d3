"""CEL environments with Kubernetes' libraries on Google's cel-cpp.

An expression is checked in one environment and run in another. The checking one declares the exact
types, so that mistakes are found when an object is written; the running one knows only that our
types are bytes. In between, :meth:`Environment.compile` rewrites the checked tree where cel-cpp
cannot do what Kubernetes needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import permutations
from typing import Any

from cel_expr_python import cel

from kubarium.api.cel import ast
from kubarium.api.cel.libraries import (
    ITERABLE,
    KUBERNETES_FUNCTIONS,
    MAP_INSERTS,
    UNLIKE,
    Function,
)
from kubarium.api.cel.messages import (
    TRAILER,
    at_offset,
    compile_message,
    failed,
    runtime_message,
    split_types,
)
from kubarium.api.cel.standard import STANDARD
from kubarium.api.cel.templates import template_fault

# cel-cpp's names for: optional types, extended strings, sets, ext.Lists v3, cel.bind and
# two-variable comprehensions; with the version where the newest has more than Kubernetes.
_EXTENSIONS = (
    "optional",
    "strings\n  version: 2",
    "sets",
    "lists",
    "bindings",
    "two-var-comprehensions",
)
# The checker takes no overload for our types on top of its own string(), so all are declared anew.
_STRING = [
    Function("string", "", (type_,), "string", str)
    for type_ in ("string", "bool", "int", "uint", "double", "bytes", "timestamp", "duration")
]

# Kubernetes compares numbers of different types (CrossTypeNumericComparisons); the checker of
# cel-cpp has to be told.
_COMPARISONS = {
    "_<_": "less",
    "_<=_": "less_equals",
    "_>_": "greater",
    "_>=_": "greater_equals",
}
_NUMBERS = {"int64": cel.Type.INT, "uint64": cel.Type.UINT, "double": cel.Type.DOUBLE}

Rewrite = Callable[[ast.Checked], None]


class CelCompileError(ValueError):
    """The expression does not parse, does not type-check, or has the wrong result type."""


class CelRuntimeError(ValueError):
    """The evaluation ended in an error."""


class Environment:
    """Variables with their types, and the functions an expression may call.

    ``variables`` maps names (dots allowed) to CEL types such as ``map<string,dyn>``.
    """

    def __init__(
        self,
        variables: Mapping[str, str],
        functions: Sequence[Function] = KUBERNETES_FUNCTIONS,
        extensions: Sequence[str] = _EXTENSIONS,
    ) -> None:
        # cel.Type reads the parameter of an optional type twice.
        optional = {name: type_ for name, type_ in variables.items() if "optional_type" in type_}
        self._checker = cel.NewEnv(
            config=_declarations(tuple(functions), tuple(extensions), tuple(optional.items())),
            variables={n: cel.Type(t) for n, t in variables.items() if n not in optional},
            extensions=[
                cel.CelExtension("overloads", [*_added_overloads(functions), *_comparisons()])
            ],
        )
        self._runtime = _runtime(tuple(functions), tuple(extensions), tuple(variables))
        self._renamed = {f.overload_id: f.runtime_name for f in functions if f.runtime_name}
        self._own = frozenset(f.overload_id for f in functions)
        self._optional = frozenset(f.overload_id for f in functions if f.optional)

    def check(self, expression: str) -> tuple[ast.Checked, str]:
        """The checked tree and the result type's name. Raises CelCompileError."""
        try:
            checked = self._checker.compile(expression)
        except RuntimeError as error:
            raise CelCompileError(compile_message(str(error), expression)) from None
        tree = ast.parse(checked.serialize())
        self._refuse_opaque(tree)
        exempt = {
            id(inner)
            for node in tree.root.walk()
            if node.kind == "call" and node.name == "format"
            for argument in node.args
            for inner in argument.walk()
        }
        wrong = [
            at_offset(words, expression, tree.position(culprit))
            for node in tree.root.walk()
            if id(node) not in exempt
            for culprit, words in _wrong_literals(node, tree)
        ]
        faults = [template_fault(node, tree) for node in tree.root.walk()]
        wrong += [
            at_offset(fault[1], expression, tree.position(fault[0])) for fault in faults if fault
        ]
        if wrong:
            raise CelCompileError(failed(wrong))
        return tree, ast.type_text(tree.types.get(tree.root.id, b""))

    def _refuse_opaque(self, checked: ast.Checked) -> None:
        """Optionals and types may reach no function of ours: cel-cpp dies of handing them over.

        Its Python binding cannot convert them, nor lists and maps of them. An argument that is
        dynamic to the checker may be one where the expression makes a dynamic value of one.
        """
        nodes = list(checked.root.walk())
        hides = any(hides_opaque(node, checked) for node in nodes)
        for node in nodes:
            own = node.name == _MAP_INSERT
            if not own and self._own.isdisjoint(checked.overloads.get(node.id, ())):
                continue
            for argument in node.children():
                parts = checked.made_of(argument)
                if parts & OPAQUE or (hides and "dyn" in parts):
                    what = "an optional" if "type" not in parts else "a type"
                    raise CelCompileError(
                        f"compilation failed: {node.name}() cannot take {what} value, nor one that"
                        " may hold such; use value() or orValue() first"
                    )

    def link(self, checked: ast.Checked) -> cel.Expression:
        """The runnable form of a checked tree. Raises CelCompileError."""
        for node in list(checked.root.walk()):
            self._plan(node, checked)
            overloads = checked.overloads.get(node.id, ())
            # A dynamic argument leaves cel-cpp's own overloads open too: those it can run itself.
            if overloads and all(overload in self._renamed for overload in overloads):
                node.name = self._renamed[overloads[0]]
            elif overloads and all(overload in STANDARD for overload in overloads):
                node.name = STANDARD[overloads[0]].name
                node.args, node.operand = list(node.children()), None
            elif node.name == _MAP_INSERT:
                node.name = MAP_INSERTS[0].name
                checked.overloads.pop(node.id, None)
        self._wrap_optionals(checked)
        try:
            return self._runtime.deserialize(ast.dump(checked))
        except RuntimeError as error:
            raise CelCompileError(compile_message(str(error), "")) from None

    def _plan(self, node: ast.Expr, checked: ast.Checked) -> None:
        """What cel-go does once when it plans a program: constants are converted, for all times.

        Nothing is in an empty list, whatever else might be wrong with it.
        """
        if node.kind != "call" or not node.args:
            return
        if node.name == "@in" and node.args[1].kind == "list" and not node.args[1].args:
            node.kind, node.raw, node.args = "const", BOOL_FALSE, []
            checked.overloads.pop(node.id, None)
        elif node.name in _CONVERSIONS and node.args[0].kind == "const":
            program = self._runtime.deserialize(ast.dump(replace(checked, root=node)))
            found = program.eval(self._runtime.Activation({}))
            if found.type() == cel.Type.ERROR:
                said = runtime_message(str(found.value()))
                raise CelCompileError(f"program instantiation failed: {said}")

    def _wrap_optionals(self, checked: ast.Checked) -> None:
        """``f(x)`` that returns a list of none or one becomes ``optional``."""
        for node in list(checked.root.walk()):
            if not self._optional.isdisjoint(checked.overloads.get(node.id, ())):
                become_optional(node, checked)

    def compile(
        self, expression: str, rewrite: Rewrite | None = None
    ) -> tuple[cel.Expression, str]:
        """The runnable expression and the name of its result type. Raises CelCompileError."""
        checked, result = self.check(expression)
        if rewrite is not None:
            rewrite(checked)
        return self.link(checked), result

    def activation(self, data: Mapping[str, Any]) -> cel.Activation:
        """Variables converted once, for many evaluations."""
        return self._runtime.Activation(data)


def evaluate(program: cel.Expression, activation: cel.Activation) -> cel.Value:
    """What a linked expression gives, which may be an error as a value.

    Raises CelRuntimeError where cel-cpp gives up without one.
    """
    try:
        return program.eval(activation)
    except (RuntimeError, TypeError, ValueError, SystemError) as error:
        raise CelRuntimeError(TRAILER.sub("", str(error))) from error


def become_optional(node: ast.Expr, checked: ast.Checked) -> None:
    """Turn a call that yields a list of none or one into an optional of its element, in place.

    ``call`` becomes ``call[?0]``.
    """
    fresh = checked.next_id()
    call = ast.Expr(fresh, node.kind, node.name, node.operand, node.args)
    zero = ast.Expr(fresh + 1, "const", raw=INT_ZERO)
    node.operand, node.name, node.args = None, "_[?_]", [call, zero]


# What transformMap and transformMapEntry call; cel-cpp's Python binding has no implementation.
_MAP_INSERT = "cel.@mapInsert"


def _wrong_literals(node: ast.Expr, checked: ast.Checked) -> Iterator[tuple[ast.Expr, str]]:
    """Mistakes in constants, found when an expression is written, as upstream's validators do.

    Literal durations, times and regular expressions must be valid, and the elements of a literal
    list or map of one type.
    """
    if node.kind == "list":
        yield from _mixed(node.args, set(node.raw), checked)
    if node.kind == "struct":
        keys = [entry.key for entry in node.entries if entry.key is not None]
        values = [entry.value for entry in node.entries]
        optional = {index for index, entry in enumerate(node.entries) if entry.optional}
        yield from _mixed(keys, set(), checked)
        yield from _mixed(values, optional, checked)
    if node.kind == "call" and node.name in _LITERALS and node.args:
        literal = node.args[0]
        text = ast.text_constant(literal)
        if ast.is_text(literal) and not _evaluates(_LITERALS[node.name].format(json.dumps(text))):
            yield literal, f"invalid {node.name} argument"


def _mixed(
    elements: Sequence[ast.Expr], optional: set[int], checked: ast.Checked
) -> Iterator[tuple[ast.Expr, str]]:
    """The first element of another type than those before it; those that are empty have any."""
    first = b""
    for index, element in enumerate(elements):
        if _is_empty(element):
            continue
        type_ = checked.type_of(element)
        if index in optional:
            type_ = checked.element_type(element)
        if first and type_ != first:
            names = ast.type_text(first, short=True), ast.type_text(type_, short=True)
            yield element, "expected type '{}' but found '{}'".format(*names)
            return
        first = first or type_


def _is_empty(node: ast.Expr) -> bool:
    if node.kind in ("list", "struct"):
        return not node.args and not node.entries
    return node.kind == "call" and node.name == "optional.none"


_LITERALS = {
    # Go's durations are nanoseconds in 64 bits.
    "duration": "duration('-2562047h47m16.854775808s') <= duration({0})"
    " && duration({0}) <= duration('2562047h47m16.854775807s')",
    "timestamp": "timestamp({0}) == timestamp({0})",
    "matches": '"".matches({0}) in [true, false]',
}


@lru_cache(maxsize=1024)
def _evaluates(expression: str) -> bool:
    plain = _plain()
    result = plain.compile(expression).eval(plain.Activation({}))
    return result.value() is True


@lru_cache(maxsize=1)
def _plain() -> cel.Env:
    return cel.NewEnv(config=cel.NewEnvConfigFromYaml("name: literals"))


OPAQUE = frozenset(["optional", "type"])


def hides_opaque(node: ast.Expr, checked: ast.Checked) -> bool:
    """Whether a node makes a dynamic value, or an element of one, of an optional or a type."""
    if node.kind == "call" and node.name == "dyn":
        return bool(checked.made_of(node.args[0]) & OPAQUE)
    if node.kind in ("list", "struct"):
        return any(checked.made_of(child) & OPAQUE for child in node.children())
    if node.kind == "select" or (node.kind == "call" and node.name == "_[_]"):
        # Of an optional it is one again, which the checker may not know.
        container = next(node.children())
        return bool(checked.made_of(container) & OPAQUE) and not checked.made_of(node) & OPAQUE
    return False


_CONVERSIONS = ("bool", "int", "uint", "double")
INT_ZERO = b"\x18\x00"  # Constant{int64_value: 0}
BOOL_FALSE = b"\x10\x00"  # Constant{bool_value: false}
BOOL_TRUE = b"\x10\x01"


@lru_cache(maxsize=16)
def _declarations(
    functions: tuple[Function, ...],
    extensions: tuple[str, ...],
    variables: tuple[tuple[str, str], ...],
) -> cel.EnvConfig:
    """What environments have in common: cel-cpp reads two hundred functions in ten milliseconds."""
    own = [*_STRING, *(f for f in functions if not f.list_receiver)]
    lines = [
        "name: kubernetes",
        "stdlib:",
        "  exclude_functions:",
        "  - name: string",
        "extensions:",
        *(f"- name: {name}" for name in extensions),
        "functions:",
        *_functions_yaml(own),
    ]
    if variables:
        lines += ["variables:", *(_variable_yaml(name, type_) for name, type_ in variables)]
    return cel.NewEnvConfigFromYaml("\n".join(lines))


@lru_cache(maxsize=16)
def _runtime(
    functions: tuple[Function, ...], extensions: tuple[str, ...], variables: tuple[str, ...]
) -> cel.Env:
    """Where expressions run, whatever the types of their variables."""
    return cel.NewEnv(
        config=cel.NewEnvConfigFromYaml(
            "name: runtime\nextensions:\n" + "\n".join(f"- name: {e}" for e in extensions)
        ),
        variables=dict.fromkeys(variables, cel.Type.DYN),
        extensions=[
            cel.CelExtension(
                "kubernetes",
                _runtime_functions(
                    [*functions, ITERABLE, UNLIKE, *MAP_INSERTS, *STANDARD.values()]
                ),
            )
        ],
    )


def _variable_yaml(name: str, type_: str) -> str:
    return f'- name: "{name}"\n' + _type_yaml(type_, "  ")


def _functions_yaml(functions: Sequence[Function]) -> list[str]:
    by_name: dict[str, list[Function]] = {}
    for function in functions:
        by_name.setdefault(function.name, []).append(function)
    lines = []
    for name, overloads in by_name.items():
        lines += [f'- name: "{name}"', "  overloads:"]
        for overload in overloads:
            lines += _overload_yaml(overload)
    return lines


def _overload_yaml(function: Function) -> list[str]:
    lines = [f'  - id: "{function.overload_id}"']
    if function.receiver:
        lines += ["    target:", _type_yaml(function.receiver, "      ")]
    if function.parameters:
        lines.append("    args:")
        for parameter in function.parameters:
            lines.append("    - " + _type_yaml(parameter, "      ").lstrip())
    result = f"optional_type<{function.result}>" if function.optional else function.result
    return [*lines, "    return:", _type_yaml(result, "      ")]


def _type_yaml(type_: str, indent: str) -> str:
    """A type such as ``map<string,list<A>>`` in cel-cpp's configuration form."""
    name, _, inner = type_.partition("<")
    if re.fullmatch("[A-Z]", type_):
        return f'{indent}type_name: "{type_}"\n{indent}is_type_param: true'
    lines = [f'{indent}type_name: "{name}"']
    if inner:
        lines.append(f"{indent}params:")
        lines.extend(
            f"{indent}- " + _type_yaml(parameter, indent + "  ").lstrip()
            for parameter in split_types(inner[:-1])
        )
    return "\n".join(lines)


def _added_overloads(functions: Sequence[Function]) -> list[cel.FunctionDecl]:
    """Overloads of cel-cpp's own functions: only an extension may add to those."""
    return [
        cel.FunctionDecl(
            function.name,
            [
                cel.Overload(
                    function.overload_id,
                    return_type=_named_type(function.result),
                    parameters=[
                        _named_type(type_)
                        for type_ in (function.receiver, *function.parameters)
                        if type_
                    ],
                    is_member=bool(function.receiver),
                )
            ],
        )
        for function in functions
        if function.list_receiver
    ]


def _comparisons() -> list[cel.FunctionDecl]:
    return [
        cel.FunctionDecl(
            operator,
            [
                cel.Overload(
                    f"{name}_{left}_{right}",
                    return_type=cel.Type.BOOL,
                    parameters=[_NUMBERS[left], _NUMBERS[right]],
                )
                for left, right in permutations(_NUMBERS, 2)
            ],
        )
        for operator, name in _COMPARISONS.items()
    ]


def _named_type(name: str) -> cel.Type:
    return {"list<A>": cel.Type.LIST, "int": cel.Type.INT}.get(name, cel.Type.DYN)


def _runtime_functions(functions: Sequence[Function]) -> list[cel.FunctionDecl]:
    """One overload for each name, style and number of arguments, taking anything."""
    grouped: dict[str, dict[tuple[bool, int], cel.Overload]] = {}
    dyn = cel.Type.DYN
    for function in functions:
        name = function.runtime_name or function.name
        member = bool(function.receiver)
        kinds = [dyn] * (len(function.parameters) + member)
        if function.list_receiver:
            kinds[0] = cel.Type.LIST
        overload = cel.Overload(
            f"run_{function.overload_id}",
            return_type=dyn,
            parameters=kinds,
            is_member=member,
            impl=function.implementation,
        )
        grouped.setdefault(name, {}).setdefault((member, len(kinds)), overload)
    return [cel.FunctionDecl(name, list(group.values())) for name, group in grouped.items()]
