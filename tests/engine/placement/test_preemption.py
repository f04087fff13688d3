"""Who has to go, and that going suffices."""

from __future__ import annotations

from hypothesis import given, settings

from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    Allocation,
    ClaimSpec,
    Device,
    DeviceClass,
    DeviceId,
    DeviceResult,
    Request,
    RequestEntry,
    Slice,
)
from kubarium.engine.model import Claim, Gang, Node, Pod, PodShape
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import QueueItem
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
