"""A cluster with queueing on virtual time: Kueue's kinds, its controllers, jobs, and one node that
runs any pod for as long as its ``sleep`` says."""

import asyncio
import contextlib
import re

import pytest

from kubarium.api.kinds import CLUSTER_QUEUES, LOCAL_QUEUES, PODS, RESOURCE_FLAVORS, WORKLOADS
from kubarium.base.errors import ApiError
from kubarium.control import queueing, training, workloads
from kubarium.control.core.garbage import GarbageCollector
from kubarium.control.core.served import ServedResources

KUEUE = "kueue.x-k8s.io/v1beta2"


class Sleepers:
    """Runs each pod; its first ``sleep N`` is its duration, 0 runs until deleted."""

    name = "sleepers"

    def __init__(self, world):
        self.world = world
        self.started = {}
        self.tasks = []

    async def run(self):
        informer = self.world.informers.get(PODS)
        informer.on_change(self.changed)
        await informer.wait_synced()
        await asyncio.Event().wait()

    def changed(self, old, new):
        if new is None:
            return
        uid = new["metadata"]["uid"]
        if "deletionTimestamp" in new["metadata"]:
            self.spawn(self.delete(new))
        elif uid not in self.started and not new["spec"].get("schedulingGates"):
            self.started[uid] = True
            self.spawn(self.live(new))

    def spawn(self, story):
        self.tasks.append(asyncio.get_running_loop().create_task(story))

    async def live(self, pod):
        text = str(pod["spec"]["containers"])
        seconds = sum(int(found) for found in re.findall(r"sleep (\d+)", text))
        try:
            await self.world.set_phase(pod, "Running")
            if seconds:
                await self.world.clock.sleep(seconds)
                await self.world.set_phase(pod, "Succeeded")
        except ApiError:
            pass  # deleted meanwhile

    async def delete(self, pod):
        metadata = pod["metadata"]
        with contextlib.suppress(ApiError):
            await self.world.client.delete(
                PODS, metadata["name"], metadata["namespace"], grace_period_s=0
            )


class Queues:
    """What the tests say about queues, in a few words."""

    def __init__(self, world):
        self.world = world

    async def start(self, *namespaces, options=None):
        world = self.world
        await world.install("kueue.x-k8s.io", "jobset.x-k8s.io", "trainer.kubeflow.org")
        family = (
            queueing.components(world.context, options)
            if options
            else queueing.components(world.context)
        )
        await world.start(
            *family,
            *workloads.components(world.context),
            *training.components(world.context),
            GarbageCollector(world.context, ServedResources(world.context)),
            Sleepers(world),
            namespaces=namespaces or ("default",),
        )

    def check(self):
        """No reconcile of ours failed, and the books balance."""
        for component in self.world.components:
            if component.name.startswith("kueue"):
                assert not list(getattr(component, "errors", ())), component.name

    async def flavor(self, name="default", **spec):
        document = {"apiVersion": KUEUE, "kind": "ResourceFlavor", "metadata": {"name": name}}
        await self.world.create(RESOURCE_FLAVORS, document | ({"spec": spec} if spec else {}))

    async def cluster_queue(self, name="cq", flavors=("default",), cpu="4", **spec):
        group = {
            "coveredResources": ["cpu"],
            "flavors": [
                {"name": flavor, "resources": [{"name": "cpu", "nominalQuota": cpu}]}
                for flavor in flavors
            ],
        }
        await self.world.create(
            CLUSTER_QUEUES,
            {
                "apiVersion": KUEUE,
                "kind": "ClusterQueue",
                "metadata": {"name": name},
                "spec": {"namespaceSelector": {}, "resourceGroups": [group], **spec},
            },
        )

    async def local_queue(self, name="lq", cluster_queue="cq", namespace="default"):
        await self.world.create(
            LOCAL_QUEUES,
            {
                "apiVersion": KUEUE,
                "kind": "LocalQueue",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterQueue": cluster_queue},
            },
            namespace,
        )

    async def workloads(self, namespace="default"):
        return await self.world.find(WORKLOADS, namespace)

    async def workload_of(self, job):
        uid = job["metadata"]["uid"]
        for workload in await self.workloads(job["metadata"]["namespace"]):
            if any(r["uid"] == uid for r in workload["metadata"].get("ownerReferences", ())):
                return workload
        return None


@pytest.fixture
def queues():
    return Queues


@pytest.fixture(autouse=True)
def nothing_goes_wrong_unseen(caplog):
    """Errors of change handlers and reconciles are only logged; here they fail the test."""
    yield
    wrong = [
        record.getMessage() for record in caplog.get_records("call") if record.levelname == "ERROR"
    ]
    assert not wrong
