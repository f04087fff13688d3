"""Volumes of pods: exactly one source each, and what each source needs.

Rules that a persistent volume's sources share with a pod's are in ``volume_sources``. Source:
``ValidateVolumes`` of ``pkg/apis/core/validation``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.metadata import check_annotations, check_labels
from kubarium.api.validation.projections import (
    check_downward_files,
    check_mode,
    check_projected,
    check_relative_path,
    check_secret_files,
)
from kubarium.api.validation.quantities import amount
from kubarium.api.validation.report import Report
from kubarium.api.validation.storage import check_claim_spec
from kubarium.api.validation.volume_sources import (
    INITIATOR_LIMIT,
    INITIATOR_TOO_LONG,
    MORE_THAN_ONE,
    check_csi_driver_name,
    check_required,
    check_shared_source,
    refused_place,
)

# A pod's volumes that are fine, by name: what containers may mount.
Volumes = Mapping[str, Document]
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
# Of several sources the first in this order is looked into, the others are refused.
_ORDER = (
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
)


def check_volumes(
    volumes: list[Document], path: Path, report: Report, *, in_pod: bool = True
) -> Volumes:
    """Report on each volume; those without a complaint, by name, are there to be mounted.

    ``in_pod`` is false in a template, where the image of an image volume may still be missing.
    """
    found: dict[str, Document] = {}
    for index, volume in enumerate(volumes):
        place = at(path, index)
        known = len(report.errors)
        name = volume.get("name") or ""
        _check_sources(volume, name, place, report, in_pod)
        if not name:
            report.required(at(place, "name"))
        else:
            report.format(at(place, "name"), name, formats.dns_label)
        if name in found:
            report.duplicate(at(place, "name"), name)
        if len(report.errors) == known:
            found[name] = volume
    return found


def _check_sources(volume: Document, name: str, path: Path, report: Report, in_pod: bool) -> None:
    given = [key for key in volume if key != "name"]
    if not given:
        report.required(path, "must specify a volume type")
        return
    if len(given) > 1:
        given.sort(key=_ORDER.index)
    kind, *others = given
    source, place = volume[kind], at(path, kind)
    own = _OWN_SOURCES.get(kind)
    if own is not None:
        own(source, place, report)
    elif kind == "image":
        _check_image(source, place, report, in_pod)
    else:
        check_shared_source(kind, source, path, report)
        if kind == "iscsi" and source.get("initiatorName") is not None:
            whole = f"{name}:{source.get('targetPortal') or ''}"
            if len(whole) > INITIATOR_LIMIT:
                report.invalid(at(path, "name"), name, INITIATOR_TOO_LONG)
    for extra in others:
        report.forbidden(refused_place(path, extra), MORE_THAN_ONE)


def _check_empty_dir(source: Document, path: Path, report: Report) -> None:
    limit = source.get("sizeLimit")
    if limit is not None and amount(limit) < 0:
        detail = "SizeLimit field must be a valid resource quantity"
        report.forbidden(at(path, "sizeLimit"), detail)


def _check_git_repo(source: Document, path: Path, report: Report) -> None:
    check_required(source, ("repository",), path, report)
    if source.get("directory"):
        check_relative_path(source["directory"], at(path, "directory"), report)


def _check_secret(source: Document, path: Path, report: Report) -> None:
    check_required(source, ("secretName",), path, report)
    check_mode(source.get("defaultMode"), at(path, "defaultMode"), report)
    check_secret_files(source, path, report)


def _check_config_map(source: Document, path: Path, report: Report) -> None:
    check_required(source, ("name",), path, report)
    check_mode(source.get("defaultMode"), at(path, "defaultMode"), report)
    check_secret_files(source, path, report)


def _check_claim(source: Document, path: Path, report: Report) -> None:
    check_required(source, ("claimName",), path, report)


def _check_downward(source: Document, path: Path, report: Report) -> None:
    check_mode(source.get("defaultMode"), at(path, "defaultMode"), report)
    check_downward_files(source.get("items") or (), path, report)


def _check_csi(source: Document, path: Path, report: Report) -> None:
    check_csi_driver_name(source.get("driver") or "", at(path, "driver"), report)
    secret = source.get("nodePublishSecretRef")
    if secret is not None:
        name = secret.get("name") or ""
        if not name:
            report.required(at(path, "nodePublishSecretRef", "name"))
        else:
            report.format(at(path, "name"), name, formats.dns_subdomain)


# What the metadata of a claim's template may not say, of what a client can say.
_NOT_IN_TEMPLATE = (
    "name",
    "generateName",
    "namespace",
    "uid",  # which upstream spells in a way of its own
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "selfLink",
)


def _check_ephemeral(source: Document, path: Path, report: Report) -> None:
    template = source.get("volumeClaimTemplate")
    place = at(path, "volumeClaimTemplate")
    if template is None:
        report.required(place)
        return
    metadata = template.get("metadata") or {}
    spot = at(place, "metadata")
    check_labels(metadata.get("labels") or {}, at(spot, "labels"), report)
    check_annotations(metadata.get("annotations") or {}, at(spot, "annotations"), report)
    for field in _NOT_IN_TEMPLATE:
        if metadata.get(field) not in (None, "", 0):
            report.forbidden(at(spot, "uID" if field == "uid" else field), "cannot be set")
    check_claim_spec(template.get("spec") or {}, at(place, "spec"), report)


def _check_image(source: Document, path: Path, report: Report, in_pod: bool) -> None:
    policy = source.get("pullPolicy") or ""
    if not policy:
        report.required(at(path, "pullPolicy"))
    elif policy not in PULL_POLICIES:
        report.not_supported(at(path, "pullPolicy"), policy, PULL_POLICIES)
    if in_pod and not source.get("reference"):
        report.required(at(path, "reference"))


_OWN_SOURCES: dict[str, Callable[[Any, Path, Report], None]] = {
    "emptyDir": _check_empty_dir,
    "gitRepo": _check_git_repo,
    "secret": _check_secret,
    "configMap": _check_config_map,
    "persistentVolumeClaim": _check_claim,
    "downwardAPI": _check_downward,
    "projected": check_projected,
    "csi": _check_csi,
    "ephemeral": _check_ephemeral,
}
