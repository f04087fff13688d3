"""core/v1 Services: ports, addresses, and what each type demands.

Source: ``ValidateService`` and ``ValidateServiceUpdate`` of ``pkg/apis/core/validation``.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Key, Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.metadata import check_labels
from kubarium.api.validation.report import Report

_SPEC: Path = (None, "spec")
_ANNOTATIONS: Path = at(None, "metadata", "annotations")
HEADLESS = "None"
MAX_CLUSTER_IPS = 2
MAX_AFFINITY_S = 86_400
_FAMILIES = {"IPv4": 4, "IPv6": 6}
_TRAFFIC_POLICIES = ("Cluster", "Local")
_DISTRIBUTIONS = ("PreferClose", "PreferSameZone", "PreferSameNode")
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_HINTS = "service.kubernetes.io/topology-aware-hints"
_MODE = "service.kubernetes.io/topology-mode"
_SOURCE_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"
_ONLY_BALANCED = "may only be used when `type` is 'LoadBalancer'"
_NOT_EXTERNAL = "may not be set for ExternalName services"


def _is_headless(spec: Document) -> bool:
    addresses = spec.get("clusterIPs")
    return addresses == [HEADLESS] or (not addresses and spec.get("clusterIP") == HEADLESS)


def check_service(document: Document, report: Report) -> None:
    """core/v1 Service."""
    spec = document.get("spec") or {}
    annotations = (document.get("metadata") or {}).get("annotations") or {}
    type_ = spec.get("type") or "ClusterIP"
    headless = _is_headless(spec)
    ports = spec.get("ports") or []
    if annotations.get(_HINTS) != annotations.get(_MODE) and {_HINTS, _MODE} <= {*annotations}:
        detail = f"must match annotations[{_HINTS}] when both are specified"
        report.invalid(at(_ANNOTATIONS, Key(_MODE)), annotations[_MODE], detail)
    if not ports and not headless and type_ != "ExternalName":
        report.required(at(_SPEC, "ports"))
    if headless and type_ in ("NodePort", "LoadBalancer"):
        detail = f"may not be set to 'None' for {type_} services"
        report.invalid(at(_SPEC, "clusterIPs", 0), HEADLESS, detail)
    if type_ == "ExternalName":
        _check_external_name(spec, report)
    else:
        _check_addresses(spec, headless, report)
    _check_ports(ports, type_, report)
    check_labels(spec.get("selector") or {}, at(_SPEC, "selector"), report)
    _check_affinity(spec, report)
    for index, address in enumerate(spec.get("externalIPs") or ()):
        check_endpoint_address(address, at(_SPEC, "externalIPs", index), report)
    _check_balancer(spec, annotations, type_, report)
    _check_traffic(spec, type_, report)


def check_endpoint_address(address: str, path: Path, report: Report) -> None:
    """An address at which others can be reached."""
    if not report.format(path, address, formats.ip_address):
        return
    ip = ipaddress.ip_address(address)
    if ip.is_unspecified:
        report.invalid(path, address, f"may not be unspecified ({address})")
    elif ip.is_loopback:
        detail = "may not be in the loopback range (127.0.0.0/8, ::1/128)"
        report.invalid(path, address, detail)
    elif ip.is_link_local:
        detail = "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
        report.invalid(path, address, detail)
    elif ip in _LINK_LOCAL_MULTICAST[ip.version]:
        detail = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        report.invalid(path, address, detail)


_LINK_LOCAL_MULTICAST = {
    4: ipaddress.ip_network("224.0.0.0/24"),
    6: ipaddress.ip_network("ff02::/16"),
}


def _check_external_name(spec: Document, report: Report) -> None:
    for field in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        given = spec.get(field)
        if given or (field == "clusterIPs" and spec.get("clusterIP") not in (None, "", HEADLESS)):
            report.forbidden(at(_SPEC, field), _NOT_EXTERNAL)
    name = (spec.get("externalName") or "").removesuffix(".")
    report.required_format(at(_SPEC, "externalName"), name, formats.dns_subdomain)


# --- addresses -----------------------------------------------------------------------------------


def _check_addresses(spec: Document, headless: bool, report: Report) -> None:
    first, addresses = spec.get("clusterIP") or "", spec.get("clusterIPs") or []
    families = spec.get("ipFamilies") or []
    place = at(_SPEC, "clusterIPs")
    if addresses and not first:
        report.invalid(place, addresses, "must be empty when `clusterIP` is not specified")
    elif addresses and addresses[0] != first:
        report.invalid(place, addresses, "first value must match `clusterIP`")
    elif first and first != HEADLESS and not addresses:
        report.format(at(_SPEC, "clusterIP"), first, formats.ip_address)
    for index, family in enumerate(families):
        if family not in _FAMILIES:
            report.not_supported(at(_SPEC, "ipFamilies", index), family, _FAMILIES)
        if family in families[:index]:
            report.duplicate(at(_SPEC, "ipFamilies", index), family)
    fine = True
    for index, address in enumerate(addresses):
        if index == 0 and address == HEADLESS:
            if len(addresses) > 1:
                fine = False
                report.invalid(place, addresses, "'None' must be the first and only value")
        elif not report.format(at(place, index), address, formats.ip_address):
            fine = False
    if len(addresses) > MAX_CLUSTER_IPS:
        report.invalid(place, addresses, f"may only hold up to {MAX_CLUSTER_IPS} values")
    if fine and not headless:
        _check_families(addresses, families, place, report)


def _check_families(addresses: list[str], families: list[str], path: Path, report: Report) -> None:
    versions = [ipaddress.ip_address(address).version for address in addresses]
    if len(versions) > len(set(versions)):
        detail = "may specify no more than one IP for each IP family"
        report.invalid(path, addresses, detail)
    for index, (version, family) in enumerate(zip(versions, families, strict=False)):
        if family in _FAMILIES and _FAMILIES[family] != version:
            detail = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
            report.invalid(at(path, index), addresses[index], detail)


# --- ports ---------------------------------------------------------------------------------------


def _check_ports(ports: list[Document], type_: str, report: Report) -> None:
    names: set[str] = set()
    used: set[Any] = set()
    node_ports: set[Any] = set()
    for index, port in enumerate(ports):
        place = at(_SPEC, "ports", index)
        name, protocol = port.get("name") or "", port.get("protocol") or ""
        number, node_port = port.get("port") or 0, port.get("nodePort") or 0
        if not name and len(ports) > 1:
            report.required(at(place, "name"))
        elif name:
            report.format(at(place, "name"), name, formats.dns_label)
            report.unique(at(place, "name"), name, names)
        for complaint in formats.port_number(number):
            report.invalid(at(place, "port"), number, complaint)
        _check_target(port.get("targetPort"), at(place, "targetPort"), report)
        if port.get("appProtocol") is not None:
            spot = at(place, "appProtocol")
            report.format(spot, port["appProtocol"], formats.qualified_name)
        if node_port:
            if type_ == "ClusterIP":
                detail = "may not be used when `type` is 'ClusterIP'"
                report.forbidden(at(place, "nodePort"), detail)
            if (protocol, node_port) in node_ports:
                report.duplicate(at(place, "nodePort"), node_port)
            node_ports.add((protocol, node_port))
        if (protocol, number) in used:
            report.duplicate(place, {"port": number, "protocol": port.get("protocol")})
        used.add((protocol, number))


def _check_target(target: Any, path: Path, report: Report) -> None:
    if isinstance(target, str):
        report.format(path, target, formats.port_name)
    elif target:
        for complaint in formats.port_number(target):
            report.invalid(path, target, complaint)


# --- traffic -------------------------------------------------------------------------------------


def _check_affinity(spec: Document, report: Report) -> None:
    affinity, config = spec.get("sessionAffinity"), spec.get("sessionAffinityConfig")
    place = at(_SPEC, "sessionAffinityConfig")
    if affinity == "None" and config is not None:
        report.forbidden(place, "must not be set when session affinity is None")
    if affinity != "ClientIP":
        return
    wanted = "when session affinity type is ClientIP"
    client = (config or {}).get("clientIP")
    if config is None:
        report.required(place, wanted)
    elif client is None:
        report.required(at(place, "clientIP"), wanted)
    else:
        seconds = client.get("timeoutSeconds")
        spot = at(place, "clientIP", "timeoutSeconds")
        if seconds is None:
            report.required(spot, wanted)
        elif not 0 < seconds <= MAX_AFFINITY_S:
            report.invalid(spot, seconds, f"must be greater than 0 and less than {MAX_AFFINITY_S}")


def _check_balancer(
    spec: Document, annotations: dict[str, str], type_: str, report: Report
) -> None:
    """What only services of type LoadBalancer may say."""
    balanced = type_ == "LoadBalancer"
    ranges, place = (
        spec.get("loadBalancerSourceRanges") or [],
        at(_SPEC, "LoadBalancerSourceRanges"),
    )
    places = [at(place, index) for index in range(len(ranges))]
    if not ranges and _SOURCE_RANGES in annotations:
        place = at(_ANNOTATIONS, Key(_SOURCE_RANGES))
        text = annotations[_SOURCE_RANGES].strip()
        ranges = text.split(",") if text else []
        places = [place] * len(ranges)
        if not balanced:
            report.forbidden(place, _ONLY_BALANCED)
    elif ranges and not balanced:
        report.forbidden(place, _ONLY_BALANCED)
    for spot, network in zip(places, ranges, strict=True):
        report.format(spot, network.strip(), formats.cidr)
    if spec.get("allocateLoadBalancerNodePorts") is not None and not balanced:
        report.forbidden(at(_SPEC, "allocateLoadBalancerNodePorts"), _ONLY_BALANCED)
    name = spec.get("loadBalancerClass")
    if name is not None:
        spot = at(_SPEC, "loadBalancerClass")
        if balanced:
            report.format(spot, name, formats.qualified_name)
        else:
            report.forbidden(spot, _ONLY_BALANCED)


def is_external(spec: Document) -> bool:
    """Whether clients from outside reach a service: by ports of nodes or by external addresses."""
    type_ = spec.get("type") or "ClusterIP"
    return type_ in ("NodePort", "LoadBalancer") or (
        type_ == "ClusterIP" and bool(spec.get("externalIPs"))
    )


def needs_health_check(spec: Document) -> bool:
    """Whether a load balancer asks nodes if they have a pod of the service."""
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def _check_traffic(spec: Document, type_: str, report: Report) -> None:
    policy, place = spec.get("externalTrafficPolicy") or "", at(_SPEC, "externalTrafficPolicy")
    if not is_external(spec):
        if policy:
            report.invalid(place, policy, "may only be set for externally-accessible services")
    elif not policy:
        report.required(place)
    check_port = spec.get("healthCheckNodePort") or 0
    place = at(_SPEC, "healthCheckNodePort")
    if check_port and not needs_health_check(spec):
        detail = (
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        )
        report.invalid(place, check_port, detail)
    elif check_port:
        for complaint in formats.port_number(check_port):
            report.invalid(place, check_port, complaint)
    internal = spec.get("internalTrafficPolicy")
    if internal is None and type_ != "ExternalName":
        report.required(at(_SPEC, "internalTrafficPolicy"))
    elif internal is not None and internal not in _TRAFFIC_POLICIES:
        report.not_supported(at(_SPEC, "internalTrafficPolicy"), internal, _TRAFFIC_POLICIES)
    distribution = spec.get("trafficDistribution")
    if distribution is not None and distribution not in _DISTRIBUTIONS:
        report.not_supported(at(_SPEC, "trafficDistribution"), distribution, _DISTRIBUTIONS)


# --- changes -------------------------------------------------------------------------------------

_SET_ONCE = "may not change once set"


def check_service_update(new: Document, old: Document, report: Report) -> None:
    """The primary cluster IP and family stay while the Service keeps having them."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    if "ExternalName" not in (after.get("type"), before.get("type")):
        _check_kept_addresses(after, before, report)
        _check_kept_families(after, before, report)
    both = {after.get("type"), before.get("type")}
    name = "loadBalancerClass"
    if both == {"LoadBalancer"} and after.get(name) != before.get(name):
        report.invalid(at(_SPEC, name), after.get(name), _SET_ONCE)
    if needs_health_check(after) and needs_health_check(before):
        field = "healthCheckNodePort"
        if (after.get(field) or 0) != (before.get(field) or 0):
            report.forbidden(at(_SPEC, field), "field is immutable")


def _addresses(spec: Document) -> list[str]:
    given: list[str] = spec.get("clusterIPs") or []
    return given or ([spec["clusterIP"]] if spec.get("clusterIP") else [])


def _check_kept_addresses(after: Document, before: Document, report: Report) -> None:
    new, old = _addresses(after), _addresses(before)
    place = at(_SPEC, "clusterIPs", 0)
    if _is_headless(after) and _is_headless(before):
        return
    if len(new) == len(old):
        for index, address in enumerate(old):
            if address != new[index]:
                report.invalid(at(_SPEC, "clusterIPs", index), new, _SET_ONCE)
        return
    if old and not new:
        report.invalid(place, new, "primary clusterIP can not be unset")
    elif old and new[0] != old[0]:
        report.invalid(place, new, _SET_ONCE)
    if len(old) > len(new) == 1 and after.get("ipFamilyPolicy") != "SingleStack":
        detail = "must be set to 'SingleStack' when releasing the secondary clusterIP"
        report.invalid(at(_SPEC, "ipFamilyPolicy"), after.get("ipFamilyPolicy"), detail)


def _check_kept_families(after: Document, before: Document, report: Report) -> None:
    new, old = after.get("ipFamilies") or [], before.get("ipFamilies") or []
    if _is_headless(after) or _is_headless(before):
        return
    place = at(_SPEC, "ipFamilies", 0)
    if len(new) == len(old):
        for index, family in enumerate(old):
            if family != new[index]:
                report.invalid(place, new, _SET_ONCE)
        return
    if old and new and new[0] != old[0]:
        report.invalid(place, new, _SET_ONCE)
    if len(old) > len(new) == 1 and after.get("ipFamilyPolicy") != "SingleStack":
        detail = "must be set to 'SingleStack' when releasing the secondary ipFamily"
        report.invalid(at(_SPEC, "ipFamilyPolicy"), after.get("ipFamilyPolicy"), detail)
