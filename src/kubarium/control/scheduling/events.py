"""What waits to be scheduled, and what can happen that helps it."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from kubarium.engine.model import Key


class ItemKey(NamedTuple):
    """A pod or, if ``gang``, a PodGroup; ``composite``: the CompositePodGroup of a hierarchy."""

    gang: bool
    key: Key
    composite: bool = False


class Event(Enum):
    """What can make an unschedulable item schedulable."""

    NODE = "node"  # a node came
    NODE_GONE = "node gone"  # a node went, and with it a domain and those whom others look at
    LABELS = "labels"  # a node's labels changed, or the features that it declares
    TAINTS = "taints"  # a node's taints changed, or it was cordoned or uncordoned
    CAPACITY = "capacity"  # a node has more of something
    ROOM = "room"  # a pod went away, or asks for less
    LEFT = "left"  # a pod went with its ports, disks, volumes and labels
    DEVICES = "devices"  # slices, classes, claims
    CLASSES = "classes"  # a DeviceClass, which may stand for an extended resource
    VOLUMES = "volumes"  # claims, volumes, classes, limits of drivers
    DATA = "data"  # what a node has cached
    PODS = "pods"  # a pod was placed or changed: affinity to it may now hold
