"""Changes that are either made or not: no amount has to be found for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from itertools import islice

from kubarium.engine import reasons
from kubarium.engine.devices.model import ALL, MAX_RESULTS_PER_CLAIM, ClaimSpec
from kubarium.engine.explain import supplies, wishes
from kubarium.engine.explain.case import Case
from kubarium.engine.explain.data import cached_on
from kubarium.engine.explain.features import upgraded
from kubarium.engine.explain.obstacles import CURED_BY_AN_END, Group
from kubarium.engine.explain.subject import SMALLER, Change
from kubarium.engine.explain.supplies import amount
from kubarium.engine.explain.taken import NO_SUCH_CAPACITY
from kubarium.engine.model import Gang, PodShape
from kubarium.engine.placement.devices import claims_of
from kubarium.engine.verdict import Suggestion

# Cordoned nodes of one group that a gang may need together.
CORDONS_TRIED = 4

# Incomplete pools of which completion is tried.
POOLS_TRIED = 4

# Of these one node is enough of an example.
ONE_IS_ENOUGH = (
    "uncordon",
    "upgrade-node",
    "cache-data",
    "add-resource",
    "lower-request",
    "raise-skew",
    "count-devices",
)


class Choices:
    """The changes for one case, each with the obstacles that it may lift."""

    def __init__(self, case: Case) -> None:
        self._case = case

    def all(self) -> list[Change]:
        """Every change, cheapest first."""
        found = [
            *self._of_rules(),
            *self._of_claims(),
            *self._of_classes(),
            *self._of_rests(),
            *self._of_pools(),
            *self._counts(),
            *self._of_nodes(),
            *self._of_domains(),
        ]
        return sorted(found, key=lambda change: change.cost)

    def _of_rules(self) -> Iterator[Change]:
        """What lifts a rule on every node."""
        obstacles = self._case.obstacles
        lifts: dict[Suggestion, tuple[Change, int]] = {}
        cured = sum(
            1 << bit for bit, rule in enumerate(obstacles.rules) if rule.kind in CURED_BY_AN_END
        )
        for bit, rule in enumerate(obstacles.rules):
            for change in rule.lifts:
                known, bits = lifts.get(change.suggestion, (change, 0))
                if change.suggestion.kind in ("free-pod", "free-pods"):
                    bits |= cured  # the pods leave their room too
                lifts[change.suggestion] = (known, bits | 1 << bit)
        yield from (replace(change, lifts=bits) for change, bits in lifts.values())

    def _of_claims(self) -> Iterator[Change]:
        """Selector clauses and constraints of the claims, and taints of devices."""
        bit = self._case.obstacles.device_bits
        seen: dict[str, None] = {}
        for slot in self._case.slots:
            for spec in slot.specs:
                for path, change in self._of_spec(spec):
                    one = slot.change(change, path)
                    if one.suggestion.text not in seen:
                        seen[one.suggestion.text] = None
                        yield replace(one, lifts=bit)

    def _of_spec(self, spec: ClaimSpec) -> Iterator[tuple[str, Change]]:
        """Each with the request that it is about."""
        hints = {
            c.text: f" ({c.hint})" if c.hint else "" for s in self._case.surveys for c in s.clauses
        }
        for path, change in wishes.claim_wishes(spec, self._case.clauses):
            yield path, _with_hint(change, hints)
        yield from self._capacities(spec)
        yield from self._guards(spec)
        yield from self._other_constants(spec)
        taints = [
            taint
            for taint in self._case.snapshot.inventory.device_taints()
            if taint.effect in ("NoSchedule", "NoExecute")
        ]
        for path, request in wishes.requests(spec):
            for taint in taints:
                if not any(t.tolerates(taint) for t in request.tolerations):
                    yield path, wishes.tolerating_devices(path, taint)

    def _capacities(self, spec: ClaimSpec) -> Iterator[tuple[str, Change]]:
        """Capacities that no device has by that name, put right or left out."""
        unknown = {
            (found.request, why.removeprefix("capacity ").partition(": ")[0])
            for found in self._case.surveys
            for why in found.failed
            if NO_SUCH_CAPACITY in why
        }
        published = (
            name
            for item in (self._case.snapshot.inventory.slices.values() if unknown else ())
            for device in item.devices
            for name in device.capacity
        )
        known = sorted(dict.fromkeys(published))
        for path, request in wishes.requests(spec):
            for name, _ in request.capacity or ():
                if (path, name) in unknown:
                    for meant in get_close_matches(name, known, 1, 0.75):
                        yield path, wishes.renamed_capacity(path, name, meant)
                    yield path, wishes.without_capacity(path, name)

    def _of_rests(self) -> Iterator[Change]:
        """Nothing but time, until devices that rest may be tried again."""
        rests = {rest.device: rest for found in self._case.surveys for rest in found.resting}
        if rests:
            change = supplies.rested(list(rests.values()))
            yield replace(change, lifts=self._case.obstacles.device_bits)

    def _of_pools(self) -> Iterator[Change]:
        """Pools of which slices are missing, where devices that would do are among them."""
        case = self._case
        failed = any(why.startswith("pool ") for found in case.surveys for why in found.failed)
        # Whatever devices a pool has: who asks for all must know all of them.
        if not failed and not any(found.everything for found in case.surveys):
            return
        troubled = case.snapshot.inventory.slices_with_problems()
        pools = {(slice_.driver, slice_.pool): None for slice_, why in troubled if why}
        for driver, pool in islice(pools, POOLS_TRIED):
            change = supplies.completed(case.snapshot, driver, pool)
            if change is not None:
                yield replace(change, lifts=case.obstacles.device_bits)

    def _counts(self) -> Iterator[Change]:
        """As many devices as some node has left, where all of a node's are asked for."""
        bits = self._case.obstacles.device_bits
        most = {found.request: found.most for found in self._case.surveys}
        for slot in self._case.slots:
            paths = {
                path: None
                for spec in slot.specs
                for path, request in wishes.requests(spec)
                if request.mode == ALL
            }
            for path in paths:
                for count in dict.fromkeys((most.get(path, 0), 1)):
                    if 0 < count <= MAX_RESULTS_PER_CLAIM:
                        change = slot.change(wishes.counting(path, count), path)
                        yield replace(change, lifts=bits)

    def _guards(self, spec: ClaimSpec) -> Iterator[tuple[str, Change]]:
        """Selector clauses that fail on some device, asked only where what they read is there."""
        surveys = self._case.surveys
        broken = {(c.owner, c.text) for found in surveys for c in found.clauses if c.error}
        if not broken:
            return
        clauses = self._case.clauses
        for path, request in wishes.requests(spec):
            for expression in request.selectors:
                for clause in clauses(expression or ""):
                    if clause.guard and ("selector", clause.text) in broken:
                        yield path, wishes.guarded(path, clause, clauses)

    def _of_classes(self) -> Iterator[Change]:
        """The same for selectors of DeviceClasses, and without the clause."""
        case, bit = self._case, self._case.obstacles.device_bits
        for found in case.surveys:
            device_class = case.snapshot.inventory.classes.get(found.device_class)
            owner = f"class {found.device_class}"
            broken = {c.text for c in found.clauses if c.error and c.owner == owner}
            for expression in device_class.selectors if device_class and broken else ():
                for clause in case.clauses(expression or ""):
                    assert device_class is not None
                    for guarded in (True, False) if clause.text in broken else ():
                        if clause.guard or not guarded:
                            change = supplies.class_changed(
                                device_class, clause, case.clauses, guarded=guarded
                            )
                            yield replace(change, lifts=bit)

    def _other_constants(self, spec: ClaimSpec) -> Iterator[tuple[str, Change]]:
        """Selector clauses with a constant that some device has."""
        clauses = self._case.clauses
        nearest = {c.text: c.nearest for found in self._case.surveys for c in found.clauses}
        for path, request in wishes.requests(spec):
            for expression in request.selectors:
                for clause in clauses(expression or ""):
                    for constant in nearest.get(clause.text, ()):
                        change = wishes.reworded(path, clause, constant, clauses)
                        if change is not None:
                            yield path, change

    def _of_nodes(self) -> Iterator[Change]:
        """Cordons lifted, and for single pods resources added or asked for less of."""
        for group in self._case.groups:
            yield from self._uncordoned(group)
            yield from self._upgraded(group)
            yield from self._cached(group)
            alone = not self._case.subject.is_gang or self._case.alike == 1
            if alone and any(r.kind == "resource" for r in group.rules):
                yield from self._of_resources(group)
            elif not self._case.subject.is_gang:
                yield from self._of_claims_resources(group)

    def _uncordoned(self, group: Group) -> Iterator[Change]:
        if not any(rule.kind == "cordon" for rule in group.rules):
            return
        bits = sum(
            self._case.obstacles.bit(rule)
            for rule in group.rules
            if rule.kind == "cordon" or str(rule.subject).startswith("node.kubernetes.io/unsched")
        )
        for row in group.rows[: CORDONS_TRIED if self._case.subject.is_gang else 1].tolist():
            yield replace(supplies.uncordoned(self._case.node(row)), lifts=bits, row=row)

    def _upgraded(self, group: Group) -> Iterator[Change]:
        """One node of the group, and for a gang all of them, declare what the pod needs."""
        missing = [rule for rule in group.rules if rule.kind == "features"]
        if not missing:
            return
        names = [str(rule.subject) for rule in missing]
        bits = sum(self._case.obstacles.bit(rule) for rule in missing)
        row = int(group.rows[0])
        yield replace(upgraded([self._case.node(row)], names), lifts=bits, row=row)
        if self._case.subject.is_gang and len(group.rows) > 1:
            nodes = [self._case.node(row) for row in group.rows.tolist()]
            yield replace(upgraded(nodes, names), lifts=bits)

    def _cached(self, group: Group) -> Iterator[Change]:
        """One node of the group gets the data, and for a gang as many as lack a place, or all."""
        missing = [rule for rule in group.rules if rule.kind == "data"]
        if not missing:
            return
        names = [str(rule.subject) for rule in missing]
        bits = sum(self._case.obstacles.bit(rule) for rule in missing)
        nodes = [self._case.node(row) for row in group.rows.tolist()]
        yield replace(cached_on(nodes[:1], names), lifts=bits, row=int(group.rows[0]))
        if self._case.subject.is_gang:
            for count in dict.fromkeys((self._case.missing, len(nodes))):
                if 1 < count <= len(nodes):
                    yield replace(cached_on(nodes[:count], names), lifts=bits)

    def _of_resources(self, group: Group) -> Iterator[Change]:
        shape = self._case.subject.shape
        short = [rule for rule in group.rules if rule.kind == "resource"]
        beside = [rule for rule in group.rules if rule.kind == "claim-resource"]
        bits = sum(self._case.obstacles.bit(rule) for rule in (*short, *beside))
        row = self._case.least_short(group, [str(rule.subject) for rule in short])
        node = self._case.node(row)
        charged = self._charged(row) if beside else shape
        missing = supplies.shortage(self._case.snapshot, row, charged)
        # What stands for a class no node can have.
        if not any(name.startswith(reasons.IMPLICIT_PREFIX) for name, _ in missing):
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
                if self._case.subject.is_gang:
                    change = self._of_one(change)
                yield replace(change, lifts=bits, row=row)

    def _of_one(self, change: Change) -> Change:
        """The change of the one pod of a gang that asks for this."""
        pod, make = self._case.subject.pods[0], change.shape
        assert make is not None
        text = f"{change.suggestion.text} in pod {pod.key[1]}"
        return replace(
            change,
            suggestion=replace(change.suggestion, text=text),
            shape=lambda shape: make(shape) if shape == pod.shape else shape,
        )

    def _of_claims_resources(self, group: Group) -> Iterator[Change]:
        """More of what the node lacks for what the claims' devices take of it."""
        rules = [rule for rule in group.rules if rule.kind == "claim-resource"]
        if not rules or any(rule.kind == "devices" for rule in group.rules):
            return
        case, row = self._case, int(group.rows[0])
        missing = supplies.shortage(case.snapshot, row, self._charged(row))
        bits = sum(case.obstacles.bit(rule) for rule in rules)
        if not missing:
            return
        node, asked = case.node(row), dict(case.subject.shape.requests)
        yield replace(supplies.enlarged(node, missing), lifts=bits, row=row)
        [(resource, lacking), *more] = missing
        most = asked.get(resource, 0) - lacking
        if most > 0 and not more:
            change = wishes.requesting(resource, most, amount(resource, most), node.name)
            yield replace(change, lifts=bits, row=row)

    def _charged(self, row: int) -> PodShape:
        """What the first pod takes of a node, its claims' devices included."""
        case, pod = self._case, self._case.subject.pods[0]
        claims = claims_of(case.snapshot, pod)
        return case.placer.beside_claims(pod, claims, case.placer.device_fit(claims), row)[1].shape

    def _of_domains(self) -> Iterator[Change]:
        gang = self._case.subject.gang
        if gang is None or not self._case.subject.is_gang or not gang.required_keys:
            return
        keys = ", ".join(gang.required_keys)
        text = f"do without the topology constraint {keys} of pod group {gang.key[1]}"

        def change(gang: Gang) -> Gang:
            return replace(gang, topology_key="", inner_keys=())

        yield Change(Suggestion("remove-topology", text, keys), SMALLER, gang=change)


def _with_hint(change: Change, hints: Mapping[str, str]) -> Change:
    hint = hints.get(change.suggestion.subject, "")
    if not hint:
        return change
    suggestion = change.suggestion
    return replace(change, suggestion=replace(suggestion, text=f"{suggestion.text}{hint}"))
