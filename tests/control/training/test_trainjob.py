"""TrainJobs on virtual time: what is made of them, and what becomes of them."""

import base64

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import (
    load_pem_private_key,
    load_ssh_public_key,
)

from kubarium.api.kinds import (
    CLUSTER_TRAINING_RUNTIMES,
    CONFIG_MAPS,
    JOB_SETS,
    PODS,
    SECRETS,
    TRAIN_JOBS,
    TRAINING_RUNTIMES,
)
from kubarium.base.errors import ApiError
from kubarium.cluster import training as stock
from kubarium.control import training, workloads
from kubarium.control.core.garbage import GarbageCollector
from kubarium.control.core.served import ServedResources
from kubarium.view.gangs import COSCHEDULING_GROUPS

GROUPS = ("jobset.x-k8s.io", "trainer.kubeflow.org", "scheduling.x-k8s.io")


def train_job(runtime="torch-distributed", kind="ClusterTrainingRuntime", name="job", **spec):
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name},
        "spec": {"runtimeRef": {"name": runtime, "kind": kind}, **spec},
    }


@pytest.fixture
def lab(world_run):
    """A story in a world with the stock runtimes and the controllers of jobs."""

    def tell(story):
        async def main(world):
            await world.install(*GROUPS)
            await world.start(
                *training.components(world.context),
                *workloads.components(world.context),
                GarbageCollector(world.context, ServedResources(world.context)),
            )
            for runtime in stock.runtimes():
                await world.create(CLUSTER_TRAINING_RUNTIMES, runtime)
            await story(world)

        world_run(main)

    return tell


async def all_to(world, phase, **kwargs):
    for pod in await world.live_pods():
        await world.set_phase(pod, phase, **kwargs)
    await world.settle()


async def state(world, name="job"):
    status = (await world.get(TRAIN_JOBS, name)).get("status", {})
    return {c["type"]: (c["status"], c["reason"]) for c in status.get("conditions", [])}


def test_a_trainjob_runs_and_completes_with_its_jobset(lab):
    async def story(world):
        await world.create(TRAIN_JOBS, train_job(trainer={"numNodes": 3}))
        await world.settle()
        pods = await world.find(PODS)
        assert sorted(p["spec"]["hostname"] for p in pods) == [f"job-node-0-{i}" for i in range(3)]
        assert await state(world) == {}  # the SDK takes that for running
        await all_to(world, "Running")
        [row] = (await world.get(TRAIN_JOBS, "job"))["status"]["jobsStatus"]
        assert (row["name"], row["active"], row["ready"]) == ("node", 1, 1)
        await all_to(world, "Succeeded")
        assert await state(world) == {"Complete": ("True", "AllJobsCompleted")}

    lab(story)


def test_a_failed_jobset_gives_its_reason(lab):
    async def story(world):
        patch = {
            "manager": "test.io/x",
            "trainingRuntimeSpec": {
                "template": {
                    "spec": {
                        "replicatedJobs": [
                            {
                                "name": "node",
                                "template": {
                                    "spec": {
                                        "template": {"spec": {"terminationGracePeriodSeconds": 5}}
                                    }
                                },
                            }
                        ]
                    }
                }
            },
        }
        await world.create(TRAIN_JOBS, train_job(trainer={"numNodes": 1}, runtimePatches=[patch]))
        await world.settle()
        [pod] = await world.live_pods()
        assert pod["spec"]["terminationGracePeriodSeconds"] == 5
        for _ in range(8):  # past the Job's backoffLimit
            await all_to(world, "Failed", exit_code=1)
            await world.settle(700)
        assert await state(world) == {"Failed": ("True", "FailedJobs")}

    lab(story)


def test_a_suspended_trainjob_starts_when_resumed(lab):
    async def story(world):
        made = await world.create(TRAIN_JOBS, train_job(suspend=True, trainer={"numNodes": 2}))
        await world.settle()
        assert await state(world) == {"Suspended": ("True", "Suspended")}
        assert (await world.get(JOB_SETS, "job"))["spec"]["suspend"] is True
        assert await world.find(PODS) == []
        await world.client.patch(TRAIN_JOBS, "job", {"spec": {"suspend": False}}, "default")
        await world.settle()
        assert await state(world) == {"Suspended": ("False", "Resumed")}
        assert len(await world.live_pods()) == 2
        assert made["spec"]["managedBy"] == "trainer.kubeflow.org/trainjob-controller"

    lab(story)


def test_suspending_stops_the_pods(lab):
    async def story(world):
        await world.create(TRAIN_JOBS, train_job(trainer={"numNodes": 2}))
        await world.settle()
        await all_to(world, "Running")
        await world.client.patch(TRAIN_JOBS, "job", {"spec": {"suspend": True}}, "default")
        await world.settle()
        await world.finish_deletions()
        await world.settle()
        assert await world.live_pods() == []
        assert await state(world) == {"Suspended": ("True", "Suspended")}

    lab(story)


def test_patches_of_a_suspended_trainjob_reach_its_pods(lab):
    async def story(world):
        await world.create(TRAIN_JOBS, train_job(suspend=True, trainer={"numNodes": 1}))
        await world.settle()
        jobs = [
            {
                "name": "node",
                "template": {"spec": {"template": {"spec": {"nodeSelector": {"zone": "b"}}}}},
            }
        ]
        template = {"spec": {"replicatedJobs": jobs}}
        patch = {"manager": "a.io/b", "trainingRuntimeSpec": {"template": template}}
        change = {"spec": {"suspend": False, "runtimePatches": [patch]}}
        await world.client.patch(TRAIN_JOBS, "job", change, "default")
        await world.settle()
        [pod] = await world.live_pods()
        assert pod["spec"]["nodeSelector"] == {"zone": "b"}

    lab(story)


def test_a_trainjob_out_of_time_fails_and_its_pods_go(lab):
    async def story(world):
        await world.create(TRAIN_JOBS, train_job(activeDeadlineSeconds=30, trainer={"numNodes": 2}))
        await world.settle()
        await all_to(world, "Running")
        await world.settle(40)
        await world.finish_deletions()
        await world.settle()
        assert await state(world) == {"Failed": ("True", "DeadlineExceeded")}
        assert await world.names(JOB_SETS) == []
        assert await world.live_pods() == []

    lab(story)


def test_the_clock_starts_anew_after_a_suspension(lab):
    async def story(world):
        await world.create(
            TRAIN_JOBS,
            train_job(activeDeadlineSeconds=30, suspend=True, trainer={"numNodes": 1}),
        )
        await world.settle(100)
        await world.client.patch(TRAIN_JOBS, "job", {"spec": {"suspend": False}}, "default")
        await world.settle(20)
        assert "Failed" not in await state(world)
        await world.settle(20)
        assert (await state(world))["Failed"] == ("True", "DeadlineExceeded")

    lab(story)


def test_a_runtime_changed_later_does_not_change_what_runs(lab):
    async def story(world):
        await world.create(TRAIN_JOBS, train_job(suspend=True, trainer={"numNodes": 1}))
        await world.settle()
        held = await world.get(CONFIG_MAPS, "job-runtime-snapshot")
        snapshot = yaml.safe_load(held["data"]["runtime"])
        assert snapshot["metadata"]["name"] == "torch-distributed"
        await world.client.delete(CLUSTER_TRAINING_RUNTIMES, "torch-distributed")
        await world.client.patch(TRAIN_JOBS, "job", {"spec": {"suspend": False}}, "default")
        await world.settle()
        [pod] = await world.live_pods()
        assert pod["spec"]["containers"][0]["image"].startswith("pytorch/pytorch")

    lab(story)


def test_a_snapshot_of_another_owner_is_said_and_not_used(lab):
    async def story(world):
        foreign = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "job-runtime-snapshot"},
            "data": {"runtime": "spec: {}"},
        }
        await world.create(CONFIG_MAPS, foreign)
        await world.create(TRAIN_JOBS, train_job(trainer={"numNodes": 1}))
        await world.settle()
        [event, *_] = await world.events("TrainJobResourcesCreationFailed")
        assert "owned by another object" in event["message"]
        await world.client.delete(CONFIG_MAPS, "job-runtime-snapshot", "default")
        await world.settle(20)
        assert len(await world.live_pods()) == 1

    lab(story)


def test_everything_goes_with_the_trainjob(lab):
    async def story(world):
        await world.create(TRAIN_JOBS, train_job("deepspeed-distributed", trainer={"numNodes": 3}))
        await world.settle()
        assert await world.names(JOB_SETS) == ["job"]
        await world.client.delete(TRAIN_JOBS, "job", "default")
        await world.settle(5)
        await world.finish_deletions()
        await world.settle(5)
        for resource in (JOB_SETS, PODS, CONFIG_MAPS, SECRETS):
            assert await world.names(resource) == [], resource.kind

    lab(story)


def test_mpi_jobs_get_hosts_and_a_pair_of_keys(lab):
    async def story(world):
        await world.create(TRAIN_JOBS, train_job("deepspeed-distributed", trainer={"numNodes": 3}))
        await world.settle()
        hosts = await world.get(CONFIG_MAPS, "job-mpi-hostfile")
        assert hosts["data"]["hostfile"].count("slots=1\n") == 3
        secret = await world.get(SECRETS, "job-mpi-ssh-auth")
        assert secret["immutable"] is True
        data = {key: base64.b64decode(value) for key, value in secret["data"].items()}
        private = load_pem_private_key(data["ssh-privatekey"], None)
        public = load_ssh_public_key(data["ssh-publickey"])
        assert private.public_key().public_numbers() == public.public_numbers()
        # The launcher waits until its nodes are ready.
        assert len(await world.live_pods()) == 2
        await all_to(world, "Running")
        assert len(await world.live_pods()) == 3

    lab(story)


def test_initializers_come_first(lab):
    async def story(world):
        await world.create(
            TRAIN_JOBS, train_job("torchtune-llama3.2-1b", trainer={"command": ["tune", "run"]})
        )
        await world.settle()
        images = [p["spec"]["containers"][0]["image"] for p in await world.live_pods()]
        assert sorted(image.rpartition("/")[2] for image in images) == [
            "dataset-initializer",
            "model-initializer",
        ]
        await all_to(world, "Succeeded")
        [pod] = await world.live_pods()
        assert pod["spec"]["containers"][0]["command"][:2] == ["tune", "run"]

    lab(story)


def test_a_gang_policy_makes_a_pod_group(lab):
    async def story(world):
        [runtime] = [r for r in stock.runtimes() if r["metadata"]["name"] == "torch-distributed"]
        runtime |= {"kind": "TrainingRuntime", "metadata": {"name": "gang"}}
        runtime["spec"]["podGroupPolicy"] = {"coscheduling": {}}
        await world.create(TRAINING_RUNTIMES, runtime)
        trainer = {"numNodes": 4, "resourcesPerNode": {"requests": {"cpu": "500m"}}}
        await world.create(TRAIN_JOBS, train_job("gang", "TrainingRuntime", trainer=trainer))
        await world.settle()
        group = await world.get(COSCHEDULING_GROUPS, "job")
        assert group["spec"]["minMember"] == 4
        assert group["spec"]["minResources"] == {"cpu": "2000m"}
        assert group["spec"]["scheduleTimeoutSeconds"] == 60
        for pod in await world.live_pods():
            assert pod["metadata"]["labels"]["scheduling.x-k8s.io/pod-group"] == "job"

    lab(story)


def test_what_volcano_would_honour_is_said(lab):
    async def story(world):
        [runtime] = [r for r in stock.runtimes() if r["metadata"]["name"] == "torch-distributed"]
        runtime["metadata"] = {"name": "volcano"}
        runtime["spec"]["podGroupPolicy"] = {"volcano": {"networkTopology": {}}}
        annotations = {"scheduling.volcano.sh/queue-name": "fast"}
        runtime["spec"]["template"]["metadata"] = {"annotations": annotations}
        await world.create(CLUSTER_TRAINING_RUNTIMES, runtime)
        await world.create(TRAIN_JOBS, train_job("volcano", trainer={"numNodes": 2}))
        await world.settle()
        [event] = await world.events("VolcanoNotServed")
        assert "does not honour queue fast and networkTopology" in event["message"]
        assert (await world.get(COSCHEDULING_GROUPS, "job"))["spec"]["minMember"] == 2

    lab(story)


def test_a_trainjob_of_another_manager_is_left_alone(lab):
    async def story(world):
        await world.create(TRAIN_JOBS, train_job(managedBy="kueue.x-k8s.io/multikueue"))
        await world.settle()
        assert await world.names(JOB_SETS) == []

    lab(story)


def test_a_finished_trainjob_outlives_its_jobset(lab):
    async def story(world):
        await world.create(TRAIN_JOBS, train_job(trainer={"numNodes": 1}))
        await world.settle()
        await all_to(world, "Succeeded")
        await world.client.delete(JOB_SETS, "job", "default")
        await world.settle(30)
        assert await world.names(JOB_SETS) == []
        assert await state(world) == {"Complete": ("True", "AllJobsCompleted")}

    lab(story)


def test_nobody_elses_jobset_is_taken_over(lab):
    async def story(world):
        foreign = {
            "apiVersion": "jobset.x-k8s.io/v1alpha2",
            "kind": "JobSet",
            "metadata": {"name": "job"},
            "spec": {"replicatedJobs": []},
        }
        await world.create(JOB_SETS, foreign)
        await world.create(TRAIN_JOBS, train_job(trainer={"numNodes": 1}))
        await world.settle()
        [event, *_] = await world.events("TrainJobResourcesCreationFailed")
        assert "JobSet job is there already and is not this TrainJob's" in event["message"]
        assert await state(world) == {}
        await world.client.delete(JOB_SETS, "job", "default")
        await world.settle(20)
        assert len(await world.live_pods()) == 1

    lab(story)


# admission, as it is wired


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ({"runtimeRef": {"name": "missing"}}, "not found"),
        ({"runtimeRef": {}}, "Required value"),
        ({"runtimeRef": {"name": "torch-distributed"}, "managedBy": "me"}, "ManagedBy must be"),
        (
            {"runtimeRef": {"name": "torch-distributed"}, "trainer": {"numProcPerNode": 0}},
            "numProcPerNode must be greater than or equal to 1",
        ),
        (
            {
                "runtimeRef": {"name": "torch-distributed"},
                "trainer": {"env": [{"name": "PET_NNODES", "value": "1"}]},
            },
            "reserved envs",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_once(lab, spec, complaint):
    async def story(world):
        document = {**train_job(), "spec": spec}
        with pytest.raises(ApiError, match=complaint) as refusal:
            await world.create(TRAIN_JOBS, document)
        assert refusal.value.code == 422

    lab(story)


def test_trainer_and_runtime_of_a_trainjob_stay(lab):
    async def story(world):
        await world.create(TRAIN_JOBS, train_job(suspend=True, trainer={"numNodes": 1}))
        for change in ({"trainer": {"numNodes": 2}}, {"runtimeRef": {"name": "jax-distributed"}}):
            with pytest.raises(ApiError, match="field is immutable"):
                await world.client.patch(TRAIN_JOBS, "job", {"spec": change}, "default")

    lab(story)


@pytest.mark.parametrize("name", ["Job", "1job", "a.b", "j" * 64])
def test_names_are_labels(lab, name):
    async def story(world):
        with pytest.raises(ApiError):
            await world.create(TRAIN_JOBS, train_job(name=name))

    lab(story)
