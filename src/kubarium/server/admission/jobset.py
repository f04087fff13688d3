"""JobSet: what its operator's webhooks add and refuse, here without a webhook."""

from __future__ import annotations

from kubarium.api.admission import jobset
from kubarium.api.resource import copy_document
from kubarium.base.errors import invalid
from kubarium.server.admission.chain import CREATE, Attempt


def default_job_set(attempt: Attempt) -> None:
    """Fill in defaults; on update only where the spec is not the stored one."""
    document, old = attempt.document, attempt.old
    if attempt.operation == CREATE:
        jobset.default(document)
    elif old is None or document.get("spec") is not old.get("spec"):
        document["spec"] = copy_document(document.get("spec") or {})
        jobset.default(document)


def check_job_set(attempt: Attempt) -> None:
    """ApiError 422 with every complaint."""
    errors = jobset.validate(attempt.document, attempt.old)
    if errors:
        resource = attempt.kind.resource
        raise invalid(resource.kind, resource.group, attempt.name, errors)
