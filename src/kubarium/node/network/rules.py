"""The router's rules: services, the way out, policies - as one nftables table. Pure.

The table is replaced as a whole, in one transaction, whenever something changes; connections that
are already there go on (the kernel remembers them).

    prerouting -150   leaving     may this pod talk to something outside the cluster?
    prerouting -100   services    cluster IP → one of its endpoints; outside → the relay
    prerouting    0   refuse      cluster IPs without endpoints
    input, forward -10 cut...     what is broken on purpose, of open connections too
    input             local       what pods may ask of the router itself: names, the relay
    forward           between     policies of both ends
    postrouting 100   hairpin     a pod that reaches itself through a service
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from kubarium.engine.network.cuts import Cut
from kubarium.engine.network.policy import Access, Allowed
from kubarium.engine.network.ranges import EVERYWHERE, Ranges, contains
from kubarium.node.network.netlink import nft
from kubarium.node.network.netlink.wire import Message
from kubarium.node.network.plan import NetworkPlan
from kubarium.node.network.services import Backend, Balanced

TABLE = "kubarium"
DNS_PORT = 53
RELAY_PORT = 1
UPLINK = "uplink"
_PROTOCOLS = {"TCP": nft.TCP, "UDP": nft.UDP, "SCTP": nft.SCTP}


@dataclass(frozen=True, slots=True)
class World:
    """All that the rules depend on. ``links``: the router's link by pod address."""

    plan: NetworkPlan
    services: tuple[Balanced, ...] = ()
    access: Mapping[int, Access] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    cuts: tuple[Cut, ...] = ()


def relayed(world: World) -> dict[Backend, tuple[Backend, ...]]:
    """Services whose endpoints the router cannot reach itself: the relay connects to them."""
    return {
        (service.address, service.port): service.backends
        for service in world.services
        if service.protocol == "TCP" and service.backends and not _all_inside(world, service)
    }


def messages(world: World) -> list[Message]:
    """The transaction that makes the router behave so."""
    return nft.batch(_Table(world).build())


def _all_inside(world: World, service: Balanced) -> bool:
    inside, nodes = IPv4Network(world.plan.pods), IPv4Network(world.plan.nodes)
    for address, _ in service.backends:
        ip = IPv4Address(address)
        if ip not in inside or (ip in nodes and not world.plan.uplink):
            return False
    return True


class _Table:
    def __init__(self, world: World) -> None:
        self._world = world
        self._messages = nft.replace_table(TABLE)
        self._sets: dict[Ranges, tuple[str, int]] = {}
        self._chains: dict[tuple[bool, tuple[Allowed, ...]], str] = {}
        self._isolated = [
            (link, world.access[int(IPv4Address(address))])
            for address, link in sorted(world.links.items())
            if int(IPv4Address(address)) in world.access
        ]

    def build(self) -> list[Message]:
        self._leaving()
        self._services()
        self._refuse()
        self._local()
        self._cut()
        self._between()
        self._hairpin()
        return self._messages

    def _hooked(self, name: str, kind: str, number: int, priority: int) -> None:
        self._messages.append(nft.chain(TABLE, name, nft.Hook(kind, number, priority)))

    def _add(self, chain: str, *expressions: bytes) -> None:
        self._messages.append(nft.rule(TABLE, chain, expressions))

    # Services ----------------------------------------------------------------------------------

    def _services(self) -> None:
        self._hooked("services", "nat", nft.PREROUTING, -100)
        plan = self._world.plan
        far = relayed(self._world)
        to_relay = nft.redirect(plan.router, RELAY_PORT)
        for service in self._world.services:
            match = _matching(service)
            if (service.address, service.port) in far and service.protocol == "TCP":
                self._add("services", match, to_relay)
            elif _all_inside(self._world, service):
                self._balance(service, match)
        outside = b"".join(nft.to_network(network, differs=True) for network in _inner(plan))
        if not plan.uplink:
            nodes = nft.to_network(plan.nodes), nft.to_network(plan.router, differs=True)
            self._add("services", nft.protocol(nft.TCP), *nodes, to_relay)
        self._add("services", nft.protocol(nft.TCP), outside, to_relay)

    def _balance(self, service: Balanced, match: bytes) -> None:
        """In turn, as many rules as there are endpoints: each takes its share of the rest."""
        count = len(service.backends)
        for index, (address, port) in enumerate(service.backends):
            share = (
                nft.source_is(index, count)
                if service.sticky and count > 1
                else nft.every(count - index)
            )
            self._add("services", match, share, nft.redirect(address, port))

    def _refuse(self) -> None:
        self._hooked("refuse", "filter", nft.PREROUTING, 0)
        services = nft.to_network(self._world.plan.services)
        self._add("refuse", services, nft.protocol(nft.TCP), nft.reject(with_reset=True))
        self._add("refuse", services, nft.reject(with_reset=False))

    def _hairpin(self) -> None:
        self._hooked("hairpin", "nat", nft.POSTROUTING, 100)
        backends = {a for service in self._world.services for a, _ in service.backends}
        for address in sorted(backends & self._world.links.keys()):
            itself = nft.from_network(address) + nft.to_network(address)
            as_router = nft.appear_as(self._world.plan.router)
            self._add("hairpin", nft.redirected(), itself, as_router)

    def _local(self) -> None:
        self._hooked("local", "filter", nft.INPUT, 0)
        accept = nft.verdict(nft.ACCEPT)
        self._add("local", nft.came_in_by("lo"), accept)
        self._add("local", nft.of_known_connection(), accept)
        self._add("local", nft.redirected(), accept)
        for protocol in (nft.UDP, nft.TCP):
            dns = nft.protocol(protocol) + nft.to_ports(DNS_PORT, DNS_PORT)
            self._add("local", dns, accept)
        self._add("local", nft.protocol(nft.TCP), nft.reject(with_reset=True))
        self._add("local", nft.protocol(nft.UDP), nft.reject(with_reset=False))

    # Policies ----------------------------------------------------------------------------------

    def _leaving(self) -> None:
        """What goes to the relay never passes ``forward``: it is looked at before."""
        self._hooked("leaving", "filter", nft.PREROUTING, -150)
        self._add("leaving", nft.of_known_connection(), nft.verdict(nft.RETURN))
        outside = b"".join(nft.to_network(n, differs=True) for n in _inner(self._world.plan))
        relays = sorted({address for address, _ in relayed(self._world)})
        targets = [outside, *(nft.to_network(address) for address in relays)]
        if not self._world.plan.uplink:
            nodes = nft.to_network(self._world.plan.nodes)
            targets.append(nodes + nft.to_network(self._world.plan.router, differs=True))
        for link, access in self._isolated:
            if access.egress is not None:
                chain = self._chain(access.egress, incoming=False)
                for target in targets:
                    self._add("leaving", nft.came_in_by(link), target, nft.jump(chain))

    def _between(self) -> None:
        self._hooked("between", "filter", nft.FORWARD, 0)
        accept = nft.verdict(nft.ACCEPT)
        self._add("between", nft.of_known_connection(), accept)
        for link, access in self._isolated:
            itself = nft.came_in_by(link) + nft.goes_out_by(link)
            self._add("between", itself, accept)
            if access.egress is not None:
                chain = self._chain(access.egress, incoming=False)
                self._add("between", nft.came_in_by(link), nft.jump(chain))
            if access.ingress is not None:
                chain = self._chain(access.ingress, incoming=True)
                # A node always reaches its pods: probes come from there.
                others = nft.came_in_by(UPLINK, differs=True)
                self._add("between", others, nft.goes_out_by(link), nft.jump(chain))

    # Faults ------------------------------------------------------------------------------------

    def _cut(self) -> None:
        """Each cut has a chain for what its members send and one for what they get."""
        if not self._world.cuts:
            return
        self._hooked("cut-forwarded", "filter", nft.FORWARD, -10)
        self._hooked("cut-local", "filter", nft.INPUT, -10)
        # Where there is no uplink, the node asks its pods from here.
        self._add("cut-local", nft.by_who_answers(), nft.verdict(nft.RETURN))
        for number, cut in enumerate(self._world.cuts):
            links = [
                link
                for address, link in sorted(self._world.links.items())
                if contains(cut.members, int(IPv4Address(address)))
            ]
            drop = [nft.by_chance(cut.share), nft.verdict(nft.DROP)]
            for incoming in (False, True):
                name = f"cut-{number}-{'in' if incoming else 'out'}"
                self._messages += self._cut_chain(name, cut, incoming, drop)
                for link in links:
                    by = nft.goes_out_by(link) if incoming else nft.came_in_by(link)
                    self._add("cut-forwarded", by, nft.jump(name))
            if cut.peers is None:
                for link in links:
                    self._add("cut-local", nft.came_in_by(link), *drop)

    def _cut_chain(self, name: str, cut: Cut, incoming: bool, drop: list[bytes]) -> list[Message]:
        found = [nft.chain(TABLE, name)]
        stay = nft.verdict(nft.RETURN)
        if cut.peers is not None:
            if cut.peers:
                peers = self._peers(cut.peers, incoming, found)
                found.append(nft.rule(TABLE, name, [peers, *drop]))
            return found
        own = self._peers(cut.members, incoming, found)
        found.append(nft.rule(TABLE, name, [own, stay]))
        # The node that it is on reaches it, and is answered.
        if incoming:
            asked = nft.came_in_by(UPLINK) + nft.by_who_answers()
            found.append(nft.rule(TABLE, name, [asked, *drop]))
            found.append(nft.rule(TABLE, name, [nft.came_in_by(UPLINK), stay]))
        else:
            answers = nft.goes_out_by(UPLINK) + nft.by_who_answers()
            found.append(nft.rule(TABLE, name, [answers, stay]))
        found.append(nft.rule(TABLE, name, drop))
        return found

    def _chain(self, rules: tuple[Allowed, ...], incoming: bool) -> str:
        """The chain that returns for what is allowed and drops the rest; pods share it."""
        name = self._chains.get((incoming, rules))
        if name is not None:
            return name
        name = self._chains[(incoming, rules)] = f"policy-{len(self._chains)}"
        found = [nft.chain(TABLE, name)]
        for rule in rules:
            peers = self._peers(rule.peers, incoming, found)
            ports = b""
            if rule.protocol:
                number = _PROTOCOLS.get(rule.protocol)
                if number is None:
                    continue
                ports = nft.protocol(number)
                if (rule.first, rule.last) != (0, 65535):
                    ports += nft.to_ports(rule.first, rule.last)
            found.append(nft.rule(TABLE, name, [peers, ports, nft.verdict(nft.RETURN)]))
        found.append(nft.rule(TABLE, name, [nft.verdict(nft.DROP)]))
        self._messages += found  # a chain has to be there before others jump to it
        return name

    def _peers(self, ranges: Ranges, incoming: bool, found: list[Message]) -> bytes:
        if ranges == EVERYWHERE:
            return b""
        known = self._sets.get(ranges)
        if known is None:
            number = len(self._sets) + 1
            known = self._sets[ranges] = (f"peers-{number}", number)
            found += nft.address_set(TABLE, *known, ranges)
        return nft.from_set(*known) if incoming else nft.to_set(*known)


def _matching(service: Balanced) -> bytes:
    protocol = nft.protocol(_PROTOCOLS.get(service.protocol, nft.TCP))
    ports = nft.to_ports(service.port, service.port)
    return nft.to_network(service.address) + protocol + ports


def _inner(plan: NetworkPlan) -> Sequence[str]:
    return (plan.pods, plan.services)


def link_name(uid: str) -> str:
    """The router's link to a pod: at most 15 letters."""
    return f"pod{uid.replace('-', '')[:12]}"
