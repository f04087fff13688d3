"""Services: cluster IPs and node ports.

Cluster IPs come from the registry's ``service_range``: an address of loopback, where the node can
listen without any privilege, unless pods have a network of their own.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

from kubarium.api.resource import Document
from kubarium.api.validation.services import is_external, needs_health_check
from kubarium.base.errors import FieldError, invalid
from kubarium.server.registry import Registry
from kubarium.server.requests import Call

NODE_PORTS = range(30000, 32768)
HEADLESS = "None"
_PREFIX = "/core/services/"
_WITH_NODE_PORTS = ("NodePort", "LoadBalancer")


class _Used:
    """Addresses and node ports that stored services hold."""

    def __init__(self, registry: Registry, besides: str = "") -> None:
        """``besides`` is the uid of the service that is being written."""
        self.range = registry.service_range
        # The kubernetes service in default, wherever that is created in the order of things.
        self.api_address = str(self.range[1])
        self.addresses: dict[str, None] = {}
        self.ports: dict[int, None] = {}
        for record in registry.store.range(_PREFIX).records:
            if record.value["metadata"]["uid"] == besides:
                continue
            spec = record.value.get("spec") or {}
            for address in spec.get("clusterIPs") or ():
                self.addresses[address] = None
            for port in spec.get("ports") or ():
                if port.get("nodePort"):
                    self.ports[port["nodePort"]] = None


def prepare_create(registry: Registry, call: Call, service: Document) -> None:
    """Give addresses and node ports; ApiError 422 if a wanted one is taken or out of range."""
    service["status"] = {"loadBalancer": {}}
    spec = service.get("spec")
    if isinstance(spec, dict):
        _allocate(registry, service, spec, _Used(registry))


def prepare_update(registry: Registry, call: Call, new: Document, old: Document) -> None:
    """Keep what was allocated unless the service no longer has use for it."""
    spec, before = new.get("spec"), old.get("spec") or {}
    if not isinstance(spec, dict) or spec is before:
        return
    spec = new["spec"] = dict(spec)
    if spec.get("type") != "ExternalName" and before.get("type") != "ExternalName":
        for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if not spec.get(key) and before.get(key):
                spec[key] = before[key]
    _drop_what_the_type_had(spec, before)
    _keep_node_ports(spec, before)
    _allocate(registry, new, spec, _Used(registry, new["metadata"]["uid"]))


def _drop_what_the_type_had(spec: Document, before: Document) -> None:
    """Fields that the server filled in for a type that the service no longer has.

    A client that changes the type sends them back as they were; what it changed itself stays, to
    be refused. (Source: ``dropTypeDependentFields`` of the service's storage.)
    """
    was_balanced = before.get("type") == "LoadBalancer"
    if was_balanced and spec.get("type") != "LoadBalancer":
        for key in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            _drop_if_same(spec, before, key)
    if needs_health_check(before) and not needs_health_check(spec):
        _drop_if_same(spec, before, "healthCheckNodePort")
    if is_external(before) and not is_external(spec):
        _drop_if_same(spec, before, "externalTrafficPolicy")
    if before.get("type") in _WITH_NODE_PORTS and spec.get("type") not in _WITH_NODE_PORTS:
        known = {port.get("nodePort") for port in before.get("ports") or ()}
        spec["ports"] = [
            {k: v for k, v in port.items() if k != "nodePort" or v not in known}
            for port in spec.get("ports") or ()
        ]


def _drop_if_same(spec: Document, before: Document, key: str) -> None:
    if key in spec and spec[key] == before.get(key):
        del spec[key]


def _keep_node_ports(spec: Document, before: Document) -> None:
    if spec.get("type") not in _WITH_NODE_PORTS:
        return
    known = {
        (port.get("port"), port.get("protocol", "TCP")): port["nodePort"]
        for port in before.get("ports") or ()
        if port.get("nodePort")
    }
    spec["ports"] = [
        port
        if port.get("nodePort") or _id(port) not in known
        else port | {"nodePort": known[_id(port)]}
        for port in spec.get("ports") or ()
    ]


def _id(port: Document) -> tuple[Any, str]:
    return port.get("port"), port.get("protocol", "TCP")


def _allocate(registry: Registry, service: Document, spec: Document, used: _Used) -> None:
    if spec.get("type") == "ExternalName":
        for key in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            spec.pop(key, None)
        return
    spec.setdefault("ipFamilies", ["IPv4"])
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    wanted = spec.get("clusterIP") or next(iter(spec.get("clusterIPs") or ()), "")
    if wanted != HEADLESS:
        address = _address(service, wanted, used)
        spec["clusterIP"], spec["clusterIPs"] = address, [address]
    else:
        spec["clusterIP"], spec["clusterIPs"] = HEADLESS, [HEADLESS]
    if (
        spec.get("type") in _WITH_NODE_PORTS
        and spec.get("allocateLoadBalancerNodePorts") is not False
    ):
        _allocate_ports(service, spec, used)


def _address(service: Document, wanted: str, used: _Used) -> str:
    metadata = service["metadata"]
    if wanted:
        problem = _problem(wanted, used)
        if problem:
            quoted = f"failed to allocate IP {wanted}: {problem}"
            error = FieldError("Invalid", "spec.clusterIPs", [wanted], quoted)
            raise invalid("Service", "", metadata["name"], [error])
        return wanted
    if (metadata.get("namespace"), metadata["name"]) == ("default", "kubernetes"):
        return used.api_address
    for number in range(2, used.range.num_addresses - 1):
        address = str(used.range[number])
        if address not in used.addresses:
            return address
    error = FieldError(
        "Invalid", "spec.clusterIPs", [], "failed to allocate a serviceIP: range is full"
    )
    raise invalid("Service", "", metadata["name"], [error])


def _problem(wanted: str, used: _Used) -> str:
    """Why ``wanted`` cannot be had; "" if it can."""
    try:
        inside = IPv4Address(wanted) in used.range
    except ValueError:
        return "it is not a valid IPv4 address"
    if not inside:
        return f"the provided network does not match the current range: {used.range}"
    return "provided IP is already allocated" if wanted in used.addresses else ""


def _allocate_ports(service: Document, spec: Document, used: _Used) -> None:
    ports = []
    for index, port in enumerate(spec.get("ports") or ()):
        wanted = port.get("nodePort")
        if wanted:
            if wanted in used.ports:
                detail = "provided port is already allocated"
            elif wanted not in NODE_PORTS:
                detail = (
                    "provided port is not in the valid range. The range of valid ports is "
                    f"{NODE_PORTS.start}-{NODE_PORTS.stop - 1}"
                )
            else:
                detail = ""
            if detail:
                error = FieldError("Invalid", f"spec.ports[{index}].nodePort", wanted, detail)
                raise invalid("Service", "", service["metadata"]["name"], [error])
        else:
            wanted = next((number for number in NODE_PORTS if number not in used.ports), 0)
            port = port | {"nodePort": wanted}
        used.ports[wanted] = None
        ports.append(port)
    spec["ports"] = ports
