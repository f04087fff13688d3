"""What every workload controller asks of pods, and how it creates, adopts and removes them.

Sources: upstream ``pkg/controller/controller_utils.go`` and ``controller_ref_manager.go``.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from kubarium.api.kinds import PODS
from kubarium.api.resource import Document, copy_document
from kubarium.api.selectors import Selector
from kubarium.base.clock import parse_rfc3339
from kubarium.base.errors import ApiError
from kubarium.runtime import writes
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context, Informer

ORPHANS = "orphans-by-namespace"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
# Slow start: one create first, then twice as many each time, so that a template that is always
# refused costs few calls.
FIRST_BATCH = 1
_PHASE_RANK = {"Pending": 0, "Unknown": 1, "Running": 2}


def phase(pod: Document) -> str:
    """``status.phase``; a pod nobody has looked at yet is Pending."""
    return str(pod.get("status", {}).get("phase") or "Pending")


def is_terminal(pod: Document) -> bool:
    """Succeeded or Failed."""
    return phase(pod) in ("Succeeded", "Failed")


def is_active(pod: Document) -> bool:
    """Neither ended nor being deleted."""
    return not is_terminal(pod) and not writes.is_terminating(pod)


def is_ready(pod: Document) -> bool:
    """Condition Ready is True."""
    return writes.condition_is_true(pod.get("status", {}), "Ready")


def ready_since(pod: Document) -> float | None:
    """When the pod became ready (seconds since the epoch); None if it is not."""
    condition = writes.find_condition(pod.get("status", {}), "Ready")
    if condition is None or condition.get("status") != "True":
        return None
    return parse_rfc3339(condition["lastTransitionTime"])


def is_available(pod: Document, min_ready_s: int, now: float) -> bool:
    """Ready for at least ``min_ready_s`` seconds."""
    since = ready_since(pod)
    return since is not None and (min_ready_s == 0 or since + min_ready_s <= now)


def container_statuses(pod: Document) -> list[Document]:
    """Statuses of init containers, then of containers."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]


def restarts(pod: Document) -> int:
    """The highest restart count of its containers."""
    return max((int(s.get("restartCount", 0)) for s in container_statuses(pod)), default=0)


def _age_rank(since: float, now: float) -> int:
    """Logarithmic age (upstream LogarithmicScaleDown): pods of like age rank alike."""
    age_ns = (now - since) * 1e9
    return -1 if age_ns <= 0 else int(math.log2(max(age_ns, 1)))


def removal_order(pod: Document, now: float, doubled_up: int = 0) -> tuple[float | str, ...]:
    """Sort key: the pods that hurt least to remove come first (``ActivePodsWithRanks``).

    Unassigned, pending, not ready; then cheaper by annotation, more on one node (``doubled_up`` is
    how many related pods share its node), younger as ready, more restarts, younger.
    """
    since = ready_since(pod)
    created = parse_rfc3339(pod["metadata"]["creationTimestamp"])
    return (
        1 if pod["spec"].get("nodeName") else 0,
        _PHASE_RANK.get(phase(pod), 0),
        0 if since is None else 1,
        _deletion_cost(pod),
        -doubled_up,
        0 if since is None else _age_rank(since, now),
        -restarts(pod),
        _age_rank(created, now),
        pod["metadata"]["uid"],
    )


def _deletion_cost(pod: Document) -> int:
    text = pod["metadata"].get("annotations", {}).get(DELETION_COST, "0")
    try:
        return int(text)
    except ValueError:
        return 0


def pod_from_template(template: Document, owner: Document) -> Document:
    """A pod of ``owner`` as its template says, named after it with a random tail."""
    metadata = copy_document(template.get("metadata") or {})
    kept = {name: metadata[name] for name in ("labels", "annotations") if metadata.get(name)}
    finalizers = list(metadata.get("finalizers", ()))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **kept,
            **({"finalizers": finalizers} if finalizers else {}),
            "generateName": f"{owner['metadata']['name']}-",
            "namespace": owner["metadata"]["namespace"],
            "ownerReferences": [writes.owner_reference(owner)],
        },
        "spec": copy_document(template["spec"]),
    }


@dataclass(frozen=True, slots=True)
class PodControl:
    """Creates and deletes pods of an owner and tells about it in the owner's events."""

    context: Context
    recorder: EventRecorder

    async def create(self, owner: Document, pod: Document) -> Document:
        """Raises the ApiError after recording FailedCreate."""
        try:
            created = await writes.create(self.context, PODS, pod, owner["metadata"]["namespace"])
        except ApiError as error:
            if not is_namespace_terminating(error):
                self.recorder.event(owner, "Warning", "FailedCreate", f"Error creating: {error}")
            raise
        name = created["metadata"]["name"]
        self.recorder.event(owner, "Normal", "SuccessfulCreate", f"Created pod: {name}")
        return created

    async def delete(self, owner: Document, pod: Document) -> None:
        """Delete the pod if it is still there. Raises after recording FailedDelete."""
        try:
            removed = await writes.delete(self.context, PODS, pod)
        except ApiError as error:
            self.recorder.event(owner, "Warning", "FailedDelete", f"Error deleting: {error}")
            raise
        if removed:
            name = pod["metadata"]["name"]
            self.recorder.event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {name}")


def is_namespace_terminating(error: ApiError) -> bool:
    """Whether a create was refused because the namespace is being deleted."""
    causes = error.details.get("causes") or ()
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


async def slow_start(count: int, create_one: Callable[[int], Awaitable[object]]) -> int:
    """Call ``create_one(i)`` for i < count in doubling batches; returns how many succeeded.

    Raises the first ApiError once its batch is done, which spares the rest.
    """
    done = 0
    position = 0
    batch = FIRST_BATCH
    while position < count:
        failure: ApiError | None = None
        for number in range(position, min(position + batch, count)):
            try:
                await create_one(number)
                done += 1
            except ApiError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        position += batch
        batch *= 2
    return done


@of_metadata
def orphan_namespace_index(pod: Document) -> Iterable[str]:
    """Index function for ``ORPHANS``: the namespace of a pod that has no controller."""
    if writes.controller_of(pod) is None:
        return (pod["metadata"]["namespace"],)
    return ()


async def claim(
    context: Context,
    informer: Informer,
    owner: Document,
    selector: Selector,
    finalizers: tuple[str, ...] = (),
) -> list[Document]:
    """The pods that ``owner`` controls, after adopting matching orphans and releasing misfits.

    ``finalizers`` are put on adopted pods. Needs the indexes CONTROLLER_UID and ORPHANS.
    """
    uid = owner["metadata"]["uid"]
    own: list[Document] = []
    for pod in informer.by_index(writes.CONTROLLER_UID, uid):
        if selector.matches(pod["metadata"].get("labels") or {}):
            own.append(pod)
        elif not writes.is_terminating(owner):
            await _release(context, pod, uid)
    if writes.is_terminating(owner):
        return own
    for pod in informer.by_index(ORPHANS, owner["metadata"]["namespace"]):
        labels = pod["metadata"].get("labels") or {}
        if selector.matches(labels) and is_active(pod):
            own.append(await _adopt(context, pod, owner, finalizers))
    return own


async def _adopt(
    context: Context, pod: Document, owner: Document, finalizers: tuple[str, ...]
) -> Document:
    metadata = pod["metadata"]
    references = [*metadata.get("ownerReferences", ()), writes.owner_reference(owner)]
    change: Document = {"uid": metadata["uid"], "ownerReferences": references}
    if finalizers:
        change["finalizers"] = list(dict.fromkeys([*metadata.get("finalizers", ()), *finalizers]))
    change["resourceVersion"] = metadata["resourceVersion"]
    return await writes.patch(context, PODS, pod, {"metadata": change})


async def _release(context: Context, pod: Document, owner_uid: str) -> None:
    metadata = pod["metadata"]
    kept = [item for item in metadata["ownerReferences"] if item["uid"] != owner_uid]
    change = {
        "uid": metadata["uid"],
        "resourceVersion": metadata["resourceVersion"],
        "ownerReferences": kept or None,
    }
    await writes.patch(context, PODS, pod, {"metadata": change})
