"""A pod's ``/etc/resolv.conf``, as kubelet writes it. Pure.

Source: ``pkg/kubelet/network/dns/dns.go``.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.resource import Document

CLUSTER_FIRST, CLUSTER_FIRST_WITH_HOST_NET = "ClusterFirst", "ClusterFirstWithHostNet"
DEFAULT, NONE = "Default", "None"
# Limits of the C library's resolver.
_MOST_SERVERS, _MOST_SEARCHES = 3, 32


def asks_cluster(pod: Document) -> bool:
    """Whether names of the cluster resolve in the pod."""
    spec = pod["spec"]
    policy = spec.get("dnsPolicy") or CLUSTER_FIRST
    if policy == CLUSTER_FIRST:
        return not spec.get("hostNetwork")
    return bool(policy == CLUSTER_FIRST_WITH_HOST_NET)


def resolv_conf(pod: Document, server: str, domain: str, machine: str) -> str:
    """``server``: the cluster's name server; ``machine``: the machine's own file."""
    spec = pod["spec"]
    servers, searches, options = _parse(machine)
    if asks_cluster(pod):
        namespace = pod["metadata"].get("namespace", "")
        servers = [server]
        searches = [f"{namespace}.svc.{domain}", f"svc.{domain}", domain, *searches]
        options = ["ndots:5"]
    elif spec.get("dnsPolicy") == NONE:
        servers, searches, options = [], [], []
    config = spec.get("dnsConfig") or {}
    servers += config.get("nameservers") or ()
    searches += config.get("searches") or ()
    options = _merge_options(options, config.get("options") or ())
    lines = [f"nameserver {one}" for one in list(dict.fromkeys(servers))[:_MOST_SERVERS]]
    if searches:
        lines.append(f"search {' '.join(list(dict.fromkeys(searches))[:_MOST_SEARCHES])}")
    if options:
        lines.append(f"options {' '.join(options)}")
    return "".join(f"{line}\n" for line in lines)


def _parse(text: str) -> tuple[list[str], list[str], list[str]]:
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        match line.split():
            case ["nameserver", address, *_]:
                servers.append(address)
            case ["search" | "domain", *names]:
                searches = [name for name in names if name != "."]
            case ["options", *found]:
                options += found
    return servers, searches, options


def _merge_options(given: list[str], wanted: Iterable[Document]) -> list[str]:
    """The pod's own options take the place of those of the same name."""
    found = {option.partition(":")[0]: option for option in given}
    for option in wanted:
        name, value = option.get("name") or "", option.get("value")
        found[name] = name if value is None else f"{name}:{value}"
    return list(found.values())
