"""What is to be placed, and one change to it or to the cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from kubarium.engine.devices.model import ClaimSpec
from kubarium.engine.model import Gang, Key, Pod, PodShape
from kubarium.engine.plan import Leaf, QueueItem, Tree
from kubarium.engine.snapshot import Snapshot
from kubarium.engine.verdict import Suggestion


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be placed: one pod, or the waiting pods of a gang.

    With ``tree``, the gang is one of its groups, and is placed only if the whole tree is.
    """

    pods: tuple[Pod, ...]
    gang: Gang | None = None
    tree: Tree | None = None

    @property
    def item(self) -> QueueItem:
        """All that is decided together."""
        if self.tree is None or self.gang is None:
            return QueueItem(self.pods, self.gang)
        return QueueItem.of_tree(self.whole)

    @property
    def whole(self) -> Tree:
        """The tree with the subject as it is now."""
        assert self.tree is not None
        assert self.gang is not None
        return _with_leaf(self.tree, Leaf(self.gang, self.pods))

    @property
    def shape(self) -> PodShape:
        return self.pods[0].shape

    @property
    def needed(self) -> int:
        """How many of the pods must find a place."""
        gang = self.gang
        return max(gang.min_count - gang.scheduled_count, 1) if gang is not None else 1

    @property
    def is_gang(self) -> bool:
        """Whether all of a minimum must be placed together."""
        return self.gang is not None and self.gang.scheduled_count < self.gang.min_count

    def reshaped(self, change: Callable[[PodShape], PodShape]) -> Subject:
        """The subject with each pod's shape changed."""
        known: dict[PodShape, PodShape] = {}
        pods: list[Pod] = []
        for pod in self.pods:
            shape = known.get(pod.shape)
            if shape is None:
                shape = known[pod.shape] = change(pod.shape)
            variants = tuple(replace(one, shape=change(one.shape)) for one in pod.variants)
            pods.append(replace(pod, shape=shape, variants=variants))
        return replace(self, pods=tuple(pods))


def _with_leaf(tree: Tree, leaf: Leaf) -> Tree:
    """The tree with the group of this key as it is given."""
    children: list[Tree | Leaf] = []
    for child in tree.children:
        if isinstance(child, Tree):
            children.append(_with_leaf(child, leaf))
        else:
            children.append(leaf if child.key == leaf.key else child)
    return replace(tree, children=tuple(children))


Undo = Callable[[], None]


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One thing that somebody could do. ``cost`` orders changes: less is asked of fewer people.

    ``claims`` limits a change of specs to these of the pending claims. ``cluster`` changes the
    snapshot and returns what else must be undone besides a rollback. ``lifts`` are the numbers of
    the obstacles that the change may take away; ``row`` limits that to one node. ``fresh`` changes
    add a node, which the obstacles of the others do not bound.
    """

    suggestion: Suggestion
    cost: int
    shape: Callable[[PodShape], PodShape] | None = None
    spec: Callable[[ClaimSpec], ClaimSpec] | None = None
    claims: frozenset[Key] | None = None
    gang: Callable[[Gang], Gang] | None = None
    cluster: Callable[[Snapshot], Undo | None] | None = None
    lifts: int = 0
    row: int = -1
    fresh: bool = False


# Costs: the pod's own wishes are the cheapest to change, then claims, then what others must do.
OWN_WISH, OWN_CLAIM, SMALLER, SWITCH, ADD, EVICT = 10, 20, 30, 40, 60, 80
