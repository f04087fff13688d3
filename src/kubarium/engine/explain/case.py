"""What one question is about, and all that is found out for it, each once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from kubarium.engine.devices.model import ClaimSpec, DeviceId, Request
from kubarium.engine.explain.obstacles import Group, Obstacles
from kubarium.engine.explain.rooms import Rooms
from kubarium.engine.explain.subject import Change, Subject
from kubarium.engine.explain.supplies import accepts
from kubarium.engine.explain.survey import RequestSurvey, survey
from kubarium.engine.explain.trial import Trial
from kubarium.engine.explain.wishes import Clauses
from kubarium.engine.model import Claim, Key, Node
from kubarium.engine.placement.devices import claims_of
from kubarium.engine.placement.gang import place_gang, settled_mask
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import Decision, QueueItem

# Groups of nodes (alike in the rules they fail) for which changes of single nodes are considered.
GROUPS_TRIED = 8


@dataclass(frozen=True, slots=True)
class Slot:
    """One pending claim of a pod, or of each pod of a gang the one in the same place.

    A change of what a claim asks for is made to all claims of one slot. ``named``: it is told which
    claim that is, since the pod has others.
    """

    claims: tuple[Claim, ...]
    named: bool
    keys: frozenset[Key]
    # What is asked for, each once.
    specs: tuple[ClaimSpec, ...]

    @classmethod
    def of(cls, claims: tuple[Claim, ...], *, named: bool) -> Slot:
        """The slot of these claims."""
        specs = tuple(dict.fromkeys(claim.spec for claim in claims))
        return cls(claims, named, frozenset(claim.key for claim in claims), specs)

    def change(self, change: Change, path: str = "") -> Change:
        """The change, of these claims alone, and told so. ``path`` is the request it is about."""
        claim = self.claims[0]
        text = change.suggestion.text
        label = resource_labels(claim).get(path)
        if label:
            text = text.replace(f"request {path}", label)
        elif self.named and path:
            text = text.replace(f"request {path}", f"request {path} of claim {claim.key[1]}")
        elif self.named:
            text = f"{text} of claim {claim.key[1]}"
        return replace(change, claims=self.keys, suggestion=replace(change.suggestion, text=text))


def resource_labels(claim: Claim) -> dict[str, str]:
    """What to call the requests of a claim that stands for extended resources."""
    found: dict[str, str] = {}
    for request, container, resource in claim.resources:
        found.setdefault(request, f"{resource} of container {container}")
    return found


class Case:
    """One subject that has no place, on one placer's snapshot."""

    def __init__(
        self,
        placer: Placer,
        clauses: Clauses,
        subject: Subject,
        decision: Decision | None = None,
    ) -> None:
        """``decision`` is the scheduler's about the gang, if it is known."""
        self._known_decision = decision
        self.placer = placer
        self.snapshot = placer.snapshot
        self.clauses = clauses
        self.subject = subject
        self.subject = self._focused(subject)
        self.trial = Trial(placer)
        self.pending: list[Claim] = self.trial.pending(subject)

    def _focused(self, subject: Subject) -> Subject:
        """The subject with the pod first that found no room, where a gang's pods differ.

        The account of nodes is about the first pod.
        """
        if len({pod.shape for pod in subject.pods}) < 2:
            return subject
        verdict = self.decision.gang_verdict if subject.is_gang else None
        failed = verdict.first_failure.pod if verdict and verdict.first_failure else None
        first = [pod for pod in subject.pods if pod.key == failed]
        if not first:
            return subject
        others = (pod for pod in subject.pods if pod is not first[0])
        return replace(subject, pods=(*first, *others))

    @property
    def alike(self) -> int:
        """How many of the pods ask for the same as the first."""
        return sum(pod.shape == self.subject.shape for pod in self.subject.pods)

    @cached_property
    def obstacles(self) -> Obstacles:
        """What the first pod fails, on every node."""
        gang = self.subject.gang
        within = settled_mask(self.snapshot, gang) if gang is not None else None
        return Obstacles(self.placer, self.subject.pods[0], within)

    @cached_property
    def surveys(self) -> tuple[RequestSurvey, ...]:
        """The devices of the cluster against each request of the pending claims."""
        obstacles = self.obstacles
        usable = np.zeros(self.snapshot.capacity, np.bool_)  # may have grown by what was tried
        usable[: len(obstacles.codes)] = (obstacles.codes & ~obstacles.device_bits) == 0
        specs: dict[object, tuple[Claim, int]] = {}
        for claim in self.pending:
            first, count = specs.get(claim.spec, (claim, 0))
            specs[claim.spec] = (first, count + 1)
        return tuple(
            found
            for claim, count in specs.values()
            for found in survey(
                self.snapshot, claim.spec, count, self.clauses, usable, resource_labels(claim)
            )
        )

    @cached_property
    def slots(self) -> list[Slot]:
        """The pending claims by their place among those of a pod."""
        waiting = {claim.key for claim in self.pending}
        places: dict[int, dict[Key, None]] = {}
        for pod in self.subject.pods:
            for place, key in enumerate(key for key in pod.claims if key in waiting):
                places.setdefault(place, {})[key] = None
        several = len(places) > 1
        book = self.snapshot.claims
        return [
            Slot.of(tuple(book[key] for key in keys), named=several) for keys in places.values()
        ]

    @cached_property
    def decision(self) -> Decision:
        """What the scheduler decides about the gang now."""
        if self._known_decision is not None:
            return self._known_decision
        subject = self.subject
        mark = self.snapshot.checkpoint()
        try:
            return place_gang(self.placer, QueueItem(subject.pods, subject.gang))
        finally:
            self.snapshot.rollback(mark)

    @property
    def missing(self) -> int:
        """How many pods found no room."""
        if not self.subject.is_gang or self.subject.gang is None:
            return 1
        verdict = self.decision.gang_verdict
        placed = verdict.placed if verdict is not None else 0
        return max(self.subject.gang.min_count - placed, 1)

    @property
    def best_domain(self) -> str:
        """The topology domain in which most pods of the gang found room."""
        if not self.subject.is_gang:
            return ""
        verdict = self.decision.gang_verdict
        return verdict.domain if verdict is not None else ""

    @cached_property
    def rooms(self) -> Rooms:
        """What bounds the number of pods that can find room."""
        return Rooms(self.snapshot, self.subject, self.obstacles)

    @cached_property
    def groups(self) -> list[Group]:
        """Nodes by the rules that they fail, as many as are looked at one by one."""
        return [group for group in self.obstacles.groups if group.rules][:GROUPS_TRIED]

    def helps(self, *changes: Change) -> bool:
        """Whether the subject fits once the changes are made together."""
        return self.rooms.enough(changes) and self.trial.fits(self.subject, changes)

    def least_short(self, group: Group, resources: list[str]) -> int:
        """The row of the group that lacks least, relative to what is asked."""
        snapshot, asked = self.snapshot, {"pods": 1, **dict(self.subject.shape.requests)}
        size = np.zeros(len(group.rows), np.float64)
        for resource in resources:
            index = snapshot.resource_index(resource)
            free = (snapshot.allocatable[index] - snapshot.requested[index])[group.rows]
            size += np.maximum(asked[resource] - free, 0) / asked[resource]
        return int(group.rows[int(size.argmin())])

    def device_kinds(self) -> list[int] | None:
        """By row the number of its device state, equal where no search tells them apart.

        None if the first pod asks for no devices.
        """
        fit = self.placer.device_fit(claims_of(self.snapshot, self.subject.pods[0]))
        return fit.kinds().tolist() if fit is not None else None

    def suitable(self, row: int, request: Request) -> list[DeviceId]:
        """The devices in the node's reach that class and selectors accept, in use or not."""
        inventory, node = self.snapshot.inventory, self.node(row)
        owner = inventory.classes.get(request.device_class)
        if owner is None:
            return []
        wanted = [s for s in (*owner.selectors, *request.selectors) if s is not None]
        return [
            c.id
            for c in inventory.shelf(node.name, node.labels).candidates
            if accepts(self.snapshot, c.id.driver, c.device, wanted)
        ]

    def node(self, row: int) -> Node:
        """The node of a row that is in use."""
        node = self.snapshot.nodes[row]
        assert node is not None
        return node
