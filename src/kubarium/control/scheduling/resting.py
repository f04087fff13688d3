"""Devices that could not be made ready are left alone for a while, so that others are tried first.

KEP-5007 leaves it to the driver to taint such a device. Where it does not, decisions that depend on
nothing but the cluster's state would choose the same device again and again, while others are free.
It is in use meanwhile, for a claim that no API knows.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.engine import reasons
from kubarium.engine.devices.model import Allocation, ClaimSpec, DeviceId, DeviceResult
from kubarium.engine.model import Claim, Key
from kubarium.view.cluster import ClusterView

# Long enough for pods to be decided anew, and for the driver to taint the device.
REST_S = 30.0


def lay_by(view: ClusterView, devices: Iterable[DeviceId], why: str) -> list[Key]:
    """Give the devices to nobody for now; returns what :func:`take_up` is to be told.

    ``why`` is what the pod was told that waited for them.
    """
    keys: list[Key] = []
    for device in devices:
        whole = Allocation((DeviceResult("", device),))
        # No namespace: no claim has that.
        keys.append(("", f"{device} {reasons.NOT_MADE_READY} ({why})"))
        view.snapshot.set_claim(Claim(keys[-1], ClaimSpec(())), whole)
    return keys


def take_up(view: ClusterView, keys: Iterable[Key]) -> None:
    """Let pods have the devices again."""
    for key in keys:
        view.snapshot.remove_claim(key)
