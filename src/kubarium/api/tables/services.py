"""Services and what routes to them."""

from __future__ import annotations

from typing import Any

from kubarium.api.resource import Document
from kubarium.api.tables.columns import (
    NONE,
    UNSET,
    Printer,
    age,
    joined_labels,
    printer,
    selector_text,
    spec_of,
    status_of,
)

_SHOWN = 3  # addresses and ports beyond this are counted only
_LOAD_BALANCER_WIDTH = 16


def _service(d: Document, now: float) -> list[Any]:
    spec = spec_of(d)
    ports = []
    for port in spec.get("ports") or ():
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        ports.append(f"{port.get('port')}{node}/{port.get('protocol', 'TCP')}")
    addresses = spec.get("clusterIPs") or ()
    return [
        spec.get("type", ""),
        (addresses[0] if addresses else spec.get("clusterIP")) or NONE,
        _external(d),
        ",".join(ports) or NONE,
        age(d, now),
        joined_labels(spec.get("selector")),
    ]


def _external(d: Document) -> str:
    spec = spec_of(d)
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", ""))
    listed = list(spec.get("externalIPs") or ())
    if spec.get("type") == "LoadBalancer":
        listed = [*_ingress_addresses(d), *listed]
        return ",".join(listed) or "<pending>"
    return ",".join(listed) or NONE


def _ingress_addresses(d: Document) -> list[str]:
    entries = (status_of(d).get("loadBalancer") or {}).get("ingress") or ()
    return [entry.get("ip") or entry.get("hostname") or "" for entry in entries]


def _limited(texts: list[str], empty: str) -> str:
    if not texts:
        return empty
    more = len(texts) - _SHOWN
    shown = ",".join(texts[:_SHOWN])
    return f"{shown} + {more} more..." if more > 0 else shown


def _endpoints(d: Document, now: float) -> list[Any]:
    pairs = []
    for subset in d.get("subsets") or ():
        ports = subset.get("ports") or [None]
        for port in ports:
            for address in subset.get("addresses") or ():
                host = address.get("ip", "")
                pairs.append(f"{host}:{port.get('port')}" if port else host)
    return [_limited(pairs, NONE), age(d, now)]


def _endpoint_slice(d: Document, now: float) -> list[Any]:
    ports = [_slice_port(port) for port in d.get("ports") or ()]
    hosts = [host for e in d.get("endpoints") or () for host in e.get("addresses") or ()]
    return [
        d.get("addressType", ""),
        _limited(ports, UNSET),
        _limited(hosts, UNSET),
        age(d, now),
    ]


def _slice_port(port: Document) -> str:
    number = port.get("port")
    return "*" if number is None else str(number)


def _ingress(d: Document, now: float) -> list[Any]:
    spec = spec_of(d)
    hosts = [rule.get("host") or "*" for rule in spec.get("rules") or ()]
    more = len(hosts) - _SHOWN
    shown = ",".join(hosts[:_SHOWN]) or "*"
    addresses = ",".join(_ingress_addresses(d))
    if len(addresses) > _LOAD_BALANCER_WIDTH:
        addresses = f"{addresses[: _LOAD_BALANCER_WIDTH - 3]}..."
    return [
        spec.get("ingressClassName") or NONE,
        f"{shown} + {more} more..." if more > 0 else shown,
        addresses,
        "80, 443" if spec.get("tls") else "80",
        age(d, now),
    ]


def _ingress_class(d: Document, now: float) -> list[Any]:
    parameters = spec_of(d).get("parameters")
    shown = NONE
    if parameters:
        group = parameters.get("apiGroup")
        kind = f"{parameters.get('kind')}.{group}" if group else parameters.get("kind")
        shown = f"{kind}/{parameters.get('name')}"
    return [spec_of(d).get("controller", ""), shown, age(d, now)]


def _network_policy(d: Document, now: float) -> list[Any]:
    return [selector_text(spec_of(d).get("podSelector")), age(d, now)]


def _service_cidr(d: Document, now: float) -> list[Any]:
    return [",".join(spec_of(d).get("cidrs") or ()), age(d, now)]


def _ip_address(d: Document, now: float) -> list[Any]:
    parent = spec_of(d).get("parentRef") or {}
    parts = [parent.get(key) for key in ("resource", "namespace", "name")]
    group = parent.get("group")
    if group:
        parts[0] = f"{parts[0]}.{group}"
    return ["/".join(str(part) for part in parts if part) or NONE, age(d, now)]


PRINTERS: dict[tuple[str, str], Printer] = {
    ("", "Service"): printer("Type|Cluster-IP|External-IP|Port(s)|Age|+Selector", _service),
    ("", "Endpoints"): printer("Endpoints|Age", _endpoints),
    ("discovery.k8s.io", "EndpointSlice"): printer(
        "AddressType|Ports|Endpoints|Age", _endpoint_slice
    ),
    ("networking.k8s.io", "Ingress"): printer("Class|Hosts|Address|Ports|Age", _ingress),
    ("networking.k8s.io", "IngressClass"): printer("Controller|Parameters|Age", _ingress_class),
    ("networking.k8s.io", "NetworkPolicy"): printer("Pod-Selector|Age", _network_policy),
    ("networking.k8s.io", "ServiceCIDR"): printer("CIDRs|Age", _service_cidr),
    ("networking.k8s.io", "IPAddress"): printer("ParentRef|Age", _ip_address),
}
