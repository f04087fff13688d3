"""Durations as Kubernetes and Go write them."""

from __future__ import annotations

import contextlib
import re
from functools import lru_cache

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]*\.?[0-9]+)(ns|us|µs|ms|s|m|h)")


@lru_cache(maxsize=1024)
def duration_s(text: str) -> float:
    """Seconds of a Go duration or a plain number; ValueError otherwise.

    >>> duration_s("1m30s"), duration_s("250ms"), duration_s("5")
    (90.0, 0.25, 5.0)
    """
    parts = _PART.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
    with contextlib.suppress(ValueError):
        value = float(text)
        if 0 <= value < float("inf"):
            return value
    raise ValueError(f"{text!r} is no duration; write it as 30s, 1m30s or 5 (seconds)")
