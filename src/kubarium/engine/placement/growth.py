"""Whether a pod can grow on the node where it runs, and who must go if not (KEP-5836).

The snapshot counts for each pod the most of what it wants, has been granted and holds, so that a
deferred resize shows as a node on which more is taken than there is; the room is the pod's already,
and no new pod gets it. Only NodeResourcesFit has a say: the pod is where it is.
Source: KEP-5836, NodeResourcesFit and DeferredPodScheduling of kube-scheduler 1.37.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubarium.engine import reasons
from kubarium.engine.model import Pod
from kubarium.engine.placement.disruption import units_of
from kubarium.engine.placement.profile import DEFAULT, Profile
from kubarium.engine.placement.victims import Together, Units
from kubarium.engine.plan import Preemption
from kubarium.engine.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Growth:
    """``message`` "": the pod's resize fits, and its node will see to it."""

    message: str = ""
    preemption: Preemption | None = None


def grow(snapshot: Snapshot, pod: Pod, profile: Profile = DEFAULT) -> Growth:
    """What to do for a placed pod whose resize is deferred."""
    name = snapshot.node_of(pod.key) or ""
    row, node = snapshot.rows.get(name), snapshot.node(name)
    if row is None or node is None:
        return Growth(reasons.availability(1, {reasons.NODE_NAME: 1}))
    lacking = _lacking(snapshot, pod, row, profile)
    if not lacking:
        return Growth()
    if not node.resize_preemption:
        return Growth(reasons.availability(1, {reasons.RESIZE_PREEMPTION_DISABLED: 1}))
    text = reasons.availability(1, {reasons.insufficient(name): 1 for name in lacking})
    if not profile.preempts:
        return Growth(text)
    if not pod.preempts:
        return Growth(_because(text, reasons.NEVER_PREEMPTS))
    on_node = snapshot.pods_on[row].values()
    if any(p.preempted and p.priority < pod.priority for p in on_node):
        return Growth(_because(text, reasons.PREEMPTION_COMING))
    lower = Units(snapshot, pod.priority).on(row)  # never the pod itself, nor its unit
    if not lower:
        return Growth(_because(text, reasons.availability(1, {reasons.NO_VICTIMS: 1})))
    found, short = _fewest(lower, lacking)
    if short:
        counts = {reasons.insufficient(name): 1 for name in short}
        return Growth(_because(text, reasons.availability(1, counts)))
    return Growth(text, Preemption(found, ((pod, name),), tuple(units_of(snapshot, found))))


def _because(text: str, why: str) -> str:
    return f"{text} preemption: {why}"


def _lacking(snapshot: Snapshot, pod: Pod, row: int, profile: Profile) -> dict[str, int]:
    """Of what the pod asks for, how much more is taken on its node than there is."""
    if not profile.filters("NodeResourcesFit"):
        return {}
    over: dict[str, int] = {}
    for name, amount in pod.shape.requests:
        if amount and not profile.ignores(name):
            index = snapshot.resource_index(name)
            taken = snapshot.requested.item(index, row) - snapshot.allocatable.item(index, row)
            if taken > 0:
                over[name] = taken
    return over


def _fewest(
    lower: list[Together], lacking: dict[str, int]
) -> tuple[tuple[Pod, ...], dict[str, int]]:
    """The victims left when all that can stay do; and what is lacking even without any of them."""
    gives = [
        {name: sum(p.shape.request(name) for p in unit.here) for name in lacking} for unit in lower
    ]
    spare = {name: sum(give[name] for give in gives) - n for name, n in lacking.items()}
    short = {name: -amount for name, amount in spare.items() if amount < 0}
    if short:
        return (), short
    victims: list[Pod] = []
    for unit, give in zip(lower, gives, strict=True):
        left = {name: amount - give[name] for name, amount in spare.items()}
        if min(left.values()) >= 0:
            spare = left
        else:
            victims += unit.pods
    return tuple(victims), {}
