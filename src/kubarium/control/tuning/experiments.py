"""Experiments (Katib): begin trials as the search decides, and say which was best.

Source: Katib ``pkg/controller.v1beta1/experiment``. There is no Suggestion object or service: the
next assignment is a pure decision on the trials that are there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from kubarium.api.kinds import CLUSTER_TRAINING_RUNTIMES, EXPERIMENTS, TRAINING_RUNTIMES, TRIALS
from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError
from kubarium.control.tuning.conditions import is_over, note
from kubarium.control.tuning.runs import begin_run, is_final, runtime_of, trial_name
from kubarium.engine.tuning import search as engine
from kubarium.engine.tuning.space import Assignment
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key
from kubarium.view.tuning import (
    EXPERIMENT_LABEL,
    FAILURE,
    SUCCESS,
    TRIAL,
    Objective,
    experiment_search,
    filled,
    number_text,
    numbered,
    value_of,
)

_STATES = ("Killed", "Succeeded", "Failed", "MetricsUnavailable", "EarlyStopped", "Running")
# Lists of names, and their counts, by the state of trials; Created is called pending.
_COUNTS = {
    "Created": ("pendingTrialList", "trialsPending"),
    "Running": ("runningTrialList", "trialsRunning"),
    "Succeeded": ("succeededTrialList", "trialsSucceeded"),
    "Failed": ("failedTrialList", "trialsFailed"),
    "Killed": ("killedTrialList", "trialsKilled"),
    "MetricsUnavailable": ("metricsUnavailableTrialList", "trialMetricsUnavailable"),
}
_BECAUSE = "Experiment has succeeded because"
_ENDS = {
    engine.GOAL: ("Succeeded", "ExperimentGoalReached", f"{_BECAUSE} Objective goal has reached"),
    engine.MOST_TRIALS: (
        "Succeeded",
        "ExperimentMaxTrialsReached",
        f"{_BECAUSE} max trial count has reached",
    ),
    engine.EXHAUSTED: (
        "Succeeded",
        "ExperimentSuggestionEndReached",
        f"{_BECAUSE} suggestion service has reached the end",
    ),
    engine.MOST_FAILED: (
        "Failed",
        "ExperimentFailed",
        "Experiment has failed because max failed count has reached",
    ),
}


class ExperimentController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "experiment-controller")
        self.controller = Controller("experiment-controller", context, self._reconcile)
        self._experiments = self.controller.watches(EXPERIMENTS)
        self._trials = self.controller.watches(TRIALS, _owning_experiment)
        self._runtimes = self.controller.reads(TRAINING_RUNTIMES)
        self._cluster_runtimes = self.controller.reads(CLUSTER_TRAINING_RUNTIMES)
        self._trials.add_index("experiments", lambda t: map("/".join, _owning_experiment(t)))

    async def _reconcile(self, key: Key) -> None:
        experiment = self._experiments.get(key[1], key[0])
        if experiment is None or writes.is_terminating(experiment):
            return
        trials = [
            trial
            for trial in self._trials.by_index("experiments", "/".join(key))
            if writes.is_controlled_by(trial, experiment)
        ]
        status: Document = dict(experiment.get("status") or {})
        now = self._context.clock.now()
        status.setdefault("startTime", rfc3339(now))
        if is_over(experiment, ("Succeeded", "Failed")):
            _summarise(status, trials)
            await writes.update_status(self._context, EXPERIMENTS, experiment, status)
            return
        note(status, now, "Created", "ExperimentCreated", "Experiment is created")
        try:
            search, objective = experiment_search(experiment)
            decision = engine.decide(search, [t for d in trials if (t := trial_of(d, objective))])
            for number, assignment in decision.begin:
                trials.append(await self._begin(experiment, objective, number, assignment))
        except (ValueError, ApiError) as error:
            if not is_final(error):
                raise
            what = "a trial is refused" if isinstance(error, ApiError) else "it cannot be read"
            text = f"Experiment has failed because {what}: {error}"
            self._end(experiment, status, "Failed", "ExperimentFailed", text)
            await writes.update_status(self._context, EXPERIMENTS, experiment, status)
            return
        _summarise(status, trials)
        if decision.best is not None:
            best = next(t for t in trials if t["metadata"]["name"] == decision.best.name)
            status["currentOptimalTrial"] = {
                "bestTrialName": decision.best.name,
                "parameterAssignments": best["spec"]["parameterAssignments"],
                "observation": best["status"]["observation"],
            }
        if decision.end:
            self._end(experiment, status, *_ENDS[decision.end])
        else:
            note(status, now, "Running", "ExperimentRunning", "Experiment is running")
        await writes.update_status(self._context, EXPERIMENTS, experiment, status)

    async def _begin(
        self, experiment: Document, objective: Objective, number: int, assignment: Assignment
    ) -> Document:
        metadata, spec = experiment["metadata"], experiment["spec"]
        name, template = trial_name(experiment, number), spec["trialTemplate"]
        namespace = metadata["namespace"]
        trial: Document = {
            "apiVersion": EXPERIMENTS.api_version,
            "kind": TRIALS.kind,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {**(metadata.get("labels") or {}), EXPERIMENT_LABEL: metadata["name"]},
                "annotations": {TRIAL: number_text(number, assignment)},
                "ownerReferences": [writes.owner_reference(experiment)],
            },
            "spec": {
                "objective": spec["objective"],
                "parameterAssignments": [{"name": n, "value": v} for n, v in assignment],
                "runSpec": filled(template, assignment, name, namespace),
                "primaryContainerName": template.get("primaryContainerName", ""),
                "retainRun": bool(template.get("retain")),
                "metricsCollector": spec.get("metricsCollectorSpec")
                or {"collector": {"kind": "StdOut"}},
                **{f: template[f] for f in (SUCCESS, FAILURE) if template.get(f)},
            },
        }
        try:
            made = await writes.create(self._context, TRIALS, trial, namespace)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return await self._context.client.get(TRIALS, name, namespace)
        run = made["spec"]["runSpec"]
        runtime = runtime_of(run, namespace, self._runtimes, self._cluster_runtimes)
        # Kubeflow's client takes a trial without its run for an error: leave no time between them.
        with contextlib.suppress(ApiError):  # the trial's controller tries again, and says why not
            await begin_run(self._context, made, runtime)
        return made

    def _end(
        self, experiment: Document, status: Document, type_: str, reason: str, message: str
    ) -> None:
        now = self._context.clock.now()
        note(status, now, "Running", reason, message, "False")
        note(status, now, type_, reason, message)
        status["completionTime"] = rfc3339(now)
        kind = "Normal" if type_ == "Succeeded" else "Warning"
        self._recorder.event(experiment, kind, reason, message)


def state_of(trial: Document) -> str:
    """The first of Katib's states that is true; Created before any."""
    return next((s for s in _STATES if writes.condition_is_true(trial, s)), "Created")


def trial_of(trial: Document, objective: Objective) -> engine.Trial | None:
    """As the search sees it; None for one that is not the search's own."""
    found = numbered(trial)
    if found is None:
        return None
    observation = (trial.get("status") or {}).get("observation")
    return engine.Trial(
        trial["metadata"]["name"], *found, state_of(trial), value_of(observation, objective)
    )


def _summarise(status: Document, trials: Sequence[Document]) -> None:
    """Names and counts of trials by state."""
    by_state: dict[str, list[str]] = {}
    for trial in sorted(trials, key=lambda t: numbered(t) or (0, ())):
        by_state.setdefault(state_of(trial), []).append(trial["metadata"]["name"])
    for state, (names, count) in _COUNTS.items():
        found = by_state.get(state)
        for key, value in ((names, found), (count, len(found or ()))):
            if value:
                status[key] = value
            else:
                status.pop(key, None)
    status["trials"] = len(trials)


def _owning_experiment(trial: Document) -> Iterable[Key]:
    reference = writes.controller_of(trial)
    if reference is not None and reference["kind"] == EXPERIMENTS.kind:
        return ((trial["metadata"]["namespace"], reference["name"]),)
    return ()
