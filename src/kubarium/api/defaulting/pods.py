"""Defaults of pods and everything inside them (source: pkg/apis/core/v1/defaults.go)."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Any

from kubarium.api.pod_amounts import of_containers, quantities_of
from kubarium.api.resource import Document
from kubarium.api.validation.quantities import HUGE_PAGES
from kubarium.base.quantity import QuantityError, format_quantity, parse_quantity

Fields = dict[str, Any]

DEFAULT_SCHEDULER = "default-scheduler"
GRACE_PERIOD_S = 30
FILE_MODE = 0o644
TOKEN_LIFETIME_S = 3600
# Without any of these a quantity is no finer than a thousandth.
_FINE = re.compile(r"[.nueE]")


def fill(fields: Fields, key: str, value: Any) -> None:
    """Set an absent or empty string field."""
    if not fields.get(key):
        fields[key] = value


def round_up(quantities: Fields | None) -> None:
    """No quantity is finer than a thousandth: what is, is rounded up, in place.

    Malformed ones are left to validation. Source: SetDefaults_ResourceList.
    """
    if quantities:
        for name, text in quantities.items():
            if isinstance(text, str) and (rounded := _rounded(text)) != text:
                quantities[name] = rounded


@lru_cache(maxsize=4096)
def _rounded(text: str) -> str:
    if not _FINE.search(text):
        return text
    try:
        value = parse_quantity(text) * 1000
    except QuantityError:
        return text
    return text if value.denominator == 1 else format_quantity(Fraction(ceil(value), 1000))


def default_pod(pod: Document) -> None:
    """A pod: its spec, and what only pods themselves get (not their templates)."""
    pod.setdefault("metadata", {})
    spec = pod.setdefault("spec", {})
    default_pod_spec(spec)
    spec.setdefault("enableServiceLinks", True)
    host_network = spec.get("hostNetwork", False)
    for container in _containers(spec):
        _requests_from_limits(container["resources"])
        if host_network:
            _host_ports(container)
    if spec.get("resources"):
        _pod_level(spec)
    pod.setdefault("status", {})
    fill(pod["status"], "phase", "Pending")


def default_pod_template_object(document: Document) -> None:
    """core/v1 PodTemplate."""
    default_pod_template(document.setdefault("template", {}))


def default_pod_template(template: Fields) -> None:
    """``template`` of a workload."""
    template.setdefault("metadata", {})
    default_pod_spec(template.setdefault("spec", {}))


def _containers(spec: Fields) -> list[Fields]:
    return [*spec.get("containers", ()), *spec.get("initContainers", ())]


def default_pod_spec(spec: Fields) -> None:
    """A pod spec wherever it stands."""
    fill(spec, "dnsPolicy", "ClusterFirst")
    fill(spec, "restartPolicy", "Always")
    fill(spec, "schedulerName", DEFAULT_SCHEDULER)
    spec.setdefault("securityContext", {})
    spec.setdefault("terminationGracePeriodSeconds", GRACE_PERIOD_S)
    if spec.get("serviceAccount") and not spec.get("serviceAccountName"):
        spec["serviceAccountName"] = spec["serviceAccount"]
    elif spec.get("serviceAccountName"):
        spec["serviceAccount"] = spec["serviceAccountName"]  # the deprecated twin
    whole = spec.get("resources") or {}
    for quantities in (spec.get("overhead"), whole.get("limits"), whole.get("requests")):
        round_up(quantities)
    for container in _containers(spec):
        default_container(container)
    for container in spec.get("ephemeralContainers", ()):
        default_container(container)
    for volume in spec.get("volumes", ()):
        default_volume(volume)


def _requests_from_limits(resources: Fields) -> None:
    limits = resources.get("limits")
    if not limits:
        return
    requests = resources.setdefault("requests", {})
    for name, quantity in limits.items():
        requests.setdefault(name, quantity)


def _pod_level(spec: Fields) -> None:
    """What the pod as a whole asks for and may use, where it says only a part of that.

    Huge pages: as much as its containers may use. Requests, if there are limits: what its
    containers ask for in all, or the limit where none of them asks for anything.
    """
    resources = spec["resources"]
    if not (resources.get("requests") or resources.get("limits")):
        return
    limits = resources.get("limits") or {}
    for name in _named_by_containers(spec, "limits"):
        if name.startswith(HUGE_PAGES) and name not in (resources.get("requests") or {}):
            limits.setdefault(name, _of_containers(spec, "limits", name))
    if limits:
        resources["limits"] = limits
        requests = resources.setdefault("requests", {})
        for name in _named_by_containers(spec, "requests"):
            if name in ("cpu", "memory"):
                requests.setdefault(name, _of_containers(spec, "requests", name))
        for name, quantity in limits.items():
            if name in ("cpu", "memory") or name.startswith(HUGE_PAGES):
                requests.setdefault(name, quantity)


def _named_by_containers(spec: Fields, part: str) -> list[str]:
    return list(dict.fromkeys(n for c in _containers(spec) for n in quantities_of(c, part)))


def _of_containers(spec: Fields, part: str, name: str) -> Any:
    """The quantity as it was written if only one container has it."""
    own = [
        quantities_of(c, part)[name] for c in _containers(spec) if name in quantities_of(c, part)
    ]
    if len(own) == 1:
        return own[0]
    return format_quantity(of_containers(spec, part, name), binary=name != "cpu")


def _host_ports(container: Fields) -> None:
    for port in container.get("ports", ()):
        if not port.get("hostPort"):
            port["hostPort"] = port.get("containerPort", 0)


# --- containers ----------------------------------------------------------------------------------


def default_container(container: Fields) -> None:
    """A container of any sort."""
    if not container.get("imagePullPolicy"):
        container["imagePullPolicy"] = pull_policy(container.get("image", ""))
    fill(container, "terminationMessagePath", "/dev/termination-log")
    fill(container, "terminationMessagePolicy", "File")
    resources = container.setdefault("resources", {})
    for part in ("limits", "requests"):
        round_up(resources.get(part))
    for port in container.get("ports", ()):
        fill(port, "protocol", "TCP")
    for variable in container.get("env", ()):
        source = variable.get("valueFrom")
        if source:
            _default_env_source(source)
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if name in container:
            default_probe(container[name])
    for handler in container.get("lifecycle", {}).values():
        if isinstance(handler, dict) and "httpGet" in handler:
            _default_http_get(handler["httpGet"])


def _default_env_source(source: Fields) -> None:
    if "fieldRef" in source:
        fill(source["fieldRef"], "apiVersion", "v1")
    if "fileKeyRef" in source:
        source["fileKeyRef"].setdefault("optional", False)


def pull_policy(image: str) -> str:
    """``Always`` for the tag ``latest``, given or implied; else ``IfNotPresent``.

    >>> pull_policy("busybox"), pull_policy("a:5000/busybox:1.36"), pull_policy("x@sha256:00")
    ('Always', 'IfNotPresent', 'IfNotPresent')
    """
    name, digest, _ = image.partition("@")
    if digest:
        return "IfNotPresent"
    _, colon, tag = name.rpartition("/")[2].partition(":")
    return "Always" if not colon or tag == "latest" else "IfNotPresent"


def default_probe(probe: Fields) -> None:
    """Timings in seconds and counts of a probe."""
    for key, value in (
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ):
        if not probe.get(key):
            probe[key] = value
    if "httpGet" in probe:
        _default_http_get(probe["httpGet"])
    if "grpc" in probe:
        probe["grpc"].setdefault("service", "")


def _default_http_get(action: Fields) -> None:
    fill(action, "path", "/")
    fill(action, "scheme", "HTTP")


# --- volumes -------------------------------------------------------------------------------------


def default_volume(volume: Fields) -> None:
    """A volume; one without a source is an emptyDir."""
    if not any(key != "name" for key in volume):
        volume["emptyDir"] = {}
        return
    for key in ("secret", "configMap", "downwardAPI", "projected"):
        if key in volume:
            volume[key].setdefault("defaultMode", FILE_MODE)
    if "hostPath" in volume:
        volume["hostPath"].setdefault("type", "")
    if "downwardAPI" in volume:
        _default_downward_items(volume["downwardAPI"])
    for source in volume.get("projected", {}).get("sources", ()):
        _default_projection(source)
    if "image" in volume:
        image = volume["image"]
        fill(image, "pullPolicy", pull_policy(image.get("reference", "")))
    if "ephemeral" in volume:
        template = volume["ephemeral"].get("volumeClaimTemplate")
        if template is not None:
            template.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
    _default_network_volume(volume)


def _default_downward_items(source: Fields) -> None:
    for item in source.get("items", ()):
        if "fieldRef" in item:
            fill(item["fieldRef"], "apiVersion", "v1")


def _default_projection(source: Fields) -> None:
    if "serviceAccountToken" in source:
        token = source["serviceAccountToken"]
        token.setdefault("expirationSeconds", TOKEN_LIFETIME_S)
    if "downwardAPI" in source:
        _default_downward_items(source["downwardAPI"])


def _default_network_volume(volume: Fields) -> None:
    if "iscsi" in volume:
        fill(volume["iscsi"], "iscsiInterface", "default")
    if "rbd" in volume:
        for key, value in (("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")):
            fill(volume["rbd"], key, value)
    if "azureDisk" in volume:
        disk = volume["azureDisk"]
        for key, value in (("cachingMode", "ReadWrite"), ("kind", "Shared"), ("fsType", "ext4")):
            fill(disk, key, value)
        disk.setdefault("readOnly", False)
    if "scaleIO" in volume:
        fill(volume["scaleIO"], "storageMode", "ThinProvisioned")
        fill(volume["scaleIO"], "fsType", "xfs")
