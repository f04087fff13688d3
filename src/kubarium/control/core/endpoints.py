"""What the endpoints of a Service are, and how they spread over EndpointSlices. Pure.

Source: upstream ``staging/src/k8s.io/endpointslice``. IPv4 only, as the node gives addresses.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import orjson

from kubarium.api.resource import Document
from kubarium.runtime.writes import condition_is_true, is_terminating, owner_reference
from kubarium.view.elastic import hostname_of

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
ZONE = "topology.kubernetes.io/zone"
MOST_PER_SLICE = 100
# Beyond this, legacy Endpoints are cut and marked (upstream maxCapacity).
MOST_IN_ENDPOINTS = 1000
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"


def is_headless(service: Document) -> bool:
    """clusterIP None."""
    return bool(service["spec"].get("clusterIP") == "None")


def has_endpoints(service: Document) -> bool:
    """Whether we make endpoints for it: with a selector, and not a mere DNS alias."""
    spec = service["spec"]
    return bool(spec.get("selector")) and spec.get("type") != "ExternalName"


def is_candidate(pod: Document) -> bool:
    """Has an address and has not ended."""
    status = pod.get("status") or {}
    return bool(status.get("podIP")) and status.get("phase") not in ("Succeeded", "Failed")


def endpoint_of(service: Document, pod: Document, node: Document | None) -> Document:
    """One entry of ``endpoints``."""
    metadata, spec = pod["metadata"], pod["spec"]
    serving = condition_is_true(pod.get("status") or {}, "Ready")
    terminating = is_terminating(pod)
    ready = (serving and not terminating) or bool(service["spec"].get("publishNotReadyAddresses"))
    endpoint: Document = {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    }
    hostname = hostname_of(pod)
    if hostname and spec.get("subdomain") == service["metadata"]["name"]:
        endpoint["hostname"] = hostname
    if spec.get("nodeName"):
        endpoint["nodeName"] = spec["nodeName"]
    labels = (node or {"metadata": {}})["metadata"].get("labels") or {}
    if labels.get(ZONE):
        endpoint["zone"] = labels[ZONE]
    return endpoint


def ports_of(service: Document, pod: Document) -> list[Document]:
    """The Service's ports as this pod offers them; a named port it does not have is left out."""
    ports: list[Document] = []
    for port in service["spec"].get("ports") or ():
        number = _target_port(port, pod)
        if number is None:
            continue
        entry: Document = {
            "name": port.get("name", ""),
            "port": number,
            "protocol": port.get("protocol", "TCP"),
        }
        if port.get("appProtocol"):
            entry["appProtocol"] = port["appProtocol"]
        ports.append(entry)
    return ports


def _target_port(port: Document, pod: Document) -> int | None:
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target or int(port["port"])
    containers = [
        *(c for c in pod["spec"].get("initContainers") or () if c.get("restartPolicy") == "Always"),
        *pod["spec"]["containers"],
    ]
    for container in containers:
        for candidate in container.get("ports") or ():
            same_protocol = candidate.get("protocol", "TCP") == port.get("protocol", "TCP")
            if candidate.get("name") == target and same_protocol:
                return int(candidate["containerPort"])
    return None


@dataclass(slots=True)
class SlicePlan:
    """What to write; ``update`` and ``create`` are whole documents."""

    create: list[Document] = field(default_factory=list)
    update: list[Document] = field(default_factory=list)
    delete: list[Document] = field(default_factory=list)


def plan_slices(
    service: Document, wanted: list[tuple[list[Document], Document]], held: list[Document]
) -> SlicePlan:
    """Bring the slices in line with ``wanted`` = (ports, endpoint) pairs, changing few of them.

    Endpoints stay in their slice; new ones fill slices that have room; the rest get new slices.
    """
    groups: dict[bytes, tuple[list[Document], dict[str, Document]]] = {}
    for ports, endpoint in wanted:
        _, endpoints = groups.setdefault(_key(ports), (ports, {}))
        endpoints[endpoint["targetRef"]["uid"]] = endpoint
    if not groups:  # one empty slice says that there is nothing
        groups[_key([])] = ([], {})
    plan = SlicePlan()
    by_ports: dict[bytes, list[Document]] = {}
    for item in held:
        key = _key(item.get("ports") or [])
        if key in groups and item.get("addressType") == "IPv4":
            by_ports.setdefault(key, []).append(item)
        else:
            plan.delete.append(item)
    for key, (ports, endpoints) in groups.items():
        _plan_group(service, ports, endpoints, by_ports.get(key, []), plan)
    return plan


def _key(ports: list[Document]) -> bytes:
    return orjson.dumps(ports, option=orjson.OPT_SORT_KEYS)


def _plan_group(
    service: Document,
    ports: list[Document],
    endpoints: dict[str, Document],
    held: list[Document],
    plan: SlicePlan,
) -> None:
    left = dict(endpoints)
    kept: list[tuple[Document, list[Document]]] = []
    for item in held:
        members: list[Document] = []
        for endpoint in item.get("endpoints") or ():
            current = left.pop((endpoint.get("targetRef") or {}).get("uid", ""), None)
            if current is not None:
                members.append(current)
        kept.append((item, members))
    # Slices that change anyway take new endpoints first, the fullest one first.
    rest = list(left.values())
    order = sorted(
        kept, key=lambda pair: (pair[1] == (pair[0].get("endpoints") or []), -len(pair[1]))
    )
    for _, members in order:
        room = MOST_PER_SLICE - len(members)
        members += rest[:room]
        rest = rest[room:]
    chunks = [rest[i : i + MOST_PER_SLICE] for i in range(0, len(rest), MOST_PER_SLICE)]
    remaining = len(chunks) + sum(1 for _, members in kept if members)
    if not remaining and not kept:
        chunks = [[]]
    for item, members in kept:
        if not members and (remaining or item is not kept[0][0]):
            plan.delete.append(item)
            continue
        document = _slice(service, ports, members, item)
        if document != item:
            plan.update.append(document)
    plan.create += [_slice(service, ports, chunk, None) for chunk in chunks]


def _slice(
    service: Document, ports: list[Document], endpoints: list[Document], held: Document | None
) -> Document:
    metadata = service["metadata"]
    labels = dict(metadata.get("labels") or {})
    labels.pop(HEADLESS, None)
    if is_headless(service):
        labels[HEADLESS] = ""
    labels |= {SERVICE_NAME: metadata["name"], MANAGED_BY: MANAGER}
    if held is not None:
        held_metadata = held["metadata"]
        if held_metadata.get("labels") != labels:
            held_metadata = {**held_metadata, "labels": labels}
        document = {**held, "metadata": held_metadata}
        parts: Document = {"endpoints": endpoints, "ports": ports}
        return document | {key: part for key, part in parts.items() if part or held.get(key)}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": f"{metadata['name']}-",
            "namespace": metadata["namespace"],
            "labels": labels,
            "ownerReferences": [owner_reference(service)],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    }


def legacy_endpoints(service: Document, wanted: list[tuple[list[Document], Document]]) -> Document:
    """The ``v1 Endpoints`` of a Service: addresses by port set, ready or not."""
    subsets: dict[bytes, Document] = {}
    cut = sorted(wanted, key=lambda pair: str(pair[1]["addresses"][0]))[:MOST_IN_ENDPOINTS]
    for ports, endpoint in cut:
        subset = subsets.setdefault(_key(ports), {"_ports": ports})
        terminating = endpoint["conditions"]["terminating"]
        if terminating and not service["spec"].get("publishNotReadyAddresses"):
            continue
        field_name = "addresses" if endpoint["conditions"]["ready"] else "notReadyAddresses"
        address = {"ip": endpoint["addresses"][0], "targetRef": endpoint["targetRef"]}
        for name in ("hostname", "nodeName"):
            if name in endpoint:
                address[name] = endpoint[name]
        subset.setdefault(field_name, []).append(address)
    metadata = service["metadata"]
    labels = dict(metadata.get("labels") or {})
    labels[MANAGED_BY] = "endpoint-controller"
    if is_headless(service):
        labels[HEADLESS] = ""
    document: Document = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": labels,
        },
    }
    if len(wanted) > MOST_IN_ENDPOINTS:
        document["metadata"]["annotations"] = {OVER_CAPACITY: "truncated"}
    filled = [_subset(subset) for _, subset in sorted(subsets.items()) if len(subset) > 1]
    if filled:
        document["subsets"] = filled
    return document


def _subset(subset: Document) -> Document:
    ports = [
        {key: value for key, value in port.items() if key != "name" or value}
        for port in subset["_ports"]
    ]
    result = {key: value for key, value in subset.items() if key != "_ports"}
    return {**result, "ports": ports} if ports else result
