import pytest

from kubarium.api.kinds import (
    CUSTOM_RESOURCE_DEFINITIONS,
    DEPLOYMENTS,
    EVENTS,
    POD_DISRUPTION_BUDGETS,
    PODS,
)
from kubarium.api.resource import Resource
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError
from kubarium.control.core.disrupted import StaleDisruptions
from kubarium.control.core.disruption import DisruptionController
from kubarium.control.core.served import ServedResources
from kubarium.control.workloads.deployment.controller import DeploymentController
from kubarium.control.workloads.replicaset import ReplicaSetController


def budget(**spec):
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "pdb"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
    }


def disruption(world):
    return DisruptionController(world.context, ServedResources(world.context))


def owned_pod(name="a", **owner):
    reference = {"name": "o", "uid": "u", "controller": True, **owner}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app": "web"},
            "ownerReferences": [reference] if owner else [],
        },
        "spec": {"containers": [{"name": "main", "image": "busybox"}]},
    }


async def told(world, reason):
    return [e["message"] for e in await world.find(EVENTS) if e["reason"] == reason]


async def web(world, replicas):
    await world.start(
        disruption(world),
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


@pytest.mark.parametrize(
    ("owner", "why"),
    [
        (
            {"apiVersion": "batch/v1", "kind": "Job"},
            "jobs.batch does not implement the scale subresource",
        ),
        (
            {"apiVersion": "example.com/v1", "kind": "Toy"},
            'no matches for kind "Toy" in version "example.com/v1"',
        ),
        ({"apiVersion": "apps/v1", "kind": "ReplicaSet"}, 'found no controllers for pod "a"'),
    ],
)
def test_pods_of_no_scalable_owner_are_reported(world_run, owner, why):
    async def story(world):
        await world.start(disruption(world))
        await world.create(PODS, owned_pod(**owner))
        await world.create(POD_DISRUPTION_BUDGETS, budget(maxUnavailable=1))
        await world.settle()
        status = (await world.get(POD_DISRUPTION_BUDGETS, "pdb"))["status"]
        (condition,) = status["conditions"]
        told_so = [condition[field] for field in ("status", "reason", "message")]
        assert told_so == ["False", "SyncFailed", why]
        # Nothing was counted of this generation: an eviction is told to wait for that.
        assert "observedGeneration" not in status
        assert "observedGeneration" not in condition
        assert status["disruptionsAllowed"] == 0
        (event,) = await told(world, "CalculateExpectedPodCountFailed")
        assert event == f"Failed to calculate the number of expected pods: {why}"

    world_run(story)


def fleet_definition(scale):
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        },
        "subresources": {"scale": scale} if scale else {"status": {}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "fleets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": {"plural": "fleets", "singular": "fleet", "kind": "Fleet"},
            "versions": [version],
        },
    }


@pytest.mark.parametrize(
    ("scale", "size"),
    [({"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}, 5), (None, 0)],
)
def test_custom_owners_say_their_size_by_the_scale_subresource(world_run, scale, size):
    async def story(world):
        await world.start(disruption(world))
        await world.create(CUSTOM_RESOURCE_DEFINITIONS, fleet_definition(scale))
        await world.settle()
        fleets = Resource("example.com", "v1", "fleets", "Fleet", True)
        fleet = {"apiVersion": "example.com/v1", "kind": "Fleet", "metadata": {"name": "o"}}
        made = await world.create(fleets, fleet | {"spec": {"size": 5}})
        owner = {"apiVersion": "example.com/v1", "kind": "Fleet", "uid": made["metadata"]["uid"]}
        await world.set_phase(await world.create(PODS, owned_pod(**owner)), "Running")
        await world.create(POD_DISRUPTION_BUDGETS, budget(minAvailable="50%"))
        await world.settle()
        status = (await world.get(POD_DISRUPTION_BUDGETS, "pdb"))["status"]
        assert status["expectedPods"] == size
        (condition,) = status["conditions"]
        assert condition["reason"] == ("InsufficientPods" if scale else "SyncFailed")
        if not scale:
            text = "fleets.example.com does not implement the scale subresource"
            assert condition["message"] == text

    world_run(story)


def test_a_budget_without_a_limit_allows_nothing(world_run):
    async def story(world):
        await web(world, 3)
        await world.create(POD_DISRUPTION_BUDGETS, budget())
        await world.settle()
        status = (await world.get(POD_DISRUPTION_BUDGETS, "pdb"))["status"]
        counts = [status[f] for f in ("currentHealthy", "expectedPods", "disruptionsAllowed")]
        assert counts == [3, 0, 0]

    world_run(story)


def test_pods_without_an_owner_are_told_of_and_not_counted(world_run):
    async def story(world):
        await web(world, 2)
        await world.set_phase(await world.create(PODS, owned_pod("alone")), "Running")
        document = budget(maxUnavailable=1)
        expression = {"key": "app", "operator": "In", "values": ["web", "api"]}
        document["spec"]["selector"] = {
            "matchLabels": {"app": "web"},
            "matchExpressions": [expression],
        }
        await world.create(POD_DISRUPTION_BUDGETS, document)
        await world.settle()
        status = (await world.get(POD_DISRUPTION_BUDGETS, "pdb"))["status"]
        assert (status["expectedPods"], status["desiredHealthy"]) == (2, 1)
        (event,) = await told(world, "UnmanagedPods")
        assert event == (
            "Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:"
            "map[string]string{app: web,},MatchExpressions:[]LabelSelectorRequirement{"
            "LabelSelectorRequirement{Key:app,Operator:In,Values:[web api],},},}) were found to be "
            "unmanaged. As a result, the status of the PDB cannot be calculated correctly, which "
            "may result in undefined behavior. To account for these pods please set "
            '".spec.minAvailable" field of the PDB to an integer value.'
        )

    world_run(story)


def test_an_eviction_that_comes_to_nothing_is_told_and_forgotten(world_run):
    async def story(world):
        await web(world, 2)
        await world.create(POD_DISRUPTION_BUDGETS, budget(minAvailable=1))
        await world.settle()
        pod = (await world.live_pods())[0]["metadata"]["name"]
        held = await world.get(POD_DISRUPTION_BUDGETS, "pdb")
        noted = {"disruptedPods": {pod: rfc3339(world.clock.now())}}
        held = held | {"status": held["status"] | noted}
        await world.client.update(POD_DISRUPTION_BUDGETS, held, "default", subresource="status")
        await world.settle(100)
        held = await world.get(POD_DISRUPTION_BUDGETS, "pdb")
        assert held["status"]["disruptionsAllowed"] == 0
        await world.settle(30)
        held = await world.get(POD_DISRUPTION_BUDGETS, "pdb")
        assert held["status"]["disruptionsAllowed"] == 1
        assert "disruptedPods" not in held["status"]
        text = "Pod was expected by PDB default/pdb to be deleted but it wasn't"
        assert await told(world, "NotDeleted") == [text]

    world_run(story)


@pytest.mark.parametrize(
    ("reason", "phase", "reset"),
    [
        ("PreemptionByScheduler", "Running", True),
        ("TerminationByKubelet", "Running", False),
        ("PreemptionByScheduler", "Failed", False),
    ],
)
def test_a_pod_that_was_to_be_disrupted_and_was_not_is_a_target_no_more(
    world_run, reason, phase, reset
):
    async def story(world):
        await world.start(StaleDisruptions(world.context))
        now = rfc3339(world.clock.now())
        target = {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": now}
        target |= {"reason": reason, "message": "about to go"}
        pod = await world.create(PODS, owned_pod())
        await world.set_phase(pod, phase, conditions=[target])

        async def current():
            conditions = (await world.get(PODS, "a"))["status"]["conditions"]
            return next(c for c in conditions if c["type"] == "DisruptionTarget")

        await world.settle(110)
        assert await current() == target
        await world.settle(20)
        found = await current()
        if reset:
            assert (found["status"], found.get("reason")) == ("False", None)
            assert found["lastTransitionTime"] > now
        else:
            assert found == target

    world_run(story)
