"""Whether something that happened helps one waiting item: what the queue asks before it wakes it.

The rules are in wakeups.py; here they meet the pods that wait. A hint costs nothing unless an item
listens to the event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache

from kubarium.api.kinds import NODES, PERSISTENT_VOLUME_CLAIMS
from kubarium.api.resource import Document, Resource
from kubarium.control.scheduling import wakeups
from kubarium.control.scheduling.events import Event, ItemKey
from kubarium.control.scheduling.queue import SchedulingQueue
from kubarium.control.scheduling.waiting import WaitingPods
from kubarium.engine.model import Key, Node, Pod, PodShape
from kubarium.engine.placement.profile import DEFAULT, Profile
from kubarium.view.cluster import ClusterView, key_of
from kubarium.view.nodes import node_row
from kubarium.view.profiles import scheduler_name

Hint = Callable[[ItemKey], bool]


class Hints:
    """Makes hints for the items of one queue."""

    def __init__(
        self,
        view: ClusterView,
        waiting: WaitingPods,
        queue: SchedulingQueue,
        profiles: Mapping[str, Profile],
    ) -> None:
        self._view = view
        self._waiting = waiting
        self._queue = queue
        self._profiles = profiles

    def of(
        self, event: Event, resource: Resource, old: Document | None, new: Document | None
    ) -> Hint | None:
        """Of a change of anything but pods, groups and ResourceClaims; None: it helps everybody."""
        if event is Event.NODE_GONE:
            return self._domain(old)
        if new is None:
            return None
        if resource == NODES:
            return self._node(event, old, new)
        if resource == PERSISTENT_VOLUME_CLAIMS:
            key = key_of(new)
            return lambda item: any(key in pod.volumes for pod in self._waiting.pods_of(item))
        return None

    def claim(self, key: Key) -> Hint:
        """A ResourceClaim changed for those who use it."""
        return lambda item: any(key in pod.claims for pod in self._waiting.pods_of(item))

    def placed(self, pods: list[Pod]) -> Hint:
        """These got their nodes."""
        return self._pods(lambda w: wakeups.placement_helps(self._view.snapshot, pods, w))

    def left(self, gone: Pod) -> Hint:
        """A pod is off its node."""
        return self._pods(lambda w: wakeups.leaving_helps(self._view.snapshot, gone, w))

    def ends(self, gone: Pod) -> Hint:
        """A pod has been told to end."""
        return self._pods(lambda w: wakeups.ending_helps(gone, w))

    def relabelled(self, old: Pod, new: Pod) -> Hint:
        """A pod on a node has other labels."""
        return self._pods(lambda w: wakeups.relabelling_helps(self._view.snapshot, old, new, w))

    def shrunk(self, resources: list[str]) -> Hint:
        """A pod on a node asks for less of these."""

        def helps(item: ItemKey) -> bool:
            # Devices may stand for a part of the node's own resources.
            return self._queue.listens(item, Event.DEVICES) or any(
                shape.request(name) > 0 for shape in self._shapes(item) for name in resources
            )

        return helps

    def _pods(self, helps: Callable[[Iterable[Pod]], bool]) -> Hint:
        return lambda item: helps(self._waiting.pods_of(item))

    def _shapes(self, item: ItemKey) -> Iterable[PodShape]:
        for document in self._waiting.documents_of(item):
            yield from self._view.shapes(document)

    # Nodes

    def _domain(self, gone: Document | None) -> Hint:
        labels = (gone or {}).get("metadata", {}).get("labels") or {}
        return self._pods(lambda w: wakeups.domain_goes(self._view.snapshot, labels, w))

    def _node(self, event: Event, old: Document | None, new: Document) -> Hint:
        """Of a node that came or changed; of many pods that are alike, one is looked at."""
        name, snapshot = new["metadata"]["name"], self._view.snapshot

        @cache
        def before() -> Node | None:
            return None if old is None or event is Event.DATA else node_row(old)

        @cache
        def better(scheduler: str, shape: PodShape, near: bool, elsewhere: bool) -> bool:
            """``near``: other pods kept the shape away; ``elsewhere``: devices or such did."""
            if event is Event.DATA:
                if not shape.data_required:
                    return False
            elif elsewhere or self._recounts(event, before(), name, shape, near=near):
                return True
            profile = self._profiles.get(scheduler, DEFAULT)
            return wakeups.node_helps(snapshot, name, before(), shape, profile)

        def helps(item: ItemKey) -> bool:
            if item.gang:
                return True
            near = self._queue.listens(item, Event.PODS)
            others = _ELSEWHERE.get(event, ())
            elsewhere = any(self._queue.listens(item, other) for other in others)
            return any(
                better(scheduler_name(document), shape, near, elsewhere)
                for document in self._waiting.documents_of(item)
                for shape in self._view.shapes(document)
            )

        return helps

    def _recounts(
        self, event: Event, before: Node | None, name: str, shape: PodShape, *, near: bool
    ) -> bool:
        """Whether the node's change makes others count differently for a pod of the shape."""
        snapshot = self._view.snapshot
        now = snapshot.node(name)
        if before is None or now is None:
            return event is Event.NODE and near
        if event is Event.TAINTS:
            return near and bool(shape.spread)
        return event is Event.LABELS and wakeups.domains_change(
            before, now, shape, snapshot.tallies.anti_holders if near else ()
        )


# What volumes and devices say of nodes is theirs to judge (upstream: no hint).
_ELSEWHERE = {
    Event.LABELS: (Event.DEVICES, Event.VOLUMES),
    Event.CAPACITY: (Event.DEVICES,),
}
