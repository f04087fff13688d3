"""One search, decided: how many trials to begin, whether it is over, and which trial is best.

Source: Katib ``experiment/util/status_util.go`` and ``experiment_controller.go``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kubarium.engine.tuning.space import Assignment, Parameter
from kubarium.engine.tuning.suggest import STARTUP_TRIALS, Observed, suggest

CREATED, RUNNING, SUCCEEDED, FAILED = "Created", "Running", "Succeeded", "Failed"
KILLED, METRICS_UNAVAILABLE = "Killed", "MetricsUnavailable"
# Trials in these states still take a place of the parallel ones.
ACTIVE = (CREATED, RUNNING)

GOAL, MOST_TRIALS, MOST_FAILED, EXHAUSTED = "goal", "most trials", "most failed", "exhausted"


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked for. ``most`` and ``most_failed`` None: no limit. ``goal``: of the metric."""

    algorithm: str
    parameters: tuple[Parameter, ...]
    maximize: bool
    parallel: int
    most: int | None
    seed: str
    most_failed: int | None = None
    goal: float | None = None
    startup: int = STARTUP_TRIALS


@dataclass(frozen=True, slots=True)
class Trial:
    """``value`` of the objective; None while there is none."""

    name: str
    number: int
    assignment: Assignment
    state: str
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """``begin``: numbers and assignments of new trials. ``end`` is why it is over, or ""."""

    begin: tuple[tuple[int, Assignment], ...]
    end: str
    best: Trial | None


def decide(search: Search, trials: Sequence[Trial]) -> Decision:
    """What to do now. ValueError for a space that the algorithm cannot search."""
    best = best_of(search, trials)
    active = [t for t in trials if t.state in ACTIVE]
    failed = sum(t.state in (FAILED, METRICS_UNAVAILABLE) for t in trials)
    over = len(trials) - len(active)
    if best is not None and _reaches(search, best):
        return Decision((), GOAL, best)
    if search.most_failed is not None and failed and failed >= search.most_failed:
        return Decision((), MOST_FAILED, best)
    if search.most is not None and over >= search.most:
        return Decision((), MOST_TRIALS, best)
    room = search.parallel - len(active)
    if search.most is not None:
        room = min(room, search.most - len(trials))
    first = max((t.number for t in trials), default=-1) + 1
    seen = [
        Observed(t.assignment, -t.value if search.maximize else t.value)
        for t in sorted(trials, key=lambda t: t.number)
        if t.value is not None and t.state == SUCCEEDED
    ]
    begin = []
    for number in range(first, first + max(room, 0)):
        point = suggest(
            search.algorithm, search.parameters, search.seed, number, seen, search.startup
        )
        if point is None:
            break
        begin.append((number, point))
    end = EXHAUSTED if room > 0 and not begin and not active else ""
    return Decision(tuple(begin), end, best)


def best_of(search: Search, trials: Sequence[Trial]) -> Trial | None:
    """The trial with the best value so far, the earliest of equals; running ones count too."""
    found = [t for t in trials if t.value is not None and t.state in (SUCCEEDED, RUNNING)]
    sign = -1.0 if search.maximize else 1.0
    return min(found, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)


def _reaches(search: Search, trial: Trial) -> bool:
    if search.goal is None or trial.value is None:
        return False
    return trial.value >= search.goal if search.maximize else trial.value <= search.goal
