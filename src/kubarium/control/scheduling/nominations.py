"""Pods for which room is being made, and on which nodes.

Of thousands of preemptors each asks who else was promised its node; so they are found by node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kubarium.engine.model import Key, Pod

Nomination = tuple[Pod, str]


@dataclass(slots=True)
class Nominations:
    """At most one node for each pod; in the order in which they were made."""

    _by_pod: dict[Key, Nomination] = field(default_factory=dict)
    _by_node: dict[str, dict[Key, None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._by_pod)

    def all(self) -> Iterable[Nomination]:
        """Every pod with its node."""
        return self._by_pod.values()

    def put(self, pod: Pod, node: str) -> None:
        """Room is being made for the pod on this node, and no longer on another."""
        known = self._by_pod.get(pod.key)
        if known is not None and known[1] != node:
            self._leave(pod.key, known[1])
        self._by_pod[pod.key] = (pod, node)
        self._by_node.setdefault(node, {})[pod.key] = None

    def drop(self, key: Key) -> None:
        """The pod is placed, or gone; nothing happens if it has no nomination."""
        known = self._by_pod.pop(key, None)
        if known is not None:
            self._leave(key, known[1])

    def below(self, node: str, priority: int) -> list[Pod]:
        """The pods of lower priority that wait for the same node."""
        waiting = (self._by_pod[key][0] for key in self._by_node.get(node, ()))
        return [pod for pod in waiting if pod.priority < priority]

    def _leave(self, key: Key, node: str) -> None:
        waiting = self._by_node[node]
        del waiting[key]
        if not waiting:
            del self._by_node[node]
