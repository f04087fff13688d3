"""Pods whose end would make the room: as few, and as unimportant, as possible."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from kubarium.engine.explain import supplies, wishes
from kubarium.engine.explain.case import GROUPS_TRIED, Case
from kubarium.engine.explain.obstacles import CURED_BY_AN_END
from kubarium.engine.explain.subject import Change, Subject, Undo
from kubarium.engine.explain.trial import Trial
from kubarium.engine.model import Key, Node, Pod
from kubarium.engine.placement.devices import claims_of
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.preemption import cheapest_ends, rank_of
from kubarium.engine.snapshot import Snapshot
from kubarium.engine.verdict import Suggestion

# Nodes on which the end of pods is tried for a single pod, each different from the others among
# so many; pods of one of them; and nodes that arithmetic alone decides about.
NODES_FREED = 6
NODES_COMPARED = 500
NODES_WEIGHED = 1_000
PODS_FREED = 32

# Pods whose end is considered for a gang, and how many of these workloads are spared one by one.
GANG_PODS_FREED = 512
SPARED_ONE_BY_ONE = 8


class Ends:
    """Whose end would help in one case."""

    def __init__(self, case: Case) -> None:
        self._case = case

    def all(self) -> Iterator[Change]:
        """The best set of pods on one node, or for a gang the best set of workloads."""
        yield from self._for_gang() if self._case.subject.is_gang else self._ends()

    def _ends(self) -> Iterator[Change]:
        """Pods on one node, by the order in which the scheduler itself would choose it."""
        weighed = self._weighed()
        if weighed is not None:
            yield weighed
            return
        found: list[tuple[tuple[object, ...], Change]] = []
        for row in self._rows_to_free():
            victims = self._end_on(row)
            if victims:
                rank = rank_of(self._case.snapshot, tuple(victims))
                found.append((rank, self._ended(victims, self._case.node(row))))
        if found:
            yield min(found, key=lambda entry: entry[0])[1]

    def _weighed(self) -> Change | None:
        """The best of all nodes on which only resources are short, by arithmetic."""
        case = self._case
        rows = [
            group.rows
            for group in case.obstacles.groups
            if group.rules and all(rule.kind == "resource" for rule in group.rules)
        ]
        if not rows:
            return None
        pod = case.subject.pods[0]
        best = cheapest_ends(case.placer, pod, np.sort(np.concatenate(rows)), NODES_WEIGHED)
        if best is None or any(map(self._is_mate, best[1])):
            return None
        change = self._ended(list(best[1]), case.node(best[0]))
        return change if case.trial.fits(case.subject, (change,)) else None

    def _rows_to_free(self) -> list[int]:
        """Rows that fail only what the end of pods can cure; those short of least first.

        Where devices are short, those with most devices of the wanted kind.
        """
        found: list[int] = []
        seen: set[object] = set()
        snapshot = self._case.snapshot
        kinds = self._case.device_kinds()
        for group in self._case.groups:
            if not all(rule.kind in CURED_BY_AN_END for rule in group.rules):
                continue
            short = [str(r.subject) for r in group.rules if r.kind == "resource"]
            busy = [row for row in group.rows.tolist() if snapshot.pods_on[row]]
            if busy and short:
                first = self._case.least_short(replace(group, rows=np.array(busy)), short)
                busy = [first, *(row for row in busy if row != first)]
            short_of_devices = any(rule.kind == "devices" for rule in group.rules)
            if kinds is not None and self._case.pending and short_of_devices:
                busy = self._with_devices(busy[:NODES_COMPARED], kinds)
            for row in busy[:NODES_COMPARED]:
                what = (kinds[row] if kinds is not None else 0, self._what_is_on(row))
                if what not in seen and len(found) < NODES_FREED:
                    seen.add(what)
                    found.append(row)
        return found

    def _with_devices(self, rows: list[int], kinds: list[int]) -> list[int]:
        """Rows with devices that the pending claims could take if they were free; most first."""
        requests = [r for claim in self._case.pending for _, r in wishes.requests(claim.spec)]
        counts: dict[int, int] = {}
        for row in rows:
            if kinds[row] not in counts:
                found = {id_ for r in requests for id_ in self._case.suitable(row, r)}
                counts[kinds[row]] = len(found)
        having = [row for row in rows if counts[kinds[row]]]
        return sorted(having, key=lambda row: -counts[kinds[row]])

    def _is_mate(self, pod: Pod) -> bool:
        """Whether the pod is of the subject's own group, which would gain nothing by its end."""
        gang = self._case.subject.pods[0].gang
        return gang is not None and pod.gang == gang

    def _what_is_on(self, row: int) -> object:
        """Equal for nodes on which the end of pods costs and gives the same, as far as seen."""
        snapshot = self._case.snapshot
        pods = snapshot.pods_on[row].values()
        what = sorted((p.priority, p.shape.requests, len(p.claims), p.terminating) for p in pods)
        return snapshot.allocatable[:, row].tobytes(), tuple(what)

    def _end_on(self, row: int) -> list[Pod] | None:
        """The pods of the row whose end is enough."""
        snapshot, node = self._case.snapshot, self._case.node(row)
        there = snapshot.pods_on[row].values()
        pods = [p for p in there if not p.terminating and not self._is_mate(p)]
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
        return victims if not self._case.trial.exhausted else None

    def _freed(self, pods: list[Pod], node: Node) -> bool:
        return self._case.trial.fits(self._case.subject, (self._ended(pods, node),))

    def _ended(self, pods: list[Pod], node: Node | None) -> Change:
        """With the groups that go as a whole if one of their pods does."""
        groups = {
            p.gang
            for p in pods
            if p.gang and (g := self._case.snapshot.gangs.get(p.gang)) and g.all_disrupted
        }
        whole = {p.key: p for p in pods}
        if groups:
            whole |= {p.key: p for p, _ in self._case.snapshot.placed_pods() if p.gang in groups}
        return supplies.ended(self._case.snapshot, list(whole.values()), node.name if node else "")

    # Gangs

    def _for_gang(self) -> Iterator[Change]:
        """Workloads by importance, the least important first: so many as are needed."""
        units = self._units()
        low, high = 0, min(self._case.missing, len(units))
        while not (units and self._helps(units[:high])):
            if high >= len(units) or self._case.trial.exhausted:
                return
            low, high = high, min(2 * high, len(units))
        # The first `high` are enough, the first `low` are not.
        while high - low > 1 and not self._case.trial.exhausted:
            middle = (low + high) // 2
            low, high = (low, middle) if self._helps(units[:middle]) else (middle, high)
        kept = units[:high]
        for unit in kept[:-1][-SPARED_ONE_BY_ONE:]:
            fewer = [other for other in kept if other is not unit]
            if self._helps(fewer):
                kept = fewer
        if not self._case.trial.exhausted:
            yield self._all_ended(kept)

    def _units(self) -> list[list[Pod]]:
        """Groups that go as a whole, and single pods, on nodes where that could help."""
        case = self._case
        domains = case.rooms.domain_names()
        units: dict[Key, list[Pod]] = {}
        for group in case.obstacles.groups[:GROUPS_TRIED]:
            if not all(rule.kind in CURED_BY_AN_END for rule in group.rules):
                continue
            for row in group.rows.tolist():
                if domains and domains.get(row) != case.best_domain:
                    continue
                for pod in case.snapshot.pods_on[row].values():
                    if not pod.terminating and not self._is_mate(pod):
                        units.setdefault(self._unit_of(pod), []).append(pod)
                if sum(map(len, units.values())) >= GANG_PODS_FREED:
                    break
        return sorted(
            units.values(), key=lambda unit: (max(p.priority for p in unit), len(unit), unit[0].key)
        )

    def _unit_of(self, pod: Pod) -> Key:
        gang = self._case.snapshot.gangs.get(pod.gang) if pod.gang else None
        return gang.key if gang is not None and gang.all_disrupted else pod.key

    def _helps(self, units: list[list[Pod]]) -> bool:
        return self._case.trial.fits(self._case.subject, (self._all_ended(units),))

    def _all_ended(self, units: list[list[Pod]]) -> Change:
        return self._ended([pod for unit in units for pod in unit], None)


def fewer_users(placer: Placer, subject: Subject) -> Suggestion | None:
    """The least important pod that has to end so that a claim has room for one user more."""
    snapshot, trial = placer.snapshot, Trial(placer)
    for key in dict.fromkeys(key for pod in subject.pods for key in pod.claims):
        keys = [k for k in snapshot.claim_users.get(key, ()) if k != subject.pods[0].key]
        users = [user for k in keys if (user := snapshot.placed(k)) is not None]
        if not claims_of(snapshot, replace(subject.pods[0], claims=(key,))).problem or not users:
            continue
        least = min(users, key=lambda pod: (pod.priority, -pod.created, pod.key))
        change = supplies.ended(snapshot, [least], snapshot.node_of(least.key) or "")
        if trial.fits(subject, (change, _with_one_user_less(key))):
            return change.suggestion
    return None


def _with_one_user_less(key: Key) -> Change:
    """The claim once the end of a user is entered in its status."""

    def change(snapshot: Snapshot) -> Undo:
        before = snapshot.claims[key]
        snapshot.claims[key] = replace(before, reserved=max(before.reserved - 1, 0))

        def undo() -> None:
            snapshot.claims[key] = before

        return undo

    return Change(Suggestion("free-pod", ""), 0, cluster=change)
