"""The scheduler: places pods, gangs and their devices. Start at scheduler.py."""

from kubarium.control.scheduling.scheduler import DEFAULT_CONFIG, Scheduler
from kubarium.runtime.protocol import Component, Context
from kubarium.view.scheduling import SchedulerConfig


def components(context: Context, config: SchedulerConfig = DEFAULT_CONFIG) -> list[Component]:
    """The components of this family; ``config`` is read by ``view.scheduling.read_config``."""
    return [Scheduler(context, config)]
