"""Faults, carried out: victims get their orders at their moments, and the status says so."""

import pytest

from kubarium.api.kinds import FAULTS, NODES, PODS
from kubarium.base.errors import ApiError
from kubarium.control.faults import controller
from kubarium.control.faults.controller import FaultController
from kubarium.view.faults import orders_of


async def started(world, pods=4):
    await world.install("kubarium.dev")
    await world.start(FaultController(world.context))
    for number in range(pods):
        labels = {"app": "train", "batch.kubernetes.io/job-completion-index": str(number)}
        made = await world.create(
            PODS,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": f"rank-{number}", "labels": labels},
                "spec": {"containers": [{"name": "main", "image": "busybox"}]},
            },
        )
        await world.set_phase(made, "Running")
    await world.settle()


def fault(name="f", **spec):
    return {
        "apiVersion": "kubarium.dev/v1alpha1",
        "kind": "Fault",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


async def orders(world):
    found = {p["metadata"]["name"]: orders_of(p) for p in await world.find(PODS)}
    return {name: orders[0] for name, orders in found.items() if orders}


def test_one_rank_is_hit_once(world_run):
    async def story(world):
        await started(world)
        await world.create(FAULTS, fault(action="Stop", rank=2, durationSeconds=3))
        await world.settle()
        [(name, order)] = (await orders(world)).items()
        assert name == "rank-2"
        assert (order.action, order.duration_s, order.healed) == ("Stop", 3, False)
        assert (await world.get(FAULTS, "f"))["status"]["phase"] == "InForce"
        await world.settle(5)
        assert (await orders(world))["rank-2"].healed
        status = (await world.get(FAULTS, "f"))["status"]
        assert status["phase"] == "Completed"
        assert [entry["target"] for entry in status["history"]] == ["Pod/rank-2"]

    world_run(story)


def test_a_schedule_is_kept_to_the_second_and_is_the_same_again(world_run):
    async def story(world):
        await started(world)
        began = world.clock.now()
        schedule = {"afterSeconds": 5, "everySeconds": 20, "times": 4, "seed": 3}
        await world.create(FAULTS, fault(action="Kill", schedule=schedule))
        await world.settle(4)
        assert await orders(world) == {}
        await world.settle(100)
        status = (await world.get(FAULTS, "f"))["status"]
        assert status["injected"] == 4
        assert status["phase"] == "Completed"
        return [(entry["at"], entry["target"]) for entry in status["history"]], began

    first, second = world_run(story), world_run(story)
    assert first == second
    assert len({target for _, target in first[0]}) > 1


def test_a_moment_without_anybody_to_hit_is_not_lost(world_run):
    async def story(world):
        await started(world, pods=0)
        await world.create(FAULTS, fault(action="Kill", selector={"matchLabels": {"app": "train"}}))
        await world.settle(10)
        status = (await world.get(FAULTS, "f"))["status"]
        assert status["phase"] == "Waiting"
        assert status["message"] == "nobody to hit: no running Pod matches"
        made = await world.create(
            PODS,
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "late", "labels": {"app": "train"}},
                "spec": {"containers": [{"name": "main", "image": "busybox"}]},
            },
        )
        await world.set_phase(made, "Running")
        await world.settle(3)
        assert list(await orders(world)) == ["late"]

    world_run(story)


def test_a_device_is_well_again_when_its_time_is_over(world_run):
    async def story(world):
        await started(world, pods=0)
        await world.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})
        device = "gpu.example.com/gpu-3"
        await world.create(
            FAULTS, fault(action="DeviceUnhealthy", device=device, durationSeconds=30)
        )
        await world.settle(5)
        key = "kubarium.dev/device-health.gpu.example.com"
        node = await world.get(NODES, "n")
        assert node["metadata"]["annotations"][key] == "gpu-3=Unhealthy"
        assert (await world.get(FAULTS, "f"))["status"]["phase"] == "InForce"
        await world.settle(40)
        node = await world.get(NODES, "n")
        assert node["metadata"]["annotations"][key] == "gpu-3=Healthy"
        assert (await world.get(FAULTS, "f"))["status"]["phase"] == "Completed"

    world_run(story)


def test_a_fault_that_makes_no_sense_says_so_on_itself(world_run):
    async def story(world):
        await started(world)
        await world.create(FAULTS, fault(action="CorruptFile"))
        await world.settle()
        status = (await world.get(FAULTS, "f"))["status"]
        assert status["phase"] == "Invalid"
        assert status["message"].startswith("spec.path: is empty")
        assert await orders(world) == {}

    world_run(story)


def test_what_lasts_ends_with_its_fault(world_run):
    async def story(world):
        await started(world)
        await world.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})
        await world.create(FAULTS, fault("cut", action="Partition", mode="All", peers={}))
        await world.create(FAULTS, fault("slow", action="Slow", rank=1))
        await world.create(FAULTS, fault("away", action="DisconnectNode"))
        await world.settle(100)
        pods = await world.find(PODS)
        assert [len(orders_of(pod)) for pod in pods] == [1, 2, 1, 1]
        assert all(o.in_force for pod in pods for o in orders_of(pod))
        status = (await world.get(FAULTS, "cut"))["status"]
        assert (status["phase"], status["inForce"], len(status["history"])) == ("InForce", 4, 4)
        for name in ("cut", "slow", "away"):
            await world.client.delete(FAULTS, name, "default")
        await world.settle()
        assert await world.find(FAULTS) == []
        assert not any(o.in_force for pod in await world.find(PODS) for o in orders_of(pod))
        assert orders_of(await world.get(NODES, "n")) == []

    world_run(story)


def test_repeated_faults_of_any_action_hit_the_same_again_and_are_all_undone(world_run):
    async def story(world):
        await started(world)
        for action in ("Kill", "Stop", "Slow", "OutOfMemory", "Partition", "Loss", "Delay"):
            schedule = {"meanSecondsBetween": 10, "times": 5, "seed": 4}
            lasting = {} if action == "Kill" else {"durationSeconds": 2}
            await world.create(
                FAULTS,
                fault(action.lower(), action=action, schedule=schedule, **lasting),
            )
        await world.settle(300)
        found = {}
        for one in await world.find(FAULTS):
            assert one["status"]["phase"] == "Completed", one
            assert one["status"]["injected"] == 5
            found[one["metadata"]["name"]] = [e["target"] for e in one["status"]["history"]]
        assert len({tuple(targets) for targets in found.values()}) == 1
        assert not any(o.in_force for pod in await world.find(PODS) for o in orders_of(pod))
        return found

    assert world_run(story) == world_run(story)


@pytest.mark.parametrize("mode", ["One", "All"])
def test_an_injection_whose_status_could_not_be_written_hits_nobody_twice(
    world_run, monkeypatch, mode
):
    """Its victim has ended meanwhile, so that chance would find another one."""

    async def story(world):
        await started(world)
        refused, orders_seen = [], []

        async def update_status(context, resource, document, status, **more):
            if resource is FAULTS and status.get("injected") and len(refused) < 3:
                refused.append(status)
                for pod in await world.find(PODS):
                    if orders_of(pod):
                        orders_seen.append((pod["metadata"]["name"], *orders_of(pod)))
                        await world.set_phase(pod, "Failed", exit_code=137)
                raise ApiError(409, "Conflict", "the object has been modified")
            return await written(context, resource, document, status, **more)

        written = controller.writes.update_status
        monkeypatch.setattr(controller.writes, "update_status", update_status)
        await world.create(FAULTS, fault(action="Kill", mode=mode))
        await world.settle(60)
        assert len(refused) == 3
        hit = {p["metadata"]["name"] for p in await world.find(PODS) if orders_of(p)}
        assert len(hit) == (1 if mode == "One" else 4)
        assert len(set(orders_seen)) == len(hit), "the same order each time"
        status = (await world.get(FAULTS, "f"))["status"]
        assert (status["phase"], status["injected"]) == ("Completed", 1)
        assert {e["target"] for e in status["history"]} == {f"Pod/{name}" for name in hit}
        assert "pending" not in status

    world_run(story)


def test_a_victim_that_has_gone_before_it_could_be_told_is_no_problem(world_run, monkeypatch):
    async def story(world):
        await started(world)

        async def patch(context, resource, document, change, **more):
            if resource is PODS and document["metadata"]["name"] == "rank-1":
                await world.client.delete(PODS, "rank-1", "default", grace_period_s=0)
            return await patched(context, resource, document, change, **more)

        patched = controller.writes.patch
        monkeypatch.setattr(controller.writes, "patch", patch)
        await world.create(FAULTS, fault(action="Kill", mode="All"))
        await world.settle(60)
        assert sorted(await orders(world)) == ["rank-0", "rank-2", "rank-3"]
        assert (await world.get(FAULTS, "f"))["status"]["phase"] == "Completed"

    world_run(story)
