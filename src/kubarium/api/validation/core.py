"""core/v1, discovery and coordination kinds other than pods."""

from __future__ import annotations

import base64
import ipaddress
from typing import Any

import orjson

from kubarium.api import formats
from kubarium.api.paths import Key, Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.metadata import NOT_A_FINALIZER, STANDARD_FINALIZERS
from kubarium.api.validation.report import NOT_POSITIVE, Report

_SPEC: Path = (None, "spec")
MAX_DATA = 1024 * 1024  # bytes of a Secret's or ConfigMap's values
MAX_EVENT_NOTE = 1024
MAX_EVENT_WORD = 128
MAX_ENDPOINTS = 1000
MAX_ENDPOINT_ADDRESSES = 100
MAX_SLICE_PORTS = 20_000


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


_SSH = "kubernetes.io/ssh-auth"
_SECRET_KEYS = {
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    _SSH: ("ssh-privatekey",),
}
_SECRETS_IN_JSON = ("kubernetes.io/dockercfg", "kubernetes.io/dockerconfigjson")


def check_secret(document: Document, report: Report) -> None:
    """core/v1 Secret: keys, size, and what its type promises."""
    data = document.get("data") or {}
    for key in data:
        report.format(at(None, "data", Key(key)), key, formats.config_map_key)
    if _data_size(data) * 3 // 4 > MAX_DATA:
        report.too_long((None, "data"), MAX_DATA)
    _check_secret_type(document, data, document.get("type") or "", report)


def _check_secret_type(
    document: Document, data: dict[str, str], type_: str, report: Report
) -> None:
    for key in _SECRET_KEYS.get(type_, ()):
        place = at(None, "data", Key(key))
        if key not in data or (type_ == _SSH and not data[key]):
            report.required(place)
        elif type_ in _SECRETS_IN_JSON:
            _check_json(data[key], place, report)
    if type_ == "kubernetes.io/basic-auth" and not {"username", "password"} & {*data}:
        for key in ("username", "password"):
            report.required(at(None, "data", Key(key)))
    if type_ == "kubernetes.io/service-account-token":
        annotations = (document.get("metadata") or {}).get("annotations") or {}
        key = "kubernetes.io/service-account.name"
        if not annotations.get(key):
            report.required(at(None, "metadata", "annotations", Key(key)))


def _check_json(encoded: str, path: Path, report: Report) -> None:
    """Content that is JSON; the message does not repeat any of it."""
    try:
        value = orjson.loads(base64.b64decode(encoded))
    except ValueError:
        report.invalid(path, "<secret contents redacted>", "must be valid JSON")
        return
    if value is not None and not isinstance(value, dict):
        report.invalid(path, "<secret contents redacted>", "must be a JSON object")


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


# --- namespaces, events -------------------------------------------------------------------


def check_namespace(document: Document, report: Report) -> None:
    """core/v1 Namespace: its own finalizers, beside those of metadata."""
    path = at(_SPEC, "finalizers")
    for name in (document.get("spec") or {}).get("finalizers") or ():
        report.format(path, name, formats.qualified_name)
        if "/" not in name and name not in STANDARD_FINALIZERS:
            report.invalid(path, name, NOT_A_FINALIZER)


def check_namespace_status(new: Document, old: Document, report: Report) -> None:
    """The phase follows from whether the namespace is being deleted."""
    phase = (new.get("status") or {}).get("phase", "")
    deleted = bool((new.get("metadata") or {}).get("deletionTimestamp"))
    expected = "Terminating" if deleted else "Active"
    if phase != expected:
        state = "not empty" if deleted else "empty"
        detail = f"may only be '{expected}' if `deletionTimestamp` is {state}"
        report.invalid(at(None, "status", "Phase"), phase, detail)


def check_event(document: Document, report: Report) -> None:
    """core/v1 Event."""
    about = document.get("involvedObject") or {}
    _check_any_event(document, about, document.get("message"), "reportingComponent", report)


def check_new_event(document: Document, report: Report) -> None:
    """events.k8s.io/v1 Event, which is stricter. Source: core/validation/events.go."""
    about = document.get("regarding") or {}
    _check_any_event(document, about, document.get("note"), "reportingController", report)
    series = document.get("series")
    if series is not None and (series.get("count") or 0) < 2:
        report.invalid(at(None, "series.count"), "", "should be at least 2")
    if series is not None and not series.get("lastObservedTime"):
        report.required(at(None, "series.lastObservedTime"))
    if not document.get("eventTime"):
        report.required((None, "eventTime"))
    type_ = document.get("type") or ""
    if type_ not in ("Normal", "Warning"):
        report.invalid((None, "type"), "", f"has invalid value: {type_}")
    for field, old in _OLD_EVENT_FIELDS.items():
        if document.get(field):
            report.invalid((None, old), "", "needs to be unset")


def check_new_event_update(new: Document, old: Document, report: Report) -> None:
    """Only the series of an Event goes on."""
    for field, core_name in _KEPT_EVENT_FIELDS.items():
        report.immutable((None, core_name), new.get(field), old.get(field))


# Fields of events.k8s.io and what complaints call them: by their names in core/v1.
_OLD_EVENT_FIELDS = {
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
    "deprecatedSource": "source",
}
_KEPT_EVENT_FIELDS = {
    "regarding": "involvedObject",
    "note": "message",
    **_OLD_EVENT_FIELDS,
    **{
        field: field
        for field in (
            *("reason", "type", "eventTime", "action", "related"),
            *("reportingController", "reportingInstance"),
        )
    },
}


def _check_any_event(
    document: Document, about: Document, note: str | None, reporter: str, report: Report
) -> None:
    """An event stands where what it is about stands; one of the new kind says who reports what."""
    namespace = (document.get("metadata") or {}).get("namespace") or ""
    modern = bool(document.get("eventTime"))
    expected = about.get("namespace") or "default"
    system = modern and not about.get("namespace") and namespace == "kube-system"
    if namespace != expected and not (modern and about.get("namespace")) and not system:
        detail = "does not match event.namespace"
        report.invalid(at(None, "involvedObject", "namespace"), about.get("namespace", ""), detail)
    if not modern:
        return
    if not document.get(reporter):
        report.required((None, reporter))
    report.format((None, reporter), document.get(reporter) or "", formats.qualified_name)
    for field in ("reportingInstance", "action", "reason"):
        if not document.get(field):
            report.required((None, field))
        elif len(document[field].encode()) > MAX_EVENT_WORD:
            report.invalid((None, field), "", f"can have at most {MAX_EVENT_WORD} characters")
    if len((note or "").encode()) > MAX_EVENT_NOTE:
        report.invalid((None, "message"), "", f"can have at most {MAX_EVENT_NOTE} characters")


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


# --- leases ------------------------------------------------------------------------------------


def check_lease(document: Document, report: Report) -> None:
    """coordination.k8s.io/v1 Lease."""
    spec = document.get("spec") or {}
    seconds = spec.get("leaseDurationSeconds")
    if seconds is not None and seconds <= 0:
        report.invalid(at(_SPEC, "leaseDurationSeconds"), seconds, NOT_POSITIVE)
    report.not_negative(at(_SPEC, "leaseTransitions"), spec.get("leaseTransitions"))
