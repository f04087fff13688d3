"""Trials (Katib): each makes one run, and says what came of it and what it measured.

Source: Katib ``pkg/controller.v1beta1/trial``. Metrics are read by the node of the run's pods from
their output, not by a sidecar, and a trial whose experiment is over is killed.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.kinds import (
    CLUSTER_TRAINING_RUNTIMES,
    EXPERIMENTS,
    PODS,
    TRAINING_RUNTIMES,
    TRIALS,
)
from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339, rfc3339
from kubarium.base.errors import ApiError
from kubarium.control.tuning.conditions import is_over, note
from kubarium.control.tuning.runs import (
    BY_TRIAL,
    RESOURCES,
    begin_run,
    is_final,
    primary_pods,
    runtime_of,
    trial_of,
)
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context, Key
from kubarium.view.tuning import (
    FAILURE,
    SUCCESS,
    check_trial,
    end_condition,
    experiment_objective,
    observation_of,
    value_of,
)

# The last metrics may come after the word that the run is over.
LAST_METRICS_S = 5.0
ENDED = ("Succeeded", "Failed", "Killed", "MetricsUnavailable", "EarlyStopped")


class TrialController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "trial-controller")
        self.controller = Controller("trial-controller", context, self._reconcile, workers=2)
        self._trials = self.controller.watches(TRIALS)
        self._runs = {
            kind: self.controller.watches(resource, _owning_trial)
            for kind, resource in RESOURCES.items()
        }
        self._pods = self.controller.watches(PODS, _measured_trial)
        self._pods.add_index(BY_TRIAL, trial_of)
        self._experiments = self.controller.watches(EXPERIMENTS, self._trials_of)
        self._runtimes = self.controller.reads(TRAINING_RUNTIMES)
        self._cluster_runtimes = self.controller.reads(CLUSTER_TRAINING_RUNTIMES)

    def _trials_of(self, experiment: Document) -> Iterable[Key]:
        """An experiment that is over ends its trials."""
        if not is_over(experiment, ("Succeeded", "Failed")):
            return ()
        metadata = experiment["metadata"]
        return [
            (metadata["namespace"], trial["metadata"]["name"])
            for trial in self._trials.items(metadata["namespace"])
            if writes.is_controlled_by(trial, experiment)
        ]

    async def _reconcile(self, key: Key) -> float | None:
        trial = self._trials.get(key[1], key[0])
        if trial is None or writes.is_terminating(trial) or is_over(trial, ENDED):
            return None
        draft = _Draft(trial, self._context.clock.now())
        try:
            check_trial(trial)
        except ValueError as error:
            draft.end("Failed", "TrialFailed", f"Trial has failed: {error}")
            await writes.update_status(self._context, TRIALS, trial, draft.status)
            self._tell(trial, draft)
            return None
        wanted = trial["spec"]["runSpec"]
        kind = wanted["kind"]
        run = self._runs[kind].get(key[1], key[0])
        if run is not None and not writes.is_controlled_by(run, trial):
            text = f"{kind} {key[1]} is there already and is not this trial's"
            draft.end("Failed", "TrialFailed", f"Trial has failed: {text}")
            run = None
        elif run is None:
            await self._begin(trial, wanted, draft)
        else:
            after_s = self._follow(trial, run, draft)
            if after_s is not None:
                await writes.update_status(self._context, TRIALS, trial, draft.status)
                return after_s
        if not draft.over and self._experiment_is_over(trial):
            draft.end("Killed", "TrialKilled", "Trial is killed: its experiment is over")
        await writes.update_status(self._context, TRIALS, trial, draft.status)
        if draft.over:
            self._tell(trial, draft)
            killed = draft.over == "Killed"
            retained = trial["spec"].get("retainRun")
            if run is not None and not retained:
                await writes.delete(
                    self._context, RESOURCES[kind], run, propagation_policy="Background"
                )
            elif run is not None and killed:
                stop = {"spec": {"suspend": True}}
                await writes.patch(self._context, RESOURCES[kind], run, stop)
        return None

    async def _begin(self, trial: Document, wanted: Document, draft: _Draft) -> None:
        namespace = trial["metadata"]["namespace"]
        runtime = runtime_of(wanted, namespace, self._runtimes, self._cluster_runtimes)
        try:
            await begin_run(self._context, trial, runtime)
        except ApiError as error:
            if not is_final(error):
                raise
            draft.end("Failed", "TrialFailed", f"Trial has failed: {error}")

    def _follow(self, trial: Document, run: Document, draft: _Draft) -> float | None:
        """Take over what the run says; seconds until the last metrics are waited for, or None."""
        metadata, spec = trial["metadata"], trial["spec"]
        objective = experiment_objective(spec["objective"])
        pods = primary_pods(self._pods, metadata["namespace"], metadata["name"])
        trainjob = run if run["kind"] == "TrainJob" else None
        metrics = observation_of(pods, trainjob, objective.names)
        if metrics:
            draft.status["observation"] = {"metrics": metrics}
        if any((p.get("status") or {}).get("phase") != "Pending" for p in pods):
            draft.note("Running", "TrialRunning", "Trial is running")
        failed = writes.find_condition(run, end_condition(spec, FAILURE)) or {}
        done = writes.find_condition(run, end_condition(spec, SUCCESS)) or {}
        if failed.get("status") == "True":
            text = failed.get("message") or failed.get("reason") or "its run has failed"
            draft.end("Failed", "TrialFailed", f"Trial has failed: {text}")
        elif done.get("status") == "True":
            if value_of(draft.status.get("observation"), objective) is not None:
                draft.end("Succeeded", "TrialSucceeded", "Trial has succeeded")
                return None
            left_s = parse_rfc3339(done["lastTransitionTime"]) + LAST_METRICS_S - draft.now
            if left_s > 0:
                return left_s
            text = f"Metrics are not available: nothing printed {objective.metric}=<number>"
            draft.end("MetricsUnavailable", "MetricsUnavailable", text)
        return None

    def _experiment_is_over(self, trial: Document) -> bool:
        owner = writes.controller_of(trial)
        if owner is None:
            return False
        found = self._experiments.get(owner["name"], trial["metadata"]["namespace"])
        return found is not None and is_over(found, ("Succeeded", "Failed"))

    def _tell(self, trial: Document, draft: _Draft) -> None:
        kind = "Normal" if draft.over in ("Succeeded", "Killed") else "Warning"
        reason, message = draft.said
        self._recorder.event(trial, kind, reason, message)


class _Draft:
    """A changeable copy of a trial's status."""

    def __init__(self, trial: Document, now: float) -> None:
        self.now = now
        self.status: Document = dict(trial.get("status") or {})
        self.over = ""
        self.said = ("", "")
        self.status.setdefault("startTime", rfc3339(now))
        self.note("Created", "TrialCreated", "Trial is created")

    def note(self, type_: str, reason: str, message: str, status: str = "True") -> None:
        note(self.status, self.now, type_, reason, message, status)

    def end(self, type_: str, reason: str, message: str) -> None:
        if writes.find_condition(self.status, "Running"):
            self.note("Running", reason, message, "False")
        self.note(type_, reason, message)
        self.status["completionTime"] = rfc3339(self.now)
        self.over, self.said = type_, (reason, message)


def _owning_trial(document: Document) -> Iterable[Key]:
    reference = writes.controller_of(document)
    if reference is not None and reference["kind"] == "Trial":
        return ((document["metadata"]["namespace"], reference["name"]),)
    return ()


@of_metadata
def _measured_trial(pod: Document) -> Iterable[Key]:
    return [(ns, name) for ns, _, name in (text.partition("/") for text in trial_of(pod))]
