"""Everything at once: whole cycles on small clusters in which all features of devices meet.

Local, shared and per-device pools, counters, consumable capacity with policies, lists, taints,
prioritised lists, mode All, admin access, constraints, claims that several pods share, gangs in
domains, and pods that leave between cycles. What the scheduler did is judged by a naive reading of
the rules that shares nothing with it; where it gave up, every way is tried.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    ALL,
    AttributeValue,
    Capacity,
    ClaimSpec,
    Constraint,
    CounterUse,
    Device,
    DeviceClass,
    DeviceId,
    DeviceTaint,
    DeviceToleration,
    Request,
    RequestEntry,
    RequestPolicy,
    Slice,
)
from kubarium.engine.model import Claim, Gang, Node, Pod, PodShape
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import QueueItem
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.engine.snapshot import Snapshot

checked = settings(
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

DRIVER = "d"
SICK = DeviceTaint("sick", "", "NoSchedule")
TOLERANT = (DeviceToleration("sick", "Exists", "", ""),)
IN_RACK_A = (NodeTerm((Requirement("rack", "In", ("a",)),)),)
COUNTERS = 4
CAPACITY = 6

# How a share may be sized: anything, a range with steps, or a list of values.
POLICIES = [
    None,
    RequestPolicy(default=2, minimum=1, maximum=5, step=2),
    RequestPolicy(default=3, valid_values=(1, 3, 6)),
]

# Ways that a judge tries before it abstains.
MOST_WAYS = 60_000


def selects(expression, driver, device):
    """``any``, or ``kind=value``."""
    name, equals, value = expression.partition("=")
    return not equals or value in device.attributes[f"{DRIVER}/{name}"].values


def text(*values):
    return AttributeValue("string", frozenset(values), len(values) > 1, tuple(values))


@st.composite
def devices(draw, pool, sets, nodes=()):
    """Devices of one pool; with ``nodes``, each says itself where it can be reached."""
    found = []
    for number in range(draw(st.integers(0 if sets else 1, 3))):
        numa = draw(st.sampled_from([("0",), ("1",), ("0", "1"), ()]))
        attributes = {f"{DRIVER}/kind": text(draw(st.sampled_from("xy")))}
        if numa:
            attributes[f"{DRIVER}/numa"] = text(*numa)
        uses = tuple(
            CounterUse(name, (("slices", draw(st.integers(1, 3))),))
            for name in sets
            if draw(st.booleans())
        )
        shared = draw(st.booleans()) and draw(st.booleans())
        where = {}
        if nodes:
            name = draw(st.sampled_from(["", *nodes]))
            where = {"node_name": name} if name else {"all_nodes": True}
        found.append(
            Device(
                f"{pool}-{number}",
                attributes,
                {"memory": Capacity(CAPACITY, draw(st.sampled_from(POLICIES)))} if shared else {},
                uses,
                (SICK,) if draw(st.integers(0, 5)) == 0 else (),
                shared,
                **where,
            )
        )
    return tuple(found)


@st.composite
def pools(draw, nodes):
    """Slices: one pool for each node, one in the network, one whose devices name their nodes."""
    slices = []
    places = [({"node_name": node}, ()) for node in nodes]
    network = draw(st.sampled_from([{"all_nodes": True}, {"node_terms": IN_RACK_A}, None]))
    places += [(network, ())] if network else []
    places += [({"per_device": True}, tuple(nodes))] if draw(st.booleans()) else []
    for number, (where, named) in enumerate(places):
        pool = f"p{number}"
        sets = draw(st.sampled_from([(), (), ("s",), ("s", "t")]))
        count = 2 if sets else 1
        made = draw(devices(pool, sets, named))
        slices.append(Slice(f"{pool}-a", DRIVER, pool, 1, count, made, **where))
        if sets:
            counters = tuple((name, (("slices", COUNTERS),)) for name in sets)
            slices.append(
                Slice(f"{pool}-b", DRIVER, pool, 1, count, counter_sets=counters, **where)
            )
    return slices


@st.composite
def requests(draw, name, prioritised=False):
    mode = draw(st.sampled_from(["ExactCount"] * 4 + [ALL]))
    return Request(
        name,
        "class",
        (draw(st.sampled_from(["any", "any", "kind=x", "kind=y"])),),
        mode=mode,
        count=1 if mode == ALL else draw(st.integers(1, 2)),
        admin_access=None if prioritised else draw(st.sampled_from([None] * 6 + [True])),
        tolerations=TOLERANT if draw(st.booleans()) else (),
        capacity=draw(st.sampled_from([None, None, (("memory", 2),), (("memory", 4),)])),
    )


@st.composite
def specs(draw):
    entries = []
    for number in range(draw(st.integers(1, 2))):
        name = f"r{number}"
        if draw(st.integers(0, 3)):
            entries.append(RequestEntry(name, (draw(requests(name)),)))
        else:
            options = (draw(requests("a", True)), draw(requests("b", True)))
            entries.append(RequestEntry(name, options, True))
    constraints = []
    if draw(st.booleans()):
        scope = draw(st.sampled_from([(), ("r0",)]))
        kind = draw(st.sampled_from(["match", "distinct"]))
        constraints.append(Constraint(scope, **{kind: f"{DRIVER}/numa"}))
    return ClaimSpec(tuple(entries), tuple(constraints))


@dataclass
class World:
    """A cluster, its claims, and what comes in each cycle: items, and which pods leave before."""

    nodes: list[Node]
    slices: list[Slice]
    claims: list[Claim]
    rounds: list[tuple[list[QueueItem], list[int]]]
    best_fit: bool

    def __repr__(self):
        lines = [f"best_fit={self.best_fit}"]
        lines += [f"node {n.name} {dict(n.allocatable)} {n.labels}" for n in self.nodes]
        for s in self.slices:
            place = s.node_name or s.node_terms or ("all" if s.all_nodes else "per device")
            lines.append(f"slice {s.name} at {place} counters {s.counter_sets}")
            for d in s.devices:
                what = {k.split("/")[1]: v.shown() for k, v in d.attributes.items()}
                uses = [(u.counter_set, u.counters) for u in d.consumes]
                marks = f"{' SICK' if d.taints else ''}{' shared' if d.allow_multiple else ''}"
                lines.append(f"  {d.name} {what} {d.capacity} {uses}{marks} {d.node_name}")
        lines += [f"claim {c.key[1]}: {c.spec.requests} {c.spec.constraints}" for c in self.claims]
        for items, leaving in self.rounds:
            lines.append(f"round, before it leave {leaving}")
            for item in items:
                pods = [(p.key[1], p.shape.requests, [c[1] for c in p.claims]) for p in item.pods]
                gang = item.gang and (item.gang.key[1], item.gang.min_count, item.gang.topology_key)
                lines.append(f"  {pods} {gang}")
        return "\n".join(lines)

    def snapshot(self, *, backwards=False):
        found = Snapshot(Inventory(selects, best_fit=self.best_fit))
        found.inventory.set_class(DeviceClass("class", ("any",)))
        step = -1 if backwards else 1
        for node in self.nodes[::step]:
            found.set_node(node)
        for item in self.slices[::step]:
            found.inventory.set_slice(item)
        for claim in self.claims[::step]:
            found.set_claim(claim, None)
        for items, _ in self.rounds:
            for item in items:
                if item.gang is not None:
                    found.gangs[item.gang.key] = item.gang
        return found


@st.composite
def worlds(draw, rounds=2, gangs=True):
    names = [f"n{i}" for i in range(draw(st.integers(1, 3)))]
    nodes = [
        Node(
            name,
            (("cpu", draw(st.integers(1, 4))), ("pods", draw(st.integers(1, 4)))),
            {"rack": draw(st.sampled_from("ab"))},
        )
        for name in names
    ]
    claims = [Claim(("ns", f"c{i}"), draw(specs())) for i in range(draw(st.integers(1, 4)))]
    keys = [claim.key for claim in claims]
    found, made = [], 0
    for number in range(rounds):
        items = []
        for _ in range(draw(st.integers(1, 3))):
            size = draw(st.integers(1, 3)) if gangs else 1
            least = draw(st.integers(1, size)) if size > 1 else 0
            key = ("ns", f"g{made}")
            pods = []
            for _ in range(size):
                cpu = draw(st.integers(0, 2))
                wanted = draw(st.lists(st.sampled_from(keys), max_size=2, unique=True))
                shape = PodShape(requests=(("cpu", cpu),) if cpu else (), nonzero=(cpu, 0))
                pods.append(
                    Pod(
                        ("ns", f"p{made}"),
                        shape,
                        created=float(made),
                        gang=key if least else None,
                        claims=tuple(wanted),
                    )
                )
                made += 1
            gang = Gang(key, least, draw(st.sampled_from(["", "rack"]))) if least else None
            items.append(QueueItem(tuple(pods), gang))
        leaving = draw(st.lists(st.integers(0, 5), max_size=3)) if number else []
        found.append((items, leaving))
    slices = draw(pools(names))
    # As upstream, first fit gives a pod up whose constraint forbids one of all devices, and lets an
    # administrator's request count for the rest of its pod (test_upstream_defects.py).
    hopeless = any(claim.spec.constraints and wants_all(claim.spec) for claim in claims)
    watched = any(r.admin_access for c in claims for e in c.spec.requests for r in e.alternatives)
    return World(nodes, slices, claims, found, hopeless or watched or draw(st.booleans()))


def wants_all(spec):
    return any(r.mode == ALL for entry in spec.requests for r in entry.alternatives)


# The rules, read naively.


@dataclass
class State:
    """Who is where, and what claims have, as documents would say it."""

    world: World
    places: dict  # Pod -> node
    held: dict  # claim key -> Allocation


def owner_of(world, id_):
    return next(
        (item, device)
        for item in world.slices
        for device in item.devices
        if (item.driver, item.pool, device.name) == id_
    )


def reaches(item, device, node):
    place = device if item.per_device else item
    if place.all_nodes:
        return True
    if place.node_terms is not None:
        return any(term.matches(node.name, node.labels) for term in place.node_terms)
    return place.node_name == node.name


def serves(request, device):
    """Whether the device may be given to the request, if it is free."""
    if not all(selects(s, DRIVER, device) for s in request.selectors):
        return False
    return not device.taints or bool(request.tolerations)


def size_for(request, device):
    """What a share takes; None if it may not be. Exclusive devices: if they have what is asked."""
    asked = dict(request.capacity or ())
    if any(name not in device.capacity for name in asked):
        return None
    if "memory" not in device.capacity:
        return Fraction(0)
    capacity = device.capacity["memory"]
    policy, wanted = capacity.policy, asked.get("memory")
    if wanted is None:
        return Fraction(policy.default if policy else capacity.value)
    if policy is None:
        return Fraction(wanted)
    if policy.valid_values:
        return next((Fraction(v) for v in policy.valid_values if v >= wanted), None)
    steps = itertools.count(policy.minimum, policy.step)
    size = next(value for value in steps if value >= wanted)
    return Fraction(size) if size <= policy.maximum else None


def constraint_holds(constraint, values):
    """Whether the values of the devices under it agree, or differ in pairs."""
    if any(value is None for value in values):
        return False
    sets = [value.values for value in values]
    if constraint.match:
        return not sets or bool(frozenset.intersection(*sets))
    return all(a.isdisjoint(b) for a, b in itertools.combinations(sets, 2))


def books_balance(world, allocations):
    """Whether all allocations can stand beside each other."""
    exclusive, memory, in_use = Counter(), Counter(), set()
    for allocation in allocations:
        for result in allocation.results:
            if result.admin_access:
                continue
            _, device = owner_of(world, result.id)
            in_use.add(result.id)
            if device.allow_multiple:
                memory[result.id] += sum(amount for _, amount in result.consumed)
            else:
                exclusive[result.id] += 1
    counters = Counter()
    for id_ in in_use:
        _, device = owner_of(world, id_)
        for use in device.consumes:
            counters[id_.pool, use.counter_set] += sum(amount for _, amount in use.counters)
    return (
        all(count == 1 for count in exclusive.values())
        and all(amount <= CAPACITY for amount in memory.values())
        and all(amount <= COUNTERS for amount in counters.values())
    )


def allocation_is_right(world, spec, allocation, node):
    """Whether what a claim has is what it asked for, as far as the claim alone can say."""
    by_path = {}
    for result in allocation.results:
        by_path.setdefault(result.request, []).append(result)
    under = [[] for _ in spec.constraints]
    for entry in spec.requests:
        chosen = [r for r in entry.alternatives if entry.path(r) in by_path]
        assert len(chosen) == 1, "one alternative of each request"
        request = chosen[0]
        given = by_path.pop(entry.path(request))
        assert len({result.id for result in given}) == len(given) or request.admin_access
        if request.mode != ALL:
            assert len(given) == request.count
        for result in given:
            item, device = owner_of(world, result.id)
            assert reaches(item, device, node)
            assert serves(request, device)
            assert bool(result.admin_access) == bool(request.admin_access)
            assert result.shared == device.allow_multiple
            size = size_for(request, device)
            assert size is not None
            if device.allow_multiple:
                taken = {} if request.admin_access else {"memory": size}
                assert dict(result.consumed) == taken
            for values, constraint in zip(under, spec.constraints, strict=True):
                if constraint.covers(entry, request):
                    values.append(device.attributes.get(constraint.match or constraint.distinct))
    assert not by_path, "no result without a request"
    for values, constraint in zip(under, spec.constraints, strict=True):
        assert constraint_holds(constraint, values)


def judge(state):
    """Everything that must hold between cycles."""
    world = state.world
    by_name = {node.name: node for node in world.nodes}
    for node in world.nodes:
        there = [pod for pod, name in state.places.items() if name == node.name]
        have = dict(node.allocatable)
        assert len(there) <= have["pods"]
        assert sum(pod.shape.request("cpu") for pod in there) <= have["cpu"]
    assert books_balance(world, state.held.values())
    spec_of = {claim.key: claim.spec for claim in world.claims}
    for pod, name in state.places.items():
        for key in pod.claims:
            assert key in state.held, "a pod runs only with its claims"
            assert state.held[key].scope.admits(name, by_name[name].labels)
            allocation_is_right(world, spec_of[key], state.held[key], by_name[name])


def judge_gang(world, item, placements):
    if item.gang is None or not placements:
        return
    assert len(placements) >= item.gang.min_count, "all or nothing"
    if item.gang.topology_key:
        rack_of = {node.name: node.labels["rack"] for node in world.nodes}
        assert len({rack_of[p.node] for p in placements}) == 1


def play(world, snapshot):
    """The rounds, judged one by one; ends with the state and all items that got nothing at last."""
    placer = Placer(snapshot)
    state, story = State(world, {}, {}), []
    waiting = []
    for items, leaving in world.rounds:
        for number in leaving:
            running = sorted(state.places, key=lambda pod: pod.key)
            gone = [pod for pod in running if pod.gang is None][number : number + 1]
            for pod in gone:
                leave(snapshot, state, pod)
        waiting = [*waiting, *items]
        plan = plan_cycle(placer, waiting, preemption=False)
        snapshot.check()
        for decision in plan.decisions:
            judge_gang(world, decision.item, decision.placements)
            for placement in decision.placements:
                assert placement.pod not in state.places
                state.places[placement.pod] = placement.node
                for key, allocation in placement.allocations:
                    assert key not in state.held
                    state.held[key] = allocation
            story += [(p.pod.key, p.node, p.allocations) for p in decision.placements]
        judge(state)
        waiting = [d.item for d in plan.decisions if not d.placements]
        decisions = [d for d in plan.decisions if not d.placements]
    return state, story, decisions


def leave(snapshot, state, pod):
    """The pod ends, and with it the claims that nobody else uses."""
    snapshot.displace(pod.key)
    del state.places[pod]
    for key in pod.claims:
        if not any(key in other.claims for other in state.places):
            if key in snapshot.allocations:
                snapshot.deallocate(key)
            state.held.pop(key, None)


# Every way to give a claim its devices on a node.


class TooManyError(Exception):
    pass


def ways(world, spec, node, budget):
    """All answers for one claim on one node, whatever else is in use."""
    reachable = [
        (DeviceId(item.driver, item.pool, device.name), device)
        for item in world.slices
        for device in item.devices
        if reaches(item, device, node)
    ]
    options = []
    for entry in spec.requests:
        choices = []
        for request in entry.alternatives:
            choices += [(entry, request, pick) for pick in picks_of(request, reachable)]
        options.append(choices)
    for combination in itertools.product(*options):
        budget[0] -= 1
        if budget[0] < 0:
            raise TooManyError
        under = [[] for _ in spec.constraints]
        for entry, request, pick in combination:
            for values, constraint in zip(under, spec.constraints, strict=True):
                if constraint.covers(entry, request):
                    name = constraint.match or constraint.distinct
                    values += [device.attributes.get(name) for _, device in pick]
        if all(map(constraint_holds, spec.constraints, under)):
            yield [
                (request, id_, device) for _, request, pick in combination for id_, device in pick
            ]


def picks_of(request, reachable):
    able = [
        (id_, device)
        for id_, device in reachable
        if serves(request, device) and size_for(request, device) is not None
    ]
    if request.mode != ALL:
        return list(itertools.combinations(able, request.count))
    matching = [
        (id_, device)
        for id_, device in reachable
        if all(selects(s, DRIVER, device) for s in request.selectors)
    ]
    return [tuple(able)] if able and len(able) == len(matching) else []


class Use:
    """Devices given out, on top of a state, to be asked whether the books balance."""

    def __init__(self, world, held):
        self.world = world
        self.exclusive, self.memory, self.in_use = Counter(), Counter(), Counter()
        for allocation in held:
            for result in allocation.results:
                if not result.admin_access:
                    _, device = owner_of(world, result.id)
                    size = sum(amount for _, amount in result.consumed)
                    self._book(result.id, device, size, 1)

    def _book(self, id_, device, size, sign):
        self.in_use[id_] += sign
        if device.allow_multiple:
            self.memory[id_] += sign * size
        else:
            self.exclusive[id_] += sign

    def change(self, answer, sign):
        for request, id_, device in answer:
            if not request.admin_access:
                self._book(id_, device, size_for(request, device), sign)

    def balances(self):
        counters = Counter()
        for id_, count in self.in_use.items():
            if count:
                _, device = owner_of(self.world, id_)
                for use in device.consumes:
                    counters[id_.pool, use.counter_set] += sum(a for _, a in use.counters)
        return (
            all(count <= 1 for count in self.exclusive.values())
            and all(amount <= CAPACITY for amount in self.memory.values())
            and all(amount <= COUNTERS for amount in counters.values())
        )


def could_start(state, pods, needed, same_rack):
    """Whether some of the pods, ``needed`` or more, could be placed beside what runs."""
    world = state.world
    spec_of = {claim.key: claim.spec for claim in world.claims}
    budget = [MOST_WAYS]
    use = Use(world, state.held.values())
    cpu = {n.name: dict(n.allocatable)["cpu"] for n in world.nodes}
    slots = {n.name: dict(n.allocatable)["pods"] for n in world.nodes}
    for pod, name in state.places.items():
        cpu[name] -= pod.shape.request("cpu")
        slots[name] -= 1
    given = {}  # claim -> the nodes on which what it has just got can be used

    def place(index, placed, rack):
        if placed >= needed:
            return True
        if placed + len(pods) - index < needed:
            return False
        pod = pods[index]
        for node in world.nodes:
            if same_rack and rack not in ("", node.labels["rack"]):
                continue
            if slots[node.name] < 1 or cpu[node.name] < pod.shape.request("cpu"):
                continue
            slots[node.name] -= 1
            cpu[node.name] -= pod.shape.request("cpu")
            then = partial(place, index + 1, placed + 1, node.labels["rack"])
            found = claim(pod.claims, node, then)
            slots[node.name] += 1
            cpu[node.name] += pod.shape.request("cpu")
            if found:
                return True
        return place(index + 1, placed, rack)

    def claim(keys, node, then, mine=()):
        if not keys:
            return then()
        key, rest = keys[0], keys[1:]
        if key in state.held:
            admits = state.held[key].scope.admits(node.name, node.labels)
            return admits and not tainted(world, state.held[key]) and claim(rest, node, then, mine)
        if key in given:
            return node.name in given[key] and claim(rest, node, then, mine)
        for answer in ways(world, spec_of[key], node, budget):
            if given_twice([*mine, *answer]):
                continue
            use.change(answer, 1)
            if use.balances():
                given[key] = {
                    n.name
                    for n in world.nodes
                    if all(reaches(*owner_of(world, id_), n) for _, id_, _ in answer)
                }
                found = claim(rest, node, then, (*mine, *answer))
                del given[key]
            else:
                found = False
            use.change(answer, -1)
            if found:
                return True
        return False

    return place(0, 0, "")


def given_twice(picks):
    """As upstream, a pod gets a whole device once, be it for an administrator."""
    whole = Counter(id_ for _, id_, device in picks if not device.allow_multiple)
    return any(count > 1 for count in whole.values())


def tainted(world, allocation):
    """Held devices that are tainted keep further pods off (docs/differences.md)."""
    for result in allocation.results:
        _, device = owner_of(world, result.id)
        if device.taints and not result.tolerations and not result.admin_access:
            return True
    return False


@checked
@given(worlds())
def test_nothing_is_given_away_twice_and_claims_get_what_they_ask_for(world):
    state, _, _ = play(world, world.snapshot())
    event(f"pods placed: {min(len(state.places), 4)}")
    event(f"claims held: {len(state.held)}")


@checked
@given(worlds(gangs=False))
def test_a_pod_waits_only_if_there_is_no_way_at_all(world):
    state, _, decisions = play(world, world.snapshot())
    for decision in decisions:
        for pod in decision.item.pods:
            try:
                possible = could_start(state, [pod], 1, False)
            except TooManyError:
                event("abstained")
                continue
            event("nothing possible" if not possible else "possible")
            assert not possible, f"{pod.key} could start: {state}"


@checked
@given(worlds(rounds=1))
def test_a_gang_waits_only_if_there_is_no_way_at_all(world):
    state, _, decisions = play(world, world.snapshot())
    for decision in decisions:
        gang = decision.item.gang
        if gang is None or decision.gang_verdict is None or decision.gang_verdict.undecided:
            continue
        try:
            possible = could_start(
                state, decision.item.pods, gang.min_count, bool(gang.topology_key)
            )
        except TooManyError:
            event("abstained")
            continue
        event("judged")
        assert not possible, f"{decision.gang_verdict}: {state}"


@checked
@given(worlds())
def test_the_order_in_which_things_are_learnt_decides_nothing(world):
    forward = play(world, world.snapshot())
    backward = play(world, world.snapshot(backwards=True))
    assert forward[1] == backward[1], f"{world!r}"
    assert messages(forward[2]) == messages(backward[2])


def messages(decisions):
    """What waiting pods are told."""
    return [[(pod.key, v.message()) for pod, v in d.unplaced] for d in decisions]


@checked
@given(worlds(rounds=1), st.integers(0, 2))
def test_more_capacity_never_makes_a_fitting_gang_unfit(world, which):
    gangs = [item for item in world.rounds[0][0] if item.gang is not None]
    assume(gangs)
    item = gangs[0]
    [before] = plan_cycle(Placer(world.snapshot()), [item], preemption=False).decisions
    assume(before.placements)
    node = world.nodes[which % len(world.nodes)]
    copy = Node("zz", node.allocatable, node.labels)
    world.nodes.append(copy)
    world.slices += [
        Slice(
            f"zz-{s.name}",
            s.driver,
            f"zz-{s.pool}",
            s.generation,
            s.slice_count,
            tuple(s.devices),
            s.counter_sets,
            node_name="zz",
        )
        for s in list(world.slices)
        if s.node_name == node.name
    ]
    [after] = plan_cycle(Placer(world.snapshot()), [item], preemption=False).decisions
    has_all = any(
        request.mode == ALL
        for claim in world.claims
        for entry in claim.spec.requests
        for request in entry.alternatives
    )
    event("with All" if has_all else "without All")
    assert after.placements or after.gang_verdict.undecided, after.gang_verdict
