"""Faults on purpose, as objects: what goes wrong, to whom, and when. Pure.

A Fault (``kubarium.dev/v1alpha1``) names an action, its target and a schedule. Times and victims
come from its seed alone, so that the same Fault hits the same ranks at the same moments again. How
an action reaches its victim is an annotation on the pod or node, which the node agent carries out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from kubarium.api.resource import Document
from kubarium.api.selectors import label_selector
from kubarium.base.chance import Chance

KILL, STOP, SLOW, OUT_OF_MEMORY = "Kill", "Stop", "Slow", "OutOfMemory"
CORRUPT_FILE, LOSE_NODE, DEVICE_UNHEALTHY = "CorruptFile", "LoseNode", "DeviceUnhealthy"
POD_ACTIONS = (KILL, STOP, SLOW, OUT_OF_MEMORY, CORRUPT_FILE)
NODE_ACTIONS = (LOSE_NODE, DEVICE_UNHEALTHY)

# The order to a node agent: JSON of an :class:`Order`, on the pod or node.
ORDER = "kubarium.dev/fault"
HEALTH = "kubarium.dev/device-health."
INDEX = "batch.kubernetes.io/job-completion-index"

# The share of a CPU that is left, and mebibytes beyond the limit.
DEFAULT_AMOUNTS = {SLOW: 0.1, OUT_OF_MEMORY: 64}
# Times that a Fault without ``times`` fires: once, unless it repeats.
UNLIMITED = 1 << 30


@dataclass(frozen=True, slots=True)
class Order:
    """One thing to do to a pod or node. ``ident`` is new for each: an order is carried out once.

    ``duration_s`` 0 is for good. ``amount`` is the share of CPU left (Slow) or mebibytes more than
    the limit (OutOfMemory).
    """

    ident: str
    action: str
    container: str = ""
    duration_s: float = 0.0
    amount: float = 0.0
    path: str = ""

    def text(self) -> str:
        """The annotation's value."""
        return orjson.dumps(self).decode()


def order_of(document: Document) -> Order | None:
    """The order on a pod or node; None without one, or with one that is not ours."""
    text = (document["metadata"].get("annotations") or {}).get(ORDER)
    if not text:
        return None
    try:
        return Order(**orjson.loads(text))
    except (orjson.JSONDecodeError, TypeError):
        return None


@dataclass(frozen=True, slots=True)
class Plan:
    """A Fault, read. ``every_s`` 0 with ``mean_s`` 0 fires once."""

    action: str
    selector: Document
    rank: int | None
    container: str
    duration_s: float
    amount: float
    path: str
    device: str
    after_s: float
    every_s: float
    mean_s: float
    times: int
    seed: int

    def moment(self, number: int) -> float | None:
        """Seconds after the Fault's creation of its ``number``-th injection (from 0), or None."""
        if number >= self.times:
            return None
        if not self.mean_s:
            return self.after_s + number * self.every_s
        chance, total = Chance(f"{self.seed}/moments"), self.after_s
        for _ in range(number + 1):
            total += -self.mean_s * math.log(1.0 - chance.uniform(0.0, 0.999999))
        return total

    def victim(self, candidates: Sequence[Document], number: int) -> Document | None:
        """Who is hit by the ``number``-th injection; candidates are taken in order of their rank
        and name, so that who came first does not matter."""
        order = sorted(candidates, key=lambda d: (rank_of(d), d["metadata"]["name"]))
        if not order:
            return None
        return order[Chance(f"{self.seed}/victims/{number}").below(len(order))]


def rank_of(document: Document) -> int:
    """A pod's completion index; 0 for anything else."""
    text = (document["metadata"].get("labels") or {}).get(INDEX, "0")
    return int(text) if text.isdigit() else 0


def plan_of(fault: Document) -> Plan:
    """Raises ValueError: field, value and way out."""
    spec = fault.get("spec") or {}
    action = spec.get("action", "")
    if action not in (*POD_ACTIONS, *NODE_ACTIONS):
        known = ", ".join((*POD_ACTIONS, *NODE_ACTIONS))
        raise ValueError(f"spec.action: {action!r} is not one of {known}")
    schedule = spec.get("schedule") or {}
    every, mean = _seconds(schedule, "everySeconds"), _seconds(schedule, "meanSecondsBetween")
    if every and mean:
        raise ValueError("spec.schedule: give everySeconds or meanSecondsBetween, not both")
    if action == CORRUPT_FILE and not spec.get("path"):
        raise ValueError("spec.path: is empty; CorruptFile needs a file or folder, as /checkpoints")
    if action == DEVICE_UNHEALTHY and "/" not in spec.get("device", ""):
        text = "write driver/device, as gpu.example.com/gpu-0"
        raise ValueError(f"spec.device: {spec.get('device', '')!r}: {text}")
    amount = float(spec.get("amount", DEFAULT_AMOUNTS.get(action, 0)))
    if action == SLOW and not 0 < amount < 1:
        raise ValueError(f"spec.amount: {amount} must be above 0 and below 1: the CPU that is left")
    times = int(schedule.get("times") or (UNLIMITED if every or mean else 1))
    return Plan(
        action,
        spec.get("selector") or {},
        spec.get("rank"),
        spec.get("container", ""),
        _seconds(spec, "durationSeconds"),
        amount,
        spec.get("path", ""),
        spec.get("device", ""),
        _seconds(schedule, "afterSeconds"),
        every,
        mean,
        times,
        int(schedule.get("seed", 0)),
    )


def _seconds(section: Mapping[str, Any], name: str) -> float:
    value = float(section.get(name) or 0)
    if value < 0:
        raise ValueError(f"{name}: {value} must not be negative")
    return value


def matches(plan: Plan, document: Document) -> bool:
    """Whether a pod or node may be hit: selected, of the rank asked for, and running."""
    labels = document["metadata"].get("labels") or {}
    if not label_selector(plan.selector).matches(labels):
        return False
    if plan.action in NODE_ACTIONS:
        return plan.rank is None
    if plan.rank is not None and (INDEX not in labels or rank_of(document) != plan.rank):
        return False
    running = (document.get("status") or {}).get("phase") == "Running"
    return running and "deletionTimestamp" not in document["metadata"]
