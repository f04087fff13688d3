"""A gang in one decision: at least its minimum of pods, or none.

Pods are placed one after the other in order; identical pods share all work. With a topology
constraint each domain (the nodes with one value of the label) is tried whole: the tightest that
takes all pods, else the one that takes the most (KEP-5732, PodGroupPodsCount and tightest fit).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kubarium.engine import reasons
from kubarium.engine.model import Gang, Pod, PodShape
from kubarium.engine.placement import packing
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import Decision, Placement, QueueItem
from kubarium.engine.snapshot import Mask, Snapshot
from kubarium.engine.verdict import GangVerdict, Verdict


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What one domain gives: ``failed`` is the first pod without a place, with its account."""

    placements: tuple[Placement, ...]
    unplaced: tuple[Pod, ...]
    account: Verdict | None
    domain: str = ""


def place_gang(placer: Placer, item: QueueItem) -> Decision:
    """Decide a gang; on success its placements are in the snapshot, otherwise nothing is."""
    gang = item.gang
    assert gang is not None
    snapshot = placer.snapshot
    needed = max(gang.min_count - gang.scheduled_count, 1 if gang.min_count else 0)
    if len(item.pods) < needed:
        return _waiting(item, gang, reasons.GANG_WAITING)
    mark = snapshot.checkpoint()
    attempt = _best_attempt(placer, item.pods, gang, needed)
    if attempt is not None and len(attempt.placements) >= needed:
        snapshot.keep(mark)
        account = attempt.account
        unplaced = tuple((pod, account) for pod in attempt.unplaced if account is not None)
        return Decision(item, attempt.placements, unplaced)
    snapshot.rollback(mark)
    if attempt is None:
        return _waiting(item, gang, reasons.no_domain(gang.topology_key))
    verdict = GangVerdict(
        gang.key,
        gang.min_count,
        len(attempt.placements) + gang.scheduled_count,
        _greedy_is_exact(snapshot, item.pods, gang),
        attempt.account,
        domain=attempt.domain,
    )
    account = attempt.account
    assert account is not None
    return Decision(item, (), tuple((pod, account) for pod in item.pods), verdict)


def _waiting(item: QueueItem, gang: Gang, why: str) -> Decision:
    verdict = GangVerdict(gang.key, gang.min_count, gang.scheduled_count, True, waiting=why)
    return Decision(item, gang_verdict=verdict)


def _best_attempt(placer: Placer, pods: Sequence[Pod], gang: Gang, needed: int) -> _Attempt | None:
    """The attempt to keep, applied to the snapshot; None when no node carries the topology key."""
    if not gang.topology_key:
        return _attempt(placer, pods, needed, None, "")
    snapshot = placer.snapshot
    best: tuple[int, Mask, str] | None = None
    for value, mask in _domains(snapshot, pods, gang):
        mark = snapshot.checkpoint()
        attempt = _attempt(placer, pods, needed, mask, value)
        if len(attempt.placements) == len(pods):
            snapshot.keep(mark)
            return attempt
        snapshot.rollback(mark)
        if best is None or len(attempt.placements) > best[0]:
            best = (len(attempt.placements), mask, value)
    if best is None:
        return None
    return _attempt(placer, pods, needed, best[1], best[2])


def _greedy(placer: Placer, pods: Sequence[Pod], within: Mask | None, domain: str) -> _Attempt:
    """Place all pods that fit, in order.

    A pod of a shape that has just failed fails again, since placements only take room away (unless
    a pod's place depends on other pods), so it is not tried.
    """
    placements: list[Placement] = []
    unplaced: list[Pod] = []
    account: Verdict | None = None
    hopeless: set[PodShape] = set()
    for pod in pods:
        alike = not pod.claims and not pod.shape.looks_at_pods
        if alike and pod.shape in hopeless:
            unplaced.append(pod)
            continue
        placement = placer.place(pod, within)
        if placement is not None:
            placements.append(placement)
            continue
        if account is None:
            account = placer.account(pod, within)
        unplaced.append(pod)
        hopeless.add(pod.shape)
    return _Attempt(tuple(placements), tuple(unplaced), account, domain)


def _attempt(
    placer: Placer, pods: Sequence[Pod], needed: int, within: Mask | None, domain: str
) -> _Attempt:
    """Greedily, and by search if that leaves a mixed gang short of its minimum."""
    mark = placer.snapshot.checkpoint()
    greedy = _greedy(placer, pods, within, domain)
    if len(greedy.placements) >= needed:
        placer.snapshot.keep(mark)
        return greedy
    placer.snapshot.rollback(mark)
    found = packing.search(placer, pods, needed, within)
    if found is None:
        return greedy  # only to be counted: nothing of it is in the snapshot any more
    placed = {placement.pod.key for placement in found}
    left = tuple(pod for pod in pods if pod.key not in placed)
    return _Attempt(found, left, greedy.account, domain)


def _domains(snapshot: Snapshot, pods: Sequence[Pod], gang: Gang) -> list[tuple[str, Mask]]:
    """("key=value", nodes) of each domain that may be tried, the tightest first.

    A gang of which some pods already run stays in their domain.
    """
    column = snapshot.labels.get(gang.topology_key)
    if column is None:
        return []
    settled = _settled_domain(snapshot, gang)
    found: list[tuple[int, str, Mask]] = []
    for value, index in snapshot.label_values[gang.topology_key].items():
        mask: Mask = snapshot.alive & (column == index)
        if not mask.any() or (settled is not None and settled != index):
            continue
        free = (snapshot.allocatable[0] - snapshot.requested[0])[mask]
        found.append((int(free.sum()), value, mask))
    found.sort(key=lambda entry: entry[:2])
    return [(f"{gang.topology_key}={value}", mask) for _, value, mask in found]


def settled_mask(snapshot: Snapshot, gang: Gang) -> Mask | None:
    """The nodes of the domain in which pods of the gang run; None without one."""
    column = snapshot.labels.get(gang.topology_key)
    if not gang.topology_key or column is None:
        return None
    settled = _settled_domain(snapshot, gang)
    if settled is None:
        return None
    mask: Mask = snapshot.alive & (column == settled)
    return mask


def _settled_domain(snapshot: Snapshot, gang: Gang) -> int | None:
    if not gang.scheduled_count:
        return None
    column = snapshot.labels[gang.topology_key]
    rows = [row for pod, row in snapshot.placed_pods() if pod.gang == gang.key]
    return int(column[rows[0]]) if rows else None


def _greedy_is_exact(snapshot: Snapshot, pods: Sequence[Pod], gang: Gang) -> bool:
    """Whether placing one by one provably finds the largest number.

    True for identical pods whose nodes do not influence each other: then each node holds a fixed
    number of them, in whatever order they come. With devices that also needs a single request for
    a number of exclusive, local devices without constraints or counters.
    """
    shapes = {pod.shape for pod in pods}
    if len(shapes) != 1 or next(iter(shapes)).looks_at_pods or next(iter(shapes)).ports:
        return False
    specs = {
        tuple(snapshot.claims[key].spec for key in pod.claims if key in snapshot.claims)
        for pod in pods
    }
    if len(specs) != 1:
        return False
    shared: dict[object, int] = {}
    for key in (key for pod in pods for key in pod.claims):
        shared[key] = shared.get(key, 0) + 1
    if any(count > 1 for count in shared.values()):
        return False
    for spec in next(iter(specs)):
        if len(spec.requests) != 1 or spec.constraints or spec.requests[0].prioritised:
            return False
        if spec.requests[0].alternatives[0].capacity is not None:
            return False
    if not next(iter(specs)):
        return True
    return len(next(iter(specs))) == 1 and all(
        item.node_name and not any(d.consumes or d.allow_multiple for d in item.devices)
        for item in snapshot.inventory.slices.values()
    )
