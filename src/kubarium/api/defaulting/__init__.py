"""Defaults, as upstream's ``SetDefaults_*`` functions give them at decoding time.

Only what decoding sets: what admission or the registries add (tolerations, priority, cluster IPs,
generated selectors) belongs to the server. An empty string counts as absent, as in Go.
"""

from __future__ import annotations

from collections.abc import Callable

from kubarium.api.catalog import Kind
from kubarium.api.crds.defaulting import apply_defaults
from kubarium.api.defaulting import core, devices, extensions, pods, policies, workloads
from kubarium.api.resource import Document

Defaulter = Callable[[Document], None]

_BY_KIND: dict[tuple[str, str], Defaulter] = {
    ("", "Pod"): pods.default_pod,
    ("", "PodTemplate"): pods.default_pod_template_object,
    ("", "ReplicationController"): workloads.default_replication_controller,
    ("", "Service"): core.default_service,
    ("", "Secret"): core.default_secret,
    ("", "Namespace"): core.default_namespace,
    ("", "Node"): core.default_node,
    ("", "Endpoints"): core.default_endpoints,
    ("", "PersistentVolume"): core.default_persistent_volume,
    ("", "PersistentVolumeClaim"): core.default_persistent_volume_claim,
    ("", "LimitRange"): core.default_limit_range,
    ("apps", "Deployment"): workloads.default_deployment,
    ("apps", "ReplicaSet"): workloads.default_replica_set,
    ("apps", "DaemonSet"): workloads.default_daemon_set,
    ("apps", "StatefulSet"): workloads.default_stateful_set,
    ("batch", "Job"): workloads.default_job,
    ("batch", "CronJob"): workloads.default_cron_job,
    ("autoscaling", "HorizontalPodAutoscaler"): policies.default_autoscaler,
    ("discovery.k8s.io", "EndpointSlice"): core.default_endpoint_slice,
    ("networking.k8s.io", "NetworkPolicy"): policies.default_network_policy,
    ("networking.k8s.io", "IngressClass"): policies.default_ingress_class,
    ("rbac.authorization.k8s.io", "RoleBinding"): policies.default_role_binding,
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): policies.default_role_binding,
    ("storage.k8s.io", "StorageClass"): policies.default_storage_class,
    ("storage.k8s.io", "CSIDriver"): policies.default_csi_driver,
    ("scheduling.k8s.io", "PriorityClass"): policies.default_priority_class,
    ("scheduling.k8s.io", "PodGroup"): policies.default_pod_group,
    ("scheduling.k8s.io", "CompositePodGroup"): policies.default_pod_group,
    ("resource.k8s.io", "ResourceClaim"): devices.default_claim,
    ("resource.k8s.io", "ResourceClaimTemplate"): devices.default_claim_template,
    ("resource.k8s.io", "ResourcePoolStatusRequest"): devices.default_pool_status_request,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): extensions.default_definition,
    ("apiregistration.k8s.io", "APIService"): extensions.default_api_service,
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): (
        extensions.default_mutating_webhooks
    ),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): (
        extensions.default_validating_webhooks
    ),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"): (
        extensions.default_admission_policy
    ),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"): (
        extensions.default_admission_policy
    ),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"): extensions.default_flow_schema,
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"): (
        extensions.default_priority_level
    ),
}


def default(kind: Kind, document: Document) -> None:
    """Fill in absent fields of a fresh document of ``kind``, in place; idempotent.

    The document must have gone through ``decode.conform``.
    """
    if kind.custom:
        apply_defaults(kind.schema, document)
        return
    defaulter = _BY_KIND.get((kind.resource.group, kind.resource.kind))
    if defaulter is not None:
        defaulter(document)
