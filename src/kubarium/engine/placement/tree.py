"""A composite in one decision: enough of its groups, each with enough of its pods, or nothing.

Upstream places the child groups in order and does not go back (KEP-6012: no backtracking, and a
group may take room beyond its minimum that its sibling needs). Here:

1. everything at once: every pod of every group, each group in the tightest domain that takes it;
2. else the least that may start: the minimum of pods in the minimum of groups. Where a group leaves
   no room for the next one, another domain is tried for it, another packing, another choice of
   groups, and in the end every arrangement of its pods, until the budget is spent;
3. what is beyond the minimum is added afterwards, so that it never takes the room of a sibling.

A composite's topology keys narrow the nodes of everything below it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from kubarium.engine import reasons
from kubarium.engine.model import Composite, Gang, Key, Pod
from kubarium.engine.placement import packing, topology
from kubarium.engine.placement.domains import (
    Domain,
    domains_of,
    holes,
    mask_around,
    missing_key,
    room_for,
    row_of_gangs,
)
from kubarium.engine.placement.gang import greedy_is_exact, place_gang
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.quorum import (
    Group,
    is_complete,
    is_started,
    least_pods,
    waiting_for,
)
from kubarium.engine.placement.trial import Budget, OutOfBudgetError, Trial
from kubarium.engine.plan import Decision, Leaf, Placement, QueueItem, Tree
from kubarium.engine.snapshot import PODS, Mask, Snapshot
from kubarium.engine.sums import exact_sum
from kubarium.engine.verdict import GangVerdict, Verdict

# Times that a group of a composite may be placed, in another domain or packed differently: so many
# in all, and at least so many for each group.
ATTEMPT_BUDGET, ATTEMPTS_PER_GROUP = 400, 2
# Domains of a composite that are looked at to say which of its groups finds no room.
MAX_DIAGNOSED = 4
# What the search may spend to say how many pods of a group that failed would find room.
DIAGNOSIS_BUDGET = 500


def place_item(placer: Placer, item: QueueItem) -> Decision:
    """Decide a gang or a composite; on success its placements are in the snapshot."""
    return place_gang(placer, item) if item.tree is None else place_tree(placer, item)


def place_tree(placer: Placer, item: QueueItem) -> Decision:
    """Decide a composite; on success its placements are in the snapshot, otherwise nothing is."""
    assert item.tree is not None
    tree = item.tree
    waiting = waiting_for(tree)
    if waiting:
        verdict = GangVerdict(
            tree.key, tree.group.min_groups, 0, True, waiting=waiting, composite=True
        )
        return Decision(item, gang_verdict=verdict)
    search = _TreeSearch(placer, tree)
    placements = search.run()
    if placements is not None:
        return Decision(item, placements, search.left_over(placements))
    verdict = search.verdict()
    if verdict.waiting:
        return Decision(item, gang_verdict=verdict)
    account = first_account(verdict) or placer.account(item.pods[0])
    return Decision(item, (), tuple((pod, account) for pod in item.pods), verdict)


def first_account(verdict: GangVerdict) -> Verdict | None:
    """The account of the first pod that found no place, in the group that failed."""
    if verdict.first_failure is not None:
        return verdict.first_failure
    found = (first_account(child) for child in verdict.children)
    return next((account for account in found if account is not None), None)


class _TreeSearch:
    """One composite's search over one snapshot."""

    def __init__(self, placer: Placer, tree: Tree) -> None:
        self._placer = placer
        self._snapshot = placer.snapshot
        self._tree = tree
        leaves = tuple(tree.leaves())
        self._pods = [pod for leaf in leaves for pod in leaf.pods]
        self._trial = Trial(placer)
        self._where: dict[tuple[bool, Key], Mask | None] = {}
        self._whole = False
        self._thorough = False
        self._limit = max(ATTEMPT_BUDGET, ATTEMPTS_PER_GROUP * len(leaves))
        self._attempts = Budget(self._limit)
        self._budget = Budget()
        self._settled: dict[tuple[bool, Key], int | None] = {}
        self._symmetric = not any(
            pod.claims or pod.has_volumes or topology.concerns(self._snapshot, pod)
            for pod in self._pods
        )
        self._only_room_counts = packing.only_room_counts(self._snapshot, self._pods)
        self._static: list[Mask] = []
        for shape in dict.fromkeys(pod.shape for pod in self._pods):
            fit = placer.fit(shape)
            fit.refresh()
            self._static.append(fit.static.copy())
        self._levels = _levels_of(tree)
        # By which nodes differ for some pod or group, whatever is free.
        columns = (self._snapshot.labels.get(key) for key in self._levels)
        masks = {mask.tobytes(): mask for mask in self._static}
        self._apart = [*masks.values(), *(column for column in columns if column is not None)]
        self._uniform = greedy_is_exact(self._snapshot, self._pods)
        self._keys: set[Key] = set()
        self._proven = False
        # Whether a group has found no place beside the others: then it pays to look ahead.
        self._stuck = False

    def run(self) -> tuple[Placement, ...] | None:
        if is_started(self._tree):
            self._fill(self._tree, None)
            return tuple(self._trial.placements)
        optional = least_pods(self._tree) < len(self._pods)
        for whole in (True, False) if optional else (False,):
            if self._try(whole=whole, thorough=False):
                self._fill(self._tree, None)
                return tuple(self._trial.placements)
        self._proven = (
            self._uniform
            and not self._attempts.is_spent
            and _domains_decide(self._snapshot, self._tree)
        )
        if self._proven:
            return None
        if self._try(whole=False, thorough=True):
            self._fill(self._tree, None)
            return tuple(self._trial.placements)
        self._proven = (
            len(self._pods) <= packing.MAX_PODS
            and not self._budget.is_spent
            and packing.devices_are_alike(self._snapshot, self._pods)
            and not packing.order_matters(self._pods)
        )
        return None

    def _try(self, *, whole: bool, thorough: bool) -> bool:
        """The first way to start the tree, left in the trial; without one nothing is."""
        self._whole, self._thorough = whole, thorough
        self._where.clear()
        self._attempts = Budget(self._limit)
        try:
            for _ in self._group(self._tree, None):
                return True
        except OutOfBudgetError:
            self._trial.back_to(0)
        return False

    # Ways to start a group. Each is in the trial while it is yielded and taken back afterwards.

    def _group(self, group: Group, within: Mask | None) -> Iterator[None]:
        if isinstance(group, Leaf):
            yield from self._leaf(group, within)
        else:
            yield from self._composite(group, within)

    def _composite(self, tree: Tree, within: Mask | None) -> Iterator[None]:
        able = [c for c in tree.children if is_complete(c) and not is_started(c)]
        wanted = max(tree.group.min_groups, 1) - sum(map(is_started, tree.children))
        if self._whole:
            wanted = max(wanted, len(able))
        if wanted <= 0:
            yield
            return
        if wanted == len(able):  # no choice of groups: the hardest to place come first
            able.sort(key=_hardness)
        count = sum(sorted(map(self._count, able))[:wanted])
        for mask in self._places(tree, tree.group, count, within):
            self._where[True, tree.key] = mask
            yield from self._children(able, wanted, mask)
        self._where.pop((True, tree.key), None)

    def _children(self, able: Sequence[Group], wanted: int, within: Mask | None) -> Iterator[None]:
        """``wanted`` of the groups; earlier ones are preferred.

        One step for each group that is chosen or left out: there may be more groups than calls
        within calls.
        """
        steps = [self._choices(able, 0, wanted, within)]
        while steps:
            choice = next(steps[-1], None)
            if choice is None:
                steps.pop()
            elif choice[1]:
                steps.append(self._choices(able, *choice, within))
            else:
                yield

    def _choices(
        self, able: Sequence[Group], at: int, wanted: int, within: Mask | None
    ) -> Iterator[tuple[int, int]]:
        """Each way of the group in place ``at``, or to leave it out: (next place, still wanted)."""
        rest = len(able) - at
        if rest < wanted:
            return
        if self._stuck and sum(self._may_fit(child, within) for child in able[at:]) < wanted:
            return
        for _ in self._group(able[at], within):
            yield at + 1, wanted - 1
        if rest > wanted:
            yield at + 1, wanted

    def _may_fit(self, group: Group, within: Mask | None) -> bool:
        """Whether some domain has room for the group by itself, as far as bounds can tell."""
        rules = group.group if isinstance(group, Tree) else group.gang
        return any(True for _ in self._places(group, rules, self._count(group), within))

    def _count(self, group: Group) -> int:
        if not self._whole:
            return least_pods(group)
        leaves = (group,) if isinstance(group, Leaf) else tuple(group.leaves())
        return sum(len(leaf.pods) for leaf in leaves)

    def _leaf(self, leaf: Leaf, within: Mask | None) -> Iterator[None]:
        needed = self._count(leaf)
        for mask in self._places(leaf, leaf.gang, needed, within):
            self._where[False, leaf.key] = mask
            if self._thorough:
                yield from packing.packings(self._trial, self._budget, leaf.pods, needed, mask)
                if len(self._pods) <= packing.MAX_PODS:
                    yield from packing.arrangements(
                        self._trial, self._budget, leaf.pods, needed, mask, self._apart
                    )
            else:
                yield from self._quickly(leaf.pods, needed, mask)
        self._where.pop((False, leaf.key), None)
        self._stuck = True

    def _quickly(self, pods: Sequence[Pod], needed: int, within: Mask | None) -> Iterator[None]:
        """One after the other; then largest first on the fullest nodes."""
        mark = len(self._trial)
        first: Counter[Hashable] | None = None
        self._attempts.take()
        if self._in_order(pods, needed, within):
            first = self._picture(mark)
            yield
            self._trial.back_to(mark)
        if self._uniform or len(pods) > packing.MAX_PACKED:
            return  # a node holds a fixed number of pods, whichever nodes come first
        self._attempts.take()
        if packing.pack(self._trial, pods, needed, within):
            if self._picture(mark) != first:
                yield
            self._trial.back_to(mark)

    def _picture(self, mark: int) -> Counter[Hashable]:
        """What the placements above ``mark`` look like to others: kinds of pods on nodes."""
        return Counter(
            (p.node, p.pod.shape if self._symmetric else p.pod.key)
            for p in self._trial.placements[mark:]
        )

    def _in_order(self, pods: Sequence[Pod], needed: int, within: Mask | None) -> bool:
        """Whether enough pods found a place; if not, none of them keeps it."""
        mark, failed = len(self._trial), set()
        for number, pod in enumerate(pods):
            placed = len(self._trial) - mark
            if placed == needed:
                break
            if placed + len(pods) - number < needed:
                break
            plain = self._symmetric and pod.shape in failed
            if not plain and not self._trial.place(pod, within):
                failed.add(pod.shape)
        if len(self._trial) - mark == needed:
            return True
        self._trial.back_to(mark)
        return False

    # Places for a group

    def _places(
        self, group: Group, rules: Gang | Composite, count: int, within: Mask | None
    ) -> Iterator[Mask | None]:
        """The nodes in which the group may be tried: domains from tight to wide, or ``within``."""
        if not count:
            yield within
            return
        pods = self._pods_of(group)
        required, preferred = rules.required_keys, rules.preferred_keys
        depths = range(0 if self._thorough else len(preferred), -1, -1)
        for depth in depths:
            keys = (*required, *preferred[:depth])
            if not keys:
                if self._has_room(pods, count, within):
                    yield within
                continue
            seen: set[bytes] = set()
            tried: Mask | None = None
            for domain in self._domains(group, keys, within):
                if tried is not None:  # asked only now: most groups need one domain
                    seen.add(self._holes(tried, keys))
                    tried = None
                mask = domain.mask
                if domain.room < count or not self._has_room(pods, count, mask):
                    continue
                if not seen or self._holes(mask, keys) not in seen:
                    tried = mask
                    yield mask

    def _domains(self, group: Group, keys: tuple[str, ...], within: Mask | None) -> list[Domain]:
        pods = self._pods_of(group)
        room = room_for(self._placer, pods)
        return domains_of(self._snapshot, keys, room, within, self._row_of(group))

    def _row_of(self, group: Group) -> int | None:
        """A row on which pods of the group run already."""
        name = (isinstance(group, Tree), group.key)
        if name not in self._settled:
            leaves = (group,) if isinstance(group, Leaf) else tuple(group.leaves())
            gangs = [leaf.gang for leaf in leaves]
            rules = group.group if isinstance(group, Tree) else group.gang
            self._settled[name] = row_of_gangs(self._snapshot, gangs, rules.required_keys)
        return self._settled[name]

    def _pods_of(self, group: Group) -> list[Pod]:
        leaves = (group,) if isinstance(group, Leaf) else tuple(group.leaves())
        return [pod for leaf in leaves for pod in leaf.pods]

    def _has_room(self, pods: Sequence[Pod], count: int, within: Mask | None) -> bool:
        """A bound that is quick to take: free resources for the smallest ``count`` of the pods."""
        snapshot, profile = self._snapshot, self._placer.profile
        mask = snapshot.alive if within is None else within & snapshot.alive
        if not profile.filters("NodeResourcesFit"):
            return bool(mask.any())

        def free(index: int) -> int:
            left = snapshot.allocatable[index][mask] - snapshot.requested[index][mask]
            return exact_sum(np.maximum(left, 0))

        if free(snapshot.resource_index(PODS)) < count:
            return False
        for name in dict.fromkeys(name for pod in pods for name, _ in pod.shape.requests):
            if profile.ignores(name):
                continue
            least = (min(one.shape.request(name) for one in pod.each) for pod in pods)
            amounts = sorted(least)[:count]
            if free(snapshot.resource_index(name)) < sum(amounts):
                return False
        return True

    def _holes(self, mask: Mask, keys: tuple[str, ...]) -> bytes:
        """Equal for domains between which the pods need not choose: the same holes.

        Other levels of the hierarchy must not tell the domains apart: one that they divide is like
        no other, and domains that lie in different ones differ.
        """
        snapshot = self._snapshot
        around: list[int] = []
        alike = self._only_room_counts
        for key in self._levels:
            column = snapshot.labels.get(key)
            if key not in keys and column is not None:
                values = column[mask]
                alike = alike and bool(values.min() == values.max())
                around.append(int(values[0]))
        if not alike:
            return mask.tobytes()
        return repr(around).encode() + holes(snapshot, mask, self._static)

    # Beyond the minimum

    def _fill(self, group: Group, within: Mask | None) -> None:
        """What else fits of a group that starts: more pods, and more groups with their minimum."""
        if len(self._trial) == len(self._pods):
            return
        mask = self._narrowed(group, within)
        if isinstance(group, Tree):
            for child in group.children:
                if self._starts(child) or self._joins(child, mask):
                    self._fill(child, mask)
            return
        placed, hopeless = self._placed(), set[object]()
        for pod in group.pods:
            if pod.key in placed or (self._symmetric and pod.shape in hopeless):
                continue
            if not self._trial.place(pod, mask):
                hopeless.add(pod.shape)

    def _placed(self) -> set[Key]:
        """The keys of the pods in the trial."""
        if len(self._keys) != len(self._trial):
            self._keys = {placement.pod.key for placement in self._trial.placements}
        return self._keys

    def _starts(self, group: Group) -> bool:
        """Whether the group runs or has its minimum in the trial."""
        if is_started(group):
            return True
        if isinstance(group, Leaf):
            placed = self._placed()
            have = sum(pod.key in placed for pod in group.pods) + group.gang.scheduled_count
            return have >= max(group.gang.min_count, 1)
        return sum(map(self._starts, group.children)) >= max(group.group.min_groups, 1)

    def _joins(self, group: Group, within: Mask | None) -> bool:
        """Start one more group beside those that start; nothing is changed if it finds no room."""
        if not is_complete(group):
            return False
        mark, kept = len(self._trial), dict(self._where)
        self._whole = self._thorough = False
        self._attempts = Budget(self._limit)
        try:
            for _ in self._group(group, within):
                return True
        except OutOfBudgetError:
            self._trial.back_to(mark)
        self._where = kept
        return False

    def _narrowed(self, group: Group, within: Mask | None) -> Mask | None:
        """The nodes on which more of the group may go: its domain, chosen or settled."""
        name = (isinstance(group, Tree), group.key)
        if name in self._where:
            return self._where[name]
        rules = group.group if isinstance(group, Tree) else group.gang
        row = self._row_of(group) if rules.required_keys else None
        if row is None:
            return within
        around = mask_around(self._snapshot, rules.required_keys, row)
        return around if within is None else around & within

    def left_over(self, placements: tuple[Placement, ...]) -> tuple[tuple[Pod, Verdict], ...]:
        """The pods without a place, with why the first of each group has none."""
        placed = {placement.pod.key for placement in placements}
        found: list[tuple[Pod, Verdict]] = []
        for leaf in self._tree.leaves():
            rest = [pod for pod in leaf.pods if pod.key not in placed]
            if rest:
                account = self._placer.account(rest[0], self._narrowed(leaf, None))
                found += [(pod, account) for pod in rest]
        return tuple(found)

    # The verdict

    def verdict(self) -> GangVerdict:
        """Which groups find no room beside the others, in the domain that comes closest."""
        self._whole = self._thorough = False
        self._where.clear()
        verdict = self._account(self._tree, None)
        self._trial.back_to(0)
        return verdict

    def _tried(self) -> int:
        return 0 if self._proven else self._budget.spent or self._attempts.spent

    def _account(self, group: Group, within: Mask | None) -> GangVerdict:
        """The group's verdict; whatever could be placed of it stays in the trial."""
        if isinstance(group, Leaf):
            return self._leaf_account(group, within)
        rules = group.group
        places: list[tuple[Mask | None, str]] = [(within, "")]
        if rules.required_keys:
            domains = self._domains(group, rules.required_keys, within)[::-1]
            if not domains:
                why = reasons.no_domain(missing_key(self._snapshot, rules.required_keys))
                return GangVerdict(
                    group.key, rules.min_groups, 0, True, waiting=why, composite=True
                )
            places = [(domain.mask, domain.name) for domain in domains[:MAX_DIAGNOSED]]
        best: GangVerdict | None = None
        for mask, name in places:
            mark = len(self._trial)
            found = self._account_in(group, mask, name)
            self._trial.back_to(mark)
            if best is None or found.placed > best.placed:
                best = found
        assert best is not None
        return best

    def _account_in(self, tree: Tree, within: Mask | None, name: str) -> GangVerdict:
        started = sum(map(is_started, tree.children))
        able = [c for c in tree.children if is_complete(c) and not is_started(c)]
        failed = [_incomplete(c) for c in tree.children if c not in able and not is_started(c)]
        if tree.group.min_groups - started == len(able):
            able.sort(key=_hardness)  # as the search has tried them
        for child in able:
            if self._joins(child, within):
                started += 1
            else:
                failed.append(self._account(child, within))
        is_root = tree is self._tree
        accounts = (first_account(verdict) for verdict in failed)
        return GangVerdict(
            tree.key,
            tree.group.min_groups,
            started,
            False,
            next((a for a in accounts if a is not None), None) if is_root else None,
            domain=name,
            tried=self._tried() if is_root else 0,
            composite=True,
            children=tuple(failed),
        )

    def _leaf_account(self, leaf: Leaf, within: Mask | None) -> GangVerdict:
        gang = leaf.gang
        if gang.min_count:
            mark = len(self._trial)
            item, budget = QueueItem(leaf.pods, gang), Budget(DIAGNOSIS_BUDGET)
            found = place_gang(self._placer, item, within, budget)
            self._trial.placements += found.placements
            self._trial.back_to(mark)
            if found.gang_verdict is not None:
                return found.gang_verdict
        account = self._placer.account(leaf.pods[0], within)
        return GangVerdict(gang.key, max(gang.min_count, 1), 0, False, account)


def _incomplete(group: Group) -> GangVerdict:
    if isinstance(group, Leaf):
        why = f"pod group {group.key[1]}: {reasons.GANG_WAITING}"
        return GangVerdict(group.key, group.gang.min_count, 0, True, waiting=why)
    why = reasons.composite_short(group.key[1])
    return GangVerdict(group.key, group.group.min_groups, 0, True, waiting=why, composite=True)


def _hardness(group: Group) -> tuple[bool, int, float, Key]:
    """Groups bound to a domain first, then those of most pods, then the older ones."""
    rules = group.group if isinstance(group, Tree) else group.gang
    return (not rules.required_keys, -least_pods(group), group.created, group.key)


def _levels_of(tree: Tree) -> tuple[str, ...]:
    """Every topology key of the hierarchy."""
    groups: list[Gang | Composite] = [*tree.composites(), *(leaf.gang for leaf in tree.leaves())]
    found = (key for group in groups for key in (*group.required_keys, *group.preferred_keys))
    return tuple(dict.fromkeys(found))


def _domains_decide(snapshot: Snapshot, tree: Tree) -> bool:
    """Whether the choice of domains is all there is to a search for identical pods.

    True if their groups are all bound to domains of the same keys, or to none, and the composites
    between the root and them to none or to wider ones: then two groups share a domain or nothing,
    and a domain holds a fixed number of pods, whichever nodes they are put on.
    """
    keys = {leaf.gang.required_keys for leaf in tree.leaves() if not is_started(leaf)}
    inner = {c.required_keys for c in tree.composites() if c is not tree.group} - {()}
    if len(keys) != 1:
        return False
    [narrow] = keys
    return not inner or (bool(narrow) and all(_nest(snapshot, narrow, wide) for wide in inner))


def _nest(snapshot: Snapshot, narrow: tuple[str, ...], wide: tuple[str, ...]) -> bool:
    """Whether each domain of the narrow keys lies in one domain of the wide keys, or outside."""
    columns = [snapshot.labels.get(key) for key in (*narrow, *wide)]
    known = [column for column in columns if column is not None]
    if len(known) < len(columns):
        return False
    rows = snapshot.alive.copy()
    for column in known[: len(narrow)]:
        rows &= column >= 0
    codes = np.vstack([column[rows] for column in known])
    inside = np.unique(codes[: len(narrow)], axis=1).shape[1]
    return bool(inside == np.unique(codes, axis=1).shape[1])
