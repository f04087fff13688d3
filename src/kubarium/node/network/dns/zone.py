"""What the names of a cluster mean, from API objects alone.

Source: the Kubernetes DNS specification (``dns/docs/specification.md``, version 1.1.0), with the
pod records that CoreDNS adds in its default mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from kubarium.api.resource import Document
from kubarium.node.network.dns.wire import ANY, CNAME, PTR, SRV, TXT, A, Answer
from kubarium.node.network.names import pod_hostname

_REVERSE = ".in-addr.arpa"
_VERSION = "1.1.0"


@dataclass(frozen=True, slots=True)
class ZoneSources:
    """The objects that names come from. Slices and services by ``namespace``/``name``."""

    service: Callable[[str, str], Document | None]
    slices: Callable[[str, str], Iterable[Document]]
    namespace: Callable[[str], Document | None]
    by_address: Callable[[str], Iterable[Document]]
    """Services with that cluster IP, and pods with that address."""


class Zone:
    """Answers for the cluster's domain and the reverse names of its addresses."""

    def __init__(self, domain: str, sources: ZoneSources, networks: Sequence[str] = ()) -> None:
        """``networks``: whose reverse names are ours."""
        self._domain = domain
        self._sources = sources
        self._networks = [IPv4Network(network) for network in networks]

    @property
    def domain(self) -> str:
        return self._domain

    def holds(self, name: str) -> bool:
        """Whether the name is ours to answer, if only with "there is none"."""
        if name.endswith(_REVERSE):
            try:
                address = IPv4Address(_reversed_address(name))
            except ValueError:
                return False
            return any(address in network for network in self._networks)
        return name == self._domain or name.endswith(f".{self._domain}")

    def answers(self, name: str, kind: int) -> list[Answer] | None:
        """Records of ``name``; empty if it has others only, None if there is no such name."""
        if name.endswith(_REVERSE):
            return self._reverse(name, kind)
        parts = name[: -len(self._domain) - 1].split(".") if name != self._domain else []
        match list(reversed(parts)):
            case [] | ["svc"] | ["pod"]:
                return []
            case ["dns-version"]:
                return [Answer(name, TXT, _VERSION)] if kind in (TXT, ANY) else []
            case ["svc", namespace, *rest]:
                return self._in_namespace(name, kind, namespace, rest)
            case ["pod", namespace, dashed]:
                return self._pod(name, kind, namespace, dashed)
            case ["pod", namespace]:
                return None if self._sources.namespace(namespace) is None else []
        return None

    def _in_namespace(
        self, name: str, kind: int, namespace: str, rest: list[str]
    ) -> list[Answer] | None:
        if not rest:
            return None if self._sources.namespace(namespace) is None else []
        service = self._sources.service(namespace, rest[0])
        if service is None:
            return None
        spec = service.get("spec") or {}
        if spec.get("type") == "ExternalName":
            alias = [Answer(name, CNAME, spec["externalName"].rstrip("."))]
            return alias if len(rest) == 1 else None
        if len(rest) == 1:
            addresses = self._addresses(service)
            return _of_kind(name, kind, addresses) if addresses else None
        if len(rest) == 2 and not rest[1].startswith("_"):
            found = [a for host, a in self._endpoints(service) if host == rest[1]]
            return _of_kind(name, kind, found) if found else None
        if len(rest) == 3 and rest[1].startswith("_") and rest[2].startswith("_"):
            return self._ports(name, kind, service, rest[2][1:], rest[1][1:].upper())
        return None

    def _addresses(self, service: Document) -> list[str]:
        address = (service.get("spec") or {}).get("clusterIP") or ""
        if address != "None":
            return [address] if address else []
        return list(dict.fromkeys(address for _, address in self._endpoints(service)))

    def _endpoints(self, service: Document) -> list[tuple[str, str]]:
        """(host name, address) of a headless service's ready endpoints."""
        if (service.get("spec") or {}).get("clusterIP") != "None":
            return []
        metadata = service["metadata"]
        return [
            (self._host(endpoint, address), address)
            for slice_ in self._sources.slices(metadata.get("namespace", ""), metadata["name"])
            for endpoint in slice_.get("endpoints") or ()
            if (endpoint.get("conditions") or {}).get("ready") is not False
            for address in endpoint.get("addresses") or ()
        ]

    def _host(self, endpoint: Document, address: str) -> str:
        return str(endpoint.get("hostname") or address.replace(".", "-"))

    def _ports(
        self, name: str, kind: int, service: Document, port_name: str, protocol: str
    ) -> list[Answer] | None:
        metadata, spec = service["metadata"], service.get("spec") or {}
        base = f"{metadata['name']}.{metadata.get('namespace', '')}.svc.{self._domain}"
        if spec.get("clusterIP") != "None":
            found = [
                f"0 100 {port['port']} {base}"
                for port in spec.get("ports") or ()
                if port.get("name") == port_name and (port.get("protocol") or "TCP") == protocol
            ]
        else:
            found = [
                f"0 100 {port['port']} {self._host(endpoint, address)}.{base}"
                for slice_ in self._sources.slices(metadata.get("namespace", ""), metadata["name"])
                for port in slice_.get("ports") or ()
                if port.get("name") == port_name and (port.get("protocol") or "TCP") == protocol
                for endpoint in slice_.get("endpoints") or ()
                if (endpoint.get("conditions") or {}).get("ready") is not False
                for address in endpoint.get("addresses") or ()
            ]
        if not found:
            return None
        return [Answer(name, SRV, data) for data in found] if kind in (SRV, ANY) else []

    def _pod(self, name: str, kind: int, namespace: str, dashed: str) -> list[Answer] | None:
        """``10-200-1-7.ns.pod…`` means the address that it spells."""
        try:
            address = str(IPv4Address(dashed.replace("-", ".")))
        except ValueError:
            return None
        if self._sources.namespace(namespace) is None:
            return None
        return _of_kind(name, kind, [address])

    def _reverse(self, name: str, kind: int) -> list[Answer] | None:
        address = _reversed_address(name)
        names = [n for document in self._sources.by_address(address) for n in self._names(document)]
        if not names:
            return None
        return [Answer(name, PTR, found) for found in names] if kind in (PTR, ANY) else []

    def _names(self, document: Document) -> list[str]:
        metadata = document["metadata"]
        namespace = metadata.get("namespace", "")
        if document["kind"] == "Service":
            return [f"{metadata['name']}.{namespace}.svc.{self._domain}"]
        subdomain = document["spec"].get("subdomain")
        if not subdomain:
            return []
        return [f"{pod_hostname(document)}.{subdomain}.{namespace}.svc.{self._domain}"]


def _reversed_address(name: str) -> str:
    return ".".join(reversed(name.removesuffix(_REVERSE).split(".")))


def _of_kind(name: str, kind: int, addresses: list[str]) -> list[Answer]:
    """IPv4 only: the name exists, but has no other records."""
    return [Answer(name, A, address) for address in addresses] if kind in (A, ANY) else []
