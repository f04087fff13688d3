"""Nodes, pods, devices and gangs of scheduler_perf's shapes, as documents.

Source: ``test/integration/scheduler_perf/*/performance-config.yaml`` and the templates beside them.
"""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]

HOSTNAME = "kubernetes.io/hostname"
ZONE = "topology.kubernetes.io/zone"
RACK = "kubarium.dev/rack"
DRIVER = "gpu.example.com"
PARTITIONED = "partitioned.example.com"
DAEMON_NODE = "scheduler-perf-node"
NVIDIA = "gpu.nvidia.com"
NVIDIA_CEL = f'device.driver == "{NVIDIA}"'
MATCHING = f'device.attributes["{DRIVER}"].model == "A100"'


# Nodes


def node(number: int, *, cpu: str = "4", zones: int = 3, racks: int = 50) -> Document:
    """node-default: 4 cpu, 32 GiB, 110 pods; an object that no kubelet stands behind."""
    name = f"node-{number:05d}"
    labels = {
        HOSTNAME: name,
        ZONE: f"zone-{number % zones}",
        RACK: f"rack-{number % racks:03d}",
    }
    return _node(name, cpu, "110", labels)


def daemon_node() -> Document:
    """node-with-name: the one node to which all pods of the DaemonSet shape are pinned."""
    return _node(DAEMON_NODE, "4", "90000", {HOSTNAME: DAEMON_NODE})


def _node(name: str, cpu: str, pods: str, labels: dict[str, str]) -> Document:
    amounts = {"cpu": cpu, "memory": "32Gi", "pods": pods}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


# Pods


def pod(
    cpu: str = "100m",
    memory: str = "500Mi",
    *,
    labels: dict[str, str] | None = None,
    prefix: str = "pod-",
    **spec: Any,
) -> Document:
    """pod-default: one pause container that asks for 100m cpu and 500 MiB."""
    container: Document = {"name": "pause", "image": "registry.k8s.io/pause:3.10.1"}
    if cpu:
        container["resources"] = {"requests": {"cpu": cpu, "memory": memory}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": prefix, "labels": labels or {"app": "bench"}},
        "spec": {"containers": [container], **spec},
    }


def low_priority() -> Document:
    return pod("900m", prefix="low-", terminationGracePeriodSeconds=0)


def high_priority() -> Document:
    return pod("3", prefix="high-", priorityClassName="high", terminationGracePeriodSeconds=0)


def daemon_pod() -> Document:
    field = {"key": "metadata.name", "operator": "In", "values": [DAEMON_NODE]}
    required = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    return pod("", prefix="daemonset-", affinity=affinity)


def in_zones(*zones: str) -> Document:
    expression = {"key": ZONE, "operator": "In", "values": list(zones)}
    required = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    return pod(prefix="node-affinity-", affinity=affinity)


def attracted(
    color: str, topology: str, *, anti: bool = False, preferred: bool = False
) -> Document:
    """A pod with (anti-)affinity to pods of its own color."""
    term: Document = {
        "labelSelector": {"matchLabels": {"color": color}},
        "topologyKey": topology,
        "namespaces": ["default"],
    }
    if preferred:
        wish = {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": term}
            ]
        }
    else:
        wish = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    affinity = {"podAntiAffinity" if anti else "podAffinity": wish}
    return pod(prefix="affinity-", labels={"color": color}, affinity=affinity)


def spread(*, hard: bool) -> Document:
    constraint = {
        "maxSkew": 5,
        "topologyKey": ZONE,
        "whenUnsatisfiable": "DoNotSchedule" if hard else "ScheduleAnyway",
        "labelSelector": {"matchLabels": {"color": "blue"}},
    }
    return pod(prefix="spread-", labels={"color": "blue"}, topologySpreadConstraints=[constraint])


def member(group: str) -> Document:
    return pod(memory="100Mi", prefix=f"{group}-", schedulingGroup={"podGroupName": group})


def gang(name: str, size: int, topology: str = "") -> Document:
    spec: Document = {"schedulingPolicy": {"gang": {"minCount": size}}}
    if topology:
        spec["schedulingConstraints"] = {"topology": [{"key": topology}]}
    return _object("scheduling.k8s.io/v1beta1", "PodGroup", name, spec)


def priority_class() -> Document:
    return _object("scheduling.k8s.io/v1", "PriorityClass", "high", None) | {"value": 10}


def service(name: str) -> Document:
    ports = [{"port": 80, "protocol": "TCP"}]
    return _object("v1", "Service", name, {"selector": {"app": "churn"}, "ports": ports})


# Devices


def device_class(
    cel: str = "", *, driver: str = DRIVER, extended: str = "", name: str = ""
) -> Document:
    """``extended``: the extended resource that pods may ask for instead of making a claim."""
    name = name or driver.partition(".")[0]
    spec: Document = {"selectors": [{"cel": {"expression": cel}}]} if cel else {}
    if extended:
        spec["extendedResourceName"] = extended
    return _object("resource.k8s.io/v1", "DeviceClass", name, spec)


def slice_of_gpus(node_name: str, devices: int, *, shared: bool = False) -> Document:
    """Whole devices; ``shared`` ones can be allocated many times, 8 GiB of their memory a time."""
    listed = []
    for index in range(devices):
        memory: Document = {"value": "80Gi"}
        device: Document = {
            "name": f"gpu-{index}",
            "attributes": {"model": {"string": "A100"}, "index": {"int": index}},
            "capacity": {"memory": memory},
        }
        if shared:
            device["allowMultipleAllocations"] = True
            memory["requestPolicy"] = {"default": "8Gi", "validValues": ["8Gi", "16Gi"]}
        listed.append(device)
    return _slice(node_name, DRIVER, {"devices": listed}, f"{node_name}-gpus")


# A chip is one whole, two halves or four quarters.
_PARTS = {"whole": 1, "half": 2, "quarter": 4}


def partition_slices(node_name: str, chips: int) -> list[Document]:
    """Chips that share counters with their partitions: one slice of counters, one of devices."""
    counters, devices = [], []
    for chip in range(chips):
        counters.append({"name": f"chip-{chip}", "counters": {"memory": {"value": "40Gi"}}})
        for kind, parts in _PARTS.items():
            used = {"memory": {"value": f"{40 // parts}Gi"}}
            for index in range(parts):
                device = {
                    "name": f"chip-{chip}-{kind}-{index}",
                    "attributes": {"chip": {"int": chip}, "kind": {"string": kind}},
                    "consumesCounters": [{"counterSet": f"chip-{chip}", "counters": used}],
                }
                devices.append(device)
    pool = {"name": node_name, "generation": 1, "resourceSliceCount": 2}
    return [
        _slice(node_name, PARTITIONED, {"sharedCounters": counters}, f"{node_name}-counters", pool),
        _slice(node_name, PARTITIONED, {"devices": devices}, f"{node_name}-parts", pool),
    ]


def _slice(
    node_name: str, driver: str, content: Document, name: str, pool: Document | None = None
) -> Document:
    pool = pool or {"name": node_name, "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": driver, "nodeName": node_name, "pool": pool, **content}
    return _object("resource.k8s.io/v1", "ResourceSlice", name, spec)


def one_device(cel: str = "", class_name: str = "gpu") -> Document:
    """A claim's spec: one device, with or without a selector of its own."""
    return {"devices": {"requests": [_request("gpu", class_name, cel)]}}


def shared_memory() -> Document:
    """A claim's spec: 8 GiB of a device that others use too (consumable capacity)."""
    return part_of_device({"memory": "8Gi"})


def part_of_device(amounts: dict[str, str], class_name: str = "gpu") -> Document:
    """A claim's spec: these amounts of a device that others use too."""
    request = _request("gpu", class_name)
    request["exactly"]["capacity"] = {"requests": amounts}
    return {"devices": {"requests": [request]}}


def with_backtracking() -> Document:
    """A claim's spec that the first choice makes infeasible.

    Any device, and a half of the same chip: who takes a whole chip for the first request, which is
    the first device in the list, finds no half left on it and has to come back.
    """
    selector = f'device.attributes["{PARTITIONED}"].kind == "half"'
    requests = [_request("any", "partitioned"), _request("half", "partitioned", selector)]
    same_chip = {"requests": ["any", "half"], "matchAttribute": f"{PARTITIONED}/chip"}
    return {"devices": {"requests": requests, "constraints": [same_chip]}}


def with_backtracking_mig() -> Document:
    """The same of GPUs that can be cut into instances: a whole one, first in the list, leaves none.

    Its class takes whole GPUs and instances alike: ``device_class(NVIDIA_CEL, driver=NVIDIA)``.
    """
    of_driver = f'device.attributes["{NVIDIA}"]'
    selector = f'{of_driver}.type == "mig" && {of_driver}.profile == "3g.20gb"'
    requests = [_request("any", "gpu"), _request("half", "gpu", selector)]
    same_gpu = {
        "requests": ["any", "half"],
        "matchAttribute": "resource.kubernetes.io/pciBusID",
    }
    return {"devices": {"requests": requests, "constraints": [same_gpu]}}


def _request(name: str, class_name: str, cel: str = "") -> Document:
    exactly: Document = {"deviceClassName": class_name, "count": 1}
    if cel:
        exactly["selectors"] = [{"cel": {"expression": cel}}]
    return {"name": name, "exactly": exactly}


def claim_template(spec: Document) -> Document:
    return _object("resource.k8s.io/v1", "ResourceClaimTemplate", "device", {"spec": spec})


def with_claim() -> Document:
    """A pod whose claim is made from the template."""
    made = pod(
        prefix="claims-",
        resourceClaims=[{"name": "device", "resourceClaimTemplateName": "device"}],
    )
    made["spec"]["containers"][0]["resources"]["claims"] = [{"name": "device"}]
    return made


def device_for_group(number: int) -> list[Document]:
    """A device that all nodes reach, the claim for one like it, and the group whose claim it is."""
    pool = {"name": f"pool-{number:03d}", "generation": 1, "resourceSliceCount": 1}
    offered = {"driver": DRIVER, "pool": pool, "allNodes": True, "devices": [{"name": "device"}]}
    group = {
        "schedulingPolicy": {"basic": {}},
        "resourceClaims": [{"name": "device", "resourceClaimName": f"shared-{number:03d}"}],
    }
    return [
        _object("resource.k8s.io/v1", "ResourceSlice", f"shared-{number:03d}", offered),
        _object("resource.k8s.io/v1", "ResourceClaim", f"shared-{number:03d}", one_device()),
        _object("scheduling.k8s.io/v1beta1", "PodGroup", f"sharing-{number:03d}", group),
    ]


def sharing(number: int) -> Document:
    """A pod of that group, which uses the group's claim."""
    made = member(f"sharing-{number:03d}")
    named = {"name": "device", "resourceClaimName": f"shared-{number:03d}"}
    made["spec"]["resourceClaims"] = [named]
    made["spec"]["containers"][0]["resources"]["claims"] = [{"name": "device"}]
    return made


def with_extended_resource(name: str) -> Document:
    made = pod(prefix="extended-")
    amounts = made["spec"]["containers"][0]["resources"]
    amounts["requests"][name] = "1"
    amounts["limits"] = {name: "1"}
    return made


def _object(version: str, kind: str, name: str, spec: Document | None) -> Document:
    document: Document = {"apiVersion": version, "kind": kind, "metadata": {"name": name}}
    if spec is not None:
        document["spec"] = spec
    return document
