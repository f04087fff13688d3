"""What a pod's containers ask for, or may use, at once (source: component-helpers ``resource``)."""

from __future__ import annotations

from fractions import Fraction

from kubarium.api.resource import Document
from kubarium.base.quantity import QuantityError, parse_quantity


def of_containers(spec: Document, part: str, name: str) -> Fraction:
    """The most of a resource at any moment, by ``part``: requests or limits.

    The main containers with all sidecars, or an init container with the sidecars before it.
    """
    sidecars, most = Fraction(0), Fraction(0)
    for container in spec.get("initContainers") or ():
        asked = _amount(container, part, name)
        if container.get("restartPolicy") == "Always":
            sidecars += asked
            most = max(most, sidecars)
        else:
            most = max(most, sidecars + asked)
    main = (_amount(container, part, name) for container in spec.get("containers") or ())
    return max(most, sidecars + sum(main, Fraction(0)))


def quantities_of(container: Document, part: str) -> Document:
    """A container's requests or limits."""
    return (container.get("resources") or {}).get(part) or {}


def _amount(container: Document, part: str, name: str) -> Fraction:
    try:
        return parse_quantity(quantities_of(container, part).get(name, 0))
    except QuantityError:  # which is told elsewhere
        return Fraction(0)
