"""The smallest changes that would help: each wish and each shortage relaxed alone, and tried.

Every suggestion was tried on the snapshot before it is made, by the same code that schedules, so it
is true by construction: apply it and nothing else, and the subject is placed. Where no single
change helps, the smallest combination is looked for. The snapshot is as before afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import combinations

import numpy as np

from kubarium.engine.devices.model import ALL, Amount, Slice
from kubarium.engine.explain import supplies, wishes
from kubarium.engine.explain.obstacles import Group, Obstacles
from kubarium.engine.explain.rooms import Rooms
from kubarium.engine.explain.subject import ADD, SMALLER, SWITCH, Change, Subject
from kubarium.engine.explain.supplies import amount
from kubarium.engine.explain.survey import RequestSurvey, shares_left, shown_amount, survey
from kubarium.engine.explain.trial import Trial
from kubarium.engine.explain.wishes import Clauses
from kubarium.engine.model import Claim, Gang, Node, Pod
from kubarium.engine.placement.devices import claims_of
from kubarium.engine.placement.gang import place_gang, settled_mask
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import Decision, QueueItem
from kubarium.engine.snapshot import Snapshot
from kubarium.engine.verdict import Suggestion

# Groups of nodes (alike in the rules they fail) for which changes of single nodes are considered.
GROUPS_TRIED = 8

# Nodes on which the end of pods is considered, and pods of one of them.
NODES_FREED = 3
PODS_FREED = 32

# Nodes, one of each kind or domain, to which devices or clones are added.
MODELS_TRIED = 4

# The most devices or nodes that a suggestion adds.
MAX_ADDED = 64

# Changes in one combination, changes that may take part, combinations tried and given.
TOGETHER = 3
MAX_PARTS = 24
COMBINATIONS_TRIED = 48
COMBINATIONS_BESIDES = 12
COMBINATIONS_GIVEN = 3

# A fresh node like a full one has none of these.
_CURED_BY_A_NEW_NODE = frozenset({"resource", "port", "apart", "kept-off", "devices", "spread"})
# The end of pods can cure these.
_CURED_BY_AN_END = _CURED_BY_A_NEW_NODE


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
        self._known_decision = decision
        self._placer = placer
        self._snapshot = placer.snapshot
        self._clauses = clauses
        self.subject = subject
        self._trial = Trial(placer)
        self.pending: list[Claim] = self._trial.pending(subject)

    @cached_property
    def obstacles(self) -> Obstacles:
        """What the first pod fails, on every node."""
        gang = self.subject.gang
        within = settled_mask(self._snapshot, gang) if gang is not None else None
        return Obstacles(self._placer, self.subject.pods[0], within)

    @cached_property
    def surveys(self) -> tuple[RequestSurvey, ...]:
        """The devices of the cluster against each request of the pending claims."""
        obstacles = self.obstacles
        usable = (obstacles.codes & ~obstacles.device_bit) == 0
        specs: dict[object, tuple[Claim, int]] = {}
        for claim in self.pending:
            first, count = specs.get(claim.spec, (claim, 0))
            specs[claim.spec] = (first, count + 1)
        return tuple(
            found
            for claim, count in specs.values()
            for found in survey(self._snapshot, claim.spec, count, self._clauses, usable)
        )

    @cached_property
    def suggestions(self) -> tuple[Suggestion, ...]:
        """See :meth:`Explainer.suggest`."""
        if not self.subject.pods:
            return ()
        found = [change for search in self._searches() for change in search()]
        found.sort(key=lambda change: change.cost)
        told = dict.fromkeys(change.suggestion for change in found)
        if not found:
            told |= dict.fromkeys(self._combinations(self._parts(), COMBINATIONS_TRIED))
        elif found[0].cost >= ADD:
            # All of it is for others to do: perhaps several wishes given up together would help.
            own = [change for change in self._parts() if change.cost < ADD]
            told |= dict.fromkeys(self._combinations(own, COMBINATIONS_BESIDES))
        return tuple(told)

    def _searches(self) -> tuple[Callable[[], Iterator[Change]], ...]:
        return (
            self._single_changes,
            self._fewer_devices,
            self._smaller_gang,
            self._more_devices,
            self._more_nodes,
            self._ends,
        )

    def _helps(self, *changes: Change) -> bool:
        return self._rooms.enough(changes) and self._trial.fits(self.subject, changes)

    @cached_property
    def _rooms(self) -> Rooms:
        return Rooms(self._snapshot, self.subject, self.obstacles)

    def open_nodes(self) -> dict[str, tuple[int, int]]:
        """For each domain of a gang's topology: nodes that could take one of its pods, and all."""
        names = self._rooms.domain_names()
        codes = self.obstacles.codes
        found: dict[str, tuple[int, int]] = {}
        for row, name in names.items():
            able, total = found.get(name, (0, 0))
            found[name] = (able + (not codes[row]), total + 1)
        return found

    # Changes that are either made or not.

    @cached_property
    def _changes(self) -> list[Change]:
        """Every change that needs no search for an amount, cheapest first."""
        found = [*self._of_rules(), *self._of_claims(), *self._of_nodes(), *self._of_domains()]
        return sorted(found, key=lambda change: change.cost)

    def _single_changes(self) -> Iterator[Change]:
        helped: set[str] = set()
        for change in self._changes:
            kind = change.suggestion.kind
            if kind in ("uncordon", "add-resource", "lower-request") and kind in helped:
                continue  # one node is enough of an example
            if self._helps(change):
                helped.add(kind)
                yield change

    def _of_rules(self) -> Iterator[Change]:
        """What lifts a rule on every node."""
        obstacles = self.obstacles
        lifts: dict[Suggestion, tuple[Change, int]] = {}
        for bit, rule in enumerate(obstacles.rules):
            for change in rule.lifts:
                known, bits = lifts.get(change.suggestion, (change, 0))
                lifts[change.suggestion] = (known, bits | 1 << bit)
        yield from (replace(change, lifts=bits) for change, bits in lifts.values())

    def _of_claims(self) -> Iterator[Change]:
        """Selector clauses and constraints of the claims, and taints of devices."""
        bit = self.obstacles.device_bit
        hints = {c.text: f" ({c.hint})" if c.hint else "" for s in self.surveys for c in s.clauses}
        seen: dict[str, None] = {}
        for claim in self.pending:
            for change in wishes.claim_wishes(claim.spec, self._clauses):
                if change.suggestion.text not in seen:
                    seen[change.suggestion.text] = None
                    yield replace(_with_hint(change, hints), lifts=bit)
            for path, request in (
                (e.path(r), r) for e in claim.spec.requests for r in e.alternatives
            ):
                for taint in self._snapshot.inventory.device_taints():
                    if taint.effect in ("NoSchedule", "NoExecute") and not any(
                        t.tolerates(taint) for t in request.tolerations
                    ):
                        change = wishes.tolerating_devices(path, taint)
                        if change.suggestion.text not in seen:
                            seen[change.suggestion.text] = None
                            yield replace(change, lifts=bit)

    def _of_nodes(self) -> Iterator[Change]:
        """Cordons lifted, and for single pods resources added or asked for less of."""
        for group in self._groups():
            yield from self._uncordoned(group)
            if not self.subject.is_gang and any(r.kind == "resource" for r in group.rules):
                yield from self._of_resources(group)

    def _groups(self) -> list[Group]:
        return [group for group in self.obstacles.groups if group.rules][:GROUPS_TRIED]

    def _uncordoned(self, group: Group) -> Iterator[Change]:
        if not any(rule.kind == "cordon" for rule in group.rules):
            return
        bits = sum(
            self.obstacles.bit(rule)
            for rule in group.rules
            if rule.kind == "cordon" or str(rule.subject).startswith("node.kubernetes.io/unsched")
        )
        for row in group.rows[: MODELS_TRIED if self.subject.is_gang else 1].tolist():
            yield replace(supplies.uncordoned(self._node(row)), lifts=bits, row=row)

    def _of_resources(self, group: Group) -> Iterator[Change]:
        shape = self.subject.shape
        short = [rule for rule in group.rules if rule.kind == "resource"]
        bits = sum(self.obstacles.bit(rule) for rule in short)
        row = self._least_short(group, [str(rule.subject) for rule in short])
        node = self._node(row)
        missing = supplies.shortage(self._snapshot, row, shape)
        yield replace(supplies.enlarged(node, missing), lifts=bits, row=row)
        asked = dict(shape.requests)
        for rule in short:
            resource = str(rule.subject)
            if resource not in asked or len(short) > 1:
                continue
            free = dict(missing).get(resource, 0)
            most = asked[resource] - free
            if most > 0:
                change = wishes.requesting(resource, most, amount(resource, most), node.name)
                yield replace(change, lifts=bits, row=row)

    def _least_short(self, group: Group, resources: list[str]) -> int:
        """The row of the group that lacks least, relative to what is asked."""
        snapshot, asked = self._snapshot, {"pods": 1, **dict(self.subject.shape.requests)}
        size = np.zeros(len(group.rows), np.float64)
        for resource in resources:
            index = snapshot.resource_index(resource)
            free = (snapshot.allocatable[index] - snapshot.requested[index])[group.rows]
            size += np.maximum(asked[resource] - free, 0) / asked[resource]
        return int(group.rows[int(size.argmin())])

    def _of_domains(self) -> Iterator[Change]:
        gang = self.subject.gang
        if gang is None or not self.subject.is_gang or not gang.required_keys:
            return
        keys = ", ".join(gang.required_keys)
        text = f"do without the topology constraint {keys} of pod group {gang.key[1]}"

        def change(gang: Gang) -> Gang:
            return replace(gang, topology_key="", inner_keys=())

        yield Change(Suggestion("remove-topology", text, keys), SMALLER, gang=change)

    # Changes of an amount.

    def _smallest(self, change: Callable[[int], Change], guess: int = 1) -> Change | None:
        """The change of the least amount that helps, up to MAX_ADDED. More never helps less."""
        low, high = 0, min(max(guess, 1), MAX_ADDED)
        if high > 1 and self._trial.fits(self.subject, (change(1),)):
            return change(1)
        while not self._trial.fits(self.subject, (change(high),)):
            if high >= MAX_ADDED or self._trial.exhausted:
                return None
            low, high = high, min(2 * high, MAX_ADDED)
        # A good guess is the least already: that is looked at first.
        step = 1
        while high - low > 1 and not self._trial.exhausted:
            middle = max(high - step, low + 1)
            if self._trial.fits(self.subject, (change(middle),)):
                high, step = middle, 2 * step
            else:
                low, step = middle, 1
        return change(high) if high - low == 1 else None

    def _fewer(
        self, change: Callable[[int], Change], guess: int, best: Change | None
    ) -> Change | None:
        """The best so far, or the least amount of this change if that is less."""
        if best is None:
            return self._smallest(change, guess)
        less = best.suggestion.amount - 1
        if less < 1 or not self._trial.fits(self.subject, (change(less),)):
            return best
        return self._smallest(change, less) or best

    def _fewer_devices(self) -> Iterator[Change]:
        seen: dict[str, None] = {}
        for claim in self.pending:
            for path, request in wishes.countable(claim.spec):
                if path in seen:
                    continue
                seen[path] = None
                low, high = 0, request.count  # low asks for nothing, high does not fit
                while high - low > 1:
                    # One less is the usual answer, and what is asked for least.
                    middle = high - 1 if high == request.count else (low + high) // 2
                    fits = self._helps(self._counted(path, request.count, middle))
                    low, high = (middle, high) if fits else (low, middle)
                if low and not self._trial.exhausted:
                    yield self._counted(path, request.count, low)
                yield from self._smaller_shares(path, request.capacity or ())

    def _counted(self, path: str, old: int, count: int) -> Change:
        return replace(wishes.asking_for(path, old, count), lifts=self.obstacles.device_bit)

    def _smaller_shares(
        self, path: str, capacity: tuple[tuple[str, Amount], ...]
    ) -> Iterator[Change]:
        """The largest part of each capacity that some shared device has left."""
        for name, wanted in capacity:
            less = [left for left in shares_left(self._snapshot, name) if left < wanted]
            for left in less[:MODELS_TRIED]:
                change = wishes.taking_less(path, name, left, shown_amount(left))
                change = replace(change, lifts=self.obstacles.device_bit)
                if self._helps(change):
                    yield change
                    break

    def _smaller_gang(self) -> Iterator[Change]:
        """The largest smaller minimum that fits."""
        gang = self.subject.gang
        if gang is None or not self.subject.is_gang:
            return
        verdict = self.decision.gang_verdict
        first = verdict.placed if verdict is not None and not verdict.waiting else 0
        low, high = gang.scheduled_count, gang.min_count
        while high - low > 1 and not self._trial.exhausted:
            middle = first if low < first < high else (low + high) // 2
            fits = self._trial.fits(self.subject, (_minimum(gang, middle),))
            low, high = (middle, high) if fits else (low, middle)
            if fits and middle == first and verdict is not None and verdict.exact:
                break
        if low > gang.scheduled_count and not self._trial.exhausted:
            yield _minimum(gang, low)

    @cached_property
    def decision(self) -> Decision:
        """What the scheduler decides about the gang now."""
        if self._known_decision is not None:
            return self._known_decision
        subject = self.subject
        mark = self._snapshot.checkpoint()
        try:
            return place_gang(self._placer, QueueItem(subject.pods, subject.gang))
        finally:
            self._snapshot.rollback(mark)

    @property
    def _missing(self) -> int:
        """How many pods found no room."""
        if not self.subject.is_gang or self.subject.gang is None:
            return 1
        verdict = self.decision.gang_verdict
        placed = verdict.placed if verdict is not None else 0
        return max(self.subject.gang.min_count - placed, 1)

    def _more_devices(self) -> Iterator[Change]:
        """More devices like one that exists, on a node that could use them."""
        seen: dict[str, None] = {}
        for claim in self.pending:
            for entry in claim.spec.requests:
                request = entry.alternatives[0]
                if request.device_class in seen or request.mode == ALL:
                    continue
                seen[request.device_class] = None
                model = supplies.device_like(
                    self._snapshot, request.device_class, request.selectors
                )
                if model is None:
                    continue
                guess = self._missing * request.count if self.subject.is_gang else 1
                best: Change | None = None
                for row, place in self._places_for_devices():
                    make = _devices_on(model, self._node(row), request.device_class, place)
                    best = self._fewer(make, guess, best)
                if best is not None:
                    yield best

    def _places_for_devices(self) -> list[tuple[int, str]]:
        """(row, how to say where) of nodes on which only devices are missing.

        One of each kind of device state in each domain, those of most nodes first.
        """
        obstacles = self.obstacles
        open_rows = obstacles.rows[(obstacles.codes[obstacles.rows] & ~obstacles.device_bit) == 0]
        if not len(open_rows):
            return []
        fit = self._placer.fit(self.subject.shape).refresh()
        domain = self._rooms.domain_names()
        found: dict[object, list[int]] = {}
        kinds = self._device_kinds()
        for row in open_rows.tolist():
            if fit[row] >= 0:
                key = (domain.get(row, ""), kinds[row] if kinds is not None else 0)
                found.setdefault(key, []).append(row)
        ordered = sorted(found.values(), key=lambda rows: self._promise(rows, domain))
        everywhere = len(open_rows) == len(obstacles.rows)
        alone = len(found) == 1 and everywhere and len(open_rows) > 1
        same_for_gang = self.subject.is_gang and everywhere and len(open_rows) > 1 and not domain
        return [
            (rows[0], "any node" if alone or same_for_gang else self._place(rows, domain))
            for rows in ordered[: MODELS_TRIED // 2 if self.subject.is_gang else MODELS_TRIED]
        ]

    def _promise(self, rows: list[int], domain: Mapping[int, str]) -> tuple[object, ...]:
        """Smaller is better: nodes that have devices, in the domain with most room."""
        node = self._node(rows[0])
        best = self._best_domain()
        has = self._snapshot.inventory.has_devices(node.name)
        return (domain.get(rows[0], "") != best, not has, -len(rows))

    def _best_domain(self) -> str:
        if not self.subject.is_gang:
            return ""
        verdict = self.decision.gang_verdict
        return verdict.domain if verdict is not None else ""

    def _place(self, rows: list[int], domain: Mapping[int, str]) -> str:
        node = self._node(rows[0]).name
        where = domain.get(rows[0], "")
        if where and len(rows) > 1:
            return f"a node of {where}, such as {node}"
        if where:
            return f"node {node} of {where}"
        if len(rows) == 2:
            return f"node {node} or {self._node(rows[1]).name}"
        others = f" or any of {len(rows) - 1} like it" if len(rows) > 1 else ""
        return f"node {node}{others}"

    def _device_kinds(self) -> list[int] | None:
        fit = self._placer.device_fit(claims_of(self._snapshot, self.subject.pods[0]))
        return fit.kinds().tolist() if fit is not None else None

    def _more_nodes(self) -> Iterator[Change]:
        """More nodes like one that exists, in the domain that needs fewest."""
        best: Change | None = None
        for row, place in self._models():
            node = self._node(row)
            fresh = self._rooms.on_fresh(node)
            if not fresh:
                continue
            guess = -(-self._missing // fresh) if self.subject.is_gang else 1
            if guess > MAX_ADDED:
                continue
            best = self._fewer(_nodes_like(self._snapshot, node, place), guess, best)
        if best is not None:
            yield best

    def _models(self) -> Iterator[tuple[int, str]]:
        """(row, place) of nodes of which a fresh one could help: one of each make and domain."""
        domain = self._rooms.domain_names()
        best = self._best_domain()
        snapshot = self._snapshot
        groups = [
            group.rows
            for group in self.obstacles.groups
            if all(rule.kind in _CURED_BY_A_NEW_NODE for rule in group.rules)
        ]
        if not groups:
            return
        rows = np.concatenate(groups)
        makes = np.vstack((snapshot.allocatable[:, rows], self._rooms.domains[rows]))
        _, first = np.unique(makes, axis=1, return_index=True)
        found = [(row, domain.get(row, "")) for row in rows[np.sort(first)].tolist()]
        found.sort(key=lambda entry: entry[1] != best)
        for row, where in found[:MODELS_TRIED]:
            yield row, f" in {where}" if where else ""

    # The end of others.

    def _ends(self) -> Iterator[Change]:
        """Pods on one node whose end would make the room: as few and as unimportant as possible."""
        if self.subject.is_gang:
            return
        best: Change | None = None
        for row in self._rows_to_free():
            found = self._end_on(row)
            if found is not None and (best is None or found.cost < best.cost):
                best = found
        if best is not None:
            yield best

    def _rows_to_free(self) -> list[int]:
        """Rows that fail only what the end of pods can cure; those short of least first."""
        found: list[int] = []
        snapshot = self._snapshot
        for group in self._groups():
            if not all(rule.kind in _CURED_BY_AN_END for rule in group.rules):
                continue
            short = [str(r.subject) for r in group.rules if r.kind == "resource"]
            busy = [row for row in group.rows.tolist() if snapshot.pods_on[row]]
            if busy and short:
                first = self._least_short(replace(group, rows=np.array(busy)), short)
                busy = [first, *(row for row in busy if row != first)]
            found += busy[:NODES_FREED]
        return found[:NODES_FREED]

    def _end_on(self, row: int) -> Change | None:
        snapshot, node = self._snapshot, self._node(row)
        pods = [p for p in snapshot.pods_on[row].values() if not p.terminating]
        pods.sort(key=lambda p: (p.priority, -p.created, p.key))
        pods = pods[:PODS_FREED]
        if not pods or not self._freed(pods, node):
            return None
        low, high = 0, len(pods)  # the first `high` are enough, the first `low` are not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._freed(pods[:middle], node) else (middle, high)
        victims = pods[:high]
        for pod in reversed(victims[:-1]):
            fewer = [p for p in victims if p is not pod]
            if self._freed(fewer, node):
                victims = fewer
        change = self._ended(victims, node)
        return change if not self._trial.exhausted else None

    def _freed(self, pods: list[Pod], node: Node) -> bool:
        return self._trial.fits(self.subject, (self._ended(pods, node),))

    def _ended(self, pods: list[Pod], node: Node) -> Change:
        """With the groups that go as a whole if one of their pods does."""
        groups = {
            p.gang
            for p in pods
            if p.gang and (g := self._snapshot.gangs.get(p.gang)) and g.all_disrupted
        }
        whole = {p.key: p for p in pods}
        if groups:
            whole |= {p.key: p for p, _ in self._snapshot.placed_pods() if p.gang in groups}
        return supplies.ended(self._snapshot, list(whole.values()), node.name)

    # Several changes together.

    def _combinations(self, parts: list[Change], most: int) -> Iterator[Suggestion]:
        """The smallest sets of changes that help together, cheapest first; ``most`` are tried."""
        tried = given = 0
        for size in range(2, TOGETHER + 1):
            sets = sorted(
                combinations(parts, size), key=lambda changes: sum(c.cost for c in changes)
            )
            for changes in sets:
                # A single pod runs on one node.
                if not self.subject.is_gang and len({c.row for c in changes if c.row >= 0}) > 1:
                    continue
                if not self._rooms.enough(changes):
                    continue
                tried += 1
                if tried > most or self._trial.exhausted:
                    return
                if self._trial.fits(self.subject, changes):
                    yield _together(changes)
                    given += 1
                    if given == COMBINATIONS_GIVEN:
                        return
            if given:
                return

    def _parts(self) -> list[Change]:
        """What may take part in a combination: amounts too, a few of each."""
        found = [*self._changes, *self._amounts_of_devices()]
        return sorted(found, key=lambda change: change.cost)[:MAX_PARTS]

    def _amounts_of_devices(self) -> Iterator[Change]:
        """Smaller counts, and on some nodes that fail more than devices, all devices anew."""
        bit = self.obstacles.device_bit
        seen: dict[str, None] = {}
        for claim in self.pending:
            for path, request in wishes.countable(claim.spec):
                if path in seen:
                    continue
                seen[path] = None
                counts = dict.fromkeys((request.count - 1, request.count // 2, 1))
                for count in (c for c in counts if 0 < c < request.count):
                    change = self._counted(path, request.count, count)
                    yield replace(change, cost=change.cost + request.count - count)
                model = supplies.device_like(
                    self._snapshot, request.device_class, request.selectors
                )
                if model is None or self.subject.is_gang:
                    continue
                for group in self._groups()[:MODELS_TRIED]:
                    if group.code & bit:
                        row = int(group.rows[0])
                        node = self._node(row)
                        make = _devices_on(model, node, request.device_class, f"node {node.name}")
                        for count in dict.fromkeys((1, request.count)):
                            change = make(count)
                            yield replace(change, cost=change.cost + count, lifts=bit, row=row)

    def _node(self, row: int) -> Node:
        node = self._snapshot.nodes[row]
        assert node is not None
        return node


def _minimum(gang: Gang, count: int) -> Change:
    text = f"lower minCount of pod group {gang.key[1]} from {gang.min_count} to {count}"

    def change(gang: Gang) -> Gang:
        return replace(gang, min_count=count)

    return Change(
        Suggestion("lower-min-count", text, gang.key[1], amount=count), SWITCH, gang=change
    )


def _devices_on(model: Slice, node: Node, class_name: str, place: str) -> Callable[[int], Change]:
    def make(count: int) -> Change:
        return supplies.more_devices(model, node, count, class_name, place)

    return make


def _nodes_like(snapshot: Snapshot, node: Node, place: str) -> Callable[[int], Change]:
    def make(count: int) -> Change:
        return supplies.more_nodes(snapshot, node, count, place)

    return make


def _with_hint(change: Change, hints: Mapping[str, str]) -> Change:
    hint = hints.get(change.suggestion.subject, "")
    if not hint:
        return change
    suggestion = change.suggestion
    return replace(change, suggestion=replace(suggestion, text=f"{suggestion.text}{hint}"))


def _together(changes: tuple[Change, ...]) -> Suggestion:
    parts = tuple(change.suggestion for change in changes)
    text = " and ".join(part.text for part in parts)
    return Suggestion("combination", text, parts=parts)
