"""Changes of an amount: how many devices, nodes or pods, more or fewer, are just enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from kubarium.engine.devices.model import ALL, ClaimSpec, Request, Slice
from kubarium.engine.explain import supplies, wishes
from kubarium.engine.explain.case import Case, Slot
from kubarium.engine.explain.nearest import shares_left, shown_amount
from kubarium.engine.explain.obstacles import CURED_BY_A_NEW_NODE
from kubarium.engine.explain.subject import SWITCH, Change, Subject
from kubarium.engine.explain.taken import NO_SUCH_CAPACITY
from kubarium.engine.model import Gang, Node, SpreadConstraint
from kubarium.engine.snapshot import Snapshot
from kubarium.engine.verdict import Suggestion

# Nodes, one of each kind or domain, to which devices or clones are added.
MODELS_TRIED = 4

# Kinds of nodes whose devices are counted to find where fewest are missing.
KINDS_LOOKED_AT = 32

# The most devices or nodes that a suggestion adds.
MAX_ADDED = 64


class Amounts:
    """The amounts that help in one case."""

    def __init__(self, case: Case) -> None:
        self._case = case

    def _smallest(self, change: Callable[[int], Change], guess: int = 1) -> Change | None:
        """The change of the least amount that helps, up to MAX_ADDED. More never helps less."""
        low, high = 0, min(max(guess, 1), MAX_ADDED)
        if high > 1 and self._case.trial.fits(self._case.subject, (change(1),)):
            return change(1)
        while not self._case.trial.fits(self._case.subject, (change(high),)):
            if high >= MAX_ADDED or self._case.trial.exhausted:
                return None
            low, high = high, min(2 * high, MAX_ADDED)
        # A good guess is the least already: that is looked at first.
        step = 1
        while high - low > 1 and not self._case.trial.exhausted:
            middle = max(high - step, low + 1)
            if self._case.trial.fits(self._case.subject, (change(middle),)):
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
        if less < 1 or not self._case.trial.fits(self._case.subject, (change(less),)):
            return best
        return self._smallest(change, less) or best

    def fewer_devices(self) -> Iterator[Change]:
        """The largest smaller count of each request that fits, and smaller shares."""
        for slot, path, request in self._countable():
            low, high = 0, request.count  # low asks for nothing, high does not fit
            while high - low > 1:
                # One less is the usual answer, and what is asked for least.
                middle = high - 1 if high == request.count else (low + high) // 2
                fits = self._case.helps(self._counted(slot, path, request.count, middle))
                low, high = (middle, high) if fits else (low, middle)
            if low and not self._case.trial.exhausted:
                yield self._counted(slot, path, request.count, low)
            yield from self._smaller_shares(slot, path, request)

    def _countable(self) -> Iterator[tuple[Slot, str, Request]]:
        """Requests of a number of devices, by slot; of those alike the first."""
        for slot in self._case.slots:
            found: dict[str, Request] = {}
            for spec in slot.specs:
                for path, request in wishes.countable(spec):
                    found.setdefault(path, request)
            for path, request in found.items():
                yield slot, path, request

    def _counted(self, slot: Slot, path: str, old: int, count: int) -> Change:
        change = slot.change(wishes.asking_for(path, old, count), path)
        return replace(change, lifts=self._case.obstacles.device_bits)

    def _smaller_shares(self, slot: Slot, path: str, request: Request) -> Iterator[Change]:
        """The largest part of each capacity that some shared device has left.

        Also of one that the request does not name, and so takes its default or all of.
        """
        asked = dict(request.capacity or ())
        for name in dict.fromkeys((*asked, *self._short_capacities(path))):
            left = shares_left(self._case.snapshot, name)
            less = [share for share in left if name not in asked or share < asked[name]]
            for share in less[:MODELS_TRIED]:
                change = self._share(slot, path, name, share)
                if self._case.helps(change):
                    yield change
                    break

    def _short_capacities(self, path: str) -> Iterator[str]:
        """Capacities of which some device has too little for the request."""
        for found in self._case.surveys:
            for why in found.failed if found.request == path else ():
                if why.startswith("capacity ") and NO_SUCH_CAPACITY not in why:
                    yield why.removeprefix("capacity ").partition(": ")[0]

    def _share(self, slot: Slot, path: str, name: str, share: int) -> Change:
        change = slot.change(wishes.taking_less(path, name, share, shown_amount(share)), path)
        return replace(change, lifts=self._case.obstacles.device_bits)

    def smaller_gang(self) -> Iterator[Change]:
        """The largest smaller minimum that fits."""
        gang = self._case.subject.gang
        if gang is None or not self._case.subject.is_gang:
            return
        verdict = self._case.decision.gang_verdict
        first = verdict.placed if verdict is not None and not verdict.waiting else 0
        low, high = gang.scheduled_count, gang.min_count
        while high - low > 1 and not self._case.trial.exhausted:
            middle = first if low < first < high else (low + high) // 2
            fits = self._case.trial.fits(self._case.subject, (_minimum(gang, middle),))
            low, high = (middle, high) if fits else (low, middle)
            if fits and middle == first and verdict is not None and verdict.exact:
                break
        if low > gang.scheduled_count and not self._case.trial.exhausted:
            yield _minimum(gang, low)

    def smaller_requests(self) -> Iterator[Change]:
        """The largest smaller request of each resource with which a gang of like pods fits."""
        case, subject = self._case, self._case.subject
        if not subject.is_gang or case.alike == 1:
            return  # one pod that is unlike the others asks for less as any single pod does
        needed = max(subject.needed - (len(subject.pods) - case.alike), 1)
        for resource, asked in subject.shape.requests:
            room = case.rooms.by_request(resource)
            if asked < 2 or room(1) < needed or case.trial.exhausted:
                continue
            low, high = 1, asked  # low has room for all, high is what is asked for
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if room(middle) >= needed else (low, middle)
            change = wishes.requesting(resource, low, supplies.amount(resource, low))
            change = _for_alike(change, subject, case.alike)
            if case.trial.fits(subject, (change,)):
                yield change

    def wider_spread(self) -> Iterator[Change]:
        """The least maxSkew of each spread constraint with which all of a gang finds room."""
        if not self._case.subject.is_gang:
            return
        for constraint in self._case.subject.shape.spread:
            if constraint.hard:
                change = self._smallest(_skew(constraint))
                if change is not None:
                    yield change

    def more_devices(self) -> Iterator[Change]:
        """More devices like one that exists, on a node that could use them."""
        broken = {
            found.request for found in self._case.surveys if any(c.error for c in found.clauses)
        }
        seen: dict[str, None] = {}
        for claim in self._case.pending:
            for path, request in wishes.requests(claim.spec):
                # While a selector fails on some device, others make no difference.
                if request.device_class in seen or request.mode == ALL or path in broken:
                    continue
                seen[request.device_class] = None
                model = supplies.device_like(
                    self._case.snapshot, request.device_class, request.selectors
                )
                if model is None:
                    continue
                guess = self._case.missing * request.count if self._case.subject.is_gang else 1
                best: Change | None = None
                alike = _alike(claim.spec, path)
                for row, place in self._places_for_devices(request):
                    where = f"{place}{alike}"
                    make = _devices_on(model, self._case.node(row), request.device_class, where)
                    best = self._fewer(make, guess, best)
                if best is not None:
                    yield best

    def _places_for_devices(self, request: Request) -> list[tuple[int, str]]:
        """(row, how to say where) of nodes on which only devices are missing.

        One of each kind of device state in each domain, those first that have most of what the
        request wants, then those of most nodes.
        """
        obstacles = self._case.obstacles
        open_rows = obstacles.rows[(obstacles.codes[obstacles.rows] & ~obstacles.device_bits) == 0]
        if not len(open_rows):
            return []
        fit = self._case.placer.fit(self._case.subject.shape).refresh()
        domain = self._case.rooms.domain_names()
        found: dict[object, list[int]] = {}
        kinds = self._case.device_kinds()
        for row in open_rows.tolist():
            if fit[row] >= 0:
                key = (domain.get(row, ""), kinds[row] if kinds is not None else 0)
                found.setdefault(key, []).append(row)
        ordered = sorted(found.values(), key=lambda rows: self._promise(rows, domain))
        ordered[:KINDS_LOOKED_AT] = sorted(
            ordered[:KINDS_LOOKED_AT],
            key=lambda rows: (
                domain.get(rows[0], "") == self._case.best_domain,
                self._of_use(rows[0], request),
            ),
            reverse=True,
        )
        everywhere = len(open_rows) == len(obstacles.rows)
        everywhere = everywhere and len(open_rows) > 1
        # To a gang without a domain one node is as good as another.
        same = len(found) == 1 or (self._case.subject.is_gang and not domain)
        return [
            (rows[0], "any node" if everywhere and same else self._place(rows, domain))
            for rows in ordered[: MODELS_TRIED // 2 if self._case.subject.is_gang else MODELS_TRIED]
        ]

    def _of_use(self, row: int, request: Request) -> tuple[int, int]:
        """How many devices the node has that the request could take: idle ones, and in all."""
        ledger = self._case.snapshot.inventory.ledger
        found = self._case.suitable(row, request)
        return sum(not ledger.in_use(id_) for id_ in found), len(found)

    def _promise(self, rows: list[int], domain: Mapping[int, str]) -> tuple[object, ...]:
        """Smaller is better: nodes that have devices, in the domain with most room."""
        node = self._case.node(rows[0])
        best = self._case.best_domain
        has = self._case.snapshot.inventory.has_devices(node.name)
        return (domain.get(rows[0], "") != best, not has, -len(rows))

    def _place(self, rows: list[int], domain: Mapping[int, str]) -> str:
        node = self._case.node(rows[0]).name
        where = domain.get(rows[0], "")
        if where and len(rows) > 1:
            return f"a node of {where}, such as {node}"
        if where:
            return f"node {node} of {where}"
        if len(rows) == 2:
            return f"node {node} or {self._case.node(rows[1]).name}"
        others = f" or any of {len(rows) - 1} like it" if len(rows) > 1 else ""
        return f"node {node}{others}"

    def more_nodes(self) -> Iterator[Change]:
        """More nodes like one that exists, in the domain that needs fewest."""
        best: Change | None = None
        subject = self._case.subject
        for row, place in self._models():
            node = self._case.node(row)
            fresh = self._case.rooms.on_fresh(node)
            if not fresh:
                continue
            guess = -(-self._case.missing // fresh) if self._case.subject.is_gang else 1
            if guess > MAX_ADDED:
                continue
            make = _nodes_like(self._case.snapshot, node, place)
            if self._one_is_as_good_as_many:
                best = best or (make(1) if self._case.trial.fits(subject, (make(1),)) else None)
            else:
                best = self._fewer(make, guess, best)
        if best is not None:
            yield best

    @property
    def _one_is_as_good_as_many(self) -> bool:
        """Whether a single pod is looked at that a second node like the first cannot help."""
        subject = self._case.subject
        return not subject.is_gang and not subject.shape.looks_at_pods

    def _models(self) -> Iterator[tuple[int, str]]:
        """(row, place) of nodes of which a fresh one could help: one of each make and domain."""
        domain = self._case.rooms.domain_names()
        best = self._case.best_domain
        snapshot = self._case.snapshot
        groups = [
            group.rows
            for group in self._case.obstacles.groups
            if all(rule.kind in CURED_BY_A_NEW_NODE for rule in group.rules)
        ]
        if not groups:
            return
        there = [row for row in np.concatenate(groups).tolist() if not self._is_made_up(row)]
        if not there:
            return
        rows = np.array(there, np.int64)
        makes = np.vstack((snapshot.allocatable[:, rows], self._case.rooms.domains[rows]))
        _, first = np.unique(makes, axis=1, return_index=True)
        found = [(row, domain.get(row, "")) for row in rows[np.sort(first)].tolist()]
        found.sort(key=lambda entry: entry[1] != best)
        for row, where in found[:MODELS_TRIED]:
            yield row, f" in {where}" if where else ""

    def _is_made_up(self, row: int) -> bool:
        """Whether only a change that is being tried brings the node."""
        return supplies.is_made_up(self._case.node(row).name)

    def for_combinations(self) -> Iterator[Change]:
        """Smaller counts and shares, and on nodes that fail more than devices, all devices anew."""
        bit = self._case.obstacles.device_bits
        for slot, path, request in self._countable():
            counts = dict.fromkeys((request.count - 1, request.count // 2, 1))
            for count in (c for c in counts if 0 < c < request.count):
                change = self._counted(slot, path, request.count, count)
                yield replace(change, cost=change.cost + request.count - count)
            for name, wanted in request.capacity or ():
                given = shares_left(self._case.snapshot, name, idle=True)
                most = next((share for share in given if share < wanted), 0)
                if most and given[0] == most:  # no device gives what is asked for
                    yield self._share(slot, path, name, most)
            model = supplies.device_like(
                self._case.snapshot, request.device_class, request.selectors
            )
            if model is None or self._case.subject.is_gang:
                continue
            for group in self._case.groups[:MODELS_TRIED]:
                if group.code & bit:
                    row = int(group.rows[0])
                    node = self._case.node(row)
                    make = _devices_on(model, node, request.device_class, f"node {node.name}")
                    for count in dict.fromkeys((1, request.count)):
                        change = make(count)
                        yield replace(change, cost=change.cost + count, lifts=bit, row=row)


def _for_alike(change: Change, subject: Subject, alike: int) -> Change:
    """The change of all pods of a gang that ask for the same as the first."""
    shape, make, total = subject.shape, change.shape, len(subject.pods)
    assert make is not None
    whose = "each pod" if alike == total else f"{alike} pods like {subject.pods[0].key[1]}"
    text = f"{change.suggestion.text} for {whose}"
    return replace(
        change,
        suggestion=replace(change.suggestion, text=text),
        shape=lambda other: make(other) if other == shape else other,
    )


def _alike(spec: ClaimSpec, path: str) -> str:
    """What new devices must agree in to be of use to the request, as a part of a sentence."""
    names = {
        c.match: None
        for c in spec.constraints
        for entry in spec.requests
        for request in entry.alternatives
        if c.match and entry.path(request) == path and c.covers(entry, request)
    }
    return f", with one {' and one '.join(names)}" if names else ""


def _skew(constraint: SpreadConstraint) -> Callable[[int], Change]:
    def make(more: int) -> Change:
        return wishes.with_skew(constraint, constraint.max_skew + more)

    return make


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
