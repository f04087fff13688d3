"""What pod groups and composites are told: PodGroupInitiallyScheduled and its like."""

from __future__ import annotations

from kubarium.control.scheduling.events import ItemKey
from kubarium.control.scheduling.groups import GroupWriter
from kubarium.control.scheduling.held import INVALID, SCHEDULER_ERROR, Wait
from kubarium.engine.model import Gang
from kubarium.engine.placement.quorum import started_with
from kubarium.engine.plan import Decision, QueueItem, Tree
from kubarium.view.cluster import ClusterView, is_coscheduling


class GroupConditions:
    """Writes the conditions of the groups that an item of the queue consists of."""

    def __init__(self, view: ClusterView, writer: GroupWriter) -> None:
        self._view = view
        self._writer = writer

    async def decided(self, decision: Decision, text: str) -> None:
        """Tell each group whether it has started; ``text`` is for those that have not."""
        if not text and decision.unplaced:
            text = decision.unplaced[0][1].message()
        if decision.item.tree is not None:
            await self._tree(decision, decision.item.tree, text)
        elif decision.item.gang is not None:
            await self._gang(decision, decision.item.gang, text)

    async def all_overdue(self) -> None:
        """Tell the groups that run and do not say so: who bound their pods ended before that."""
        forest = self._view.forest
        for key in tuple(self._view.group_documents):
            if forest.root_of(key) is None:
                await self.overdue(ItemKey(True, key))
        for key in tuple(forest.composites):
            if forest.root_of_composite(key) == key:
                await self.overdue(ItemKey(True, key, True))

    async def overdue(self, item: ItemKey) -> None:
        """Tell a group, or the groups of a hierarchy, if they run."""
        view = self._view
        if item.composite:
            if view.forest.fault(item.key) is None:
                await self._started(view.forest.tree(item.key, view.gang, lambda _: ()))
            return
        gang = view.gang(item.key)
        if gang is not None and gang.scheduled_count >= max(gang.min_count, 1):
            await self._gang(Decision(QueueItem((), gang)), gang, "")

    async def _started(self, tree: Tree) -> None:
        """Tell the groups of a hierarchy that runs which of them do."""
        started = started_with(tree, ())
        if (True, tree.key) not in started:
            return
        for composite, key in sorted(started):
            done = "pods of the hierarchy were scheduled together"
            if composite:
                await self._writer.composite_scheduled(key, True, done)
            else:
                await self._writer.group_scheduled(key, True, done)

    async def _gang(self, decision: Decision, gang: Gang, text: str) -> None:
        if not gang.min_count and is_coscheduling(self._view.group_documents.get(gang.key, {})):
            return
        count = len(decision.placements)
        scheduled = count + gang.scheduled_count >= max(gang.min_count, 1)
        done = f"{count or gang.scheduled_count} pods of the group were scheduled together"
        await self._writer.group_scheduled(gang.key, scheduled, done if scheduled else text)

    async def _tree(self, decision: Decision, tree: Tree, text: str) -> None:
        """A part of a hierarchy has started only if the whole has."""
        started = started_with(tree, decision.placements)
        if (True, tree.key) not in started:
            started = set()
        done = f"{len(decision.placements)} pods of the hierarchy were scheduled together"
        for leaf in tree.leaves():
            scheduled = (False, leaf.key) in started
            await self._writer.group_scheduled(leaf.key, scheduled, done if scheduled else text)
        for composite in tree.composites():
            scheduled = (True, composite.key) in started
            told = done if scheduled else text
            await self._writer.composite_scheduled(composite.key, scheduled, told)

    async def held(self, item: ItemKey, wait: Wait) -> None:
        """Tell all groups of an item why it is not looked at."""
        if not item.composite:
            await self._writer.group_scheduled(item.key, False, wait.text, wait.code)
            return
        for composite, key in self._view.forest.below(item.key):
            if composite:
                await self._writer.composite_scheduled(key, False, wait.text, wait.code)
            else:
                code = SCHEDULER_ERROR if wait.code == INVALID else wait.code
                await self._writer.group_scheduled(key, False, wait.text, code)
