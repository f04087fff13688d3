"""What would help a composite: a change in one group, or one in each of the groups without room.

A hierarchy starts as a whole, so that no change in one group helps while another has no room
either. Then the first group's changes are made one after the other, the cheapest first, and what is
left to do for the next group is asked on the snapshot with the change in it; so each combination
that is given has been tried from end to end. What the composites themselves demand, their topology
and their number of groups, is lifted too.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from kubarium.engine.devices.model import AllocationError
from kubarium.engine.explain.explainer import Question, told
from kubarium.engine.explain.subject import ADD, Change, Subject
from kubarium.engine.explain.supplies import is_made_up
from kubarium.engine.explain.trial import Trial
from kubarium.engine.explain.wishes import Clauses
from kubarium.engine.model import Composite, Key
from kubarium.engine.placement.gang import place_gang
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.tree import place_tree
from kubarium.engine.plan import Decision, Leaf, QueueItem, Tree
from kubarium.engine.verdict import GangVerdict, Suggestion

# Groups without room that are looked at, and how many ways to make room are followed for the first,
# the second and the third of them.
WAYS_FOLLOWED = (4, 3, 1)
GROUPS_TOLD = len(WAYS_FOLLOWED)
COMBINATIONS_GIVEN = 3
# Numbers of groups, each one less, with which a composite is tried.
COUNTS_TRIED = 4


@dataclass(frozen=True, slots=True)
class HierarchyAdvice:
    """``of_groups`` help alone, made in one group; ``together`` as a whole, several or on top."""

    of_groups: dict[Key, tuple[Suggestion, ...]]
    together: tuple[Suggestion, ...]


class HierarchyQuestion:
    """One tree of groups that does not start."""

    def __init__(self, placer: Placer, clauses: Clauses, tree: Tree, verdict: GangVerdict) -> None:
        self._placer = placer
        self._clauses = clauses
        self._tree = tree
        self._verdict = verdict

    @property
    def failed(self) -> dict[Key, GangVerdict]:
        """The pod groups that found no room beside the others, in order."""
        return failed_groups(self._tree, self._verdict)

    def advice(self) -> HierarchyAdvice:
        """Everything that would help, each tried on the whole."""
        of_groups: dict[Key, tuple[Suggestion, ...]] = {}
        for key in list(self.failed)[:GROUPS_TOLD]:
            leaf = _leaf(self._tree, key)
            whole = Subject(leaf.pods, leaf.gang, self._tree)
            decision = Decision(whole.item, gang_verdict=self.failed[key])
            question = Question(self._placer, self._clauses, whole, decision)
            of_groups[key] = question.suggestions
        together = list(self._of_composites())
        if not any(of_groups.values()):
            chains = self._chains(self._tree, self._verdict, 0)
            # One way for all groups is told before a mixture.
            chains.sort(key=lambda changes: (_mixed(changes), sum(c.cost for c in changes)))
            together += map(told, chains[:COMBINATIONS_GIVEN])
        return HierarchyAdvice(of_groups, tuple(dict.fromkeys(together)))

    # What composites demand.

    def _of_composites(self) -> Iterator[Suggestion]:
        for composite in self._tree.composites():
            for changed, suggestion in _relaxed(composite, self._verdict):
                if self._starts(_with_composite(self._tree, changed)) is None:
                    yield suggestion
                    if suggestion.kind == "lower-min-group-count":
                        break  # the largest that fits

    def _starts(self, tree: Tree) -> GangVerdict | None:
        """None if it does; why not otherwise."""
        snapshot = self._placer.snapshot
        mark = snapshot.checkpoint()
        try:
            return place_tree(self._placer, QueueItem.of_tree(tree)).gang_verdict
        except AllocationError:
            return self._verdict
        finally:
            snapshot.rollback(mark)

    # One change in each group.

    def _chains(self, tree: Tree, verdict: GangVerdict, depth: int) -> list[tuple[Change, ...]]:
        """Changes, group after group, with which the tree starts."""
        failed = failed_groups(tree, verdict)
        if depth == GROUPS_TOLD or not failed:
            return []
        leaf = _leaf(tree, next(iter(failed)))
        trial = Trial(self._placer)
        found: list[tuple[Change, ...]] = []
        for changes in self._local(tree, failed, leaf)[: WAYS_FOLLOWED[depth]]:
            with trial.made(Subject(leaf.pods, leaf.gang, tree), changes) as changed:
                after = changed.whole
                why = self._starts(after)
                named = tuple(_named(change, leaf) for change in changes)
                if why is None:
                    found.append(named)
                elif leaf.key not in failed_groups(after, why):
                    found += ((*named, *rest) for rest in self._chains(after, why, depth + 1))
        return found

    def _local(
        self, tree: Tree, failed: dict[Key, GangVerdict], leaf: Leaf
    ) -> list[tuple[Change, ...]]:
        """What makes room for the group beside those that have it: one way of each kind."""
        with others_placed(self._placer, tree, failed):
            decision = Decision(QueueItem(leaf.pods, leaf.gang), gang_verdict=failed[leaf.key])
            subject = Subject(leaf.pods, leaf.gang)
            solutions = Question(self._placer, self._clauses, subject, decision).solutions
        # The end of pods that the hierarchy itself would only bring is no way.
        kept: dict[tuple[str, ...], tuple[Change, ...]] = {}
        for changes in solutions:
            suggestions = [change.suggestion for change in changes]
            if not any(
                s.kind in ("free-pod", "free-pods") or is_made_up(s.node) for s in suggestions
            ):
                kept.setdefault(tuple(c.suggestion.kind for c in changes), changes)
        return list(kept.values())


@contextmanager
def others_placed(placer: Placer, tree: Tree, failed: Container[Key]) -> Iterator[None]:
    """Meanwhile the groups that have room are in their places."""
    snapshot = placer.snapshot
    mark = snapshot.checkpoint()
    try:
        for other in tree.leaves():
            if other.key not in failed and other.pods:
                place_gang(placer, QueueItem(other.pods, other.gang))
        yield
    finally:
        snapshot.rollback(mark)


def failed_groups(tree: Tree, verdict: GangVerdict) -> dict[Key, GangVerdict]:
    """The pod groups of the tree that found no room, in the verdict's order."""
    known = {leaf.key for leaf in tree.leaves() if leaf.pods}
    return {child.gang: child for child in _failed(verdict) if child.gang in known}


def _failed(verdict: GangVerdict) -> Iterator[GangVerdict]:
    for child in verdict.children:
        if not child.composite and not child.waiting:
            yield child
        yield from _failed(child)


def _mixed(changes: tuple[Change, ...]) -> int:
    return len({change.suggestion.kind for change in changes})


def _leaf(tree: Tree, key: Key) -> Leaf:
    return next(leaf for leaf in tree.leaves() if leaf.key == key)


def _named(change: Change, leaf: Leaf) -> Change:
    """A change of the pods' own wishes says whose they are."""
    if change.cost >= ADD or change.suggestion.kind in ("lower-min-count", "remove-topology"):
        return change
    text = f"{change.suggestion.text} in pod group {leaf.key[1]}"
    return replace(change, suggestion=replace(change.suggestion, text=text))


def _relaxed(composite: Composite, verdict: GangVerdict) -> Iterator[tuple[Composite, Suggestion]]:
    """The composite with less demanded, the least changed first."""
    name = composite.key[1]
    if composite.required_keys:
        keys = ", ".join(composite.required_keys)
        text = f"do without the topology constraint {keys} of composite pod group {name}"
        yield replace(composite, required_keys=()), Suggestion("remove-topology", text, keys)
    less = composite.min_groups - 1
    counts = range(less, max(less - COUNTS_TRIED, 0), -1)
    found_room = verdict.placed if composite.key == verdict.gang else 0
    for count in dict.fromkeys((*counts, *((found_room,) if 0 < found_room <= less else ()))):
        text = (
            f"lower minGroupCount of composite pod group {name} from {composite.min_groups}"
            f" to {count}"
        )
        suggestion = Suggestion("lower-min-group-count", text, name, amount=count)
        yield replace(composite, min_groups=count), suggestion


def _with_composite(tree: Tree, composite: Composite) -> Tree:
    children = tuple(
        _with_composite(child, composite) if isinstance(child, Tree) else child
        for child in tree.children
    )
    group = composite if tree.key == composite.key else tree.group
    return replace(tree, group=group, children=children)
