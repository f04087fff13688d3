"""What pods with claims are told, in kube-scheduler's words; in which order claims are written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    NODES,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.control import scheduling
from kubarium.runtime.informer import SharedInformers
from kubarium.view.scheduling import read_config
from tests.control.scheduling.test_device_faults import (
    allocation,
    devices_of,
    hardware,
    held,
    reference,
    start,
    written,
)
from tests.control.scheduling.test_scheduler import (
    DRIVER,
    claim,
    device_class,
    events,
    node,
    node_of,
    pod,
    scheduled_condition,
    slices,
)

UNHELPFUL = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."


async def told(world, name="a"):
    condition = await scheduled_condition(world, name)
    return condition.get("reason"), condition.get("message")


def cel(name, expression):
    """A claim with a selector of its own."""
    made = claim(name)
    made["spec"]["devices"]["requests"][0]["exactly"]["selectors"] = [
        {"cel": {"expression": expression}}
    ]
    return made


def test_a_pod_without_claims_has_none_to_give_back(world_run):
    async def story(world):
        await world.create(NODES, node("n", cpu="1"))
        await world.start(*scheduling.components(world.context))
        await world.create(PODS, pod("a", cpu="2"))
        await world.settle()
        text = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate,"
        assert await told(world) == ("Unschedulable", f"{text} {UNHELPFUL}")

    world_run(story)


def test_a_claim_without_devices_leaves_nothing_to_give_back(world_run):
    async def story(world):
        await world.create(NODES, node("n"))
        await world.create(DEVICE_CLASSES, device_class())
        await world.start(*scheduling.components(world.context))
        await world.create(RESOURCE_CLAIMS, claim("c"))
        await world.create(PODS, pod("a", claims=["c"]))
        await world.settle()
        _, message = await told(world)
        assert message.startswith(
            "0/1 nodes are available: 1 cannot allocate all claims."
            " still not schedulable, preemption: 0/1 nodes are available: "
        )

    world_run(story)


def test_a_profile_that_asks_no_claims_says_nothing_of_them(world_run):
    async def story(world):
        await world.create(NODES, node("n", cpu="1"))
        off = {"multiPoint": {"disabled": [{"name": "DynamicResources"}]}}
        config = read_config({"profiles": [{"plugins": off}]})
        await world.start(*scheduling.components(world.context, config))
        await world.create(PODS, pod("a", cpu="2"))
        await world.settle()
        text = f"0/1 nodes are available: 1 Insufficient cpu. {UNHELPFUL}"
        assert await told(world) == ("Unschedulable", text)

    world_run(story)


def test_devices_on_a_node_that_does_not_do_are_given_back_and_said_to_be(world_run):
    async def story(world):
        await world.start()
        await world.create(NODES, node("full", cpu="1"))
        await hardware(world, "full")
        await world.create(RESOURCE_CLAIMS, claim("c"))
        await world.create(PODS, pod("a", claims=["c"], nodeSelector={"none": "such"}))
        await world.create(NODES, node("other", labels={"none": "such"}))
        await written(world, "c", {"allocation": allocation("full")})
        await start(world)
        await world.settle()
        messages = [e["message"] for e in await events(world, "FailedScheduling")]
        assert (
            "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector,"
            " 1 resourceclaim not available on the node. deallocation of ResourceClaim completed,"
            " preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
        ) in messages
        assert "allocation" not in await held(world, "c")

    world_run(story)


def test_a_selector_that_fails_is_the_schedulers_error(world_run):
    """Whatever stands in the way elsewhere: the claim cannot be decided before it is mended."""

    async def story(world):
        await world.create(NODES, node("n"))
        await world.create(NODES, node("small", cpu="0"))
        await hardware(world, "n")
        await world.start(*scheduling.components(world.context))
        await world.create(RESOURCE_CLAIMS, cel("c", f'device.attributes["{DRIVER}"].no == "x"'))
        await world.create(PODS, pod("a", claims=["c"]))
        await world.settle()
        reason, message = await told(world)
        assert reason == "SchedulerError"
        assert message.startswith(
            'running "DynamicResources" filter plugin: claim default/c: selector #0'
        )
        assert "CEL runtime error: no such key: no" in message
        assert "preemption" not in message

    world_run(story)


def test_what_devices_lack_comes_before_where_others_are_held(world_run):
    """Upstream asks its allocator first, of all nodes that are left."""

    async def story(world):
        await world.start()
        for name in ("n", "m"):
            await world.create(NODES, node(name))
        await hardware(world, "n")
        for name in ("c", "d"):
            await world.create(RESOURCE_CLAIMS, claim(name))
        await written(world, "c", {"allocation": allocation("n")})
        await world.create(PODS, pod("a", claims=["c", "d"]))
        await start(world)
        await world.settle()
        _, message = await told(world)
        assert message.startswith("0/2 nodes are available: 2 cannot allocate all claims.")

    world_run(story)


def condition(kind, status):
    """What a driver reports of a device."""
    then = "2026-01-01T00:00:00Z"
    return {
        "type": kind,
        "status": status,
        "reason": "R",
        "message": "",
        "lastTransitionTime": then,
    }


@pytest.mark.parametrize(
    ("reported", "allocated", "given_back"),
    [
        ([condition("Broken", "True")], "2026-01-01T00:00:00Z", True),
        ([condition("Broken", "False")], "2026-01-01T00:00:00Z", False),
        ([condition("Ready", "False")], "2025-12-31T23:49:59Z", True),
        ([condition("Ready", "True")], "2025-12-31T23:49:59Z", False),
        ([], "2025-12-31T23:51:00Z", False),
    ],
    ids=["failed", "not yet ready", "too late", "ready long since", "still in time"],
)
def test_a_claim_whose_device_is_not_made_ready_is_available_nowhere_and_given_back(
    world_run, reported, allocated, given_back
):
    """KEP-5007: who finds the claim so neither waits for it nor reserves it."""

    async def story(world):
        await world.start()
        await world.create(NODES, node("n"))
        await world.create(DEVICE_CLASSES, device_class())
        await world.create(RESOURCE_SLICES, slices("n", 2))
        await world.create(RESOURCE_CLAIMS, claim("c"))
        await world.create(PODS, pod("a", claims=["c"]))
        given = allocation("n")
        given["devices"]["results"][0] |= {
            "bindingConditions": ["Ready"],
            "bindingFailureConditions": ["Broken"],
        }
        given["allocationTimestamp"] = allocated
        device = {"driver": DRIVER, "pool": "n", "device": "gpu-0", "conditions": reported}
        await written(world, "c", {"allocation": given, "devices": [device]})
        await start(world)
        await world.settle(30)
        messages = [e["message"] for e in await events(world, "FailedScheduling")]
        text = "0/1 nodes are available: 1 resourceclaim not available on the node."
        text = f"{text} deallocation of ResourceClaim completed, {UNHELPFUL}"
        assert messages == ([text] if given_back else [])
        anew = "bindingConditions" not in str((await held(world, "c"))["allocation"])
        assert anew == given_back
        waits = not given_back and condition("Ready", "True") not in reported
        assert await node_of(world, "a") == (None if waits else "n")

    world_run(story)


def test_claims_are_written_in_the_order_in_which_the_pod_names_them(world_run):
    async def story(world):
        await world.start()
        await world.create(NODES, node("n"))
        await hardware(world, "n", gpus=3)
        for name in ("first", "second", "third"):
            await world.create(RESOURCE_CLAIMS, claim(name))
        await written(world, "second", {"allocation": allocation("n")})
        await world.create(PODS, pod("a", claims=["third", "second", "first"]))
        await start(world)
        await world.settle()
        assert await node_of(world, "a") == "n"
        claims = await world.find(RESOURCE_CLAIMS)
        claims.sort(key=lambda c: int(c["metadata"]["resourceVersion"]))
        assert [c["metadata"]["name"] for c in claims] == ["third", "second", "first"]

    world_run(story)


def template(name):
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name},
        "spec": {"spec": claim("")["spec"]},
    }


def test_a_pod_waits_while_the_claim_of_its_template_belongs_to_somebody_else(world_run):
    """Nothing is decided, nothing written; once the claim is its own, it runs."""

    async def story(world):
        await world.start()
        await world.create(NODES, node("n"))
        await hardware(world, "n")
        await world.create(RESOURCE_CLAIM_TEMPLATES, template("t"))
        made = pod("a")
        made["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": "t"}]
        await world.create(PODS, made)
        await world.create(RESOURCE_CLAIMS, claim("mine"))
        status = {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "mine"}]}
        await world.client.patch(PODS, "a", {"status": status}, "default", subresource="status")
        informers = SharedInformers(world.controller_client, world.clock)
        context = replace(world.context, informers=informers)
        await world.start(*scheduling.components(context))
        await world.settle(30)
        text = "ResourceClaim default/mine was not created for Pod default/a (Pod is not owner)"
        assert await told(world) == ("Unschedulable", text)
        assert "status" not in await world.get(RESOURCE_CLAIMS, "mine")
        owner = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": "a",
            "uid": (await reference(world, "a"))["uid"],
            "controller": True,
        }
        await world.client.patch(
            RESOURCE_CLAIMS, "mine", {"metadata": {"ownerReferences": [owner]}}, "default"
        )
        await world.settle(30)
        assert await node_of(world, "a") == "n"
        assert devices_of(await held(world, "mine")) == ["n"]

    world_run(story)


def test_devices_that_are_free_elsewhere_are_no_use_to_a_pod_that_is_kept_to_a_node(world_run):
    async def story(world):
        await world.start()
        for name in ("n", "m"):
            await world.create(NODES, node(name))
        await hardware(world, "n", "m")
        for name in ("held", "c"):
            await world.create(RESOURCE_CLAIMS, claim(name))
        await start(world)
        here = {"nodeSelector": {"kubernetes.io/hostname": "n"}}
        await world.create(PODS, pod("first", claims=["held"], **here))
        await world.settle(5)
        await world.create(PODS, pod("a", claims=["c"], **here))
        await world.settle(5)
        hint = (
            "request gpu: 1 device needed, 2 match, 1 free, 0 of them on nodes that the pod could"
        )
        assert (await told(world))[1].endswith(f"{hint} use.")

    world_run(story)


def test_a_pool_that_contradicts_itself_is_named(world_run):
    async def story(world):
        await world.start()
        await world.create(NODES, node("n"))
        await hardware(world, "n")
        more = slices("n", 2)
        more["metadata"]["name"] = "more"
        more["spec"]["pool"]["resourceSliceCount"] = 2
        await world.create(RESOURCE_SLICES, more)
        await world.create(RESOURCE_CLAIMS, claim("c"))
        await start(world)
        await world.create(PODS, pod("a", claims=["c"]))
        await world.settle(5)
        message = (await told(world))[1]
        assert message.startswith(
            "0/1 nodes are available: 1 invalid resource pools were encountered"
        )
        problem = "is invalid: slices disagree about resourceSliceCount: 1, 2."
        assert message.endswith(f"pool {DRIVER}/n {problem}")

    world_run(story)
