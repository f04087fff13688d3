"""Containers that are about to run out of memory: noticed before the kernel kills them.

Only containers whose pod asks for it (``kubarium.dev/oom-policy``) and may still grow are watched.
Their memory is looked at a few times a second; a burst that is quicker than that finds the kernel
waiting instead of killing (see :meth:`Cgroups.hold`). Whoever decides answers with a resize; if
nobody does in time, the container is given up and the kernel does as it always would.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from kubarium.api.resource import Document
from kubarium.base.clock import Clock
from kubarium.base.quantity import format_quantity
from kubarium.node.runtimes.process.cgroups import Usage
from kubarium.view.memory import AT_LIMIT, next_limit, oom_policy

# Seconds between two looks, and the share of the limit from which a container is short.
LOOK_S = 0.25
SHORT_SHARE = 0.92
# How long a container at its limit waits for an answer before it is given up.
HOLD_S = 20.0

# (pod uid, container, reason, message)
Tell = Callable[[str, str, str, str], None]


class Groups(Protocol):
    """Who counts memory and holds containers: :class:`Cgroups`, or :class:`MeasuredMemory`."""

    def working_set(self, uid: str, name: str) -> int: ...
    def usage(self, uid: str, name: str) -> Usage: ...
    def at_limit(self, uid: str, name: str) -> int | None: ...
    def hold(self, uid: str, name: str, limit: int | None, on: bool) -> None: ...
    def stop(self, uid: str, name: str) -> None: ...


@dataclass(slots=True)
class _Watched:
    """``notices`` are eventfds, ``asked_at`` is when the container was first found short."""

    group: str
    limit: int
    notices: list[int]
    asked_at: float | None = None


class MemoryWatch:
    """The watch over one agent's containers."""

    def __init__(self, clock: Clock, groups: Callable[[], Groups], tell: Tell) -> None:
        self._clock = clock
        self._groups = groups
        self._tell = tell
        self._watched: dict[tuple[str, str], _Watched] = {}
        self._some = asyncio.Event()

    def set(self, pod: Document, name: str, group: str, limit: int | None) -> None:
        """A container was started or has a new limit: watch it if its policy lets it grow."""
        uid = pod["metadata"]["uid"]
        self.drop(uid, name)
        try:
            policy = oom_policy(pod)
        except ValueError:  # said on the pod by the controller that reads it
            return
        if limit is None or next_limit(limit, policy) is None:
            return
        groups = self._groups()
        notices: list[int] = []
        with contextlib.suppress(OSError):
            for place in ("", group):  # the pod's own group has the same limit with one container
                groups.hold(uid, place, limit, on=True)
                notice = groups.at_limit(uid, place)
                if notice is not None:
                    notices.append(notice)
        self._watched[uid, name] = _Watched(group, limit, notices)
        for notice in notices:
            asyncio.get_running_loop().add_reader(notice, self._noticed, notice, uid, name)
        self._some.set()

    def drop(self, uid: str, name: str) -> None:
        """The container has ended, or is given up: the kernel kills again."""
        found = self._watched.pop((uid, name), None)
        if found is None:
            return
        for notice in found.notices:
            asyncio.get_running_loop().remove_reader(notice)
            os.close(notice)
        others = any(key[0] == uid for key in self._watched)
        with contextlib.suppress(OSError):
            for place in (found.group,) if others else (found.group, ""):
                self._groups().hold(uid, place, found.limit, on=False)

    def is_held(self, uid: str, name: str) -> bool:
        """Whether a container that is beyond its limit is waited for, rather than killed."""
        return (uid, name) in self._watched

    def close(self) -> None:
        for uid, name in list(self._watched):
            self.drop(uid, name)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            if not self._watched:
                self._some.clear()
                await self._some.wait()
            await self._clock.sleep(LOOK_S)
            for (uid, name), watched in list(self._watched.items()):
                self._look(uid, name, watched)

    def _noticed(self, notice: int, uid: str, name: str) -> None:
        """The kernel says that a group is at its limit. It also says so when a group is removed,
        and once more to whom it had just said it, so the memory is looked at before it is believed.
        """
        with contextlib.suppress(OSError):
            os.eventfd_read(notice)
        watched = self._watched.get((uid, name))
        if watched is not None and self._is_short(uid, watched):
            self._ask(uid, name, watched)

    def _is_short(self, uid: str, watched: _Watched) -> bool:
        return self._groups().working_set(uid, watched.group) >= SHORT_SHARE * watched.limit

    def _look(self, uid: str, name: str, watched: _Watched) -> None:
        if watched.asked_at is not None:
            if self._clock.monotonic() - watched.asked_at > HOLD_S:
                self.drop(uid, name)
                return
        elif self._is_short(uid, watched):
            self._ask(uid, name, watched)
        else:
            return
        if self._groups().working_set(uid, watched.group) > watched.limit:
            self._groups().stop(uid, watched.group)

    def _ask(self, uid: str, name: str, watched: _Watched) -> None:
        if watched.asked_at is not None:
            return
        watched.asked_at = self._clock.monotonic()
        usage = self._groups().usage(uid, watched.group)
        used, limit = (
            format_quantity(n >> 20 << 20, binary=True) for n in (usage.memory, watched.limit)
        )
        peak = format_quantity(usage.peak_memory >> 20 << 20, binary=True)
        self._tell(uid, name, AT_LIMIT, f"uses {used} of its limit {limit}, peak {peak}")
