"""Pods for which room is being made, and on which nodes.

Of thousands of preemptors each asks who else was promised its node; so they are found by node.
A preemptor whose victims are still going is *patient*: pods that leave elsewhere are not its
business, unless they leave room for it that nobody was promised. Patient pods of one shape and
priority are asked once for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kubarium.control.scheduling import wakeups
from kubarium.engine.model import Key, Pod, PodShape
from kubarium.engine.placement.preemption import room_is_coming
from kubarium.engine.snapshot import Snapshot

Nomination = tuple[Pod, str]
Kind = tuple[PodShape, int]  # shape and priority


@dataclass(slots=True)
class Nominations:
    """At most one node for each pod; in the order in which they were made."""

    _by_pod: dict[Key, Nomination] = field(default_factory=dict)
    _by_node: dict[str, dict[Key, None]] = field(default_factory=dict)
    _victims: dict[Key, tuple[Pod, ...]] = field(default_factory=dict)
    _patient: dict[Kind, dict[Key, None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._by_pod)

    def all(self) -> Iterable[Nomination]:
        """Every pod with its node."""
        return self._by_pod.values()

    def put(self, pod: Pod, node: str, victims: tuple[Pod, ...] = ()) -> None:
        """These victims make room for the pod on this node, and no longer on another."""
        self.disturb(pod.key)  # under the shape that it had
        known = self._by_pod.get(pod.key)
        if known is not None and known[1] != node:
            self._leave(pod.key, known[1])
        self._by_pod[pod.key] = (pod, node)
        self._by_node.setdefault(node, {})[pod.key] = None
        self._victims[pod.key] = victims

    def drop(self, key: Key) -> None:
        """The pod is placed, or gone; nothing happens if it has no nomination."""
        self.disturb(key)
        self._victims.pop(key, None)
        known = self._by_pod.pop(key, None)
        if known is not None:
            self._leave(key, known[1])

    def node_of(self, key: Key) -> str | None:
        """Where room is being made for the pod."""
        known = self._by_pod.get(key)
        return None if known is None else known[1]

    def at(self, node: str) -> list[Pod]:
        """Who waits for the node."""
        return [self._by_pod[key][0] for key in self._by_node.get(node, ())]

    def below(self, node: str, priority: int) -> list[Pod]:
        """The pods of lower priority that wait for the same node."""
        waiting = (self._by_pod[key][0] for key in self._by_node.get(node, ()))
        return [pod for pod in waiting if pod.priority < priority]

    # Patience

    def is_coming(self, snapshot: Snapshot, key: Key) -> bool:
        """Whether victims on the pod's node are still there, be they of others that wait for it.

        Their room is promised too, so it helps nobody before all of them have gone.
        """
        pod, node = self._by_pod[key]
        row = snapshot.rows.get(node)
        if row is None:
            return False
        there = snapshot.pods_on[row]
        chosen = (v for other in self._by_node[node] for v in self._victims[other])
        if any((known := there.get(v.key)) is not None and known.uid == v.uid for v in chosen):
            return True
        return room_is_coming(snapshot, pod, node)

    def give_up(self, key: Key) -> None:
        """The pod's victims will not go, or not all."""
        if key in self._victims:
            self._victims[key] = ()

    def be_patient(self, key: Key) -> None:
        """Leave the pod alone until ``room_on`` names it."""
        pod, _ = self._by_pod[key]
        self._patient.setdefault((pod.shape, pod.priority), {})[key] = None

    def disturb(self, key: Key) -> None:
        """The pod is decided anew, for whatever reason."""
        known = self._by_pod.get(key)
        if known is None:
            return
        kind = known[0].shape, known[0].priority
        others = self._patient.get(kind, {})
        others.pop(key, None)
        if not others:
            self._patient.pop(kind, None)

    def room_on(self, snapshot: Snapshot, node: str) -> tuple[list[Key], list[Key]]:
        """Patient pods that a pod's leaving helps: those promised the node, and all others.

        Of the first kind also those whose victims have gone without leaving enough room: they have
        to look for other victims.
        """
        waiting = self.at(node)
        own: list[Key] = []
        for pod in waiting:
            if pod.key in self._patient.get((pod.shape, pod.priority), ()):
                rivals = [p for p in waiting if p is not pod and p.priority >= pod.priority]
                if wakeups.room_helps(snapshot, node, pod.shape, rivals) or not self.is_coming(
                    snapshot, pod.key
                ):
                    own.append(pod.key)
        others: list[Key] = []
        for (shape, priority), keys in self._patient.items():
            rivals = [p for p in waiting if p.priority >= priority]
            if wakeups.room_helps(snapshot, node, shape, rivals):
                others += (key for key in keys if self._by_pod[key][1] != node)
        return own, others

    def _leave(self, key: Key, node: str) -> None:
        waiting = self._by_node[node]
        del waiting[key]
        if not waiting:
            del self._by_node[node]


def devices_are_coming(snapshot: Snapshot, pods: Sequence[Pod]) -> bool:
    """Whether the pods want devices, and some are given back: later than their users have gone."""
    own = {claim for pod in pods for one in pod.each for claim in one.claims}
    return bool(own) and any(
        claim not in own and claim not in snapshot.resting and not snapshot.claim_users.get(claim)
        for claim in snapshot.allocations
    )
