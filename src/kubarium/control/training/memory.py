"""Out of memory, answered: a container that is short gets a higher limit, where its job allows it.

The node says who is short (a condition for each container, see :mod:`kubarium.view.memory`); this
controller grows the limit in place through the pod's ``resize`` subresource, and remembers the size
on the Job and its JobSet, so that a pod made anew begins with it. With the policy ``move`` a pod
whose node has no room is given up for one elsewhere. Nothing is done twice: the condition goes when
the larger limit is in force, and while a resize is on its way the pod is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubarium.api.kinds import JOB_SETS, JOBS, PODS
from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError
from kubarium.base.quantity import format_quantity, parse_quantity
from kubarium.client.protocol import STRATEGIC_MERGE_PATCH
from kubarium.control.training.learning import jobset_key, remember
from kubarium.control.training.ranks import Warnings, named
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context, Informer, Key
from kubarium.view.elastic import HOSTNAME
from kubarium.view.memory import (
    CEILING,
    FAIL,
    KILLED,
    MOVE,
    POLICY,
    OomPolicy,
    container_named,
    index_of,
    is_answered,
    learned,
    memory_limit,
    next_limit,
    oom_policy,
    short_of_memory,
    with_limit,
)

# What the node says of a resize that it cannot grant (KEP-1287).
RESIZE_PENDING = "PodResizePending"


class MemoryController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "memory-controller")
        self.controller = Controller("memory-controller", context, self._reconcile, workers=4)
        self._pods = self.controller.watches(PODS, _with_policy)
        self._jobs = self.controller.reads(JOBS)
        self._jobsets = self.controller.reads(JOB_SETS)
        self._warnings = Warnings(self._recorder, self._pods)

    async def _reconcile(self, key: Key) -> None:
        pod = self._pods.get(key[1], key[0])
        if pod is None:
            return
        try:
            policy = oom_policy(pod)
        except ValueError as error:
            self._warnings.tell(pod, "InvalidOOMPolicy", str(error))
            return
        if policy.kind == FAIL:
            return
        for name, condition in short_of_memory(pod):
            await self._grow(pod, name, condition, policy)
        if not _is_over(pod):
            await self._catch_up(pod)
            await self._move(pod, policy)

    async def _grow(self, pod: Document, name: str, condition: Document, policy: OomPolicy) -> None:
        part, container = container_named(pod, name)
        limit = memory_limit(container)
        if limit is None or is_answered(pod, condition):
            return
        said, rank = condition.get("message", ""), named(pod)
        larger = next_limit(limit, policy)
        if larger is None:
            text = f"{rank}: container {name} {said}; {CEILING} allows no more"
            self._warnings.tell(pod, "MemoryCeilingReached", text)
            return
        old, new = (format_quantity(amount, binary=True) for amount in (limit, larger))
        await self._remember(pod, name, larger)
        if _is_over(pod):
            text = (
                f"{rank}: container {name} {said}; the next pod begins with {new} instead of {old}"
            )
            self._warnings.tell(pod, "MemoryLearned", text)
            return
        try:
            await self._resize(pod, part, container, larger)
        except ApiError as error:
            if error.reason in ("Conflict", "NotFound"):
                raise
            text = f"{rank}: container {name} {said}; cannot be given {new}: {error}"
            self._warnings.tell(pod, "MemoryNotGrown", text)
            return
        how = "for its restart" if condition.get("reason") == KILLED else "in place"
        text = f"{rank}: container {name} {said}; limit grown from {old} to {new} {how}"
        self._recorder.event(pod, "Normal", "MemoryGrown", text)

    async def _resize(self, pod: Document, part: str, container: Document, size: int) -> None:
        """Give a running container this limit (bytes), and its pod as much more; ApiError."""
        held = memory_limit(container) or 0
        change = {"name": container["name"], "resources": with_limit(container["resources"], size)}
        spec: Document = {part: [change]}
        own = (pod["spec"].get("resources") or {}).get("limits") or {}
        if own.get("memory"):
            whole = int(parse_quantity(own["memory"])) + size - held
            spec["resources"] = with_limit(pod["spec"]["resources"], whole)
        await writes.patch(
            self._context,
            PODS,
            pod,
            {"spec": spec},
            patch_type=STRATEGIC_MERGE_PATCH,
            subresource="resize",
        )

    async def _catch_up(self, pod: Document) -> None:
        """A spare that has taken a rank gets what that rank was found to need."""
        if HOSTNAME not in (pod["metadata"].get("annotations") or {}):
            return
        job = self._owner(pod, "Job", self._jobs)
        for name, size in (learned(job) if job else {}).get(index_of(pod), {}).items():
            part, container = container_named(pod, name)
            limit = memory_limit(container)
            if limit is None or limit >= size:
                continue
            old, new = (format_quantity(amount, binary=True) for amount in (limit, size))
            try:
                await self._resize(pod, part, container, size)
            except ApiError as error:
                if error.reason in ("Conflict", "NotFound"):
                    raise
                text = f"{named(pod)}: container {name} cannot be given {new}: {error}"
                self._warnings.tell(pod, "MemoryNotGrown", text)
                continue
            text = f"{named(pod)}: container {name}: limit grown from {old} to {new} with its rank"
            self._recorder.event(pod, "Normal", "MemoryGrown", text)

    async def _move(self, pod: Document, policy: OomPolicy) -> None:
        """Give the pod up if its node cannot grant what it has been promised."""
        pending = writes.find_condition(pod.get("status") or {}, RESIZE_PENDING)
        if pending is None or policy.kind != MOVE or writes.controller_of(pod) is None:
            return
        if not any(learned(job) for job in self._owners(pod)):
            return  # somebody else's resize
        node = pod["spec"].get("nodeName", "")
        text = f"{named(pod)}: node {node} has no room for more memory; another pod begins with it"
        self._recorder.event(pod, "Normal", "MovedForMemory", text)
        await writes.delete(self._context, PODS, pod)

    async def _remember(self, pod: Document, name: str, size: int) -> None:
        """Write the size to the pod's Job and JobSet."""
        for owner in self._owners(pod):
            resource, index = _place(owner, pod)
            await remember(self._context, resource, owner, {index: {name: size}})

    def _owners(self, pod: Document) -> Iterator[Document]:
        job = self._owner(pod, "Job", self._jobs)
        if job is None:
            return
        yield job
        jobset = self._owner(job, "JobSet", self._jobsets)
        if jobset is not None:
            yield jobset

    @staticmethod
    def _owner(document: Document, kind: str, informer: Informer) -> Document | None:
        reference = writes.controller_of(document)
        if reference is None or reference.get("kind") != kind:
            return None
        found = informer.get(reference["name"], document["metadata"]["namespace"])
        return None if found is None else {"kind": kind, **found}


@of_metadata
def _with_policy(pod: Document) -> Iterator[Key]:
    """Only pods that have a policy are looked at."""
    if POLICY in (pod["metadata"].get("annotations") or {}):
        yield pod["metadata"]["namespace"], pod["metadata"]["name"]


def _is_over(pod: Document) -> bool:
    """Whether what is learned of it is for the next pod only."""
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return ended or writes.is_terminating(pod)


def _place(owner: Document, pod: Document) -> tuple[Resource, str]:
    """Which resource the owner is, and the key under which it keeps the pod's sizes.

    See :func:`jobset_key` for that of a JobSet.
    """
    index = index_of(pod)
    if owner["kind"] == "Job":
        return JOBS, index
    reference = writes.controller_of(pod)
    assert reference is not None
    return JOB_SETS, jobset_key(reference["name"], index)
