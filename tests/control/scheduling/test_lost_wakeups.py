"""A pod that one change made schedulable is decided soon, not by the flush after five minutes."""

from __future__ import annotations

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    POD_GROUPS,
    PODS,
    PRIORITY_CLASSES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.control import scheduling
from kubarium.control.scheduling.reservations import RESERVE_AFTER_S
from kubarium.view.scheduling import read_config
from kubarium.view.volumes import CSI_DRIVERS, CSI_NODES, STORAGE_CLASSES

from .test_extensions import _claim, _mounting, _volume, wait_for_all_nodes
from .test_scheduler import (
    claim,
    device_class,
    events,
    node,
    node_of,
    pod,
    report,
    scheduled_condition,
    slices,
)
from .test_wakeups import start

ZONE = "topology.kubernetes.io/zone"
HOSTNAME = "kubernetes.io/hostname"
# Longer than the longest back-off, far shorter than the flush.
SOON_S = 15.0


def labelled(document, **labels):
    document["metadata"]["labels"] = labels
    return document


def zoned(name, zone, cpu="4", **spec):
    document = node(name, cpu=cpu, labels={ZONE: zone})
    document["spec"].update(spec)
    return document


def on(name, where, app="x", cpu="1", **spec):
    return labelled(pod(name, cpu=cpu, nodeSelector={HOSTNAME: where}, **spec), app=app)


def spread(name, cpu="1", **constraint):
    hard = {
        "topologyKey": ZONE,
        "maxSkew": 1,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "x"}},
        **constraint,
    }
    return labelled(pod(name, cpu=cpu, topologySpreadConstraints=[hard]), app="x")


def term(key=ZONE, app="x"):
    return {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}


def near(*terms):
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}}


def away(*terms):
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": list(terms)}}


async def waits(world, name="p"):
    await world.settle(30)
    assert await node_of(world, name) is None


async def placed_soon(world, name="p"):
    await world.settle(SOON_S)
    return await node_of(world, name)


def vanish(world, resource, name, namespace=""):
    return world.client.delete(resource, name, namespace, grace_period_s=0)


# Nodes that go


def test_a_domain_that_goes_no_longer_holds_others_back(world_run):
    """The fullest domain may get one more pod once the emptiest, which had no room, is gone."""

    async def story(world):
        await start(world, zoned("a", "z1"), zoned("b", "z2", cpu="100m"))
        await world.create(PODS, on("x", "a"))
        await world.settle()
        await world.create(PODS, spread("p"))
        await waits(world)
        await vanish(world, NODES, "b")
        assert await placed_soon(world) == "a"

    world_run(story)


def test_a_node_that_goes_takes_those_along_whom_others_avoid(world_run):
    async def story(world):
        await start(world, zoned("a", "z1"), zoned("b", "z1"))
        await world.create(PODS, on("x", "a"))
        await world.settle()
        await world.create(PODS, pod("p", affinity=away(term())))
        await waits(world)
        await vanish(world, NODES, "a")
        assert await placed_soon(world) == "b"

    world_run(story)


def test_a_node_of_the_same_name_that_comes_anew_is_a_new_node(world_run):
    async def story(world):
        await start(world, node("a", taints=[{"key": "k", "effect": "NoSchedule"}]))
        await world.create(PODS, pod("p"))
        await waits(world)
        await vanish(world, NODES, "a")
        await world.create(NODES, node("a"))
        assert await placed_soon(world) == "a"

    world_run(story)


# Pods that go, or begin to


def test_the_first_of_its_kind_may_go_anywhere_once_the_others_are_gone(world_run):
    """Who wants to be near its like follows them; when none are left, it may be the first."""

    async def story(world):
        await start(world, zoned("a", "z1"), zoned("b", "z2"))
        await world.create(PODS, on("x", "a"))
        await world.settle()
        await world.client.patch(NODES, "a", {"spec": {"unschedulable": True}})
        await world.create(PODS, labelled(pod("p", affinity=near(term())), app="x"))
        await waits(world)
        await vanish(world, PODS, "x", "default")
        assert await placed_soon(world) == "b"

    world_run(story)


def test_spread_looks_past_a_pod_from_when_it_is_told_to_go(world_run):
    async def story(world):
        await start(world, zoned("a", "z1"), zoned("b", "z2", cpu="100m"))
        await world.create(PODS, on("x", "a"))
        await world.settle()
        await world.create(PODS, spread("p"))
        await waits(world)
        await world.client.delete(PODS, "x", "default")  # its node takes its time
        assert "deletionTimestamp" in (await world.get(PODS, "x"))["metadata"]
        assert await placed_soon(world) == "a"

    world_run(story)


async def _urgent(world):
    await world.create(
        PRIORITY_CLASSES,
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "urgent"},
            "value": 1000,
        },
    )


def test_room_that_was_promised_is_free_when_the_preemptor_is_deleted(world_run):
    async def story(world):
        await start(world, node("a", cpu="4"))
        await _urgent(world)
        await world.create(PODS, pod("low", cpu="2"))
        await world.settle()
        await world.create(PODS, pod("urgent", cpu="4", priorityClassName="urgent"))
        await world.settle()
        assert (await world.get(PODS, "urgent"))["status"]["nominatedNodeName"] == "a"
        await world.create(PODS, pod("p", cpu="2"))
        await waits(world)
        await vanish(world, PODS, "urgent", "default")
        assert await placed_soon(world) == "a"

    world_run(story)


def test_room_that_was_promised_is_free_when_the_preemptor_goes_elsewhere(world_run):
    async def story(world):
        await start(world, node("a", cpu="4"))
        await _urgent(world)
        await world.create(PODS, pod("low", cpu="2"))
        await world.settle()
        await world.create(PODS, pod("urgent", cpu="4", priorityClassName="urgent"))
        await world.settle()
        await world.create(PODS, pod("p", cpu="2"))
        await waits(world)
        await world.create(NODES, node("b", cpu="4", taints=[{"key": "k", "effect": "NoSchedule"}]))
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": "urgent", "namespace": "default"},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "b"},
        }
        await world.client.create(PODS, binding, "default", name="urgent", subresource="binding")
        assert await placed_soon(world) == "a"

    world_run(story)


def test_what_was_kept_for_a_gang_is_free_when_the_gang_is_deleted(world_run):
    async def story(world):
        await wait_for_all_nodes(world, 2)
        await world.settle(RESERVE_AFTER_S)
        await world.create(NODES, node("tiny", cpu="100m"))
        await world.settle(15)
        assert await events(world, "Reserved")
        await world.create(PODS, pod("p", restartPolicy="Never"))
        await world.set_phase(await world.get(PODS, "job-0"), "Succeeded")
        await waits(world)
        for i in range(2):
            await vanish(world, PODS, f"large-{i}", "default")
        await vanish(world, POD_GROUPS, "large", "default")
        assert await placed_soon(world)

    world_run(story)


async def _waits_for_a_provisioner(world):
    remote = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "remote"},
        "provisioner": "csi.example.com",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    await world.create(STORAGE_CLASSES, remote)
    await start(world, node("a", cpu="2"))
    await world.create(PERSISTENT_VOLUME_CLAIMS, _claim("data", "remote"))
    first = _mounting("first", "data")
    first["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "2"
    await world.create(PODS, first)
    await world.settle()
    await world.create(PODS, pod("p", cpu="2"))
    await waits(world)


def test_room_is_free_when_a_pod_goes_whose_binding_waited_for_its_volume(world_run):
    async def story(world):
        await _waits_for_a_provisioner(world)
        await vanish(world, PODS, "first", "default")
        assert await placed_soon(world) == "a"

    world_run(story)


def test_room_is_free_when_a_binding_comes_to_nothing(world_run):
    """The claim whose volume the pod waited for is deleted."""

    async def story(world):
        await _waits_for_a_provisioner(world)
        await world.client.delete(PERSISTENT_VOLUME_CLAIMS, "data", "default", grace_period_s=0)
        await world.settle(30)
        assert await node_of(world, "p") == "a"
        assert await node_of(world, "first") is None

    world_run(story)


# Devices


async def _gpu(world, *documents):
    await world.create(DEVICE_CLASSES, device_class())
    for document in documents:
        await world.create(RESOURCE_SLICES, document)
    await world.create(RESOURCE_CLAIMS, claim("gpu"))


def test_a_claim_that_somebody_else_allocated_lets_its_pod_go(world_run):
    async def story(world):
        await start(world, node("a"))
        await _gpu(world)
        await world.create(PODS, pod("p", claims=["gpu"]))
        await waits(world)
        result = {"request": "gpu", "driver": "other.example.com", "pool": "x", "device": "d"}
        status = {"allocation": {"devices": {"results": [result]}}}
        await world.client.patch(
            RESOURCE_CLAIMS, "gpu", {"status": status}, "default", subresource="status"
        )
        assert await placed_soon(world) == "a"

    world_run(story)


def test_a_selector_that_fails_is_asked_again_once_the_device_is_taken(world_run):
    """Upstream too tries again after an error, whatever happens: here the second device will do."""

    async def story(world):
        config = {"deviceSelection": {"strategy": "FirstFit"}}
        args = {"pluginConfig": [{"name": "DynamicResources", "args": config}]}
        await world.create(NODES, node("a"))
        await world.start(*scheduling.components(world.context, read_config({"profiles": [args]})))
        two = slices("a", 2)
        two["spec"]["devices"][1]["attributes"] = {"model": {"string": "x"}}
        await _gpu(world, two)
        failing = claim("picky")
        expression = 'device.attributes["gpu.example.com"].model == "x"'
        wanted = failing["spec"]["devices"]["requests"][0]["exactly"]
        wanted["selectors"] = [{"cel": {"expression": expression}}]
        await world.create(RESOURCE_CLAIMS, failing)
        await world.create(PODS, pod("p", claims=["picky"]))
        await waits(world)
        await world.create(PODS, pod("first", claims=["gpu"]))
        assert await placed_soon(world, "first") == "a"
        assert await placed_soon(world) == "a"

    world_run(story)


def test_a_shared_claim_whose_device_recovers_lets_the_next_pod_go(world_run):
    """KEP-5007: it was available nowhere while its driver said that it had failed."""

    async def story(world):
        await start(world, node("a"))
        slow = slices("a", 1)
        slow["spec"]["devices"][0] |= {
            "bindingConditions": ["Ready"],
            "bindingFailureConditions": ["Broken"],
        }
        await _gpu(world, slow)
        await world.create(PODS, pod("first", claims=["gpu"]))
        await world.settle(10)
        await report(world, "gpu", "Ready")
        await world.settle(10)
        assert await node_of(world, "first") == "a"
        await report(world, "gpu", "Broken")
        await world.create(PODS, pod("p", claims=["gpu"]))
        await waits(world)
        await report(world, "gpu", "Ready")
        assert await placed_soon(world) == "a"

    world_run(story)


def test_a_slice_that_goes_may_make_its_pool_whole(world_run):
    async def story(world):
        await start(world, node("a"))
        double = slices("a", 1)
        double["metadata"]["name"] = "double"
        for one in (first := slices("a", 1), double):
            one["spec"]["pool"]["resourceSliceCount"] = 2
        first["spec"]["pool"]["resourceSliceCount"] = 1
        await _gpu(world, first, double)
        await world.create(PODS, pod("p", claims=["gpu"]))
        await waits(world)
        await vanish(world, RESOURCE_SLICES, "double")
        assert await placed_soon(world) == "a"

    world_run(story)


def test_devices_answer_once_the_node_has_none_of_the_resource_itself(world_run):
    """DRA stands in for an extended resource where no device plugin offers it."""

    async def story(world):
        own = node("a")
        own["status"]["allocatable"]["example.com/gpu"] = "1"
        await start(world, own)
        stands_in = device_class()
        stands_in["spec"]["extendedResourceName"] = "example.com/gpu"
        await world.create(DEVICE_CLASSES, stands_in)
        await world.create(RESOURCE_SLICES, slices("a", 2))
        wanting = pod("p")
        amounts = {"example.com/gpu": "2"}
        wanting["spec"]["containers"][0]["resources"] = {"requests": amounts, "limits": amounts}
        await world.create(PODS, wanting)
        await waits(world)
        gone = {"status": {"allocatable": {"example.com/gpu": "0"}}}
        await world.client.patch(NODES, "a", gone, subresource="status")
        assert await placed_soon(world) == "a"

    world_run(story)


def test_a_class_that_goes_leaves_its_resource_to_an_older_one(world_run):
    async def story(world):
        await start(world, node("a"))
        for name, expression in (("good", "true"), ("bad", 'device.driver == "none"')):
            named = device_class(name, expression)
            named["spec"]["extendedResourceName"] = "example.com/gpu"
            await world.create(DEVICE_CLASSES, named)
            await world.settle(2)
        await world.create(RESOURCE_SLICES, slices("a", 1))
        wanting = pod("p")
        amounts = {"example.com/gpu": "1"}
        wanting["spec"]["containers"][0]["resources"] = {"requests": amounts, "limits": amounts}
        await world.create(PODS, wanting)
        await waits(world)
        await vanish(world, DEVICE_CLASSES, "bad")
        assert await placed_soon(world) == "a"

    world_run(story)


# Volumes


def _owner(provisioner="kubernetes.io/no-provisioner"):
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "local"},
        "provisioner": provisioner,
        "volumeBindingMode": "WaitForFirstConsumer",
    }


async def _a_pod_waits_for_its_volume(world):
    await world.create(PERSISTENT_VOLUME_CLAIMS, _claim("data", "local"))
    await world.create(PODS, _mounting("p", "data"))
    await waits(world)


async def _node_of_its_volume(world):
    """Where the volume is to be made."""
    claim = await world.get(PERSISTENT_VOLUME_CLAIMS, "data")
    notes = claim["metadata"].get("annotations") or {}
    return notes.get("volume.kubernetes.io/selected-node")


async def _phase(world, name, phase):
    change = {"status": {"phase": phase}}
    await world.client.patch(PERSISTENT_VOLUMES, name, change, subresource="status")


def test_a_volume_that_is_made_available_again_is_taken(world_run):
    async def story(world):
        await start(world, node("a"))
        await world.create(STORAGE_CLASSES, _owner())
        await world.create(PERSISTENT_VOLUMES, _volume("v", "a"))
        await _phase(world, "v", "Released")
        await _a_pod_waits_for_its_volume(world)
        await _phase(world, "v", "Available")
        assert await placed_soon(world) == "a"

    world_run(story)


def test_a_driver_that_no_longer_speaks_of_its_space_keeps_nobody_off(world_run):
    async def story(world):
        await start(world, node("a"))
        await world.create(STORAGE_CLASSES, _owner("csi.example.com"))
        driver = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIDriver",
            "metadata": {"name": "csi.example.com"},
            "spec": {"storageCapacity": True},
        }
        await world.create(CSI_DRIVERS, driver)
        await _a_pod_waits_for_its_volume(world)
        await vanish(world, CSI_DRIVERS, "csi.example.com")
        await world.settle(SOON_S)
        assert await _node_of_its_volume(world) == "a"

    world_run(story)


def test_a_node_whose_driver_names_no_limit_any_more_takes_more_volumes(world_run):
    async def story(world):
        await start(world, node("a"))
        await world.create(STORAGE_CLASSES, _owner("csi.example.com"))
        limits = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": {"name": "a"},
            "spec": {
                "drivers": [{"name": "csi.example.com", "nodeID": "a", "allocatable": {"count": 0}}]
            },
        }
        await world.create(CSI_NODES, limits)
        await _a_pod_waits_for_its_volume(world)
        await vanish(world, CSI_NODES, "a")
        await world.settle(SOON_S)
        assert await _node_of_its_volume(world) == "a"

    world_run(story)


def test_a_pod_goes_to_a_node_that_gets_the_driver_it_must_have(world_run):
    async def story(world):
        await start(world, node("a"))
        await world.create(STORAGE_CLASSES, _owner("csi.example.com"))
        driver = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSIDriver",
            "metadata": {"name": "csi.example.com"},
            "spec": {"preventPodSchedulingIfMissing": True},
        }
        await world.create(CSI_DRIVERS, driver)
        await _a_pod_waits_for_its_volume(world)
        told = (await scheduled_condition(world, "p"))["message"]
        assert "1 csi.example.com CSI driver is not installed on the node" in told
        have = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "CSINode",
            "metadata": {"name": "a"},
            "spec": {"drivers": [{"name": "csi.example.com", "nodeID": "a"}]},
        }
        await world.create(CSI_NODES, have)
        await world.settle(SOON_S)
        assert await _node_of_its_volume(world) == "a"

    world_run(story)


# What evictions alone could not mend


async def _full_of_lesser_pods(world):
    await start(world, node("a", cpu="2"))
    await _urgent(world)
    await world.create(PODS, pod("lesser", cpu="1"))
    assert await placed_soon(world, "lesser") == "a"


async def _lesser_pod_goes(world):
    await world.settle(SOON_S)
    assert "deletionTimestamp" in (await world.get(PODS, "lesser"))["metadata"]
    await vanish(world, PODS, "lesser", "default")
    assert await placed_soon(world) == "a"


def test_a_volume_that_comes_lets_its_pod_evict_others(world_run):
    async def story(world):
        await _full_of_lesser_pods(world)
        await world.create(STORAGE_CLASSES, _owner())
        await world.create(PERSISTENT_VOLUME_CLAIMS, _claim("data", "local"))
        urgent = _mounting("p", "data")
        urgent["spec"] |= pod("p", cpu="2", priorityClassName="urgent")["spec"]
        await world.create(PODS, urgent)
        await waits(world)
        await world.create(PERSISTENT_VOLUMES, _volume("v", "a"))
        await _phase(world, "v", "Available")
        await _lesser_pod_goes(world)

    world_run(story)


def test_a_slice_that_comes_lets_a_pod_evict_others(world_run):
    async def story(world):
        await _full_of_lesser_pods(world)
        await world.create(DEVICE_CLASSES, device_class())
        await world.create(RESOURCE_CLAIMS, claim("one"))
        await world.create(PODS, pod("p", cpu="2", claims=["one"], priorityClassName="urgent"))
        await waits(world)
        await world.create(RESOURCE_SLICES, slices("a", 1))
        await _lesser_pod_goes(world)

    world_run(story)
