"""Defaults of apps/v1 and batch/v1 (sources: pkg/apis/apps/v1, pkg/apis/batch/v1 defaults.go)."""

from __future__ import annotations

from typing import Any

from kubarium.api.defaulting.core import default_persistent_volume_claim
from kubarium.api.defaulting.pods import default_pod_template, fill
from kubarium.api.resource import Document

REVISION_HISTORY = 10
PROGRESS_DEADLINE_S = 600
BACKOFF_LIMIT = 6
# With a limit for each index, the whole Job's limit is out of the way.
BACKOFF_UNLIMITED = 2**31 - 1


def _spec_with_template(document: Document) -> dict[str, Any]:
    document.setdefault("metadata", {})
    spec: dict[str, Any] = document.setdefault("spec", {})
    default_pod_template(spec.setdefault("template", {}))
    document.setdefault("status", {})
    return spec


def default_deployment(document: Document) -> None:
    """apps/v1 Deployment."""
    spec = _spec_with_template(document)
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    fill(strategy, "type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", REVISION_HISTORY)
    spec.setdefault("progressDeadlineSeconds", PROGRESS_DEADLINE_S)


def default_replica_set(document: Document) -> None:
    """apps/v1 ReplicaSet."""
    _spec_with_template(document).setdefault("replicas", 1)
    document["status"].setdefault("replicas", 0)


def default_replication_controller(document: Document) -> None:
    """core/v1 ReplicationController: selector and labels come from the template."""
    spec = _spec_with_template(document)
    spec.setdefault("replicas", 1)
    labels = spec["template"]["metadata"].get("labels")
    if labels:
        if not spec.get("selector"):
            spec["selector"] = dict(labels)
        if not document["metadata"].get("labels"):
            document["metadata"]["labels"] = dict(labels)
    document["status"].setdefault("replicas", 0)


def default_daemon_set(document: Document) -> None:
    """apps/v1 DaemonSet."""
    spec = _spec_with_template(document)
    strategy = spec.setdefault("updateStrategy", {})
    fill(strategy, "type", "RollingUpdate")
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)
    spec.setdefault("revisionHistoryLimit", REVISION_HISTORY)


def default_stateful_set(document: Document) -> None:
    """apps/v1 StatefulSet."""
    spec = _spec_with_template(document)
    fill(spec, "podManagementPolicy", "OrderedReady")
    strategy = spec.setdefault("updateStrategy", {})
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
        strategy.setdefault("rollingUpdate", {})
    rolling = strategy.get("rollingUpdate")
    if strategy["type"] == "RollingUpdate" and rolling is not None:  # not if only the type is given
        rolling.setdefault("partition", 0)
        rolling.setdefault("maxUnavailable", 1)
    retention = spec.setdefault("persistentVolumeClaimRetentionPolicy", {})
    fill(retention, "whenDeleted", "Retain")
    fill(retention, "whenScaled", "Retain")
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", REVISION_HISTORY)
    for claim in spec.get("volumeClaimTemplates", ()):
        fill(claim, "apiVersion", "v1")
        fill(claim, "kind", "PersistentVolumeClaim")
        default_persistent_volume_claim(claim)


def default_job(document: Document) -> None:
    """batch/v1 Job. Without its own labels a Job takes those of its template.

    The two are one object then, so that what the registry adds to the one is in the other too.
    """
    spec = _spec_with_template(document)
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    per_index = "backoffLimitPerIndex" in spec
    spec.setdefault("backoffLimit", BACKOFF_UNLIMITED if per_index else BACKOFF_LIMIT)
    labels = spec["template"]["metadata"].get("labels")
    if labels and not document["metadata"].get("labels"):
        document["metadata"]["labels"] = labels
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    spec.setdefault("manualSelector", False)
    spec.setdefault(
        "podReplacementPolicy",
        "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed",
    )
    _default_failure_policy(spec)


def _default_failure_policy(spec: dict[str, Any]) -> None:
    for rule in spec.get("podFailurePolicy", {}).get("rules", ()):
        for pattern in rule.get("onPodConditions", ()):
            fill(pattern, "status", "True")


def default_cron_job(document: Document) -> None:
    """batch/v1 CronJob; its Jobs get their own defaults when they are created."""
    document.setdefault("metadata", {})
    spec = document.setdefault("spec", {})
    fill(spec, "concurrencyPolicy", "Allow")
    spec.setdefault("suspend", False)
    spec.setdefault("successfulJobsHistoryLimit", 3)
    spec.setdefault("failedJobsHistoryLimit", 1)
    template = spec.setdefault("jobTemplate", {})
    template.setdefault("metadata", {})
    job_spec = template.setdefault("spec", {})
    default_pod_template(job_spec.setdefault("template", {}))
    _default_failure_policy(job_spec)
    document.setdefault("status", {})
