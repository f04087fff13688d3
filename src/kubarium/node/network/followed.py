"""Keeps a pod network's rules and names in step with the API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from kubarium.api.kinds import (
    ENDPOINT_SLICES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    SERVICES,
)
from kubarium.api.resource import Document
from kubarium.engine.network.cuts import Cut
from kubarium.engine.network.policy import decide
from kubarium.node.network.dns.zone import ZoneSources
from kubarium.node.network.netlink.wire import NetlinkError
from kubarium.node.network.pod_network import PodNetwork, addresses_in_use
from kubarium.node.network.rules import World
from kubarium.node.network.services import Backend, Balanced, balanced, service_of
from kubarium.runtime.protocol import Context, Informers
from kubarium.view.cuts import cuts
from kubarium.view.faults import orders_of
from kubarium.view.network import network_pods, network_policy

_LOG = logging.getLogger("kubarium.node")
# Changes that come together (a gang's addresses) become one set of rules.
_GATHER_S = 0.02
_BY_SERVICE, _BY_ADDRESS, _ORDERED = "service", "network-address", "fault-orders"
_FOLLOWED = (SERVICES, ENDPOINT_SLICES, PODS, NAMESPACES, NETWORK_POLICIES)


class FollowedNetwork:
    """Rewrites the rules of ``network`` whenever what they come from has changed. ``api``: where
    the API server listens on this machine."""

    def __init__(self, context: Context, network: PodNetwork, api: Backend) -> None:
        self._clock = context.clock
        self._network = network
        self._api = api
        self._informers = {r: context.informers.get(r) for r in _FOLLOWED}
        self._informers[ENDPOINT_SLICES].add_index(_BY_SERVICE, service_of)
        self._nodes = context.informers.get(NODES)
        for informer in (self._nodes, self._informers[PODS]):
            informer.add_index(_ORDERED, _ordered)
        self._dirty = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    async def start(self) -> None:
        """Until everything is known, and the first rules are in force."""
        for informer in self._informers.values():
            await informer.wait_synced()
            informer.on_change(lambda old, new: self._dirty.set())
        await self._nodes.wait_synced()
        self._nodes.on_change(self._node_changed)
        self._write()
        await self._network.serve()

    def _node_changed(self, old: Document | None, new: Document | None) -> None:
        """Nodes are written to all the time; only faults matter here."""
        if any(d is not None and any(orders_of(d)) for d in (old, new)):
            self._dirty.set()

    async def run(self) -> None:
        while True:
            await self._dirty.wait()
            await self._clock.sleep(_GATHER_S)
            self._dirty.clear()
            waiting, self._waiting = self._waiting, []
            self._write()
            if self._network.built.is_set():
                await self._network.serve()
            for answer in waiting:
                if not answer.done():
                    answer.set_result(None)

    def changed(self) -> None:
        """A cable was laid or taken away."""
        self._dirty.set()

    async def confined(self) -> None:
        """Until the rules that hold for new cables are in force, if there are policies at all."""
        if not self._informers[NETWORK_POLICIES].items():
            self.changed()
            return
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self.changed()
        await answer

    def _write(self) -> None:
        try:
            self._network.apply(self._world())
        except (NetlinkError, OSError) as error:
            _LOG.error("pod network: the kernel refused the rules: %s", error)

    def _world(self) -> World:
        attached = self._network.attached
        policies = [network_policy(p) for p in self._informers[NETWORK_POLICIES].items()]
        pods = self._informers[PODS].items() if policies else []
        access = decide(policies, network_pods(pods, self._informers[NAMESPACES].items(), attached))
        links = addresses_in_use(attached)
        services = tuple(self._services())
        return World(self._network.plan, services, access, links, self._cuts())

    def _cuts(self) -> tuple[Cut, ...]:
        pods, nodes = self._informers[PODS], self._nodes
        if not any(i.by_index(_ORDERED, "yes") for i in (pods, nodes)):
            return ()
        return cuts(pods.items(), nodes.items(), self._network.attached)

    def _services(self) -> Iterable[Balanced]:
        for service in self._informers[SERVICES].items():
            metadata = service["metadata"]
            namespace, name = metadata.get("namespace", ""), metadata["name"]
            if (namespace, name) == ("default", "kubernetes"):
                yield from self._api_service(service)
                continue
            slices = self._informers[ENDPOINT_SLICES].by_index(_BY_SERVICE, f"{namespace}/{name}")
            yield from balanced(service, slices)

    def _api_service(self, service: Document) -> Iterable[Balanced]:
        spec = service["spec"]
        for port in spec.get("ports") or ():
            if spec.get("clusterIP") and self._api[1]:
                yield Balanced(spec["clusterIP"], "TCP", port["port"], (self._api,))


def zone_sources(informers: Informers) -> ZoneSources:
    """What names come from, out of the agent's watched copies."""
    services, pods = informers.get(SERVICES), informers.get(PODS)
    slices, namespaces = informers.get(ENDPOINT_SLICES), informers.get(NAMESPACES)
    slices.add_index(_BY_SERVICE, service_of)
    services.add_index(_BY_ADDRESS, _cluster_ip)
    pods.add_index(_BY_ADDRESS, _pod_ip)
    return ZoneSources(
        lambda namespace, name: services.get(name, namespace),
        lambda namespace, name: slices.by_index(_BY_SERVICE, f"{namespace}/{name}"),
        namespaces.get,
        lambda address: [
            *services.by_index(_BY_ADDRESS, address),
            *pods.by_index(_BY_ADDRESS, address),
        ],
    )


def _ordered(document: Document) -> Iterable[str]:
    return ("yes",) if orders_of(document) else ()


def _cluster_ip(service: Document) -> Iterable[str]:
    address = (service.get("spec") or {}).get("clusterIP")
    return () if not address or address == "None" else (address,)


def _pod_ip(pod: Document) -> Iterable[str]:
    address = (pod.get("status") or {}).get("podIP")
    return (address,) if address else ()
