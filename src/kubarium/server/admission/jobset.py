"""JobSet: what its operator's webhooks add and refuse, here without a webhook."""

from __future__ import annotations

from kubarium.api.admission import jobset, jobset_pods
from kubarium.api.resource import copy_document
from kubarium.base.errors import FieldError, invalid
from kubarium.server.admission.chain import CREATE, Attempt

_CLAIMS = "/core/persistentvolumeclaims/"


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
    if attempt.operation == CREATE:
        errors += _check_existing_claims(attempt)
    if errors:
        resource = attempt.kind.resource
        raise invalid(resource.kind, resource.group, attempt.name, errors)


def _check_existing_claims(attempt: Attempt) -> list[FieldError]:
    errors: list[FieldError] = []
    for policy_at, at, policy, template, name in jobset.claim_names(attempt.document):
        record = attempt.registry.store.get(f"{_CLAIMS}{attempt.namespace}/{name}")
        if record is not None:
            errors += jobset.check_existing_claim(policy_at, at, policy, template, record.value)
    return errors


def mark_job_set_pod(attempt: Attempt) -> None:
    """The label and the affinities that JobSet's pod webhook adds."""
    jobset_pods.mark(attempt.document)
