"""What a pod group or a composite needs to start, and whether it has that.

A group of the basic policy runs with its first pod, a composite without a minimum with its first
group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kubarium.engine import reasons
from kubarium.engine.model import Composite, Gang, Key
from kubarium.engine.placement.gang import needed_of
from kubarium.engine.plan import Leaf, Placement, Tree

Group = Tree | Leaf


def is_complete(group: Group) -> bool:
    """Whether enough pods exist, waiting or placed, for the group to start."""
    if isinstance(group, Leaf):
        have = len(group.pods) + group.gang.scheduled_count
        return have >= max(group.gang.min_count, 1)
    return sum(map(is_complete, group.children)) >= max(group.group.min_groups, 1)


def is_started(group: Group) -> bool:
    """Whether the group has its minimum already: a group of the basic policy with its first."""
    if isinstance(group, Leaf):
        return group.gang.scheduled_count >= max(group.gang.min_count, 1)
    return sum(map(is_started, group.children)) >= max(group.group.min_groups, 1)


def started_with(tree: Tree, placements: Sequence[Placement]) -> set[tuple[bool, Key]]:
    """The groups that run once the placements are made: whether it is a composite, and its key."""
    placed = Counter(p.pod.gang for p in placements)
    found: set[tuple[bool, Key]] = set()

    def starts(group: Group) -> bool:
        if isinstance(group, Leaf):
            have = placed[group.key] + group.gang.scheduled_count
            done = have >= max(group.gang.min_count, 1)
        else:
            below = [starts(child) for child in group.children]
            done = sum(below) >= max(group.group.min_groups, 1)
        if done:
            found.add((isinstance(group, Tree), group.key))
        return done

    starts(tree)
    return found


def waiting_for(tree: Tree) -> str:
    """Why the tree cannot be decided yet; "" if it can."""
    if is_started(tree) or is_complete(tree):
        return ""
    short = [leaf for leaf in tree.leaves() if not is_complete(leaf)]
    have = sum(map(is_complete, tree.children))
    verb = "is" if have == 1 else "are"
    lacking = (
        f"minGroupCount is {max(tree.group.min_groups, 1)}, {have} of its groups {verb} complete"
    )
    if have + len(short) >= tree.group.min_groups and short:
        lacking = f"fewer than minCount pods of pod group {short[0].key[1]} exist"
    return f"{reasons.composite_short(tree.key[1])} ({lacking})"


def least_pods(group: Group) -> int:
    """How many pods must be placed at once, at least."""
    if is_started(group):
        return 0
    if isinstance(group, Leaf):
        return max(needed_of(group.gang), 1)
    wanted = max(group.group.min_groups, 1) - sum(map(is_started, group.children))
    able = [child for child in group.children if not is_started(child) and is_complete(child)]
    return sum(sorted(map(least_pods, able))[:wanted])


def keeps_together(tree: Tree) -> bool:
    """Whether a group of the tree is bound to a topology domain."""
    groups: tuple[Gang | Composite, ...] = (*tree.composites(), *(x.gang for x in tree.leaves()))
    return any(group.required_keys for group in groups)
