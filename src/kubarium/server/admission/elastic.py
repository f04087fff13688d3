"""Gangs that lose ranks and go on (``kubarium.dev/spares`` and its like): what cannot be is refused
where it is written, on a Job or a JobSet."""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.base.errors import FieldError, invalid
from kubarium.server.admission.chain import Attempt
from kubarium.view.elastic import problem_of


def check_elastic(attempt: Attempt) -> None:
    """ApiError 422 that names the annotation or field, its value and the way out."""
    document = attempt.document
    old = None if attempt.old is None else attempt.old.get("spec")
    if document.get("spec") == old:
        return  # a finalizer must be able to go whatever was let in before
    if attempt.kind.resource.plural == "jobs":
        errors = _of_job(document.get("spec") or {}, "spec", 1)
    else:
        errors = [
            error
            for number, entry in enumerate((document.get("spec") or {}).get("replicatedJobs") or ())
            for error in _of_job(
                entry.get("template", {}).get("spec") or {},
                f"spec.replicatedJobs[{number}].template.spec",
                int(entry.get("replicas", 1)),
            )
        ]
    if errors:
        resource = attempt.kind.resource
        raise invalid(resource.kind, resource.group, attempt.name, errors)


def _of_job(spec: Document, path: str, replicas: int) -> list[FieldError]:
    found = problem_of(spec, replicas)
    if found is None:
        return []
    place, value, why = found
    at = path.removesuffix(".template.spec") if place == "replicas" else path
    return [FieldError("Invalid", f"{at}.{place}", value, why)]
