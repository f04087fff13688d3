"""Gangs, pods, nodes and devices that come and go in any order, and schedulers that fail and die.

Whatever happened: once nothing moves any more, no gang runs in part that never lost a pod, nothing
is given away twice or held in vain, what has no place says why, and nothing fits that waits.
"""

from __future__ import annotations

from collections import Counter

from hypothesis import event, given, settings
from hypothesis import strategies as st

from kubarium.api.kinds import (
    COMPOSITE_POD_GROUPS,
    NODES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
)
from kubarium.base.errors import ApiError
from kubarium.runtime.virtual import run
from kubarium.view.pods import is_finished
from tests.control.conftest import World
from tests.control.scheduling.test_scheduler import claim, slices

from .crashes import Life, check_world
from .test_gang_faults import group
from .test_gang_restarts import alone, begin, nominations
from .test_groups import apply, composite, condition, member, node, slice_group

GROUPS, HOSTS = ("g", "h", "x", "y"), ("a", "b", "c")
# Of a hierarchy; the other groups stand alone.
PARTS = ("x", "y")
PRIORITIES = {"low": 0, "high": 9}
MERGE = "application/merge-patch+json"

OFTEN = (
    st.tuples(
        st.just("group"),
        st.sampled_from(GROUPS),
        st.integers(1, 3),
        st.sampled_from(sorted(PRIORITIES)),
        st.integers(1, 4),
        st.sampled_from(["plain", "plain", "devices", "gated"]),
    ),
    st.tuples(st.just("member"), st.sampled_from(GROUPS)),
    st.tuples(
        st.just("end"),
        st.integers(0, 9),
        st.sampled_from(["Succeeded", "Failed"]),
        st.integers(1, 3),
    ),
)
SELDOM = (
    st.tuples(st.just("node"), st.sampled_from(HOSTS), st.integers(1, 4), st.integers(0, 2)),
    st.tuples(st.just("lose node"), st.sampled_from(HOSTS)),
    st.tuples(st.just("cordon"), st.sampled_from(HOSTS), st.booleans()),
    st.tuples(st.just("hierarchy"), st.integers(1, 2)),
    st.tuples(st.just("drop group"), st.sampled_from(GROUPS)),
    st.tuples(st.just("force out"), st.sampled_from(GROUPS)),
    st.tuples(st.just("minimum"), st.sampled_from(GROUPS), st.integers(1, 4)),
    st.tuples(st.just("pod"), st.sampled_from(sorted(PRIORITIES)), st.integers(1, 3)),
    st.tuples(st.just("delete"), st.integers(0, 9)),
    st.tuples(st.just("ungate"), st.integers(0, 9)),
    st.tuples(st.just("die"), st.integers(1, 9), st.booleans()),
    st.tuples(st.just("fail"), st.sampled_from(["create", "update", "patch"]), st.integers(1, 3)),
)
steps = st.one_of(*OFTEN, *OFTEN, *OFTEN, *SELDOM)


class Flaky:
    """A client of which the next calls of some verbs fail."""

    def __init__(self, client):
        self._client = client
        self.failures = Counter()

    def __getattr__(self, verb):
        method = getattr(self._client, verb)
        if verb not in ("create", "update", "patch"):
            return method

        async def call(resource, *args, **options):
            if self.failures[verb] and resource.plural != "events":
                self.failures[verb] -= 1
                raise ApiError(503, "ServiceUnavailable", "the server is down")
            return await method(resource, *args, **options)

        return call


class Machine:
    """The world, and which gangs may run in part because they lost something."""

    def __init__(self, world):
        self.world = world
        self.flaky = Flaky(world.controller_client)
        world.controller_client = self.flaky
        self.life = None
        self.kinds = {}  # of the groups: priority, devices or gates, of their members
        self.disturbed = set()
        self.number = 0

    async def start(self):
        await begin(self.world, 0)
        self.life = Life(self.world)
        await self.world.settle(0.1)

    async def do(self, step):
        await getattr(self, "_" + step[0].replace(" ", "_"))(*step[1:])

    # Steps

    async def _node(self, name, cores, gpus):
        world = self.world
        if name in await world.names(NODES):
            return
        document = node(name, str(cores))
        await world.create(NODES, document)
        if gpus:
            await world.create(RESOURCE_SLICES, slices(name, gpus))

    async def _lose_node(self, name):
        if name not in await self.world.names(NODES):
            return
        for pod in await self.world.find(PODS):
            if pod["spec"].get("nodeName") == name and not is_finished(pod):
                await self._lose(pod)
        await self.world.client.delete(NODES, name)
        if f"{name}-slice" in await self.world.names(RESOURCE_SLICES):
            await self.world.client.delete(RESOURCE_SLICES, f"{name}-slice")

    async def _cordon(self, name, off):
        if name in await self.world.names(NODES):
            change = {"spec": {"unschedulable": off}}
            await self.world.client.patch(NODES, name, change)

    async def _group(self, name, minimum, priority, pods, kind):
        if name in await self.world.names(POD_GROUPS):
            return
        orphans = await self._pods_of(name)
        if orphans:  # of a group that was forced out; this is another of the same name
            pods, (priority, kind) = 0, self.kinds[name]
        if name in PARTS:
            if not await self.world.names(COMPOSITE_POD_GROUPS):
                return
            document = slice_group(name, minimum, rack=False, workload="w")
            priority = "low"
        else:
            document = group(name, minimum, priorityClassName=priority)
            if not orphans:
                self.disturbed.discard(name)
        self.kinds[name] = priority, kind
        await self.world.create(POD_GROUPS, document)
        for _ in range(pods):
            await self._member(name)

    async def _hierarchy(self, least):
        """A composite, made before its groups."""
        if not await self.world.names(COMPOSITE_POD_GROUPS):
            await apply(self.world, composite("job", least, workload="w"))

    async def _drop_group(self, name):
        """With its pods, as its finalizer wants it."""
        if name in await self.world.names(POD_GROUPS):
            self.disturbed.add(name)
            await self.world.client.delete(POD_GROUPS, name, "default")
            for pod in await self._pods_of(name):
                await self._lose(pod)

    async def _force_out(self, name):
        """Without its pods, which stay."""
        if name in await self.world.names(POD_GROUPS):
            self.disturbed.add(name)
            change = {"metadata": {"finalizers": []}}
            await self.world.client.patch(POD_GROUPS, name, change, "default", patch_type=MERGE)
            await self.world.client.delete(POD_GROUPS, name, "default")

    async def _minimum(self, name, count):
        if name in await self.world.names(POD_GROUPS):
            self.disturbed.add(name)
            policy = {"schedulingPolicy": {"gang": {"minCount": count}}}
            await self.world.client.patch(POD_GROUPS, name, {"spec": policy}, "default")

    async def _member(self, name):
        if name not in self.kinds:
            return
        priority, kind = self.kinds[name]
        self.number += 1
        pod = member(f"{name}-{self.number}", name, priorityClassName=priority)
        if kind == "devices":
            await self.world.create(RESOURCE_CLAIMS, claim(f"c-{self.number}"))
            wants = [{"name": "gpu", "resourceClaimName": f"c-{self.number}"}]
            pod["spec"]["resourceClaims"] = wants
        if kind == "gated" and self.number % 2:
            pod["spec"]["schedulingGates"] = [{"name": "example.com/wait"}]
        await self.world.create(PODS, pod)

    async def _pod(self, priority, cores):
        self.number += 1
        name = f"p-{self.number}"
        await self.world.create(PODS, alone(name, cpu=str(cores), priorityClassName=priority))

    async def _delete(self, number):
        pods = await self.world.find(PODS)
        if pods:
            await self._lose(pods[number % len(pods)])

    async def _ungate(self, number):
        gated = [p for p in await self.world.find(PODS) if p["spec"].get("schedulingGates")]
        if gated:
            name = gated[number % len(gated)]["metadata"]["name"]
            change = {"spec": {"schedulingGates": []}}
            await self.world.client.patch(PODS, name, change, "default", patch_type=MERGE)

    async def _end(self, number, phase, count):
        """Pods end by themselves, and stay as objects."""
        running = [
            p
            for p in await self.world.find(PODS)
            if p["spec"].get("nodeName")
            and not is_finished(p)
            and "deletionTimestamp" not in p["metadata"]
        ]
        for pod in running[number % max(len(running), 1) :][:count]:
            if phase == "Failed" and (found := group_of(pod)):
                self.disturbed.add(found)
            await self.world.set_phase(pod, phase)

    async def _die(self, writes, lost):
        self.life.client.left, self.life.client.lost = writes, lost

    async def _fail(self, verb, times):
        self.flaky.failures[verb] = times  # more would be told later than the world comes to rest

    async def _lose(self, pod):
        if found := group_of(pod):
            self.disturbed.add(found)
        name = pod["metadata"]["name"]
        await self.world.client.delete(PODS, name, "default", grace_period_s=0)

    async def _pods_of(self, name):
        return [p for p in await self.world.find(PODS) if group_of(p) == name]

    # Between the steps

    async def come_to_rest(self):
        for _ in range(4):
            await self.world.settle(14)
            if self.life.client.dead.is_set():
                await self.life.end()
                self.life = Life(self.world)
            for pod in await self.world.find(PODS):
                if "deletionTimestamp" in pod["metadata"]:
                    await self._lose(pod)

    async def check(self):
        world = self.world
        await check_world(world)
        self.life.scheduler.view.snapshot.check()
        pods = await world.find(PODS)
        room = await free_room(world, pods)
        assert await nominations(world) == {}
        users = {
            c["resourceClaimName"]
            for p in pods
            for c in p["spec"].get("resourceClaims") or ()
            if p["spec"].get("nodeName") and not is_finished(p)
        }
        for found in await world.find(RESOURCE_CLAIMS):
            held = (found.get("status") or {}).get("allocation")
            assert bool(held) == (found["metadata"]["name"] in users), found["metadata"]["name"]
        for pod in pods:
            if not pod["spec"].get("nodeName"):
                told = await condition(world, PODS, pod["metadata"]["name"], "PodScheduled")
                assert told.get("status") == "False", pod["metadata"]["name"]
                assert told["message"]
        for name in await world.names(POD_GROUPS):
            if name not in PARTS:
                await self._check_group(name, room)
        await self._check_hierarchy(room)
        for pod in pods:
            if group_of(pod) is None and not pod["spec"].get("nodeName"):
                asked, priority = cores_of(pod), PRIORITIES[pod["spec"]["priorityClassName"]]
                able = [h for h, r in room.items() if r.after(priority) >= asked]
                assert not able, f"{pod['metadata']['name']} fits on {able}"

    async def _check_group(self, name, room):
        document = await self.world.get(POD_GROUPS, name)
        least = document["spec"]["schedulingPolicy"]["gang"]["minCount"]
        members = await self._pods_of(name)
        bound = [p for p in members if counts(p)]
        ready = [
            p
            for p in members
            if not p["spec"].get("nodeName") and not p["spec"].get("schedulingGates")
        ]
        if name not in self.disturbed:
            assert not bound or len(bound) >= least, f"{name} runs in part"
        told = await condition(self.world, POD_GROUPS, name)
        if len(bound) >= least:
            assert told.get("status") == "True", f"{name} runs and does not say so"
        needed = max(1, least - len(bound))
        if len(ready) < needed:
            return
        priority, kind = self.kinds[name]
        if kind == "devices":
            places = sum(min(r.cores, r.devices) for r in room.values())
        else:
            places = sum(r.after(PRIORITIES[priority]) for r in room.values())
        assert places < needed, f"{name} needs {needed} places of {places}"

    async def _check_hierarchy(self, room):
        """As of a group; it starts with enough of its groups."""
        if not await self.world.names(COMPOSITE_POD_GROUPS):
            return
        document = await self.world.get(COMPOSITE_POD_GROUPS, "job")
        wanted = document["spec"]["schedulingPolicy"]["gang"]["minGroupCount"]
        lacking, started = [], 0
        for name in await self.world.names(POD_GROUPS):
            if name not in PARTS:
                continue
            policy = (await self.world.get(POD_GROUPS, name))["spec"]["schedulingPolicy"]
            least, members = policy["gang"]["minCount"], await self._pods_of(name)
            bound = [p for p in members if counts(p)]
            ready = [
                p
                for p in members
                if not p["spec"].get("nodeName") and not p["spec"].get("schedulingGates")
            ]
            started += len(bound) >= least
            if len(bound) < least <= len(bound) + len(ready):
                lacking.append((least - len(bound), self.kinds[name][1]))
            if not self.disturbed.intersection(PARTS):
                assert not bound or len(bound) >= least, f"{name} runs in part"
        if not self.disturbed.intersection(PARTS):
            assert not started or started >= wanted, "the hierarchy runs in part"
        if started >= wanted:
            told = await condition(self.world, COMPOSITE_POD_GROUPS, "job")
            assert told.get("status") == "True"
        if any(kind == "devices" for _, kind in lacking):
            return
        least = sum(sorted(count for count, _ in lacking)[: max(1, wanted - started)])
        if len(lacking) >= max(1, wanted - started):
            assert sum(r.after(0) for r in room.values()) < least


class Room:
    """What is free on a node, and what pods of each priority would leave."""

    def __init__(self, cores, devices):
        self.cores, self.devices = cores, devices
        self.taken = Counter()

    def after(self, priority):
        """Cores that are free once everything of less priority has gone."""
        return self.cores + sum(n for level, n in self.taken.items() if level < priority)


async def free_room(world, pods):
    room = {}
    published = {
        s["spec"]["nodeName"]: len(s["spec"]["devices"]) for s in await world.find(RESOURCE_SLICES)
    }
    for document in await world.find(NODES):
        name = document["metadata"]["name"]
        if not document["spec"].get("unschedulable"):
            cores = int(document["status"]["allocatable"]["cpu"])
            room[name] = Room(cores, published.get(name, 0))
    for pod in pods:
        found = room.get(pod["spec"].get("nodeName"))
        if found is not None and not is_finished(pod):
            found.cores -= cores_of(pod)
            found.devices -= len(pod["spec"].get("resourceClaims") or ())
            found.taken[PRIORITIES[pod["spec"]["priorityClassName"]]] += cores_of(pod)
    return room


def cores_of(pod):
    return int(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"])


def counts(pod):
    """Whether the pod is one of those with which its group has started: it runs, or has done so."""
    return pod["spec"].get("nodeName") and (pod.get("status") or {}).get("phase") != "Failed"


def group_of(pod):
    return (pod["spec"].get("schedulingGroup") or {}).get("podGroupName")


@settings(deadline=None, max_examples=40)
@given(st.lists(steps, min_size=4, max_size=16), st.integers(0, 2), st.integers(0, 99))
def test_once_nothing_moves_any_more_nothing_is_half_done(story, wanted, seed):
    async def main():
        machine = Machine(World(seed))
        await machine.start()
        for host, (cores, gpus) in zip(HOSTS, ((2, 1), (3, 0)), strict=False):
            await machine.do(("node", host, cores, gpus))
        if wanted:
            await machine.do(("hierarchy", wanted))
        for step in story:
            await machine.do(step)
            if step[0] in ("die", "fail"):
                continue  # the next step is what they spoil
            await machine.come_to_rest()
            await machine.check()
        event(f"restarts: {machine.life.client.dead.is_set()}")
        await machine.life.end()

    run(main(), seed)
