"""Faults as objects: what they say, when they fire, and whom they hit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.view.faults import Order, matches, orders_of, plan_of


def fault(**spec):
    return {"metadata": {"name": "f"}, "spec": spec}


def pod(index, phase="Running", **labels):
    labels = {"batch.kubernetes.io/job-completion-index": str(index), **labels}
    return {"metadata": {"name": f"pod-{index}", "labels": labels}, "status": {"phase": phase}}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"action": "Explode"}, "spec.action: 'Explode' is not one of Kill, Stop"),
        ({"action": "CorruptFile"}, "spec.path: is empty"),
        ({"action": "DeviceUnhealthy", "device": "gpu-0"}, "spec.device: 'gpu-0': write driver"),
        ({"action": "Delay", "amount": 1e9}, "spec.amount: 1000000000.0 must be above 0 and at"),
        (
            {"action": "Partition", "peers": {"matchExpressions": [{"key": "a", "operator": "X"}]}},
            "spec.peers: ",
        ),
        ({"action": "Slow", "amount": 2}, "spec.amount: 2.0 must be above 0 and below 1"),
        ({"action": "Kill", "durationSeconds": -1}, "durationSeconds: -1.0 must not be negative"),
        (
            {"action": "Kill", "schedule": {"afterSeconds": -1}},
            "^spec.schedule.afterSeconds: -1.0 must not be negative",
        ),
        (
            {"action": "Stop", "durationSeconds": float("inf")},
            "^spec.durationSeconds: inf must be a number of seconds",
        ),
        (
            {"action": "Kill", "durationSeconds": 5},
            "^spec.durationSeconds: 5: Kill does nothing with it; leave it out, or use Stop, Slow",
        ),
        ({"action": "Stop", "amount": 0}, "^spec.amount: 0: Stop does nothing with it"),
        ({"action": "Stop", "path": "/c"}, "^spec.path: /c: .* or use CorruptFile$"),
        ({"action": "Partition", "container": "main"}, "^spec.container: main: Partition does"),
        ({"action": "LoseNode", "device": "a/b"}, "^spec.device: a/b: .* or use DeviceUnhealthy$"),
        ({"action": "LoseNode", "rank": 1}, "^spec.rank: 1: LoseNode hits nodes"),
        (
            {"action": "Kill", "schedule": {"everySeconds": 1, "meanSecondsBetween": 2}},
            "give everySeconds or meanSecondsBetween, not both",
        ),
    ],
)
def test_a_fault_that_makes_no_sense_is_named(spec, text):
    with pytest.raises(ValueError, match=text):
        plan_of(fault(**spec))


def test_a_fault_without_a_schedule_fires_once_and_at_once():
    plan = plan_of(fault(action="Kill"))
    assert (plan.moment(0), plan.moment(1)) == (0, None)


def test_a_regular_fault_goes_on_until_it_has_fired_often_enough():
    schedule = {"afterSeconds": 5, "everySeconds": 10, "times": 3}
    plan = plan_of(fault(action="Kill", schedule=schedule))
    assert [plan.moment(n) for n in range(4)] == [5, 15, 25, None]


@given(st.integers(0, 2**31), st.floats(0.5, 1000))
def test_a_random_fault_is_the_same_for_the_same_seed_and_has_the_mean_asked_for(seed, mean):
    schedule = {"meanSecondsBetween": mean, "seed": seed}
    plan = plan_of(fault(action="Kill", schedule=schedule))
    moments = [plan.moment(n) for n in range(40)]
    assert moments == sorted(moments)
    assert moments == [
        plan_of(fault(action="Kill", schedule=schedule)).moment(n) for n in range(40)
    ]
    assert 0.3 * mean < moments[-1] / 40 < 2.5 * mean


@given(st.permutations(range(8)), st.integers(0, 1000))
def test_who_is_hit_depends_on_the_seed_alone(order, seed):
    plan = plan_of(fault(action="Kill", schedule={"seed": seed}))
    pods = [pod(n) for n in order]
    expected = plan.victim([pod(n) for n in range(8)], 3)
    assert plan.victim(pods, 3)["metadata"] == expected["metadata"]


def test_all_ranks_have_their_turn():
    plan = plan_of(fault(action="Kill", schedule={"everySeconds": 1}))
    hit = {
        plan.victim([pod(n) for n in range(4)], number)["metadata"]["name"] for number in range(60)
    }
    assert len(hit) == 4


def test_only_what_runs_and_is_selected_may_be_hit():
    plan = plan_of(fault(action="Kill", selector={"matchLabels": {"app": "a"}}, rank=2))
    assert matches(plan, pod(2, app="a"))
    assert not matches(plan, pod(1, app="a"))
    assert not matches(plan, pod(2, app="b"))
    assert not matches(plan, pod(2, phase="Pending", app="a"))
    gone = pod(2, app="a")
    gone["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not matches(plan, gone)


def test_an_order_survives_its_annotation_and_nonsense_is_no_order():
    order = Order("uid/3", "Slow", "main", 2.5, 0.1)
    document = {"metadata": {"annotations": {"fault.kubarium.dev/uid": order.text()}}}
    assert orders_of(document) == [order]
    assert order.fault == "uid"
    for text in ("", "{", "[]", '{"surprise": 1}'):
        assert orders_of({"metadata": {"annotations": {"fault.kubarium.dev/u": text}}}) == []
