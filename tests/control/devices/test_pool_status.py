"""Requests for the status of pools: answered once, and gone when their time is over."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import RESOURCE_POOL_STATUS_REQUESTS, RESOURCE_SLICES
from kubarium.control import devices

DRIVER = "d.example.com"


def request(name):
    return {
        "apiVersion": RESOURCE_POOL_STATUS_REQUESTS.api_version,
        "kind": "ResourcePoolStatusRequest",
        "metadata": {"name": name},
        "spec": {"driver": DRIVER},
    }


def resource_slice():
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": "s"},
        "spec": {
            "driver": DRIVER,
            "nodeName": "a",
            "pool": {"name": "a", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "d"}],
        },
    }


def test_a_request_is_answered_once_and_deleted_after_an_hour(world_run):
    async def story(world):
        await world.create(RESOURCE_SLICES, resource_slice())
        await world.start(*devices.components(world.context))
        await world.create(RESOURCE_POOL_STATUS_REQUESTS, request("first"))
        await world.settle()
        answer = (await world.get(RESOURCE_POOL_STATUS_REQUESTS, "first"))["status"]
        [condition] = answer["conditions"]
        assert condition["message"] == "Calculated status for 1 pools"
        [pool] = answer["pools"]
        assert (pool["poolName"], pool["totalDevices"], pool["availableDevices"]) == ("a", 1, 1)
        before = world.server.store.revision
        await world.settle(3000)
        assert world.server.store.revision == before, "an answer is never written again"
        await world.create(RESOURCE_POOL_STATUS_REQUESTS, request("second"))
        await world.settle(700)
        assert await world.names(RESOURCE_POOL_STATUS_REQUESTS) == ["second"]

    world_run(story)


@pytest.mark.parametrize("comes", [True, False])
def test_a_driver_that_is_about_to_publish_more_is_waited_for(world_run, comes):
    async def story(world):
        first, second = (resource_slice() for _ in range(2))
        second["metadata"]["name"] = "t"
        second["spec"]["devices"] = [{"name": "e"}]
        for document in (first, second):
            document["spec"]["pool"]["resourceSliceCount"] = 2
        await world.create(RESOURCE_SLICES, first)
        await world.start(*devices.components(world.context))
        await world.create(RESOURCE_POOL_STATUS_REQUESTS, request("asked"))
        await world.settle(0.05)
        assert not (await world.get(RESOURCE_POOL_STATUS_REQUESTS, "asked")).get("status")
        if comes:
            await world.create(RESOURCE_SLICES, second)
        await world.settle(1)
        answer = (await world.get(RESOURCE_POOL_STATUS_REQUESTS, "asked"))["status"]
        [pool], [condition] = answer["pools"], answer["conditions"]
        text = "Calculated status for 1 pools"
        assert condition["message"] == (text if comes else f"{text} (1 incomplete)")
        assert pool.get("totalDevices") == (2 if comes else None)

    world_run(story)


def test_a_driver_without_pools_has_none_in_the_answer(world_run):
    async def story(world):
        await world.start(*devices.components(world.context))
        await world.create(RESOURCE_POOL_STATUS_REQUESTS, request("first"))
        await world.settle()
        answer = (await world.get(RESOURCE_POOL_STATUS_REQUESTS, "first"))["status"]
        assert answer["poolCount"] == 0
        assert "pools" not in answer

    world_run(story)
