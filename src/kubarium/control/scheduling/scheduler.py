"""kube-scheduler's shell around the engine: watch, queue, plan, commit.

All state is in three places: the :class:`ClusterView` (a snapshot that follows the informers), the
:class:`SchedulingQueue`, and the set of assumed pods, decided but not yet confirmed by the watch.
A cycle decides everything that is ready at once; its writes go on beside the next cycle.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import cache, partial
from typing import TypeVar

from kubarium.api.kinds import (
    COMPOSITE_POD_GROUPS,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIMS,
)
from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError
from kubarium.control.scheduling import wakeups
from kubarium.control.scheduling.commit import (
    SCHEDULER_NAME,
    Committer,
    DeviceNotReadyError,
    Staged,
)
from kubarium.control.scheduling.conditions import GroupConditions
from kubarium.control.scheduling.held import INVALID, SCHEDULER_ERROR, UNSCHEDULABLE, Held, Wait
from kubarium.control.scheduling.members import Members
from kubarium.control.scheduling.nominations import Nominations
from kubarium.control.scheduling.queue import Event, ItemKey, SchedulingQueue
from kubarium.control.scheduling.resizes import Resizes
from kubarium.engine import reasons
from kubarium.engine.model import Key, Pod
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import DEFAULT
from kubarium.engine.placement.reservation import Reservation, reserve
from kubarium.engine.placement.tree import waiting_for
from kubarium.engine.plan import Decision, Placement, Preemption, QueueItem
from kubarium.runtime.protocol import Context
from kubarium.view.claim_hints import ClaimHints
from kubarium.view.cluster import SNAPSHOT_RESOURCES, ClusterView, key_of
from kubarium.view.forest import disagreement
from kubarium.view.gangs import COSCHEDULING_GROUPS
from kubarium.view.missing import missing_claim
from kubarium.view.pods import gang_key, is_finished, is_gated, resized
from kubarium.view.scheduling import SchedulerConfig

R = TypeVar("R")

_LOG = logging.getLogger("kubarium.scheduler")

# Decisions written side by side; matters only where a write waits for a network.
COMMITTERS = 16

# No cycle begins while more decisions than this wait to be written: each cycle looks at all pods
# for which room is being made, so that many small ones cost more than a few large ones.
BACKLOG = 64

# A gang that has found no room for this long gets a reservation.
RESERVE_AFTER_S = 60.0

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
        self._held = Held()
        self._committer = Committer(context, self.view)
        self._resizes = Resizes(
            self.view,
            self._committer,
            {name: placer.profile for name, placer in self._placers.items()},
            SchedulingQueue(config.backoff_start_s, config.backoff_max_s),
        )
        self._conditions = GroupConditions(self.view, self._committer)
        self._hints = ClaimHints(self.view)
        self._waiting: dict[Key, Document] = {}
        self._members = Members(self.view.forest)
        self._assumed: dict[Key, str] = {}
        self._nominated = Nominations()
        # Whose victims are being told to go; and who of those is to be decided once they are.
        self._evicting: set[ItemKey] = set()
        self._deferred: set[ItemKey] = set()
        self._failing_since: dict[ItemKey, float] = {}
        self._reserved: tuple[ItemKey, Reservation] | None = None
        self._missing_claims: dict[Key, dict[ItemKey, None]] = {}
        self._missing_of: dict[ItemKey, list[Key]] = {}
        self._wake = asyncio.Event()
        self._commits: asyncio.Queue[Awaitable[None]] = asyncio.Queue()
        self._relieved = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self.cycles = 0
        for resource in SNAPSHOT_RESOURCES:
            self._follow(resource)

    @property
    def name(self) -> str:
        return next(iter(self._placers))

    def is_idle(self) -> bool:
        """Nothing is ready to be decided and nothing decided waits to be written."""
        now = self._context.clock.monotonic()
        return self._commits.empty() and not self._has_ready(now)

    def _has_ready(self, now: float) -> bool:
        return self._queue.has_ready(now) or self._resizes.queue.has_ready(now)

    async def run(self) -> None:
        for resource in SNAPSHOT_RESOURCES:
            await self._context.informers.get(resource).wait_synced()
        async with asyncio.TaskGroup() as self._tasks:
            for number in range(COMMITTERS):
                self._tasks.create_task(self._write(), name=f"{self.name}/commit-{number}")
            while True:
                await self._ready()
                self._cycle()

    # Following the cluster

    def _follow(self, resource: Resource) -> None:
        def changed(old: Document | None, new: Document | None) -> None:
            self.view.apply(resource, old, new)
            if self._resizes.changed(resource, old, new, self._context.clock.monotonic()):
                self._wake.set()
            if resource == PODS:
                self._pod_changed(old, new)
            elif resource in (POD_GROUPS, COSCHEDULING_GROUPS, COMPOSITE_POD_GROUPS):
                self._group_changed(resource, old, new)
            elif resource == RESOURCE_CLAIMS:
                self._claim_changed(old, new)
            else:
                for event in wakeups.events_of(resource, old, new):
                    self._happened(event, self._hint(resource, new))
                if resource == NODES and new is None and old is not None:
                    self._revoke(self._nominated.at(old["metadata"]["name"]))

        self._context.informers.get(resource).on_change(changed)

    def _happened(self, event: Event, helps: Callable[[ItemKey], bool] | None = None) -> None:
        self._queue.happened(event, self._context.clock.monotonic(), helps)
        self._wake.set()

    def _room_came(self, node: str) -> None:
        """A pod went away, or asks for less: tell those whose victim it may have been, and others.

        Who is helped on the node that it waited for has waited enough: upstream too takes a pod out
        of its back-off when nothing else is ready.
        """
        self._happened(Event.ROOM)
        own, others = self._nominated.room_on(self.view.snapshot, node)
        for key in own:
            self._queue.add(ItemKey(False, key))
        now = self._context.clock.monotonic()
        for key in others:
            self._queue.wake(ItemKey(False, key), now)

    def _hint(self, resource: Resource, new: Document | None) -> Callable[[ItemKey], bool] | None:
        """Whether a change helps one item: a node that could hold it, a claim that it uses."""
        if new is None:
            return None
        if resource == NODES:
            return self._node_hint(new["metadata"]["name"])
        if resource == PERSISTENT_VOLUME_CLAIMS:
            key = key_of(new)
            return lambda item: any(key in pod.volumes for pod in self._pods_of(item))
        return None

    def _node_hint(self, name: str) -> Callable[[ItemKey], bool]:
        """Whether a node helps an item; of many pods that are alike, one is looked at."""
        customised = any(placer.profile is not DEFAULT for placer in self._placers.values())
        node_helps = cache(partial(wakeups.node_helps, self.view.snapshot, name))

        def helps(item: ItemKey) -> bool:
            # Nodes also shape the domains in which others are counted.
            if customised or self._queue.listens(item, Event.PODS):
                return True
            return any(node_helps(self.view.shape(pod)) for pod in self._documents_of(item))

        return helps

    def _documents_of(self, item: ItemKey) -> Iterator[Document]:
        """The waiting pods of an item, as they were written."""
        keys = self._members.pods_of(item) if item.gang else (item.key,)
        return (self._waiting[key] for key in keys if key in self._waiting)

    def _pods_of(self, item: ItemKey) -> list[Pod]:
        """The waiting pods of an item."""
        return [self.view.pod(document) for document in self._documents_of(item)]

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        if old is not None and new is not None and _uid(old) != _uid(new):
            # The watch was interrupted: one pod went and another of its name came.
            self._drop(key_of(old), gang_key(old), bound=False)
        if old is not None and _holds_room(old):
            self._occupant_changed(old, new)
        elif new is not None and _holds_room(new) and key_of(new) not in self._assumed:
            self._placed([self.view.pod(new)] if self._queue.has_listeners(Event.PODS) else [])
        if new is not None and self._is_ours(new):
            self._add(old, new)
        elif old is not None or new is not None:
            document = new or old
            assert document is not None
            self._drop(key_of(document), gang_key(document), bound=new is not None)

    def _occupant_changed(self, old: Document, new: Document | None) -> None:
        """A pod with a node went, asks for less, or looks different to others."""
        if new is None or not _holds_room(new):
            self._room_came(old["spec"]["nodeName"])
            return
        if old["metadata"].get("labels") != new["metadata"].get("labels"):
            self._happened(Event.PODS)
        before, after = resized(old), resized(new)
        if before is not old.get("spec") or after is not new.get("spec") or before != after:
            less = self.view.reader.shape(old), self.view.reader.shape(new)
            if any(less[1].request(name) < amount for name, amount in less[0].requests):
                self._room_came(new["spec"]["nodeName"])

    def _placed(self, pods: list[Pod]) -> None:
        snapshot = self.view.snapshot
        self._happened(
            Event.PODS,
            lambda item: wakeups.placement_helps(snapshot, pods, self._pods_of(item)),
        )

    def _is_ours(self, document: Document) -> bool:
        spec = document.get("spec") or {}
        return (
            not spec.get("nodeName")
            and (spec.get("schedulerName") or SCHEDULER_NAME) in self._placers
            and not is_gated(document)
            and not is_finished(document)
            and "deletionTimestamp" not in document["metadata"]
        )

    def _add(self, old: Document | None, new: Document) -> None:
        key = key_of(new)
        known = self._waiting.get(key)
        self._waiting[key] = new
        if known is not None and old is not None and _asks_the_same(known, new):
            return
        group = gang_key(new)
        item = ItemKey(False, key) if group is None else self._members.add(group, key)
        self._queue.add(item)
        self._wake.set()

    def _drop(self, key: Key, group: Key | None, *, bound: bool) -> None:
        self._waiting.pop(key, None)
        self._nominated.drop(key)
        if not bound and key in self._assumed:
            self.view.forget_assumed(key)
        self._assumed.pop(key, None)
        self._forget(ItemKey(False, key) if group is None else self._members.drop(group, key))

    def _forget(self, item: ItemKey | None) -> None:
        """Nothing is left to decide for the item."""
        if item is not None:
            self._expect_claims(item, [])
            self._held.release(item)
            self._queue.remove(item)

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
        gone, changed = self._members.reroute(groups)
        for item in gone:
            self._forget(item)
        for item in changed:
            self._queue.add(item)
        if changed:
            self._wake.set()
        for root in roots if not changed else ():
            fault = forest.fault(root)
            if fault is not None and fault.invalid:  # no pods to tell, but the groups themselves
                item = ItemKey(True, root, True)
                self._commits.put_nowait(self._conditions.held(item, Wait(fault.text, INVALID)))

    def _claim_changed(self, old: Document | None, new: Document | None) -> None:
        document = new or old
        assert document is not None
        waiting = self._missing_claims.pop(key_of(document), {})
        for item in waiting:
            self._queue.add(item)
        if waiting:
            self._wake.set()
        if _allocated(old) and not _allocated(new):
            self._happened(Event.DEVICES)

    # A cycle

    async def _ready(self) -> None:
        """Until something is ready; writers and informers come first, so that cycles are large."""
        clock = self._context.clock
        await clock.sleep(0)
        while self._commits.qsize() > BACKLOG:
            self._relieved.clear()
            await self._relieved.wait()
        while not self._has_ready(clock.monotonic()):
            self._wake.clear()
            self._tell_held()
            waits = (self._queue, self._held, self._resizes.queue)
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
        for item, wait in self._held.take_due(self._context.clock.monotonic()):
            code = UNSCHEDULABLE if wait.code == UNSCHEDULABLE else SCHEDULER_ERROR
            for key in self._members.pods_of(item) if item.gang else (item.key,):
                document = self._waiting.get(key)
                if document is not None and key not in self._assumed:
                    pod = self.view.pod(document)
                    self._commits.put_nowait(self._committer.hold(pod, wait.text, code))
            if item.gang:
                self._commits.put_nowait(self._conditions.held(item, wait))

    def _cycle(self) -> None:
        self.cycles += 1
        now = self._context.clock.monotonic()
        for work in self._resizes.decide(now):
            self._commits.put_nowait(work)
        items: list[QueueItem] = []
        keys: dict[int, ItemKey] = {}
        for key in self._queue.take(now):
            if key in self._evicting:
                # Its victims would be chosen again, or others beside them.
                self._deferred.add(key)
                self._queue.hold(key)
                continue
            item = self._item(key)
            if item is not None:
                items.append(item)
                keys[id(item)] = key
        if not items:
            return
        nominated = (*self._nominated.all(), *self._reservation())
        plan = plan_cycle(self._placer, items, nominated=nominated, profiles=self._placers)
        for decision in plan.decisions:
            self._take(keys[id(decision.item)], decision, now)
        for decision in plan.decisions:
            self._consider_reserving(keys[id(decision.item)], decision, now)
        placed = [p.pod for d in plan.decisions for p in d.placements]
        if placed:
            self._placed(placed)

    # Reservations

    def _reservation(self) -> Reservation:
        """What the first large gang waits for; none once it is placed or gone."""
        if self._reserved is None:
            return ()
        key, reservation = self._reserved
        if key not in self._queue or any(
            pod.key not in self._waiting or pod.key in self._assumed for pod, _ in reservation
        ):
            self._reserved = None
            self._failing_since.pop(key, None)
            return ()
        return reservation

    def _consider_reserving(self, key: ItemKey, decision: Decision, now: float) -> None:
        """Reserve for a gang that has long found no room, so that small pods cannot starve it.

        One gang at a time, the first that qualifies (EASY backfilling); the rest wait their turn.
        """
        if decision.placements or decision.gang_verdict is None or decision.gang_verdict.waiting:
            self._failing_since.pop(key, None)
            return
        since = self._failing_since.setdefault(key, now)
        if self._reserved is not None or decision.preemption or now - since < RESERVE_AFTER_S:
            return
        found = reserve(self._placer_of(decision.item), decision.item)
        if found:
            self._reserved = (key, found)
            self._commits.put_nowait(self._committer.reserved(key, found))

    def _placer_of(self, item: QueueItem) -> Placer:
        return self._placers.get(item.scheduler, self._placer)

    def _item(self, key: ItemKey) -> QueueItem | None:
        """What to decide for a key; None if it is not complete yet, and then it is held."""
        if not key.gang:
            document = self._waiting.get(key.key)
            if document is None or key.key in self._assumed:
                self._queue.remove(key)
                return None
            pod = self.view.pod(document)
            if not self._has_claims(key, (pod,)):
                return None
            return QueueItem((pod,), scheduler=_scheduler_of(document))
        return self._tree_item(key) if key.composite else self._gang_item(key)

    def _gang_item(self, key: ItemKey) -> QueueItem | None:
        gang = self.view.gang(key.key)
        pods = self._waiting_pods(key.key)
        if not pods:
            self._queue.remove(key)
            return None
        if gang is None:
            self._hold(key, reasons.pod_group_missing(key.key[1]))
            return None
        schedulers = [_scheduler_of(self._waiting[pod.key]) for pod in pods]
        conflict = disagreement(pods, schedulers, (gang,))
        if conflict:
            self._hold(key, conflict, SCHEDULER_ERROR)
            return None
        if len(pods) + gang.scheduled_count < gang.min_count:
            self._hold(key, reasons.GANG_WAITING)
            return None
        if not self._has_claims(key, pods):
            return None
        return QueueItem(pods, gang, schedulers[0])

    def _tree_item(self, key: ItemKey) -> QueueItem | None:
        """All waiting pods below a composite, if its hierarchy is sound and can start."""
        fault = self.view.forest.fault(key.key)
        if fault is not None:
            self._hold(key, fault.text, INVALID if fault.invalid else UNSCHEDULABLE)
            return None
        tree = self.view.forest.tree(key.key, self.view.gang, self._waiting_pods)
        leaves = [leaf for leaf in tree.leaves() if leaf.pods]
        pods = tuple(pod for leaf in leaves for pod in leaf.pods)
        if not pods:
            self._queue.remove(key)
            return None
        schedulers = [_scheduler_of(self._waiting[pod.key]) for pod in pods]
        conflict = disagreement(pods, schedulers, (leaf.gang for leaf in leaves))
        if conflict:
            self._hold(key, conflict, SCHEDULER_ERROR)
            return None
        waiting = waiting_for(tree)
        if waiting:
            self._hold(key, waiting)
            return None
        if not self._has_claims(key, pods):
            return None
        return QueueItem(pods, None, schedulers[0], tree)

    def _waiting_pods(self, group: Key) -> tuple[Pod, ...]:
        return tuple(
            self.view.pod(self._waiting[member])
            for member in self._members.pods(group)
            if member in self._waiting and member not in self._assumed
        )

    def _has_claims(self, item: ItemKey, pods: tuple[Pod, ...]) -> bool:
        missing = [c for pod in pods for c in pod.claims if c not in self.view.snapshot.claims]
        self._expect_claims(item, missing)
        if missing:
            documents = (self._waiting[pod.key] for pod in pods)
            known = self.view.snapshot.claims
            texts = (text for d in documents if (text := missing_claim(d, known)))
            self._hold(item, next(texts, ""))
        else:
            self._held.release(item)
        return not missing

    def _hold(self, item: ItemKey, reason: str, code: str = UNSCHEDULABLE) -> None:
        """Not to be decided until something that ``reason`` speaks of comes."""
        self._queue.hold(item)
        self._held.hold(item, Wait(reason, code), self._context.clock.monotonic())

    def _expect_claims(self, item: ItemKey, missing: list[Key]) -> None:
        """Wake the item when one of these claims appears, and for no others."""
        for claim in self._missing_of.pop(item, ()):
            waiting = self._missing_claims.get(claim, {})
            waiting.pop(item, None)
            if not waiting:
                self._missing_claims.pop(claim, None)
        if missing:
            self._missing_of[item] = missing
        for claim in missing:
            self._missing_claims.setdefault(claim, {})[item] = None

    def _take(self, key: ItemKey, decision: Decision, now: float) -> None:
        """Start to write what was decided for one item."""
        for placement in decision.placements:
            self._assumed[placement.pod.key] = placement.node
            self._nominated.drop(placement.pod.key)
        if any(
            self._committer.waits_for_volumes(p.pod) or self._committer.waits_for_devices(p)
            for p in decision.placements
        ):
            # This may take minutes, which others must not wait for.
            self._tasks.create_task(self._place(key, decision), name=f"{self.name}/prepare")
        elif decision.placements:
            self._commits.put_nowait(self._place(key, decision))
        else:
            if decision.preemption is not None:
                self._evicting.add(key)
                self._nominate(decision.preemption)
            self._fail(key, decision, now)
        self._commits.put_nowait(self._tell(key, decision))

    def _fail(self, key: ItemKey, decision: Decision, now: float) -> None:
        """Wait for what helps; a pod whose victims are going waits for no other pods to go."""
        helped_by = wakeups.helped_by(decision)
        snapshot, pod = self.view.snapshot, decision.item.pods[0]
        nominated = not key.gang and self._nominated.node_of(pod.key) is not None
        if nominated and wakeups.looks_at_one_node(snapshot, pod):
            self._nominated.disturb(pod.key)
            if self._nominated.is_coming(snapshot, pod.key):
                helped_by -= {Event.ROOM}
                self._nominated.be_patient(pod.key)
            else:  # upstream: who finds no victims has no nomination either
                self._nominated.drop(pod.key)
                self._commits.put_nowait(self._committer.nominate(pod, ""))
        self._queue.fail(key, helped_by, now)

    def _nominate(self, preemption: Preemption) -> None:
        """Room is being made; pods of lower priority that waited for the same nodes lose it."""
        nodes = {node: pod.priority for pod, node in preemption.nominations}
        for node, priority in nodes.items():
            self._revoke(self._nominated.below(node, priority))
        for pod, node in preemption.nominations:
            self._nominated.put(pod, node, preemption.victims)

    def _revoke(self, pods: list[Pod]) -> None:
        """No room is made for these pods any more: they look for another place at once."""
        for pod in pods:
            self._nominated.drop(pod.key)
            self._commits.put_nowait(self._committer.nominate(pod, ""))
            if pod.gang is None:
                self._queue.add(ItemKey(False, pod.key))
                self._wake.set()

    # Writing

    async def _write(self) -> None:
        while True:
            work = await self._commits.get()
            if self._commits.qsize() <= BACKLOG:
                self._relieved.set()
            try:
                await work
            except ApiError as error:
                # Nothing is lost: the item is still waiting and will be decided again.
                _LOG.warning("a scheduling decision was not written: %s", error)
            except Exception:
                # One object that nobody foresaw must not end scheduling for all others.
                _LOG.exception("a scheduling decision was not written")
            await self._context.clock.sleep(0)

    async def _place(self, key: ItemKey, decision: Decision) -> None:
        if not await self._write_all(decision):
            self._queue.retry(key, self._context.clock.monotonic())
        else:
            self._queue.remove(key)
            left = self._members.pods_of(key) if key.gang else ()
            if any(member not in self._assumed for member in left):
                self._queue.add(key)
        self._wake.set()

    async def _write_all(self, decision: Decision) -> bool:
        """Take all pods through each step together; whether all of them were bound.

        A gang of which too few are left before the first is bound gives up its claims.
        """
        placements, committer = decision.placements, self._committer
        staged = [s for p in placements if (s := await self._step(p, committer.reserve(p)))]
        if not await self._may_start(decision, staged):
            return False
        profile = self._placer_of(decision.item).profile
        ready = [s for s in staged if await self._done(s, committer.prepare(s, profile))]
        if not await self._may_start(decision, ready):
            return False
        bound = [s for s in ready if await self._done(s, committer.bind(s))]
        return len(bound) == len(placements)

    async def _step(self, placement: Placement, work: Awaitable[R]) -> R | None:
        try:
            return await work
        except (ApiError, DeviceNotReadyError) as error:
            await self._undo(placement.pod, [c for c, _ in placement.allocations], error)
            return None

    async def _done(self, staged: Staged, work: Awaitable[None]) -> bool:
        async def confirmed() -> bool:
            await work
            return True

        return bool(await self._step(staged.placement, confirmed()))

    async def _may_start(self, decision: Decision, left: list[Staged]) -> bool:
        """Whether those that are left may go on without the others; if not, they are undone."""
        missing, item = len(decision.placements) - len(left), decision.item
        if not missing:
            return True
        gang = item.gang if item.tree is None else None
        if item.tree is None and (
            gang is None or len(left) + gang.scheduled_count >= gang.min_count
        ):
            return True
        error = DeviceNotReadyError(f"{missing} other pod(s) of the group could not be bound")
        for staged in left:
            placement = staged.placement
            await self._committer.discard(placement.pod)
            await self._undo(placement.pod, [c for c, _ in placement.allocations], error)
        return False

    async def _undo(
        self, pod: Pod, claims: list[Key], error: ApiError | DeviceNotReadyError
    ) -> None:
        """Forget an assumption whose write failed."""
        if isinstance(error, DeviceNotReadyError):
            await self._committer.release(pod, claims)
        self._assumed.pop(pod.key, None)
        self.view.forget_assumed(pod.key)
        for claim in claims:
            if not self.view.snapshot.claim_users.get(claim):
                self.view.forget_assumed_claim(claim)
        if not (isinstance(error, ApiError) and error.reason == "NotFound"):
            await self._committer.refuse(pod, str(error))

    async def _tell(self, key: ItemKey, decision: Decision) -> None:
        """Conditions and events for what found no place, and the victims of preemption."""
        try:
            await self._tell_all(decision)
        except Exception:
            if decision.preemption is not None:  # some victims stay, so that others must be found
                for pod in decision.item.pods:
                    self._nominated.give_up(pod.key)
                self._queue.wake(key, self._context.clock.monotonic())
                self._wake.set()
            raise
        finally:
            self._evicted(key)

    async def _tell_all(self, decision: Decision) -> None:
        text = decision.gang_verdict.message() if decision.gang_verdict else ""
        hint = self._hints.of(decision, self._context.clock.monotonic())
        if text:
            text = f"{text}{hint}"
        preemption, committer = decision.preemption, self._committer
        nominated = committer.nominations(preemption) if preemption is not None else {}
        for pod, verdict in decision.unplaced:
            node = nominated.pop(pod.key, "")
            await committer.refuse(pod, text or f"{verdict.message()}{hint}", nominated=node)
        if text and not decision.placements and not decision.unplaced:
            for pod in decision.item.pods:  # nothing was asked of any node
                await committer.refuse(pod, text)
        if preemption is not None:
            for pod, _ in preemption.nominations:
                if pod.key in nominated:
                    await committer.nominate(pod, nominated[pod.key])
            await committer.preempt(preemption)
        await self._conditions.decided(decision, text)

    def _evicted(self, key: ItemKey) -> None:
        """The item's victims are going: what happened meanwhile counts now."""
        self._evicting.discard(key)
        if key in self._deferred:
            self._deferred.discard(key)
            self._queue.add(key)
            self._wake.set()


def _scheduler_of(document: Document) -> str:
    return (document.get("spec") or {}).get("schedulerName") or SCHEDULER_NAME


def _uid(document: Document) -> str:
    uid: str = document["metadata"].get("uid", "")
    return uid


def _holds_room(document: Document) -> bool:
    return bool((document.get("spec") or {}).get("nodeName")) and not is_finished(document)


def _allocated(document: Document | None) -> bool:
    return document is not None and bool((document.get("status") or {}).get("allocation"))


def _asks_the_same(old: Document, new: Document) -> bool:
    """Whether nothing that decides about the pod's place changed; our own conditions do not."""
    return (
        old["metadata"].get("uid") == new["metadata"].get("uid")
        and old.get("spec") == new.get("spec")
        and old["metadata"].get("labels") == new["metadata"].get("labels")
        and (old.get("status") or {}).get("resourceClaimStatuses")
        == (new.get("status") or {}).get("resourceClaimStatuses")
    )


def _same_group(old: Document, new: Document) -> bool:
    """Whether nothing about a group changed that decides anything."""
    return (
        old.get("spec") == new.get("spec")
        and old["metadata"].get("annotations") == new["metadata"].get("annotations")
        and (old.get("status") or {}).get("resourceClaimStatuses")
        == (new.get("status") or {}).get("resourceClaimStatuses")
    )
