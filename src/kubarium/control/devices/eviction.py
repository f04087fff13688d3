"""Device taint eviction: pods whose devices carry a NoExecute taint that they do not tolerate.

Source: KEP-5055 and kube-controller-manager ``pkg/controller/devicetainteviction``. Taints come
from the driver's ResourceSlices and from DeviceTaintRules. A pod is deleted when the first
toleration that covers a taint runs out, or at once if none does; access as administrator is no
exception. A rule's status tells how its eviction goes on; with effect None it tells once how many
pods NoExecute would evict.
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
from kubarium.runtime.protocol import Context, Informer, Key
from kubarium.view.consumers import is_reserved_for
from kubarium.view.device_taints import TaintRule, taint_rule
from kubarium.view.pods import node_of, seconds
from kubarium.view.taints import device_toleration
from kubarium.view.taints import taint as read_taint

COMPONENT = "device-taint-eviction-controller"
EVICTION_IN_PROGRESS = "EvictionInProgress"

_NEVER = math.inf
_BY_POOL = "resourceclaims-by-pool"
_SLICES_BY_POOL = "resourceslices-by-pool"

# A rule's counts are written at most this often while pods come and go (ruleStatusPeriod).
STATUS_PERIOD_S = 10.0


def _pools(claim: Document) -> Iterable[str]:
    return dict.fromkeys(f"{r['driver']}/{r['pool']}" for r in _results(claim))


def _pool_of(slice_: Document) -> tuple[str, str]:
    spec = slice_.get("spec") or {}
    return spec.get("driver", ""), (spec.get("pool") or {}).get("name", "")


def _pool(slice_: Document) -> Iterable[str]:
    return ("/".join(_pool_of(slice_)),)


def _generation(slice_: Document) -> int:
    return int(((slice_.get("spec") or {}).get("pool") or {}).get("generation") or 0)


def _results(claim: Document) -> list[Document]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results = (allocation.get("devices") or {}).get("results") or ()
    return [r for r in results if all(r.get(name) for name in ("driver", "pool", "device"))]


@dataclass(frozen=True, slots=True)
class Active:
    """A NoExecute taint on a device: since when, and by which rule's uid ("" is the driver)."""

    taint: DeviceTaint
    added: float
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a pod must go, and because of which rules (by uid); infinite if it may stay."""

    when: float = _NEVER
    rules: frozenset[str] = frozenset()


def evict_at(tolerations: Iterable[Document], active: Active) -> float:
    """When a device with this taint is to be given up, in seconds since the epoch.

    Infinite if one toleration covers the taint for good; the time at which it was put on if none
    covers it. Of several that cover it for a while the shortest counts.
    """
    if active.taint.effect != "NoExecute":
        return _NEVER
    matching = [t for t in tolerations if device_toleration(t).tolerates(active.taint)]
    if not matching:
        return active.added
    if any(t.get("tolerationSeconds") is None for t in matching):
        return _NEVER
    return active.added + max(0, min(int(t["tolerationSeconds"]) for t in matching))


class DeviceTaintEviction:
    """Deletes pods that may not keep their devices, and tells rules about it.

    Keys without a namespace are rules: a new one is told how many pods it is about before the
    first of them goes, as its key is queued before theirs.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._events = EventRecorder(context, COMPONENT)
        self.controller = Controller(COMPONENT, context, self.reconcile)
        self._pods = self.controller.watches(PODS, self._of_pod)
        self._claims = self.controller.watches(RESOURCE_CLAIMS, self._of_claim)
        self._slices = self.controller.watches(RESOURCE_SLICES, self._of_slice)
        self._rules = self.controller.watches(DEVICE_TAINT_RULES, self._of_rule)
        self._rules.on_change(self._rule_changed)
        self._pods.add_index(PODS_BY_CLAIM, pods_by_claim)
        self._claims.add_index(_BY_POOL, _pools)
        self._slices.add_index(_SLICES_BY_POOL, _pool)
        # By rule's uid: pods evicted since this controller began.
        self.evicted: dict[str, int] = {}
        # Pods whose time has been set: by key, which pod it was.
        self._expected: dict[Key, str] = {}
        self._status = TaintRuleStatus(context, self, self._rules)
        self._pods.on_change(self._pod_changed)
        self._claims.on_change(self._count_later)

    # Which pods an event concerns

    @staticmethod
    def _of_pod(pod: Document) -> list[Key]:
        return [_key(pod)] if claim_names(pod) and node_of(pod) else []

    def _of_claim(self, claim: Document) -> list[Key]:
        namespace, name = _key(claim)
        return [_key(pod) for pod in self._pods.by_index(PODS_BY_CLAIM, f"{namespace}/{name}")]

    def _of_slice(self, slice_: Document) -> list[Key]:
        return self._on_pool(next(iter(_pool(slice_))))

    def _of_rule(self, document: Document) -> list[Key]:
        return [_key(document), *self._selected_by(taint_rule(document))]

    def _selected_by(self, rule: TaintRule) -> list[Key]:
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

    def _rule_changed(self, old: Document | None, new: Document | None) -> None:
        if new is None and old is not None:
            self.evicted.pop(old["metadata"]["uid"], None)

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        if not self._rules.items():
            return
        if (new is not None and claim_names(new)) or (old is not None and claim_names(old)):
            self._count_later(old, new)

    def _count_later(self, old: Document | None, new: Document | None) -> None:
        """Counting looks at every claim, so that a busy cluster is counted once in a while."""
        for rule in self._rules.items():
            self.controller.enqueue(_key(rule), STATUS_PERIOD_S)

    async def reconcile(self, key: Key) -> float | None:
        """Look at one pod, or tell one rule; seconds after which to look again."""
        namespace, name = key
        return await (self._judge(key) if namespace else self._status.tell(name))

    # What is to be done with a pod

    async def _judge(self, key: Key) -> float | None:
        """Evict the pod if its time has come; otherwise look again when it will have."""
        pod = self._pods.get(key[1], key[0])
        expected = self._expected.pop(key, "")
        if pod is None or is_done(pod) or writes.is_terminating(pod):
            return None
        if not node_of(pod):
            return None  # a pod of a group may wait for a claim that its group holds already
        deadline = self.deadline(pod)
        now, uid = self._context.clock.now(), pod["metadata"]["uid"]
        if deadline.when == _NEVER:
            if expected == uid:
                self._tell(pod, "Cancelling deletion")
            return None
        self._expected[key] = uid
        if deadline.when > now:
            return deadline.when - now
        await self._evict(pod, deadline)
        del self._expected[key]
        return None

    def deadline(self, pod: Document) -> Deadline:
        """When the pod must go: the soonest of all taints that are not tolerated for good."""
        soonest, rules = _NEVER, set()
        for claim in self.held_claims(pod):
            for result in _results(claim):
                for active in self._active(result):
                    when = evict_at(result.get("tolerations") or (), active)
                    soonest = min(soonest, when)
                    if when < _NEVER and active.rule:
                        rules.add(active.rule)
        return Deadline(soonest, frozenset(rules))

    def held_claims(self, pod: Document) -> list[Document]:
        """The allocated claims that the pod uses."""
        namespace = pod["metadata"]["namespace"]
        found = (self._claims.get(name, namespace) for name in dict.fromkeys(claim_names(pod)))
        return [c for c in found if c is not None and is_reserved_for(c, pod)]

    def _active(self, result: Document) -> list[Active]:
        """The taints of an allocated device."""
        driver, pool, device = result["driver"], result["pool"], result["device"]
        found: list[Active] = []
        newest = self._newest(f"{driver}/{pool}")
        for slice_ in self._slices.by_index(_SLICES_BY_POOL, f"{driver}/{pool}"):
            if _generation(slice_) != newest:
                continue
            for entry in (slice_.get("spec") or {}).get("devices") or ():
                if entry.get("name") == device:
                    found += [_own(t, slice_) for t in entry.get("taints") or ()]
        for document in self._rules.items():
            rule = taint_rule(document)
            if rule.selects(driver, pool, device):
                uid = document["metadata"]["uid"]
                found.append(Active(rule.taint, _rule_time(document), uid))
        return found

    def _tell(self, pod: Document, text: str) -> None:
        self._events.event(pod, "Normal", "DeviceTaintManagerEviction", text)

    async def _evict(self, pod: Document, deadline: Deadline) -> None:
        now = rfc3339(self._context.clock.now())
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "observedGeneration": pod["metadata"].get("generation", 1),
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
        self._tell(pod, "Marking for deletion")
        if await writes.delete(self._context, PODS, pod):
            for rule in deadline.rules:
                self.evicted[rule] = self.evicted.get(rule, 0) + 1

    # What rules' statuses need

    def pods_of(self, rule: TaintRule, added: float) -> list[Document]:
        """Pods that the rule, were its effect NoExecute, would evict some day."""
        taint = Active(DeviceTaint(rule.taint.key, rule.taint.value, "NoExecute"), added)
        found: dict[Key, Document] = {}
        for claim in self._claims.items():
            if not any(
                rule.selects(r["driver"], r["pool"], r["device"])
                and evict_at(r.get("tolerations") or (), taint) < _NEVER
                for r in _results(claim)
            ):
                continue
            for pod in self._pods.by_index(PODS_BY_CLAIM, "/".join(_key(claim))):
                stays = not (is_done(pod) or writes.is_terminating(pod))
                if stays and node_of(pod) and is_reserved_for(claim, pod):
                    found[_key(pod)] = pod
        return list(found.values())

    def devices_of(self, rule: TaintRule) -> tuple[int, int]:
        """How many devices the rule selects: of those published, and of those allocated."""
        published = sum(
            rule.selects(*_pool_of(slice_), device["name"])
            for slice_ in self._slices.items()
            if _generation(slice_) == self._newest(next(iter(_pool(slice_))))
            for device in slice_["spec"].get("devices") or ()
        )
        allocated = sum(
            rule.selects(r["driver"], r["pool"], r["device"])
            for claim in self._claims.items()
            for r in _results(claim)
        )
        return published, allocated

    def _newest(self, pool: str) -> int:
        return max(map(_generation, self._slices.by_index(_SLICES_BY_POOL, pool)), default=0)


class TaintRuleStatus:
    """Keeps ``EvictionInProgress`` of every DeviceTaintRule, with its counts in the message."""

    def __init__(self, context: Context, eviction: DeviceTaintEviction, rules: Informer) -> None:
        self._context = context
        self._eviction = eviction
        self._rules = rules

    async def tell(self, name: str) -> float | None:
        """Count again, and write what changed; seconds after which to count once more."""
        document = self._rules.get(name)
        if document is None:
            return None
        now = self._context.clock.now()
        known = writes.find_condition(document, EVICTION_IN_PROGRESS) or {}
        rule, generation = taint_rule(document), document["metadata"].get("generation", 1)
        if known.get("observedGeneration") == generation:
            if rule.taint.effect == "None":
                return None  # as the message says
            since = now - seconds(known.get("lastTransitionTime"))
            if 0 <= since < STATUS_PERIOD_S:
                return STATUS_PERIOD_S - since
        status, reason, message = self._verdict(rule, document)
        found: Document = {"type": EVICTION_IN_PROGRESS, "status": status, "reason": reason}
        found |= {"message": message, "observedGeneration": generation}
        if all(known.get(field) == value for field, value in found.items()):
            return None
        # Upstream's time is that of the last change, also of the message alone.
        found["lastTransitionTime"] = rfc3339(now)
        others = [c for c in _conditions(document) if c.get("type") != EVICTION_IN_PROGRESS]
        try:
            await writes.update_status(
                self._context,
                DEVICE_TAINT_RULES,
                document,
                {**(document.get("status") or {}), "conditions": [*others, found]},
            )
        except ApiError as error:
            if error.reason != "Conflict":
                raise
            return STATUS_PERIOD_S
        return None

    def _verdict(self, rule: TaintRule, document: Document) -> tuple[str, str, str]:
        """Status, reason and message of the condition, as upstream words them."""
        evicted = self._eviction.evicted.get(document["metadata"]["uid"], 0)
        done = [f"{_plural(evicted, 'pod')} evicted since starting the controller."]
        said = done if evicted else []
        if rule.taint.effect not in ("None", "NoExecute"):
            text = "Eviction only happens for the NoExecute effect."
            return "False", "OtherEffect", " ".join([text, *said])
        affected = self._eviction.pods_of(rule, _rule_time(document))
        where = dict.fromkeys(pod["metadata"]["namespace"] for pod in affected)
        within = "1 namespace" if len(where) == 1 else f"{len(where)} different namespaces"
        if rule.taint.effect == "None":
            published, allocated = self._eviction.devices_of(rule)
            text = (
                f"{_plural(published, 'published device')} selected. "
                f"{_plural(allocated, 'allocated device')} selected. "
                f"{_plural(len(affected), 'pod')} would be evicted in {within} if the effect was "
                "NoExecute. This information will not be updated again. Recreate the "
                "DeviceTaintRule to trigger an update."
            )
            return "False", "NoEffect", " ".join([text, *said])
        if affected:
            need = "needs" if len(affected) == 1 else "need"
            text = f"{_plural(len(affected), 'pod')} {need} to be evicted in {within}."
            return "True", "PodsPendingEviction", " ".join([text, *said])
        return "False", "Completed" if evicted else "NotStarted", "".join(said)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _conditions(document: Document) -> list[Document]:
    found: list[Document] = (document.get("status") or {}).get("conditions") or []
    return found


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
