"""OptimizationJobs (Trainer): TrainJobs that differ in their parameters, and the best of them.

Parameters are put where the template says ``${trialParameters.<name>}``. The objective is what the
program reports to its TrainJob's ``trainerStatus.metrics``, or prints as ``<metric>=<number>``.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.kinds import (
    CLUSTER_TRAINING_RUNTIMES,
    OPTIMIZATION_JOBS,
    PODS,
    TRAIN_JOBS,
    TRAINING_RUNTIMES,
)
from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.base.errors import ApiError
from kubarium.control.tuning.conditions import is_over
from kubarium.control.tuning.runs import (
    BY_TRIAL,
    is_final,
    primary_pods,
    runtime_of,
    training_job,
    trial_name,
    trial_of,
    watched,
)
from kubarium.control.tuning.trials import LAST_METRICS_S
from kubarium.engine.tuning import search as engine
from kubarium.engine.tuning.space import Assignment
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context, Key
from kubarium.view.tuning import (
    TRIAL,
    TRIAL_LABEL,
    Objective,
    filled,
    number_text,
    numbered,
    observation_of,
    optimization_search,
    value_of,
)

COMPLETE, FAILED = "Complete", "Failed"
LABEL = "trainer.kubeflow.org/optimizationjob"


class OptimizationJobController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "trainer-optimizationjob-controller")
        self.controller = Controller("optimizationjob-controller", context, self._reconcile)
        self._jobs = self.controller.watches(OPTIMIZATION_JOBS)
        self._trainjobs = self.controller.watches(TRAIN_JOBS, _owning_job)
        self._trainjobs.add_index("optimizations", lambda t: map("/".join, _owning_job(t)))
        self._pods = self.controller.watches(PODS, self._of_pod)
        self._pods.add_index(BY_TRIAL, trial_of)
        self._runtimes = self.controller.reads(TRAINING_RUNTIMES)
        self._cluster_runtimes = self.controller.reads(CLUSTER_TRAINING_RUNTIMES)

    @of_metadata
    def _of_pod(self, pod: Document) -> Iterable[Key]:
        name = (pod["metadata"].get("labels") or {}).get(TRIAL_LABEL, "")
        trainjob = self._trainjobs.get(name, pod["metadata"]["namespace"]) if name else None
        return _owning_job(trainjob) if trainjob is not None else ()

    async def _reconcile(self, key: Key) -> float | None:
        job = self._jobs.get(key[1], key[0])
        if job is None or writes.is_terminating(job) or is_over(job, (COMPLETE, FAILED)):
            return None
        trainjobs = {
            t["metadata"]["name"]: t
            for t in self._trainjobs.by_index("optimizations", "/".join(key))
            if writes.is_controlled_by(t, job)
        }
        status: Document = dict(job.get("status") or {})
        try:
            search, objective = optimization_search(job)
            trials, after_s = self._trials(trainjobs.values(), objective)
            decision = engine.decide(search, trials)
            for number, assignment in decision.begin:
                await self._begin(job, objective, number, assignment)
        except (ValueError, ApiError) as error:
            if not is_final(error):
                raise
            self._end(job, status, FAILED, "OptimizationFailed", str(error))
            await writes.update_status(self._context, OPTIMIZATION_JOBS, job, status)
            return None
        best = decision.best
        if best is not None:
            assigned = [{"name": n, "value": v} for n, v in best.assignment]
            status["result"] = {"trainJobName": best.name, "parameters": assigned}
        if decision.end:
            if best is None:
                text = f"no trial has reported {objective.metric}"
                self._end(job, status, FAILED, "TrialsFailed", text)
            else:
                count = sum(t.state == engine.SUCCEEDED for t in trials)
                text = f"{count} of {len(trials)} trials succeeded; {objective.metric} of "
                text += f"{best.name} is {best.value:g}"
                self._end(job, status, COMPLETE, "TrialsCompleted", text)
        await writes.update_status(self._context, OPTIMIZATION_JOBS, job, status)
        return after_s

    def _trials(
        self, trainjobs: Iterable[Document], objective: Objective
    ) -> tuple[list[engine.Trial], float | None]:
        """As the search sees them, and when to look again for metrics that are still to come."""
        found, after_s = [], None
        for trainjob in trainjobs:
            known = numbered(trainjob)
            if known is None:
                continue
            metadata = trainjob["metadata"]
            pods = primary_pods(self._pods, metadata["namespace"], metadata["name"])
            metrics = observation_of(pods, trainjob, objective.names)
            value = value_of({"metrics": metrics}, objective)
            state = engine.RUNNING
            done = writes.find_condition(trainjob, COMPLETE) or {}
            if is_over(trainjob, (FAILED,)):
                state = engine.FAILED
            elif done.get("status") == "True":
                state = engine.SUCCEEDED
                since = parse_rfc3339(done["lastTransitionTime"])
                left_s = since + LAST_METRICS_S - self._context.clock.now()
                if value is None and left_s > 0:
                    state, after_s = engine.RUNNING, max(left_s, after_s or 0.0)
                elif value is None:
                    state = engine.METRICS_UNAVAILABLE
            found.append(engine.Trial(metadata["name"], *known, state, value))
        return found, after_s

    async def _begin(
        self, job: Document, objective: Objective, number: int, assignment: Assignment
    ) -> None:
        namespace, name = job["metadata"]["namespace"], trial_name(job, number)
        template = job["spec"]["trainJobTemplate"]
        whole: Document = {
            "apiVersion": TRAIN_JOBS.api_version,
            "kind": TRAIN_JOBS.kind,
            "metadata": template.get("metadata") or {},
            "spec": template["spec"],
        }
        run = filled({"trialSpec": whole}, assignment, name, namespace)
        runtime = runtime_of(run, namespace, self._runtimes, self._cluster_runtimes)
        run = watched(run, name, objective.names, training_job(runtime))
        metadata = run["metadata"]
        metadata["labels"][LABEL] = job["metadata"]["name"]
        metadata["annotations"] = {
            **(metadata.get("annotations") or {}),
            TRIAL: number_text(number, assignment),
        }
        metadata["ownerReferences"] = [writes.owner_reference(job)]
        try:
            await writes.create(self._context, TRAIN_JOBS, run, namespace)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
        text = f"trial {number + 1}: TrainJob {name}: " + ", ".join(
            f"{n}={v}" for n, v in assignment
        )
        self._recorder.event(job, "Normal", "TrialCreated", text)

    def _end(self, job: Document, status: Document, type_: str, reason: str, message: str) -> None:
        status["conditions"] = writes.set_condition(
            status.get("conditions") or (),
            type_,
            "True",
            reason,
            message,
            self._context.clock.now(),
            observedGeneration=job["metadata"].get("generation", 1),
        )
        kind = "Normal" if type_ == COMPLETE else "Warning"
        self._recorder.event(job, kind, reason, message)


def _owning_job(trainjob: Document) -> Iterable[Key]:
    reference = writes.controller_of(trainjob)
    if reference is not None and reference["kind"] == OPTIMIZATION_JOBS.kind:
        return ((trainjob["metadata"]["namespace"], reference["name"]),)
    return ()
