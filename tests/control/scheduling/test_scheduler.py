"""The scheduler against a real API in the process, on virtual time."""

from __future__ import annotations

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    EVENTS,
    NODES,
    POD_GROUPS,
    PODS,
    PRIORITY_CLASSES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.control.scheduling import components
from kubarium.control.scheduling.scheduler import Scheduler
from kubarium.view.scheduling import read_config

DRIVER = "gpu.example.com"


def node(name, cpu="4", memory="16Gi", labels=None, taints=None):
    spec = {"taints": taints} if taints else {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
        "spec": spec,
        "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "110"}},
    }


def pod(name, cpu="1", gates=(), group="", claims=(), scheduler="", **spec):
    spec = {
        "containers": [
            {"name": "main", "image": "busybox", "resources": {"requests": {"cpu": cpu}}}
        ],
        **spec,
    }
    if gates:
        spec["schedulingGates"] = [{"name": gate} for gate in gates]
    if group:
        spec["schedulingGroup"] = {"podGroupName": group}
    if claims:
        spec["resourceClaims"] = [{"name": c, "resourceClaimName": c} for c in claims]
        spec["containers"][0]["resources"]["claims"] = [{"name": c} for c in claims]
    if scheduler:
        spec["schedulerName"] = scheduler
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def group(name, min_count, topology=""):
    spec = {"schedulingPolicy": {"gang": {"minCount": min_count}}}
    if topology:
        spec["schedulingConstraints"] = {"topology": [{"key": topology}]}
    return {
        "apiVersion": "scheduling.k8s.io/v1beta1",
        "kind": "PodGroup",
        "metadata": {"name": name},
        "spec": spec,
    }


def device_class(name="gpu", expression=f'device.driver == "{DRIVER}"'):
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": name},
        "spec": {"selectors": [{"cel": {"expression": expression}}]},
    }


def slices(name, count):
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": f"{name}-slice"},
        "spec": {
            "driver": DRIVER,
            "nodeName": name,
            "pool": {"name": name, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": f"gpu-{i}"} for i in range(count)],
        },
    }


def claim(name, class_name="gpu", count=1):
    exactly = {"deviceClassName": class_name, "allocationMode": "ExactCount", "count": count}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}},
    }


def priority_class(name, value=1000):
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
    }


async def begin(world, *nodes):
    for document in nodes:
        await world.create(NODES, document)
    await world.start(*components(world.context))
    await world.settle(0.1)


async def node_of(world, name):
    return (await world.get(PODS, name))["spec"].get("nodeName")


async def scheduled_condition(world, name):
    conditions = (await world.get(PODS, name)).get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == "PodScheduled"), {})


async def events(world, reason):
    return [e for e in await world.find(EVENTS) if e["reason"] == reason]


def test_a_pod_gets_the_emptiest_node_and_an_event(world_run):
    async def story(world):
        await begin(world, node("small", cpu="2"), node("large", cpu="8"))
        await world.create(PODS, pod("web"))
        await world.settle()
        assert await node_of(world, "web") == "large"
        assert (await scheduled_condition(world, "web"))["status"] == "True"
        found = await events(world, "Scheduled")
        assert [e["message"] for e in found] == ["Successfully assigned default/web to large"]

    world_run(story)


def test_a_pod_without_room_says_why_and_runs_when_a_node_comes(world_run):
    async def story(world):
        taint = {"key": "gpu", "value": "only", "effect": "NoSchedule"}
        await begin(world, node("small", cpu="1"), node("other", taints=[taint]))
        await world.create(PODS, pod("big", cpu="3"))
        await world.settle()
        expected = (
            "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s)."
            " no new claims to deallocate, preemption: 0/2 nodes are available:"
            " 2 Preemption is not helpful for scheduling."
        )
        condition = await scheduled_condition(world, "big")
        assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
        assert condition["message"] == expected
        assert [e["message"] for e in await events(world, "FailedScheduling")] == [expected]
        await world.create(NODES, node("roomy"))
        await world.settle(15)
        assert await node_of(world, "big") == "roomy"

    world_run(story)


def test_gated_pods_and_pods_of_other_schedulers_are_left_alone(world_run):
    async def story(world):
        await begin(world, node("a"))
        await world.create(PODS, pod("gated", gates=["wait.example.com/ready"]))
        await world.create(PODS, pod("foreign", scheduler="my-scheduler"))
        await world.settle(30)
        assert await node_of(world, "gated") is None
        assert await node_of(world, "foreign") is None
        assert not await events(world, "FailedScheduling")
        await world.client.patch(PODS, "gated", {"spec": {"schedulingGates": None}}, "default")
        await world.settle()
        assert await node_of(world, "gated") == "a"

    world_run(story)


def test_a_finished_pod_makes_room_for_a_waiting_one(world_run):
    async def story(world):
        await begin(world, node("a", cpu="1"))
        await world.create(PODS, pod("first"))
        await world.settle()
        await world.create(PODS, pod("second"))
        await world.settle()
        assert await node_of(world, "second") is None
        await world.set_phase(await world.get(PODS, "first"), "Succeeded")
        await world.settle(15)
        assert await node_of(world, "second") == "a"

    world_run(story)


def test_a_gang_starts_whole_or_not_at_all(world_run):
    async def story(world):
        await begin(world, node("a", cpu="2"), node("b", cpu="1"))
        await world.create(POD_GROUPS, group("train", 4))
        for rank in range(4):
            await world.create(PODS, pod(f"rank-{rank}", group="train"))
        await world.settle(30)
        assert [await node_of(world, f"rank-{r}") for r in range(4)] == [None] * 4
        message = (await scheduled_condition(world, "rank-0"))["message"]
        assert message.startswith("0/2 nodes are available: 2 Insufficient cpu.")
        assert "pod group train: gang needs 4, at most 3 fit" in message
        await world.create(NODES, node("c", cpu="1"))
        await world.settle(15)
        assert None not in [await node_of(world, f"rank-{r}") for r in range(4)]
        conditions = (await world.get(POD_GROUPS, "train"))["status"]["conditions"]
        assert [(c["type"], c["status"]) for c in conditions] == [
            ("PodGroupInitiallyScheduled", "True")
        ]

    world_run(story)


def test_a_gang_waits_for_its_group_and_its_members(world_run):
    async def story(world):
        await begin(world, node("a"))
        await world.create(PODS, pod("rank-0", group="train"))
        await world.settle(5)
        assert await node_of(world, "rank-0") is None
        await world.create(POD_GROUPS, group("train", 2))
        await world.settle(5)
        assert await node_of(world, "rank-0") is None
        await world.create(PODS, pod("rank-1", group="train"))
        await world.settle(5)
        assert await node_of(world, "rank-0") == "a"
        assert await node_of(world, "rank-1") == "a"

    world_run(story)


def test_pods_held_for_missing_objects_say_so_once_and_run_when_they_come(world_run):
    async def story(world):
        await begin(world, node("a"))
        await world.create(DEVICE_CLASSES, device_class())
        await world.create(RESOURCE_SLICES, slices("a", 2))
        await world.create(PODS, pod("direct", claims=["mine"]))
        made = pod("made", claims=["gpu"])
        made["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": "absent"}]
        await world.create(PODS, made)
        await world.create(PODS, pod("member", group="train"))
        expected = {
            "direct": 'could not find ResourceClaim "default/mine"',
            "made": 'pod "default/made": ResourceClaim not created yet',
            "member": 'waiting for pods\'s pod group "train" to appear in scheduling queue',
        }
        for round_ in range(2):  # a second look at the same wait is no news
            await world.settle(5)
            for name, text in expected.items():
                condition = await scheduled_condition(world, name)
                assert condition["status"] == "False"
                assert condition["reason"] == "Unschedulable"
                assert condition["message"] == text
            told = await events(world, "FailedScheduling")
            assert {e["involvedObject"]["name"]: e["message"] for e in told} == expected
            assert [e.get("count", 1) for e in told] == [1, 1, 1]
            patch = {"metadata": {"labels": {"round": str(round_)}}}
            for name in expected:
                await world.client.patch(PODS, name, patch, "default")
        await world.create(RESOURCE_CLAIMS, claim("mine"))
        await world.create(POD_GROUPS, group("train", 1))
        await world.settle(5)
        assert await node_of(world, "direct") == "a"
        assert await node_of(world, "member") == "a"
        assert await node_of(world, "made") is None

    world_run(story)


def test_a_wait_that_is_soon_over_is_not_told(world_run):
    async def story(world):
        await begin(world, node("a"))
        await world.create(PODS, pod("rank-0", group="train"))
        await world.settle(0.3)
        await world.create(POD_GROUPS, group("train", 2))
        await world.settle(0.3)
        await world.create(PODS, pod("rank-1", group="train"))
        await world.settle(5)
        assert await node_of(world, "rank-0") == "a"
        assert not await events(world, "FailedScheduling")

    world_run(story)


def test_a_topology_gang_stays_in_one_rack(world_run):
    async def story(world):
        racks = [("a", "r1"), ("b", "r1"), ("c", "r2"), ("d", "r2"), ("e", "r2")]
        await begin(world, *(node(n, cpu="1", labels={"rack": r}) for n, r in racks))
        await world.create(POD_GROUPS, group("train", 3, topology="rack"))
        for rank in range(3):
            await world.create(PODS, pod(f"rank-{rank}", group="train"))
        await world.settle(5)
        assert sorted([await node_of(world, f"rank-{r}") for r in range(3)]) == ["c", "d", "e"]

    world_run(story)


def test_a_claim_is_allocated_with_the_node_and_reserved(world_run):
    async def story(world):
        await begin(world, node("plain", cpu="64"), node("gpus"))
        await world.create(DEVICE_CLASSES, device_class())
        await world.create(RESOURCE_SLICES, slices("gpus", 2))
        await world.create(RESOURCE_CLAIMS, claim("one"))
        await world.create(PODS, pod("user", claims=["one"]))
        await world.settle()
        assert await node_of(world, "user") == "gpus"
        held = await world.get(RESOURCE_CLAIMS, "one")
        assert held["metadata"]["finalizers"] == ["resource.kubernetes.io/delete-protection"]
        assert held["status"]["allocation"]["devices"]["results"] == [
            {"request": "gpu", "driver": DRIVER, "pool": "gpus", "device": "gpu-0"}
        ]
        uid = (await world.get(PODS, "user"))["metadata"]["uid"]
        assert held["status"]["reservedFor"] == [{"resource": "pods", "name": "user", "uid": uid}]

    world_run(story)


def test_pods_share_a_claim_on_the_node_of_its_device(world_run):
    async def story(world):
        await begin(world, node("plain", cpu="64"), node("gpus"))
        await world.create(DEVICE_CLASSES, device_class())
        await world.create(RESOURCE_SLICES, slices("gpus", 1))
        await world.create(RESOURCE_CLAIMS, claim("one"))
        for name in ("first", "second"):
            await world.create(PODS, pod(name, claims=["one"]))
        await world.settle(5)
        assert [await node_of(world, n) for n in ("first", "second")] == ["gpus", "gpus"]
        held = await world.get(RESOURCE_CLAIMS, "one")
        assert [r["name"] for r in held["status"]["reservedFor"]] == ["first", "second"]

    world_run(story)


def test_a_gang_one_device_short_holds_none_and_starts_when_it_comes(world_run):
    async def story(world):
        await begin(world, node("a", cpu="64"), node("b", cpu="64"))
        await world.create(DEVICE_CLASSES, device_class())
        await world.create(RESOURCE_SLICES, slices("a", 7))
        await world.create(RESOURCE_SLICES, slices("b", 7))
        await world.create(POD_GROUPS, group("train", 15))
        for rank in range(15):
            await world.create(RESOURCE_CLAIMS, claim(f"gpu-{rank}"))
            await world.create(PODS, pod(f"rank-{rank}", group="train", claims=[f"gpu-{rank}"]))
        await world.settle(20)
        assert not [
            c for c in await world.find(RESOURCE_CLAIMS) if c.get("status", {}).get("allocation")
        ]
        message = (await scheduled_condition(world, "rank-3"))["message"]
        assert message.startswith(
            "0/2 nodes are available: 2 cannot allocate all claims. still not"
        )
        assert "gang needs 15, at most 14 fit" in message
        assert message.endswith(" request gpu: 15 devices needed, 14 match, 14 free.")
        await world.create(NODES, node("c", cpu="64"))
        await world.create(RESOURCE_SLICES, slices("c", 1))
        await world.settle(15)
        assert None not in [await node_of(world, f"rank-{r}") for r in range(15)]

    world_run(story)


def test_a_high_priority_pod_evicts_the_fewest_and_takes_their_place(world_run):
    async def story(world):
        await begin(world, node("a", cpu="2"), node("b", cpu="2"))
        await world.create(PRIORITY_CLASSES, priority_class("urgent"))
        for name, cpu, where in (("small-1", "1", "a"), ("small-2", "1", "a"), ("large", "2", "b")):
            selector = {"kubernetes.io/hostname": where}
            await world.create(PODS, pod(name, cpu=cpu, nodeSelector=selector))
        await world.settle()
        await world.create(PODS, pod("urgent", cpu="2", priorityClassName="urgent"))
        await world.settle(20)
        victims = [e["involvedObject"]["name"] for e in await events(world, "Preempted")]
        assert victims == ["large"]
        assert "deletionTimestamp" in (await world.get(PODS, "large"))["metadata"]
        assert (await world.get(PODS, "urgent"))["status"]["nominatedNodeName"] == "b"
        await world.create(PODS, pod("sneaky", cpu="2"))
        await world.finish_deletions()
        await world.settle(20)
        assert await node_of(world, "urgent") == "b"
        assert await node_of(world, "sneaky") is None

    world_run(story)


def test_pods_beyond_the_minimum_are_placed_as_room_allows(world_run):
    async def story(world):
        await begin(world, node("a", cpu="2"))
        await world.create(POD_GROUPS, group("train", 2))
        for rank in range(3):
            await world.create(PODS, pod(f"rank-{rank}", group="train"))
        await world.settle(10)
        placed = [await node_of(world, f"rank-{r}") for r in range(3)]
        assert placed.count("a") == 2
        left = f"rank-{placed.index(None)}"
        message = (await scheduled_condition(world, left))["message"]
        assert message.startswith("0/1 nodes are available: 1 Insufficient cpu.")
        await world.create(NODES, node("b"))
        await world.settle(15)
        assert await node_of(world, left) == "b"

    world_run(story)


def test_a_device_is_made_ready_before_its_pod_is_bound(world_run):
    async def story(world):
        await begin(world, node("a"))
        await world.create(DEVICE_CLASSES, device_class())
        prepared = slices("a", 1)
        device = {"bindingConditions": ["Attached"], "bindingFailureConditions": ["Broken"]}
        prepared["spec"]["devices"][0] |= device
        await world.create(RESOURCE_SLICES, prepared)
        await world.create(RESOURCE_CLAIMS, claim("one"))
        await world.create(PODS, pod("user", claims=["one"]))
        await world.create(PODS, pod("other"))
        await world.settle(20)
        assert await node_of(world, "user") is None
        assert await node_of(world, "other") == "a"
        held = await world.get(RESOURCE_CLAIMS, "one")
        assert held["status"]["allocation"]["allocationTimestamp"]
        attached = {"type": "Attached", "status": "True", "reason": "Done", "message": ""}
        attached["lastTransitionTime"] = "2026-01-01T00:00:00Z"
        report = {"driver": DRIVER, "pool": "a", "device": "gpu-0", "conditions": [attached]}
        await world.client.patch(
            RESOURCE_CLAIMS,
            "one",
            {"status": {"devices": [report]}},
            "default",
            subresource="status",
        )
        await world.settle(0.5)  # nobody looks again and again: the change itself tells
        assert await node_of(world, "user") == "a"

    world_run(story)


READY, BROKEN = "Attached", "Broken"


def slow_slices(name, count=1):
    """Devices that must be made ready before pods may be bound."""
    slow = slices(name, count)
    for device in slow["spec"]["devices"]:
        device |= {"bindingConditions": [READY], "bindingFailureConditions": [BROKEN]}
    return slow


async def with_slow_devices(world, count=1):
    """A node with devices that must be made ready before pods may be bound."""
    await begin(world, node("a"))
    await world.create(DEVICE_CLASSES, device_class())
    await world.create(RESOURCE_SLICES, slow_slices("a", count))


async def report(world, name, kind, **condition):
    held = await world.get(RESOURCE_CLAIMS, name)
    [result] = held["status"]["allocation"]["devices"]["results"]
    told = {"type": kind, "status": "True", "reason": "Done", "message": "", **condition}
    told["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    device = {k: result[k] for k in ("driver", "pool", "device")} | {"conditions": [told]}
    status = {"status": {"devices": [device]}}
    await world.client.patch(RESOURCE_CLAIMS, name, status, "default", subresource="status")
    await world.settle(10)


def test_pods_that_share_a_claim_all_wait_until_its_device_is_ready(world_run):
    async def story(world):
        await with_slow_devices(world)
        await world.create(RESOURCE_CLAIMS, claim("one"))
        for name in ("first", "second"):
            await world.create(PODS, pod(name, claims=["one"]))
        await world.settle(10)
        await world.create(PODS, pod("late", claims=["one"]))
        await world.settle(10)
        names = ("first", "second", "late")
        assert [await node_of(world, name) for name in names] == [None] * 3
        pending = [e for e in await world.find(EVENTS) if e["reason"] == "BindingConditionsPending"]
        assert {e["involvedObject"]["name"] for e in pending} == set(names)
        assert pending[0]["message"] == "waiting for binding conditions for device on node a"
        await report(world, "one", READY)
        assert [await node_of(world, name) for name in names] == ["a"] * 3

    world_run(story)


def test_a_scheduler_that_is_started_anew_waits_on_for_a_device(world_run):
    async def story(world):
        await world.start()
        await world.create(NODES, node("a"))
        await world.create(DEVICE_CLASSES, device_class())
        held = claim("one")
        result = {"request": "gpu", "driver": DRIVER, "pool": "a", "device": "gpu-0"}
        result |= {"bindingConditions": [READY], "bindingFailureConditions": [BROKEN]}
        await world.create(RESOURCE_CLAIMS, held)
        await world.create(PODS, pod("user", claims=["one"]))
        user = {"resource": "pods", "name": "user"}
        user["uid"] = (await world.get(PODS, "user"))["metadata"]["uid"]
        only = {"key": "metadata.name", "operator": "In", "values": ["a"]}
        allocation = {
            "devices": {"results": [result]},
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [only]}]},
            "allocationTimestamp": "1970-01-01T00:00:00Z",
        }
        status = {"status": {"allocation": allocation, "reservedFor": [user]}}
        await world.client.patch(RESOURCE_CLAIMS, "one", status, "default", subresource="status")
        await with_slow_devices_published(world)
        assert await node_of(world, "user") is None
        # Time counts from the allocation: it is over, and the claim is allocated anew.
        held = await world.get(RESOURCE_CLAIMS, "one")
        assert held["status"]["allocation"]["allocationTimestamp"] > "2000"
        await report(world, "one", READY)
        assert await node_of(world, "user") == "a"

    world_run(story)


async def with_slow_devices_published(world):
    await world.create(RESOURCE_SLICES, slow_slices("a"))
    await world.start(*components(world.context))
    await world.settle(30)


def test_a_device_that_cannot_be_made_ready_says_why_and_is_given_back(world_run):
    async def story(world):
        await with_slow_devices(world)
        await world.create(RESOURCE_CLAIMS, claim("one"))
        await world.create(PODS, pod("user", claims=["one"]))
        await world.settle(10)
        await report(world, "one", BROKEN, reason="NoLink", message="cable is out")
        events = [e["message"] for e in await world.find(EVENTS) if e["type"] == "Warning"]
        failed = 'running PreBind plugin "DynamicResources": device binding failed'
        text = 'claim=one, reason=NoLink, message="cable is out"'
        assert f"{failed}: {text} (device gpu-0 reports Broken)" in events

    world_run(story)


def test_a_device_that_is_not_ready_in_the_profiles_time_is_given_back(world_run):
    async def story(world):
        await world.start()
        await world.create(NODES, node("a"))
        await world.create(DEVICE_CLASSES, device_class())
        await world.create(RESOURCE_SLICES, slow_slices("a"))
        args = {"name": "DynamicResources", "args": {"bindingTimeout": "30s"}}
        config = read_config({"profiles": [{"pluginConfig": [args]}]})
        await world.start(Scheduler(world.context, config))
        await world.create(RESOURCE_CLAIMS, claim("one"))
        await world.create(PODS, pod("user", claims=["one"]))
        await world.settle(25)
        assert not (await scheduled_condition(world, "user"))
        await world.settle(15)
        message = (await scheduled_condition(world, "user"))["message"]
        failed, timeout = (
            'running PreBind plugin "DynamicResources": ',
            "device binding timeout: claim=one",
        )
        assert f"{failed}{timeout}" in [
            e["message"] for e in await events(world, "FailedScheduling")
        ]
        # There is no other device, and it rests.
        rests = f"could not be made ready ({timeout}), and is left alone until 20"
        assert f"device {DRIVER}/a/gpu-0 {rests}" in message

    world_run(story)


def test_every_allocation_says_when_it_was_made(world_run):
    async def story(world):
        await begin(world, node("a"))
        await world.create(DEVICE_CLASSES, device_class())
        await world.create(RESOURCE_SLICES, slices("a", 1))
        await world.create(RESOURCE_CLAIMS, claim("one"))
        await world.create(PODS, pod("user", claims=["one"]))
        await world.settle(5)
        held = await world.get(RESOURCE_CLAIMS, "one")
        assert held["status"]["allocation"]["allocationTimestamp"]

    world_run(story)


def test_pods_of_a_gang_whose_topology_nobody_knows_are_told_too(world_run):
    async def story(world):
        await begin(world, node("a"))
        await world.create(POD_GROUPS, group("train", 2, topology="example.com/rack"))
        for rank in range(2):
            await world.create(PODS, pod(f"rank-{rank}", group="train"))
        await world.settle(5)
        for rank in range(2):
            told = await scheduled_condition(world, f"rank-{rank}")
            assert told["reason"] == "Unschedulable"
            assert told["message"] == "no node has the topology label example.com/rack"

    world_run(story)


def test_a_pod_that_waits_for_devices_is_told_of_slices_that_changed_since(world_run):
    async def story(world):
        await begin(world, node("a"))
        await world.create(DEVICE_CLASSES, device_class())
        half = slices("a", 1)
        half["spec"]["pool"]["resourceSliceCount"] = 2
        await world.create(RESOURCE_SLICES, half)
        for number in range(2):
            await world.create(RESOURCE_CLAIMS, claim(f"c{number}"))
        await world.create(PODS, pod("first", claims=["c0"]))
        await world.settle(3)
        assert "is incomplete" in (await scheduled_condition(world, "first"))["message"]
        await world.client.delete(RESOURCE_SLICES, "a-slice")
        await world.create(PODS, pod("second", claims=["c1"]))
        await world.settle(3)
        assert "is incomplete" not in (await scheduled_condition(world, "second"))["message"]

    world_run(story)


def test_a_bad_selector_is_told_and_others_are_scheduled(world_run):
    async def story(world):
        await begin(world, node("a"))
        await world.create(DEVICE_CLASSES, device_class())
        await world.create(RESOURCE_SLICES, slices("a", 1))
        wrong = claim("wrong")
        expression = 'device.attributes["gpu.example.com"].missing == "x"'
        wrong["spec"]["devices"]["requests"][0]["exactly"]["selectors"] = [
            {"cel": {"expression": expression}}
        ]
        await world.create(RESOURCE_CLAIMS, wrong)
        await world.create(PODS, pod("unlucky", claims=["wrong"]))
        await world.create(PODS, pod("fine"))
        await world.settle(5)
        assert await node_of(world, "fine") == "a"
        message = (await scheduled_condition(world, "unlucky"))["message"]
        assert "claim default/wrong: selector #0 on device gpu.example.com/a/gpu-0" in message
        assert "CEL runtime error" in message

    world_run(story)


def test_the_same_seed_gives_the_same_assignments(world_run):
    async def story(world):
        await begin(world, *(node(f"n{i}") for i in range(5)))
        for i in range(30):
            await world.create(PODS, pod(f"p{i}", cpu="300m"))
        await world.settle(5)
        found = await world.find(PODS)
        return [
            (p["metadata"]["name"], p["metadata"]["uid"], p["spec"].get("nodeName")) for p in found
        ]

    assert world_run(story, seed=7) == world_run(story, seed=7)


NAMED = "example.com/gpu"


def asking(name, count=1):
    document = pod(name)
    document["spec"]["containers"][0]["resources"]["limits"] = {NAMED: str(count)}
    document["spec"]["containers"][0]["resources"]["requests"][NAMED] = str(count)
    return document


async def mixed_nodes(world):
    """A node with a device plugin's two GPUs, one on which a DRA driver publishes two."""
    plugin = node("plugin")
    plugin["status"]["allocatable"][NAMED] = "2"
    named = device_class()
    named["spec"]["extendedResourceName"] = NAMED
    await begin(world, plugin, node("dra"))
    await world.create(DEVICE_CLASSES, named)
    await world.create(RESOURCE_SLICES, slices("dra", 2))
    await world.settle(0.1)


def test_an_extended_resource_is_a_claim_only_on_nodes_that_do_not_serve_it(world_run):
    async def story(world):
        await mixed_nodes(world)
        for rank in range(5):
            await world.create(PODS, asking(f"p{rank}"))
        await world.settle()
        where = {f"p{rank}": await node_of(world, f"p{rank}") for rank in range(5)}
        assert sorted(filter(None, where.values())) == ["dra", "dra", "plugin", "plugin"]
        owners = {
            c["metadata"]["ownerReferences"][0]["name"] for c in await world.find(RESOURCE_CLAIMS)
        }
        assert owners == {name for name, there in where.items() if there == "dra"}
        for name in where:
            status = (await world.get(PODS, name)).get("status") or {}
            assert ("extendedResourceClaimStatus" in status) == (name in owners)
        [left] = [name for name, there in where.items() if there is None]
        message = (await scheduled_condition(world, left))["message"]
        assert f"1 Insufficient {NAMED}" in message
        assert "1 cannot allocate all claims" in message
        # Room on the node of the plugin is room for the pod that waits.
        gone = next(name for name, there in where.items() if there == "plugin")
        await world.context.client.delete(PODS, gone, "default", grace_period_s=0)
        await world.settle(30)
        assert await node_of(world, left) == "plugin"

    world_run(story)


def test_a_claim_made_anew_after_its_deletion_wakes_the_pod_that_names_it(world_run):
    """The pod is told that the claim is being deleted; nothing else ever happens to it again."""

    async def story(world):
        await begin(world, node("a"))
        await world.create(DEVICE_CLASSES, device_class())
        await world.create(RESOURCE_SLICES, slices("a", 1))
        old = claim("c")
        old["metadata"]["finalizers"] = ["example.com/wait"]
        await world.create(RESOURCE_CLAIMS, old)
        await world.client.delete(RESOURCE_CLAIMS, "c", "default")
        await world.create(PODS, pod("p", claims=["c"]))
        await world.settle()
        message = (await scheduled_condition(world, "p"))["message"]
        assert 'resourceclaim "c" is being deleted' in message
        freed = {"metadata": {"finalizers": None}}
        await world.client.patch(RESOURCE_CLAIMS, "c", freed, "default")
        await world.settle()
        await world.create(RESOURCE_CLAIMS, claim("c"))
        await world.settle(15)
        assert await node_of(world, "p") == "a"

    world_run(story)
