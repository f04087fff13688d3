"""What is said of a pod that found no place: upstream's sentences, to the letter."""

from __future__ import annotations

import pytest

from kubarium.engine.model import HostPort, Node, Pod, PodShape, PodTerm
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import Profile
from kubarium.engine.plan import QueueItem
from kubarium.engine.selectors import LabelSelector, NodeTerm, Requirement
from kubarium.engine.snapshot import Snapshot

LARGE, SMALL = "large", "small"


def placer(profile=None):
    snapshot = Snapshot()
    for name, cpu in ((LARGE, 4), (SMALL, 1), ("other", 1)):
        snapshot.set_node(Node(name, (("cpu", cpu), ("pods", 9))))
    return Placer(snapshot) if profile is None else Placer(snapshot, profile)


def named(*alternatives):
    """Terms, each a list of lists of node names that must all hold the node's."""
    return tuple(
        NodeTerm(fields=tuple(Requirement("metadata.name", "In", tuple(n)) for n in names))
        for names in alternatives
    )


def refusal(shape, placer, preempts=True):
    item = QueueItem((Pod(("ns", "p"), shape, preempts=preempts),))
    (decision,) = plan_cycle(placer, [item]).decisions
    return decision.unplaced[0][1].message()


TOO_LARGE = PodShape(requests=(("cpu", 9),))


@pytest.mark.parametrize(
    ("profile", "preempts", "said"),
    [
        (
            Profile(),
            True,
            "no new claims to deallocate, preemption: 0/3 nodes are available: "
            "3 Preemption is not helpful for scheduling.",
        ),
        (
            Profile(),
            False,
            "no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.",
        ),
        (Profile(preempts=False), True, "no new claims to deallocate"),
        (
            Profile(frees_claims=False),
            False,
            "preemption: not eligible due to preemptionPolicy=Never.",
        ),
        (Profile(preempts=False, frees_claims=False), True, ""),
    ],
)
def test_whoever_might_make_room_says_why_not(profile, preempts, said):
    text = refusal(TOO_LARGE, placer(profile), preempts)
    assert text == f"0/3 nodes are available: 3 Insufficient cpu. {said}".strip()


def test_where_there_are_no_nodes_nobody_is_asked_for_room():
    """Upstream: schedulePod gives up before any plugin is asked."""
    assert refusal(TOO_LARGE, Placer(Snapshot())) == "no nodes available to schedule pods"
    unnamed = PodShape(affinity=named([[SMALL], [LARGE]]))
    assert refusal(unnamed, Placer(Snapshot())) == "no nodes available to schedule pods"


@pytest.mark.parametrize(
    ("affinity", "reasons"),
    [
        (
            named([[SMALL]]),
            "1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity].",
        ),
        (named([["gone"]]), "3 node(s) didn't satisfy plugin(s) [NodeAffinity]."),
        (
            named([[SMALL]], [["other", "gone"]]),
            "1 node(s) didn't satisfy plugin(s) [NodeAffinity], 2 Insufficient cpu.",
        ),
        (
            named([[SMALL, "other"], ["other"]]),
            "1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity].",
        ),
        (named([[SMALL], ["other"]]), "pod affinity terms conflict."),
        (
            (*named([[SMALL]]), NodeTerm(labels=(Requirement("zone", "In", ("z",)),))),
            "1 Insufficient cpu, 2 node(s) didn't match Pod's node affinity/selector.",
        ),
    ],
)
def test_nodes_that_the_affinity_does_not_name_are_asked_nothing(affinity, reasons):
    shape = PodShape(requests=(("cpu", 9),), affinity=affinity)
    assert refusal(shape, placer()).startswith(f"0/3 nodes are available: {reasons} no new")


def test_a_node_that_is_too_small_is_no_hope_only_where_its_room_was_compared():
    asked = placer()
    port = (HostPort("0.0.0.0", "TCP", 80),)
    asked.snapshot.place(Pod(("ns", "web"), PodShape(ports=port)), SMALL)
    text = refusal(PodShape(requests=(("cpu", 9),), ports=port), asked)
    assert text.endswith(
        "preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, "
        "2 Preemption is not helpful for scheduling."
    )


def test_what_is_lacking_once_the_lower_are_gone_is_what_keeps_the_pod_away_then():
    """Room comes with their end, and who stays does not want the pod beside it."""
    asked = placer()
    alone = PodTerm("name", LabelSelector((Requirement("app", "In", ("web",)),)), ("ns",))
    shy = Pod(("ns", "shy"), PodShape(pod_anti_affinity=(alone,)), priority=9)
    low = Pod(("ns", "low"), PodShape(requests=(("cpu", 4),)))
    asked.snapshot.set_node(Node(LARGE, (("cpu", 4), ("pods", 9)), {"name": LARGE}))
    for pod in (shy, low):
        asked.snapshot.place(pod, LARGE)
    web = Pod(("ns", "p"), PodShape(requests=(("cpu", 2),)), labels={"app": "web"}, priority=5)
    (decision,) = plan_cycle(asked, [QueueItem((web,))]).decisions
    assert decision.preemption is None
    assert decision.unplaced[0][1].message() == (
        "0/3 nodes are available: 3 Insufficient cpu. no new claims to deallocate, preemption: "
        "0/3 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules, "
        "2 Preemption is not helpful for scheduling."
    )


def test_what_is_found_by_trying_counts_although_the_last_filter_is_the_one_that_says_no():
    """Upstream's dry run asks every filter, NodeDeclaredFeatures after all others."""
    asked = placer()
    port = HostPort("0.0.0.0", "TCP", 80)
    for node in (LARGE, SMALL):
        asked.snapshot.place(Pod(("ns", node), PodShape(ports=(port,)), priority=-1), node)
    text = refusal(PodShape(ports=(port,), features=("Wanted",)), asked)
    assert text.endswith(
        "preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, "
        "2 node(s) didn't match Pod's required features."
    )


def test_a_named_node_is_taken_and_no_other():
    shape = PodShape(requests=(("cpu", 1),), affinity=named([[SMALL]]))
    item = QueueItem((Pod(("ns", "p"), shape),))
    (decision,) = plan_cycle(placer(), [item]).decisions
    assert [p.node for p in decision.placements] == [SMALL]


@pytest.mark.parametrize("number", [1, 3, 33, 130])
def test_a_pod_may_ask_for_any_number_of_resources_that_nodes_lack(number):
    """Every set of reasons that occurs is told, however many could."""
    snapshot = Snapshot()
    names = [f"example.com/r{i:03}" for i in range(number)]
    for i in range(3):
        own = tuple((name, 1) for name in names[i::3])
        snapshot.set_node(Node(f"n{i}", (("cpu", 4), *own, ("pods", 9))))
    pod = Pod(("ns", "p"), PodShape(requests=tuple((name, 1) for name in names)))
    verdict = Placer(snapshot).account(pod)
    assert verdict.counts == {f"Insufficient {name}": 2 for name in names}
    for i in range(3):
        lacking = [name for at, name in enumerate(names) if at % 3 != i]
        assert verdict.by_node[f"n{i}"] == tuple(f"Insufficient {name}" for name in lacking)
