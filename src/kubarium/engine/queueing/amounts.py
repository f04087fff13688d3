"""How engine amounts are written in messages: Kubernetes quantities in each resource's format."""

from __future__ import annotations

from fractions import Fraction

from kubarium.base.quantity import format_quantity, milli, whole
from kubarium.engine.queueing.workload import CPU

_BINARY = ("memory", "ephemeral-storage")


def amount_of(resource: str, quantity: object) -> int:
    """The engine's integer for a quantity: cpu in thousandths, the rest in whole units, rounded up.

    Raises ``QuantityError`` naming the text.
    """
    return milli(quantity) if resource == CPU else whole(quantity)


def show_amount(resource: str, amount: int) -> str:
    """The quantity text of an amount (Kueue ``resource_formatter.go``).

    >>> show_amount("cpu", 1500), show_amount("memory", 1048576), show_amount("pods", 3)
    ('1500m', '1Mi', '3')
    """
    if resource == CPU:
        return format_quantity(Fraction(amount, 1000))
    binary = resource in _BINARY or resource.startswith("hugepages-")
    return format_quantity(amount, binary)
