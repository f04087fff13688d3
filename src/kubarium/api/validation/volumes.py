"""Volumes of pods: exactly one source each, and what each source needs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.quantities import amount
from kubarium.api.validation.report import Report

VolumeNames = Collection[str]
FILE_MODE_MAX = 0o777
_FILE_MODE = "must be a number between 0 and 0777 (octal), both inclusive"
MIN_TOKEN_LIFETIME_S = 600
MAX_TOKEN_LIFETIME_S = 2**32
_PROJECTIONS = (
    "clusterTrustBundle",
    "configMap",
    "downwardAPI",
    "podCertificate",
    "secret",
    "serviceAccountToken",
)


_PULL_POLICIES = ("Always", "IfNotPresent", "Never")


def check_volumes(volumes: list[Document], path: Path, report: Report) -> set[str]:
    """Report on each volume; the names that mounts may use."""
    names: set[str] = set()
    for index, volume in enumerate(volumes):
        place = at(path, index)
        name = volume.get("name") or ""
        if name and report.format(at(place, "name"), name, formats.dns_label):
            report.unique(at(place, "name"), name, names)
        sources = [key for key in volume if key != "name"]
        if not sources:
            report.required(place, "must specify a volume type")
        for extra in sources[1:]:
            report.forbidden(at(place, extra), "may not specify more than 1 volume type")
        for key in sources[:1]:
            _check_source(key, volume[key], at(place, key), report)
    return names


def _check_source(kind: str, source: Any, path: Path, report: Report) -> None:
    if kind == "emptyDir":
        limit = source.get("sizeLimit")
        if limit is not None and amount(limit) < 0:
            detail = "SizeLimit field must be a valid resource quantity"
            report.forbidden(at(path, "sizeLimit"), detail)
    elif kind == "secret":
        if not source.get("secretName"):
            report.required(at(path, "secretName"))
        _check_files(source, path, report)
    elif kind == "configMap":
        if not source.get("name"):
            report.required(at(path, "name"))
        _check_files(source, path, report)
    elif kind == "downwardAPI":
        _check_mode(source.get("defaultMode"), at(path, "defaultMode"), report)
        _check_downward(source.get("items") or [], path, report)
    elif kind == "projected":
        _check_mode(source.get("defaultMode"), at(path, "defaultMode"), report)
        for index, projection in enumerate(source.get("sources") or ()):
            _check_projection(projection, at(path, "sources", index), report)
    elif kind == "hostPath":
        if ".." in (source.get("path") or "").split("/"):
            report.invalid(at(path, "path"), source["path"], "must not contain '..'")
    elif kind == "image":
        policy = source.get("pullPolicy") or ""
        if policy and policy not in _PULL_POLICIES:
            report.not_supported(at(path, "pullPolicy"), policy, _PULL_POLICIES)
    elif kind == "ephemeral" and source.get("volumeClaimTemplate") is None:
        report.required(at(path, "volumeClaimTemplate"))


def _check_mode(mode: int | None, path: Path, report: Report) -> None:
    if mode is not None and not 0 <= mode <= FILE_MODE_MAX:
        report.invalid(path, mode, _FILE_MODE)


def _check_files(source: Document, path: Path, report: Report) -> None:
    _check_mode(source.get("defaultMode"), at(path, "defaultMode"), report)
    for index, item in enumerate(source.get("items") or ()):
        place = at(path, "items", index)
        if item.get("path"):
            check_relative_path(item["path"], at(place, "path"), report)
        _check_mode(item.get("mode"), at(place, "mode"), report)


def check_relative_path(text: str, path: Path, report: Report) -> None:
    """A path that stays below where it is mounted."""
    if text.startswith("/"):
        report.invalid(path, text, "must be a relative path")
    if ".." in text.split("/"):
        report.invalid(path, text, "must not contain '..'")


def _check_downward(items: list[Document], path: Path, report: Report) -> None:
    for index, item in enumerate(items):
        place = at(path, "items", index)
        if item.get("path"):
            check_relative_path(item["path"], at(place, "path"), report)
        given = [key for key in ("fieldRef", "resourceFieldRef") if item.get(key) is not None]
        if len(given) > 1:
            detail = "fieldRef and resourceFieldRef can not be specified simultaneously"
            report.invalid(place, "resource", detail)
        elif not given:
            report.required(place, "one of fieldRef and resourceFieldRef is required")
        _check_mode(item.get("mode"), at(place, "mode"), report)


def _check_projection(projection: Document, path: Path, report: Report) -> None:
    given = [key for key in _PROJECTIONS if projection.get(key) is not None]
    if not given:
        report.required(path, "no source specified")
    for extra in given[1:]:
        report.forbidden(at(path, extra), "may not specify more than 1 volume type per source")
    for key in given[:1]:
        source, place = projection[key], at(path, key)
        if key in ("secret", "configMap"):
            if not source.get("name"):
                report.required(at(place, "name"))
            _check_files(source, place, report)
        elif key == "downwardAPI":
            _check_downward(source.get("items") or [], place, report)
        elif key == "serviceAccountToken":
            _check_token(source, place, report)


def _check_token(source: Document, path: Path, report: Report) -> None:
    seconds = source.get("expirationSeconds")
    place = at(path, "expirationSeconds")
    if seconds is not None and seconds < MIN_TOKEN_LIFETIME_S:
        report.invalid(place, seconds, "may not specify a duration less than 10 minutes")
    elif seconds is not None and seconds > MAX_TOKEN_LIFETIME_S:
        report.invalid(place, seconds, "may not specify a duration larger than 2^32 seconds")
    if source.get("path"):
        check_relative_path(source["path"], at(path, "path"), report)
