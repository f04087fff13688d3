"""Label and node selectors as values: clauses, and terms of clauses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

# What Go's strconv.ParseInt reads; Python's int reads more, such as 1_000.
_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_INT64 = range(-(2**63), 2**63)


def compares(operator: str, value: str, bound: str, form: re.Pattern[str] = _INTEGER) -> bool:
    """Whether a value is greater (Gt) or less (Lt) than the bound.

    False if either is no integer of 64 bits, written as ``form`` wants it.
    """
    numbers = [int(text) for text in (value, bound) if form.match(text)]
    if len(numbers) < 2 or any(number not in _INT64 for number in numbers):
        return False
    return numbers[0] > numbers[1] if operator == "Gt" else numbers[0] < numbers[1]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One clause of a selector. Operators: In, NotIn, Exists, DoesNotExist, Gt, Lt."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def holds(self, value: str | None) -> bool:
        """Whether a label with ``value`` (None: absent) satisfies the clause."""
        match self.operator:
            case "In":
                return value is not None and value in self.values
            case "NotIn":
                return value is None or value not in self.values
            case "Exists":
                return value is not None
            case "DoesNotExist":
                return value is None
            case "Gt" | "Lt":
                known = value is not None and bool(self.values)
                return known and compares(self.operator, value or "", self.values[0])
        return False

    def __str__(self) -> str:
        if self.operator in ("Exists", "DoesNotExist"):
            return f"{self.key} {self.operator}"
        if self.operator == "In" and len(self.values) == 1:
            return f"{self.key}={self.values[0]}"
        return f"{self.key} {self.operator} {', '.join(self.values)}"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All clauses must hold; no clauses match everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(r.holds(labels.get(r.key)) for r in self.requirements)


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """A node selector term: all label and field clauses must hold; an empty term never does."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        if not self.labels and not self.fields:
            return False
        return all(r.holds(labels.get(r.key)) for r in self.labels) and all(
            r.key == "metadata.name" and r.holds(name) for r in self.fields
        )
