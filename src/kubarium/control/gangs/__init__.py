"""Groups of pods as objects: they stay until what belongs to them is gone, and say how it is.

Which pods of a group start, and when, is the scheduler's decision; a group's claims are made by
control.devices, and a Job's group by the Job controller.
"""

from kubarium.control.gangs.coscheduling import CoschedulingStatus
from kubarium.control.gangs.protection import CompositeProtection, GroupProtection
from kubarium.runtime.protocol import Component, Context


def components(context: Context) -> list[Component]:
    """The components of this family."""
    return [
        GroupProtection(context).controller,
        CompositeProtection(context).controller,
        CoschedulingStatus(context).controller,
    ]
