"""Cron schedules: five fields (or @hourly and the like), and when they come next. Pure.

The grammar is robfig/cron's standard parser, which Kubernetes uses: lists, ranges, steps, names of
months and days; day of month and day of week match either one when both are restricted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

_SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
# name, lowest, highest, names of values
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}),
    ("day of week", 0, 6, {name: number for number, name in enumerate(_DAYS)}),
)
# A schedule such as 30 February never comes; the search gives up after so many days.
_LONGEST_SEARCH_DAYS = 5 * 366


class ScheduleError(ValueError):
    """The text is not a cron schedule; the message names the field."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The allowed values of each field."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool

    def next_after(self, moment: float, zone: tzinfo) -> float | None:
        """The first time later than ``moment`` (seconds since the epoch); None if there is none.

        Local times that a change of the clock skips are skipped; repeated ones come once.
        """
        start = datetime.fromtimestamp(int(moment), zone)
        day = start.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        for _ in range(_LONGEST_SEARCH_DAYS):
            if self._is_day(day):
                for hour in self.hours:
                    for minute in self.minutes:
                        found = _seconds(day.replace(hour=hour, minute=minute), zone)
                        if found is not None and found > moment:
                            return found
            day += timedelta(days=1)
        return None

    def _is_day(self, day: datetime) -> bool:
        if day.month not in self.months:
            return False
        by_day = day.day in self.days
        by_weekday = (day.weekday() + 1) % 7 in self.weekdays
        if self.any_day or self.any_weekday:
            return by_day and by_weekday
        return by_day or by_weekday


def _seconds(local: datetime, zone: tzinfo) -> float | None:
    """The moment of a local time; None when the clock skips it."""
    aware = local.replace(tzinfo=zone)
    seconds = aware.timestamp()
    if datetime.fromtimestamp(seconds, zone).replace(tzinfo=None) != local:
        return None
    return seconds


def parse(text: str) -> Schedule:
    """
    >>> parse("*/20 3 * * 1-5").minutes
    (0, 20, 40)

    Raises :class:`ScheduleError`.
    """
    parts = _SHORTHANDS.get(text.strip().lower(), text).split()
    if len(parts) != len(_FIELDS):
        raise ScheduleError(f"expected exactly 5 fields, found {len(parts)}: {text!r}")
    sets = [_parse_field(part, *field) for part, field in zip(parts, _FIELDS, strict=True)]
    return Schedule(
        tuple(sorted(sets[0])),
        tuple(sorted(sets[1])),
        sets[2],
        sets[3],
        sets[4],
        parts[2][0] in "*?",
        parts[4][0] in "*?",
    )


def _parse_field(
    text: str, name: str, lowest: int, highest: int, names: dict[str, int]
) -> frozenset[int]:
    values: set[int] = set()
    for item in text.split(","):
        span, slash, step_text = item.partition("/")
        step = _number(step_text, name, {}) if slash else 1
        if step < 1:
            raise ScheduleError(f"{name}: step of {item!r} must be at least 1")
        if span in ("*", "?"):
            low, high = lowest, highest
        else:
            first, dash, last = span.partition("-")
            low = _number(first, name, names)
            high = _number(last, name, names) if dash else (highest if slash else low)
        if low < lowest or high > highest or low > high:
            raise ScheduleError(f"{name}: {item!r} is not within {lowest}-{highest}")
        values.update(range(low, high + 1, step))
    return frozenset(values)


def _number(text: str, name: str, names: dict[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not text.isdecimal():
        raise ScheduleError(f"{name}: {text!r} is not a number")
    return int(text)
