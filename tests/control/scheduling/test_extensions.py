"""Profiles, volumes, budgets, coscheduling groups and reservations, on virtual time."""

from __future__ import annotations

from kubarium.api.kinds import (
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    POD_DISRUPTION_BUDGETS,
    POD_GROUPS,
    PODS,
    PRIORITY_CLASSES,
    SERVICES,
)
from kubarium.client.gather import gather
from kubarium.control.scheduling import components
from kubarium.control.scheduling.reservations import RESERVE_AFTER_S
from kubarium.engine.placement.profile import MOST_ALLOCATED, Profile, Strategy, Weights
from kubarium.view.gangs import COSCHEDULING_GROUPS
from kubarium.view.scheduling import SchedulerConfig
from kubarium.view.volumes import STORAGE_CLASSES
from kubarium.view.why import RESOURCES_NEEDED, explain

from .test_scheduler import (
    begin,
    events,
    group,
    node,
    node_of,
    pod,
    scheduled_condition,
)


def test_each_pod_is_placed_by_the_profile_that_it_names(world_run):
    packing = Profile(
        "packing",
        weights=Weights(NodeResourcesBalancedAllocation=0),
        strategy=Strategy(MOST_ALLOCATED),
    )

    async def story(world):
        for name in ("a", "b"):
            await world.create(NODES, node(name, cpu="8"))
        await world.start(*components(world.context, SchedulerConfig((Profile(), packing))))
        await world.create(PODS, pod("first"))
        await world.settle()
        first = await node_of(world, "first")
        await world.create(PODS, pod("beside", scheduler="packing"))
        await world.create(PODS, pod("apart"))
        await world.create(PODS, pod("nobody", scheduler="elsewhere"))
        await world.settle()
        assert await node_of(world, "beside") == first
        assert await node_of(world, "apart") != first
        assert await node_of(world, "nobody") is None

    world_run(story)


def _claim(name, class_name):
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": class_name,
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "5Gi"}},
        },
    }


def _volume(name, host, size="10Gi"):
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "local",
            "local": {"path": "/data"},
            "nodeAffinity": {
                "required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
            },
        },
    }


async def _available(world, volume):
    """A volume that the controller has seen."""
    await world.create(PERSISTENT_VOLUMES, volume)
    status, name = {"status": {"phase": "Available"}}, volume["metadata"]["name"]
    await world.client.patch(PERSISTENT_VOLUMES, name, status, subresource="status")


def _mounting(name, claim):
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": claim}}
    return pod(name, volumes=[volume])


def test_a_claim_that_waits_is_bound_where_its_pod_goes(world_run):
    async def story(world):
        owner = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "local"},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
        await world.create(STORAGE_CLASSES, owner)
        await _available(world, _volume("on-b", "b"))
        await begin(world, node("a", cpu="8"), node("b", cpu="2"))
        await world.create(PERSISTENT_VOLUME_CLAIMS, _claim("data", "local"))
        await world.create(PODS, _mounting("user", "data"))
        await world.settle()
        assert await node_of(world, "user") == "b"
        claim = await world.get(PERSISTENT_VOLUME_CLAIMS, "data")
        assert claim["spec"]["volumeName"] == "on-b"
        assert claim["status"]["phase"] == "Bound"
        volume = await world.get(PERSISTENT_VOLUMES, "on-b")
        assert volume["spec"]["claimRef"]["name"] == "data"
        # As upstream's volume controller leaves them: nothing was made for a node.
        ours = "pv.kubernetes.io/bound-by-controller"
        assert volume["metadata"]["annotations"] == {ours: "yes"}
        notes = {ours: "yes", "pv.kubernetes.io/bind-completed": "yes"}
        assert claim["metadata"]["annotations"] == notes
        await world.create(PERSISTENT_VOLUME_CLAIMS, _claim("more", "local"))
        await world.create(PODS, _mounting("late", "more"))
        await world.settle()
        message = (await scheduled_condition(world, "late"))["message"]
        assert "2 node(s) didn't find available persistent volumes to bind" in message
        await _available(world, _volume("on-a", "a"))
        await world.settle(15)
        assert await node_of(world, "late") == "a"

    world_run(story)


def test_a_volume_that_was_set_aside_is_not_said_to_be_bound_by_a_controller(world_run):
    async def story(world):
        await world.create(STORAGE_CLASSES, _class_of_volumes())
        aside = _volume("aside", "a")
        aside["spec"]["claimRef"] = {"namespace": "default", "name": "data"}
        await _available(world, aside)
        await _available(world, _volume("free", "b", size="6Gi"))
        await begin(world, node("a", cpu="2"), node("b", cpu="8"))
        made = await world.create(PERSISTENT_VOLUME_CLAIMS, _claim("data", "local"))
        await world.create(PODS, _mounting("user", "data"))
        await world.settle()
        assert await node_of(world, "user") == "a"
        volume = await world.get(PERSISTENT_VOLUMES, "aside")
        assert volume["spec"]["claimRef"]["uid"] == made["metadata"]["uid"]
        assert not volume["metadata"].get("annotations")

    world_run(story)


def _class_of_volumes():
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "local"},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def test_a_pod_waits_for_its_claim_to_appear(world_run):
    async def story(world):
        await begin(world, node("a"))
        await world.create(PODS, _mounting("user", "data"))
        await world.settle()
        message = (await scheduled_condition(world, "user"))["message"]
        assert 'persistentvolumeclaim "data" not found' in message
        await world.create(PERSISTENT_VOLUME_CLAIMS, _claim("data", ""))
        await world.settle(15)
        message = (await scheduled_condition(world, "user"))["message"]
        assert "pod has unbound immediate PersistentVolumeClaims" in message
        await world.create(PERSISTENT_VOLUMES, _volume("on-a", "a"))
        notes = {"pv.kubernetes.io/bind-completed": "yes"}
        bound = {"spec": {"volumeName": "on-a"}, "metadata": {"annotations": notes}}
        await world.client.patch(PERSISTENT_VOLUME_CLAIMS, "data", bound, "default")
        await world.settle(15)
        assert await node_of(world, "user") == "a"

    world_run(story)


def test_an_ephemeral_volume_takes_no_claim_that_was_made_for_others(world_run):
    """Else a pod of the right name would read what another has written."""

    async def story(world):
        owner = {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "local"},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        }
        await world.create(STORAGE_CLASSES, owner)
        await _available(world, _volume("v", "a"))
        await begin(world, node("a"))
        await world.create(PERSISTENT_VOLUME_CLAIMS, _claim("p-scratch", "local"))
        template = {"spec": _claim("", "local")["spec"]}
        scratch = {"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}
        made = await world.create(PODS, pod("p", volumes=[scratch]))
        await world.settle(15)
        told = (await scheduled_condition(world, "p"))["message"]
        words = "PVC default/p-scratch was not created for pod default/p (pod is not owner)"
        assert words in told
        reference = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": "p",
            "uid": made["metadata"]["uid"],
            "controller": True,
        }
        change = {"metadata": {"ownerReferences": [reference]}}
        await world.client.patch(PERSISTENT_VOLUME_CLAIMS, "p-scratch", change, "default")
        await world.settle(15)
        assert await node_of(world, "p") == "a"

    world_run(story)


def test_preemption_spares_what_a_budget_guards(world_run):
    async def story(world):
        high = {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": "high"},
            "value": 1000,
        }
        await world.create(PRIORITY_CLASSES, high)
        budget = {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "db"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "db"}}},
        }
        await begin(world, node("a", cpu="2"), node("b", cpu="2"))
        await world.create(POD_DISRUPTION_BUDGETS, budget)
        for name in ("db", "web"):
            document = pod(name, cpu="2")
            document["metadata"]["labels"] = {"app": name}
            await world.create(PODS, document)
            await world.settle()
        await world.create(PODS, pod("urgent", cpu="2", priorityClassName="high"))
        await world.settle(15)
        names = await world.names(PODS)
        left = [n for n in names if n in ("db", "web") and (await _alive(world, n))]
        assert left == ["db"]

    world_run(story)


async def _alive(world, name):
    return "deletionTimestamp" not in (await world.get(PODS, name))["metadata"]


def test_a_coscheduling_group_starts_with_its_minimum_or_not_at_all(world_run):
    """scheduler-plugins' own demonstration: six pods, room for three."""

    async def story(world):
        await world.install("scheduling.x-k8s.io")
        await begin(world, *(node(f"n{i}", cpu="1") for i in range(3)))
        for name, minimum in (("whole", 4), ("part", 3)):
            await world.create(
                COSCHEDULING_GROUPS,
                {
                    "apiVersion": "scheduling.x-k8s.io/v1alpha1",
                    "kind": "PodGroup",
                    "metadata": {"name": name},
                    "spec": {"minMember": minimum},
                },
            )
            for i in range(6):
                document = pod(f"{name}-{i}")
                document["metadata"]["labels"] = {"scheduling.x-k8s.io/pod-group": name}
                await world.create(PODS, document)
            await world.settle(12)
            placed = [await node_of(world, f"{name}-{i}") for i in range(6)]
            assert sum(bool(n) for n in placed) == (3 if name == "part" else 0)
        assert (await world.get(COSCHEDULING_GROUPS, "part"))["status"]["phase"] == "Scheduling"
        assert (await world.get(COSCHEDULING_GROUPS, "whole"))["status"]["phase"] == "Pending"

    world_run(story)


async def wait_for_all_nodes(world, count):
    """Nodes of one job each, and a gang that needs them all."""
    await begin(world, *(node(f"n{i}", cpu="1") for i in range(count)))
    for i in range(count):
        await world.create(PODS, pod(f"job-{i}", restartPolicy="Never"))
    await world.settle()
    await world.create(POD_GROUPS, group("large", count))
    for i in range(count):
        await world.create(PODS, pod(f"large-{i}", group="large", restartPolicy="Never"))
    await world.settle(5)


def test_a_large_gang_is_not_starved_by_small_pods(world_run):
    """Four nodes of one job each; small pods arrive whenever one ends, and the gang needs all."""

    async def story(world):
        await wait_for_all_nodes(world, 4)
        await world.settle(RESERVE_AFTER_S)
        assert await events(world, "Reserved")
        for i in range(4):
            await world.create(PODS, pod(f"small-{i}", restartPolicy="Never"))
            await world.set_phase(await world.get(PODS, f"job-{i}"), "Succeeded")
            await world.settle(15)
        assert all([await node_of(world, f"large-{i}") for i in range(4)])
        assert not any([await node_of(world, f"small-{i}") for i in range(4)])

    world_run(story)


def test_a_pod_that_is_kept_off_for_a_large_gang_is_told_so(world_run):
    """By the documents alone it fits: what keeps it off is in the scheduler's head."""

    async def story(world):
        await wait_for_all_nodes(world, 2)
        await world.settle(RESERVE_AFTER_S)
        assert await events(world, "Reserved")
        await world.create(PODS, pod("small", restartPolicy="Never"))
        await world.set_phase(await world.get(PODS, "job-0"), "Succeeded")
        await world.settle(15)
        assert await node_of(world, "small") is None
        found = explain(
            await gather(world.client, RESOURCES_NEEDED), await world.get(PODS, "small")
        )
        assert found.summary == (await scheduled_condition(world, "small"))["message"]
        assert (
            "it would fit but for what is kept for podgroup default/large: Reserved room on 2"
            " nodes, which running jobs will leave"
        ) in found.reasons

    world_run(story)


def test_pods_of_a_service_are_spread_by_default(world_run):
    async def story(world):
        # By resources alone all three would go to the large node.
        await begin(world, node("large", cpu="64"), *(node(f"n{i}", cpu="24") for i in range(2)))
        await world.create(
            SERVICES,
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "web"},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
            },
        )
        for i in range(3):
            document = pod(f"web-{i}")
            document["metadata"]["labels"] = {"app": "web"}
            await world.create(PODS, document)
            await world.settle()
        placed = {await node_of(world, f"web-{i}") for i in range(3)}
        assert placed == {"large", "n0", "n1"}

    world_run(story)


def test_a_pod_waits_until_a_node_declares_the_feature_that_it_needs(world_run):
    async def story(world):
        await begin(world, node("a"), node("b"))
        rule = {
            "action": "RestartAllContainers",
            "exitCodes": {"operator": "In", "values": [3]},
        }
        document = pod("needs", restartPolicy="Never")
        document["spec"]["containers"][0] |= {
            "restartPolicy": "Never",
            "restartPolicyRules": [rule],
        }
        await world.create(PODS, document)
        await world.create(PODS, pod("plain"))
        await world.settle(30)
        assert await node_of(world, "needs") is None
        assert await node_of(world, "plain")
        message = (await scheduled_condition(world, "needs"))["message"]
        assert "2 node(s) didn't match Pod's required features" in message
        features = {"status": {"declaredFeatures": ["RestartAllContainersOnContainerExits"]}}
        await world.client.patch(NODES, "b", features, subresource="status")
        await world.settle(12)
        assert await node_of(world, "needs") == "b"

    world_run(story)


async def _gang_with_claims(world, count=2):
    """Pods of one gang, each with a claim that an external provisioner must serve."""
    external = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "remote"},
        "provisioner": "csi.example.com",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    await world.create(STORAGE_CLASSES, external)
    await begin(world, node("a", cpu="2"), node("b", cpu="2"))
    await world.create(POD_GROUPS, group("team", count))
    for i in range(count):
        await world.create(PERSISTENT_VOLUME_CLAIMS, _claim(f"data-{i}", "remote"))
        document = _mounting(f"team-{i}", f"data-{i}")
        document["spec"]["schedulingGroup"] = {"podGroupName": "team"}
        document["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "2"
        await world.create(PODS, document)
    await world.settle(5)


SELECTED = "volume.kubernetes.io/selected-node"


async def _selected(world, name):
    claim = await world.get(PERSISTENT_VOLUME_CLAIMS, name)
    return (claim["metadata"].get("annotations") or {}).get(SELECTED)


async def _provision(world, name):
    """The provisioner's part."""
    await world.create(PERSISTENT_VOLUMES, _volume(f"pv-{name}", await _selected(world, name)))
    notes = {"pv.kubernetes.io/bind-completed": "yes"}
    bound = {"spec": {"volumeName": f"pv-{name}"}, "metadata": {"annotations": notes}}
    await world.client.patch(PERSISTENT_VOLUME_CLAIMS, name, bound, "default")
    await world.client.patch(
        PERSISTENT_VOLUME_CLAIMS,
        name,
        {"status": {"phase": "Bound"}},
        "default",
        subresource="status",
    )
    await world.settle(6)


def test_a_gang_asks_for_all_its_volumes_at_once_and_then_all_of_it_is_bound(world_run):
    async def story(world):
        await _gang_with_claims(world)
        assert {await _selected(world, f"data-{i}") for i in range(2)} == {"a", "b"}
        for i in (1, 0):
            assert [await node_of(world, f"team-{n}") for n in range(2)] == [None, None]
            await _provision(world, f"data-{i}")
        for i in range(2):
            assert await node_of(world, f"team-{i}") == await _selected(world, f"data-{i}")

    world_run(story)


def test_a_gang_of_which_one_gets_no_volume_is_not_started_in_part(world_run):
    async def story(world):
        await _gang_with_claims(world)
        await _provision(world, "data-0")
        no_room = {"metadata": {"annotations": {SELECTED: None}}}  # as a provisioner says it
        await world.client.patch(PERSISTENT_VOLUME_CLAIMS, "data-1", no_room, "default")
        await world.settle(7)
        assert [await node_of(world, f"team-{n}") for n in range(2)] == [None, None]
        await world.settle(30)  # decided again
        assert await _selected(world, "data-1")
        await _provision(world, "data-1")
        assert all([await node_of(world, f"team-{n}") for n in range(2)])
        nodes = {await node_of(world, f"team-{n}") for n in range(2)}
        assert nodes == {"a", "b"}

    world_run(story)


async def _nominated(world, name):
    return ((await world.get(PODS, name)).get("status") or {}).get("nominatedNodeName")


def test_where_a_pod_will_run_is_known_while_its_volume_is_made(world_run):
    """KEP-5278, and that a place that comes to nothing is not kept."""

    async def story(world):
        await _gang_with_claims(world)
        nodes = [await _selected(world, f"data-{i}") for i in range(2)]
        assert [await _nominated(world, f"team-{i}") for i in range(2)] == nodes
        no_room = {"metadata": {"annotations": {SELECTED: None}}}
        await world.client.patch(PERSISTENT_VOLUME_CLAIMS, "data-1", no_room, "default")
        await world.client.patch(PERSISTENT_VOLUME_CLAIMS, "data-0", no_room, "default")
        await world.settle(0.5)
        assert [await _nominated(world, f"team-{i}") for i in range(2)] == [None, None]
        condition = (await world.get(PODS, "team-0"))["status"]["conditions"][0]
        assert (condition["type"], condition["reason"]) == ("PodScheduled", "SchedulerError")
        await world.settle(30)
        for i in range(2):
            await _provision(world, f"data-{i}")
        for i in range(2):
            assert await node_of(world, f"team-{i}")
            assert await _nominated(world, f"team-{i}") is None

    world_run(story)
