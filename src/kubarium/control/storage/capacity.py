"""How much room a class has left on each node, published for the scheduler.

A StorageClass of ours may say ``parameters: {capacityPerNode: 100Gi}``. Then each node has so much
for the class's volumes; volumes for all nodes take of every node's. Without the parameter nobody
counts.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.kinds import NODES, PERSISTENT_VOLUMES
from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError
from kubarium.control.storage.documents import PROVISIONER
from kubarium.engine.model import HOSTNAME_LABEL
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.protocol import Context, Key
from kubarium.view.nodes import MAX_AMOUNT, amount
from kubarium.view.volumes import CSI_CAPACITIES, CSI_DRIVERS, STORAGE_CLASSES

PARAMETER = "capacityPerNode"
NAMESPACE = "kube-system"
_ALL: Key = ("", "")


def left_on(owner: Document, node: str, volumes: Iterable[Document]) -> int | None:
    """Bytes that the class has left on a node; None if nobody counts."""
    most = (owner.get("parameters") or {}).get(PARAMETER)
    if most is None:
        return None
    taken = sum(
        amount("storage", (volume["spec"].get("capacity") or {}).get("storage"))
        for volume in volumes
        if volume["spec"].get("storageClassName") == owner["metadata"]["name"]
        and _home(volume) in ("", node)
    )
    return max(0, amount("storage", most) - taken)


def _home(volume: Document) -> str:
    """The only node that reaches a volume of ours; "" if all do."""
    required = (volume["spec"].get("nodeAffinity") or {}).get("required") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for expression in term.get("matchExpressions") or ():
            if expression.get("key") == HOSTNAME_LABEL:
                return str((expression.get("values") or [""])[0])
    return ""


class StorageCapacities(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.controller = Controller("hostpath-capacity", context, self._reconcile)
        self._classes = self.controller.watches(STORAGE_CLASSES, lambda _: [_ALL])
        self._nodes = self.controller.watches(NODES, self._if_counted)
        self._volumes = self.controller.watches(PERSISTENT_VOLUMES, self._if_counted)
        self._drivers = self.controller.reads(CSI_DRIVERS)
        self._published = self.controller.reads(CSI_CAPACITIES)

    def _ours(self) -> list[Document]:
        return [c for c in self._classes.items() if c.get("provisioner") == PROVISIONER]

    def _if_counted(self, _: Document) -> list[Key]:
        counted = any(PARAMETER in (c.get("parameters") or {}) for c in self._ours())
        return [_ALL] if counted else []

    async def _reconcile(self, key: Key) -> float | None:
        wanted = self._wanted()
        driver = self._drivers.get(PROVISIONER)
        if wanted and driver is None:
            await self._create(CSI_DRIVERS, _driver())
        if not wanted and driver is not None:
            await writes.delete(self._context, CSI_DRIVERS, driver)
        for name, document in wanted.items():
            known = self._published.get(name, NAMESPACE)
            if known is None:
                await self._create(CSI_CAPACITIES, document, NAMESPACE)
            elif known.get("capacity") != document["capacity"]:
                change = {"capacity": document["capacity"]}
                await writes.patch(self._context, CSI_CAPACITIES, known, change)
        for known in self._published.items(NAMESPACE):
            labels = known["metadata"].get("labels") or {}
            if PROVISIONER in labels.values() and known["metadata"]["name"] not in wanted:
                await writes.delete(self._context, CSI_CAPACITIES, known)
        return None

    def _wanted(self) -> dict[str, Document]:
        """All capacities by name; none while no class counts."""
        ours, volumes = self._ours(), self._volumes.items()
        if not any(PARAMETER in (c.get("parameters") or {}) for c in ours):
            return {}
        found: dict[str, Document] = {}
        for owner in ours:
            name = owner["metadata"]["name"]
            if PARAMETER not in (owner.get("parameters") or {}):
                found[name] = _capacity(name, name, {}, MAX_AMOUNT)
                continue
            for node in self._nodes.items():
                home = node["metadata"]["name"]
                left = left_on(owner, home, volumes) or 0
                topology = {"matchLabels": {HOSTNAME_LABEL: home}}
                found[f"{name}-{home}"] = _capacity(f"{name}-{home}", name, topology, left)
        return found

    async def _create(self, resource: Resource, document: Document, namespace: str = "") -> None:
        try:
            await writes.create(self._context, resource, document, namespace)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise


def _driver() -> Document:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIDriver",
        "metadata": {"name": PROVISIONER},
        "spec": {"storageCapacity": True, "attachRequired": False},
    }


def _capacity(name: str, owner: str, topology: Document, left: int) -> Document:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "CSIStorageCapacity",
        "metadata": {"name": name, "labels": {"csi.storage.k8s.io/drivername": PROVISIONER}},
        "storageClassName": owner,
        "nodeTopology": topology,
        "capacity": str(left),
    }
