"""Selectors of API documents as the engine's values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kubarium.engine.selectors import LabelSelector, NodeTerm, Requirement

_Json = Mapping[str, Any]


def requirement(document: _Json) -> Requirement:
    """One of ``matchExpressions`` or ``matchFields``."""
    values = tuple(str(value) for value in document.get("values") or ())
    return Requirement(document.get("key", ""), document.get("operator", ""), values)


def label_requirements(labels: Mapping[str, str] | None) -> tuple[Requirement, ...]:
    """A map of labels as clauses, in order of key."""
    return tuple(Requirement(k, "In", (v,)) for k, v in sorted((labels or {}).items()))


def label_selector(document: _Json | None) -> LabelSelector | None:
    """A metav1.LabelSelector; None (selects nothing) stays None."""
    if document is None:
        return None
    clauses = label_requirements(document.get("matchLabels"))
    return LabelSelector(
        clauses + tuple(requirement(e) for e in document.get("matchExpressions") or ())
    )


def node_term(document: _Json) -> NodeTerm:
    """A NodeSelectorTerm."""
    return NodeTerm(
        tuple(requirement(e) for e in document.get("matchExpressions") or ()),
        tuple(requirement(e) for e in document.get("matchFields") or ()),
    )


def node_terms(document: _Json | None) -> tuple[NodeTerm, ...] | None:
    """A NodeSelector's terms; None when there is no selector."""
    if not document:
        return None
    return tuple(node_term(t) for t in document.get("nodeSelectorTerms") or ())


def node_selector_document(terms: Iterable[NodeTerm]) -> dict[str, Any]:
    """The NodeSelector document of terms; empty parts are left out."""
    return {"nodeSelectorTerms": [_term_document(term) for term in terms]}


def _term_document(term: NodeTerm) -> dict[str, Any]:
    document: dict[str, Any] = {}
    if term.labels:
        document["matchExpressions"] = [_requirement_document(r) for r in term.labels]
    if term.fields:
        document["matchFields"] = [_requirement_document(r) for r in term.fields]
    return document


def _requirement_document(item: Requirement) -> dict[str, Any]:
    document: dict[str, Any] = {"key": item.key, "operator": item.operator}
    if item.values:
        document["values"] = list(item.values)
    return document
