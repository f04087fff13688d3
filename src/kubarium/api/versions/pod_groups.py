"""scheduling.k8s.io/v1alpha2 (Kubernetes 1.36) in v1beta1 (1.37): PodGroup and Workload.

v1beta1 names its template in ``workloadRef`` where v1alpha2 has ``podGroupTemplateRef.workload``;
its disruption mode is a union where v1alpha2 has a string; it calls the condition that a group is
placed ``PodGroupInitiallyScheduled``. Preemption policies, parents and composites are its own.
(Upstream: the types of both versions in kubernetes/api, KEP-4671.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubarium.api.resource import Document
from kubarium.api.versions.parts import each, with_part

_MODES = {"Pod": "single", "PodGroup": "all"}
_OLDER_MODES = {new: old for old, new in _MODES.items()}
_SCHEDULED, _OLDER_SCHEDULED = "PodGroupInitiallyScheduled", "PodGroupScheduled"
_CONDITIONS = ("status", "conditions")
_TEMPLATES = ("spec", "podGroupTemplates")
_GROUP_ONLY = ("preemptionPolicy", "parentCompositePodGroupName")
_TEMPLATE_ONLY = ("preemptionPolicy",)


def stored_group(group: Document, stored: Document | None) -> Document:
    """A v1alpha2 PodGroup as v1beta1."""
    before = ((stored or {}).get("spec")) or {}
    group = with_part(group, ("spec",), lambda spec: _stored_spec(spec, before))
    return with_part(group, _CONDITIONS, _renamed(_OLDER_SCHEDULED, _SCHEDULED))


def older_group(group: Document) -> Document:
    """A v1beta1 PodGroup as v1alpha2."""
    group = with_part(group, ("spec",), _older_spec)
    return with_part(group, _CONDITIONS, _renamed(_SCHEDULED, _OLDER_SCHEDULED))


def stored_workload(workload: Document, stored: Document | None) -> Document:
    """A v1alpha2 Workload as v1beta1."""
    spec = ((stored or {}).get("spec")) or {}
    before = {item["name"]: item for item in spec.get("podGroupTemplates") or []}

    def template(item: Document) -> Document:
        return _kept(_new_mode(item), before.get(item.get("name"), {}), _TEMPLATE_ONLY)

    workload = with_part(workload, _TEMPLATES, each(template))
    composites = spec.get("compositePodGroupTemplates")
    if not composites:
        return workload
    # v1alpha2 requires podGroupTemplates and shows none for a tree of composites.
    rest = {k: v for k, v in workload["spec"].items() if v or k != "podGroupTemplates"}
    return workload | {"spec": rest | {"compositePodGroupTemplates": composites}}


def older_workload(workload: Document) -> Document:
    """A v1beta1 Workload as v1alpha2; of a tree of composites it shows no templates."""

    def spec(of: Document) -> Document:
        kept = {k: v for k, v in of.items() if k != "compositePodGroupTemplates"}
        return {"podGroupTemplates": []} | kept

    def template(item: Document) -> Document:
        return _older_mode(_without(item, _TEMPLATE_ONLY))

    return with_part(with_part(workload, ("spec",), spec), _TEMPLATES, each(template))


def _stored_spec(spec: Any, before: Mapping[str, Any]) -> Any:
    if not isinstance(spec, dict):
        return spec
    spec = _new_mode(spec)
    if "podGroupTemplateRef" in spec:
        reference = (spec["podGroupTemplateRef"] or {}).get("workload")
        spec = _without(spec, ("podGroupTemplateRef",))
        if reference is not None:
            renamed = {
                "templateName" if key == "podGroupTemplateName" else key: value
                for key, value in reference.items()
            }
            spec = spec | {"workloadRef": renamed}
    return _kept(spec, before, _GROUP_ONLY)


def _older_spec(spec: Document) -> Document:
    spec = _older_mode(_without(spec, _GROUP_ONLY))
    reference = spec.get("workloadRef")
    if reference is None:
        return spec
    workload = {
        "podGroupTemplateName" if key == "templateName" else key: value
        for key, value in reference.items()
    }
    return _without(spec, ("workloadRef",)) | {"podGroupTemplateRef": {"workload": workload}}


def _new_mode(part: Document) -> Document:
    """A mode that does not exist becomes a member that does not, for validation to name."""
    mode = part.get("disruptionMode")
    if not isinstance(mode, str):
        return part
    return part | {"disruptionMode": {_MODES.get(mode, mode): {}}}


def _older_mode(part: Document) -> Document:
    mode = part.get("disruptionMode")
    if not isinstance(mode, dict):
        return part
    return part | {"disruptionMode": next((_OLDER_MODES[m] for m in mode if m in _OLDER_MODES), "")}


def _renamed(old: str, new: str) -> Any:
    def condition(item: Document) -> Document:
        return item | {"type": new} if item.get("type") == old else item

    return each(condition)


def _without(part: Document, keys: tuple[str, ...]) -> Document:
    return {key: value for key, value in part.items() if key not in keys}


def _kept(part: Document, before: Mapping[str, Any], keys: tuple[str, ...]) -> Document:
    """``part`` with what only the stored version has."""
    return part | {key: before[key] for key in keys if key in before and key not in part}
