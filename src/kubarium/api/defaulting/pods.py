"""Defaults of pods and everything inside them (source: pkg/apis/core/v1/defaults.go)."""

from __future__ import annotations

from typing import Any

from kubarium.api.resource import Document

Fields = dict[str, Any]

DEFAULT_SCHEDULER = "default-scheduler"
GRACE_PERIOD_S = 30
FILE_MODE = 0o644
TOKEN_LIFETIME_S = 3600


def fill(fields: Fields, key: str, value: Any) -> None:
    """Set an absent or empty string field."""
    if not fields.get(key):
        fields[key] = value


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
    if "resources" in spec:
        _requests_from_limits(spec["resources"])
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
    container.setdefault("resources", {})
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
            fill(template.setdefault("spec", {}), "volumeMode", "Filesystem")
    _default_network_volume(volume)


def _default_downward_items(source: Fields) -> None:
    for item in source.get("items", ()):
        if "fieldRef" in item:
            fill(item["fieldRef"], "apiVersion", "v1")


def _default_projection(source: Fields) -> None:
    if "serviceAccountToken" in source:
        token = source["serviceAccountToken"]
        if not token.get("expirationSeconds"):
            token["expirationSeconds"] = TOKEN_LIFETIME_S
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
