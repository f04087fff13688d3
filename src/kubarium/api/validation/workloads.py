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
from kubarium.api.validation.storage import check_claim_spec
from kubarium.base.errors import ApiError

_SPEC: Path = (None, "spec")
_MISMATCH = "`selector` does not match template `labels`"


def selector_matches(selector: Document | None, labels: dict[str, str] | None) -> bool:
    """Whether a selector document selects ``labels``; a malformed one selects nothing."""
    try:
        return label_selector(selector).matches(labels)
    except ApiError:
        return False


def check_selector_and_template(
    spec: Document, report: Report, *, always: bool = True, kind: str = "ReplicaSet"
) -> None:
    """The selector is well formed, not empty, and matches; templates restart always.

    ``kind`` is what complaints call the object; those about a Deployment call it a ReplicaSet.
    """
    selector = spec.get("selector")
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels")
    if selector is not None:
        check_label_selector(selector, at(_SPEC, "selector"), report)
        if not selector.get("matchLabels") and not selector.get("matchExpressions"):
            named = "deployment" if kind == "ReplicaSet" else kind.lower()
            detail = f"empty selector is invalid for {named}"
            report.invalid(at(_SPEC, "selector"), selector, detail)
        elif not selector_matches(selector, labels):
            report.invalid(at(_SPEC, "template", "metadata", "labels"), labels, _MISMATCH)
    check_pod_template(template, at(_SPEC, "template"), report)
    policy = (template.get("spec") or {}).get("restartPolicy")
    place = at(_SPEC, "template", "spec")
    if always and policy not in (None, "", "Always"):
        report.not_supported(at(place, "restartPolicy"), policy, ("Always",))
    if (template.get("spec") or {}).get("activeDeadlineSeconds") is not None:
        detail = f"activeDeadlineSeconds in {kind} is not Supported"
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
    if strategy.get("type") == "Recreate":
        if rolling is not None:
            detail = "may not be specified when strategy `type` is 'Recreate'"
            report.forbidden(at(path, "rollingUpdate"), detail)
        return
    values = rolling or {}
    place = at(path, "rollingUpdate")
    if "maxUnavailable" in values:
        check_count_or_percent(values["maxUnavailable"], at(place, "maxUnavailable"), report)
    if "maxSurge" in values:  # several times as many pods may run for a while
        check_count_or_percent(values["maxSurge"], at(place, "maxSurge"), report, most=None)
    if is_zero(values.get("maxUnavailable", 1)) and is_zero(values.get("maxSurge", 1)):
        detail = "may not be 0 when `maxSurge` is 0"
        report.invalid(at(place, "maxUnavailable"), values.get("maxUnavailable"), detail)


def is_zero(value: Any) -> bool:
    """Whether an int-or-percent is nothing at all."""
    return value in (0, "0%")


def check_count_or_percent(
    value: Any, path: Path, report: Report, *, most: int | None = 100
) -> None:
    """A count of at least 0, or a percentage of at most 100, or of any size."""
    if isinstance(value, str):
        fine = report.format(path, value, formats.percent)
        if fine and most is not None and int(value[:-1]) > most:
            report.invalid(path, value, f"must not be greater than {most}%")
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
    check_selector_and_template(spec, report, kind="DaemonSet")
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") != "OnDelete":
        place = at(_SPEC, "updateStrategy", "rollingUpdate")
        _check_daemon_rolling(strategy.get("rollingUpdate") or {}, place, report)


def _check_daemon_rolling(rolling: Document, path: Path, report: Report) -> None:
    """Nodes are without their pod for a while, or have two of them."""
    down, surge = rolling.get("maxUnavailable", 1), rolling.get("maxSurge", 0)
    check_count_or_percent(down, at(path, "maxUnavailable"), report)
    check_count_or_percent(surge, at(path, "maxSurge"), report)
    if not is_zero(down) and not is_zero(surge):
        detail = "may not be set when maxUnavailable is non-zero"
        report.invalid(at(path, "maxSurge"), surge, detail)
    elif is_zero(down) and is_zero(surge):
        report.required(at(path, "maxUnavailable"), "cannot be 0 when maxSurge is 0")


def check_stateful_set(document: Document, report: Report) -> None:
    """apps/v1 StatefulSet."""
    spec = document.get("spec") or {}
    for field in ("replicas", "minReadySeconds", "revisionHistoryLimit"):
        report.not_negative(at(_SPEC, field), spec.get(field))
    policy = spec.get("podManagementPolicy")
    if policy and policy not in _MANAGEMENT:
        detail = "must be 'OrderedReady' or 'Parallel'"
        report.invalid(at(_SPEC, "podManagementPolicy"), policy, detail)
    check_selector_and_template(_with_claims(spec), report, kind="StatefulSet")
    _check_stateful_update(spec.get("updateStrategy") or {}, at(_SPEC, "updateStrategy"), report)
    ordinals = spec.get("ordinals") or {}
    report.not_negative(at(_SPEC, "ordinals", "start"), ordinals.get("start"))


_MANAGEMENT = ("OrderedReady", "Parallel")


def _check_stateful_update(strategy: Document, path: Path, report: Report) -> None:
    kind, rolling = strategy.get("type") or "RollingUpdate", strategy.get("rollingUpdate")
    if kind not in ("RollingUpdate", "OnDelete"):
        report.invalid(path, strategy, "must be 'RollingUpdate' or 'OnDelete'")
    if rolling is None:
        return
    place = at(path, "rollingUpdate")
    if kind == "OnDelete":
        report.invalid(place, rolling, "only allowed for updateStrategy 'RollingUpdate'")
        return
    report.not_negative(at(place, "partition"), rolling.get("partition"))
    down = rolling.get("maxUnavailable")
    if down is not None:
        check_count_or_percent(down, at(place, "maxUnavailable"), report)
        if is_zero(down):
            report.invalid(at(place, "maxUnavailable"), down, "cannot be 0")


def check_new_stateful_set(document: Document, report: Report) -> None:
    """What never changes in a StatefulSet, and is looked at once."""
    spec = document.get("spec") or {}
    if spec.get("serviceName"):
        report.format(at(_SPEC, "serviceName"), spec["serviceName"], formats.dns_label)
    for index, claim in enumerate(spec.get("volumeClaimTemplates") or ()):
        place = at(_SPEC, "volumeClaimTemplates", index, "spec")
        check_claim_spec(claim.get("spec") or {}, place, report)


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
