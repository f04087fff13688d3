"""The quota tree: ClusterQueues are leaves, Cohorts are inner nodes, usage bubbles up.

Every amount belongs to a (flavor, resource) pair and is an exact integer in the resource's own
unit: thousandths for cpu, whole units for everything else. Source of the algorithm: Kueue
``pkg/cache/scheduler/resource_node.go``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import inf

# Cohorts above a Cohort; nobody nests so deep on purpose, and each is a call within a call.
MAX_PARENTS = 200
CIRCLE = "runs in a circle"
TOO_MANY_PARENTS = f"is longer than {MAX_PARENTS}"

FlavorResource = tuple[str, str]
Amounts = Mapping[FlavorResource, int]


@dataclass(frozen=True, slots=True)
class Quota:
    """What a node owns of one flavor and resource, and how much it may borrow and lend.

    A limit of None means no limit. ``nominal`` of a Cohort is extra to its children's.
    """

    nominal: int = 0
    borrowing_limit: int | None = None
    lending_limit: int | None = None


NO_QUOTA = Quota()


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One ClusterQueue or Cohort as input of :meth:`QuotaTree.build`; ``parent`` "" is none."""

    name: str
    parent: str = ""
    quotas: Mapping[FlavorResource, Quota] = field(default_factory=dict)
    fair_weight: Fraction = Fraction(1)


class QuotaNode:
    """A ClusterQueue or Cohort in the tree. ``usage`` is the only thing that changes."""

    __slots__ = (
        "children",
        "fair_weight",
        "is_queue",
        "local_quota",
        "name",
        "parent",
        "quotas",
        "subtree_quota",
        "usage",
    )

    def __init__(self, spec: NodeSpec, is_queue: bool) -> None:
        self.name = spec.name
        self.is_queue = is_queue
        self.quotas = spec.quotas
        self.fair_weight = spec.fair_weight
        self.parent: QuotaNode | None = None
        self.children: list[QuotaNode] = []
        self.subtree_quota: dict[FlavorResource, int] = {}
        self.local_quota: dict[FlavorResource, int] = {}
        self.usage: dict[FlavorResource, int] = {}

    def __repr__(self) -> str:
        return f"QuotaNode({'queue' if self.is_queue else 'cohort'} {self.name})"

    def path_to_root(self) -> Iterator[QuotaNode]:
        """Every ancestor, the parent first."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    @property
    def root(self) -> QuotaNode:
        node = self
        while node.parent is not None:
            node = node.parent
        return node

    def queues(self) -> Iterator[QuotaNode]:
        """The ClusterQueues at or below this node, in tree order."""
        if self.is_queue:
            yield self
        for child in self.children:
            yield from child.queues()

    def quota(self, fr: FlavorResource) -> Quota:
        return self.quotas.get(fr, NO_QUOTA)

    def local_available(self, fr: FlavorResource) -> int:
        """Unused quota that the lending limit keeps at home: the parent cannot see it."""
        return max(0, self.local_quota.get(fr, 0) - self.usage.get(fr, 0))

    def available(self, fr: FlavorResource) -> int:
        """What could be added now, with borrowing. Negative after over-admission.

        ``available = local rest + what the parent has``, the latter capped by the borrowing limit
        plus the part of the own quota that lies with the parent unused.
        """
        usage = self.usage.get(fr, 0)
        quota = self.subtree_quota.get(fr, 0)
        if self.parent is None:
            return quota - usage
        from_parent = self.parent.available(fr)
        local = self.local_quota.get(fr, 0)
        own = self.quotas.get(fr)
        if own is not None and own.borrowing_limit is not None:
            stored = quota - local - max(0, usage - local)
            from_parent = min(from_parent, stored + own.borrowing_limit)
        return max(0, local - usage) + from_parent

    def potential_available(self, fr: FlavorResource) -> int:
        """The largest request that could ever fit here: :meth:`available` in an empty tree."""
        if self.parent is None:
            return self.subtree_quota.get(fr, 0)
        total = self.local_quota.get(fr, 0) + self.parent.potential_available(fr)
        own = self.quotas.get(fr)
        if own is not None and own.borrowing_limit is not None:
            return min(total, self.subtree_quota.get(fr, 0) + own.borrowing_limit)
        return total

    def borrows(self, fr: FlavorResource, extra: int = 0) -> bool:
        """Whether usage plus ``extra`` exceeds what this node's subtree owns.

        For a ClusterQueue the subtree quota is its nominal quota.
        """
        return self.subtree_quota.get(fr, 0) < self.usage.get(fr, 0) + extra

    def within_nominal(self, frs: Iterable[FlavorResource]) -> bool:
        """Whether no one of ``frs`` is used beyond the subtree's quota."""
        subtree, usage = self.subtree_quota, self.usage
        return all(usage.get(fr, 0) <= subtree.get(fr, 0) for fr in frs)

    def height(self) -> int:
        """Edges to the furthest leaf; a ClusterQueue has height 0."""
        return max((child.height() + 1 for child in self.children), default=0)

    def add(self, fr: FlavorResource, amount: int) -> None:
        """Charge ``amount``; what exceeds the home-kept quota is charged to the parent too.

        A negative amount, as of a slice that shrinks while another grows, is taken away.
        """
        if amount < 0:
            self.remove(fr, -amount)
            return
        local = self.local_available(fr)
        self.usage[fr] = self.usage.get(fr, 0) + amount
        if self.parent is not None and amount > local:
            self.parent.add(fr, amount - local)

    def remove(self, fr: FlavorResource, amount: int) -> None:
        """The inverse of :meth:`add`."""
        if amount < 0:
            self.add(fr, -amount)
            return
        in_parent = self.usage.get(fr, 0) - self.local_quota.get(fr, 0)
        left = self.usage.get(fr, 0) - amount
        if left:
            self.usage[fr] = left
        else:
            self.usage.pop(fr, None)
        if self.parent is not None and in_parent > 0:
            self.parent.remove(fr, min(amount, in_parent))

    def charge(self, amounts: Amounts) -> None:
        for fr, amount in amounts.items():
            self.add(fr, amount)

    def discharge(self, amounts: Amounts) -> None:
        for fr, amount in amounts.items():
            self.remove(fr, amount)

    def fits(self, amounts: Amounts) -> bool:
        """Whether all amounts fit without preemption (a node in debt has nothing available)."""
        return all(amount <= max(0, self.available(fr)) for fr, amount in amounts.items())


def lowest_fitting_height(queue: QuotaNode, fr: FlavorResource, amount: int) -> tuple[int, bool]:
    """How far up quota for ``amount`` must come from, and whether that is below the root.

    0 means from the ClusterQueue itself. Where no subtree fits, the height of the whole tree and
    False. Source: Kueue ``hierarchical_preemption.go`` FindHeightOfLowestSubtreeThatFits.
    """
    if queue.parent is None or not queue.borrows(fr, amount):
        return 0, queue.parent is not None
    remaining = amount - queue.local_available(fr)
    for node in queue.path_to_root():
        if not node.borrows(fr, remaining):
            return node.height(), node.parent is not None
        remaining -= node.local_available(fr)
    return queue.root.height(), False


class QuotaTree:
    """All quota nodes by name. ClusterQueues and Cohorts have separate name spaces."""

    def __init__(self) -> None:
        self.queues: dict[str, QuotaNode] = {}
        self.cohorts: dict[str, QuotaNode] = {}
        self.left_out: dict[str, str] = {}
        """Cohorts whose chain of parents runs in a circle, ends in one, or is longer than
        MAX_PARENTS, and which of these it is. Their queues too are left out of ``queues``: they
        admit nothing."""

    @staticmethod
    def build(queues: Iterable[NodeSpec], cohorts: Iterable[NodeSpec] = ()) -> QuotaTree:
        """A tree without usage. A parent that is named but not given is an empty Cohort."""
        tree = QuotaTree()
        parents: dict[str, str] = {}
        for spec in cohorts:
            tree.cohorts[spec.name] = QuotaNode(spec, is_queue=False)
            parents[spec.name] = spec.parent
        tree.left_out = _endless(parents)
        for name in sorted(parents):
            if name not in tree.left_out:
                tree._attach(tree.cohorts[name], parents[name])
        for spec in sorted(queues, key=lambda spec: spec.name):
            if spec.parent not in tree.left_out:
                tree.queues[spec.name] = QuotaNode(spec, is_queue=True)
                tree._attach(tree.queues[spec.name], spec.parent)
        for node in tree.roots():
            _accumulate_quota(node)
        return tree

    def _attach(self, node: QuotaNode, parent: str) -> None:
        if not parent:
            return
        if parent not in self.cohorts:
            self.cohorts[parent] = QuotaNode(NodeSpec(parent), is_queue=False)
        node.parent = self.cohorts[parent]
        node.parent.children.append(node)

    def roots(self) -> list[QuotaNode]:
        """Every node without a parent, ClusterQueues without a cohort included."""
        cohorts = [n for name, n in self.cohorts.items() if name not in self.left_out]
        return [n for n in (*cohorts, *self.queues.values()) if n.parent is None]

    def nodes(self) -> Iterator[QuotaNode]:
        for name, node in self.cohorts.items():
            if name not in self.left_out:
                yield node
        yield from self.queues.values()

    def fork(self) -> QuotaTree:
        """A tree with its own usage; quotas are shared. For trying things out."""
        twin = QuotaTree()
        twin.left_out = self.left_out
        copies: dict[int, QuotaNode] = {}
        for node in self.nodes():
            copy = QuotaNode.__new__(QuotaNode)
            copy.name, copy.is_queue = node.name, node.is_queue
            copy.quotas, copy.fair_weight = node.quotas, node.fair_weight
            copy.subtree_quota, copy.local_quota = node.subtree_quota, node.local_quota
            copy.usage = dict(node.usage)
            copies[id(node)] = copy
            (twin.queues if node.is_queue else twin.cohorts)[node.name] = copy
        for node in self.nodes():
            copy = copies[id(node)]
            copy.parent = copies[id(node.parent)] if node.parent is not None else None
            copy.children = [copies[id(child)] for child in node.children]
        return twin

    def check(self) -> None:
        """Raise AssertionError unless every sum in the tree holds.

        ``subtree = nominal + Σ(child.subtree − child.local)``, ``cohort usage = Σ max(0,
        child.usage − child.local)``, no negative usage, and no ClusterQueue reads more as available
        than the root has plus what lies at home on its path.
        """
        for node in self.nodes():
            _check_quota(node)
            if not node.is_queue:
                _check_usage(node)
            for fr, amount in node.usage.items():
                assert amount >= 0, f"{node}: usage of {fr} is {amount}"


def _endless(parents: Mapping[str, str]) -> dict[str, str]:
    """Names whose way up never ends or is too long, with what is wrong with it, in order."""
    steps: dict[str, float] = {"": 0}  # to the root, the last one out of it included
    for start in parents:
        trail: dict[str, None] = {}
        name = start
        while name not in steps and name not in trail:
            trail[name] = None
            name = parents.get(name, "")
        above = steps.get(name, inf)
        for at, passed in enumerate(reversed(trail), 1):
            steps[passed] = above + at
    return {
        name: CIRCLE if count == inf else TOO_MANY_PARENTS
        for name, count in sorted(steps.items())
        if count > MAX_PARENTS + 1
    }


def _accumulate_quota(node: QuotaNode) -> None:
    subtree = {fr: quota.nominal for fr, quota in node.quotas.items()}
    for child in node.children:
        _accumulate_quota(child)
        for fr, amount in child.subtree_quota.items():
            subtree[fr] = subtree.get(fr, 0) + amount - child.local_quota.get(fr, 0)
    node.subtree_quota = subtree
    node.local_quota = {
        fr: max(0, subtree[fr] - quota.lending_limit)
        for fr, quota in node.quotas.items()
        if quota.lending_limit is not None
    }


def _check_quota(node: QuotaNode) -> None:
    for fr, amount in node.subtree_quota.items():
        expected = node.quota(fr).nominal + sum(
            child.subtree_quota.get(fr, 0) - child.local_quota.get(fr, 0) for child in node.children
        )
        assert amount == expected, f"{node}: subtree quota of {fr} is {amount}, not {expected}"


def _check_usage(node: QuotaNode) -> None:
    pairs = dict.fromkeys(node.usage)
    for child in node.children:
        pairs |= dict.fromkeys(child.usage)
    for fr in pairs:
        expected = sum(
            max(0, child.usage.get(fr, 0) - child.local_quota.get(fr, 0)) for child in node.children
        )
        amount = node.usage.get(fr, 0)
        assert amount == expected, f"{node}: usage of {fr} is {amount}, not {expected}"
