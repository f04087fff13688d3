"""JobSet's own published examples, run by our controllers."""

import pytest
import yaml

from kubarium.api.kinds import JOB_SETS, JOBS, PERSISTENT_VOLUME_CLAIMS, PODS
from kubarium.control import core, training, workloads
from tests.control.training.conftest import LABEL, Play

# (file below site/static/examples, Jobs that run at first, Jobs once their pods are ready)
CASES = [
    ("simple/paralleljobs.yaml", 2, 2),
    ("simple/group.yaml", 2, 2),
    ("simple/coordinator.yaml", 2, 2),
    ("simple/jobset-with-network.yaml", 2, 2),
    ("simple/exclusive-placement.yaml", 3, 3),
    ("failure-policy/failjobset-action.yaml", 2, 2),
    ("failure-policy/onjobfailurereasons-present.yaml", 2, 2),
    ("failure-policy/restartjobsetandignoremaxrestarts-action.yaml", 2, 2),
    ("depends-on/depends-on.yaml", 1, 1),
    ("depends-on/multiple-depends-on.yaml", 2, 2),
    ("startup-policy/startup-driver-ready.yaml", 1, 2),
    ("volume-claim-policy/single-pvc.yaml", 1, 1),
    ("tensorflow/mnist.yaml", 1, 1),
    ("tpu-multislice/v6e-jax-workload.yaml", 2, 2),
]


@pytest.mark.shared
@pytest.mark.parametrize(("path", "first", "later"), CASES, ids=[case[0] for case in CASES])
def test_published_examples_start(world_run, shared, path, first, later):
    file = shared / "manifests/jobset/site/static/examples" / path
    if not file.is_file():
        pytest.skip(f"{path} is absent from the upstream data folder")

    async def story(world):
        await world.install("jobset.x-k8s.io")
        families = (core, workloads, training)
        controllers = [item for family in families for item in family.components(world.context)]
        await world.start(*controllers)
        documents = [item for item in yaml.safe_load_all(file.read_text()) if item]
        for document in documents:
            if document["kind"] == "JobSet":
                await world.create(JOB_SETS, document)
        await world.settle(5)
        assert len(await world.names(JOBS)) == first
        for pod in await world.live_pods():
            await world.set_phase(pod, "Running")
        await world.settle(5)
        assert len(await world.names(JOBS)) == later
        assert not [error for item in controllers for error in item.controller.errors]

    world_run(story)


def without_nodes(context):
    """All controllers but those that miss the node that the test plays."""
    families = (core, workloads, training)
    made = [item for family in families for item in family.components(context)]
    return [item for item in made if not isinstance(item, (core.NodeLifecycle, core.PodGarbage))]


class PodPlay(Play):
    """The test plays the node: "run HOST", "succeed HOST", "crash HOST", by start of the hostname
    after the JobSet's name; also what :class:`Play` knows. All controllers are at work."""

    async def act(self, text):
        verb, _, host = text.partition(" ")
        if verb in ("run", "succeed", "crash"):
            for pod in await self.pods(host):
                await getattr(self, verb)(pod)
        elif verb == "delete":
            await self.world.client.delete(JOB_SETS, self.name, "default")
        else:
            await super().act(text)
            return
        for _ in range(3):
            await self.world.settle(5)
            await self.world.finish_deletions()
        await self.world.settle(5)

    async def pods(self, host):
        wanted = f"{self.name}-{host}" if host != "*" else ""
        found = [
            pod
            for pod in await self.world.live_pods()
            if pod["spec"]["hostname"].startswith(wanted)
        ]
        assert found, f"no pod {host}"
        return found

    async def run(self, pod):
        await self.world.set_phase(pod, "Running")

    async def succeed(self, pod):
        await self.world.set_phase(pod, "Succeeded")

    async def crash(self, pod):
        """Where containers are restarted, a restart is what the Job counts."""
        if pod["spec"]["restartPolicy"] == "OnFailure":
            await self.world.set_phase(pod, "Running", restarts=1)
        else:
            await self.world.set_phase(pod, "Failed", exit_code=1)

    async def _claims(self, _):
        return " ".join(await self.world.names(PERSISTENT_VOLUME_CLAIMS))

    async def _hosts(self, _):
        """Resolvable names of the pods that live."""
        specs = [pod["spec"] for pod in await self.world.live_pods()]
        return sorted(f"{spec['hostname']}.{spec['subdomain']}" for spec in specs)

    async def _group_indexes(self, _):
        labels = [job["metadata"]["labels"] for job in await self.world.find(JOBS)]
        names = ("group-name", "job-group-index", "group-replicas", "job-global-index")
        return [" ".join(item[LABEL + name] for name in names) for item in labels]

    async def _coordinators(self, _):
        pods = await self.world.live_pods()
        return {pod["metadata"]["labels"][LABEL + "coordinator"] for pod in pods}


async def claims_afterwards(play):
    await play.act("delete")
    assert await play._claims(None) == "checkpoints-volume-claim-trainjob"


COMPLETED = {"conditions": {"Completed": "True AllJobsCompleted"}}
RESTARTS = ("run *", "crash leader-0-0")
OUTCOMES = [
    ("simple/paralleljobs.yaml", ("run *", "succeed *", COMPLETED)),
    (
        "failure-policy/failjobset-action.yaml",
        (
            *RESTARTS,
            {"restarts": 0, "conditions": {"Failed": "True FailJobSetFailurePolicyAction"}},
        ),
    ),
    (
        "failure-policy/onjobfailurereasons-present.yaml",
        (*RESTARTS * 5, {"restarts": 5, "counted": 0, "state": ""}),
    ),
    (
        "failure-policy/restartjobsetandignoremaxrestarts-action.yaml",
        (*RESTARTS * 5, {"restarts": 5, "counted": 0, "state": ""}),
    ),
    (
        "failure-policy/restartjobandignoremaxrestarts-action.yaml",
        (
            "run *",
            "crash rj-worker-0-1",
            {"restarts": 0, "own": {"rj-worker": [1]}, "attempts": "0.0 0.1"},
            "run rj-worker",
            "crash rj-worker-0-0",
            "run rj-worker",
            "crash rj-worker-0-0",
            {"own": {"rj-worker": [3]}, "own_counted": {}, "state": ""},
            "run *",
            "crash rj-leader-0-0",
            {"restarts": 1, "counted": 0, "attempts": "1.0 1.3", "state": ""},
        ),
    ),
    (
        "depends-on/depends-on.yaml",
        (
            {"jobs": "initializer-0"},
            "run *",
            {"jobs": "initializer-0"},
            "succeed initializer",
            {"jobs": "initializer-0 launcher-0"},
            "run launcher",
            {"jobs": "initializer-0 launcher-0 worker-0"},
            "run worker",
            "succeed *",
            COMPLETED,
        ),
    ),
    (
        "depends-on/multiple-depends-on.yaml",
        (
            "run *",
            "succeed dataset",
            {"jobs": "dataset-initializer-0 model-initializer-0"},
            "succeed model",
            {"jobs": "dataset-initializer-0 model-initializer-0 worker-0"},
            "succeed worker",
            COMPLETED,
        ),
    ),
    (
        "startup-policy/startup-driver-ready.yaml",
        (
            {
                "jobs": "driver-0",
                "conditions": {"StartupPolicyInProgress": "True InOrderStartupPolicyInProgress"},
            },
            "run driver",
            {"jobs": "driver-0 workers-0"},
            "run workers",
            {
                "conditions": {
                    "StartupPolicyInProgress": "False InOrderStartupPolicyInProgress",
                    "StartupPolicyCompleted": "True InOrderStartupPolicyCompleted",
                }
            },
        ),
    ),
    (
        "simple/jobset-with-network.yaml",
        (
            "run *",
            {
                "hosts": [
                    "network-jobset-leader-0-0.example",
                    "network-jobset-workers-0-0.example",
                    "network-jobset-workers-0-1.example",
                ]
            },
        ),
    ),
    (
        "simple/coordinator.yaml",
        ({"coordinators": {"coordinator-example-driver-0-0.coordinator-example"}},),
    ),
    ("simple/group.yaml", ({"group_indexes": ["default 0 1 0", "group-b 0 1 1"]},)),
    (
        "volume-claim-policy/single-pvc.yaml",
        (
            {"claims": "checkpoints-volume-claim-trainjob initializer-volume-claim-trainjob"},
            "succeed initializer",
            "succeed node",
            COMPLETED,
            claims_afterwards,
        ),
    ),
]


@pytest.mark.shared
@pytest.mark.parametrize(("path", "steps"), OUTCOMES, ids=[row[0] for row in OUTCOMES])
def test_published_examples_end_as_their_documents_say(world_run, shared, path, steps):
    file = shared / "manifests/jobset/site/static/examples" / path
    if not file.is_file():
        pytest.skip(f"{path} is absent from the upstream data folder")

    async def story(world):
        await world.install("jobset.x-k8s.io")
        await world.start(*without_nodes(world.context))
        [document] = yaml.safe_load_all(file.read_text())
        await world.create(JOB_SETS, document)
        play = PodPlay(world, document["metadata"]["name"])
        await world.settle(5)
        await play.go_through(steps)

    world_run(story)


@pytest.mark.shared
def test_the_published_restart_in_place_counts_attempts(world_run, shared):
    path = "manifests/jobset/site/static/examples/in-place-restart/jobset-main-container-mode.yaml"
    file = shared / path
    if not file.is_file():
        pytest.skip(f"{path} is absent from the upstream data folder")

    async def story(world):
        await world.install("jobset.x-k8s.io")
        await world.start(*without_nodes(world.context))
        [document] = yaml.safe_load_all(file.read_text())
        entry = document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
        # No image goes by the name "<CHANGE ME>"; the service account is made elsewhere.
        entry["containers"][0]["image"] = "in-place-restart-agent"
        del entry["serviceAccountName"]
        await world.create(JOB_SETS, document)
        await world.settle(5)
        await gang_restarts(world, "js", 4, 3)

    world_run(story)


async def gang_restarts(world, name, size, limit):
    """Attempt after attempt, until the limit is passed; the test plays the agents."""
    pods = await world.live_pods()
    assert len(pods) == size
    for pod in pods:
        await world.set_phase(pod, "Running")

    async def attempts(*numbers):
        for pod, number in zip(pods, numbers, strict=True):
            change = {
                "metadata": {"annotations": {f"{LABEL}in-place-restart-attempt": str(number)}}
            }
            await world.client.patch(PODS, pod["metadata"]["name"], change, "default")
        await world.settle(3)
        status = (await world.get(JOB_SETS, name))["status"]
        return (
            status.get("currentInPlaceRestartAttempt"),
            status.get("previousInPlaceRestartAttempt"),
        )

    assert await attempts(*[0] * size) == (0, None)
    for attempt in range(1, limit + 1):
        before = None if attempt == 1 else attempt - 2
        assert await attempts(attempt - 1, *[attempt - 1] * (size - 1)) == (attempt - 1, before)
        assert await attempts(attempt, *[attempt - 1] * (size - 1)) == (attempt - 1, attempt - 1)
        assert await attempts(*[attempt] * size) == (attempt, attempt - 1)
    first = {pod["metadata"]["uid"] for pod in pods}
    assert {pod["metadata"]["uid"] for pod in await world.live_pods()} == first
    await attempts(limit + 1, *[limit] * (size - 1))
    jobset = await world.get(JOB_SETS, name)
    [failed] = [c for c in jobset["status"]["conditions"] if c["type"] == "Failed"]
    assert (failed["reason"], jobset["status"].get("restarts", 0)) == ("ReachedMaxRestarts", 0)
