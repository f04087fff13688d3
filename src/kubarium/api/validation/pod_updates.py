"""What may change in a pod that exists (source: ValidatePodUpdate)."""

from __future__ import annotations

from typing import Any

from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.schema import definition
from kubarium.api.validation.changes import same
from kubarium.api.validation.pod_metadata import MIRROR
from kubarium.api.validation.pods import check_pod_spec, check_token_volumes
from kubarium.api.validation.report import Report
from kubarium.api.validation.structure import check_structure
from kubarium.base.errors import FieldError

_SPEC: Path = (None, "spec")
_DEFINITION = "io.k8s.api.core.v1.PodSpec"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_NO_OTHER = "are allowed (no mutations or deletions)"
_ADDITIONS = f"only additions {_NO_OTHER}"
# Fields of which absent is something else than empty, false or zero.
_TELLING = frozenset(
    (
        "affinity",
        "automountServiceAccountToken",
        "dnsConfig",
        "enableServiceLinks",
        "hostUsers",
        "hostnameOverride",
        "os",
        "preemptionPolicy",
        "priority",
        "resources",
        "runtimeClassName",
        "schedulingGroup",
        "setHostnameAsFQDN",
        "shareProcessNamespace",
    )
)
_PLAIN = ("hostPort", "readOnly", "stdin", "stdinOnce", "tty")
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
    check_token_volumes(after, _SPEC, report)
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
        if name in free or _same(name, after.get(name), before.get(name)):
            continue
        if name in ("containers", "initContainers"):
            if same(_without_images(after[name]), _without_images(before[name]), _PLAIN):
                continue
        elif name == "affinity" and gated and _same_but_nodes(after, before):
            continue
        changed.append(name)
    return changed


def _without_images(containers: list[Document]) -> list[Document]:
    return [{k: v for k, v in c.items() if k != "image"} for c in containers]


def _same(name: str, new: Any, old: Any) -> bool:
    """Absent and empty are the same, but for fields that say something by being there."""
    if new == old:
        return True
    if not new and not old:
        return name not in _TELLING
    return same(new, old, _PLAIN)


def _same_but_nodes(after: Document, before: Document) -> bool:
    """A gated pod's node affinity has rules of its own."""
    new, old = ({**(spec.get("affinity") or {})} for spec in (after, before))
    for affinity in (new, old):
        affinity.pop("nodeAffinity", None)
    return same(new, old, _PLAIN)


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
        return {k: v for k, v in toleration.items() if v and k != "tolerationSeconds"}

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
            name = gate.get("name") or ""
            detail = f"only deletion is allowed, but found new scheduling gate '{name}'"
            report.forbidden(at(_SPEC, "schedulingGates", index, "name"), detail)


def _check_node_selector(after: Document, before: Document, report: Report) -> None:
    new = after.get("nodeSelector") or {}
    for key, value in (before.get("nodeSelector") or {}).items():
        if new.get(key) != value:
            detail = f"only additions to spec.nodeSelector {_NO_OTHER}"
            report.invalid(at(_SPEC, "nodeSelector"), new, detail)


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
        if not _only_adds(term, was):
            report.invalid(at(path, index), term, _ADDITIONS)


def _only_adds(term: Document, was: Document) -> bool:
    """Whether a term begins with what it was; one that matched nothing stays as it is."""
    keys = ("matchExpressions", "matchFields")
    if not any(was.get(key) for key in keys):
        return not any(term.get(key) for key in keys)
    return all((term.get(k) or [])[: len(was.get(k) or ())] == (was.get(k) or []) for k in keys)


def check_ephemeral_containers(new: Document, old: Document) -> list[FieldError]:
    """Errors of a write to the ephemeralcontainers subresource, both whole pods.

    Source: ValidatePodEphemeralContainersUpdate.
    """
    report = Report()
    path = at(_SPEC, "ephemeralContainers")
    if MIRROR in (old["metadata"].get("annotations") or {}):
        report.forbidden(None, "static pods do not support ephemeral containers")
        return report.errors
    check_structure(definition(_DEFINITION), new["spec"], _SPEC, report)
    check_pod_spec(new["spec"], _SPEC, report)
    own = [e for e in report.errors if e.path.startswith("spec.ephemeralContainers")]
    report.errors = list({str(error): error for error in own}.values())
    present = {c.get("name"): c for c in new["spec"].get("ephemeralContainers") or ()}
    for container in old["spec"].get("ephemeralContainers") or ():
        name = container.get("name")
        if name not in present:
            detail = f'existing ephemeral containers "{name}" may not be removed\n'
            report.forbidden(path, detail)
        elif not same(present[name], container, _PLAIN):
            detail = f'existing ephemeral containers "{name}" may not be changed\n'
            report.forbidden(path, detail)
    return report.errors
