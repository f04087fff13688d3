"""Ranks that make no progress: how a job asks for the watch, and how the node says it. Pure.

    kubarium.dev/hang-timeout: 30s       no step, output or checkpoint for so long is a hang
    kubarium.dev/hang-policy: restart    give the rank that hangs up (report: only say so)

A rank that was stopped by a signal is named much sooner: no timeout is needed to know it.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubarium.api.resource import Document
from kubarium.base.duration import duration_s

TIMEOUT = "kubarium.dev/hang-timeout"
POLICY = "kubarium.dev/hang-policy"
RESTART, REPORT = "restart", "report"

# One condition of the pod for each container that stalls: the prefix and the container's name.
STALLED = "stalled.kubarium.dev/"
STOPPED, NO_PROGRESS = "Stopped", "NoProgress"


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
    seconds = seconds_of(text)
    if seconds is None or seconds <= 0:
        raise ValueError(f"annotation {TIMEOUT}: {text!r} is no positive duration, as 30s or 5m")
    return HangPolicy(seconds, what == RESTART)


def seconds_of(text: str) -> float | None:
    """Seconds of ``500ms``, ``30s``, ``1m30s``; None if it is none. A unit is asked for."""
    try:
        return None if text[-1:].isdigit() else duration_s(text)
    except ValueError:
        return None
