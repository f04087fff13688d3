"""Containers that end because their port is taken, where pods have no networks of their own.

Such pods share the machine's network: two that listen on all addresses with the same port clash,
which on a real cluster they would not. Their program only says "address already in use".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kubarium.node.network.ports import listeners

# As C libraries, Python, Go, Java, Node and nginx have it.
_TAKEN = re.compile(r"address (is )?already in use|EADDRINUSE", re.IGNORECASE)

# What is said of a container, and the process ids of its first process.
Running = Iterable[tuple[str, int]]


def port_clash(
    output: str, container: Mapping[str, Any], own_address: str, running: Callable[[], Running]
) -> str:
    """The event's text on a container that has failed with this ``output``; "" if its port was not
    the reason. ``own_address``: "" if it shares its node's."""
    if not _TAKEN.search(output):
        return ""
    held = _held(running())
    declared = {port["containerPort"] for port in container.get("ports") or ()}
    if declared & held.keys():
        held = {port: holder for port, holder in held.items() if port in declared}
    taken = ", ".join(f"{port} by {holder}" for port, holder in sorted(held.items()))
    way_out = "listen on another port"
    if own_address:
        way_out = (
            f"listen on the pod's own address, {own_address} (fieldRef: status.podIP), not on all "
            "addresses, or on another port"
        )
    return (
        f"Container {container['name']} found its port in use: the pod has no network of its own "
        f"and shares the machine's. Taken on all addresses: "
        f"{taken or 'nothing by pods; another program of this machine has it'}. Way out: {way_out}"
    )


def _held(running: Running) -> dict[int, str]:
    """Ports on which our containers listen on all addresses, and who does."""
    found: dict[int, str] = {}
    for name, init in running:
        for address, port in listeners(init):
            if not address:
                found.setdefault(port, name)
    return found
