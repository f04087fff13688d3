"""Which admission functions run, in upstream's order (``pkg/kubeapiserver/options/plugins.go``)."""

from __future__ import annotations

from kubarium.server.admission.annotations import warn_of_annotations
from kubarium.server.admission.chain import ANY, CREATE, DELETE, UPDATE, Chain, Plugin
from kubarium.server.admission.devices import (
    check_admin_access,
    check_admin_results,
    check_device_configs,
)
from kubarium.server.admission.elastic import check_elastic
from kubarium.server.admission.jobset import (
    check_job_set,
    default_job_set,
    mark_job_set_pod,
)
from kubarium.server.admission.kueue import check_queueing, default_queueing
from kubarium.server.admission.limit_ranges import check_limit_ranges, set_default_resources
from kubarium.server.admission.namespace_lifecycle import namespace_must_take_content, protect
from kubarium.server.admission.pod_groups import check_parent, protect_group
from kubarium.server.admission.priority import only_one_default, resolve_priority
from kubarium.server.admission.quotas import check_quotas
from kubarium.server.admission.rbac_escalation import escalation_guards
from kubarium.server.admission.restore import restore_pod
from kubarium.server.admission.runtime_class import apply_runtime_class, check_overhead
from kubarium.server.admission.service_account import give_service_account
from kubarium.server.admission.storage_class import set_default_class
from kubarium.server.admission.tolerations import tolerate_briefly
from kubarium.server.admission.trainer import check_runtime, check_train_job, default_train_job
from kubarium.server.authz import Authorizer

_ALL = frozenset({ANY})
_PODS = frozenset({("", "pods")})
_NAMESPACES = frozenset({("", "namespaces")})
_VOLUME_CLAIMS = frozenset({("", "persistentvolumeclaims")})
_PRIORITY_CLASSES = frozenset({("scheduling.k8s.io", "priorityclasses")})
_POD_GROUPS = frozenset(
    {("scheduling.k8s.io", "podgroups"), ("scheduling.k8s.io", "compositepodgroups")}
)
_PRIORITISED = _PODS | _POD_GROUPS
_RBAC = "rbac.authorization.k8s.io"
_ROLES = frozenset({(_RBAC, "roles"), (_RBAC, "clusterroles")})
_BINDINGS = frozenset({(_RBAC, "rolebindings"), (_RBAC, "clusterrolebindings")})
_RESOURCE_CLAIMS = frozenset({("resource.k8s.io", "resourceclaims")})
_CLAIMS = _RESOURCE_CLAIMS | {("resource.k8s.io", "resourceclaimtemplates")}
_JOB_SETS = frozenset({("jobset.x-k8s.io", "jobsets")})
_GANGS = _JOB_SETS | {("batch", "jobs")}
_ANNOTATED = (
    _PODS
    | _GANGS
    | {("", "nodes"), ("", "replicationcontrollers"), ("batch", "cronjobs")}
    | {("apps", name) for name in ("daemonsets", "deployments", "replicasets", "statefulsets")}
)
_TRAINER = "trainer.kubeflow.org"
_TRAIN_JOBS = frozenset({(_TRAINER, "trainjobs")})
_RUNTIMES = frozenset({(_TRAINER, "trainingruntimes"), (_TRAINER, "clustertrainingruntimes")})
_KUEUE = "kueue.x-k8s.io"
_QUEUED = _JOB_SETS | _TRAIN_JOBS | {("batch", "jobs")}
_QUEUES = frozenset({(_KUEUE, "clusterqueues"), (_KUEUE, "resourceflavors")})
_QUEUEING = _QUEUED | _QUEUES | {(_KUEUE, "cohorts"), (_KUEUE, "workloads")}
_WITH_STATUS = frozenset({"", "status"})
_STATUS = frozenset({"status"})
_ON_CREATE = frozenset({CREATE})
_ON_UPDATE = frozenset({UPDATE})
_ON_WRITE = frozenset({CREATE, UPDATE})
_ON_DELETE = frozenset({DELETE})


def default_chain(authorizer: Authorizer) -> Chain:
    """The plug-ins that are on in every cluster."""
    roles, bindings = escalation_guards(authorizer)
    return Chain(
        [
            Plugin("NamespaceLifecycle", namespace_must_take_content, _ALL, _ON_CREATE),
            Plugin("NamespaceLifecycle", protect, _NAMESPACES, _ON_DELETE),
            Plugin("ServiceAccount", give_service_account, _PODS, _ON_CREATE),
            Plugin("Priority", resolve_priority, _PRIORITISED, _ON_CREATE),
            Plugin("PodGroupProtection", protect_group, _POD_GROUPS, _ON_CREATE),
            Plugin("PodGroupProtection", check_parent, _PRIORITISED, _ON_CREATE, validating=True),
            Plugin("LimitRanger", set_default_resources, _PODS, _ON_CREATE),
            Plugin("LimitRanger", check_limit_ranges, _PODS, _ON_CREATE, validating=True),
            Plugin("DRAAdminAccess", check_admin_access, _CLAIMS, _ON_CREATE, validating=True),
            Plugin(
                "DRAAdminAccess",
                check_admin_results,
                _RESOURCE_CLAIMS,
                _ON_UPDATE,
                _STATUS,
                validating=True,
            ),
            Plugin("DeviceConfig", check_device_configs, _CLAIMS, _ON_WRITE, validating=True),
            Plugin("Priority", only_one_default, _PRIORITY_CLASSES, _ON_WRITE, validating=True),
            Plugin("RBAC", roles, _ROLES, _ON_WRITE, validating=True),
            Plugin("RBAC", bindings, _BINDINGS, _ON_WRITE, validating=True),
            Plugin("DefaultTolerationSeconds", tolerate_briefly, _PODS, _ON_WRITE),
            Plugin("JobSet", mark_job_set_pod, _PODS, _ON_CREATE),
            Plugin("PodRestore", restore_pod, _PODS, _ON_CREATE),
            Plugin("JobSet", default_job_set, _JOB_SETS, _ON_WRITE),
            Plugin("JobSet", check_job_set, _JOB_SETS, _ON_WRITE, validating=True),
            Plugin("Annotations", warn_of_annotations, _ANNOTATED, _ON_WRITE, validating=True),
            Plugin("ElasticGang", check_elastic, _GANGS, _ON_WRITE, validating=True),
            Plugin("Trainer", default_train_job, _TRAIN_JOBS, _ON_WRITE),
            Plugin("Trainer", check_train_job, _TRAIN_JOBS, _ON_WRITE, validating=True),
            Plugin("Trainer", check_runtime, _RUNTIMES, _ON_WRITE, validating=True),
            Plugin("DefaultStorageClass", set_default_class, _VOLUME_CLAIMS, _ON_CREATE),
            Plugin("RuntimeClass", apply_runtime_class, _PODS, _ON_CREATE),
            Plugin("RuntimeClass", check_overhead, _PODS, _ON_CREATE, validating=True),
            Plugin("Kueue", default_queueing, _QUEUED | _QUEUES, _ON_CREATE),
            Plugin("Kueue", check_queueing, _QUEUEING, _ON_WRITE, _WITH_STATUS, validating=True),
            # Last: what is refused for another reason must not be charged.
            Plugin("ResourceQuota", check_quotas, _ALL, _ON_CREATE, validating=True),
        ]
    )
