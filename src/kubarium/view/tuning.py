"""Searches as documents: Katib's Experiments and Trials, Trainer's OptimizationJobs. Pure.

Source: Katib ``experiment_types.go``, ``trial_types.go`` and its validator; Trainer's
``optimizationjob_types.go``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from kubarium.api.resource import Document
from kubarium.engine.tuning.search import Search
from kubarium.engine.tuning.space import CATEGORICAL, DISCRETE, DOUBLE, INT, Assignment, Parameter
from kubarium.engine.tuning.suggest import ALGORITHMS, GRID, RANDOM, STARTUP_TRIALS

EXPERIMENT_LABEL, TRIAL_LABEL = "katib.kubeflow.org/experiment", "katib.kubeflow.org/trial"
# On a trial (or the TrainJob of one): its number and assignment.
TRIAL = "kubarium.dev/trial"
# On pods: the names of metrics that their node is to read from their output.
METRICS = "kubarium.dev/metrics"
# The pod's condition that has what was read, as JSON; of its first container.
METRICS_READ = "metrics.kubarium.dev/read"
# Katib's sidecar, whose log is what the trial prints.
COLLECTOR = "metrics-logger-and-collector"
DEFAULT_FORMAT = r"([\w|-]+)\s*=\s*([+-]?\d*(\.\d+)?([Ee][+-]?\d+)?)"
PARALLEL = 3
_CONDITION = re.compile(r'^status\.conditions\.#\(type=="(\w+)"\)#\|#\(status=="True"\)#$')
SUCCESS, FAILURE = "successCondition", "failureCondition"
_PLACEHOLDER = re.compile(r"\$\{(trialParameters|trialSpec)\.([^}]+)\}")


@dataclass(frozen=True, slots=True)
class Objective:
    """``strategies``: which of a metric's values counts (latest, min, max)."""

    metric: str
    maximize: bool
    others: tuple[str, ...] = ()
    strategies: Mapping[str, str] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return (self.metric, *self.others)

    def strategy(self, name: str) -> str:
        default = "max" if self.maximize else "min"
        return (self.strategies or {}).get(name, default)


def experiment_search(experiment: Document) -> tuple[Search, Objective]:
    """Raises ValueError: field, value and way out."""
    spec = experiment["spec"]
    given = spec.get("algorithm") or {}
    algorithm = given.get("algorithmName", "")
    if algorithm not in ALGORITHMS:
        known = ", ".join(ALGORITHMS)
        raise ValueError(
            f"spec.algorithm.algorithmName: {algorithm!r} is not served; write one of {known}"
        )
    settings = {s.get("name"): s.get("value") for s in given.get("algorithmSettings") or ()}
    for name in settings:
        if name not in _SETTINGS:
            raise ValueError(
                f"spec.algorithm.algorithmSettings: {name!r} is not known; "
                f"write one of {', '.join(_SETTINGS)}"
            )
    if spec.get("earlyStopping"):
        raise ValueError("spec.earlyStopping: is not served; trials run to their end, leave it out")
    if spec.get("nasConfig"):
        raise ValueError("spec.nasConfig: is not served; give spec.parameters")
    collector = spec.get("metricsCollectorSpec") or {}
    kind = (collector.get("collector") or {}).get("kind") or "StdOut"
    if kind != "StdOut" or (collector.get("source") or {}).get("filter"):
        raise ValueError(
            f"spec.metricsCollectorSpec: collector {kind!r} with its filters is not served; leave "
            "it out, and print <metric>=<number>"
        )
    asked = experiment_objective(spec.get("objective") or {})
    parameters = tuple(_parameter(p) for p in spec.get("parameters") or ())
    if not parameters:
        raise ValueError("spec.parameters: must be specified")
    uid = experiment["metadata"].get("uid", "")
    search = Search(
        algorithm,
        parameters,
        asked.maximize,
        int(spec.get("parallelTrialCount") or PARALLEL),
        spec.get("maxTrialCount"),
        str(settings.get("random_state") or uid),
        spec.get("maxFailedTrialCount"),
        (spec.get("objective") or {}).get("goal"),
        _startup(settings),
    )
    _check_template(spec.get("trialTemplate") or {}, [p.name for p in parameters])
    return search, asked


_SETTINGS = ("random_state", "n_startup_trials")


def _startup(settings: Mapping[Any, Any]) -> int:
    text = settings.get("n_startup_trials")
    if text is None:
        return STARTUP_TRIALS
    if not str(text).isdecimal():
        raise ValueError(
            f"spec.algorithm.algorithmSettings: n_startup_trials: {text!r} is no whole "
            "number; write one, as 10"
        )
    return int(text)


def experiment_objective(objective: Document) -> Objective:
    """Raises ValueError."""
    kind, metric = objective.get("type"), objective.get("objectiveMetricName")
    if kind not in ("minimize", "maximize"):
        raise ValueError("spec.objective.type must be minimize or maximize")
    if not metric:
        raise ValueError("spec.objective.objectiveMetricName must be specified")
    others = tuple(objective.get("additionalMetricNames") or ())
    if metric in others:
        raise ValueError("spec.objective.additionalMetricNames should not contain the objective")
    strategies = {s["name"]: s["value"] for s in objective.get("metricStrategies") or ()}
    return Objective(metric, kind == "maximize", others, strategies)


def _parameter(given: Document) -> Parameter:
    name, kind = given.get("name", ""), given.get("parameterType", "")
    where, space = f"spec.parameters[{name}]", given.get("feasibleSpace") or {}
    if not name:
        raise ValueError("spec.parameters: a parameter has no name")
    if kind in (DISCRETE, CATEGORICAL):
        values = tuple(str(value) for value in space.get("list") or ())
        if not values:
            raise ValueError(f"{where}.feasibleSpace.list: must be specified for {kind}")
        return Parameter(name, kind, choices=values)
    if kind not in (DOUBLE, INT):
        raise ValueError(
            f"{where}.parameterType: {kind!r} is not one of double, int, discrete, categorical"
        )
    low, high = (_number(space, key, where) for key in ("min", "max"))
    if low is None or high is None:
        raise ValueError(f"{where}.feasibleSpace: min and max must be specified for {kind}")
    step = _number(space, "step", where) or 0.0
    scale = space.get("distribution") or "uniform"
    if scale not in ("uniform", "logUniform"):
        raise ValueError(
            f"{where}.feasibleSpace.distribution: {scale!r} is not served; write "
            "uniform or logUniform"
        )
    return _ranged(name, kind, low, high, step, scale == "logUniform", where)


def _ranged(
    name: str, kind: str, low: float, high: float, step: float, log: bool, where: str
) -> Parameter:
    for field, value in (("min", low), ("max", high), ("step", step)):
        if not math.isfinite(value):
            raise ValueError(f"{where}: {field} {value:g} must be a finite number")
    if low > high:
        raise ValueError(f"{where}: min {low:g} is above max {high:g}")
    if log and low <= 0:
        raise ValueError(f"{where}: min {low:g} must be above 0 on a logarithmic scale")
    if step < 0:
        raise ValueError(f"{where}: step {step:g} must not be negative")
    if kind == INT and any(value != int(value) for value in (low, high, step)):
        raise ValueError(f"{where}: min, max and step of an int must be whole numbers")
    return Parameter(name, kind, low, high, step, log)


def _number(space: Document, key: str, where: str) -> float | None:
    text = space.get(key)
    if text in (None, ""):
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{where}.feasibleSpace.{key}: {text!r} is no number") from None


def _check_template(template: Document, names: Iterable[str]) -> None:
    run = template.get("trialSpec")
    _check_run(run, "spec.trialTemplate.trialSpec")
    for field in (SUCCESS, FAILURE):
        end_condition(template, field)
    text = orjson.dumps(run).decode()
    known_names = dict.fromkeys(names)
    declared = {p.get("name"): p.get("reference") for p in template.get("trialParameters") or ()}
    for name, reference in declared.items():
        if reference not in known_names and not str(reference).startswith("${trialSpec."):
            raise ValueError(
                f"spec.trialTemplate.trialParameters[{name}].reference: {reference!r} is none of "
                f"spec.parameters ({', '.join(known_names)})"
            )
        if f"${{trialParameters.{name}}}" not in text:
            raise ValueError(
                f"spec.trialTemplate.trialSpec: ${{trialParameters.{name}}} is not in it"
            )
    for what, name in _PLACEHOLDER.findall(text):
        if what == "trialParameters" and name not in declared:
            raise ValueError(
                f"spec.trialTemplate.trialParameters: {name!r} is in trialSpec, not declared"
            )


def check_trial(trial: Document) -> None:
    """Raises ValueError for one that somebody has made by hand, and wrongly."""
    spec = trial["spec"]
    _check_run(spec.get("runSpec"), "spec.runSpec")
    experiment_objective(spec.get("objective") or {})
    for field in (SUCCESS, FAILURE):
        end_condition(spec, field, "spec")


def _check_run(run: Any, where: str) -> None:
    if not isinstance(run, dict):
        raise ValueError(f"{where}: must be specified (a configMap is not served)")
    kind = (run.get("apiVersion"), run.get("kind"))
    if kind not in RUN_KINDS:
        known = ", ".join(f"{kind} ({version})" for version, kind in RUN_KINDS)
        raise ValueError(
            f"{where}.kind: {kind[1]!r} of {kind[0]!r} is not served; write one of {known}"
        )
    path, value = f"{where}.spec", run.get("spec")
    if kind[1] == "Job" and isinstance(value, dict):
        path, value = f"{path}.template", value.get("template")
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must be specified for a {kind[1]}")


RUN_KINDS = (
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
    ("batch/v1", "Job"),
)


def end_condition(template: Document, field: str, where: str = "spec.trialTemplate") -> str:
    """The condition's type that says that a run has ended so. ValueError if it is not said the
    usual way."""
    text = template.get(field)
    if not text:
        return "Complete" if field == SUCCESS else "Failed"
    found = _CONDITION.match(text)
    if found is None:
        usual = 'status.conditions.#(type=="Complete")#|#(status=="True")#'
        raise ValueError(f"{where}.{field}: {text!r} is not understood; as {usual}")
    return found.group(1)


def filled(template: Document, assignment: Assignment, name: str, namespace: str) -> Document:
    """The run of one trial: ``trialSpec`` with its placeholders replaced."""
    run = template["trialSpec"]
    values = dict(assignment)
    references = {p["name"]: str(p["reference"]) for p in template.get("trialParameters") or ()}
    about: dict[str, str] = {
        "Name": name,
        "Namespace": namespace,
        "Kind": run.get("kind", ""),
        "APIVersion": run.get("apiVersion", ""),
    }

    def value_of(found: re.Match[str]) -> str:
        what, key = str(found.group(1)), str(found.group(2))
        if what == "trialSpec":
            return about.get(key, found.group(0))
        reference = references.get(key, key)
        if reference.startswith("${trialSpec."):
            return about.get(reference[12:-1], "")
        return str(values.get(reference, found.group(0)))

    made: Document = _replaced(run, value_of)
    metadata = dict(made.get("metadata") or {})
    return {**made, "metadata": metadata | {"name": name, "namespace": namespace}}


def _replaced(value: Any, value_of: Any) -> Any:
    if isinstance(value, str):
        return _PLACEHOLDER.sub(value_of, value)
    if isinstance(value, dict):
        return {key: _replaced(child, value_of) for key, child in value.items()}
    if isinstance(value, list):
        return [_replaced(child, value_of) for child in value]
    return value


def optimization_search(job: Document) -> tuple[Search, Objective]:
    """What an OptimizationJob asks for. ValueError."""
    spec = job["spec"]
    algorithm = spec.get("searchAlgorithm") or {}
    seed = (algorithm.get("random") or {}).get("seed")
    [objective] = spec["objectives"]
    parameters = []
    for given in spec["parameters"]:
        name, space = given["name"], given["searchSpace"]
        where = f"spec.parameters[{name}].searchSpace"
        if "categorical" in space:
            choices = tuple(space["categorical"]["choices"])
            parameters.append(Parameter(name, CATEGORICAL, choices=choices))
            continue
        [(scale, limits)] = space.items()
        kind = INT if limits.get("type") == "Int" else DOUBLE
        low, high = float(limits["min"]), float(limits["max"])
        parameters.append(_ranged(name, kind, low, high, 0.0, scale == "logUniform", where))
    maximize = objective.get("direction") == "Maximize"
    search = Search(
        GRID if "grid" in algorithm else RANDOM,
        tuple(parameters),
        maximize,
        int(spec.get("parallelTrials", 1)),
        int(spec.get("numTrials", 1)),
        str(job["metadata"].get("uid", "") if seed is None else seed),
    )
    metric = objective["metric"]
    return search, Objective(metric, maximize, (), {metric: "latest"})


def numbered(document: Document) -> tuple[int, Assignment] | None:
    """A trial's number and assignment; None if it is not one of ours."""
    text = (document["metadata"].get("annotations") or {}).get(TRIAL)
    try:
        number, pairs = orjson.loads(text or "")
        return int(number), tuple((str(k), str(v)) for k, v in pairs)
    except (orjson.JSONDecodeError, TypeError, ValueError):
        return None


def number_text(number: int, assignment: Assignment) -> str:
    return orjson.dumps([number, list(assignment)]).decode()


def value_of(observation: Document | None, objective: Objective) -> float | None:
    """The objective's value in an observation (``metrics[]`` of name, latest, min, max)."""
    for metric in (observation or {}).get("metrics") or ():
        if metric.get("name") == objective.metric:
            try:
                value = float(metric[objective.strategy(objective.metric)])
            except (KeyError, ValueError):
                return None
            return value if math.isfinite(value) else None  # as nodes read metrics
    return None


def observation_of(
    pods: Iterable[Document], trainjob: Document | None, names: Iterable[str]
) -> list[Document]:
    """Metrics by name: what nodes have read from pods' output, and what the program has reported
    to the TrainJob itself, which counts if there is both."""
    found: dict[str, Document] = {}
    for pod in pods:
        for condition in (pod.get("status") or {}).get("conditions") or ():
            if condition.get("type") == METRICS_READ:
                for name, values in orjson.loads(condition.get("message") or "{}").items():
                    found[name] = {"name": name, **values}
    reported = (((trainjob or {}).get("status") or {}).get("trainerStatus") or {}).get("metrics")
    for metric in reported or ():
        name, value = metric.get("name", ""), str(metric.get("value", ""))
        before = found.get(name)
        least, most = (_extreme(before, key, value) for key in ("min", "max"))
        found[name] = {"name": name, "latest": value, "min": least, "max": most}
    return [found[name] for name in names if name in found]


def _extreme(before: Document | None, key: str, value: str) -> str:
    try:
        pick = min if key == "min" else max
        return value if before is None else str(pick(before[key], value, key=float))
    except ValueError:
        return value
