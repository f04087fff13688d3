"""The time of many runs by team: sums, and nothing is lost or counted twice."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.base.clock import rfc3339
from kubarium.engine.training.goodput import ACCOUNTS
from kubarium.view.team_goodput import NOBODY, reports, teams

from .test_goodput import T, history

WHATS = ("import", "rendezvous", "step", "checkpoint", "hang", "resize", "nonsense")


def named(document, name, namespace="default", **labels):
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {**document, "metadata": {**document["metadata"], **metadata}}


def job(name, namespace="default", parallelism=2, finished=None, **labels):
    ended = [
        {"type": "Complete", "status": "True", "lastTransitionTime": rfc3339(T + (finished or 0))}
    ]
    document = {
        "metadata": {"creationTimestamp": rfc3339(T)},
        "spec": {"parallelism": parallelism},
        "status": {"conditions": ended if finished is not None else []},
    }
    return named(document, name, namespace, **labels)


def told(rank, number, name, namespace, spans=(), **status):
    label = {"batch.kubernetes.io/job-name": name}
    found = history(rank, number, spans, job_name=name, **status)
    return named(found, f"{name}-{rank}-{number}", namespace, **label)


@st.composite
def attempts(draw, name, namespace):
    """One rank's attempts, each with reports that may overlap, have holes or run backwards."""
    at, found = draw(st.floats(0, 5)), []
    rank = draw(st.integers(0, 2))
    for number in range(draw(st.integers(0, 3))):
        times = {}
        for key in ("createdAt", "scheduledAt", "startedAt"):
            at += draw(st.floats(0, 3))
            times[key] = at
        spans = []
        for step in range(1, draw(st.integers(1, 7))):
            what, began = draw(st.sampled_from(WHATS)), at + draw(st.floats(-1, 1))
            at += draw(st.floats(0, 4))
            ended = max(began, at)
            more = (step, draw(st.integers(1, 3))) if what == "step" else ()
            spans.append((what, began, ended, *more))
        if draw(st.booleans()):
            at += draw(st.floats(0, 2))
            times["endedAt"] = at
        outcome = draw(st.sampled_from(["", "Completed", "Signal 9"]))
        found.append(told(rank, number, name, namespace, spans, **times, outcome=outcome))
    return found


@st.composite
def fleets(draw):
    jobs, histories = [], []
    for number in range(draw(st.integers(1, 4))):
        name, namespace = f"job-{number}", draw(st.sampled_from(["red", "blue"]))
        labels = draw(st.sampled_from([{}, {"kueue.x-k8s.io/queue-name": "fast"}, {"team": "a"}]))
        finished = draw(st.none() | st.floats(0, 40))
        size = draw(st.integers(1, 3))
        jobs.append(job(name, namespace, size, finished, **labels))
        for _ in range(draw(st.integers(0, 3))):
            histories += draw(attempts(name, namespace))
    return jobs, histories


@settings(max_examples=150, deadline=None)
@given(fleets(), st.sampled_from(["namespace", "queue", "label:team"]))
def test_the_accounts_of_every_team_add_up_to_wall_time_times_ranks(fleet, by):
    jobs, histories = fleet
    runs = reports([], jobs, histories, T + 60)
    found = teams(runs, by)
    assert sum(len(team.runs) for team in found) == len(jobs)
    for team in found:
        wanted = sum(r.report.accounts.wall_s * r.report.accounts.ranks for r in team.runs)
        assert sum(team.seconds.values()) == pytest.approx(wanted, rel=0.01, abs=1e-6)
        assert sum(team.share(a) for a in ACCOUNTS) == pytest.approx(1 if wanted else 0, abs=0.01)
        assert all(seconds >= 0 for seconds in team.seconds.values())
    whole = sum(r.report.accounts.wall_s * r.report.accounts.ranks for r in runs)
    assert sum(team.rank_seconds for team in found) == pytest.approx(whole)


def test_teams_are_namespaces_queues_or_labels():
    queue = {"kueue.x-k8s.io/queue-name": "fast"}
    jobs = [
        job("one", "red", finished=10, **queue),
        job("two", "red", parallelism=1, finished=100, team="a"),
        job("three", "blue", finished=10, **queue),
        job("child", "blue", **{"jobset.sigs.k8s.io/jobset-name": "set"}),
    ]
    jobset = {"metadata": {"creationTimestamp": rfc3339(T)}, "spec": {}}
    runs = reports([named(jobset, "set", "blue", team="a")], jobs, [], T + 20)
    names = {by: [t.name for t in teams(runs, by)] for by in ("namespace", "queue", "label:team")}
    assert names == {
        "namespace": ["red", "blue"],
        "queue": [NOBODY, "fast"],
        "label:team": ["a", NOBODY],
    }
    [red, blue] = teams(runs, "namespace")
    assert red.rank_seconds == pytest.approx(2 * 10 + 100)
    assert blue.rank_seconds == pytest.approx(2 * 10 + 2 * 20)
    assert blue.worst == "queue"


@pytest.mark.parametrize("by", ["team", "label", "", "label:", "label:a b"])
def test_what_is_no_team_is_refused(by):
    with pytest.raises(ValueError, match="write namespace, queue or label:KEY"):
        teams([], by)
