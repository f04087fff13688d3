"""What constraints tie together: free devices by the value of an attribute, and what lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from kubarium.engine.devices.constraints import attribute
from kubarium.engine.devices.model import (
    ALL,
    ClaimSpec,
    Constraint,
    Device,
    Request,
    RequestEntry,
)

# By value, how many free devices have it.
_Sizes = Counter[object]


class Ties:
    """The free devices of one request, by node and value, for each constraint on it."""

    def __init__(self, spec: ClaimSpec, entry: RequestEntry, request: Request) -> None:
        self.entry, self.request = entry, request
        derived = {name for name, _ in request.derived}
        # What an expression gives is not known here.
        self.constraints = [
            c for c in spec.constraints if c.covers(entry, request) and _about(c) not in derived
        ]
        self._nodes: dict[str, dict[str, _Sizes]] = {}

    def enter(self, device: Device, driver: str, node: str) -> None:
        """A free device, on a node or ("") reached from several."""
        for name in {_about(c): None for c in self.constraints}:
            value = attribute(device, driver, name)
            if value is not None and value.kind:
                nodes = self._nodes.setdefault(name, {})
                nodes.setdefault(node, Counter()).update(value.values)

    def notes(self) -> Iterator[str]:
        """The constraints that the request's own devices cannot satisfy, whatever the others'."""
        for constraint in self.constraints:
            name, wanted = _about(constraint), self.request.count
            if name not in self._nodes:
                yield f"constraint: no free device has attribute {name}"
            elif constraint.match:
                yield from _too_small(name, wanted, self._nodes[name])
            else:
                yield from _too_alike(name, wanted, self._nodes[name])

    def places(self, name: str) -> set[tuple[str, object]]:
        """(node, value) with as many free devices as the request wants."""
        return {
            (node, value)
            for node, sizes in self._nodes.get(name, {}).items()
            for value, size in sizes.items()
            if size >= self.request.count
        }


def joint_notes(spec: ClaimSpec, requests: Sequence[Ties]) -> Iterator[str]:
    """matchAttribute constraints which several requests cannot satisfy together.

    Each of them alone could. Prioritised lists are left out: which alternative counts is open.
    """
    for constraint in spec.constraints:
        tied = [t for t in requests if constraint in t.constraints]
        listed = any(t.entry.prioritised or t.request.mode == ALL for t in tied)
        if not constraint.match or listed or len(tied) < 2:
            continue
        name = constraint.match
        places = [t.places(name) for t in tied]
        if any(not found or any(not node for node, _ in found) for found in places):
            continue  # one alone has too few, or its devices can be used anywhere
        if not set.intersection(*places):
            parts = [f"{t.request.count} for request {t.request.name}" for t in tied]
            yield f"constraint: no {name} has free devices for all: {' and '.join(parts)}"


def _about(constraint: Constraint) -> str:
    return constraint.match or constraint.distinct


def _too_small(name: str, wanted: int, nodes: dict[str, _Sizes]) -> Iterator[str]:
    size, node, value = max(
        (count, node, str(value)) for node, sizes in nodes.items() for value, count in sizes.items()
    )
    if size < wanted:
        where = f" ({name}={value}{f' on node {node}' if node else ''})"
        yield f"constraint: wants {wanted} with one {name}; the largest group has {size}{where}"


def _too_alike(name: str, wanted: int, nodes: dict[str, _Sizes]) -> Iterator[str]:
    size, node = max((len(sizes), node) for node, sizes in nodes.items())
    if size < wanted:
        where = f" on node {node}" if node else ""
        yield f"constraint: wants {wanted} with different {name}; at most {size} differ{where}"
