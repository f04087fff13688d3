"""Carries out Faults: at each of its moments one victim gets an order, and the status says so."""

from __future__ import annotations

from kubarium.api.kinds import FAULTS, NODES, PODS
from kubarium.api.resource import Document, Resource
from kubarium.base.clock import parse_rfc3339, rfc3339
from kubarium.base.errors import ApiError
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key
from kubarium.view.faults import (
    DEVICE_UNHEALTHY,
    HEALTH,
    LOSE_NODE,
    NODE_ACTIONS,
    ORDER,
    Order,
    Plan,
    matches,
    plan_of,
)

# Without anybody to hit, the Fault looks again after this long; the moment is not lost.
NOBODY_S = 1.0
# Injections that the status keeps.
HISTORY = 64


class FaultController:
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "fault-controller")
        self.controller = Controller("fault-controller", context, self._reconcile)
        self._faults = self.controller.watches(FAULTS)
        self._pods = self.controller.reads(PODS)
        self._nodes = self.controller.reads(NODES)

    @property
    def name(self) -> str:
        return self.controller.name

    async def run(self) -> None:
        await self.controller.run()

    async def _reconcile(self, key: Key) -> float | None:
        fault = self._faults.get(key[1], key[0])
        if fault is None or writes.is_terminating(fault):
            return None
        status = fault.get("status") or {}
        if status.get("phase") in ("Completed", "Invalid"):
            return None
        try:
            plan = plan_of(fault)
        except (ValueError, ApiError) as error:
            await self._write(fault, {"phase": "Invalid", "message": str(error)})
            self._recorder.event(fault, "Warning", "InvalidFault", str(error))
            return None
        status, heal_s = await self._heal(status, plan)
        number = int(status.get("injected", 0))
        moment = plan.moment(number)
        if moment is None:
            phase = "Completed" if heal_s is None else "Waiting"
            await self._write(fault, {**status, "phase": phase, "message": ""})
            return heal_s
        now = self._context.clock.now()
        due = parse_rfc3339(fault["metadata"]["creationTimestamp"]) + moment
        if due > now:
            wanted = {**status, "phase": "Waiting", "nextAt": rfc3339(due)}
            await self._write(fault, wanted)
            return min(due - now, heal_s) if heal_s is not None else due - now
        return await self._inject(fault, plan, number, status)

    async def _inject(
        self, fault: Document, plan: Plan, number: int, status: Document
    ) -> float | None:
        resource, victim = self._victim(fault, plan, number)
        if victim is None:
            text = f"nobody to hit: no running {resource.kind} matches"
            await self._write(fault, {**status, "phase": "Waiting", "message": text})
            return NOBODY_S
        name = victim["metadata"]["name"]
        order = {"metadata": {"annotations": _order(fault, plan, number)}}
        await writes.patch(self._context, resource, victim, order)
        entry = {
            "number": number,
            "at": rfc3339(self._context.clock.now()),
            "target": f"{resource.kind}/{name}",
        }
        history = [*(status.get("history") or ()), entry][-HISTORY:]
        done = {
            **status,
            "phase": "Waiting",
            "message": "",
            "injected": number + 1,
            "history": history,
        }
        await self._write(fault, done)
        text = f"injection {number + 1}: {plan.action} of {resource.kind} {name}"
        self._recorder.event(fault, "Normal", "FaultInjected", text)
        return 0.0

    async def _heal(self, status: Document, plan: Plan) -> tuple[Document, float | None]:
        """Devices that were only to be unhealthy for a while, and are well again; the status
        without them, and when the next one is due."""
        if plan.action != DEVICE_UNHEALTHY or not plan.duration_s:
            return status, None
        now, healed, due = self._context.clock.now(), int(status.get("healed", 0)), None
        for entry in status.get("history") or ():
            at = parse_rfc3339(entry["at"]) + plan.duration_s
            if entry["number"] < healed:
                continue
            if at > now:
                due = at - now
                break
            driver, _, device = plan.device.partition("/")
            change = {"metadata": {"annotations": {HEALTH + driver: f"{device}=Healthy"}}}
            node = self._nodes.get(entry["target"].partition("/")[2])
            if node is not None:
                await writes.patch(self._context, NODES, node, change)
            healed = entry["number"] + 1
        return {**status, "healed": healed}, due

    def _victim(self, fault: Document, plan: Plan, number: int) -> tuple[Resource, Document | None]:
        if plan.action in NODE_ACTIONS:
            found = [node for node in self._nodes.items() if matches(plan, node)]
            return NODES, plan.victim(found, number)
        namespace = fault["metadata"]["namespace"]
        pods = [pod for pod in self._pods.items(namespace) if matches(plan, pod)]
        return PODS, plan.victim(pods, number)

    async def _write(self, fault: Document, status: Document) -> None:
        if status != (fault.get("status") or {}):
            await writes.update_status(self._context, FAULTS, fault, status)


def _order(fault: Document, plan: Plan, number: int) -> dict[str, str]:
    """The annotations that tell the node agent what to do."""
    if plan.action == DEVICE_UNHEALTHY:
        driver, _, device = plan.device.partition("/")
        return {HEALTH + driver: f"{device}=Unhealthy"}
    ident = f"{fault['metadata']['uid']}/{number}"
    if plan.action == LOSE_NODE:
        return {ORDER: Order(ident, plan.action, "", plan.duration_s).text()}
    order = Order(ident, plan.action, plan.container, plan.duration_s, plan.amount, plan.path)
    return {ORDER: order.text()}
