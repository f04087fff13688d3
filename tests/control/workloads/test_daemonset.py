from kubarium.api.kinds import NODES, PODS
from kubarium.control.workloads.daemonset.controller import (
    CONTROLLER_REVISIONS,
    DAEMON_SETS,
    DaemonSetController,
)
from kubarium.control.workloads.daemonset.placement import target_node


def daemon_set(image="v1", pod=None, **spec):
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "template": {
                "metadata": {"labels": {"app": "agent"}},
                "spec": {"containers": [{"name": "main", "image": image}], **(pod or {})},
            },
            **spec,
        },
    }


async def node(world, name, labels=None, taints=()):
    document = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"taints": list(taints)} if taints else {},
    }
    return await world.create(NODES, document)


async def begin(world, count=3, **more):
    for number in range(count):
        await node(world, f"node-{number}")
    await world.start(DaemonSetController(world.context))
    await world.create(DAEMON_SETS, daemon_set(**more))
    await world.settle()


async def bind(world, pod):
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod["metadata"]["name"], "namespace": "default"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": target_node(pod)},
    }
    name = pod["metadata"]["name"]
    await world.client.create(PODS, binding, "default", name=name, subresource="binding")


async def step(world):
    """The scheduler's and the nodes' part, once."""
    await world.finish_deletions()
    for pod in await world.live_pods():
        if not pod["spec"].get("nodeName"):
            await bind(world, pod)
        if pod.get("status", {}).get("phase") != "Running":
            await world.set_phase(pod, "Running")
    await world.settle(1)


async def steps(world, count=8):
    for _ in range(count):
        await step(world)


async def nodes_of(world):
    return sorted(target_node(pod) for pod in await world.live_pods())


async def status(world):
    return (await world.get(DAEMON_SETS, "agent"))["status"]


async def images(world):
    pods = sorted(await world.live_pods(), key=target_node)
    return [pod["spec"]["containers"][0]["image"] for pod in pods]


async def set_image(world, image):
    template = {"spec": {"containers": [{"name": "main", "image": image}]}}
    patch = {"spec": {"template": template}}
    await world.client.patch(DAEMON_SETS, "agent", patch, "default")
    await world.settle(1)


def test_every_node_gets_one_pod_by_affinity_and_new_nodes_too(world_run):
    async def story(world):
        await begin(world)
        assert await nodes_of(world) == ["node-0", "node-1", "node-2"]
        pod = (await world.live_pods())[0]
        assert "nodeName" not in pod["spec"]  # the scheduler is to do it
        keys = {(t["key"], t["effect"]) for t in pod["spec"]["tolerations"]}
        assert ("node.kubernetes.io/unschedulable", "NoSchedule") in keys
        assert ("node.kubernetes.io/not-ready", "NoExecute") in keys
        await step(world)
        found = await status(world)
        assert (found["desiredNumberScheduled"], found["numberReady"]) == (3, 3)
        assert (found["numberAvailable"], found["updatedNumberScheduled"]) == (3, 3)
        assert "numberUnavailable" not in found
        await node(world, "node-3")
        await step(world)
        assert len(await nodes_of(world)) == 4

    world_run(story)


def test_changes_of_the_template_are_counted_on_set_and_pods(world_run):
    note, label = "deprecated.daemonset.template.generation", "pod-template-generation"

    async def story(world):
        await begin(world, 1)
        await steps(world)
        await world.client.patch(DAEMON_SETS, "agent", {"spec": {"minReadySeconds": 1}}, "default")
        found = await world.get(DAEMON_SETS, "agent")
        assert found["metadata"]["annotations"][note] == "1"
        [pod] = await world.live_pods()
        assert pod["metadata"]["labels"][label] == "1"
        forged = {"metadata": {"annotations": {note: "7"}}}
        await world.client.patch(DAEMON_SETS, "agent", forged, "default")
        await set_image(world, "v2")
        await steps(world)
        found = await world.get(DAEMON_SETS, "agent")
        assert found["metadata"]["annotations"][note] == "2"
        [pod] = await world.live_pods()
        assert pod["metadata"]["labels"][label] == "2"

    world_run(story)


def test_selectors_and_taints_choose_nodes_and_no_execute_drives_pods_away(world_run):
    async def story(world):
        await node(world, "gpu-0", {"gpu": "yes"})
        await node(world, "gpu-1", {"gpu": "yes"}, [{"key": "own", "effect": "NoSchedule"}])
        await node(world, "cpu-0")
        await world.start(DaemonSetController(world.context))
        await world.create(DAEMON_SETS, daemon_set(pod={"nodeSelector": {"gpu": "yes"}}))
        await world.settle()
        await step(world)
        assert await nodes_of(world) == ["gpu-0"]
        taint = {"key": "full", "effect": "NoSchedule"}
        await world.client.patch(NODES, "gpu-0", {"spec": {"taints": [taint]}})
        await steps(world, 2)
        assert await nodes_of(world) == ["gpu-0"]  # what is there may stay
        assert (await status(world))["numberMisscheduled"] == 1
        taint = {"key": "full", "effect": "NoExecute"}
        await world.client.patch(NODES, "gpu-0", {"spec": {"taints": [taint]}})
        await steps(world, 2)
        assert await nodes_of(world) == []
        await world.client.patch(NODES, "gpu-0", {"spec": {"taints": None}})
        await steps(world, 2)
        assert await nodes_of(world) == ["gpu-0"]

    world_run(story)


def test_a_rolling_update_never_takes_more_nodes_than_allowed(world_run):
    async def story(world):
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}
        await begin(world, 5, updateStrategy=rolling)
        await step(world)
        await set_image(world, "v2")
        seen = []
        for _ in range(20):
            available = (await status(world)).get("numberAvailable", 0)
            seen.append(available)
            await step(world)
        assert min(seen) == 3
        assert await images(world) == ["v2"] * 5
        assert (await status(world))["updatedNumberScheduled"] == 5
        assert len(await world.find(CONTROLLER_REVISIONS)) == 2

    world_run(story)


def test_surge_starts_the_new_pod_before_the_old_one_goes(world_run):
    async def story(world):
        rolling = {"maxSurge": 1, "maxUnavailable": 0}
        strategy = {"type": "RollingUpdate", "rollingUpdate": rolling}
        await begin(world, 3, updateStrategy=strategy)
        await step(world)
        await set_image(world, "v2")
        assert len(await world.live_pods()) == 4
        for _ in range(12):
            assert (await status(world)).get("numberAvailable", 0) == 3
            assert len(await world.live_pods()) <= 4
            await step(world)
        assert await images(world) == ["v2"] * 3

    world_run(story)


def test_on_delete_waits_for_somebody_to_delete(world_run):
    async def story(world):
        await begin(world, 2, updateStrategy={"type": "OnDelete"})
        await step(world)
        await set_image(world, "v2")
        await steps(world, 3)
        assert await images(world) == ["v1", "v1"]
        first = sorted(await world.live_pods(), key=target_node)[0]
        await world.client.delete(PODS, first["metadata"]["name"], "default")
        await steps(world, 3)
        assert await images(world) == ["v2", "v1"]
        assert (await status(world))["updatedNumberScheduled"] == 1

    world_run(story)


def test_a_failed_pod_is_replaced_after_a_growing_pause(world_run):
    async def story(world):
        await begin(world, 1)
        await step(world)
        gaps, last = [], world.clock.now()
        for _ in range(4):
            pod = (await world.live_pods())[0]
            await world.set_phase(pod, "Failed", exit_code=1)
            begun = world.clock.now()
            while not await world.live_pods():
                await world.finish_deletions()
                await world.settle(0.1)
            gaps.append(world.clock.now() - begun)
            await step(world)
            last = world.clock.now()
        assert last > 0
        assert gaps[3] > gaps[1] > 0
        assert await world.events("FailedDaemonPod")

    world_run(story)


def test_a_pod_for_a_node_that_has_gone_is_deleted(world_run):
    async def story(world):
        await begin(world, 2)
        await world.client.delete(NODES, "node-1")
        await world.settle()
        assert await nodes_of(world) == ["node-0"]
        assert (await status(world))["desiredNumberScheduled"] == 1

    world_run(story)


def test_going_back_to_an_old_template_makes_no_new_revision(world_run):
    async def story(world):
        await begin(world, 1)
        await step(world)
        await set_image(world, "v2")
        await steps(world, 3)
        await set_image(world, "v1")
        await steps(world, 3)
        assert await images(world) == ["v1"]
        revisions = await world.find(CONTROLLER_REVISIONS)
        assert sorted(item["revision"] for item in revisions) == [2, 3]

    world_run(story)


def test_a_pod_on_its_way_out_still_counts_for_its_node(world_run):
    async def story(world):
        await begin(world)
        await step(world)
        await world.client.delete(PODS, (await world.names(PODS))[0], "default")
        await world.settle()
        found = await status(world)
        counts = [found[f] for f in ("currentNumberScheduled", "numberReady", "numberAvailable")]
        assert counts == [3, 3, 3]

    world_run(story)
