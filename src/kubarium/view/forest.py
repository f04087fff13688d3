"""Hierarchies of groups: which composite a pod group belongs to in the end, and what is wrong.

Documents come in any order and may contradict each other, so nothing is assumed: parents may be
missing, lead around in a circle or go too deep. Such a hierarchy has a fault and is not scheduled;
others are not concerned (KEP-6012: group hierarchy).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kubarium.api.resource import Document
from kubarium.base.quoted import listed
from kubarium.engine import reasons
from kubarium.engine.model import Gang, Key, Pod
from kubarium.engine.placement.disruption import MAX_TREE_DEPTH
from kubarium.engine.plan import Leaf, Tree
from kubarium.engine.snapshot import Snapshot
from kubarium.view.gangs import composite_row

# Pods that are named of many.
NAMED = 3

_Value = TypeVar("_Value")

# A group in a hierarchy: whether it is a composite, and its key.
Member = tuple[bool, Key]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a hierarchy is not scheduled; ``invalid`` if it never will be as it is."""

    text: str
    invalid: bool


class Forest:
    """All composites and the pod groups that have a parent."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.composites: dict[Key, Document] = {}
        self._groups: dict[Key, Document] = {}
        self._children: dict[Key, dict[Member, None]] = {}

    def set_composite(self, key: Key, document: Document | None) -> None:
        """Learn a CompositePodGroup (None: it is gone)."""
        self._link((True, key), self.composites.get(key), document)
        if document is None:
            self.composites.pop(key, None)
            self._snapshot.composites.pop(key, None)
        else:
            self.composites[key] = document
            self._snapshot.composites[key] = composite_row(document)

    def set_group(self, key: Key, document: Document | None) -> None:
        """Learn a PodGroup (None: it is gone)."""
        self._link((False, key), self._groups.get(key), document)
        if document is None:
            self._groups.pop(key, None)
        else:
            self._groups[key] = document

    def _link(self, member: Member, old: Document | None, new: Document | None) -> None:
        before, after = parent_of(old), parent_of(new)
        if before is not None and before != after:
            siblings = self._children[before]
            siblings.pop(member, None)
            if not siblings:
                del self._children[before]
        if after is not None:
            self._children.setdefault(after, {})[member] = None

    def root_of(self, group: Key) -> Key | None:
        """The composite at the top; None for a group of its own.

        A parent that does not exist counts as the top until it comes. For a circle it is the
        composite whose name comes first, the same for all that lead into the circle.
        """
        parent = parent_of(self._groups.get(group))
        return None if parent is None else self._top(parent)

    def _top(self, key: Key) -> Key:
        path: dict[Key, None] = {}
        while key not in path:
            path[key] = None
            above = parent_of(self.composites.get(key))
            if above is None:
                return key
            key = above
        circle = list(path)
        return min(circle[circle.index(key) :])

    def below(self, root: Key) -> Iterator[Member]:
        """The composite and everything below it, each once."""
        seen: dict[Member, None] = {}
        todo: list[Member] = [(True, root)]
        while todo:
            member = todo.pop()
            if member in seen:
                continue
            seen[member] = None
            yield member
            if member[0]:
                todo += self._children.get(member[1], ())

    def root_of_composite(self, key: Key) -> Key:
        """The top of the hierarchy that the composite belongs to."""
        return self._top(key)

    def roots_around(self, document: Document, *, composite: bool) -> list[Key]:
        """The tops of the hierarchies that a group is part of, or was until it went."""
        metadata, parent = document["metadata"], parent_of(document)
        tops = [self._top(parent)] if parent is not None else []
        if composite:
            tops.append(self._top((metadata.get("namespace", ""), metadata["name"])))
        return list(dict.fromkeys(tops))

    # What may be wrong

    def fault(self, root: Key) -> Fault | None:
        """Why the hierarchy under ``root`` cannot be decided; None if it can."""
        if root not in self.composites:
            return Fault(reasons.composite_missing(root[1]), invalid=False)
        text = self._circle(root) or self._too_deep(root) or self._divided(root)
        return Fault(text, invalid=True) if text else None

    def _circle(self, root: Key) -> str:
        names, key = [root[1]], parent_of(self.composites[root])
        while key is not None:
            names.append(key[1])
            if key == root:
                return reasons.tree_cycle(" -> ".join(names))
            key = parent_of(self.composites.get(key))
        return ""

    def _too_deep(self, root: Key) -> str:
        depth, level = 1, [root]
        while level:
            members = [m for key in level for m in self._children.get(key, ())]
            if not members:
                break
            depth += 1
            level = [key for composite, key in members if composite]
        return reasons.tree_depth(depth, MAX_TREE_DEPTH) if depth > MAX_TREE_DEPTH else ""

    def _divided(self, root: Key) -> str:
        """Whether the groups disagree about their Workload or their priority."""
        workload: str | None = None
        priority: int | None = None
        for composite, key in sorted(self.below(root)):
            document = (self.composites if composite else self._groups)[key]
            spec = document.get("spec") or {}
            name = (spec.get("workloadRef") or {}).get("workloadName")
            if name is not None and workload is not None and name != workload:
                return reasons.tree_workloads(*sorted((workload, name)))
            workload = name if name is not None else workload
            number = spec.get("priority")
            if number is not None and priority is not None and number != priority:
                return reasons.tree_priority(*sorted((priority, int(number))))
            priority = int(number) if number is not None else priority
        return ""

    # As the engine takes it

    def tree(
        self,
        root: Key,
        gang_of: Callable[[Key], Gang | None],
        pods_of: Callable[[Key], tuple[Pod, ...]],
    ) -> Tree:
        """The hierarchy with its waiting pods, oldest groups first. It must be without a fault."""
        children: list[Tree | Leaf] = []
        for composite, key in self._children.get(root, ()):
            if composite:
                children.append(self.tree(key, gang_of, pods_of))
            elif (gang := gang_of(key)) is not None:
                children.append(Leaf(gang, pods_of(key)))
        children.sort(key=lambda child: (child.created, child.key))
        return Tree(self._snapshot.composites[root], tuple(children))


def parent_of(document: Document | None) -> Key | None:
    """The composite that a group names as its parent."""
    if document is None:
        return None
    name = (document.get("spec") or {}).get("parentCompositePodGroupName")
    return (document["metadata"].get("namespace", ""), name) if name else None


def disagreement(pods: Sequence[Pod], schedulers: Sequence[str], gangs: Iterable[Gang]) -> str:
    """Upstream's sentence when the pods of a group do not agree; "" if they do (KEP-5710).

    ``schedulers`` are those of the pods, in their order. Behind the sentence stands who differs.
    """
    if len(set(schedulers)) > 1:
        text = reasons.other_scheduler(*sorted(set(schedulers))[:2])
        return f"{text}{_who(pods, schedulers, _most(schedulers))}"
    own = list(dict.fromkeys(gang.priority for gang in gangs if gang.priority is not None))
    priorities = [pod.priority for pod in pods]
    known = sorted({*own, *priorities})
    if len(known) > 1:
        wanted = own[0] if own else _most(priorities)
        return f"{reasons.other_priority(*known[:2])}{_who(pods, priorities, wanted)}"
    policies = [pod.preempts for pod in pods]
    if len(set(policies)) > 1:
        text = reasons.other_preemption_policy("Never", "PreemptLowerPriority")
        return f"{text}{_who(pods, policies, _most(policies))}"
    return ""


def _most(values: Sequence[_Value]) -> _Value:
    """What most have; of equally many, what the first has."""
    return Counter(values).most_common(1)[0][0]


def _who(pods: Sequence[Pod], values: Sequence[_Value], wanted: _Value) -> str:
    """The pods that have another value, a few of many by name."""
    names = sorted(pod.key[1] for pod, value in zip(pods, values, strict=True) if value != wanted)
    if not names:
        return ""
    noun = "pod" if len(names) == 1 else "pods"
    return f" ({noun} {listed(names, NAMED)})"
