"""Pods that begin from a checkpoint (``kubarium.dev/restore-from``): it must be there and ready.

Upstream's PodRestoreAuthorization has this place (KEP-5823); what a pod needs to know is given to
its containers here, so that no node has to look it up.
"""

from __future__ import annotations

import json

from kubarium.api.kinds import GANG_CHECKPOINTS, POD_CHECKPOINTS
from kubarium.api.resource import Document
from kubarium.base.errors import FieldError, invalid
from kubarium.server.admission.chain import Attempt
from kubarium.view.checkpoints import (
    RESTORE_FROM,
    RESTORE_VARIABLE,
    RestoreSource,
    ident_of,
    place_of,
    ready_condition,
)

_RESOURCES = {"gangcheckpoint": GANG_CHECKPOINTS, "podcheckpoint": POD_CHECKPOINTS}
_JOBSET_UID = "jobset.sigs.k8s.io/jobset-uid"
_PATH = f"metadata.annotations[{RESTORE_FROM}]"


def restore_pod(attempt: Attempt) -> None:
    """Give the pod's containers the checkpoint; ApiError 422 if there is none to give."""
    annotations = attempt.document["metadata"].get("annotations") or {}
    text = annotations.get(RESTORE_FROM, "")
    try:
        source = RestoreSource.of(annotations)
    except ValueError as error:
        raise _refused(attempt, text, str(error)) from None
    if source is None:
        return
    resource = _RESOURCES[source.kind]
    key = f"/{resource.group}/{resource.plural}/{attempt.namespace}/{source.name}"
    record = attempt.registry.store.get(key)
    if record is None:
        raise _refused(attempt, text, f"there is no {resource.kind} of this name")
    checkpoint: Document = record.value
    place = place_of(checkpoint)
    if place is None:
        condition = ready_condition(checkpoint)
        why = condition.get("message") or "nobody has looked at it yet"
        raise _refused(attempt, text, f"is not ready to restore from: {why}")
    folder, step = place
    value = {"id": ident_of(checkpoint), "step": step, "folder": folder, "run": _run(attempt)}
    variable = {"name": RESTORE_VARIABLE, "value": json.dumps(value)}
    spec = attempt.document["spec"]
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        held = [v for v in container.get("env") or () if v.get("name") != RESTORE_VARIABLE]
        container["env"] = [*held, variable]


def _run(attempt: Attempt) -> str:
    """What all attempts of the run have in common: its JobSet, else its Job, else the pod."""
    metadata = attempt.document["metadata"]
    owners = metadata.get("ownerReferences") or ()
    owner = next((str(o["uid"]) for o in owners if o.get("controller")), attempt.name)
    return str((metadata.get("labels") or {}).get(_JOBSET_UID) or owner)


def _refused(attempt: Attempt, text: str, why: str) -> Exception:
    error = FieldError("Invalid", _PATH, text, why)
    return invalid("Pod", "", attempt.name, [error])
