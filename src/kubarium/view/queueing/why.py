"""Why a job waits in a queue, who has what it needs, and the smallest changes that would let it in.

Pure: documents in, a value out. Every change that is proposed has been tried on the engine: with
it, the workload would fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from kubarium.api.kinds import WORKLOADS
from kubarium.api.resource import Document, Resource
from kubarium.engine.queueing.amounts import show_amount
from kubarium.engine.queueing.assignment import Assignment, Mode
from kubarium.engine.queueing.clusterqueue import NEVER, STRICT_FIFO, ResourceGroup
from kubarium.engine.queueing.cycle import plan_cycle, position_in_queue
from kubarium.engine.queueing.flavor import mismatch
from kubarium.engine.queueing.nomination import nominate
from kubarium.engine.queueing.quota import FlavorResource, NodeSpec, QuotaNode, QuotaTree
from kubarium.engine.queueing.snapshot import Options, Snapshot, cohort_path
from kubarium.engine.queueing.workload import Admitted, Key, Workload
from kubarium.view.queueing.documents import (
    ADMITTED,
    EVICTED,
    FINISHED,
    QUOTA_RESERVED,
    condition,
    is_true,
)
from kubarium.view.queueing.world import RESOURCES_NEEDED as RESOURCES_NEEDED
from kubarium.view.queueing.world import World, world_of

MAX_HOLDERS_SHOWN = 10
"""More holders of a quota than this are told as a number: an answer is to be read."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A workload that holds some of what is missing."""

    workload: str
    cluster_queue: str
    priority: int
    amount: str


@dataclass(frozen=True, slots=True)
class Shortage:
    """One flavor's part in the answer, for one resource. Amounts are Kubernetes quantities.

    ``missing`` "0" means enough of it is free; ``capacity`` is the most that could ever be had.
    """

    flavor: str
    resource: str
    requested: str
    available: str
    missing: str
    capacity: str
    nominal: str
    unusable: str = ""
    holders: tuple[Holder, ...] = ()
    more_holders: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """Something that would let the workload in, by itself.

    ``kind`` is one of raise-quota, wait-for, raise-priority, ask-for-less, start-queue,
    create-queue, activate, preempting, fix-object.
    """

    kind: str
    text: str
    workloads: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """The whole answer. ``state`` is Pending, QuotaReserved, Admitted, Evicted, Finished or
    NoWorkload; ``position`` is the 0-based place in the ClusterQueue, None when in no queue."""

    workload: str
    state: str
    reason: str
    message: str
    local_queue: str = ""
    cluster_queue: str = ""
    path: str = ""
    strategy: str = ""
    priority: int = 0
    position: int | None = None
    waiting: int = 0
    behind: tuple[str, ...] = ()
    shortages: tuple[Shortage, ...] = ()
    changes: tuple[Change, ...] = field(default=())

    def lines(self) -> list[str]:
        """The answer in plain sentences."""
        told = [f"Workload {self.workload} is {self.state}: {self.message or self.reason}"]
        if self.position is not None:
            told.append(
                f"It is number {self.position + 1} of {self.waiting} in ClusterQueue "
                f"{self.cluster_queue} ({self.strategy}), with priority {self.priority}."
            )
        if self.behind:
            told.append(f"Ahead of it: {', '.join(self.behind)}.")
        told.extend(_shortage_line(shortage) for shortage in self.shortages)
        if self.changes:
            told.append("Any one of these would let it in:")
            told.extend(f"- {change.text}" for change in self.changes)
        return told


def _shortage_line(shortage: Shortage) -> str:
    if shortage.unusable:
        return f"Flavor {shortage.flavor} cannot be used: {shortage.unusable}."
    holders = ", ".join(f"{h.workload} ({h.amount})" for h in shortage.holders)
    more = f" and {shortage.more_holders} more" if shortage.more_holders else ""
    held = f"; held by {holders}{more}" if holders else ""
    return (
        f"Flavor {shortage.flavor}: {shortage.resource} {shortage.requested} wanted, "
        f"{shortage.available} free of {shortage.capacity}, {shortage.missing} missing{held}."
    )


def explain(
    documents: Mapping[Resource, Iterable[Document]],
    subject: Document,
    now: float = float("inf"),
    options: Options = Options(),  # noqa: B008
) -> Explanation:
    """Explain a Workload, or the Workload of a Job or JobSet. ``documents`` holds lists of
    :data:`RESOURCES_NEEDED`; ``now`` is in seconds since the epoch (without it, workloads that
    back off count as ready)."""
    world = world_of(documents, options)
    document = _workload_of(world, subject)
    if document is None:
        metadata = subject["metadata"]
        name = f"{metadata.get('namespace', '')}/{metadata['name']}"
        text = (
            f"{subject.get('kind')} {name} has no Workload: it names no queue, or is not seen yet"
        )
        return Explanation(name, "NoWorkload", "NoWorkload", text)
    return _Explainer(world, document, now).explain()


def _workload_of(world: World, subject: Document) -> Document | None:
    metadata = subject["metadata"]
    if subject.get("kind") == WORKLOADS.kind and WORKLOADS.group in subject.get("apiVersion", ""):
        return world.get(WORKLOADS, metadata["name"], metadata.get("namespace", ""))
    found = [
        workload
        for workload in world.items(WORKLOADS)
        if any(
            reference.get("uid") == metadata.get("uid")
            for reference in workload["metadata"].get("ownerReferences") or ()
        )
    ]
    found.sort(key=lambda w: (is_true(w, FINISHED), w["metadata"]["name"]))
    return found[0] if found else None


class _Explainer:
    """One question on one world."""

    def __init__(self, world: World, document: Document, now: float) -> None:
        self.world = world
        self.snapshot: Snapshot = world.snapshot
        self.document = document
        self.now = now
        metadata = document["metadata"]
        self.key: Key = (metadata.get("namespace", ""), metadata["name"])

    def explain(self) -> Explanation:
        name = "/".join(self.key)
        base = Explanation(
            name,
            _state(self.document),
            "",
            "",
            local_queue=(self.document.get("spec") or {}).get("queueName") or "",
        )
        blocker = self.world.blockers.get(self.key)
        waiting = self._waiting()
        if blocker is not None:
            reason, message = blocker
            changes = tuple(self._unblock(reason, message))
            return replace(base, reason=reason, message=message, changes=changes)
        if waiting is None:
            return self._settled(base)
        return self._pending(base, waiting)

    def _waiting(self) -> Workload | None:
        for pending in self.snapshot.pending.values():
            workload = pending.get(self.key)
            if workload is not None:
                return workload
        return None

    def _settled(self, base: Explanation) -> Explanation:
        """A workload that waits for no quota."""
        told = {
            "Finished": condition(self.document, FINISHED),
            "Evicted": condition(self.document, EVICTED),
            "Admitted": condition(self.document, ADMITTED),
            "QuotaReserved": condition(self.document, ADMITTED),
        }.get(base.state)
        told = told or {}
        admission = (self.document.get("status") or {}).get("admission") or {}
        message = str(told.get("message", ""))
        checks = [
            f"{c['name']} ({c.get('state')})"
            for c in (self.document.get("status") or {}).get("admissionChecks") or ()
            if c.get("state") != "Ready"
        ]
        if base.state == "QuotaReserved" and checks:
            message += f": waiting for admission checks {', '.join(checks)}"
        return replace(
            base,
            reason=str(told.get("reason", "")),
            message=message,
            cluster_queue=admission.get("clusterQueue", ""),
        )

    def _pending(self, base: Explanation, workload: Workload) -> Explanation:
        queue = self.snapshot.queues[workload.cluster_queue]
        node = self.snapshot.tree.queues.get(queue.name)
        pending = self.snapshot.pending[queue.name]
        position = position_in_queue(pending, self.key)
        ahead = list(pending)[: position or 0]
        base = replace(
            base,
            cluster_queue=queue.name,
            path=cohort_path(node) if node is not None else "",
            strategy=queue.strategy,
            priority=workload.priority,
            position=position,
            waiting=len(pending),
        )
        if workload.blocked is not None or node is None:
            reason, message = (
                (workload.blocked.reason, workload.blocked.message)
                if workload.blocked is not None
                else ("Misconfigured", "the ClusterQueue's cohorts form a circle")
            )
            change = Change("fix-object", f"correct what is wrong: {message}")
            return replace(base, reason=reason, message=message, changes=(change,))
        assignment, victims = nominate(self.snapshot, workload)
        reason, message = self._verdict(workload, assignment)
        behind: tuple[str, ...] = ()
        if queue.strategy == STRICT_FIFO and ahead:
            behind = tuple("/".join(w.key) for w in ahead[:MAX_HOLDERS_SHOWN])
        if assignment.mode is Mode.FIT:
            changes = self._in_line(ahead)
            return replace(base, reason=reason, message=message, behind=behind, changes=changes)
        changes = tuple(self._changes(workload, node))
        if victims:
            names = tuple("/".join(v.admitted.key) for v in victims)
            text = f"it may preempt {', '.join(names)}: wait until they have stopped"
            changes = (Change("preempting", text, names), *changes)
        shortages = tuple(self._shortages(workload, node))
        return replace(
            base,
            reason=reason,
            message=message,
            behind=behind,
            shortages=shortages,
            changes=changes,
        )

    def _verdict(self, workload: Workload, assignment: Assignment) -> tuple[str, str]:
        """What the admission loop would say of it now."""
        plan = plan_cycle(self.snapshot, self.now)
        for verdict in plan.verdicts:
            same = verdict.workload.key == self.key or (
                verdict.stands_for_shape
                and verdict.workload.shape == workload.shape
                and verdict.workload.cluster_queue == workload.cluster_queue
            )
            if same:
                return verdict.reason, verdict.message
        if any(admission.workload.key == self.key for admission in plan.admissions):
            return "PendingEvaluation", "it fits; the next cycle admits it"
        if assignment.mode is Mode.FIT:
            return "PendingEvaluation", "enough quota is free, but workloads ahead of it go first"
        return assignment.no_fit_reason or "WaitingForQuota", assignment.message()

    def _in_line(self, ahead: list[Workload]) -> tuple[Change, ...]:
        if not ahead:
            return ()
        names = tuple("/".join(w.key) for w in ahead[:MAX_HOLDERS_SHOWN])
        text = f"{len(ahead)} workload(s) ahead in the queue being admitted or leaving it"
        return (Change("wait-for", text, names),)

    def _unblock(self, reason: str, message: str) -> Iterable[Change]:
        if reason == "Deactivated":
            yield Change("activate", "set spec.active of the Workload to true")
        elif "doesn't exist" in message:
            what = message.split(" doesn't")[0]
            yield Change("create-queue", f"create {what}, or name another queue in the job's label")
        elif reason == "Suspended":
            yield self._started(message)

    def _started(self, message: str) -> Change:
        """Which of the two queues does not admit anything, and what starts it."""
        queue = self.world.cluster_queue_of(self.document)
        for kind, document in (
            ("LocalQueue", self.world.local_queue_of(self.document)),
            ("ClusterQueue", queue),
        ):
            policy = ((document or {}).get("spec") or {}).get("stopPolicy") or "None"
            if document is not None and policy != "None":
                text = f"{kind} {document['metadata']['name']} is stopped ({policy})"
                return Change("start-queue", f"{text}: set its spec.stopPolicy to None")
        name = queue["metadata"]["name"] if queue is not None else ""
        why = self.world.readiness.get(name)
        told = why.message if why is not None and not why.active else message
        return Change("start-queue", f"make ClusterQueue {name} active: {told}")

    # shortages

    def _shortages(self, workload: Workload, node: QuotaNode) -> Iterable[Shortage]:
        requests = _total(workload)
        for group, resource in _groups(self.snapshot, workload, requests):
            if group is None:
                continue
            for flavor_name in group.flavors:
                flavor = self.snapshot.flavors.get(flavor_name)
                problem = f"flavor {flavor_name} not found" if flavor is None else ""
                for pod_set in workload.pod_sets:
                    if flavor is not None and not problem:
                        problem = mismatch(flavor, pod_set.constraints)
                yield self._shortage(node, (flavor_name, resource), requests[resource], problem)

    def _shortage(
        self, node: QuotaNode, fr: FlavorResource, requested: int, problem: str
    ) -> Shortage:
        flavor, resource = fr
        available = max(0, node.available(fr))
        holders = self._holders(node, fr)
        return Shortage(
            flavor,
            resource,
            show_amount(resource, requested),
            show_amount(resource, available),
            show_amount(resource, max(0, requested - available)),
            show_amount(resource, node.potential_available(fr)),
            show_amount(resource, node.quota(fr).nominal),
            problem,
            tuple(
                Holder(
                    "/".join(h.key),
                    h.cluster_queue,
                    h.workload.priority,
                    show_amount(resource, h.usage[fr]),
                )
                for h in holders[:MAX_HOLDERS_SHOWN]
            ),
            max(0, len(holders) - MAX_HOLDERS_SHOWN),
        )

    def _holders(self, node: QuotaNode, *frs: FlavorResource) -> list[Admitted]:
        """Who holds any of these in the tree, those easiest to spare first."""
        found = [
            admitted
            for queue in node.root.queues()
            for admitted in self.snapshot.holders.get(queue.name, ())
            if any(admitted.usage.get(fr) for fr in frs)
        ]
        found.sort(key=lambda a: (a.workload.priority, -(a.reserved_at or 0.0), a.key))
        return found

    # changes

    def _changes(self, workload: Workload, node: QuotaNode) -> Iterable[Change]:
        yield from self._raise_quota(workload, node)
        yield from self._wait_for(workload, node)
        yield from self._raise_priority(workload)
        yield from self._ask_for_less(workload)

    def _fits(self, workload: Workload) -> bool:
        return nominate(self.snapshot, workload)[0].mode is Mode.FIT

    def _raise_quota(self, workload: Workload, node: QuotaNode) -> Iterable[Change]:
        """For each choice of flavors that the pods can use, the nominal quota that is missing."""
        requests = _total(workload)
        by_group: dict[ResourceGroup, list[str]] = {}
        for group, resource in _groups(self.snapshot, workload, requests):
            if group is None:
                return  # no quota helps a resource that the queue does not cover
            by_group.setdefault(group, []).append(resource)
        best: dict[FlavorResource, int] = {}
        for group, resources in by_group.items():
            options: list[dict[FlavorResource, int]] = [
                {
                    (flavor, resource): missing
                    for resource in resources
                    if (missing := requests[resource] - max(0, node.available((flavor, resource))))
                    > 0
                }
                for flavor in group.flavors
                if self._usable(workload, flavor)
            ]
            if not options:
                return
            cheapest = min(options, key=_size)
            best.update(cheapest)
        if best and self._with_quota(best, node, lambda: self._fits(workload)):
            told = ", ".join(
                f"{show_amount(resource, amount)} more {resource} of flavor {flavor}"
                for (flavor, resource), amount in sorted(best.items())
            )
            yield Change("raise-quota", f"nominalQuota of ClusterQueue {node.name}: {told}")

    def _usable(self, workload: Workload, name: str) -> bool:
        flavor = self.snapshot.flavors.get(name)
        return flavor is not None and not any(
            mismatch(flavor, pod_set.constraints) for pod_set in workload.pod_sets
        )

    def _with_quota(
        self, more: Mapping[FlavorResource, int], node: QuotaNode, question: Callable[[], bool]
    ) -> bool:
        """Ask with a tree in which ``node`` owns more."""
        tree = self.snapshot.tree
        specs = [_spec(n, more if n is node else {}) for n in tree.queues.values()]
        cohorts = [_spec(n, {}) for n in tree.cohorts.values()]
        try:
            self.snapshot.tree = QuotaTree.build(specs, cohorts)
            self.snapshot.recharge()
            return question()
        finally:
            self.snapshot.tree = tree

    def _wait_for(self, workload: Workload, node: QuotaNode) -> Iterable[Change]:
        """The fewest holders whose end makes room, found greedily and then thinned out."""
        requests = _total(workload)
        frs = [
            (flavor, resource)
            for group, resource in _groups(self.snapshot, workload, requests)
            if group is not None
            for flavor in group.flavors
            if self._usable(workload, flavor)
        ]
        holders = self._holders(node, *frs)
        holders.sort(key=lambda a: -sum(a.usage.get(fr, 0) for fr in frs))
        gone: list[Admitted] = []
        for holder in holders:
            self.snapshot.release(holder.cluster_queue, holder.key)
            gone.append(holder)
            if self._fits(workload):
                break
        fits = bool(gone) and self._fits(workload)
        for holder in list(gone) if fits else ():
            self.snapshot.admit(holder)
            if self._fits(workload):
                gone.remove(holder)
            else:
                self.snapshot.release(holder.cluster_queue, holder.key)
        for holder in gone:
            self.snapshot.admit(holder)
        if fits:
            names = tuple("/".join(holder.key) for holder in gone)
            yield Change("wait-for", f"the end of {', '.join(names)}", names)

    def _raise_priority(self, workload: Workload) -> Iterable[Change]:
        """The lowest priority with which it could preempt, where the queue's policy allows it."""
        policy = self.snapshot.queues[workload.cluster_queue].preemption
        if policy.within_cluster_queue == NEVER and policy.reclaim_within_cohort == NEVER:
            return
        node = self.snapshot.tree.queues[workload.cluster_queue]
        levels = {
            admitted.workload.priority + 1
            for queue in node.root.queues()
            for admitted in self.snapshot.holders.get(queue.name, ())
        }
        for level in sorted(level for level in levels if level > workload.priority):
            raised = replace(workload, base_priority=level - workload.boost)
            _, victims = nominate(self.snapshot, raised)
            if victims:
                names = tuple("/".join(v.admitted.key) for v in victims)
                text = f"priority {level}: it would preempt {', '.join(names)}"
                yield Change("raise-priority", text, names)
                return

    def _ask_for_less(self, workload: Workload) -> Iterable[Change]:
        """The most pods of its only pod set that fit now."""
        if len(workload.pod_sets) != 1 or workload.pod_sets[0].count < 2:
            return
        pod_set = workload.pod_sets[0]
        low, high = 0, pod_set.count - 1
        while low < high:
            middle = (low + high + 1) // 2
            smaller = replace(workload, pod_sets=(replace(pod_set, count=middle),))
            low, high = (middle, high) if self._fits(smaller) else (low, middle - 1)
        if low:
            yield Change("ask-for-less", f"{low} pods instead of {pod_set.count} in {pod_set.name}")


def _size(amounts: dict[FlavorResource, int]) -> tuple[int, int]:
    return len(amounts), sum(amounts.values())


def _spec(node: QuotaNode, more: Mapping[FlavorResource, int]) -> NodeSpec:
    quotas = dict(node.quotas)
    for fr, amount in more.items():
        old = node.quota(fr)
        quotas[fr] = replace(old, nominal=old.nominal + amount)
    parent = node.parent.name if node.parent is not None else ""
    return NodeSpec(node.name, parent, quotas, node.fair_weight)


def _total(workload: Workload) -> dict[str, int]:
    total: dict[str, int] = {}
    for pod_set in workload.pod_sets:
        for resource, amount in pod_set.requests(pod_set.count).items():
            total[resource] = total.get(resource, 0) + amount
    return total


def _groups(
    snapshot: Snapshot, workload: Workload, requests: Mapping[str, int]
) -> Iterable[tuple[ResourceGroup | None, str]]:
    queue = snapshot.queues[workload.cluster_queue]
    for resource, amount in requests.items():
        group = queue.group_of(resource)
        if amount or group is not None:
            yield group, resource


def _state(document: Document) -> str:
    for type_, state in (
        (FINISHED, "Finished"),
        (EVICTED, "Evicted"),
        (ADMITTED, "Admitted"),
        (QUOTA_RESERVED, "QuotaReserved"),
    ):
        if is_true(document, type_) and (state != "Evicted" or is_true(document, QUOTA_RESERVED)):
            return state
    return "Pending"
