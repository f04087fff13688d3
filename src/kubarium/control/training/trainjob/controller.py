"""The TrainJob controller (trainer.kubeflow.org/v1alpha1).

One reconcile works out what the TrainJob and its runtime come to, applies it, and copies what the
JobSet says into the status. While the JobSet runs nothing is applied: only a suspended one changes.
Source: Trainer ``pkg/controller/trainjob_controller.go`` and its plug-ins' ``Build``.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.admission.trainer import runtime_reference
from kubarium.api.kinds import (
    CLUSTER_TRAINING_RUNTIMES,
    CONFIG_MAPS,
    JOB_SETS,
    SECRETS,
    TRAIN_JOBS,
    TRAINING_RUNTIMES,
)
from kubarium.api.resource import Document, Resource
from kubarium.api.trainer import Plan, job_set, mpi_hostfile, names, plan_of, pod_group
from kubarium.base.errors import ApiError
from kubarium.base.quantity import QuantityError
from kubarium.client.protocol import APPLY_PATCH
from kubarium.control.training.trainjob import objects
from kubarium.control.training.trainjob.status import StatusDraft
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key
from kubarium.view.gangs import COSCHEDULING_GROUPS

FIELD_MANAGER = "trainer"
MAX_MESSAGE = 950  # of an error in an event, whose limit is 1024


class TrainJobController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "trainer-trainjob-controller")
        self.controller = Controller("trainjob-controller", context, self._reconcile, workers=4)
        self._trainjobs = self.controller.watches(TRAIN_JOBS)
        self._jobsets = self.controller.watches(JOB_SETS, _owning_trainjob)
        self._config_maps = self.controller.reads(CONFIG_MAPS)
        self._secrets = self.controller.reads(SECRETS)
        self._groups = self.controller.reads(COSCHEDULING_GROUPS)
        self._runtimes = self.controller.reads(TRAINING_RUNTIMES)
        self._cluster_runtimes = self.controller.reads(CLUSTER_TRAINING_RUNTIMES)

    async def _reconcile(self, key: Key) -> float | None:
        trainjob = self._trainjobs.get(key[1], key[0])
        if trainjob is None or writes.is_terminating(trainjob):
            return None
        if trainjob["spec"].get("managedBy", names.CONTROLLER) != names.CONTROLLER:
            return None
        draft = StatusDraft(trainjob, self._context.clock.now())
        problem = await self._make_objects(trainjob, draft)
        draft.note_suspension()
        jobset = self._own_jobset(trainjob)
        if jobset is not None:
            draft.follow(jobset)
        after_s = await self._keep_deadline(draft, jobset)
        await writes.update_status(self._context, TRAIN_JOBS, trainjob, draft.status)
        if problem is not None:
            raise problem  # so that it is tried again, later and later
        return after_s

    async def _keep_deadline(self, draft: StatusDraft, jobset: Document | None) -> float | None:
        """Fail a TrainJob that is out of time, and end what runs; else when to look again."""
        deadline = draft.deadline()
        if deadline is None:
            return None
        if draft.now < deadline:
            return deadline - draft.now
        draft.exceed_deadline()
        if jobset is not None:
            await writes.delete(self._context, JOB_SETS, jobset, propagation_policy="Background")
        return None

    # objects

    async def _make_objects(self, trainjob: Document, draft: StatusDraft) -> Exception | None:
        """Apply what is to be there; the reason why that was not possible."""
        kind, _ = runtime_reference(trainjob)
        if not kind:
            reference = trainjob["spec"]["runtimeRef"]
            given = f"{reference.get('kind')}.{reference.get('apiGroup')}"
            draft.fail("TrainingRuntimeNotSupported", f"unsupported runtime: {given}")
            return None
        if draft.is_finished:
            return None
        try:
            runtime = await self._runtime(trainjob)
            await self._apply_all(trainjob, runtime.get("spec") or {})
        except ApiError as error:
            if error.reason == "Conflict":
                return error  # our copy was behind
            return self._note_problem(trainjob, error)
        except (objects.BadSnapshot, QuantityError) as error:
            return self._note_problem(trainjob, error)
        return None

    def _note_problem(self, trainjob: Document, error: Exception) -> Exception:
        text = str(error)
        if len(text) > MAX_MESSAGE:
            text = f"{text[:MAX_MESSAGE]} ..."
        message = f"TrainJob resources reconciliation failed: {text}"
        self._recorder.event(trainjob, "Warning", "TrainJobResourcesCreationFailed", message)
        return error

    async def _runtime(self, trainjob: Document) -> Document:
        """The runtime as it was when the TrainJob was first seen."""
        namespace = trainjob["metadata"]["namespace"]
        name = names.snapshot_name(trainjob["metadata"]["name"])
        held = self._config_maps.get(name, namespace)
        if held is not None:
            return objects.runtime_of(trainjob, held)
        kind, runtime_name = runtime_reference(trainjob)
        if kind == "TrainingRuntime":
            runtime = self._runtimes.get(runtime_name, namespace)
        else:
            runtime = self._cluster_runtimes.get(runtime_name)
        if runtime is None:
            raise ApiError(
                404,
                "RuntimeNotFound",
                f"{kind} {runtime_name} specified in TrainJob is not found; it was there when the "
                "TrainJob was created",
            )
        await writes.create(
            self._context, CONFIG_MAPS, objects.snapshot(trainjob, runtime), namespace
        )
        return runtime

    async def _apply_all(self, trainjob: Document, runtime_spec: Document) -> None:
        plan = plan_of(trainjob, runtime_spec)
        await self._ensure_mpi(trainjob, plan)
        await self._ensure_gang(trainjob, plan)
        jobset = self._jobsets.get(plan.name, trainjob["metadata"]["namespace"])
        if jobset is not None and not writes.is_controlled_by(jobset, trainjob):
            raise ApiError(
                409,
                "AlreadyExists",
                f"JobSet {plan.name} is there already and is not this TrainJob's; delete it, or "
                "give the TrainJob another name",
            )
        is_suspended = bool(trainjob["spec"].get("suspend"))
        if jobset is not None and not is_suspended and not jobset["spec"].get("suspend"):
            return
        await self._apply(trainjob, JOB_SETS, job_set(plan))

    async def _ensure_mpi(self, trainjob: Document, plan: Plan) -> None:
        hostfile = mpi_hostfile(plan)
        if hostfile is None:
            return
        namespace = trainjob["metadata"]["namespace"]
        if self._secrets.get(names.ssh_secret_name(plan.name), namespace) is None:
            await writes.create(self._context, SECRETS, objects.ssh_secret(trainjob), namespace)
        held = self._config_maps.get(hostfile["metadata"]["name"], namespace)
        if held is None or held.get("data") != hostfile["data"]:
            await self._apply(trainjob, CONFIG_MAPS, hostfile)

    async def _ensure_gang(self, trainjob: Document, plan: Plan) -> None:
        group = pod_group(plan, objects.gang_requests(plan))
        if group is None:
            return
        held = self._groups.get(plan.name, trainjob["metadata"]["namespace"])
        if held is None:
            self._say_what_volcano_is_not(trainjob, plan)
        if held is None or trainjob["spec"].get("suspend"):
            await self._apply(trainjob, COSCHEDULING_GROUPS, group)

    def _say_what_volcano_is_not(self, trainjob: Document, plan: Plan) -> None:
        volcano = plan.pod_group_policy.get("volcano")
        if volcano is None:
            return
        ignored = []
        if names.VOLCANO_QUEUE in plan.annotations:
            ignored.append(f"queue {plan.annotations[names.VOLCANO_QUEUE]}")
        if volcano.get("networkTopology") is not None:
            ignored.append("networkTopology")
        if ignored:
            message = (
                "volcano policy: the gang is scheduled by Kubarium's own scheduler, which does "
                f"not honour {' and '.join(ignored)}"
            )
            self._recorder.event(trainjob, "Warning", "VolcanoNotServed", message)

    async def _apply(self, trainjob: Document, resource: Resource, document: Document) -> None:
        document = objects.owned(trainjob, document)
        metadata = document["metadata"]
        applied = await self._context.client.patch(
            resource,
            metadata["name"],
            document,
            metadata["namespace"],
            patch_type=APPLY_PATCH,
            field_manager=FIELD_MANAGER,
            force=True,
        )
        self._context.informers.get(resource).observe(applied)

    def _own_jobset(self, trainjob: Document) -> Document | None:
        metadata = trainjob["metadata"]
        jobset = self._jobsets.get(metadata["name"], metadata["namespace"])
        owned = jobset is not None and writes.is_controlled_by(jobset, trainjob)
        return jobset if owned else None


def _owning_trainjob(document: Document) -> Iterable[Key]:
    reference = writes.controller_of(document)
    if reference is not None and reference["kind"] == "TrainJob":
        return ((document["metadata"]["namespace"], reference["name"]),)
    return ()
