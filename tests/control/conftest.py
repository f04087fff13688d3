"""A control plane in the process, on virtual time: the API, controllers, and a hand-made node."""

import asyncio

import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.crds.definition import bundled
from kubarium.api.kinds import CUSTOM_RESOURCE_DEFINITIONS, EVENTS, NAMESPACES, PODS
from kubarium.base.chance import Chance
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError
from kubarium.runtime.informer import SharedInformers
from kubarium.runtime.protocol import Context
from kubarium.runtime.virtual import VirtualClock, run
from kubarium.server.api_server import ApiServer
from kubarium.server.local import LocalClient
from kubarium.store import MemoryStore


class World:
    """What a test holds in its hands."""

    def __init__(self, seed=0):
        self.clock = VirtualClock()
        self.chance = Chance(seed)
        self.server = ApiServer(MemoryStore(), Catalog.builtin(), self.clock, self.chance)
        self.client = LocalClient(self.server, "system:admin", "test")
        self.controller_client = LocalClient(self.server, "system:kube-controller-manager")
        self.informers = SharedInformers(self.controller_client, self.clock)
        self.context = Context(self.controller_client, self.informers, self.clock, self.chance)
        self.components = []
        self.tasks = []

    async def start(self, *components, namespaces=("default",)):
        for name in namespaces:
            await self.create_if_absent(
                NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            )
        self.components += components
        for component in components:
            self.tasks.append(asyncio.create_task(component.run(), name=component.name))

    async def create_if_absent(self, resource, document):
        try:
            await self.client.create(resource, document)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise

    async def install(self, *groups):
        """Define the bundled custom resources of these groups."""
        for definition in bundled():
            if definition["spec"]["group"] in groups:
                await self.client.create(CUSTOM_RESOURCE_DEFINITIONS, definition)

    async def settle(self, seconds=2.0):
        await self.clock.sleep(seconds)
        for task in self.tasks:
            if task.done():
                task.result()

    async def create(self, resource, document, namespace="default"):
        scope = namespace if resource.namespaced else ""
        return await self.client.create(resource, document, scope)

    async def get(self, resource, name, namespace="default"):
        scope = namespace if resource.namespaced else ""
        return await self.client.get(resource, name, scope)

    async def find(self, resource, namespace="default", **selectors):
        scope = namespace if resource.namespaced else ""
        return (await self.client.list(resource, scope, **selectors)).items

    async def names(self, resource, namespace="default"):
        return [item["metadata"]["name"] for item in await self.find(resource, namespace)]

    async def live_pods(self, namespace="default"):
        return [
            pod
            for pod in await self.find(PODS, namespace)
            if "deletionTimestamp" not in pod["metadata"]
            and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        ]

    async def set_phase(self, pod, phase, exit_code=0, reason="", conditions=(), restarts=0):
        """Say what a node would say of a pod; also binds it on first use."""
        metadata = pod["metadata"]
        pod = await self.get(PODS, metadata["name"], metadata["namespace"])
        if not pod["spec"].get("nodeName"):
            binding = {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
                "target": {"apiVersion": "v1", "kind": "Node", "name": "node-0"},
            }
            await self.client.create(
                PODS, binding, metadata["namespace"], name=metadata["name"], subresource="binding"
            )
        now = rfc3339(self.clock.now())
        ready = "True" if phase == "Running" else "False"
        state = (
            {"running": {"startedAt": now}}
            if phase == "Running"
            else {"terminated": {"exitCode": exit_code, "reason": reason, "finishedAt": now}}
        )
        status = {
            "phase": phase,
            "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": now},
                *conditions,
            ],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container.get("image", ""),
                    "imageID": "",
                    "ready": phase == "Running",
                    "restartCount": restarts,
                    "state": state,
                }
                for container in pod["spec"]["containers"]
            ],
            "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}],
            "startTime": now,
        }
        return await self.client.patch(
            PODS,
            metadata["name"],
            {"status": status},
            metadata["namespace"],
            subresource="status",
        )

    async def finish_deletions(self, namespace="default"):
        """What the node does with bound pods that are being deleted."""
        for pod in await self.find(PODS, namespace):
            if "deletionTimestamp" in pod["metadata"]:
                await self.client.delete(PODS, pod["metadata"]["name"], namespace, grace_period_s=0)

    async def events(self, reason="", namespace="default"):
        found = await self.find(EVENTS, namespace)
        return [event for event in found if not reason or event["reason"] == reason]


def conditions_of(document):
    return {
        condition["type"]: (condition["status"], condition.get("reason", ""))
        for condition in document.get("status", {}).get("conditions", ())
    }


@pytest.fixture
def world_run():
    """Runs ``async def story(world)`` on virtual time."""

    def runner(story, seed=0):
        async def main():
            return await story(World(seed))

        return run(main(), seed)

    return runner


@pytest.fixture
def conditions():
    return conditions_of


@pytest.fixture(scope="session")
def world_class():
    """For property tests, which make a world for each example."""
    return World
