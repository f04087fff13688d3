"""A scheduler that dies at any of its writes, and another that takes over from what was written."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from kubarium.api.kinds import NODES, PODS, RESOURCE_CLAIMS
from kubarium.control.scheduling import components
from kubarium.control.scheduling.scheduler import DEFAULT_CONFIG
from kubarium.runtime.informer import SharedInformers

WRITES = ("create", "update", "patch", "delete")


class Mortal:
    """A client through which so many writes pass, events not counted; after them nothing returns.

    ``lost``: the last write is done, but its answer does not come.
    """

    def __init__(self, client, writes, *, lost=False):
        self._client = client
        self.left = writes
        self.lost = lost
        self.done = []
        self.dead = asyncio.Event()

    def __getattr__(self, verb):
        method = getattr(self._client, verb)
        if verb not in WRITES:
            return method

        async def call(resource, target, *args, **options):
            if resource.plural == "events":
                return await method(resource, target, *args, **options)
            if self.left <= 0:
                await self._die()
            self.left -= 1
            name = options.get("name") or (
                target if isinstance(target, str) else target["metadata"].get("name", "")
            )
            self.done.append((verb, resource.plural, name, options.get("subresource", "")))
            answer = await method(resource, target, *args, **options)
            if self.left <= 0 and self.lost:
                await self._die()
            return answer

        return call

    async def _die(self):
        self.dead.set()
        await asyncio.Event().wait()


class Life:
    """One scheduler with informers of its own, so that it can be stopped and another started."""

    def __init__(self, world, writes=10**9, *, lost=False, config=DEFAULT_CONFIG):
        self.client = Mortal(world.controller_client, writes, lost=lost)
        self._informers = SharedInformers(world.controller_client, world.clock)
        context = replace(world.context, client=self.client, informers=self._informers)
        [self.scheduler] = components(context, config)
        self._task = asyncio.create_task(self.scheduler.run())

    async def end(self):
        """Nothing of it is left; what it had decided and not written is lost."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._informers.close()


async def check_world(world):
    """What must hold at any time: no node, no device is given away twice."""
    pods = await world.find(PODS)
    room = {n["metadata"]["name"]: n["status"]["allocatable"] for n in await world.find(NODES)}
    for name, have in room.items():
        there = [
            p
            for p in pods
            if p["spec"].get("nodeName") == name
            and p.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        ]
        cpu = sum(_cpu(p) for p in there)
        assert cpu <= int(have["cpu"]), f"{name}: {[p['metadata']['name'] for p in there]}"
        assert len(there) <= int(have["pods"])
    taken = []
    for claim in await world.find(RESOURCE_CLAIMS):
        allocation = (claim.get("status") or {}).get("allocation") or {}
        results = (allocation.get("devices") or {}).get("results", ())
        taken += [(r["driver"], r["pool"], r["device"]) for r in results]
    assert len(taken) == len(set(taken)), taken


def _cpu(pod):
    asked = (c.get("resources", {}).get("requests", {}) for c in pod["spec"]["containers"])
    return sum(int(requests.get("cpu", "0")) for requests in asked)


async def bound_of(world, group):
    """The names of the group's pods that have a node."""
    return sorted(
        p["metadata"]["name"]
        for p in await world.find(PODS)
        if (p["spec"].get("schedulingGroup") or {}).get("podGroupName") == group
        and p["spec"].get("nodeName")
    )
