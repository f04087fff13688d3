"""Kueue: what its webhooks add to queues and to jobs in them, and refuse; here in process."""

from __future__ import annotations

from kubarium.api.admission import kueue
from kubarium.base.errors import invalid
from kubarium.server.admission.chain import Attempt

GROUP = "kueue.x-k8s.io"
_LOCAL_QUEUES = f"/{GROUP}/localqueues"


def default_queueing(attempt: Attempt) -> None:
    """On create: a job with a queue starts suspended; queues and flavors get their finalizer."""
    kueue.default(attempt.document, default_queue=_has_default_queue(attempt))


def check_queueing(attempt: Attempt) -> None:
    """ApiError 422 with every complaint."""
    errors = kueue.validate(
        attempt.document, attempt.old, default_queue=_has_default_queue(attempt)
    )
    if errors:
        resource = attempt.kind.resource
        raise invalid(resource.kind, resource.group, attempt.name, errors)


def _has_default_queue(attempt: Attempt) -> bool:
    """Whether jobs of the namespace that name no queue belong to the LocalQueue "default"."""
    key = f"{_LOCAL_QUEUES}/{attempt.namespace}/{kueue.DEFAULT_QUEUE}"
    return bool(attempt.namespace) and attempt.registry.store.get(key) is not None
