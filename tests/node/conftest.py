"""A small world for node tests: an API server in this process, an agent, real or virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.kinds import EVENTS, NAMESPACES, PODS
from kubarium.api.logs import LogOptions
from kubarium.base.chance import Chance
from kubarium.base.errors import ApiError
from kubarium.node.agent import Agent
from kubarium.node.config import PROCESS, NodeConfig, NodeSpec
from kubarium.runtime.informer import SharedInformers
from kubarium.runtime.protocol import Context
from kubarium.server.api_server import ApiServer
from kubarium.server.local import LocalClient
from kubarium.store import MemoryStore


class RealClock:
    def now(self):
        return time.time()

    def monotonic(self):
        return time.monotonic()

    async def sleep(self, seconds):
        await asyncio.sleep(seconds)


class World:
    """One agent and the API it talks to."""

    def __init__(self, context, agent, task, server):
        self.context, self.agent, self.client = context, agent, context.client
        self.server = server
        self.root = ""  # the agent's directory, if it has one
        self.task = task  # what runs the agent

    async def create(self, resource, document, namespace="default"):
        return await self.client.create(resource, document, namespace)

    async def pod(self, name, script="sleep 1000", *, container=None, namespace="default", **spec):
        """Create a pod bound to the first node that runs a shell script."""
        entry = {"name": "main", "image": "busybox:1.36", "command": ["sh", "-c", script]}
        metadata = {"name": name, "namespace": namespace}
        for key in ("labels", "annotations"):
            if key in spec:
                metadata[key] = spec.pop(key)
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {
                "nodeName": self.agent.node_names[0],
                "automountServiceAccountToken": False,
                "restartPolicy": "Never",
                "containers": [entry | (container or {})],
            }
            | spec,
        }
        return await self.create(PODS, document, namespace)

    async def resize(self, name, resources, **more):
        """Ask for other resources of a pod's container main, in place."""
        change = {"spec": {"containers": [{"name": "main", "resources": resources, **more}]}}
        kind = "application/strategic-merge-patch+json"
        await self.client.patch(
            PODS, name, change, "default", subresource="resize", patch_type=kind
        )

    async def get(self, name, namespace="default"):
        return await self.client.get(PODS, name, namespace)

    async def until(self, question, what="", limit_s=20.0):
        """Ask until the answer is true; the answer."""
        clock = self.context.clock
        end = clock.now() + limit_s
        while True:
            answer = await question()
            if answer:
                return answer
            if clock.now() > end:
                raise AssertionError(f"not within {limit_s} s: {what}")
            await clock.sleep(0.01)

    async def phase(self, name, *wanted, limit_s=20.0):
        async def question():
            pod = await self.get(name)
            return pod if pod["status"].get("phase") in wanted else None

        try:
            return await self.until(question, f"{name} {wanted}", limit_s)
        except AssertionError as error:
            pod = await self.get(name)
            raise AssertionError(f"{error}: {pod['status']}\n{await self.events()}") from error

    async def waiting(self, name, reason):
        """Until the first container waits for ``reason``; its message."""

        async def question():
            statuses = (await self.get(name))["status"].get("containerStatuses") or [{}]
            waiting = (statuses[0].get("state") or {}).get("waiting") or {}
            return waiting if waiting.get("reason") == reason else None

        return (await self.until(question, f"{name} waits for {reason}")).get("message", "")

    async def gone(self, name):
        async def question():
            try:
                await self.get(name)
            except ApiError as error:
                return error.reason == "NotFound"
            return False

        await self.until(question, f"{name} gone")

    async def log(self, name, **options):
        pieces = [p async for p in self.agent.logs("default", name, LogOptions(**options))]
        return b"".join(pieces).decode()

    async def output(self, name):
        """What a pod printed, after it has ended."""
        await self.phase(name, "Succeeded", "Failed")
        return await self.log(name)

    async def events(self, name=""):
        found = (await self.client.list(EVENTS, "default")).items
        return [
            (e["reason"], e["message"])
            for e in found
            if not name or e["involvedObject"]["name"] == name
        ]

    async def event(self, name, reason):
        """Until there is an event of ``reason``; its message."""

        async def question():
            return [m for r, m in await self.events(name) if r == reason]

        return (await self.until(question, f"event {reason} of {name}"))[0]


@asynccontextmanager
async def world_on(clock, config, seed=1):
    chance = Chance(seed)
    server = ApiServer(MemoryStore(), Catalog.builtin(), clock, chance)
    client = LocalClient(server, "system:node")
    informers = SharedInformers(client, clock)
    for name in ("default", "kube-system", "kube-node-lease"):
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        with contextlib.suppress(ApiError):  # the server may have made it itself
            await client.create(NAMESPACES, document)
    agent = Agent(Context(client, informers, clock, chance), config)
    task = asyncio.get_running_loop().create_task(agent.run())
    ready = asyncio.get_running_loop().create_task(agent.ready.wait())
    await asyncio.wait([ready, task], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        ready.cancel()
        task.result()
    try:
        yield World(Context(client, informers, clock, chance), agent, task, server)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await informers.close()


@asynccontextmanager
async def process_world(level="", **config):
    """An agent with real processes in a directory of its own, which must be empty at the end."""
    root = tempfile.mkdtemp(prefix="kubarium-test-")
    nodes = config.pop("nodes", (NodeSpec("node-1"),))
    config = {"pulls": False} | config
    try:
        settings = NodeConfig(nodes, PROCESS, root=root, isolation=level, **config)
        async with world_on(RealClock(), settings) as world:
            world.root = root
            yield world
        assert left_behind(root) == []
    finally:
        shutil.rmtree(root, ignore_errors=True)


def left_behind(root):
    """Files of pods and mounts below an agent's directory."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return [*Path(root).glob("pods/*"), *(line for line in mounts if root in line)]


async def none_left(marker, limit_s=5.0):
    """Whether all processes with ``marker`` end within the time."""
    end = time.monotonic() + limit_s
    while processes_with(marker):
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.01)
    return True


def processes_with(marker):
    """Processes whose command line holds ``marker``."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if marker in line and process.pid != os.getpid():
            found.append(process)
    return found


@pytest.fixture
def needs_root():
    if os.geteuid() != 0:
        pytest.skip("needs root: other users and namespaces without a user namespace")


@pytest.fixture
def needs_namespaces():
    from kubarium.node import isolation

    report = isolation.probe_now(RealClock())
    if report.level == isolation.PLAIN:
        pytest.skip(f"needs mount namespaces: {report.refusals}")
