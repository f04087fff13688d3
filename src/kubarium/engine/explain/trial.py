"""Trying changes on the snapshot, by the code that schedules, and taking them back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from kubarium.engine.devices.model import AllocationError
from kubarium.engine.explain.subject import Change, Subject, Undo
from kubarium.engine.model import Claim
from kubarium.engine.placement.domains import room_for
from kubarium.engine.placement.gang import needed_of, place_gang
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.tree import place_tree
from kubarium.engine.placement.trial import Budget

# Pods that all tries of one question may place together, so that the question about a gang of
# thousands ends too. A try of a gang counts with all its pods.
PODS_PLACED = 6_000

# Tries for one question, whatever is placed.
TRIES = 240
# What the search for a mixed gang may cost in each of these tries (see placement.trial.Budget).
FIT_BUDGET = 200


class Trial:
    """Tries on one placer's snapshot, up to a budget; beyond it nothing fits any more."""

    def __init__(self, placer: Placer) -> None:
        self.placer = placer
        self.snapshot = placer.snapshot
        self.pods_left = PODS_PLACED
        self.tries_left = TRIES

    @property
    def exhausted(self) -> bool:
        return self.tries_left <= 0 or self.pods_left <= 0

    def pending(self, subject: Subject) -> list[Claim]:
        """The subject's claims that have no devices yet."""
        snapshot = self.snapshot
        keys = dict.fromkeys(key for pod in subject.pods for key in pod.claims)
        return [
            snapshot.claims[key]
            for key in keys
            if key in snapshot.claims and key not in snapshot.allocations
        ]

    def _changeable(self, subject: Subject, change: Change) -> list[Claim]:
        """The pending claims whose specs the change is about, those of all variants included."""
        everyone = [one for pod in subject.pods for one in pod.each]
        found = self.pending(replace(subject, pods=tuple(everyone)))
        if change.claims is None:
            return found
        return [claim for claim in found if claim.key in change.claims]

    @contextmanager
    def made(self, subject: Subject, changes: Iterable[Change]) -> Iterator[Subject]:
        """The subject with the changes made, which are taken back at the end."""
        mark = self.snapshot.checkpoint()
        undo: list[Undo] = []
        try:
            for change in changes:
                subject = self._made(subject, change, undo)
            yield subject
        finally:
            self.snapshot.rollback(mark)
            for step in reversed(undo):
                step()

    def fits(self, subject: Subject, changes: Iterable[Change] = ()) -> bool:
        """Whether the subject could be placed once the changes are made; nothing is kept.

        False when the budget is used up.
        """
        if self.exhausted:
            return False
        self.tries_left -= 1
        self.pods_left -= len(subject.item.pods)
        try:
            with self.made(subject, changes) as changed:
                return self._places(changed)
        except AllocationError:
            return False

    def _places(self, subject: Subject) -> bool:
        item = subject.item
        if item.tree is not None:
            return bool(place_tree(self.placer, item).placements)
        if not subject.is_gang:
            return self.placer.place(subject.pods[0]) is not None
        gang = item.gang
        if gang is not None and int(room_for(self.placer, item.pods).sum()) < needed_of(gang):
            return False  # as the search would find out, pod by pod
        budget = Budget(FIT_BUDGET)
        return bool(place_gang(self.placer, item, budget=budget).placements)

    def _made(self, subject: Subject, change: Change, undo: list[Undo]) -> Subject:
        if change.cluster is not None:
            step = change.cluster(self.snapshot)
            if step is not None:
                undo.append(step)
        if change.spec is not None:
            book = self.snapshot.claims
            for claim in self._changeable(subject, change):
                undo.append(_restore(book, claim))
                book[claim.key] = replace(book[claim.key], spec=change.spec(claim.spec))
        if change.shape is not None:
            subject = subject.reshaped(change.shape)
        if change.gang is not None and subject.gang is not None:
            subject = replace(subject, gang=change.gang(subject.gang))
        return subject


def _restore(book: dict[tuple[str, str], Claim], claim: Claim) -> Undo:
    def undo() -> None:
        book[claim.key] = claim

    return undo
