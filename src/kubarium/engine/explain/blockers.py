"""Who stands in the way on one node: pods that hold a port, or that (anti-)affinity speaks of."""

from __future__ import annotations

from kubarium.engine.explain.obstacles import Rule
from kubarium.engine.model import Disk, HostPort, Pod, PodTerm
from kubarium.engine.snapshot import Snapshot


def blocker(snapshot: Snapshot, rule: Rule, pod: Pod, row: int) -> Pod | None:
    """The pod because of which the row fails the rule, if one pod is."""
    if rule.kind == "port" and isinstance(rule.subject, HostPort):
        port = rule.subject
        return next(
            (p for p in snapshot.pods_on[row].values() if any(map(port.collides, p.shape.ports))),
            None,
        )
    if rule.kind == "apart" and isinstance(rule.subject, PodTerm):
        return _spoken_of(snapshot, rule.subject, row)
    if rule.kind == "disk" and isinstance(rule.subject, Disk):
        disk = rule.subject
        found = snapshot.pods_on[row].values()
        return next((p for p in found if any(map(disk.conflicts, p.disks))), None)
    if rule.kind == "kept-off":
        return _holder(snapshot, pod, row)
    return None


def _domain(snapshot: Snapshot, key: str, row: int) -> list[int]:
    column = snapshot.labels.get(key)
    if column is None or column[row] < 0:
        return []
    found: list[int] = (snapshot.alive & (column == column[row])).nonzero()[0].tolist()
    return found


def _spoken_of(snapshot: Snapshot, term: PodTerm, row: int) -> Pod | None:
    counts = snapshot.tally(term)
    for near in _domain(snapshot, term.topology_key, row):
        if counts[near]:
            for pod in snapshot.pods_on[near].values():
                if snapshot.tallies.speaks_of(term, pod):
                    return pod
    return None


def _holder(snapshot: Snapshot, pod: Pod, row: int) -> Pod | None:
    for term, holders in snapshot.tallies.anti_holders.items():
        if not snapshot.tallies.speaks_of(term, pod):
            continue
        for near in _domain(snapshot, term.topology_key, row):
            if holders[near]:
                for other in snapshot.pods_on[near].values():
                    if term in other.shape.pod_anti_affinity:
                        return other
    return None
