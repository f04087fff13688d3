"""What may be tried: parameters with their feasible values.

Values are strings, as they are put into a trial's template.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kubarium.base.chance import Chance

DOUBLE, INT, DISCRETE, CATEGORICAL = "double", "int", "discrete", "categorical"
Assignment = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Parameter:
    """``choices`` for discrete and categorical ones; else ``low`` to ``high``, both included, in
    multiples of ``step`` from ``low`` (0: any), on a logarithmic scale if ``log``."""

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    log: bool = False
    choices: tuple[str, ...] = ()

    def draw(self, chance: Chance) -> str:
        """Any feasible value, evenly on the parameter's scale."""
        if self.choices:
            return self.choices[chance.below(len(self.choices))]
        if self.kind == INT and not self.log:
            step = int(self.step) or 1
            return str(int(self.low) + step * chance.below(int(self.high - self.low) // step + 1))
        return self.at(chance.uniform(self.scaled(self.low), self.scaled(self.high)))

    def scaled(self, value: float) -> float:
        """Where a value lies on the parameter's scale."""
        return math.log(value) if self.log else value

    def at(self, place: float) -> str:
        """The feasible value nearest to a place on the scale."""
        value = math.exp(place) if self.log else place
        if self.kind == INT or self.step:
            step = self.step or 1.0
            count = round((value - self.low) / step)
            most = math.floor((self.high - self.low) / step + 1e-9)
            value = self.low + min(max(count, 0), most) * step
        value = min(max(value, self.low), self.high)
        return str(round(value)) if self.kind == INT else f"{value:.12g}"

    def grid_size(self) -> int:
        """How many values a grid has of it; ValueError if they cannot be counted."""
        if self.choices:
            return len(self.choices)
        return math.floor((self.high - self.low) / self._grid_step() + 1e-9) + 1

    def grid_value(self, index: int) -> str:
        """The ``index``-th of them, in order."""
        if self.choices:
            return self.choices[index]
        value = self.low + index * self._grid_step()
        return str(round(value)) if self.kind == INT else f"{value:.12g}"

    def _grid_step(self) -> float:
        step = self.step or (1.0 if self.kind == INT else 0.0)
        if not step:
            raise ValueError(
                f"parameter {self.name}: a grid needs feasibleSpace.step for a {self.kind} "
                "(or a list of values, or another algorithm)"
            )
        return step


def grid_point(parameters: Sequence[Parameter], number: int) -> Assignment | None:
    """The ``number``-th point of the grid, the last parameter running fastest; None beyond its
    end. ValueError as for :meth:`Parameter.grid_size`."""
    found = []
    for parameter in reversed(parameters):
        number, index = divmod(number, parameter.grid_size())
        found.append((parameter.name, parameter.grid_value(index)))
    return None if number else tuple(reversed(found))


def random_point(parameters: Sequence[Parameter], chance: Chance) -> Assignment:
    """A point drawn from the whole space."""
    return tuple((parameter.name, parameter.draw(chance)) for parameter in parameters)
