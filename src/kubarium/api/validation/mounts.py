"""Where containers see the volumes of their pod: as directories and as block devices."""

from __future__ import annotations

from collections.abc import Mapping

from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.projections import check_relative_path
from kubarium.api.validation.report import Report
from kubarium.api.validation.volumes import Volumes

_PROPAGATIONS = ("Bidirectional", "HostToContainer", "None")
_RECURSIVE_READ_ONLY = ("Disabled", "Enabled", "IfPossible")
_BLOCK_SOURCES = ("persistentVolumeClaim", "ephemeral")


def check_mounts(container: Document, path: Path, volumes: Volumes, report: Report) -> None:
    """``volumeMounts`` and ``volumeDevices``; some complaints name the list, as upstream's do."""
    mounts, devices = container.get("volumeMounts") or (), container.get("volumeDevices") or ()
    if mounts:
        taken = {d.get("name") or "": d.get("devicePath") or "" for d in devices}
        privileged = bool((container.get("securityContext") or {}).get("privileged"))
        _check_mounts(mounts, at(path, "volumeMounts"), volumes, taken, privileged, report)
    if devices:
        taken = {m.get("name") or "": m.get("mountPath") or "" for m in mounts}
        _check_devices(devices, at(path, "volumeDevices"), volumes, taken, report)


def _check_mounts(
    mounts: list[Document],
    path: Path,
    volumes: Volumes,
    devices: Mapping[str, str],
    privileged: bool,
    report: Report,
) -> None:
    seen: set[str] = set()
    for index, mount in enumerate(mounts):
        place = at(path, index)
        name, target = mount.get("name") or "", mount.get("mountPath") or ""
        if not name:
            report.required(at(place, "name"))
        if name not in volumes:
            report.not_found(at(place, "name"), name)
        if not target:
            report.required(at(place, "mountPath"))
        if target in seen:
            report.invalid(at(place, "mountPath"), target, "must be unique")
        seen.add(target)
        if name in devices:
            report.invalid(at(place, "name"), name, "must not already exist in volumeDevices")
        if target in devices.values():
            detail = "must not already exist as a path in volumeDevices"
            report.invalid(at(place, "mountPath"), target, detail)
        for field in ("subPath", "subPathExpr"):
            if mount.get(field):
                check_relative_path(mount[field], at(path, field), report)
        if mount.get("subPath") and mount.get("subPathExpr"):
            detail = "subPathExpr and subPath are mutually exclusive"
            report.invalid(at(place, "subPathExpr"), mount["subPathExpr"], detail)
        _check_propagation(mount, path, privileged, report)


def _check_propagation(mount: Document, path: Path, privileged: bool, report: Report) -> None:
    spreads, read_only = mount.get("mountPropagation"), mount.get("recursiveReadOnly")
    if spreads is not None and spreads not in _PROPAGATIONS:
        report.not_supported(at(path, "mountPropagation"), spreads, _PROPAGATIONS)
    if spreads == "Bidirectional" and not privileged:
        detail = "Bidirectional mount propagation is available only to privileged containers"
        report.forbidden(at(path, "mountPropagation"), detail)
    if read_only in (None, "Disabled"):
        return
    place = at(path, "recursiveReadOnly")
    if read_only not in _RECURSIVE_READ_ONLY:
        report.not_supported(place, read_only, _RECURSIVE_READ_ONLY)
        return
    if not mount.get("readOnly"):
        report.forbidden(place, "may only be specified when readOnly is true")
    if spreads not in (None, "None"):
        detail = "may only be specified when mountPropagation is None or not specified"
        report.forbidden(place, detail)


def _check_devices(
    devices: list[Document],
    path: Path,
    volumes: Volumes,
    mounts: Mapping[str, str],
    report: Report,
) -> None:
    names: set[str] = set()
    paths: set[str] = set()
    for index, device in enumerate(devices):
        place = at(path, index)
        name, target = device.get("name") or "", device.get("devicePath") or ""
        if not name:
            report.required(at(place, "name"))
        if name in names:
            report.invalid(at(place, "name"), name, "must be unique")
        volume = volumes.get(name)
        if volume is None:
            report.not_found(at(place, "name"), name)
        elif not any(volume.get(source) is not None for source in _BLOCK_SOURCES):
            detail = (
                "can only use volume source type of PersistentVolumeClaim or Ephemeral "
                "for block mode"
            )
            report.invalid(at(place, "name"), name, detail)
        if not target:
            report.required(at(place, "devicePath"))
        if target in paths:
            report.invalid(at(place, "devicePath"), target, "must be unique")
        if ".." in target.split("/"):
            report.invalid(at(place, "devicePath"), target, "can not contain backsteps ('..')")
        else:
            paths.add(target)
        if name in mounts:
            report.invalid(at(place, "name"), name, "must not already exist in volumeMounts")
        if target in mounts.values():
            detail = "must not already exist as a path in volumeMounts"
            report.invalid(at(place, "devicePath"), target, detail)
        if name:
            names.add(name)
