"""How many pods a PodDisruptionBudget lets be evicted now.

The eviction subresource spends what we allow here. Source: upstream ``pkg/controller/disruption``.
"""

from __future__ import annotations

import math
from typing import Any

from kubarium.api.kinds import (
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    POD_DISRUPTION_BUDGETS,
    PODS,
    REPLICA_SETS,
)
from kubarium.api.resource import Document, Resource
from kubarium.api.selectors import selects
from kubarium.base.clock import parse_rfc3339
from kubarium.base.errors import ApiError
from kubarium.control.core.served import ServedResources
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


UNMANAGED = (
    "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. "
    "As a result, the status of the PDB cannot be calculated correctly, which may result in "
    'undefined behavior. To account for these pods please set ".spec.minAvailable" field of the '
    "PDB to an integer value."
)


class BudgetError(Exception):
    """The budget cannot be worked out; the message goes into its condition."""


class DisruptionController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context, served: ServedResources) -> None:
        self._context = context
        self._served = served
        self._recorder = EventRecorder(context, "controllermanager")
        self.controller = Controller("disruption-controller", context, self._reconcile)
        self._budgets = self.controller.watches(POD_DISRUPTION_BUDGETS)
        self._pods = self.controller.reads(PODS)
        self._owners = {
            kind: self.controller.reads(resource) for kind, resource in _SCALABLE.items()
        }
        self._deployments = self.controller.reads(DEPLOYMENTS)
        self.controller.reads(CUSTOM_RESOURCE_DEFINITIONS)  # ``served`` is complete with them
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
        try:
            expected, desired = await self._sizes(budget, pods)
        except BudgetError as error:
            text = f"Failed to calculate the number of expected pods: {error}"
            self._recorder.event(budget, "Warning", "CalculateExpectedPodCountFailed", text)
            await self._write_failure(budget, str(error))
            return None
        now = self._context.clock.now()
        disrupted, wait_s = self._still_disrupted(budget, pods, now)
        healthy = _count_healthy(pods, disrupted)
        allowed = max(0, healthy - desired) if expected > 0 else 0
        await self._write(budget, healthy, desired, expected, allowed, disrupted)
        return wait_s

    async def _sizes(self, budget: Document, pods: list[Document]) -> tuple[int, int]:
        """(expected pods, pods that must be healthy); none is expected if neither is limited."""
        spec = budget.get("spec") or {}
        if spec.get("maxUnavailable") is not None:
            expected = await self._expected(budget, pods)
            return expected, max(0, expected - _scaled(spec["maxUnavailable"], expected))
        least = spec.get("minAvailable")
        if least is None:
            return 0, 0
        if isinstance(least, str):
            expected = await self._expected(budget, pods)
            return expected, _scaled(least, expected)
        return len(pods), int(least)

    async def _expected(self, budget: Document, pods: list[Document]) -> int:
        """The sum of what the pods' controllers want, each counted once."""
        sizes: dict[str, int] = {}
        known: set[str] = set()
        unmanaged = False
        for pod in pods:
            reference = writes.controller_of(pod)
            if reference is None:
                unmanaged = True
            elif reference["uid"] not in known:
                known.add(reference["uid"])
                uid, size = await self._scale_of(pod, reference)
                sizes[uid] = size
        if unmanaged:
            selector = _go_selector((budget.get("spec") or {}).get("selector") or {})
            text = UNMANAGED.format(selector=selector)
            self._recorder.event(budget, "Warning", "UnmanagedPods", text)
        return sum(sizes.values())

    async def _scale_of(self, pod: Document, reference: Document) -> tuple[str, int]:
        """(uid, wanted replicas) of what scales the pod: its controller, or the Deployment above.

        BudgetError if nothing does.
        """
        namespace = pod["metadata"]["namespace"]
        informer = self._owners.get(reference["kind"])
        owner = informer.get(reference["name"], namespace) if informer else None
        if owner is None or owner["metadata"]["uid"] != reference["uid"]:
            return reference["uid"], await self._replicas_of(pod, reference)
        parent = writes.controller_of(owner)
        if parent is not None and parent["kind"] == "Deployment":
            deployment = self._deployments.get(parent["name"], namespace)
            if deployment is not None and deployment["metadata"]["uid"] == parent["uid"]:
                return parent["uid"], int(deployment["spec"].get("replicas", 1))
        return reference["uid"], int(owner["spec"].get("replicas", 1))

    async def _replicas_of(self, pod: Document, reference: Document) -> int:
        """What a controller of any kind wants, by the scale subresource of its kind."""
        kind, version = reference["kind"], reference["apiVersion"]
        resource = self._served.find(version, kind)
        if resource is None:
            raise BudgetError(f'no matches for kind "{kind}" in version "{version}"')
        path = self._served.replicas_path(resource)
        if path is None:
            text = f"{resource.qualified} does not implement the scale subresource"
            raise BudgetError(text)
        metadata = pod["metadata"]
        namespace = metadata["namespace"] if resource.namespaced else ""
        owner: Any = None
        try:
            owner = await self._context.client.get(resource, reference["name"], namespace)
        except ApiError as error:
            if error.reason != "NotFound":
                raise BudgetError(str(error)) from error
        if owner is None or owner["metadata"]["uid"] != reference["uid"]:
            raise BudgetError(f'found no controllers for pod "{metadata["name"]}"')
        for step in path:
            owner = owner.get(step) if isinstance(owner, dict) else None
        return int(owner or 0)

    def _still_disrupted(
        self, budget: Document, pods: list[Document], now: float
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
                continue
            by = "{namespace}/{name}".format(**budget["metadata"])
            text = f"Pod was expected by PDB {by} to be deleted but it wasn't"
            self._recorder.event(pod, "Warning", "NotDeleted", text)
        return kept, min(waits, default=None)

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
        generation = status["observedGeneration"]
        reason = "SufficientPods" if allowed > 0 else "InsufficientPods"
        status["conditions"] = self._condition(budget, allowed > 0, reason, "", generation)
        await writes.update_status(self._context, POD_DISRUPTION_BUDGETS, budget, status)

    async def _write_failure(self, budget: Document, message: str) -> None:
        """Nothing may be evicted; what was counted before stays, and so does its generation."""
        status = dict(budget.get("status") or {})
        status["disruptionsAllowed"] = 0
        for name in ("currentHealthy", "desiredHealthy", "expectedPods"):
            status.setdefault(name, 0)
        observed = status.get("observedGeneration", 0)
        status["conditions"] = self._condition(budget, False, "SyncFailed", message, observed)
        await writes.update_status(self._context, POD_DISRUPTION_BUDGETS, budget, status)

    def _condition(
        self, budget: Document, is_true: bool, reason: str, message: str, observed: int
    ) -> list[Document]:
        """``observed``: the generation that the condition is about; 0 for none."""
        return writes.set_condition(
            (budget.get("status") or {}).get("conditions") or [],
            "DisruptionAllowed",
            "True" if is_true else "False",
            reason,
            message,
            self._context.clock.now(),
            **({"observedGeneration": observed} if observed else {}),
        )


def _selects(budget: Document, labels: dict[str, str]) -> bool:
    """An absent selector selects nothing, an empty one everything."""
    selector = (budget.get("spec") or {}).get("selector")
    return selects(selector, labels)


def _go_selector(selector: Document) -> str:
    """A LabelSelector as Go prints it."""
    labels = sorted((selector.get("matchLabels") or {}).items())
    expressions = "".join(
        f"LabelSelectorRequirement{{Key:{e['key']},Operator:{e['operator']},"
        f"Values:[{' '.join(e.get('values') or ())}],}},"
        for e in selector.get("matchExpressions") or ()
    )
    shown = "".join(f"{name}: {value}," for name, value in labels)
    return (
        f"&LabelSelector{{MatchLabels:map[string]string{{{shown}}},"
        f"MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )


def _scaled(value: Any, total: int) -> int:
    """A number or a percentage of ``total``, rounded up."""
    if isinstance(value, str) and value.endswith("%"):
        return math.ceil(int(value[:-1]) * total / 100)
    return int(value)


def _count_healthy(pods: list[Document], disrupted: dict[str, str]) -> int:
    return sum(
        1
        for pod in pods
        if not writes.is_terminating(pod)
        and pod["metadata"]["name"] not in disrupted
        and writes.condition_is_true(pod.get("status") or {}, "Ready")
    )
