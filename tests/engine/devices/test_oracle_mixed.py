"""Verdicts against trying everything, where features meet that ``test_oracle`` has one by one.

All devices, administrators, lists as attributes, request policies, shares that are in use already,
and pools of two slices of which one is for other nodes as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from kubarium.engine.devices import capacity
from kubarium.engine.devices.model import (
    ALL,
    Allocation,
    AllocationError,
    AttributeValue,
    Capacity,
    ClaimSpec,
    Constraint,
    CounterUse,
    Device,
    DeviceId,
    DeviceResult,
    DeviceTaint,
    Request,
    RequestEntry,
    RequestPolicy,
)

from .stock import inventory, run, selects, text
from .test_oracle import TOLERANT, Pick, checked

COUNTERS = 4
SICK = DeviceTaint("sick", "", "NoSchedule")
POLICIES = (
    None,
    RequestPolicy(default=2),
    RequestPolicy(default=1, valid_values=(1, 3)),
    RequestPolicy(default=2, minimum=2, maximum=4, step=2),
)

values = st.sets(st.sampled_from("abc"), min_size=1, max_size=2)


@st.composite
def devices(draw):
    found = []
    for number in range(draw(st.integers(1, 5))):
        attributes = {"d/kind": text(draw(st.sampled_from("01")))}
        for name in ("numa", "rack"):
            items = draw(values | st.none())
            if items:
                attributes[f"d/{name}"] = AttributeValue("string", frozenset(items), len(items) > 1)
        shared = draw(st.booleans())
        uses = draw(st.sampled_from([(), (), ("s",)]))
        found.append(
            Device(
                f"g{number}",
                attributes,
                {"memory": Capacity(6, draw(st.sampled_from(POLICIES)))} if shared else {},
                tuple(CounterUse(s, (("slices", draw(st.integers(1, 3))),)) for s in uses),
                (SICK,) if draw(st.integers(0, 5)) == 0 else (),
                shared,
            )
        )
    return found


@st.composite
def requests(draw, name, *, exactly):
    memory = draw(st.sampled_from([None, None, 1, 2, 3, 5]))
    everything = draw(st.integers(0, 3)) == 0
    return Request(
        name,
        "any",
        (draw(st.sampled_from(["any", "kind=0", "kind=1"])),),
        ALL if everything else "ExactCount",
        0 if everything else draw(st.integers(1, 2)),
        draw(st.sampled_from([None, None, None, True])) if exactly else None,
        TOLERANT if draw(st.booleans()) else (),
        None if memory is None else (("memory", memory),),
    )


@st.composite
def claims(draw):
    rows = []
    for i in range(draw(st.integers(1, 2))):
        if draw(st.integers(0, 2)):
            rows.append(RequestEntry(f"r{i}", (draw(requests(f"r{i}", exactly=True)),)))
        else:
            options = tuple(draw(requests(n, exactly=False)) for n in "xy")
            rows.append(RequestEntry(f"r{i}", options, True))
    constraints = []
    for _ in range(draw(st.integers(0, 2))):
        about = draw(st.sampled_from(["d/numa", "d/rack"]))
        scope = draw(st.sampled_from([(), (), ("r0",), ("r0/x", "r1")]))
        constraints.append(
            Constraint(scope, **{draw(st.sampled_from(["match", "distinct"])): about})
        )
    return ClaimSpec(tuple(rows), tuple(constraints))


@st.composite
def problems(draw):
    """Devices, what each has given away ("" whole, or memory), and the claims of one pod."""
    found = draw(devices())
    used: dict[str, int | str] = {}
    for device in found:
        if draw(st.integers(0, 3)) == 0:
            used[device.name] = draw(st.integers(1, 4)) if device.allow_multiple else ""
    return found, used, draw(st.lists(claims(), min_size=1, max_size=2))


def stock_of(found, used, *, best_fit):
    stock = inventory(found, counters=[("s", (("slices", COUNTERS),))], best_fit=best_fit)
    for name, amount in used.items():
        share = (("memory", amount),) if amount else ()
        result = DeviceResult("", DeviceId("d", "p", name), shared=bool(amount), consumed=share)
        stock.enter(Allocation((result,)))
    return stock


def taken(request: Request, device: Device) -> int | None:
    """What the request takes of the device's memory; None if it may not."""
    amounts = capacity.allowed(request, device, "d")
    return None if amounts is None else dict(amounts).get("memory", 0)


def matching(request: Request, found, used) -> list[Device]:
    """What "all" devices are: those that match and have the capacity, in use or not."""
    able = []
    for device in found:
        amount = taken(request, device)
        if not selects(request.selectors[0], "d", device) or amount is None:
            continue
        gone = 0 if request.admin_access else used.get(device.name) or 0
        if not device.capacity or gone + amount <= device.capacity["memory"].value:
            able.append(device)
    return able


def allowed(found, used, specs, picks: list[Pick]) -> bool:
    """Every rule about a whole answer."""
    for _, _, request, device in picks:
        if device.taints and not request.tolerations:
            return False
        amount = taken(request, device)
        if amount is None or (device.capacity and amount > 6):
            return False
    for device in found:
        mine = [p for p in picks if p[3] is device]
        takers = [p for p in mine if not p[2].admin_access]
        if device.allow_multiple:
            gone = used.get(device.name) or 0
            if takers and gone + sum(taken(p[2], device) for p in takers) > 6:
                return False
        else:
            if takers and (device.name in used or len(takers) > 1):
                return False
            if len({p[0] for p in mine}) < len(mine):
                return False  # twice in one claim
    spent = {p[3].name for p in picks if not p[2].admin_access} | set(used)
    asked = {p[3].name for p in picks if not p[2].admin_access} - set(used)
    total = sum(u.counters[0][1] for d in found if d.name in spent for u in d.consumes)
    if total > COUNTERS and any(d.consumes for d in found if d.name in asked):
        return False
    return all(
        _satisfied(constraint, [p for p in picks if p[0] == claim])
        for claim, wanted in enumerate(specs)
        for constraint in wanted.constraints
    )


def _satisfied(constraint: Constraint, picks: list[Pick]) -> bool:
    name = constraint.match or constraint.distinct
    seen = [p[3].attributes.get(name) for p in picks if constraint.covers(p[1], p[2])]
    if None in seen:
        return False
    if constraint.match:
        return not seen or bool(frozenset.intersection(*(v.values for v in seen)))
    return not any(a.values & b.values for a, b in itertools.combinations(seen, 2))


def ways(found, used, specs) -> Iterator[list[Pick]]:
    """Every way to give each request one alternative and its devices."""
    places = [(c, entry) for c, s in enumerate(specs) for entry in s.requests]
    for options in itertools.product(*(entry.alternatives for _, entry in places)):
        sets: list[list[tuple[Device, ...]]] = []
        for option in options:
            able = matching(option, found, used)
            if option.mode == ALL:
                sets.append([tuple(able)] if able else [])
            else:
                sets.append(list(itertools.combinations(able, option.count)))
        for chosen in itertools.product(*sets):
            yield [
                (c, entry, option, device)
                for (c, entry), option, given in zip(places, options, chosen, strict=True)
                for device in given
            ]


@checked
@given(problems())
def test_features_together_give_what_trying_everything_gives(problem):
    found, used, specs = problem
    over = sum(u.counters[0][1] for d in found if d.name in used for u in d.consumes)
    if over > COUNTERS:
        return
    try:
        answer = run(stock_of(found, used, best_fit=True), *specs)
    except AllocationError as error:
        if not error.node_only:  # no claim here is wrong in itself
            raise
        answer = None
    possible = any(allowed(found, used, specs, picks) for picks in ways(found, used, specs))
    assert (answer is not None) == possible
    if answer is None:
        return
    by_name = {d.name: d for d in found}
    picks = [
        (claim, entry, option, by_name[result.id.device])
        for claim, (wanted, allocation) in enumerate(zip(specs, answer, strict=True))
        for result in allocation.results
        for entry in wanted.requests
        for option in entry.alternatives
        if entry.path(option) == result.request
    ]
    assert allowed(found, used, specs, picks), "what is given obeys every rule"
    for wanted, allocation in zip(specs, answer, strict=True):
        by_path = [r.request for r in allocation.results]
        for entry, path in zip(wanted.requests, allocation.chosen, strict=True):
            option = next(o for o in entry.alternatives if entry.path(o) == path)
            whole = len(matching(option, found, used))
            assert by_path.count(path) == (whole if option.mode == ALL else option.count)
