"""Why something was not placed: counted reasons, rendered only when someone reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kubarium.engine import reasons
from kubarium.engine.model import Key

# What suggestions may be about. Part of the documented JSON: names stay.
KINDS = (
    "add-devices",
    "add-node",
    "add-node-at",
    "add-resource",
    "add-storage",
    "add-volume",
    "allow-preemption",
    "cache-data",
    "change-device-selector",
    "change-scheduler",
    "combination",
    "complete-pool",
    "correct-affinity",
    "correct-capacity",
    "correct-data",
    "correct-resource",
    "correct-selector",
    "correct-topology-key",
    "count-devices",
    "free-pod",
    "free-pods",
    "guard-device-class",
    "guard-device-selector",
    "lower-capacity",
    "lower-count",
    "lower-min-count",
    "lower-min-domains",
    "lower-min-group-count",
    "lower-min-resources",
    "lower-request",
    "move-volume",
    "prefer-data",
    "raise-priority",
    "raise-quota",
    "raise-skew",
    "relax-device-class",
    "remove-affinity",
    "remove-affinity-clause",
    "remove-capacity",
    "remove-constraint",
    "remove-device-selector",
    "remove-feature",
    "remove-gate",
    "remove-pod-affinity",
    "remove-pod-anti-affinity",
    "remove-port",
    "remove-selector",
    "remove-spread",
    "remove-topology",
    "restore-node",
    "tolerate-device-taint",
    "tolerate-taint",
    "uncordon",
    "upgrade-node",
    "upgrade-nodes",
    "wait-for-device",
)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One change that, made alone, would let the subject be placed.

    ``kind`` is one of KINDS. ``subject`` is the resource, class, clause, taint or pods it is about,
    ``amount`` a count or, for resources, a quantity in the engine's unit (milli-cpu, bytes,
    counts). A ``combination`` has ``parts``, which help only together.
    """

    kind: str
    text: str
    subject: str = ""
    node: str = ""
    amount: int = 0
    parts: tuple[Suggestion, ...] = ()


class NodeReasons(Mapping[str, tuple[str, ...]]):
    """Node to reasons, as one small number for each row: thousands of nodes share a few reasons."""

    __slots__ = ("_codes", "_counts", "_rows", "_sets")

    def __init__(
        self,
        rows: Mapping[str, int],
        codes: NDArray[np.int32],
        sets: list[tuple[str, ...]],
        alive: NDArray[np.bool_],
    ) -> None:
        """``codes`` holds, for each row, an index into ``sets``; ``rows`` is copied."""
        self._rows = dict(rows)
        self._codes = codes
        self._sets = sets
        self._counts: list[int] = np.bincount(codes[alive], minlength=len(sets)).tolist()

    def __getitem__(self, node: str) -> tuple[str, ...]:
        return self._sets[int(self._codes[self._rows[node]])]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def mask(self, holds: Callable[[tuple[str, ...]], bool]) -> NDArray[np.bool_]:
        """The rows of which ``holds`` is true of the reasons."""
        rows: NDArray[np.bool_] = np.array([holds(why) for why in self._sets], np.bool_)[
            self._codes
        ]
        return rows

    def tally(self, holds: Callable[[tuple[str, ...]], bool]) -> int:
        """The number of nodes for whose reasons ``holds`` is true."""
        return sum(n for n, why in zip(self._counts, self._sets, strict=True) if holds(why))

    def counts(self) -> dict[str, int]:
        """The number of nodes for each reason."""
        found: dict[str, int] = {}
        for number, why in zip(self._counts, self._sets, strict=True):
            for reason in why if number else ():
                found[reason] = found.get(reason, 0) + number
        return found


_NOWHERE = NodeReasons({}, np.zeros(0, np.int32), [()], np.zeros(0, np.bool_))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The account of one pod that fits nowhere.

    ``counts`` says for how many nodes each reason came up; a node counts once for each resource
    that it lacks, and otherwise under the first filter that it fails. ``everywhere`` is a reason
    that holds before any node is looked at; with ``failed`` it is an error, of the plugin that this
    names. ``claims`` and ``preemption`` are what DynamicResources and DefaultPreemption say of a
    pod for which nothing can be freed, ``lacking`` what it would be without on some node whose pods
    of lower priority had gone. ``detail`` are sentences of ours after those of upstream.
    """

    pod: Key
    nodes: int
    counts: Mapping[str, int] = field(default_factory=dict)
    everywhere: str = ""
    claims: str = ""
    preemption: str = ""
    failed: str = ""
    by_node: NodeReasons = field(default_factory=lambda: _NOWHERE)
    detail: tuple[str, ...] = ()
    lacking: frozenset[str] = frozenset()

    def message(self) -> str:
        """kube-scheduler's text, as in the PodScheduled condition and FailedScheduling events."""
        if self.failed:
            return reasons.filter_failed(self.failed, self.everywhere)
        if not self.nodes:
            return reasons.NO_NODES
        if self.everywhere:
            head = f"0/{self.nodes} nodes are available: {self.everywhere}."
        else:
            head = reasons.availability(self.nodes, dict(self.counts))
        after = [self.claims] if self.claims else []
        if self.preemption:
            after.append(f"preemption: {self.preemption}")
        found = (head, ", ".join(after), *self.detail)
        return " ".join(text for text in found if text)


@dataclass(frozen=True, slots=True)
class GangVerdict:
    """The account of a gang that was not started: how many found room, and why the next did not.

    ``exact`` says that ``placed`` is proven to be the most that can be placed. ``tried`` is not 0
    when the search was given up undecided after so many placements: then nothing is proven. For a
    composite, ``needed`` and ``placed`` count child groups, and ``children`` are the verdicts of
    those that found no room beside the others.
    """

    gang: Key
    needed: int
    placed: int
    exact: bool
    first_failure: Verdict | None = None
    waiting: str = ""
    domain: str = ""
    tried: int = 0
    composite: bool = False
    children: tuple[GangVerdict, ...] = ()

    @property
    def undecided(self) -> bool:
        """Whether an arrangement may exist that was not tried."""
        return self.tried > 0

    def message(self) -> str:
        if self.waiting:
            return self.waiting
        text = self.summary()
        # Upstream's sentence first: it is what people search for.
        return f"{self.first_failure.message()} {text}." if self.first_failure else text

    def summary(self) -> str:
        """The group's own sentence, and those of the child groups that failed."""
        if self.composite:
            text = reasons.composite_too_large(self.needed, self.placed)
        else:
            text = reasons.gang_too_large(self.needed, self.placed, self.exact)
        if self.domain:
            text = f"{text} within {self.domain}"
        if self.undecided:
            text = f"{text}; {reasons.undecided(self.tried)}"
        kind = "composite pod group" if self.composite else "pod group"
        text = f"{kind} {self.gang[1]}: {text}"
        behind = "; ".join(child.waiting or child.summary() for child in self.children)
        return f"{text} ({behind})" if behind else text
