"""What is written on PodGroups, composites and coscheduling's PodGroups."""

from __future__ import annotations

from collections.abc import Callable

from kubarium.api.kinds import COMPOSITE_POD_GROUPS, POD_GROUPS
from kubarium.api.resource import Document, Resource
from kubarium.base.clock import rfc3339
from kubarium.control.scheduling.events import ItemKey
from kubarium.control.scheduling.held import UNSCHEDULABLE
from kubarium.control.scheduling.outcomes import insist_if_there
from kubarium.control.scheduling.recorders import Recorders
from kubarium.engine.model import Key
from kubarium.engine.placement.reservation import Reservation
from kubarium.runtime import writes
from kubarium.runtime.protocol import Context
from kubarium.view.cluster import ClusterView, key_of
from kubarium.view.gangs import COSCHEDULING_GROUPS


class GroupWriter:
    """Writes conditions, phases and events of groups."""

    def __init__(self, context: Context, view: ClusterView, recorders: Recorders) -> None:
        self._context = context
        self._view = view
        self._recorders = recorders
        self._groups = context.informers.get(POD_GROUPS)
        self._composites = context.informers.get(COMPOSITE_POD_GROUPS)
        self._coscheduling = context.informers.get(COSCHEDULING_GROUPS)

    async def reserved(self, item: ItemKey, reservation: Reservation) -> None:
        """Tell the group for which nodes are kept free, and how many."""
        document = self._composite(item.key) if item.composite else self._group(item.key)
        if item.gang and document is not None:
            count = len(dict.fromkeys(node for _, node in reservation))
            text = f"Reserved room on {count} nodes, which running jobs will leave"
            self._recorders.record(document, "Normal", "Reserved", text)

    def native(self, key: Key) -> Document | None:
        """The PodGroup of scheduling.k8s.io, which preempts as one; None of any other."""
        return self._groups.get(key[1], key[0])

    async def disrupted(self, composite: bool, key: Key, text: str) -> None:
        """Tell a group that goes as a whole, and the groups below it."""
        members = list(self._view.forest.below(key)) if composite else [(False, key)]
        for is_composite, member in members:
            resource = COMPOSITE_POD_GROUPS if is_composite else POD_GROUPS
            document = self._context.informers.get(resource).get(member[1], member[0])
            if document is not None:
                await self._set_condition(
                    resource, document, "DisruptionTarget", "True", "PreemptionByScheduler", text
                )

    def _group(self, key: Key) -> Document | None:
        found = self._groups.get(key[1], key[0])
        return found or self._coscheduling.get(key[1], key[0])

    def _composite(self, key: Key) -> Document | None:
        return self._composites.get(key[1], key[0])

    async def group_scheduled(
        self, key: Key, scheduled: bool, message: str, code: str = UNSCHEDULABLE
    ) -> None:
        """Set PodGroupInitiallyScheduled; once True it stays so. ``code``: the reason if False."""
        document = self._groups.get(key[1], key[0])
        if document is None:
            await self._coscheduled(key, scheduled, message)
        else:
            await self._initially(POD_GROUPS, document, scheduled, message, code)

    async def composite_scheduled(
        self, key: Key, scheduled: bool, message: str, code: str = UNSCHEDULABLE
    ) -> None:
        """Set CompositePodGroupInitiallyScheduled; once True it stays so."""
        document = self._composite(key)
        if document is not None:
            await self._initially(COMPOSITE_POD_GROUPS, document, scheduled, message, code)

    async def _initially(
        self, resource: Resource, document: Document, scheduled: bool, message: str, code: str
    ) -> None:
        kind = f"{resource.kind}InitiallyScheduled"
        if writes.condition_is_true(document.get("status") or {}, kind):
            return
        if not scheduled:
            self._recorders.record(document, "Warning", "FailedScheduling", message)
        status, reason = ("True", "Scheduled") if scheduled else ("False", code)
        await self._set_condition(resource, document, kind, status, reason, message)

    async def _set_condition(
        self,
        resource: Resource,
        document: Document,
        kind: str,
        value: str,
        reason: str,
        message: str,
    ) -> None:
        """Write one condition of a group; nothing if the group is gone or the condition is True."""

        def changed(document: Document) -> Document | None:
            status = document.get("status") or {}
            if writes.condition_is_true(status, kind):
                return None
            conditions = writes.set_condition(
                status.get("conditions") or (),
                kind,
                value,
                reason,
                message,
                self._context.clock.now(),
                observedGeneration=document["metadata"].get("generation", 1),
            )
            return {**status, "conditions": conditions}

        await self._change_status(resource, document, changed)

    async def _change_status(
        self,
        resource: Resource,
        document: Document,
        changed: Callable[[Document], Document | None],
    ) -> None:
        """Write what ``changed`` makes of the status (None: nothing), of what is there now.

        A group that somebody else writes to at the same time is read again; one that is gone, or
        whose name another has, is left alone.
        """
        uid = document["metadata"].get("uid")

        async def write(current: Document) -> None:
            status = changed(current) if current["metadata"].get("uid") == uid else None
            if status is not None:
                await writes.update_status(self._context, resource, current, status)

        await insist_if_there(self._context, resource, key_of(document), document, write)

    async def _coscheduled(self, key: Key, scheduled: bool, message: str) -> None:
        """The phase of a scheduler-plugins PodGroup: Pending until its minimum has nodes."""
        document = self._coscheduling.get(key[1], key[0])
        if document is None:
            return
        if not scheduled:
            self._recorders.record(document, "Warning", "FailedScheduling", message)

        def changed(document: Document) -> Document | None:
            status = dict(document.get("status") or {})
            if status.get("phase") in ("Running", "Finished", "Failed"):
                return None  # how it went on is counted from its pods (control.gangs)
            phase = "Scheduling" if scheduled else status.get("phase") or "Pending"
            if status.get("phase") == phase:
                return None
            if scheduled:
                status["scheduleStartTime"] = rfc3339(self._context.clock.now())
            return {**status, "phase": phase}

        await self._change_status(COSCHEDULING_GROUPS, document, changed)
