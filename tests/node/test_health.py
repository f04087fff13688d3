"""Health of devices: words, events at times, failures by seed, and what follows from them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.kinds import NODES, RESOURCE_SLICES
from kubarium.base.errors import ApiError, ConfigError
from kubarium.node.agent import Agent
from kubarium.node.config import (
    SIMULATED,
    DeviceConfig,
    FailureModel,
    HealthEvent,
    NodeConfig,
    NodeSpec,
)
from kubarium.node.drivers.events import DeviceEvents
from kubarium.node.drivers.health import (
    Health,
    absent_devices,
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
SILENT = NodeConfig((NodeSpec("n1", devices=(DeviceConfig("nvidia", 2),)),), SIMULATED)


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


def test_a_part_is_as_ill_as_its_gpu_unless_it_is_said_to_be_well():
    part = "gpu-1-mig-1g10gb-19-0"

    def found(own, whole):
        health = {part: read_health(own), "gpu-1": read_health(whole)}
        return health_of(part, health).text()

    assert found("xid-31", "gpu-lost") == "gpu-lost:NoSchedule"
    assert found("xid-79", "unmonitored") == "xid-79:NoSchedule"
    assert found("Healthy", "gpu-lost") == "Healthy"
    assert health_of("gpu-1", {part: read_health("gpu-lost")}).state == "Healthy"


def test_what_is_healthy_takes_no_effect():
    with pytest.raises(ConfigError, match="what is Healthy has no taint"):
        read_health("Healthy", "NoSchedule")


KEY = f"kubarium.dev/device-events.{NVIDIA}"


async def annotation(world):
    node = await world.client.get(NODES, "n1")
    return (node["metadata"].get("annotations") or {}).get(KEY)


def test_an_event_outlasts_its_nodes_deletion_and_whoever_removes_it():
    async def main():
        devices = (DeviceConfig("nvidia", 2),)
        events = (event(10, "gpu-1", "xid-79", for_s=3600),)
        config = NodeConfig((NodeSpec("n1", devices=devices),), SIMULATED, health_events=events)
        async with world_on(virtual.VirtualClock(), config) as world:
            await world.context.clock.sleep(20)
            for text in (None, "gpu-0=Unhealthy", "nonsense", "gpu-0=Magic"):
                change = {"metadata": {"annotations": {KEY: text}}}
                await world.client.patch(NODES, "n1", change)
                await world.context.clock.sleep(1)
                assert await annotation(world) == "gpu-1=xid-79:NoSchedule"
                assert await taints(world) == {"gpu-1": "xid=79"}
            await world.client.delete(NODES, "n1")
            await world.context.clock.sleep(700)
            assert await annotation(world) == "gpu-1=xid-79:NoSchedule"
            assert await taints(world) == {"gpu-1": "xid=79"}
            await world.context.clock.sleep(3600)
            assert await annotation(world) is None
            assert await taints(world) == {}

    virtual.run(main())


def test_of_two_that_speak_of_a_device_the_worse_is_heard():
    async def main():
        async with world_on(virtual.VirtualClock(), SILENT) as world:
            notes = DeviceEvents(world.context)
            writing = asyncio.create_task(notes.run())

            async def after(source, **health):
                said = {name.replace("_", "-"): read_health(h) for name, h in health.items()}
                notes.say(source, ("n1", NVIDIA), said)
                await world.context.clock.sleep(1)
                return await annotation(world)

            assert await after("plan", gpu_0="xid-31", gpu_1="gpu-lost") == (
                "gpu-0=xid-31:None,gpu-1=gpu-lost:NoSchedule"
            )
            assert await after("machine", gpu_0="xid-79", gpu_1="unmonitored") == (
                "gpu-0=xid-79:NoSchedule,gpu-1=gpu-lost:NoSchedule"
            )
            assert await after("plan") == "gpu-0=xid-79:NoSchedule,gpu-1=unmonitored:None"
            assert await after("machine") is None
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    virtual.run(main())


def test_what_cannot_be_written_is_tried_again():
    async def main():
        async with world_on(virtual.VirtualClock(), SILENT) as world:
            refused = []

            class Client:
                async def patch(self, *arguments):
                    if len(refused) < 3:
                        refused.append(arguments)
                        raise ApiError(503, "ServiceUnavailable", "not now")
                    return await world.client.patch(*arguments)

            notes = DeviceEvents(replace(world.context, client=Client()))
            writing = asyncio.create_task(notes.run())
            notes.say("plan", ("n1", NVIDIA), {"gpu-0": read_health("xid-79")})
            await world.context.clock.sleep(5)
            assert len(refused) == 3
            assert await annotation(world) == "gpu-0=xid-79:NoSchedule"
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    virtual.run(main())


def test_devices_that_there_are_not_are_said_and_taint_nothing():
    async def main():
        async with world_on(virtual.VirtualClock(), SILENT) as world:
            key = f"kubarium.dev/device-health.{NVIDIA}"

            async def command(text):
                change = {"metadata": {"annotations": {key: text}}}
                await world.client.patch(NODES, "n1", change)
                await world.context.clock.sleep(1)

            await command("gpu-7=xid-79,gpu-0=gpu-lost")
            assert await taints(world) == {"gpu-0": "gpu-lost="}
            assert await world.event("n1", "InvalidDeviceHealth") == (
                f"{NVIDIA} gpu-7: there is no such device; there are gpu-0, gpu-1"
            )
            await command(None)
            told = [
                text for reason, text in await world.events("n1") if reason.startswith("Device")
            ]
            assert told == [
                f"{NVIDIA} gpu-0 is Unhealthy: taint {NVIDIA}/gpu-lost:NoSchedule",
                f"{NVIDIA} gpu-0 is healthy",
            ]

    virtual.run(main())


def test_a_gpu_of_which_only_parts_are_published_may_be_spoken_of():
    names = ["gpu-0-mig-1g5gb-19-6", "gpu-1", "nic-0"]
    health = dict.fromkeys(["gpu-0", "gpu-1", "gpu-2", "nic-1", ""], read_health("gpu-lost"))
    assert absent_devices(names, health) == ["", "gpu-2", "nic-1"]
