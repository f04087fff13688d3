"""The StatefulSet controller: pods with fixed names, made, changed and removed in order.

Source: upstream ``pkg/controller/statefulset/stateful_set_control.go``.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubarium.api.kinds import PERSISTENT_VOLUME_CLAIMS, PODS
from kubarium.api.resource import Document, Resource
from kubarium.api.selectors import label_selector
from kubarium.base.errors import ApiError
from kubarium.control.workloads import pods as podlib
from kubarium.control.workloads.deployment.history import same_template
from kubarium.control.workloads.statefulset import identity
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context, Key

STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet", True)
CONTROLLER_REVISIONS = Resource("apps", "v1", "controllerrevisions", "ControllerRevision", True)

# So long a name stays unused after its pod has gone. ``kubectl delete --wait`` reads the pod, then
# lists it, and looks at the list only 100 ms later: a pod of the same name that has come by then is
# all that it sees, and it waits for that one's end. A machine's kubelet is never so quick.
REPLACE_AFTER_S = 0.25

# How often to look whether claims have gone that go with a pod of before.
STALE_CLAIM_S = 1.0


@dataclass(frozen=True, slots=True)
class Revisions:
    """The template that pods have had so far, and the one that they are to get."""

    current: Document
    update: Document

    def names(self) -> tuple[str, str]:
        return self.current["metadata"]["name"], self.update["metadata"]["name"]


class StatefulSetController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "statefulset-controller")
        self.controller = Controller("statefulset-controller", context, self._reconcile, workers=2)
        self._sets = self.controller.watches(STATEFUL_SETS)
        self._pods = self.controller.watches(PODS, self._sets_of)
        self._pods.add_index(writes.CONTROLLER_UID, writes.controller_uid_index)
        self._pods.add_index(podlib.ORPHANS, podlib.orphan_namespace_index)
        self._revisions = self.controller.reads(CONTROLLER_REVISIONS)
        self._revisions.add_index(writes.CONTROLLER_UID, writes.controller_uid_index)
        self._claims = self.controller.reads(PERSISTENT_VOLUME_CLAIMS)
        self._gone: dict[Key, float] = {}
        self._pods.on_change(self._pod_changed)

    @of_metadata
    def _sets_of(self, pod: Document) -> list[Key]:
        namespace = pod["metadata"]["namespace"]
        reference = writes.controller_of(pod)
        if reference is not None:
            return [(namespace, reference["name"])] if reference["kind"] == "StatefulSet" else []
        return [
            (namespace, item["metadata"]["name"])
            for item in self._sets.items(namespace)
            if identity.ordinal_of(item, pod) is not None
        ]

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        if new is None and old is not None and self._sets_of(old):
            now = self._context.clock.monotonic()
            self._gone = {k: t for k, t in self._gone.items() if now - t < REPLACE_AFTER_S}
            self._gone[_namespace(old), old["metadata"]["name"]] = now

    def _unused_for_s(self, stateful_set: Document, ordinal: int) -> float:
        """How long the name of a missing pod must stay unused yet; 0: it may be made."""
        name = identity.pod_name(stateful_set, ordinal)
        if any(identity.is_stale(c, name) for c in self._claims_of(stateful_set, ordinal)):
            return STALE_CLAIM_S
        gone = self._gone.get((_namespace(stateful_set), name))
        if gone is None:
            return 0.0
        return max(0.0, gone + REPLACE_AFTER_S - self._context.clock.monotonic())

    async def _reconcile(self, key: Key) -> float | None:
        stateful_set = self._sets.get(key[1], key[0])
        if stateful_set is None or writes.is_terminating(stateful_set):
            return None
        selector = label_selector(stateful_set["spec"].get("selector"))
        await podlib.claim(self._context, self._pods, stateful_set, selector)
        revisions = await self._ensure_revisions(stateful_set)
        stateful_set = self._sets.get(key[1], key[0]) or stateful_set
        error: ApiError | None = None
        try:
            await self._advance(stateful_set, revisions)
        except ApiError as caught:  # the status must be told even when pods cannot be made
            error = caught
        wait_s = await self._write_status(stateful_set, revisions)
        if error is not None:
            raise error
        return wait_s

    # revisions

    async def _ensure_revisions(self, stateful_set: Document) -> Revisions:
        owned = self._revisions.by_index(writes.CONTROLLER_UID, stateful_set["metadata"]["uid"])
        owned.sort(key=lambda item: int(item["revision"]))
        newest = int(owned[-1]["revision"]) if owned else 0
        template = stateful_set["spec"]["template"]
        update = next(
            (item for item in owned if same_template(identity.template_of(item), template)), None
        )
        if update is None:
            update = await self._create_revision(stateful_set, newest + 1)
        elif int(update["revision"]) < newest:
            update = await writes.patch(
                self._context, CONTROLLER_REVISIONS, update, {"revision": newest + 1}
            )
        noted = (stateful_set.get("status") or {}).get("currentRevision")
        current = next((item for item in owned if item["metadata"]["name"] == noted), update)
        await self._trim_revisions(stateful_set, owned, (current, update))
        return Revisions(current, update)

    async def _create_revision(self, stateful_set: Document, number: int) -> Document:
        status = stateful_set.get("status") or {}
        collisions = int(status.get("collisionCount") or 0)
        document = identity.make_revision(stateful_set, number, collisions)
        namespace = stateful_set["metadata"]["namespace"]
        try:
            return await writes.create(self._context, CONTROLLER_REVISIONS, document, namespace)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            name = document["metadata"]["name"]
            held = await self._context.client.get(CONTROLLER_REVISIONS, name, namespace)
            if same_template(identity.template_of(held), stateful_set["spec"]["template"]):
                return held
            changed = {"replicas": 0, **status, "collisionCount": collisions + 1}
            await writes.update_status(self._context, STATEFUL_SETS, stateful_set, changed)
            raise

    async def _trim_revisions(
        self, stateful_set: Document, owned: list[Document], live: tuple[Document, ...]
    ) -> None:
        used = {item["metadata"]["name"] for item in live} | {
            (pod["metadata"].get("labels") or {}).get(identity.REVISION_LABEL)
            for pod in self._owned_pods(stateful_set)
        }
        idle = [item for item in owned if item["metadata"]["name"] not in used]
        limit = int(stateful_set["spec"].get("revisionHistoryLimit", 10))
        for item in idle[: max(0, len(idle) - limit)]:
            await writes.delete(self._context, CONTROLLER_REVISIONS, item)

    # pods

    def _owned_pods(self, stateful_set: Document) -> list[Document]:
        return self._pods.by_index(writes.CONTROLLER_UID, stateful_set["metadata"]["uid"])

    async def _advance(self, stateful_set: Document, revisions: Revisions) -> None:
        """Do what may be done now; in an ordered set one step, then wait for its effect."""
        by_ordinal: dict[int, Document] = {}
        for pod in self._owned_pods(stateful_set):
            ordinal = identity.ordinal_of(stateful_set, pod)
            if ordinal is not None:
                by_ordinal[ordinal] = pod
        first = identity.first_ordinal(stateful_set)
        wanted = range(first, first + identity.replicas_of(stateful_set))
        if not await self._fill(stateful_set, revisions, by_ordinal, wanted):
            return
        surplus = sorted((o for o in by_ordinal if o not in wanted), reverse=True)
        if not await self._shrink(stateful_set, by_ordinal, surplus):
            return
        if identity.rolls(stateful_set):
            await self._roll(stateful_set, revisions, by_ordinal, wanted)

    async def _fill(
        self,
        stateful_set: Document,
        revisions: Revisions,
        by_ordinal: dict[int, Document],
        wanted: range,
    ) -> bool:
        """Create what is missing, replace what has ended; False when order says to wait."""
        ordered = identity.is_ordered(stateful_set)
        for ordinal in wanted:
            pod = by_ordinal.get(ordinal)
            if pod is not None and podlib.is_terminal(pod):
                if not writes.is_terminating(pod):
                    await self._delete(stateful_set, pod)
                if ordered:
                    return False
                if self._pods.get(pod["metadata"]["name"], _namespace(pod)) is not None:
                    continue  # its name is free once the node has let it go
                pod = None
            if pod is None:
                wait_s = self._unused_for_s(stateful_set, ordinal)
                if wait_s:
                    key = (_namespace(stateful_set), stateful_set["metadata"]["name"])
                    self.controller.enqueue(key, wait_s)
                    if ordered:
                        return False
                    continue
                await self._create(stateful_set, revisions, ordinal)
                if ordered:
                    return False
                continue
            await self._ensure_claims(stateful_set, ordinal)
            await self._own_claims(stateful_set, ordinal, pod, surplus=False)
            if ordered and not self._is_healthy(stateful_set, pod):
                return False
        return True

    def _is_healthy(self, stateful_set: Document, pod: Document) -> bool:
        """Available, and not on its way out."""
        min_ready_s = int(stateful_set["spec"].get("minReadySeconds", 0))
        now = self._context.clock.now()
        return not writes.is_terminating(pod) and podlib.is_available(pod, min_ready_s, now)

    async def _shrink(
        self, stateful_set: Document, by_ordinal: dict[int, Document], surplus: list[int]
    ) -> bool:
        """Remove pods beyond the wanted ones, highest first; False when order says to wait."""
        for ordinal in surplus:
            pod = by_ordinal[ordinal]
            await self._own_claims(stateful_set, ordinal, pod, surplus=True)
            if not writes.is_terminating(pod):
                await self._delete(stateful_set, pod)
            if identity.is_ordered(stateful_set):
                return False
        return True

    async def _roll(
        self,
        stateful_set: Document,
        revisions: Revisions,
        by_ordinal: dict[int, Document],
        wanted: range,
    ) -> None:
        """Replace pods of an old revision from the top, as long as few enough are unavailable.

        One that is unavailable itself takes nothing away.
        """
        update = revisions.update["metadata"]["name"]
        pods = {ordinal: by_ordinal[ordinal] for ordinal in wanted if ordinal in by_ordinal}
        healthy = {o for o, pod in pods.items() if self._is_healthy(stateful_set, pod)}
        spare = identity.max_unavailable(stateful_set) - (len(wanted) - len(healthy))
        least = wanted.start + identity.partition_of(stateful_set)
        for ordinal in sorted(pods, reverse=True):
            pod = pods[ordinal]
            revision = (pod["metadata"].get("labels") or {}).get(identity.REVISION_LABEL)
            if ordinal < least or revision == update or writes.is_terminating(pod):
                continue
            if ordinal in healthy:
                if spare <= 0:
                    continue
                spare -= 1
            await self._delete(stateful_set, pod)

    async def _create(self, stateful_set: Document, revisions: Revisions, ordinal: int) -> None:
        revision = revisions.update
        if identity.rolls(stateful_set) and self._keeps_current(stateful_set, ordinal):
            revision = revisions.current
        pod = identity.make_pod(stateful_set, revision, ordinal)
        name, owner = pod["metadata"]["name"], stateful_set["metadata"]["name"]
        try:
            await self._ensure_claims(stateful_set, ordinal)
            await writes.create(self._context, PODS, pod, _namespace(stateful_set))
        except ApiError as error:
            if not podlib.is_namespace_terminating(error):
                message = f"Create Pod {name} in StatefulSet {owner} failed error: {error}"
                self._recorder.event(stateful_set, "Warning", "FailedCreate", message)
            raise
        message = f"Create Pod {name} in StatefulSet {owner} successful"
        self._recorder.event(stateful_set, "Normal", "SuccessfulCreate", message)

    def _keeps_current(self, stateful_set: Document, ordinal: int) -> bool:
        """A pod below the partition comes back as it was."""
        kept = identity.partition_of(stateful_set)
        return ordinal < identity.first_ordinal(stateful_set) + kept

    async def _ensure_claims(self, stateful_set: Document, ordinal: int) -> None:
        namespace = _namespace(stateful_set)
        for template in identity.claim_templates(stateful_set):
            name = identity.claim_name(stateful_set, template, ordinal)
            if self._claims.get(name, namespace) is None:
                await self._create_claim(stateful_set, template, ordinal)

    def _claims_of(self, stateful_set: Document, ordinal: int) -> list[Document]:
        """The claims of an ordinal that are there."""
        names = (
            identity.claim_name(stateful_set, template, ordinal)
            for template in identity.claim_templates(stateful_set)
        )
        found = (self._claims.get(name, _namespace(stateful_set)) for name in names)
        return [claim for claim in found if claim is not None]

    async def _own_claims(
        self, stateful_set: Document, ordinal: int, pod: Document, surplus: bool
    ) -> None:
        """Have the claims go when their retention policy says so."""
        for claim in self._claims_of(stateful_set, ordinal):
            metadata = claim["metadata"]
            owners = identity.owned_by(claim, stateful_set, pod, surplus)
            if owners != (metadata.get("ownerReferences") or []):
                change: Document = {
                    "resourceVersion": metadata["resourceVersion"],
                    "ownerReferences": owners or None,
                }
                change = {"metadata": change}
                await writes.patch(self._context, PERSISTENT_VOLUME_CLAIMS, claim, change)

    async def _create_claim(self, stateful_set: Document, template: Document, ordinal: int) -> None:
        claim = identity.make_claim(stateful_set, template, ordinal)
        namespace, name = _namespace(stateful_set), claim["metadata"]["name"]
        pod, owner = identity.pod_name(stateful_set, ordinal), stateful_set["metadata"]["name"]
        try:
            await writes.create(self._context, PERSISTENT_VOLUME_CLAIMS, claim, namespace)
        except ApiError as error:
            if not podlib.is_namespace_terminating(error):
                text = f"Create Claim {name} for Pod {pod} in StatefulSet {owner} failed error: "
                self._recorder.event(stateful_set, "Warning", "FailedCreate", f"{text}{error}")
            raise
        text = f"Create Claim {name} Pod {pod} in StatefulSet {owner} success"
        self._recorder.event(stateful_set, "Normal", "SuccessfulCreate", text)

    async def _delete(self, stateful_set: Document, pod: Document) -> None:
        name, owner = pod["metadata"]["name"], stateful_set["metadata"]["name"]
        try:
            removed = await writes.delete(self._context, PODS, pod)
        except ApiError as error:
            message = f"Delete Pod {name} in StatefulSet {owner} failed error: {error}"
            self._recorder.event(stateful_set, "Warning", "FailedDelete", message)
            raise
        if removed:
            message = f"Delete Pod {name} in StatefulSet {owner} successful"
            self._recorder.event(stateful_set, "Normal", "SuccessfulDelete", message)

    # status

    async def _write_status(self, stateful_set: Document, revisions: Revisions) -> float | None:
        now = self._context.clock.now()
        min_ready_s = int(stateful_set["spec"].get("minReadySeconds", 0))
        pods = [pod for pod in self._owned_pods(stateful_set) if not podlib.is_terminal(pod)]
        ready = [pod for pod in pods if podlib.is_ready(pod)]
        available = [pod for pod in ready if podlib.is_available(pod, min_ready_s, now)]
        current, update = revisions.names()
        by_revision = [
            (pod["metadata"].get("labels") or {}).get(identity.REVISION_LABEL)
            for pod in pods
            if not writes.is_terminating(pod)
        ]
        status: Document = {
            "observedGeneration": stateful_set["metadata"].get("generation", 0),
            "replicas": len(pods),
            "availableReplicas": len(available),
            "currentRevision": current,
            "updateRevision": update,
        }
        held = stateful_set.get("status") or {}
        status["collisionCount"] = int(held.get("collisionCount") or 0)
        updated = by_revision.count(update)
        wanted = identity.replicas_of(stateful_set)
        if identity.rolls(stateful_set) and updated == len(pods) == len(ready) == wanted:
            status["currentRevision"] = current = update  # the rolling update is complete
        counts = {
            "readyReplicas": len(ready),
            "currentReplicas": by_revision.count(current),
            "updatedReplicas": updated,
        }
        status |= {name: count for name, count in counts.items() if count}
        if held.get("conditions"):
            status["conditions"] = held["conditions"]
        await writes.update_status(self._context, STATEFUL_SETS, stateful_set, status)
        waits = [
            (podlib.ready_since(pod) or now) + min_ready_s - now
            for pod in ready
            if pod not in available
        ]
        return max(0.001, min(waits)) if waits else None


def _namespace(document: Document) -> str:
    return str(document["metadata"]["namespace"])
