"""Claims and what befalls them while pods are bound: restarts, rivals, deletions, clocks."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    NODES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.api.resource import copy_document
from kubarium.control import devices, scheduling
from kubarium.runtime.informer import SharedInformers
from tests.control.scheduling.test_faults import Faulty, unavailable
from tests.control.scheduling.test_faults import begin as begin_faulty
from tests.control.scheduling.test_scheduler import (
    DRIVER,
    claim,
    device_class,
    events,
    group,
    node,
    node_of,
    pod,
    report,
    scheduled_condition,
    slices,
)

PROTECTION = "resource.kubernetes.io/delete-protection"


def allocation(on, device="gpu-0"):
    """What a scheduler would have written for a device of one node."""
    only = {"key": "metadata.name", "operator": "In", "values": [on]}
    result = {"request": "gpu", "driver": DRIVER, "pool": on, "device": device}
    return {
        "devices": {"results": [result]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [only]}]},
    }


async def hardware(world, *names, gpus=1):
    await world.create(DEVICE_CLASSES, device_class())
    for name in names:
        await world.create(RESOURCE_SLICES, slices(name, gpus))


async def written(world, name, status, *, protected=True):
    """The claim as an earlier scheduler left it."""
    made = copy_document(await world.get(RESOURCE_CLAIMS, name))
    if protected:
        made["metadata"]["finalizers"] = [PROTECTION]
        made = await world.client.update(RESOURCE_CLAIMS, made, "default")
    await world.client.update(
        RESOURCE_CLAIMS, {**made, "status": status}, "default", subresource="status"
    )


async def held(world, name):
    return (await world.get(RESOURCE_CLAIMS, name)).get("status") or {}


def devices_of(status):
    return [r["pool"] for r in status["allocation"]["devices"]["results"]]


async def reference(world, name):
    uid = (await world.get(PODS, name))["metadata"]["uid"]
    return {"resource": "pods", "name": name, "uid": uid}


async def start(world):
    """A control plane that knows nothing but what is written."""
    informers = SharedInformers(world.controller_client, world.clock)
    context = replace(world.context, informers=informers)
    await world.start(*devices.components(context), *scheduling.components(context))
    await world.settle(0.1)


async def end(world):
    for task in world.tasks:
        task.cancel()
    await asyncio.gather(*world.tasks, return_exceptions=True)
    world.tasks.clear()


@pytest.mark.parametrize("reserved", [True, False], ids=["reserved", "not yet reserved"])
def test_a_claim_whose_node_is_no_more_is_allocated_anew(world_run, reserved):
    """The scheduler ended between allocation and binding, and the node went before the next."""

    async def story(world):
        await world.start()
        await world.create(NODES, node("left"))
        await hardware(world, "gone", "left")
        await world.create(RESOURCE_CLAIMS, claim("c"))
        await world.create(PODS, pod("a", claims=["c"]))
        users = [await reference(world, "a")] if reserved else []
        status = {"allocation": allocation("gone")}
        await written(world, "c", status | ({"reservedFor": users} if users else {}))
        await start(world)
        await world.settle(30)
        assert await node_of(world, "a") == "left"
        assert devices_of(await held(world, "c")) == ["left"]

    world_run(story)


@pytest.mark.parametrize("reserved", [True, False], ids=["reserved", "not yet reserved"])
def test_a_waiting_pods_claim_leaves_a_tainted_device(world_run, reserved):
    """Upstream would bind the pod, and evict it."""

    async def story(world):
        await world.start()
        await world.create(NODES, node("n"))
        await world.create(DEVICE_CLASSES, device_class())
        published = slices("n", 2)
        published["spec"]["devices"][0]["taints"] = [{"key": "ill", "effect": "NoExecute"}]
        await world.create(RESOURCE_SLICES, published)
        await world.create(RESOURCE_CLAIMS, claim("c"))
        await world.create(PODS, pod("a", claims=["c"]))
        users = [await reference(world, "a")] if reserved else []
        status = {"allocation": allocation("n")}
        await written(world, "c", status | ({"reservedFor": users} if users else {}))
        await start(world)
        await world.settle(30)
        assert await node_of(world, "a") == "n"
        [result] = (await held(world, "c"))["allocation"]["devices"]["results"]
        assert result["device"] == "gpu-1"

    world_run(story)


def test_a_claim_that_others_use_is_not_taken_from_them(world_run):
    async def story(world):
        await world.start()
        await world.create(NODES, node("full", cpu="1"))
        await world.create(NODES, node("free"))
        await hardware(world, "full", "free")
        await world.create(RESOURCE_CLAIMS, claim("c"))
        await world.create(PODS, pod("user", claims=["c"], nodeName="full"))
        await world.create(PODS, pod("late", claims=["c"]))
        users = [await reference(world, "user"), await reference(world, "late")]
        await written(world, "c", {"allocation": allocation("full"), "reservedFor": users})
        await start(world)
        await world.settle(60)
        assert devices_of(await held(world, "c")) == ["full"]
        assert await node_of(world, "late") is None

    world_run(story)


def test_a_claim_that_somebody_else_allocated_meanwhile_is_not_mistaken_for_ours(world_run):
    """Another scheduler was faster: its devices are on another node than the one we chose."""

    async def story(world):
        client, _ = await begin_faulty(world, node("ours"))
        await hardware(world, "ours")
        await world.create(RESOURCE_CLAIMS, claim("c"))
        inner = client._client.update
        rivals = [allocation("theirs")]

        async def update(resource, document, *args, **options):
            if resource == RESOURCE_CLAIMS and rivals:
                await written(world, "c", {"allocation": rivals.pop()})
            return await inner(resource, document, *args, **options)

        client.__dict__["update"] = update
        await world.create(PODS, pod("a", claims=["c"]))
        await world.settle(0.3)
        assert not rivals
        bound = await node_of(world, "a")
        assert bound is None or devices_of(await held(world, "c")) == [bound]

    world_run(story)


def test_a_claim_keeps_its_devices_when_its_class_goes(world_run):
    async def story(world):
        await world.create(NODES, node("n"))
        await start(world)
        await hardware(world, "n")
        await world.create(RESOURCE_CLAIMS, claim("c"))
        await world.create(PODS, pod("a", claims=["c"]))
        await world.settle()
        await world.client.delete(DEVICE_CLASSES, "gpu", "")
        await world.create(PODS, pod("b", claims=["c"]))
        await world.create(RESOURCE_CLAIMS, claim("other"))
        await world.create(PODS, pod("c", claims=["other"]))
        await world.settle(5)
        assert await node_of(world, "b") == "n"
        assert (
            "device class gpu does not exist" in (await scheduled_condition(world, "c"))["message"]
        )

    world_run(story)


def test_a_claim_that_is_being_deleted_gets_no_devices(world_run):
    """Deleted after it was decided: what keeps it is not ours."""

    async def story(world):
        client, _ = await begin_faulty(world, node("n"))
        await hardware(world, "n")
        kept = claim("c")
        kept["metadata"]["finalizers"] = ["example.com/kept", PROTECTION]
        await world.create(RESOURCE_CLAIMS, kept)
        inner = client._client.update
        deleted = []

        async def update(resource, document, *args, **options):
            if resource == RESOURCE_CLAIMS and not deleted:
                deleted.append(await world.client.delete(RESOURCE_CLAIMS, "c", "default"))
            return await inner(resource, document, *args, **options)

        client.__dict__["update"] = update
        await world.create(PODS, pod("a", claims=["c"]))
        await world.settle(5)
        assert deleted
        assert await node_of(world, "a") is None
        assert not (await held(world, "c")).get("allocation")
        assert "is being deleted" in (await scheduled_condition(world, "a"))["message"]

    world_run(story)


@pytest.mark.parametrize("point", ["finalizer", "allocation", "binding"])
def test_a_scheduler_that_ends_on_the_way_is_followed_by_one_that_goes_on(world_run, point):
    """Each write on the way to a binding fails for good; another scheduler starts on what is left.

    Once on the same hardware, and once when the node is full meanwhile.
    """

    async def story(world, full):
        client, _ = await begin_faulty(world, node("one", cpu="1"))
        await hardware(world, "one", "two")
        await world.create(RESOURCE_CLAIMS, claim("c"))
        call = {
            "finalizer": ("update", RESOURCE_CLAIMS, "c", "status"),
            "allocation": ("create", PODS, "a", "binding"),
            "binding": ("create", PODS, "a", "binding"),
        }[point]
        client.fail(*call, *[unavailable()] * 100)
        await world.create(PODS, pod("a", claims=["c"]))
        await world.settle(3)
        assert client.failed
        await end(world)
        if point == "binding":  # the reservation is taken back, and nothing else
            status = await held(world, "c")
            await written(world, "c", {"allocation": status["allocation"]}, protected=False)
        if full:
            await world.create(PODS, pod("filler", nodeName="one"))
        await world.create(NODES, node("two"))
        await start(world)
        await world.settle(60)
        bound = await node_of(world, "a")
        assert bound == ("two" if full else bound)
        assert bound
        status = await held(world, "c")
        assert devices_of(status) == [bound]
        assert [user["name"] for user in status["reservedFor"]] == ["a"]
        assert PROTECTION in (await world.get(RESOURCE_CLAIMS, "c"))["metadata"]["finalizers"]

    for full in (False, True):
        world_run(lambda world, full=full: story(world, full))


@pytest.mark.parametrize("whose", ["pods", "group"])
def test_a_gang_whose_devices_are_on_a_node_that_went_gets_others(world_run, whose):
    async def story(world):
        await world.start()
        for name in ("left", "right"):
            await world.create(NODES, node(name))
        await hardware(world, "gone", "left", "right")
        team = group("team", 2)
        if whose == "group":
            team["spec"]["resourceClaims"] = [{"name": "c-0", "resourceClaimName": "c-0"}]
        team = await world.create(POD_GROUPS, team)
        for i in range(2 if whose == "pods" else 1):
            await world.create(RESOURCE_CLAIMS, claim(f"c-{i}"))
        for i in range(2):
            name = f"c-{i}" if whose == "pods" else "c-0"
            await world.create(PODS, pod(f"rank-{i}", cpu="3", group="team", claims=[name]))
        users = [await reference(world, "rank-0")]
        if whose == "group":
            metadata = team["metadata"]
            users = [{"apiGroup": "scheduling.k8s.io", "resource": "podgroups"}]
            users[0] |= {"name": "team", "uid": metadata["uid"]}
        await written(world, "c-0", {"allocation": allocation("gone"), "reservedFor": users})
        await start(world)
        await world.settle(60)
        found = [await node_of(world, f"rank-{i}") for i in range(2)]
        if whose == "pods":
            assert sorted(found) == ["left", "right"]
            assert devices_of(await held(world, "c-0")) == [found[0]]
        else:  # the device is on one node, which has room for one of them only
            assert found == [None, None]
            assert not (await held(world, "c-0")).get("allocation")

    world_run(story)


@pytest.mark.parametrize("made", ["named", "from a template"])
@pytest.mark.parametrize("point", ["finalizer", "allocation", "reservation"])
def test_a_claim_that_is_deleted_before_its_pod_is_bound_goes(world_run, point, made):
    """The scheduler ended on the way, and somebody deletes the claim before the next one begins.

    Upstream's claim waits for its pod then, and its pod for the claim's end.
    """

    async def story(world):
        await world.start()
        await world.create(NODES, node("n"))
        await hardware(world, "n")
        waiting = pod("a", claims=["c"])
        if made == "named":
            await world.create(RESOURCE_CLAIMS, claim("c"))
        else:
            [entry] = waiting["spec"]["resourceClaims"]
            entry |= {"resourceClaimTemplateName": "t", "resourceClaimName": None}
            template = claim("t")
            template |= {"kind": "ResourceClaimTemplate", "spec": {"spec": template["spec"]}}
            await world.create(RESOURCE_CLAIM_TEMPLATES, template)
        await world.create(PODS, waiting)
        await world.start(*devices.components(world.context))
        await world.settle(1)
        [name] = await world.names(RESOURCE_CLAIMS)
        status = {} if point == "finalizer" else {"allocation": allocation("n")}
        if point == "reservation":
            status["reservedFor"] = [await reference(world, "a")]
        await written(world, name, status)
        await world.client.delete(RESOURCE_CLAIMS, name, "default")
        await end(world)
        await start(world)
        await world.settle(10)
        if made == "named":
            assert await world.names(RESOURCE_CLAIMS) == []
            await world.create(RESOURCE_CLAIMS, claim("c"))
            await world.settle(10)
        assert await node_of(world, "a") == "n"
        [left] = await world.find(RESOURCE_CLAIMS)
        assert "deletionTimestamp" not in left["metadata"]
        assert devices_of(left["status"]) == ["n"]

    world_run(story)


class SetClock:
    """A clock whose time of day somebody sets; what it counts goes on."""

    def __init__(self, clock):
        self._clock, self.offset_s = clock, 0.0

    def now(self):
        return self._clock.now() + self.offset_s

    def monotonic(self):
        return self._clock.monotonic()

    async def sleep(self, seconds):
        await self._clock.sleep(seconds)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_makes_no_wait_for_devices_longer_or_shorter(world_run, hours):
    async def story(world):
        await world.start()
        clock = SetClock(world.clock)
        await world.create(NODES, node("n"))
        await world.create(DEVICE_CLASSES, device_class())
        slow = slices("n", 1)
        slow["spec"]["devices"][0] |= {
            "bindingConditions": ["Attached"],
            "bindingFailureConditions": ["Broken"],
        }
        await world.create(RESOURCE_SLICES, slow)
        await world.create(RESOURCE_CLAIMS, claim("c"))
        await world.create(PODS, pod("a", claims=["c"]))
        await world.start(*scheduling.components(replace(world.context, clock=clock)))
        await world.settle(30)
        first = (await held(world, "c"))["allocation"]["allocationTimestamp"]
        clock.offset_s += hours * 3600
        await world.settle(10)
        assert not await events(world, "FailedScheduling")  # it has been waited for 40 s
        await world.settle(590)
        # It was over in time, and begun anew.
        assert "device binding timeout: claim=c" in str(await events(world, "FailedScheduling"))
        await world.settle(30)
        assert (await held(world, "c"))["allocation"]["allocationTimestamp"] != first
        await report(world, "c", "Attached")
        assert await node_of(world, "a") == "n"

    world_run(story)


def test_a_claim_that_somebody_else_allocates_wakes_the_pods_that_name_it(world_run):
    async def story(world):
        await world.create(NODES, node("n"))
        await start(world)
        await hardware(world, "n")
        wanted = claim("c")
        [request] = wanted["spec"]["devices"]["requests"]
        request["exactly"]["selectors"] = [{"cel": {"expression": 'device.driver == "none"'}}]
        await world.create(RESOURCE_CLAIMS, wanted)
        await world.create(PODS, pod("a", claims=["c"]))
        await world.settle(5)
        assert "cannot allocate" in (await scheduled_condition(world, "a"))["message"]
        await written(world, "c", {"allocation": allocation("n")})
        await world.settle(15)
        assert await node_of(world, "a") == "n"

    world_run(story)


@pytest.mark.parametrize("joined", [True, False], ids=["the group is in", "it is not"])
def test_a_groups_claim_is_full_like_any_other(world_run, joined):
    """256 users, of which the group is one or not; nothing is written that the API refuses."""

    async def story(world):
        await world.start()
        await world.create(NODES, node("n"))
        await hardware(world, "n")
        await world.create(RESOURCE_CLAIMS, claim("c"))
        team = group("team", 1)
        team["spec"]["resourceClaims"] = [{"name": "c", "resourceClaimName": "c"}]
        metadata = (await world.create(POD_GROUPS, team))["metadata"]
        users = [
            {"apiGroup": "example.com", "resource": "jobs", "name": f"j{i}", "uid": f"j{i}"}
            for i in range(256)
        ]
        if joined:
            users[0] = {"apiGroup": "scheduling.k8s.io", "resource": "podgroups"}
            users[0] |= {"name": "team", "uid": metadata["uid"]}
        await written(world, "c", {"allocation": allocation("n"), "reservedFor": users})
        await world.create(PODS, pod("rank", group="team", claims=["c"]))
        await start(world)
        await world.settle(10)
        assert await node_of(world, "rank") == ("n" if joined else None)
        if not joined:
            message = (await scheduled_condition(world, "rank"))["message"]
            assert 'resourceclaim "c" in use' in message

    world_run(story)


class Late:
    """A client that is told of claims a moment later."""

    def __init__(self, client, clock):
        self._client, self._clock = client, clock

    def __getattr__(self, verb):
        return getattr(self._client, verb)

    async def watch(self, resource, *args, **options):
        stream = await self._client.watch(resource, *args, **options)
        if resource != RESOURCE_CLAIMS:
            return stream
        at_once = stream.next_batch

        async def next_batch():
            batch = await at_once()
            await self._clock.sleep(0.05)
            return batch

        stream.next_batch = next_batch
        return stream


def test_devices_whose_allocation_was_written_without_an_answer_are_not_given_away(world_run):
    async def story(world):
        await world.start()
        await world.create(NODES, node("n"))
        await hardware(world, "n", gpus=2)
        for name in "cd":
            await world.create(RESOURCE_CLAIMS, claim(name))
        client = Faulty(world.controller_client)
        client.fail("update", RESOURCE_CLAIMS, "c", "status", unavailable(), lost=True)
        informers = SharedInformers(Late(world.controller_client, world.clock), world.clock)
        context = replace(world.context, client=client, informers=informers)
        await world.start(*scheduling.components(context))
        await world.settle(1)
        await world.create(PODS, pod("a", claims=["c"]))
        await world.settle(0.02)
        await world.create(PODS, pod("b", claims=["d"]))
        await world.settle(30)
        assert client.failed
        assert [await node_of(world, name) for name in "ab"] == ["n", "n"]
        given = [(await held(world, name))["allocation"]["devices"]["results"] for name in "cd"]
        assert sorted(result["device"] for [result] in given) == ["gpu-0", "gpu-1"]

    world_run(story)


@pytest.mark.parametrize("point", ["the claim is made", "the status is written"])
def test_a_claim_is_made_once_whatever_write_fails(world_run, point):
    async def story(world):
        client = Faulty(world.controller_client)
        await world.start()
        template = claim("t")
        template |= {"kind": "ResourceClaimTemplate", "spec": {"spec": template["spec"]}}
        await world.create(RESOURCE_CLAIM_TEMPLATES, template)
        if point == "the claim is made":  # and its answer lost
            client.fail("create", RESOURCE_CLAIMS, "", "", *[unavailable()] * 2, lost=True)
        else:
            client.fail("update", PODS, "a", "status", *[unavailable()] * 3)
        waiting = pod("a", claims=["c"])
        [entry] = waiting["spec"]["resourceClaims"]
        entry |= {"resourceClaimTemplateName": "t", "resourceClaimName": None}
        await world.create(PODS, waiting)
        await world.start(*devices.components(replace(world.context, client=client)))
        await world.settle(60)
        assert client.failed
        [status] = (await world.get(PODS, "a"))["status"]["resourceClaimStatuses"]
        assert await world.names(RESOURCE_CLAIMS) == [status["resourceClaimName"]]

    world_run(story)


async def left_by_an_earlier_attempt(world, pod_name, request, on, device="gpu-0"):
    """A claim for extended resources that was allocated for the pod before it could be bound."""
    user = await reference(world, pod_name)
    owner = {"apiVersion": "v1", "kind": "Pod", "name": pod_name, "uid": user["uid"]}
    made = claim("left")
    made["spec"]["devices"]["requests"][0]["name"] = request
    made["metadata"] |= {
        "annotations": {"resource.kubernetes.io/extended-resource-claim": "true"},
        "ownerReferences": [{**owner, "controller": True}],
    }
    await world.create(RESOURCE_CLAIMS, made)
    given = allocation(on, device)
    given["devices"]["results"][0]["request"] = request
    await written(world, "left", {"allocation": given, "reservedFor": [user]})


def wanting_gpus(name, **spec):
    made = pod(name, **spec)
    amounts = {"cpu": "1", "example.com/gpu": "1"}
    made["spec"]["containers"][0]["resources"] = {"requests": amounts, "limits": amounts}
    return made


def standing_in():
    made = device_class()
    made["spec"]["extendedResourceName"] = "example.com/gpu"
    return made


def test_what_an_attempt_left_for_other_requests_frees_the_devices_that_the_pod_wants(world_run):
    async def story(world):
        await world.start()
        await world.create(NODES, node("n"))
        await world.create(DEVICE_CLASSES, standing_in())
        await world.create(RESOURCE_SLICES, slices("n", 1))
        await world.create(PODS, wanting_gpus("a"))
        await left_by_an_earlier_attempt(world, "a", "container-9-request-9", "n")
        await start(world)
        await world.settle(30)
        assert await node_of(world, "a") == "n"
        [made] = await world.find(RESOURCE_CLAIMS)
        assert made["spec"]["devices"]["requests"][0]["name"] == "container-0-request-1"
        status = (await world.get(PODS, "a"))["status"]["extendedResourceClaimStatus"]
        assert status["resourceClaimName"] == made["metadata"]["name"]

    world_run(story)


def test_what_an_attempt_left_goes_when_a_device_plugin_serves_the_pod(world_run):
    """The node with devices has no room any more, and somebody else gets them."""

    async def story(world):
        await world.start()
        served = node("plugin")
        served["status"]["allocatable"]["example.com/gpu"] = "1"
        await world.create(NODES, served)
        await world.create(NODES, node("devices", cpu="0"))
        await world.create(DEVICE_CLASSES, standing_in())
        await world.create(RESOURCE_SLICES, slices("devices", 1))
        await world.create(PODS, wanting_gpus("a"))
        await left_by_an_earlier_attempt(world, "a", "container-0-request-1", "devices")
        await start(world)
        await world.settle(30)
        assert await node_of(world, "a") == "plugin"
        assert not await world.find(RESOURCE_CLAIMS)
        assert "extendedResourceClaimStatus" not in (await world.get(PODS, "a"))["status"]

    world_run(story)
