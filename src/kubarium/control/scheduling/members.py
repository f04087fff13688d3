"""Which waiting pods belong to which group, and which item of the queue decides them.

A pod group is an item of its own, or part of the item of the composite at the top of its hierarchy.
That can change while pods wait: parents come later, or go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kubarium.control.scheduling.events import ItemKey
from kubarium.engine.model import Key
from kubarium.view.forest import Forest


class Members:
    """Groups with waiting pods, by the item that decides them."""

    def __init__(self, forest: Forest) -> None:
        self._forest = forest
        self._pods: dict[Key, dict[Key, None]] = {}
        self._item: dict[Key, ItemKey] = {}
        self._groups: dict[ItemKey, dict[Key, None]] = {}

    def __contains__(self, group: object) -> bool:
        return group in self._pods

    def add(self, group: Key, pod: Key) -> ItemKey:
        """A pod of the group waits; the item that decides it."""
        self._pods.setdefault(group, {})[pod] = None
        if group not in self._item:
            self._join(group)
        return self._item[group]

    def drop(self, group: Key, pod: Key) -> ItemKey | None:
        """The pod waits no longer; the item that has nothing left to decide, if it is that."""
        pods = self._pods.get(group)
        if pods is None:
            return None
        pods.pop(pod, None)
        return None if pods else self._leave(group)

    def item_of(self, group: Key) -> ItemKey | None:
        """The item that decides the group; None if no pod of it waits."""
        return self._item.get(group)

    def pods(self, group: Key) -> Iterable[Key]:
        """The waiting pods of the group."""
        return self._pods.get(group, ())

    def pods_of(self, item: ItemKey) -> Iterator[Key]:
        """The waiting pods of all groups that the item decides."""
        for group in self._groups.get(item, ()):
            yield from self._pods[group]

    def reroute(self, groups: Iterable[Key]) -> tuple[dict[ItemKey, None], dict[ItemKey, None]]:
        """The groups or their parents changed: (items that have nothing left, items to look at)."""
        gone: dict[ItemKey, None] = {}
        changed: dict[ItemKey, None] = {}
        for group in [g for g in groups if g in self._pods]:
            old = self._item[group]
            if old != self._target(group):
                pods = self._pods[group]
                left = self._leave(group)
                self._pods[group] = pods
                self._join(group)
                if left is not None:
                    gone[left] = None
                else:
                    changed[old] = None
            changed[self._item[group]] = None
        return gone, changed

    def _target(self, group: Key) -> ItemKey:
        root = self._forest.root_of(group)
        return ItemKey(True, group) if root is None else ItemKey(True, root, True)

    def _join(self, group: Key) -> None:
        item = self._item[group] = self._target(group)
        self._groups.setdefault(item, {})[group] = None

    def _leave(self, group: Key) -> ItemKey | None:
        item = self._item.pop(group)
        del self._pods[group]
        groups = self._groups[item]
        del groups[group]
        if groups:
            return None
        del self._groups[item]
        return item
