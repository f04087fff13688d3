"""When a node is under pressure, and which threshold is to be acted on. Pure.

Source: ``eviction_manager.go`` (synchronize) and its helpers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kubarium.node.eviction.usage import CONDITION_OF, Signal
from kubarium.node.kubelet_config import MEMORY, Threshold


class Pressure:
    """The thresholds of one node over time.

    A condition holds from the first look that finds a threshold met until none has been for
    ``transition_s``. A threshold is acted on once it has been met for its grace period, and from
    then on until there is ``minimum_reclaim`` more than it asks for.
    """

    def __init__(self, thresholds: Sequence[Threshold], transition_s: float) -> None:
        self._thresholds = thresholds
        self._transition_s = transition_s
        self._met_since: dict[Threshold, float] = {}
        self._acted_on: tuple[Threshold, ...] = ()
        self._last_seen: dict[str, float] = {}
        self.conditions: tuple[str, ...] = ()

    def step(self, signals: Mapping[str, Signal], now: float) -> Threshold | None:
        """Take one look; the threshold to act on, memory before everything else."""
        met = [t for t in self._thresholds if _is_met(t, signals, reclaim=False)]
        met += [t for t in self._acted_on if t not in met and _is_met(t, signals, reclaim=True)]
        self._met_since = {t: self._met_since.get(t, now) for t in met}
        for threshold in met:
            self._last_seen[CONDITION_OF[threshold.signal]] = now
        self.conditions = tuple(
            condition
            for condition in dict.fromkeys(CONDITION_OF.values())
            if condition in self._last_seen
            and (now - self._last_seen[condition] < self._transition_s or self._holds(condition))
        )
        due = [t for t, since in self._met_since.items() if now - since >= t.grace_s]
        self._acted_on = tuple(due)
        # Hard ones first among equals: they leave less time.
        return min(due, key=lambda t: (t.signal != MEMORY, t.grace_s), default=None)

    def _holds(self, condition: str) -> bool:
        return any(CONDITION_OF[t.signal] == condition for t in self._met_since)


def _is_met(threshold: Threshold, signals: Mapping[str, Signal], reclaim: bool) -> bool:
    signal = signals.get(threshold.signal)
    if signal is None:
        return False
    least = threshold.value.of(signal.capacity)
    if reclaim:
        least += threshold.minimum_reclaim.of(signal.capacity)
    return signal.available < least
