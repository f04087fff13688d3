"""What a scheduling cycle decided, as values that can be printed, compared and committed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kubarium.engine.devices.model import Allocation
from kubarium.engine.model import ClaimShare, Composite, Gang, Key, Pod
from kubarium.engine.verdict import GangVerdict, Verdict


@dataclass(frozen=True, slots=True)
class Placement:
    """A pod on a node, with what its claims get. Claims that had an allocation are not listed.

    ``shares`` is what all its claims take of the node's own resources; the pod's requests count it.
    """

    pod: Pod
    node: str
    allocations: tuple[tuple[Key, Allocation], ...] = ()
    shares: tuple[ClaimShare, ...] = ()


@dataclass(frozen=True, slots=True)
class Preemption:
    """Victims to delete so that the pods of ``nominations`` will fit on the nodes named.

    ``units`` are the groups that go as a whole: whether it is a composite, and its key.
    """

    victims: tuple[Pod, ...]
    nominations: tuple[tuple[Pod, str], ...]
    units: tuple[tuple[bool, Key], ...] = ()


@dataclass(frozen=True, slots=True)
class Leaf:
    """A pod group in a tree of groups, with its waiting pods."""

    gang: Gang
    pods: tuple[Pod, ...] = ()

    @property
    def key(self) -> Key:
        return self.gang.key

    @property
    def created(self) -> float:
        return self.gang.created


@dataclass(frozen=True, slots=True)
class Tree:
    """A composite and its children, which are decided together."""

    group: Composite
    children: tuple[Tree | Leaf, ...] = ()

    @property
    def key(self) -> Key:
        return self.group.key

    @property
    def created(self) -> float:
        return self.group.created

    def leaves(self) -> Iterator[Leaf]:
        """The pod groups below, in order."""
        for child in self.children:
            if isinstance(child, Leaf):
                yield child
            else:
                yield from child.leaves()

    def composites(self) -> Iterator[Composite]:
        """The tree's composites, the root first."""
        yield self.group
        for child in self.children:
            if isinstance(child, Tree):
                yield from child.composites()


@dataclass(frozen=True, slots=True)
class QueueItem:
    """One thing to decide: a single pod, all waiting pods of a gang, or those of a tree of groups.

    ``scheduler`` names the profile; "" is the default one. ``begun``: some of its pods were bound,
    too few to start, and it has never run: the writes of an earlier decision were cut off.
    """

    pods: tuple[Pod, ...]
    gang: Gang | None = None
    scheduler: str = ""
    tree: Tree | None = None
    begun: bool = False

    @classmethod
    def of_tree(cls, tree: Tree, scheduler: str = "") -> QueueItem:
        """The waiting pods of every group of the tree."""
        pods = tuple(pod for leaf in tree.leaves() for pod in leaf.pods)
        return cls(pods, None, scheduler, tree)

    @property
    def preempts(self) -> bool:
        """Whether neither its pods nor their groups refuse to preempt."""
        groups: tuple[Gang | Composite, ...] = (self.gang,) if self.gang is not None else ()
        if self.tree is not None:
            groups = (*self.tree.composites(), *(leaf.gang for leaf in self.tree.leaves()))
        return self.pods[0].preempts and all(group.preempts for group in groups)

    @property
    def order(self) -> tuple[int, float, Key]:
        """Priority first, then age, then name: PrioritySort with a deterministic end."""
        first = self.pods[0]
        group = self.gang or self.tree
        if group is not None:
            return (-first.priority, group.created, group.key)
        return (-first.priority, first.created, first.key)


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one queue item. A gang's ``unplaced`` pods are beyond its minimum or all."""

    item: QueueItem
    placements: tuple[Placement, ...] = ()
    unplaced: tuple[tuple[Pod, Verdict], ...] = ()
    gang_verdict: GangVerdict | None = None
    preemption: Preemption | None = None


@dataclass(frozen=True, slots=True)
class CyclePlan:
    """The decisions of one cycle, in the order in which they were taken."""

    decisions: tuple[Decision, ...]

    def placements(self) -> list[Placement]:
        return [p for d in self.decisions for p in d.placements]
