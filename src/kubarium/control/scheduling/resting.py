"""Devices that could not be made ready are left alone for a while, so that others are tried first.

KEP-5007 leaves it to the driver to taint such a device. Where it does not, decisions that depend on
nothing but the cluster's state would choose the same device again and again, while others are free.
An event about its ResourceSlice tells so (:mod:`kubarium.view.resting`), for those who ask why a
pod waits, and for the scheduler that is started after this one.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.kinds import EVENTS, PODS, RESOURCE_SLICES
from kubarium.base.clock import rfc3339
from kubarium.control.scheduling.recorders import BINDING, Recorders
from kubarium.engine.devices.model import DeviceId, Rest
from kubarium.engine.model import Pod
from kubarium.engine.placement import resting
from kubarium.runtime.protocol import Context
from kubarium.view.cluster import ClusterView
from kubarium.view.profiles import scheduler_name
from kubarium.view.resting import REST_S, device_path, reason_of, rests_of


class RestingDevices:
    """Which devices rest, and which have failed whenever they were tried."""

    def __init__(self, context: Context, view: ClusterView, recorders: Recorders) -> None:
        self._context = context
        self._view = view
        self._recorders = recorders
        self._failed: set[DeviceId] = set()

    def lay_by(self, devices: Iterable[DeviceId], why: str, pod: Pod) -> list[Rest]:
        """Decide on other devices than these; :meth:`take_up` is to be told in REST_S.

        ``why`` is what the pod is told that waited for them.
        """
        rests: list[Rest] = []
        until = rfc3339(self._context.clock.now() + REST_S)
        self._failed = {d for d in self._failed if self._view.snapshot.inventory.device(d)}
        for device in devices:
            rest = Rest.of(device, why, until, again=device in self._failed)
            self._failed.add(device)
            resting.lay_by(self._view.snapshot, rest)
            rests.append(rest)
            self._tell(rest, pod)
        return rests

    async def recall(self) -> list[Rest]:
        """Lay by what the events say that a scheduler before this one has laid by; :meth:`take_up`
        is to be told when those times are over. ApiError if there are no events to be had.

        What has had its rest and was not tried since is not known to have failed.
        """
        about = "involvedObject.kind=ResourceSlice"
        events = await self._context.client.list(EVENTS, "default", field_selector=about)
        slices = self._context.informers.get(RESOURCE_SLICES).items()
        rests = list(rests_of(events.items, slices, self._context.clock.now()))
        for rest in rests:
            self._failed.add(rest.device)
            resting.lay_by(self._view.snapshot, rest)
        return rests

    def take_up(self, rests: Iterable[Rest]) -> None:
        """Let pods have the devices again, but for those that were laid by once more since."""
        snapshot = self._view.snapshot
        for rest in rests:
            key = resting.key_of(rest)
            if snapshot.resting.get(key) is rest:
                resting.take_up(snapshot, key)

    def were_made_ready(self, devices: Iterable[DeviceId]) -> None:
        """If these fail again it is for the first time."""
        self._failed.difference_update(devices)

    def _tell(self, rest: Rest, pod: Pod) -> None:
        device = rest.device
        document = self._context.informers.get(PODS).get(pod.key[1], pod.key[0])
        slices = self._context.informers.get(RESOURCE_SLICES)
        for item in self._view.snapshot.inventory.current_slices(device.driver, device.pool):
            found = slices.get(item.name)
            if found is not None and any(d.name == device.device for d in item.devices):
                self._recorders.record(
                    {"apiVersion": RESOURCE_SLICES.api_version, "kind": "ResourceSlice", **found},
                    "Warning",
                    reason_of(rest),
                    f"device {rest.told}",
                    BINDING,
                    scheduler_name(document) if document is not None else "",
                    document,
                    device_path(device),
                    standing=True,
                )
