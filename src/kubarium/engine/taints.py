"""Taints and what tolerates them: the same rule for nodes and for devices."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kubarium.engine.selectors import compares

# Integers that Gt and Lt compare, as one would write them (KEP-5471; upstream: IsDecimalInteger).
_DECIMAL = re.compile(r"(?:0|-?[1-9][0-9]*)\Z")


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
            return compares(self.operator, taint.value, self.value, _DECIMAL)
        return self.operator in ("Equal", "") and self.value == taint.value
