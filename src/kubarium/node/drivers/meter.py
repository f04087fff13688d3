"""Who holds which device of a node now, and what the devices measure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from kubarium.api.kinds import NODES, PODS, RESOURCE_CLAIMS
from kubarium.api.resource import Document
from kubarium.base.errors import ConfigError
from kubarium.node.config import DeviceConfig
from kubarium.node.drivers import readings
from kubarium.node.drivers.health import Health, node_health
from kubarium.node.drivers.prepare import ClaimProblem, devices_held, has_claims
from kubarium.node.drivers.profiles import devices_of, driver_of
from kubarium.node.drivers.readings import Holder, Reading
from kubarium.runtime.protocol import Context
from kubarium.view.pods import node_of

_BY_NODE = "metered-pods-by-node"


class _Device(NamedTuple):
    driver: str
    device: str
    claim: str


def _node_of(pod: Document) -> Iterable[str]:
    node = node_of(pod)
    return (node,) if node and has_claims(pod) else ()


class Meter:
    """Reads the devices of some nodes when somebody asks."""

    def __init__(self, context: Context, drivers: Mapping[str, object]) -> None:
        self._clock = context.clock
        self._drivers = drivers
        self._nodes = context.informers.get(NODES)
        self._pods = context.informers.get(PODS)
        self._claims = context.informers.get(RESOURCE_CLAIMS)
        self._pods.add_index(_BY_NODE, _node_of)

    def simulated(self, node: str, config: DeviceConfig, count: int) -> list[Reading]:
        """What ``count`` simulated pieces of hardware of a node measure now."""
        driver = driver_of(config)
        return readings.simulated(
            config,
            driver,
            node,
            devices_of(config, node, count),
            self.held(node),
            self.health(node, driver),
            self._clock.now(),
        )

    def health(self, node: str, driver: str) -> dict[str, Health]:
        """What is known of a driver's devices; nothing where the annotation is wrong."""
        document = self._nodes.get(node)
        try:
            return node_health(document, driver) if document is not None else {}
        except ConfigError:
            return {}

    def held(self, node: str) -> dict[tuple[str, str], list[Holder]]:
        """The running containers of each device of a node, by (driver, device)."""
        found: dict[tuple[str, str], list[Holder]] = {}
        for pod in sorted(self._pods.by_index(_BY_NODE, node), key=lambda p: p["metadata"]["name"]):
            for container in _running(pod):
                for device, shares in self._devices(pod, container).items():
                    holder = Holder(
                        pod["metadata"]["namespace"],
                        pod["metadata"]["name"],
                        container,
                        device.claim,
                        readings.level_of(pod),
                        consumed=tuple(shares),
                    )
                    found.setdefault((device.driver, device.device), []).append(holder)
        return found

    def _devices(self, pod: Document, container: str) -> dict[_Device, list[Mapping[str, Any]]]:
        """What a container holds, and its shares of it."""
        try:
            held = devices_held(pod, lambda ns, name: self._claims.get(name, ns), self._drivers)
        except ClaimProblem:
            return {}
        found: dict[_Device, list[Mapping[str, Any]]] = {}
        for given in {id(h.device): h.device for h in held.get(container, ())}.values():
            key = _Device(given.driver, given.device, given.claim)
            found.setdefault(key, []).append(given.consumed)
        return found


def _running(pod: Document) -> list[str]:
    status = pod.get("status") or {}
    return [
        entry["name"]
        for kind in ("initContainerStatuses", "containerStatuses")
        for entry in status.get(kind) or ()
        if "running" in (entry.get("state") or {})
    ]
