"""The next assignment to try: random, grid, or a tree-structured Parzen estimator.

TPE (Bergstra et al., NeurIPS 2011): trials so far are split into the best quarter and the rest;
each parameter gets a density of either, and of some draws from the good density the one is taken
that the other finds least likely. Parameters are treated as independent, as Katib's ``tpe`` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kubarium.base.chance import Chance
from kubarium.engine.tuning.space import Assignment, Parameter, grid_point, random_point

RANDOM, GRID, TPE = "random", "grid", "tpe"
ALGORITHMS = (RANDOM, GRID, TPE)
# Trials drawn at random before there is anything to learn from, and draws to choose from.
STARTUP_TRIALS, CANDIDATES = 10, 24
GOOD_SHARE, MOST_GOOD = 0.25, 25


@dataclass(frozen=True, slots=True)
class Observed:
    """A finished trial; less ``loss`` is better."""

    assignment: Assignment
    loss: float


def suggest(
    algorithm: str,
    parameters: Sequence[Parameter],
    seed: str,
    number: int,
    observed: Sequence[Observed] = (),
    startup: int = STARTUP_TRIALS,
) -> Assignment | None:
    """What the ``number``-th trial is to try; None if there is nothing left. The same arguments
    give the same answer. ValueError for a space that the algorithm cannot search."""
    if algorithm == GRID:
        return grid_point(parameters, number)
    chance = Chance(f"{seed}/{number}")
    if algorithm == RANDOM or len(observed) < startup:
        return random_point(parameters, chance)
    ranked = sorted(observed, key=lambda o: o.loss)
    count = min(math.ceil(GOOD_SHARE * len(ranked)), MOST_GOOD)
    return tuple(
        (
            parameter.name,
            _best_of(
                parameter,
                [dict(o.assignment)[parameter.name] for o in ranked[:count]],
                [dict(o.assignment)[parameter.name] for o in ranked[count:]],
                chance,
            ),
        )
        for parameter in parameters
    )


def _best_of(parameter: Parameter, good: list[str], rest: list[str], chance: Chance) -> str:
    if parameter.choices:
        return _best_choice(parameter, good, rest, chance)
    low, high = parameter.scaled(parameter.low), parameter.scaled(parameter.high)
    likely, unlikely = (
        _Parzen(low, high, [parameter.scaled(float(value)) for value in values])
        for values in (good, rest)
    )
    draws = [likely.draw(chance) for _ in range(CANDIDATES)]
    return parameter.at(max(draws, key=lambda x: likely.log_density(x) - unlikely.log_density(x)))


def _best_choice(parameter: Parameter, good: list[str], rest: list[str], chance: Chance) -> str:
    """Counts, each choice having been seen once before."""
    weights = [1 + good.count(choice) for choice in parameter.choices]
    scores = [
        weight / (1 + rest.count(choice))
        for choice, weight in zip(parameter.choices, weights, strict=True)
    ]
    draws = [_weighted(weights, chance) for _ in range(CANDIDATES)]
    return parameter.choices[max(draws, key=lambda index: scores[index])]


def _weighted(weights: Sequence[float], chance: Chance) -> int:
    left = chance.uniform(0, sum(weights))
    for index, weight in enumerate(weights):
        left -= weight
        if left <= 0:
            return index
    return len(weights) - 1


class _Parzen:
    """A normal around each point and a wide one around the middle, within limits."""

    def __init__(self, low: float, high: float, points: Sequence[float]) -> None:
        self._low, self._high = low, high
        self._width = max(high - low, 1e-12)
        self._points = [(low + high) / 2, *sorted(points)]
        inner = self._points[1:]
        least = self._width / min(100, 1 + len(self._points))
        self._spreads = [self._width]
        for index, point in enumerate(inner):
            left = point - (inner[index - 1] if index else low)
            right = (inner[index + 1] if index + 1 < len(inner) else high) - point
            self._spreads.append(min(max(left, right, least), self._width))

    def draw(self, chance: Chance) -> float:
        index = chance.below(len(self._points))
        for _ in range(100):
            radius = math.sqrt(-2 * math.log(1 - chance.uniform(0, 0.999999)))
            angle = math.cos(2 * math.pi * chance.uniform(0, 1))
            value = self._points[index] + self._spreads[index] * radius * angle
            if self._low <= value <= self._high:
                return value
        return self._points[index]

    def log_density(self, place: float) -> float:
        total = 0.0
        for point, spread in zip(self._points, self._spreads, strict=True):
            inside = _normal(self._high, point, spread) - _normal(self._low, point, spread)
            height = math.exp(-(((place - point) / spread) ** 2) / 2) / spread
            total += height / max(inside, 1e-12)
        return math.log(max(total, 1e-300))


def _normal(place: float, middle: float, spread: float) -> float:
    return (1 + math.erf((place - middle) / (spread * math.sqrt(2)))) / 2
