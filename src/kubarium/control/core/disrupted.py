"""Pods that were to be disrupted and were not: their condition DisruptionTarget becomes False.

Whoever wrote it meant to delete the pod next and could not, or has died. A kubelet's stays: the end
that it tells of may take long. Source: upstream ``pkg/controller/disruption``, stale conditions.
"""

from __future__ import annotations

from kubarium.api.kinds import PODS
from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.informer import key_of
from kubarium.runtime.protocol import Context, Key
from kubarium.view.pods import seconds

# How long a pod may be a target without being deleted (stalePodDisruptionTimeout).
STALE_AFTER_S = 120.0
_BY_KUBELET = "TerminationByKubelet"


class StaleDisruptions(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.controller = Controller("stale-pod-disruption", context, self._reconcile)
        self._pods = self.controller.reads(PODS)
        self._pods.on_change(self._pod_changed)

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        if new is not None and _target(new) is not None:
            self.controller.enqueue(key_of(new), STALE_AFTER_S)

    async def _reconcile(self, key: Key) -> float | None:
        pod = self._pods.get(key[1], key[0])
        target = _target(pod) if pod is not None else None
        if pod is None or target is None:
            return None
        now = self._context.clock.now()
        left_s = seconds(target.get("lastTransitionTime")) + STALE_AFTER_S - now
        if left_s > 0:
            return left_s
        status = pod["status"]
        reset = {"type": target["type"], "status": "False", "lastTransitionTime": rfc3339(now)}
        conditions = [reset if c is target else c for c in status["conditions"]]
        try:
            await writes.update_status(
                self._context, PODS, pod, {**status, "conditions": conditions}
            )
        except ApiError as error:
            if error.reason != "NotFound":
                raise
        return None


def _target(pod: Document) -> Document | None:
    """The condition by which a pod that still runs, and is not deleted, is to be disrupted."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "DisruptionTarget":
            meant = condition.get("status") == "True" and condition.get("reason") != _BY_KUBELET
            ended = status.get("phase") in ("Succeeded", "Failed")
            return condition if meant and not ended and not writes.is_terminating(pod) else None
    return None
