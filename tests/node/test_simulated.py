"""Simulated nodes on the virtual clock: durations, ends, devices, determinism, heartbeats."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.kinds import LEASES, NODES, PODS
from kubarium.base.clock import parse_rfc3339
from kubarium.node.agent import Agent
from kubarium.node.config import SIMULATED, NodeConfig, NodeSpec
from kubarium.node.registration import LEASE_NAMESPACE, lease_seconds
from kubarium.node.runtimes.simulated import BadAnnotation, Course, Timers, duration_s
from kubarium.runtime import virtual

from .conftest import world_on


def simulated(nodes=1, **config):
    specs = tuple(NodeSpec(f"node-{n}") for n in range(nodes))
    return world_on(virtual.VirtualClock(), NodeConfig(specs, SIMULATED, **config))


def ended_after(pod):
    state = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    return parse_rfc3339(state["finishedAt"]) - parse_rfc3339(pod["status"]["startTime"])


def test_annotations_say_how_long_a_pod_runs_and_how_it_ends():
    async def main():
        async with simulated() as world:
            for name, annotations in {
                "plain": {},
                "long": {"kubarium.dev/run-duration": "1h30m"},
                "late": {"kubarium.dev/start-delay": "10s", "kubarium.dev/run-duration": "5"},
                "fails": {"kubarium.dev/exit-code": "7"},
                "oom": {"kubarium.dev/oom": "true"},
            }.items():
                await world.pod(name, "work", annotations=annotations)
            for name, seconds, phase in (
                ("plain", 1, "Succeeded"),
                ("long", 5400, "Succeeded"),
                ("late", 15, "Succeeded"),
                ("fails", 1, "Failed"),
                ("oom", 1, "Failed"),
            ):
                pod = await world.phase(name, "Succeeded", "Failed", limit_s=6000)
                assert (name, ended_after(pod)) == (name, seconds)
                assert pod["status"]["phase"] == phase
            state = (await world.get("oom"))["status"]["containerStatuses"][0]["state"]
            assert state["terminated"]["reason"] == "OOMKilled"
            assert state["terminated"]["exitCode"] == 137

    virtual.run(main())


def test_pods_that_restart_always_run_until_deleted():
    async def main():
        async with simulated() as world:
            await world.pod("server", restartPolicy="Always")
            await world.context.clock.sleep(100_000)
            assert (await world.get("server"))["status"]["phase"] == "Running"
            await world.client.delete(PODS, "server", "default")
            await world.gone("server")

    virtual.run(main())


def test_a_bad_annotation_is_shown_on_the_pod():
    async def main():
        async with simulated() as world:
            await world.pod("p", annotations={"kubarium.dev/run-duration": "soon"})
            message = await world.waiting("p", "CreateContainerConfigError")
            assert message == (
                "annotation kubarium.dev/run-duration:"
                " 'soon' is no duration; write it as 30s, 1m30s or 5 (seconds)"
            )
            await world.pod("q", annotations={"kubarium.dev/exit-code": "one"})
            message = await world.waiting("q", "CreateContainerConfigError")
            assert message == (
                "annotation kubarium.dev/exit-code: cannot read 'one': must be from 0 to 255"
            )

    virtual.run(main())


def test_a_pod_costs_two_status_writes():
    async def main():
        async with simulated() as world:
            pod = await world.pod("p", annotations={"kubarium.dev/run-duration": "30s"})
            first = int(pod["metadata"]["resourceVersion"])
            await world.context.clock.sleep(1)
            running = int((await world.get("p"))["metadata"]["resourceVersion"])
            await world.context.clock.sleep(5)
            assert int((await world.get("p"))["metadata"]["resourceVersion"]) == running
            await world.phase("p", "Succeeded", limit_s=60)
            watch = await world.client.watch(PODS, "default", resource_version=str(first))
            changes = await watch.next_batch()
            watch.close()
            assert len(changes) == 2

    virtual.run(main())


def test_simulated_pods_go_on_after_the_agent_was_restarted():
    async def main():
        async with simulated() as world:
            await world.pod("p", annotations={"kubarium.dev/run-duration": "100s"})
            await world.context.clock.sleep(30)
            before = await world.get("p")
            agent = Agent(world.context, world.agent._config)
            world.task.cancel()
            await asyncio.gather(world.task, return_exceptions=True)
            task = asyncio.get_running_loop().create_task(agent.run())
            pod = await world.phase("p", "Succeeded", "Failed", limit_s=200)
            assert (pod["status"]["phase"], ended_after(pod)) == ("Succeeded", 100)
            assert pod["status"]["podIP"] == before["status"]["podIP"]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    virtual.run(main())


def run_once(seed):
    async def main():
        async with simulated(nodes=3) as world:
            for number in range(20):
                name = f"p{number}"
                annotations = {"kubarium.dev/run-duration": f"{number % 7}s"}
                await world.pod(name, annotations=annotations, nodeName=f"node-{number % 3}")
            await world.context.clock.sleep(60)
            items = (await world.client.list(PODS)).items
            return hashlib.sha256(json.dumps(items, sort_keys=True).encode()).hexdigest()

    return virtual.run(main(), seed=seed)


def test_the_same_run_gives_the_same_documents():
    assert run_once(1) == run_once(1)


def test_leases_are_renewed_in_time_and_spread_out():
    async def main():
        async with simulated(nodes=20) as world:
            clock = world.context.clock
            for _ in range(5):
                await clock.sleep(37)
                leases = (await world.client.list(LEASES, LEASE_NAMESPACE)).items
                assert len(leases) == 20
                times = [parse_rfc3339(lease["spec"]["renewTime"]) for lease in leases]
                assert min(times) > clock.now() - 11
                assert len(set(times)) > 5

    virtual.run(main())


def test_a_deleted_node_comes_back():
    async def main():
        async with simulated() as world:
            await world.client.delete(NODES, "node-0")
            await world.context.clock.sleep(400)
            node = await world.client.get(NODES, "node-0")
            assert node["status"]["nodeInfo"]["kubeletVersion"] == "v1.37.0-kubarium"

    virtual.run(main())


def test_thousands_of_nodes_get_longer_leases():
    assert lease_seconds(10) == 40
    assert lease_seconds(5000) == 400


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("1m30s", 90), ("1.5h", 5400), ("250ms", 0.25), ("4", 4)]
)
def test_durations(text, seconds):
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-1", "5 s", "inf", "nan", "1d"])
def test_bad_durations(text):
    with pytest.raises(ValueError, match=r".*"):
        duration_s(text)


@pytest.mark.parametrize("code", ["-1", "256", "x"])
def test_bad_exit_codes(code):
    pod = {"metadata": {"annotations": {"kubarium.dev/exit-code": code}}, "spec": {}}
    with pytest.raises(BadAnnotation, match=r"kubarium\.dev/exit-code"):
        Course.of(pod)


@given(st.lists(st.integers(0, 20), max_size=30))
def test_timers_fire_in_order_of_time_and_asking(delays):
    async def main():
        clock = virtual.VirtualClock()
        timers, fired = Timers(clock), []
        start = clock.now()
        for number, delay in enumerate(delays):
            timers.at(start + delay, lambda entry=(delay, number): fired.append(entry))
        await clock.sleep(30)
        return fired

    assert virtual.run(main()) == sorted((delay, number) for number, delay in enumerate(delays))


def test_simulated_pods_use_what_their_annotations_say():
    async def main():
        async with simulated() as world:
            usage = {"kubarium.dev/cpu-usage": "250m", "kubarium.dev/memory-usage": "1Gi"}
            await world.pod("busy", "sleep 1000", annotations=usage)
            await world.pod("bad", "sleep 1000", annotations={"kubarium.dev/cpu-usage": "much"})
            await asyncio.sleep(5)
            found = {use.name: use.whole for use in await world.agent.usage()}
            assert (found["busy"].cpu_nano, found["busy"].memory) == (250_000_000, 1 << 30)
            assert found["bad"].cpu_nano == 0

    virtual.run(main())
