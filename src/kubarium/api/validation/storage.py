"""core/v1 PersistentVolumeClaims and PersistentVolumes, on creation and after it.

Source: ``ValidatePersistentVolumeClaim`` and ``ValidatePersistentVolume`` of
``pkg/apis/core/validation``.
"""

from __future__ import annotations

import posixpath
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Key, Path, at, path_text
from kubarium.api.resource import Document
from kubarium.api.validation.changes import same, settled
from kubarium.api.validation.metadata import check_label_selector
from kubarium.api.validation.placement import check_node_selector
from kubarium.api.validation.quantities import amount
from kubarium.api.validation.report import NOT_POSITIVE, Report
from kubarium.api.validation.volume_sources import (
    INITIATOR_LIMIT,
    INITIATOR_TOO_LONG,
    MORE_THAN_ONE,
    check_csi_driver_name,
    check_no_backsteps,
    check_required,
    check_secret_name,
    check_shared_source,
    refused_place,
)

_SPEC: Path = (None, "spec")
_ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_VOLUME_MODES = ("Block", "Filesystem")
# Of several sources the first in this order is looked into, the others are refused.
VOLUME_SOURCES = (
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
)


def _check_access_modes(modes: list[Any], path: Path, report: Report) -> None:
    for mode in modes:
        if mode not in _ACCESS_MODES:
            report.not_supported(path, mode, _ACCESS_MODES)
    known = set(modes) & {*_ACCESS_MODES}
    if "ReadWriteOncePod" in known and len(known) > 1:
        detail = "may not use ReadWriteOncePod with other access modes"
        report.forbidden(path, detail)


# --- claims --------------------------------------------------------------------------------------


def check_volume_claim(document: Document, report: Report) -> None:
    """core/v1 PersistentVolumeClaim."""
    check_claim_spec(document.get("spec") or {}, _SPEC, report)


def check_claim_spec(
    spec: Document, path: Path, report: Report, *, any_group: bool = False
) -> None:
    """The spec of a claim, or of a template for claims.

    ``any_group`` says that API groups of sources are not looked at: the claim had one before.
    """
    modes = spec.get("accessModes") or []
    if not modes:
        report.required(at(path, "accessModes"), "at least 1 access mode is required")
    check_label_selector(spec.get("selector"), at(path, "selector"), report)
    _check_access_modes(modes, at(path, "accessModes"), report)
    requests = (spec.get("resources") or {}).get("requests") or {}
    place = at(path, "resources", Key("storage"))
    if "storage" not in requests:
        report.required(place)
    elif amount(requests["storage"]) <= 0:
        report.invalid(place, requests["storage"], NOT_POSITIVE)
    for field in ("storageClassName", "volumeAttributesClassName"):
        if spec.get(field):
            report.format(at(path, field), spec[field], formats.dns_subdomain)
    mode = spec.get("volumeMode")
    if mode is not None and mode not in _VOLUME_MODES:
        report.not_supported(at(path, "volumeMode"), mode, _VOLUME_MODES)
    _check_sources(spec, path, report, any_group)


def _check_sources(spec: Document, path: Path, report: Report, any_group: bool) -> None:
    """What the volume is filled from: said in two ways, of which the newer may name a namespace."""
    source, reference = spec.get("dataSource"), spec.get("dataSourceRef")
    for field, value in (("dataSource", source), ("dataSourceRef", reference)):
        if value is not None:
            _check_source(value, at(path, field), report, any_group)
    if source is None or reference is None:
        return
    other = path_text(at(path, "dataSource"))
    if reference.get("namespace"):
        detail = "may not be specified when dataSourceRef.namespace is specified"
        report.invalid(path, other, detail)
    elif any(source.get(f) != reference.get(f) for f in ("apiGroup", "kind", "name")):
        report.invalid(path, other, "must match dataSourceRef")


def _check_source(source: Document, path: Path, report: Report, any_group: bool) -> None:
    check_required(source, ("name", "kind"), path, report)
    group, kind = source.get("apiGroup") or "", source.get("kind") or ""
    if not group and kind != "PersistentVolumeClaim":
        detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup"
        report.invalid(path, kind, detail)
    if group and not any_group:
        report.format(at(path, "apiGroup"), group, formats.dns_subdomain)
    if source.get("namespace"):
        report.format(at(path, "namespace"), source["namespace"], formats.dns_label)


_STORAGE_CLASS = "volume.beta.kubernetes.io/storage-class"
_CLAIM_FROZEN = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for "
    "bound claims"
)


def check_volume_claim_update(new: Document, old: Document, report: Report) -> None:
    """After creation a claim may be bound, take its class, and grow; and no more."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    sources = (before.get("dataSource"), before.get("dataSourceRef"))
    had_group = any((source or {}).get("apiGroup") is not None for source in sources)
    check_claim_spec(after, _SPEC, report, any_group=had_group)
    _check_class_annotation(new, old, report)
    bound = (new.get("status") or {}).get("phase") == "Bound"
    free = _claim_freedom(new, old, bound)
    changed = [
        name
        for name in sorted({*after, *before})
        if name not in free and not same(after.get(name), before.get(name))
    ]
    if "resources" in changed and _same_resources(after, before, but_size=bound):
        changed.remove("resources")
    if changed:
        report.forbidden(_SPEC, f"{_CLAIM_FROZEN} (changed: {', '.join(changed)})")
    _check_shrinking(after, before, old, report)
    report.immutable(at(None, "volumeMode"), after.get("volumeMode"), before.get("volumeMode"))
    _check_attributes_class(after, old, report)


def _claim_freedom(new: Document, old: Document, bound: bool) -> set[str]:
    """Fields of the spec that this change may touch."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    free = {"volumeAttributesClassName"} if bound else set()
    if not before.get("volumeName"):
        free.add("volumeName")
    annotated = ((old.get("metadata") or {}).get("annotations") or {}).get(_STORAGE_CLASS)
    wanted = after.get("storageClassName")
    unset = before.get("storageClassName") is None and wanted is not None
    if unset and annotated in (None, wanted):
        free.add("storageClassName")
    return free


def _check_class_annotation(new: Document, old: Document, report: Report) -> None:
    after, before = (
        ((claim.get("metadata") or {}).get("annotations") or {}).get(_STORAGE_CLASS)
        for claim in (new, old)
    )
    spec, former = new.get("spec") or {}, old.get("spec") or {}
    moved = (
        before is not None
        and former.get("storageClassName") is None
        and spec.get("storageClassName") == before
        and after in (None, before)
    )
    if not moved and (after or "") != (before or ""):
        place = at(None, "metadata", "annotations", Key(_STORAGE_CLASS))
        report.immutable(place, after or "", before or "")


def _same_resources(after: Document, before: Document, *, but_size: bool) -> bool:
    def rest(spec: Document) -> Document:
        resources = spec.get("resources") or {}
        requests = {**(resources.get("requests") or {})}
        if but_size and requests:
            requests["storage"] = None
        return {"limits": resources.get("limits") or {}, "requests": requests}

    return rest(after) == rest(before)


def _storage(amounts: Document | None) -> Any:
    return amount((amounts or {}).get("storage", 0))


def _check_shrinking(after: Document, before: Document, old: Document, report: Report) -> None:
    """A wish for more may be taken back as long as the volume has not grown so far."""
    wanted, was = (
        _storage((spec.get("resources") or {}).get("requests")) for spec in (after, before)
    )
    if wanted < was and wanted <= _storage((old.get("status") or {}).get("capacity")):
        place = at(_SPEC, "resources", "requests", "storage")
        report.forbidden(place, "field can not be less than status.capacity")


def _check_attributes_class(after: Document, old: Document, report: Report) -> None:
    name, before = (
        spec.get("volumeAttributesClassName") for spec in (after, old.get("spec") or {})
    )
    current = (old.get("status") or {}).get("currentVolumeAttributesClassName")
    if name == before or current is None or name:
        return
    what = "nil" if name is None else "empty string"
    detail = (
        f"update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil"
    )
    report.forbidden(at(_SPEC, "volumeAttributesClassName"), detail)


_RESIZES = (
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
)


def check_volume_claim_status(new: Document, old: Document, report: Report) -> None:
    """Amounts that a claim's status tells, and how far its growing has got."""
    status = new.get("status") or {}
    for name, quantity in (status.get("capacity") or {}).items():
        _check_basic(quantity, at(None, "status", "capacity", Key(name)), report)
    path = at(None, "status", "allocatedResourceStatuses")
    for name, state in (status.get("allocatedResourceStatuses") or {}).items():
        _check_claim_resource(name, path, report)
        if state not in _RESIZES:
            report.not_supported(path, name, sorted(_RESIZES))
    path = at(None, "status", "allocatedResources")
    for name, quantity in (status.get("allocatedResources") or {}).items():
        if _check_claim_resource(name, path, report):
            _check_basic(quantity, at(path, Key(name)), report)


def _check_basic(quantity: Any, path: Path, report: Report) -> None:
    value = amount(quantity)
    if value < 0:
        report.invalid(path, int(value), "must be a valid resource quantity")


def _check_claim_resource(name: str, path: Path, report: Report) -> bool:
    if not report.format(path, name, formats.qualified_name):
        return False
    native = "/" not in name or "kubernetes.io/" in name
    if native and name != "storage":
        report.not_supported(path, name, ("storage",))
        return False
    return True


# --- volumes -------------------------------------------------------------------------------------


def check_volume(document: Document, report: Report) -> None:
    """core/v1 PersistentVolume."""
    spec = document.get("spec") or {}
    if not spec.get("accessModes"):
        report.required(at(_SPEC, "accessModes"))
    _check_access_modes(spec.get("accessModes") or [], at(_SPEC, "accessModes"), report)
    _check_capacity(spec.get("capacity") or {}, at(_SPEC, "capacity"), report)
    affinity = spec.get("nodeAffinity")
    if affinity is not None:
        place = at(_SPEC, "nodeAffinity", "required")
        if affinity.get("required") is None:
            report.required(place, "must specify required node constraints")
        else:
            check_node_selector(affinity["required"], place, report)
    _check_volume_source(document, spec, report)
    if spec.get("storageClassName"):
        name = spec["storageClassName"]
        report.format(at(_SPEC, "storageClassName"), name, formats.dns_subdomain)
    attributes = spec.get("volumeAttributesClassName")
    if attributes is not None:
        place = at(_SPEC, "volumeAttributesClassName")
        if not attributes:
            report.required(place, "an empty string is disallowed")
        else:
            report.format(place, attributes, formats.dns_subdomain)
        if spec.get("csi") is None:
            detail = "has to be specified when using volumeAttributesClassName"
            report.required(at(_SPEC, "csi"), detail)


def _check_capacity(capacity: Document, path: Path, report: Report) -> None:
    if not capacity:
        report.required(path)
    if set(capacity) != {"storage"}:
        report.not_supported(path, capacity, ("storage",))
    for name, quantity in capacity.items():
        place = at(path, Key(name))
        _check_basic(quantity, place, report)
        if amount(quantity) <= 0:
            report.invalid(place, quantity, NOT_POSITIVE)


def _check_volume_source(document: Document, spec: Document, report: Report) -> None:
    given = [kind for kind in VOLUME_SOURCES if spec.get(kind) is not None]
    if not given:
        report.required(_SPEC, "must specify a volume type")
        return
    kind, *others = given
    _check_one_source(kind, spec[kind], at(_SPEC, kind), report)
    for extra in others:
        report.forbidden(refused_place(_SPEC, extra), MORE_THAN_ONE)
    if kind == "local" and spec.get("nodeAffinity") is None:
        report.required(at(_SPEC, "nodeAffinity"), "Local volume requires node affinity")
    if kind == "iscsi" and spec[kind].get("initiatorName") is not None:
        name, portal = document["metadata"].get("name"), spec[kind].get("targetPortal") or ""
        if len(f"{name}:{portal}") > INITIATOR_LIMIT:
            report.invalid(at(_SPEC, "iscsi", "targetportal"), portal, INITIATOR_TOO_LONG)
    if spec.get("hostPath") is not None and spec.get("persistentVolumeReclaimPolicy") == "Recycle":
        where = spec["hostPath"].get("path") or "."
        if posixpath.normpath(where) in ("/", "//"):
            detail = "may not be 'recycle' for a hostPath mount of '/'"
            report.forbidden(at(_SPEC, "persistentVolumeReclaimPolicy"), detail)


_CSI_SECRETS = (
    "controllerPublishSecretRef",
    "controllerExpandSecretRef",
    "nodePublishSecretRef",
    "nodeExpandSecretRef",
)


def _check_one_source(kind: str, source: Document, path: Path, report: Report) -> None:
    if kind == "csi":
        _check_csi(source, path, report)
    elif kind == "local":
        check_required(source, ("path",), path, report)
        check_no_backsteps(source.get("path") or "", at(path, "path"), report)
    else:
        check_shared_source(kind, source, _SPEC, report)
    if kind in ("cinder", "storageos") and source.get("secretRef") is not None:
        check_secret_name(source, path, report, "namespace")
    elif kind == "iscsi":
        check_secret_name(source, path, report)
    elif kind == "azureFile" and source.get("secretNamespace") == "":
        report.required(at(path, "secretNamespace"))
    elif kind == "glusterfs" and source.get("endpointsNamespace") is not None:
        _check_endpoints_namespace(source["endpointsNamespace"], path, report)


def _check_endpoints_namespace(name: str, path: Path, report: Report) -> None:
    place = at(path, "endpointsNamespace")
    if name:
        report.format(place, name, formats.dns_label)
    else:
        detail = "if the endpointnamespace is set, it must be a valid namespace name"
        report.invalid(place, name, detail)


def _check_csi(source: Document, path: Path, report: Report) -> None:
    check_csi_driver_name(source.get("driver") or "", at(path, "driver"), report)
    check_required(source, ("volumeHandle",), path, report)
    for field in _CSI_SECRETS:
        secret = source.get(field)
        if secret is not None:
            place = at(path, field)
            report.required_format(at(place, "name"), secret.get("name"), formats.dns_subdomain)
            namespace = secret.get("namespace")
            report.required_format(at(place, "namespace"), namespace, formats.dns_label)


_PLAIN = ("chapAuthDiscovery", "chapAuthSession", "lun", "partition", "readOnly")


def check_volume_update(new: Document, old: Document, report: Report) -> None:
    """What a volume is made of stays; who may grow it may still be said."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    if any(
        not same(_as_source(after, before, kind), before.get(kind), _PLAIN)
        for kind in VOLUME_SOURCES
    ):
        place = at(_SPEC, "persistentvolumesource")
        report.forbidden(place, "spec.persistentvolumesource is immutable after creation")
    report.immutable(at(None, "volumeMode"), after.get("volumeMode"), before.get("volumeMode"))
    if before.get("nodeAffinity") is not None:
        _check_affinity_change(after.get("nodeAffinity"), before["nodeAffinity"], report)
    attributes = "volumeAttributesClassName"
    if before.get(attributes) is not None and after.get(attributes) is None:
        detail = "update from non-nil value to nil is forbidden"
        report.forbidden(at(_SPEC, attributes), detail)


def _as_source(after: Document, before: Document, kind: str) -> Document | None:
    """The source as it is compared: a secret for growing may come to a CSI volume."""
    source: Document | None = after.get(kind)
    former = before.get(kind) or {}
    added = kind == "csi" and former and former.get("controllerExpandSecretRef") is None
    if source is None or not added:
        return source
    return {key: value for key, value in source.items() if key != "controllerExpandSecretRef"}


# Labels of nodes that were called otherwise before they were stable.
_STABLE_LABELS = {
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
    "beta.kubernetes.io/os": "kubernetes.io/os",
    "beta.kubernetes.io/arch": "kubernetes.io/arch",
    "beta.kubernetes.io/instance-type": "node.kubernetes.io/instance-type",
}


def _check_affinity_change(after: Any, before: Any, report: Report) -> None:
    if not _same_affinity(settled(after), settled(before)):
        detail = "field is immutable, except for updating from beta label to GA"
        report.invalid(at(None, "nodeAffinity"), after, detail)


def _same_affinity(after: Any, before: Any) -> bool:
    if isinstance(after, dict) and isinstance(before, dict):
        return after.keys() == before.keys() and all(
            _same_affinity(after[key], before[key])
            or (key == "key" and _STABLE_LABELS.get(before[key]) == after[key])
            for key in after
        )
    if isinstance(after, list) and isinstance(before, list):
        pairs = zip(after, before, strict=False)
        return len(after) == len(before) and all(_same_affinity(a, b) for a, b in pairs)
    return bool(after == before)
