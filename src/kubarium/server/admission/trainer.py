"""Kubeflow Trainer: what its webhooks add and refuse, here without a webhook."""

from __future__ import annotations

from kubarium.api.admission import trainer
from kubarium.api.resource import Document
from kubarium.api.trainer.names import GROUP
from kubarium.base.errors import FieldError, invalid
from kubarium.server.admission.chain import CREATE, Attempt


def default_train_job(attempt: Attempt) -> None:
    """Note when each runtime patch was last changed."""
    document, old = attempt.document, attempt.old
    if old is not None and document.get("spec") is not old.get("spec"):
        document["spec"] = dict(document.get("spec") or {})
    trainer.default(document, old, attempt.registry.now())


def check_train_job(attempt: Attempt) -> None:
    """ApiError 422 with every complaint."""
    document, old = attempt.document, attempt.old
    if not document.get("spec"):
        detail = "a TrainJob says which runtime it trains with"
        _refuse(attempt, [FieldError("Required", "spec.runtimeRef", detail=detail)])
    if old is not None and document["spec"] is old.get("spec"):
        return  # only metadata: what runs may have outlived its runtime
    kind, name = trainer.runtime_reference(document)
    runtime = _find(attempt, f"{kind.lower()}s", name, kind == "TrainingRuntime") if kind else None
    jobset = attempt.registry.store.get(
        f"/jobset.x-k8s.io/jobsets/{attempt.namespace}/{attempt.name}"
    )
    if runtime is not None and kind == "ClusterTrainingRuntime":
        _warn(attempt, trainer.deprecation_of(runtime, referenced=True))
    _refuse(attempt, trainer.validate(document, old, runtime, jobset.value if jobset else None))


def check_runtime(attempt: Attempt) -> None:
    """ApiError 422 with every complaint. Upstream too looks at a TrainingRuntime only once."""
    is_new = attempt.operation == CREATE
    if attempt.kind.resource.kind == "TrainingRuntime" and not is_new:
        return
    if attempt.kind.resource.kind == "ClusterTrainingRuntime" and is_new:
        _warn(attempt, trainer.deprecation_of(attempt.document, referenced=False))
    _refuse(attempt, trainer.validate_runtime(attempt.document))


def _find(attempt: Attempt, plural: str, name: str, namespaced: bool) -> Document | None:
    scope = attempt.namespace if namespaced else "-"
    record = attempt.registry.store.get(f"/{GROUP}/{plural}/{scope}/{name}")
    return record.value if record else None


def _warn(attempt: Attempt, text: str) -> None:
    if text:
        attempt.call.warn(text)


def _refuse(attempt: Attempt, errors: list[FieldError]) -> None:
    if errors:
        resource = attempt.kind.resource
        raise invalid(resource.kind, resource.group, attempt.name, errors)
