"""Device taint eviction: pods whose devices carry a NoExecute taint that they do not tolerate.

Source: KEP-5055 and kube-controller-manager ``pkg/controller/devicetainteviction``. Taints come
from the driver's ResourceSlices and from DeviceTaintRules. A pod is deleted when the first
toleration that covers a taint runs out, or at once if none does. A rule's status tells how its
eviction goes on; with effect None it tells how many pods NoExecute would evict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from kubarium.api.kinds import (
    DEVICE_TAINT_RULES,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError
from kubarium.client.protocol import STRATEGIC_MERGE_PATCH
from kubarium.control.devices.claims import PODS_BY_CLAIM, claim_names, is_done, pods_by_claim
from kubarium.engine.devices.model import DeviceTaint
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key
from kubarium.view.consumers import is_reserved_for
from kubarium.view.device_taints import TaintRule, taint_rule
from kubarium.view.pods import node_of, seconds
from kubarium.view.taints import taint as read_taint
from kubarium.view.taints import toleration

COMPONENT = "device-taint-eviction-controller"
EVICTION_IN_PROGRESS = "EvictionInProgress"

_NEVER = math.inf
_BY_POOL = "resourceclaims-by-pool"
_SLICES_BY_POOL = "resourceslices-by-pool"

# A rule's counts are written at most this often while pods come and go.
STATUS_PERIOD_S = 1.0


def _pools(claim: Document) -> Iterable[str]:
    return dict.fromkeys(f"{r['driver']}/{r['pool']}" for r in _results(claim))


def _pool(slice_: Document) -> Iterable[str]:
    spec = slice_.get("spec") or {}
    return (f"{spec.get('driver', '')}/{(spec.get('pool') or {}).get('name', '')}",)


def _generation(slice_: Document) -> int:
    return int(((slice_.get("spec") or {}).get("pool") or {}).get("generation") or 0)


def _results(claim: Document) -> list[Document]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results = (allocation.get("devices") or {}).get("results") or ()
    return [r for r in results if all(r.get(name) for name in ("driver", "pool", "device"))]


@dataclass(frozen=True, slots=True)
class Active:
    """A NoExecute taint on a device: since when, and by which rule ("" is the driver)."""

    taint: DeviceTaint
    added: float
    rule: str = ""


def evict_at(tolerations: Iterable[Document], active: Active) -> float:
    """When a device with this taint is to be given up, in seconds since the epoch.

    Infinite if the taint is tolerated for good; the time at which it was put on if it is not
    tolerated at all. Of several matching tolerations the shortest counts, as for nodes.
    """
    if active.taint.effect != "NoExecute":
        return _NEVER
    matching = [t for t in tolerations if toleration(t).tolerates(active.taint)]
    if not matching:
        return active.added
    limits = [
        active.added + max(0, t["tolerationSeconds"])
        for t in matching
        if t.get("tolerationSeconds") is not None
    ]
    return min(limits, default=_NEVER)


class DeviceTaintEviction:
    """Deletes pods that may not keep their devices."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._events = EventRecorder(context, COMPONENT)
        self.controller = Controller(COMPONENT, context, self.reconcile)
        self._pods = self.controller.watches(PODS, self._of_pod)
        self._claims = self.controller.watches(RESOURCE_CLAIMS, self._of_claim)
        self._slices = self.controller.watches(RESOURCE_SLICES, self._of_slice)
        self._rules = self.controller.watches(DEVICE_TAINT_RULES, self._of_rule)
        self._pods.add_index(PODS_BY_CLAIM, pods_by_claim)
        self._claims.add_index(_BY_POOL, _pools)
        self._slices.add_index(_SLICES_BY_POOL, _pool)
        self.evicted: dict[str, int] = {}

    # Which pods an event concerns

    @staticmethod
    def _of_pod(pod: Document) -> list[Key]:
        return [_key(pod)] if node_of(pod) and claim_names(pod) else []

    def _of_claim(self, claim: Document) -> list[Key]:
        namespace, name = _key(claim)
        return [_key(pod) for pod in self._pods.by_index(PODS_BY_CLAIM, f"{namespace}/{name}")]

    def _of_slice(self, slice_: Document) -> list[Key]:
        return self._on_pool(next(iter(_pool(slice_))))

    def _of_rule(self, document: Document) -> list[Key]:
        rule = taint_rule(document)
        if rule.driver and rule.pool:
            return self._on_pool(f"{rule.driver}/{rule.pool}")
        return [
            key
            for claim in self._claims.items()
            if any(rule.selects(r["driver"], r["pool"], r["device"]) for r in _results(claim))
            for key in self._of_claim(claim)
        ]

    def _on_pool(self, pool: str) -> list[Key]:
        claims = self._claims.by_index(_BY_POOL, pool)
        return [key for claim in claims for key in self._of_claim(claim)]

    # What is to be done with a pod

    async def reconcile(self, key: Key) -> float | None:
        """Evict the pod if its time has come; otherwise look again when it will have."""
        pod = self._pods.get(key[1], key[0])
        if pod is None or is_done(pod) or writes.is_terminating(pod):
            return None
        if not node_of(pod):
            return None  # a pod of a group may wait for a claim that its group holds already
        when, active = self.deadline(pod)
        now = self._context.clock.now()
        if when > now or active is None:
            return None if when == _NEVER else when - now
        await self._evict(pod, active)
        return None

    def deadline(self, pod: Document) -> tuple[float, Active | None]:
        """When the pod must go, and because of which taint; infinite if it may stay."""
        soonest: tuple[float, Active | None] = (_NEVER, None)
        for claim in self.held_claims(pod):
            for result in _results(claim):
                if result.get("adminAccess"):
                    continue
                for active in self._active(result):
                    when = evict_at(result.get("tolerations") or (), active)
                    if when < soonest[0]:
                        soonest = (when, active)
        return soonest

    def held_claims(self, pod: Document) -> list[Document]:
        """The allocated claims that the pod uses."""
        namespace = pod["metadata"]["namespace"]
        found = (self._claims.get(name, namespace) for name in dict.fromkeys(claim_names(pod)))
        return [c for c in found if c is not None and is_reserved_for(c, pod)]

    def _active(self, result: Document) -> list[Active]:
        """The taints of an allocated device."""
        driver, pool, device = result["driver"], result["pool"], result["device"]
        found: list[Active] = []
        slices = self._slices.by_index(_SLICES_BY_POOL, f"{driver}/{pool}")
        newest = max(map(_generation, slices), default=0)
        for slice_ in slices:
            if _generation(slice_) != newest:
                continue
            for entry in (slice_.get("spec") or {}).get("devices") or ():
                if entry.get("name") == device:
                    found += [_own(t, slice_) for t in entry.get("taints") or ()]
        for document in self._rules.items():
            rule = taint_rule(document)
            if rule.selects(driver, pool, device):
                found.append(Active(rule.taint, _rule_time(document), rule.name))
        return found

    async def _evict(self, pod: Document, active: Active) -> None:
        now = rfc3339(self._context.clock.now())
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByDeviceTaintManager",
            "message": "Device Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": now,
        }
        change: Document = {
            "metadata": {"uid": pod["metadata"]["uid"]},
            "status": {"conditions": [condition]},
        }
        await writes.patch(
            self._context,
            PODS,
            pod,
            change,
            patch_type=STRATEGIC_MERGE_PATCH,
            subresource="status",
        )
        self._events.event(pod, "Normal", "DeviceTaintManagerEviction", "Marking for deletion")
        if await writes.delete(self._context, PODS, pod) and active.rule:
            self.evicted[active.rule] = self.evicted.get(active.rule, 0) + 1

    # What rules' statuses need

    def pods_of(self, rule: TaintRule) -> list[Document]:
        """Pods that use a device which the rule selects, those on their way out included."""
        found: dict[Key, Document] = {}
        for claim in self._claims.items():
            if any(rule.selects(r["driver"], r["pool"], r["device"]) for r in _results(claim)):
                for pod in self._pods.by_index(PODS_BY_CLAIM, "/".join(_key(claim))):
                    if node_of(pod) and not is_done(pod) and is_reserved_for(claim, pod):
                        found[_key(pod)] = pod
        return list(found.values())

    def would_evict(self, rule: TaintRule, added: float, pod: Document) -> bool:
        """Whether the rule, were its effect NoExecute, would ever evict the pod."""
        taint = DeviceTaint(rule.taint.key, rule.taint.value, "NoExecute")
        return any(
            evict_at(result.get("tolerations") or (), Active(taint, added)) < _NEVER
            for claim in self.held_claims(pod)
            for result in _results(claim)
            if rule.selects(result["driver"], result["pool"], result["device"])
            and not result.get("adminAccess")
        )


class TaintRuleStatus:
    """Keeps ``EvictionInProgress`` of every DeviceTaintRule, with its counts in the message."""

    def __init__(self, context: Context, eviction: DeviceTaintEviction) -> None:
        self._context = context
        self._eviction = eviction
        self.controller = Controller("device-taint-rule-status", context, self.reconcile)
        self._rules = self.controller.watches(DEVICE_TAINT_RULES)
        self._pods = self.controller.watches(PODS, self._of_pod)
        self._claims = self.controller.watches(RESOURCE_CLAIMS, self._of_claim)

    def _of_pod(self, pod: Document) -> list[Key]:
        return self._later() if self._rules.items() and claim_names(pod) else []

    def _of_claim(self, claim: Document) -> list[Key]:
        return self._later()

    def _later(self) -> list[Key]:
        """Counting looks at every claim, so that a busy cluster is counted once in a while."""
        for rule in self._rules.items():
            self.controller.enqueue(_key(rule), STATUS_PERIOD_S)
        return []

    async def reconcile(self, key: Key) -> float | None:
        """Count again, and write what changed."""
        document = self._rules.get(key[1])
        if document is None:
            return None
        rule = taint_rule(document)
        pods = self._eviction.pods_of(rule)
        added = _rule_time(document)
        affected = [p for p in pods if self._eviction.would_evict(rule, added, p)]
        status, reason, message = self._verdict(rule, affected)
        conditions = writes.set_condition(
            (document.get("status") or {}).get("conditions") or (),
            EVICTION_IN_PROGRESS,
            status,
            reason,
            message,
            self._context.clock.now(),
            observedGeneration=document["metadata"].get("generation", 1),
        )
        try:
            await writes.update_status(
                self._context,
                DEVICE_TAINT_RULES,
                document,
                {**(document.get("status") or {}), "conditions": conditions},
            )
        except ApiError as error:
            if error.reason != "Conflict":
                raise
            return STATUS_PERIOD_S
        return None

    def _verdict(self, rule: TaintRule, affected: list[Document]) -> tuple[str, str, str]:
        count = len(affected)
        namespaces = len(dict.fromkeys(p["metadata"]["namespace"] for p in affected))
        where = f"{_plural(count, 'pod')} in {_plural(namespaces, 'namespace')}"
        if rule.taint.effect == "None":
            text = f"{where} would be evicted if the effect was NoExecute."
            return "False", "NoEffect", text
        if rule.taint.effect != "NoExecute":
            return "False", "NotStarted", "The taint does not evict pods."
        done = f"{_plural(self._eviction.evicted.get(rule.name, 0), 'pod')} evicted so far."
        if count:
            return "True", "PodsPendingEviction", f"{where} to be evicted, {done}"
        return "False", "Completed", f"No pods to be evicted, {done}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _own(taint: Document, slice_: Document) -> Active:
    """A driver's taint; without a time it is as old as its slice."""
    created = seconds(slice_["metadata"].get("creationTimestamp"), 0.0)
    return Active(read_taint(taint), seconds(taint.get("timeAdded"), created))


def _rule_time(document: Document) -> float:
    created = seconds(document["metadata"].get("creationTimestamp"), 0.0)
    taint = (document.get("spec") or {}).get("taint") or {}
    return seconds(taint.get("timeAdded"), created)


def _key(document: Document) -> Key:
    metadata = document["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
