"""The scheduler: places pods, gangs and their devices. Start at scheduler.py."""

from kubarium.control.scheduling.scheduler import Scheduler
from kubarium.runtime.protocol import Component, Context


def components(context: Context) -> list[Component]:
    """The components of this family."""
    return [Scheduler(context)]
