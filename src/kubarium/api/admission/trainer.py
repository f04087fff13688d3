"""Defaults and checks of TrainJobs and their runtimes that the CRDs' schemas cannot express.

Source: Trainer ``pkg/webhooks`` and the ``Validate`` of its plug-ins. Call :func:`default` before
the schema's validation and the others after it, so that types can be relied on.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api import formats
from kubarium.api.resource import Document
from kubarium.api.trainer import names
from kubarium.api.trainer.names import CONTAINER_OF, INITIALIZERS, LAUNCHER, NODE
from kubarium.api.trainer.template import Plan, container_of, merged
from kubarium.api.trainer.torchtune import complaints, is_torchtune
from kubarium.base.errors import ApiError, FieldError

RUNTIME_KINDS = ("ClusterTrainingRuntime", "TrainingRuntime")
_REF = "spec.runtimeRef"
_PATCHES = "spec.runtimePatches"
# The fields that a runtime has a say in.
_CHECKED = ("runtimeRef", "trainer", "initializer", "runtimePatches")
_CONTAINERS = ("initContainers", "containers")
_OWN_CONTAINERS = (names.DATASET_INITIALIZER, names.MODEL_INITIALIZER, NODE)


def default(new: Document, old: Document | None, now: str) -> None:
    """Say when each manager last changed its patch, in place; ``now`` is a ``metav1.Time``."""
    spec = new.get("spec")
    if not isinstance(spec, dict) or not isinstance(spec.get("runtimePatches"), list):
        return  # nothing to do, or left to the schema to complain about
    before = {
        patch.get("manager"): patch
        for patch in ((old or {}).get("spec") or {}).get("runtimePatches") or ()
    }
    spec["runtimePatches"] = [
        _timed(patch, before.get(patch.get("manager")), now) if isinstance(patch, dict) else patch
        for patch in spec["runtimePatches"]
    ]


def _timed(patch: Document, before: Document | None, now: str) -> Document:
    if before is None:
        return patch if patch.get("time") else {**patch, "time": now}
    same = _without_time(patch) == _without_time(before)
    return {**patch, "time": before.get("time", now) if same else now}


def _without_time(patch: Document) -> Document:
    return {key: value for key, value in patch.items() if key != "time"}


# runtimes


def validate_runtime(new: Document) -> list[FieldError]:
    """Complaints about a TrainingRuntime or ClusterTrainingRuntime."""
    template = (new.get("spec") or {}).get("template") or {}
    root = "spec.template.spec.replicatedJobs"
    errors: list[FieldError] = []
    for position, job in enumerate((template.get("spec") or {}).get("replicatedJobs") or ()):
        metadata = (job.get("template") or {}).get("metadata") or {}
        ancestor = (metadata.get("labels") or {}).get(names.ANCESTOR)
        if ancestor not in CONTAINER_OF:
            continue
        if int(job.get("replicas", 1)) != 1:
            path = f"{root}[{position}].replicas"
            errors.append(FieldError("Invalid", path, job["replicas"], "always must be 1"))
        containers = _pod_spec(job).get("containers") or []
        if CONTAINER_OF[ancestor] not in [entry.get("name") for entry in containers]:
            path = f"{root}[{position}].template.spec.template.spec.containers"
            detail = f"must contain the required container for the ancestor: {ancestor}"
            errors.append(FieldError("Invalid", path, containers, detail))
    return errors


def deprecation_of(runtime: Document, referenced: bool) -> str:
    """The warning about a runtime that is labelled deprecated, or ""."""
    labels = runtime["metadata"].get("labels") or {}
    if labels.get(names.SUPPORT) != names.DEPRECATED:
        return ""
    name = runtime["metadata"].get("name", "")
    what = "Referenced ClusterTrainingRuntime" if referenced else "ClusterTrainingRuntime"
    return (
        f'{what} "{name}" is deprecated and will be removed in a future release of Kubeflow '
        f"Trainer. See runtime deprecation policy: {names.DEPRECATION_POLICY}"
    )


# TrainJobs


def runtime_reference(trainjob: Document) -> tuple[str, str]:
    """(kind, name) of the runtime; kind "" if it is of a group that has none."""
    reference = trainjob["spec"]["runtimeRef"]
    kind = reference.get("kind", RUNTIME_KINDS[0])
    known = reference.get("apiGroup", names.GROUP) == names.GROUP and kind in RUNTIME_KINDS
    return kind if known else "", reference["name"]


def validate(
    new: Document, old: Document | None, runtime: Document | None, jobset: Document | None
) -> list[FieldError]:
    """Complaints about a new TrainJob, or about the change from ``old`` to ``new``.

    ``runtime`` is what it refers to and ``jobset`` what it has made, where they are there.
    """
    if old is not None and all(old["spec"].get(key) == new["spec"].get(key) for key in _CHECKED):
        return []  # only suspended or resumed: that must not need the runtime of long ago
    reference = new["spec"]["runtimeRef"]
    kind, name = runtime_reference(new)
    if not kind:
        given = f"{reference.get('kind')}.{reference.get('apiGroup')}"
        detail = f"unsupported runtime: {given}; use kind {' or '.join(RUNTIME_KINDS)}"
        return [FieldError("Invalid", _REF, reference, detail)]
    if runtime is None:
        plural, said = kind.lower() + "s", kind[0].lower() + kind[1:]
        detail = (
            f'{plural}.{names.GROUP} "{name}" not found: specified {said} must be created before '
            "the TrainJob is created"
        )
        return [FieldError("Invalid", _REF, reference, detail)]
    try:
        plan = merged(new, runtime.get("spec") or {})
    except ApiError as error:
        return [FieldError("Invalid", _PATCHES, None, error.message)]
    return [
        *_check_initializers(plan),
        *_check_patch_change(new, old, jobset),
        *_check_patches(new, runtime.get("spec") or {}),
        *_check_policy(plan),
    ]


def _check_initializers(plan: Plan) -> list[FieldError]:
    given = plan.trainjob["spec"].get("initializer") or {}
    errors = []
    for step, field_name in INITIALIZERS.items():
        problem = _initializer_problem(plan, step, field_name) if given.get(field_name) else ""
        if problem:
            reference = plan.trainjob["spec"]["runtimeRef"]
            errors.append(FieldError("Invalid", _REF, reference, problem))
    return errors


def _initializer_problem(plan: Plan, step: str, field_name: str) -> str:
    job = plan.job(step)
    if job is None:
        return f"must have {step} job when trainJob is configured with input {field_name}Config"
    container = container_of(job, step)
    if container is None:
        if container_of(job, step, init=True) is None:
            return f"must have container with name - {step} in the {step} job"
        container = {}
    mounts = [mount.get("name") for mount in container.get("volumeMounts") or ()]
    if names.INITIALIZER_VOLUME not in mounts:
        return (
            f"must have volumeMount with name - {names.INITIALIZER_VOLUME} in container {step} of "
            f"the {step} job"
        )
    return ""


def _check_patch_change(
    new: Document, old: Document | None, jobset: Document | None
) -> list[FieldError]:
    """Patches change only around a suspension, when no pod runs that they would be about."""
    if old is None:
        return []
    before, after = (doc["spec"].get("runtimePatches") or [] for doc in (old, new))
    if before == after:
        return []
    if not any(doc["spec"].get("suspend") for doc in (old, new)):
        detail = (
            "RuntimePatches can only be modified when the TrainJob is suspended before or after "
            "the update"
        )
        return [FieldError("Forbidden", _PATCHES, detail=detail)]
    statuses = ((jobset or {}).get("status") or {}).get("replicatedJobsStatus") or ()
    return [
        FieldError(
            "Forbidden",
            _PATCHES,
            detail=f"RuntimePatches cannot be modified when the JobSet's ReplicatedJob "
            f"{status['name']} is still active",
        )
        for status in statuses
        if int(status.get("active") or 0) > 0
    ]


def _check_patches(trainjob: Document, runtime_spec: Document) -> list[FieldError]:
    patches = trainjob["spec"].get("runtimePatches") or []
    template = (runtime_spec.get("template") or {}).get("spec") or {}
    jobs = {job["name"]: job for job in template.get("replicatedJobs") or ()}
    errors: list[FieldError] = []
    for patch in patches:
        manager = patch.get("manager", "")
        errors += [
            FieldError("Invalid", f"{_PATCHES}.manager", manager, text)
            for text in formats.domain_prefixed(manager)
        ]
        change = (patch.get("trainingRuntimeSpec") or {}).get("template") or {}
        for job in (change.get("spec") or {}).get("replicatedJobs") or ():
            problems = _patch_problems(jobs.get(job.get("name", "")), job)
            errors += [FieldError("Invalid", _PATCHES, patches, text) for text in problems]
    return errors


def _patch_problems(job: Document | None, patch: Document) -> Iterable[str]:
    """What a patch names that is not there, and variables that belong to the TrainJob itself."""
    if job is None:
        yield "must not have replicated job that doesn't exist in the runtime job template"
        return
    known = {entry["name"] for key in _CONTAINERS for entry in _pod_spec(job).get(key) or ()}
    for key in _CONTAINERS:
        what = key.removesuffix("s")
        for container in _pod_spec(patch).get(key) or ():
            if container["name"] not in known:
                yield f"must not have {what} that doesn't exist in the runtime job {job['name']}"
            elif key == "containers" and container.get("env") and _is_own(container):
                yield f"must not have envs for the {', '.join(_OWN_CONTAINERS)} containers"


def _is_own(container: Document) -> bool:
    """Whether the TrainJob itself has a field for the container's variables."""
    return container["name"] in _OWN_CONTAINERS


def _pod_spec(job: Document) -> Document:
    """The pod's spec in a replicated job, or {}."""
    found: Document = job
    for step in ("template", "spec", "template", "spec"):
        found = found.get(step) or {}
    return found


# policies


def _check_policy(plan: Plan) -> list[FieldError]:
    policy = plan.ml_policy
    if policy.get("torch") is not None:
        return _check_torch(plan)
    if policy.get("mpi") is not None:
        return _check_mpi(plan)
    if policy.get("xgboost") is not None:
        return [
            FieldError(
                "Forbidden",
                f"spec.trainer.env[{position}]",
                detail=f"{entry['name']} is reserved for the XGBoost runtime",
            )
            for position, entry in enumerate((plan.trainer or {}).get("env") or ())
            if entry["name"] in names.XGBOOST_RESERVED
        ]
    if policy.get("flux") is not None:
        detail = (
            "the runtime's flux policy needs the Flux operator's images, which no machine here "
            "can stand in for; use torch, mpi, jax or xgboost"
        )
        return [FieldError("Invalid", _REF, plan.trainjob["spec"]["runtimeRef"], detail)]
    return []


def _reserved(plan: Plan, reserved: frozenset[str]) -> list[FieldError]:
    env = (plan.trainer or {}).get("env") or []
    used = sorted({entry["name"] for entry in env} & reserved)
    if not used:
        return []
    detail = f"must not have reserved envs, invalid envs configured: [{' '.join(used)}]"
    return [FieldError("Invalid", "spec.trainer.env", env, detail)]


def _check_torch(plan: Plan) -> list[FieldError]:
    errors: list[FieldError] = []
    injection = plan.ml_policy["torch"].get("envInjection") or {}
    for target in injection.get("targets") or ():
        job = plan.job(target["jobName"])
        for name in target["containerNames"]:
            if job is None or container_of(job, name, init=True) is None:
                detail = (
                    f'envInjection target podSet "{target["jobName"]}" container "{name}" not '
                    "found in runtime template"
                )
                errors.append(FieldError("Invalid", _REF, target, detail))
    errors += _reserved(plan, names.TORCH_RESERVED)
    if is_torchtune(plan.trainer or {}):
        errors += complaints(plan)
    return errors


def _check_mpi(plan: Plan) -> list[FieldError]:
    errors: list[FieldError] = []
    nodes = int((plan.trainer or {}).get("numNodes", 1))
    as_node = (plan.ml_policy["mpi"] or {}).get("runLauncherAsNode")
    if nodes >= 2 and as_node and not (plan.job(LAUNCHER) and plan.job(NODE)):
        detail = (
            "must have 1 when MPI trainingRuntime with enabled runLauncherAsNode does not have "
            "either launcher and node"
        )
        errors.append(FieldError("Invalid", "spec.trainer.numNodes", nodes, detail))
    return errors + _reserved(plan, names.MPI_RESERVED)
