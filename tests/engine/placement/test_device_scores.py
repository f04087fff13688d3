"""Which node a pod goes to by its devices: whole nodes and domains stay whole."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    Allocation,
    AttributeValue,
    Capacity,
    ClaimSpec,
    CounterUse,
    Device,
    DeviceClass,
    DeviceId,
    DeviceResult,
    DeviceTaint,
    NodeScope,
    Request,
    RequestEntry,
    Slice,
)
from kubarium.engine.devices.preference import (
    BEST_FIT,
    FIRST_FIT,
    IGNORE,
    PACK,
    SPREAD,
    DevicePreference,
)
from kubarium.engine.model import Claim, Gang, Node, Pod, PodShape, PreferredTerm
from kubarium.engine.placement.class_counts import ClassCounts
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.device_scores import DevicePacking
from kubarium.engine.placement.devices import claims_of
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import (
    LEAST_ALLOCATED,
    MOST_ALLOCATED,
    REQUESTED_TO_CAPACITY_RATIO,
    Profile,
    Strategy,
    Weights,
)
from kubarium.engine.plan import QueueItem
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.engine.snapshot import Snapshot

CLIQUE = "nvidia.com/gpu.clique"
WISH = PodShape(requests=(("cpu", 1000),), nonzero=(1000, 200))


def text(value):
    return AttributeValue("string", frozenset((value,)))


def selects(expression, driver, device):
    """``any``, or ``kind=value``."""
    kind = device.attributes.get("d/kind")
    wanted = expression.removeprefix("kind=")
    return expression == "any" or (kind is not None and wanted in kind.values)


def gpus(count, **more):
    return [Device(f"gpu-{i}", {"d/kind": text("gpu")}, **more) for i in range(count)]


def world(sizes, preference=None, *, labels=None, devices=gpus, cpu=64_000):
    """Node ``n<i>`` with as many devices as ``sizes[i]`` says."""
    inventory = Inventory(selects)
    if preference is not None:
        inventory.preference = preference
    inventory.set_class(DeviceClass("gpu", ("kind=gpu",)))
    inventory.set_class(DeviceClass("any", ("any",)))
    snapshot = Snapshot(inventory)
    for i, size in enumerate(sizes):
        name = f"n{i:02d}"
        has = (("cpu", cpu), ("memory", 10**9), ("pods", 110))
        snapshot.set_node(Node(name, has, dict((labels or {}).get(i, {}))))
        if size:
            inventory.set_slice(Slice(name, "d", name, 1, 1, tuple(devices(size)), node_name=name))
    return snapshot


def spec_of(count, *more, device_class="gpu", prioritised=False):
    requests = [Request("r" if not prioritised else "a", device_class, count=count)]
    requests += [Request(f"b{i}", name, count=n) for i, (name, n) in enumerate(more)]
    return ClaimSpec((RequestEntry("r", tuple(requests), prioritised=prioritised),))


def with_claim(snapshot, name, spec, wish=WISH, gang=None):
    key = ("ns", name)
    snapshot.claims[key] = Claim(key, spec)
    return Pod(key, wish, name, claims=(key,), gang=gang)


def place(placer, name, count, **more):
    placement = placer.place(with_claim(placer.snapshot, name, spec_of(count), **more))
    return None if placement is None else placement.node


def whole(snapshot):
    """How many nodes with devices have all of them free."""
    taken = {r.id.pool for a in snapshot.allocations.values() for r in a.results}
    return sum(bool(s.devices) and s.pool not in taken for s in snapshot.inventory.slices.values())


def test_an_open_node_is_filled_before_the_next_one_is_opened():
    placer = Placer(world([8, 8, 8]))
    assert [place(placer, f"p{i}", 1) for i in range(9)] == ["n00"] * 8 + ["n01"]


def test_the_fewest_that_are_left_are_taken_first():
    placer = Placer(world([8, 8]))
    assert [place(placer, f"big{i}", n) for i, n in enumerate((3, 6))] == ["n00", "n01"]
    assert place(placer, "small", 2) == "n01"


def test_of_whole_nodes_the_smallest_is_opened():
    placer = Placer(world([8, 4]))
    assert place(placer, "one", 1) == "n01"


def test_spreading_takes_the_node_with_the_most_left():
    placer = Placer(world([8, 8], DevicePreference(SPREAD)))
    assert [place(placer, f"p{i}", 1) for i in range(4)] == ["n00", "n01", "n00", "n01"]


def test_first_fit_leaves_the_choice_to_the_other_scores():
    placer = Placer(world([8, 8], DevicePreference(FIRST_FIT)))
    assert [place(placer, f"p{i}", 1) for i in range(2)] == ["n00", "n01"]  # LeastAllocated


def test_nodes_can_be_chosen_in_another_way_than_devices():
    placer = Placer(world([8, 8], DevicePreference(BEST_FIT, nodes=IGNORE)))
    assert [place(placer, f"p{i}", 1) for i in range(2)] == ["n00", "n01"]
    packed = Placer(world([8, 8], DevicePreference(FIRST_FIT, nodes=PACK)))
    assert [place(packed, f"p{i}", 1) for i in range(2)] == ["n00", "n00"]


def test_what_other_claims_have_got_makes_the_choice_weigh_less():
    """Upstream adds up all of the pod's claims before it scales them to 100.

    A first choice counts 8, a second 7: alone that is 100 and 87, beside a first choice that is
    held already 100 and 93.
    """
    snapshot = world([2, 2], DevicePreference(FIRST_FIT))
    nic = [Device("nic", {"d/kind": text("nic")})]
    snapshot.inventory.set_slice(Slice("n02", "d", "n02", 1, 1, tuple(nic), node_name="n02"))
    snapshot.set_node(Node("n02", (("cpu", 64_000), ("memory", 10**9), ("pods", 110))))
    snapshot.inventory.set_class(DeviceClass("nic", ("kind=nic",)))
    wanted = spec_of(1, ("nic", 1), prioritised=True)
    alone = with_claim(snapshot, "p", wanted)
    given = DeviceResult("r/a", DeviceId("d", "n00", "gpu-0"))
    snapshot.set_claim(Claim(("ns", "held"), wanted), Allocation((given,)))
    beside = replace(alone, claims=(*alone.claims, ("ns", "held")))
    placer = Placer(snapshot)
    for pod, points in ((alone, 100 - 87), (beside, 100 - 93)):
        total = placer.scores(pod)
        weight = placer.profile.weights.DynamicResources
        assert total[snapshot.rows["n01"]] - total[snapshot.rows["n02"]] == weight * points


def test_a_weight_of_none_turns_it_off():
    profile = Profile("s", weights=Weights(DynamicResources=0))
    placer = Placer(world([8, 8]), profile)
    assert [place(placer, f"p{i}", 1) for i in range(2)] == ["n00", "n01"]


def test_what_the_pod_prefers_weighs_more():
    wish = PodShape(
        preferred=(PreferredTerm(100, NodeTerm((Requirement("disk", "In", ("ssd",)),))),)
    )
    placer = Placer(world([8, 8], labels={1: {"disk": "ssd"}}))
    assert [place(placer, f"old{i}", 1) for i in range(7)] == ["n00"] * 7
    assert place(placer, "picky", 1, wish=wish) == "n01"


def test_an_earlier_alternative_weighs_more():
    snapshot = world([8, 8])
    inventory = snapshot.inventory
    inventory.set_class(DeviceClass("nic", ("kind=nic",)))
    cards = tuple(Device(f"nic-{i}", {"d/kind": text("nic")}) for i in range(4))
    inventory.set_slice(Slice("nics", "net", "n00", 1, 1, cards, node_name="n00"))
    placer = Placer(snapshot)
    assert place(placer, "open", 4) == "n00"
    pod = with_claim(snapshot, "p", spec_of(6, ("nic", 1), prioritised=True))
    placement = placer.place(pod)
    assert placement is not None
    assert placement.node == "n01"  # the second alternative would fill n00


def test_a_domain_is_filled_before_the_next_one_is_opened():
    labels = {i: {CLIQUE: f"c{i % 2}"} for i in range(6)}
    placer = Placer(world([4] * 6, labels=labels))
    got = [place(placer, f"p{i}", 4) for i in range(6)]
    assert got == ["n00", "n02", "n04", "n01", "n03", "n05"]


def test_domains_can_be_named():
    labels = {i: {"pod-of-racks": f"c{i % 2}"} for i in range(4)}
    preference = DevicePreference(domains=("pod-of-racks",))
    assert [place(Placer(world([4] * 4, labels=labels)), "p", 4)] == ["n00"]
    placer = Placer(world([4] * 4, preference, labels=labels))
    assert [place(placer, f"p{i}", 4) for i in range(2)] == ["n00", "n02"]


def test_a_gang_takes_the_domain_with_the_fewest_devices_that_do():
    labels = {0: {CLIQUE: "large"}, 1: {CLIQUE: "tight"}, 2: {CLIQUE: "tight"}}
    snapshot = world([16, 4, 4], labels=labels)
    gang = Gang(("ns", "g"), 2, topology_key=CLIQUE)
    snapshot.gangs[gang.key] = gang
    pods = tuple(with_claim(snapshot, f"g{i}", spec_of(4), gang=gang.key) for i in range(2))
    [decision] = plan_cycle(Placer(snapshot), [QueueItem(pods, gang)]).decisions
    assert {p.node for p in decision.placements} == {"n01", "n02"}


def test_partitions_of_one_card_are_one_unit():
    def cut(count):
        use = (CounterUse("card", (("memory", 1),)),)
        return [Device(f"part-{i}", {"d/kind": text("gpu")}, consumes=use) for i in range(count)]

    snapshot = world([0, 0])
    for name in ("n00", "n01"):
        inventory = snapshot.inventory
        inventory.set_slice(Slice(name, "d", name, 1, 2, tuple(cut(4)), node_name=name))
        sets = (("card", (("memory", 4),)),)
        inventory.set_slice(Slice(f"{name}-c", "d", name, 1, 2, counter_sets=sets, node_name=name))
    placer = Placer(snapshot)
    assert [place(placer, f"p{i}", 1) for i in range(5)] == ["n00"] * 4 + ["n01"]


def test_shares_count_by_the_capacity_that_is_gone():
    def shared(count):
        capacity = {"memory": Capacity(Fraction(8))}
        return gpus(count, allow_multiple=True, capacity=capacity)

    snapshot = world([1, 1], devices=shared)
    result = DeviceResult(
        "r", DeviceId("d", "n01", "gpu-0"), shared=True, consumed=(("memory", 2),)
    )
    snapshot.claims["ns", "old"] = Claim(("ns", "old"), spec_of(1))
    snapshot.allocate(("ns", "old"), Allocation((result,), NodeScope()))
    units = snapshot.inventory.units("n01", {}, [spec_of(1)])
    assert snapshot.inventory.occupancy(units).free == 0.75


def test_tainted_devices_do_not_make_a_node_whole():
    placer = Placer(
        world([4, 3], devices=lambda n: gpus(n) if n == 3 else _one_tainted(n)),
    )
    assert place(placer, "p", 1) == "n00"  # three usable of either: the first by name
    assert place(placer, "q", 3) == "n01"


def _one_tainted(count):
    taint = DeviceTaint("broken", "", "NoSchedule")
    return [*gpus(count - 1), Device("bad", {"d/kind": text("gpu")}, taints=(taint,))]


def test_a_node_that_comes_or_goes_is_seen():
    snapshot = world([8, 8])
    placer = Placer(snapshot)
    assert place(placer, "p0", 1) == "n00"
    snapshot.remove_node("n00")
    assert place(placer, "p1", 1) == "n01"
    snapshot.inventory.remove_slice("n01")
    assert place(placer, "p2", 1) is None
    snapshot.inventory.set_slice(Slice("n01", "d", "n01", 2, 1, tuple(gpus(2)), node_name="n01"))
    assert place(placer, "p3", 1) == "n01"


def _points(placer, name="asks"):
    """The points of each row's devices, for a claim of one GPU."""
    snapshot = placer.snapshot
    fit = placer.device_fit(claims_of(snapshot, with_claim(snapshot, name, spec_of(1))))
    return fit.ranked(np.where(snapshot.alive, 0, -1)).tolist()


def test_a_node_that_went_is_no_longer_the_measure_of_others():
    snapshot = world([2, 8], labels={0: {CLIQUE: "a"}, 1: {CLIQUE: "a"}})
    placer = Placer(snapshot)
    before = _points(placer)
    snapshot.remove_node("n01")
    assert before != _points(placer) == _points(Placer(snapshot))


def test_a_row_without_its_node_does_not_speak_for_nodes_like_the_one_that_went():
    snapshot = world([8, 8])
    placer = Placer(snapshot)
    before = _points(placer)
    fit = placer.device_fit(claims_of(snapshot, with_claim(snapshot, "asks", spec_of(1))))
    snapshot.remove_node("n00")
    fit.refresh()
    assert fit.room(1)[snapshot.rows["n01"]] == 8
    assert _points(placer)[1] == before[1]


@pytest.mark.parametrize("far", [0, 1])
def test_devices_from_afar_do_not_count_although_they_look_like_a_nodes_own(far):
    snapshot = world([0, 0, 4], labels={far: {CLIQUE: "a"}})
    near = snapshot.nodes[1 - far].name
    term = NodeTerm((Requirement(CLIQUE, "In", ("a",)),))
    inventory = snapshot.inventory
    inventory.set_slice(Slice("x", "d", "x", 1, 1, tuple(gpus(2)), node_terms=(term,)))
    inventory.set_slice(Slice("y", "d", "y", 1, 1, tuple(gpus(2)), node_name=near))
    points = _points(Placer(snapshot))
    assert (points[far], points[1 - far]) == (0, 60)  # of 120: half of what the largest has


def test_a_node_is_looked_at_once_for_each_change_of_its_devices(monkeypatch):
    placer = Placer(world([2] * 50))
    place(placer, "p0", 1)
    looked = []
    inventory = placer.snapshot.inventory
    kind_of = inventory.kind_of

    def look(kinds, node, labels):
        looked.append(node)
        return kind_of(kinds, node, labels)

    monkeypatch.setattr(inventory, "kind_of", look)
    for i in range(1, 5):
        place(placer, f"p{i}", 1)
    assert looked == ["n00", "n00", "n01", "n01"]


counts = st.lists(st.sampled_from([1, 1, 2, 8]), min_size=4, max_size=24)


def _run(sizes, wanted, preference, labels=None):
    snapshot = world(sizes, preference, labels=labels)
    placer = Placer(snapshot)
    return snapshot, [place(placer, f"p{i:02d}", n) for i, n in enumerate(wanted)]


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 5), counts)
def test_packing_leaves_at_least_as_many_whole_nodes_as_spreading(nodes, wanted):
    """And never refuses a claim of a whole node that spreading has room for."""
    packed, there = _run([8] * nodes, wanted, DevicePreference())
    spread, other = _run([8] * nodes, wanted, DevicePreference(SPREAD))
    small = [n for n in wanted if n < 8]
    if sum(small) <= 8 * nodes and None not in there and None not in other:
        assert whole(packed) >= whole(spread)
    placed = [
        sum(n == 8 and at is not None for n, at in zip(wanted, run, strict=True))
        for run in (there, other)
    ]
    if small == wanted[: len(small)]:  # the small ones came first
        assert placed[0] >= placed[1]


def test_a_mixed_load_keeps_room_for_the_large_claims():
    small_then_large = [1] * 12 + [8] * 6
    _, packed = _run([8] * 8, small_then_large, DevicePreference())
    _, spread = _run([8] * 8, small_then_large, DevicePreference(SPREAD))
    assert packed[12:].count(None) == 0
    assert spread[12:].count(None) == 6


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=5),
    st.lists(st.integers(1, 4), max_size=8),
    st.sampled_from([PACK, SPREAD]),
    st.booleans(),
)
def test_scores_never_change_what_fits(sizes, wanted, strategy, domains):
    """Decided on equal snapshots: a claim fits with the score exactly if it fits without."""
    labels = {i: {CLIQUE: f"c{i % 2}"} for i in range(0, len(sizes), 1 + domains)}
    snapshot = world(sizes, DevicePreference(nodes=strategy), labels=labels)
    placer = Placer(snapshot)
    for number, count in enumerate(wanted):
        pod = with_claim(snapshot, f"p{number}", spec_of(count))
        mark = snapshot.checkpoint()
        weights = Weights(DynamicResources=0)
        fits = Placer(snapshot, Profile("plain", weights=weights)).place(pod) is not None
        snapshot.rollback(mark)
        assert (placer.place(pod) is not None) == fits
        # What was kept current is what a newcomer computes.
        assert place_again(snapshot, placer) == place_again(snapshot, Placer(snapshot))


def place_again(snapshot, placer):
    mark = snapshot.checkpoint()
    pod = with_claim(snapshot, "again", spec_of(1))
    placement = placer.place(pod)
    snapshot.rollback(mark)
    return None if placement is None else (placement.node, placement.allocations)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.lists(st.integers(1, 3), max_size=6))
def test_the_same_input_gives_the_same_nodes(sizes, wanted):
    assert _run(sizes, wanted, DevicePreference())[1] == _run(sizes, wanted, DevicePreference())[1]


# Extended resources that devices stand for (KEP-5004)

RESOURCE = "example.com/gpu"
BACKED = PodShape(requests=(("cpu", 1000),), nonzero=(1000, 200), backed=((RESOURCE, "gpu", 2),))


def take(snapshot, node, count):
    ids = [DeviceId("d", node, f"gpu-{i}") for i in range(count)]
    key = ("ns", f"old-{node}")
    snapshot.claims[key] = Claim(key, spec_of(count))
    snapshot.allocate(key, Allocation(tuple(DeviceResult("r", one) for one in ids), NodeScope()))


def scores_of(snapshot, profile, wish=BACKED):
    placer = Placer(snapshot, profile)
    found = placer.fit(wish).refresh()
    return [int(found[snapshot.rows[name]]) for name in sorted(snapshot.rows)]


def only_fit(strategy):
    quiet = Weights(NodeResourcesBalancedAllocation=0, ImageLocality=0)
    return Profile("s", weights=quiet, strategy=strategy)


@pytest.mark.parametrize(
    ("kind", "expected"),
    # (2 + 2) of 8, (0 + 2) of 4, and a node without devices, where the resource has no weight.
    [(MOST_ALLOCATED, [50, 50, 0]), (LEAST_ALLOCATED, [50, 50, 0])],
)
def test_devices_count_as_the_resource_they_stand_for(kind, expected):
    snapshot = world([8, 4, 0])
    take(snapshot, "n00", 2)
    assert scores_of(snapshot, only_fit(Strategy(kind, ((RESOURCE, 1),)))) == expected


def test_devices_count_in_a_ratio_and_in_the_balance():
    snapshot = world([8, 4])
    take(snapshot, "n00", 4)
    ratio = Strategy(REQUESTED_TO_CAPACITY_RATIO, ((RESOURCE, 1),), ((0, 0), (100, 10)))
    assert scores_of(snapshot, only_fit(ratio)) == [75, 50]
    balance = Profile(
        "s",
        weights=Weights(NodeResourcesFit=0, ImageLocality=0),
        balanced=("cpu", RESOURCE),
    )
    # Shares of cpu and devices before and after: n00 (0, .5) to (1/64, .75): 75 to 63 of 100.
    assert scores_of(snapshot, balance) == [50 + (50 + 63 - 75) // 2, 50 + (50 + 75 - 100) // 2]


def test_the_resource_scores_only_for_pods_that_ask_for_it():
    snapshot = world([8, 4])
    take(snapshot, "n00", 2)
    profile = only_fit(Strategy(MOST_ALLOCATED, ((RESOURCE, 1),)))
    plain = PodShape(requests=(("cpu", 1000),), nonzero=(1000, 200))
    assert scores_of(snapshot, profile, plain) == [0, 0]


def test_the_columns_follow_devices_that_are_taken_and_freed():
    snapshot = world([8, 4])
    profile = only_fit(Strategy(MOST_ALLOCATED, ((RESOURCE, 1),)))
    placer = Placer(snapshot, profile)
    fit = placer.fit(BACKED)
    rows = [snapshot.rows["n00"], snapshot.rows["n01"]]
    assert np.asarray(fit.refresh())[rows].tolist() == [25, 50]
    take(snapshot, "n00", 4)
    assert np.asarray(fit.refresh())[rows].tolist() == [75, 50]
    snapshot.deallocate(("ns", "old-n00"))
    assert np.asarray(fit.refresh())[rows].tolist() == [25, 50]
    snapshot.inventory.set_class(DeviceClass("gpu", ("kind=other",)))
    assert np.asarray(fit.refresh())[rows].tolist() == [0, 0]


def test_a_changed_node_is_counted_again_alone():
    """Of 40 nodes one changes: one is asked about, and the columns are those made afresh."""
    snapshot = world([4] * 40)
    counts = snapshot.shared(ClassCounts)
    counts.of("gpu")
    asked = []
    kind_of, kinds_of = snapshot.inventory.kind_of, snapshot.inventory.kinds_of

    def one(kinds, node, labels):
        asked.append(node)
        return kind_of(kinds, node, labels)

    def many(kinds, nodes):
        asked.extend(name for name, _ in nodes)
        return kinds_of(kinds, nodes)

    snapshot.inventory.kind_of, snapshot.inventory.kinds_of = one, many
    for number in range(3):
        take(snapshot, f"n{number:02d}", 2 + number % 2)
        counts.of("gpu")
    assert asked == ["n00", "n01", "n02"]
    total, used = counts.of("gpu")
    fresh = ClassCounts(snapshot).of("gpu")
    assert (total.tolist(), used.tolist()) == (fresh[0].tolist(), fresh[1].tolist())
    assert used.sum() == 7
    snapshot.set_node(Node("late", (("cpu", 1), ("memory", 1), ("pods", 1))))
    snapshot.inventory.set_slice(Slice("late", "d", "late", 1, 1, tuple(gpus(3)), node_name="late"))
    snapshot.remove_node("n05")
    total, _ = counts.of("gpu")
    assert total[snapshot.rows["late"]] == 3
    assert asked[3:] == ["late"]


def test_nodes_that_have_gone_are_not_kept_for_their_devices():
    """As with an autoscaler: every name is new."""
    snapshot = world([8])
    packing = DevicePacking(snapshot, [spec_of(1)], DevicePreference())
    kinds = snapshot.inventory.sights.kinds(None)

    def kind(row):
        node = snapshot.nodes[row]
        return -1 if node is None else snapshot.inventory.kind_of(kinds, node.name, node.labels)

    def all_kinds():
        return np.array([kind(row) for row in range(snapshot.capacity)])

    for number in range(5):
        name = f"new{number}"
        snapshot.set_node(Node(name, (("pods", 9),)))
        devices = tuple(gpus(number + 1))
        snapshot.inventory.set_slice(Slice(name, "d", name, 1, 1, devices, node_name=name))
        packing.refresh(None, kind, all_kinds)
        assert packing.points[snapshot.rows[name]] > 0
        snapshot.inventory.remove_slice(name)
        snapshot.remove_node(name)
    packing.refresh(None, kind, all_kinds)
    assert len(packing._units) <= 1
