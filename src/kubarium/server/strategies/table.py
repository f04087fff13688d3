"""The table of strategies: one row per built-in kind that differs from the default.

Source of each switch: the kind's ``strategy.go`` under upstream's ``pkg/registry``.
"""

from __future__ import annotations

from kubarium.server import custom_resources
from kubarium.server.strategies import (
    daemonsets,
    devices,
    jobs,
    namespaces,
    pods,
    services,
    volumes,
)
from kubarium.server.strategy import Strategies, Strategy

_GENERATION = Strategy(generation=True)
_RBAC = Strategy(create_on_update=True)
_LOCKED = Strategy(unconditional_update=False)
_LOCKED_GENERATION = Strategy(generation=True, unconditional_update=False)

# What of metadata is left to writers of the status (Pod, Node, Namespace, ...).
_METADATA = ("labels", "annotations", "finalizers")

_ADMISSION = "admissionregistration.k8s.io"
_RBAC_GROUP = "rbac.authorization.k8s.io"


def strategies() -> Strategies:
    """A new table; the rows are shared values."""
    return Strategies(dict(_TABLE))


_TABLE: dict[tuple[str, str], Strategy] = {
    ("", "nodes"): Strategy(status_on_create=True, status_writes=_METADATA),
    ("", "namespaces"): Strategy(
        status_writes=_METADATA,
        prepare_create=namespaces.prepare_create,
        prepare_update=namespaces.prepare_update,
        parts={"finalize": namespaces.write_finalizers},
    ),
    ("", "pods"): Strategy(
        generation=True,
        status_writes=_METADATA,
        returns_deleted=True,
        prepare_create=pods.prepare_create,
        prepare_status=pods.prepare_status,
        parts={
            "ephemeralcontainers": pods.write_ephemeral_containers,
            "resize": pods.write_resources,
        },
    ),
    ("", "replicationcontrollers"): Strategy(generation=True, orphans_by_default=True),
    ("", "services"): Strategy(
        create_on_update=True,
        returns_deleted=True,
        prepare_create=services.prepare_create,
        prepare_update=services.prepare_update,
    ),
    ("", "endpoints"): Strategy(create_on_update=True),
    ("", "events"): Strategy(create_on_update=True),
    ("", "limitranges"): Strategy(create_on_update=True),
    ("", "serviceaccounts"): Strategy(returns_deleted=True),
    ("", "persistentvolumes"): Strategy(
        returns_deleted=True,
        status_writes=_METADATA,
        prepare_create=volumes.prepare_create,
        prepare_status=volumes.prepare_status,
    ),
    ("", "persistentvolumeclaims"): Strategy(returns_deleted=True, status_writes=_METADATA),
    ("", "podtemplates"): Strategy(generation=True, returns_deleted=True),
    ("", "resourcequotas"): Strategy(returns_deleted=True),
    ("events.k8s.io", "events"): Strategy(create_on_update=True),
    ("apps", "deployments"): Strategy(
        generation=True,
        generation_counts_annotations=True,
        status_writes=("annotations", "finalizers"),
    ),
    ("apps", "replicasets"): _GENERATION,
    ("apps", "statefulsets"): _GENERATION,
    ("apps", "daemonsets"): Strategy(
        generation=True,
        prepare_create=daemonsets.prepare_create,
        prepare_update=daemonsets.prepare_update,
    ),
    ("batch", "jobs"): Strategy(
        generation=True, orphans_by_default=True, prepare_create=jobs.prepare_create
    ),
    ("batch", "cronjobs"): _GENERATION,
    ("policy", "poddisruptionbudgets"): _LOCKED_GENERATION,
    ("networking.k8s.io", "ingresses"): _GENERATION,
    ("networking.k8s.io", "networkpolicies"): _GENERATION,
    ("networking.k8s.io", "ingressclasses"): _GENERATION,
    ("discovery.k8s.io", "endpointslices"): _GENERATION,
    ("scheduling.k8s.io", "priorityclasses"): _GENERATION,
    ("scheduling.k8s.io", "podgroups"): _GENERATION,
    ("scheduling.k8s.io", "compositepodgroups"): _GENERATION,
    ("scheduling.k8s.io", "workloads"): _GENERATION,
    ("resource.k8s.io", "deviceclasses"): Strategy(generation=True, returns_deleted=True),
    ("resource.k8s.io", "resourceclaims"): Strategy(
        returns_deleted=True, prepare_status=devices.prepare_claim_status
    ),
    ("resource.k8s.io", "resourceclaimtemplates"): Strategy(returns_deleted=True),
    ("resource.k8s.io", "resourcepoolstatusrequests"): Strategy(
        returns_deleted=True, unconditional_update=False
    ),
    ("resource.k8s.io", "resourceslices"): Strategy(
        generation=True,
        returns_deleted=True,
        prepare_create=devices.prepare_slice,
        prepare_update=devices.prepare_slice_update,
    ),
    ("resource.k8s.io", "devicetaintrules"): Strategy(
        generation=True,
        returns_deleted=True,
        unconditional_update=False,
        unconditional_versions=frozenset({"v1beta2", "v1alpha3"}),
        prepare_create=devices.prepare_rule,
        prepare_update=devices.prepare_rule_update,
    ),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"): _GENERATION,
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"): _GENERATION,
    (_ADMISSION, "mutatingwebhookconfigurations"): _LOCKED_GENERATION,
    (_ADMISSION, "validatingwebhookconfigurations"): _LOCKED_GENERATION,
    (_ADMISSION, "validatingadmissionpolicies"): _LOCKED_GENERATION,
    (_ADMISSION, "validatingadmissionpolicybindings"): _LOCKED_GENERATION,
    (_ADMISSION, "mutatingadmissionpolicies"): _LOCKED_GENERATION,
    (_ADMISSION, "mutatingadmissionpolicybindings"): _LOCKED_GENERATION,
    ("apiextensions.k8s.io", "customresourcedefinitions"): Strategy(
        generation=True,
        unconditional_update=False,
        prepare_create=custom_resources.prepare_create,
        prepare_update=custom_resources.prepare_update,
    ),
    ("apiregistration.k8s.io", "apiservices"): _LOCKED,
    ("certificates.k8s.io", "clustertrustbundles"): _LOCKED,
    ("certificates.k8s.io", "podcertificaterequests"): _LOCKED,
    ("coordination.k8s.io", "leases"): Strategy(create_on_update=True, unconditional_update=False),
    ("coordination.k8s.io", "leasecandidates"): Strategy(
        create_on_update=True, unconditional_update=False
    ),
    ("internal.apiserver.k8s.io", "storageversions"): _LOCKED,
    ("lifecycle.k8s.io", "evictionrequests"): _LOCKED,
    ("node.k8s.io", "runtimeclasses"): Strategy(create_on_update=True, unconditional_update=False),
    ("storage.k8s.io", "csidrivers"): _LOCKED,
    ("storage.k8s.io", "csinodes"): _LOCKED,
    ("storage.k8s.io", "csistoragecapacities"): _LOCKED,
    ("storage.k8s.io", "volumeattachments"): _LOCKED,
    ("storagemigration.k8s.io", "storageversionmigrations"): _LOCKED,
    (_RBAC_GROUP, "roles"): _RBAC,
    (_RBAC_GROUP, "rolebindings"): _RBAC,
    (_RBAC_GROUP, "clusterroles"): _RBAC,
    (_RBAC_GROUP, "clusterrolebindings"): _RBAC,
}
