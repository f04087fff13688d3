"""Checked CEL expressions as a small tree that can be read and rewritten.

cel-cpp hands out a checked expression only in its serialised form, a ``cel.expr.CheckedExpr``
(cel-spec ``proto/cel/expr/checked.proto`` and ``syntax.proto``) inside a ``google.protobuf.Any``.
This module decodes the part that we look at and keeps the rest as it came.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

_VARINT, _BYTES = 0, 2
# Expr: the number of each member of the oneof.
_CONST, _IDENT, _SELECT, _CALL, _LIST, _STRUCT, _COMPREHENSION = range(3, 10)

RawField = tuple[int, int, int | bytes]  # number, wire type, value


class AstError(ValueError):
    """The bytes are not a CheckedExpr that this module understands."""


@dataclass(slots=True)
class Expr:
    """One node. ``kind`` says which of the members mean something:

    - ``const``: ``raw`` (a serialised Constant)
    - ``ident``: ``name``
    - ``select``: ``operand``, ``name`` (the field), ``test`` (it was a ``has()``)
    - ``call``: ``operand`` (the receiver or None), ``name``, ``args``
    - ``list``: ``args``, ``raw`` (optional indices)
    - ``struct``: ``name`` (message, "" for a map), ``entries``
    - ``comprehension``: ``name`` and ``name2`` (loop variables), ``accumulator``, and ``args``:
      range, initial value, condition, step, result
    """

    id: int
    kind: str
    name: str = ""
    operand: Expr | None = None
    args: list[Expr] = field(default_factory=list)
    raw: bytes = b""
    test: bool = False
    entries: list[Entry] = field(default_factory=list)
    name2: str = ""
    accumulator: str = ""

    def children(self) -> Iterator[Expr]:
        """Direct subexpressions in order of evaluation."""
        if self.operand is not None:
            yield self.operand
        yield from self.args
        for entry in self.entries:
            if entry.key is not None:
                yield entry.key
            yield entry.value

    def walk(self) -> Iterator[Expr]:
        """This node and all below it."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children())


@dataclass(slots=True)
class Entry:
    """A map entry or message field in a ``struct``."""

    id: int
    key: Expr | None
    field: str
    value: Expr
    optional: bool = False


@dataclass(slots=True)
class Checked:
    """A checked expression: its tree, what each node refers to, and the rest untouched."""

    root: Expr
    names: dict[int, str]
    """Qualified variable names by node id (``device.driver`` for a select on ``device``)."""
    overloads: dict[int, tuple[str, ...]]
    """Overload ids by node id, for calls."""
    types: dict[int, bytes]
    """Static types (serialised) by node id, of nodes of whose type the checker says something."""
    _rest: list[RawField]
    _type_url: bytes

    def made_of(self, node: Expr) -> frozenset[str]:
        """What a node's static type is made of: ``dyn``, ``optional``, ``type``.

        Of other parts nothing is said; ``dyn`` where the checker says nothing.
        """
        return _parts(self.type_of(node))

    def type_of(self, node: Expr) -> bytes:
        """A node's static type; equal types are equal bytes, and Any is dyn."""
        found = self.types.get(node.id, _DYN)
        return _DYN if _parts(found) == {"dyn"} and found[:1] in _DYN_TAGS else found

    def element_type(self, node: Expr) -> bytes:
        """What an optional holds; the type itself for any other."""
        found = self.type_of(node)
        for number, _, value in _fields(found):
            if number == _ABSTRACT:
                fields = _fields(_blob(value))
                inner = [_blob(v) for n, _, v in fields if n != 1]
                if fields[0][2] == b"optional_type" and inner:
                    return inner[0]
        return found

    def position(self, node: Expr) -> int:
        """Where a node is in the text of the expression, in characters from its start."""
        for number, _, info in self._rest:
            if number == _SOURCE_INFO:
                for inner, _, entry in _fields(_blob(info)):
                    if inner == _POSITIONS:
                        pair = {n: value for n, _, value in _fields(_blob(entry))}
                        if pair.get(1, 0) == node.id and isinstance(found := pair.get(2, 0), int):
                            return found
        return 0

    def next_id(self) -> int:
        """An id that no node has yet."""
        return 1 + max(max((e.id for e in node.entries), default=node.id) for node in self._nodes())

    def _nodes(self) -> Iterator[Expr]:
        return self.root.walk()


# --- decoding -----------------------------------------------------------------------------------


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A base-128 number and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> list[RawField]:
    fields: list[RawField] = []
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = read_varint(data, at)
            fields.append((number, wire, value))
        elif wire == _BYTES:
            size, at = read_varint(data, at)
            fields.append((number, wire, data[at : at + size]))
            at += size
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            fields.append((number, wire, data[at : at + size]))
            at += size
        else:
            raise AstError(f"wire type {wire}")
    return fields


def _blob(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise AstError("a message was expected")
    return value


def _text(value: int | bytes) -> str:
    return _blob(value).decode()


def parse(serialized: bytes) -> Checked:
    """The tree of what ``Expression.serialize()`` returned."""
    any_fields = {number: value for number, _, value in _fields(serialized)}
    names: dict[int, str] = {}
    overloads: dict[int, tuple[str, ...]] = {}
    types: dict[int, bytes] = {}
    rest: list[RawField] = []
    root: Expr | None = None
    for number, wire, value in _fields(_blob(any_fields.get(2, b""))):
        if number == 4:
            root = _expr(_blob(value))
        else:
            rest.append((number, wire, value))
            if number == 2:
                _reference(_blob(value), names, overloads)
            elif number == 3:
                node_id, type_ = _type_entry(_blob(value))
                types[node_id] = type_
    if root is None:
        raise AstError("no expression")
    return Checked(root, names, overloads, types, rest, _blob(any_fields[1]))


def _reference(data: bytes, names: dict[int, str], overloads: dict[int, tuple[str, ...]]) -> None:
    entry = {number: value for number, _, value in _fields(data)}
    node_id = entry.get(1, 0)
    if not isinstance(node_id, int):
        raise AstError("reference without an id")
    ids = []
    for number, _, value in _fields(_blob(entry.get(2, b""))):
        if number == 1 and value:
            names[node_id] = _text(value)
        elif number == 3:
            ids.append(_text(value))
    if ids:
        overloads[node_id] = tuple(ids)


# CheckedExpr: the source information, and in it the positions by node id.
_SOURCE_INFO, _POSITIONS = 5, 4
# Type: the numbers of members of the oneof that matter here.
_DYN_TYPE, _WELL_KNOWN, _LIST_TYPE, _MAP_TYPE, _TYPE_TYPE, _ABSTRACT = 1, 5, 6, 7, 11, 14
_ANY = 1  # of the well-known types
_DYN = b"\x0a\x00"  # Type{dyn: {}}
_DYN_TAGS = (b"\x0a", b"\x28")  # of dyn and of a well-known type


def _type_entry(data: bytes) -> tuple[int, bytes]:
    entry = {number: value for number, _, value in _fields(data)}
    node_id = entry.get(1, 0)
    if not isinstance(node_id, int):
        raise AstError("type without an id")
    return node_id, _blob(entry.get(2, b""))


@lru_cache(maxsize=4096)
def _parts(type_: bytes) -> frozenset[str]:
    found: set[str] = set()
    for number, _, value in _fields(type_):
        if number == _DYN_TYPE or (number == _WELL_KNOWN and value == _ANY):
            found.add("dyn")
        elif number == _TYPE_TYPE:
            found.add("type")
        elif number in (_LIST_TYPE, _MAP_TYPE):
            for _, _, inner in _fields(_blob(value)):
                found |= _parts(_blob(inner))
        elif number == _ABSTRACT:
            for field_number, _, inner in _fields(_blob(value)):
                if field_number == 1:
                    found |= {"optional"} if inner == b"optional_type" else set()
                else:
                    found |= _parts(_blob(inner))
    return frozenset(found)


def _expr(data: bytes) -> Expr:
    node_id, kind, body = 0, 0, b""
    for number, _, value in _fields(data):
        if number == 2 and isinstance(value, int):
            node_id = value
        elif _CONST <= number <= _COMPREHENSION:
            kind, body = number, _blob(value)
    if kind == _CONST:
        return Expr(node_id, "const", raw=body)
    if kind not in _DECODERS:
        raise AstError(f"expression kind {kind}")
    name, decoder = _DECODERS[kind]
    node = Expr(node_id, name)
    for number, _, value in _fields(body):
        decoder(node, number, value)
    return node


def _decode_ident(node: Expr, number: int, value: int | bytes) -> None:
    if number == 1:
        node.name = _text(value)


def _decode_select(node: Expr, number: int, value: int | bytes) -> None:
    if number == 1:
        node.operand = _expr(_blob(value))
    elif number == 2:
        node.name = _text(value)
    elif number == 3:
        node.test = bool(value)


def _decode_call(node: Expr, number: int, value: int | bytes) -> None:
    if number == 1:
        node.operand = _expr(_blob(value))
    elif number == 2:
        node.name = _text(value)
    elif number == 3:
        node.args.append(_expr(_blob(value)))


def _decode_list(node: Expr, number: int, value: int | bytes) -> None:
    if number == 1:
        node.args.append(_expr(_blob(value)))
    elif number == 2:
        node.raw += _blob(value) if isinstance(value, bytes) else _encoderead_varint(value)


def _decode_struct(node: Expr, number: int, value: int | bytes) -> None:
    if number == 1:
        node.name = _text(value)
    elif number == 2:
        node.entries.append(_entry(_blob(value)))


def _entry(data: bytes) -> Entry:
    entry = Entry(0, None, "", Expr(0, "const"))
    for number, _, value in _fields(data):
        if number == 1 and isinstance(value, int):
            entry.id = value
        elif number == 2:
            entry.field = _text(value)
        elif number == 3:
            entry.key = _expr(_blob(value))
        elif number == 4:
            entry.value = _expr(_blob(value))
        elif number == 5:
            entry.optional = bool(value)
    return entry


def _decode_comprehension(node: Expr, number: int, value: int | bytes) -> None:
    if number == 1:
        node.name = _text(value)
    elif number == 3:
        node.accumulator = _text(value)
    elif number == 8:
        node.name2 = _text(value)
    else:  # 2 range, 4 initial value, 5 condition, 6 step, 7 result: in this order on the wire
        node.args.append(_expr(_blob(value)))


_DECODERS = {
    _IDENT: ("ident", _decode_ident),
    _SELECT: ("select", _decode_select),
    _CALL: ("call", _decode_call),
    _LIST: ("list", _decode_list),
    _STRUCT: ("struct", _decode_struct),
    _COMPREHENSION: ("comprehension", _decode_comprehension),
}


def is_text(node: Expr) -> bool:
    """Whether a node is a string constant."""
    return node.kind == "const" and bool(node.raw) and node.raw[0] >> 3 == 6


def text_constant(node: Expr) -> str:
    """The text of a string constant; "" for any other node."""
    if not is_text(node):
        return ""
    size, at = read_varint(node.raw, 1)
    return node.raw[at : at + size].decode()


def text_literal(text: str) -> bytes:
    """What a string constant holds (Constant{string_value})."""
    return _encode(6, text)


def constant_size(node: Expr) -> int:
    """Characters of a string constant, bytes of one of bytes; 1 of any other."""
    raw = node.raw
    if raw and raw[0] >> 3 in (6, 7):
        size, at = read_varint(raw, 1)
        return len(raw[at : at + size].decode(errors="replace")) if raw[0] >> 3 == 6 else size
    return 1


def int_constant(node: Expr, default: int) -> int:
    """The value of an int constant; the default for any other node."""
    if node.kind != "const" or not node.raw or node.raw[0] != _INT_CONSTANT:
        return default
    value, _ = read_varint(node.raw, 1)
    return value - 2**64 if value >= 2**63 else value


_INT_CONSTANT = 3 << 3 | _VARINT
# Type: members of the oneof by the kind of type that they are, and primitive types by theirs.
_TYPE_KINDS = {1: "dyn", 2: "null", 6: "list", 7: "map", 9: "message", 10: "parameter", 11: "type"}
_PRIMITIVES = ("", "bool", "int", "uint", "double", "string", "bytes")
_WELL_KNOWNS = ("", "any", "timestamp", "duration")
_SCALARS = frozenset(["bool", "int", "uint", "double", "timestamp", "duration"])


@lru_cache(maxsize=4096)
def type_kind(type_: bytes) -> str:
    """``list``, ``map``, ``string`` and so on; ``opaque`` for a type that is only known by name."""
    for number, _, value in _fields(type_):
        if number in (3, _WELL_KNOWN) and isinstance(value, int):
            return (_PRIMITIVES if number == 3 else _WELL_KNOWNS)[value]
        return _TYPE_KINDS.get(number, "opaque")
    return "dyn"


def type_name(type_: bytes) -> str:
    """The name of a message type or opaque type; "" for all others."""
    for number, _, value in _fields(type_):
        if number == 9:
            return _text(value)
        if number == _ABSTRACT:
            return next((_text(v) for n, _, v in _fields(_blob(value)) if n == 1), "")
    return ""


def type_parameters(type_: bytes) -> list[bytes]:
    """What a list, a map or an opaque type is of."""
    for number, _, value in _fields(type_):
        if number in (_LIST_TYPE, _MAP_TYPE):
            return [_blob(v) for _, _, v in _fields(_blob(value))]
        if number == _TYPE_TYPE:
            return [_blob(value)] if value else []
        if number == _ABSTRACT:
            return [_blob(v) for n, _, v in _fields(_blob(value)) if n == 2]
    return []


def type_text(type_: bytes, *, short: bool = False) -> str:
    """A type in cel-go's words, ``map(string, dyn)``; ``short`` has timestamp, any and null."""
    kind = type_kind(type_) if type_ else "dyn"
    if not short and kind in _LONG_NAMES:
        return _LONG_NAMES[kind]
    if kind in ("message", "opaque", "parameter"):
        kind = type_name(type_) or "dyn"
    inner = [type_text(parameter, short=short) for parameter in type_parameters(type_)]
    return f"{kind}({', '.join(inner)})" if inner else kind


_LONG_NAMES = {
    "any": "google.protobuf.Any",
    "timestamp": "google.protobuf.Timestamp",
    "duration": "google.protobuf.Duration",
    "null": "null_type",
}


def is_scalar(type_: bytes) -> bool:
    """Whether all values of the type have the same size; optionals count as what they hold."""
    if type_name(type_) == "optional_type":
        inner = type_parameters(type_)
        return bool(inner) and is_scalar(inner[0])
    return type_kind(type_) in _SCALARS


# --- encoding -----------------------------------------------------------------------------------


def _encoderead_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _encode(number: int, value: int | bytes | str | bool, wire: int = _BYTES) -> bytes:
    if isinstance(value, int):
        return _encoderead_varint(number << 3 | _VARINT) + _encoderead_varint(int(value))
    if isinstance(value, str):
        value = value.encode()
    if wire != _BYTES:
        return _encoderead_varint(number << 3 | wire) + value
    return _encoderead_varint(number << 3 | _BYTES) + _encoderead_varint(len(value)) + value


def dump(checked: Checked) -> bytes:
    """The bytes for ``Env.deserialize()``."""
    body = b"".join(_encode(number, value, wire) for number, wire, value in checked._rest)
    body += _encode(4, _encode_expr(checked.root))
    return _encode(1, checked._type_url) + _encode(2, body)


def _encode_expr(node: Expr) -> bytes:
    number, body = _ENCODERS[node.kind](node)
    return _encode(2, node.id) + _encode(number, body)


def _encode_operand(node: Expr) -> bytes:
    return b"" if node.operand is None else _encode(1, _encode_expr(node.operand))


def _encode_select(node: Expr) -> tuple[int, bytes]:
    body = _encode_operand(node) + _encode(2, node.name)
    return _SELECT, body + (_encode(3, True) if node.test else b"")


def _encode_call(node: Expr) -> tuple[int, bytes]:
    args = b"".join(_encode(3, _encode_expr(arg)) for arg in node.args)
    return _CALL, _encode_operand(node) + _encode(2, node.name) + args


def _encode_list(node: Expr) -> tuple[int, bytes]:
    items = b"".join(_encode(1, _encode_expr(arg)) for arg in node.args)
    return _LIST, items + (_encode(2, node.raw) if node.raw else b"")


def _encode_struct(node: Expr) -> tuple[int, bytes]:
    entries = b"".join(_encode(2, _encode_entry(entry)) for entry in node.entries)
    return _STRUCT, (_encode(1, node.name) if node.name else b"") + entries


def _encode_entry(entry: Entry) -> bytes:
    key = _encode(2, entry.field) if entry.key is None else _encode(3, _encode_expr(entry.key))
    optional = _encode(5, True) if entry.optional else b""
    return _encode(1, entry.id) + key + _encode(4, _encode_expr(entry.value)) + optional


def _encode_comprehension(node: Expr) -> tuple[int, bytes]:
    source, initial, condition, step, result = map(_encode_expr, node.args)
    body = _encode(1, node.name) + _encode(2, source) + _encode(3, node.accumulator)
    body += _encode(4, initial) + _encode(5, condition) + _encode(6, step) + _encode(7, result)
    return _COMPREHENSION, body + (_encode(8, node.name2) if node.name2 else b"")


_ENCODERS = {
    "const": lambda node: (_CONST, node.raw),
    "ident": lambda node: (_IDENT, _encode(1, node.name)),
    "select": _encode_select,
    "call": _encode_call,
    "list": _encode_list,
    "struct": _encode_struct,
    "comprehension": _encode_comprehension,
}
