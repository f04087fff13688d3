"""Health of devices: words, events at times, failures by seed, and what follows from them."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.kinds import NODES, RESOURCE_SLICES
from kubarium.base.errors import ConfigError
from kubarium.node.agent import Agent
from kubarium.node.config import (
    SIMULATED,
    DeviceConfig,
    FailureModel,
    HealthEvent,
    NodeConfig,
    NodeSpec,
)
from kubarium.node.drivers.health import (
    Health,
    format_health,
    health_of,
    node_health,
    parse_health,
    read_health,
    taint_of,
)
from kubarium.node.drivers.schedule import Failures, hardware_of, health_at
from kubarium.runtime import virtual

from .conftest import world_on

NVIDIA = "gpu.nvidia.com"


def event(at_s, device, health, for_s=None, effect=""):
    return HealthEvent(at_s, "n1", NVIDIA, device, health, effect, for_s)


def test_an_error_of_an_application_leaves_its_gpu_healthy():
    fatal, harmless = read_health("xid-79"), read_health("xid-31")
    assert taint_of(NVIDIA, fatal) == {
        "key": f"{NVIDIA}/xid",
        "value": "79",
        "effect": "NoSchedule",
    }
    assert taint_of(NVIDIA, harmless) == {"key": f"{NVIDIA}/xid", "value": "31", "effect": "None"}
    assert (fatal.state, harmless.state) == ("Unhealthy", "Healthy")
    assert taint_of(NVIDIA, read_health("gpu-lost")) == {
        "key": f"{NVIDIA}/gpu-lost",
        "effect": "NoSchedule",
    }
    assert taint_of(NVIDIA, read_health("unmonitored"))["effect"] == "None"


@pytest.mark.parametrize("word", ["", "sick", "xid-", "xid-x", "xid-99999", "GPU-LOST"])
def test_words_that_mean_nothing_are_refused(word):
    with pytest.raises(ConfigError, match="is no health"):
        read_health(word)


words = st.sampled_from(["Unhealthy", "Unknown", "xid-79", "xid-13", "gpu-lost", "unmonitored"])
effects = st.sampled_from(["", "None", "NoSchedule", "NoExecute"])
names = st.from_regex(r"gpu-[0-9]{1,3}", fullmatch=True)


@given(st.dictionaries(names, st.builds(read_health, words, effects)))
def test_what_is_written_is_read_back(health):
    assert parse_health(format_health(health)) == health


def test_a_command_wins_over_an_event():
    node = {
        "metadata": {
            "annotations": {
                f"kubarium.dev/device-events.{NVIDIA}": "gpu-0=xid-79,gpu-1=gpu-lost",
                f"kubarium.dev/device-health.{NVIDIA}": "gpu-0=Healthy",
            }
        }
    }
    health = node_health(node, NVIDIA)
    assert health["gpu-0"].state == "Healthy"
    assert health["gpu-1"].cause == "gpu-lost"


def test_instances_share_the_fate_of_their_gpu():
    health = {"gpu-1": read_health("xid-79"), "gpu-2-mig-1g10gb-19-0": read_health("xid-63")}
    assert health_of("gpu-1-mig-7g80gb-0-0", health).value == "79"
    assert health_of("gpu-2-mig-1g10gb-19-0", health).value == "63"
    assert health_of("gpu-2", health) == Health("Healthy")
    assert health_of("gpu-11", health) == Health("Healthy")


# Schedules -------------------------------------------------------------------------------------


def test_the_event_that_began_last_counts():
    events = [
        event(10, "gpu-0", "xid-79"),
        event(20, "gpu-0", "gpu-lost", for_s=5),
        event(30, "gpu-0", "Healthy"),
        event(12, "gpu-1", "unmonitored", for_s=2),
    ]
    causes = {
        now: {name: health.cause for name, health in health_at(events, now).items()}
        for now in (9, 10, 13, 14, 20, 25, 30)
    }
    assert causes == {
        9: {},
        10: {"gpu-0": "xid"},
        13: {"gpu-0": "xid", "gpu-1": "unmonitored"},
        14: {"gpu-0": "xid"},
        20: {"gpu-0": "gpu-lost"},
        25: {"gpu-0": "xid"},
        30: {},
    }


def failure_times(model, device="gpu-0", count=400):
    failures = Failures(model, "n1", NVIDIA, device)
    return [failures.next_s() for _ in range(count)]


def test_failures_replay_by_seed_and_differ_between_devices():
    model = FailureModel(3600, 60, seed=7)
    assert failure_times(model) == failure_times(model)
    assert failure_times(model) != failure_times(model, "gpu-1")
    assert failure_times(model) != failure_times(FailureModel(3600, 60, seed=8))


def test_failures_have_the_means_that_were_asked_for():
    times = [0.0, *failure_times(FailureModel(3600, 60, seed=1), count=4000)]
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) >= 0
    assert mean(gaps[::2]) == pytest.approx(3600, rel=0.1)
    assert mean(gaps[1::2]) == pytest.approx(60, rel=0.1)


def test_the_hardware_behind_partitions():
    assert hardware_of(DeviceConfig("nvidia", 2, model="H100", mig=True), "n") == ["gpu-0", "gpu-1"]
    assert hardware_of(DeviceConfig("nic", 2), "n") == ["nic-0", "nic-1"]


async def taints(world):
    (slice_,) = (await world.client.list(RESOURCE_SLICES)).items
    return {
        device["name"]: f"{taint['key'].partition('/')[2]}={taint.get('value', '')}"
        for device in slice_["spec"]["devices"]
        for taint in device.get("taints") or ()
    }


def test_a_schedule_taints_and_heals_at_its_times():
    async def main():
        devices = (DeviceConfig("nvidia", 4, model="H100"),)
        events = (event(60, "gpu-2", "xid-79", for_s=30), event(75, "gpu-1", "gpu-lost"))
        config = NodeConfig((NodeSpec("n1", devices=devices),), SIMULATED, health_events=events)
        async with world_on(virtual.VirtualClock(), config) as world:
            clock = world.context.clock
            start = clock.now()
            seen = {}
            for moment in (59, 61, 76, 91):
                await clock.sleep(start + moment - clock.now())
                seen[moment] = await taints(world)
            assert seen == {
                59: {},
                61: {"gpu-2": "xid=79"},
                76: {"gpu-2": "xid=79", "gpu-1": "gpu-lost="},
                91: {"gpu-1": "gpu-lost="},
            }
            assert await world.event("n1", "DeviceHealthy") == f"{NVIDIA} gpu-2 is healthy"
            assert "gpu-2 is Unhealthy: taint" in await world.event("n1", "DeviceUnhealthy")

    virtual.run(main())


def test_devices_fail_and_recover_by_themselves():
    def history(seed):
        async def main():
            failures = FailureModel(600, 60, "xid-79", seed=seed)
            devices = (DeviceConfig("nvidia", 2, model="H100", failures=failures),)
            config = NodeConfig((NodeSpec("n1", devices=devices),), SIMULATED)
            async with world_on(virtual.VirtualClock(), config) as world:
                seen = []
                for _ in range(600):
                    await world.context.clock.sleep(10)
                    seen.append(tuple(await taints(world)))
                return seen

        return virtual.run(main())

    first = history(1)
    assert first == history(1)
    assert first != history(2)
    assert first[0] == ()
    assert {(), ("gpu-0",), ("gpu-1",)} <= set(first)


def test_events_of_an_earlier_run_are_forgotten():
    async def main():
        config = NodeConfig((NodeSpec("n1", devices=(DeviceConfig("nvidia", 1),)),), SIMULATED)
        key = f"kubarium.dev/device-events.{NVIDIA}"
        async with world_on(virtual.VirtualClock(), config) as world:
            patch = {"metadata": {"annotations": {key: "gpu-0=gpu-lost"}}}
            await world.client.patch(NODES, "n1", patch)
            await world.context.clock.sleep(1)
            assert await taints(world) == {"gpu-0": "gpu-lost="}
            world.task.cancel()
            await asyncio.gather(world.task, return_exceptions=True)
            again = asyncio.create_task(Agent(world.context, config).run())
            await world.context.clock.sleep(1)
            assert await taints(world) == {}
            node = await world.client.get(NODES, "n1")
            assert key not in node["metadata"].get("annotations", {})
            again.cancel()
            await asyncio.gather(again, return_exceptions=True)

    virtual.run(main())
