"""ComputeDomains on the nodes: who joins which, and the IMEX daemons that answer for them.

A claim for a channel brings its node into the claim's domain: the node gets the domain's label and
an entry in the ComputeDomainClique of its NVLink partition, with the lowest free index, which is
Ready once the daemon has started. Pods wait until their own node is ready and for no other
(upstream ``cmd/compute-domain-kubelet-plugin``, ``cmd/compute-domain-daemon``). The daemon is
played here: simulated GPUs have no memory to share.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from kubarium.api import compute_domains as names
from kubarium.api.kinds import (
    COMPUTE_DOMAIN_CLIQUES,
    COMPUTE_DOMAINS,
    NODES,
    RESOURCE_CLAIMS,
)
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError, KubariumError
from kubarium.client.protocol import Reader
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key

# How long an IMEX daemon takes to start.
READY_AFTER_S = 1.0
# Upstream's limit of nodes in one IMEX domain: a rack of GB200 NVL72 has as many.
MAX_NODES_PER_CLIQUE = 18

_CLAIMS_BY_NODE = "compute-domain-claims-by-node"
_CLAIMS_BY_DOMAIN = "compute-domain-claims-by-domain"
_CLIQUES_BY_NODE = "compute-domain-cliques-by-node"


class DomainProblem(KubariumError):
    """A channel cannot be handed out now; the message is the driver's."""


def devices() -> list[Document]:
    """What the driver publishes: of 2048 channels only the first, and the daemon's device."""
    return [
        {"name": f"{kind}-0", "attributes": {"type": {"string": kind}, "id": {"int": 0}}}
        for kind in ("channel", "daemon")
    ]


def device_classes() -> dict[str, str]:
    """Name to CEL expression."""
    attributes = f"device.attributes['{names.DRIVER}']"
    mine = f"device.driver == '{names.DRIVER}' && {attributes}.type == "
    return {
        names.CHANNEL_CLASS: f"{mine}'channel' && {attributes}.id == 0",
        names.DAEMON_CLASS: f"{mine}'daemon'",
    }


def channel_config(claim: Document) -> Mapping[str, Any] | None:
    """The channel parameters of a claim that has a channel of ours; None if it has none."""
    allocation = (claim.get("status") or {}).get("allocation") or {}
    given = allocation.get("devices") or {}
    if not any(r["driver"] == names.DRIVER for r in given.get("results") or ()):
        return None
    for entry in reversed(given.get("config") or ()):
        opaque = entry.get("opaque") or {}
        parameters: Mapping[str, Any] = opaque.get("parameters") or {}
        mine = opaque.get("driver") == names.DRIVER
        if mine and parameters.get("kind") == names.CHANNEL_CONFIG:
            return parameters
    return None


async def confirm_ready(client: Reader, claim: Document, node_name: str) -> None:
    """Nothing where the claim has no channel, or the node is ready in the claim's domain; else
    DomainProblem in the driver's words."""
    config = channel_config(claim)
    if config is None:
        return
    uid = str(config.get("domainID") or "")
    domains = (await client.list(COMPUTE_DOMAINS)).items
    domain = next((d for d in domains if d["metadata"]["uid"] == uid), None)
    if domain is None:
        raise DomainProblem(f"error getting compute domain: ComputeDomain not found: {uid}")
    if domain["metadata"]["namespace"] != claim["metadata"]["namespace"]:
        raise DomainProblem(
            "error asserting ComputeDomain's namespace: the ResourceClaim's namespace is different "
            "than the ComputeDomain's namespace"
        )
    labels = (await client.get(NODES, node_name))["metadata"].get("labels") or {}
    if labels.get(names.DOMAIN_LABEL, uid) != uid:
        raise DomainProblem(
            "error adding Node label for ComputeDomain: label already exists for a different "
            "ComputeDomain"
        )
    clique = labels.get(names.GPU_CLIQUE_LABEL, "")
    if not clique:
        raise DomainProblem(
            f"error getting cliqueID: node {node_name} is in no NVLink partition (no label "
            f"{names.GPU_CLIQUE_LABEL})"
        )
    if not await _is_ready(client, uid, clique, node_name):
        raise DomainProblem(
            "error asserting ComputeDomain Ready: current node not ready in ComputeDomain"
        )


async def _is_ready(client: Reader, uid: str, clique: str, node: str) -> bool:
    try:
        found = await client.get(
            COMPUTE_DOMAIN_CLIQUES, names.clique_name(uid, clique), names.NAMESPACE
        )
    except ApiError as error:
        if error.reason != "NotFound":
            raise DomainProblem(str(error)) from error
        return False
    daemons = found.get("daemons") or ()
    return any(d["nodeName"] == node and d.get("status") == names.READY for d in daemons)


class ComputeDomainDriver:
    """Keeps labels and clique entries of some nodes."""

    def __init__(self, context: Context, nodes: Collection[str]) -> None:
        self._context = context
        self._mine = nodes
        self._recorder = EventRecorder(context, "compute-domain-kubelet-plugin")
        self._joined: dict[tuple[str, str], float] = {}
        self.controller = Controller("compute-domain-driver", context, self.reconcile)
        self._claims = context.informers.get(RESOURCE_CLAIMS)
        self._cliques = context.informers.get(COMPUTE_DOMAIN_CLIQUES)
        self._claims.add_index(_CLAIMS_BY_NODE, _nodes_of_claim)
        self._claims.add_index(_CLAIMS_BY_DOMAIN, _domain_of_claim)
        self._cliques.add_index(_CLIQUES_BY_NODE, _nodes_of_clique)
        self.controller.watches(RESOURCE_CLAIMS, self._of_claim)
        self._domains = self.controller.watches(COMPUTE_DOMAINS, self._of_domain)
        self.controller.watches(COMPUTE_DOMAIN_CLIQUES, self._of_clique)
        self._nodes = self.controller.reads(NODES)

    def _keys(self, nodes: Iterable[str]) -> list[Key]:
        return [("", node) for node in nodes if node in self._mine]

    def _of_claim(self, claim: Document) -> list[Key]:
        return self._keys(_nodes_of_claim(claim))

    def _of_clique(self, clique: Document) -> list[Key]:
        return self._keys(_nodes_of_clique(clique))

    def _of_domain(self, domain: Document) -> list[Key]:
        # A claim may be seen before its domain: look at every node that has claims.
        claims = self._claims.by_index(_CLAIMS_BY_DOMAIN, domain["metadata"]["uid"])
        return self._keys(node for claim in claims for node in _nodes_of_claim(claim))

    async def reconcile(self, key: Key) -> float | None:
        """Make one node's label and clique entries what its claims ask for."""
        name = key[1]
        node = self._nodes.get(name)
        if node is None:
            return None
        labels = node["metadata"].get("labels") or {}
        label, clique = labels.get(names.DOMAIN_LABEL, ""), labels.get(names.GPU_CLIQUE_LABEL, "")
        wanted = self._wanted(name)
        uid = label if label in wanted else next(iter(wanted), "")
        if label != uid:
            change = {"metadata": {"labels": {names.DOMAIN_LABEL: uid or None}}}
            node = await writes.patch(self._context, NODES, node, change)
        own = names.clique_name(uid, clique) if uid and clique else ""
        for document in self._cliques.by_index(_CLIQUES_BY_NODE, name):
            if document["metadata"]["name"] != own:
                await self._leave(document, name)
        return await self._join(node, uid, clique) if own else None

    def _wanted(self, node: str) -> list[str]:
        """The domains that claims in use bring the node into, the oldest claim's first."""
        found: dict[str, None] = {}
        by_age = sorted(
            self._claims.by_index(_CLAIMS_BY_NODE, node),
            key=lambda c: (c["metadata"].get("creationTimestamp", ""), c["metadata"]["name"]),
        )
        for claim in by_age:
            config = channel_config(claim)
            if config is None or not (claim.get("status") or {}).get("reservedFor"):
                continue
            uid = str(config.get("domainID") or "")
            if any(
                domain["metadata"]["uid"] == uid
                and domain["metadata"]["namespace"] == claim["metadata"]["namespace"]
                and not writes.is_terminating(domain)
                for domain in self._domains.items()
            ):
                found[uid] = None
        return list(found)

    async def _join(self, node: Document, uid: str, clique: str) -> float | None:
        """Add the node's daemon, or let it become ready; seconds until then."""
        name = node["metadata"]["name"]
        now = self._context.clock.now()
        since = self._joined.setdefault((name, uid), now)
        left_s = max(since + READY_AFTER_S - now, 0.0)
        status = names.NOT_READY if left_s > 0 else names.READY
        key = names.clique_name(uid, clique)
        document = self._cliques.get(key, names.NAMESPACE)
        daemons = list((document or {}).get("daemons") or ())
        place = next((i for i, d in enumerate(daemons) if d["nodeName"] == name), None)
        if place is None and len(daemons) >= MAX_NODES_PER_CLIQUE:
            text = f"{key} has {MAX_NODES_PER_CLIQUE} nodes already; {name} cannot join"
            self._recorder.event(node, "Warning", "ComputeDomainFull", text)
            return None
        entry = {
            "nodeName": name,
            "ipAddress": _address(node),
            "cliqueID": clique,
            "index": daemons[place].get("index", 0) if place is not None else free_index(daemons),
            "status": status,
        }
        if place is None:
            daemons.append(entry)
        else:
            daemons[place] = entry
        if document is None:
            await self._create(uid, clique, daemons)
        elif daemons != document.get("daemons"):
            changed = {**document, "daemons": daemons}
            await writes.update(self._context, COMPUTE_DOMAIN_CLIQUES, changed)
        return left_s or None

    async def _create(self, uid: str, clique: str, daemons: list[Document]) -> None:
        labels = {names.DOMAIN_LABEL: uid, names.CLIQUE_LABEL: clique}
        document = {
            "apiVersion": names.API_VERSION,
            "kind": "ComputeDomainClique",
            "metadata": {
                "name": names.clique_name(uid, clique),
                "namespace": names.NAMESPACE,
                "labels": labels,
            },
            "daemons": daemons,
        }
        await writes.create(self._context, COMPUTE_DOMAIN_CLIQUES, document, names.NAMESPACE)

    async def _leave(self, document: Document, node: str) -> None:
        uid = document["metadata"]["name"].partition(".")[0]
        self._joined.pop((node, uid), None)
        daemons = [d for d in document.get("daemons") or () if d["nodeName"] != node]
        if daemons:
            changed = {**document, "daemons": daemons}
            await writes.update(self._context, COMPUTE_DOMAIN_CLIQUES, changed)
        else:
            await writes.delete(self._context, COMPUTE_DOMAIN_CLIQUES, document)


def _nodes_of_claim(claim: Document) -> list[str]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results = (allocation.get("devices") or {}).get("results") or ()
    return [r["pool"] for r in results if r["driver"] == names.DRIVER]


def _domain_of_claim(claim: Document) -> list[str]:
    config = channel_config(claim)
    return [] if config is None else [str(config.get("domainID") or "")]


def _nodes_of_clique(clique: Document) -> list[str]:
    return [daemon["nodeName"] for daemon in clique.get("daemons") or ()]


def _address(node: Document) -> str:
    addresses = (node.get("status") or {}).get("addresses") or ()
    return next((a["address"] for a in addresses if a.get("type") == "InternalIP"), "")


def free_index(daemons: list[Document]) -> int:
    """The lowest index that no daemon has."""
    used = {daemon.get("index", 0) for daemon in daemons}
    return next(index for index in range(len(used) + 1) if index not in used)
