"""Devices: claims made from templates, given back when unused; taints that evict; pool status.

Claims of pods and of PodGroups are claims.py and groups.py, reservations for pods that no scheduler
placed reservations.py, device taints eviction.py. Which device a claim gets is the scheduler's
decision.
"""

from kubarium.control.devices.claims import ClaimCleaner, ClaimGenerator
from kubarium.control.devices.eviction import DeviceTaintEviction
from kubarium.control.devices.groups import GroupClaimGenerator
from kubarium.control.devices.pool_status import PoolStatus
from kubarium.control.devices.reservations import Reserver
from kubarium.runtime.protocol import Component, Context


def components(context: Context) -> list[Component]:
    """The components of this family."""
    return [
        ClaimGenerator(context).controller,
        GroupClaimGenerator(context).controller,
        ClaimCleaner(context).controller,
        Reserver(context).controller,
        DeviceTaintEviction(context).controller,
        PoolStatus(context).controller,
    ]
