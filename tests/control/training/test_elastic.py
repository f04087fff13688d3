"""Elastic gangs, the test plays the nodes: spares, lost nodes, sick devices, sizes."""

import json

import pytest

from kubarium.api.kinds import EVENTS, JOB_SETS, JOBS, NODES, PODS
from kubarium.api.resource import copy_document
from kubarium.base.errors import ApiError
from kubarium.control.core.garbage import GarbageCollector
from kubarium.control.core.served import ServedResources
from kubarium.control.training.elastic import ElasticController
from kubarium.control.training.jobset import JobSetController
from kubarium.control.workloads.job.controller import JobController

from .test_jobset import entry, jobset

INDEX = "batch.kubernetes.io/job-completion-index"
JOB = "train-workers-0"


def gang(annotations, pods=3, replicas=1, **job):
    made = entry(pods=pods, replicas=replicas, **job)
    spec = made["template"]["spec"]
    spec.setdefault("completionMode", "Indexed")
    spec["template"]["metadata"] = {"annotations": annotations}
    spec["template"]["spec"]["containers"][0]["command"] = ["python", "train.py"]
    return jobset(made)


class Play:
    """The nodes' part, and questions."""

    def __init__(self, world):
        self.world = world

    async def create(self, document):
        """A gang whose pods no node has taken up."""
        await self.world.install("jobset.x-k8s.io")
        served = ServedResources(self.world.context)
        self.elastic = ElasticController(self.world.context)
        await self.world.start(
            JobSetController(self.world.context),
            JobController(self.world.context),
            self.elastic,
            GarbageCollector(self.world.context, served),
        )
        await self.world.create(JOB_SETS, document)
        await self.world.settle()

    async def start(self, document):
        await self.create(document)
        for _ in range(2):  # ranks, then spares
            for pod in await self.world.live_pods():
                if not pod["spec"].get("nodeName"):
                    index = pod["metadata"]["labels"].get(INDEX, "spare")
                    await self.comes_up(pod, f"node-{index}")
            await self.world.settle(1)

    async def comes_up(self, pod, node="node-0", state="Waiting", attempt=0, code=0, saved=-1):
        name = pod["metadata"]["name"]
        pod = await self.world.get(PODS, name)
        if not pod["spec"].get("nodeName"):
            await self.bind(name, node)
            pod = await self.world.get(PODS, name)
        message = f"attempt {attempt}"
        message += f", exit code {code}" if code else ""
        message += f", saved step {saved}" if saved >= 0 else ""
        condition = {
            "type": "gang.kubarium.dev/rank",
            "status": "True",
            "reason": state,
            "message": message,
        }
        status = {**pod.get("status", {}), "phase": "Running", "conditions": [condition]}
        status["podIP"] = f"10.0.0.{sum(name.encode()) % 250}"
        await self.world.client.update(
            PODS, {**pod, "status": status}, "default", subresource="status"
        )

    async def bind(self, name, node):
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        await self.world.client.create(PODS, binding, "default", name=name, subresource="binding")

    async def train(self):
        """All that were given a rank have begun."""
        for pod in await self.world.live_pods():
            text = pod["metadata"].get("annotations", {}).get("kubarium.dev/world")
            if text:
                await self.comes_up(pod, state="Running", attempt=json.loads(text)["attempt"])
        await self.world.settle(4)

    async def ranks(self):
        """{index: (attempt, rank, world)} of live pods."""
        found = {}
        for pod in await self.world.live_pods():
            text = pod["metadata"].get("annotations", {}).get("kubarium.dev/world", "{}")
            place = json.loads(text)
            if INDEX in pod["metadata"]["labels"]:
                found[int(pod["metadata"]["labels"][INDEX])] = tuple(
                    place.get(name) for name in ("attempt", "rank", "world")
                )
        return found

    async def pod(self, index):
        for pod in await self.world.live_pods():
            if pod["metadata"]["labels"].get(INDEX) == str(index):
                return pod
        return None

    async def spares(self):
        return [
            pod
            for pod in await self.world.live_pods()
            if pod["metadata"]["labels"].get("kubarium.dev/spare") == "true"
        ]

    async def said(self, reason):
        return [e["message"] for e in await self.world.find(EVENTS) if e["reason"] == reason]


def told(story):
    return lambda world: story(world, Play(world))


def test_spares_are_made_beside_the_ranks_and_put_elsewhere_if_possible(world_run):
    async def story(world, play):
        await play.start(gang({"kubarium.dev/spares": "2"}))
        spares = await play.spares()
        assert len(spares) == 2
        [term] = spares[0]["spec"]["affinity"]["podAntiAffinity"][
            "preferredDuringSchedulingIgnoredDuringExecution"
        ]
        assert term["podAffinityTerm"]["labelSelector"] == {
            "matchLabels": {"batch.kubernetes.io/job-name": JOB}
        }
        job = await world.get(JOBS, JOB)
        assert job["status"]["active"] == 3
        command = spares[0]["spec"]["containers"][0]["command"]
        assert command == ["python", "-m", "kubarium.train.launch", "--", "python", "train.py"]
        assert await play.ranks() == {0: (1, 0, 3), 1: (1, 1, 3), 2: (1, 2, 3)}

    world_run(told(story))


def test_a_lost_node_loses_its_rank_at_once_to_a_spare(world_run):
    async def story(world, play):
        await play.start(gang({"kubarium.dev/spares": "1"}))
        await play.train()
        lost = await play.pod(1)
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}
        [spare] = await play.spares()
        node["status"] = {
            "conditions": [{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]
        }
        await world.create(NODES, node, "")
        await world.settle(1)
        assert (await play.pod(1))["metadata"]["uid"] == lost["metadata"]["uid"], "no better node"
        well = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-2"}}
        well["status"] = {"conditions": [{"type": "Ready", "status": "True", "reason": "x"}]}
        await world.create(NODES, well, "")
        touched = {"metadata": {"annotations": {"x": "y"}}}
        await world.client.patch(NODES, "node-1", touched, "")
        await world.settle(2)
        taken = await play.pod(1)
        assert taken["metadata"]["uid"] == spare["metadata"]["uid"]
        assert taken["metadata"]["annotations"]["kubarium.dev/hostname"] == f"{JOB}-1"
        assert (await play.ranks())[1] == (2, 1, 3)
        await play.train()
        [text] = await play.said("SparePromoted")
        assert text == (
            f"spare {spare['metadata']['name']} has taken rank 1 of pod "
            f"{lost['metadata']['name']}: node node-1 is not ready (NodeStatusUnknown); "
            "3 ranks go on from their last checkpoint"
        )
        job = await world.get(JOBS, JOB)
        assert job["status"].get("failed", 0) == 0
        assert len(await play.spares()) == 1, "replenished"

    world_run(told(story))


def test_an_unhealthy_device_loses_its_rank(world_run):
    async def story(world, play):
        document = gang({"kubarium.dev/spares": "1"})
        job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
        # A status tells the health of what the container has asked for, and of nothing else.
        job["template"]["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1m"}}
        await play.start(document)
        await play.train()
        sick = await world.get(PODS, (await play.pod(2))["metadata"]["name"])
        resource = {"name": "cpu", "resources": [{"resourceID": "gpu-3"}]}
        resource["resources"][0]["health"] = "Unhealthy"
        status = {
            **sick["status"],
            "containerStatuses": [
                {
                    "name": "main",
                    "image": "busybox",
                    "imageID": "",
                    "ready": True,
                    "restartCount": 0,
                    "allocatedResourcesStatus": [resource],
                }
            ],
        }
        await world.client.update(PODS, {**sick, "status": status}, "default", subresource="status")
        await world.settle(2)
        [text] = await play.said("RankLost")
        name = sick["metadata"]["name"]
        assert text == f"rank 2 (pod {name}) is given up: device gpu-3 is unhealthy"
        assert (await play.pod(2))["metadata"]["name"] != name

    world_run(told(story))


def test_a_gang_goes_back_once_its_killed_rank_has_more_memory(world_run):
    async def story(world, play):
        annotations = {
            "kubarium.dev/spares": "0",
            "kubarium.dev/oom-policy": "grow",
            "kubarium.dev/oom-ceiling": "300Mi",
        }
        document = gang(annotations)
        job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
        job["template"]["spec"]["containers"][0]["resources"] = {"limits": {"memory": "100Mi"}}
        await play.start(document)
        await play.train()
        pod = await play.pod(1)
        await play.comes_up(pod, state="Failed", attempt=1, code=137)
        pod = await world.get(PODS, pod["metadata"]["name"])
        killed = {
            "type": "memory.kubarium.dev/main",
            "status": "True",
            "reason": "Killed",
            "message": "was killed",
            "observedGeneration": 1,
        }
        status = {**pod["status"], "conditions": [*pod["status"]["conditions"], killed]}
        await world.client.update(PODS, {**pod, "status": status}, "default", subresource="status")
        await world.settle(3)
        assert (await play.ranks())[1] == (1, 1, 3), "it waits for what the rank was promised"
        pod = await world.get(PODS, pod["metadata"]["name"])
        status = {**pod["status"], "conditions": pod["status"]["conditions"][:-1]}
        await world.client.update(PODS, {**pod, "status": status}, "default", subresource="status")
        await world.settle(0.5)
        assert await play.ranks() == {0: (2, 0, 3), 1: (2, 1, 3), 2: (2, 2, 3)}

    world_run(told(story))


def test_spares_that_end_are_made_again_more_and_more_slowly(world_run):
    async def story(world, play):
        await play.start(gang({"kubarium.dev/spares": "1"}))
        await play.train()
        for _ in range(2):
            [spare] = await play.spares()
            await world.set_phase(spare, "Failed", exit_code=1)
            await world.settle(1)
            assert not await play.spares()
            await world.settle(25)
        assert len(await play.spares()) == 1
        job = await world.get(JOBS, JOB)
        assert job["status"].get("failed", 0) == 0

    world_run(told(story))


def test_pods_beyond_the_maximum_wait(world_run):
    async def story(world, play):
        await play.start(gang({"kubarium.dev/max-ranks": "2"}))
        assert await play.ranks() == {0: (1, 0, 2), 1: (1, 1, 2), 2: (None, None, None)}

    world_run(told(story))


def test_a_job_that_is_scaled_takes_its_gang_along(world_run):
    async def story(world, play):
        await play.start(gang({"kubarium.dev/min-ranks": "2"}))
        await play.train()
        held = await world.get(JOB_SETS, "train")
        changed = copy_document(held)
        job = changed["spec"]["replicatedJobs"][0]["template"]["spec"]
        job["completions"] = job["parallelism"] = 4
        await world.client.update(JOB_SETS, changed, "default")
        await world.settle(1)
        await play.comes_up(await play.pod(3))
        await world.settle(1)
        assert await play.ranks() == {i: (2, i, 4) for i in range(4)}

    world_run(told(story))


def test_a_job_that_is_gone_is_forgotten(world_run):
    async def story(world, play):
        await play.start(gang({"kubarium.dev/spares": "1"}))
        await play.train()
        before = await world.get(JOBS, JOB)
        assert set(play.elastic._memories) == {before["metadata"]["uid"]}
        await world.client.delete(JOBS, JOB, "default", propagation_policy="Background")
        await world.settle(4)
        after = await world.get(JOBS, JOB)
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert set(play.elastic._memories) <= {after["metadata"]["uid"]}

    world_run(told(story))


def test_what_never_came_up_fails_the_job_as_anywhere(world_run):
    async def story(world, play):
        await play.create(gang({"kubarium.dev/spares": "1"}))
        await world.set_phase(await play.pod(0), "Failed", exit_code=127)
        await world.settle()
        jobset = await world.get(JOB_SETS, "train")
        assert jobset["status"]["terminalState"] == "Failed"

    world_run(told(story))


@pytest.mark.parametrize(
    ("annotations", "changes", "why"),
    [
        ({"kubarium.dev/spares": "-1"}, {}, "must be a whole number, at least 0"),
        ({"kubarium.dev/spares": "many"}, {}, "must be a whole number, at least 0"),
        (
            {"kubarium.dev/min-ranks": "3", "kubarium.dev/max-ranks": "2"},
            {},
            "3 is more than kubarium.dev/max-ranks, 2; lower the one or raise the other",
        ),
        ({"kubarium.dev/min-ranks": "9"}, {}, "must not be more than completions, 3"),
        (
            {"kubarium.dev/spares": "1", "kubarium.dev/elastic-wait": "soon"},
            {},
            "'soon' is no duration, as 30s",
        ),
        ({"kubarium.dev/spares": "1"}, {"parallelism": 2}, "must equal completions (3)"),
        ({"kubarium.dev/spares": "1"}, {"replicas": 2}, "a gang is one Job"),
        ({"kubarium.dev/spares": "1"}, {"completionMode": "NonIndexed"}, "must be Indexed"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_written(world_run, annotations, changes, why):
    async def story(world):
        await world.start()
        await world.install("jobset.x-k8s.io")
        with pytest.raises(ApiError) as refused:
            await world.create(JOB_SETS, gang(annotations, **changes))
        assert why in str(refused.value)
        assert "spec.replicatedJobs[0]." in str(refused.value)

    world_run(story)
