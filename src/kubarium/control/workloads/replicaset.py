"""The ReplicaSet controller: keeps as many active pods as asked for.

Source: upstream ``pkg/controller/replicaset``.
"""

from __future__ import annotations

from collections import Counter

from kubarium.api.kinds import PODS, REPLICA_SETS
from kubarium.api.resource import Document
from kubarium.api.selectors import label_selector, selects
from kubarium.control.workloads import pods as podlib
from kubarium.control.workloads.pods import ORPHANS, PodControl
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context, Key

# Pods created or deleted in one reconcile (upstream BurstReplicas).
BURST = 500


class ReplicaSetController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "replicaset-controller")
        self._pod_control = PodControl(context, self._recorder)
        self.controller = Controller("replicaset-controller", context, self._reconcile, workers=4)
        self._sets = self.controller.watches(REPLICA_SETS)
        self._sets.add_index(writes.CONTROLLER_UID, writes.controller_uid_index)
        self._pods = self.controller.watches(PODS, self._sets_of)
        self._pods.add_index(writes.CONTROLLER_UID, writes.controller_uid_index)
        self._pods.add_index(ORPHANS, podlib.orphan_namespace_index)

    @of_metadata
    def _sets_of(self, pod: Document) -> list[Key]:
        namespace = pod["metadata"]["namespace"]
        reference = writes.controller_of(pod)
        if reference is not None:
            return [(namespace, reference["name"])] if reference["kind"] == "ReplicaSet" else []
        labels = pod["metadata"].get("labels") or {}
        if not labels:
            return []
        return [
            (namespace, item["metadata"]["name"])
            for item in self._sets.items(namespace)
            if selects(item["spec"].get("selector"), labels)
        ]

    async def _reconcile(self, key: Key) -> float | None:
        replica_set = self._sets.get(key[1], key[0])
        if replica_set is None:
            return None
        selector = label_selector(replica_set["spec"].get("selector"))
        claimed = await podlib.claim(self._context, self._pods, replica_set, selector)
        failure = ""
        error: Exception | None = None
        if not writes.is_terminating(replica_set):
            try:
                await self._scale(replica_set, [pod for pod in claimed if podlib.is_active(pod)])
            except Exception as caught:  # the status must be told even when pods cannot be made
                error, failure = caught, str(caught)
        wait_s = await self._write_status(replica_set, failure)
        if error is not None:
            raise error
        return wait_s

    async def _scale(self, replica_set: Document, active: list[Document]) -> None:
        wanted = int(replica_set["spec"].get("replicas", 1))
        missing = min(wanted - len(active), BURST)
        if missing > 0:
            template = replica_set["spec"].get("template") or {"spec": {}}

            async def create_one(_: int) -> None:
                pod = podlib.pod_from_template(template, replica_set)
                await self._pod_control.create(replica_set, pod)

            await podlib.slow_start(missing, create_one)
        elif missing < 0:
            for pod in self._surplus(replica_set, active, min(-missing, BURST)):
                await self._pod_control.delete(replica_set, pod)

    def _surplus(self, replica_set: Document, active: list[Document], count: int) -> list[Document]:
        if count >= len(active):
            return active
        now = self._context.clock.now()
        per_node = self._related_pods_per_node(replica_set)
        ranked = sorted(
            active,
            key=lambda pod: podlib.removal_order(
                pod, now, per_node[pod["spec"].get("nodeName", "")]
            ),
        )
        return ranked[:count]

    def _related_pods_per_node(self, replica_set: Document) -> Counter[str]:
        """Active pods by node of all ReplicaSets of the same owner: doubled-up ones go first."""
        owner = writes.controller_of(replica_set)
        related = (
            [replica_set]
            if owner is None
            else self._sets.by_index(writes.CONTROLLER_UID, owner["uid"])
        )
        return Counter(
            pod["spec"].get("nodeName", "")
            for item in related
            for pod in self._pods.by_index(writes.CONTROLLER_UID, item["metadata"]["uid"])
            if podlib.is_active(pod)
        )

    async def _write_status(self, replica_set: Document, failure: str) -> float | None:
        """Write the counts; seconds until a ready pod becomes available, if one is to."""
        now = self._context.clock.now()
        uid = replica_set["metadata"]["uid"]
        pods = self._pods.by_index(writes.CONTROLLER_UID, uid)
        active = [pod for pod in pods if podlib.is_active(pod)]
        min_ready_s = int(replica_set["spec"].get("minReadySeconds", 0))
        ready = [pod for pod in active if podlib.is_ready(pod)]
        available = [pod for pod in ready if podlib.is_available(pod, min_ready_s, now)]
        template = replica_set["spec"].get("template") or {}
        wanted_labels = (template.get("metadata") or {}).get("labels") or {}
        labelled = [
            pod
            for pod in active
            if wanted_labels.items() <= (pod["metadata"].get("labels") or {}).items()
        ]
        terminating = [
            pod for pod in pods if writes.is_terminating(pod) and not podlib.is_terminal(pod)
        ]
        status = dict(replica_set.get("status") or {})
        status["replicas"] = len(active)
        _set_count(status, "fullyLabeledReplicas", len(labelled))
        _set_count(status, "readyReplicas", len(ready))
        _set_count(status, "availableReplicas", len(available))
        status["terminatingReplicas"] = len(terminating)
        status["observedGeneration"] = replica_set["metadata"].get("generation", 0)
        _set_failure(status, len(active), replica_set, failure, now)
        await writes.update_status(self._context, REPLICA_SETS, replica_set, status)
        waits = [
            (podlib.ready_since(pod) or now) + min_ready_s - now
            for pod in ready
            if pod not in available
        ]
        return max(0.001, min(waits)) if waits else None


def _set_count(status: Document, name: str, count: int) -> None:
    if count:
        status[name] = count
    else:
        status.pop(name, None)


def _set_failure(
    status: Document, active: int, replica_set: Document, failure: str, now: float
) -> None:
    conditions = list(status.get("conditions") or ())
    if failure:
        missing = int(replica_set["spec"].get("replicas", 1)) - active
        reason = "FailedCreate" if missing > 0 else "FailedDelete"
        status["conditions"] = writes.set_condition(
            conditions, "ReplicaFailure", "True", reason, failure, now
        )
        return
    kept = [condition for condition in conditions if condition.get("type") != "ReplicaFailure"]
    if kept:
        status["conditions"] = kept
    else:
        status.pop("conditions", None)
