"""The resources that our own code names. The complete table comes from the schema data file."""

from __future__ import annotations

from kubarium.api.resource import Resource


def _core(plural: str, kind: str, namespaced: bool = True) -> Resource:
    return Resource("", "v1", plural, kind, namespaced)


PODS = _core("pods", "Pod")
NODES = _core("nodes", "Node", False)
NAMESPACES = _core("namespaces", "Namespace", False)
EVENTS = _core("events", "Event")
SERVICES = _core("services", "Service")
ENDPOINTS = _core("endpoints", "Endpoints")
CONFIG_MAPS = _core("configmaps", "ConfigMap")
SECRETS = _core("secrets", "Secret")
RESOURCE_QUOTAS = _core("resourcequotas", "ResourceQuota")
SERVICE_ACCOUNTS = _core("serviceaccounts", "ServiceAccount")
PERSISTENT_VOLUME_CLAIMS = _core("persistentvolumeclaims", "PersistentVolumeClaim")
PERSISTENT_VOLUMES = _core("persistentvolumes", "PersistentVolume", False)
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment", True)
REPLICA_SETS = Resource("apps", "v1", "replicasets", "ReplicaSet", True)
JOBS = Resource("batch", "v1", "jobs", "Job", True)
CRON_JOBS = Resource("batch", "v1", "cronjobs", "CronJob", True)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", True)
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True)
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", True)
RUNTIME_CLASSES = Resource("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", False)
PRIORITY_CLASSES = Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", False)
POD_GROUPS = Resource("scheduling.k8s.io", "v1beta1", "podgroups", "PodGroup", True)
COMPOSITE_POD_GROUPS = Resource(
    "scheduling.k8s.io", "v1alpha3", "compositepodgroups", "CompositePodGroup", True
)
GANG_WORKLOADS = Resource("scheduling.k8s.io", "v1beta1", "workloads", "Workload", True)
RESOURCE_CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim", True)
RESOURCE_CLAIM_TEMPLATES = Resource(
    "resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate", True
)
RESOURCE_SLICES = Resource("resource.k8s.io", "v1", "resourceslices", "ResourceSlice", False)
DEVICE_CLASSES = Resource("resource.k8s.io", "v1", "deviceclasses", "DeviceClass", False)
DEVICE_TAINT_RULES = Resource("resource.k8s.io", "v1", "devicetaintrules", "DeviceTaintRule", False)
RESOURCE_POOL_STATUS_REQUESTS = Resource(
    "resource.k8s.io", "v1alpha3", "resourcepoolstatusrequests", "ResourcePoolStatusRequest", False
)
POD_DISRUPTION_BUDGETS = Resource(
    "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", True
)
CUSTOM_RESOURCE_DEFINITIONS = Resource(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False
)
CLUSTER_ROLES = Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", False)
CLUSTER_ROLE_BINDINGS = Resource(
    "rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", False
)
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role", True)
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", True)

_KUEUE = ("kueue.x-k8s.io", "v1beta2")
RESOURCE_FLAVORS = Resource(*_KUEUE, "resourceflavors", "ResourceFlavor", False)
CLUSTER_QUEUES = Resource(*_KUEUE, "clusterqueues", "ClusterQueue", False)
LOCAL_QUEUES = Resource(*_KUEUE, "localqueues", "LocalQueue", True)
COHORTS = Resource(*_KUEUE, "cohorts", "Cohort", False)
WORKLOADS = Resource(*_KUEUE, "workloads", "Workload", True)
WORKLOAD_PRIORITY_CLASSES = Resource(
    *_KUEUE, "workloadpriorityclasses", "WorkloadPriorityClass", False
)
JOB_SETS = Resource("jobset.x-k8s.io", "v1alpha2", "jobsets", "JobSet", True)
_TRAINER = ("trainer.kubeflow.org", "v1alpha1")
TRAIN_JOBS = Resource(*_TRAINER, "trainjobs", "TrainJob", True)
TRAINING_RUNTIMES = Resource(*_TRAINER, "trainingruntimes", "TrainingRuntime", True)
CLUSTER_TRAINING_RUNTIMES = Resource(
    *_TRAINER, "clustertrainingruntimes", "ClusterTrainingRuntime", False
)
OPTIMIZATION_JOBS = Resource(*_TRAINER, "optimizationjobs", "OptimizationJob", True)
_KATIB = ("kubeflow.org", "v1beta1")
EXPERIMENTS = Resource(*_KATIB, "experiments", "Experiment", True)
TRIALS = Resource(*_KATIB, "trials", "Trial", True)
FAULTS = Resource("kubarium.dev", "v1alpha1", "faults", "Fault", True)
RANK_HISTORIES = Resource("kubarium.dev", "v1alpha1", "rankhistories", "RankHistory", True)
POD_CHECKPOINTS = Resource("checkpoint.k8s.io", "v1alpha1", "podcheckpoints", "PodCheckpoint", True)
GANG_CHECKPOINTS = Resource("kubarium.dev", "v1alpha1", "gangcheckpoints", "GangCheckpoint", True)
COMPUTE_DOMAINS = Resource(
    "resource.nvidia.com", "v1beta1", "computedomains", "ComputeDomain", True
)
COMPUTE_DOMAIN_CLIQUES = Resource(
    "resource.nvidia.com", "v1beta1", "computedomaincliques", "ComputeDomainClique", True
)
