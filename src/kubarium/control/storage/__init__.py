"""Persistent volumes: claims and volumes brought together, made on demand, kept while in use."""

from __future__ import annotations

from kubarium.control.storage.binding import VolumeBinder
from kubarium.control.storage.capacity import StorageCapacities
from kubarium.control.storage.ephemeral import EphemeralVolumes
from kubarium.control.storage.provisioner import Directories, HostPathProvisioner, Imagined, OnDisk
from kubarium.runtime.protocol import Component, Context

__all__ = [
    "Directories",
    "EphemeralVolumes",
    "HostPathProvisioner",
    "Imagined",
    "OnDisk",
    "StorageCapacities",
    "VolumeBinder",
    "components",
]


def components(context: Context, directories: Directories | None = None) -> list[Component]:
    """The components of this family; ``directories`` keeps the files (None: there are none)."""
    return [
        VolumeBinder(context),
        HostPathProvisioner(context, directories or Imagined()),
        EphemeralVolumes(context),
        StorageCapacities(context),
    ]
