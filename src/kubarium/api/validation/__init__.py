"""Validation of documents in Kubernetes' own wording.

Three entrances, all returning :class:`FieldError` lists and never raising on documents that came
through ``decode.conform`` and ``defaulting.default``. What the schema alone says (required fields,
closed value sets) is checked generically; the rest are rules by kind, in modules by API group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kubarium.api.catalog import Kind
from kubarium.api.crds.check import check_definition, check_definition_update
from kubarium.api.resource import Document
from kubarium.api.validation import (
    claim_status,
    core,
    devices,
    gangs,
    job_status,
    jobs,
    network_policies,
    nodes,
    pod_metadata,
    pod_status,
    pod_updates,
    pods,
    policies,
    quotas,
    services,
    slices,
    storage,
    workloads,
)
from kubarium.api.validation.custom import check_custom
from kubarium.api.validation.metadata import check_metadata, check_metadata_update
from kubarium.api.validation.report import Report
from kubarium.api.validation.structure import check_structure
from kubarium.base.errors import FieldError

CheckNew = Callable[[Document, Report], None]
CheckChange = Callable[[Document, Document, Report], None]  # (new, old, report)


@dataclass(frozen=True, slots=True)
class Rules:
    """``new`` holds for every document of the kind, ``update`` for a change of its desired state,
    ``status`` for a change of its status. A frozen ``new`` is not run again on updates.

    ``metadata`` is for new objects only: what their name and annotations mean for the spec, which
    is looked at even if the spec is known to be valid; ``metadata_update`` sees every change.
    """

    new: CheckNew | None = None
    update: CheckChange | None = None
    status: CheckChange | None = None
    recheck: bool = True
    metadata: CheckNew | None = None
    metadata_update: CheckChange | None = None


_CORE = ""
_APPS = "apps"
_RBAC = policies.RBAC_GROUP
_DRA = "resource.k8s.io"
_GANGS = "scheduling.k8s.io"
_RULES: dict[tuple[str, str], Rules] = {
    (_CORE, "Pod"): Rules(
        pods.check_pod,
        pod_updates.check_pod_update,
        pod_status.check_pod_status,
        recheck=False,
        metadata=pod_metadata.check_pod_metadata,
        metadata_update=pod_metadata.check_annotation_changes,
    ),
    (_CORE, "PodTemplate"): Rules(
        lambda d, r: pods.check_pod_template(d.get("template") or {}, (None, "template"), r)
    ),
    (_CORE, "ReplicationController"): Rules(workloads.check_replication_controller),
    (_CORE, "Namespace"): Rules(
        core.check_namespace, status=core.check_namespace_status, recheck=False
    ),
    (_CORE, "Service"): Rules(services.check_service, services.check_service_update),
    (_CORE, "ConfigMap"): Rules(core.check_config_map, core.check_immutable_data),
    (_CORE, "Secret"): Rules(core.check_secret, core.check_immutable_data),
    (_CORE, "Node"): Rules(
        nodes.check_node, nodes.check_node_update, nodes.check_node_status, recheck=False
    ),
    (_CORE, "Event"): Rules(core.check_event),
    (_CORE, "Endpoints"): Rules(core.check_endpoints),
    (_CORE, "PersistentVolumeClaim"): Rules(
        storage.check_volume_claim,
        storage.check_volume_claim_update,
        storage.check_volume_claim_status,
        recheck=False,
    ),
    (_CORE, "PersistentVolume"): Rules(storage.check_volume, storage.check_volume_update),
    (_CORE, "ResourceQuota"): Rules(
        quotas.check_quota, quotas.check_quota_update, quotas.check_quota_status
    ),
    (_CORE, "LimitRange"): Rules(quotas.check_limit_range),
    (_APPS, "Deployment"): Rules(workloads.check_deployment, workloads.check_immutable_selector),
    (_APPS, "ReplicaSet"): Rules(workloads.check_replica_set, workloads.check_immutable_selector),
    (_APPS, "DaemonSet"): Rules(workloads.check_daemon_set, workloads.check_immutable_selector),
    (_APPS, "StatefulSet"): Rules(
        workloads.check_stateful_set,
        workloads.check_stateful_set_update,
        metadata=workloads.check_new_stateful_set,
    ),
    ("batch", "Job"): Rules(
        jobs.check_job, jobs.check_job_update, job_status.check_job_status, recheck=False
    ),
    ("batch", "CronJob"): Rules(jobs.check_cron_job),
    ("autoscaling", "HorizontalPodAutoscaler"): Rules(policies.check_autoscaler),
    ("events.k8s.io", "Event"): Rules(
        core.check_new_event, core.check_new_event_update, recheck=False
    ),
    ("coordination.k8s.io", "Lease"): Rules(core.check_lease),
    ("discovery.k8s.io", "EndpointSlice"): Rules(
        core.check_endpoint_slice, core.check_endpoint_slice_update
    ),
    ("networking.k8s.io", "NetworkPolicy"): Rules(network_policies.check_network_policy),
    ("networking.k8s.io", "Ingress"): Rules(policies.check_ingress),
    ("node.k8s.io", "RuntimeClass"): Rules(
        policies.check_runtime_class, policies.check_runtime_class_update
    ),
    ("policy", "PodDisruptionBudget"): Rules(policies.check_budget),
    (_RBAC, "Role"): Rules(policies.check_role),
    (_RBAC, "ClusterRole"): Rules(policies.check_cluster_role),
    (_RBAC, "RoleBinding"): Rules(policies.check_role_binding, policies.check_binding_update),
    (_RBAC, "ClusterRoleBinding"): Rules(
        policies.check_cluster_role_binding, policies.check_binding_update
    ),
    ("storage.k8s.io", "StorageClass"): Rules(update=policies.check_storage_class_update),
    (_GANGS, "PriorityClass"): Rules(gangs.check_priority_class, gangs.check_priority_class_update),
    (_GANGS, "PodGroup"): Rules(gangs.check_pod_group, gangs.check_group_update),
    (_GANGS, "CompositePodGroup"): Rules(gangs.check_composite_group, gangs.check_composite_update),
    (_GANGS, "Workload"): Rules(gangs.check_workload, gangs.check_workload_update),
    (_DRA, "ResourceClaim"): Rules(
        devices.check_claim,
        devices.check_claim_update,
        claim_status.check_claim_status,
        recheck=False,
    ),
    (_DRA, "ResourceClaimTemplate"): Rules(
        devices.check_claim_template, devices.check_claim_update, recheck=False
    ),
    (_DRA, "DeviceClass"): Rules(devices.check_class, devices.check_class_update, recheck=False),
    (_DRA, "ResourceSlice"): Rules(slices.check_slice, slices.check_slice_update),
    (_DRA, "ResourcePoolStatusRequest"): Rules(
        devices.check_status_request, devices.check_claim_update, devices.check_status_answer
    ),
    (_DRA, "DeviceTaintRule"): Rules(
        devices.check_taint_rule, status=devices.check_taint_rule_status
    ),
    ("apiextensions.k8s.io", "CustomResourceDefinition"): Rules(
        check_definition, check_definition_update
    ),
}
_NO_RULES = Rules()
_NOT_DESIRED = ("metadata", "status")
_NOT_SPEC = (*_NOT_DESIRED, "spec")


def rules_of(kind: Kind) -> Rules:
    """The rules of a built-in kind."""
    return _RULES.get((kind.resource.group, kind.resource.kind), _NO_RULES)


def validate_create(
    kind: Kind, document: Document, *, spec_is_valid: bool = False
) -> list[FieldError]:
    """All that is wrong with a new object; its name must have been generated already.

    ``spec_is_valid`` says that an equal spec has passed, of a kind whose rules for new objects
    look at nothing else (``templates.is_from_template``).
    """
    report = Report()
    check_metadata(kind, document, report)
    if kind.custom:
        return report.errors + check_custom(kind, document)
    if spec_is_valid:
        check_structure(kind.schema, document, None, report, _NOT_SPEC)
    else:
        _check_content(kind, document, report)
    rules = rules_of(kind)
    if rules.metadata is not None:
        rules.metadata(document, report)
    return report.errors


def validate_shape(kind: Kind, document: Document) -> list[FieldError]:
    """What the kind's own schema demands of a document that is validated in another version."""
    report = Report()
    check_structure(kind.schema, document, None, report, ("metadata", "status"))
    return report.errors


def validate_update(kind: Kind, new: Document, old: Document) -> list[FieldError]:
    """All that is wrong with ``new`` as the next state of ``old``."""
    report = Report()
    check_metadata_update(kind, new, old, report)
    if kind.custom:
        return report.errors + _check_custom_change(kind, new, old)
    rules = rules_of(kind)
    if rules.metadata_update is not None:
        rules.metadata_update(new, old, report)
    if _same_content(new, old):
        return report.errors
    if rules.update is not None:
        rules.update(new, old, report)
    if rules.recheck:
        _check_content(kind, new, report)
    else:
        check_structure(kind.schema, new, None, report, _NOT_DESIRED)
    return report.errors


def validate_status_update(kind: Kind, new: Document, old: Document) -> list[FieldError]:
    """All that is wrong with the status of ``new``; its spec is the old one."""
    report = Report()
    check_metadata_update(kind, new, old, report)
    if kind.custom:
        return report.errors + _check_custom_change(kind, new, old)
    rules = rules_of(kind)
    if rules.status is not None and new.get("status") != old.get("status"):
        rules.status(new, old, report)
    return report.errors


def _check_custom_change(kind: Kind, new: Document, old: Document) -> list[FieldError]:
    """Nothing new to judge if only metadata changed: finalizers, owners, labels."""
    if _same_content(new, old) and new.get("status") == old.get("status"):
        return []
    return check_custom(kind, new, old)


def _check_content(kind: Kind, document: Document, report: Report) -> None:
    check_structure(kind.schema, document, None, report, _NOT_DESIRED)
    rules = rules_of(kind)
    if rules.new is not None:
        rules.new(document, report)


def _same_content(new: Document, old: Document) -> bool:
    """Whether only metadata or status differ: nothing else needs a look."""
    keys = {*new, *old} - {"metadata", "status"}
    return all(new.get(key) == old.get(key) for key in keys)
