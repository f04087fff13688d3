"""Statuses that the API refuses, for whatever reason, hold up no other pod's."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.kinds import NAMESPACES, PODS
from kubarium.base.chance import Chance
from kubarium.base.errors import ApiError
from kubarium.node.status_writer import WORKERS, StatusWriter
from kubarium.runtime.informer import SharedInformers
from kubarium.runtime.protocol import Context
from kubarium.runtime.virtual import VirtualClock, run
from kubarium.server.api_server import ApiServer
from kubarium.server.local import LocalClient
from kubarium.store import MemoryStore


class Refusing:
    """Refuses statuses of the pods whose names begin with "bad"."""

    def __init__(self, client, error):
        self._client, self.error = client, error

    def __getattr__(self, verb):
        return getattr(self._client, verb)

    async def update(self, resource, document, *args, **options):
        if self.error is not None and document["metadata"]["name"].startswith("bad"):
            raise self.error
        return await self._client.update(resource, document, *args, **options)


@pytest.mark.parametrize(
    "error",
    [ApiError(403, "Forbidden", "no"), ApiError(422, "Invalid", "no"), KeyError("phase")],
    ids=["403", "422", "a bug"],
)
def test_a_status_that_is_refused_holds_up_no_other(error):
    clock = VirtualClock()

    async def main():
        server = ApiServer(MemoryStore(), Catalog.builtin(), clock, Chance(0))
        client = LocalClient(server, "system:node")
        informers = SharedInformers(client, clock)
        context = Context(client, informers, clock, Chance(0))
        refusing = Refusing(client, error)
        writer = StatusWriter(replace(context, client=refusing))
        task = asyncio.create_task(writer.run())
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
        await client.create(NAMESPACES, namespace)
        names = [*(f"bad-{i}" for i in range(2 * WORKERS)), "good"]
        pods = []
        for name in names:
            container = {"name": "c", "image": "busybox"}
            document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}}
            document["spec"] = {"containers": [container]}
            pods.append(await client.create(PODS, document, "default"))
        await clock.sleep(0.1)
        for pod in pods:
            writer.write(pod, lambda held: {**held["status"], "phase": "Running"})
        await clock.sleep(1)
        assert (await client.get(PODS, "good", "default"))["status"]["phase"] == "Running"
        assert not task.done()
        await clock.sleep(100)
        refusing.error = None
        await clock.sleep(40)
        for name in names:
            assert (await client.get(PODS, name, "default"))["status"]["phase"] == "Running"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await informers.close()

    run(main())
