import pytest

from kubarium.api.kinds import PERSISTENT_VOLUME_CLAIMS, PODS
from kubarium.control.core.garbage import GarbageCollector
from kubarium.control.core.served import ServedResources
from kubarium.control.workloads.statefulset.controller import (
    CONTROLLER_REVISIONS,
    REPLACE_AFTER_S,
    STATEFUL_SETS,
    StatefulSetController,
)


def stateful_set(replicas=3, image="v1", **spec):
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "db"},
        "spec": {
            "replicas": replicas,
            "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}},
            "template": {
                "metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "main", "image": image}]},
            },
            **spec,
        },
    }


async def step(world):
    """The node's part, once."""
    await world.finish_deletions()
    for pod in await world.live_pods():
        if pod.get("status", {}).get("phase") != "Running":
            await world.set_phase(pod, "Running")
    await world.settle(1)


async def steps(world, count=12):
    for _ in range(count):
        await step(world)


async def images(world):
    return {
        pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"]
        for pod in await world.live_pods()
    }


async def set_image(world, image, **spec):
    template = {"spec": {"containers": [{"name": "main", "image": image}]}}
    patch = {"spec": {"template": template, **spec}}
    await world.client.patch(STATEFUL_SETS, "db", patch, "default")
    await world.settle(1)


def test_pods_come_one_by_one_with_their_identity(world_run):
    async def story(world):
        await world.start(StatefulSetController(world.context))
        await world.create(STATEFUL_SETS, stateful_set())
        for count in (1, 2, 3):
            await world.settle(5)
            assert await world.names(PODS) == [f"db-{i}" for i in range(count)]
            await step(world)
        pod = await world.get(PODS, "db-1")
        assert (pod["spec"]["hostname"], pod["spec"]["subdomain"]) == ("db-1", "db")
        assert pod["metadata"]["generateName"] == "db-"
        labels = pod["metadata"]["labels"]
        assert labels["apps.kubernetes.io/pod-index"] == "1"
        assert labels["statefulset.kubernetes.io/pod-name"] == "db-1"
        status = (await world.get(STATEFUL_SETS, "db"))["status"]
        assert (status["replicas"], status["readyReplicas"]) == (3, 3)
        assert status["currentRevision"] == status["updateRevision"]
        assert status["currentRevision"] == labels["controller-revision-hash"]

    world_run(story)


def test_parallel_sets_do_not_wait(world_run):
    async def story(world):
        await world.start(StatefulSetController(world.context))
        document = stateful_set(podManagementPolicy="Parallel", ordinals={"start": 5})
        await world.create(STATEFUL_SETS, document)
        await world.settle()
        assert await world.names(PODS) == ["db-5", "db-6", "db-7"]

    world_run(story)


def test_pods_go_from_the_top_and_claims_stay(world_run):
    async def story(world):
        await world.start(StatefulSetController(world.context))
        claim = {
            "metadata": {"name": "data"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }
        await world.create(STATEFUL_SETS, stateful_set(volumeClaimTemplates=[claim]))
        await steps(world)
        claims = ["data-db-0", "data-db-1", "data-db-2"]
        assert await world.names(PERSISTENT_VOLUME_CLAIMS) == claims
        pod = await world.get(PODS, "db-2")
        sources = [v.get("persistentVolumeClaim") for v in pod["spec"]["volumes"]]
        assert {"claimName": "data-db-2"} in sources
        await world.client.patch(STATEFUL_SETS, "db", {"spec": {"replicas": 1}}, "default")
        await world.settle(5)
        assert sorted(await images(world)) == ["db-0", "db-1"]
        await steps(world)
        assert sorted(await images(world)) == ["db-0"]
        assert await world.names(PERSISTENT_VOLUME_CLAIMS) == claims

    world_run(story)


def test_a_rolling_update_goes_from_the_top_and_waits_for_health(world_run):
    async def story(world):
        await world.start(StatefulSetController(world.context))
        await world.create(STATEFUL_SETS, stateful_set())
        await steps(world)
        await set_image(world, "v2")
        seen = []
        for _ in range(12):
            new = sorted(name for name, image in (await images(world)).items() if image == "v2")
            if not seen or seen[-1] != new:
                seen.append(new)
            assert len(await world.live_pods()) >= 2
            await step(world)
        assert seen == [[], ["db-2"], ["db-1", "db-2"], ["db-0", "db-1", "db-2"]]
        status = (await world.get(STATEFUL_SETS, "db"))["status"]
        assert status["currentRevision"] == status["updateRevision"]
        assert status["updatedReplicas"] == 3
        assert len(await world.names(CONTROLLER_REVISIONS)) == 2

    world_run(story)


def test_a_partition_keeps_lower_pods_as_they_were(world_run):
    async def story(world):
        await world.start(StatefulSetController(world.context))
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}
        await world.create(STATEFUL_SETS, stateful_set(updateStrategy=strategy))
        await steps(world)
        await set_image(world, "v2")
        await steps(world)
        assert await images(world) == {"db-0": "v1", "db-1": "v1", "db-2": "v2"}
        await world.client.delete(PODS, "db-0", "default")
        await steps(world)
        assert await images(world) == {"db-0": "v1", "db-1": "v1", "db-2": "v2"}

    world_run(story)


def test_on_delete_changes_only_what_is_deleted(world_run):
    async def story(world):
        await world.start(StatefulSetController(world.context))
        await world.create(STATEFUL_SETS, stateful_set(updateStrategy={"type": "OnDelete"}))
        await steps(world)
        await set_image(world, "v2")
        await steps(world)
        assert set((await images(world)).values()) == {"v1"}
        await world.client.delete(PODS, "db-1", "default")
        await steps(world)
        assert await images(world) == {"db-0": "v1", "db-1": "v2", "db-2": "v1"}

    world_run(story)


@pytest.mark.parametrize("policy", ["OrderedReady", "Parallel"])
def test_an_ended_pod_is_replaced_under_its_name(world_run, policy):
    async def story(world):
        await world.start(StatefulSetController(world.context))
        await world.create(STATEFUL_SETS, stateful_set(podManagementPolicy=policy))
        await steps(world)
        old = await world.get(PODS, "db-1")
        await world.set_phase(old, "Failed", exit_code=1)
        await steps(world)
        new = await world.get(PODS, "db-1")
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        assert sorted(await images(world)) == ["db-0", "db-1", "db-2"]

    world_run(story)


def test_an_idle_set_causes_no_writes(world_run):
    async def story(world):
        await world.start(StatefulSetController(world.context))
        await world.create(STATEFUL_SETS, stateful_set())
        await steps(world)
        before = world.server.store.revision
        await world.settle(3600)
        assert world.server.store.revision == before

    world_run(story)


def test_a_name_stays_unused_for_a_moment_after_its_pod_has_gone(world_run):
    """Else ``kubectl delete --wait`` sees but the replacement and waits for its end."""

    async def story(world):
        await world.start(StatefulSetController(world.context))
        await world.create(STATEFUL_SETS, stateful_set(podManagementPolicy="Parallel"))
        await world.settle(1)
        await steps(world, 2)
        old = (await world.get(PODS, "db-1"))["metadata"]["uid"]
        await world.client.delete(PODS, "db-1", "default", grace_period_s=0)
        await world.settle(REPLACE_AFTER_S - 0.01)
        assert await world.names(PODS) == ["db-0", "db-2"]
        await world.settle(0.05)
        assert (await world.get(PODS, "db-1"))["metadata"]["uid"] != old

    world_run(story)


@pytest.mark.parametrize(
    ("most", "at_once"), [(2, ["db-4", "db-5"]), ("70%", ["db-2", "db-3", "db-4", "db-5"])]
)
def test_a_rolling_update_takes_as_many_pods_as_it_may(world_run, most, at_once):
    async def story(world):
        await world.start(StatefulSetController(world.context))
        strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": most}}
        spec = {"updateStrategy": strategy, "podManagementPolicy": "Parallel"}
        await world.create(STATEFUL_SETS, stateful_set(6, **spec))
        await steps(world, 2)
        await set_image(world, "v2")
        pods = await world.find(PODS)
        gone = [p["metadata"]["name"] for p in pods if "deletionTimestamp" in p["metadata"]]
        assert sorted(gone) == at_once
        await steps(world)
        assert set((await images(world)).values()) == {"v2"}

    world_run(story)


def test_pods_that_do_not_work_anyway_take_nothing_from_an_update(world_run):
    async def story(world):
        await world.start(StatefulSetController(world.context))
        await world.create(STATEFUL_SETS, stateful_set(4, podManagementPolicy="Parallel"))
        await world.settle(1)
        for pod in await world.live_pods():
            await world.set_phase(pod, "Running" if pod["metadata"]["name"] > "db-1" else "Pending")
        await set_image(world, "v2")
        await world.settle(1)
        found = await images(world)
        assert [name for name, image in sorted(found.items()) if image == "v1"] == ["db-2", "db-3"]
        await steps(world)
        assert set((await images(world)).values()) == {"v2"}

    world_run(story)


CLAIM = {
    "metadata": {"name": "data"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}


async def owners(world):
    found = await world.find(PERSISTENT_VOLUME_CLAIMS)
    return {
        claim["metadata"]["name"]: [
            (r["kind"], r["name"]) for r in claim["metadata"].get("ownerReferences", ())
        ]
        for claim in found
    }


def test_claims_go_when_their_policy_says_so(world_run):
    async def story(world):
        served = ServedResources(world.context)
        await world.start(
            StatefulSetController(world.context), GarbageCollector(world.context, served)
        )
        await world.create(STATEFUL_SETS, stateful_set(3, volumeClaimTemplates=[CLAIM]))
        await steps(world)
        assert set(map(tuple, (await owners(world)).values())) == {()}

        async def change(**spec):
            await world.client.patch(STATEFUL_SETS, "db", {"spec": spec}, "default")
            await world.settle(1)

        policy = {"whenDeleted": "Delete", "whenScaled": "Delete"}
        await change(persistentVolumeClaimRetentionPolicy=policy)
        assert set(map(tuple, (await owners(world)).values())) == {(("StatefulSet", "db"),)}
        await change(replicas=2)
        assert (await owners(world))["data-db-2"] == [("Pod", "db-2")]
        before = (await world.get(PERSISTENT_VOLUME_CLAIMS, "data-db-2"))["metadata"]["uid"]
        await change(replicas=3)  # before the pod is gone: its successor gets the claim
        await steps(world)
        assert (await owners(world))["data-db-2"] == [("StatefulSet", "db")]
        assert (await world.get(PERSISTENT_VOLUME_CLAIMS, "data-db-2"))["metadata"]["uid"] == before
        await change(persistentVolumeClaimRetentionPolicy={"whenDeleted": "Retain"})
        assert (await owners(world))["data-db-2"] == []
        await change(replicas=1)
        await steps(world)
        assert await owners(world) == {"data-db-0": []}

    world_run(story)


def test_a_pod_does_not_get_the_claim_that_goes_with_the_one_before(world_run):
    async def story(world):
        served = ServedResources(world.context)
        await world.start(
            StatefulSetController(world.context), GarbageCollector(world.context, served)
        )
        policy = {"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete"}}
        await world.create(STATEFUL_SETS, stateful_set(2, volumeClaimTemplates=[CLAIM], **policy))
        await steps(world)

        async def change(resource, name, **change):
            await world.client.patch(resource, name, change, "default")

        hold = {"finalizers": ["example.com/hold"]}
        await change(PERSISTENT_VOLUME_CLAIMS, "data-db-1", metadata=hold)
        await change(STATEFUL_SETS, "db", spec={"replicas": 1})
        await steps(world)
        await change(STATEFUL_SETS, "db", spec={"replicas": 2})
        await steps(world)
        assert sorted(await images(world)) == ["db-0"]
        await change(PERSISTENT_VOLUME_CLAIMS, "data-db-1", metadata={"finalizers": None})
        await steps(world)
        assert sorted(await images(world)) == ["db-0", "db-1"]
        assert (await owners(world))["data-db-1"] == []

    world_run(story)


def test_claims_are_told_of_as_they_are_made(world_run):
    async def story(world):
        await world.start(StatefulSetController(world.context))
        await world.create(STATEFUL_SETS, stateful_set(1, volumeClaimTemplates=[CLAIM]))
        await world.settle()
        assert [event["message"] for event in await world.events("SuccessfulCreate")] == [
            "Create Claim data-db-0 Pod db-0 in StatefulSet db success",
            "Create Pod db-0 in StatefulSet db successful",
        ]

    world_run(story)
