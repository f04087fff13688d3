"""The allocator's verdicts against two judges that share nothing with it.

One tries every way to hand out the devices; the other states the rules as a constraint program and
lets OR-Tools' CP-SAT decide. Whatever is allocated is also checked against the rules directly.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubarium.engine.devices.model import (
    Allocation,
    Capacity,
    ClaimSpec,
    Constraint,
    CounterUse,
    Device,
    DeviceId,
    DeviceResult,
    DeviceTaint,
    DeviceToleration,
    Request,
    RequestEntry,
)

from .stock import inventory, run, selects, text

COUNTERS, MEMORY = 4, 6
SETS = ("s0", "s1", "s2")
SICK = DeviceTaint("sick", "", "NoSchedule")
TOLERANT = (DeviceToleration("sick", "Exists", "", ""),)

checked = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def devices(draw):
    found = []
    for number in range(draw(st.integers(1, 6))):
        attributes = {
            f"d/{name}": text(value)
            for name in ("kind", "numa", "rack")
            if (value := draw(st.sampled_from(["0", "1", "2", ""])))
        }
        uses = tuple(
            CounterUse(s, (("slices", draw(st.integers(1, 3))),), draw(groups))
            for s in draw(st.sampled_from([(), (), SETS[:1], SETS[1:2], SETS[:2]]))
        )
        shared = draw(st.booleans())
        found.append(
            Device(
                f"g{number}",
                attributes,
                {"memory": Capacity(MEMORY)} if shared else {},
                uses,
                (SICK,) if draw(st.integers(0, 4)) == 0 else (),
                shared,
            )
        )
    return found


groups = st.sampled_from(
    [frozenset(), frozenset(), frozenset("a"), frozenset("b"), frozenset("ab")]
)


@st.composite
def requests(draw, name):
    memory = draw(st.sampled_from([None, 2, 3, 4]))
    return Request(
        name,
        "any",
        (draw(st.sampled_from(["any", "any", "kind=0", "kind=1"])),),
        count=draw(st.integers(1, 2)),
        tolerations=TOLERANT if draw(st.booleans()) else (),
        capacity=None if memory is None else (("memory", memory),),
    )


@st.composite
def entries(draw, name):
    if draw(st.integers(0, 2)):
        return RequestEntry(name, (draw(requests(name)),))
    return RequestEntry(name, (draw(requests("x")), draw(requests("y"))), True)


@st.composite
def claims(draw):
    rows = tuple(draw(entries(f"r{i}")) for i in range(draw(st.integers(1, 2))))
    refs = ["r0", "r0/x", *(["r1", "r1/y"] if len(rows) > 1 else [])]
    constraints = []
    for _ in range(draw(st.integers(0, 2))):
        about = draw(st.sampled_from(["d/numa", "d/rack"]))
        scope = draw(st.sampled_from([(), (), tuple(refs[:1]), tuple(refs)]))
        kind = draw(st.sampled_from(["match", "distinct"]))
        constraints.append(Constraint(scope, **{kind: about}))
    return ClaimSpec(rows, tuple(constraints))


@st.composite
def problems(draw):
    """Devices, the names of those in use, and the claims of one pod."""
    found = draw(devices())
    exclusive = [d.name for d in found if not d.allow_multiple]
    busy = draw(st.sets(st.sampled_from(exclusive), max_size=2)) if exclusive else set()
    return found, sorted(busy), draw(st.lists(claims(), min_size=1, max_size=2))


@st.composite
def alike(draw):
    """Counter sets of one make, some partly in use, and claims for parts of them by size.

    Here symmetry and memory do most of the work, so that mistakes in them would show.
    """
    sizes = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    found = [
        Device(
            f"{name}-{number}",
            {"d/kind": text(str(size)), "d/numa": text(name), "d/rack": text(str(number % 2))},
            consumes=(CounterUse(name, (("slices", size),)),),
        )
        for number, size in enumerate(sizes)
        for name in draw(st.permutations(SETS))
    ]
    busy = draw(st.sets(st.sampled_from([d.name for d in found]), max_size=2))
    specs = []
    for _ in range(draw(st.integers(1, 3))):
        wanted = st.tuples(st.integers(1, 3), st.integers(1, 3))
        rows = tuple(
            RequestEntry(f"r{i}", (Request(f"r{i}", "any", (f"kind={size}",), count=count),))
            for i, (size, count) in enumerate(draw(st.lists(wanted, min_size=1, max_size=2)))
        )
        about = draw(st.sampled_from(["", "d/numa", "d/rack"]))
        kind = draw(st.sampled_from(["match", "distinct"]))
        specs.append(ClaimSpec(rows, (Constraint((), **{kind: about}),) if about else ()))
    return found, sorted(busy), specs


def stock_of(found, busy, *, best_fit):
    sets = [(name, (("slices", COUNTERS),)) for name in SETS]
    stock = inventory(found, counters=sets, best_fit=best_fit)
    stock.enter(Allocation(tuple(DeviceResult("", DeviceId("d", "p", n)) for n in busy)))
    return stock


# The rules, once for both judges and for checking answers.

Pick = tuple[int, RequestEntry, Request, Device]


def able(request: Request, device: Device, busy) -> bool:
    """Whether the device could serve the request if it were alone."""
    if device.name in busy or not selects(request.selectors[0], "d", device):
        return False
    if device.taints and not request.tolerations:
        return False
    return device.allow_multiple or request.capacity is None


def share(request: Request) -> int:
    """What a share takes; without a policy, no wish is for everything."""
    return MEMORY if request.capacity is None else request.capacity[0][1]


def clash(specs, one: Pick, other: Pick) -> bool:
    """Whether a constraint forbids two devices of one claim together (or one alone)."""
    if one[0] != other[0]:
        return False
    for constraint in specs[one[0]].constraints:
        if not all(constraint.covers(pick[1], pick[2]) for pick in (one, other)):
            continue
        name = constraint.match or constraint.distinct
        values = [pick[3].attributes.get(name) for pick in (one, other)]
        if None in values:
            return True
        if one is not other and (values[0] == values[1]) != bool(constraint.match):
            return True
    return False


def allowed(found, busy, specs, picks: list[Pick]) -> bool:
    """Every rule about a whole answer."""
    if not all(able(request, device, busy) for _, _, request, device in picks):
        return False
    for device in found:
        mine = [request for _, _, request, d in picks if d is device]
        if device.allow_multiple:
            if sum(map(share, mine)) > MEMORY:
                return False
        elif len(mine) > 1:
            return False
    if any(clash(specs, one, other) for one in picks for other in picks):
        return False
    used = {d.name for *_, d in picks} | set(busy)
    for name in SETS:
        uses = [u for d in found if d.name in used for u in d.consumes if u.counter_set == name]
        if sum(u.counters[0][1] for u in uses) > COUNTERS:
            return False
        tags = [u.groups for u in uses]
        if any(tags) and not frozenset.intersection(*tags):
            return False
    return True


def consistent(found, busy) -> bool:
    """Whether what is in use obeys the rules itself: a cluster cannot get into another state."""
    return allowed(found, busy, [], [])


def ways(found, busy, specs) -> Iterator[list[Pick]]:
    """Every way to give each request one alternative and that many different devices."""
    places = [(c, entry) for c, s in enumerate(specs) for entry in s.requests]
    for options in itertools.product(*(entry.alternatives for _, entry in places)):
        sets = [
            itertools.combinations([d for d in found if able(o, d, busy)], o.count) for o in options
        ]
        for chosen in itertools.product(*sets):
            yield [
                (c, entry, option, device)
                for (c, entry), option, given in zip(places, options, chosen, strict=True)
                for device in given
            ]


def brute_force(found, busy, specs) -> bool:
    return any(allowed(found, busy, specs, picks) for picks in ways(found, busy, specs))


def cp_sat(cp_model, found, busy, specs) -> bool:
    """The same rules as a constraint program."""
    model = cp_model.CpModel()
    variables = []
    for claim, wanted in enumerate(specs):
        for entry in wanted.requests:
            chosen = [model.new_bool_var("") for _ in entry.alternatives]
            model.add_exactly_one(chosen)
            for option, is_chosen in zip(entry.alternatives, chosen, strict=True):
                given = []
                for device in found:
                    if able(option, device, busy):
                        variables.append(((claim, entry, option, device), model.new_bool_var("")))
                        given.append(variables[-1][1])
                model.add(sum(given) == option.count * is_chosen)
    for device in found:
        mine = [(pick[2], v) for pick, v in variables if pick[3] is device]
        if device.allow_multiple:
            model.add(sum(share(request) * v for request, v in mine) <= MEMORY)
        else:
            model.add(sum(v for _, v in mine) <= 1)
    for number, (one, x) in enumerate(variables):
        for other, y in variables[number:]:
            if clash(specs, one, other):
                model.add(x + y <= 1 if x is not y else x == 0)
    _counters(model, found, busy, variables)
    return cp_model.CpSolver().solve(model) in (cp_model.OPTIMAL, cp_model.FEASIBLE)


def _counters(model, found, busy, variables) -> None:
    used = {}
    for device in found:
        mine = [v for pick, v in variables if pick[3] is device]
        used[device.name] = model.new_bool_var("")
        if device.name in busy:
            model.add(used[device.name] == 1)
        else:
            model.add_max_equality(used[device.name], mine or [0])
    for name in SETS:
        uses = [(d.name, u) for d in found for u in d.consumes if u.counter_set == name]
        model.add(sum(u.counters[0][1] * used[d] for d, u in uses) <= COUNTERS)
        # One group that all devices in use have; "" for those that have none.
        common = {tag: model.new_bool_var("") for tag in ("", "a", "b")}
        model.add_exactly_one(common.values())
        for device, use in uses:
            model.add_bool_or([common[t] for t in use.groups or ("",)] + [~used[device]])


def picks_of(found, specs, allocations) -> list[Pick]:
    """An answer as the judges write it."""
    by_name = {d.name: d for d in found}
    return [
        (claim, entry, option, by_name[result.id.device])
        for claim, (wanted, allocation) in enumerate(zip(specs, allocations, strict=True))
        for result in allocation.results
        for entry in wanted.requests
        for option in entry.alternatives
        if entry.path(option) == result.request
    ]


@checked
@given(problems(), st.booleans())
def test_verdicts_agree_with_trying_everything(problem, best_fit):
    found, busy, specs = problem
    if not consistent(found, busy):
        return
    answer = run(stock_of(found, busy, best_fit=best_fit), *specs)
    assert (answer is not None) == brute_force(found, busy, specs)
    if answer is None:
        return
    picks = picks_of(found, specs, answer)
    assert allowed(found, busy, specs, picks), "what is given obeys every rule"
    for wanted, allocation in zip(specs, answer, strict=True):
        by_path = [r.request for r in allocation.results]
        for entry, path in zip(wanted.requests, allocation.chosen, strict=True):
            option = next(o for o in entry.alternatives if entry.path(o) == path)
            assert by_path.count(path) == option.count


@checked
@given(problems() | alike(), st.booleans())
def test_verdicts_agree_with_a_constraint_solver(problem, best_fit):
    cp_model = pytest.importorskip("ortools.sat.python.cp_model")
    found, busy, specs = problem
    if not consistent(found, busy):
        return
    answer = run(stock_of(found, busy, best_fit=best_fit), *specs)
    assert (answer is not None) == cp_sat(cp_model, found, busy, specs)


@checked
@given(problems(), st.booleans())
def test_the_same_question_has_the_same_answer(problem, best_fit):
    found, busy, specs = problem
    answers = [run(stock_of(found, busy, best_fit=best_fit), *specs) for _ in range(2)]
    assert answers[0] == answers[1]
