"""Checkpoints of whole gangs: one PodCheckpoint for each rank, and one common step for all.

The nodes do the saving (:mod:`kubarium.node.training.checkpoints`). What no node can say is said
here: that a PodCheckpoint's pod does not exist. A checkpoint that is deleted lets go of what it
kept: the ranks retire it with their next save.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubarium.api.kinds import GANG_CHECKPOINTS, POD_CHECKPOINTS, PODS
from kubarium.api.resource import Document, Resource
from kubarium.base.clock import parse_rfc3339
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.protocol import Context, Key
from kubarium.view import checkpoints as view
from kubarium.view.elastic import index_of, is_spare

# A pod may be seen a little later than the checkpoint that was made right after it.
GRACE_S = 5.0
# A node that goes on says itself when the time is over.
NODE_GRACE_S = 30.0
_LABELS = {
    "JobSet": "jobset.sigs.k8s.io/jobset-name",
    "Job": "batch.kubernetes.io/job-name",
}


class PodCheckpointController(ControllerComponent):
    """PodCheckpoints without a pod. Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.controller = Controller("pod-checkpoint-controller", context, self._reconcile)
        self._checkpoints = self.controller.watches(POD_CHECKPOINTS)
        self._pods = self.controller.reads(PODS)

    async def _reconcile(self, key: Key) -> float | None:
        checkpoint = self._checkpoints.get(key[1], key[0])
        if checkpoint is None or view.is_over(checkpoint):
            return None
        name = (checkpoint["spec"].get("sourcePod") or {}).get("name", "")
        pod = self._pods.get(name, key[0])
        created = parse_rfc3339(checkpoint["metadata"]["creationTimestamp"])
        age_s = self._context.clock.now() - created
        if pod is None:
            if age_s < GRACE_S:
                return GRACE_S - age_s
            await self._write(checkpoint, view.FAILED, f"pod {name} not found")
        elif (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            await self._write(checkpoint, view.FAILED, f"pod {name} has ended")
        elif not view.ready_condition(checkpoint):
            await self._write(checkpoint, view.PENDING, "waits for the pod's node")
            return view.timeout_s(checkpoint)
        elif view.ready_condition(checkpoint)["reason"] == view.PENDING:
            left_s = view.timeout_s(checkpoint) - age_s
            if left_s > 0:
                return left_s
            text = f"no node has taken it up within {view.timeout_s(checkpoint):g} s"
            await self._write(checkpoint, view.FAILED, text)
        else:  # its node sees to it, unless it has gone
            left_s = view.timeout_s(checkpoint) + NODE_GRACE_S - age_s
            if left_s > 0:
                return left_s
            await self._write(checkpoint, view.FAILED, "its node has not finished it in time")
        return None

    async def _write(self, checkpoint: Document, reason: str, text: str) -> None:
        await _write(self._context, POD_CHECKPOINTS, checkpoint, reason, text)


class GangCheckpointController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.controller = Controller("gang-checkpoint-controller", context, self._reconcile)
        self._gangs = self.controller.watches(GANG_CHECKPOINTS)
        self._parts = self.controller.watches(POD_CHECKPOINTS, _gang_of)
        self._parts.add_index(writes.CONTROLLER_UID, writes.controller_uid_index)
        self._pods = self.controller.reads(PODS)

    async def _reconcile(self, key: Key) -> float | None:
        gang = self._gangs.get(key[1], key[0])
        if gang is None or writes.is_terminating(gang):
            return None
        if view.is_over(gang):
            return await self._expire(gang)
        parts = self._parts.by_index(writes.CONTROLLER_UID, gang["metadata"]["uid"])
        if not parts:
            await self._begin(gang)
            return None
        await self._judge(gang, parts)
        return None

    async def _begin(self, gang: Document) -> None:
        target = gang["spec"]["target"]
        label = _LABELS[target["kind"]]
        ranks = [
            pod
            for pod in self._pods.items(gang["metadata"]["namespace"])
            if (pod["metadata"].get("labels") or {}).get(label) == target["name"]
            and (pod.get("status") or {}).get("phase") == "Running"
            and not writes.is_terminating(pod)
            and not is_spare(pod)
        ]
        if not ranks:
            text = f"{target['kind']} {target['name']} has no rank that runs"
            await self._write(gang, view.FAILED, text)
            return
        ranks.sort(key=lambda pod: (index_of(pod), str(pod["metadata"]["name"])))
        names = []
        for pod in ranks:
            part = _part(gang, pod)
            names.append(part["metadata"]["name"])
            await writes.create(self._context, POD_CHECKPOINTS, part, gang["metadata"]["namespace"])
        await self._say_begun(gang, names)

    async def _say_begun(self, gang: Document, parts: list[str]) -> None:
        text = f"{len(parts)} ranks save at a common step"
        await self._write(gang, view.IN_PROGRESS, text, ranks=len(parts), podCheckpoints=parts)

    async def _judge(self, gang: Document, parts: list[Document]) -> None:
        wrong = [part for part in parts if view.is_over(part) and not view.is_ready(part)]
        if wrong:
            first = min(wrong, key=lambda part: str(part["metadata"]["name"]))
            pod = first["spec"]["sourcePod"]["name"]
            text = f"pod {pod}: {view.ready_condition(first).get('message', '')}"
            await self._write(gang, view.FAILED, text)
            return
        wanted = int((gang.get("status") or {}).get("ranks") or 0)
        ready = [part for part in parts if view.is_ready(part)]
        if not wanted:  # what was begun was not written down
            await self._say_begun(gang, sorted(str(part["metadata"]["name"]) for part in parts))
            return
        if len(ready) < wanted:
            return
        steps = sorted({int(part["status"]["step"]) for part in ready})
        digests = {part["status"].get("sha256", "") for part in ready}
        if len(steps) > 1 or len(digests) > 1:
            text = f"the ranks have saved different states, at steps {', '.join(map(str, steps))}"
            await self._write(gang, view.FAILED, text)
            return
        status = ready[0]["status"]
        facts = {
            "step": steps[0],
            "path": status["checkpointLocation"]["volume"]["path"],
            "bytes": status.get("bytes", 0),
            "sha256": status.get("sha256", ""),
        }
        text = f"{wanted} ranks have saved step {steps[0]}, all parts verified"
        await self._write(gang, view.COMPLETED, text, **facts)

    async def _expire(self, gang: Document) -> float | None:
        ttl_s = gang["spec"].get("ttlSecondsAfterFinished")
        if ttl_s is None:
            return None
        since = parse_rfc3339(view.ready_condition(gang)["lastTransitionTime"])
        left_s = since + float(ttl_s) - self._context.clock.now()
        if left_s > 0:
            return left_s
        await writes.delete(self._context, GANG_CHECKPOINTS, gang)
        return None

    async def _write(self, gang: Document, reason: str, text: str, **facts: object) -> None:
        await _write(self._context, GANG_CHECKPOINTS, gang, reason, text, **facts)


async def _write(
    context: Context,
    resource: Resource,
    document: Document,
    reason: str,
    text: str,
    **facts: object,
) -> None:
    """Its condition Ready, and facts."""
    status = view.with_condition(document, reason, text, context.clock.now(), **facts)
    await writes.patch(context, resource, document, {"status": status}, subresource="status")


def _gang_of(part: Document) -> Iterator[Key]:
    owner = writes.controller_of(part)
    if owner is not None and owner["kind"] == "GangCheckpoint":
        yield part["metadata"]["namespace"], owner["name"]


def _part(gang: Document, pod: Document) -> Document:
    """The PodCheckpoint of one rank."""
    spec: Document = {"sourcePod": {"name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}}
    if gang["spec"].get("timeoutSeconds"):
        spec["timeoutSeconds"] = gang["spec"]["timeoutSeconds"]
    rank = index_of(pod)
    tail = str(rank) if rank >= 0 else pod["metadata"]["uid"][:8]
    job = (pod["metadata"].get("labels") or {}).get(_LABELS["Job"], "")
    name = f"{gang['metadata']['name']}-{tail}"
    if gang["spec"]["target"]["kind"] == "JobSet":
        name = f"{gang['metadata']['name']}-{job}-{tail}"
    return {
        "apiVersion": POD_CHECKPOINTS.api_version,
        "kind": POD_CHECKPOINTS.kind,
        "metadata": {
            "name": name,
            "namespace": gang["metadata"]["namespace"],
            "annotations": {view.OF_GANG: gang["metadata"]["uid"]},
            "ownerReferences": [writes.owner_reference(gang)],
        },
        "spec": spec,
    }
