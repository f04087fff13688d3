"""Which network a cluster's pods get: tried on this machine, and kept for the cluster's life."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

from kubarium.node.network.netlink.channel import Channel
from kubarium.node.network.netlink.links import (
    all_links,
    all_routes,
    link_indexes,
    routed_networks,
)
from kubarium.node.network.plan import CHOICES, NetworkPlan, choose, number_of, overlaps
from kubarium.node.network.pod_network import uplink_name
from kubarium.node.network.trial import refusal

_LOG = logging.getLogger("kubarium.cluster")
_OTHER_MODE = (
    "this cluster was made with services on loopback, and keeps them; "
    "`kubarium reset` and `kubarium up` make one with pod networks"
)


@dataclass(frozen=True, slots=True)
class Choice:
    """``plan`` None: pods share the machine's network, for the reason ``why``. ``claim`` keeps
    other clusters of this machine from the same choice as long as it is open."""

    plan: NetworkPlan | None
    why: str = ""
    claim: socket.socket | None = None

    def close(self) -> None:
        if self.claim is not None:
            self.claim.close()


def choose_network(root: str, api_address: str) -> Choice:
    """``root`` is the folder of the cluster's nodes; ``api_address`` the cluster IP that the
    kubernetes service already has ("": none yet), which settles the choice."""
    why = refusal()
    if why:
        return Choice(None, why)
    kept = number_of(api_address) if api_address else None
    if api_address and kept is None:
        return Choice(None, _OTHER_MODE)
    is_root = os.geteuid() == 0
    taken = _routes(root) if is_root else []
    if kept is not None:
        plan = NetworkPlan(kept, is_root)
        claim = _claim(kept)
        if is_root and (claim is None or overlaps(plan, taken)):
            _LOG.warning(
                "the machine has other routes to %s or %s: pods are not reachable from it by "
                "address (kubectl port-forward works)",
                plan.pods,
                plan.services,
            )
            plan = replace(plan, uplink=False)
        return Choice(plan, "", claim)
    start = int.from_bytes(hashlib.sha256(root.encode()).digest()[:4])
    for step in range(CHOICES):
        number = choose(start + step, taken)
        claim = None if number is None else _claim(number)
        if number is not None and claim is not None:
            return Choice(NetworkPlan(number, is_root), "", claim)
    return Choice(None, f"all {CHOICES} networks that clusters may use are taken on this machine")


def _claim(number: int) -> socket.socket | None:
    """A name that only one process of the machine can hold, and that goes with it."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(f"\0kubarium-network-{number}")
    except OSError:
        claim.close()
        return None
    return claim


def _routes(root: str) -> list[IPv4Network]:
    """What the machine has routes to, but for those of this very cluster, whose pods may have
    gone on without it."""
    channel = Channel.here()
    try:
        own = link_indexes(channel.dump(all_links())).get(uplink_name(root), 0)
        return routed_networks(channel.dump(all_routes()), but_by=own)
    finally:
        channel.close()
