"""How many pods a PodDisruptionBudget lets be evicted now.

The eviction subresource spends what we allow here. Source: upstream ``pkg/controller/disruption``.
"""

from __future__ import annotations

import math
from typing import Any

from kubarium.api.kinds import DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS
from kubarium.api.resource import Document, Resource
from kubarium.api.selectors import selects
from kubarium.base.clock import parse_rfc3339
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key

STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet", True)
REPLICATION_CONTROLLERS = Resource(
    "", "v1", "replicationcontrollers", "ReplicationController", True
)
# An eviction that was allowed and has not happened by then is forgotten (DeletionTimeout).
DELETION_TIMEOUT_S = 120.0
_SCALABLE = {
    "ReplicaSet": REPLICA_SETS,
    "StatefulSet": STATEFUL_SETS,
    "ReplicationController": REPLICATION_CONTROLLERS,
}


class BudgetError(Exception):
    """The budget cannot be worked out; the message goes into its condition."""


class DisruptionController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "controllermanager")
        self.controller = Controller("disruption-controller", context, self._reconcile)
        self._budgets = self.controller.watches(POD_DISRUPTION_BUDGETS)
        self._pods = self.controller.reads(PODS)
        self._owners = {
            kind: self.controller.reads(resource) for kind, resource in _SCALABLE.items()
        }
        self._deployments = self.controller.reads(DEPLOYMENTS)
        self._pods.on_change(self._pod_changed)
        for informer in (*self._owners.values(), self._deployments):
            informer.on_change(self._owner_changed)

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        for pod in (old, new):
            if pod is None:
                continue
            metadata = pod["metadata"]
            for budget in self._budgets.items(metadata["namespace"]):
                if _selects(budget, metadata.get("labels") or {}):
                    self.controller.enqueue((metadata["namespace"], budget["metadata"]["name"]))

    def _owner_changed(self, old: Document | None, new: Document | None) -> None:
        """A change of the wanted size changes what a percentage means."""
        if old is not None and new is not None and old["spec"] == new["spec"]:
            return
        document = new if new is not None else old
        assert document is not None
        namespace = document["metadata"]["namespace"]
        for budget in self._budgets.items(namespace):
            self.controller.enqueue((namespace, budget["metadata"]["name"]))

    async def _reconcile(self, key: Key) -> float | None:
        budget = self._budgets.get(key[1], key[0])
        if budget is None or writes.is_terminating(budget):
            return None
        pods = [
            pod
            for pod in self._pods.items(key[0])
            if _selects(budget, pod["metadata"].get("labels") or {})
        ]
        if not pods:
            self._recorder.event(budget, "Normal", "NoPods", "No matching pods found")
        now = self._context.clock.now()
        disrupted, wait_s = _still_disrupted(budget, pods, now)
        try:
            expected, desired = self._sizes(budget, pods)
        except BudgetError as error:
            self._recorder.event(budget, "Warning", "CalculateExpectedPodCountFailed", str(error))
            await self._write_failure(budget, str(error))
            return None
        healthy = _count_healthy(pods, disrupted)
        allowed = max(0, healthy - desired) if expected > 0 else 0
        await self._write(budget, healthy, desired, expected, allowed, disrupted)
        return wait_s

    def _sizes(self, budget: Document, pods: list[Document]) -> tuple[int, int]:
        """(expected pods, pods that must be healthy)."""
        spec = budget.get("spec") or {}
        if spec.get("maxUnavailable") is not None:
            expected = self._expected(pods)
            return expected, max(0, expected - _scaled(spec["maxUnavailable"], expected))
        least = spec.get("minAvailable")
        if isinstance(least, str):
            expected = self._expected(pods)
            return expected, _scaled(least, expected)
        return len(pods), int(least or 0)

    def _expected(self, pods: list[Document]) -> int:
        """The sum of what the pods' controllers want, each counted once."""
        sizes: dict[str, int] = {}
        for pod in pods:
            reference = writes.controller_of(pod)
            if reference is None:
                continue
            if reference["uid"] not in sizes:
                uid, size = self._scale_of(pod, reference)
                sizes[uid] = size
        return sum(sizes.values())

    def _scale_of(self, pod: Document, reference: Document) -> tuple[str, int]:
        metadata = pod["metadata"]
        informer = self._owners.get(reference["kind"])
        owner = informer.get(reference["name"], metadata["namespace"]) if informer else None
        if owner is None or owner["metadata"]["uid"] != reference["uid"]:
            raise BudgetError(
                f"found no controllers for pod {metadata['name']!r} that can be scaled: "
                f"{reference['kind']} {reference['name']!r}"
            )
        parent = writes.controller_of(owner)
        if parent is not None and parent["kind"] == "Deployment":
            deployment = self._deployments.get(parent["name"], metadata["namespace"])
            if deployment is not None:
                return parent["uid"], int(deployment["spec"].get("replicas", 1))
        return reference["uid"], int(owner["spec"].get("replicas", 1))

    async def _write(
        self,
        budget: Document,
        healthy: int,
        desired: int,
        expected: int,
        allowed: int,
        disrupted: dict[str, str],
    ) -> None:
        status = dict(budget.get("status") or {})
        status.pop("disruptedPods", None)
        status |= {
            "currentHealthy": healthy,
            "desiredHealthy": desired,
            "expectedPods": expected,
            "disruptionsAllowed": allowed,
            "observedGeneration": budget["metadata"].get("generation", 0),
        }
        if disrupted:
            status["disruptedPods"] = disrupted
        reason = "SufficientPods" if allowed > 0 else "InsufficientPods"
        status["conditions"] = self._condition(budget, allowed > 0, reason, "")
        await writes.update_status(self._context, POD_DISRUPTION_BUDGETS, budget, status)

    async def _write_failure(self, budget: Document, message: str) -> None:
        status = dict(budget.get("status") or {})
        generation = budget["metadata"].get("generation", 0)
        status |= {"disruptionsAllowed": 0, "observedGeneration": generation}
        for name in ("currentHealthy", "desiredHealthy", "expectedPods"):
            status.setdefault(name, 0)
        status["conditions"] = self._condition(budget, False, "SyncFailed", message)
        await writes.update_status(self._context, POD_DISRUPTION_BUDGETS, budget, status)

    def _condition(
        self, budget: Document, is_true: bool, reason: str, message: str
    ) -> list[Document]:
        held = (budget.get("status") or {}).get("conditions") or []
        return writes.set_condition(
            held,
            "DisruptionAllowed",
            "True" if is_true else "False",
            reason,
            message,
            self._context.clock.now(),
            observedGeneration=budget["metadata"].get("generation", 0),
        )


def _selects(budget: Document, labels: dict[str, str]) -> bool:
    """An absent selector selects nothing, an empty one everything."""
    selector = (budget.get("spec") or {}).get("selector")
    return selects(selector, labels)


def _scaled(value: Any, total: int) -> int:
    """A number or a percentage of ``total``, rounded up."""
    if isinstance(value, str) and value.endswith("%"):
        return math.ceil(int(value[:-1]) * total / 100)
    return int(value)


def _still_disrupted(
    budget: Document, pods: list[Document], now: float
) -> tuple[dict[str, str], float | None]:
    """Evictions that were allowed and are still to happen; seconds until one is forgotten."""
    noted: dict[str, str] = (budget.get("status") or {}).get("disruptedPods") or {}
    kept: dict[str, str] = {}
    waits: list[float] = []
    for pod in pods:
        name = pod["metadata"]["name"]
        if name not in noted or writes.is_terminating(pod):
            continue
        left_s = parse_rfc3339(noted[name]) + DELETION_TIMEOUT_S - now
        if left_s > 0:
            kept[name] = noted[name]
            waits.append(left_s)
    return kept, min(waits, default=None)


def _count_healthy(pods: list[Document], disrupted: dict[str, str]) -> int:
    return sum(
        1
        for pod in pods
        if not writes.is_terminating(pod)
        and pod["metadata"]["name"] not in disrupted
        and writes.condition_is_true(pod.get("status") or {}, "Ready")
    )
