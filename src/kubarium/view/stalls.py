"""Ranks that make no progress: how a job asks for the watch, and how the node says it. Pure.

    kubarium.dev/hang-timeout: 30s       no step, output or checkpoint for so long is a hang
    kubarium.dev/hang-policy: restart    give the rank that hangs up (report: only say so)

A rank that was stopped by a signal is named much sooner: no timeout is needed to know it.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubarium.api.resource import Document
from kubarium.base.quantity import parse_quantity

TIMEOUT = "kubarium.dev/hang-timeout"
POLICY = "kubarium.dev/hang-policy"
RESTART, REPORT = "restart", "report"

# One condition of the pod for each container that stalls: the prefix and the container's name.
STALLED = "stalled.kubarium.dev/"
STOPPED, NO_PROGRESS = "Stopped", "NoProgress"

_UNITS = {"ms": "0.001", "s": "1", "m": "60", "h": "3600"}


@dataclass(frozen=True, slots=True)
class HangPolicy:
    """``timeout_s`` None: not watched."""

    timeout_s: float | None = None
    restarts: bool = True


def hang_policy(pod: Document) -> HangPolicy:
    """The pod's policy; ValueError names the annotation, its value and the way out."""
    annotations = pod["metadata"].get("annotations") or {}
    text = annotations.get(TIMEOUT)
    what = annotations.get(POLICY, RESTART)
    if what not in (RESTART, REPORT):
        raise ValueError(f"annotation {POLICY}: {what!r} is not one of {RESTART}, {REPORT}")
    if text is None:
        return HangPolicy(None, what == RESTART)
    seconds = duration_s(text)
    if seconds is None or seconds <= 0:
        raise ValueError(f"annotation {TIMEOUT}: {text!r} is no positive duration, as 30s or 5m")
    return HangPolicy(seconds, what == RESTART)


def duration_s(text: str) -> float | None:
    """Seconds of ``500ms``, ``30s``, ``5m``, ``2h``; None if it is none of these."""
    number = text.rstrip("hms")
    unit = _UNITS.get(text[len(number) :])
    try:
        return None if unit is None else float(parse_quantity(number) * parse_quantity(unit))
    except ValueError:
        return None
