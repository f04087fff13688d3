"""Durations for people, as apimachinery's ``pkg/util/duration`` shortens them."""

from __future__ import annotations

from typing import Any

from kubarium.base.clock import parse_rfc3339

UNKNOWN = "<unknown>"
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def human(seconds: float) -> str:
    """Two or three significant figures; up to two seconds in the future count as now.

    >>> human(119), human(125), human(7 * 3600 + 59), human(50 * 3600), human(400 * 86400)
    ('119s', '2m5s', '7h', '2d2h', '400d')
    """
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 0:
        return "0s"
    if whole < 2 * _MINUTE:
        return f"{whole}s"
    if whole < 10 * _MINUTE:
        return _two(whole // _MINUTE, "m", whole % _MINUTE, "s")
    if whole < 3 * _HOUR:
        return f"{whole // _MINUTE}m"
    if whole < 8 * _HOUR:
        return _two(whole // _HOUR, "h", whole // _MINUTE % 60, "m")
    return _long(whole // _HOUR)


def _long(hours: int) -> str:
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 2 * 365:
        return f"{days}d"
    if days < 8 * 365:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(large: int, unit: str, small: int, small_unit: str) -> str:
    return f"{large}{unit}{small}{small_unit}" if small else f"{large}{unit}"


def seconds_of(timestamp: Any) -> float | None:
    """The time of a timestamp, or None if it is absent or not one."""
    if not isinstance(timestamp, str) or not timestamp:
        return None
    try:
        return parse_rfc3339(timestamp)
    except ValueError:
        return None


def since(timestamp: Any, now: float) -> str:
    """How long ago ``timestamp`` was, or ``<unknown>``."""
    seconds = seconds_of(timestamp)
    return UNKNOWN if seconds is None else human(now - seconds)
