"""The objects that a cluster has before any user: created if absent, brought up to date when an
older version of ours has made them, and left alone once somebody else has written to them."""

from __future__ import annotations

import hashlib
import json
import logging

from kubarium.api import compute_domains
from kubarium.api.crds.definition import bundled, optional
from kubarium.api.kinds import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    CLUSTER_TRAINING_RUNTIMES,
    CONFIG_MAPS,
    CUSTOM_RESOURCE_DEFINITIONS,
    NAMESPACES,
    PRIORITY_CLASSES,
    ROLE_BINDINGS,
    ROLES,
    SERVICES,
)
from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError
from kubarium.client.protocol import Client
from kubarium.cluster import delegated_authn, scheduler_config, training
from kubarium.control.storage.documents import DEFAULT_CLASS, PROVISIONER
from kubarium.server.policy import bootstrap_policy
from kubarium.view.volumes import STORAGE_CLASSES

SYSTEM_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")

NODES_GROUP, AGENTS_GROUP = "system:nodes", "kubarium:node-agents"
_READ = ["get", "list", "watch"]
_WRITE = ["create", "delete", "patch", "update"]

_LOG = logging.getLogger("kubarium.cluster")
# Who writes them: the field manager of the cluster's own client.
MANAGER = "kubarium"
_NOTE, _NOTE_NAMESPACE = "kubarium-bootstrap", "kube-system"
_IDENTITY = ("apiVersion", "kind", "metadata", "status")
# What users change as they like, or what cannot change.
_FIXED = ("Namespace", "PriorityClass", "StorageClass", "Service")

_RESOURCES = {
    resource.kind: resource
    for resource in (
        NAMESPACES,
        PRIORITY_CLASSES,
        CUSTOM_RESOURCE_DEFINITIONS,
        CLUSTER_ROLES,
        CLUSTER_ROLE_BINDINGS,
        ROLES,
        ROLE_BINDINGS,
        SERVICES,
        CONFIG_MAPS,
        CLUSTER_TRAINING_RUNTIMES,
        STORAGE_CLASSES,
    )
}


def documents(port: int, with_fabric: bool = False) -> list[Document]:
    """Everything, in an order in which each can be created. ``port``: where the API listens;
    ``with_fabric``: NVIDIA's ComputeDomains are served too."""
    found: list[Document] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        for name in SYSTEM_NAMESPACES
    ]
    found += [
        _priority_class("system-node-critical", 2000001000),
        _priority_class("system-cluster-critical", 2000000000),
    ]
    found.append(_standard_class())
    found += bootstrap_policy()
    found += _agent_policy()
    found += scheduler_config.policy()
    found += delegated_authn.policy()
    found += bundled()
    if with_fabric:
        name = compute_domains.NAMESPACE
        found.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        found += optional("nvidia")
    found.append(_kubernetes_service(port))
    found += training.documents()
    return found


async def bootstrap(client: Client, port: int = 6443, with_fabric: bool = False) -> None:
    """Create what is absent; after an upgrade, bring what is older up to date."""
    wanted = documents(port, with_fabric)
    digest = hashlib.sha256(json.dumps([d for d in wanted if _is_ours(d)]).encode()).hexdigest()
    written = await _written(client)
    for document in wanted:
        resource: Resource = _RESOURCES[document["kind"]]
        try:
            await client.create(resource, document, document["metadata"].get("namespace", ""))
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            if digest != (written or {}).get("data", {}).get("digest") and _is_ours(document):
                await _bring_up_to_date(client, resource, document)
    if written is None:
        await client.create(CONFIG_MAPS, _note(digest), _NOTE_NAMESPACE)
    elif written["data"].get("digest") != digest:
        await client.update(CONFIG_MAPS, {**written, "data": {"digest": digest}}, _NOTE_NAMESPACE)


def _is_ours(document: Document) -> bool:
    """Whether versions of ours differ in it, and it may change. The rules of aggregated roles are
    a controller's."""
    return document["kind"] not in _FIXED and "aggregationRule" not in document


async def _written(client: Client) -> Document | None:
    """What was noted when these objects were last made or brought up to date."""
    try:
        return await client.get(CONFIG_MAPS, _NOTE, _NOTE_NAMESPACE)
    except ApiError as error:
        if error.reason != "NotFound":
            raise
        return None


def _note(digest: str) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _NOTE, "namespace": _NOTE_NAMESPACE},
        "data": {"digest": digest},
    }


async def _bring_up_to_date(client: Client, resource: Resource, document: Document) -> None:
    """What it holds becomes what we would create, unless somebody else has written to it."""
    metadata = document["metadata"]
    name, namespace = metadata["name"], metadata.get("namespace", "")
    found = await client.get(resource, name, namespace)
    others = {
        entry["manager"]
        for entry in found["metadata"].get("managedFields") or ()
        if entry["manager"] != MANAGER and not entry.get("subresource")
    }
    if others:
        what = f"{resource.kind} {name}"
        _LOG.warning("%s is left as %s has it", what, ", ".join(sorted(others)))
        return
    content = {key: value for key, value in document.items() if key not in _IDENTITY}
    about = {**found["metadata"]}
    for field in ("labels", "annotations"):
        if metadata.get(field):
            about[field] = {**(about.get(field) or {}), **metadata[field]}
    try:
        await client.update(resource, {**found, **content, "metadata": about}, namespace)
    except ApiError as error:  # the rest of the cluster still comes up
        _LOG.warning("%s %s cannot be brought up to date: %s", resource.kind, name, error)


def _agent_policy() -> list[Document]:
    """What our node agents need beyond upstream's kubelet: they are kube-proxy, the network's
    controller and the drivers of devices as well, and watch where a kubelet gets one by one."""
    rules = [
        {"apiGroups": [group], "resources": resources, "verbs": verbs}
        for group, resources, verbs in (
            ("", ["namespaces", "endpoints", "persistentvolumes"], _READ),
            ("", ["persistentvolumeclaims"], _READ),
            ("", ["pods", "nodes"], ["patch", "update", "delete"]),
            ("", ["pods/status", "nodes/status"], ["get", "patch", "update"]),
            ("", ["pods/resize"], ["get", "patch", "update"]),
            ("discovery.k8s.io", ["endpointslices"], _READ),
            ("checkpoint.k8s.io", ["podcheckpoints"], _READ),
            ("checkpoint.k8s.io", ["podcheckpoints/status"], ["get", "patch", "update"]),
            ("networking.k8s.io", ["networkpolicies"], _READ),
            ("resource.k8s.io", ["resourceclaims", "deviceclasses"], [*_READ, *_WRITE]),
            ("resource.k8s.io", ["resourceclaims/status"], ["get", "patch", "update"]),
            ("resource.k8s.io", ["resourceclaims/driver"], ["*"]),
            ("resource.k8s.io", ["resourceslices"], [*_READ, *_WRITE]),
            ("resource.nvidia.com", ["*"], _READ),
            ("kubarium.dev", ["*"], [*_READ, *_WRITE]),
        )
    ]
    name = "kubarium:node-agent"
    api = "rbac.authorization.k8s.io"
    return [
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": name},
            "rules": rules,
        },
        {
            "apiVersion": f"{api}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": api, "kind": "Group", "name": AGENTS_GROUP}],
        },
    ]


def _priority_class(name: str, value: int) -> Document:
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
        "description": "Used for system critical pods.",
    }


def _standard_class() -> Document:
    """The class of claims that name none: directories, made where the claim's pod goes."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "standard", "annotations": {DEFAULT_CLASS: "true"}},
        "provisioner": PROVISIONER,
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Delete",
        "allowVolumeExpansion": True,
    }


def _kubernetes_service(port: int) -> Document:
    """The name under which pods find the API; its endpoint is kept by ``cluster`` itself."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}],
        },
    }
