"""The clock protocol. Nothing but ``cluster`` chooses which clock runs.

Times are seconds since the Unix epoch as float. The virtual clock (``runtime.virtual``) and the
real one (``cluster``) both satisfy :class:`Clock`, so that code under it cannot tell which it has.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import floor
from typing import Protocol


class Clock(Protocol):
    """Three questions that time answers."""

    def now(self) -> float:
        """Seconds since the epoch; what timestamps are made from."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back; what durations are made from."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass; 0 yields to other tasks once."""
        ...


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_S = (datetime(1000, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds()
_LAST_S = (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH).total_seconds()


def rfc3339(seconds: float) -> str:
    """``metav1.Time``: whole seconds, UTC, as Kubernetes prints them.

    Moments outside the years 1000 to 9999, which it has no words for, become the nearest within.

    >>> rfc3339(0)
    '1970-01-01T00:00:00Z'
    """
    if not _FIRST_S <= seconds <= _LAST_S:
        seconds = max(_FIRST_S, min(seconds, _LAST_S))
    return _rfc3339_of(int(seconds))


@lru_cache(maxsize=1024)
def _rfc3339_of(seconds: int) -> str:
    """Many objects are stamped in the same second."""
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(seconds: float) -> str:
    """``metav1.MicroTime``: microseconds, UTC (Leases, events.k8s.io).

    >>> rfc3339_micro(1.5)
    '1970-01-01T00:00:01.500000Z'
    """
    if not _FIRST_S <= seconds <= _LAST_S:
        seconds = max(_FIRST_S, min(seconds, _LAST_S))
    whole = floor(seconds)
    micros = round((seconds - whole) * 1e6)
    if micros == 1_000_000:
        whole, micros = whole + 1, 0
    return f"{_rfc3339_of(whole)[:-1]}.{micros:06d}Z"


@lru_cache(maxsize=1024)
def parse_rfc3339(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 timestamp; ValueError if it is not one.

    >>> parse_rfc3339("1970-01-01T00:01:00Z")
    60.0
    """
    return datetime.fromisoformat(text).timestamp()
