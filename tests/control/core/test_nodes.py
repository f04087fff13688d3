import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.kinds import LEASES, NODES, PODS
from kubarium.base.clock import rfc3339_micro
from kubarium.control.core import taints
from kubarium.control.core.nodes import LEASE_NAMESPACE, NodeLifecycle
from kubarium.control.core.podgc import PodGarbage


def pod(name, **spec):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "main", "image": "busybox"}], **spec},
    }


async def add_node(world, name="node-0", ready="True"):
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    await world.create(NODES, node)
    await set_ready(world, name, ready)


async def set_ready(world, name, ready):
    now = "2026-01-01T00:00:00Z"
    condition = {
        "type": "Ready",
        "status": ready,
        "reason": "KubeletReady",
        "message": "",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    patch = {"status": {"conditions": [condition]}}
    await world.client.patch(NODES, name, patch, subresource="status")


async def beat(world, name="node-0", duration_s=40):
    spec = {
        "holderIdentity": name,
        "leaseDurationSeconds": duration_s,
        "renewTime": rfc3339_micro(world.clock.now()),
    }
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "namespace": LEASE_NAMESPACE},
        "spec": spec,
    }
    if name in await world.names(LEASES, LEASE_NAMESPACE):
        await world.client.patch(LEASES, name, {"spec": spec}, LEASE_NAMESPACE)
    else:
        await world.create(LEASES, lease, LEASE_NAMESPACE)


async def taints_of(world, name="node-0"):
    node = await world.get(NODES, name)
    return {(taint["key"], taint["effect"]) for taint in node["spec"].get("taints") or ()}


NAMESPACES = ("default", LEASE_NAMESPACE)


def test_a_silent_node_becomes_unknown_and_its_pods_move_after_their_time(world_run, conditions):
    async def story(world):
        await world.start(NodeLifecycle(world.context), namespaces=NAMESPACES)
        await add_node(world)
        default = await world.create(PODS, pod("default"))
        patient = pod(
            "patient",
            tolerations=[{"key": taints.UNREACHABLE, "operator": "Exists", "effect": "NoExecute"}],
        )
        patient = await world.create(PODS, patient)
        for item in (default, patient):
            await world.set_phase(item, "Running")
        for _ in range(10):
            await beat(world)
            await world.settle(10)
        assert conditions(await world.get(NODES, "node-0"))["Ready"][0] == "True"
        await world.settle(40)
        node = await world.get(NODES, "node-0")
        assert conditions(node)["Ready"] == ("Unknown", "NodeStatusUnknown")
        assert conditions(node)["DiskPressure"] == ("Unknown", "NodeStatusNeverUpdated")
        assert await taints_of(world) == {
            (taints.UNREACHABLE, "NoSchedule"),
            (taints.UNREACHABLE, "NoExecute"),
        }
        assert conditions(await world.get(PODS, "default"))["Ready"][0] == "False"
        assert "deletionTimestamp" not in (await world.get(PODS, "default"))["metadata"]
        await world.settle(305)
        going = await world.get(PODS, "default")
        assert "deletionTimestamp" in going["metadata"]
        assert conditions(going)["DisruptionTarget"] == ("True", "DeletionByTaintManager")
        assert "deletionTimestamp" not in (await world.get(PODS, "patient"))["metadata"]
        assert len(await world.events("TaintManagerEviction")) == 1

    world_run(story)


def test_a_taint_that_goes_in_time_is_a_reprieve(world_run):
    """Upstream: taint-eviction-controller."""

    async def story(world):
        await world.start(NodeLifecycle(world.context), namespaces=NAMESPACES)
        await add_node(world)
        heat = {"key": "fire", "operator": "Exists", "effect": "NoExecute"}
        tolerations = [heat | {"tolerationSeconds": 30}]
        await world.create(PODS, pod("patient", nodeName="node-0", tolerations=tolerations))
        await world.settle(2)
        fire = {"key": "fire", "effect": "NoExecute"}
        await world.client.patch(NODES, "node-0", {"spec": {"taints": [fire]}})
        await world.settle(10)
        assert not await world.events("TaintManagerEviction")
        await world.client.patch(NODES, "node-0", {"spec": {"taints": None}})
        await world.settle(40)
        assert "deletionTimestamp" not in (await world.get(PODS, "patient"))["metadata"]
        [told] = await world.events("TaintManagerEviction")
        assert told["message"] == "Cancelling deletion of Pod default/patient"
        assert told["source"]["component"] == "taint-eviction-controller"

    world_run(story)


def test_a_lease_that_promises_rarer_beats_is_believed(world_run, conditions):
    async def story(world):
        await world.start(NodeLifecycle(world.context), namespaces=NAMESPACES)
        await add_node(world)
        await beat(world, duration_s=400)
        await world.settle(390)
        assert conditions(await world.get(NODES, "node-0"))["Ready"][0] == "True"
        await world.settle(30)
        assert conditions(await world.get(NODES, "node-0"))["Ready"][0] == "Unknown"

    world_run(story)


def test_a_node_that_returns_is_cleared(world_run):
    async def story(world):
        await world.start(NodeLifecycle(world.context), namespaces=NAMESPACES)
        await add_node(world)
        await world.settle(60)
        assert await taints_of(world)
        await beat(world)
        patch = {
            "status": {
                "conditions": [
                    {
                        "type": "Ready",
                        "status": "True",
                        "lastHeartbeatTime": "2026-01-01T00:01:00Z",
                        "lastTransitionTime": "2026-01-01T00:01:00Z",
                    }
                ]
            }
        }
        await world.client.patch(NODES, "node-0", patch, subresource="status")
        await world.settle()
        assert await taints_of(world) == set()

    world_run(story)


def test_other_peoples_taints_stay(world_run):
    async def story(world):
        await world.start(NodeLifecycle(world.context), namespaces=NAMESPACES)
        await add_node(world)
        own = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
        await world.client.patch(NODES, "node-0", {"spec": {"taints": [own]}})
        await world.client.patch(NODES, "node-0", {"spec": {"unschedulable": True}})
        await world.settle()
        assert await taints_of(world) == {
            ("gpu", "NoSchedule"),
            (taints.UNSCHEDULABLE, "NoSchedule"),
        }
        await world.client.patch(NODES, "node-0", {"spec": {"unschedulable": False}})
        await world.settle()
        assert await taints_of(world) == {("gpu", "NoSchedule")}

    world_run(story)


def test_a_user_may_evict_with_a_taint(world_run):
    async def story(world):
        await world.start(NodeLifecycle(world.context), namespaces=NAMESPACES)
        await add_node(world)
        created = await world.create(PODS, pod("a"))
        await world.set_phase(created, "Running")
        await world.settle()
        taint = {"key": "maintenance", "effect": "NoExecute"}
        await world.client.patch(NODES, "node-0", {"spec": {"taints": [taint]}})
        await world.settle()
        assert "deletionTimestamp" in (await world.get(PODS, "a"))["metadata"]

    world_run(story)


def test_a_beating_node_causes_no_writes(world_run):
    async def story(world):
        await world.start(NodeLifecycle(world.context), namespaces=NAMESPACES)
        await add_node(world)
        await beat(world)
        await world.settle()
        before = world.server.store.revision
        for _ in range(20):
            await beat(world)
            await world.settle(10)
        assert world.server.store.revision == before + 20

    world_run(story)


def test_pods_of_a_node_that_is_gone_are_removed_after_a_while(world_run):
    async def story(world):
        await world.start(PodGarbage(world.context))
        await add_node(world)
        created = await world.create(PODS, pod("a"))
        await world.set_phase(created, "Running")
        await world.settle()
        await world.client.delete(NODES, "node-0")
        await world.settle(30)
        assert await world.names(PODS) == ["a"]
        await world.settle(15)
        assert await world.names(PODS) == []

    world_run(story)


def test_a_node_that_comes_back_in_time_keeps_its_pods(world_run):
    async def story(world):
        await world.start(PodGarbage(world.context))
        await add_node(world)
        created = await world.create(PODS, pod("a"))
        await world.set_phase(created, "Running")
        await world.settle()
        await world.client.delete(NODES, "node-0")
        await world.settle(30)
        await add_node(world)
        await world.settle(100)
        assert await world.names(PODS) == ["a"]

    world_run(story)


def test_what_a_cut_off_node_cannot_confirm_goes_once_it_is_said_to_be_out_of_service(world_run):
    """Until then its pods may run on, and stay; a node that is ready ends them by itself."""

    async def story(world):
        await world.start(PodGarbage(world.context))
        await add_node(world)
        for name in ("going", "stays"):
            created = await world.create(PODS, pod(name))
            await world.set_phase(created, "Running")
        await world.client.delete(PODS, "going", "default", grace_period_s=30)
        await world.settle(100)
        taint = {"key": taints.OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}
        await world.client.patch(NODES, "node-0", {"spec": {"taints": [taint]}})
        await world.settle(100)
        assert await world.names(PODS) == ["going", "stays"], "the node is ready"
        await set_ready(world, "node-0", "Unknown")
        await world.settle(1)
        assert await world.names(PODS) == ["stays"]
        await world.client.delete(PODS, "stays", "default", grace_period_s=30)
        await world.settle(1)
        assert await world.names(PODS) == []

    world_run(story)


def test_only_so_many_ended_pods_are_kept(world_run):
    async def story(world):
        await world.start(PodGarbage(world.context, most_terminated=3))
        await add_node(world)
        for number in range(6):
            created = await world.create(PODS, pod(f"p{number}"))
            await world.set_phase(created, "Succeeded")
            await world.settle(1)
        assert await world.names(PODS) == ["p3", "p4", "p5"]

    world_run(story)


def test_tolerations_that_compare_numbers_keep_pods_too():
    taint = {"key": "level", "value": "990", "effect": "NoExecute"}
    above = {"key": "level", "operator": "Gt", "value": "950", "effect": "NoExecute"}
    assert taints.tolerates(above, taint)
    assert not taints.tolerates({**above, "operator": "Lt"}, taint)
    assert not taints.tolerates({**above, "value": "990"}, taint)


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "a", "operator": "Exists"}, True),
        ({"key": "b", "operator": "Exists"}, False),
        ({"key": "a", "value": "x"}, True),
        ({"key": "a", "operator": "Equal", "value": "y"}, False),
        ({"key": "a", "value": "x", "effect": "NoSchedule"}, False),
        ({"key": "a", "value": "x", "effect": "NoExecute"}, True),
        ({}, False),
    ],
)
def test_tolerations(toleration, expected):
    taint = {"key": "a", "value": "x", "effect": "NoExecute"}
    assert taints.tolerates(toleration, taint) is expected


@given(st.lists(st.one_of(st.none(), st.integers(-5, 500)), max_size=4))
def test_the_shortest_toleration_decides(seconds):
    tolerations = [
        {"operator": "Exists", **({} if limit is None else {"tolerationSeconds": limit})}
        for limit in seconds
    ]
    delay_s = taints.eviction_delay_s(
        {"spec": {"tolerations": tolerations}}, [{"key": "a", "effect": "NoExecute"}]
    )
    limits = [max(0, limit) for limit in seconds if limit is not None]
    if not seconds:
        assert delay_s == 0
    else:
        assert delay_s == (min(limits) if limits else None)
