"""How large the values of an expression about a device can be, by the limits of the API.

A size is a pair of the least and the most: characters of a string, entries of a list or map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from kubarium.api.cel import ast

UNBOUNDED = 2**64 - 1

Size = tuple[int, int]
# From the variable on: names of fields, ``@keys``, ``@values``, ``@items``, ``@indices``.
Path = tuple[str, ...]

ONE: Size = (1, 1)
NOTHING_KNOWN: Size = (0, UNBOUNDED)
FALSE = b"\x10\x00"  # Constant{bool_value: false}


def fixed(size: int) -> Size:
    return size, size


def added(left: Size, right: Size) -> Size:
    return min(UNBOUNDED, left[0] + right[0]), min(UNBOUNDED, left[1] + right[1])


def multiplied(left: Size, right: Size) -> Size:
    return min(UNBOUNDED, left[0] * right[0]), min(UNBOUNDED, left[1] * right[1])


def united(left: Size, right: Size) -> Size:
    return min(left[0], right[0]), max(left[1], right[1])


def scaled(size: Size, factor: float) -> Size:
    """Times a factor, rounded up, as floating point has it.

    >>> scaled((0, 63), 0.1)
    (0, 7)
    """
    return _scaled(size[0], factor), _scaled(size[1], factor)


def _scaled(number: int, factor: float) -> int:
    return min(UNBOUNDED, math.ceil(float(number) * factor))


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of a ``list`` or ``map``: sizes of keys (of indices: 1) and values."""

    kind: str
    key: Size
    value: Size

    def united(self, other: Entries) -> Entries:
        return Entries(self.kind, united(self.key, other.key), united(self.value, other.value))


@dataclass(frozen=True, slots=True)
class _Declared:
    """What the API says of a part of a device."""

    most: int
    kind: str = ""
    key: _Declared | None = None
    element: _Declared | None = None
    fields: dict[str, _Declared] = field(default_factory=dict)


_NAME, _DOMAIN = _Declared(32), _Declared(63)
_ATTRIBUTE = _Declared(64)
_QUANTITY = _Declared(0)  # nothing is said of its size


def _domains(value: _Declared) -> _Declared:
    """32 names in each of 32 domains at most."""
    return _Declared(32, "map", _DOMAIN, _Declared(32, "map", _NAME, value))


_DEVICE = _Declared(
    0,
    "message",
    fields={
        "driver": _Declared(63),
        "attributes": _domains(_ATTRIBUTE),
        "capacity": _domains(_QUANTITY),
        "allowMultipleAllocations": _Declared(1),
    },
)


def _declared(path: Path) -> _Declared | None:
    if not path or path[0] != "device":
        return None
    here: _Declared | None = _DEVICE
    for step in path[1:]:
        if here is None:
            return None
        if step in ("@items", "@values"):
            here = here.element
        elif step == "@keys":
            here = here.key
        elif step in here.fields:
            here = here.fields[step]
        else:  # an attribute by its name; of capacities that are selected so nothing is known
            here = _ATTRIBUTE if here.element is _ATTRIBUTE else None
    return here


def declared_size(path: Path) -> Size | None:
    """The size of what is found there in a device; None if it is not of a device."""
    found = _declared(path)
    return None if found is None else (0, found.most)


def declared_kind(path: Path) -> str:
    """``message`` for the device, ``map`` for its maps, "" for all else."""
    found = _declared(path)
    return "" if found is None else found.kind


def size_of_constant(node: ast.Expr) -> Size | None:
    """The size of a constant, or of a list or map as it is written; None for other nodes."""
    if node.kind == "const":
        return fixed(ast.constant_size(node))
    if node.kind == "list":
        return fixed(len(node.args))
    if node.kind == "struct" and not node.name:
        return fixed(len(node.entries))
    return None
