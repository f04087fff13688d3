"""matchAttribute and distinctAttribute while devices are added and taken back.

A missing attribute fails. Lists match when all share at least one value and are distinct when
pairwise disjoint; a scalar is a list of one. Unlike upstream before 1.37.1, distinctAttribute also
compares devices inside one request (kubernetes#140438).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from kubarium.engine.devices.model import AttributeValue, Constraint, Device, Features

UNKNOWN = AttributeValue("", frozenset())


def attribute(device: Device, driver: str, name: str) -> AttributeValue | None:
    """The attribute by its fully qualified name; the driver's own may be stored without domain."""
    value = device.attributes.get(name)
    if value is None:
        domain, slash, short = name.partition("/")
        if slash and domain == driver:
            value = device.attributes.get(short)
    return value


class ConstraintState:
    """One constraint of one claim during a search: a stack, one entry per device added."""

    __slots__ = ("_features", "_stack", "constraint")

    def __init__(self, constraint: Constraint, features: Features) -> None:
        self.constraint = constraint
        self._features = features
        self._stack: list[AttributeValue] = []

    @property
    def name(self) -> str:
        return self.constraint.match or self.constraint.distinct

    @property
    def last(self) -> AttributeValue | None:
        """What matchAttribute has narrowed the common value to; None before the first device."""
        return self._stack[-1] if self._stack else None

    @property
    def added(self) -> Sequence[AttributeValue]:
        """The values added so far; for matchAttribute each as it narrowed the common one."""
        return self._stack

    def admits(self, value: AttributeValue | None) -> bool:
        """Whether a device with this value may be added now."""
        if value is None:
            return False
        if not self._stack:
            return bool(value.kind) or not self._needs_known()
        if not value.kind:
            return False
        if self.constraint.match:
            current = self._stack[-1]
            return current.kind == value.kind and bool(current.values & value.values)
        return not any(v.kind == value.kind and v.values & value.values for v in self._stack)

    def _needs_known(self) -> bool:
        return bool(self.constraint.match) and self._features.list_attributes

    def push(self, value: AttributeValue) -> None:
        """Add a device's value; must be admitted."""
        if self.constraint.match and self._stack:
            shared = self._stack[-1].values & value.values
            value = AttributeValue(value.kind, shared, value.is_list)
        self._stack.append(value)

    def pop(self) -> None:
        self._stack.pop()

    def key(self) -> Hashable:
        """What later devices can tell of those added so far."""
        if not self._stack:
            return None
        return self._stack[-1] if self.constraint.match else frozenset(self._stack)
