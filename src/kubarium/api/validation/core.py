"""core/v1, discovery and coordination kinds other than pods."""

from __future__ import annotations

import ipaddress
from itertools import pairwise
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Key, Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.metadata import check_labels
from kubarium.api.validation.quantities import amount
from kubarium.api.validation.report import NOT_NEGATIVE, NOT_POSITIVE, Report

_SPEC: Path = (None, "spec")
MAX_DATA = 1024 * 1024  # bytes of a Secret's or ConfigMap's values
MAX_EVENT_NOTE = 1024
MAX_ENDPOINTS = 1000
MAX_ENDPOINT_ADDRESSES = 100
MAX_SLICE_PORTS = 20_000


# --- Service -------------------------------------------------------------------------------------


def check_service(document: Document, report: Report) -> None:
    """core/v1 Service: ports, selector, addresses, and what each type demands."""
    spec = document.get("spec") or {}
    type_ = spec.get("type") or "ClusterIP"
    headless = spec.get("clusterIP") == "None"
    ports = spec.get("ports") or []
    if not ports and not headless and type_ != "ExternalName":
        report.required(at(_SPEC, "ports"))
    _check_service_ports(ports, type_, report)
    check_labels(spec.get("selector") or {}, at(_SPEC, "selector"), report)
    for field in ("clusterIP", "loadBalancerIP"):
        value = spec.get(field)
        if value and value != "None":
            report.format(at(_SPEC, field), value, formats.ip_address)
    for index, address in enumerate(spec.get("externalIPs") or ()):
        report.format(at(_SPEC, "externalIPs", index), address, formats.ip_address)
    if headless and type_ in ("NodePort", "LoadBalancer"):
        detail = f"may not be set to 'None' for {type_} services"
        report.invalid(at(_SPEC, "clusterIPs", 0), "None", detail)
    if type_ == "ExternalName":
        _check_external_name(spec, report)
    for index, network in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        report.format(at(_SPEC, "loadBalancerSourceRanges", index), network, formats.cidr)


def _check_external_name(spec: Document, report: Report) -> None:
    name = (spec.get("externalName") or "").rstrip(".")
    if not name:
        report.required(at(_SPEC, "externalName"))
    else:
        report.format(at(_SPEC, "externalName"), name, formats.dns_subdomain)
    if spec.get("clusterIP") not in (None, "", "None"):
        detail = "may not be set for ExternalName services"
        report.forbidden(at(_SPEC, "clusterIPs"), detail)


def _check_service_ports(ports: list[Document], type_: str, report: Report) -> None:
    names: set[str] = set()
    used: set[Any] = set()
    for index, port in enumerate(ports):
        place = at(_SPEC, "ports", index)
        name = port.get("name") or ""
        if not name and len(ports) > 1:
            report.required(at(place, "name"))
        elif name and report.format(at(place, "name"), name, formats.dns_label):
            report.unique(at(place, "name"), name, names)
        number = port.get("port") or 0
        for complaint in formats.port_number(number):
            report.invalid(at(place, "port"), number, complaint)
        target = port.get("targetPort")
        if isinstance(target, str):
            report.format(at(place, "targetPort"), target, formats.port_name)
        elif target:
            for complaint in formats.port_number(target):
                report.invalid(at(place, "targetPort"), target, complaint)
        key = (port.get("protocol"), number)
        if key in used:
            report.duplicate(place, {"port": number, "protocol": port.get("protocol")})
        used.add(key)
        if port.get("nodePort") and type_ == "ClusterIP":
            detail = "may not be used when `type` is 'ClusterIP'"
            report.forbidden(at(place, "nodePort"), detail)


def check_service_update(new: Document, old: Document, report: Report) -> None:
    """The primary cluster IP stays while the Service keeps having one."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    if "ExternalName" in (after.get("type"), before.get("type")):
        return
    was = before.get("clusterIP")
    if was and after.get("clusterIP") != was:
        value = [after["clusterIP"]] if after.get("clusterIP") else None
        report.invalid(at(_SPEC, "clusterIPs", 0), value, "may not change once set")


# --- configuration -------------------------------------------------------------------------------


def _data_size(values: dict[str, Any]) -> int:
    return sum(len(value) for value in values.values() if isinstance(value, str))


def check_config_map(document: Document, report: Report) -> None:
    """core/v1 ConfigMap."""
    data, binary = document.get("data") or {}, document.get("binaryData") or {}
    for field, values in (("data", data), ("binaryData", binary)):
        for key in values:
            report.format(at(None, field, Key(key)), key, formats.config_map_key)
    for key in data:
        if key in binary:
            detail = "duplicate of key present in binaryData"
            report.invalid(at(None, "data", Key(key)), key, detail)
    if _data_size(data) + _data_size(binary) > MAX_DATA:
        report.too_long(None, MAX_DATA)


_SECRET_KEYS = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}


def check_secret(document: Document, report: Report) -> None:
    """core/v1 Secret: keys, size, and what its type promises."""
    data = document.get("data") or {}
    for key in data:
        report.format(at(None, "data", Key(key)), key, formats.config_map_key)
    if _data_size(data) * 3 // 4 > MAX_DATA:
        report.too_long((None, "data"), MAX_DATA)
    type_ = document.get("type") or ""
    strings = document.get("stringData") or {}
    for key in _SECRET_KEYS.get(type_, ()):
        if key not in data and key not in strings:
            report.required(at(None, "data", Key(key)))
    if type_ == "kubernetes.io/basic-auth" and not {"username", "password"} & {*data, *strings}:
        report.required(at(None, "data", Key("username")))
    if type_ == "kubernetes.io/service-account-token":
        annotations = (document.get("metadata") or {}).get("annotations") or {}
        key = "kubernetes.io/service-account.name"
        if not annotations.get(key):
            report.required(at(None, "metadata", "annotations", Key(key)))


_IMMUTABLE_DATA = "field is immutable when `immutable` is set"


def check_immutable_data(new: Document, old: Document, report: Report) -> None:
    """ConfigMaps and Secrets that were marked immutable stay as they are."""
    if old.get("type") is not None:
        report.immutable((None, "type"), new.get("type"), old.get("type"))
    if not old.get("immutable"):
        return
    if not new.get("immutable"):
        report.forbidden((None, "immutable"), _IMMUTABLE_DATA)
    for field in ("data", "binaryData"):
        if (new.get(field) or None) != (old.get(field) or None):
            report.forbidden((None, field), _IMMUTABLE_DATA)


# --- nodes, namespaces, events -------------------------------------------------------------------


MAX_PREEMPTION_OWNERS = 20


def check_node(document: Document, report: Report) -> None:
    """core/v1 Node: taints, pod CIDRs, amounts."""
    spec = document.get("spec") or {}
    seen: set[Any] = set()
    for index, taint in enumerate(spec.get("taints") or ()):
        place = at(_SPEC, "taints", index)
        key, effect = taint.get("key") or "", taint.get("effect")
        if key:
            report.format(at(place, "key"), key, formats.qualified_name)
        report.format(at(place, "value"), taint.get("value") or "", formats.label_value)
        if (key, effect) in seen:
            report.duplicate(place, taint)
        seen.add((key, effect))
    _check_preemption_policy(spec.get("podPreemptionPolicy") or {}, report)
    for index, network in enumerate(spec.get("podCIDRs") or ()):
        report.format(at(_SPEC, "podCIDRs", index), network, formats.cidr)
    for field in ("capacity", "allocatable"):
        for name, quantity in ((document.get("status") or {}).get(field) or {}).items():
            if amount(quantity) < 0:
                report.invalid(at(None, "status", field, Key(name)), quantity, NOT_NEGATIVE)


def _check_preemption_policy(policy: Document, report: Report) -> None:
    """Who forbids preemption for resizes on the node (KEP-5836): a set of label keys."""
    place = at(_SPEC, "podPreemptionPolicy", "disableResizePreemption")
    owners = policy.get("disableResizePreemption") or ()
    if len(owners) > MAX_PREEMPTION_OWNERS:
        report.too_many(place, len(owners), MAX_PREEMPTION_OWNERS)
    for index, owner in enumerate(owners):
        report.format(at(place, index), owner, formats.qualified_name)
        if owner in owners[:index]:
            report.duplicate(at(place, index), owner)


def check_node_update(new: Document, old: Document, report: Report) -> None:
    """A provider ID and pod CIDRs may be set once."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    for field in ("podCIDR", "podCIDRs", "providerID"):
        if before.get(field) and after.get(field) != before[field]:
            detail = 'node updates may not change podCIDR except from "" to valid'
            if field == "providerID":
                detail = 'node updates may not change providerID except from "" to valid'
            report.forbidden(at(_SPEC, field), detail)


def check_event(document: Document, report: Report) -> None:
    """core/v1 Event: it stands where what it is about stands."""
    namespace = (document.get("metadata") or {}).get("namespace") or ""
    about = document.get("involvedObject") or {}
    expected = about.get("namespace") or "default"
    if namespace != expected:
        detail = "does not match event.namespace"
        report.invalid(at(None, "involvedObject", "namespace"), about.get("namespace", ""), detail)
    if len((document.get("message") or "").encode()) > MAX_EVENT_NOTE and document.get("eventTime"):
        detail = f"can have at most {MAX_EVENT_NOTE} characters"
        report.invalid((None, "message"), "", detail)


# --- endpoints -----------------------------------------------------------------------------------


def check_endpoints(document: Document, report: Report) -> None:
    """core/v1 Endpoints."""
    for index, subset in enumerate(document.get("subsets") or ()):
        place = at(None, "subsets", index)
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            detail = "must specify `addresses` or `notReadyAddresses`"
            report.required(place, detail)
        for field in ("addresses", "notReadyAddresses"):
            for position, address in enumerate(subset.get(field) or ()):
                if address.get("ip"):
                    spot = at(place, field, position, "ip")
                    report.format(spot, address["ip"], formats.ip_address)


_FAMILY = {"IPv4": 4, "IPv6": 6}


def check_endpoint_slice(document: Document, report: Report) -> None:
    """discovery.k8s.io/v1 EndpointSlice."""
    family = document.get("addressType")
    endpoints = document.get("endpoints") or []
    if len(endpoints) > MAX_ENDPOINTS:
        report.too_many((None, "endpoints"), len(endpoints), MAX_ENDPOINTS)
    for index, endpoint in enumerate(endpoints):
        place = at(None, "endpoints", index, "addresses")
        addresses = endpoint.get("addresses") or []
        if len(addresses) > MAX_ENDPOINT_ADDRESSES:
            report.too_many(place, len(addresses), MAX_ENDPOINT_ADDRESSES)
        for position, address in enumerate(addresses):
            _check_slice_address(address, family, at(place, position), report)
    names: set[str] = set()
    for index, port in enumerate(document.get("ports") or ()):
        place = at(None, "ports", index, "name")
        name = port.get("name") or ""
        report.unique(place, name, names)
        if name:
            report.format(place, name, formats.dns_label)


def _check_slice_address(address: str, family: Any, path: Path, report: Report) -> None:
    if family == "FQDN":
        report.format(path, address, formats.dns_subdomain)
        return
    if not report.format(path, address, formats.ip_address):
        return
    if ipaddress.ip_address(address).version != _FAMILY.get(str(family)):
        report.invalid(path, address, f"must be an {family} address")


def check_endpoint_slice_update(new: Document, old: Document, report: Report) -> None:
    """The address family of a slice stays."""
    report.immutable((None, "addressType"), new.get("addressType"), old.get("addressType"))


# --- storage -------------------------------------------------------------------------------------

_ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")


def _check_access_modes(modes: list[Any], path: Path, report: Report) -> None:
    if not modes:
        report.required(path, "at least 1 access mode is required")
    for mode in modes:
        if mode not in _ACCESS_MODES:
            report.not_supported(path, mode, _ACCESS_MODES)
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        detail = "may not use ReadWriteOncePod with other access modes"
        report.forbidden(path, detail)


def check_volume_claim(document: Document, report: Report) -> None:
    """core/v1 PersistentVolumeClaim."""
    spec = document.get("spec") or {}
    _check_access_modes(spec.get("accessModes") or [], at(_SPEC, "accessModes"), report)
    requests = (spec.get("resources") or {}).get("requests") or {}
    path = at(_SPEC, "resources", Key("storage"))
    if "storage" not in requests:
        report.required(path)
    elif amount(requests["storage"]) <= 0:
        report.invalid(path, requests["storage"], NOT_POSITIVE)
    if spec.get("storageClassName"):
        report.format(
            at(_SPEC, "storageClassName"), spec["storageClassName"], formats.dns_subdomain
        )


_CLAIM_MUTABLE = ("resources", "volumeName", "volumeAttributesClassName", "storageClassName")


def check_volume_claim_update(new: Document, old: Document, report: Report) -> None:
    """After creation a claim may be bound and may grow, and no more."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    changed = [
        name
        for name in sorted({*after, *before})
        if (after.get(name) or None) != (before.get(name) or None)
    ]
    frozen = [
        n for n in changed if n not in _CLAIM_MUTABLE or (n == "volumeName" and before.get(n))
    ]
    if frozen:
        detail = (
            "spec is immutable after creation except resources.requests and "
            f"volumeAttributesClassName for bound claims (changed: {', '.join(frozen)})"
        )
        report.forbidden(_SPEC, detail)


def check_volume(document: Document, report: Report) -> None:
    """core/v1 PersistentVolume."""
    spec = document.get("spec") or {}
    _check_access_modes(spec.get("accessModes") or [], at(_SPEC, "accessModes"), report)
    capacity = spec.get("capacity") or {}
    if "storage" not in capacity:
        report.required(at(_SPEC, "capacity"))
    elif amount(capacity["storage"]) <= 0:
        report.invalid(at(_SPEC, "capacity", Key("storage")), capacity["storage"], NOT_POSITIVE)


# --- quotas and leases ---------------------------------------------------------------------------


def check_quota(document: Document, report: Report) -> None:
    """core/v1 ResourceQuota."""
    for name, quantity in ((document.get("spec") or {}).get("hard") or {}).items():
        place = at(_SPEC, "hard", Key(name))
        report.format(place, name, formats.qualified_name)
        if amount(quantity) < 0:
            report.invalid(place, quantity, NOT_NEGATIVE)


def check_limit_range(document: Document, report: Report) -> None:
    """core/v1 LimitRange: min ≤ default request ≤ default ≤ max for each resource."""
    types: set[Any] = set()
    for index, item in enumerate((document.get("spec") or {}).get("limits") or ()):
        place = at(_SPEC, "limits", index)
        report.unique(at(place, "type"), item.get("type"), types)
        order = ("min", "defaultRequest", "default", "max")
        for name in sorted({key for field in order for key in item.get(field) or ()}):
            known = [(f, item[f][name]) for f in order if name in (item.get(f) or {})]
            for (low, less), (high, more) in pairwise(known):
                if amount(less) > amount(more):
                    detail = f"{low} value {less} is greater than {high} value {more}"
                    report.invalid(at(place, low, Key(name)), less, detail)


def check_lease(document: Document, report: Report) -> None:
    """coordination.k8s.io/v1 Lease."""
    spec = document.get("spec") or {}
    seconds = spec.get("leaseDurationSeconds")
    if seconds is not None and seconds <= 0:
        report.invalid(at(_SPEC, "leaseDurationSeconds"), seconds, NOT_POSITIVE)
    report.not_negative(at(_SPEC, "leaseTransitions"), spec.get("leaseTransitions"))
