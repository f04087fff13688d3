"""Services as what has to be balanced: an address and port here, endpoints there. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from kubarium.api.resource import Document

SERVICE_LABEL = "kubernetes.io/service-name"
Backend = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Balanced:
    """Connections to ``address``:``port`` go to one of ``backends``; a client always to the same
    one if ``sticky``."""

    address: str
    protocol: str
    port: int
    backends: tuple[Backend, ...]
    sticky: bool = False
    node_port: int = 0


def service_of(slice_: Document) -> list[str]:
    """The service that an EndpointSlice belongs to, as ``namespace/name``; an index."""
    metadata = slice_["metadata"]
    name = (metadata.get("labels") or {}).get(SERVICE_LABEL)
    return [f"{metadata.get('namespace', '')}/{name}"] if name else []


def balanced(service: Document, slices: Iterable[Document]) -> Iterator[Balanced]:
    """What a service asks for: nothing if it is headless or a mere name."""
    spec, slices = service.get("spec") or {}, list(slices)
    address = spec.get("clusterIP")
    if not address or address == "None":
        return
    for port in spec.get("ports") or ():
        protocol, name = port.get("protocol") or "TCP", port.get("name") or ""
        found = [b for s in slices for b in _backends(s, name, protocol, _is_ready)]
        if not found:  # rather those that end but still answer than nobody
            found = [b for s in slices for b in _backends(s, name, protocol, _still_serves)]
        yield Balanced(
            address,
            protocol,
            port["port"],
            tuple(sorted(dict.fromkeys(found))),
            spec.get("sessionAffinity") == "ClientIP",
            port.get("nodePort") or 0,
        )


def _is_ready(conditions: Document) -> bool:
    return conditions.get("ready") is not False


def _still_serves(conditions: Document) -> bool:
    """It is being stopped and ready all the same (kube-proxy's ProxyTerminatingEndpoints)."""
    return bool(conditions.get("serving") and conditions.get("terminating"))


def _backends(
    slice_: Document, name: str, protocol: str, wanted: Callable[[Document], bool]
) -> list[Backend]:
    numbers = [
        port["port"]
        for port in slice_.get("ports") or ()
        if (port.get("name") or "") == name
        and (port.get("protocol") or "TCP") == protocol
        and port.get("port")
    ]
    return [
        (address, number)
        for endpoint in slice_.get("endpoints") or ()
        if wanted(endpoint.get("conditions") or {})
        for address in endpoint.get("addresses") or ()
        for number in numbers
    ]
