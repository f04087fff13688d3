"""In-place resize: what is granted, what waits, what restarts, and what the kernel refuses."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

from kubarium.api.kinds import PODS
from kubarium.node.config import NodeSpec
from kubarium.node.lifecycle.events import Resized
from kubarium.node.lifecycle.resize import changed, desired, retry_order, verdict, with_resources
from kubarium.node.resizing import Resizer
from kubarium.node.runner import NodeFacts
from kubarium.runtime.virtual import VirtualClock, run

from .conftest import process_world

SMALL = (NodeSpec("node-1", capacity={"cpu": "4", "memory": "1Gi", "pods": "20"}),)


def resources(memory, cpu="100m"):
    amounts = {"memory": memory, "cpu": cpu}
    return {"limits": amounts, "requests": amounts}


def pod(memory, cpu="100m", **spec):
    container = {"name": "main", "resources": resources(memory, cpu)}
    return {"spec": {"containers": [container], **spec}}


# Pure ----------------------------------------------------------------------------------------


def test_what_the_node_never_has_is_infeasible_and_what_it_lacks_now_deferred():
    node = {"cpu": "2", "memory": "1Gi"}
    assert verdict(pod("512Mi"), {"memory": 0}, node).reason == ""
    assert verdict(pod("2Gi"), {}, node).reason == "Infeasible"
    late = verdict(pod("512Mi"), {"memory": 800 << 20}, node)
    assert late.reason == "Deferred"
    assert "used: 838860800" in late.message


def test_equal_amounts_in_other_words_are_no_change():
    assert changed(resources("1Gi", "1"), resources("1024Mi", "1000m")) == []
    assert changed(resources("1Gi"), resources("2Gi")) == ["memory"]
    assert changed({}, resources("1Gi")) == ["cpu", "memory"]


def test_who_asks_for_no_more_comes_first_then_priority_then_time():
    grows, shrinks = pod("256Mi"), pod("64Mi")
    held = with_resources(grows, desired(pod("128Mi")))
    important = pod("256Mi", priority=100)
    waiting = [
        ("late", retry_order(grows, held, 2.0)),
        ("early", retry_order(grows, held, 1.0)),
        ("important", retry_order(important, held, 3.0)),
        ("shrinks", retry_order(shrinks, held, 4.0)),
    ]
    order = [name for name, key in sorted(waiting, key=lambda entry: entry[1])]
    assert order == ["shrinks", "important", "early", "late"]


@dataclass
class FakeMachine:
    """As much of a pod's machine as the resizer looks at; nothing of it runs."""

    pod: dict
    allocated: dict
    terminating: bool = False
    finished: bool = False

    @property
    def actual(self):
        return self.allocated

    def record(self, name):
        return None


@dataclass
class FakePod:
    machine: FakeMachine
    node: NodeFacts

    def deliver(self, event):
        if isinstance(event, Resized):
            self.machine.allocated = event.allocated


class Allows:
    def resize(self, uid, pod, names):
        """Whatever is asked for."""


def test_room_that_is_being_made_for_an_important_resize_is_not_taken_by_a_lesser_one():
    facts = NodeFacts("n", "10.0.0.1", {"cpu": "8", "memory": "1000Mi"})

    def fake(wanted, has, **spec):
        document = pod(wanted, **spec) | {"metadata": {"generation": 2}}
        return FakePod(FakeMachine(document, desired(pod(has))), facts)

    async def main():
        pods = {
            "high": fake("700Mi", "200Mi", priority=9),
            "low": fake("300Mi", "200Mi", priority=1),
            "first": fake("300Mi", "300Mi"),
            "second": fake("300Mi", "300Mi"),
        }
        pods["first"].machine.terminating = pods["second"].machine.terminating = True
        resizer = Resizer(VirtualClock(), pods, Allows())
        task = asyncio.create_task(resizer.run())

        def granted(name):
            return pods[name].machine.allocated == desired(pods[name].machine.pod)

        for uid in ("low", "high"):
            resizer.look(uid)
        await asyncio.sleep(1)
        pods["first"].machine.finished = True  # 300 MiB are free: enough for low, not for high
        resizer.freed()
        await asyncio.sleep(1)
        assert not granted("high")
        assert not granted("low")
        pods["second"].machine.finished = True
        resizer.freed()
        await asyncio.sleep(1)
        assert granted("high")
        await asyncio.sleep(10)
        assert granted("low")
        task.cancel()

    run(main())


# On real processes ---------------------------------------------------------------------------


async def status_until(world, name, test, what):
    async def question():
        status = (await world.get(name))["status"]
        return status if test(status) else None

    return await world.until(question, what)


def held(status):
    return status["containerStatuses"][0].get("resources", {}).get("limits", {}).get("memory")


def condition(status, kind):
    return next((c for c in status["conditions"] if c["type"] == kind), None)


def test_a_running_container_gets_its_new_limits_without_a_restart():
    async def main():
        async with process_world() as world:
            script = (
                "while sleep 0.05; do cat /sys/fs/cgroup/memory/memory.limit_in_bytes "
                "/sys/fs/cgroup/memory.max 2>/dev/null; done"
            )
            await world.pod("p", script, container={"resources": resources("64Mi")})
            await world.phase("p", "Running")
            await world.resize("p", resources("128Mi"))
            status = await status_until(world, "p", lambda s: held(s) == "128Mi", "resized")
            entry = status["containerStatuses"][0]
            assert entry["restartCount"] == 0
            assert entry["allocatedResources"]["memory"] == "128Mi"
            assert condition(status, "PodResizeInProgress") is None
            await world.event("p", "ResizeCompleted")
            if world.agent.isolation().level != "plain":

                async def seen():
                    return str(128 << 20) in (await world.log("p", tail_lines=2))

                await world.until(seen, "the kernel's limit")

    asyncio.run(main())


def test_the_status_says_what_the_pod_as_a_whole_was_granted():
    async def main():
        async with process_world() as world:
            whole = resources("256Mi", "500m")
            await world.pod("p", container={"resources": resources("64Mi")}, resources=whole)
            await world.phase("p", "Running")
            status = (await world.get("p"))["status"]
            assert status["resources"] == whole
            assert status["allocatedResources"] == whole["requests"]
            more = resources("512Mi", "500m")
            patch = {"spec": {"resources": more}}
            await world.client.patch(PODS, "p", patch, "default", subresource="resize")
            status = await status_until(
                world, "p", lambda s: s.get("resources") == more, "the pod has more"
            )
            assert status["allocatedResources"] == more["requests"]
            assert held(status) == "64Mi"
            assert status["containerStatuses"][0]["restartCount"] == 0

    asyncio.run(main())


def test_a_pod_without_resources_of_its_own_shows_none():
    async def main():
        async with process_world() as world:
            await world.pod("p", container={"resources": resources("64Mi")})
            await world.phase("p", "Running")
            status = (await world.get("p"))["status"]
            assert "resources" not in status
            assert "allocatedResources" not in status

    asyncio.run(main())


def test_a_container_whose_policy_says_so_is_restarted_with_its_new_limits():
    async def main():
        async with process_world() as world:
            policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
            container = {"resources": resources("64Mi"), "resizePolicy": policy}
            trap = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
            await world.pod("p", trap, container=container, restartPolicy="OnFailure")
            await world.phase("p", "Running")
            await world.resize("p", resources("96Mi"))
            status = await status_until(world, "p", lambda s: held(s) == "96Mi", "restarted")
            assert status["containerStatuses"][0]["restartCount"] == 1
            await world.event("p", "ResizeCompleted")
            await world.resize("p", resources("96Mi", "200m"))  # cpu needs none

            def cpu(status):
                limits = status["containerStatuses"][0]["resources"]["limits"]
                return limits["cpu"] == "200m"

            status = await status_until(world, "p", cpu, "cpu")
            assert status["containerStatuses"][0]["restartCount"] == 1

    asyncio.run(main())


def test_what_does_not_fit_waits_until_another_pod_has_gone():
    async def main():
        async with process_world(nodes=SMALL) as world:
            for name in ("first", "second"):
                await world.pod(
                    name,
                    container={"resources": resources("400Mi")},
                    terminationGracePeriodSeconds=0,
                )
                await world.phase(name, "Running")
            await world.resize("first", resources("2Gi"))

            def pending(reason):
                def test(status):
                    found = condition(status, "PodResizePending")
                    return found is not None and found["reason"] == reason

                return test

            await status_until(world, "first", pending("Infeasible"), "infeasible")
            await world.resize("first", resources("800Mi"))
            status = await status_until(world, "first", pending("Deferred"), "deferred")
            assert held(status) == "400Mi"
            found = condition(status, "PodResizePending")
            assert found["observedGeneration"] == 3
            await world.client.delete(PODS, "second", "default")
            status = await status_until(world, "first", lambda s: held(s) == "800Mi", "granted")
            assert condition(status, "PodResizePending") is None

    asyncio.run(main())


def test_memory_in_use_is_not_taken_away():
    program = 'import time; b = bytearray(80 << 20); print("held", flush=True); time.sleep(1000)'
    hog = f"exec {sys.executable} -c '{program}'"

    async def main():
        async with process_world() as world:
            if "memory limits (" not in " ".join(world.agent.isolation().applied):
                return
            await world.pod("p", hog, container={"resources": resources("200Mi")})
            await world.phase("p", "Running")

            async def said():
                return "held" in await world.log("p")

            await world.until(said, "it holds its memory")
            await world.resize("p", resources("40Mi"))

            def failed(status):
                found = condition(status, "PodResizeInProgress")
                return found is not None and found.get("reason") == "Error"

            status = await status_until(world, "p", failed, "refused")
            assert held(status) == "200Mi"
            assert status["containerStatuses"][0]["allocatedResources"]["memory"] == "40Mi"
            assert status["containerStatuses"][0]["restartCount"] == 0

    asyncio.run(main())


class Recorded:
    """Control groups of a machine that has them for CPUs: what was set last."""

    controllers = ("cpu",)

    def __init__(self):
        self.last = None

    def set(self, uid, name, amounts):
        self.last = amounts


def test_a_container_that_was_slowed_has_what_it_was_resized_to_again(monkeypatch):
    async def main():
        async with process_world() as world:
            await world.pod("p", container={"resources": resources("64Mi", "100m")})
            uid = (await world.phase("p", "Running"))["metadata"]["uid"]
            await world.resize("p", resources("64Mi", "200m"))
            await world.event("p", "ResizeCompleted")
            pods, groups = world.agent._runner.pods, Recorded()
            with monkeypatch.context() as patched:
                patched.setattr(pods, "_groups", groups)
                assert pods.slow(uid, "main", 0.05) == ""
                assert groups.last.milli_cpu == 50
                assert pods.slow(uid, "main", None) == ""
                assert (groups.last.milli_cpu, groups.last.memory) == (200, 64 << 20)

    asyncio.run(main())
