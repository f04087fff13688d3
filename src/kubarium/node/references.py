"""Which other objects a pod's containers and volumes are made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubarium.api.kinds import CONFIG_MAPS, PERSISTENT_VOLUME_CLAIMS, SECRETS
from kubarium.api.resource import Document, Resource


def referred_objects(pod: Document) -> list[tuple[Resource, str]]:
    """(resource, name) of ConfigMaps, Secrets and claims in the pod's namespace; each once."""
    spec = pod["spec"]
    found: dict[tuple[Resource, str], None] = {}
    for entry in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        found |= dict.fromkeys(_of_container(entry))
    for volume in spec.get("volumes") or ():
        found |= dict.fromkeys(_of_volume(volume))
    for secret in spec.get("imagePullSecrets") or ():
        found[(SECRETS, secret.get("name", ""))] = None
    return [(resource, name) for resource, name in found if name]


def _of_container(entry: dict[str, Any]) -> Iterator[tuple[Resource, str]]:
    for source in entry.get("envFrom") or ():
        yield from _of_fields(source, "configMapRef", "secretRef")
    for variable in entry.get("env") or ():
        yield from _of_fields(variable.get("valueFrom") or {}, "configMapKeyRef", "secretKeyRef")


def _of_fields(
    source: dict[str, Any], config_map: str, secret: str
) -> Iterator[tuple[Resource, str]]:
    if source.get(config_map):
        yield CONFIG_MAPS, source[config_map].get("name", "")
    if source.get(secret):
        yield SECRETS, source[secret].get("name", "")


def _of_volume(volume: dict[str, Any]) -> Iterator[tuple[Resource, str]]:
    if volume.get("persistentVolumeClaim"):
        yield PERSISTENT_VOLUME_CLAIMS, volume["persistentVolumeClaim"].get("claimName", "")
    if volume.get("secret"):
        yield SECRETS, volume["secret"].get("secretName", "")
    yield from _of_fields(volume, "configMap", "")
    for part in (volume.get("projected") or {}).get("sources") or ():
        yield from _of_fields(part, "configMap", "secret")
