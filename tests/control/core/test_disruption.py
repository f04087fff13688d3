import pytest

from kubarium.api.kinds import DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS
from kubarium.base.errors import ApiError
from kubarium.control.core.disruption import DisruptionController
from kubarium.control.workloads.deployment.controller import DeploymentController
from kubarium.control.workloads.replicaset import ReplicaSetController


def budget(**spec):
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "pdb"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
    }


async def web(world, replicas):
    await world.start(
        DisruptionController(world.context),
        DeploymentController(world.context),
        ReplicaSetController(world.context),
    )
    document = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": "busybox"}]},
            },
        },
    }
    await world.create(DEPLOYMENTS, document)
    await world.settle()
    for pod in await world.live_pods():
        await world.set_phase(pod, "Running")
    await world.settle()


@pytest.mark.parametrize(
    ("spec", "allowed", "desired"),
    [
        ({"minAvailable": 2}, 2, 2),
        ({"minAvailable": "60%"}, 1, 3),
        ({"maxUnavailable": 1}, 1, 3),
        ({"maxUnavailable": "50%"}, 2, 2),
        ({"minAvailable": 4}, 0, 4),
    ],
)
def test_budgets_of_a_deployment(world_run, conditions, spec, allowed, desired):
    async def story(world):
        await web(world, 4)
        await world.create(POD_DISRUPTION_BUDGETS, budget(**spec))
        await world.settle()
        document = await world.get(POD_DISRUPTION_BUDGETS, "pdb")
        status = document["status"]
        assert (status["disruptionsAllowed"], status["desiredHealthy"]) == (allowed, desired)
        assert (status["currentHealthy"], status["expectedPods"]) == (4, 4)
        reason = "SufficientPods" if allowed else "InsufficientPods"
        assert conditions(document)["DisruptionAllowed"][1] == reason

    world_run(story)


def test_evictions_stop_at_the_budget_and_go_on_when_pods_are_back(world_run):
    async def evict(world, pod):
        name = pod["metadata"]["name"]
        document = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": "default"},
        }
        await world.client.create(PODS, document, "default", name=name, subresource="eviction")

    async def story(world):
        await web(world, 2)
        await world.create(POD_DISRUPTION_BUDGETS, budget(minAvailable=1))
        await world.settle()
        first, second = await world.live_pods()
        await evict(world, first)
        with pytest.raises(ApiError) as refused:
            await evict(world, second)
        assert refused.value.code == 429
        await world.settle()
        with pytest.raises(ApiError):
            await evict(world, second)
        await world.finish_deletions()
        await world.settle()
        for pod in await world.live_pods():
            await world.set_phase(pod, "Running")
        await world.settle()
        await evict(world, second)

    world_run(story)


def test_pods_of_no_scalable_owner_are_reported(world_run, conditions):
    async def story(world):
        await world.start(DisruptionController(world.context))
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "a",
                "labels": {"app": "web"},
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "name": "j",
                        "uid": "u",
                        "controller": True,
                    }
                ],
            },
            "spec": {"containers": [{"name": "main", "image": "busybox"}]},
        }
        await world.create(PODS, pod)
        await world.create(POD_DISRUPTION_BUDGETS, budget(maxUnavailable=1))
        await world.settle()
        document = await world.get(POD_DISRUPTION_BUDGETS, "pdb")
        assert conditions(document)["DisruptionAllowed"] == ("False", "SyncFailed")
        assert document["status"]["disruptionsAllowed"] == 0

    world_run(story)
