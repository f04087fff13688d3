"""The status of a Deployment: counts, and whether it is available and progressing. Pure."""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339, rfc3339
from kubarium.control.workloads.deployment.rollout import (
    available_of,
    limits_of,
    replicas_of,
    wanted_by,
)
from kubarium.runtime import writes

# What upstream takes for "no deadline".
NO_DEADLINE = 2**31 - 1
_PROGRESSED = "NewReplicaSetAvailable"
_TIMED_OUT = "ProgressDeadlineExceeded"


def count(deployment: Document, new: Document | None, everything: list[Document]) -> Document:
    """The counts, with the conditions as they were."""
    held = deployment.get("status") or {}
    status: Document = {"observedGeneration": deployment["metadata"].get("generation", 0)}
    total = _sum(everything, "replicas")
    available = _sum(everything, "availableReplicas")
    counts = {
        "replicas": total,
        "updatedReplicas": _sum([new] if new is not None else [], "replicas"),
        "readyReplicas": _sum(everything, "readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(0, sum(map(replicas_of, everything)) - available),
    }
    status.update({name: number for name, number in counts.items() if number})
    if all("terminatingReplicas" in (item.get("status") or {}) for item in everything):
        status["terminatingReplicas"] = _sum(everything, "terminatingReplicas")
    for name in ("collisionCount", "conditions"):
        if held.get(name):
            status[name] = held[name]
    return status


def _sum(replica_sets: list[Document], field: str) -> int:
    return sum(int((item.get("status") or {}).get(field, 0)) for item in replica_sets)


def is_complete(deployment: Document, status: Document) -> bool:
    """All wanted pods are of the new template and available, and no others are left."""
    wanted = wanted_by(deployment)
    if status["observedGeneration"] < deployment["metadata"].get("generation", 0):
        return False
    counts = ("updatedReplicas", "replicas", "availableReplicas")
    return all(status.get(name, 0) == wanted for name in counts)


def has_progressed(held: Document, status: Document) -> bool:
    """More updated, ready or available pods than before, or fewer old ones."""

    def old_pods(item: Document) -> int:
        return int(item.get("replicas", 0)) - int(item.get("updatedReplicas", 0))

    return old_pods(status) < old_pods(held) or any(
        status.get(name, 0) > held.get(name, 0)
        for name in ("updatedReplicas", "readyReplicas", "availableReplicas")
    )


def set_progress(
    status: Document, is_true: str, reason: str, message: str, now: float, touch: bool = False
) -> None:
    """Condition Progressing. ``touch`` moves lastUpdateTime also when nothing else changes."""
    _set(status, "Progressing", is_true, reason, message, now, touch)


def _set(
    status: Document,
    type_: str,
    is_true: str,
    reason: str,
    message: str,
    now: float,
    touch: bool = False,
) -> None:
    conditions = list(status.get("conditions") or ())
    held = writes.find_condition({"conditions": conditions}, type_)
    if held is not None and (held["status"], held.get("reason")) == (is_true, reason) and not touch:
        return
    status["conditions"] = writes.set_condition(
        conditions, type_, is_true, reason, message, now, lastUpdateTime=rfc3339(now)
    )


def set_available(deployment: Document, status: Document, now: float) -> None:
    """Condition Available."""
    least = wanted_by(deployment) - limits_of(deployment).unavailable
    if status.get("availableReplicas", 0) >= least:
        message = "Deployment has minimum availability."
        _set(status, "Available", "True", "MinimumReplicasAvailable", message, now)
    else:
        message = "Deployment does not have minimum availability."
        _set(status, "Available", "False", "MinimumReplicasUnavailable", message, now)


def set_replica_failure(
    status: Document, new: Document | None, everything: list[Document], now: float
) -> None:
    """Condition ReplicaFailure follows that of the new ReplicaSet, else that of any."""
    for item in [*([new] if new is not None else ()), *everything]:
        failure = writes.find_condition(item.get("status") or {}, "ReplicaFailure")
        if failure is not None and failure["status"] == "True":
            _set(
                status,
                "ReplicaFailure",
                "True",
                failure.get("reason", ""),
                failure.get("message", ""),
                now,
            )
            return
    _drop(status, "ReplicaFailure")


def _drop(status: Document, type_: str) -> None:
    conditions = [c for c in status.get("conditions") or () if c.get("type") != type_]
    if conditions:
        status["conditions"] = conditions
    else:
        status.pop("conditions", None)


def has_deadline(deployment: Document) -> bool:
    """Whether progressDeadlineSeconds means anything."""
    return int(deployment["spec"].get("progressDeadlineSeconds", NO_DEADLINE)) != NO_DEADLINE


def set_rollout_progress(
    deployment: Document, status: Document, new: Document | None, now: float
) -> None:
    """Condition Progressing while a rollout goes on, when it is done, and when it is stuck."""
    if not has_deadline(deployment):
        _drop(status, "Progressing")
        return
    held = deployment.get("status") or {}
    condition = writes.find_condition(status, "Progressing")
    subject = f'ReplicaSet "{new["metadata"]["name"]}"' if new is not None else "Deployment"
    if new is None:
        subject = f'Deployment "{deployment["metadata"]["name"]}"'
    same_size = status.get("replicas", 0) == status.get("updatedReplicas", 0)
    was_complete = condition is not None and condition.get("reason") == _PROGRESSED
    if same_size and was_complete:
        return
    if is_complete(deployment, status):
        set_progress(status, "True", _PROGRESSED, f"{subject} has successfully progressed.", now)
    elif has_progressed(held, status):
        set_progress(status, "True", "ReplicaSetUpdated", f"{subject} is progressing.", now, True)
    elif remaining_s(deployment, status, now) == 0:
        set_progress(status, "False", _TIMED_OUT, f"{subject} has timed out progressing.", now)


def remaining_s(deployment: Document, status: Document, now: float) -> float | None:
    """Seconds until the rollout counts as stuck; 0 when it does; None when no clock runs."""
    condition = writes.find_condition(status, "Progressing")
    if not has_deadline(deployment) or condition is None or deployment["spec"].get("paused"):
        return None
    if condition.get("reason") in (_PROGRESSED, "DeploymentPaused"):
        return None
    if condition.get("reason") == _TIMED_OUT:
        return 0.0
    limit = float(deployment["spec"]["progressDeadlineSeconds"])
    since = parse_rfc3339(condition.get("lastUpdateTime") or condition["lastTransitionTime"])
    return max(0.0, since + limit - now)


def is_saturated(deployment: Document, new: Document | None) -> bool:
    """The new ReplicaSet has all wanted pods, and they are available."""
    if new is None:
        return False
    wanted = wanted_by(deployment)
    annotations = new["metadata"].get("annotations") or {}
    noted = annotations.get("deployment.kubernetes.io/desired-replicas", "")
    return (
        replicas_of(new) == wanted
        and noted.isdecimal()
        and int(noted) == wanted
        and available_of(new) == wanted
    )
