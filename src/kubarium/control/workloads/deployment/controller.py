"""The Deployment controller: makes ReplicaSets of a Deployment's templates and moves pods between.

It never touches pods. Source: upstream ``pkg/controller/deployment``.
"""

from __future__ import annotations

from kubarium.api.kinds import DEPLOYMENTS, PODS, REPLICA_SETS
from kubarium.api.resource import Document
from kubarium.api.selectors import label_selector, selects
from kubarium.base.errors import ApiError
from kubarium.control.workloads import pods as podlib
from kubarium.control.workloads.deployment import history, rollout
from kubarium.control.workloads.deployment import status as state
from kubarium.control.workloads.deployment.rollout import DESIRED, replicas_of, wanted_by
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key


class DeploymentController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "deployment-controller")
        self.controller = Controller("deployment-controller", context, self._reconcile, workers=4)
        self._deployments = self.controller.watches(DEPLOYMENTS)
        self._sets = self.controller.watches(REPLICA_SETS, self._deployments_of)
        self._sets.add_index(writes.CONTROLLER_UID, writes.controller_uid_index)
        self._sets.add_index(podlib.ORPHANS, podlib.orphan_namespace_index)
        self._pods = self.controller.reads(PODS)
        self._pods.add_index(writes.CONTROLLER_UID, writes.controller_uid_index)
        self._pods.on_change(self._pod_changed)

    def _deployments_of(self, replica_set: Document) -> list[Key]:
        namespace = replica_set["metadata"]["namespace"]
        reference = writes.controller_of(replica_set)
        if reference is not None:
            return [(namespace, reference["name"])] if reference["kind"] == "Deployment" else []
        labels = replica_set["metadata"].get("labels") or {}
        return [
            (namespace, item["metadata"]["name"])
            for item in self._deployments.items(namespace)
            if labels and selects(item["spec"].get("selector"), labels)
        ]

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        """A Recreate rollout goes on when the last old pod is gone."""
        if new is not None or old is None:
            return
        reference = writes.controller_of(old)
        if reference is None or reference["kind"] != "ReplicaSet":
            return
        owner = self._sets.get(reference["name"], old["metadata"]["namespace"])
        for key in self._deployments_of(owner) if owner is not None else ():
            deployment = self._deployments.get(key[1], key[0])
            if deployment is not None and _is_recreate(deployment):
                self.controller.enqueue(key)

    # one Deployment

    async def _reconcile(self, key: Key) -> float | None:
        deployment = self._deployments.get(key[1], key[0])
        if deployment is None:
            return None
        owned = await self._claim(deployment)
        if writes.is_terminating(deployment):
            await self._write_status(deployment, owned, progress=False)
            return None
        deployment = await self._note_pause(deployment)
        if deployment["spec"].get("paused"):
            owned = await self._hold(deployment, owned)
            return await self._write_status(deployment, owned, progress=False)
        if self._was_scaled(deployment, owned):
            owned = await self._scale(deployment, owned)
            await self._write_status(deployment, owned, progress=False)
            return 0.0
        if _is_recreate(deployment):
            owned = await self._recreate(deployment, owned)
        else:
            owned = await self._roll(deployment, owned)
        return await self._write_status(self._fresh(deployment), owned, progress=True)

    def _fresh(self, deployment: Document) -> Document:
        metadata = deployment["metadata"]
        return self._deployments.get(metadata["name"], metadata["namespace"]) or deployment

    async def _claim(self, deployment: Document) -> list[Document]:
        """Own ReplicaSets, after adopting orphans that the selector matches."""
        selector = label_selector(deployment["spec"].get("selector"))
        uid = deployment["metadata"]["uid"]
        owned = self._sets.by_index(writes.CONTROLLER_UID, uid)
        if not writes.is_terminating(deployment):
            for item in self._sets.by_index(podlib.ORPHANS, deployment["metadata"]["namespace"]):
                matches = selector.matches(item["metadata"].get("labels") or {})
                if matches and not writes.is_terminating(item):
                    owned.append(await self._adopt(deployment, item))
        return rollout.by_age(owned)

    async def _adopt(self, deployment: Document, replica_set: Document) -> Document:
        metadata = replica_set["metadata"]
        references = metadata.get("ownerReferences") or []
        change = {
            "resourceVersion": metadata["resourceVersion"],
            "ownerReferences": [*references, writes.owner_reference(deployment)],
        }
        return await writes.patch(self._context, REPLICA_SETS, replica_set, {"metadata": change})

    async def _note_pause(self, deployment: Document) -> Document:
        """Pausing stops the progress clock, resuming starts it again."""
        if not state.has_deadline(deployment):
            return deployment
        status = dict(deployment.get("status") or {})
        held = writes.find_condition(status, "Progressing") or {}
        now = self._context.clock.now()
        if held.get("reason") == "ProgressDeadlineExceeded":
            return deployment
        was = held.get("reason") == "DeploymentPaused"
        if deployment["spec"].get("paused") and not was:
            state.set_progress(status, "Unknown", "DeploymentPaused", "Deployment is paused", now)
        elif not deployment["spec"].get("paused") and was:
            message = "Deployment is resumed"
            state.set_progress(status, "Unknown", "DeploymentResumed", message, now)
        return await writes.update_status(self._context, DEPLOYMENTS, deployment, status)

    def _was_scaled(self, deployment: Document, owned: list[Document]) -> bool:
        """``spec.replicas`` has changed since an active ReplicaSet was sized."""
        wanted = str(wanted_by(deployment))
        return any(
            (item["metadata"].get("annotations") or {}).get(DESIRED, wanted) != wanted
            for item in owned
            if replicas_of(item) > 0
        )

    async def _hold(self, deployment: Document, owned: list[Document]) -> list[Document]:
        """While it is paused all goes on but the way from one template to the next."""
        new = history.find_new(deployment, owned)
        if new is not None:
            await self._refresh_new(deployment, new, _others(owned, new))
        owned = await self._scale(deployment, self._current(deployment))
        await self._trim(deployment, _others(owned, new))
        return self._current(deployment)

    # scaling

    async def _scale(self, deployment: Document, owned: list[Document]) -> list[Document]:
        """Bring the number of pods in line without moving between templates."""
        active = [item for item in owned if replicas_of(item) > 0]
        new = history.find_new(deployment, owned)
        if len(active) <= 1:
            latest = active[0] if active else new or (owned[-1] if owned else None)
            if latest is not None and replicas_of(latest) != wanted_by(deployment):
                await self._resize(deployment, latest, wanted_by(deployment))
            elif latest is not None and self._was_scaled(deployment, [latest]):
                await self._resize(deployment, latest, replicas_of(latest))
        elif state.is_saturated(deployment, new):
            for item in _others(active, new):
                await self._resize(deployment, item, 0)
        elif not _is_recreate(deployment):
            sizes = rollout.scale_proportionally(deployment, active)
            for item in active:
                await self._resize(deployment, item, sizes[item["metadata"]["name"]])
        return self._current(deployment)

    def _current(self, deployment: Document) -> list[Document]:
        owned = self._sets.by_index(writes.CONTROLLER_UID, deployment["metadata"]["uid"])
        return rollout.by_age(owned)

    async def _resize(self, deployment: Document, replica_set: Document, size: int) -> Document:
        annotations = replica_set["metadata"].get("annotations") or {}
        noted = history.scale_annotations(deployment)
        before = replicas_of(replica_set)
        if size == before and noted.items() <= annotations.items():
            return replica_set
        changed = {
            **replica_set,
            "metadata": {**replica_set["metadata"], "annotations": {**annotations, **noted}},
            "spec": {**replica_set["spec"], "replicas": size},
        }
        changed = await writes.update(self._context, REPLICA_SETS, changed)
        if size != before:
            self._tell_scaled(deployment, replica_set["metadata"]["name"], before, size)
        return changed

    def _tell_scaled(self, deployment: Document, name: str, before: int, size: int) -> None:
        direction = "up" if size > before else "down"
        message = f"Scaled {direction} replica set {name} from {before} to {size}"
        self._recorder.event(deployment, "Normal", "ScalingReplicaSet", message)

    # rolling out

    async def _roll(self, deployment: Document, owned: list[Document]) -> list[Document]:
        new = await self._ensure_new(deployment, owned)
        owned = self._current(deployment)
        old = _others(owned, new)
        size = rollout.new_size(deployment, new, [*old, new])
        if size != replicas_of(new):
            await self._resize(deployment, new, size)
            return self._current(deployment)
        sizes = rollout.shrink_old(deployment, new, old)
        for item in old:
            name = item["metadata"]["name"]
            if name in sizes:
                await self._resize(deployment, item, sizes[name])
        if not sizes:
            await self._clean_up(deployment, new, old)
        return self._current(deployment)

    async def _recreate(self, deployment: Document, owned: list[Document]) -> list[Document]:
        new = history.find_new(deployment, owned)
        old = _others(owned, new)
        for item in old:
            if replicas_of(item) > 0:
                await self._resize(deployment, item, 0)
        if any(self._has_running_pods(item) for item in old):
            return self._current(deployment)
        new = await self._ensure_new(deployment, owned)
        if replicas_of(new) != wanted_by(deployment):
            await self._resize(deployment, new, wanted_by(deployment))
        else:
            await self._clean_up(deployment, new, old)
        return self._current(deployment)

    def _has_running_pods(self, replica_set: Document) -> bool:
        pods = self._pods.by_index(writes.CONTROLLER_UID, replica_set["metadata"]["uid"])
        return any(not podlib.is_terminal(pod) for pod in pods)

    async def _ensure_new(self, deployment: Document, owned: list[Document]) -> Document:
        """The ReplicaSet of the present template, at the newest revision."""
        new = history.find_new(deployment, owned)
        others = _others(owned, new)
        if new is not None:
            return await self._refresh_new(deployment, new, others)
        new = await self._create_new(deployment, others)
        await self._note_revision(deployment, new)
        return new

    async def _create_new(self, deployment: Document, others: list[Document]) -> Document:
        document = history.make_replica_set(deployment, history.next_revision(others), 0)
        size = rollout.new_size(deployment, document, [*others, document])
        document["spec"]["replicas"] = size
        namespace = deployment["metadata"]["namespace"]
        try:
            new = await writes.create(self._context, REPLICA_SETS, document, namespace)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                name = document["metadata"]["name"]
                text = f'Failed to create new replica set "{name}": {error}'
                await self._tell_create_failed(deployment, text)
                raise
            return await self._resolve_collision(deployment, document)
        if size:
            self._tell_scaled(deployment, new["metadata"]["name"], 0, size)
        await self._set_progress(
            deployment,
            "NewReplicaSetCreated",
            f'Created new replica set "{new["metadata"]["name"]}"',
        )
        return new

    async def _resolve_collision(self, deployment: Document, document: Document) -> Document:
        """Ours under the hash's name, or another template's: then a new hash next time."""
        metadata = document["metadata"]
        held = await self._context.client.get(REPLICA_SETS, metadata["name"], metadata["namespace"])
        if writes.is_controlled_by(held, deployment) and history.same_template(
            held["spec"]["template"], deployment["spec"]["template"]
        ):
            self._sets.observe(held)
            return held
        fresh = self._fresh(deployment)
        status = dict(fresh.get("status") or {})
        status["collisionCount"] = int(status.get("collisionCount", 0)) + 1
        await writes.update_status(self._context, DEPLOYMENTS, fresh, status)
        raise ApiError(
            409,
            "Conflict",
            f"the hash in the name of ReplicaSet {metadata['name']} stands for another template",
        )

    async def _refresh_new(
        self, deployment: Document, new: Document, others: list[Document]
    ) -> Document:
        """What the Deployment shares with the ReplicaSet of its template, and its revision."""
        new = await self._with_shared(deployment, new, history.next_revision(others))
        await self._note_found(deployment, new)
        await self._note_revision(deployment, new)
        return new

    async def _with_shared(self, deployment: Document, new: Document, revision: int) -> Document:
        annotations = dict(new["metadata"].get("annotations") or {})
        wanted = {**annotations, **history.copied_annotations(deployment)}
        held_revision = history.revision_of(new)
        if held_revision < revision:
            wanted[rollout.REVISION] = str(revision)
            if held_revision:
                past = annotations.get(rollout.REVISION_HISTORY, "")
                wanted[rollout.REVISION_HISTORY] = ",".join(
                    part for part in (past, str(held_revision)) if part
                )
        min_ready_s = deployment["spec"].get("minReadySeconds", 0)
        if wanted == annotations and new["spec"].get("minReadySeconds", 0) == min_ready_s:
            return new
        changed = {
            **new,
            "metadata": {**new["metadata"], "annotations": wanted},
            "spec": {**new["spec"], "minReadySeconds": min_ready_s},
        }
        return await writes.update(self._context, REPLICA_SETS, changed)

    async def _note_found(self, deployment: Document, new: Document) -> None:
        """The clock of a rollout that was there before it was looked at starts now."""
        status = self._fresh(deployment).get("status") or {}
        if writes.find_condition(status, "Progressing") is None:
            message = f'Found new replica set "{new["metadata"]["name"]}"'
            await self._set_progress(deployment, "FoundNewReplicaSet", message)

    async def _note_revision(self, deployment: Document, new: Document) -> None:
        revision = (new["metadata"].get("annotations") or {}).get(rollout.REVISION, "")
        fresh = self._fresh(deployment)
        if (
            revision
            and (fresh["metadata"].get("annotations") or {}).get(rollout.REVISION) != revision
        ):
            change = {"metadata": {"annotations": {rollout.REVISION: revision}}}
            # With the status, so that it makes no new generation.
            await writes.patch(self._context, DEPLOYMENTS, fresh, change, subresource="status")

    async def _set_progress(self, deployment: Document, reason: str, message: str) -> None:
        if not state.has_deadline(deployment):
            return
        fresh = self._fresh(deployment)
        status = dict(fresh.get("status") or {})
        now = self._context.clock.now()
        state.set_progress(status, "True", reason, message, now, touch=True)
        await writes.update_status(self._context, DEPLOYMENTS, fresh, status)

    async def _tell_create_failed(self, deployment: Document, message: str) -> None:
        self._recorder.event(deployment, "Warning", "ReplicaSetCreateError", message)
        if not state.has_deadline(deployment):
            return
        fresh = self._fresh(deployment)
        status = dict(fresh.get("status") or {})
        now = self._context.clock.now()
        state.set_progress(status, "False", "ReplicaSetCreateError", message, now)
        await writes.update_status(self._context, DEPLOYMENTS, fresh, status)

    async def _clean_up(self, deployment: Document, new: Document, old: list[Document]) -> None:
        """Trim the history once the rollout is complete."""
        if state.is_complete(deployment, state.count(deployment, new, [*old, new])):
            await self._trim(deployment, old)

    async def _trim(self, deployment: Document, old: list[Document]) -> None:
        """Keep the newest revisionHistoryLimit old ReplicaSets, and those that have pods."""
        limit = int(deployment["spec"].get("revisionHistoryLimit", 10))
        alive = [item for item in old if not writes.is_terminating(item)]
        alive.sort(key=history.revision_of)
        for item in alive[: max(0, len(alive) - limit)]:
            if history.is_idle(item):
                await writes.delete(
                    self._context, REPLICA_SETS, item, propagation_policy="Background"
                )

    # status

    async def _write_status(
        self, deployment: Document, owned: list[Document], progress: bool
    ) -> float | None:
        now = self._context.clock.now()
        deployment = self._fresh(deployment)
        new = history.find_new(deployment, owned)
        status = state.count(deployment, new, owned)
        state.set_available(deployment, status, now)
        if progress:
            state.set_rollout_progress(deployment, status, new, now)
        state.set_replica_failure(status, new, owned, now)
        await writes.update_status(self._context, DEPLOYMENTS, deployment, status)
        if state.is_complete(deployment, status):
            return None
        left_s = state.remaining_s(deployment, status, now)
        return left_s + 1 if left_s else None


def _is_recreate(deployment: Document) -> bool:
    return (deployment["spec"].get("strategy") or {}).get("type") == "Recreate"


def _others(replica_sets: list[Document], new: Document | None) -> list[Document]:
    """All but ``new``."""
    uid = new["metadata"]["uid"] if new is not None else ""
    return [item for item in replica_sets if item["metadata"]["uid"] != uid]
