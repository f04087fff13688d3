"""Nodes that are away on purpose: cut off from the API (their pods go on), or lost with their pods.

The order is on the Node. Such a node hears of nothing and says nothing: no lease, no status, no
answer to logs and exec; when it is over it catches up with all that has changed meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable

from kubarium.api.resource import Document
from kubarium.view.faults import DISCONNECT_NODE, LOSE_NODE, orders_of

# (node, whether its pods are to be killed); node
Leave = Callable[[str, bool], None]
Return = Callable[[str], None]


class Absences:
    """Which of one agent's nodes are away."""

    def __init__(self, leave: Leave, come_back: Return) -> None:
        self._leave = leave
        self._come_back = come_back
        # Nodes, with the orders under which their pods have been killed.
        self._away: dict[str, frozenset[str]] = {}

    def look(self, node: Document) -> None:
        """A Node was seen: it may have to go, or be back."""
        name = node["metadata"]["name"]
        orders = [o for o in orders_of(node) if o.in_force]
        lost = frozenset(o.ident for o in orders if o.action == LOSE_NODE)
        away = bool(lost) or any(o.action == DISCONNECT_NODE for o in orders)
        before = self._away.get(name)
        if away:
            self._away[name] = lost | (before or frozenset())
            if before is None or lost - before:
                self._leave(name, bool(lost))
        elif before is not None:
            del self._away[name]
            self._come_back(name)

    def away(self, node: str) -> bool:
        """Whether ``node`` neither hears nor speaks now."""
        return node in self._away
