"""kube-scheduler's shell around the engine: watch, queue, plan, commit.

All state is in four places: the :class:`ClusterView` (a snapshot that follows the informers), the
:class:`SchedulingQueue`, the :class:`WaitingPods` with those that are decided but not yet confirmed
by the watch, and the :class:`Nominations`. A cycle decides everything that is ready at once; its
writes go on beside the next cycle (:class:`Writing`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from kubarium.api.kinds import (
    COMPOSITE_POD_GROUPS,
    NODES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIMS,
)
from kubarium.api.resource import Document, Resource
from kubarium.control.scheduling import wakeups
from kubarium.control.scheduling.commit import Committer
from kubarium.control.scheduling.conditions import GroupConditions
from kubarium.control.scheduling.events import Event, ItemKey
from kubarium.control.scheduling.groups import is_disrupted
from kubarium.control.scheduling.held import INVALID, SCHEDULER_ERROR, Wait
from kubarium.control.scheduling.hints import Hint, Hints
from kubarium.control.scheduling.left_behind import left_behind
from kubarium.control.scheduling.nominations import Nominations, devices_are_coming
from kubarium.control.scheduling.queue import SchedulingQueue
from kubarium.control.scheduling.reservations import Reservations
from kubarium.control.scheduling.resizes import Resizes
from kubarium.control.scheduling.telling import Telling
from kubarium.control.scheduling.waiting import WaitingPods
from kubarium.control.scheduling.writing import Writing
from kubarium.engine import reasons
from kubarium.engine.model import Key, Pod
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import DEFAULT
from kubarium.engine.placement.reservation import Reservation
from kubarium.engine.plan import CyclePlan, Decision, Placement, Preemption, QueueItem
from kubarium.runtime.protocol import ChangeHandler, Context
from kubarium.view.cluster import SNAPSHOT_RESOURCES, ClusterView, key_of
from kubarium.view.devices import is_allocated
from kubarium.view.gangs import COSCHEDULING_GROUPS
from kubarium.view.pod_requests import resized
from kubarium.view.pods import gang_key, is_finished, is_gated, is_preempted, node_of
from kubarium.view.profiles import scheduler_name
from kubarium.view.scheduling import SchedulerConfig

_LOG = logging.getLogger("kubarium.scheduler")

DEFAULT_CONFIG = SchedulerConfig()


class Scheduler:
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context, config: SchedulerConfig = DEFAULT_CONFIG) -> None:
        """Only pods that name one of the profiles' schedulers are looked at."""
        self._context = context
        self.view = ClusterView()
        self.view.reader.spreading.defaults.update(config.spread_defaults)
        snapshot = self.view.snapshot
        self._placers = {
            profile.scheduler_name: Placer(snapshot, DEFAULT if profile == DEFAULT else profile)
            for profile in config.profiles
        }
        self._placer = next(iter(self._placers.values()))
        self._queue = SchedulingQueue(config.backoff_start_s, config.backoff_max_s)
        self._wake = asyncio.Event()
        self._waiting = WaitingPods(self.view, self._queue, context.clock)
        self._committer = Committer(context, self.view)
        self._writing = Writing(
            self._committer,
            self._waiting,
            self._queue,
            context.clock,
            self._wake.set,
            lambda item: self._placer_of(item).profile,
            self._bound,
            self._undone,
            self._keep,
        )
        profiles = {name: placer.profile for name, placer in self._placers.items()}
        self._helps = Hints(self.view, self._waiting, self._queue, profiles)
        self._resizes = Resizes(
            self.view,
            self._committer,
            profiles,
            SchedulingQueue(config.backoff_start_s, config.backoff_max_s),
        )
        self._conditions = GroupConditions(self.view, self._committer.groups)
        self._nominated = Nominations()
        self._telling = Telling(
            self.view,
            self._committer,
            self._conditions,
            self._waiting,
            self._queue,
            self._nominated,
            context.clock,
            self._wake.set,
            self._insist,
        )
        self._reservations = Reservations(
            self._waiting,
            self._queue,
            context.clock,
            self._placer_of,
            self._reserved,
            self._unreserved,
        )
        self.cycles = 0
        for resource in SNAPSHOT_RESOURCES:
            self._follow(resource)

    @property
    def name(self) -> str:
        return next(iter(self._placers))

    def is_idle(self) -> bool:
        """Nothing is ready to be decided and nothing decided waits to be written."""
        now = self._context.clock.monotonic()
        return self._writing.is_idle() and not self._has_ready(now)

    def _has_ready(self, now: float) -> bool:
        self._reservations.wake_due(now)
        return self._queue.has_ready(now) or self._resizes.queue.has_ready(now)

    async def run(self) -> None:
        for resource in SNAPSHOT_RESOURCES:
            await self._context.informers.get(resource).wait_synced()
        async with asyncio.TaskGroup() as tasks:
            self._writing.start(tasks, self.name)
            await self._writing.recall_rests()
            self._take_over()
            while True:
                await self._ready()
                self._cycle()

    def _take_over(self) -> None:
        """Go on with what a scheduler before this one has promised, and not told."""
        self._writing.put(self._writing.until_written(self._conditions.all_overdue))
        promised: list[tuple[Pod, str]] = []
        for document in self._waiting.documents():
            node = (document.get("status") or {}).get("nominatedNodeName")
            if not node:
                continue
            pod = self.view.pod(document)
            if node in self.view.snapshot.rows:
                self._nominated.put(pod, node)
                promised.append((pod, node))
            else:
                self._writing.put(self._committer.nominate(pod, ""))
        rest = left_behind(self.view, self._context.informers.get(PODS).items(), promised)
        if rest is not None:
            self._insist(partial(self._committer.preempt, rest))

    def _insist(self, work: Callable[[], Awaitable[None]]) -> None:
        self._writing.put(self._writing.until_written(work))

    # Following the cluster

    def _follow(self, resource: Resource) -> None:
        if resource == PODS:
            then: ChangeHandler = self._pod_changed
        elif resource == RESOURCE_CLAIMS:
            then = self._claim_changed
        elif resource in (POD_GROUPS, COSCHEDULING_GROUPS, COMPOSITE_POD_GROUPS):
            then = partial(self._group_changed, resource)
        else:
            then = partial(self._supply_changed, resource)
        may_resize = resource in (PODS, NODES)

        def changed(old: Document | None, new: Document | None) -> None:
            self.view.apply(resource, old, new)
            if may_resize:
                now = self._context.clock.monotonic()
                if self._resizes.changed(resource, old, new, now):
                    self._wake.set()
            then(old, new)

        self._context.informers.get(resource).on_change(changed)

    def _supply_changed(
        self, resource: Resource, old: Document | None, new: Document | None
    ) -> None:
        """A node, a volume or whatever else pods may wait for."""
        events = wakeups.events_of(resource, old, new)
        for event in events:
            helps = self._helps.of(event, resource, old, new)
            self._happened(event, helps, alike=resource == NODES)
        if resource == NODES and events and old is not None:
            self._reservations.disturbed(old["metadata"]["name"])
            self._revoke(self._nominated.at(old["metadata"]["name"]) if new is None else [])

    def _happened(self, event: Event, helps: Hint | None = None, *, alike: bool = False) -> None:
        self._queue.happened(event, self._context.clock.monotonic(), helps, alike=alike)
        self._wake.set()

    def _room_came(self, node: str, helps: Hint | None = None) -> None:
        """A pod went away, or asks for less: tell those whose victim it may have been, and others.

        Who is helped on the node that it waited for has waited enough: upstream too takes a pod out
        of its back-off when nothing else is ready.
        """
        self._happened(Event.ROOM, helps)
        own, others = self._nominated.room_on(self.view.snapshot, node)
        for key in own:
            self._queue.add(ItemKey(False, key))
        now = self._context.clock.monotonic()
        for key in others:
            self._queue.wake(ItemKey(False, key), now)

    def _left(self, document: Document, node: str) -> None:
        """A pod went from its node, or will not go there: what it had is free for others."""
        self._room_came(node)
        if self._queue.has_listeners(Event.LEFT):
            self._happened(Event.LEFT, self._helps.left(self.view.reader.row(document)))
        self._went_or_stays(document)

    def _went_or_stays(self, document: Document) -> None:
        """A pod of a group that was to go as a whole has gone, or is not to go any more."""
        group = gang_key(document)
        if group is not None and is_disrupted(self.view.group_documents.get(group)):
            self._tell_if_running(group)

    def _undone(self, placement: Placement) -> None:
        """What was assumed of a pod was not written: others may have it."""
        self._room_came(placement.node)
        self._happened(Event.LEFT, self._helps.left(placement.pod))
        if placement.pod.volumes:
            self._happened(Event.VOLUMES)
        if placement.pod.claims:
            self._happened(Event.DEVICES)

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        if old is not None and new is not None and _uid(old) != _uid(new):
            # The watch was interrupted: one pod went and another of its name came.
            self._dropped(old, bound=False)
        elif old is not None and new is not None and _holds_room(old) and node_of(new):
            self._occupant_changed(old, new)
            return  # it waits for nothing since it has its node
        if old is not None and _holds_room(old):
            self._occupant_changed(old, new)
        elif new is not None and _holds_room(new) and key_of(new) not in self._waiting.assumed:
            self._placed([self.view.pod(new)] if self._queue.has_listeners(Event.PODS) else [])
            self._reservations.disturbed(node_of(new))
        if new is not None and self._is_ours(new):
            if self._waiting.add(old, new):
                self._wake.set()
        elif old is not None or new is not None:
            document = new or old
            assert document is not None
            self._dropped(document, bound=new is not None and bool(node_of(new)))

    def _dropped(self, document: Document, *, bound: bool) -> None:
        key = key_of(document)
        self._unpromise(key, taken=node_of(document) if bound else "")
        assumed = self._waiting.assumed.get(key)
        self._waiting.drop(key, gang_key(document), bound=bound)
        if assumed is not None and not bound:
            self._left(document, assumed)
        self._reservations.forget_gone()
        if gang_key(document) is not None:
            self._reservations.places()

    def _unpromise(self, key: Key, taken: str = "") -> None:
        """Nothing is kept for the pod any more; unless it went there, others may have the room."""
        node = self._nominated.node_of(key)
        self._nominated.drop(key)
        if node is not None and node != taken:
            self._room_came(node)

    def _occupant_changed(self, old: Document, new: Document | None) -> None:
        """A pod with a node went, is told to, asks for less, or looks different to others."""
        if new is None or not _holds_room(new):
            self._left(old, node_of(old))
            return
        if gang_key(old) is not None and _is_spared(old, new):
            self._went_or_stays(new)
        row, was, now = self.view.reader.row, old["metadata"], new["metadata"]
        if was.get("labels") != now.get("labels") and self._queue.has_listeners(Event.PODS):
            self._happened(Event.PODS, self._helps.relabelled(row(old), row(new)))
        told_to_end = "deletionTimestamp" in now and "deletionTimestamp" not in was
        if told_to_end and self._queue.has_listeners(Event.LEFT):
            self._happened(Event.LEFT, self._helps.ends(row(new)))
        before, after = resized(old), resized(new)
        if before is not old.get("spec") or after is not new.get("spec") or before != after:
            shape = self.view.reader.shape(new)
            asked = self.view.reader.shape(old).requests
            less = [name for name, amount in asked if shape.request(name) < amount]
            if less:
                self._room_came(node_of(new), self._helps.shrunk(less))

    def _placed(self, pods: list[Pod]) -> None:
        self._happened(Event.PODS, self._helps.placed(pods))

    def _is_ours(self, document: Document) -> bool:
        spec = document.get("spec") or {}
        return (
            not spec.get("nodeName")
            and scheduler_name(document) in self._placers
            and not is_gated(document)
            and not is_finished(document)
            and "deletionTimestamp" not in document["metadata"]
        )

    def _group_changed(
        self, resource: Resource, old: Document | None, new: Document | None
    ) -> None:
        """A group or a composite: whatever belongs to its hierarchy may be decided anew."""
        if old is not None and new is not None and _same_group(old, new):
            return  # our own conditions
        forest, composite = self.view.forest, resource == COMPOSITE_POD_GROUPS
        known = [document for document in (old, new) if document is not None]
        roots = dict.fromkeys(r for d in known for r in forest.roots_around(d, composite=composite))
        members = {member: None for root in roots for member in forest.below(root)}
        groups = {key: None for is_composite, key in members if not is_composite}
        if not composite:
            groups[key_of(known[0])] = None
        gone, changed = self._waiting.members.reroute(groups)
        for item in gone:
            self._waiting.forget(item)
        for item in changed:
            self._queue.add(item)
        if changed:
            self._wake.set()
        if old is None and not composite:
            self._tell_if_running(key_of(known[0]))
        for root in roots if not changed else ():
            fault = forest.fault(root)
            if fault is not None and fault.invalid:  # no pods to tell, but the groups themselves
                item = ItemKey(True, root, True)
                self._writing.put(self._conditions.held(item, Wait(fault.text, INVALID)))

    def _tell_if_running(self, group: Key) -> None:
        """A group came, whose pods may run already; or one that was to go has enough that stay."""
        gang = self.view.gang(group)
        if gang is not None and gang.scheduled_count:
            root = self.view.forest.root_of(group)
            item = ItemKey(True, group) if root is None else ItemKey(True, root, True)
            told = partial(self._conditions.overdue, item)
            self._writing.put(self._writing.until_written(told))

    def _claim_changed(self, old: Document | None, new: Document | None) -> None:
        document = new or old
        assert document is not None
        if self._waiting.claim_came(key_of(document)):
            self._wake.set()
        if is_allocated(old) and not is_allocated(new):
            self._happened(Event.DEVICES)
        elif old is not None and (
            wakeups.can_be_used_now(old, new) or self._was_allocated(old, new)
        ):
            self._happened(Event.DEVICES, self._helps.claim(key_of(document)))

    def _was_allocated(self, old: Document, new: Document | None) -> bool:
        """Whether somebody else has allocated the claim, or otherwise than it was."""
        allocations = [(d.get("status") or {}).get("allocation") for d in (old, new or {})]
        if allocations[0] == allocations[1] or not allocations[1]:
            return False
        return not self.view.snapshot.claim_users.get(key_of(old))

    # A cycle

    async def _ready(self) -> None:
        """Until something is ready; writers and informers come first, so that cycles are large."""
        clock = self._context.clock
        await clock.sleep(0)
        await self._writing.relief()
        while not self._has_ready(clock.monotonic()):
            self._wake.clear()
            self._tell_held()
            waits = (self._queue, self._waiting.held, self._resizes.queue, self._reservations)
            times = [wait.next_due() for wait in waits]
            due = min((time for time in times if time is not None), default=None)
            if due is None:
                await self._wake.wait()
                continue
            try:
                async with asyncio.timeout(max(0.0, due - clock.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _tell_held(self) -> None:
        """Tell the pods that have been held for a while what they wait for."""
        now = self._context.clock.monotonic()
        for item, wait in self._waiting.held.take_due(now):
            try:
                pods = self._waiting.pods_of(item)
            except Exception as error:
                self._erred(item, error, now)
                continue
            self._break_promises(pods)  # nothing says when they would be kept
            self._reservations.drop(item)
            self._writing.put(self._telling.tell_wait(item, wait, pods))

    def _cycle(self) -> None:
        self.cycles += 1
        now = self._context.clock.monotonic()
        for work in self._resizes.decide(now):
            self._writing.put(work)
        items: list[QueueItem] = []
        keys: dict[int, ItemKey] = {}
        for key in self._queue.take(now):
            if self._telling.defers(key):
                continue
            try:
                item = self._waiting.item(key)
            except Exception as error:
                self._erred(key, error, now)
                continue
            if item is not None:
                timeout_s = self._placer_of(item).profile.device_timeout_s
                for pod in item.pods:
                    self._committer.claims.mark_overdue(pod, timeout_s)
                items.append(item)
                keys[id(item)] = key
        if not items:
            return
        if self.cycles == 1:
            self._reservations.renew((keys[id(i)], i) for i in sorted(items, key=_order))
        plan = self._plan(items, keys, now)
        for decision in plan.decisions:
            self._take(keys[id(decision.item)], decision, now)
        for decision in plan.decisions:
            self._reservations.consider(keys[id(decision.item)], decision)
        placements = [p for d in plan.decisions for p in d.placements]
        if placements:
            self._reservations.placed(placements)
            self._placed([placement.pod for placement in placements])

    def _plan(self, items: list[QueueItem], keys: dict[int, ItemKey], now: float) -> CyclePlan:
        """What is decided for all items: first for those whose places were chosen before."""
        begun = [item for item in items if item.begun]
        others = [item for item in items if not item.begun] if begun else items
        plans = [self._plan_for(some, keys, now) for some in (begun, others) if some]
        return CyclePlan(tuple(decision for plan in plans for decision in plan.decisions))

    def _plan_for(self, items: list[QueueItem], keys: dict[int, ItemKey], now: float) -> CyclePlan:
        """As :meth:`_plan`; those whose decision fails are told so, and left out."""
        nominated = (*self._nominated.all(), *self._reservations.places())
        try:
            return plan_cycle(self._placer, items, nominated=nominated, profiles=self._placers)
        except Exception as error:
            for item in items:
                self._waiting.forget_decision(item)
            if len(items) == 1:
                self._erred(keys[id(items[0])], error, now)
                return CyclePlan(())
        # One of them is to blame, and only alone it can be told from the others.
        plans = [self._plan_for([item], keys, now) for item in sorted(items, key=_order)]
        return CyclePlan(tuple(decision for plan in plans for decision in plan.decisions))

    def _erred(self, key: ItemKey, error: Exception, now: float) -> None:
        """Something of this item, or of what it names, was foreseen by nobody: others go on.

        Whatever happens next may be what helps; the pods say meanwhile that it is not their fault.
        """
        _LOG.error("%s: not decided: %r", "/".join(key.key), error, exc_info=error)
        text = f"the scheduler failed to decide ({error!r}); this is a bug of it, others go on"
        for document in self._waiting.documents_of(key):
            self._writing.put(self._committer.refuse_document(document, text, SCHEDULER_ERROR))
        self._queue.fail(key, frozenset(Event), now)

    def _reserved(self, item: ItemKey, reservation: Reservation) -> None:
        self._writing.put(self._committer.groups.reserved(item, reservation))

    def _unreserved(self, reservation: Reservation) -> None:
        """Others may have what was kept."""
        for node in dict.fromkeys(node for _, node in reservation):
            self._room_came(node)

    def _placer_of(self, item: QueueItem) -> Placer:
        return self._placers.get(item.scheduler, self._placer)

    def _take(self, key: ItemKey, decision: Decision, now: float) -> None:
        """Start to write what was decided for one item."""
        for placement in decision.placements:
            self._waiting.assumed[placement.pod.key] = placement.node
            self._unpromise(placement.pod.key, taken=placement.node)
        if decision.placements:
            self._writing.put_placements(key, decision)
        else:
            if decision.preemption is not None:
                self._nominate(decision.preemption)
            self._fail(key, decision, now)
            self._telling.begin(key, decision)
        self._writing.put(self._telling.tell(key, decision))

    def _fail(self, key: ItemKey, decision: Decision, now: float) -> None:
        """Wait for what helps; a pod whose victims are going waits for no other pods to go."""
        if decision.preemption is None:
            self._give_up_promises(decision)
        if decision.gang_verdict is None and any(why.failed for _, why in decision.unplaced):
            # An error is no verdict: what it is about may be taken by others in a moment.
            self._queue.retry(key, now)
            return
        helped_by = wakeups.helped_by(decision)
        snapshot, pod = self.view.snapshot, decision.item.pods[0]
        nominated = not key.gang and self._nominated.node_of(pod.key) is not None
        if nominated and wakeups.looks_at_one_node(snapshot, pod):
            self._nominated.disturb(pod.key)
            helped_by -= {Event.ROOM}
            self._nominated.be_patient(pod.key)
        alike = (decision.item.scheduler, tuple(each.shape for each in pod.each))
        self._queue.fail(key, helped_by, now, None if key.gang else alike)

    def _give_up_promises(self, decision: Decision) -> None:
        """Upstream: who finds no victims has no nomination either, once those it had are gone."""
        snapshot, nominated = self.view.snapshot, self._nominated
        pods = [p for p in decision.item.pods if nominated.node_of(p.key) is not None]
        if not pods or any(nominated.is_coming(snapshot, pod.key) for pod in pods):
            return
        if devices_are_coming(snapshot, decision.item.pods):
            return
        told = {pod.key for pod, _ in decision.unplaced}
        self._break_promises(pod for pod in pods if pod.key not in told)
        for pod in pods:
            if pod.key in told:  # it is told with the rest, in one write
                self._unpromise(pod.key)

    def _break_promises(self, pods: Iterable[Pod]) -> None:
        """No room is kept for these pods any more."""
        for pod in pods:
            if self._nominated.node_of(pod.key) is not None:
                self._unpromise(pod.key)
                self._writing.put(self._committer.nominate(pod, ""))

    def _nominate(self, preemption: Preemption) -> None:
        """Room is being made; pods of lower priority that waited for the same nodes lose it."""
        nodes = {node: pod.priority for pod, node in preemption.nominations}
        for node, priority in nodes.items():
            self._revoke(self._nominated.below(node, priority))
        for pod, node in preemption.nominations:
            self._nominated.put(pod, node, preemption.victims)

    def _revoke(self, pods: list[Pod]) -> None:
        """No room is made for these pods any more: they look for another place at once."""
        self._break_promises(pods)
        for pod in pods:
            group = self._waiting.members.item_of(pod.gang) if pod.gang is not None else None
            if pod.gang is None or group is not None:
                self._queue.add(group or ItemKey(False, pod.key))
                self._wake.set()

    # Once it is written, or has failed

    def _keep(self, placement: Placement) -> None:
        """Nobody of its priority gets the room of a pod whose binding failed, others' of its gang.

        The gang may run in part by then, and what it lacks is to be there when it is tried again.
        """
        self._nominated.put(placement.pod, placement.node)

    async def _bound(self, decision: Decision) -> None:
        """Tell the groups once their pods have nodes: what was only decided may still fail.

        There may be no next try, so that it is told until it is written.
        """
        if not decision.placements:
            for pod in decision.item.pods if not decision.item.begun else ():
                self._unpromise(pod.key)
            return

        async def told() -> None:
            await self._conditions.decided(decision, reasons.MEMBERS_NOT_BOUND)

        await self._writing.until_written(told)


def _order(item: QueueItem) -> tuple[int, float, Key]:
    return item.order


def _uid(document: Document) -> str:
    uid: str = document["metadata"].get("uid", "")
    return uid


def _holds_room(document: Document) -> bool:
    return bool(node_of(document)) and not is_finished(document)


def _is_spared(old: Document, new: Document) -> bool:
    """Whether a pod was to go for a more important one, and is not any more."""
    before, after = (document.get("status") or {} for document in (old, new))
    return is_preempted(before) and not is_preempted(after)


def _same_group(old: Document, new: Document) -> bool:
    """Whether nothing about a group changed that decides anything."""
    return (
        old.get("spec") == new.get("spec")
        and old["metadata"].get("annotations") == new["metadata"].get("annotations")
        and (old.get("status") or {}).get("resourceClaimStatuses")
        == (new.get("status") or {}).get("resourceClaimStatuses")
    )
