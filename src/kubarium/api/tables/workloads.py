"""apps/v1, batch/v1, autoscaling, and native gangs."""

from __future__ import annotations

from typing import Any

from kubarium.api.resource import Document
from kubarium.api.tables.columns import (
    NONE,
    UNSET,
    Printer,
    age,
    condition,
    container_images,
    container_names,
    is_true,
    joined_labels,
    printer,
    selector_text,
    spec_of,
    status_of,
)
from kubarium.api.tables.durations import human, seconds_of, since

_TEMPLATE = "+Containers|+Images|+Selector"


def _template_cells(document: Document) -> list[Any]:
    spec = spec_of(document)
    template = spec.get("template")
    selector = selector_text(spec.get("selector"))
    return [container_names(template), container_images(template), selector]


def _deployment(d: Document, now: float) -> list[Any]:
    status = status_of(d)
    return [
        f"{status.get('readyReplicas', 0)}/{spec_of(d).get('replicas', 1)}",
        status.get("updatedReplicas", 0),
        status.get("availableReplicas", 0),
        age(d, now),
        *_template_cells(d),
    ]


def _replica_set(d: Document, now: float) -> list[Any]:
    status = status_of(d)
    return [
        spec_of(d).get("replicas", 1),
        status.get("replicas", 0),
        status.get("readyReplicas", 0),
        age(d, now),
        *_template_cells(d),
    ]


def _replication_controller(d: Document, now: float) -> list[Any]:
    cells = _replica_set(d, now)
    cells[-1] = joined_labels(spec_of(d).get("selector"))
    return cells


def _stateful_set(d: Document, now: float) -> list[Any]:
    ready = f"{status_of(d).get('readyReplicas', 0)}/{spec_of(d).get('replicas', 1)}"
    return [ready, age(d, now), *_template_cells(d)[:2]]


def _daemon_set(d: Document, now: float) -> list[Any]:
    status = status_of(d)
    template = spec_of(d).get("template") or {}
    return [
        status.get("desiredNumberScheduled", 0),
        status.get("currentNumberScheduled", 0),
        status.get("numberReady", 0),
        status.get("updatedNumberScheduled", 0),
        status.get("numberAvailable", 0),
        joined_labels((template.get("spec") or {}).get("nodeSelector")),
        age(d, now),
        *_template_cells(d),
    ]


def job_status(job: Document) -> str:
    """The STATUS column of a Job."""
    for type_ in ("Complete", "Failed"):
        if is_true(job, type_):
            return type_
    if job["metadata"].get("deletionTimestamp"):
        return "Terminating"
    for type_ in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if is_true(job, type_):
            return type_
    return "Running"


def _job_duration(job: Document, now: float) -> str:
    start = seconds_of(status_of(job).get("startTime"))
    if start is None:
        return ""
    end = seconds_of(status_of(job).get("completionTime"))
    if end is None:
        failed = condition(job, "Failed") if is_true(job, "Failed") else None
        end = seconds_of((failed or {}).get("lastTransitionTime"))
    return human((now if end is None else end) - start)


def _completions(job: Document) -> str:
    spec, done = spec_of(job), status_of(job).get("succeeded", 0)
    if spec.get("completions") is not None:
        return f"{done}/{spec['completions']}"
    parallelism = spec.get("parallelism", 0)
    return f"{done}/1 of {parallelism}" if parallelism > 1 else f"{done}/1"


def _job(d: Document, now: float) -> list[Any]:
    return [
        job_status(d),
        _completions(d),
        _job_duration(d, now),
        age(d, now),
        *_template_cells(d),
    ]


def _cron_job(d: Document, now: float) -> list[Any]:
    spec, status = spec_of(d), status_of(d)
    job = (spec.get("jobTemplate") or {}).get("spec") or {}
    last = status.get("lastScheduleTime")
    return [
        spec.get("schedule", ""),
        spec.get("timeZone") or NONE,
        _yes_no(spec.get("suspend")),
        len(status.get("active") or ()),
        since(last, now) if last else NONE,
        age(d, now),
        container_names(job.get("template")),
        container_images(job.get("template")),
        selector_text(job.get("selector")),
    ]


def _yes_no(value: Any) -> str:
    return UNSET if value is None else "True" if value else "False"


# --- autoscaler ----------------------------------------------------------------------------------


def _autoscaler(d: Document, now: float) -> list[Any]:
    spec = spec_of(d)
    target = spec.get("scaleTargetRef") or {}
    minimum = spec.get("minReplicas")
    return [
        f"{target.get('kind', '')}/{target.get('name', '')}",
        _targets(spec.get("metrics") or [], status_of(d).get("currentMetrics") or []),
        UNSET if minimum is None else str(minimum),
        spec.get("maxReplicas", 0),
        status_of(d).get("currentReplicas", 0),
        age(d, now),
    ]


_SOURCES = {
    "Resource": "resource",
    "ContainerResource": "containerResource",
    "Pods": "pods",
    "Object": "object",
    "External": "external",
}


def _targets(metrics: list[Document], current: list[Document]) -> str:
    shown = []
    for index, metric in enumerate(metrics):
        key = _SOURCES.get(metric.get("type", ""), "")
        source = metric.get(key) or {}
        now_at = (current[index].get(key) or {}).get("current") if index < len(current) else None
        label = f"{source.get('name')}: " if key in ("resource", "containerResource") else ""
        shown.append(label + _target(source.get("target") or {}, now_at or {}))
    if not shown:
        return NONE
    more = len(shown) - 2
    text = ", ".join(shown[:2])
    return f"{text} + {more} more..." if more > 0 else text


def _target(target: Document, now_at: Document) -> str:
    if target.get("averageUtilization") is not None:
        at = now_at.get("averageUtilization")
        return f"{'<unknown>' if at is None else f'{at}%'}/{target['averageUtilization']}%"
    average = target.get("averageValue")
    key = "averageValue" if average is not None else "value"
    suffix = " (avg)" if average is not None else ""
    return f"{now_at.get(key, '<unknown>')}/{target.get(key, '')}{suffix}"


# --- gangs ---------------------------------------------------------------------------------------


def _gang(spec: Document) -> tuple[str, str]:
    policy = spec.get("schedulingPolicy") or {}
    if "gang" in policy:
        gang = policy["gang"]
        return "Gang", str(gang.get("minCount", gang.get("minGroupCount", "")))
    return "Basic", NONE


def _pod_group(d: Document, now: float) -> list[Any]:
    found = condition(d, "PodGroupInitiallyScheduled") or {}
    reference = spec_of(d).get("workloadRef") or {}
    return [
        *_gang(spec_of(d)),
        found.get("status") or NONE,
        age(d, now),
        reference.get("workloadName") or NONE,
    ]


def _composite(d: Document, now: float) -> list[Any]:
    found = condition(d, "CompositePodGroupInitiallyScheduled") or {}
    spec = spec_of(d)
    return [
        *_gang(spec),
        found.get("status") or NONE,
        age(d, now),
        (spec.get("workloadRef") or {}).get("workloadName") or NONE,
        spec.get("parentCompositePodGroupName") or NONE,
    ]


def _gang_workload(d: Document, now: float) -> list[Any]:
    spec = spec_of(d)
    owner = spec.get("controllerRef") or {}
    templates = spec.get("podGroupTemplates") or spec.get("compositePodGroupTemplates") or ()
    controller = f"{owner.get('kind')}/{owner.get('name')}" if owner else NONE
    return [controller, len(templates), age(d, now)]


def _controller_revision(d: Document, now: float) -> list[Any]:
    owners = d["metadata"].get("ownerReferences") or ()
    owner = next((o for o in owners if o.get("controller")), None)
    name = NONE
    if owner:
        group = owner.get("apiVersion", "").rpartition("/")[0]
        kind = owner.get("kind", "").lower()
        name = f"{kind}.{group}/{owner.get('name')}" if group else f"{kind}/{owner.get('name')}"
    return [name, d.get("revision", 0), age(d, now)]


PRINTERS: dict[tuple[str, str], Printer] = {
    ("apps", "Deployment"): printer(
        f"Ready|Up-to-date:integer|Available:integer|Age|{_TEMPLATE}", _deployment
    ),
    ("apps", "ReplicaSet"): printer(
        f"Desired:integer|Current:integer|Ready:integer|Age|{_TEMPLATE}", _replica_set
    ),
    ("", "ReplicationController"): printer(
        f"Desired:integer|Current:integer|Ready:integer|Age|{_TEMPLATE}", _replication_controller
    ),
    ("apps", "StatefulSet"): printer("Ready|Age|+Containers|+Images", _stateful_set),
    ("apps", "DaemonSet"): printer(
        "Desired:integer|Current:integer|Ready:integer|Up-to-date:integer|Available:integer|"
        f"Node Selector|Age|{_TEMPLATE}",
        _daemon_set,
    ),
    ("apps", "ControllerRevision"): printer(
        "Controller|Revision:integer|Age", _controller_revision
    ),
    ("batch", "Job"): printer(f"Status|Completions|Duration|Age|{_TEMPLATE}", _job),
    ("batch", "CronJob"): printer(
        f"Schedule|Timezone|Suspend|Active:integer|Last Schedule|Age|{_TEMPLATE}", _cron_job
    ),
    ("autoscaling", "HorizontalPodAutoscaler"): printer(
        "Reference|Targets|MinPods|MaxPods|Replicas:integer|Age", _autoscaler
    ),
    ("scheduling.k8s.io", "PodGroup"): printer(
        "Policy|MinCount|Scheduled|Age|+Workload", _pod_group
    ),
    ("scheduling.k8s.io", "CompositePodGroup"): printer(
        "Policy|MinGroupCount|Scheduled|Age|+Workload|+Parent", _composite
    ),
    ("scheduling.k8s.io", "Workload"): printer("Controller|Templates:integer|Age", _gang_workload),
}
