"""Validation rules of CustomResourceDefinitions (``x-kubernetes-validations``).

A rule sees ``self``, and ``oldSelf`` in an update. A rule that names ``oldSelf`` is a transition
rule: it runs only where the old value can be matched with the new one (same field, same map key,
same list-map item), unless ``optionalOldSelf`` makes ``oldSelf`` an optional. A value that did not
change is not judged again (ratcheting), except by transition rules.
Source: apiextensions-apiserver ``pkg/apiserver/schema/cel``.

What cel-cpp does not offer: objects are maps to its type checker, so of an object's type only the
existence of fields is checked at compile time; and list types set and map compare like plain lists.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from kubarium.api.cel import ast
from kubarium.api.cel.environment import (
    INT_ZERO,
    CelCompileError,
    CelRuntimeError,
    Environment,
)
from kubarium.api.cel.messages import runtime_message
from kubarium.api.schema import Schema
from kubarium.base.errors import FieldError

MAX_MESSAGE_LENGTH = 5 * 1024  # of a messageExpression's result, as upstream
MAX_DEPTH = 64  # of schemas that are searched for rules

_ABSENT: Any = object()
_ALWAYS_THERE = ("apiVersion", "kind", "metadata")
_RESERVED = frozenset(
    [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)
_LITERALS = ("true", "false", "null", "in")
_ESCAPES = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}
_REASONS = {
    "FieldValueInvalid": "Invalid",
    "FieldValueForbidden": "Forbidden",
    "FieldValueRequired": "Required",
    "FieldValueDuplicate": "Duplicate",
}


@lru_cache(maxsize=4096)
def escape(name: str) -> str | None:
    """A property's name as CEL spells it; None for a name that rules cannot reach.

    >>> escape("foo-bar"), escape("namespace"), escape("a__b"), escape("0x")
    ('foo__dash__bar', '__namespace__', 'a__underscores__b', None)
    """
    if name in _RESERVED:
        return f"__{name}__"
    escaped = re.sub(r"__|[./-]", lambda match: _ESCAPES[match[0]], name)
    return escaped if re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", escaped) else None


@lru_cache(maxsize=4096)
def spellings(name: str) -> tuple[str, ...]:
    """All names by which rules may reach a property.

    Published CRDs write ``self.namespace`` beside the documented ``self.__namespace__``: CEL's
    grammar reserves only the literals and ``in`` after a dot.
    """
    escaped = escape(name)
    if escaped is None:
        return ()
    raw = name in _RESERVED and name not in _LITERALS
    return (escaped, name) if raw else (escaped,)


@dataclass(frozen=True, slots=True)
class Rule:
    """One compiled entry of ``x-kubernetes-validations``."""

    text: str
    message: str
    reason: str
    field_path: str
    transition: bool
    optional_old: bool
    program: cel.Expression = field(repr=False)
    message_program: cel.Expression | None = field(repr=False)


@dataclass(slots=True)
class RuleNode:
    """The rules at one place of a schema and the places below that have some."""

    schema: Schema
    rules: list[Rule] = field(default_factory=list)
    fields: dict[str, RuleNode] = field(default_factory=dict)
    items: RuleNode | None = None
    values: RuleNode | None = None

    def __bool__(self) -> bool:
        return bool(self.rules or self.fields or self.items or self.values)


@dataclass(frozen=True, slots=True)
class Rules:
    """All rules of a schema; ``errors`` are those that do not compile, by place in the schema."""

    root: RuleNode
    errors: list[FieldError]

    def evaluate(self, new: Any, old: Any = None, path: str = "") -> list[FieldError]:
        """What the rules say against a document (``old`` None on create)."""
        if not self.root:
            return []
        return list(_evaluate(self.root, new, _ABSENT if old is None else old, path))


def compile_rules(schema: Schema, path: str = "openAPIV3Schema") -> Rules:
    """The rules of a schema and all below. Never raises: faults are in ``errors``."""
    errors: list[FieldError] = []
    return Rules(_collect(schema, path, errors, 0), errors)


def _collect(schema: Schema, path: str, errors: list[FieldError], depth: int) -> RuleNode:
    node = RuleNode(schema)
    if depth > MAX_DEPTH:
        return node
    for at, declared in enumerate(schema.validations):
        try:
            node.rules.append(_compile(schema, declared))
        except CelCompileError as error:
            where = f"{path}.x-kubernetes-validations[{at}].rule"
            errors.append(FieldError("Invalid", where, declared.get("rule"), str(error)))
    for name, child in schema.fields().items():
        below = _collect(child, f"{path}.properties[{name}]", errors, depth + 1)
        if below:
            node.fields[name] = below
    if schema.items is not None:
        node.items = _collect(schema.items, f"{path}.items", errors, depth + 1) or None
    if schema.additional is not None:
        below = _collect(schema.additional, f"{path}.additionalProperties", errors, depth + 1)
        node.values = below or None
    return node


# --- compiling ----------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _environment(self_type: str, optional_old: bool) -> Environment:
    old = f"optional_type<{self_type}>" if optional_old else self_type
    return Environment({"self": self_type, "oldSelf": old})


def cel_type(schema: Schema) -> str:
    """The type that the checker knows a value of this schema by."""
    if schema.int_or_string or schema.nullable:
        return "dyn"
    if schema.type == "array":
        return f"list<{cel_type(schema.items)}>" if schema.items is not None else "list<dyn>"
    if schema.type == "object" and schema.additional is not None and not schema.has_fields:
        return f"map<string,{cel_type(schema.additional)}>"
    if schema.type == "string":
        return _FORMAT_TYPES.get(schema.format, "string")
    return {"integer": "int", "number": "double", "boolean": "bool"}.get(schema.type, "dyn")


_FORMAT_TYPES = {
    "date-time": "timestamp",
    "date": "timestamp",
    "duration": "duration",
    "byte": "bytes",
}


def _compile(schema: Schema, declared: Mapping[str, Any]) -> Rule:
    text = declared.get("rule", "")
    optional = bool(declared.get("optionalOldSelf"))
    program, transition = _program(schema, text, optional, "bool")
    message_expression = declared.get("messageExpression")
    message_program = None
    if message_expression:
        message_program, _ = _program(schema, message_expression, optional, "string")
    return Rule(
        text=text,
        message=(declared.get("message") or f"failed rule: {' '.join(text.split())}").strip(),
        reason=_REASONS.get(declared.get("reason") or "", "Invalid"),
        field_path=declared.get("fieldPath") or "",
        transition=transition,
        optional_old=optional,
        program=program,
        message_program=message_program,
    )


def _program(schema: Schema, text: str, optional: bool, wanted: str) -> tuple[cel.Expression, bool]:
    if not text.strip():
        raise CelCompileError("rule is not specified")
    environment = _environment(cel_type(schema), optional)
    checked, result = environment.check(text)
    if result not in (wanted, "dyn"):
        raise CelCompileError(f"cel expression must evaluate to a {wanted}, not {result}")
    check_fields(checked, {"self": schema, "oldSelf": schema})
    uses_old = any(node.kind == "ident" and node.name == "oldSelf" for node in checked.root.walk())
    if optional and uses_old:
        _optional_old_self(checked)
    return environment.link(checked), uses_old


def _optional_old_self(checked: ast.Checked) -> None:
    """``oldSelf`` becomes ``oldSelf[?0]`` of a list of none or one."""
    fresh = checked.next_id()
    for node in list(checked.root.walk()):
        if node.kind == "ident" and node.name == "oldSelf":
            inner = ast.Expr(fresh, "ident", "oldSelf")
            zero = ast.Expr(fresh + 1, "const", raw=INT_ZERO)
            # A new id: the old one is on record as a variable, which a call must not be.
            node.id, node.kind, node.name, node.args = fresh + 2, "call", "_[?_]", [inner, zero]
            fresh += 3


def check_fields(checked: ast.Checked, variables: Mapping[str, Schema]) -> None:
    """Find selections of fields that the schema does not declare. Raises CelCompileError.

    Reads of timestamps and durations become ``timestamp(...)`` and ``duration(...)`` of their text,
    since cel-cpp's Python binding takes neither from us.
    """
    check = _FieldCheck(dict(variables))
    check.visit(checked.root)
    fresh = checked.next_id()
    for node, function in check.converted:
        inner = ast.Expr(node.id, node.kind, node.name, node.operand, node.args)
        node.id, node.kind, node.name = fresh, "call", function
        node.operand, node.args = None, [inner]
        fresh += 1


@dataclass(slots=True)
class _FieldCheck:
    scope: dict[str, Schema | None]
    converted: list[tuple[ast.Expr, str]] = field(default_factory=list)

    def visit(self, node: ast.Expr) -> Schema | None:
        """Check a subtree; the schema of its value where that is known."""
        schema = self._schema_of(node)
        if schema is not None and schema.type == "string" and _reads_data(node):
            function = _FORMAT_TYPES.get(schema.format)
            if function in ("timestamp", "duration"):
                self.converted.append((node, function))
        return schema

    def _schema_of(self, node: ast.Expr) -> Schema | None:
        if node.kind == "ident":
            return self.scope.get(node.name)
        if node.kind == "select" and node.operand is not None:
            return self._select(self.visit(node.operand), node.name, node.test)
        if node.kind == "call":
            return self._call(node)
        if node.kind == "comprehension":
            return self._comprehension(node)
        for child in node.children():
            self.visit(child)
        return None

    def _select(self, schema: Schema | None, name: str, test: bool) -> Schema | None:
        if schema is None or schema.type != "object" or schema.embedded_resource:
            return None
        if schema.additional is not None and not schema.has_fields:
            return schema.additional
        for declared, child in schema.fields().items():
            if name in spellings(declared):
                return None if test else child
        if name in _ALWAYS_THERE or (schema.preserve_unknown and not schema.has_fields):
            return None
        raise CelCompileError(f"compilation failed: undefined field '{name}'")

    def _call(self, node: ast.Expr) -> Schema | None:
        schemas = [self.visit(child) for child in node.children()]
        if node.name in ("_[_]", "_[?_]") and schemas[0] is not None:
            return schemas[0].items or schemas[0].additional
        if node.name == "_?._" and schemas[0] is not None:
            return self._select(schemas[0], ast.text_constant(node.args[1]), False)
        return schemas[0] if node.name in ("orValue", "value", "optional.of") else None

    def _comprehension(self, node: ast.Expr) -> Schema | None:
        source, initial, condition, step, result = node.args
        range_schema, initial_schema = self.visit(source), self.visit(initial)
        outer = dict(self.scope)
        is_list = range_schema is not None and range_schema.items is not None
        element = range_schema.items if is_list and range_schema is not None else None
        self.scope[node.name] = None if node.name2 else element
        if node.name2:
            mapped = range_schema.additional if range_schema is not None else None
            self.scope[node.name2] = element or mapped
        self.scope[node.accumulator] = initial_schema
        for part in (condition, step):
            self.visit(part)
        value = self.visit(result)
        self.scope = outer
        return value


def _reads_data(node: ast.Expr) -> bool:
    """Whether a node takes a value out of the document rather than passing one on."""
    return node.kind in ("ident", "select") or node.name == "_[_]"


# --- evaluating ---------------------------------------------------------------------------------


def _evaluate(node: RuleNode, new: Any, old: Any, path: str) -> Iterator[FieldError]:
    if new is None:
        return
    if node.rules:
        yield from _run(node, new, old, path)
    if isinstance(new, dict):
        for name, value in new.items():
            below = node.fields.get(name)
            where = f"{path}.{name}" if path else name
            if below is None and name not in node.schema.field_names:
                below, where = node.values, f"{path}[{name}]"
            if below is not None:
                yield from _evaluate(below, value, _old_member(node.schema, old, name), where)
    elif isinstance(new, list) and node.items is not None:
        matching = _old_items(node.schema, old)
        for at, item in enumerate(new):
            before = matching.get(_item_key(node.schema, item), _ABSENT)
            yield from _evaluate(node.items, item, before, f"{path}[{at}]")


def _old_member(schema: Schema, old: Any, name: str) -> Any:
    if not isinstance(old, dict) or schema.map_type == "atomic":
        return _ABSENT
    value = old.get(name, _ABSENT)
    return _ABSENT if value is None else value


def _item_key(schema: Schema, item: Any) -> str:
    if not isinstance(item, dict):
        return ""
    return repr([item.get(key) for key in schema.list_map_keys])


def _old_items(schema: Schema, old: Any) -> dict[str, Any]:
    """Old items by key; only lists of type map can be correlated."""
    if schema.list_type != "map" or not schema.list_map_keys or not isinstance(old, list):
        return {}
    return {_item_key(schema, item): item for item in old if isinstance(item, dict)}


def _run(node: RuleNode, new: Any, old: Any, path: str) -> Iterator[FieldError]:
    unchanged = old is not _ABSENT and old == new
    before = _ABSENT if old is _ABSENT else to_cel(old, node.schema)
    data = {"self": to_cel(new, node.schema)}
    for rule in node.rules:
        if rule.transition and before is _ABSENT and not rule.optional_old:
            continue
        if unchanged and not rule.transition:
            continue
        variables = dict(data)
        if rule.transition:
            wrapped = [] if before is _ABSENT else [before]
            variables["oldSelf"] = wrapped if rule.optional_old else before
        error = _judge(rule, variables, node.schema, path)
        if error is not None:
            yield error


def _judge(rule: Rule, data: dict[str, Any], schema: Schema, path: str) -> FieldError | None:
    shown = schema.type or "any"
    try:
        if _result(rule.program, data) is True:
            return None
    except CelRuntimeError as error:
        return FieldError(
            "Invalid", path or "<nil>", shown, f"{error} evaluating rule: {rule.text}"
        )
    where = path + rule.field_path
    message = _message(rule, data)
    return FieldError(rule.reason, where.lstrip(".") or "<nil>", shown, message)


def _result(program: cel.Expression, data: dict[str, Any]) -> Any:
    try:
        result = program.eval(data=data)
    except (RuntimeError, TypeError, SystemError) as error:  # cel-cpp gives up without an error
        raise CelRuntimeError(str(error)) from error
    value = result.plain_value()
    if result.type() == cel.Type.ERROR:
        raise CelRuntimeError(runtime_message(str(value)))
    return value


def _message(rule: Rule, data: dict[str, Any]) -> str:
    if rule.message_program is not None:
        try:
            text = _result(rule.message_program, data)
        except CelRuntimeError:
            return rule.message
        usable = isinstance(text, str) and text.strip() and "\n" not in text.strip()
        if usable and len(text) <= MAX_MESSAGE_LENGTH:
            return str(text).strip()
    return rule.message


def to_cel(value: Any, schema: Schema | None) -> Any:
    """A JSON value as rules see it: typed strings converted, field names escaped."""
    if schema is None or value is None:
        return value
    if isinstance(value, dict):
        if not schema.has_fields:
            return {key: to_cel(member, schema.additional) for key, member in value.items()}
        members = {}
        for key, member in value.items():
            declared = schema.field(key)
            known = declared is not None or key in _ALWAYS_THERE
            if member is not None:
                converted = to_cel(member, declared or schema.additional)
                for name in spellings(key) if known else (key,):
                    members[name] = converted
        return members
    if isinstance(value, list):
        return [to_cel(item, schema.items) for item in value]
    if schema.type == "number" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if schema.type == "string" and schema.format in _FORMAT_TYPES and isinstance(value, str):
        return _from_format(value, schema.format)
    return value


def _from_format(text: str, format_: str) -> Any:
    """A typed string for cel-cpp: bytes decoded, dates completed. Malformed text stays as it is."""
    if format_ == "byte":
        try:
            return base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            return text
    return f"{text}T00:00:00Z" if format_ == "date" else text
