"""How long a simulated pod would run, and how it would end, as far as its commands say so plainly.

Read are ``sleep`` with its numbers, ``true``, ``false``, and shell scripts that are nothing but a
row of ``sleep``, ``echo``, ``true`` and a last ``exit`` or ``false``. Anything else says nothing.
"""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass

from kubarium.api.resource import Document

SHELLS = frozenset({"sh", "bash", "ash", "dash"})
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"(\d+(?:\.\d*)?|\.\d+)([smhd]?)")
_FOREVER = ("inf", "infinity")
_SILENT = ("echo", "true", ":")
# What would have to be run to be understood; quotes are for shlex.
_UNREAD = re.compile(r"[$`|<>(){}*?\[\]\\~#]|(?<!&)&(?!&)|\|\|")
_SEPARATOR = re.compile(r"&&|;|\n")


@dataclass(frozen=True, slots=True)
class Outcome:
    """``run_s`` inf: it does not end by itself."""

    run_s: float
    exit_code: int


def told_by(pod: Document) -> Outcome | None:
    """What the pod's main containers say together: the longest time, the first failure; None if
    one of them says nothing."""
    outcomes = []
    for container in pod["spec"].get("containers") or ():
        words = [*(container.get("command") or ()), *(container.get("args") or ())]
        outcome = of_command(words)
        if outcome is None:
            return None
        outcomes.append(outcome)
    if not outcomes:
        return None
    failed = next((outcome.exit_code for outcome in outcomes if outcome.exit_code), 0)
    return Outcome(max(outcome.run_s for outcome in outcomes), failed)


def of_command(words: list[str]) -> Outcome | None:
    """What one command says, or None.

    >>> of_command(["sleep", "1m", "30"])
    Outcome(run_s=90.0, exit_code=0)
    >>> of_command(["sh", "-c", "echo a; sleep 5 && exit 3"])
    Outcome(run_s=5.0, exit_code=3)
    >>> of_command(["python", "train.py"]) is None
    True
    """
    if not words:
        return None
    name = words[0].rpartition("/")[2]
    if name in SHELLS:
        return _of_script(words[2]) if len(words) == 3 and words[1] in ("-c", "-ec") else None
    if name == "sleep":
        seconds = _seconds(words[1:])
        return None if seconds is None else Outcome(seconds, 0)
    if name in ("true", "false") and len(words) == 1:
        return Outcome(0.0, int(name == "false"))
    return None


def _of_script(script: str) -> Outcome | None:
    if _UNREAD.search(script):
        return None
    total, slept = 0.0, False
    steps = [step for step in map(str.strip, _SEPARATOR.split(script)) if step]
    for number, step in enumerate(steps, 1):
        try:
            words = shlex.split(step)
        except ValueError:
            return None
        last = number == len(steps)
        if words[0] == "sleep":
            seconds = _seconds(words[1:])
            if seconds is None:
                return None
            total, slept = total + seconds, True
        elif words[0] == "exit" and last and len(words) == 2 and words[1].isdecimal():
            return Outcome(total, int(words[1]) % 256)
        elif words == ["false"] and last:
            return Outcome(total, 1)
        elif words[0] not in _SILENT:
            return None
    return Outcome(total, 0) if slept else None


def _seconds(words: list[str]) -> float | None:
    """The sum of the arguments of sleep(1); None if one of them is none."""
    total = 0.0
    for word in words:
        if word in _FOREVER:
            total = math.inf
            continue
        found = _NUMBER.fullmatch(word)
        if found is None:
            return None
        total += float(found[1]) * _UNITS[found[2]]
    return total if words else None
