"""Gangs whose pods, nodes or writes are lost between the decision and the last binding."""

from __future__ import annotations

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    NODES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.base.errors import conflict
from kubarium.control.scheduling import components
from kubarium.control.scheduling.commit import Committer
from kubarium.control.scheduling.groups import GroupWriter

from .test_groups import apply, begin, condition, member, node, where


def group(name, minimum=2, **spec):
    policy = {"gang": {"minCount": minimum}}
    return {
        "apiVersion": "scheduling.k8s.io/v1beta1",
        "kind": "PodGroup",
        "metadata": {"name": name},
        "spec": {"schedulingPolicy": policy, **spec},
    }


def once(monkeypatch, step, action):
    """Do something before one step of the first pod that takes it."""
    real, done = getattr(Committer, step), []

    async def replaced(self, argument):
        if not done:
            done.append(True)
            await action()
        return await real(self, argument)

    monkeypatch.setattr(Committer, step, replaced)


def test_no_pod_of_a_gang_is_bound_if_another_was_deleted_after_the_decision(
    world_run, monkeypatch
):
    async def story(world):
        async def delete():
            await world.client.delete(PODS, "g-1", "default")

        once(monkeypatch, "reserve", delete)
        await begin(world, node("n", "4"))
        await apply(world, group("g"), *(member(f"g-{i}", "g") for i in range(2)))
        await world.settle(5)
        assert await where(world) == {"g-0": None}
        told = await condition(world, POD_GROUPS, "g")
        assert told["status"] == "False", "it was decided, but it has not started"
        await apply(world, member("g-2", "g"))
        await world.settle(15)
        assert await where(world) == {"g-0": "n", "g-2": "n"}
        assert (await condition(world, POD_GROUPS, "g"))["status"] == "True"

    world_run(story)


def test_a_group_whose_first_try_was_not_written_is_not_scheduled_yet(world_run, monkeypatch):
    """Initially scheduled is for good, so that it is said only of what is bound."""
    seen = []

    async def story(world):
        async def fail():
            raise conflict("pods", "", "g-0")

        once(monkeypatch, "bind", fail)
        real = GroupWriter.group_scheduled

        async def told(self, key, scheduled, *rest):
            seen.append((scheduled, sum(n is not None for n in (await where(world)).values())))
            await real(self, key, scheduled, *rest)

        monkeypatch.setattr(GroupWriter, "group_scheduled", told)
        await begin(world, node("n", "4"))
        await apply(world, group("g"), *(member(f"g-{i}", "g") for i in range(2)))
        await world.settle(15)
        assert set((await where(world)).values()) == {"n"}
        assert (True, 0) not in seen
        assert (True, 1) not in seen
        assert seen[-1] == (True, 2)

    world_run(story)


def test_undoing_that_fails_too_does_not_lose_the_gang(world_run, monkeypatch):
    async def story(world):
        async def fail():
            raise conflict("pods", "", "g-0")

        once(monkeypatch, "bind", fail)
        once(monkeypatch, "reserve", fail)
        real, failures = Committer.refuse, []

        async def refuse(self, *arguments, **named):
            if not failures:
                failures.append(True)
                raise conflict("pods", "", "g-0")
            await real(self, *arguments, **named)

        monkeypatch.setattr(Committer, "refuse", refuse)
        await begin(world, node("n", "4"))
        await apply(world, group("g"), *(member(f"g-{i}", "g") for i in range(2)))
        await world.settle(30)
        assert failures
        assert set((await where(world)).values()) == {"n"}

    world_run(story)


def test_a_gang_that_does_not_start_gives_back_the_claim_that_its_group_shares(
    world_run, monkeypatch
):
    """The first pod allocates it; who gives it up is the last one."""

    async def story(world):
        slices = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceSlice",
            "metadata": {"name": "s"},
            "spec": {
                "driver": "d.example.com",
                "nodeName": "n",
                "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1},
                "devices": [{"name": "gpu"}],
            },
        }
        kind = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": "gpu"},
            "spec": {},
        }
        request = {"name": "gpu", "exactly": {"deviceClassName": "gpu"}}
        claim = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": "shared"},
            "spec": {"devices": {"requests": [request]}},
        }

        async def delete():
            await world.client.delete(PODS, "g-1", "default")

        once(monkeypatch, "reserve", delete)
        await begin(world, node("n", "4"))
        await world.create(DEVICE_CLASSES, kind)
        await world.create(RESOURCE_SLICES, slices)
        await world.create(RESOURCE_CLAIMS, claim)
        used = {"resourceClaims": [{"name": "gpu", "resourceClaimName": "shared"}]}
        await apply(world, group("g", **used))
        await apply(world, *(member(f"g-{i}", "g", **used) for i in range(2)))
        await world.settle(5)
        assert await where(world) == {"g-0": None}
        status = (await world.get(RESOURCE_CLAIMS, "shared")).get("status") or {}
        assert not status.get("allocation")
        assert not status.get("reservedFor")
        await apply(world, member("g-2", "g", **used))
        await world.settle(15)
        assert await where(world) == {"g-0": "n", "g-2": "n"}
        status = (await world.get(RESOURCE_CLAIMS, "shared"))["status"]
        assert [user["resource"] for user in status["reservedFor"]] == ["podgroups"]

    world_run(story)


def test_a_reservation_on_a_node_that_is_gone_is_given_up_and_made_anew(world_run):
    async def story(world):
        [scheduler] = components(world.context)
        await world.start(scheduler)
        await apply(world, node("n1", "2"), node("n2", "2"), node("n3", "2"))
        await world.settle(0.1)
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u"}
        for i in range(3):
            busy = member(f"busy-{i}", "", cpu="2", restartPolicy="Never")
            del busy["spec"]["schedulingGroup"]
            busy["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
            await apply(world, busy)
        await world.settle(1)
        await apply(world, group("g"), *(member(f"g-{i}", "g", cpu="2") for i in range(2)))
        await world.settle(400)
        _, reserved = scheduler._reservations.held
        lost = reserved[0][1]
        await world.client.delete(NODES, lost)
        await world.client.delete(PODS, f"busy-{lost[1:]}", "default")
        for number in range(2):
            await world.settle(301)
            _, again = scheduler._reservations.held
            assert lost not in {name for _, name in again}, f"look {number}"

    world_run(story)


def test_a_gang_made_anew_waits_as_long_for_a_reservation_as_the_first_of_its_name(world_run):
    async def story(world):
        [scheduler] = components(world.context)
        await world.start(scheduler)
        await apply(world, node("n1", "2"), node("n2", "2"))
        for i in (1, 2):
            busy = member(f"busy-{i}", "", cpu="2", restartPolicy="Never")
            del busy["spec"]["schedulingGroup"]
            await apply(world, busy)
        await world.settle(1)
        for name in ("g", "h"):
            await apply(world, group(name), *(member(f"{name}-{i}", name, cpu="1") for i in (1, 2)))
        await world.settle(50)
        for name in ("h-1", "h-2"):
            await world.client.delete(PODS, name, "default", grace_period_s=0)
        await world.settle(5)
        assert [key.key[1] for key in scheduler._reservations.failing_since] == ["g"]
        await apply(world, *(member(f"h-{i}", "h", cpu="1") for i in (1, 2)))
        await world.settle(5)
        since = {key.key[1]: at for key, at in scheduler._reservations.failing_since.items()}
        assert since["h"] - since["g"] > 50

    world_run(story)
