"""The nodes of one agent: what each is, and what has been published of it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from kubarium.api.resource import Document
from kubarium.base.clock import Clock
from kubarium.base.errors import ApiError
from kubarium.node.config import NodeConfig, NodeSpec
from kubarium.node.drivers.health import Health
from kubarium.node.drivers.nvml.machine import MachineGpus
from kubarium.node.drivers.prepare import driver_key
from kubarium.node.drivers.profiles import driver_of
from kubarium.node.drivers.publish import Publisher
from kubarium.node.network.addresses import Addresses
from kubarium.node.runner import NodeFacts
from kubarium.runtime.protocol import Context, Key
from kubarium.runtime.queue import WorkQueue

_LOG = logging.getLogger("kubarium.node")
_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 10.0


@dataclass(slots=True)
class OwnNode:
    """One node of ours."""

    spec: NodeSpec
    facts: NodeFacts
    machine_id: str
    publishers: dict[str, Publisher]
    counts: dict[str, int]
    document: Document | None = None
    published: dict[str, tuple[int, dict[str, Health]]] = field(default_factory=dict)
    # Drivers whose slices may not be there as they were published.
    doubted: set[str] = field(default_factory=set)
    complained: dict[str, None] = field(default_factory=dict)


def node_facts(
    config: NodeConfig, index: int, default: dict[str, str], loopback: Addresses
) -> NodeFacts:
    """What pods of node number ``index`` see of it."""
    spec, plan = config.nodes[index], config.network
    allocatable = default | dict(spec.capacity)
    if plan is None:
        return NodeFacts(spec.name, loopback.lend(spec.name), allocatable)
    return NodeFacts(spec.name, plan.node_address(index), allocatable, plan.pod_network(index))


def drivers_by_node(nodes: Sequence[NodeSpec]) -> dict[str, object]:
    """Configurations by driver, and by driver and node where nodes differ in it."""
    found: dict[str, object] = {}
    for spec in nodes:
        for device in spec.devices:
            driver = driver_of(device)
            if found.setdefault(driver, device) is not device:
                found[driver_key(driver, spec.name)] = device
    return found


def own_node(
    context: Context,
    spec: NodeSpec,
    facts: NodeFacts,
    gpus: MachineGpus,
) -> OwnNode:
    """A node before anything of it has been announced."""
    machine_id = str(uuid.UUID(bytes=hashlib.sha256(spec.name.encode()).digest()[:16]))
    machine = {s.driver: s.documents for s in gpus.shares if s.node == spec.name}
    publishers = {
        driver_of(device): Publisher(context, device, machine.get(driver_of(device)))
        for device in spec.devices
    }
    counts = {driver_of(device): device.count for device in spec.devices}
    return OwnNode(spec, facts, machine_id, publishers, counts)


def spread(nodes: list[OwnNode], parts: int) -> list[list[OwnNode]]:
    """At most ``parts`` groups of about equal size."""
    size = max(-(-len(nodes) // parts), 1)
    return [nodes[at : at + size] for at in range(0, len(nodes), size)] or [[]]


NodeAction = Callable[[OwnNode], Awaitable[None]]


async def insist(clock: Clock, action: NodeAction, node: OwnNode) -> None:
    """Try until the API takes it: a node agent waits for its server."""
    delay_s = _FIRST_RETRY_S
    while True:
        try:
            await action(node)
            return
        except ApiError as error:
            _LOG.warning("node %s: %s", node.spec.name, error)
        except Exception:  # of one node's document; the agent has others
            _LOG.exception("node %s", node.spec.name)
        await clock.sleep(delay_s)
        delay_s = min(delay_s * 2, _LAST_RETRY_S)


class AskedNodes:
    """An action for nodes by name, insisted on: one at a time for each, side by side for all.

    A node that is asked for while it is served is served once more.
    """

    def __init__(self, clock: Clock, nodes: Mapping[str, OwnNode], action: NodeAction) -> None:
        self._clock = clock
        self._nodes = nodes
        self._action = action
        self._queue = WorkQueue(clock)

    def ask(self, name: str) -> None:
        """Have a node served soon."""
        self._queue.add(("", name))

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._serve(await self._queue.take()))

    async def _serve(self, key: Key) -> None:
        await insist(self._clock, self._action, self._nodes[key[1]])
        self._queue.done(key)
