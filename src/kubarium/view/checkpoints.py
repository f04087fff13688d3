"""PodCheckpoint (KEP-5823) and GangCheckpoint: what they say. Pure.

A PodCheckpoint asks one rank to save; all ranks of its gang save the same step with it, since
states of different steps do not fit together. A GangCheckpoint makes one for each rank and is ready
when all are, at one step. A pod template restores one by an annotation:

    kubarium.dev/restore-from: gangcheckpoint/before-the-change      (or podcheckpoint/NAME)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubarium.api.resource import Document, copy_document
from kubarium.base.clock import rfc3339

RESTORE_FROM = "kubarium.dev/restore-from"
KINDS = ("gangcheckpoint", "podcheckpoint")
# On the PodCheckpoints of a GangCheckpoint: its uid, which names the checkpoint to all ranks.
OF_GANG = "kubarium.dev/gang-checkpoint"

READY = "Ready"
PENDING, IN_PROGRESS = "Pending", "CheckpointInProgress"
COMPLETED, FAILED, REPLACED = "CheckpointCompleted", "CheckpointFailed", "SourcePodReplaced"
DEFAULT_TIMEOUT_S = 120
# In the pod's environment (kubarium.train.requests).
RESTORE_VARIABLE = "KUBARIUM_RESTORE"


def ready_condition(checkpoint: Document) -> Document:
    """Condition Ready; {} before anybody has looked."""
    for condition in (checkpoint.get("status") or {}).get("conditions") or ():
        if condition.get("type") == READY:
            return dict(condition)
    return {}


def is_ready(checkpoint: Document) -> bool:
    """Whether it can be restored."""
    return ready_condition(checkpoint).get("status") == "True"


def is_over(checkpoint: Document) -> bool:
    """Ready, or failed for good."""
    return ready_condition(checkpoint).get("reason") in (COMPLETED, FAILED, REPLACED)


def ident_of(checkpoint: Document) -> str:
    """What ranks know it by: its gang's uid, else its own."""
    metadata = checkpoint["metadata"]
    return str((metadata.get("annotations") or {}).get(OF_GANG) or metadata["uid"])


def timeout_s(checkpoint: Document) -> float:
    return float(checkpoint["spec"].get("timeoutSeconds") or DEFAULT_TIMEOUT_S)


def with_condition(
    checkpoint: Document, reason: str, message: str, now: float, **facts: Any
) -> Document:
    """Its status with another condition Ready, and facts."""
    before = ready_condition(checkpoint)
    status = "True" if reason == COMPLETED else "False"
    since = before.get("lastTransitionTime") if before.get("status") == status else None
    condition = {
        "type": READY,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": int(checkpoint["metadata"].get("generation") or 1),
        "lastTransitionTime": since or rfc3339(now),
    }
    found = {**(checkpoint.get("status") or {}), **facts, "conditions": [condition]}
    if reason == COMPLETED:
        found["completionTime"] = rfc3339(now)
    return found


def pod_template(pod: Document) -> Document:
    """What is kept of the source pod: labels, annotations and spec, but nothing of its node."""
    metadata = {
        name: copy_document(pod["metadata"][name])
        for name in ("labels", "annotations")
        if pod["metadata"].get(name)
    }
    spec = copy_document(pod["spec"])
    for name in ("nodeName", "serviceAccount"):
        spec.pop(name, None)
    return {"metadata": metadata, "spec": spec}


@dataclass(frozen=True, slots=True)
class RestoreSource:
    """What ``kubarium.dev/restore-from`` names."""

    kind: str
    name: str

    @staticmethod
    def of(annotations: dict[str, str]) -> RestoreSource | None:
        """None without the annotation; ValueError if it names nothing that can be restored."""
        text = annotations.get(RESTORE_FROM)
        if text is None:
            return None
        kind, _, name = text.partition("/")
        if kind.lower() not in KINDS or not name:
            raise ValueError(f"must be {KINDS[0]}/NAME or {KINDS[1]}/NAME")
        return RestoreSource(kind.lower(), name)


def place_of(checkpoint: Document) -> tuple[str, int] | None:
    """(folder as its pods see it, step) of a checkpoint that is ready."""
    status = checkpoint.get("status") or {}
    location = status.get("checkpointLocation") or {}
    path = status.get("path") or (location.get("volume") or {}).get("path")
    if not is_ready(checkpoint) or not path or "step" not in status:
        return None
    return str(path), int(status["step"])
