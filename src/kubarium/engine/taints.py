"""Taints and what tolerates them: the same rule for nodes and for devices."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Integers that Gt and Lt compare, as one would write them (upstream: IsDecimalInteger, ParseInt).
_DECIMAL = re.compile(r"(?:0|-?[1-9][0-9]*)\Z")
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint on a node or a device."""

    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        return (
            f"{self.key}={self.value}:{self.effect}" if self.value else f"{self.key}:{self.effect}"
        )


@dataclass(frozen=True, slots=True)
class Toleration:
    """A toleration; an empty key stands for all keys, an empty effect for all effects.

    Nodes' tolerations have a key unless the operator is Exists; those of devices need none.
    """

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def tolerates(self, taint: Taint) -> bool:
        if self.effect and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        if self.operator == "Exists":
            return True
        if self.operator in ("Gt", "Lt"):
            return compares(self.operator, taint.value, self.value)
        return self.operator in ("Equal", "") and self.value == taint.value


def compares(operator: str, value: str, bound: str) -> bool:
    """Whether a taint's value is greater (Gt) or less (Lt) than the bound (KEP-5471).

    False if either is no decimal integer of 64 bits, in the form in which one would write it.
    """
    numbers = [int(text) for text in (value, bound) if _DECIMAL.match(text)]
    if len(numbers) < 2 or any(number not in _INT64 for number in numbers):
        return False
    return numbers[0] > numbers[1] if operator == "Gt" else numbers[0] < numbers[1]
