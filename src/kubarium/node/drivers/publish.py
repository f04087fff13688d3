"""Publishing: a node's devices as the ResourceSlices of one pool, by generation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kubarium.api.kinds import DEVICE_CLASSES, RESOURCE_SLICES
from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError
from kubarium.base.quantity import QuantityError, canonical
from kubarium.node.config import DeviceConfig
from kubarium.node.drivers.health import Health, tainted
from kubarium.node.drivers.profiles import (
    counter_sets_of,
    device_classes,
    devices_of,
    driver_of,
)
from kubarium.runtime import writes
from kubarium.runtime.parts import of_spec
from kubarium.runtime.protocol import Context

# resource.k8s.io: ResourceSliceMaxDevices, and ...MaxDevicesWithTaintsOrConsumesCounters.
MAX_DEVICES_PER_SLICE = 128
MAX_INTRICATE_DEVICES_PER_SLICE = 64
# resource.k8s.io: ResourceSliceMaxCounterSets.
MAX_COUNTER_SETS_PER_SLICE = 8


def slice_contents(devices: list[Document], counter_sets: list[Document]) -> list[Document]:
    """What each slice of a pool holds: counter sets first, then devices, within the limits.

    A pool without devices is one empty slice.
    """
    intricate = any(d.get("taints") or d.get("consumesCounters") for d in devices)
    step = MAX_INTRICATE_DEVICES_PER_SLICE if intricate else MAX_DEVICES_PER_SLICE
    counters = _parts(counter_sets, MAX_COUNTER_SETS_PER_SLICE)
    found: list[Document] = [{"sharedCounters": part} for part in counters]
    return found + [{"devices": part} for part in _parts(devices, step) or [[]]]


def _parts(items: list[Document], size: int) -> list[list[Document]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def pool_slices(
    driver: str, node: Document, contents: list[Document], generation: int
) -> list[Document]:
    """The slices of one node's pool."""
    name, uid = node["metadata"]["name"], node["metadata"].get("uid", "")
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid, "controller": True}
    return [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {
                "name": f"{name}-{driver}-{generation}-{number}",
                "ownerReferences": [owner],
            },
            "spec": {
                "driver": driver,
                "nodeName": name,
                "pool": {
                    "name": name,
                    "generation": generation,
                    "resourceSliceCount": len(contents),
                },
                **content,
            },
        }
        for number, content in enumerate(contents)
    ]


_BY_NODE = "resourceslices-by-node-and-driver"


@of_spec
def _node_and_driver(slice_: Document) -> Iterable[str]:
    spec = slice_.get("spec") or {}
    return (f"{spec['nodeName']}/{spec.get('driver', '')}",) if spec.get("nodeName") else ()


# Finds the devices of a node that are hardware of this machine.
Machine = Callable[[], list[Document]]


class Publisher:
    """Keeps the slices of one driver on one node as they should be."""

    def __init__(
        self, context: Context, config: DeviceConfig, machine: Machine | None = None
    ) -> None:
        """``machine``: where the devices are this machine's own, what they are."""
        self._context = context
        self._config = config
        self._machine = machine
        self._slices = context.informers.get(RESOURCE_SLICES)
        self._slices.add_index(_BY_NODE, _node_and_driver)
        self.driver = driver_of(config)

    async def publish_class(self) -> None:
        """Create the driver's DeviceClasses if nobody has; never overwrite one."""
        for document in device_classes(self._config):
            try:
                await self._context.client.create(DEVICE_CLASSES, document)
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise

    async def publish(
        self, node: Document, count: int, health: Mapping[str, Health] | None = None
    ) -> list[str]:
        """Make the node's pool hold ``count`` devices of this health; nothing if it does already.
        The names of the devices.

        Other devices are a new generation: new slices first, then the old ones go, so that
        allocators always see one complete pool. Other taints alone are written in place (KEP-5055).
        """
        name = node["metadata"]["name"]
        found = self._machine() if self._machine else devices_of(self._config, name, count)
        names = [device["name"] for device in found]
        devices = tainted(found, self.driver, health or {})
        contents = slice_contents(devices, counter_sets_of(self._config, count))
        present = await self._present(name)
        newest = max((s["spec"]["pool"]["generation"] for s in present), default=0)
        current = [s for s in present if s["spec"]["pool"]["generation"] == newest]
        current.sort(key=_number)
        if current and [_bare(s["spec"]) for s in current] == [_bare(c) for c in contents]:
            for document, content in zip(current, contents, strict=True):
                await self._taint(document, content)
            await self._delete([s for s in present if s not in current])
            return names
        self._stamp(contents, {})
        for slice_ in pool_slices(self.driver, node, contents, newest + 1):
            await writes.create(self._context, RESOURCE_SLICES, slice_)
        await self._delete(present)
        return names

    async def _taint(self, document: Document, content: Document) -> None:
        """Write the taints of one slice if they differ; unchanged ones keep their time."""
        before = {
            (device["name"], taint["key"], taint["effect"]): taint.get("timeAdded")
            for device in document["spec"].get("devices") or ()
            for taint in device.get("taints") or ()
        }
        self._stamp([content], before)
        wanted = {**document["spec"], **content}
        if wanted != document["spec"]:
            await writes.update(self._context, RESOURCE_SLICES, {**document, "spec": wanted})

    def _stamp(self, contents: list[Document], before: Mapping[tuple[str, str, str], Any]) -> None:
        now = rfc3339(self._context.clock.now())
        for device in (d for c in contents for d in c.get("devices") or ()):
            for taint in device.get("taints") or ():
                key = (device["name"], taint["key"], taint["effect"])
                taint["timeAdded"] = before.get(key) or now

    async def _present(self, node: str) -> list[Document]:
        """The slices that there are, by name; a list for each of thousands of nodes costs more."""
        await self._slices.wait_synced()
        found = self._slices.by_index(_BY_NODE, f"{node}/{self.driver}")
        return sorted(found, key=lambda s: str(s["metadata"]["name"]))

    async def _delete(self, slices: list[Document]) -> None:
        for slice_ in slices:
            await writes.delete(self._context, RESOURCE_SLICES, slice_)


def _number(slice_: Document) -> tuple[int, str]:
    """The place of a slice in its pool, as its name says."""
    name: str = slice_["metadata"]["name"]
    tail = name.rpartition("-")[2]
    return (int(tail) if tail.isdigit() else 0, name)


def _bare(spec: Document) -> tuple[list[Document], list[Document]]:
    """Counters and devices without taints, amounts as the API server writes them."""
    devices = [
        {key: _written(value) for key, value in device.items() if key != "taints"}
        for device in spec.get("devices") or ()
    ]
    return [_written(counters) for counters in spec.get("sharedCounters") or ()], devices


def _written(value: Any) -> Any:
    """With every ``value`` that is an amount in its canonical form: 1024Mi is 1Gi."""
    if isinstance(value, list):
        return [_written(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {k: _amount(v) if k in _AMOUNTS else _written(v) for k, v in value.items()}


# Fields of capacities, counters and request policies that are quantities.
_AMOUNTS = frozenset(("value", "default", "min", "max", "step", "validValues"))


def _amount(value: Any) -> Any:
    if isinstance(value, list):
        return [_amount(item) for item in value]
    try:
        return canonical(value)
    except QuantityError:
        return value
