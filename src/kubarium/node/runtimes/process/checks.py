"""Probes and hooks of containers that run, made: by a command inside, or over the network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kubarium.base.clock import Clock
from kubarium.node.probes import ERROR, FAILURE, SUCCESS, Connect, Outcome, network_probe
from kubarium.node.runtimes.process.pod_records import PodRecords
from kubarium.node.runtimes.process.streams import ExecResult

# (pod uid, container, attempt, argv, seconds)
Execute = Callable[[str, str, int, list[str], float | None], Awaitable[ExecResult]]
# A hook's request gets so long.
_HOOK_TIMEOUT_S = 30.0


class Checks:
    """``execute`` runs a command in a container, ``connect`` reaches a pod's ports."""

    def __init__(
        self, records: PodRecords, clock: Clock, execute: Execute, connect: Connect
    ) -> None:
        self._records = records
        self._clock = clock
        self._execute = execute
        self._connect = connect

    async def probe(
        self, uid: str, container: Mapping[str, Any], attempt: int, kind: str, timeout_s: float
    ) -> Outcome:
        """Make one probe of a running container."""
        probe = container[kind]
        if not probe.get("exec"):
            address = self._records.by_uid[uid].facts.pod_ips[0]
            return await network_probe(probe, container, address, timeout_s, self._connect)
        argv = list(probe["exec"].get("command") or ())
        result = await self._execute(uid, container["name"], attempt, argv, timeout_s)
        if result.code == 0:
            return SUCCESS, ""
        if result.code == 124:
            return FAILURE, f'command timed out: "{" ".join(argv)}" timed out after {timeout_s:g}s'
        return (ERROR if result.code == 126 else FAILURE), result.output

    async def hook(self, uid: str, container: Mapping[str, Any], attempt: int, hook: str) -> str:
        """Run a lifecycle hook; "" or what went wrong."""
        action = (container.get("lifecycle") or {}).get(hook) or {}
        if action.get("sleep"):
            await self._clock.sleep(float(action["sleep"].get("seconds") or 0))
            return ""
        if action.get("exec"):
            argv = list(action["exec"].get("command") or ())
            result = await self._execute(uid, container["name"], attempt, argv, None)
            return "" if result.code == 0 else f"command exited with {result.code}: {result.output}"
        address = self._records.by_uid[uid].facts.pod_ips[0]
        outcome, message = await network_probe(
            action, container, address, _HOOK_TIMEOUT_S, self._connect
        )
        return "" if outcome == SUCCESS else message
