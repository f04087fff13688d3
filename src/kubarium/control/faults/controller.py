"""Carries out Faults: at each of its moments victims get orders, and the status says so.

An order is an annotation on the victim, so that it survives whoever reads it. What lasts is healed
when its time is over or its Fault is deleted (a finalizer waits for that): an order on a pod then
says so, for its node may be away just now; one on a node goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kubarium.api.kinds import FAULTS, NODES, PODS
from kubarium.api.resource import Document, Resource
from kubarium.base.clock import parse_rfc3339, rfc3339
from kubarium.base.errors import ApiError
from kubarium.base.quoted import listed
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key
from kubarium.view.faults import (
    DEVICE_UNHEALTHY,
    HEALTH,
    MOMENTARY,
    NODE_ACTIONS,
    ORDER,
    Order,
    Plan,
    matches,
    orders_of,
    plan_of,
)

FINALIZER = "kubarium.dev/heal"
# Without anybody to hit, the Fault looks again after this long; the moment is not lost.
NOBODY_S = 1.0
# Victims may end before their time: what is in force is looked at this often.
LOOK_S = 5.0
# Injections that the status keeps.
HISTORY = 64
WAITING, IN_FORCE, COMPLETED, INVALID = "Waiting", "InForce", "Completed", "Invalid"


class FaultController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "fault-controller")
        self.controller = Controller("fault-controller", context, self._reconcile)
        self._faults = self.controller.watches(FAULTS)
        self._pods = self.controller.reads(PODS)
        self._nodes = self.controller.reads(NODES)

    async def _reconcile(self, key: Key) -> float | None:
        fault = self._faults.get(key[1], key[0])
        if fault is None:
            return None
        status = fault.get("status") or {}
        if writes.is_terminating(fault):
            await self._heal(fault, everything=True)
            await writes.remove_finalizer(self._context, FAULTS, fault, FINALIZER)
            return None
        if status.get("phase") in (COMPLETED, INVALID):
            return None
        try:
            plan = plan_of(fault)
        except (ValueError, ApiError) as error:
            await self._write(fault, {"phase": INVALID, "message": str(error)})
            self._recorder.event(fault, "Warning", "InvalidFault", str(error))
            return None
        if plan.action not in MOMENTARY:
            fault = await writes.add_finalizer(self._context, FAULTS, fault, FINALIZER)
        in_force, heal_s = await self._heal(fault)
        status = {**(fault.get("status") or {}), "inForce": in_force}
        number = int(status.get("injected", 0))
        moment = plan.moment(number)
        if moment is None:
            phase = IN_FORCE if in_force else COMPLETED
            await self._write(fault, {**status, "phase": phase, "message": ""})
            return min(heal_s or LOOK_S, LOOK_S) if in_force else None
        now = self._context.clock.now()
        due = parse_rfc3339(fault["metadata"]["creationTimestamp"]) + moment
        if due > now:
            wanted = {**status, "phase": WAITING, "nextAt": rfc3339(due)}
            await self._write(fault, wanted)
            return min(due - now, heal_s) if heal_s is not None else due - now
        return await self._inject(fault, plan, number, status)

    async def _inject(
        self, fault: Document, plan: Plan, number: int, status: Document
    ) -> float | None:
        """Written down first, so that a status that cannot be written afterwards, or a crash, has
        nobody hit twice and nobody else hit: whoever goes on gives the same orders again."""
        resource = NODES if plan.action in NODE_ACTIONS else PODS
        pending = status.get("pending") or {}
        if pending.get("number") != number:
            victims = self._victims(fault, plan, number)
            if not victims:
                text = f"nobody to hit: no running {resource.kind} matches"
                await self._write(fault, {**status, "phase": WAITING, "message": text})
                return NOBODY_S
            targets = [{name: v["metadata"][name] for name in ("name", "uid")} for v in victims]
            pending = {"number": number, "at": self._context.clock.now(), "targets": targets}
            status = {**status, "pending": pending}
            fault = await self._write(fault, {**status, "phase": WAITING, "message": ""})
        at, names = float(pending["at"]), [target["name"] for target in pending["targets"]]
        change = {"annotations": _order(fault, plan, number, at)}
        for target in pending["targets"]:
            await self._tell(resource, fault, target, change)
        entries = [
            {"number": number, "at": rfc3339(at), "target": f"{resource.kind}/{name}"}
            for name in names
        ]
        done = {
            **{name: value for name, value in status.items() if name != "pending"},
            "phase": WAITING,
            "message": "",
            "injected": number + 1,
            "history": [*(status.get("history") or ()), *entries][-HISTORY:],
        }
        await self._write(fault, done)
        text = f"injection {number + 1}: {plan.action} of {resource.kind} {listed(names, 8)}"
        self._recorder.event(fault, "Normal", "FaultInjected", text)
        return 0.0

    async def _tell(
        self, resource: Resource, fault: Document, target: Document, change: Document
    ) -> None:
        """Give a victim its order; one that has gone meanwhile has had it, or needs it no more."""
        metadata = {"name": target["name"]}
        if resource is PODS:
            metadata["namespace"] = fault["metadata"]["namespace"]
        patch = {"metadata": {**change, "uid": target["uid"]}}
        try:
            await writes.patch(self._context, resource, {"metadata": metadata}, patch)
        except ApiError as error:
            if error.reason not in ("NotFound", "Conflict"):
                raise

    async def _heal(self, fault: Document, everything: bool = False) -> tuple[int, float | None]:
        """Undo what is over; how many orders are in force still, and when the next one ends."""
        now, in_force = self._context.clock.now(), 0
        next_s: float | None = None
        for resource, document, order in self._ordered(fault):
            left_s = order.at + order.duration_s - now if order.duration_s else None
            if everything or (left_s is not None and left_s <= 0):
                await self._undo(resource, document, order)
                continue
            in_force += 1
            if left_s is not None:
                next_s = left_s if next_s is None else min(next_s, left_s)
        return in_force, next_s

    def _ordered(self, fault: Document) -> Iterator[tuple[Resource, Document, Order]]:
        """Pods and nodes that the Fault has something in force on."""
        uid, namespace = fault["metadata"]["uid"], fault["metadata"]["namespace"]
        for resource, documents in (
            (PODS, self._pods.items(namespace)),
            (NODES, self._nodes.items()),
        ):
            for document in documents:
                if (document.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
                    continue
                if ORDER + uid in (document["metadata"].get("annotations") or ()):
                    for order in orders_of(document):
                        if order.fault == uid and order.in_force:
                            yield resource, document, order

    async def _undo(self, resource: Resource, document: Document, order: Order) -> None:
        key = ORDER + order.fault
        change: dict[str, str | None] = {key: replace(order, healed=True).text()}
        if resource is NODES:
            change = {key: None}
            if order.action == DEVICE_UNHEALTHY:
                driver, _, device = order.path.partition("/")
                change[HEALTH + driver] = f"{device}=Healthy"
        try:
            patch = {"metadata": {"annotations": change}}
            await writes.patch(self._context, resource, document, patch)
        except ApiError as error:
            if error.reason != "NotFound":
                raise

    def _victims(self, fault: Document, plan: Plan, number: int) -> list[Document]:
        if plan.action in NODE_ACTIONS:
            found = self._nodes.items()
        else:
            found = self._pods.items(fault["metadata"]["namespace"])
        return plan.victims([one for one in found if matches(plan, one)], number)

    async def _write(self, fault: Document, status: Document) -> Document:
        return await writes.update_status(self._context, FAULTS, fault, status)


def _order(fault: Document, plan: Plan, number: int, now: float) -> dict[str, str]:
    """The annotations that tell the node agent what to do."""
    uid = fault["metadata"]["uid"]
    path = plan.device if plan.action == DEVICE_UNHEALTHY else plan.path
    order = Order(
        f"{uid}/{number}",
        plan.action,
        plan.container,
        plan.duration_s,
        plan.amount,
        path,
        now,
        plan.peers,
    )
    found = {ORDER + uid: order.text()}
    if plan.action == DEVICE_UNHEALTHY:
        driver, _, device = plan.device.partition("/")
        found[HEALTH + driver] = f"{device}=Unhealthy"
    return found
