"""Subresources with a type of their own: binding, eviction, scale.

Those that are the object itself with a part to write (status, resize, ...) are rows of the table
of strategies instead.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kubarium.api.catalog import Kind, ScalePaths
from kubarium.api.kinds import NODES, POD_DISRUPTION_BUDGETS
from kubarium.api.patch import json_patch, merge_patch
from kubarium.api.resource import Document
from kubarium.api.selectors import selects
from kubarium.base.errors import (
    ApiError,
    FieldError,
    bad_request,
    conflict,
    forbidden,
    invalid,
    method_not_allowed,
    too_many_requests,
)
from kubarium.server.deletes import Deletes
from kubarium.server.patching import (
    JSON_PATCH,
    MERGE_PATCH,
    PATCH_TYPES,
    Patch,
    unsupported_patch_type,
)
from kubarium.server.registry import Registry
from kubarium.server.requests import Call, DeleteOptions
from kubarium.server.writes import Writes
from kubarium.store.log import Record

SUCCESS: Document = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Success",
    "code": 201,
}
_TOPOLOGY_LABELS = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region")


class Binding:
    """pods/binding: the scheduler's only way to give a pod its node."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def create(
        self, kind: Kind, namespace: str, name: str, binding: Document, call: Call
    ) -> Document:
        """Assign the pod to ``binding.target``. ApiError 404, 409 (bound, gated, going), 422."""
        if (binding.get("metadata") or {}).get("name", name) != name:
            raise bad_request("name in URL does not match name in Binding object")
        registry = self._registry
        record = registry.fetch(kind, namespace, name)
        pod = record.value
        node = self._target(binding, name)
        self._check_free(kind, pod, node, binding)
        metadata = dict(pod["metadata"])
        _merge(metadata, "annotations", (binding.get("metadata") or {}).get("annotations"))
        _merge(metadata, "labels", self._topology(node))
        # A nomination is over once it is kept or missed (ClearingNominatedNodeNameAfterBinding).
        status = {k: v for k, v in (pod.get("status") or {}).items() if k != "nominatedNodeName"}
        # The node is not the pod's own wish: its generation stays (KEP-5067).
        conditions = self._scheduled(status.get("conditions") or [], metadata.get("generation", 1))
        new = pod | {
            "metadata": metadata,
            "spec": pod["spec"] | {"nodeName": node},
            "status": status | {"conditions": conditions},
        }
        registry.commit(kind, new, record, call.dry_run)
        return SUCCESS

    def _target(self, binding: Document, name: str) -> str:
        target = binding.get("target")
        if not isinstance(target, dict):
            raise bad_request("binding: target is required")
        errors = []
        if target.get("kind") not in ("Node", "", None):
            supported = 'supported values: "Node", "<empty>"'
            errors.append(FieldError("NotSupported", "target.kind", target["kind"], supported))
        node = target.get("name")
        if not isinstance(node, str) or not node:
            errors.append(FieldError("Required", "target.name"))
        if errors:
            raise invalid("Binding", "", name, errors)
        return str(node)

    def _check_free(self, kind: Kind, pod: Document, node: str, binding: Document) -> None:
        metadata = pod["metadata"]
        name = metadata["name"]
        wanted = binding.get("metadata") or {}
        uid, version = wanted.get("uid"), wanted.get("resourceVersion")
        if uid and uid != metadata["uid"]:
            why = (
                f"Precondition failed: UID in precondition: {uid}, "
                f"UID in object meta: {metadata['uid']}"
            )
            raise conflict("pods", "", name, why)
        if version and version != metadata["resourceVersion"]:
            raise self._registry.modified(kind, name)
        if "deletionTimestamp" in metadata:
            why = f"pod {name} is being deleted, cannot be assigned to a host"
            raise conflict("pods/binding", "", name, why)
        assigned = pod["spec"].get("nodeName")
        if assigned:
            why = f'pod {name} is already assigned to node "{assigned}"'
            raise conflict("pods/binding", "", name, why)
        if pod["spec"].get("schedulingGates"):
            why = f"pod {name} has non-empty .spec.schedulingGates"
            raise conflict("pods/binding", "", name, why)

    def _topology(self, node: str) -> dict[str, str]:
        """Zone and region of the node: pods carry them since 1.35 (KEP-4742)."""
        record = self._registry.store.get(f"/core/{NODES.plural}/-/{node}")
        labels = (record.value["metadata"].get("labels") or {}) if record else {}
        return {key: labels[key] for key in _TOPOLOGY_LABELS if key in labels}

    def _scheduled(self, conditions: list[Document], generation: int) -> list[Document]:
        condition = {
            "type": "PodScheduled",
            "status": "True",
            "observedGeneration": generation,
            "lastTransitionTime": self._registry.now(),
        }
        return [*(c for c in conditions if c.get("type") != "PodScheduled"), condition]


def _merge(metadata: dict[str, Any], key: str, extra: dict[str, str] | None) -> None:
    if extra:
        metadata[key] = (metadata.get(key) or {}) | extra


# Evictions that were allowed and not seen yet by the budget's controller (MaxDisruptedPodSize).
MOST_DISRUPTED = 2000
TOO_MANY_DISRUPTED = (
    "DisruptedPods map too big - too many evictions not confirmed by PDB controller"
)
SEVERAL_BUDGETS = (
    "This pod has more than one PodDisruptionBudget, "
    "which the eviction subresource does not support."
)


class Eviction:
    """pods/eviction: a deletion that a PodDisruptionBudget may postpone.

    Source: upstream ``pkg/registry/core/pod/storage/eviction.go``.
    """

    def __init__(self, registry: Registry, deletes: Deletes) -> None:
        self._registry = registry
        self._deletes = deletes

    def create(
        self, kind: Kind, namespace: str, name: str, eviction: Document, call: Call
    ) -> Document:
        """Delete the pod if its budget allows it. ApiError 404, 409, 429 (not now) or 500."""
        if (eviction.get("metadata") or {}).get("name") != name:
            raise bad_request("name in URL does not match name in Eviction object")
        registry = self._registry
        record = registry.fetch(kind, namespace, name)
        options = _delete_options(eviction.get("deleteOptions") or {})
        if not _ends_anyway(record.value):
            self._spend_budget(record.value, namespace, name, call, options)
        if not (call.dry_run or options.dry_run):
            options = self._mark(kind, record, options)
        self._deletes.delete(kind, name, namespace, options, call)
        return SUCCESS

    def _mark(self, kind: Kind, record: Record, options: DeleteOptions) -> DeleteOptions:
        """Say on the pod why it goes (KEP-3329), for whoever counts its failure.

        Nothing if a precondition will refuse the deletion; one on the version follows the write.
        """
        pod = record.value
        metadata, status = dict(pod["metadata"]), pod.get("status") or {}
        if options.uid not in ("", metadata["uid"]):
            return options
        if options.resource_version not in ("", metadata["resourceVersion"]):
            return options
        marked = [_evicted(metadata.get("generation", 1), self._registry.now())]
        known = status.get("conditions") or []
        if _says_the_same(known, marked[0]):
            return options
        kept = [c for c in known if c.get("type") != marked[0]["type"]]
        new = pod | {"metadata": metadata, "status": status | {"conditions": kept + marked}}
        written = self._registry.commit(kind, new, record, False)
        if not options.resource_version:
            return options
        return replace(options, resource_version=written["metadata"]["resourceVersion"])

    def _spend_budget(
        self, pod: Document, namespace: str, name: str, call: Call, options: DeleteOptions
    ) -> None:
        budgets = self._budgets(pod, namespace)
        if not budgets:
            return
        if len(budgets) > 1:
            raise ApiError(500, "", SEVERAL_BUDGETS)
        record = budgets[0]
        if _is_unready_and_free(pod, record.value):
            return
        new = self._decremented(record.value, name)
        kind = self._registry.catalog.of(POD_DISRUPTION_BUDGETS)
        assert kind is not None
        self._registry.commit(kind, new, record, call.dry_run or options.dry_run)

    def _budgets(self, pod: Document, namespace: str) -> list[Record]:
        labels = pod["metadata"].get("labels") or {}
        page = self._registry.store.range(f"/policy/poddisruptionbudgets/{namespace}/")
        return [
            record
            for record in page.records
            if selects(record.value["spec"].get("selector"), labels)
        ]

    def _decremented(self, budget: Document, pod_name: str) -> Document:
        name, metadata = budget["metadata"]["name"], budget["metadata"]
        status = budget.get("status") or {}
        if status.get("observedGeneration", 0) < metadata.get("generation", 0):
            message = f"The disruption budget {name} is still being processed by the server."
            raise _refused(message, retry_after_s=10)
        allowed = status.get("disruptionsAllowed", 0)
        disrupted = status.get("disruptedPods") or {}
        if allowed < 0 or len(disrupted) > MOST_DISRUPTED:
            why = "pdb disruptions allowed is negative" if allowed < 0 else TOO_MANY_DISRUPTED
            raise forbidden("poddisruptionbudget", "policy", name, why)
        if allowed == 0:
            message = (
                f"The disruption budget {name} needs {status.get('desiredHealthy', 0)} healthy "
                f"pods and has {status.get('currentHealthy', 0)} currently"
            )
            raise _refused(message)
        now = self._registry.now()
        spent: Document = {"disruptionsAllowed": allowed - 1}
        spent["disruptedPods"] = disrupted | {pod_name: now}
        if allowed == 1:
            spent["conditions"] = _used_up(status, now)
        return budget | {"metadata": dict(metadata), "status": status | spent}


def _used_up(status: Document, now: str) -> list[Document]:
    """The conditions of a budget whose last disruption was spent."""
    conditions: list[Document] = status.get("conditions") or []
    wanted: Document = {
        "type": "DisruptionAllowed",
        "status": "False",
        "observedGeneration": status.get("observedGeneration", 0),
        "lastTransitionTime": now,
        "reason": "InsufficientPods",
        "message": "",
    }
    if any(c.get("type") == wanted["type"] and c.get("status") == "False" for c in conditions):
        return conditions
    return [*(c for c in conditions if c.get("type") != wanted["type"]), wanted]


def _evicted(generation: int, now: str) -> Document:
    return {
        "type": "DisruptionTarget",
        "status": "True",
        "observedGeneration": generation,
        "lastTransitionTime": now,
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    }


def _says_the_same(known: list[Document], wanted: Document) -> bool:
    """Whether one of the conditions is the one that is wanted, but for its time."""
    return any({**c, "lastTransitionTime": wanted["lastTransitionTime"]} == wanted for c in known)


def _refused(cause: str, retry_after_s: int = 0) -> ApiError:
    message = "Cannot evict pod as it would violate the pod's disruption budget."
    error = too_many_requests(message, retry_after_s)
    error.details["causes"] = [{"reason": "DisruptionBudget", "message": cause}]
    return error


def _ends_anyway(pod: Document) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return phase in ("Succeeded", "Failed", "Pending") or "deletionTimestamp" in pod["metadata"]


def _is_unready_and_free(pod: Document, budget: Document) -> bool:
    """Whether the budget lets pods go that are not ready anyway."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    if any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions):
        return False
    if budget["spec"].get("unhealthyPodEvictionPolicy") == "AlwaysAllow":
        return True
    status = budget.get("status") or {}
    healthy, desired = status.get("currentHealthy", 0), status.get("desiredHealthy", 0)
    return bool(healthy >= desired and desired > 0)


def _delete_options(document: Document) -> DeleteOptions:
    preconditions = document.get("preconditions") or {}
    grace = document.get("gracePeriodSeconds")
    return DeleteOptions(
        document.get("propagationPolicy") or "",
        grace if isinstance(grace, int) else None,
        preconditions.get("uid") or "",
        preconditions.get("resourceVersion") or "",
        "All" in (document.get("dryRun") or ()),
    )


class Scale:
    """The scale subresource: ``autoscaling/v1 Scale`` over the replicas of any kind."""

    def __init__(self, registry: Registry, writes: Writes) -> None:
        self._registry = registry
        self._writes = writes

    def get(self, kind: Kind, namespace: str, name: str) -> Document:
        """The Scale of an object. ApiError 404."""
        document = self._registry.present(kind, self._registry.fetch(kind, namespace, name).value)
        return scale_of(_paths(kind), document)

    def update(
        self, kind: Kind, namespace: str, name: str, scale: Document, call: Call
    ) -> Document:
        """Set the replicas. ApiError 404, 409, 422."""
        paths = _paths(kind)
        metadata = scale.get("metadata") or {}
        given = metadata.get("name")
        if given and given != name:
            raise bad_request(
                f"the name of the object ({given}) does not match the name on the URL ({name})"
            )
        replicas = (scale.get("spec") or {}).get("replicas", 0)
        if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
            detail = "must be greater than or equal to 0"
            error = FieldError("Invalid", "spec.replicas", replicas, detail)
            raise invalid("Scale", "autoscaling", name, [error])
        changed: Any = replicas
        for key in reversed(paths.spec_replicas):
            changed = {key: changed}
        for key in ("resourceVersion", "uid"):
            if metadata.get(key):
                changed = changed | {"metadata": changed.get("metadata", {}) | {key: metadata[key]}}
        merge = Patch(MERGE_PATCH, changed)
        written = self._writes.patch(kind, name, merge, namespace, call, "", owner="scale")
        return scale_of(paths, written.document)

    def patch(self, kind: Kind, namespace: str, name: str, patch: Patch, call: Call) -> Document:
        """Patch the Scale as if it were stored."""
        current = self.get(kind, namespace, name)
        return self.update(kind, namespace, name, patched_scale(patch, current), call)


def _paths(kind: Kind) -> ScalePaths:
    if kind.scale is None:
        raise method_not_allowed("scale", kind.resource.plural, kind.resource.group)
    return kind.scale


def _at(document: Document, path: tuple[str, ...]) -> Any:
    value: Any = document
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def scale_of(paths: ScalePaths, document: Document) -> Document:
    """The Scale that an object amounts to."""
    metadata = document["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Document = {"replicas": _at(document, paths.status_replicas) or 0}
    selector = _at(document, paths.label_selector) if paths.label_selector else None
    if isinstance(selector, dict):
        status["selector"] = selector_text(selector)
    elif isinstance(selector, str) and selector:
        status["selector"] = selector
    replicas = _at(document, paths.spec_replicas)
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"replicas": replicas} if replicas else {},
        "status": status,
    }


_OPERATORS = {"In": "in", "NotIn": "notin"}


def selector_text(selector: Document) -> str:
    """A LabelSelector (or a plain map of labels) as the text that list requests take.

    >>> selector_text({"matchLabels": {"app": "web"}})
    'app=web'
    """
    if "matchLabels" not in selector and "matchExpressions" not in selector:
        return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
    labels = selector.get("matchLabels") or {}
    parts = [f"{key}={value}" for key, value in sorted(labels.items())]
    for expression in selector.get("matchExpressions") or ():
        key, operator = expression.get("key", ""), expression.get("operator", "")
        if operator in _OPERATORS:
            values = ",".join(sorted(expression.get("values") or ()))
            parts.append(f"{key} {_OPERATORS[operator]} ({values})")
        else:
            parts.append(key if operator == "Exists" else f"!{key}")
    return ",".join(parts)


def patched_scale(patch: Patch, current: Document) -> Document:
    """The Scale that a patch makes of the current one; an apply counts as a merge."""
    if patch.type == JSON_PATCH:
        return json_patch(current, patch.body)
    if not isinstance(patch.body, dict):
        raise bad_request("error decoding patch: the patch must be a JSON object")
    if patch.type not in PATCH_TYPES:
        raise unsupported_patch_type(patch.type)
    return merge_patch(current, patch.body)
