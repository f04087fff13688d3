"""Answers ResourcePoolStatusRequests: once, like a certificate request (KEP-5677).

Answered ones are kept for an hour, so that nobody has to clean up. Source: kube-controller-manager
``pkg/controller/resourcepoolstatusrequest``.
"""

from __future__ import annotations

from kubarium.api.kinds import (
    DEVICE_TAINT_RULES,
    RESOURCE_CLAIMS,
    RESOURCE_POOL_STATUS_REQUESTS,
    RESOURCE_SLICES,
)
from kubarium.api.resource import Document
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.protocol import Context, Key
from kubarium.view.device_pools import is_incomplete, pool_statuses
from kubarium.view.device_taints import taint_rule
from kubarium.view.pods import seconds

# KEP-5677: how long requests are kept after their answer, and how long one may wait for it.
ANSWERED_TTL_S = 3600.0
PENDING_TTL_S = 24 * 3600.0

# A driver that is about to publish the rest of a pool gets this long: upstream's number of tries
# and their pauses, after which it leaves the request unanswered.
PAUSES_S = (0.005, 0.01, 0.02, 0.04, 0.08)


class PoolStatus:
    """Writes the state of the pools into a new request; answered ones are never touched again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.controller = Controller("resource-pool-status", context, self.reconcile)
        self._requests = self.controller.watches(RESOURCE_POOL_STATUS_REQUESTS)
        informers = context.informers
        self._slices = informers.get(RESOURCE_SLICES)
        self._claims = informers.get(RESOURCE_CLAIMS)
        self._rules = informers.get(DEVICE_TAINT_RULES)
        # By request's uid: how often a pool of it was found incomplete.
        self._tries: dict[str, int] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Answer one request from what is known now, or delete one whose time is over."""
        request = self._requests.get(key[1])
        if request is None:
            return None
        uid = request["metadata"]["uid"]
        left = _expires(request) - self._context.clock.now()
        if left <= 0 or request.get("status"):
            self._tries.pop(uid, None)
        if left <= 0:
            await writes.delete(self._context, RESOURCE_POOL_STATUS_REQUESTS, request)
            return None
        if request.get("status"):
            return left
        for informer in (self._slices, self._claims, self._rules):
            await informer.wait_synced()
        rules = [taint_rule(document) for document in self._rules.items()]
        answer = pool_statuses(request["spec"], self._slices.items(), self._claims.items(), rules)
        tries = self._tries[uid] = self._tries.get(uid, -1) + 1
        if any(map(is_incomplete, answer["pools"])) and tries < len(PAUSES_S):
            return PAUSES_S[tries]
        wrong = sum("validationError" in pool for pool in answer["pools"])
        text = f"Calculated status for {len(answer['pools'])} pools"
        text += f" ({wrong} incomplete)" if wrong else ""
        conditions = writes.set_condition(
            [], "Complete", "True", "CalculationComplete", text, self._context.clock.now()
        )
        shown = {name: value for name, value in answer.items() if value != []}
        status = shown | {"conditions": conditions}
        await writes.update_status(self._context, RESOURCE_POOL_STATUS_REQUESTS, request, status)
        return None  # the answer comes back by the watch


_ANSWERS = ("Complete", "Failed")


def _expires(request: Document) -> float:
    """When the request is to be deleted."""
    status, created = request.get("status") or {}, seconds(request["metadata"]["creationTimestamp"])
    for condition in status.get("conditions") or ():
        if condition.get("type") in _ANSWERS:
            return seconds(condition.get("lastTransitionTime")) + ANSWERED_TTL_S
    return created + (ANSWERED_TTL_S if status else PENDING_TTL_S)
