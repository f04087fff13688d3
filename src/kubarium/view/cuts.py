"""Partitions, from the orders that Faults put on pods and nodes, as addresses. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address

from kubarium.api.resource import Document
from kubarium.api.selectors import label_selector
from kubarium.engine.network.cuts import Cut, cut_between
from kubarium.view.faults import LOSS, PARTITION, PARTITION_NODE, Order, orders_of


def cuts(
    pods: Sequence[Document], nodes: Iterable[Document], addresses: Mapping[str, str]
) -> tuple[Cut, ...]:
    """What separates pods now. ``addresses`` of pods by uid: those that have a cable."""
    sides: dict[str, tuple[Order, str, list[int]]] = {}
    for pod in pods:
        address = addresses.get(pod["metadata"]["uid"])
        for order in orders_of(pod) if address else ():
            if order.action in (PARTITION, LOSS) and order.in_force:
                namespace = pod["metadata"].get("namespace", "")
                _, _, side = sides.setdefault(order.ident, (order, namespace, []))
                side.append(int(IPv4Address(address)))
    found = []
    for order, namespace, side in sides.values():
        peers = None
        if order.peers is not None:
            selector = label_selector(order.peers)
            peers = [
                int(IPv4Address(addresses[pod["metadata"]["uid"]]))
                for pod in pods
                if pod["metadata"].get("namespace", "") == namespace
                and pod["metadata"]["uid"] in addresses
                and selector.matches(pod["metadata"].get("labels") or {})
            ]
        share = order.amount if order.action == LOSS else 1.0
        found.append(cut_between(side, peers, share))
    found += _between_nodes(pods, list(nodes), addresses)
    return tuple(sorted(set(found), key=lambda c: (c.members, c.peers or (), c.share)))


def _between_nodes(
    pods: Sequence[Document], nodes: Sequence[Document], addresses: Mapping[str, str]
) -> list[Cut]:
    sides: dict[str, tuple[Order, dict[str, None]]] = {}
    for node in nodes:
        for order in orders_of(node):
            if order.action == PARTITION_NODE and order.in_force:
                side = sides.setdefault(order.ident, (order, {}))[1]
                side[node["metadata"]["name"]] = None
    on: dict[str, list[int]] = {}
    for pod in pods if sides else ():
        address = addresses.get(pod["metadata"]["uid"])
        if address:
            on.setdefault(pod["spec"].get("nodeName", ""), []).append(int(IPv4Address(address)))
    found = []
    for order, mine in sides.values():
        selector = label_selector(order.peers or {})
        others = [
            n["metadata"]["name"]
            for n in nodes
            if n["metadata"]["name"] not in mine
            and selector.matches(n["metadata"].get("labels") or {})
        ]
        members = [a for name in mine for a in on.get(name, ())]
        found.append(cut_between(members, [a for name in others for a in on.get(name, ())]))
    return [cut for cut in found if cut.members and cut.peers]
