"""All devices of the cluster against one request: the first rule that each fails, counted.

The order of rules: a selector clause, the pool is unusable, a taint, the device is in use, its
capacity or its counters are used up. What passes all is free. Slices that no clause can tell apart
are looked at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from kubarium.engine.devices.alike import Kinds
from kubarium.engine.devices.model import (
    ALL,
    Amount,
    ClaimSpec,
    Device,
    DeviceId,
    Request,
    RequestEntry,
    Rest,
    SelectorError,
    Slice,
)
from kubarium.engine.devices.request import untolerated
from kubarium.engine.explain.nearest import nearest, values_of
from kubarium.engine.explain.taken import IN_USE as IN_USE
from kubarium.engine.explain.taken import Taken
from kubarium.engine.explain.ties import Ties, joint_notes
from kubarium.engine.explain.wishes import Clause, Clauses
from kubarium.engine.model import Key
from kubarium.engine.placement.devices import KindBooks
from kubarium.engine.snapshot import Mask, Snapshot

# Devices that clauses are evaluated on; alike ones count once. Beyond it the account is a sample.
MAX_EVALUATED = 2_000

# Holders named of devices in use.
HOLDERS_SHOWN = 3

# Devices that rest of which is told why and until when.
RESTING_SHOWN = 3

RESTS = "could not be made ready, and is left alone for a while"
UNSEEN = "not looked at: nearly every device differs in what the selectors read"
_FREE = ""


@dataclass(frozen=True, slots=True)
class ClauseCount:
    """One selector clause: how many devices fail it, and how many fail nothing else before use.

    ``hint`` says what there is instead of what the clause wants, ``nearest`` are the constants that
    would do in its place. ``error`` is why its selector fails on some device instead of answering.
    """

    text: str
    owner: str
    failing: int
    alone: int
    hint: str = ""
    nearest: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class RequestSurvey:
    """The account of one request. ``failed`` counts devices by the first rule that they fail.

    ``usable`` of the free ones are on nodes where nothing but devices is in the way, ``most`` is
    how many one node can have at most; ``whole`` says that such a node has all of its own free,
    which is what a request for ``everything`` wants.
    """

    request: str
    device_class: str
    needed: int
    devices: int
    matching: int
    free: int
    usable: int
    most: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    clauses: tuple[ClauseCount, ...] = ()
    holders: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sampled: bool = False
    resource: str = ""
    everything: bool = False
    whole: bool = False
    resting: tuple[Rest, ...] = ()

    @property
    def label(self) -> str:
        """How to speak of the request: by its name, or by the resource that it stands for."""
        return self.resource or f"request {self.request}"

    @property
    def missing(self) -> int:
        """How many devices are too few, wherever the pod could use them; 0 or less if none are."""
        if self.everything:
            return 0 if self.whole else self.matching - self.free
        return self.needed - self.usable

    def message(self) -> str:
        """One line: what is needed, what there is, and where the rest went."""
        noun = "device" if self.devices == 1 else "devices"
        text = (
            f"{self.label}: {self._wanted()},"
            f" {self.devices} {noun} in the cluster, {self.matching} match, {self.free} free"
        )
        if self.usable < self.free:
            text = f"{text} ({self.usable} on nodes that the pod could use)"
        return f"{text} (of those looked at)" if self.sampled else text

    def _wanted(self) -> str:
        if self.everything:
            return f"all of class {self.device_class} on one node wanted"
        return f"{self.needed} of class {self.device_class} needed in all"

    def lines(self) -> Iterator[str]:
        """The message, then what failed, most frequent first."""
        yield self.message()
        for reason, count in sorted(self.failed.items(), key=lambda item: (-item[1], item[0])):
            noun = "device" if count == 1 else "devices"
            more = f" by {', '.join(self.holders)}" if reason == IN_USE and self.holders else ""
            yield f"{count} {noun}: {reason}{more}"
        yield from (f"device {rest.told}" for rest in self.resting[:RESTING_SHOWN])
        yield from self.notes


@dataclass(slots=True)
class _Facts:
    """What is true of all slices of one kind: by place of the device, the static rule it fails."""

    failed: list[str]
    clauses: list[tuple[int, ...]]
    matching: tuple[int, ...]
    special: bool


def survey(
    snapshot: Snapshot,
    spec: ClaimSpec,
    claims: int,
    clauses: Clauses,
    usable: Mask | None = None,
    labels: Mapping[str, str] | None = None,
) -> list[RequestSurvey]:
    """One survey for each request, and each alternative, of ``claims`` equal claims.

    ``usable`` are the rows on which nothing but devices stands in the way, ``labels`` what requests
    are called that stand for extended resources.
    """
    surveyors = [
        _Surveyor(snapshot, spec, entry, request, clauses, usable)
        for entry in spec.requests
        for request in entry.alternatives
    ]
    found = [surveyor.run(claims) for surveyor in surveyors]
    together = tuple(joint_notes(spec, [surveyor.ties for surveyor in surveyors]))
    if together:
        found[0] = replace(found[0], notes=found[0].notes + together)
    if not labels:
        return found
    return [replace(one, resource=labels.get(one.request, "")) for one in found]


class _Surveyor:
    def __init__(
        self,
        snapshot: Snapshot,
        spec: ClaimSpec,
        entry: RequestEntry,
        request: Request,
        clauses: Clauses,
        usable: Mask | None,
    ) -> None:
        self._snapshot = snapshot
        self._usable_rows = usable
        self._inventory = snapshot.inventory
        self._spec = spec
        self._entry = entry
        self._request = request
        self._usable: list[bool] | None = usable.tolist() if usable is not None else None
        self._path = entry.path(request)
        owner = self._inventory.classes.get(request.device_class)
        self._missing = owner is None
        self._clauses: list[tuple[str, Clause]] = []
        # The selectors as they are asked, each with the numbers of its clauses.
        self._wholes: list[tuple[str, str, range]] = []
        self._errors: dict[int, str] = {}
        for whose, selectors in (
            (f"class {request.device_class}", owner.selectors if owner else ()),
            ("selector", request.selectors),
        ):
            for expression in selectors:
                start = len(self._clauses)
                self._clauses += [(whose, clause) for clause in clauses(expression or "")]
                numbers = range(start, len(self._clauses))
                self._wholes.append((whose, expression or "", numbers))
        self._facts: dict[int, _Facts] = {}
        self._models: dict[int, Slice] = {}
        self._evaluated = 0
        self._failed: Counter[str] = Counter()
        self._on_node: dict[str, int] = {}
        # Nodes that the pod could use with devices that match, all free; nodes where some are not.
        self._whole: set[str] = set()
        self._spoilt: set[str] = set()
        self._names: dict[tuple[int, tuple[str, ...]], frozenset[str]] = {}
        self._free = self._free_usable = self._matching = self._devices = 0
        self._in_use: list[DeviceId] = []
        self._rests = {rest.device: rest for rest in snapshot.resting.values()}
        self.ties = Ties(spec, entry, request)
        self._taken = Taken(snapshot.inventory, request)

    def run(self, claims: int) -> RequestSurvey:
        needed = claims * max(self._request.count, 1)
        notes: list[str] = []
        if self._missing:
            notes.append(f"device class {self._request.device_class} does not exist")
            return RequestSurvey(
                self._path, self._request.device_class, needed, 0, 0, 0, 0, notes=tuple(notes)
            )
        if not self._inventory.slices:
            notes.append("there are no ResourceSlices: no DRA driver publishes devices")
        sight = self._inventory.sights.of(c.text for _, c in self._clauses)
        if sight is not None:
            sight |= {c.match or c.distinct for c in self._spec.constraints}
        kinds = self._inventory.sights.kinds(sight)
        of_kind: Counter[int] = Counter()
        looked_at = self._count_nodes(kinds, of_kind)
        for item, problem in self._others(looked_at):
            if problem:
                self._count_unusable(self._facts_of(item, kinds.slice_kind(item)), problem)
                continue
            count = self._count(item, kinds, of_kind, 1, int(self._is_usable(item)))
            self._on_node[item.node_name] = self._on_node.get(item.node_name, 0) + count
        counts = self._count_static(of_kind)
        resting = self._resting(kinds)
        most = self._on_node.pop("", 0) + max(self._on_node.values(), default=0)
        if most < self._request.count <= self._free:
            wanted = self._request.count
            notes.append(f"one claim wants {wanted} on one node; no node has more than {most} free")
        notes += self.ties.notes() if self._matching else ()
        return RequestSurvey(
            self._path,
            self._request.device_class,
            needed,
            self._devices,
            self._matching,
            self._free,
            self._free_usable if self._usable is not None else self._free,
            most,
            {reason: n for reason, n in self._failed.items() if n and reason},
            counts,
            tuple(self._holders()),
            tuple(notes),
            self._evaluated > MAX_EVALUATED,
            everything=self._request.mode == ALL,
            whole=bool(self._whole - self._spoilt),
            resting=resting,
        )

    def _resting(self, kinds: Kinds) -> tuple[Rest, ...]:
        """The devices that match and rest: so far they have been counted as in use."""
        found: list[Rest] = []
        rests = self._rests
        if not rests or self._request.admin_access:
            return ()
        for item, problem in self._inventory.slices_with_problems():
            named = (DeviceId(item.driver, item.pool, device.name) for device in item.devices)
            here = [rests[device] for device in named if device in rests]
            if not problem and here:
                kind = kinds.slice_kind(item)
                match = self._matching_names(item, kind, self._facts_of(item, kind))
                found += [rest for rest in here if rest.device.device in match]
        self._failed[IN_USE] -= len(found)
        self._failed[RESTS] += len(found)
        return tuple(found)

    def _count_nodes(self, kinds: Kinds, of_kind: Counter[int]) -> Mask:
        """Count nodes by kind, where all of a node's slices are pools of its own; returns these."""
        snapshot = self._snapshot
        counted = np.zeros(snapshot.capacity, np.bool_)
        numbers = snapshot.shared(KindBooks).under(kinds.sight).of()
        _, first, inverse, nodes = np.unique(
            numbers, return_index=True, return_inverse=True, return_counts=True
        )
        usable = snapshot.alive if self._usable_rows is None else self._usable_rows
        able = np.bincount(inverse, usable, len(first)).astype(np.int64)
        plain = np.zeros(len(first), np.bool_)
        for at in np.argsort(first).tolist():
            node = snapshot.nodes[int(first[at])]
            slices = self._inventory.whole_slices(node.name) if node is not None else None
            if node is None or not slices:
                continue
            plain[at] = True
            self._on_node[node.name] = sum(
                self._count(item, kinds, of_kind, int(nodes[at]), int(able[at])) for item in slices
            )
        counted[:] = plain[inverse]
        return counted

    def _others(self, looked_at: Mask) -> Iterator[tuple[Slice, str]]:
        """Every slice but those of the nodes that were looked at, with what is wrong with it."""
        nodes, rows = self._snapshot.nodes, np.flatnonzero(looked_at).tolist()
        names = {node.name for row in rows if (node := nodes[row]) is not None}
        found = 0
        for name in names:
            found += len(self._inventory.whole_slices(name) or ())
        if found == len(self._inventory.slices):
            return
        for item, problem in self._inventory.slices_with_problems():
            if item.node_name not in names:
                yield item, problem

    def _count(
        self, item: Slice, kinds: Kinds, of_kind: Counter[int], times: int, usable: int
    ) -> int:
        """Count a slice that stands for so many, some on usable nodes; returns what is free."""
        kind = kinds.slice_kind(item)
        facts = self._facts_of(item, kind)
        of_kind[kind] += times
        free = self._use(item, kind, facts, times, usable) if facts.matching else 0
        matching = sum(not bad for bad in facts.clauses)
        if free < matching:
            self._spoilt.add(item.node_name)
        elif matching and usable:
            self._whole.add(item.node_name)
        return free

    def _facts_of(self, item: Slice, kind: int) -> _Facts:
        """What is true of all slices of the kind."""
        facts = self._facts.get(kind)
        if facts is None:
            facts = self._facts[kind] = self._look(item)
            self._models[kind] = item
        return facts

    # What does not depend on who holds what.

    def _look(self, item: Slice) -> _Facts:
        failed: list[str] = []
        failing: list[tuple[int, ...]] = []
        for device in item.devices:
            self._evaluated += 1
            seen = self._evaluated <= MAX_EVALUATED
            bad = self._failing(item.driver, device) if seen else ()
            failing.append(bad)
            if not seen:
                failed.append(UNSEEN)
            elif bad:
                failed.append(self._broken(item.driver, device) or self._reason(bad[0]))
            elif untolerated(device, self._request.tolerations):
                taints = ", ".join(str(t) for t in device.taints if t.effect != "None")
                failed.append(f"taint {taints}")
            else:
                failed.append(_FREE)
        matching = tuple(i for i, reason in enumerate(failed) if reason == _FREE)
        special = self._request.capacity is not None or any(
            item.devices[i].consumes or item.devices[i].allow_multiple for i in matching
        )
        return _Facts(failed, failing, matching, special)

    def _failing(self, driver: str, device: Device) -> tuple[int, ...]:
        return tuple(
            number
            for number, (_, clause) in enumerate(self._clauses)
            if not self._holds(clause.text, driver, device)
        )

    def _holds(self, text: str, driver: str, device: Device) -> bool:
        try:
            return self._inventory.selects(text, driver, device)
        except SelectorError:
            return False

    def _broken(self, driver: str, device: Device) -> str:
        """Which selector fails on the device instead of answering, and why; "" if none does.

        That ends the search for all nodes, so it is told before what else the device fails.
        """
        for owner, expression, numbers in self._wholes:
            try:
                if not self._inventory.selects(expression, driver, device):
                    return ""  # the others are not asked
            except SelectorError as error:
                for number in numbers:
                    if self._raises(number, driver, device):
                        self._errors[number] = str(error)
                return f"{owner} `{expression}`: {' '.join(str(error).split())}"
        return ""

    def _raises(self, number: int, driver: str, device: Device) -> bool:
        try:
            self._inventory.selects(self._clauses[number][1].text, driver, device)
        except SelectorError:
            return True
        return False

    def _reason(self, number: int) -> str:
        owner, clause = self._clauses[number]
        return f"{owner} `{clause.text}`"

    def _count_static(self, of_kind: Mapping[int, int]) -> tuple[ClauseCount, ...]:
        failing: Counter[int] = Counter()
        alone: Counter[int] = Counter()
        for kind, times in of_kind.items():
            facts = self._facts[kind]
            self._devices += times * len(facts.failed)
            for reason, bad in zip(facts.failed, facts.clauses, strict=True):
                if not bad and reason != UNSEEN:
                    self._matching += times
                if reason:
                    self._failed[reason] += times
                for number in bad:
                    failing[number] += times
                if len(bad) == 1:
                    alone[bad[0]] += times
        return tuple(
            ClauseCount(
                clause.text, owner, failing[i], alone[i], *self._hint(i), self._errors.get(i, "")
            )
            for i, (owner, clause) in enumerate(self._clauses)
            if failing[i]
        )

    def _count_unusable(self, facts: _Facts, problem: str) -> None:
        """Devices of a pool that gives none: those that would match fail because of it."""
        self._devices += len(facts.failed)
        for reason, bad in zip(facts.failed, facts.clauses, strict=True):
            self._failed[reason if bad or reason == UNSEEN else problem] += 1

    def _hint(self, number: int) -> tuple[str, tuple[str, ...]]:
        """What the devices have that fail this clause, those first that fail nothing else."""
        clause = self._clauses[number][1]
        if not clause.name:
            return "", ()
        near: list[Amount | str] = []
        for only in (True, False):
            for kind, facts in self._facts.items():
                item = self._models[kind]
                for device, bad in zip(item.devices, facts.clauses, strict=True):
                    if number in bad and (len(bad) == 1 or not only):
                        near += values_of(item.driver, device, clause)
            if near:
                break
        hint, constants = nearest(clause, near)
        passed = any(number not in bad for f in self._facts.values() for bad in f.clauses)
        if not near and passed:
            return f"the devices that fail it have no {clause.name.partition('/')[2]}", ()
        if near and self._inventory.sights.reads_individual(clause.text):
            # Only some of the devices were looked at, and another one's number is no advice.
            return hint if hint.endswith("…") else f"{hint} …", ()
        return hint, constants

    # What depends on it.

    def _use(self, item: Slice, kind: int, facts: _Facts, times: int, usable: int) -> int:
        """Count what is in use and what is free in a slice; returns the latter."""
        taken = self._inventory.ledger.taken(item.driver, item.pool)
        free: Sequence[int] = facts.matching
        count = len(free)
        if self._request.admin_access:
            taken = {}  # whatever is in use, administrators get access
        elif facts.special:
            why = [self._in_the_way(item, item.devices[i]) for i in facts.matching]
            free = [i for i, reason in zip(facts.matching, why, strict=True) if not reason]
            count = len(free)
            for reason in filter(None, why):
                self._failed[reason] += times
        elif taken:
            used = taken.keys() & self._matching_names(item, kind, facts)
            self._failed[IN_USE] += times * len(used)
            if used and len(self._in_use) < HOLDERS_SHOWN:
                held = (DeviceId(item.driver, item.pool, name) for name in sorted(used))
                self._in_use += [device for device in held if device not in self._rests]
            count -= len(used)
        self._free += times * count
        self._free_usable += usable * count
        if self._spec.constraints:
            for i in free:
                if facts.special or item.devices[i].name not in taken:
                    self.ties.enter(item.devices[i], item.driver, item.node_name)
        return count

    def _matching_names(self, item: Slice, kind: int, facts: _Facts) -> frozenset[str]:
        """The names of the slice's matching devices; many slices use the same ones."""
        names = self._inventory.sights.device_names(item.name)
        known = self._names.get((kind, names))
        if known is None:
            known = frozenset([names[i] for i in facts.matching])
            self._names[kind, names] = known
        return known

    def _is_usable(self, item: Slice) -> bool:
        if self._usable is None or not item.node_name:
            return True
        row = self._snapshot.rows.get(item.node_name)
        return row is not None and self._usable[row]

    def _in_the_way(self, item: Slice, device: Device) -> str:
        """Why the request could not have a device now; "" if it could."""
        why = self._taken.why(item, device)
        if why == IN_USE:
            id_ = DeviceId(item.driver, item.pool, device.name)
            self._in_use += [id_] if id_ not in self._rests else []
        return why

    def _holders(self) -> Iterator[str]:
        wanted = dict.fromkeys(self._in_use[:HOLDERS_SHOWN])
        named: dict[Key, None] = {}
        for key, allocation in self._snapshot.allocations.items() if wanted else ():
            if any(result.id in wanted for result in allocation.results):
                named[key] = None
                if len(named) >= HOLDERS_SHOWN:
                    break
        yield from (f"claim {'/'.join(key)}" for key in named)
        if self._failed[IN_USE] > len(wanted):
            yield "others"
