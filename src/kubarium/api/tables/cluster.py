"""Nodes, namespaces, events, configuration, storage, leases."""

from __future__ import annotations

from typing import Any

from kubarium.api.resource import Document
from kubarium.api.tables.columns import (
    NONE,
    UNSET,
    Printer,
    age,
    column,
    columns,
    condition,
    printer,
    spec_of,
    status_of,
)
from kubarium.api.tables.durations import UNKNOWN, since

_ROLE_PREFIX = "node-role.kubernetes.io/"
_ACCESS_MODES = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}


# --- nodes ---------------------------------------------------------------------------------------


def _node(d: Document, now: float) -> list[Any]:
    info = status_of(d).get("nodeInfo") or {}
    return [
        node_status(d),
        node_roles(d),
        age(d, now),
        info.get("kubeletVersion", ""),
        _address(d, "InternalIP"),
        _address(d, "ExternalIP"),
        info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    ]


def node_status(node: Document) -> str:
    """``Ready``, ``NotReady`` or ``Unknown``, with ``,SchedulingDisabled`` for cordoned nodes."""
    ready = condition(node, "Ready")
    shown = "Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"
    return f"{shown},SchedulingDisabled" if spec_of(node).get("unschedulable") else shown


def node_roles(node: Document) -> str:
    """Roles from labels, in order, or ``<none>``."""
    roles = set()
    for key, value in (node["metadata"].get("labels") or {}).items():
        if key.startswith(_ROLE_PREFIX) and len(key) > len(_ROLE_PREFIX):
            roles.add(key.removeprefix(_ROLE_PREFIX))
        elif key == "kubernetes.io/role" and value:
            roles.add(value)
    return ",".join(sorted(roles)) or NONE


def _address(node: Document, type_: str) -> str:
    entries = status_of(node).get("addresses") or ()
    return next((e.get("address", NONE) for e in entries if e.get("type") == type_), NONE)


# --- events --------------------------------------------------------------------------------------

_EVENT_COLUMNS = (
    column("Last Seen"),
    column("Type"),
    column("Reason"),
    column("Object"),
    column("Subobject", wide=1),
    column("Source", wide=1),
    column("Message"),
    column("First Seen", wide=1),
    column("Count", wide=1),
    column("Name", wide=1, format_="name"),
)


def _event(d: Document, now: float) -> list[Any]:
    """Both shapes of an event: core/v1 and events.k8s.io/v1."""
    regarding = d.get("involvedObject") or d.get("regarding") or {}
    first = d.get("firstTimestamp") or d.get("deprecatedFirstTimestamp") or d.get("eventTime")
    last = d.get("lastTimestamp") or d.get("deprecatedLastTimestamp") or first
    count = d.get("count") or d.get("deprecatedCount") or 1
    series = d.get("series")
    if series:
        last, count = series.get("lastObservedTime") or last, series.get("count", count)
    kind, name = str(regarding.get("kind", "")).lower(), regarding.get("name")
    return [
        since(last, now),
        d.get("type", ""),
        d.get("reason", ""),
        f"{kind}/{name}" if name else kind,
        regarding.get("fieldPath", ""),
        _event_source(d),
        str(d.get("message") or d.get("note") or "").strip(),
        since(first, now),
        count,
        d["metadata"].get("name", ""),
    ]


def _event_source(d: Document) -> str:
    source = d.get("source") or d.get("deprecatedSource") or {}
    component = source.get("component") or d.get("reportingComponent")
    component = component or d.get("reportingController") or ""
    host = source.get("host") or ("" if source else d.get("reportingInstance"))
    return f"{component}, {host}" if host else component


# --- configuration and storage -------------------------------------------------------------------


def _secret(d: Document, now: float) -> list[Any]:
    return [d.get("type", ""), len(d.get("data") or ()), age(d, now)]


def _config_map(d: Document, now: float) -> list[Any]:
    return [len(d.get("data") or ()) + len(d.get("binaryData") or ()), age(d, now)]


def _modes(modes: list[str] | None) -> str:
    unique = dict.fromkeys(modes or ())
    return ",".join(short for long, short in _ACCESS_MODES.items() if long in unique)


def _deleted_or(phase: str, d: Document) -> str:
    return "Terminating" if d["metadata"].get("deletionTimestamp") else phase


def _volume(d: Document, now: float) -> list[Any]:
    spec, status = spec_of(d), status_of(d)
    claim = spec.get("claimRef")
    return [
        (spec.get("capacity") or {}).get("storage", "0"),
        _modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy", ""),
        _deleted_or(status.get("phase", ""), d),
        f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or UNSET,
        status.get("reason", ""),
        age(d, now),
        spec.get("volumeMode") or UNSET,
    ]


def _claim(d: Document, now: float) -> list[Any]:
    spec, status = spec_of(d), status_of(d)
    bound = bool(spec.get("volumeName"))
    return [
        _deleted_or(status.get("phase", ""), d),
        spec.get("volumeName", ""),
        (status.get("capacity") or {}).get("storage", "0") if bound else "",
        _modes(status.get("accessModes")) if bound else "",
        spec.get("storageClassName") or "",
        spec.get("volumeAttributesClassName") or UNSET,
        age(d, now),
        spec.get("volumeMode") or UNSET,
    ]


_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def _storage_class(d: Document, now: float) -> list[Any]:
    annotations = d["metadata"].get("annotations") or {}
    name = d["metadata"].get("name", "")
    return [
        f"{name} (default)" if annotations.get(_DEFAULT_CLASS) == "true" else name,
        d.get("provisioner", ""),
        d.get("reclaimPolicy") or "Delete",
        d.get("volumeBindingMode") or "Immediate",
        bool(d.get("allowVolumeExpansion")),
        age(d, now),
    ]


def _lease(d: Document, now: float) -> list[Any]:
    return [spec_of(d).get("holderIdentity") or "", age(d, now)]


def _csi_node(d: Document, now: float) -> list[Any]:
    return [len(spec_of(d).get("drivers") or ()), age(d, now)]


def _attachment(d: Document, now: float) -> list[Any]:
    spec = spec_of(d)
    source = (spec.get("source") or {}).get("persistentVolumeName") or ""
    attached = bool(status_of(d).get("attached"))
    return [spec.get("attacher", ""), source, spec.get("nodeName", ""), attached, age(d, now)]


def _component(d: Document, now: float) -> list[Any]:
    healthy: Document = next((c for c in d["conditions"] if c["type"] == "Healthy"), {})
    text = {"True": "Healthy", "False": "Unhealthy"}.get(healthy.get("status", ""), "Unknown")
    return [text, healthy.get("message", ""), healthy.get("error", "")]


def _csi_driver(d: Document, now: float) -> list[Any]:
    spec = spec_of(d)
    tokens = [request.get("audience") or "" for request in spec.get("tokenRequests") or ()]
    return [
        bool(spec.get("attachRequired", True)),
        bool(spec.get("podInfoOnMount")),
        bool(spec.get("storageCapacity")),
        ",".join(tokens) or UNSET,
        bool(spec.get("requiresRepublish")),
        ",".join(spec.get("volumeLifecycleModes") or ()) or NONE,
        age(d, now),
    ]


PRINTERS: dict[tuple[str, str], Printer] = {
    ("", "Node"): printer(
        "Status|Roles|Age|Version|+Internal-IP|+External-IP|+OS-Image|+Kernel-Version|"
        "+Container-Runtime",
        _node,
    ),
    ("", "Namespace"): printer(
        "Status|Age", lambda d, now: [status_of(d).get("phase", ""), age(d, now)]
    ),
    ("", "ComponentStatus"): printer("Status|Message|Error", _component),
    ("", "Event"): Printer(_EVENT_COLUMNS, _event),
    ("events.k8s.io", "Event"): Printer(_EVENT_COLUMNS, _event),
    ("", "Secret"): printer("Type|Data|Age", _secret),
    ("", "ConfigMap"): printer("Data|Age", _config_map),
    ("", "ServiceAccount"): printer(
        "Secrets|Age", lambda d, now: [len(d.get("secrets") or ()), age(d, now)]
    ),
    ("", "PersistentVolume"): printer(
        "Capacity|Access Modes|Reclaim Policy|Status|Claim|StorageClass|VolumeAttributesClass|"
        "Reason|Age|+VolumeMode",
        _volume,
    ),
    ("", "PersistentVolumeClaim"): printer(
        "Status|Volume|Capacity|Access Modes|StorageClass|VolumeAttributesClass|Age|+VolumeMode",
        _claim,
    ),
    ("storage.k8s.io", "StorageClass"): Printer(
        columns("Provisioner|ReclaimPolicy|VolumeBindingMode|AllowVolumeExpansion:boolean|Age"),
        _storage_class,
    ),
    ("storage.k8s.io", "CSINode"): printer("Drivers:integer|Age", _csi_node),
    ("storage.k8s.io", "CSIDriver"): printer(
        "AttachRequired:boolean|PodInfoOnMount:boolean|StorageCapacity:boolean|TokenRequests|"
        "RequiresRepublish:boolean|Modes|Age",
        _csi_driver,
    ),
    ("storage.k8s.io", "VolumeAttachment"): printer(
        "Attacher|PV|Node|Attached:boolean|Age", _attachment
    ),
    ("coordination.k8s.io", "Lease"): printer("Holder|Age", _lease),
}
