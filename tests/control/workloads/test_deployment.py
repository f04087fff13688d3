import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.kinds import DEPLOYMENTS, PODS, REPLICA_SETS, RESOURCE_QUOTAS
from kubarium.control.workloads.deployment import rollout
from kubarium.control.workloads.deployment import status as state
from kubarium.control.workloads.deployment.controller import DeploymentController
from kubarium.control.workloads.deployment.rollout import REVISION
from kubarium.control.workloads.replicaset import ReplicaSetController


def deployment(replicas=3, image="v1", **spec):
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "main", "image": image}]},
            },
            **spec,
        },
    }


async def started(world):
    await world.start(DeploymentController(world.context), ReplicaSetController(world.context))


async def make_ready(world):
    """The node's part, until nothing is left to do."""
    await world.settle(1)
    for _ in range(20):
        changed = False
        await world.finish_deletions()
        for pod in await world.live_pods():
            if pod.get("status", {}).get("phase") != "Running":
                await world.set_phase(pod, "Running")
                changed = True
        await world.settle(1)
        if not changed:
            return


async def set_image(world, image):
    container = {"name": "main", "image": image}
    patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
    await world.client.patch(DEPLOYMENTS, "web", patch, "default")
    await world.settle(1)


async def sizes(world):
    """Wanted pods by image."""
    return {
        item["spec"]["template"]["spec"]["containers"][0]["image"]: item["spec"]["replicas"]
        for item in await world.find(REPLICA_SETS)
    }


def test_a_deployment_becomes_available(world_run, conditions):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment())
        await world.settle()
        [replica_set] = await world.find(REPLICA_SETS)
        digest = replica_set["metadata"]["labels"]["pod-template-hash"]
        assert replica_set["metadata"]["name"] == f"web-{digest}"
        assert replica_set["metadata"]["annotations"][REVISION] == "1"
        pods = await world.live_pods()
        assert len(pods) == 3
        assert all(pod["metadata"]["labels"]["pod-template-hash"] == digest for pod in pods)
        assert conditions(await world.get(DEPLOYMENTS, "web"))["Available"] == (
            "False",
            "MinimumReplicasUnavailable",
        )
        await make_ready(world)
        done = await world.get(DEPLOYMENTS, "web")
        assert conditions(done) == {
            "Available": ("True", "MinimumReplicasAvailable"),
            "Progressing": ("True", "NewReplicaSetAvailable"),
        }
        assert done["status"]["readyReplicas"] == 3
        assert done["metadata"]["annotations"][REVISION] == "1"
        [event] = await world.events("ScalingReplicaSet")
        assert event["message"] == f"Scaled up replica set web-{digest} from 0 to 3"

    world_run(story)


def test_a_rolling_update_keeps_its_promises_at_every_step(world_run):
    async def story(world):
        await started(world)
        strategy = {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1},
        }
        await world.create(DEPLOYMENTS, deployment(4, strategy=strategy))
        await make_ready(world)
        await set_image(world, "v2")
        for _ in range(30):
            live = await world.live_pods()
            ready = [pod for pod in live if pod.get("status", {}).get("phase") == "Running"]
            assert len(live) <= 5
            assert len(ready) >= 3
            waiting = [pod for pod in live if pod not in ready]
            if waiting:
                await world.set_phase(waiting[0], "Running")
            await world.finish_deletions()
            await world.settle(1)
        assert await sizes(world) == {"v1": 0, "v2": 4}
        status = (await world.get(DEPLOYMENTS, "web"))["status"]
        assert status["updatedReplicas"] == status["availableReplicas"] == 4

    world_run(story)


def test_recreate_starts_nothing_before_the_old_pods_are_gone(world_run):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment(2, strategy={"type": "Recreate"}))
        await make_ready(world)
        await set_image(world, "v2")
        await world.settle(10)
        assert await world.live_pods() == []
        assert await sizes(world) == {"v1": 0}
        await world.finish_deletions()
        await world.settle()
        assert await sizes(world) == {"v1": 0, "v2": 2}
        assert len(await world.live_pods()) == 2

    world_run(story)


def test_going_back_reuses_the_old_replica_set_under_a_new_revision(world_run):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment(1))
        await make_ready(world)
        await set_image(world, "v2")
        await make_ready(world)
        await set_image(world, "v1")
        await make_ready(world)
        assert await sizes(world) == {"v1": 1, "v2": 0}
        revisions = sorted(
            item["metadata"]["annotations"][REVISION] for item in await world.find(REPLICA_SETS)
        )
        assert revisions == ["2", "3"]
        assert (await world.get(DEPLOYMENTS, "web"))["metadata"]["annotations"][REVISION] == "3"

    world_run(story)


def test_only_so_many_old_replica_sets_are_kept(world_run):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment(1, revisionHistoryLimit=1))
        await make_ready(world)
        for image in ("v2", "v3", "v4"):
            await set_image(world, image)
            await make_ready(world)
        await world.settle()
        assert await sizes(world) == {"v3": 0, "v4": 1}

    world_run(story)


def test_a_paused_deployment_scales_but_does_not_roll(world_run, conditions):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment(2))
        await make_ready(world)
        patch = {"spec": {"paused": True, "replicas": 5}}
        await world.client.patch(DEPLOYMENTS, "web", patch, "default")
        await set_image(world, "v2")
        await make_ready(world)
        assert await sizes(world) == {"v1": 5}
        paused = await world.get(DEPLOYMENTS, "web")
        assert conditions(paused)["Progressing"] == ("Unknown", "DeploymentPaused")
        await world.client.patch(DEPLOYMENTS, "web", {"spec": {"paused": False}}, "default")
        await make_ready(world)
        assert (await sizes(world))["v2"] == 5

    world_run(story)


def test_a_paused_deployment_keeps_no_more_history_than_it_says(world_run):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment(1))
        await make_ready(world)
        for image in ("v2", "v3", "v4"):
            await set_image(world, image)
            await make_ready(world)
        assert await sizes(world) == {"v1": 0, "v2": 0, "v3": 0, "v4": 1}
        patch = {"spec": {"paused": True, "revisionHistoryLimit": 2}}
        await world.client.patch(DEPLOYMENTS, "web", patch, "default")
        await world.settle()
        assert await sizes(world) == {"v2": 0, "v3": 0, "v4": 1}
        # Of a template that has no ReplicaSet yet all are old; those with pods stay, and count.
        await set_image(world, "v5")
        await world.settle()
        assert await sizes(world) == {"v3": 0, "v4": 1}

    world_run(story)


def test_a_paused_deployment_shares_what_is_noted_on_it(world_run):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment(1))
        await make_ready(world)
        await set_image(world, "v2")
        await make_ready(world)
        annotations = {"kubernetes.io/change-cause": "back"}
        patch = {"spec": {"paused": True}, "metadata": {"annotations": annotations}}
        await world.client.patch(DEPLOYMENTS, "web", patch, "default")
        await set_image(world, "v1")
        await world.settle()
        assert await sizes(world) == {"v1": 0, "v2": 1}
        [idle] = [item for item in await world.find(REPLICA_SETS) if not item["spec"]["replicas"]]
        noted = idle["metadata"]["annotations"]
        assert (noted["kubernetes.io/change-cause"], noted[REVISION]) == ("back", "3")
        assert (await world.get(DEPLOYMENTS, "web"))["metadata"]["annotations"][REVISION] == "3"

    world_run(story)


def test_a_stuck_rollout_is_reported(world_run, conditions):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment(1, progressDeadlineSeconds=60))
        await world.settle(50)
        assert conditions(await world.get(DEPLOYMENTS, "web"))["Progressing"][0] == "True"
        await world.settle(20)
        assert conditions(await world.get(DEPLOYMENTS, "web"))["Progressing"] == (
            "False",
            "ProgressDeadlineExceeded",
        )

    world_run(story)


def test_scaling_in_the_middle_of_a_rollout_is_shared(world_run):
    async def story(world):
        await started(world)
        strategy = {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2},
        }
        await world.create(DEPLOYMENTS, deployment(10, strategy=strategy))
        await make_ready(world)
        await set_image(world, "broken")
        await world.settle(5)
        assert await sizes(world) == {"v1": 8, "broken": 5}
        await world.client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 15}}, "default")
        await world.settle(5)
        assert await sizes(world) == {"v1": 11, "broken": 7}

    world_run(story)


def test_lost_pods_are_replaced_and_orphans_adopted(world_run):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment(2))
        await make_ready(world)
        [pod, *_] = await world.live_pods()
        patch = {"metadata": {"ownerReferences": None}}
        await world.client.patch(PODS, pod["metadata"]["name"], patch, "default")
        await world.settle()
        again = await world.get(PODS, pod["metadata"]["name"])
        assert again["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"
        await world.set_phase(again, "Failed", exit_code=1)
        await world.settle()
        assert len(await world.live_pods()) == 2

    world_run(story)


def test_a_pod_whose_labels_no_longer_match_is_released(world_run):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment(1))
        await make_ready(world)
        [pod] = await world.live_pods()
        patch = {"metadata": {"labels": {"app": "debug"}}}
        await world.client.patch(PODS, pod["metadata"]["name"], patch, "default")
        await world.settle()
        released = await world.get(PODS, pod["metadata"]["name"])
        assert not released["metadata"].get("ownerReferences")
        assert len(await world.live_pods()) == 2

    world_run(story)


def test_scaling_down_removes_pods_that_are_not_ready_first(world_run):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment(3))
        await world.settle()
        first, _, third = await world.live_pods()
        await world.set_phase(first, "Running")
        await world.set_phase(third, "Running")
        await world.client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 2}}, "default")
        await world.settle()
        left = {pod["metadata"]["name"] for pod in await world.live_pods()}
        assert left == {first["metadata"]["name"], third["metadata"]["name"]}

    world_run(story)


def test_min_ready_seconds_delay_availability(world_run):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment(1, minReadySeconds=30))
        await make_ready(world)
        status = (await world.get(DEPLOYMENTS, "web"))["status"]
        assert status["readyReplicas"] == 1
        assert "availableReplicas" not in status
        await world.settle(31)
        assert (await world.get(DEPLOYMENTS, "web"))["status"]["availableReplicas"] == 1

    world_run(story)


def test_an_idle_deployment_causes_no_writes(world_run):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment())
        await make_ready(world)
        await world.settle(10)
        before = world.server.store.revision
        await world.settle(3600)
        assert world.server.store.revision == before

    world_run(story)


def replica_set(name, size, available, most="0"):
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": f"2026-01-01T00:00:0{len(name)}Z",
            "annotations": {rollout.MOST: most},
        },
        "spec": {"replicas": size},
        "status": {"availableReplicas": available},
    }


@given(
    wanted=st.integers(0, 20),
    surge=st.integers(0, 5),
    unavailable=st.integers(0, 5),
    new=st.integers(0, 20),
    old=st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), max_size=3),
)
def test_no_step_breaks_the_limits(wanted, surge, unavailable, new, old):
    document = deployment(wanted)
    document["spec"]["strategy"] = {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
    }
    limits = rollout.limits_of(document)
    young = replica_set("new", new, 0)
    olds = [replica_set("o" * (i + 4), size, min(a, size)) for i, (size, a) in enumerate(old)]
    total = new + sum(size for size, _ in old)
    grown = rollout.new_size(document, young, [*olds, young])
    if grown > new:
        assert total + grown - new <= wanted + limits.surge
        assert grown <= wanted
    shrunk = rollout.shrink_old(document, young, olds)
    removed_available = sum(
        max(0, rollout.available_of(item) - shrunk[item["metadata"]["name"]])
        for item in olds
        if item["metadata"]["name"] in shrunk
    )
    available = sum(map(rollout.available_of, olds))
    least = wanted - limits.unavailable
    if removed_available:
        assert available - removed_available >= min(least, available)
    assert all(size >= 0 for size in shrunk.values())


@pytest.mark.parametrize(
    ("before", "wanted", "expected"),
    [((8, 5), 15, (11, 7)), ((8, 5), 5, (5, 3)), ((8, 5), 0, (0, 0))],
)
def test_proportional_scaling(before, wanted, expected):
    document = deployment(wanted)
    document["spec"]["strategy"] = {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2},
    }
    olds = [replica_set("old", before[0], 8, "13"), replica_set("newer", before[1], 0, "13")]
    sizes = rollout.scale_proportionally(document, olds)
    assert (sizes["old"], sizes["newer"]) == expected


def test_pods_on_their_way_out_are_counted(world_run):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment(2))
        await make_ready(world)
        found = [(await world.get(DEPLOYMENTS, "web"))["status"], await one_set(world)]
        assert [status["terminatingReplicas"] for status in found] == [0, 0]
        await world.client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 1}}, "default")
        await world.settle()
        found = [(await world.get(DEPLOYMENTS, "web"))["status"], await one_set(world)]
        assert [status["terminatingReplicas"] for status in found] == [1, 1]

    world_run(story)


async def one_set(world):
    (replica_set,) = await world.find(REPLICA_SETS)
    return replica_set["status"]


def test_a_deployment_without_a_deadline_makes_no_progress(world_run, conditions):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment(1))
        await world.settle()
        assert "Progressing" in conditions(await world.get(DEPLOYMENTS, "web"))
        change = {"spec": {"progressDeadlineSeconds": state.NO_DEADLINE}}
        await world.client.patch(DEPLOYMENTS, "web", change, "default")
        await world.settle()
        assert list(conditions(await world.get(DEPLOYMENTS, "web"))) == ["Available"]
        change = {"spec": {"progressDeadlineSeconds": 60}}
        await world.client.patch(DEPLOYMENTS, "web", change, "default")
        await world.settle()
        found = conditions(await world.get(DEPLOYMENTS, "web"))
        assert found["Progressing"] == ("True", "FoundNewReplicaSet")
        await world.settle(62)
        found = conditions(await world.get(DEPLOYMENTS, "web"))
        assert found["Progressing"] == ("False", "ProgressDeadlineExceeded")

    world_run(story)


def test_the_new_replica_set_says_first_what_fails():
    def replica_set(name, reason):
        failure = {"type": "ReplicaFailure", "status": "True", "reason": reason, "message": name}
        return {"metadata": {"name": name}, "status": {"conditions": [failure]}}

    old, new = replica_set("old", "FailedDelete"), replica_set("new", "FailedCreate")
    status = {}
    state.set_replica_failure(status, new, [old, new], 0)
    assert [c["message"] for c in status["conditions"]] == ["new"]


def test_a_replica_set_that_is_refused_is_named(world_run, conditions):
    async def story(world):
        await started(world)
        quota = {
            "metadata": {"name": "q"},
            "spec": {"hard": {"count/replicasets.apps": "0"}},
            "status": {"hard": {"count/replicasets.apps": "0"}},
        }
        await world.create(RESOURCE_QUOTAS, quota)
        await world.client.patch(
            RESOURCE_QUOTAS, "q", {"status": quota["status"]}, "default", subresource="status"
        )
        await world.create(DEPLOYMENTS, deployment(1))
        await world.settle()
        event = (await world.events("ReplicaSetCreateError"))[0]
        assert re.match(
            r'Failed to create new replica set "web-[a-z0-9]+": replicasets.apps "web-'
            r'[a-z0-9]+" is forbidden: exceeded quota',
            event["message"],
        )
        found = conditions(await world.get(DEPLOYMENTS, "web"))
        assert found["Progressing"] == ("False", "ReplicaSetCreateError")

    world_run(story)


def test_a_revision_is_no_new_generation(world_run):
    async def story(world):
        await started(world)
        await world.create(DEPLOYMENTS, deployment(1))
        await make_ready(world)
        found = await world.get(DEPLOYMENTS, "web")
        assert found["metadata"]["annotations"][REVISION] == "1"
        assert found["metadata"]["generation"] == found["status"]["observedGeneration"] == 1
        await set_image(world, "v2")
        await make_ready(world)
        found = await world.get(DEPLOYMENTS, "web")
        assert found["metadata"]["annotations"][REVISION] == "2"
        assert found["metadata"]["generation"] == found["status"]["observedGeneration"] == 2

    world_run(story)
