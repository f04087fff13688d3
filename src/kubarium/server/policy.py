"""The ClusterRoles and ClusterRoleBindings that every cluster starts with.

Which verbs on which resources: as in upstream's ``rbac/bootstrappolicy/policy.go`` for the roles
that people bind and components of ours use. Two differences: nodes are allowed by the role
``system:node`` bound to the group ``system:nodes`` (upstream asks its node authorizer), and
``view``, ``edit`` and ``admin`` also know the kinds of Kueue, JobSet and Trainer that we bundle.

A rule is written ``verbs | API group | resources``, the core group as ``core``; a rule without a
group and with a path is for non-resource URLs.
"""

from __future__ import annotations

from typing import Any

from kubarium.server.rbac import GROUP

Document = dict[str, Any]

_READ = "get list watch"
_WRITE = "create delete deletecollection patch update"
_BOTH = f"{_READ} {_WRITE}"
_LABEL = "rbac.authorization.k8s.io/aggregate-to-{}"

_APPS = (
    "daemonsets deployments deployments/scale replicasets replicasets/scale statefulsets "
    "statefulsets/scale"
)
_APPS_STATUS = (
    "controllerrevisions daemonsets/status deployments/status replicasets/status "
    "statefulsets/status"
)
_STREAMS = "pods/attach pods/exec pods/portforward pods/proxy"
_QUEUED = "jobsets jobsets/status"
_CLAIMS = "resourceclaims resourceclaimtemplates"
_GROUPS = "compositepodgroups compositepodgroups/status podgroups podgroups/status"

_VIEW = (
    f"{_READ} | core | configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status "
    "pods replicationcontrollers replicationcontrollers/scale serviceaccounts services "
    "services/status",
    f"{_READ} | core | bindings events limitranges namespaces namespaces/status pods/log "
    "pods/status replicationcontrollers/status resourcequotas resourcequotas/status",
    f"{_READ} | discovery.k8s.io | endpointslices",
    f"{_READ} | metrics.k8s.io | nodes pods",
    f"{_READ} | apps | {_APPS} {_APPS_STATUS}",
    f"{_READ} | autoscaling | horizontalpodautoscalers horizontalpodautoscalers/status",
    f"{_READ} | batch | cronjobs cronjobs/status jobs jobs/status",
    f"{_READ} | policy | poddisruptionbudgets poddisruptionbudgets/status",
    f"{_READ} | networking.k8s.io | ingresses ingresses/status networkpolicies",
    f"{_READ} | resource.k8s.io | {_CLAIMS} resourceclaims/status",
    f"{_READ} | scheduling.k8s.io | {_GROUPS} workloads",
    f"{_READ} | jobset.x-k8s.io | {_QUEUED}",
    f"{_READ} | trainer.kubeflow.org | trainjobs trainjobs/status trainingruntimes",
    f"{_READ} | kueue.x-k8s.io | localqueues localqueues/status workloads workloads/status",
    f"{_READ} | kubarium.dev | gangcheckpoints rankhistories",
    f"{_READ} | checkpoint.k8s.io | podcheckpoints",
)

_EDIT = (
    f"{_WRITE} | kubarium.dev | gangcheckpoints",
    f"{_WRITE} | checkpoint.k8s.io | podcheckpoints",
    f"{_READ} | core | {_STREAMS} secrets services/proxy",
    "impersonate | core | serviceaccounts",
    f"{_WRITE} | core | pods {_STREAMS}",
    "create | core | pods/eviction serviceaccounts/token",
    f"{_WRITE} | core | configmaps events persistentvolumeclaims replicationcontrollers "
    "replicationcontrollers/scale secrets serviceaccounts services services/proxy",
    f"{_WRITE} | apps | {_APPS} deployments/rollback",
    f"{_WRITE} | autoscaling | horizontalpodautoscalers",
    f"{_WRITE} | batch | cronjobs jobs",
    f"{_WRITE} | policy | poddisruptionbudgets",
    f"{_WRITE} | networking.k8s.io | ingresses networkpolicies",
    f"{_BOTH} | coordination.k8s.io | leases",
    f"{_WRITE} | resource.k8s.io | {_CLAIMS}",
    f"{_WRITE} | scheduling.k8s.io | compositepodgroups podgroups workloads",
    f"{_WRITE} | jobset.x-k8s.io | jobsets",
    f"{_WRITE} | trainer.kubeflow.org | trainjobs",
)

_ADMIN = (
    "create | authorization.k8s.io | localsubjectaccessreviews",
    f"{_BOTH} | {GROUP} | rolebindings roles",
    f"{_WRITE} | kueue.x-k8s.io | localqueues",
    f"{_WRITE} | trainer.kubeflow.org | trainingruntimes",
)

_EVENTS = ("create patch update | core | events", "create patch update | events.k8s.io | events")
_REVIEWS = (
    "create | authentication.k8s.io | tokenreviews",
    "create | authorization.k8s.io | subjectaccessreviews",
)

_NODE = (
    *_EVENTS,
    *_REVIEWS,
    "create | authorization.k8s.io | localsubjectaccessreviews",
    f"{_READ} | core | configmaps secrets services",
    f"create {_READ} patch update | core | nodes",
    "patch update | core | nodes/status",
    f"create delete {_READ} | core | pods",
    "patch update | core | pods/status",
    "create | core | pods/eviction serviceaccounts/token",
    "get | core | endpoints persistentvolumeclaims persistentvolumes serviceaccounts",
    "get patch update | core | persistentvolumeclaims/status",
    f"create {_READ} | certificates.k8s.io | certificatesigningrequests",
    "create delete get patch update | coordination.k8s.io | leases",
    "get | storage.k8s.io | volumeattachments",
    f"{_READ} | storage.k8s.io | csidrivers",
    "create delete get patch update | storage.k8s.io | csinodes",
    f"{_READ} | node.k8s.io | runtimeclasses",
    "get | resource.k8s.io | resourceclaims",
    f"{_BOTH} | resource.k8s.io | resourceslices",
    f"create {_READ} | kubarium.dev | rankhistories",
    "patch update | kubarium.dev | rankhistories rankhistories/status",
    f"{_READ} | checkpoint.k8s.io | podcheckpoints",
    "patch update | checkpoint.k8s.io | podcheckpoints/status",
)

_SCHEDULER = (
    *_EVENTS,
    *_REVIEWS,
    f"create {_READ} patch update | coordination.k8s.io | leases",
    f"{_READ} | core | namespaces nodes replicationcontrollers services",
    f"delete {_READ} | core | pods",
    "create | core | bindings pods/binding",
    "patch update | core | pods/status",
    f"{_READ} patch update | core | persistentvolumeclaims persistentvolumes",
    f"{_READ} | apps | replicasets statefulsets",
    f"{_READ} | policy | poddisruptionbudgets",
    f"{_READ} | storage.k8s.io | csidrivers csinodes csistoragecapacities storageclasses "
    "volumeattachments",
    f"{_READ} | resource.k8s.io | deviceclasses resourceclaims resourceslices devicetaintrules",
    "create delete patch update | resource.k8s.io | resourceclaims resourceclaims/status",
    f"{_READ} | scheduling.k8s.io | compositepodgroups podgroups priorityclasses workloads",
    "patch update | scheduling.k8s.io | compositepodgroups/status podgroups/status",
    # The scheduler completes a volume's binding itself: there is no volume controller beside it.
    "patch update | core | persistentvolumeclaims/status persistentvolumes/status",
    f"{_READ} | scheduling.x-k8s.io | podgroups",
    "patch update | scheduling.x-k8s.io | podgroups podgroups/status",
)

_CONTROLLER_MANAGER = (
    *_EVENTS,
    *_REVIEWS,
    "create get patch update | coordination.k8s.io | leases",
    "list watch | * | *",
    "create delete get update | core | secrets serviceaccounts",
    "get update | core | configmaps endpoints",
    "get | core | namespaces",
    "create | core | serviceaccounts/token",
)

_PROXIER = (
    *_EVENTS,
    "list watch | core | endpoints services",
    f"{_READ} | core | nodes",
    "list watch | discovery.k8s.io | endpointslices",
)

_ROLES: dict[str, tuple[str, ...]] = {
    "cluster-admin": ("* | * | *", "* *"),
    # As Trainer's own manifests have it: runtimes of the cluster are for everybody to choose from.
    "kubeflow-trainer-view-cluster-runtimes": (
        f"{_READ} | trainer.kubeflow.org | clustertrainingruntimes",
    ),
    "system:aggregate-to-admin": _ADMIN,
    "system:aggregate-to-edit": _EDIT,
    "system:aggregate-to-view": _VIEW,
    "system:auth-delegator": _REVIEWS,
    "system:basic-user": (
        "create | authentication.k8s.io | selfsubjectreviews",
        "create | authorization.k8s.io | selfsubjectaccessreviews selfsubjectrulesreviews",
    ),
    "system:discovery": (
        "get /api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version "
        "/version/",
    ),
    "system:kube-controller-manager": _CONTROLLER_MANAGER,
    "system:kube-scheduler": _SCHEDULER,
    "system:monitoring": (
        "get /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*",
    ),
    "system:node": _NODE,
    "system:node-proxier": _PROXIER,
    "system:public-info-viewer": ("get /healthz /livez /readyz /version /version/",),
    "system:service-account-issuer-discovery": (
        "get /.well-known/openid-configuration /.well-known/openid-configuration/ "
        "/openid/v1/jwks /openid/v1/jwks/",
    ),
}

# Role -> the roles that it is the union of; selected by label, so that further roles can join.
_AGGREGATED = ("admin", "edit", "view")
_JOINS = {
    "system:aggregate-to-admin": "admin",
    "system:aggregate-to-edit": "edit",
    "system:aggregate-to-view": "view",
    "edit": "admin",
    "view": "edit",
}

_BINDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "cluster-admin": (("Group", "system:masters"),),
    "kubeflow-trainer-view-cluster-runtimes": (("Group", "system:authenticated"),),
    "system:basic-user": (("Group", "system:authenticated"),),
    "system:discovery": (("Group", "system:authenticated"),),
    "system:kube-controller-manager": (("User", "system:kube-controller-manager"),),
    "system:kube-scheduler": (("User", "system:kube-scheduler"),),
    "system:monitoring": (("Group", "system:monitoring"),),
    "system:node": (("Group", "system:nodes"),),
    "system:node-proxier": (("User", "system:kube-proxy"),),
    "system:public-info-viewer": (
        ("Group", "system:authenticated"),
        ("Group", "system:unauthenticated"),
    ),
    "system:service-account-issuer-discovery": (("Group", "system:serviceaccounts"),),
}


def bootstrap_policy() -> list[Document]:
    """The documents to create at start-up if they are not there; without uid and times."""
    roles = [
        _role(name, {"rules": [_rule(text) for text in rules]}) for name, rules in _ROLES.items()
    ]
    for name in _AGGREGATED:
        selector = {"matchLabels": {_LABEL.format(name): "true"}}
        roles.append(_role(name, {"aggregationRule": {"clusterRoleSelectors": [selector]}}))
    return [*roles, *(_binding(name, subjects) for name, subjects in _BINDINGS.items())]


def _metadata(name: str) -> Document:
    return {
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    }


def _role(name: str, rest: Document) -> Document:
    metadata = _metadata(name)
    if name in _JOINS:
        metadata["labels"][_LABEL.format(_JOINS[name])] = "true"
    return {"apiVersion": f"{GROUP}/v1", "kind": "ClusterRole", "metadata": metadata, **rest}


def _binding(name: str, subjects: tuple[tuple[str, str], ...]) -> Document:
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": _metadata(name),
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": name},
        "subjects": [
            {"apiGroup": GROUP, "kind": kind, "name": subject} for kind, subject in subjects
        ],
    }


def _rule(text: str) -> Document:
    if "|" not in text:
        verb, *urls = text.split()
        return {"nonResourceURLs": urls, "verbs": [verb]}
    verbs, group, resources = (part.strip() for part in text.split("|"))
    return {
        "apiGroups": ["" if group == "core" else group],
        "resources": resources.split(),
        "verbs": verbs.split(),
    }
