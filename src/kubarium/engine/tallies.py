"""How many pods that a selector speaks of are on each node, kept current pod by pod.

Topology spread and inter-pod (anti-)affinity ask only for such counts. A tally is made on first
use by one pass over all pods; from then on, each pod that comes or goes changes one number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.model import Pod, PodTerm

Counts = NDArray[np.int64]

# Tallies of selectors that nobody has asked for in a while are dropped beyond this many.
MAX_TALLIES = 512


class Tallies:
    """Vectors over the snapshot's rows. ``namespaces`` are the labels of each namespace."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.namespaces: dict[str, Mapping[str, str]] = {}
        # Pods that all of some terms speak of; those that are ending count or, if staying, do not.
        self._selected: dict[tuple[bool, tuple[PodTerm, ...]], Counts] = {}
        # Pods that themselves carry a term, and the weights of preferred ones. No vector is all
        # zeros: a term that nobody carries any more is not there.
        self.anti_holders: dict[PodTerm, Counts] = {}
        self.weight_holders: dict[PodTerm, Counts] = {}
        # Required affinity terms count in scores too, with a weight that the profile sets.
        self.hard_holders: dict[PodTerm, Counts] = {}

    def grow(self, rows: int) -> None:
        """Make room for more rows."""
        for book in (
            self._selected,
            self.anti_holders,
            self.weight_holders,
            self.hard_holders,
        ):
            for key, old in book.items():
                new = np.zeros(rows, np.int64)
                new[: len(old)] = old
                book[key] = new  # type: ignore[index]
        self._rows = rows

    def speaks_of(self, term: PodTerm, pod: Pod) -> bool:
        return term.selects(pod.namespace, pod.labels, self.namespaces.get(pod.namespace, {}))

    def selected(
        self, terms: tuple[PodTerm, ...], placed: Iterable[tuple[Pod, int]], *, staying: bool
    ) -> Counts:
        """Per row, the pods that every term speaks of.

        With ``staying`` terminating pods do not count: topology spread looks past them, while
        (anti-)affinity sees them until they are gone.
        """
        key = (staying, terms)
        known = self._selected.pop(key, None)
        if known is None:
            known = np.zeros(self._rows, np.int64)
            for pod, row in placed:
                if not (staying and pod.terminating) and self._all_speak_of(terms, pod):
                    known[row] += 1
        self._selected[key] = known  # most recently used last
        if len(self._selected) > MAX_TALLIES:
            del self._selected[next(iter(self._selected))]
        return known

    def _all_speak_of(self, terms: tuple[PodTerm, ...], pod: Pod) -> bool:
        return all(self.speaks_of(term, pod) for term in terms)

    def add(self, pod: Pod, row: int) -> None:
        self._change(pod, row, 1)

    def remove(self, pod: Pod, row: int) -> None:
        self._change(pod, row, -1)

    def reset_selected(self) -> None:
        """A namespace's labels changed: who is selected may have changed everywhere."""
        self._selected.clear()

    def _change(self, pod: Pod, row: int, sign: int) -> None:
        for (staying, terms), counts in self._selected.items():
            if not (staying and pod.terminating) and self._all_speak_of(terms, pod):
                counts[row] += sign
        shape = pod.shape
        if shape.pod_anti_affinity or shape.pod_affinity or shape.pod_preferred:
            for term in shape.pod_anti_affinity:
                self._hold(self.anti_holders, term, row, sign)
            for term in shape.pod_affinity:
                self._hold(self.hard_holders, term, row, sign)
            for weighted in shape.pod_preferred:
                self._hold(self.weight_holders, weighted.term, row, sign * weighted.weight)

    def _hold(self, book: dict[PodTerm, Counts], term: PodTerm, row: int, amount: int) -> None:
        counts = book.get(term)
        if counts is None:
            counts = book[term] = np.zeros(self._rows, np.int64)
        counts[row] += amount
        if not counts[row] and not counts.any():
            del book[term]

    def check(self, placed: Iterable[tuple[Pod, int]]) -> None:
        """Raise AssertionError unless all is as if counted anew."""
        pods = list(placed)
        anew = Tallies(self._rows)
        anew.namespaces = self.namespaces
        for pod, row in pods:
            anew.add(pod, row)
        for name in ("anti_holders", "weight_holders", "hard_holders"):
            mine, other = getattr(self, name), getattr(anew, name)
            assert mine.keys() == other.keys(), f"{name}: terms that no pod carries, or others"
            assert all((mine[term] == other[term]).all() for term in mine), name
        for (staying, terms), counts in self._selected.items():
            again = anew.selected(terms, pods, staying=staying)
            assert (counts == again).all(), f"{terms} selects others"
