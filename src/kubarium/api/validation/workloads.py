"""apps/v1 kinds: replicas, selectors that match their templates, strategies."""

from __future__ import annotations

from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.selectors import label_selector
from kubarium.api.validation.metadata import check_label_selector, check_labels
from kubarium.api.validation.pods import check_pod_template
from kubarium.api.validation.report import Report
from kubarium.base.errors import ApiError

_SPEC: Path = (None, "spec")
_MISMATCH = "`selector` does not match template `labels`"


def selector_matches(selector: Document | None, labels: dict[str, str] | None) -> bool:
    """Whether a selector document selects ``labels``; a malformed one selects nothing."""
    try:
        return label_selector(selector).matches(labels)
    except ApiError:
        return False


def check_selector_and_template(spec: Document, report: Report, *, always: bool = True) -> None:
    """The selector is well formed, not empty, and matches; templates restart always."""
    selector = spec.get("selector")
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels")
    if selector is not None:
        check_label_selector(selector, at(_SPEC, "selector"), report)
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            detail = "empty selector is invalid for deployment"
            report.invalid(at(_SPEC, "selector"), selector, detail)
        elif not selector_matches(selector, labels):
            report.invalid(at(_SPEC, "template", "metadata", "labels"), labels, _MISMATCH)
    check_pod_template(template, at(_SPEC, "template"), report)
    policy = (template.get("spec") or {}).get("restartPolicy")
    place = at(_SPEC, "template", "spec")
    if always and policy not in (None, "", "Always"):
        report.not_supported(at(place, "restartPolicy"), policy, ("Always",))
    if (template.get("spec") or {}).get("activeDeadlineSeconds") is not None:
        detail = "activeDeadlineSeconds in ReplicaSet is not Supported"
        report.forbidden(at(place, "activeDeadlineSeconds"), detail)


def check_deployment(document: Document, report: Report) -> None:
    """apps/v1 Deployment."""
    spec = document.get("spec") or {}
    for field in ("replicas", "minReadySeconds", "revisionHistoryLimit"):
        report.not_negative(at(_SPEC, field), spec.get(field))
    check_selector_and_template(spec, report)
    _check_rolling(spec.get("strategy") or {}, at(_SPEC, "strategy"), report)
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None:
        report.not_negative(at(_SPEC, "progressDeadlineSeconds"), deadline)
        if deadline <= (spec.get("minReadySeconds") or 0):
            detail = "must be greater than minReadySeconds"
            report.invalid(at(_SPEC, "progressDeadlineSeconds"), deadline, detail)


def _check_rolling(strategy: Document, path: Path, report: Report) -> None:
    rolling = strategy.get("rollingUpdate")
    if strategy.get("type") in ("Recreate", "OnDelete"):
        if rolling is not None and strategy.get("type") == "Recreate":
            detail = "may not be specified when strategy `type` is 'Recreate'"
            report.forbidden(at(path, "rollingUpdate"), detail)
        return
    values = rolling or {}
    place = at(path, "rollingUpdate")
    for field in ("maxUnavailable", "maxSurge"):
        if field in values:
            check_count_or_percent(values[field], at(place, field), report)
    if is_zero(values.get("maxUnavailable", 1)) and is_zero(values.get("maxSurge", 1)):
        detail = "may not be 0 when `maxSurge` is 0"
        report.invalid(at(place, "maxUnavailable"), values.get("maxUnavailable"), detail)


def is_zero(value: Any) -> bool:
    """Whether an int-or-percent is nothing at all."""
    return value in (0, "0%")


def check_count_or_percent(value: Any, path: Path, report: Report) -> None:
    """A count of at least 0, or a percentage of at most 100."""
    if isinstance(value, str):
        if report.format(path, value, formats.percent) and int(value[:-1]) > 100:
            report.invalid(path, value, "must not be greater than 100%")
    else:
        report.not_negative(path, value)


def check_replica_set(document: Document, report: Report) -> None:
    """apps/v1 ReplicaSet."""
    spec = document.get("spec") or {}
    report.not_negative(at(_SPEC, "replicas"), spec.get("replicas"))
    report.not_negative(at(_SPEC, "minReadySeconds"), spec.get("minReadySeconds"))
    check_selector_and_template(spec, report)


def check_replication_controller(document: Document, report: Report) -> None:
    """core/v1 ReplicationController: a plain map as selector."""
    spec = document.get("spec") or {}
    report.not_negative(at(_SPEC, "replicas"), spec.get("replicas"))
    selector = spec.get("selector") or {}
    template = spec.get("template") or {}
    if not selector:
        report.required(at(_SPEC, "selector"))
    labels = (template.get("metadata") or {}).get("labels") or {}
    if any(labels.get(key) != value for key, value in selector.items()):
        report.invalid(at(_SPEC, "template", "metadata", "labels"), labels, _MISMATCH)
    check_labels(selector, at(_SPEC, "selector"), report)
    check_pod_template(template, at(_SPEC, "template"), report)


def check_daemon_set(document: Document, report: Report) -> None:
    """apps/v1 DaemonSet."""
    spec = document.get("spec") or {}
    for field in ("minReadySeconds", "revisionHistoryLimit"):
        report.not_negative(at(_SPEC, field), spec.get(field))
    check_selector_and_template(spec, report)
    _check_rolling(spec.get("updateStrategy") or {}, at(_SPEC, "updateStrategy"), report)


def check_stateful_set(document: Document, report: Report) -> None:
    """apps/v1 StatefulSet."""
    spec = document.get("spec") or {}
    for field in ("replicas", "minReadySeconds", "revisionHistoryLimit"):
        report.not_negative(at(_SPEC, field), spec.get(field))
    check_selector_and_template(_with_claims(spec), report)
    rolling = (spec.get("updateStrategy") or {}).get("rollingUpdate") or {}
    place = at(_SPEC, "updateStrategy", "rollingUpdate", "partition")
    report.not_negative(place, rolling.get("partition"))
    ordinals = spec.get("ordinals") or {}
    report.not_negative(at(_SPEC, "ordinals", "start"), ordinals.get("start"))
    name = spec.get("serviceName")
    if name:
        report.format(at(_SPEC, "serviceName"), name, formats.dns_subdomain)


def _with_claims(spec: Document) -> Document:
    """The spec as its pods will have it: a volume for each of volumeClaimTemplates."""
    templates = spec.get("volumeClaimTemplates") or ()
    names = [(claim.get("metadata") or {}).get("name") or "" for claim in templates]
    if not names:
        return spec
    template = spec.get("template") or {}
    pod = template.get("spec") or {}
    volumes = [v for v in pod.get("volumes") or () if v.get("name") not in names]
    volumes += [{"name": n, "persistentVolumeClaim": {"claimName": n}} for n in names]
    return {**spec, "template": {**template, "spec": {**pod, "volumes": volumes}}}


def check_immutable_selector(new: Document, old: Document, report: Report) -> None:
    """``spec.selector`` of Deployments, ReplicaSets and DaemonSets."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    report.immutable(at(_SPEC, "selector"), after.get("selector"), before.get("selector"))


_STATEFUL_MUTABLE = (
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
)


def check_stateful_set_update(new: Document, old: Document, report: Report) -> None:
    """Only the fields that rolling updates know how to follow."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    frozen = {**after, **before}.keys() - set(_STATEFUL_MUTABLE)
    if any((after.get(name) or None) != (before.get(name) or None) for name in frozen):
        shown = ", ".join(f"'{name}'" for name in _STATEFUL_MUTABLE[:-1])
        detail = (
            f"updates to statefulset spec for fields other than {shown} and "
            f"'{_STATEFUL_MUTABLE[-1]}' are forbidden"
        )
        report.forbidden(_SPEC, detail)
