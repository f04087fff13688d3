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

from kubarium.api.labels import COMPLETION_INDEX
from kubarium.api.resource import Document
from kubarium.api.selectors import label_selector
from kubarium.base.chance import Chance
from kubarium.base.errors import ApiError

KILL, STOP, SLOW, OUT_OF_MEMORY = "Kill", "Stop", "Slow", "OutOfMemory"
CORRUPT_FILE, LOSE_NODE, DEVICE_UNHEALTHY = "CorruptFile", "LoseNode", "DeviceUnhealthy"
PARTITION, LOSS, DELAY = "Partition", "Loss", "Delay"
PARTITION_NODE, DISCONNECT_NODE = "PartitionNode", "DisconnectNode"
NETWORK_ACTIONS = (PARTITION, LOSS, DELAY)
POD_ACTIONS = (KILL, STOP, SLOW, OUT_OF_MEMORY, CORRUPT_FILE, *NETWORK_ACTIONS)
NODE_ACTIONS = (LOSE_NODE, DISCONNECT_NODE, PARTITION_NODE, DEVICE_UNHEALTHY)
# Done once and over; all others last for their duration, or until the Fault is deleted.
MOMENTARY = (KILL, OUT_OF_MEMORY, CORRUPT_FILE)
# What has another side.
BETWEEN = (PARTITION, LOSS, PARTITION_NODE)
ONE, ALL = "One", "All"
# Which actions heed which fields of a Fault's spec; those that are not here all do.
HEEDED_BY = {
    "container": (KILL, STOP, SLOW, OUT_OF_MEMORY, CORRUPT_FILE),
    "durationSeconds": (
        STOP,
        SLOW,
        OUT_OF_MEMORY,
        PARTITION,
        LOSS,
        DELAY,
        LOSE_NODE,
        DISCONNECT_NODE,
        PARTITION_NODE,
        DEVICE_UNHEALTHY,
    ),
    "amount": (SLOW, OUT_OF_MEMORY, LOSS, DELAY),
    "path": (CORRUPT_FILE,),
    "device": (DEVICE_UNHEALTHY,),
}

# Orders to a node agent, on the pod or node: this and the Fault's uid; the value is JSON of an
# :class:`Order`. One Fault never overwrites another's.
ORDER = "fault.kubarium.dev/"
HEALTH = "kubarium.dev/device-health."

# The share of a CPU that is left, mebibytes beyond the limit, the share of packets that is lost,
# and milliseconds that each takes longer.
DEFAULT_AMOUNTS = {SLOW: 0.1, OUT_OF_MEMORY: 64, LOSS: 0.3, DELAY: 100}
# Times that a Fault without ``times`` fires: once, unless it repeats.
UNLIMITED = 1 << 30
MAX_DELAY_MS = 60_000


@dataclass(frozen=True, slots=True)
class Order:
    """One thing to do to a pod or node. ``ident`` is new for each: an order is carried out once.

    ``at`` is when it was given. ``duration_s`` 0 is until it is healed: what lasts is undone when
    the order says ``healed``. ``amount`` is as in a Fault. ``peers`` selects the other side of a
    partition; None is everybody.
    """

    ident: str
    action: str
    container: str = ""
    duration_s: float = 0.0
    amount: float = 0.0
    path: str = ""
    at: float = 0.0
    peers: Document | None = None
    healed: bool = False

    @property
    def fault(self) -> str:
        """The uid of the Fault that it comes from."""
        return self.ident.partition("/")[0]

    @property
    def in_force(self) -> bool:
        """Whether it is something that lasts and is not over."""
        return self.action not in MOMENTARY and not self.healed

    def text(self) -> str:
        """The annotation's value."""
        return orjson.dumps(self).decode()


def orders_of(document: Document) -> list[Order]:
    """The orders on a pod or node, by their Fault; what is not ours is passed over."""
    found = []
    for key, text in sorted((document["metadata"].get("annotations") or {}).items()):
        if key.startswith(ORDER) and text:
            try:
                found.append(Order(**orjson.loads(text)))
            except (orjson.JSONDecodeError, TypeError):
                continue
    return found


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
    mode: str
    peers: Document | None
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
        order = _in_order(candidates)
        if not order:
            return None
        return order[Chance(f"{self.seed}/victims/{number}").below(len(order))]

    def victims(self, candidates: Sequence[Document], number: int) -> list[Document]:
        """Who is hit by the ``number``-th injection: one, or (mode All) whoever can be."""
        if self.mode == ALL:
            return _in_order(candidates)
        chosen = self.victim(candidates, number)
        return [] if chosen is None else [chosen]


def _in_order(candidates: Sequence[Document]) -> list[Document]:
    return sorted(candidates, key=lambda d: (rank_of(d), d["metadata"]["name"]))


def rank_of(document: Document) -> int:
    """A pod's completion index; 0 for anything else."""
    text = (document["metadata"].get("labels") or {}).get(COMPLETION_INDEX, "0")
    return int(text) if text.isdigit() else 0


def plan_of(fault: Document) -> Plan:
    """Raises ValueError: field, value and way out."""
    spec = fault.get("spec") or {}
    action = spec.get("action", "")
    if action not in (*POD_ACTIONS, *NODE_ACTIONS):
        known = ", ".join((*POD_ACTIONS, *NODE_ACTIONS))
        raise ValueError(f"spec.action: {action!r} is not one of {known}")
    schedule = spec.get("schedule") or {}
    every = _seconds(schedule, "spec.schedule", "everySeconds")
    mean = _seconds(schedule, "spec.schedule", "meanSecondsBetween")
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
    if action == LOSS and not 0 < amount <= 1:
        text = "must be above 0 and at most 1: the share of packets that is lost"
        raise ValueError(f"spec.amount: {amount} {text}")
    if action == DELAY and not 0 < amount <= MAX_DELAY_MS:
        text = f"must be above 0 and at most {MAX_DELAY_MS}: milliseconds"
        raise ValueError(f"spec.amount: {amount} {text}")
    peers = spec.get("peers")
    if peers is not None and action not in BETWEEN:
        raise ValueError(
            f"spec.peers: {action} has no other side; use it with {', '.join(BETWEEN)}"
        )
    rank = spec.get("rank")
    if rank is not None and action in NODE_ACTIONS:
        raise ValueError(f"spec.rank: {rank}: {action} hits nodes, which have none; use selector")
    mode = spec.get("mode") or ONE
    if mode not in (ONE, ALL):
        raise ValueError(f"spec.mode: {mode!r} is not one of {ONE}, {ALL}")
    for field, selector in (("selector", spec.get("selector")), ("peers", peers)):
        _check_selector(field, selector)
    times = schedule.get("times")
    if times is None:
        times = UNLIMITED if every or mean else 1
    if times < 1:
        raise ValueError(f"spec.schedule.times: {times} must be at least 1; leave it out for one")
    plan = Plan(
        action,
        spec.get("selector") or {},
        rank,
        spec.get("container", ""),
        _seconds(spec, "spec", "durationSeconds"),
        amount,
        spec.get("path", ""),
        spec.get("device", ""),
        mode,
        peers,
        _seconds(schedule, "spec.schedule", "afterSeconds"),
        every,
        mean,
        times,
        int(schedule.get("seed", 0)),
    )
    _refuse_unheeded(action, spec)
    return plan


class UnheededField(ValueError):
    """A field that the action does nothing with: it was meant for another one."""

    def __init__(self, field: str, value: object, action: str, heeded_by: Sequence[str]) -> None:
        super().__init__(
            f"spec.{field}: {value}: {action} does nothing with it; leave it out, or use "
            f"{', '.join(heeded_by)}"
        )
        self.field, self.value, self.action, self.heeded_by = field, value, action, heeded_by


def _refuse_unheeded(action: str, spec: Mapping[str, Any]) -> None:
    for field, actions in HEEDED_BY.items():
        value = spec.get(field)
        none = value in (None, "") or (field == "durationSeconds" and not value)
        if not none and action not in actions:
            raise UnheededField(field, value, action, actions)


def _check_selector(field: str, selector: Document | None) -> None:
    try:
        label_selector(selector or {})
    except ApiError as error:
        raise ValueError(f"spec.{field}: {error}") from None


def _seconds(section: Mapping[str, Any], where: str, name: str) -> float:
    value = float(section.get(name) or 0)
    if not 0 <= value < math.inf:
        what = "must not be negative" if value < 0 else "must be a number of seconds"
        raise ValueError(f"{where}.{name}: {value} {what}")
    return value


def matches(plan: Plan, document: Document) -> bool:
    """Whether a pod or node may be hit: selected, of the rank asked for, and running."""
    labels = document["metadata"].get("labels") or {}
    if not label_selector(plan.selector).matches(labels):
        return False
    if plan.action in NODE_ACTIONS:
        return True
    if plan.rank is not None and (COMPLETION_INDEX not in labels or rank_of(document) != plan.rank):
        return False
    running = (document.get("status") or {}).get("phase") == "Running"
    return running and "deletionTimestamp" not in document["metadata"]
