"""Whatever befalls pods, claims, groups and nodes: devices are given once, and given back."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace

import pytest

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    DEVICE_TAINT_RULES,
    NODES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.base.errors import ApiError
from kubarium.control import devices, gangs, scheduling
from kubarium.control.devices.claims import claim_names
from kubarium.runtime.informer import SharedInformers
from tests.control.scheduling.test_device_faults import SetClock
from tests.control.scheduling.test_scheduler import claim, device_class, group, node, pod, slices

NAMED = "example.com/gpu"
NODE_NAMES = ("left", "right")
STEPS = 60


class Unsteady:
    """A client whose writes fail now and then, before or after they were done."""

    def __init__(self, client, chance, share):
        self._client, self._random, self.share = client, chance, share

    def __getattr__(self, verb):
        method = getattr(self._client, verb)
        if verb not in ("create", "update", "patch", "delete"):
            return method

        async def call(*args, **options):
            if self._random.random() >= self.share:
                return await method(*args, **options)
            if self._random.random() < 0.5:
                await method(*args, **options)
            raise ApiError(503, "ServiceUnavailable", "the server is down")

        return call


class Chaos:
    """Does things at random to one world."""

    def __init__(self, world, seed, gpus, failing):
        self.world, self.random = world, random.Random(seed)
        self.writes = Unsteady(world.controller_client, self.random, failing)
        self.clock = SetClock(world.clock)
        self.gpus = gpus
        self.made = 0

    async def begin(self):
        world = self.world
        await world.start()
        named = device_class()
        named["spec"]["extendedResourceName"] = NAMED
        await world.create(DEVICE_CLASSES, named)
        template = claim("t")
        template |= {"kind": "ResourceClaimTemplate", "spec": {"spec": template["spec"]}}
        await world.create(RESOURCE_CLAIM_TEMPLATES, template)
        for name in NODE_NAMES:
            await self.node_comes(name)
        await self.control_plane()

    async def control_plane(self):
        """Begin (anew) with nothing but what is written."""
        world = self.world
        for task in world.tasks:
            task.cancel()
        await asyncio.gather(*world.tasks, return_exceptions=True)
        world.tasks.clear()
        informers = SharedInformers(world.controller_client, world.clock)
        context = replace(world.context, client=self.writes, informers=informers, clock=self.clock)
        for family in (devices, gangs, scheduling):
            await world.start(*family.components(context))

    async def attempt(self, happening):
        try:
            await happening
        except ApiError as error:
            joins_late = "because it is being deleted" in error.message
            if error.reason not in ("NotFound", "AlreadyExists", "Conflict") and not joins_late:
                raise

    # What happens.

    async def node_comes(self, name):
        await self.attempt(self.world.create(NODES, node(name, cpu="100")))
        await self.attempt(self.world.create(RESOURCE_SLICES, slices(name, self.gpus)))

    async def node_goes(self, name):
        await self.attempt(self.world.client.delete(NODES, name))
        await self.attempt(self.world.client.delete(RESOURCE_SLICES, f"{name}-slice"))

    async def claim_comes(self):
        await self.attempt(self.world.create(RESOURCE_CLAIMS, claim(self.random.choice("uvw"))))

    async def claim_goes(self):
        names = await self.world.names(RESOURCE_CLAIMS)
        if names:
            name = self.random.choice(names)
            await self.attempt(self.world.client.delete(RESOURCE_CLAIMS, name, "default"))

    async def group_comes(self):
        made = group("team", 2)
        template = {"name": "ours", "resourceClaimTemplateName": "t"}
        made["spec"]["resourceClaims"] = [template]
        await self.attempt(self.world.create(POD_GROUPS, made))

    async def group_goes(self):
        await self.attempt(self.world.client.delete(POD_GROUPS, "team", "default"))

    async def pod_comes(self):
        name = f"p{self.made}"
        self.made += 1
        kind = self.random.choice(["named", "template", "extended", "group", "named", "bound"])
        if kind in ("named", "bound"):
            made = pod(name, claims=[self.random.choice("uvw")])
            if kind == "bound":
                made["spec"]["nodeName"] = self.random.choice(NODE_NAMES)
        elif kind == "extended":
            made = pod(name)
            made["spec"]["containers"][0]["resources"]["limits"] = {NAMED: "1"}
        else:
            more = {"group": "team"} if kind == "group" else {}
            made = pod(name, claims=["ours"], **more)
            [entry] = made["spec"]["resourceClaims"]
            del entry["resourceClaimName"]
            entry["resourceClaimTemplateName"] = "t"
        await self.attempt(self.world.create(PODS, made))

    async def pod_goes(self, grace_period_s=None):
        names = await self.world.names(PODS)
        if names:
            name = self.random.choice(names)
            more = {} if grace_period_s is None else {"grace_period_s": grace_period_s}
            await self.attempt(self.world.client.delete(PODS, name, "default", **more))

    async def pod_ends(self):
        bound = [p for p in await self.world.find(PODS) if p["spec"].get("nodeName")]
        if bound:
            metadata = self.random.choice(bound)["metadata"]
            change = {"metadata": {"uid": metadata["uid"]}, "status": {"phase": "Succeeded"}}
            await self.attempt(
                self.world.client.patch(
                    PODS, metadata["name"], change, "default", subresource="status"
                )
            )

    async def taint(self):
        taint = {"key": "ill", "effect": self.random.choice(["NoExecute", "NoSchedule", "None"])}
        rule = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceTaintRule",
            "metadata": {"name": "rule"},
            "spec": {
                "deviceSelector": {"pool": self.random.choice(NODE_NAMES), "device": "gpu-0"},
                "taint": taint,
            },
        }
        await self.attempt(self.world.create(DEVICE_TAINT_RULES, rule))

    async def cure(self):
        await self.attempt(self.world.client.delete(DEVICE_TAINT_RULES, "rule"))

    async def clock_is_set(self):
        self.clock.offset_s = self.random.choice([-3600.0, 0.0, 3600.0])

    async def step(self):
        name = self.random.choice(NODE_NAMES)
        weighted = [
            (8, self.pod_comes),
            (4, self.claim_comes),
            (2, self.claim_goes),
            (2, self.group_comes),
            (1, self.group_goes),
            (2, self.pod_goes),
            (2, lambda: self.pod_goes(0)),
            (2, self.pod_ends),
            (1, self.world.finish_deletions),
            (1, lambda: self.node_goes(name)),
            (2, lambda: self.node_comes(name)),
            (1, self.taint),
            (1, self.cure),
            (1, self.clock_is_set),
            (2, self.control_plane),
        ]
        [happening] = self.random.choices([h for _, h in weighted], [w for w, _ in weighted])
        await happening()
        pause = self.random.choice([0.0, 0.0, 0.0005, 0.002, 0.01, 0.1, 1.0, 8.0])
        await self.world.settle(pause)
        await self.once_each()

    # What must hold.

    async def once_each(self):
        given = Counter(
            (result["pool"], result["device"])
            for found in await self.world.find(RESOURCE_CLAIMS)
            for result in (found.get("status") or {})
            .get("allocation", {})
            .get("devices", {})
            .get("results", [])
        )
        assert not [device for device, times in given.items() if times > 1]

    async def heal(self):
        world = self.world
        self.writes.share = 0.0
        await self.cure()
        for name in NODE_NAMES:
            await self.node_comes(name)
        await world.settle(30)
        await world.finish_deletions()
        await world.settle(5)
        for name in "uvw":
            await self.attempt(world.create(RESOURCE_CLAIMS, claim(name)))
        await self.group_comes()
        await world.settle(400)

    async def lives(self):
        """Pods and groups that are not over, as claims name them."""
        world = self.world
        pods = [
            p
            for p in await world.find(PODS)
            if (p.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
        ]
        groups = [
            g for g in await world.find(POD_GROUPS) if "deletionTimestamp" not in g["metadata"]
        ]
        return pods, groups

    async def all_is_well(self):
        """Whoever can have a place has one, and whoever has none keeps no devices."""
        pods, groups = await self.lives()
        found = await self.world.find(RESOURCE_CLAIMS)
        claims = {c["metadata"]["name"]: c for c in found}
        given = [c for c in found if (c.get("status") or {}).get("allocation")]
        members = [p for p in pods if "schedulingGroup" in p["spec"]]
        placed = [p for p in pods if p["spec"].get("nodeName")]
        for waiting in (p for p in pods if not p["spec"].get("nodeName")):
            if waiting in members and (len(members) < 2 or not groups):
                continue
            used = [claims[name] for name in claim_names(waiting) if name in claims]
            if any("deletionTimestamp" in c["metadata"] for c in used):
                continue
            assert len(given) == len(NODE_NAMES) * self.gpus, waiting
            assert not used or any(c not in given for c in used), waiting
        users = {d["metadata"]["uid"] for d in [*placed, *await self.world.find(POD_GROUPS)]}
        for claimed in given:
            assert users & {r["uid"] for r in claimed["status"]["reservedFor"]}

    async def end(self):
        world = self.world
        for found in await world.find(PODS):
            name = found["metadata"]["name"]
            await world.client.delete(PODS, name, "default", grace_period_s=0)
        await self.group_goes()
        await world.settle(120)
        left = await world.find(RESOURCE_CLAIMS)
        assert {c["metadata"]["name"] for c in left} <= set("uvw")
        for found in left:
            assert not found.get("status")
            assert "deletionTimestamp" not in found["metadata"]
        assert not await world.find(POD_GROUPS)


@pytest.mark.parametrize("gpus", [1, 8])
@pytest.mark.parametrize("failing", [0.0, 0.15], ids=["steady", "writes fail"])
@pytest.mark.parametrize("seed", [0, 1, 2, 488, 490])
def test_devices_are_given_once_and_given_back(world_run, seed, failing, gpus, caplog):
    async def story(world):
        chaos = Chaos(world, seed, gpus, failing)
        await chaos.begin()
        for _ in range(STEPS):
            await chaos.step()
        await chaos.heal()
        await chaos.all_is_well()
        await chaos.end()

    world_run(story, seed)
    errors = [r.getMessage() for r in caplog.records if r.exc_info]
    assert not errors, caplog.text
