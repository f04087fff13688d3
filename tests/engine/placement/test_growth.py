"""Who goes so that a running pod can grow where it is."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from kubarium.engine.model import Gang, Node, Pod, PodShape
from kubarium.engine.placement.growth import grow
from kubarium.engine.placement.profile import Profile
from kubarium.engine.snapshot import Snapshot


def pod(name, cpu=1, priority=0, memory=0, gang=None, **more):
    shape = PodShape(requests=(("cpu", cpu), ("memory", memory)))
    return Pod(("ns", name), shape, name, priority=priority, gang=gang, **more)


def world(pods, cpu=4, memory=100, **node):
    snapshot = Snapshot()
    amounts = (("cpu", cpu), ("memory", memory), ("pods", 20))
    snapshot.set_node(Node("a", amounts, **node))
    for item in pods:
        snapshot.place(item, "a")
    return snapshot


def victims(growth):
    return sorted(v.key[1] for v in growth.preemption.victims) if growth.preemption else []


def test_a_resize_that_fits_needs_nobody_to_go():
    me = pod("me", 2, priority=5)
    assert grow(world([me, pod("low", 2)]), me).message == ""


def test_the_least_important_pod_that_suffices_goes_and_nobody_is_nominated_elsewhere():
    me = pod("me", 3, priority=5)
    found = grow(world([me, pod("low", 1), pod("mid", 1, priority=1), pod("high", 1, 9)]), me)
    assert found.message == "0/1 nodes are available: 1 Insufficient cpu."
    assert victims(found) == ["low", "mid"]
    assert found.preemption.nominations == ((me, "a"),)


def test_equals_are_never_victims_and_the_message_says_what_would_still_lack():
    me = pod("me", 4, priority=5)
    lonely = grow(world([me, pod("peer", 1, priority=5)]), me)
    assert lonely.preemption is None
    assert "1 No preemption victims found for incoming pod" in lonely.message
    short = grow(world([me, pod("peer", 1, priority=5), pod("low", 1)]), me)
    assert short.preemption is None
    assert short.message.endswith("preemption: 0/1 nodes are available: 1 Insufficient cpu.")


def test_policies_of_pod_node_and_profile_forbid_it():
    low, never = pod("low", 2), pod("me", 3, priority=5, preempts=False)
    assert grow(world([never, low]), never).message.endswith("preemptionPolicy=Never.")
    me = pod("me", 3, priority=5)
    closed = grow(world([me, low], resize_preemption=False), me)
    assert closed.message == "0/1 nodes are available: 1 node had resize preemption disabled."
    assert closed.preemption is None
    assert grow(world([me, low]), me, Profile(preempts=False)).preemption is None


def test_nobody_else_goes_while_a_victim_of_the_scheduler_is_ending():
    me, ending = pod("me", 3, priority=5), pod("ending", 2, preempted=True)
    found = grow(world([me, ending, pod("low", 1)], cpu=5), me)
    assert found.preemption is None
    assert "terminating pod" in found.message


def test_a_pod_does_not_evict_the_group_that_it_would_go_with():
    snapshot_gang = Gang(("ns", "team"), 2, all_disrupted=True)
    me, mate = pod("me", 3, 5, gang=("ns", "team")), pod("mate", 1, gang=("ns", "team"))
    snapshot = world([me, mate, pod("low", 1)])
    snapshot.gangs[("ns", "team")] = snapshot_gang
    assert victims(grow(snapshot, me)) == ["low"]


def test_a_group_that_goes_makes_room_with_all_its_pods():
    me, team = pod("me", 4, priority=5), ("ns", "team")
    mates = [pod("a", 2, gang=team), pod("c", 1, gang=team)]
    snapshot = world([me, pod("b", 1), *mates], cpu=6)
    snapshot.gangs[team] = Gang(team, 2, all_disrupted=True)
    assert victims(grow(snapshot, me)) == ["a", "c"], "with these three gone b may stay"


others = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 4)), max_size=6)


@given(others, st.integers(1, 6), st.integers(0, 6))
def test_victims_suffice_are_all_lower_and_none_could_have_stayed(given_others, cpu, memory):
    me = pod("me", cpu, 2, memory)
    rest = [pod(f"p{i}", c, p, m) for i, (c, p, m) in enumerate(given_others)]
    found = grow(world([me, *rest], cpu=8, memory=8), me)

    def fits(gone):
        left = [me, *(p for p in rest if p not in gone)]
        return all(
            not me.shape.request(name) or sum(p.shape.request(name) for p in left) <= 8
            for name in ("cpu", "memory")
        )

    lower = [p for p in rest if p.priority < 2]
    possible = any(fits(c) for n in range(len(lower) + 1) for c in combinations(lower, n))
    assert possible == (not found.message or found.preemption is not None)
    if not found.message:
        assert fits(())
    if found.preemption is not None:
        gone = found.preemption.victims
        assert set(gone) <= set(lower)
        assert fits(gone)
        assert not any(fits(tuple(p for p in gone if p is not victim)) for victim in gone)
