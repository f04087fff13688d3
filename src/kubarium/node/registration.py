"""Node objects and their heartbeats, as kubelet writes them."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kubarium import __version__
from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339, rfc3339_micro
from kubarium.node.config import NodeSpec

LEASE_NAMESPACE = "kube-node-lease"
# kubelet: nodeLeaseDurationSeconds 40, renewed at a quarter of it; status at least every 5 min.
LEASE_DURATION_S = 40
STATUS_PERIOD_S = 300.0
KUBELET_VERSION = "v1.37.0-kubarium"
# Simulated nodes renew at most so many leases a second in all; beyond that leases last longer.
LEASES_PER_S = 50.0

# What our nodes can do of the features that kubelets declare (KEP-5328), sorted. Not among them:
# UserNamespacesHostNetworkSupport, VolumeBindMountOptions, InPlacePodVerticalScalingInitContainers.
DECLARED_FEATURES = (
    "DRANodeAllocatableResources",
    "DRAOptionalNodeOperations",
    "GuaranteedQoSPodCPUResize",
    "InPlacePodLevelResourcesVerticalScaling",
    "RestartAllContainersOnContainerExits",
)

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64", "AMD64": "amd64"}
# Of each kind of pressure: reason and message without it, and with it.
_PRESSURES = {
    "MemoryPressure": (
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
    ),
    "DiskPressure": (
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
    ),
    "PIDPressure": (
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
    ),
}


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """What a node says of itself: its pressures, and why it takes no pods (if it does not)."""

    pressures: tuple[str, ...] = ()
    not_ready: str = ""


WELL = NodeHealth()


def architecture() -> str:
    """This machine's, by Go's names."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine or "amd64")


def node_labels(spec: NodeSpec) -> dict[str, str]:
    """The labels that every kubelet sets, and the given ones over them."""
    arch = architecture()
    own = {
        "beta.kubernetes.io/arch": arch,
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": arch,
        "kubernetes.io/hostname": spec.name,
        "kubernetes.io/os": "linux",
    }
    return own | dict(spec.labels)


def node_document(
    spec: NodeSpec,
    capacity: Mapping[str, str],
    address: str,
    machine_id: str,
    now: float,
    pod_network: str = "",
) -> Document:
    """The Node to create."""
    metadata: Document = {"name": spec.name, "labels": node_labels(spec)}
    if spec.annotations:
        metadata["annotations"] = dict(spec.annotations)
    document: Document = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {}}
    if pod_network:
        document["spec"] |= pod_cidr(pod_network)
    if spec.taints:
        document["spec"]["taints"] = [dict(taint) for taint in spec.taints]
    document["status"] = node_status(spec, capacity, address, machine_id, {}, now)
    return document


def pod_cidr(network: str) -> Document:
    """The fields of a Node's spec that name its pods' network."""
    return {"podCIDR": network, "podCIDRs": [network]}


def node_status(
    spec: NodeSpec,
    capacity: Mapping[str, str],
    address: str,
    machine_id: str,
    before: Mapping[str, object],
    now: float,
    health: NodeHealth = WELL,
) -> Document:
    """The status that this agent stands for; conditions of others in ``before`` stay."""
    return {
        **before,
        "capacity": dict(capacity),
        "allocatable": dict(capacity),
        "conditions": _conditions(before, health, now),
        "addresses": [
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": spec.name},
        ],
        "declaredFeatures": list(DECLARED_FEATURES),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "nodeInfo": {
            "architecture": architecture(),
            "bootID": machine_id,
            "containerRuntimeVersion": f"kubarium://{__version__}",
            "kernelVersion": platform.release(),
            "kubeProxyVersion": KUBELET_VERSION,
            "kubeletVersion": KUBELET_VERSION,
            "machineID": machine_id,
            "operatingSystem": "linux",
            "osImage": f"Kubarium {__version__} on {platform.system()}",
            "systemUUID": machine_id,
        },
    }


def _conditions(before: Mapping[str, object], health: NodeHealth, now: float) -> list[Document]:
    wanted = [
        (kind, str(kind in health.pressures), *words[kind in health.pressures])
        for kind, words in _PRESSURES.items()
    ]
    if health.not_ready:
        wanted.append(("Ready", "False", "KubeletNotReady", health.not_ready))
    else:
        wanted.append(("Ready", "True", "KubeletReady", "kubelet is posting ready status"))
    found = before.get("conditions")
    known = {c.get("type", ""): c for c in found} if isinstance(found, list) else {}
    result = []
    for kind, status, reason, message in wanted:
        old = known.pop(kind, {})
        since = old["lastTransitionTime"] if old.get("status") == status else rfc3339(now)
        result.append(
            {
                "type": kind,
                "status": status,
                "lastHeartbeatTime": rfc3339(now),
                "lastTransitionTime": since,
                "reason": reason,
                "message": message,
            }
        )
    return [*known.values(), *result]


def lease_seconds(nodes: int) -> int:
    """How long a lease of one of ``nodes`` nodes lasts: 40 s, longer when there are thousands."""
    return max(LEASE_DURATION_S, int(4 * nodes / LEASES_PER_S))


def lease_document(node: Document, duration_s: int, now: float) -> Document:
    """The Lease that says that a node is alive."""
    name = node["metadata"]["name"]
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node["metadata"]["uid"]}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "namespace": LEASE_NAMESPACE,
            "ownerReferences": [owner],
        },
        "spec": {
            "holderIdentity": name,
            "leaseDurationSeconds": duration_s,
            "renewTime": rfc3339_micro(now),
        },
    }


# Events about a node's condition: its name with status True, and with another.
_EVENTS = {
    "MemoryPressure": ("NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
    "DiskPressure": ("NodeHasDiskPressure", "NodeHasNoDiskPressure"),
    "PIDPressure": ("NodeHasInsufficientPID", "NodeHasSufficientPID"),
    "Ready": ("NodeReady", "NodeNotReady"),
}


def changes(before: Iterable[Document], after: Iterable[Document]) -> list[str]:
    """Reasons of the events that tell how a node's conditions have changed."""
    known = {condition.get("type"): condition.get("status") for condition in before}
    return [
        _EVENTS[condition["type"]][condition["status"] != "True"]
        for condition in after
        if condition["type"] in _EVENTS
        and known.get(condition["type"], condition["status"]) != condition["status"]
    ]
