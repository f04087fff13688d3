"""Pods that require data, through the real API: they wait for reports, and are woken by them."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import CUSTOM_RESOURCE_DEFINITIONS, NODES, POD_GROUPS, PODS
from kubarium.view.locality import (
    CACHED,
    DATA,
    LOCAL_MODEL_CACHES,
    LOCAL_MODEL_NAMESPACE_CACHES,
    LOCAL_MODEL_NODES,
    LOCALITY,
    LOCALITY_RESOURCES,
)
from tests.control.scheduling.test_scheduler import (
    begin,
    group,
    node,
    node_of,
    pod,
    scheduled_condition,
)


def definition(resource):
    """A CustomResourceDefinition as KServe's, as far as matters here."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": {
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "kind": resource.kind,
            },
            "versions": [
                {
                    "name": resource.version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": schema},
                    "subresources": {"status": {}},
                }
            ],
        },
    }


def reader(name, data, required=True, **more):
    document = pod(name, **more)
    document["metadata"]["annotations"] = {DATA: data} | (
        {LOCALITY: "required"} if required else {}
    )
    return document


async def with_models(world, *nodes):
    await world.start()
    for resource in LOCALITY_RESOURCES:
        await world.create(CUSTOM_RESOURCE_DEFINITIONS, definition(resource))
    await world.settle(1)
    await begin(world, *nodes)


def report(name, *models, spec=True):
    document = {
        "apiVersion": LOCAL_MODEL_NODES.api_version,
        "kind": LOCAL_MODEL_NODES.kind,
        "metadata": {"name": name},
    }
    listed = [{"modelName": one, "sourceModelUri": f"hf://x/{one}"} for one in models]
    return document | ({"spec": {"localModels": listed}} if spec else {})


async def say(world, name, **states):
    status = {"status": {"modelStatus": states}}
    await world.client.patch(LOCAL_MODEL_NODES, name, status, subresource="status")


def test_a_pod_waits_until_its_model_is_downloaded(world_run):
    async def story(world):
        await with_models(world, node("a"), node("b"))
        await world.create(PODS, reader("p", "model/llama"))
        await world.create(LOCAL_MODEL_NODES, report("b", "llama"))
        for state in ("ModelDownloadPending", "ModelDownloading", "ModelDownloadError"):
            await say(world, "b", llama=state)
            await world.settle(12)
            assert await node_of(world, "p") is None
            message = (await scheduled_condition(world, "p"))["message"]
            assert "2 node(s) didn't have model/llama cached" in message
        await say(world, "b", llama="ModelDownloaded")
        await world.settle(12)
        assert await node_of(world, "p") == "b"

    world_run(story)


def test_a_model_that_is_taken_off_a_node_is_not_believed_though_its_status_stays(world_run):
    async def story(world):
        await with_models(world, node("a"), node("b"))
        await world.create(LOCAL_MODEL_NODES, report("b", "llama"))
        await say(world, "b", llama="ModelDownloaded")
        await world.client.patch(LOCAL_MODEL_NODES, "b", {"spec": {"localModels": []}})
        await world.settle(2)
        await world.create(PODS, reader("p", "model/llama"))
        await world.settle(12)
        assert await node_of(world, "p") is None
        await world.client.patch(LOCAL_MODEL_NODES, "b", report("b", "llama"))
        await world.settle(12)
        assert await node_of(world, "p") == "b"

    world_run(story)


@pytest.mark.parametrize("how", ["annotation", "image"])
def test_whatever_a_node_reports_wakes_who_waits_for_it(world_run, how):
    async def story(world):
        await begin(world, node("a"), node("b"))
        wanted = "dataset/web" if how == "annotation" else "image/app:v1"
        await world.create(PODS, reader("p", wanted))
        await world.settle(12)
        assert await node_of(world, "p") is None
        if how == "annotation":
            change = {"metadata": {"annotations": {CACHED: '{"dataset/web": "1Gi"}'}}}
            await world.client.patch(NODES, "b", change)
        else:
            images = [{"names": ["docker.io/library/app:v1"], "sizeBytes": 5}]
            change = {"status": {"images": images}}
            await world.client.patch(NODES, "b", change, subresource="status")
        await world.settle(12)
        assert await node_of(world, "p") == "b"

    world_run(story)


def test_a_gang_of_which_one_pod_needs_data_waits_as_a_whole(world_run):
    async def story(world):
        await begin(world, node("a", cpu="2"), node("b", cpu="2"))
        await world.create(POD_GROUPS, group("g", 3))
        await world.create(PODS, reader("g-0", "dataset/web", cpu="1", group="g"))
        for i in (1, 2):
            await world.create(PODS, pod(f"g-{i}", cpu="1", group="g"))
        await world.settle(12)
        assert [await node_of(world, f"g-{i}") for i in range(3)] == [None] * 3
        message = (await scheduled_condition(world, "g-1"))["message"]
        assert "didn't have dataset/web cached" in message
        change = {"metadata": {"annotations": {CACHED: '{"dataset/web": "1Gi"}'}}}
        await world.client.patch(NODES, "b", change)
        await world.settle(12)
        assert await node_of(world, "g-0") == "b"
        assert None not in [await node_of(world, f"g-{i}") for i in range(3)]

    world_run(story)


def test_a_namespaces_own_model_is_another_one(world_run):
    async def story(world):
        await with_models(world, node("a"), node("b"))
        for resource, namespace in (
            (LOCAL_MODEL_CACHES, ""),
            (LOCAL_MODEL_NAMESPACE_CACHES, "default"),
        ):
            cache = {
                "apiVersion": resource.api_version,
                "kind": resource.kind,
                "metadata": {"name": "llama"},
                "spec": {"modelSize": "14Gi", "nodeGroups": ["g"]},
            }
            await world.create(resource, cache, namespace)
        own = report("b")
        own["spec"]["localModels"] = [{"modelName": "llama", "namespace": "default"}]
        await world.create(LOCAL_MODEL_NODES, own)
        await world.create(LOCAL_MODEL_NODES, report("a", "llama"))
        await say(world, "b", **{"default/llama": "ModelDownloaded"})
        await say(world, "a", llama="ModelDownloaded")
        await world.settle(2)
        await world.create(PODS, reader("own", "model/default/llama"))
        await world.create(PODS, reader("common", "model/llama"))
        await world.settle(5)
        assert [await node_of(world, name) for name in ("own", "common")] == ["b", "a"]

    world_run(story)
