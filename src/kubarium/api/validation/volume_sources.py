"""Sources that volumes of pods and persistent volumes have in common: hosts, disks, networks."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Key, Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.report import Report

CheckSource = Callable[[Any, Path, Report], None]
CSI_DRIVER_MAX = 63
HOST_PATH_TYPES = (
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
)
INITIATOR_LIMIT = 64
INITIATOR_TOO_LONG = (
    "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if "
    "iscsi.initiatorName is specified."
)
# RFC 3720: a year and month, a domain and a name; or numbers of 64 and 128 bits.
_INITIATORS = {
    "iqn": re.compile(r"iqn\.[0-9]{4}-[0-9]{2}\.[A-Za-z0-9.-]+:[^,;*&$|\s]+"),
    "eui": re.compile(r"eui\.[A-Za-z0-9]{16}"),
    "naa": re.compile(r"naa\.[A-Za-z0-9]{32}"),
}
MORE_THAN_ONE = "may not specify more than 1 volume type"
# How upstream spells some of them in its complaints.
_PLACES = {"gcePersistentDisk": "persistentDisk"}
_REFUSED_PLACES = {"cephfs": "cephFS", "downwardAPI": "downwarAPI"}
_HOST_PORTS = "must be a host:port pair or multiple pairs separated by commas"
_QUOBYTE_TENANT_MAX = 64
_CACHING = ("None", "ReadOnly", "ReadWrite")
_DISK_KINDS = ("Dedicated", "Managed", "Shared")
_MANAGED_URI = (
    "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/"
    "{disk-id}"
)
_BLOB_URI = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"


def check_required(source: Document, fields: Iterable[str], path: Path, report: Report) -> None:
    """Texts and lists that may not be missing or empty."""
    for field in fields:
        if not source.get(field):
            report.required(at(path, field))


def check_no_backsteps(text: str, path: Path, report: Report) -> bool:
    """Report a path that steps up; whether it was fine."""
    if ".." not in text.split("/"):
        return True
    report.invalid(path, text, "must not contain '..'")
    return False


def check_csi_driver_name(name: str, path: Path, report: Report) -> None:
    """The name of a CSI driver: at most 63 characters of a subdomain, in any case."""
    if not name:
        report.required(path)
        return
    if len(name) > CSI_DRIVER_MAX:
        report.too_long(path, CSI_DRIVER_MAX)
    for complaint in formats.dns_subdomain(name.lower()):
        report.invalid(path, name, complaint)


def _needing(*fields: str) -> CheckSource:
    """A source about which nothing is known but that these fields are there."""

    def check(source: Document, path: Path, report: Report) -> None:
        check_required(source, fields, path, report)

    return check


def check_host_path(source: Document, path: Path, report: Report) -> None:
    """``hostPath``."""
    check_required(source, ("path",), path, report)
    check_no_backsteps(source.get("path") or "", at(path, "path"), report)
    kind = source.get("type")
    if kind is not None and kind not in HOST_PATH_TYPES:
        report.not_supported(at(path, "type"), kind, HOST_PATH_TYPES)


def _check_partition(source: Document, path: Path, report: Report) -> None:
    partition = source.get("partition") or 0
    if not 0 <= partition <= 255:
        report.invalid(at(path, "partition"), partition, "must be between 1 and 255, inclusive")


def _check_google_disk(source: Document, path: Path, report: Report) -> None:
    check_required(source, ("pdName",), path, report)
    _check_partition(source, path, report)


def _check_amazon_disk(source: Document, path: Path, report: Report) -> None:
    check_required(source, ("volumeID",), path, report)
    _check_partition(source, path, report)


def _check_nfs(source: Document, path: Path, report: Report) -> None:
    check_required(source, ("server", "path"), path, report)
    where = source.get("path") or ""
    if not posixpath.isabs(where):
        report.invalid(at(path, "path"), where, "must be an absolute path")


def _check_initiator(name: str, path: Path, report: Report) -> None:
    pattern = _INITIATORS.get(name[:3])
    if pattern is None:
        report.invalid(path, name, "must be valid format starting with iqn, eui, or naa")
    elif pattern.fullmatch(name) is None:
        report.invalid(path, name, "must be valid format")


def check_iscsi(source: Document, path: Path, report: Report) -> None:
    """``iscsi``."""
    check_required(source, ("targetPortal", "iqn"), path, report)
    if source.get("iqn"):
        _check_initiator(source["iqn"], at(path, "iqn"), report)
    report.between(at(path, "lun"), source.get("lun") or 0, 0, 255)
    chap = source.get("chapAuthDiscovery") or source.get("chapAuthSession")
    if chap and source.get("secretRef") is None:
        report.required(at(path, "secretRef"))
    if source.get("initiatorName") is not None:
        _check_initiator(source["initiatorName"], at(path, "initiatorname"), report)


def _check_fibre_channel(source: Document, path: Path, report: Report) -> None:
    targets, ids = source.get("targetWWNs") or [], source.get("wwids") or []
    place = at(path, "targetWWNs")
    if not targets and not ids:
        report.required(place, "must specify either targetWWNs or wwids, but not both")
    elif targets and ids:
        detail = "targetWWNs and wwids can not be specified simultaneously"
        report.invalid(place, targets, detail)
    if targets:
        lun = source.get("lun")
        if lun is None:
            report.required(at(path, "lun"), "lun is required if targetWWNs is specified")
        else:
            report.between(at(path, "lun"), lun, 0, 255)


def _check_flocker(source: Document, path: Path, report: Report) -> None:
    name, uuid = source.get("datasetName") or "", source.get("datasetUUID") or ""
    if not name and not uuid:
        report.required(path, "one of datasetName and datasetUUID is required")
    elif name and uuid:
        detail = "datasetName and datasetUUID can not be specified simultaneously"
        report.invalid(path, "resource", detail)
    if "/" in name:
        report.invalid(at(path, "datasetName"), name, "must not contain '/'")


def _is_host_port(text: str) -> bool:
    host, colon, _ = text.rpartition(":")
    if not colon:
        return False
    return ":" not in host or (host.startswith("[") and host.endswith("]"))


def _check_quobyte(source: Document, path: Path, report: Report) -> None:
    registry = source.get("registry") or ""
    if not registry:
        report.required(at(path, "registry"), _HOST_PORTS)
    elif len(source.get("tenant") or "") > _QUOBYTE_TENANT_MAX:
        detail = "must be a UUID and may not exceed a length of 64 characters"
        report.required(at(path, "tenant"), detail)
    else:
        for pair in registry.split(","):
            if not _is_host_port(pair):
                report.invalid(at(path, "registry"), registry, _HOST_PORTS)
    check_required(source, ("volume",), path, report)


def _check_flex(source: Document, path: Path, report: Report) -> None:
    check_required(source, ("driver",), path, report)
    for key in source.get("options") or ():
        domain = "." + key.partition("/")[0].lower()
        if domain.endswith((".kubernetes.io", ".k8s.io")):
            detail = "kubernetes.io and k8s.io namespaces are reserved"
            report.invalid(at(path, "options", Key(key)), key, detail)


def check_secret_name(source: Document, path: Path, report: Report, *fields: str) -> None:
    """``secretRef`` of a source, if there is one, says these fields."""
    secret = source.get("secretRef")
    if secret is not None:
        check_required(secret, fields or ("name",), at(path, "secretRef"), report)


def _check_cinder(source: Document, path: Path, report: Report) -> None:
    check_required(source, ("volumeID",), path, report)
    check_secret_name(source, path, report)


def check_storage_os(source: Document, path: Path, report: Report) -> None:
    """``storageos``."""
    name, namespace = source.get("volumeName") or "", source.get("volumeNamespace") or ""
    report.required_format(at(path, "volumeName"), name, formats.dns_label)
    if namespace:
        report.format(at(path, "volumeNamespace"), namespace, formats.dns_label)
    check_secret_name(source, path, report)


def _check_azure_disk(source: Document, path: Path, report: Report) -> None:
    check_required(source, ("diskName", "diskURI"), path, report)
    caching, kind, uri = (source.get(f) for f in ("cachingMode", "kind", "diskURI"))
    if caching is not None and caching not in _CACHING:
        report.not_supported(at(path, "cachingMode"), caching, _CACHING)
    if kind is None:
        return
    if kind not in _DISK_KINDS:
        report.not_supported(at(path, "kind"), kind, _DISK_KINDS)
    wanted, shown = (
        ("/subscriptions/", _MANAGED_URI) if kind == "Managed" else ("https://", _BLOB_URI)
    )
    if not (uri or "").startswith(wanted):
        report.not_supported(at(path, "diskURI"), uri or "", (shown,))


_SOURCES: dict[str, CheckSource] = {
    "hostPath": check_host_path,
    "gcePersistentDisk": _check_google_disk,
    "awsElasticBlockStore": _check_amazon_disk,
    "nfs": _check_nfs,
    "iscsi": check_iscsi,
    "glusterfs": _needing("endpoints", "path"),
    "flocker": _check_flocker,
    "rbd": _needing("monitors", "image"),
    "cinder": _check_cinder,
    "cephfs": _needing("monitors"),
    "quobyte": _check_quobyte,
    "fc": _check_fibre_channel,
    "flexVolume": _check_flex,
    "azureFile": _needing("secretName", "shareName"),
    "vsphereVolume": _needing("volumePath"),
    "photonPersistentDisk": _needing("pdID"),
    "portworxVolume": _needing("volumeID"),
    "azureDisk": _check_azure_disk,
    "storageos": check_storage_os,
    "scaleIO": _needing("gateway", "system", "volumeName"),
}


def check_shared_source(kind: str, source: Any, path: Path, report: Report) -> None:
    """A source named ``kind`` of what stands at ``path``."""
    check = _SOURCES.get(kind)
    if check is not None:
        check(source, at(path, _PLACES.get(kind, kind)), report)


def refused_place(path: Path, kind: str) -> Path:
    """Where to complain about a source that is one too many."""
    return at(path, _REFUSED_PLACES.get(kind, kind))
