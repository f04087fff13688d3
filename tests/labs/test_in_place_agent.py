"""The in-place restart agent: what it does at each state of its JobSet."""

import pytest

from kubarium.labs.in_place_agent import Agent, ProbeBarrier, WorkerBarrier, barrier_of


class Left(Exception):
    """The agent has ended its container."""


class Api:
    def __init__(self):
        self.written = []

    def annotate_pod(self, name, attempt):
        self.written.append((name, attempt))


class Barrier:
    def __init__(self):
        self.lifted = False

    def lift(self):
        self.lifted = True

    def leave(self, code):
        raise Left(code)


def jobset(current=None, previous=None, strategy="InPlaceRestart"):
    status = {}
    if current is not None:
        status["currentInPlaceRestartAttempt"] = current
    if previous is not None:
        status["previousInPlaceRestartAttempt"] = previous
    return {"spec": {"failurePolicy": {"restartStrategy": strategy}}, "status": status}


def agent():
    api, barrier = Api(), Barrier()
    return api, barrier, Agent(api, "p", barrier, exit_code=7)


def test_the_first_attempt_waits_for_all_pods():
    api, barrier, mine = agent()
    mine.look(jobset())
    assert (api.written, barrier.lifted) == ([("p", 0)], False)
    mine.look(jobset(current=0))
    assert (api.written, barrier.lifted) == ([("p", 0)], True)


@pytest.mark.parametrize(("current", "attempt"), [(0, 1), (4, 5)])
def test_a_restarted_pod_is_in_the_attempt_after_the_current_one(current, attempt):
    api, barrier, mine = agent()
    mine.look(jobset(current=current))
    assert (api.written, barrier.lifted) == ([("p", attempt)], False)
    mine.look(jobset(current=current, previous=current))
    assert not barrier.lifted
    mine.look(jobset(current=attempt, previous=current))
    assert barrier.lifted


def test_an_attempt_that_is_over_ends_the_container():
    _, _, mine = agent()
    mine.look(jobset())
    mine.look(jobset(current=0))
    with pytest.raises(Left, match="7"):
        mine.look(jobset(current=0, previous=0))


def test_under_another_strategy_nothing_waits():
    api, barrier, mine = agent()
    mine.look(jobset(strategy="Recreate"))
    assert (api.written, barrier.lifted) == ([], True)


def test_around_a_worker_or_beside_it():
    assert isinstance(barrier_of({"WORKER_COMMAND": "true"}), WorkerBarrier)
    assert isinstance(barrier_of({"POD_IP": "127.0.0.1"}), ProbeBarrier)
