"""Making devices ready: the driver's side of binding conditions (KEP-5007).

Follows the dra-example-driver's controller plugin: an allocated device with binding conditions gets
each of them as a true condition in its claim's ``status.devices``; one that is not well, as the
Node's health annotation says, gets its failure conditions instead, and the scheduler looks for
another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from kubarium.api.kinds import NODES, RESOURCE_CLAIMS
from kubarium.api.resource import Document
from kubarium.base.errors import ConfigError
from kubarium.node.drivers.health import HEALTHY, health_of, node_health
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.protocol import Context, Key

# Whether (driver, pool) is published by this agent.
Ours = Callable[[str, str], bool]


class BindingConditions:
    """Reports the devices of some drivers on some nodes as ready, or as failed."""

    def __init__(self, context: Context, ours: Ours) -> None:
        self._context = context
        self._ours = ours
        self._nodes = context.informers.get(NODES)
        self.controller = Controller("device-binding", context, self.reconcile)
        self._claims = self.controller.watches(RESOURCE_CLAIMS, self._concerned)

    def _concerned(self, claim: Document) -> list[Key]:
        metadata = claim["metadata"]
        return [(metadata["namespace"], metadata["name"])] if self._mine(claim) else []

    def _mine(self, claim: Document) -> list[Document]:
        """The allocated devices of ours that have binding conditions."""
        allocation = (claim.get("status") or {}).get("allocation") or {}
        results = (allocation.get("devices") or {}).get("results") or ()
        return [
            r for r in results if r.get("bindingConditions") and self._ours(r["driver"], r["pool"])
        ]

    async def reconcile(self, key: Key) -> float | None:
        """Report what is not reported yet."""
        claim = self._claims.get(key[1], key[0])
        if claim is None:
            return None
        status = claim.get("status") or {}
        devices = list(status.get("devices") or ())
        for result in self._mine(claim):
            place = next((i for i, d in enumerate(devices) if _same(d, result)), None)
            before = devices[place] if place is not None else _identity(result)
            after = {**before, "conditions": self._conditions(before, result)}
            if place is None:
                devices.append(after)
            else:
                devices[place] = after
        if devices != (status.get("devices") or []):
            await writes.update_status(
                self._context, RESOURCE_CLAIMS, claim, {**status, "devices": devices}
            )
        return None

    def _conditions(self, device: Document, result: Document) -> list[Document]:
        conditions: list[Document] = device.get("conditions") or []
        well = self._is_well(result)
        names: Iterable[str] = (
            result["bindingConditions"] if well else result.get("bindingFailureConditions") or ()
        )
        reason, text = ("Ready", "Device is ready") if well else ("Failed", "Device is unhealthy")
        for name in names:
            known = writes.find_condition({"conditions": conditions}, name)
            if known is None or known.get("status") != "True":
                conditions = writes.set_condition(
                    conditions, name, "True", reason, text, self._context.clock.now()
                )
        return conditions

    def _is_well(self, result: Document) -> bool:
        node = self._nodes.get(result["pool"])
        if node is None:
            return True
        try:
            health = node_health(node, result["driver"])
        except ConfigError:
            return True  # the agent has said what is wrong with the annotation
        return health_of(result["device"], health).state == HEALTHY


def _identity(result: Document) -> Document:
    names = ("driver", "pool", "device", "shareID")
    return {name: result[name] for name in names if result.get(name)}


def _same(device: Document, result: Document) -> bool:
    return all(
        (device.get(name) or "") == (result.get(name) or "")
        for name in ("driver", "pool", "device", "shareID")
    )
