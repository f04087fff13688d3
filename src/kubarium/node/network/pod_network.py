"""Networks of pods: a router in a network namespace of its own, with one cable to each pod.

The router's namespace has all that a cluster network needs - links, routes, services, policies -
and nothing outside it is changed but for one link on the machine (``uplink``, which takes root).
The kernel takes all of it away with the last descriptor of the namespace, so that even after
``kill -9`` of everything nothing has to be swept up.

Cables are routed, not bridged: every packet between two pods passes the router's rules, and a pod
cannot speak with another's address.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubarium.base.errors import KubariumError
from kubarium.node.network.dns.server import DnsServer
from kubarium.node.network.netlink import links, queues
from kubarium.node.network.netlink.channel import AF_NETLINK, NETFILTER, ROUTE, Channel
from kubarium.node.network.netlink.wire import NetlinkError
from kubarium.node.network.plan import NetworkPlan
from kubarium.node.network.relay import Relay
from kubarium.node.network.rules import (
    DNS_PORT,
    RELAY_PORT,
    UPLINK,
    World,
    link_name,
    messages,
    relayed,
)

_LOG = logging.getLogger("kubarium.node")

_NETLINK_RAW = (AF_NETLINK, socket.SOCK_RAW)
_STREAM = (socket.AF_INET, socket.SOCK_STREAM, 0)
_DATAGRAM = (socket.AF_INET, socket.SOCK_DGRAM, 0)
# What is opened in the router's network, and in a pod's.
ROUTER_SOCKETS = ((*_NETLINK_RAW, ROUTE), (*_NETLINK_RAW, NETFILTER), _DATAGRAM, _STREAM, _STREAM)
POD_SOCKETS = ((*_NETLINK_RAW, ROUTE),)
POD_LINK, _POD_LINK_INDEX = "eth0", 2
_BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class _Router:
    """Open ends into the router's namespace."""

    routes: Channel
    rules: Channel


class PodNetwork:
    """The network of one agent's pods. ``zone`` answers for names."""

    def __init__(self, plan: NetworkPlan, name: str, nodes: Sequence[str], dns: DnsServer) -> None:
        """``name`` tells the cluster's link on the machine from others'; ``nodes``: addresses."""
        self.plan = plan
        self._nodes = list(nodes)
        self._link = uplink_name(name)
        self._dns = dns
        self._relay = Relay()
        if not plan.uplink:
            self._relay.own_addresses = dict.fromkeys(self._nodes)
        self._router: _Router | None = None
        self._sockets: list[socket.socket] = []
        self._attached: dict[str, str] = {}
        self._applied: World | None = None
        # Set when there is a router whose sockets nobody serves yet.
        self.built = asyncio.Event()

    @property
    def attached(self) -> Mapping[str, str]:
        """Addresses of pods that have a cable, by uid."""
        return self._attached

    def build(self, descriptors: Sequence[int]) -> None:
        """Set the router up in a fresh namespace (its descriptor, then ROUTER_SOCKETS).
        KubariumError or OSError if this machine does not allow it."""
        namespace, *found = descriptors
        opened = [socket.socket(fileno=descriptor) for descriptor in found]
        os.close(namespace)
        self._take(opened)
        assert self._router is not None
        index = links.LOOPBACK_INDEX
        self._router.routes.ask_all([links.up(index), links.address(index, self.plan.router)])
        self._listen()
        if self.plan.uplink:
            self._connect_machine(self._router.routes)
        self.built.set()

    def rejoin(self, descriptors: Sequence[int]) -> None:
        """Take over a router that is set up already: descriptors of ROUTER_SOCKETS. OSError."""
        self._take([socket.socket(fileno=descriptor) for descriptor in descriptors])
        self._listen()
        self.built.set()

    def adopt(self, uid: str, address: str) -> None:
        """A pod whose cable is there already."""
        self._attached[uid] = address

    def _take(self, opened: list[socket.socket]) -> None:
        self._let_go()
        routes, rules, *self._sockets = opened
        self._router = _Router(Channel(routes), Channel(rules))
        self._applied = None

    def _listen(self) -> None:
        datagrams, streams, relay = self._sockets
        for one, port in ((datagrams, DNS_PORT), (streams, DNS_PORT), (relay, RELAY_PORT)):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((self.plan.router, port))
        for one in (streams, relay):
            one.listen(_BACKLOG)

    def _connect_machine(self, routes: Channel) -> None:
        """A cable from the router to the machine, which has the nodes' addresses."""
        machine = Channel.here()
        try:
            with contextlib.suppress(NetlinkError):  # left by a namespace that is just going
                machine.ask(links.delete_link(self._link))
            with open("/proc/self/ns/net", "rb") as namespace:
                routes.ask(links.veth(UPLINK, self._link, 0, namespace.fileno()))
            index = links.link_indexes(machine.dump(links.all_links()))[self._link]
            machine.ask_all([links.address(index, node) for node in self._nodes])
            machine.ask(links.up(index))
            inner = links.link_indexes(routes.dump(links.all_links()))[UPLINK]
            routes.ask(links.up(inner, forward=True))
            routes.ask_all([links.route(inner, f"{node}/32") for node in self._nodes])
            router, source = self.plan.router, self._nodes[0]
            machine.ask(links.route(index, f"{router}/32", source=source))
            for network in (self.plan.pods, self.plan.services):
                machine.ask(links.route(index, network, router, source))
        finally:
            machine.close()

    async def serve(self) -> None:
        """Answer for names and relay connections, on the sockets of the last :meth:`build`."""
        self.built.clear()
        self._dns.close()
        self._relay.close()
        datagrams, streams, relay = (one.dup() for one in self._sockets)
        await self._dns.start(datagrams, streams)
        await self._relay.start(relay)

    def attach(self, uid: str, address: str, descriptors: Sequence[int]) -> None:
        """Lay a pod's cable: descriptors of its namespace and of POD_SOCKETS. KubariumError."""
        namespace, found = descriptors
        pod = Channel(socket.socket(fileno=found))
        try:
            if self._router is None:
                raise KubariumError("the pod network is not up")
            self._attach(self._router.routes, pod, link_name(uid), address, namespace)
        finally:
            pod.close()
            os.close(namespace)
        self._attached[uid] = address

    def _attach(
        self, routes: Channel, pod: Channel, link: str, address: str, namespace: int
    ) -> None:
        router = self.plan.router
        routes.ask(links.veth(link, POD_LINK, _POD_LINK_INDEX, namespace))
        pod.ask_all(
            [
                links.up(links.LOOPBACK_INDEX),
                links.address(_POD_LINK_INDEX, address),
                links.up(_POD_LINK_INDEX),
                links.route(_POD_LINK_INDEX, f"{router}/32"),
                links.route(_POD_LINK_INDEX, "0.0.0.0/0", router),
            ]
        )
        index = links.link_indexes(routes.dump(links.all_links()))[link]
        routes.ask_all([links.up(index, forward=True), links.route(index, f"{address}/32")])

    def detach(self, uid: str) -> None:
        """Take the cable away at once: the kernel would take its time with the namespace."""
        if self._attached.pop(uid, None) is not None and self._router is not None:
            with contextlib.suppress(NetlinkError):
                self._router.routes.ask(links.delete_link(link_name(uid)))

    def delay(self, uid: str, milliseconds: float | None) -> str:
        """Hold back what a pod is sent (None: no more); "" or why that cannot be."""
        if self._router is None or uid not in self._attached:
            return "it has no network of its own"
        routes, link = self._router.routes, link_name(uid)
        try:
            index = links.link_indexes(routes.dump(links.all_links()))[link]
            if milliseconds is None:
                routes.ask(queues.undelayed(index))
            else:
                routes.ask(queues.delayed(index, milliseconds))
        except NetlinkError as error:
            if error.number == errno.ENOENT and milliseconds is not None:
                return "this machine's kernel has no netem (module sch_netem)"
            return "" if milliseconds is None else str(error)
        return ""

    def apply(self, world: World) -> None:
        """Make the router's rules those of ``world``. NetlinkError if the kernel refuses them."""
        if self._router is None or world == self._applied:
            return
        self._router.rules.batch(messages(world))
        self._relay.instead = relayed(world)
        self._applied = world

    def close(self) -> None:
        """Let go of the namespace."""
        self._dns.close()
        self._relay.close()
        self._let_go()

    def _let_go(self) -> None:
        for one in self._sockets:
            one.close()
        self._sockets = []
        if self._router is not None:
            if self.plan.uplink:  # at once; the kernel would take its time with the namespace
                with contextlib.suppress(NetlinkError):
                    self._router.routes.ask(links.delete_link(UPLINK))
            self._router.routes.close()
            self._router.rules.close()
            self._router = None


def uplink_name(cluster: str) -> str:
    """The cluster's link on the machine; ``kubarium`` and ``ip link`` know it by this name."""
    return f"kub-{hashlib.sha256(cluster.encode()).hexdigest()[:10]}"


def addresses_in_use(attached: Mapping[str, str]) -> dict[str, str]:
    """The router's links by pod address."""
    return {address: link_name(uid) for uid, address in attached.items()}
