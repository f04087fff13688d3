"""ResourceClaims from templates, with the scheduler and garbage in the same world."""

from __future__ import annotations

from dataclasses import replace

import pytest

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
from kubarium.api.resource import copy_document
from kubarium.control import devices, scheduling
from kubarium.control.devices.claims import ClaimCleaner, name_prefix, pods_by_claim
from kubarium.runtime.informer import SharedInformers
from kubarium.view.consumers import not_made_for

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


def test_a_template_without_labels_makes_claims_without(world_run):
    async def story(world):
        await begin(world)
        plain = {**template("plain"), "spec": {"spec": {"devices": EXACTLY_ONE}}}
        await world.create(RESOURCE_CLAIM_TEMPLATES, plain)
        await world.create(PODS, pod("one", "plain"))
        await world.settle()
        [claim] = await world.find(RESOURCE_CLAIMS)
        assert "labels" not in claim["metadata"]

    world_run(story)


def test_a_missing_template_is_told_and_made_good_when_it_comes(world_run):
    async def story(world):
        await begin(world)
        await world.create(PODS, pod("early"))
        await world.settle(3)
        told = await world.events("FailedResourceClaimCreation")
        assert (
            'PodResourceClaim gpu: resource claim template "gpu-template": '
            'resourceclaimtemplate.resource.k8s.io "gpu-template" not found' in told[0]["message"]
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


def group(name="g", min_count=2):
    return {
        "apiVersion": "scheduling.k8s.io/v1beta1",
        "kind": "PodGroup",
        "metadata": {"name": name},
        "spec": {
            "schedulingPolicy": {"gang": {"minCount": min_count}},
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu-template"}],
        },
    }


def member(name, of="g"):
    document = pod(name)
    document["spec"]["schedulingGroup"] = {"podGroupName": of}
    return document


def test_controllers_that_start_again_write_nothing(world_run):
    async def story(world):
        await begin(world, gpus=2)
        await world.create(RESOURCE_CLAIM_TEMPLATES, template())
        await world.create(POD_GROUPS, group())
        for name in ("one", "two"):
            await world.create(PODS, member(name))
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


def test_claims_block_nobodys_deletion_and_name_their_entry(world_run):
    async def story(world):
        await begin(world, gpus=2)
        await world.create(RESOURCE_CLAIM_TEMPLATES, template())
        await world.create(POD_GROUPS, group(min_count=1))
        await world.create(PODS, member("one"))
        await world.create(PODS, pod("alone"))
        await world.settle()
        made = {
            c["metadata"]["generateName"]: c["metadata"] for c in await world.find(RESOURCE_CLAIMS)
        }
        assert set(made) == {"g-gpu-", "alone-gpu-"}
        for metadata in made.values():
            [owner] = metadata["ownerReferences"]
            assert "blockOwnerDeletion" not in owner
            assert metadata["annotations"]["resource.kubernetes.io/pod-claim-name"] == "gpu"

    world_run(story)


def test_a_group_without_its_template_says_so(world_run):
    async def story(world):
        await begin(world)
        await world.create(POD_GROUPS, group())
        await world.settle(3)
        [told] = await world.events("FailedResourceClaimCreation")
        text = 'PodGroupResourceClaim gpu: resource claim template "gpu-template": '
        assert told["message"].startswith(text)

    world_run(story)


def test_a_pods_own_claims_do_not_wait_for_its_groups(world_run):
    async def story(world):
        await begin(world)
        own = template()
        own["metadata"]["name"] = "own-template"
        await world.create(RESOURCE_CLAIM_TEMPLATES, own)
        await world.create(POD_GROUPS, group())
        document = member("one")
        entry = {"name": "own", "resourceClaimTemplateName": "own-template"}
        document["spec"]["resourceClaims"].append(entry)
        await world.create(PODS, document)
        await world.settle(3)
        [claim] = await world.find(RESOURCE_CLAIMS)
        named = (await world.get(PODS, "one"))["status"]["resourceClaimStatuses"]
        assert named == [{"name": "own", "resourceClaimName": claim["metadata"]["name"]}]
        await world.create(RESOURCE_CLAIM_TEMPLATES, template())
        await world.settle(3)
        named = (await world.get(PODS, "one"))["status"]["resourceClaimStatuses"]
        assert [status["name"] for status in named] == ["gpu", "own"]

    world_run(story)


class Behind:
    """An informer that has not heard of any object yet."""

    def __init__(self, informer):
        self._informer = informer

    def __getattr__(self, name):
        return getattr(self._informer, name)

    def get(self, name, namespace=""):
        return None


def test_whoever_was_not_seen_yet_is_asked_for_before_devices_are_taken_away(world_run):
    """Watches are no clock: a claim may be seen before the pod or group that it is reserved for."""

    async def story(world):
        await begin(world, gpus=3)
        await world.create(RESOURCE_CLAIM_TEMPLATES, template())
        await world.create(POD_GROUPS, group(min_count=1))
        await world.create(PODS, member("one"))
        await world.create(PODS, pod("alone"))
        await world.create(RESOURCE_CLAIMS, named_claim("mine"))
        await world.create(PODS, pod("user", resourceClaimName="mine"))
        await world.settle(5)
        before = await world.find(RESOURCE_CLAIMS)
        assert [bool(c["status"].get("reservedFor")) for c in before] == [True] * 3
        cleaner = ClaimCleaner(world.context)
        cleaner._pods, cleaner._groups = Behind(cleaner._pods), Behind(cleaner._groups)
        await world.start(cleaner.controller)
        await world.settle(5)
        assert await world.find(RESOURCE_CLAIMS) == before

    world_run(story)


def test_a_pod_that_was_seen_to_go_is_not_asked_for(world_run):
    async def story(world):
        await begin(world, gpus=1)
        await world.create(RESOURCE_CLAIM_TEMPLATES, template())
        await world.create(PODS, pod("user"))
        await world.settle()
        asked = []
        get = world.controller_client.get

        async def counted(resource, name, *rest, **more):
            asked.append((resource, name))
            return await get(resource, name, *rest, **more)

        world.controller_client.get = counted
        await world.client.delete(PODS, "user", "default", grace_period_s=0)
        await world.settle()
        assert await world.find(RESOURCE_CLAIMS) == []
        assert (PODS, "user") not in asked

    world_run(story)


OTHER_GROUP = "scheduling.x-k8s.io"


def test_groups_of_other_schedulers_are_none_of_ours(world_run):
    """One that consumes a claim, and one that owns a claim: both of another API group."""

    async def story(world):
        await begin(world, gpus=1)
        theirs = {"apiGroup": OTHER_GROUP, "resource": "podgroups", "name": "g", "uid": "1-2-3"}
        owned = named_claim("owned")
        owner = {"apiVersion": f"{OTHER_GROUP}/v1alpha1", "kind": "PodGroup", "name": "g"}
        owned["metadata"]["ownerReferences"] = [owner | {"uid": "1-2-3", "controller": True}]
        await world.create(RESOURCE_CLAIMS, owned)
        await world.create(RESOURCE_CLAIMS, named_claim("mine"))
        await world.create(PODS, pod("user", resourceClaimName="mine"))
        await world.settle()
        held = copy_document(await world.get(RESOURCE_CLAIMS, "mine"))
        held["status"]["reservedFor"].append(theirs)
        await world.client.update(RESOURCE_CLAIMS, held, "default", subresource="status")
        await world.client.delete(PODS, "user", "default", grace_period_s=0)
        await world.settle(5)
        assert (await world.get(RESOURCE_CLAIMS, "mine"))["status"]["reservedFor"] == [theirs]
        assert await world.get(RESOURCE_CLAIMS, "owned")

    world_run(story)


def test_a_pod_too_many_for_its_claim_is_told_and_gets_the_place_of_another(world_run):
    async def story(world):
        await begin(world, gpus=1)
        await world.create(RESOURCE_CLAIMS, named_claim("shared"))
        await world.create(PODS, pod("first", resourceClaimName="shared"))
        await world.settle()
        held = copy_document(await world.get(RESOURCE_CLAIMS, "shared"))
        others = [
            {"apiGroup": "example.com", "resource": "jobs", "name": str(i), "uid": str(i)}
            for i in range(255)
        ]
        held["status"]["reservedFor"] += others
        await world.client.update(RESOURCE_CLAIMS, held, "default", subresource="status")
        late = pod("late", resourceClaimName="shared")
        late["spec"]["nodeName"] = "a"
        await world.create(PODS, late)
        await world.settle(5)
        [told] = await world.events("FailedResourceClaimReservation")
        assert told["involvedObject"]["name"] == "late"
        text = "status.reservedFor: Too many: 257: must have at most 256 items"
        assert told["message"].startswith(
            "reserve claim default/shared: ResourceClaim.resource.k8s.io"
        )
        assert text in told["message"]
        await world.client.delete(PODS, "first", "default", grace_period_s=0)
        await world.settle(1)
        users = (await world.get(RESOURCE_CLAIMS, "shared"))["status"]["reservedFor"]
        assert len(users) == 256
        assert users[-1]["name"] == "late"

    world_run(story)


def test_a_reservation_that_somebody_drops_is_made_again(world_run):
    async def story(world):
        await begin(world, gpus=1)
        await world.create(RESOURCE_CLAIM_TEMPLATES, template())
        await world.create(PODS, pod("user"))
        await world.settle()
        held = copy_document((await world.find(RESOURCE_CLAIMS))[0])
        users = held["status"].pop("reservedFor")
        await world.client.update(RESOURCE_CLAIMS, held, "default", subresource="status")
        await world.settle()
        [held] = await world.find(RESOURCE_CLAIMS)
        assert held["status"]["reservedFor"] == users

    world_run(story)


@pytest.mark.parametrize("whose", ["pod", "group"])
def test_a_claim_that_the_status_names_is_not_made_twice(world_run, whose):
    """Neither while it waits to go with its users, nor when somebody took its annotation off."""

    async def story(world):
        await begin(world, gpus=2)
        await world.create(RESOURCE_CLAIM_TEMPLATES, template())
        await world.create(POD_GROUPS, group(min_count=1))
        await world.create(PODS, member("one") if whose == "group" else pod("one"))
        await world.settle()
        claims = await world.find(RESOURCE_CLAIMS)
        [mine] = [c for c in claims if c.get("status")]
        bare = {"metadata": {"annotations": None}}
        await world.client.patch(RESOURCE_CLAIMS, mine["metadata"]["name"], bare, "default")
        await world.client.delete(RESOURCE_CLAIMS, mine["metadata"]["name"], "default")
        await world.client.patch(
            POD_GROUPS if whose == "group" else PODS,
            "g" if whose == "group" else "one",
            {"metadata": {"labels": {"touched": "yes"}}},
            "default",
        )
        # The controllers start anew, and look at everything.
        await world.start(
            *devices.components(
                replace(
                    world.context, informers=SharedInformers(world.controller_client, world.clock)
                )
            )
        )
        await world.settle(5)
        left = [c["metadata"]["name"] for c in await world.find(RESOURCE_CLAIMS)]
        assert left == [c["metadata"]["name"] for c in claims]
        [status] = (await world.get(PODS, "one"))["status"]["resourceClaimStatuses"]
        assert status["resourceClaimName"] == mine["metadata"]["name"]

    world_run(story)


def test_a_pod_does_not_get_the_claim_that_was_made_for_another(world_run):
    async def story(world):
        await begin(world, gpus=1)
        await world.create(RESOURCE_CLAIM_TEMPLATES, template())
        await world.create(PODS, pod("owner"))
        await world.settle()
        [mine] = await world.find(RESOURCE_CLAIMS)
        name = mine["metadata"]["name"]
        thief = pod("thief", template_name="none")
        thief["spec"]["nodeName"] = "a"
        await world.create(PODS, thief)
        status = {"status": {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": name}]}}
        await world.client.patch(PODS, "thief", status, "default", subresource="status")
        await world.settle(3)
        [user] = (await world.get(RESOURCE_CLAIMS, name))["status"]["reservedFor"]
        assert user["name"] == "owner"
        text = f"ResourceClaim default/{name} was not created for Pod default/thief"
        stolen = not_made_for(mine, await world.get(PODS, "thief"))
        assert stolen == f"{text} (Pod is not owner)"
        assert not_made_for(mine, await world.get(PODS, "owner")) == ""

    world_run(story)
