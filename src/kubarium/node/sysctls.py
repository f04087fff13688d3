"""Kernel settings that a pod asks for: which a node takes, and which are its network's own.

Source: kubelet's ``sysctl/allowlist.go`` and ``sysctl/safe_sysctls.go``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kubarium.api.resource import Document

# Settings that each network has for itself, and that harm nobody else.
SAFE_SYSCTLS = frozenset(
    f"net.ipv4.{name}"
    for name in (
        "ip_local_port_range",
        "ip_local_reserved_ports",
        "ip_unprivileged_port_start",
        "ping_group_range",
        "tcp_fin_timeout",
        "tcp_keepalive_intvl",
        "tcp_keepalive_probes",
        "tcp_keepalive_time",
        "tcp_rmem",
        "tcp_syncookies",
        "tcp_wmem",
    )
) | {"kernel.shm_rmid_forced"}
REASON = "SysctlForbidden"
# Every pod has its own of these where it has a network of its own.
_OF_NETWORKS = "net."


def refused(pod: Document, allowed: Sequence[str]) -> tuple[str, str] | None:
    """Why a node does not take the pod: reason and message; None if it does.

    ``allowed`` is the pool's ``allowedUnsafeSysctls``: names, or prefixes that end in ``*``.
    """
    for name in _asked(pod):
        if name not in SAFE_SYSCTLS and not _matches(name, allowed):
            return REASON, f'forbidden sysctl: "{name}" not allowlisted'
    return None


def of_network(pod: Document) -> dict[str, str]:
    """Those that the pod's own network can have, by name, of a pod that was taken."""
    return {name: value for name, value in _asked(pod).items() if name.startswith(_OF_NETWORKS)}


def not_applied(pod: Document) -> list[str]:
    """Those that no network has for itself, by name."""
    return sorted(name for name in _asked(pod) if not name.startswith(_OF_NETWORKS))


def _asked(pod: Document) -> dict[str, str]:
    """By name with dots: sysctl(8) takes slashes too."""
    asked = (pod["spec"].get("securityContext") or {}).get("sysctls") or ()
    return {entry["name"].replace("/", "."): str(entry.get("value") or "") for entry in asked}


def _matches(name: str, allowed: Iterable[str]) -> bool:
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
        for pattern in allowed
    )
