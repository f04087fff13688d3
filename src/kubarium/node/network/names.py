"""Which names resolve inside a pod: the content of its hosts file, from API objects alone.

Stands in for cluster DNS: own hostname, pods behind a headless service
(``<hostname>.<subdomain>``), headless services themselves, and services by cluster IP, each also in
the longer forms that DNS search paths would allow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from kubarium.api.resource import Document
from kubarium.base.errors import KubariumError
from kubarium.view.elastic import hostname_of


@dataclass(frozen=True, slots=True)
class NameSources:
    """Pods and services of a namespace ("" = all), pods by namespace."""

    pods: Callable[[str], Iterable[Document]]
    services: Callable[[str], Iterable[Document]]


# The kernel's __NEW_UTS_LEN.
MAX_HOSTNAME = 64


def pod_hostname(pod: Document) -> str:
    """``spec.hostname`` or the pod's name, cut to what a hostname may be."""
    return (hostname_of(pod) or str(pod["metadata"]["name"]))[:63].rstrip("-.")


class HostnameTooLong(KubariumError):
    """A pod wants its full name as hostname, and the kernel has no room for it."""


def kernel_hostname(pod: Document, domain: str) -> str:
    """What ``hostname`` says in the pod: the node's name where it shares the node's network, the
    full name if ``setHostnameAsFQDN`` asks for it (HostnameTooLong), else the short one."""
    spec = pod["spec"]
    if spec.get("hostNetwork"):
        return str(spec.get("nodeName") or pod_hostname(pod))
    subdomain = spec.get("subdomain")
    if not spec.get("setHostnameAsFQDN") or not subdomain:
        return pod_hostname(pod)
    namespace = pod["metadata"].get("namespace", "")
    found = f"{pod_hostname(pod)}.{subdomain}.{namespace}.svc.{domain}"
    if len(found) > MAX_HOSTNAME:
        raise HostnameTooLong(
            f"failed to construct FQDN from pod hostname and cluster domain, FQDN {found} is too "
            f"long ({MAX_HOSTNAME} characters is the max, {len(found)} characters requested)"
        )
    return found


def own_lines(pod: Document, address: str, domain: str) -> str:
    """The head of a pod's hosts file, as kubelet writes it."""
    namespace, spec = pod["metadata"].get("namespace", ""), pod["spec"]
    hostname, subdomain = pod_hostname(pod), spec.get("subdomain")
    names = hostname
    if subdomain:
        names = f"{hostname}.{subdomain}.{namespace}.svc.{domain} {hostname}"
    lines = [
        "# Managed by Kubarium: changes are overwritten.",
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        f"{address}\t{names}",
    ]
    aliases = spec.get("hostAliases") or ()
    lines += [f"{alias['ip']}\t{' '.join(alias.get('hostnames') or ())}" for alias in aliases]
    return "\n".join(lines) + "\n"


def namespace_lines(namespace: str, sources: NameSources, domain: str) -> str:
    """What all pods of a namespace can resolve: its pods and services, and services elsewhere."""
    services = list(sources.services(""))
    headless = {
        (s["metadata"].get("namespace", ""), s["metadata"]["name"]): s
        for s in services
        if (s.get("spec") or {}).get("clusterIP") == "None"
    }
    lines = [line for s in services for line in _service_lines(s, namespace, domain)]
    for (where, name), service in headless.items():
        selector = (service.get("spec") or {}).get("selector") or {}
        for pod in sources.pods(where):
            lines += _pod_lines(pod, name, selector, service, namespace, domain)
    return "".join(f"{line}\n" for line in lines)


def _service_lines(service: Document, namespace: str, domain: str) -> list[str]:
    address = (service.get("spec") or {}).get("clusterIP")
    if not address or address == "None":
        return []
    where, name = service["metadata"].get("namespace", ""), service["metadata"]["name"]
    return [f"{address}\t{' '.join(_forms(name, where, namespace, domain))}"]


def _pod_lines(
    pod: Document,
    service_name: str,
    selector: dict[str, str],
    service: Document,
    namespace: str,
    domain: str,
) -> list[str]:
    address = (pod.get("status") or {}).get("podIP")
    labels = pod["metadata"].get("labels") or {}
    selected = bool(selector) and all(labels.get(k) == v for k, v in selector.items())
    visible = _is_ready(pod) or (service.get("spec") or {}).get("publishNotReadyAddresses")
    if not address or not selected or not visible or _is_over(pod):
        return []
    where = pod["metadata"].get("namespace", "")
    lines = [f"{address}\t{' '.join(_forms(service_name, where, namespace, domain))}"]
    if pod["spec"].get("subdomain") == service_name:
        stem = f"{pod_hostname(pod)}.{service_name}"
        lines.insert(0, f"{address}\t{' '.join(_forms(stem, where, namespace, domain))}")
    return lines


def _forms(name: str, where: str, namespace: str, domain: str) -> list[str]:
    """The name in full, and the shorter forms that a search path would complete."""
    forms = [f"{name}.{where}.svc.{domain}", f"{name}.{where}.svc", f"{name}.{where}"]
    return [*forms, name] if where == namespace else forms


def _is_ready(pod: Document) -> bool:
    if "deletionTimestamp" in pod["metadata"]:
        return False
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)


def _is_over(pod: Document) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
