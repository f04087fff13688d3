"""Groups that go as a whole (disruption mode ``all``) and of which a part has gone so far.

A scheduler tells all victims that they go before it deletes the first. If it dies meanwhile, the
next one knows by this whose others were left behind: a part of them would be of use to nobody. That
holds while room is being made for a more important pod; or else the decision may be of long ago.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from kubarium.api.resource import Document
from kubarium.engine.model import Pod
from kubarium.engine.placement.disruption import unit_of, units_of, whole_units
from kubarium.engine.plan import Preemption
from kubarium.engine.snapshot import Snapshot
from kubarium.view.cluster import ClusterView
from kubarium.view.pods import is_finished, is_preempted, node_of


def left_behind(
    view: ClusterView, documents: Iterable[Document], promised: Sequence[tuple[Pod, str]]
) -> Preemption | None:
    """The rest of such groups, to be evicted; None if there is none.

    ``documents`` are all pods, ``promised`` those for which room is being made, with their nodes.
    """
    if not promised:
        return None
    snapshot, first = view.snapshot, max(promised, key=lambda entry: entry[0].priority)
    told = (
        view.pod(document)
        for document in documents
        if node_of(document)
        and not is_finished(document)
        and is_preempted(document.get("status") or {})
    )
    parts = tuple(
        pod for pod in told if pod.priority < first[0].priority and unit_of(snapshot, pod)
    )
    left = tuple(pod for pod in whole_units(snapshot, parts) if not pod.terminating)
    return Preemption(left, (first,), tuple(units_of(snapshot, left))) if left else None


def half_gone(
    snapshot: Snapshot, preemption: Preemption, gone: Callable[[Pod], bool]
) -> Preemption | None:
    """The rest of those groups of which some pods have ``gone``, others could not be evicted."""
    begun = set(units_of(snapshot, filter(gone, preemption.victims)))
    left = tuple(pod for pod in preemption.victims if unit_of(snapshot, pod) in begun)
    return (
        replace(preemption, victims=left, units=tuple(units_of(snapshot, left))) if left else None
    )
