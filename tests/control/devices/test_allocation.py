"""Claims and slices through the API, the scheduler and back: what works, and what says why not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    NODES,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.base.errors import ApiError
from kubarium.control import devices, scheduling
from tests.control.scheduling.test_faults import Faulty

DRIVER = "d.example.com"


def node(name="a", cpu="8"):
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "30"}},
    }


def device_class(name="any", *expressions):
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": name},
        "spec": {"selectors": [{"cel": {"expression": e}} for e in expressions]},
    }


def resource_slice(*items, name="a-slice", count=1, **spec):
    pool = {"name": "a", "generation": 1, "resourceSliceCount": count}
    content = {"devices": list(items)} if items else {}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": name},
        "spec": {"driver": DRIVER, "nodeName": "a", "pool": pool, **content, **spec},
    }


def exactly(name="r", device_class="any", **more):
    return {"name": name, "exactly": {"deviceClassName": device_class, **more}}


def claim(name, *requests, **devices_):
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name},
        "spec": {"devices": {"requests": list(requests) or [exactly()], **devices_}},
    }


def pod(name, claim_name="", cpu=""):
    container = {"name": "main", "image": "busybox", "resources": {}}
    spec = {"containers": [container]}
    if claim_name:
        spec["resourceClaims"] = [{"name": "c", "resourceClaimName": claim_name}]
        container["resources"]["claims"] = [{"name": "c"}]
    if cpu:
        container["resources"]["requests"] = {"cpu": cpu}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


async def begin(world, *slices):
    await world.create(NODES, node())
    await world.create(DEVICE_CLASSES, device_class())
    for item in slices:
        await world.create(RESOURCE_SLICES, item)
    await world.start(*devices.components(world.context), *scheduling.components(world.context))
    await world.settle(0.1)


async def placed(world, name):
    return (await world.get(PODS, name))["spec"].get("nodeName", "")


async def reason(world, name):
    """What the pod's condition says, which an event has said too."""
    conditions = (await world.get(PODS, name))["status"]["conditions"]
    [text] = [c["message"] for c in conditions if c["type"] == "PodScheduled"]
    events = await world.events("FailedScheduling")
    assert any(text in event["message"] for event in events)
    return text


async def given(world, name):
    """The devices of a claim."""
    status = (await world.get(RESOURCE_CLAIMS, name)).get("status") or {}
    results = (status.get("allocation") or {}).get("devices", {}).get("results", ())
    return [result["device"] for result in results]


# Node-allocatable resources (KEP-5517).


def cpus(cores="8"):
    """A device that stands for the node's cores, one for each unit of capacity."""
    policy = {"default": "1", "validRange": {"min": "1", "step": "1"}}
    return {
        "name": "cores",
        "allowMultipleAllocations": True,
        "capacity": {"cores": {"value": cores, "requestPolicy": policy}},
        "nodeAllocatableResources": {
            "cpu": {"mapping": {"capacityKey": "cores", "capacityMultiplier": "1"}}
        },
    }


def cores(count):
    return exactly(capacity={"requests": {"cores": str(count)}})


def test_cores_of_a_claim_are_taken_of_the_nodes_cpu(world_run):
    async def story(world):
        await begin(world, resource_slice(cpus()))
        await world.create(RESOURCE_CLAIMS, claim("four", cores(4)))
        await world.create(PODS, pod("pinned", "four", cpu="500m"))
        await world.settle()
        assert await placed(world, "pinned") == "a"
        status = (await world.get(PODS, "pinned"))["status"]
        assert status["nodeAllocatableResourceClaimStatuses"] == [
            {
                "resourceClaimName": "four",
                "containers": ["main"],
                "mapping": [{"name": "cpu", "quantity": "4"}],
            }
        ]
        await world.create(PODS, pod("large", cpu="3600m"))
        await world.create(PODS, pod("small", cpu="3500m"))
        await world.settle()
        assert await placed(world, "small") == "a"
        assert "1 Insufficient cpu" in await reason(world, "large")
        await world.set_phase(await world.get(PODS, "pinned"), "Succeeded")
        await world.settle(15)
        assert await placed(world, "large") == "a", "the cores are free again"

    world_run(story)


def test_a_claim_for_cores_waits_for_pods_that_ask_for_them_plainly(world_run):
    async def story(world):
        await begin(world, resource_slice(cpus()))
        await world.create(PODS, pod("plain", cpu="6"))
        await world.settle()
        await world.create(RESOURCE_CLAIMS, claim("four", cores(4)))
        await world.create(PODS, pod("pinned", "four"))
        await world.settle()
        assert "1 Insufficient cpu" in await reason(world, "pinned")
        assert await given(world, "four") == []
        await world.client.delete(PODS, "plain", "default", grace_period_s=0)
        await world.settle(15)
        assert await placed(world, "pinned") == "a"

    world_run(story)


def test_a_scheduler_that_starts_again_counts_the_same(world_run):
    async def story(world):
        await begin(world, resource_slice(cpus()))
        await world.create(RESOURCE_CLAIMS, claim("six", cores(6)))
        await world.create(PODS, pod("pinned", "six"))
        await world.settle()
        [again] = scheduling.components(world.context)
        snapshot = again.view.snapshot
        row = snapshot.rows["a"]
        assert snapshot.requested[snapshot.resources["cpu"], row] == 6000
        snapshot.check()

    world_run(story)


def test_two_pods_cannot_share_cores_but_overhead_counts_for_each(world_run):
    async def story(world):
        gpu = {
            "name": "gpu",
            "nodeAllocatableResources": {
                "memory": {"overhead": {"perPod": "1Gi", "perContainer": "512Mi"}}
            },
        }
        await begin(world, resource_slice(cpus(), gpu))
        await world.create(RESOURCE_CLAIMS, claim("cores", cores(2)))
        selector = {"cel": {"expression": f"!('cores' in device.capacity['{DRIVER}'])"}}
        await world.create(RESOURCE_CLAIMS, claim("gpu", exactly(selectors=[selector])))
        for name in ("one", "two"):
            await world.create(PODS, pod(f"cores-{name}", "cores"))
            await world.create(PODS, pod(f"gpu-{name}", "gpu"))
        await world.settle()
        text = "node allocatable resource claim cores has a mapped device and cannot be shared"
        waiting = [n for n in ("cores-one", "cores-two") if not await placed(world, n)]
        assert len(waiting) == 1
        assert text in await reason(world, waiting[0])
        assert await placed(world, "gpu-one") == await placed(world, "gpu-two") == "a"
        [status] = (await world.get(PODS, "gpu-two"))["status"][
            "nodeAllocatableResourceClaimStatuses"
        ]
        assert status["overhead"] == [{"name": "memory", "perPod": "1Gi", "perContainer": "512Mi"}]
        [scheduler] = scheduling.components(world.context)
        snapshot = scheduler.view.snapshot
        used = snapshot.requested[snapshot.resources["memory"], snapshot.rows["a"]]
        assert used == 2 * 1536 * 2**20

    world_run(story)


def test_requests_of_the_pod_as_a_whole_cover_its_claims(world_run):
    async def story(world):
        await begin(world, resource_slice(cpus()))
        for name, whole in (("enough", "4"), ("short", "3")):
            await world.create(RESOURCE_CLAIMS, claim(name, cores(3)))
            document = pod(name, name, cpu="500m")
            document["spec"]["resources"] = {"requests": {"cpu": whole}}
            await world.create(PODS, document)
        await world.settle()
        assert await placed(world, "enough") == "a"
        assert "pod level request for cpu is insufficient" in await reason(world, "short")
        [scheduler] = scheduling.components(world.context)
        snapshot = scheduler.view.snapshot
        assert snapshot.requested[snapshot.resources["cpu"], snapshot.rows["a"]] == 4000

    world_run(story)


def test_limits_of_the_pod_as_a_whole_cover_each_container_with_its_claims(world_run):
    async def story(world):
        await begin(world, resource_slice(cpus()))
        for name in ("enough", "short"):
            await world.create(RESOURCE_CLAIMS, claim(name, cores(3)))
            document = pod(name, name)
            document["spec"]["containers"][0]["resources"]["limits"] = {"cpu": "1"}
            whole_pod = {"requests": {"cpu": "4"}, "limits": {"cpu": "4"}}
            if name == "short":
                whole_pod = {"requests": {"cpu": "3"}, "limits": {"cpu": "3"}}
                requests = document["spec"]["containers"][0]["resources"]
                requests["requests"] = {"cpu": "0"}
            document["spec"]["resources"] = whole_pod
            await world.create(PODS, document)
        await world.settle()
        assert await placed(world, "enough") == "a"
        text = "pod level limit for cpu is insufficient to cover the limit and DRA overhead for"
        assert f"{text} container main" in await reason(world, "short")

    world_run(story)


@pytest.mark.parametrize("point", ["the binding fails", "an earlier attempt has left its own"])
def test_the_status_says_what_the_claims_of_a_bound_pod_take_and_no_more(world_run, point):
    async def story(world):
        client = Faulty(world.controller_client)
        await world.start()
        await world.create(NODES, node())
        await world.create(DEVICE_CLASSES, device_class())
        await world.create(RESOURCE_SLICES, resource_slice(cpus()))
        await world.create(RESOURCE_CLAIMS, claim("four", cores(4)))
        pinned = pod("pinned", "four")
        if point == "the binding fails":
            client.fail(
                "create", PODS, "pinned", "binding", ApiError(503, "ServiceUnavailable", "x")
            )
        await world.create(PODS, pinned)
        if point != "the binding fails":
            entry = {"resourceClaimName": "old", "mapping": [{"name": "cpu", "quantity": "1"}]}
            same = entry | {"resourceClaimName": "four"}
            same["mapping"] = [{"name": "memory", "quantity": "1Gi"}]
            status = {"status": {"nodeAllocatableResourceClaimStatuses": [entry, same]}}
            await world.client.patch(PODS, "pinned", status, "default", subresource="status")
        await world.start(*scheduling.components(replace(world.context, client=client)))
        await world.settle(0.5)
        if point == "the binding fails":
            status = (await world.get(PODS, "pinned"))["status"]
            assert not status.get("nodeAllocatableResourceClaimStatuses")
            await world.settle(20)
        status = (await world.get(PODS, "pinned"))["status"]
        assert await placed(world, "pinned") == "a"
        [entry] = status["nodeAllocatableResourceClaimStatuses"]
        assert entry["mapping"] == [{"name": "cpu", "quantity": "4"}]

    world_run(story)


# Alpha features of 1.37.


def test_derived_attributes_align_what_drivers_name_differently(world_run):
    async def story(world):
        gpus = [
            {"name": f"gpu{i}", "attributes": {"gpu": {"bool": True}, "numa": {"int": i}}}
            for i in range(3)
        ]
        nic = {"name": "nic", "attributes": {"where": {"string": "numa2-port1"}}}
        await begin(world, resource_slice(*gpus, nic))
        attributes = f"device.attributes['{DRIVER}']"
        of_gpu = {"name": "derived/numa", "expression": f"string({attributes}.numa)"}
        of_nic = {
            "name": "derived/numa",
            "expression": f"{attributes}.where.substring(4, 5)",
        }
        requests = [
            exactly(
                "gpu",
                selectors=[{"cel": {"expression": f"'gpu' in {attributes}"}}],
                derivedAttributes=[of_gpu],
            ),
            exactly(
                "nic",
                selectors=[{"cel": {"expression": f"'where' in {attributes}"}}],
                derivedAttributes=[of_nic],
            ),
        ]
        constraints = [{"matchAttribute": "derived/numa"}]
        await world.create(RESOURCE_CLAIMS, claim("pair", *requests, constraints=constraints))
        await world.create(PODS, pod("p", "pair"))
        await world.settle()
        assert await given(world, "pair") == ["gpu2", "nic"]

    world_run(story)


def partition(name, group):
    consumption = {
        "counterSet": "gpu",
        "counters": {"memory": {"value": "1"}},
        "compatibilityGroups": [group],
    }
    return {
        "name": name,
        "attributes": {"kind": {"string": group}},
        "consumesCounters": [consumption],
    }


def kind(value):
    expression = f"device.attributes['{DRIVER}'].kind == '{value}'"
    return exactly(selectors=[{"cel": {"expression": expression}}])


def test_partitions_of_another_kind_wait_until_the_gpu_is_free(world_run):
    async def story(world):
        counters = [{"name": "gpu", "counters": {"memory": {"value": "9"}}}]
        parts = [partition("m0", "mig"), partition("m1", "mig"), partition("v0", "vgpu")]
        await begin(
            world,
            resource_slice(*parts, count=2),
            resource_slice(name="counters", count=2, sharedCounters=counters),
        )
        for name, wanted in (("m", "mig"), ("v", "vgpu"), ("n", "mig")):
            await world.create(RESOURCE_CLAIMS, claim(name, kind(wanted)))
            await world.create(PODS, pod(name, name))
            await world.settle()
        assert await given(world, "m") + await given(world, "n") == ["m0", "m1"]
        assert "cannot allocate all claims" in await reason(world, "v")
        for name in ("m", "n"):
            await world.client.delete(PODS, name, "default", grace_period_s=0)
        await world.settle(15)
        assert await given(world, "v") == ["v0"]

    world_run(story)


def test_results_carry_the_operations_that_nodes_skip(world_run):
    async def story(world):
        await begin(world, resource_slice({"name": "d"}, skipNodeOperations=["*"]))
        await world.create(RESOURCE_CLAIMS, claim("c"))
        await world.create(PODS, pod("p", "c"))
        await world.settle()
        status = (await world.get(RESOURCE_CLAIMS, "c"))["status"]
        [result] = status["allocation"]["devices"]["results"]
        assert result["skipNodeOperations"] == ["*"]

    world_run(story)


# Bad input: a reason on the object, and every other pod still scheduled.

PLAIN = {"name": "d0", "attributes": {"model": {"string": "x"}}}
BAD_CLAIMS = [
    (claim("bad", exactly(device_class="nope")), "device class nope does not exist"),
    (
        claim("bad", exactly(selectors=[{"cel": {"expression": "device.attributes['x'].y == 1"}}])),
        "selector #0 on device d.example.com/a/d0: CEL runtime error: no such key: y",
    ),
    (
        claim(
            "bad",
            exactly(derivedAttributes=[{"name": "x/y", "expression": "device.attributes['x'].y"}]),
            constraints=[{"matchAttribute": "x/y"}],
        ),
        "derived attribute x/y on device d.example.com/a/d0: CEL runtime error: no such key: y",
    ),
    (
        claim("bad", exactly("a", count=20), exactly("b", count=20)),
        "number of requested devices 40 exceeds the claim limit of 32",
    ),
    (
        claim("bad", exactly(count=2**40)),
        f"number of requested devices {2**40} exceeds the claim limit of 32",
    ),
    (
        claim("bad", exactly(capacity={"requests": {"nothing": "1"}})),
        "cannot allocate all claims",
    ),
]


@pytest.mark.parametrize(("document", "text"), BAD_CLAIMS)
def test_a_claim_that_cannot_be_says_why_and_holds_nobody_up(world_run, document, text):
    async def story(world):
        await begin(world, resource_slice(PLAIN))
        await world.create(RESOURCE_CLAIMS, document)
        await world.create(PODS, pod("bad", "bad"))
        await world.create(RESOURCE_CLAIMS, claim("good"))
        await world.create(PODS, pod("good", "good"))
        await world.create(PODS, pod("plain"))
        await world.settle(5)
        assert await placed(world, "good") == await placed(world, "plain") == "a"
        assert not await placed(world, "bad")
        # A selector that fails is asked again, and not of the device once somebody has it.
        said = [e["message"] for e in await world.events("FailedScheduling")]
        assert any(text in message for message in said)
        assert await reason(world, "bad") in said

    world_run(story)


WITH_COUNTERS = {
    "name": "d1",
    "consumesCounters": [{"counterSet": "s", "counters": {"c": {"value": "-5"}}}],
}
BAD_SLICES = [
    # Two slices of one pool with a device of the same name.
    [resource_slice(PLAIN, count=2), resource_slice(PLAIN, name="b", count=2)],
    # A device that consumes from a set which nobody publishes.
    [resource_slice(WITH_COUNTERS)],
    # A device that would give counters back.
    [
        resource_slice(WITH_COUNTERS, count=2),
        resource_slice(
            name="b", count=2, sharedCounters=[{"name": "s", "counters": {"c": {"value": "1"}}}]
        ),
    ],
]


@pytest.mark.parametrize("slices", BAD_SLICES)
def test_slices_that_contradict_each_other_give_nothing_and_hold_nobody_up(world_run, slices):
    async def story(world):
        good = resource_slice({"name": "g"}, name="good")
        good["spec"]["driver"] = "good.example.com"
        await begin(world, *slices, good)
        other = {"cel": {"expression": f"device.driver == '{DRIVER}'"}}
        await world.create(RESOURCE_CLAIMS, claim("bad", exactly(selectors=[other])))
        await world.create(PODS, pod("bad", "bad"))
        await world.create(RESOURCE_CLAIMS, claim("good"))
        await world.create(PODS, pod("good", "good"))
        await world.settle(5)
        assert await given(world, "good") == ["g"]
        assert "invalid resource pools were encountered" in await reason(world, "bad")

    world_run(story)


def test_more_counters_in_use_than_there_are_give_nothing_more(world_run):
    """The driver publishes a smaller counter set while devices are in use."""

    async def story(world):
        def counters(value):
            sets = [{"name": "s", "counters": {"c": {"value": value}}}]
            return resource_slice(name="b", count=2, sharedCounters=sets)

        use = [{"counterSet": "s", "counters": {"c": {"value": "2"}}}]
        parts = [{"name": f"d{i}", "consumesCounters": use} for i in range(3)]
        await begin(world, resource_slice(*parts, count=2), counters("6"))
        for name in ("one", "two"):
            await world.create(RESOURCE_CLAIMS, claim(name))
            await world.create(PODS, pod(name, name))
        await world.settle()
        smaller = await world.get(RESOURCE_SLICES, "b")
        smaller = {**smaller, "spec": {**smaller["spec"], **counters("3")["spec"]}}
        await world.client.update(RESOURCE_SLICES, smaller)
        await world.create(RESOURCE_CLAIMS, claim("three"))
        await world.create(PODS, pod("three", "three"))
        await world.settle()
        assert "cannot allocate all claims" in await reason(world, "three")
        await world.client.delete(PODS, "one", "default", grace_period_s=0)
        await world.settle(15)
        assert not await placed(world, "three"), "two of three are in use still"
        await world.client.delete(PODS, "two", "default", grace_period_s=0)
        await world.settle(15)
        assert await placed(world, "three") == "a"

    world_run(story)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("device.attributes[", "compilation failed"),
        ("device.driver", "must evaluate to bool"),
        ("'x' * 2 == 'xx'", "compilation failed"),
    ],
)
def test_selectors_that_do_not_compile_are_refused_when_written(world_run, expression, text):
    async def story(world):
        await begin(world)
        document = claim("bad", exactly(selectors=[{"cel": {"expression": expression}}]))
        with pytest.raises(ApiError, match=text):
            await world.create(RESOURCE_CLAIMS, document)
        with pytest.raises(ApiError, match=text):
            await world.create(DEVICE_CLASSES, device_class("bad", expression))

    world_run(story)
