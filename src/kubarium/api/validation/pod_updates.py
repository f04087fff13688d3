"""What may change in a pod that exists (source: ValidatePodUpdate)."""

from __future__ import annotations

from typing import Any

from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.pods import check_pod_spec
from kubarium.api.validation.report import Report

_SPEC: Path = (None, "spec")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_ADDITIONS = "only additions are allowed (no mutations or deletions)"
_MUTABLE = (
    "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
    "`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def check_pod_update(new: Document, old: Document, report: Report) -> None:
    """Only images, deadlines and added tolerations change; gated pods may also be narrowed."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    if after == before:
        return
    check_pod_spec(after, _SPEC, report)
    for field in ("containers", "initContainers"):
        if len(after.get(field) or ()) != len(before.get(field) or ()):
            report.forbidden(at(_SPEC, field), "pod updates may not add or remove containers")
            return
    _check_deadline(after, before, report)
    _check_tolerations(after, before, report)
    _check_gates(after, before, report)
    gated = bool(before.get("schedulingGates"))
    if gated:
        _check_node_selector(after, before, report)
        _check_node_affinity(after, before, report)
    changed = sorted(_frozen_changes(after, before, gated))
    if changed:
        shown = "\n".join(f"  {name}: {_change(after, before, name)}" for name in changed)
        detail = f"pod updates may not change fields other than {_MUTABLE}\n{shown}\n"
        report.forbidden(_SPEC, detail)


def _change(after: Document, before: Document, name: str) -> str:
    def shown(value: Any) -> str:
        text = repr(value)
        return text if len(text) <= 80 else f"{text[:77]}..."

    return f"{shown(before.get(name))} -> {shown(after.get(name))}"


def _frozen_changes(after: Document, before: Document, gated: bool) -> list[str]:
    """Names of spec fields that changed although nothing allows it."""
    free = {"activeDeadlineSeconds", "tolerations", "schedulingGates"}
    if gated:
        free |= {"nodeSelector"}
    grace = before.get("terminationGracePeriodSeconds")
    if after.get("terminationGracePeriodSeconds") == 1 and (grace or 0) < 0:
        free.add("terminationGracePeriodSeconds")
    changed = []
    for name in {**after, **before}:
        if name in free or (after.get(name) or None) == (before.get(name) or None):
            continue
        if name in ("containers", "initContainers"):
            if _without_images(after[name]) == _without_images(before[name]):
                continue
        elif name == "affinity" and gated and _same_but_node_terms(after, before):
            continue
        changed.append(name)
    return changed


def _without_images(containers: list[Document]) -> list[Document]:
    return [{k: v for k, v in c.items() if k != "image"} for c in containers]


def _same_but_node_terms(after: Document, before: Document) -> bool:
    return _blank_node_terms(after.get("affinity")) == _blank_node_terms(before.get("affinity"))


def _blank_node_terms(affinity: Document | None) -> Document:
    rest = {k: v for k, v in (affinity or {}).items() if k != "nodeAffinity"}
    node = {k: v for k, v in ((affinity or {}).get("nodeAffinity") or {}).items() if k != _REQUIRED}
    return rest | ({"nodeAffinity": node} if node else {})


def _check_deadline(after: Document, before: Document, report: Report) -> None:
    old, new = before.get("activeDeadlineSeconds"), after.get("activeDeadlineSeconds")
    if old is None or old == new:
        return
    path = at(_SPEC, "activeDeadlineSeconds")
    if new is None:
        report.invalid(path, None, "must not update from a positive integer to nil value")
    elif new > old:
        report.invalid(path, new, "must be less than or equal to previous value")


def _check_tolerations(after: Document, before: Document, report: Report) -> None:
    """Existing ones stay, though ``tolerationSeconds`` may change; new ones may come."""

    def identity(toleration: Document) -> Document:
        return {k: v for k, v in toleration.items() if k != "tolerationSeconds"}

    present = [identity(toleration) for toleration in after.get("tolerations") or ()]
    for toleration in before.get("tolerations") or ():
        if identity(toleration) not in present:
            detail = "existing toleration can not be modified except its tolerationSeconds"
            report.forbidden(at(_SPEC, "tolerations"), detail)
            return


def _check_gates(after: Document, before: Document, report: Report) -> None:
    known = {gate.get("name") for gate in before.get("schedulingGates") or ()}
    for index, gate in enumerate(after.get("schedulingGates") or ()):
        if gate.get("name") not in known:
            name = gate.get("name")
            detail = f"only deletion is allowed, but found new scheduling gate '{name}'"
            report.forbidden(at(_SPEC, "schedulingGates", index), detail)


def _check_node_selector(after: Document, before: Document, report: Report) -> None:
    new = after.get("nodeSelector") or {}
    for key, value in (before.get("nodeSelector") or {}).items():
        if new.get(key) != value:
            report.invalid(at(_SPEC, "nodeSelector"), new, _ADDITIONS)
            return


def _terms(spec: Document) -> list[Document]:
    node = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    found: list[Document] = (node.get(_REQUIRED) or {}).get("nodeSelectorTerms") or []
    return found


def _check_node_affinity(after: Document, before: Document, report: Report) -> None:
    """Terms may only be narrowed: as many as before, each keeping what it demanded."""
    old, new = _terms(before), _terms(after)
    if not old or old == new:
        return
    path = at(_SPEC, "affinity", "nodeAffinity", _REQUIRED, "nodeSelectorTerms")
    if len(old) != len(new):
        report.invalid(
            path, new, "no additions/deletions to non-empty NodeSelectorTerms list are allowed"
        )
        return
    for index, (was, term) in enumerate(zip(old, new, strict=True)):
        for key in ("matchExpressions", "matchFields"):
            present = term.get(key) or []
            if any(entry not in present for entry in was.get(key) or ()):
                report.invalid(at(path, index), term, _ADDITIONS)
                break
