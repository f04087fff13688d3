"""Nodes as the API shows them, and logs of pods that are not there to show."""

from __future__ import annotations

import pytest

from kubarium.api.kinds import EVENTS, NODES
from kubarium.api.logs import LogOptions
from kubarium.base.errors import ApiError
from kubarium.node.config import SIMULATED, NodeConfig, NodeSpec
from kubarium.runtime import virtual

from .conftest import world_on

SPEC = NodeSpec(
    "gpu-1",
    capacity={"cpu": "4", "nvidia.com/gpu": "2"},
    labels={"topology.kubernetes.io/zone": "a"},
    taints=({"key": "k", "value": "v", "effect": "NoSchedule"},),
)


def simulated():
    return world_on(virtual.VirtualClock(), NodeConfig((SPEC,), SIMULATED))


def test_a_node_is_announced_as_kubelet_does():
    async def main():
        async with simulated() as world:
            node = await world.client.get(NODES, "gpu-1")
            labels = node["metadata"]["labels"]
            assert labels["kubernetes.io/hostname"] == "gpu-1"
            assert labels["kubernetes.io/os"] == "linux"
            assert labels["topology.kubernetes.io/zone"] == "a"
            status = node["status"]
            assert status["capacity"]["nvidia.com/gpu"] == "2"
            assert status["allocatable"]["cpu"] == "4"
            assert status["allocatable"]["pods"] == "110"
            assert {a["type"] for a in status["addresses"]} == {"InternalIP", "Hostname"}
            conditions = {c["type"]: c for c in status["conditions"]}
            assert conditions["Ready"]["reason"] == "KubeletReady"
            assert conditions["MemoryPressure"]["status"] == "False"
            assert {"key": "k", "value": "v", "effect": "NoSchedule"} in node["spec"]["taints"]

    virtual.run(main())


def test_status_is_refreshed_without_losing_what_others_wrote():
    async def main():
        async with simulated() as world:
            before = await world.client.get(NODES, "gpu-1")
            foreign = {"type": "GpuHealthy", "status": "True", "reason": "Ok", "message": ""}
            conditions = [*before["status"]["conditions"], foreign]
            await world.client.update(
                NODES,
                {**before, "status": {**before["status"], "conditions": conditions}},
                subresource="status",
            )
            await world.context.clock.sleep(310)
            after = await world.client.get(NODES, "gpu-1")
            by_type = {c["type"]: c for c in after["status"]["conditions"]}
            assert by_type["GpuHealthy"]["status"] == "True"
            old = next(c for c in before["status"]["conditions"] if c["type"] == "Ready")
            assert by_type["Ready"]["lastHeartbeatTime"] > old["lastHeartbeatTime"]
            assert by_type["Ready"]["lastTransitionTime"] == old["lastTransitionTime"]

    virtual.run(main())


def test_logs_of_what_is_not_there():
    async def main():
        async with simulated() as world:

            async def read(name, **options):
                pieces = world.agent.logs("default", name, LogOptions(**options))
                return b"".join([piece async for piece in pieces])

            with pytest.raises(ApiError, match='pods "absent" not found'):
                await read("absent")
            entry = {"name": "main", "image": "busybox"}
            await world.pod("two", containers=[entry, {"name": "other", "image": "busybox"}])
            await world.phase("two", "Running")
            with pytest.raises(ApiError, match=r"choose one of: \[main other\]"):
                await read("two")
            assert b"simulated container other" in await read("two", container="other")
            with pytest.raises(ApiError, match='previous terminated container "other"'):
                await read("two", container="other", previous=True)
            await world.pod("early")
            with pytest.raises(ApiError, match=r'"main" in pod "early" is (not avail|waiting)'):
                await read("early")
            await world.pod("elsewhere", nodeName="not-ours")
            with pytest.raises(ApiError, match="does not run on a node of this agent"):
                await read("elsewhere", container="main")

    virtual.run(main())


def test_quiet_pods_make_no_events():
    async def main():
        async with simulated() as world:
            await world.pod("p", "exit 0")
            await world.phase("p", "Succeeded")
            assert (await world.client.list(EVENTS)).items == []

    virtual.run(main())
