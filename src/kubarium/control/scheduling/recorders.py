"""Events that schedulers tell, each in the name of its profile."""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context
from kubarium.view.profiles import scheduler_name

# What kube-scheduler says that it was about.
SCHEDULING, BINDING, PREEMPTING = "Scheduling", "Binding", "Preempting"


class Recorders:
    """One recorder for each scheduler by name."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorders: dict[str, EventRecorder] = {}

    def record(
        self,
        document: Document,
        type_: str,
        reason: str,
        message: str,
        action: str = SCHEDULING,
        by: str = "",
        related: Document | None = None,
        field_path: str = "",
        standing: bool = False,
    ) -> None:
        """An event that the scheduler of a profile tells: the one that the object names."""
        name = by or scheduler_name(document)
        recorder = self._recorders.get(name)
        if recorder is None:
            recorder = self._recorders[name] = EventRecorder(self._context, name)
        recorder.event(
            document,
            type_,
            reason,
            message,
            field_path=field_path,
            action=action,
            related=related,
            standing=standing,
        )
