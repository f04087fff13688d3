"""Why a running pod's resize waits for room on its node, and what would make it (KEP-1287)."""

from __future__ import annotations

from dataclasses import replace

from kubarium.api.resource import Document
from kubarium.engine.explain import Explainer, Subject
from kubarium.engine.model import PodShape, Toleration
from kubarium.view.evidence import Evidence
from kubarium.view.explanation import Explanation
from kubarium.view.placement import account_of
from kubarium.view.pods import is_deferred, node_of
from kubarium.view.profiles import scheduler_name

# The pod is on its node whatever the node's taints are.
_ANYTHING = (Toleration("", "Exists", "", ""),)

# What helps a pod that looks for a node and not one that is on it.
_ELSEWHERE = ("add-node", "add-node-at")


def with_resize(told: Explanation, evidence: Evidence, pod: Document) -> Explanation:
    """The account of a pod on its node, with what would let its deferred resize through.

    The node is asked whether it could take a pod of the wanted size in the place of this one.
    """
    node = node_of(pod)
    if not is_deferred(pod) or "deletionTimestamp" in pod["metadata"]:
        return told
    snapshot = evidence.view.snapshot
    here = snapshot.placed((pod["metadata"].get("namespace", ""), pod["metadata"]["name"]))
    if here is None or snapshot.node(node) is None:
        return told
    shape = PodShape(
        requests=here.shape.requests,
        node_name=node,
        nonzero=here.shape.nonzero,
        tolerations=_ANYTHING,
    )
    wanted = replace(here, shape=shape, claims=(), volumes=(), gang=None, variants=())
    placer, subject = evidence.placer(scheduler_name(pod)), Subject((wanted,))
    mark = snapshot.checkpoint()
    try:
        snapshot.displace(here.key)
        if Explainer(placer).fits(subject):
            return told
        found = account_of(evidence.view, placer, subject, node=node)
    finally:
        snapshot.rollback(mark)
    helps = tuple(s for s in found.suggestions if s.kind not in _ELSEWHERE)
    return replace(
        told,
        reasons=(*told.reasons, *found.lines),
        suggestions=helps,
        commands={s: line for s, line in found.commands.items() if s in helps},
    )
