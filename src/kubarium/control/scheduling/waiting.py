"""Pods that wait for a node, and what is to be decided about them together.

An item of the queue is a pod, a gang, or a hierarchy of gangs. It can be decided when all that it
names is there: its group, enough members, its claims. Until then it is held, and known what for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kubarium.api.resource import Document
from kubarium.base.clock import Clock
from kubarium.control.scheduling.events import ItemKey
from kubarium.control.scheduling.held import INVALID, SCHEDULER_ERROR, UNSCHEDULABLE, Held, Wait
from kubarium.control.scheduling.members import Members
from kubarium.control.scheduling.queue import SchedulingQueue
from kubarium.engine import reasons
from kubarium.engine.model import Key, Pod
from kubarium.engine.placement.quorum import is_started, waiting_for
from kubarium.engine.plan import QueueItem
from kubarium.view.cluster import ClusterView, key_of
from kubarium.view.forest import disagreement
from kubarium.view.gangs import has_run
from kubarium.view.locality import data_of
from kubarium.view.missing import missing_claims
from kubarium.view.pods import gang_key
from kubarium.view.profiles import scheduler_name


class WaitingPods:
    """The scheduler's own unbound pods, by the items that decide them."""

    def __init__(self, view: ClusterView, queue: SchedulingQueue, clock: Clock) -> None:
        self._view = view
        self._queue = queue
        self._clock = clock
        self._documents: dict[Key, Document] = {}
        self._missing_claims: dict[Key, dict[ItemKey, None]] = {}
        self._missing_of: dict[ItemKey, list[Key]] = {}
        self.members = Members(view.forest)
        self.held = Held()
        # Decided, but not yet confirmed by the watch: the node of each.
        self.assumed: dict[Key, str] = {}

    def is_undecided(self, pod: Key) -> bool:
        """Whether the pod waits and no decision about it is under way."""
        return pod in self._documents and pod not in self.assumed

    def documents(self) -> Iterable[Document]:
        """All waiting pods, as they were written."""
        return self._documents.values()

    def documents_of(self, item: ItemKey) -> Iterator[Document]:
        """The waiting pods of an item, as they were written."""
        keys = self.members.pods_of(item) if item.gang else (item.key,)
        return (self._documents[key] for key in keys if key in self._documents)

    def pods_of(self, item: ItemKey) -> list[Pod]:
        """The waiting pods of an item."""
        return [self._view.pod(document) for document in self.documents_of(item)]

    # They come and go

    def add(self, old: Document | None, new: Document) -> bool:
        """A pod came or changed; whether there is something to decide anew."""
        key = key_of(new)
        known = self._documents.get(key)
        self._documents[key] = new
        if known is not None and old is not None and _asks_the_same(known, new):
            return False
        group = gang_key(new)
        item = ItemKey(False, key) if group is None else self.members.add(group, key)
        if known is None:
            self._queue.add(item)
        else:
            self._queue.changed(item, self._clock.monotonic())
        return True

    def drop(self, key: Key, group: Key | None, *, bound: bool) -> None:
        """The pod waits no longer: it is bound, gone, or somebody else's."""
        self._documents.pop(key, None)
        if not bound and key in self.assumed:
            self._view.forget_assumed(key)
        self.assumed.pop(key, None)
        self.forget(ItemKey(False, key) if group is None else self.members.drop(group, key))

    def forget(self, item: ItemKey | None) -> None:
        """Nothing is left to decide for the item."""
        if item is not None:
            self._expect_claims(item, [])
            self.held.release(item)
            self._queue.remove(item)

    def claim_came(self, claim: Key) -> bool:
        """Queue the items that waited for this claim; whether there are any."""
        waiting = self._missing_claims.pop(claim, {})
        for item in waiting:
            self._queue.add(item)
        return bool(waiting)

    def give_up(self, pod: Pod, claims: list[Key]) -> None:
        """What was assumed of a pod and its claims was not written: it is undecided again."""
        self.assumed.pop(pod.key, None)
        self._view.forget_assumed(pod.key)
        # Its other claims may have been allocated with a pod that gave up before.
        for claim in dict.fromkeys((*claims, *pod.claims)):
            if not self._view.snapshot.claim_users.get(claim):
                self._view.forget_assumed_claim(claim)

    def forget_decision(self, item: QueueItem) -> None:
        """Planning failed after it may have assumed something of the item's pods and claims."""
        for pod in item.pods:
            if pod.key in self.assumed or self._view.is_bound(pod.key):
                continue
            claims = [claim for one in (pod, *pod.variants) for claim in one.claims]
            self.give_up(pod, claims)

    # What is to be decided

    def item(self, key: ItemKey) -> QueueItem | None:
        """What to decide for a key; None if it is not complete yet, and then it is held."""
        if key.gang:
            return self._tree_item(key) if key.composite else self._gang_item(key)
        if not self.is_undecided(key.key):
            self._queue.remove(key)
            return None
        document = self._documents[key.key]
        if not self._has_claims(key, (document,)):
            return None
        return QueueItem((self._view.pod(document),), scheduler=scheduler_name(document))

    def _gang_item(self, key: ItemKey) -> QueueItem | None:
        gang = self._view.gang(key.key)
        pods = self._undecided(key.key)
        if not pods:
            self._queue.remove(key)
            return None
        if gang is None:
            self._hold(key, reasons.pod_group_missing(key.key[1]))
            return None
        schedulers = self._schedulers(pods)
        conflict = disagreement(pods, schedulers, (gang,))
        if conflict:
            self._hold(key, conflict, SCHEDULER_ERROR)
            return None
        if len(pods) + gang.scheduled_count < gang.min_count:
            self._hold(key, f"{reasons.GANG_WAITING}{self._left_to_others(key.key)}")
            return None
        if not self._has_claims(key, self._documents_of(pods)):
            return None
        begun = 0 < gang.scheduled_count < gang.min_count
        begun = begun and not has_run(self._view.group_documents[key.key])
        return QueueItem(pods, gang, schedulers[0], begun=begun)

    def _tree_item(self, key: ItemKey) -> QueueItem | None:
        """All waiting pods below a composite, if its hierarchy is sound and can start."""
        forest = self._view.forest
        fault = forest.fault(key.key)
        if fault is not None:
            self._hold(key, fault.text, INVALID if fault.invalid else UNSCHEDULABLE)
            return None
        tree = forest.tree(key.key, self._view.gang, self._undecided)
        leaves = [leaf for leaf in tree.leaves() if leaf.pods]
        pods = tuple(pod for leaf in leaves for pod in leaf.pods)
        if not pods:
            self._queue.remove(key)
            return None
        schedulers = self._schedulers(pods)
        conflict = disagreement(pods, schedulers, (leaf.gang for leaf in leaves))
        if conflict:
            self._hold(key, conflict, SCHEDULER_ERROR)
            return None
        waiting = waiting_for(tree)
        if waiting:
            self._hold(key, waiting)
            return None
        if not self._has_claims(key, self._documents_of(pods)):
            return None
        begun = any(leaf.gang.scheduled_count for leaf in tree.leaves()) and not is_started(tree)
        begun = begun and not has_run(forest.composites[key.key])
        return QueueItem(pods, None, schedulers[0], tree, begun)

    def _left_to_others(self, group: Key) -> str:
        """What to add for pods of a group whose scheduler nobody here is; "" without such."""
        names = self._view.waiting_for(group, self._documents)
        if not names:
            return ""
        return f"; {len(names)} of them left to scheduler {', '.join(dict.fromkeys(names))}"

    def _undecided(self, group: Key) -> tuple[Pod, ...]:
        return tuple(
            self._view.pod(self._documents[member])
            for member in self.members.pods(group)
            if self.is_undecided(member)
        )

    def _schedulers(self, pods: tuple[Pod, ...]) -> list[str]:
        return [scheduler_name(self._documents[pod.key]) for pod in pods]

    # What they wait for

    def _documents_of(self, pods: tuple[Pod, ...]) -> Iterator[Document]:
        return (self._documents[pod.key] for pod in pods)

    def _has_claims(self, item: ItemKey, documents: Iterable[Document]) -> bool:
        known = self._view.snapshot.claims
        missing = [found for document in documents for found in missing_claims(document, known)]
        self._expect_claims(item, [claim for claim, _ in missing])
        if missing:
            self._hold(item, missing[0][1])
        else:
            self.held.release(item)
        return not missing

    def _hold(self, item: ItemKey, reason: str, code: str = UNSCHEDULABLE) -> None:
        """Not to be decided until something that ``reason`` speaks of comes."""
        self._queue.hold(item)
        self.held.hold(item, Wait(reason, code), self._clock.monotonic())

    def _expect_claims(self, item: ItemKey, missing: list[Key]) -> None:
        """Wake the item when one of these claims appears, and for no others."""
        for claim in self._missing_of.pop(item, ()):
            waiting = self._missing_claims.get(claim, {})
            waiting.pop(item, None)
            if not waiting:
                self._missing_claims.pop(claim, None)
        if missing:
            self._missing_of[item] = missing
        for claim in missing:
            self._missing_claims.setdefault(claim, {})[item] = None


def _asks_the_same(old: Document, new: Document) -> bool:
    """Whether nothing that decides about the pod's place changed; our own conditions do not."""
    return (
        old["metadata"].get("uid") == new["metadata"].get("uid")
        and old.get("spec") == new.get("spec")
        and old["metadata"].get("labels") == new["metadata"].get("labels")
        and data_of(old["metadata"]) == data_of(new["metadata"])
        and (old.get("status") or {}).get("resourceClaimStatuses")
        == (new.get("status") or {}).get("resourceClaimStatuses")
    )
