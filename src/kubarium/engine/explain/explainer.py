"""The smallest changes that would help: each wish and each shortage relaxed alone, and tried.

Every suggestion was tried on the snapshot before it is made, by the same code that schedules, so it
is true by construction: apply it and nothing else, and the subject is placed. Where no single
change helps, the smallest combination is looked for. The snapshot is as before afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import combinations

from kubarium.engine.explain import wishes
from kubarium.engine.explain.amounts import Amounts
from kubarium.engine.explain.case import Case
from kubarium.engine.explain.choices import ONE_IS_ENOUGH, Choices
from kubarium.engine.explain.ends import Ends
from kubarium.engine.explain.obstacles import Group, Obstacles
from kubarium.engine.explain.places import nodes_at_volumes
from kubarium.engine.explain.subject import ADD, Change, Subject
from kubarium.engine.explain.supplies import is_made_up
from kubarium.engine.explain.survey import RequestSurvey
from kubarium.engine.explain.trial import Trial
from kubarium.engine.explain.wishes import Clauses
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import Decision
from kubarium.engine.verdict import Suggestion

# Changes in one combination, changes that may take part, combinations tried and given.
TOGETHER = 3
MAX_PARTS = 24
COMBINATIONS_TRIED = 48
COMBINATIONS_BESIDES = 12
COMBINATIONS_GIVEN = 3


class Explainer:
    """Suggestions for subjects that fit nowhere on a placer's snapshot."""

    def __init__(self, placer: Placer, clauses: Clauses = wishes.whole) -> None:
        """``clauses`` takes CEL selectors apart."""
        self._placer = placer
        self._snapshot = placer.snapshot
        self._clauses = clauses

    def fits(self, subject: Subject) -> bool:
        """Whether the subject could be placed now; nothing is kept."""
        return Trial(self._placer).fits(subject)

    def question(self, subject: Subject, decision: Decision | None = None) -> Question:
        """All that can be asked about one subject; ``decision`` is the gang's if it is known."""
        return Question(self._placer, self._clauses, subject, decision)

    def suggest(self, subject: Subject) -> tuple[Suggestion, ...]:
        """Changes of which each alone lets the subject be placed, the most direct first.

        Combinations of changes if no single one does.
        """
        return self.question(subject).suggestions


class Question:
    """One subject that has no place: what stands in its way, and what would help."""

    def __init__(
        self,
        placer: Placer,
        clauses: Clauses,
        subject: Subject,
        decision: Decision | None = None,
    ) -> None:
        self._case = Case(placer, clauses, subject, decision)
        self.subject = self._case.subject
        self._amounts = Amounts(self._case)

    @property
    def obstacles(self) -> Obstacles:
        """What the first pod fails, on every node."""
        return self._case.obstacles

    @property
    def alike(self) -> int:
        """How many pods of a gang ask for the same as the one that the account is about."""
        return self._case.alike

    @property
    def surveys(self) -> tuple[RequestSurvey, ...]:
        """The devices of the cluster against each request of the pending claims."""
        return self._case.surveys

    @property
    def decision(self) -> Decision:
        """What the scheduler decides about the gang now."""
        return self._case.decision

    def open_nodes(self) -> dict[str, tuple[int, int]]:
        """For each domain of a gang's topology: nodes that could take one of its pods, and all."""
        names = self._case.rooms.domain_names()
        codes = self._case.obstacles.codes
        found: dict[str, tuple[int, int]] = {}
        for row, name in names.items():
            able, total = found.get(name, (0, 0))
            found[name] = (able + (not codes[row]), total + 1)
        return found

    @cached_property
    def suggestions(self) -> tuple[Suggestion, ...]:
        """See :meth:`Explainer.suggest`."""
        return tuple(dict.fromkeys(map(told, self.solutions)))

    @cached_property
    def solutions(self) -> list[tuple[Change, ...]]:
        """The changes behind each suggestion: several that help only together, or one."""
        if not self.subject.pods:
            return []
        if self.subject.pods[0].variants and not self.subject.is_gang:
            return self._of_variants()
        found = sorted(self._single_changes(), key=lambda change: change.cost)
        alone = [(change,) for change in found]
        if not found:
            parts = self._parts()
            few = [*self._combinations(parts, COMBINATIONS_TRIED)]
            return few or [*self._coverings(parts)]
        if found[0].cost >= ADD:
            # All of it is for others to do: perhaps several wishes given up together would help.
            own = [change for change in self._parts() if change.cost < ADD]
            return [*alone, *self._combinations(own, COMBINATIONS_BESIDES)]
        return [*alone]

    def _of_variants(self) -> list[tuple[Change, ...]]:
        """What helps the pod as nodes with a device plugin would have it, or as the others would.

        Where both come to the same, as for an amount of the resource, the more generous is told.
        """
        found: list[tuple[Change, ...]] = []
        for one in self.subject.pods[0].variants:
            alone = replace(self.subject, pods=(one,))
            of_one = Question(self._case.placer, self._case.clauses, alone)
            found += (c for c in of_one.solutions if self._case.trial.fits(self.subject, c))
        kept: dict[object, tuple[Change, ...]] = {}
        for changes in found:
            kept.setdefault(told(changes), changes)
        singles = [changes for changes in kept.values() if len(changes) == 1]
        return sorted(singles or kept.values(), key=lambda changes: sum(c.cost for c in changes))

    @cached_property
    def _choices(self) -> list[Change]:
        return Choices(self._case).all()

    def _single_changes(self) -> Iterator[Change]:
        """Changes that help alone."""
        helped: set[str] = set()
        for change in self._choices:
            kind = change.suggestion.kind
            if kind == "raise-skew" and self.subject.is_gang:
                continue  # its own pods count too
            if kind == "remove-affinity" and "remove-affinity-clause" in helped:
                continue  # less is enough
            if not (kind in ONE_IS_ENOUGH and kind in helped) and self._case.helps(change):
                helped.add(kind)
                yield change
        if "remove-spread" in helped:
            yield from self._amounts.wider_spread()
        yield from self._amounts.smaller_requests()
        yield from self._amounts.fewer_devices()
        yield from self._amounts.smaller_gang()
        yield from self._amounts.more_devices()
        yield from self._amounts.more_nodes()
        for change in nodes_at_volumes(self._case):
            if change.suggestion.kind not in helped and self._case.trial.fits(
                self.subject, (change,)
            ):
                helped.add(change.suggestion.kind)
                yield change
        yield from Ends(self._case).all()

    # Several changes together.

    def _combinations(self, parts: list[Change], most: int) -> Iterator[tuple[Change, ...]]:
        """The smallest sets of changes that help together, cheapest first; ``most`` are tried.

        Of those that differ in amounts only, the first.
        """
        tried = 0
        given: set[frozenset[object]] = set()
        for size in range(2, TOGETHER + 1):
            sets = sorted(
                combinations(parts, size), key=lambda changes: sum(c.cost for c in changes)
            )
            for changes in sets:
                # A single pod runs on one node.
                if not self.subject.is_gang and len({c.row for c in changes if c.row >= 0}) > 1:
                    continue
                kinds = frozenset(map(_but_for_its_amount, changes))
                if kinds in given or not self._case.rooms.enough(changes):
                    continue
                tried += 1
                if tried > most or self._case.trial.exhausted:
                    return
                if self._case.trial.fits(self.subject, changes):
                    yield changes
                    given.add(kinds)
                    if len(given) == COMBINATIONS_GIVEN:
                        return
            if given:
                return

    def _coverings(self, parts: list[Change]) -> Iterator[tuple[Change, ...]]:
        """What lifts all rules that some node fails, however many changes that takes.

        For a gang with an amount on top, where that opens nodes but not enough of them.
        """
        given: set[frozenset[str]] = set()
        for group in self._case.groups:
            if len(given) == COMBINATIONS_GIVEN or self._case.trial.exhausted:
                return
            cover = _cheapest_cover(group, [*self._choices, *parts])
            if not cover:
                continue
            ways = [cover] if self._case.trial.fits(self.subject, cover) else self._on_top(cover)
            for changes in ways:
                least = self._without_needless(changes)
                texts = frozenset(change.suggestion.text for change in least)
                if texts not in given:
                    given.add(texts)
                    yield least

    def _on_top(self, changes: tuple[Change, ...]) -> list[tuple[Change, ...]]:
        """The changes and one amount more, for a gang for which they are not enough."""
        case = self._case
        if not self.subject.is_gang or self.subject.tree is not None:
            return []
        with case.trial.made(self.subject, changes) as changed:
            inner = Question(case.placer, case.clauses, changed)._amounts
            more = [*inner.smaller_gang(), *inner.more_nodes(), *inner.more_devices()]
        both = ((*changes, change) for change in more if not is_made_up(change.suggestion.node))
        return [every for every in both if case.trial.fits(self.subject, every)]

    def _without_needless(self, changes: tuple[Change, ...]) -> tuple[Change, ...]:
        for change in changes:
            fewer = tuple(other for other in changes if other is not change)
            if fewer and self._case.trial.fits(self.subject, fewer):
                return self._without_needless(fewer)
        return changes

    def _parts(self) -> list[Change]:
        """What may take part in a combination: amounts too, a few of each."""
        there = nodes_at_volumes(self._case, alone=False)
        found = [*self._choices, *self._amounts.for_combinations(), *there]
        return sorted(found, key=lambda change: change.cost)[:MAX_PARTS]


def _but_for_its_amount(change: Change) -> object:
    """What all changes have in common that do the same to the same, one more and one less."""
    made = change.suggestion
    return (made.kind, made.subject, made.node) if made.amount else made


def told(changes: tuple[Change, ...]) -> Suggestion:
    """The changes as one suggestion."""
    if len(changes) == 1:
        return changes[0].suggestion
    parts = tuple(change.suggestion for change in changes)
    text = " and ".join(part.text for part in parts)
    return Suggestion("combination", text, parts=parts)


def _cheapest_cover(group: Group, parts: list[Change]) -> tuple[Change, ...]:
    """Changes that together lift every rule that the group's nodes fail; () if some cannot be."""
    left, row = group.code, -1
    chosen: list[Change] = []
    rows = set(group.rows.tolist())
    while left:
        able = [
            change
            for change in parts
            if change.lifts & left
            and not change.fresh
            and not is_made_up(change.suggestion.node)
            and (change.row < 0 or change.row == row or (row < 0 and change.row in rows))
        ]
        if not able:
            return ()
        best = min(able, key=lambda change: change.cost / (change.lifts & left).bit_count())
        chosen.append(best)
        row = best.row if best.row >= 0 else row
        left &= ~best.lifts
    return tuple(chosen)
