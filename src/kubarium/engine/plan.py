"""What a scheduling cycle decided, as values that can be printed, compared and committed."""

from __future__ import annotations

from dataclasses import dataclass

from kubarium.engine.devices.model import Allocation
from kubarium.engine.model import ClaimShare, Gang, Key, Pod
from kubarium.engine.verdict import GangVerdict, Verdict


@dataclass(frozen=True, slots=True)
class Placement:
    """A pod on a node, with what its claims get. Claims that had an allocation are not listed.

    ``shares`` is what all its claims take of the node's own resources; the pod's requests count it.
    """

    pod: Pod
    node: str
    allocations: tuple[tuple[Key, Allocation], ...] = ()
    shares: tuple[ClaimShare, ...] = ()


@dataclass(frozen=True, slots=True)
class Preemption:
    """Victims to delete so that the pods of ``nominations`` will fit on the nodes named."""

    victims: tuple[Pod, ...]
    nominations: tuple[tuple[Pod, str], ...]


@dataclass(frozen=True, slots=True)
class QueueItem:
    """One thing to decide: a single pod, or all waiting pods of a gang.

    ``scheduler`` names the profile; "" is the default one.
    """

    pods: tuple[Pod, ...]
    gang: Gang | None = None
    scheduler: str = ""

    @property
    def order(self) -> tuple[int, float, Key]:
        """Priority first, then age, then name: PrioritySort with a deterministic end."""
        first = self.pods[0]
        if self.gang is not None:
            return (-first.priority, self.gang.created, self.gang.key)
        return (-first.priority, first.created, first.key)


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of one queue item. A gang's ``unplaced`` pods are beyond its minimum or all."""

    item: QueueItem
    placements: tuple[Placement, ...] = ()
    unplaced: tuple[tuple[Pod, Verdict], ...] = ()
    gang_verdict: GangVerdict | None = None
    preemption: Preemption | None = None


@dataclass(frozen=True, slots=True)
class CyclePlan:
    """The decisions of one cycle, in the order in which they were taken."""

    decisions: tuple[Decision, ...]

    def placements(self) -> list[Placement]:
        return [p for d in self.decisions for p in d.placements]
