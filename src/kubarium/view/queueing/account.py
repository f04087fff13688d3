"""A queueing explanation in the form that all of ``kubarium why`` has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kubarium.api.resource import Document, Resource
from kubarium.engine.verdict import Suggestion
from kubarium.view.explanation import Explanation
from kubarium.view.queueing import why


def account(documents: Mapping[Resource, Iterable[Document]], subject: Document) -> Explanation:
    """Why a Workload, or the Workload of a Job or JobSet, waits in its queue."""
    found = why.explain(documents, subject)
    return Explanation(
        f"workload {found.workload}",
        found.state,
        found.message or found.reason,
        tuple(_reasons(found)),
        tuple(
            Suggestion(change.kind, change.text, ", ".join(change.workloads))
            for change in found.changes
        ),
        _facts(found),
    )


def _reasons(found: why.Explanation) -> Iterable[str]:
    lines = found.lines()[1:]
    for line in lines:
        if line.startswith("Any one of these"):
            return
        yield line


def _facts(found: why.Explanation) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "reason": found.reason,
        "localQueue": found.local_queue,
        "clusterQueue": found.cluster_queue,
        "path": found.path,
        "strategy": found.strategy,
        "priority": found.priority,
        "waiting": found.waiting,
    }
    if found.position is not None:
        facts["position"] = found.position
    facts["shortages"] = [
        {
            "flavor": s.flavor,
            "resource": s.resource,
            "requested": s.requested,
            "available": s.available,
            "missing": s.missing,
            "capacity": s.capacity,
            **({"unusable": s.unusable} if s.unusable else {}),
            "holders": [
                {"workload": h.workload, "priority": h.priority, "amount": h.amount}
                for h in s.holders
            ],
        }
        for s in found.shortages
    ]
    return {name: value for name, value in facts.items() if value not in ("", [], None)}
