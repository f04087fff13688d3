"""A container's environment and command, as kubelet makes them (source: ``kubelet_pods.go``,
``envvars.go``, ``third_party/forked/golang/expansion``)."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kubarium.api.resource import Document
from kubarium.base.errors import KubariumError
from kubarium.node.downward import PodFacts, UnsupportedField, field_value, resource_value

_REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")


class ConfigProblem(KubariumError):
    """The container cannot be configured: CreateContainerConfigError with this message."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where referred objects come from. ``config_map`` and ``secret`` take (namespace, name)."""

    config_map: Callable[[str, str], Document | None]
    secret: Callable[[str, str], Document | None]
    services: Callable[[str], Iterable[Document]]
    api_host: str = ""
    api_port: int = 0
    # Where pods with a network of their own find the API; None where there are none.
    pods_api: tuple[str, int] | None = None


def expand(text: str, values: Mapping[str, str]) -> str:
    """``$(NAME)`` becomes the value if there is one, ``$$`` becomes ``$``.

    >>> expand("$(A) $(B) $$(A)", {"A": "1"})
    '1 $(B) $(A)'
    """

    def replacement(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return values.get(match[2], match[0])

    return _REFERENCE.sub(replacement, text)


def container_environment(
    facts: PodFacts, container: Mapping[str, Any], sources: Sources
) -> dict[str, str]:
    """Service variables, then ``envFrom``, then ``env``; later ones win. Raises ConfigProblem."""
    services = service_environment(facts.pod, sources)
    own: dict[str, str] = {}
    namespace = facts.pod["metadata"].get("namespace", "")
    for entry in container.get("envFrom") or ():
        own.update(_from_object(entry, namespace, sources))
    for entry in container.get("env") or ():
        value = _value(entry, facts, container["name"], sources, services | own)
        if value is not None:
            own[entry["name"]] = value
    return services | own


def _from_object(entry: Mapping[str, Any], namespace: str, sources: Sources) -> dict[str, str]:
    prefix = entry.get("prefix") or ""
    for field, kind, find in (
        ("configMapRef", "configmap", sources.config_map),
        ("secretRef", "secret", sources.secret),
    ):
        reference = entry.get(field)
        if not reference:
            continue
        name = reference.get("name", "")
        document = find(namespace, name)
        if document is None:
            if reference.get("optional"):
                return {}
            raise ConfigProblem(f'{kind} "{name}" not found')
        return {
            prefix + key: text.decode(errors="replace") for key, text in contents(document).items()
        }
    return {}


def _value(
    entry: Mapping[str, Any],
    facts: PodFacts,
    container: str,
    sources: Sources,
    known: Mapping[str, str],
) -> str | None:
    source = entry.get("valueFrom")
    if not source:
        return expand(entry.get("value") or "", known)
    try:
        if source.get("fieldRef"):
            return field_value(facts, source["fieldRef"]["fieldPath"])
        if source.get("resourceFieldRef"):
            return resource_value(facts, source["resourceFieldRef"], container)
    except UnsupportedField as error:
        raise ConfigProblem(str(error)) from error
    namespace = facts.pod["metadata"].get("namespace", "")
    for field, kind, find in (
        ("configMapKeyRef", "ConfigMap", sources.config_map),
        ("secretKeyRef", "Secret", sources.secret),
    ):
        if source.get(field):
            return _key(source[field], kind, namespace, find)
    raise ConfigProblem(f"env {entry['name']}: this node cannot read {sorted(source)}")


def _key(
    reference: Mapping[str, Any],
    kind: str,
    namespace: str,
    find: Callable[[str, str], Document | None],
) -> str | None:
    name, key = reference.get("name", ""), reference["key"]
    document = find(namespace, name)
    if document is None:
        if reference.get("optional"):
            return None
        raise ConfigProblem(f'{kind.lower()} "{name}" not found')
    found = contents(document).get(key)
    if found is None:
        if reference.get("optional"):
            return None
        raise ConfigProblem(f"couldn't find key {key} in {kind} {namespace}/{name}")
    return found.decode(errors="replace")


def contents(document: Document) -> dict[str, bytes]:
    """The keys of a ConfigMap or Secret, decoded."""
    data = document.get("data") or {}
    if document.get("kind") == "Secret" or "type" in document:
        return {key: base64.b64decode(data[key] or "") for key in sorted(data)}
    texts = {key: (data[key] or "").encode() for key in data}
    binary = document.get("binaryData") or {}
    texts |= {key: base64.b64decode(binary[key]) for key in binary}
    return {key: texts[key] for key in sorted(texts)}


def service_environment(pod: Document, sources: Sources) -> dict[str, str]:
    """``KUBERNETES_…`` always; the namespace's services unless ``enableServiceLinks`` is false."""
    namespace = pod["metadata"].get("namespace", "")
    result: dict[str, str] = {}
    if pod["spec"].get("enableServiceLinks") is not False:
        for service in sources.services(namespace):
            if service["metadata"]["name"] != "kubernetes":
                result |= _service_variables(service)
    host, number = sources.api_host, sources.api_port
    if sources.pods_api is not None and not pod["spec"].get("hostNetwork"):
        host, number = sources.pods_api
    if host:
        ports = [{"name": "https", "port": number, "protocol": "TCP"}]
        result |= _variables("KUBERNETES", host, ports)
    return result


def _service_variables(service: Document) -> dict[str, str]:
    spec = service.get("spec") or {}
    address = spec.get("clusterIP")
    if not address or address == "None" or not spec.get("ports"):
        return {}
    stem = service["metadata"]["name"].upper().replace("-", "_")
    return _variables(stem, address, spec["ports"])


def _variables(stem: str, address: str, ports: list[Any]) -> dict[str, str]:
    first = ports[0]
    result = {f"{stem}_SERVICE_HOST": address, f"{stem}_SERVICE_PORT": str(first["port"])}
    for port in ports:
        if port.get("name"):
            name = port["name"].upper().replace("-", "_")
            result[f"{stem}_SERVICE_PORT_{name}"] = str(port["port"])
    for position, port in enumerate(ports):
        protocol = port.get("protocol") or "TCP"
        url = f"{protocol.lower()}://{_bracketed(address)}:{port['port']}"
        if position == 0:
            result[f"{stem}_PORT"] = url
        prefix = f"{stem}_PORT_{port['port']}_{protocol}"
        result[prefix] = url
        result[f"{prefix}_PROTO"] = protocol.lower()
        result[f"{prefix}_PORT"] = str(port["port"])
        result[f"{prefix}_ADDR"] = address
    return result


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def command_line(
    container: Mapping[str, Any],
    entrypoint: tuple[str, ...],
    cmd: tuple[str, ...],
    environment: Mapping[str, str],
) -> list[str]:
    """``command`` and ``args`` over the image's entrypoint and cmd, references expanded."""
    command, arguments = container.get("command"), container.get("args")
    line = [expand(part, environment) for part in command] if command else list(entrypoint)
    if arguments:
        line += [expand(part, environment) for part in arguments]
    elif not command:
        line += cmd
    if not line:
        raise ConfigProblem("no command specified")
    return line
