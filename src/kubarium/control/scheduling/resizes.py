"""Running pods whose resize the node has deferred: lower-priority pods may make room (KEP-5836).

They wait in a queue of their own with the back-off of others. A pod is looked at again when
something on its own node leaves, shrinks or grows, and when the node has more or allows it; once
its resize fits it leaves the queue, for the node is to carry it out.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

from kubarium.api.kinds import NODES, PODS
from kubarium.api.resource import Document, Resource
from kubarium.control.scheduling.commit import Committer
from kubarium.control.scheduling.events import Event, ItemKey
from kubarium.control.scheduling.queue import SchedulingQueue
from kubarium.engine.model import Key, Pod
from kubarium.engine.placement.growth import grow
from kubarium.engine.placement.profile import Profile
from kubarium.engine.plan import Preemption
from kubarium.view.cluster import ClusterView, key_of
from kubarium.view.nodes import node_row
from kubarium.view.pod_requests import resized
from kubarium.view.pods import is_deferred, is_finished, node_of
from kubarium.view.profiles import scheduler_name

_LOG = logging.getLogger("kubarium.scheduler")

_HELPED_BY = frozenset({Event.ROOM})


class Resizes:
    """Keeps the deferred pods and says what is to be written for them."""

    def __init__(
        self,
        view: ClusterView,
        committer: Committer,
        profiles: Mapping[str, Profile],
        queue: SchedulingQueue,
    ) -> None:
        self.queue = queue
        self._view = view
        self._committer = committer
        self._profiles = profiles
        self._deferred: dict[Key, Document] = {}
        self._on_node: dict[str, dict[Key, None]] = {}
        self._leaving: dict[str, tuple[Pod, ...]] = {}  # victims chosen, by node

    def changed(
        self, resource: Resource, old: Document | None, new: Document | None, now: float
    ) -> bool:
        """Take in a change, after the view has; whether something may be ready to be decided."""
        if resource == PODS:
            own = self._follow(old, new)
            if not self._on_node:
                return own
            node = node_of(old or {}) or node_of(new or {})
            if node in self._on_node and _amounts_differ(old, new):
                self._look_again(node, now, other_than=key_of(new or old or {}))
                return True
            return own
        if resource == NODES and new is not None:
            name = new["metadata"]["name"]
            if name in self._on_node and (old is None or node_row(old) != node_row(new)):
                self._look_again(name, now)
                return True
        return False

    def _follow(self, old: Document | None, new: Document | None) -> bool:
        document = new or old
        assert document is not None
        key = key_of(document)
        if new is None or not self._is_ours(new):
            if key in self._deferred:
                self._drop(key)
            return False
        known = self._deferred.get(key)
        if known is not None and known["metadata"].get("uid") != new["metadata"].get("uid"):
            self._drop(key)
            known = None
        self._deferred[key] = new
        self._on_node.setdefault(node_of(new), {})[key] = None
        if known is None or known.get("spec") != new.get("spec"):
            self.queue.add(ItemKey(False, key))
            return True
        return False

    def _is_ours(self, document: Document) -> bool:
        spec = document.get("spec") or {}
        return (
            bool(spec.get("nodeName"))
            and is_deferred(document)
            and scheduler_name(document) in self._profiles
            and not is_finished(document)
            and "deletionTimestamp" not in document["metadata"]
        )

    def _drop(self, key: Key) -> None:
        node = node_of(self._deferred.pop(key))
        self._on_node[node].pop(key)
        if not self._on_node[node]:
            del self._on_node[node]
            self._leaving.pop(node, None)
        self.queue.remove(ItemKey(False, key))

    def _look_again(self, node: str, now: float, other_than: Key | None = None) -> None:
        """Something of the node changed; those that had left the queue come back to it."""
        here = self._on_node.get(node, {})
        self.queue.happened(Event.ROOM, now, lambda item: item.key in here)
        for key in here:
            if key != other_than and ItemKey(False, key) not in self.queue:
                self.queue.add(ItemKey(False, key))

    def decide(self, now: float) -> Iterator[Coroutine[Any, Any, None]]:
        """Decide for all that are ready, the most important first; what is to be written."""
        ready = {key: self._view.snapshot.placed(key.key) for key in self.queue.take(now)}
        found = [(key, pod) for key, pod in ready.items() if pod is not None]
        for key in [key for key, pod in ready.items() if pod is None]:
            self.queue.remove(key)
        for key, pod in sorted(found, key=lambda entry: (-entry[1].priority, entry[1].key)):
            spec = self._deferred[key.key]["spec"]
            if self._room_is_coming(spec["nodeName"]):
                self.queue.fail(key, _HELPED_BY, now)
                continue
            profile = self._profiles[scheduler_name(self._deferred[key.key])]
            try:
                growth = grow(self._view.snapshot, pod, profile)
            except Exception:  # this pod stays as it is, and the others get their turn
                self._view.snapshot.abandon(0)
                _LOG.exception("%s: whether it can grow was not decided", "/".join(key.key))
                self.queue.fail(key, _HELPED_BY, now)
                continue
            if not growth.message:
                self.queue.remove(key)
                continue
            self.queue.fail(key, _HELPED_BY, now)
            yield self._committer.resize_waits(pod, growth.message)
            if growth.preemption is not None:
                self._leaving[spec["nodeName"]] = growth.preemption.victims
                yield self._preempt(spec["nodeName"], growth.preemption)

    def _room_is_coming(self, node: str) -> bool:
        """Whether victims that were chosen have yet to be seen leaving."""
        placed = self._view.snapshot.placed
        left = tuple(
            victim
            for victim in self._leaving.get(node, ())
            if (known := placed(victim.key)) is not None
            and known.uid == victim.uid
            and not known.preempted
        )
        self._leaving.pop(node, None)
        if left:
            self._leaving[node] = left
        return bool(left)

    async def _preempt(self, node: str, preemption: Preemption) -> None:
        try:
            await self._committer.preempt(preemption)
        except BaseException:
            self._leaving.pop(node, None)
            raise


def _amounts_differ(old: Document | None, new: Document | None) -> bool:
    """Whether a pod came, went, or counts as something else on its node."""
    if old is None or new is None or is_finished(old) != is_finished(new):
        return True
    before, after = resized(old), resized(new)
    return any(
        before.get(part) != after.get(part)
        for part in ("containers", "initContainers", "resources")
    )
