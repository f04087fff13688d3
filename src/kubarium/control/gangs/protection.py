"""The finalizer of pod groups: deletion goes from the pods up to the root.

Source: upstream ``pkg/controller/podgroupprotection``; KEP-4671 and KEP-6012. Groups that have no
finalizer yet get it here, as those do that were made by an older version.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.gangs import PROTECTION_FINALIZER
from kubarium.api.kinds import COMPOSITE_POD_GROUPS, POD_GROUPS, PODS
from kubarium.api.resource import Document
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.parts import of_spec
from kubarium.runtime.protocol import Context, Key
from kubarium.view.consumers import group_name

_BY_GROUP = "pods-by-schedulinggroup"
_BY_PARENT = "groups-by-parent"


def _parent_of(group: Document) -> str:
    name: str = (group.get("spec") or {}).get("parentCompositePodGroupName") or ""
    return name


@of_spec
def _by_group(pod: Document) -> Iterable[str]:
    name = group_name(pod)
    return (f"{pod['metadata']['namespace']}/{name}",) if name else ()


def _by_parent(group: Document) -> Iterable[str]:
    name = _parent_of(group)
    return (f"{group['metadata']['namespace']}/{name}",) if name else ()


class GroupProtection:
    """A PodGroup that is being deleted goes when all of its pods have ended or are gone."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.controller = Controller("podgroup-protection", context, self.reconcile)
        self._groups = self.controller.watches(POD_GROUPS)
        self._pods = self.controller.watches(PODS, self._of_pod)
        self._pods.add_index(_BY_GROUP, _by_group)

    @of_spec
    def _of_pod(self, pod: Document) -> list[Key]:
        """Only groups that wait to go: most changes of pods concern none."""
        name, namespace = group_name(pod), pod["metadata"]["namespace"]
        group = self._groups.get(name, namespace) if name else None
        return [(namespace, name)] if group is not None and writes.is_terminating(group) else []

    async def reconcile(self, key: Key) -> float | None:
        """Add or remove the finalizer; running it again changes nothing."""
        group = self._groups.get(key[1], key[0])
        if group is None:
            return None
        if not writes.is_terminating(group):
            await writes.add_finalizer(self._context, POD_GROUPS, group, PROTECTION_FINALIZER)
        elif not any(map(_is_alive, self._pods.by_index(_BY_GROUP, "/".join(key)))):
            await writes.remove_finalizer(self._context, POD_GROUPS, group, PROTECTION_FINALIZER)
        return None


class CompositeProtection:
    """A CompositePodGroup that is being deleted goes when no group names it as its parent."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.controller = Controller("compositepodgroup-protection", context, self.reconcile)
        self._composites = self.controller.watches(COMPOSITE_POD_GROUPS)
        self._children = (
            self.controller.watches(POD_GROUPS, self._of_child),
            self.controller.watches(COMPOSITE_POD_GROUPS, self._of_child),
        )
        for informer in self._children:
            informer.add_index(_BY_PARENT, _by_parent)

    @staticmethod
    def _of_child(group: Document) -> list[Key]:
        name = _parent_of(group)
        return [(group["metadata"]["namespace"], name)] if name else []

    async def reconcile(self, key: Key) -> float | None:
        """Add or remove the finalizer; running it again changes nothing.

        Groups whose parents lead around in a circle would wait for each other for ever, so that
        only children that are not being deleted themselves hold a composite back.
        """
        composite, resource = self._composites.get(key[1], key[0]), COMPOSITE_POD_GROUPS
        if composite is None:
            return None
        if not writes.is_terminating(composite):
            await writes.add_finalizer(self._context, resource, composite, PROTECTION_FINALIZER)
        elif not self._is_needed(key):
            await writes.remove_finalizer(self._context, resource, composite, PROTECTION_FINALIZER)
        return None

    def _is_needed(self, key: Key) -> bool:
        groups, composites = self._children
        if groups.by_index(_BY_PARENT, "/".join(key)):
            return True
        below = composites.by_index(_BY_PARENT, "/".join(key))
        return any(not writes.is_terminating(c) or self._holds_groups(c) for c in below)

    def _holds_groups(self, composite: Document) -> bool:
        """Whether pod groups are left anywhere below."""
        groups, composites = self._children
        namespace = composite["metadata"]["namespace"]
        todo, seen = [composite["metadata"]["name"]], set[str]()
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            if groups.by_index(_BY_PARENT, f"{namespace}/{name}"):
                return True
            below = composites.by_index(_BY_PARENT, f"{namespace}/{name}")
            todo += [child["metadata"]["name"] for child in below]
        return False


def _is_alive(pod: Document) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
