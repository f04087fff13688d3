"""NetworkPolicies and pods as the engine's values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from kubarium.engine.network.policy import (
    Block,
    NetworkPod,
    NetworkPolicy,
    Pods,
    PolicyPort,
    PolicyRule,
)
from kubarium.engine.network.ranges import Range
from kubarium.engine.selectors import LabelSelector
from kubarium.view.selectors import label_selector

_Json = Mapping[str, Any]


def network_pods(
    pods: Iterable[_Json], namespaces: Iterable[_Json], addresses: Mapping[str, str]
) -> list[NetworkPod]:
    """The pods that have an address of their own in ``addresses``, by uid."""
    labels = {n["metadata"]["name"]: n["metadata"].get("labels") or {} for n in namespaces}
    found = []
    for pod in pods:
        metadata = pod["metadata"]
        address = addresses.get(metadata["uid"])
        if address is not None:
            namespace = metadata.get("namespace", "")
            found.append(
                NetworkPod(
                    int(IPv4Address(address)),
                    namespace,
                    metadata.get("labels") or {},
                    labels.get(namespace, {}),
                    _named_ports(pod),
                )
            )
    return found


def _named_ports(pod: _Json) -> dict[tuple[str, str], int]:
    spec = pod["spec"]
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    return {
        (port["name"], port.get("protocol") or "TCP"): port["containerPort"]
        for container in containers
        for port in container.get("ports") or ()
        if port.get("name")
    }


def network_policy(document: _Json) -> NetworkPolicy:
    """A NetworkPolicy. Where ``policyTypes`` is absent it follows from the rules that are there."""
    spec = document.get("spec") or {}
    types = spec.get("policyTypes") or (["Ingress"] + (["Egress"] if spec.get("egress") else []))
    return NetworkPolicy(
        document["metadata"].get("namespace", ""),
        label_selector(spec.get("podSelector") or {}) or LabelSelector(),
        _rules(spec.get("ingress"), "from") if "Ingress" in types else None,
        _rules(spec.get("egress"), "to") if "Egress" in types else None,
    )


def _rules(documents: Iterable[_Json] | None, peers: str) -> tuple[PolicyRule, ...]:
    return tuple(_rule(document or {}, peers) for document in documents or ())


def _rule(document: _Json, peers: str) -> PolicyRule:
    """Empty lists mean the same as absent ones: no restriction."""
    found = [_peer(peer) for peer in document.get(peers) or ()]
    ports = [_port(port) for port in document.get("ports") or ()]
    return PolicyRule(
        tuple(peer for peer in found if peer is not None) if found else None,
        tuple(ports) if ports else None,
    )


def _peer(document: _Json) -> Block | Pods | None:
    """None for an address block that is not IPv4: no pod of ours has such an address."""
    block = document.get("ipBlock")
    if block:
        whole = _cidr(block.get("cidr") or "")
        cut = [_cidr(entry) for entry in block.get("except") or ()]
        return None if whole is None else Block(whole, tuple(c for c in cut if c is not None))
    pods = label_selector(document.get("podSelector")) or LabelSelector()
    return Pods(pods, label_selector(document.get("namespaceSelector")))


def _cidr(text: str) -> Range | None:
    try:
        network = IPv4Network(text, strict=False)
    except ValueError:
        return None
    return int(network.network_address), int(network.broadcast_address)


def _port(document: _Json) -> PolicyPort:
    protocol, port = document.get("protocol") or "TCP", document.get("port")
    if port is None:
        return PolicyPort(protocol)
    if isinstance(port, str):
        return PolicyPort(protocol, name=port)
    return PolicyPort(protocol, port, document.get("endPort") or port)
