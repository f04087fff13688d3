"""NetworkPolicies decided: for each pod, what may reach it and what it may reach.

Source: the NetworkPolicy API's own comments (``networking/v1 types.go``) and its conformance tests.
Policies add up: a pod that no policy selects for a direction is open in it; one that is selected is
open only to what some rule of some policy allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kubarium.engine.network.ranges import EVERYWHERE, Range, Ranges, contains, union, without
from kubarium.engine.selectors import LabelSelector

ALL_PORTS = (0, 65535)


@dataclass(frozen=True, slots=True)
class NetworkPod:
    """A pod with an address of its own. ``ports`` by (name, protocol)."""

    address: int
    namespace: str
    labels: Mapping[str, str]
    namespace_labels: Mapping[str, str]
    ports: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Block:
    """Addresses of a CIDR but for others."""

    addresses: Range
    excepted: tuple[Range, ...] = ()


@dataclass(frozen=True, slots=True)
class Pods:
    """Pods by labels; ``namespaces`` None means those of the policy's own namespace."""

    pods: LabelSelector
    namespaces: LabelSelector | None = None


@dataclass(frozen=True, slots=True)
class PolicyPort:
    """A protocol with a range of ports, or with the name of a port of the pod that is reached."""

    protocol: str
    first: int = ALL_PORTS[0]
    last: int = ALL_PORTS[1]
    name: str = ""


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """``peers`` None: everyone. ``ports`` None: all, of every protocol."""

    peers: tuple[Block | Pods, ...] | None = None
    ports: tuple[PolicyPort, ...] | None = None


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """``ingress`` and ``egress`` None: the policy does not concern that direction."""

    namespace: str
    selector: LabelSelector
    ingress: tuple[PolicyRule, ...] | None = None
    egress: tuple[PolicyRule, ...] | None = None


@dataclass(frozen=True, slots=True, order=True)
class Allowed:
    """Traffic with these addresses at the other end; ``protocol`` "" is any protocol and port."""

    peers: Ranges
    protocol: str = ""
    first: int = ALL_PORTS[0]
    last: int = ALL_PORTS[1]


@dataclass(frozen=True, slots=True)
class Access:
    """What one pod's traffic is confined to; None: not confined in that direction."""

    ingress: tuple[Allowed, ...] | None = None
    egress: tuple[Allowed, ...] | None = None


def decide(policies: Sequence[NetworkPolicy], pods: Sequence[NetworkPod]) -> dict[int, Access]:
    """Access by address, of those pods that a policy selects; the others are open."""
    found: dict[int, Access] = {}
    for pod in pods:
        mine = [p for p in policies if _selects(p, pod)]
        ingress = [p.ingress for p in mine if p.ingress is not None]
        egress = [p.egress for p in mine if p.egress is not None]
        if not ingress and not egress:
            continue
        found[pod.address] = Access(
            _allowed([rule for rules in ingress for rule in rules], pod, pods, True)
            if ingress
            else None,
            _allowed([rule for rules in egress for rule in rules], pod, pods, False)
            if egress
            else None,
        )
    return found


def permits(
    access: Mapping[int, Access], source: int, target: int, protocol: str, port: int
) -> bool:
    """Whether a connection may be made. Both ends have to allow it; a pod always reaches itself."""
    if source == target:
        return True
    leaves = access.get(source, Access()).egress
    enters = access.get(target, Access()).ingress
    return _admits(leaves, target, protocol, port) and _admits(enters, source, protocol, port)


def _admits(rules: tuple[Allowed, ...] | None, peer: int, protocol: str, port: int) -> bool:
    if rules is None:
        return True
    return any(
        contains(rule.peers, peer)
        and (not rule.protocol or (rule.protocol == protocol and rule.first <= port <= rule.last))
        for rule in rules
    )


def _selects(policy: NetworkPolicy, pod: NetworkPod) -> bool:
    return policy.namespace == pod.namespace and policy.selector.matches(pod.labels)


def _allowed(
    rules: Iterable[PolicyRule], pod: NetworkPod, pods: Sequence[NetworkPod], ingress: bool
) -> tuple[Allowed, ...]:
    """The rules as addresses and port numbers, merged where only the addresses differ."""
    merged: dict[tuple[str, int, int], list[Range]] = {}
    for rule in rules:
        for protocol, first, last, peers in _flattened(rule, pod, pods, ingress):
            merged.setdefault((protocol, first, last), []).extend(peers)
    return tuple(sorted(Allowed(union(peers), *key) for key, peers in merged.items() if peers))


def _flattened(
    rule: PolicyRule, pod: NetworkPod, pods: Sequence[NetworkPod], ingress: bool
) -> Iterable[tuple[str, int, int, Ranges]]:
    peers = _addresses(rule.peers, pod, pods)
    if rule.ports is None:
        yield "", *ALL_PORTS, peers
        return
    for port in rule.ports:
        if not port.name:
            yield port.protocol, port.first, port.last, peers
        elif ingress:
            number = pod.ports.get((port.name, port.protocol))
            if number is not None:
                yield port.protocol, number, number, peers
        else:
            for number, having in _by_named_port(port, pods).items():
                both = union(one for one in having if contains(peers, one[0]))
                yield port.protocol, number, number, both


def _by_named_port(port: PolicyPort, pods: Sequence[NetworkPod]) -> dict[int, list[Range]]:
    """On the way out a port's name means what each reached pod calls so."""
    found: dict[int, list[Range]] = {}
    for other in pods:
        number = other.ports.get((port.name, port.protocol))
        if number is not None:
            found.setdefault(number, []).append((other.address, other.address))
    return found


def _addresses(
    peers: tuple[Block | Pods, ...] | None, pod: NetworkPod, pods: Sequence[NetworkPod]
) -> Ranges:
    if peers is None:
        return EVERYWHERE
    found: list[Range] = []
    for peer in peers:
        if isinstance(peer, Block):
            found += without([peer.addresses], peer.excepted)
        else:
            found += [(p.address, p.address) for p in pods if _is_peer(peer, pod.namespace, p)]
    return union(found)


def _is_peer(peer: Pods, namespace: str, pod: NetworkPod) -> bool:
    if peer.namespaces is None:
        inside = pod.namespace == namespace
    else:
        inside = peer.namespaces.matches(pod.namespace_labels)
    return inside and peer.pods.matches(pod.labels)
