"""When a device's taint ends a pod, as a function of tolerations and times."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.kinds import DEVICE_TAINT_RULES, NAMESPACES, PODS, RESOURCE_CLAIMS
from kubarium.control.devices.eviction import Active, evict_at
from kubarium.engine.devices.model import DeviceTaint
from tests.control.devices.test_claims import DRIVER, begin, named_claim, pod

TAINT = DeviceTaint("example.com/broken", "yes", "NoExecute")


def toleration(seconds=None, **fields):
    found = {"key": TAINT.key, "operator": "Exists", **fields}
    return found if seconds is None else found | {"tolerationSeconds": seconds}


def test_an_untolerated_taint_evicts_at_once():
    assert evict_at([], Active(TAINT, 100.0)) == 100.0
    assert evict_at([toleration(key="other.com/key")], Active(TAINT, 100.0)) == 100.0
    assert evict_at([toleration(effect="NoSchedule")], Active(TAINT, 100.0)) == 100.0


def test_a_toleration_without_seconds_is_for_ever():
    assert evict_at([toleration()], Active(TAINT, 100.0)) == math.inf


def test_only_noexecute_evicts():
    for effect in ("None", "NoSchedule"):
        assert evict_at([], Active(DeviceTaint("k", "", effect), 0.0)) == math.inf


@given(st.lists(st.integers(-10, 1000), min_size=1, max_size=4), st.booleans())
def test_the_shortest_toleration_counts_unless_one_is_for_ever(seconds, unlimited):
    tolerations = [toleration(s) for s in seconds] + ([toleration()] if unlimited else [])
    when = math.inf if unlimited else 50.0 + max(0, min(seconds))
    assert evict_at(tolerations, Active(TAINT, 50.0)) == when


@pytest.mark.parametrize("operator", ["Gt", "Lt", "Unknown"])
def test_devices_tolerations_compare_no_numbers(operator):
    """Those of pods do; here validation refuses them, and upstream's matching knows none."""
    number = Active(DeviceTaint("example.com/level", "5", "NoExecute"), 7.0)
    for value in ("4", "5", "6"):
        assert (
            evict_at([{"key": number.taint.key, "operator": operator, "value": value}], number) == 7
        )


# The controller


def rule(name, effect="NoExecute", **selector):
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceTaintRule",
        "metadata": {"name": name},
        "spec": {
            "deviceSelector": {"driver": DRIVER, **selector},
            "taint": {"key": TAINT.key, "value": name, "effect": effect},
        },
    }


def tolerant(name, *tolerations, **exactly):
    request = {"deviceClassName": "gpu", "tolerations": list(tolerations), **exactly}
    made = named_claim(name)
    made["spec"] = {"devices": {"requests": [{"name": "gpu", "exactly": request}]}}
    return made


async def condition(world, name):
    status = (await world.get(DEVICE_TAINT_RULES, name)).get("status") or {}
    [found] = status.get("conditions") or [{}]
    return found.get("status"), found.get("reason"), found.get("message")


async def told(world):
    found = await world.events("DeviceTaintManagerEviction")
    return [(e["involvedObject"]["name"], e["message"], e.get("count", 1)) for e in found]


def test_every_rule_that_evicts_a_pod_counts_it(world_run):
    async def story(world):
        await begin(world, gpus=2)
        await world.create(RESOURCE_CLAIMS, tolerant("plain"))
        await world.create(RESOURCE_CLAIMS, tolerant("slow", toleration(seconds=100)))
        for name in ("plain", "slow"):
            await world.create(PODS, pod(name, resourceClaimName=name))
        await world.settle(5)
        await world.create(DEVICE_TAINT_RULES, rule("one"))
        await world.create(DEVICE_TAINT_RULES, rule("two"))
        await world.settle(0.5)
        await world.finish_deletions()
        await world.settle(30)
        assert await world.names(PODS) == ["slow"]
        text = (
            "1 pod needs to be evicted in 1 namespace. 1 pod evicted since starting the controller."
        )
        for name in ("one", "two"):
            assert await condition(world, name) == ("True", "PodsPendingEviction", text)
        await world.settle(90)
        await world.finish_deletions()
        await world.settle(30)
        done = "2 pods evicted since starting the controller."
        for name in ("one", "two"):
            assert await condition(world, name) == ("False", "Completed", done)
        await world.client.delete(DEVICE_TAINT_RULES, "one", "")
        await world.create(DEVICE_TAINT_RULES, rule("one"))
        await world.settle(30)
        assert await condition(world, "one") == ("False", "NotStarted", ""), "another one"

    world_run(story)


def test_an_eviction_that_is_called_off_says_so(world_run):
    async def story(world):
        await begin(world, gpus=1)
        await world.create(RESOURCE_CLAIMS, tolerant("c", toleration(seconds=100)))
        await world.create(PODS, pod("user", resourceClaimName="c"))
        await world.settle(5)
        await world.create(DEVICE_TAINT_RULES, rule("one"))
        await world.settle(50)
        assert await told(world) == []
        await world.client.delete(DEVICE_TAINT_RULES, "one", "")
        await world.settle(100)
        assert await told(world) == [("user", "Cancelling deletion", 1)]
        assert await world.names(PODS) == ["user"]

    world_run(story)


def test_an_administrators_pod_is_evicted_like_any_other(world_run):
    async def story(world):
        await begin(world, gpus=1)
        label = {"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}}
        await world.client.patch(NAMESPACES, "default", label)
        await world.create(RESOURCE_CLAIMS, tolerant("watch", adminAccess=True))
        await world.create(PODS, pod("monitor", resourceClaimName="watch"))
        await world.settle(5)
        assert (await world.get(PODS, "monitor"))["spec"]["nodeName"] == "a"
        await world.create(DEVICE_TAINT_RULES, rule("one"))
        await world.settle(5)
        assert await told(world) == [("monitor", "Marking for deletion", 1)]

    world_run(story)


def test_a_rule_without_effect_counts_once(world_run):
    async def story(world):
        await begin(world, gpus=3)
        for name in ("a", "b"):
            await world.create(RESOURCE_CLAIMS, tolerant(name))
            await world.create(PODS, pod(name, resourceClaimName=name))
        await world.settle(5)
        await world.create(DEVICE_TAINT_RULES, rule("dry", effect="None"))
        await world.create(DEVICE_TAINT_RULES, rule("other", effect="NoSchedule", device="gpu-9"))
        await world.settle(1)
        text = (
            "3 published devices selected. 2 allocated devices selected. 2 pods would be evicted in"
            " 1 namespace if the effect was NoExecute. This information will not be updated again."
            " Recreate the DeviceTaintRule to trigger an update."
        )
        assert await condition(world, "dry") == ("False", "NoEffect", text)
        other = "Eviction only happens for the NoExecute effect."
        assert await condition(world, "other") == ("False", "OtherEffect", other)
        await world.client.delete(PODS, "a", "default", grace_period_s=0)
        await world.settle(60)
        assert await condition(world, "dry") == ("False", "NoEffect", text)
        less = {"spec": {"deviceSelector": {"device": "gpu-9"}}}
        await world.client.patch(DEVICE_TAINT_RULES, "dry", less)
        await world.settle(1)
        assert (await condition(world, "dry"))[2].startswith(
            "0 published devices selected. 0 allocated devices selected. 0 pods would be evicted in"
            " 0 different namespaces"
        )

    world_run(story)


@pytest.mark.parametrize("count", [1, 3])
def test_a_rule_is_told_whom_it_is_about_before_they_go(world_run, count):
    async def story(world):
        await begin(world, gpus=count)
        for number in range(count):
            await world.create(RESOURCE_CLAIMS, tolerant(f"c{number}"))
            await world.create(PODS, pod(f"p{number}", resourceClaimName=f"c{number}"))
        await world.settle(5)
        await world.create(DEVICE_TAINT_RULES, rule("one"))
        await world.settle(0.5)
        assert len(await told(world)) == count
        need = "1 pod needs" if count == 1 else f"{count} pods need"
        text = f"{need} to be evicted in 1 namespace."
        assert await condition(world, "one") == ("True", "PodsPendingEviction", text)
        await world.finish_deletions()
        await world.settle(15)
        done = f"{count} pod{'s' * (count > 1)} evicted since starting the controller."
        assert await condition(world, "one") == ("False", "Completed", done)

    world_run(story)
