"""Carries out the faults that a pod is to suffer (:mod:`kubarium.view.faults`), once each."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

from kubarium.api.resource import Document
from kubarium.base.clock import Clock
from kubarium.node.runtimes.process.streams import ExecResult
from kubarium.node.training import processes
from kubarium.view.faults import (
    CORRUPT_FILE,
    KILL,
    OUT_OF_MEMORY,
    SLOW,
    STOP,
    Order,
    order_of,
)

# Turns the middle byte of the newest file under $1 into another one.
_CORRUPT = """
file=$(find "$1" -type f ! -name '.*' ! -name '*.json' -printf '%T@ %p\\n' 2>/dev/null |
  sort -n | tail -1)
file=${file#* }
[ -n "$file" ] || { echo "no file under $1"; exit 1; }
size=$(stat -c %s "$file"); at=$((size / 2))
printf '\\377\\000\\377' | dd of="$file" bs=1 seek="$at" conv=notrunc 2>/dev/null && echo "$file"
"""
# Holds as many bytes as it is given: tail keeps what has no line end.
_FILL = "head -c {bytes} /dev/zero | tail -c {bytes} | (sleep {seconds}; cat) >/dev/null"
_EXEC_TIMEOUT_S = 60.0


class Pods(Protocol):
    """What is asked of the runtime. Containers are named by pod uid and name."""

    def running_attempts(self, uid: str) -> dict[str, int]: ...
    async def signal_all(self, uid: str, name: str, number: int) -> None: ...
    async def execute(
        self, uid: str, name: str, attempt: int, argv: list[str], timeout_s: float | None
    ) -> ExecResult: ...
    def slow(self, uid: str, name: str, share: float | None) -> str: ...
    def memory_limit(self, uid: str, name: str) -> int | None: ...
    def process_ids(self, uid: str) -> dict[str, int]: ...


Spawn = Callable[[Coroutine[Any, Any, None]], None]
# (pod, event type, reason, message)
Tell = Callable[[Document, str, str, str], None]


class FaultActor:
    """Takes the orders of one agent's pods."""

    def __init__(self, clock: Clock, pods: Pods, spawn: Spawn, tell: Tell) -> None:
        self._clock = clock
        self._pods = pods
        self._spawn = spawn
        self._tell = tell
        self._done: dict[str, str] = {}

    def look(self, pod: Document) -> None:
        """A pod was seen: carry out its order if it is a new one."""
        order = order_of(pod)
        uid = pod["metadata"]["uid"]
        if order is None or self._done.get(uid) == order.ident:
            return
        self._done[uid] = order.ident
        self._spawn(self._carry_out(pod, uid, order))

    def forget(self, uid: str) -> None:
        self._done.pop(uid, None)

    async def _carry_out(self, pod: Document, uid: str, order: Order) -> None:
        attempts = self._pods.running_attempts(uid)
        name = order.container or next(iter(attempts), "")
        if name not in attempts:
            text = f"{order.action}: container {name or '(any)'} does not run"
            self._tell(pod, "Warning", "FaultNotInjected", text)
            return
        problem = await self._act(uid, name, attempts[name], order)
        if problem:
            text = f"{order.action} of container {name}: {problem}"
            self._tell(pod, "Warning", "FaultNotInjected", text)
            return
        lasting = f" for {order.duration_s:g} s" if order.duration_s else ""
        text = f"{order.action} of container {name}{lasting}, on purpose"
        self._tell(pod, "Warning", "FaultInjected", text)
        if order.duration_s and order.action in (STOP, SLOW):
            await self._clock.sleep(order.duration_s)
            if self._pods.running_attempts(uid).get(name) == attempts[name]:
                await self._undo(uid, name, order)

    async def _act(self, uid: str, name: str, attempt: int, order: Order) -> str:
        """Do it; "" or why it cannot be done."""
        if order.action == KILL:
            await self._pods.signal_all(uid, name, signal.SIGKILL)
        elif order.action == STOP:
            await self._pods.signal_all(uid, name, signal.SIGSTOP)
        elif order.action == SLOW:
            return self._pods.slow(uid, name, order.amount)
        elif order.action == OUT_OF_MEMORY:
            return self._fill(uid, name, attempt, order)
        elif order.action == CORRUPT_FILE:
            argv = ["sh", "-c", _CORRUPT, "sh", order.path]
            result = await self._pods.execute(uid, name, attempt, argv, _EXEC_TIMEOUT_S)
            return "" if result.code == 0 else result.output.strip() or f"exit code {result.code}"
        else:
            return "this node does not know the action"
        return ""

    def _fill(self, uid: str, name: str, attempt: int, order: Order) -> str:
        """Take the container's whole limit and more, from inside it."""
        limit = self._pods.memory_limit(uid, name)
        if limit is None:
            return "it has no memory limit to run into"
        for pid in processes.below(self._pods.process_ids(uid).get(name, 0)):
            _offer_to_the_kernel(pid)
        size = limit + int(order.amount) * (1 << 20)
        script = _FILL.format(bytes=size, seconds=order.duration_s or 1)
        self._spawn(self._run(uid, name, attempt, ["sh", "-c", script]))
        return ""

    async def _run(self, uid: str, name: str, attempt: int, argv: list[str]) -> None:
        await self._pods.execute(uid, name, attempt, argv, None)

    async def _undo(self, uid: str, name: str, order: Order) -> None:
        if order.action == STOP:
            await self._pods.signal_all(uid, name, signal.SIGCONT)
        else:
            self._pods.slow(uid, name, None)


def _offer_to_the_kernel(pid: int) -> None:
    """Of all that is in its group, this process is to be killed for want of memory: it is the one
    that is said to have run out of it, not what was started to take it away."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
