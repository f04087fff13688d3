"""ResourceClaims from templates, with the scheduler and garbage in the same world."""

from __future__ import annotations

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    EVENTS,
    NODES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.control import devices, scheduling
from kubarium.control.devices.claims import name_prefix, pods_by_claim

DRIVER = "gpu.example.com"
EXACTLY_ONE = {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}


def template(name="gpu-template"):
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"metadata": {"labels": {"made": "here"}}, "spec": {"devices": EXACTLY_ONE}},
    }


def pod(name, template_name="gpu-template", **entry):
    claim = entry or {"resourceClaimTemplateName": template_name}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "resourceClaims": [{"name": "gpu", **claim}],
            "containers": [
                {"name": "main", "image": "busybox", "resources": {"claims": [{"name": "gpu"}]}}
            ],
        },
    }


async def begin(world, gpus=1):
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "a"},
        "status": {"allocatable": {"cpu": "8", "memory": "8Gi", "pods": "10"}},
    }
    device_class = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": "gpu"},
        "spec": {"selectors": [{"cel": {"expression": f'device.driver == "{DRIVER}"'}}]},
    }
    resource_slice = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": "a-slice"},
        "spec": {
            "driver": DRIVER,
            "nodeName": "a",
            "pool": {"name": "a", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": f"gpu-{i}"} for i in range(gpus)],
        },
    }
    await world.create(NODES, node)
    await world.create(DEVICE_CLASSES, device_class)
    await world.create(RESOURCE_SLICES, resource_slice)
    context = world.context
    await world.start(*devices.components(context), *scheduling.components(context))
    await world.settle(0.1)


def named_claim(name):
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": {"devices": EXACTLY_ONE},
    }


def test_a_template_gives_each_pod_its_own_claim_and_device(world_run):
    async def story(world):
        await begin(world, gpus=2)
        await world.create(RESOURCE_CLAIM_TEMPLATES, template())
        await world.create(PODS, pod("one"))
        await world.create(PODS, pod("two"))
        await world.settle()
        claims = await world.find(RESOURCE_CLAIMS)
        used = [c["status"]["allocation"]["devices"]["results"][0]["device"] for c in claims]
        assert sorted(used) == ["gpu-0", "gpu-1"]
        one = await world.get(PODS, "one")
        assert one["spec"]["nodeName"] == "a"
        [status] = one["status"]["resourceClaimStatuses"]
        claim = await world.get(RESOURCE_CLAIMS, status["resourceClaimName"])
        assert claim["metadata"]["name"].startswith("one-gpu-")
        assert claim["metadata"]["labels"] == {"made": "here"}
        annotations = claim["metadata"]["annotations"]
        assert annotations["resource.kubernetes.io/pod-claim-name"] == "gpu"
        [owner] = claim["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Pod", one["metadata"]["uid"])
        assert claim["status"]["reservedFor"][0]["uid"] == one["metadata"]["uid"]

    world_run(story)


def test_a_missing_template_is_told_and_made_good_when_it_comes(world_run):
    async def story(world):
        await begin(world)
        await world.create(PODS, pod("early"))
        await world.settle(3)
        told = await world.events("FailedResourceClaimCreation")
        assert (
            'PodResourceClaim gpu: resourceclaimtemplate.resource.k8s.io "gpu-template" not found'
            in told[0]["message"]
        )
        await world.create(RESOURCE_CLAIM_TEMPLATES, template())
        await world.settle(15)
        assert (await world.get(PODS, "early"))["spec"].get("nodeName") == "a"

    world_run(story)


def test_a_finished_pod_frees_its_device_for_the_next(world_run):
    async def story(world):
        await begin(world, gpus=1)
        await world.create(RESOURCE_CLAIM_TEMPLATES, template())
        await world.create(PODS, pod("first"))
        await world.settle()
        await world.create(PODS, pod("second"))
        await world.settle(3)
        assert not (await world.get(PODS, "second"))["spec"].get("nodeName")
        await world.set_phase(await world.get(PODS, "first"), "Succeeded")
        await world.settle(15)
        assert (await world.get(PODS, "second"))["spec"]["nodeName"] == "a"
        owners = [c["metadata"]["name"] for c in await world.find(RESOURCE_CLAIMS)]
        assert len(owners) == 1
        assert owners[0].startswith("second-gpu-")

    world_run(story)


def test_a_named_claim_outlives_its_pods_and_is_deallocated(world_run):
    async def story(world):
        await begin(world, gpus=1)
        await world.create(RESOURCE_CLAIMS, named_claim("mine"))
        await world.create(PODS, pod("user", resourceClaimName="mine"))
        await world.settle()
        assert (await world.get(RESOURCE_CLAIMS, "mine"))["status"]["reservedFor"]
        await world.client.delete(PODS, "user", "default", grace_period_s=0)
        await world.settle()
        left = await world.get(RESOURCE_CLAIMS, "mine")
        assert not left.get("status", {}).get("allocation")
        assert not left.get("status", {}).get("reservedFor")
        assert not left["metadata"].get("finalizers")

    world_run(story)


def test_a_claim_deleted_while_in_use_goes_after_its_last_user(world_run):
    async def story(world):
        await begin(world, gpus=1)
        await world.create(RESOURCE_CLAIM_TEMPLATES, template())
        await world.create(PODS, pod("user"))
        await world.settle()
        [claim] = await world.find(RESOURCE_CLAIMS)
        await world.client.delete(RESOURCE_CLAIMS, claim["metadata"]["name"], "default")
        await world.settle()
        [held] = await world.find(RESOURCE_CLAIMS)
        assert held["status"]["allocation"]
        await world.set_phase(await world.get(PODS, "user"), "Succeeded")
        await world.settle()
        assert await world.find(RESOURCE_CLAIMS) == []
        assert not [e for e in await world.find(EVENTS) if e["reason"] == "FailedScheduling"]

    world_run(story)


def test_a_pod_that_comes_with_a_node_is_reserved_in_claims_that_are_allocated(world_run):
    async def story(world):
        await begin(world, gpus=1)
        await world.create(RESOURCE_CLAIMS, named_claim("shared"))
        early, late = (pod(name, resourceClaimName="shared") for name in ("early", "late"))
        for placed in (early, late):
            placed["spec"]["nodeName"] = "a"

        async def users():
            status = (await world.get(RESOURCE_CLAIMS, "shared")).get("status") or {}
            return sorted(entry["name"] for entry in status.get("reservedFor") or ())

        await world.create(PODS, early)
        await world.settle()
        assert await users() == [], "nobody allocates for a pod that has its node"
        await world.create(PODS, pod("scheduled", resourceClaimName="shared"))
        await world.settle()
        assert await users() == ["early", "scheduled"]
        await world.create(PODS, late)
        await world.settle()
        assert await users() == ["early", "late", "scheduled"]
        await world.client.delete(PODS, "scheduled", "default", grace_period_s=0)
        await world.settle()
        assert await users() == ["early", "late"]

    world_run(story)


def test_pods_are_found_by_their_claims_and_one_that_says_nothing_by_none():
    used = pod("user", resourceClaimName="mine")
    used["metadata"]["namespace"] = "default"
    assert list(pods_by_claim(used)) == ["default/mine"]
    assert list(pods_by_claim({"metadata": used["metadata"], "spec": None})) == []


def test_names_of_claims_keep_something_of_both_parts():
    assert name_prefix("pod", "gpu") == "pod-gpu-"
    long = name_prefix("p" * 60, "e" * 20)
    assert set(long) == {"p", "-", "e"}
    assert len(long) <= 57
    assert len(name_prefix("p" * 63, "e")) <= 57
    assert ".-" not in name_prefix("p." * 40, "e"), "that would be no name"


def test_controllers_that_start_again_write_nothing(world_run):
    async def story(world):
        await begin(world, gpus=2)
        await world.create(RESOURCE_CLAIM_TEMPLATES, template())
        group = {
            "apiVersion": "scheduling.k8s.io/v1beta1",
            "kind": "PodGroup",
            "metadata": {"name": "g"},
            "spec": {
                "schedulingPolicy": {"gang": {"minCount": 2}},
                "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu-template"}],
            },
        }
        await world.create(POD_GROUPS, group)
        for name in ("one", "two"):
            member = pod(name)
            member["spec"]["schedulingGroup"] = {"podGroupName": "g"}
            await world.create(PODS, member)
        await world.create(PODS, pod("alone"))
        await world.settle(10)
        claims = await world.find(RESOURCE_CLAIMS)
        assert len(claims) == 2, "one of the group, one of the pod on its own"
        assert all(c["status"]["allocation"] for c in claims)
        before = world.server.store.revision
        await world.start(*devices.components(world.context))
        await world.settle(30)
        assert world.server.store.revision == before

    world_run(story)
