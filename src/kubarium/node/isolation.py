"""What keeps containers apart on this machine, said plainly (``kubarium status`` prints it)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from kubarium.base.clock import Clock
from kubarium.node.network.addresses import loopback_is_whole
from kubarium.node.network.plan import NetworkPlan
from kubarium.node.runtimes.process.engine import LEVELS, ProcessEngine
from kubarium.node.runtimes.process.zygote import PLAIN, ROOT, USER_NAMESPACE

__all__ = [
    "LEVELS",
    "PLAIN",
    "ROOT",
    "USER_NAMESPACE",
    "Report",
    "probe",
    "probe_now",
    "report_for",
]


@dataclass(frozen=True, slots=True)
class Report:
    """``level`` is one of ROOT, USER_NAMESPACE, PLAIN. ``applied`` and ``missing`` are sentences;
    ``refusals`` says why each better level is not to be had."""

    level: str
    applied: tuple[str, ...]
    missing: tuple[str, ...]
    refusals: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The report as text."""
        head = [f"isolation: {self.level}"]
        head += [f"  + {text}" for text in self.applied]
        head += [f"  - {text}" for text in self.missing]
        return head + [f"  ({level}: {why})" for level, why in self.refusals.items()]


_NAMESPACES = (
    "each container has its own process, mount, IPC and hostname namespaces",
    "every process of a container dies with it",
    "the machine's files are seen through a private writable layer; volumes appear at their paths",
    "no-new-privileges and read-only root file systems are honoured",
)
_OWN_NETWORK = (
    "each pod has its own network: an address, a localhost and ports of its own",
    "names of services and pods resolve by DNS; services balance in the kernel",
    "NetworkPolicies are enforced",
)
_UPLINK = "this machine reaches pods and services by their addresses"
_NO_UPLINK = "pods' addresses are not reachable from this machine; kubectl port-forward works"
_TCP_ONLY = "beyond the cluster pods reach TCP only (no UDP but DNS, no ping)"
_HOSTS = "names of pods and services resolve through each pod's /etc/hosts"
_SHARED_NETWORK = (
    "pods share the machine's network: each has its own loopback address, "
    "but two that listen on 0.0.0.0 with the same port clash; NetworkPolicies are not enforced"
)
_ONE_ADDRESS = (
    "pods share the machine's network and its only loopback address, 127.0.0.1: two that listen on "
    "the same port clash, and cluster IPs of services do not answer (node ports and kubectl "
    "port-forward do); NetworkPolicies are not enforced"
)
_ALWAYS_MISSING = ("AppArmor, SELinux and seccomp profiles of one's own are not applied",)


_STORAGE = "what an emptyDir or a container writes is measured: beyond its limit the pod is evicted"
_SECCOMP = "seccomp RuntimeDefault is honoured: a filter of the kernel's on system calls"
_MAPPED = "runAsUser and runAsGroup are shown to the container; to the machine it is you"
_NO_GROUPS = "fsGroup and supplementalGroups need root"
_PLAIN_APPLIED = ("every process of a container dies with it",)
_PLAIN_MISSING = (
    "containers are plain processes of this user: no mount, process or hostname namespaces",
    "volumes do not appear at their mount paths; KUBARIUM_ROOT names a folder that has them",
    "names of pods and services do not resolve; the file $KUBARIUM_HOSTS_FILE has them",
    "runAsUser, capabilities and read-only root file systems are not applied",
)


_NOT_LINUX_APPLIED = ("a container's process group and all below its first process die with it",)
_NOT_LINUX_MISSING = (
    "a process that has left both its parent and its process group may outlive its container",
    "pods end with their node agent: there is no other process that could hold them",
    "seccomp profiles and no-new-privileges are not applied",
)

_LIMITS = {
    "memory": "memory limits (what exceeds one is killed: OOMKilled)",
    "cpu": "CPU limits and shares",
    "pids": "the number of processes of a pod",
}
_UNLIMITED = {
    "memory": "memory limits are watched, not enforced by the kernel: what exceeds one is killed "
    "within a second",
    "cpu": "CPU limits are not enforced",
    "pids": "processes of a pod are counted twice a second: a pod with too many is killed",
}


def limits_report(controllers: Sequence[str], why: str) -> tuple[list[str], list[str]]:
    """Sentences on what control groups do, and on what they cannot do here."""
    kept = [text for name, text in _LIMITS.items() if name in controllers]
    applied = [f"control groups enforce {', '.join(kept)}"] if kept else []
    missing = [text for name, text in _UNLIMITED.items() if name not in controllers]
    if missing and why:
        missing[-1] += f" ({why})"
    return applied, missing


def network_report(level: str, plan: NetworkPlan | None, why: str) -> tuple[list[str], list[str]]:
    """Sentences on the pods' network, and on what it cannot do; ``why`` there is none."""
    if plan is None:
        shared = _SHARED_NETWORK if loopback_is_whole() else _ONE_ADDRESS
        shared += f" ({why})" if why else ""
        return ([] if level == PLAIN else [_HOSTS]), [shared]
    applied = [*_OWN_NETWORK, *([_UPLINK] if plan.uplink else [])]
    return applied, [*([] if plan.uplink else [_NO_UPLINK]), _TCP_ONLY]


def report_for(
    level: str,
    refusals: dict[str, str],
    controllers: Sequence[str] = (),
    why: str = "",
    plan: NetworkPlan | None = None,
    no_network: str = "",
) -> Report:
    """What ``level`` means, with the control group ``controllers`` at hand and ``why`` not all;
    ``plan`` of the pods' network and why there is none."""
    limits, unlimited = limits_report(controllers, why)
    connected, unconnected = network_report(level, plan, no_network)
    applied, missing = [*connected, *limits, _STORAGE], [*unconnected, *unlimited]
    found = _level_report(level, refusals)
    return replace(found, applied=(*found.applied, *applied), missing=(*found.missing, *missing))


def _level_report(level: str, refusals: dict[str, str]) -> Report:
    if level == ROOT:
        users = (
            "runAsUser, runAsGroup, fsGroup and supplementalGroups are honoured",
            "capabilities are limited to the usual container set, with add and drop honoured",
        )
        return Report(level, (*_NAMESPACES, *users, _SECCOMP), _ALWAYS_MISSING, refusals)
    if level == USER_NAMESPACE:
        applied = (*_NAMESPACES, _MAPPED, _SECCOMP)
        return Report(level, applied, (*_ALWAYS_MISSING, _NO_GROUPS), refusals)
    missing = _PLAIN_MISSING + _ALWAYS_MISSING
    if sys.platform != "linux":
        return Report(PLAIN, _NOT_LINUX_APPLIED, missing + _NOT_LINUX_MISSING, refusals)
    return Report(PLAIN, (*_PLAIN_APPLIED, _SECCOMP), missing, refusals)


async def probe(clock: Clock) -> Report:
    """Try, with a short-lived process, which level this machine allows now."""
    engine = ProcessEngine(clock, lambda ident, status: None)
    await engine.start(LEVELS)
    try:
        return report_for(engine.level, engine.refusals)
    finally:
        await engine.close()


def probe_now(clock: Clock) -> Report:
    """:func:`probe` for callers without an event loop."""
    return asyncio.run(probe(clock))
