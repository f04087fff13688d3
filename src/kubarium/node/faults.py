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
    DELAY,
    KILL,
    MOMENTARY,
    NETWORK_ACTIONS,
    OUT_OF_MEMORY,
    SLOW,
    STOP,
    Order,
    orders_of,
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
_NO_NETWORK = (
    "it has no network of its own: hostNetwork, or a machine that allows no pod networks "
    "(see `kubarium status`)"
)


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
    def has_network(self, uid: str) -> bool: ...
    def delay(self, uid: str, milliseconds: float | None) -> str: ...


Spawn = Callable[[Coroutine[Any, Any, None]], None]
# (pod, event type, reason, message)
Tell = Callable[[Document, str, str, str], None]


class FaultActor:
    """Takes the orders of one agent's pods. Partitions and losses are made by the network's rules
    (:mod:`kubarium.view.cuts`); here they are only told of."""

    def __init__(self, clock: Clock, pods: Pods, spawn: Spawn, tell: Tell) -> None:
        self._clock = clock
        self._pods = pods
        self._spawn = spawn
        self._tell = tell
        self._began = clock.now()
        # The last order of each Fault, by pod uid and the Fault's.
        self._known: dict[str, dict[str, Order]] = {}

    def look(self, pod: Document) -> None:
        """A pod was seen: carry out its orders, if they are new, and heal what is over."""
        orders = orders_of(pod)
        if not orders:
            return
        uid = pod["metadata"]["uid"]
        known = self._known.setdefault(uid, {})
        for order in orders:
            before = known.get(order.fault)
            if before is not None and (before.ident, before.healed) == (order.ident, order.healed):
                continue  # said once more
            known[order.fault] = order
            if order.healed:
                self._spawn(self._undo(uid, order))
            elif order.action not in MOMENTARY or order.at >= self._began:
                # A kill that an agent before this one has seen is not done again.
                self._spawn(self._carry_out(pod, uid, order))

    def forget(self, uid: str) -> None:
        self._known.pop(uid, None)

    async def _carry_out(self, pod: Document, uid: str, order: Order) -> None:
        attempts = self._pods.running_attempts(uid)
        name = order.container or next(iter(attempts), "")
        if name not in attempts:
            text = f"{order.action}: container {name or '(any)'} does not run"
            self._tell(pod, "Warning", "FaultNotInjected", text)
            return
        problem = await self._act(uid, name, attempts[name], order)
        whom = "the pod" if order.action in NETWORK_ACTIONS else f"container {name}"
        if problem:
            text = f"{order.action} of {whom}: {problem}"
            self._tell(pod, "Warning", "FaultNotInjected", text)
            return
        lasting = f" for {order.duration_s:g} s" if order.duration_s else ""
        text = f"{order.action} of {whom}{lasting}, on purpose"
        self._tell(pod, "Warning", "FaultInjected", text)
        if order.duration_s and order.action in (STOP, SLOW):
            # The order will be healed at that time too, unless the server is away.
            await self._clock.sleep(order.duration_s)
            if self._known.get(uid, {}).get(order.fault) == order:
                await self._undo(uid, order)

    async def _act(self, uid: str, name: str, attempt: int, order: Order) -> str:
        """Do it; "" or why it cannot be done."""
        if order.action == KILL:
            await self._pods.signal_all(uid, name, signal.SIGKILL)
        elif order.action == STOP:
            await self._pods.signal_all(uid, name, signal.SIGSTOP)
        elif order.action == SLOW:
            return self._pods.slow(uid, name, order.amount)
        elif order.action in NETWORK_ACTIONS:
            if not self._pods.has_network(uid):
                return _NO_NETWORK
            return self._pods.delay(uid, order.amount) if order.action == DELAY else ""
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

    async def _undo(self, uid: str, order: Order) -> None:
        """Safe to repeat: nobody may know any more what an earlier agent has done."""
        if order.action == DELAY:  # the pod's, whether or not anything runs in it just now
            self._pods.delay(uid, None)
            return
        running = self._pods.running_attempts(uid)
        name = order.container or next(iter(running), "")
        if name not in running:
            return
        if order.action == STOP:
            await self._pods.signal_all(uid, name, signal.SIGCONT)
        elif order.action == SLOW:
            self._pods.slow(uid, name, None)


def _offer_to_the_kernel(pid: int) -> None:
    """Of all that is in its group, this process is to be killed for want of memory: it is the one
    that is said to have run out of it, not what was started to take it away."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
