"""Hyperparameter search: spaces, suggestions, and when it is over."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.engine.tuning.search import Search, Trial, decide
from kubarium.engine.tuning.space import Parameter, grid_point
from kubarium.engine.tuning.suggest import ALGORITHMS, Observed, suggest

X = Parameter("x", "double", -5, 5)
LR = Parameter("lr", "double", 1e-5, 1, log=True)
LAYERS = Parameter("layers", "int", 2, 9)
ODD = Parameter("odd", "int", 1, 9, step=2)
OPTIMIZER = Parameter("optimizer", "categorical", choices=("sgd", "adam"))
QUARTERS = Parameter("q", "double", 0, 1, step=0.25)


@given(st.sampled_from(["random", "tpe"]), st.integers(0, 1000), st.integers(0, 40))
def test_every_suggestion_is_feasible_and_the_same_again(algorithm, seed, count):
    space = (X, LR, LAYERS, ODD, OPTIMIZER, QUARTERS)
    seen = [
        Observed(suggest("random", space, "seen", n), (n * 7919 % 101) / 10) for n in range(count)
    ]
    point = suggest(algorithm, space, str(seed), count, seen)
    assert point == suggest(algorithm, space, str(seed), count, seen)
    found = dict(point)
    assert -5 <= float(found["x"]) <= 5
    assert 1e-5 <= float(found["lr"]) <= 1
    assert int(found["layers"]) in range(2, 10)
    assert int(found["odd"]) in (1, 3, 5, 7, 9)
    assert found["optimizer"] in ("sgd", "adam")
    assert float(found["q"]) in (0, 0.25, 0.5, 0.75, 1)


def test_a_grid_is_walked_once_with_the_last_parameter_fastest():
    points = [grid_point((ODD, OPTIMIZER), n) for n in range(11)]
    assert points[:3] == [
        (("odd", "1"), ("optimizer", "sgd")),
        (("odd", "1"), ("optimizer", "adam")),
        (("odd", "3"), ("optimizer", "sgd")),
    ]
    assert points[10] is None
    assert len(set(points)) == 11
    assert [dict(grid_point((QUARTERS,), n))["q"] for n in range(5)] == [
        "0", "0.25", "0.5", "0.75", "1",
    ]  # fmt: skip


def test_a_point_of_a_huge_grid_costs_no_more_than_one_of_a_small_one():
    huge = Parameter("huge", "int", 0, 10**12 - 1)
    assert grid_point((huge, OPTIMIZER), 10**12 + 1) == (
        ("huge", str(10**12 // 2)),
        ("optimizer", "adam"),
    )
    assert grid_point((huge, OPTIMIZER), 2 * 10**12) is None


def test_a_grid_over_what_cannot_be_counted_says_what_is_missing():
    with pytest.raises(ValueError, match=r"parameter x: a grid needs feasibleSpace\.step"):
        grid_point((X,), 0)


def test_a_logarithmic_scale_draws_as_much_from_each_decade():
    draws = [float(dict(suggest("random", (LR,), "s", n))["lr"]) for n in range(2000)]
    decades = [sum(10.0**-k <= d < 10.0 ** (1 - k) for d in draws) for k in range(1, 6)]
    assert all(300 < count < 500 for count in decades), decades


def search(**changed):
    given_ = {"algorithm": "random", "parameters": (X,), "maximize": False, "parallel": 3}
    return Search(**given_ | {"most": 12, "seed": "s"} | changed)


def loss(point):
    found = dict(point)
    penalty = 0 if found.get("optimizer", "adam") == "adam" else 2
    return (float(found["x"]) - 1.3) ** 2 + (math.log10(float(found["lr"])) + 3) ** 2 + penalty


def best_after(algorithm, seed, trials=50):
    space, seen = (X, LR, OPTIMIZER), []
    for number in range(trials):
        point = suggest(algorithm, space, seed, number, seen)
        seen.append(Observed(point, loss(point)))
    return min(o.loss for o in seen)


def test_tpe_finds_better_than_chance():
    seeds = [f"seed-{n}" for n in range(15)]
    learned = sorted(best_after("tpe", seed) for seed in seeds)
    drawn = sorted(best_after("random", seed) for seed in seeds)
    assert learned[7] < drawn[7] / 2, (learned[7], drawn[7])


def run(asked, value_of, fails=lambda n: False):
    """Trials that end in turn; the reason for the end and all trials."""
    trials = []
    for _ in range(1000):
        decision = decide(asked, trials)
        if decision.end:
            return decision, trials
        trials += [Trial(f"t{n}", n, point, "Running") for n, point in decision.begin]
        active = [t for t in trials if t.state == "Running"]
        assert len(active) <= asked.parallel
        assert asked.most is None or len(trials) <= asked.most
        one = active[0]
        state = "Failed" if fails(one.number) else "Succeeded"
        value = None if state == "Failed" else value_of(dict(one.assignment))
        trials[trials.index(one)] = Trial(one.name, one.number, one.assignment, state, value)
    raise AssertionError("never over")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(parallel=st.integers(1, 6), most=st.integers(1, 20))
def test_a_search_ends_with_all_its_trials_and_the_best_of_them(algorithm, parallel, most):
    asked = search(algorithm=algorithm, parameters=(LAYERS,), parallel=parallel, most=most)
    decision, trials = run(asked, lambda found: abs(int(found["layers"]) - 6))
    grid_ends = algorithm == "grid" and most > 8
    assert decision.end == ("exhausted" if grid_ends else "most trials")
    assert len(trials) == (8 if grid_ends else most)
    assert decision.best.value == min(t.value for t in trials)


def test_a_search_stops_at_its_goal_and_at_too_many_failures():
    decision, trials = run(search(maximize=True, goal=4, most=None), lambda f: float(f["x"]))
    assert decision.end == "goal"
    assert decision.best.value >= 4
    decision, trials = run(search(most_failed=3), lambda f: 0.0, fails=lambda n: n % 2 == 0)
    assert decision.end == "most failed"
    assert sum(t.state == "Failed" for t in trials) == 3
