"""`down`, `reset`: how a cluster ends."""

from __future__ import annotations

import asyncio
import contextlib

from kubarium.base.errors import ApiError
from kubarium.cli.console import out
from kubarium.cli.nodes import terminated
from kubarium.client.http import HttpClient
from kubarium.cluster.daemon import withdraw
from kubarium.cluster.leftovers import end_pods
from kubarium.cluster.state import ServerRecord, StateDirectory, stop

_LOOK_S = 0.2


def down(name: str, now: bool = False) -> None:
    """Stop the server and its pods' processes; take our context out of kubectl's file. Where nodes
    are configured to shut down gracefully they do so first, unless it is to be ``now``."""
    state = StateDirectory(name)
    record = state.read_record()
    if record is None:
        left = end_pods(state)
        text = " (it was killed); the pods that it left are stopped" if left else ""
        out.print(f"{name} does not run{text}")
        state.forget_record()
        return
    if record.shutdown_s and not now:
        clean = asyncio.run(_stop_gently(state, record))
    else:
        clean = stop(record, now=bool(record.shutdown_s))
    end_pods(state)
    state.forget_record()
    withdraw(record)
    out.print(f"{name} is down" + ("" if clean else " (it had to be killed)"))


async def _stop_gently(state: StateDirectory, record: ServerRecord) -> bool:
    """Stop the server, and tell of the pods that end before it does."""
    named = "" if state.name == "kubarium" else f" --name {state.name}"
    out.print(
        f"nodes shut down, pods have up to {record.shutdown_s:g} s; without that: "
        f"kubarium down --now{named}"
    )
    async with HttpClient.from_kubeconfig(str(state.kubeconfig)) as client:
        told: set[str] = set()
        with contextlib.suppress(ApiError, OSError):
            told = {pod["metadata"]["uid"] for pod in await terminated(client)}
        stopping = asyncio.create_task(asyncio.to_thread(stop, record))
        with contextlib.suppress(ApiError, OSError):  # it has gone
            await _tell_of_ended(client, told, stopping)
    return await stopping


async def _tell_of_ended(client: HttpClient, told: set[str], stopping: asyncio.Task[bool]) -> None:
    """Until the server has gone. Raises ApiError or OSError when it does not answer any more."""
    while not stopping.done():
        for pod in await terminated(client):
            metadata = pod["metadata"]
            if metadata["uid"] not in told:
                told.add(metadata["uid"])
                out.print(f"  pod {metadata['namespace']}/{metadata['name']} has ended")
        await asyncio.wait((stopping,), timeout=_LOOK_S)


def reset(name: str) -> None:
    """Down at once, and forget all objects, certificates and logs."""
    down(name, now=True)
    StateDirectory(name).remove()
    out.print(f"{name} is forgotten")
