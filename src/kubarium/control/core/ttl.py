"""Deletes finished Jobs when their ttlSecondsAfterFinished is over."""

from __future__ import annotations

from kubarium.api.kinds import JOBS
from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.protocol import Context, Key


class TtlAfterFinished(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.controller = Controller("ttl-after-finished-controller", context, self._reconcile)
        self._jobs = self.controller.watches(JOBS, _if_limited)

    async def _reconcile(self, key: Key) -> float | None:
        job = self._jobs.get(key[1], key[0])
        if job is None or writes.is_terminating(job):
            return None
        ttl_s = job["spec"].get("ttlSecondsAfterFinished")
        finished = _finished_at(job)
        if ttl_s is None or finished is None:
            return None
        left_s = finished + float(ttl_s) - self._context.clock.now()
        if left_s > 0:
            return left_s
        await writes.delete(self._context, JOBS, job, propagation_policy="Foreground")
        return None


def _if_limited(job: Document) -> list[Key]:
    if job["spec"].get("ttlSecondsAfterFinished") is None or _finished_at(job) is None:
        return []
    return [(job["metadata"]["namespace"], job["metadata"]["name"])]


def _finished_at(job: Document) -> float | None:
    for type_ in ("Complete", "Failed"):
        condition = writes.find_condition(job.get("status") or {}, type_)
        if condition is not None and condition.get("status") == "True":
            return parse_rfc3339(condition["lastTransitionTime"])
    return None
