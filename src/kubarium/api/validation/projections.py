"""Volumes made of files: keys of Secrets and ConfigMaps, the downward API, projected sources."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.environment import (
    check_field_reference,
    check_resource_reference,
)
from kubarium.api.validation.metadata import ANNOTATIONS_MAX, check_label_selector
from kubarium.api.validation.report import Report
from kubarium.api.validation.volume_sources import check_no_backsteps, check_required

FILE_MODE_MAX = 0o777
_FILE_MODE = "must be a number between 0 and 0777 (octal), both inclusive"
MIN_TOKEN_LIFETIME_S = 600
MAX_TOKEN_LIFETIME_S = 2**32
MIN_CERTIFICATE_LIFETIME_S = 3600
MAX_CERTIFICATE_LIFETIME_S = 91 * 24 * 3600
MAX_KUBERNETES_CERTIFICATE_LIFETIME_S = 24 * 3600
_KEY_TYPES = ("RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")
_CERTIFICATE_PATHS = ("credentialBundlePath", "keyPath", "certificateChainPath")
_FILE_FIELDS = frozenset(
    (
        "metadata.name",
        "metadata.namespace",
        "metadata.labels",
        "metadata.annotations",
        "metadata.uid",
    )
)
_SIGNER_MAX = 571  # a domain, a namespace, a name, and what joins them
_PROJECTIONS = (
    "secret",
    "configMap",
    "downwardAPI",
    "serviceAccountToken",
    "clusterTrustBundle",
    "podCertificate",
)


def check_mode(mode: int | None, path: Path, report: Report) -> None:
    """Permission bits of a file."""
    if mode is not None and not 0 <= mode <= FILE_MODE_MAX:
        report.invalid(path, mode, _FILE_MODE)


def check_relative_path(text: str, path: Path, report: Report) -> None:
    """A path that stays below where it is mounted."""
    if text.startswith("/"):
        report.invalid(path, text, "must be a relative path")
    check_no_backsteps(text, path, report)


def check_file_path(text: str, path: Path, report: Report) -> None:
    """A relative path whose first name is not one that the node agent writes itself."""
    check_relative_path(text, path, report)
    if text.startswith("..") and not text.startswith("../"):
        report.invalid(path, text, "must not start with '..'")


def check_secret_files(source: Document, path: Path, report: Report) -> None:
    """``items`` of a Secret or ConfigMap: which keys become which files."""
    for index, item in enumerate(source.get("items") or ()):
        place = at(path, "items", index)
        check_required(item, ("key", "path"), place, report)
        check_file_path(item.get("path") or "", at(place, "path"), report)
        check_mode(item.get("mode"), at(place, "mode"), report)


def check_downward_files(items: Iterable[Document], path: Path, report: Report) -> None:
    """Files of the downward API; complaints name the volume, as upstream's do."""
    for item in items:
        check_required(item, ("path",), path, report)
        check_file_path(item.get("path") or "", at(path, "path"), report)
        field, resource = item.get("fieldRef"), item.get("resourceFieldRef")
        if field is not None:
            check_field_reference(field, at(path, "fieldRef"), report, _FILE_FIELDS)
            if resource is not None:
                detail = "fieldRef and resourceFieldRef can not be specified simultaneously"
                report.invalid(path, "resource", detail)
        elif resource is not None:
            place = at(path, "resourceFieldRef")
            check_resource_reference(resource, place, report, of_container=True)
        else:
            report.required(path, "one of fieldRef and resourceFieldRef is required")
        check_mode(item.get("mode"), at(path, "mode"), report)


class _Paths:
    """The files of one projected volume: no two may have the same path."""

    def __init__(self, path: Path, report: Report) -> None:
        self._path = path
        self._report = report
        self._seen: set[str] = set()

    def add(self, path: str, shown: Any) -> None:
        """Report ``shown`` if another file has that path."""
        if path in self._seen:
            self._report.invalid(self._path, shown, "conflicting duplicate paths")
        self._seen.add(path)


def check_projected(volume: Document, path: Path, report: Report) -> None:
    """``projected``: each source is of one kind, and their files do not collide."""
    check_mode(volume.get("defaultMode"), at(path, "defaultMode"), report)
    paths = _Paths(path, report)
    for index, source in enumerate(volume.get("sources") or ()):
        place = at(path, "sources", index)
        given = [kind for kind in _PROJECTIONS if source.get(kind) is not None]
        for kind in given:
            _check_projection(kind, source[kind], path, at(place, kind), paths, report)
        if len(given) > 1:
            report.forbidden(place, "may not specify more than 1 volume type per source")


def _check_projection(
    kind: str, source: Document, volume: Path, path: Path, paths: _Paths, report: Report
) -> None:
    if kind in ("secret", "configMap"):
        check_required(source, ("name",), path, report)
        check_secret_files(source, path, report)
        for item in source.get("items") or ():
            if item.get("path"):
                paths.add(item["path"], source.get("name") or "")
    elif kind == "downwardAPI":
        items = source.get("items") or ()
        check_downward_files(items, path, report)
        for item in items:
            if item.get("path"):
                paths.add(item["path"], item["path"])
    elif kind == "serviceAccountToken":
        _check_token(source, volume, path, report)
    elif kind == "clusterTrustBundle":
        _check_trust_bundle(source, path, report)
        file = source.get("path") or ""
        paths.add(file, file)
    else:
        _check_certificate(source, path, paths, report)


def _check_token(source: Document, volume: Path, path: Path, report: Report) -> None:
    seconds = source.get("expirationSeconds")
    place = at(path, "expirationSeconds")
    if seconds is not None and seconds < MIN_TOKEN_LIFETIME_S:
        report.invalid(place, seconds, "may not specify a duration less than 10 minutes")
    elif seconds is not None and seconds > MAX_TOKEN_LIFETIME_S:
        report.invalid(place, seconds, "may not specify a duration larger than 2^32 seconds")
    file = source.get("path") or ""
    if not file:
        report.required(at(volume, "path"))
    else:
        check_file_path(file, at(volume, "path"), report)


def check_signer(name: str, path: Path, report: Report) -> None:
    """A signer of certificates: a domain of at least two labels, a slash and a path."""
    if not name:
        report.required(path)
        return
    if name.count("/") != 1:
        detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        report.invalid(path, name, detail)
        return
    domain, _, rest = name.partition("/")
    if len(domain) > formats.SUBDOMAIN_MAX:
        report.too_long(path, formats.SUBDOMAIN_MAX)
    _check_segment(domain, formats.dns_label, path, report)
    if "." not in domain:
        detail = "should be a domain with at least two segments separated by dots"
        report.invalid(path, domain, detail)
    _check_segment(rest, formats.dns_subdomain, path, report)
    if len(name) > _SIGNER_MAX:
        report.too_long(path, _SIGNER_MAX)


def _check_segment(segment: str, check: formats.Check, path: Path, report: Report) -> None:
    """The first of its labels that is malformed."""
    for label in segment.split("."):
        complaints = check(label)
        for complaint in complaints:
            report.invalid(path, segment, f'validating label "{label}": {complaint}')
        if complaints:
            return


def _check_trust_bundle(source: Document, path: Path, report: Report) -> None:
    name, signer, selector = (source.get(f) for f in ("name", "signerName", "labelSelector"))
    if name is not None and signer is not None:
        report.invalid(path, source, "only one of name and signerName may be used")
    elif name is not None:
        _check_bundle_name(name, at(path, "name"), report)
        if selector is not None:
            detail = "labelSelector must be unset if name is specified"
            report.invalid(at(path, "labelSelector"), selector, detail)
    elif signer is not None:
        if not signer:
            report.required(at(path, "signerName"), "must be a valid signer name")
        check_signer(signer, at(path, "signerName"), report)
        check_label_selector(selector, at(path, "labelSelector"), report)
    else:
        report.required(path, "either name or signerName must be specified")
    check_required(source, ("path",), path, report)
    check_file_path(source.get("path") or "", at(path, "path"), report)


def _check_bundle_name(name: str, path: Path, report: Report) -> None:
    """``signer:domain:name`` or a plain name without colons."""
    if not name:
        report.required(path, "must be a valid object name")
    own = name.rpartition(":")[2]
    for complaint in formats.dns_subdomain(own):
        report.invalid(path, name, f"not a valid clustertrustbundlename: {complaint}")


def _check_certificate(source: Document, path: Path, paths: _Paths, report: Report) -> None:
    signer = source.get("signerName") or ""
    check_signer(signer, at(path, "signerName"), report)
    _check_user_annotations(source.get("userAnnotations") or {}, path, report)
    key = source.get("keyType") or ""
    if key not in _KEY_TYPES:
        report.not_supported(at(path, "keyType"), key, _KEY_TYPES)
    _check_lifetime(source.get("maxExpirationSeconds"), signer, path, report)
    given = [field for field in _CERTIFICATE_PATHS if source.get(field)]
    for field in given:
        check_file_path(source[field], at(path, field), report)
        paths.add(source[field], source[field])
    if not given:
        detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"
        report.required(path, detail)


def _check_user_annotations(annotations: dict[str, str], path: Path, report: Report) -> None:
    """Keys have a domain; in size they are like annotations of objects."""
    place = at(path, "userAnnotations")
    for key in annotations:
        report.required_format(place, key.lower(), formats.domain_prefixed_key)
    if sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items()) > ANNOTATIONS_MAX:
        report.too_long(place, ANNOTATIONS_MAX)


def _check_lifetime(seconds: int | None, signer: str, path: Path, report: Report) -> None:
    if seconds is None:
        return
    own = signer.partition("/")[0]
    native = own == "kubernetes.io" or own.endswith(".kubernetes.io")
    most = MAX_KUBERNETES_CERTIFICATE_LIFETIME_S if native else MAX_CERTIFICATE_LIFETIME_S
    place = at(path, "maxExpirationSeconds")
    if seconds < MIN_CERTIFICATE_LIFETIME_S:
        detail = f"if provided, maxExpirationSeconds must be >= {MIN_CERTIFICATE_LIFETIME_S}"
        report.invalid(place, seconds, detail)
    if seconds > most:
        report.invalid(place, seconds, f"if provided, maxExpirationSeconds must be <= {most}")
