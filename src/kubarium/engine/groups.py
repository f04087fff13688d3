"""Groups and composites by key, with a count of their changes.

What was worked out from the groups of pods, such as who goes together when one is evicted, holds
until ``epoch`` is another: groups may become known after their pods.
"""

from __future__ import annotations

from typing import Any, TypeVar

from kubarium.engine.model import Composite, Gang, Key

_Group = TypeVar("_Group", bound=Gang | Composite)


class Groups(dict[Key, _Group]):
    """Written by item, and by ``pop``."""

    epoch = 0

    def __setitem__(self, key: Key, group: _Group) -> None:
        if self.get(key) != group:
            self.epoch += 1
        super().__setitem__(key, group)

    def __delitem__(self, key: Key) -> None:
        self.epoch += 1
        super().__delitem__(key)

    def pop(self, key: Key, default: Any = None) -> Any:
        """Forget a group; ``default`` if it is not known."""
        found = self.get(key)
        if found is None:
            return default
        del self[key]
        return found
