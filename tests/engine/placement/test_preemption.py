"""Who has to go, and that going suffices."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings

from kubarium.engine import reasons
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    Allocation,
    Capacity,
    ClaimSpec,
    CounterUse,
    Device,
    DeviceClass,
    DeviceId,
    DeviceResult,
    Request,
    RequestEntry,
    Slice,
)
from kubarium.engine.model import (
    Budget,
    Claim,
    Composite,
    Gang,
    HostPort,
    Node,
    Pod,
    PodShape,
    PodTerm,
)
from kubarium.engine.placement import preemption
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import Profile
from kubarium.engine.placement.victims import Units
from kubarium.engine.plan import QueueItem
from kubarium.engine.selectors import LabelSelector, Requirement
from kubarium.engine.snapshot import Snapshot

from .worlds import clusters, placer_of, pods


def pod(name, cpu=1, priority=0, gang=None, started=0.0, claims=()):
    shape = PodShape(requests=(("cpu", cpu),))
    return Pod(("ns", name), shape, priority=priority, gang=gang, started=started, claims=claims)


def node(name, cpu=2):
    return Node(name, (("cpu", cpu), ("pods", 20)))


def world(nodes, placed):
    snapshot = Snapshot()
    for item in nodes:
        snapshot.set_node(item)
    for item, where in placed:
        snapshot.place(item, where)
    return Placer(snapshot)


def victims(decision):
    return sorted(v.key[1] for v in decision.preemption.victims)


def test_the_lowest_priority_goes_before_the_fewest():
    placer = world(
        [node("a"), node("b")],
        [(pod("mid", 2, priority=5), "a"), (pod("low-1"), "b"), (pod("low-2"), "b")],
    )
    [decision] = plan_cycle(placer, [QueueItem((pod("new", 2, priority=9),))]).decisions
    assert victims(decision) == ["low-1", "low-2"]
    assert decision.preemption.nominations[0][1] == "b"


def test_no_more_victims_than_needed_and_the_important_ones_stay():
    placer = world(
        [node("a", cpu=4)],
        [(pod("p1", 1, 1), "a"), (pod("p2", 1, 2), "a"), (pod("p3", 2, 3), "a")],
    )
    [decision] = plan_cycle(placer, [QueueItem((pod("new", 2, priority=9),))]).decisions
    assert victims(decision) == ["p1", "p2"]


def test_equal_priority_is_never_preempted():
    placer = world([node("a")], [(pod("old", 2, priority=5), "a")])
    [decision] = plan_cycle(placer, [QueueItem((pod("new", 2, priority=5),))]).decisions
    assert decision.preemption is None
    assert decision.unplaced[0][1].preemption == (
        "0/1 nodes are available: 1 No preemption victims found for incoming pod."
    )


def test_a_pod_that_may_not_preempt_does_not():
    placer = world([node("a")], [(pod("old", 2), "a")])
    meek = Pod(("ns", "meek"), PodShape(requests=(("cpu", 2),)), priority=9, preempts=False)
    [decision] = plan_cycle(placer, [QueueItem((meek,))]).decisions
    assert decision.preemption is None


def test_a_gang_preempts_across_nodes_and_gives_back_what_it_can():
    placer = world(
        [node("a"), node("b"), node("c")],
        [(pod("va", 2, 1), "a"), (pod("vb", 2, 2), "b"), (pod("vc", 2, 3), "c")],
    )
    gang = Gang(("ns", "g"), 2)
    members = tuple(pod(f"g{i}", 2, priority=9, gang=gang.key) for i in range(2))
    [decision] = plan_cycle(placer, [QueueItem(members, gang)]).decisions
    assert len(victims(decision)) == 2
    assert len(decision.preemption.nominations) == 2
    placer.snapshot.check()


def test_a_pod_with_a_claim_can_evict_the_holder_of_its_device():
    snapshot = Snapshot(Inventory(lambda e, d, device: True))
    snapshot.set_node(node("a", cpu=10))
    snapshot.inventory.set_class(DeviceClass("gpu", ("any",)))
    snapshot.inventory.set_slice(Slice("s", "d", "a", 1, 1, (Device("g"),), node_name="a"))
    spec = ClaimSpec((RequestEntry("r", (Request("r", "gpu"),)),))
    held, wanted = ("ns", "held"), ("ns", "wanted")
    result = DeviceResult("r", DeviceId("d", "a", "g"))
    snapshot.set_claim(Claim(held, spec), Allocation((result,)))
    snapshot.set_claim(Claim(wanted, spec), None)
    snapshot.place(pod("holder", claims=(held,)), "a")
    new = pod("new", priority=9, claims=(wanted,))
    [decision] = plan_cycle(Placer(snapshot), [QueueItem((new,))]).decisions
    assert victims(decision) == ["holder"]
    assert snapshot.allocations[held] == Allocation((result,))
    snapshot.check()


def sharing(snapshot, name, driver="d", admin=None, amount=3):
    """A claim that holds three of the ten of one shared device."""
    key = ("ns", f"claim-{name}")
    share = () if admin else (("memory", amount),)
    result = DeviceResult("r", DeviceId(driver, "a", "g"), admin, not admin, share)
    spec = ClaimSpec((RequestEntry("r", (Request("r", "gpu", capacity=(("memory", amount),)),)),))
    snapshot.set_claim(Claim(key, spec), Allocation((result,)))
    return key


def shared_world():
    snapshot = Snapshot(Inventory(lambda e, d, device: True))
    snapshot.set_node(node("a", cpu=10))
    snapshot.inventory.set_class(DeviceClass("gpu", ("any",)))
    device = Device("g", {}, {"memory": Capacity(10)}, allow_multiple=True)
    snapshot.inventory.set_slice(Slice("s", "d", "a", 1, 1, (device,), node_name="a"))
    return snapshot


def test_of_those_who_share_a_device_only_as_many_go_as_must():
    snapshot = shared_world()
    for i, name in enumerate("xyz"):
        key = sharing(snapshot, name)
        snapshot.place(pod(name, claims=(key,), started=float(i)), "a")
    wanted = sharing(snapshot, "new")
    snapshot.deallocate(wanted)
    new = pod("new", priority=9, claims=(wanted,))
    [decision] = plan_cycle(Placer(snapshot), [QueueItem((new,))]).decisions
    assert len(decision.preemption.victims) == 1
    snapshot.check()


def test_what_is_released_can_be_had_again_unless_somebody_took_it():
    snapshot = shared_world()
    mine, watching = sharing(snapshot, "mine", amount=6), sharing(snapshot, "watching", admin=True)
    for key in (mine, watching):
        snapshot.release(key)
        assert snapshot.reclaimable(key)
    sharing(snapshot, "small", amount=4)
    assert snapshot.reclaimable(mine)
    sharing(snapshot, "more", amount=1)
    assert not snapshot.reclaimable(mine)
    assert snapshot.reclaimable(watching)
    snapshot.inventory.remove_slice("s")
    assert not snapshot.reclaimable(mine)


def test_a_device_of_the_same_name_of_another_driver_takes_no_counters():
    """Two drivers name their pools after the node, and their devices alike."""
    snapshot = Snapshot(Inventory(lambda e, d, device: True))
    use = (CounterUse("set", (("slices", 1),)),)
    counters = (("set", (("slices", 1),)),)
    for driver, devices in (("d", ("g", "h")), ("other", ("h",))):
        parts = tuple(Device(name, consumes=use) for name in devices)
        snapshot.inventory.set_slice(Slice(driver, driver, "a", 1, 2, parts, node_name="a"))
        snapshot.inventory.set_slice(
            Slice(f"{driver}-c", driver, "a", 1, 2, counter_sets=counters, node_name="a")
        )
    results = tuple(
        DeviceResult(f"r{i}", DeviceId(driver, "a", name))
        for i, (driver, name) in enumerate((("d", "g"), ("other", "h")))
    )
    assert snapshot.inventory.could_take_again(Allocation(results), {})


@settings(deadline=None)
@given(clusters(least=1), pods(most=6), pods(most=2))
def test_removing_the_victims_makes_the_pod_fit(cluster, old, new):
    placer = placer_of(cluster)
    plan_cycle(placer, [QueueItem((p,)) for p in old], preemption=False)
    before = placer.snapshot.requested.copy()
    for i, waiting in enumerate(new):
        newcomer = Pod(("ns", f"new-{i}"), waiting.shape, priority=10)
        [decision] = plan_cycle(placer, [QueueItem((newcomer,))]).decisions
        if decision.placements:
            before = placer.snapshot.requested.copy()
            continue
        assert (placer.snapshot.requested == before).all()
        if decision.preemption is None:
            continue
        for victim in decision.preemption.victims:
            placer.snapshot.displace(victim.key)
        assert placer.place(newcomer) is not None
        before = placer.snapshot.requested.copy()
    placer.snapshot.check()


def budget(name, allowed, **labels):
    clauses = tuple(Requirement(k, "In", (v,)) for k, v in labels.items())
    return Budget(("ns", name), LabelSelector(clauses), allowed)


def labelled(name, app, **more):
    return replace(pod(name, **more), labels={"app": app})


def test_a_node_whose_budgets_hold_goes_before_one_with_less_important_victims():
    placer = world(
        [node("a"), node("b")],
        [
            (labelled("guarded", "db", cpu=2), "a"),
            (labelled("free", "web", cpu=2, priority=5), "b"),
        ],
    )
    placer.snapshot.set_budget(("ns", "pdb"), budget("pdb", 0, app="db"))
    [decision] = plan_cycle(placer, [QueueItem((pod("new", cpu=2, priority=10),))]).decisions
    assert victims(decision) == ["free"]


def test_a_budget_is_broken_when_nothing_else_helps():
    placer = world([node("a")], [(labelled("guarded", "db", cpu=2), "a")])
    placer.snapshot.set_budget(("ns", "pdb"), budget("pdb", 0, app="db"))
    [decision] = plan_cycle(placer, [QueueItem((pod("new", cpu=2, priority=10),))]).decisions
    assert victims(decision) == ["guarded"]


def test_pods_that_a_budget_guards_are_given_back_first():
    """Each alone would do; the guarded one comes back although it is the less important."""
    placer = world(
        [node("a")],
        [(labelled("guarded", "db"), "a"), (labelled("free", "web", priority=5), "a")],
    )
    placer.snapshot.set_budget(("ns", "pdb"), budget("pdb", 0, app="db"))
    [decision] = plan_cycle(placer, [QueueItem((pod("new", priority=10),))]).decisions
    assert victims(decision) == ["free"]


def test_a_new_budget_is_respected_by_what_is_remembered():
    placer = world(
        [node("a"), node("b")],
        [(labelled("one", "db", cpu=2), "a"), (labelled("two", "web", cpu=2), "b")],
    )
    item = QueueItem((pod("new", cpu=2, priority=10),))
    [first] = plan_cycle(placer, [item]).decisions
    assert victims(first) == ["one"]
    placer.snapshot.set_budget(("ns", "pdb"), budget("pdb", 0, app="db"))
    [second] = plan_cycle(placer, [item]).decisions
    assert victims(second) == ["two"]


@settings(deadline=None)
@given(clusters(least=1), pods(), pods(most=3))
def test_victims_by_arithmetic_are_those_of_the_simulation(cluster, placed, wanted):
    placer = placer_of(cluster)
    plan_cycle(placer, [QueueItem((p,)) for p in placed], preemption=False)
    placer.snapshot.set_budget(("ns", "pdb"), budget("pdb", 1, app="x"))
    for one in wanted:
        one = replace(one, key=("ns", "new"), priority=3, shape=replace(one.shape, ports=()))
        for row in preemption.candidate_rows(placer.snapshot, one):
            units = Units(placer.snapshot, 3)
            quick = preemption._by_arithmetic(placer.snapshot, one.shape, units, row)
            slow = preemption._simulated(placer, one, row, units)
            assert quick == slow


def test_a_gang_gives_back_the_more_important_victims():
    placed = [(pod(f"p{i}", cpu=2, priority=i), f"n{i}") for i in range(4)]
    placer = world([node(f"n{i}") for i in range(4)], placed)
    gang = Gang(("ns", "g"), 2)
    members = tuple(pod(f"g{i}", cpu=2, priority=9, gang=gang.key) for i in range(2))
    [decision] = plan_cycle(placer, [QueueItem(members, gang)]).decisions
    assert len(decision.preemption.victims) == 2
    assert len(decision.preemption.nominations) == 2


def test_a_group_that_is_disrupted_whole_stays_or_goes_whole():
    whole = Gang(("ns", "whole"), 2, all_disrupted=True)
    placed = [
        (pod("w0", cpu=2, gang=whole.key), "n0"),
        (pod("w1", cpu=2, gang=whole.key), "n1"),
        (pod("single", cpu=2, priority=1), "n2"),
    ]
    placer = world([node(f"n{i}") for i in range(3)], placed)
    placer.snapshot.gangs[whole.key] = whole
    gang = Gang(("ns", "g"), 1)
    [decision] = plan_cycle(
        placer, [QueueItem((pod("g0", cpu=2, priority=9, gang=gang.key),), gang)]
    ).decisions
    assert victims(decision) in (["single"], ["w0", "w1"])
    gone = set(victims(decision))
    assert not ({"w0", "w1"} & gone) or {"w0", "w1"} <= gone


def test_of_equal_priority_a_pod_goes_before_a_group_that_would_go_whole():
    """Upstream's order of importance; by age alone the whole group would go for one slot."""
    whole = Gang(("ns", "whole"), 2, all_disrupted=True)
    placed = [
        (pod("w0", gang=whole.key, started=10.0), "n0"),
        (pod("w1", gang=whole.key, started=10.0), "n1"),
        (pod("old", started=5.0), "n0"),
    ]
    placer = world([node("n0"), node("n1", cpu=1)], placed)
    placer.snapshot.gangs[whole.key] = whole
    [decision] = plan_cycle(placer, [QueueItem((pod("new", priority=9),))]).decisions
    assert victims(decision) == ["old"]


def test_a_budget_counts_the_pods_that_a_group_takes_along_on_other_nodes():
    whole = Gang(("ns", "whole"), 2, all_disrupted=True)
    guarded = replace(pod("w1", 2, gang=whole.key), labels={"app": "db"})
    placed = [(pod("w0", 3, gang=whole.key), "n0"), (guarded, "n2")]
    placed += [(pod(f"single-{i}"), "n1") for i in range(3)]
    placer = world([node("n0", 3), node("n1", 3), node("n2", 2)], placed)
    placer.snapshot.gangs[whole.key] = whole
    item = QueueItem((pod("new", 3, priority=9),))
    [decision] = plan_cycle(placer, [item]).decisions
    assert victims(decision) == ["w0", "w1"], "two pods, and no budget yet"
    placer.snapshot.set_budget(("ns", "pdb"), budget("pdb", 0, app="db"))
    [decision] = plan_cycle(placer, [item]).decisions
    assert victims(decision) == ["single-0", "single-1", "single-2"]


def test_a_group_that_goes_stands_in_the_way_on_no_other_node_either():
    whole = Gang(("ns", "whole"), 2, all_disrupted=True)
    loud = LabelSelector((Requirement("sound", "In", ("loud",)),))
    mates = [replace(pod(f"w{i}", 2, gang=whole.key), labels={"sound": "loud"}) for i in range(2)]
    rack = [replace(node(f"n{i}"), labels={"rack": "a"}) for i in range(2)]
    placer = world(rack, [(mate, f"n{i}") for i, mate in enumerate(mates)])
    placer.snapshot.gangs[whole.key] = whole
    away = PodShape(requests=(("cpu", 1),), pod_anti_affinity=(PodTerm("rack", loud, ("ns",)),))
    item = QueueItem((Pod(("ns", "new"), away, priority=9),))
    [decision] = plan_cycle(placer, [item]).decisions
    assert victims(decision) == ["w0", "w1"]


def test_what_is_remembered_of_a_row_goes_with_a_group_that_grows_elsewhere():
    whole = Gang(("ns", "whole"), 2, all_disrupted=True)
    placed = [
        (pod("w0", 2, gang=whole.key, started=0.5), "n0"),
        (pod("w1", 1, gang=whole.key, started=0.5), "n2"),
        (pod("single-0", started=1.0), "n1"),
        (pod("single-1", started=1.0), "n1"),
    ]
    placer = world([node("n0"), node("n1"), node("n2")], placed)
    placer.snapshot.gangs[whole.key] = whole
    item = QueueItem((pod("new", 2, priority=9),))
    [decision] = plan_cycle(placer, [item]).decisions
    assert victims(decision) == ["single-0", "single-1"], "two pods that started later"
    placer.snapshot.displace(("ns", "single-1"))
    placer.snapshot.place(replace(pod("single-1"), priority=1), "n1")
    [decision] = plan_cycle(placer, [item]).decisions
    assert victims(decision) == ["w0", "w1"]
    placer.snapshot.place(replace(pod("w2", 1, gang=whole.key), priority=2), "n2")
    [decision] = plan_cycle(placer, [item]).decisions
    assert victims(decision) == ["single-0", "single-1"], "what goes along is more important now"


@pytest.mark.parametrize("composite", [False, True])
def test_what_is_remembered_of_rows_holds_until_groups_are_known_or_others(composite):
    """As after a restart, when pods are seen before the group that may not be preempted."""
    group, above = ("ns", "g"), ("ns", "c")
    placed = [(pod(f"low-{i}", gang=group, started=1.0 + i), "n") for i in range(2)]
    placer = world([node("n")], placed)
    snapshot, new = placer.snapshot, QueueItem((pod("new", priority=5),))

    def chosen():
        [decision] = plan_cycle(placer, [new]).decisions
        return decision.preemption and victims(decision)

    assert chosen() == ["low-1"]
    mode = {"all_disrupted": True, "priority": 9}
    if composite:
        snapshot.gangs[group] = Gang(group, 2, parent=above)
        assert chosen() == ["low-1"]
        snapshot.composites[above] = Composite(above, 1, **mode)
        assert chosen() is None
        snapshot.composites[above] = Composite(above, 1, all_disrupted=True)
        assert chosen() == ["low-0", "low-1"]
        snapshot.composites.pop(above)
    else:
        snapshot.gangs[group] = Gang(group, 2, **mode)
        assert chosen() is None
        snapshot.gangs[group] = Gang(group, 2, all_disrupted=True)
        assert chosen() == ["low-0", "low-1"]
        del snapshot.gangs[group]
    assert chosen() == ["low-1"]


def test_a_group_with_a_pod_that_may_not_go_is_left_alone():
    whole = Gang(("ns", "whole"), 2, all_disrupted=True)
    placed = [
        (pod("w0", cpu=2, gang=whole.key), "n0"),
        (pod("w1", cpu=2, gang=whole.key, priority=50), "n1"),
    ]
    placer = world([node("n0"), node("n1")], placed)
    placer.snapshot.gangs[whole.key] = whole
    gang = Gang(("ns", "g"), 1)
    item = QueueItem((pod("g0", cpu=2, priority=9, gang=gang.key),), gang)
    [decision] = plan_cycle(placer, [item]).decisions
    assert decision.preemption is None


def test_a_nominated_pod_takes_its_node_if_it_fits_there():
    placer = world([node("a", cpu=9), node("b")], [])
    waiting = replace(pod("new"), nominated_node="b")
    [decision] = plan_cycle(placer, [QueueItem((waiting,))]).decisions
    assert [p.node for p in decision.placements] == ["b"]


def test_who_makes_room_takes_the_promises_of_the_less_important_on_its_node():
    only = Node("a", (("cpu", 2), ("pods", 20), ("example.com/slot", 1)))
    placer = world([only], [(pod("low", 2), "a")])
    slot = PodShape(requests=(("example.com/slot", 1),))
    promised = replace(pod("promised", priority=5), shape=slot)
    last = replace(pod("last", priority=1), shape=slot)
    for priority, fits in ((9, True), (5, False)):
        items = [QueueItem((one,)) for one in (pod("first", 2, priority=priority), last)]
        first, other = plan_cycle(placer, items, nominated=[(promised, "a")]).decisions
        assert victims(first) == ["low"]
        assert bool(other.placements) == fits
        for placement in other.placements:
            placer.snapshot.displace(placement.pod.key)


def preemption_text(decision):
    return decision.unplaced[0][1].preemption


def test_a_pod_that_is_ending_already_is_the_victim_that_costs_nothing():
    ending = replace(pod("ending", 2, priority=1), terminating=True)
    placer = world([node("a"), node("b")], [(ending, "a"), (pod("running", 2, priority=5), "b")])
    [decision] = plan_cycle(placer, [QueueItem((pod("new", 2, priority=9),))]).decisions
    assert victims(decision) == ["ending"]
    assert decision.preemption.nominations[0][1] == "a"


def test_while_room_is_made_on_its_node_a_pod_evicts_nobody_else():
    going = replace(pod("going", 2), terminating=True, preempted=True)
    placer = world([node("a"), node("b")], [(going, "a"), (pod("other", 2), "b")])
    nominated = replace(pod("new", 2, priority=9), nominated_node="a")
    [decision] = plan_cycle(placer, [QueueItem((nominated,))]).decisions
    assert decision.preemption is None
    assert preemption_text(decision) == (
        "not eligible due to a terminating pod on the nominated node."
    )
    # Someone else ends it, or the node is lost to the pod: then it may.
    by_user = replace(going, preempted=False)
    placer = world([node("a"), node("b")], [(by_user, "a"), (pod("other", 2), "b")])
    [decision] = plan_cycle(placer, [QueueItem((nominated,))]).decisions
    assert decision.preemption is not None
    lost = Node("a", (("cpu", 2), ("pods", 20)), unschedulable=True)
    placer = world([lost, node("b")], [(going, "a"), (pod("other", 2), "b")])
    [decision] = plan_cycle(placer, [QueueItem((nominated,))]).decisions
    assert victims(decision) == ["other"]


def test_what_preemption_cannot_cure_is_said_node_by_node():
    placer = world(
        [node("small", cpu=1), node("empty-of-lower", cpu=4), node("crowded", cpu=4)],
        [
            (pod("peer", 3, priority=9), "empty-of-lower"),
            (pod("peer-too", 3, priority=9), "crowded"),
            (pod("low", 1), "crowded"),
        ],
    )
    [decision] = plan_cycle(placer, [QueueItem((pod("new", 2, priority=9),))]).decisions
    assert preemption_text(decision) == (
        "0/3 nodes are available: 1 Insufficient cpu,"
        " 1 No preemption victims found for incoming pod,"
        " 1 Preemption is not helpful for scheduling."
    )


def test_as_many_nodes_are_simulated_as_the_profile_says():
    profile = Profile(candidates_percent=0, min_candidates=1)
    placed = [(pod("cheap", 2, priority=1), "b"), (pod("dear", 2, priority=5), "a")]
    snapshot = world([node("a"), node("b")], placed).snapshot
    placer = Placer(snapshot, profile)
    [decision] = plan_cycle(placer, [QueueItem((pod("new", 2, priority=9),))]).decisions
    assert victims(decision) == ["dear"]  # only the first node by name was looked at
    assert preemption.candidate_rows(snapshot, pod("new", 2, priority=9)) == [0, 1]


def test_a_gang_gives_back_no_device_whose_counters_it_took():
    """The victim's partition and the gang's share one counter: the victim has to stay away."""
    whole = CounterUse("chip", (("slices", 1),))
    snapshot = Snapshot(Inventory(lambda e, d, device: True))
    snapshot.set_node(node("a", cpu=10))
    snapshot.inventory.set_class(DeviceClass("gpu", ("any",)))
    counters = (("chip", (("slices", 1),)),)
    parts = tuple(Device(f"part-{i}", consumes=(whole,)) for i in range(2))
    snapshot.inventory.set_slice(Slice("s", "d", "a", 1, 2, parts, node_name="a"))
    snapshot.inventory.set_slice(
        Slice("c", "d", "a", 1, 2, (), counter_sets=counters, node_name="a")
    )
    spec = ClaimSpec((RequestEntry("r", (Request("r", "gpu"),)),))
    held, wanted = ("ns", "held"), ("ns", "wanted")
    result = DeviceResult("r", DeviceId("d", "a", "part-1"))
    snapshot.set_claim(Claim(held, spec), Allocation((result,)))
    snapshot.set_claim(Claim(wanted, spec), None)
    snapshot.place(pod("holder", claims=(held,)), "a")
    gang = Gang(("ns", "g"), 1)
    member = pod("member", priority=9, gang=gang.key, claims=(wanted,))
    [decision] = plan_cycle(Placer(snapshot), [QueueItem((member,), gang)]).decisions
    assert victims(decision) == ["holder"]


def served(name, cpu=1, priority=0, port=0, started=0.0, **more):
    ports = (HostPort("0.0.0.0", "TCP", port),) if port else ()
    shape = PodShape(requests=(("cpu", cpu),), ports=ports)
    return Pod(("ns", name), shape, priority=priority, started=started, **more)


def decided(placer, item, **more):
    [decision] = plan_cycle(placer, [QueueItem((item,))], **more).decisions
    return decision


def test_a_pod_that_has_not_started_is_the_latest_of_all():
    """Upstream takes the present for its start, however long ago it was made."""
    running = replace(pod("running", started=900.0), created=800.0)
    pulling = replace(pod("pulling"), created=1.0)
    placer = world([node("a")], [(running, "a"), (pulling, "a")])
    assert victims(decided(placer, pod("new", priority=9))) == ["pulling"]
    placer = world([node("a"), node("b")], [(replace(running, shape=pod("", 2).shape), "a")])
    placer.snapshot.place(replace(pulling, shape=pod("", 2).shape), "b")
    assert victims(decided(placer, pod("new", priority=9))) == ["pulling"]


def test_a_budget_speaks_of_no_pod_without_labels():
    others = LabelSelector((Requirement("app", "NotIn", ("web",)),))
    bare, other = pod("bare", priority=5), replace(pod("other"), labels={"app": "db"})
    placer = world([node("a", cpu=1), node("b", cpu=1)], [(bare, "a"), (other, "b")])
    placer.snapshot.set_budget(("ns", "pdb"), Budget(("ns", "pdb"), others, 0))
    assert victims(decided(placer, pod("new", priority=9))) == ["bare"]


def test_it_is_said_what_each_node_would_lack_without_the_pods_that_may_go():
    """Not what it fails on now: the port would be free, and something else is short then."""
    placer = world(
        [node("a"), node("b"), node("c")],
        [
            (served("small", port=80), "a"),
            (served("peer", priority=9), "a"),
            (served("other", priority=9, port=80), "b"),
            (served("low"), "b"),
            (served("holder", 2, priority=9, port=80), "c"),
        ],
    )
    decision = decided(placer, served("new", 2, priority=9, port=80))
    assert decision.unplaced[0][1].counts == {reasons.HOST_PORTS: 3}
    assert preemption_text(decision) == (
        "0/3 nodes are available: 1 Insufficient cpu,"
        " 1 No preemption victims found for incoming pod,"
        " 1 node(s) didn't have free ports for the requested pod ports."
    )


def test_nodes_where_evictions_do_not_help_are_none_of_those_that_are_chosen_among():
    """One is asked for: the first is no use, as what is in the way there may not go."""
    profile = Profile(candidates_percent=0, min_candidates=1)
    placed = [
        (served("keeps", priority=9, port=80), "a"),
        (served("low"), "a"),
        (served("dear", priority=5, port=80), "b"),
        (served("cheap", port=80), "c"),
    ]
    snapshot = world([node("a"), node("b"), node("c")], placed).snapshot
    new = served("new", priority=9, port=80)
    assert victims(decided(Placer(snapshot, profile), new)) == ["dear"]
    assert victims(decided(Placer(snapshot), new)) == ["cheap"]
    few = replace(profile, max_dry_runs=1)
    assert decided(Placer(snapshot, few), new).preemption is None
    # While only nodes are found where a budget is broken, the search goes on.
    guarded = replace(placed[2][0], labels={"app": "db"})
    snapshot.place(guarded, "b")
    snapshot.set_budget(("ns", "pdb"), budget("pdb", 0, app="db"))
    assert victims(decided(Placer(snapshot, profile), new)) == ["cheap"]


def test_a_node_that_affinity_rules_out_is_not_emptied():
    """That the only pod it must be near would be gone, so that it may be the first, is no cure."""
    app = LabelSelector((Requirement("app", "In", ("x",)),))
    near = PodShape(requests=(("cpu", 1),), pod_affinity=(PodTerm("zone", app, ("ns",)),))
    placer = world([node("a")], [(replace(pod("friend"), labels={"app": "x"}), "a")])
    new = Pod(("ns", "new"), near, labels={"app": "x"}, priority=9)
    decision = decided(placer, new)
    assert decision.unplaced[0][1].counts == {reasons.POD_AFFINITY: 1}
    assert decision.preemption is None


def test_a_pod_that_has_grown_beyond_its_nominated_node_looks_elsewhere():
    going = replace(pod("going"), terminating=True, preempted=True)
    placer = world([node("a", cpu=1), node("b")], [(going, "a"), (pod("other", 2), "b")])
    decision = decided(placer, replace(pod("new", 2, priority=9), nominated_node="a"))
    assert victims(decision) == ["other"]
