"""What annotations of pods say to the platform, and how they fit the spec.

Source: ``ValidatePodSpecificAnnotations`` and the rules of creation in ``pkg/apis/core``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from kubarium.api import formats
from kubarium.api.paths import Key, Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.report import Report
from kubarium.api.validation.security import containers_of

MIRROR = "kubernetes.io/config.mirror"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_ANNOTATIONS: Path = at(None, "metadata", "annotations")


def check_pod_annotations(
    annotations: Mapping[str, str], spec: Document, path: Path, report: Report
) -> None:
    """Annotations of a pod or of a template."""
    if MIRROR in annotations and not spec.get("nodeName"):
        detail = "must set spec.nodeName if mirror pod annotation is set"
        report.invalid(at(path, Key(MIRROR)), annotations[MIRROR], detail)
    cost = annotations.get(DELETION_COST)
    if cost is not None and not _is_cost(cost):
        report.invalid(at(path, Key(DELETION_COST)), cost, "must be a 32bit integer")
    for key, value in annotations.items():
        if key.startswith(_APPARMOR):
            _check_apparmor(key, value, spec, path, report)


def _is_cost(text: str) -> bool:
    """A 32-bit integer without a plus or zeros in front."""
    return _INTEGER.fullmatch(text) is not None and -(2**31) <= int(text) < 2**31


def _check_apparmor(key: str, value: str, spec: Document, path: Path, report: Report) -> None:
    name = key.removeprefix(_APPARMOR)
    place = at(path, Key(key))
    if all(container.get("name") != name for container, _ in containers_of(spec, None)):
        report.invalid(place, name, "container not found")
    known = value in ("", "runtime/default", "unconfined") or value.startswith("localhost/")
    if not known:
        report.invalid(place, value, f'invalid AppArmor profile name: "{value}"')


def check_pod_metadata(pod: Document, report: Report) -> None:
    """What a pod's name and annotations mean for its spec; the spec has rules of its own."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec") or {}
    annotations = metadata.get("annotations")
    if annotations:
        check_pod_annotations(annotations, spec, _ANNOTATIONS, report)
        if MIRROR in annotations and spec.get("resourceClaims"):
            report.forbidden(None, "static pods do not support resource claims")
    if metadata.get("name") and spec.get("volumes"):
        _check_claims_to_come(metadata["name"], spec["volumes"], report)


def _check_claims_to_come(name: str, volumes: list[Document], report: Report) -> None:
    """Claims of ephemeral volumes get names that are valid, and that no other volume uses."""
    path = at(None, "spec", "volumes")
    coming = {f"{name}-{v.get('name') or ''}" for v in volumes if v.get("ephemeral") is not None}
    if not coming:
        return
    for index, volume in enumerate(volumes):
        own = volume.get("name") or ""
        if volume.get("ephemeral") is not None and own:
            for complaint in formats.dns_subdomain(f"{name}-{own}"):
                detail = f'PVC name "{name}-{own}": {complaint}'
                report.invalid(at(path, index, "name"), own, detail)
        claim = (volume.get("persistentVolumeClaim") or {}).get("claimName")
        if claim in coming:
            place = at(path, index, "persistentVolumeClaim", "claimName")
            detail = "must not reference a PVC that gets created for an ephemeral volume"
            report.invalid(place, claim, detail)


def check_annotation_changes(new: Document, old: Document, report: Report) -> None:
    """Annotations that the node agent acts on stay as they were on creation."""
    after = (new.get("metadata") or {}).get("annotations") or {}
    before = (old.get("metadata") or {}).get("annotations") or {}
    if after == before:
        return
    for key in sorted({*after, *before}):
        change = "add" if key not in before else "remove or update"
        if after.get(key) == before.get(key):
            continue
        if key.startswith(_APPARMOR):
            report.forbidden(at(_ANNOTATIONS, Key(key)), f"may not {change} AppArmor annotations")
        elif key == MIRROR:
            detail = f"may not {change} mirror pod annotation"
            report.forbidden(at(_ANNOTATIONS, Key(key)), detail)
    check_pod_annotations(after, new.get("spec") or {}, _ANNOTATIONS, report)
