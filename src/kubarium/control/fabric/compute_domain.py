"""The ComputeDomain controller (resource.nvidia.com/v1beta1).

A domain gets a finalizer and the ResourceClaimTemplate that its spec names; its status is what the
cliques' daemons say. A domain that goes takes its template, its cliques and its node labels with
it, and then its finalizer (upstream ``cmd/compute-domain-controller``; the daemons themselves are
played by the nodes' drivers, so that there is no DaemonSet).
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api import compute_domains as names
from kubarium.api.kinds import (
    COMPUTE_DOMAIN_CLIQUES,
    COMPUTE_DOMAINS,
    NODES,
    RESOURCE_CLAIM_TEMPLATES,
)
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key

_BY_DOMAIN = "by-compute-domain"


def _label(document: Document) -> Iterable[str]:
    uid = (document["metadata"].get("labels") or {}).get(names.DOMAIN_LABEL)
    return (uid,) if uid else ()


def _own_uid(document: Document) -> Iterable[str]:
    return (document["metadata"]["uid"],)


class ComputeDomainController:
    """Keeps every domain's template, status and, at the end, tidiness."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "compute-domain-controller")
        self.controller = Controller("compute-domain", context, self.reconcile)
        self._domains = self.controller.watches(COMPUTE_DOMAINS)
        self._templates = self.controller.watches(RESOURCE_CLAIM_TEMPLATES, self._of_labelled)
        self._cliques = self.controller.watches(COMPUTE_DOMAIN_CLIQUES, self._of_labelled)
        self._nodes = self.controller.reads(NODES)
        self._domains.add_index(_BY_DOMAIN, _own_uid)
        for informer in (self._templates, self._cliques, self._nodes):
            informer.add_index(_BY_DOMAIN, _label)

    def _of_labelled(self, document: Document) -> list[Key]:
        found = (d for uid in _label(document) for d in self._domains.by_index(_BY_DOMAIN, uid))
        return [(d["metadata"]["namespace"], d["metadata"]["name"]) for d in found]

    async def reconcile(self, key: Key) -> float | None:
        """Bring one domain's surroundings into line with it."""
        domain = self._domains.get(key[1], key[0])
        if domain is None:
            return None
        if writes.is_terminating(domain):
            await self._tidy(domain)
            return None
        domain = await writes.add_finalizer(
            self._context, COMPUTE_DOMAINS, domain, names.DOMAIN_LABEL
        )
        await self._ensure_template(domain)
        await writes.update_status(self._context, COMPUTE_DOMAINS, domain, self._status(domain))
        return None

    async def _ensure_template(self, domain: Document) -> None:
        if self._templates.by_index(_BY_DOMAIN, domain["metadata"]["uid"]):
            return
        template = claim_template(domain)
        try:
            await writes.create(
                self._context,
                RESOURCE_CLAIM_TEMPLATES,
                template,
                domain["metadata"]["namespace"],
            )
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            name = template["metadata"]["name"]
            self._recorder.event(
                domain,
                "Warning",
                "ResourceClaimTemplateExists",
                f"ResourceClaimTemplate {name} is there already and belongs to somebody else; "
                "name another in spec.channel.resourceClaimTemplate",
            )

    def _status(self, domain: Document) -> Document:
        nodes = domain_nodes(self._cliques.by_index(_BY_DOMAIN, domain["metadata"]["uid"]))
        status = {"status": global_status(domain["spec"], nodes)}
        return status | ({"nodes": nodes} if nodes else {})

    async def _tidy(self, domain: Document) -> None:
        uid = domain["metadata"]["uid"]
        for template in self._templates.by_index(_BY_DOMAIN, uid):
            if not writes.is_terminating(template):
                await writes.delete(self._context, RESOURCE_CLAIM_TEMPLATES, template)
        for template in self._templates.by_index(_BY_DOMAIN, uid):
            await writes.remove_finalizer(
                self._context, RESOURCE_CLAIM_TEMPLATES, template, names.DOMAIN_LABEL
            )
        for clique in self._cliques.by_index(_BY_DOMAIN, uid):
            await writes.delete(self._context, COMPUTE_DOMAIN_CLIQUES, clique)
        for node in self._nodes.by_index(_BY_DOMAIN, uid):
            await writes.patch(
                self._context, NODES, node, {"metadata": {"labels": {names.DOMAIN_LABEL: None}}}
            )
        await writes.remove_finalizer(self._context, COMPUTE_DOMAINS, domain, names.DOMAIN_LABEL)


def claim_template(domain: Document) -> Document:
    """The template whose claims bring a pod's node into the domain (upstream's
    ``compute-domain-workload-claim-template``)."""
    metadata, channel = domain["metadata"], domain["spec"]["channel"]
    parameters = {
        "apiVersion": names.API_VERSION,
        "kind": names.CHANNEL_CONFIG,
        "domainID": metadata["uid"],
        "allocationMode": channel.get("allocationMode") or "Single",
    }
    opaque = {"driver": names.DRIVER, "parameters": parameters}
    request = {"name": "channel", "exactly": {"deviceClassName": names.CHANNEL_CLASS}}
    devices = {"requests": [request], "config": [{"requests": ["channel"], "opaque": opaque}]}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {
            "name": channel["resourceClaimTemplate"]["name"],
            "namespace": metadata["namespace"],
            "labels": {names.DOMAIN_LABEL: metadata["uid"], names.TARGET_LABEL: "Workload"},
            "finalizers": [names.DOMAIN_LABEL],
        },
        "spec": {"spec": {"devices": devices}},
    }


def domain_nodes(cliques: Iterable[Document]) -> list[Document]:
    """``status.nodes``: the daemons of all cliques, by clique and index."""
    daemons = [daemon for clique in cliques for daemon in clique.get("daemons") or ()]
    daemons.sort(key=lambda daemon: (daemon["cliqueID"], daemon.get("index", 0)))
    return [
        {
            "name": daemon["nodeName"],
            "ipAddress": daemon["ipAddress"],
            "cliqueID": daemon["cliqueID"],
            "index": daemon.get("index", 0),
            "status": daemon.get("status", names.NOT_READY),
        }
        for daemon in daemons
    ]


def global_status(spec: Document, nodes: list[Document]) -> str:
    """Ready when at least ``numNodes`` are there and none of those there is not ready; a domain of
    no nodes that wants none is ready."""
    if len(nodes) < spec.get("numNodes", 0):
        return names.NOT_READY
    ready = all(node["status"] == names.READY for node in nodes)
    return names.READY if ready else names.NOT_READY
