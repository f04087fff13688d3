"""Selectors taken apart into clauses that mean the same together."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.api.cel.clauses import Comparison, clauses, comparison, guard
from kubarium.api.cel.devices import compile_device_selector, prepare_device
from kubarium.api.cel.environment import CelRuntimeError

D = "d.example.com"
MODEL = f'device.attributes["{D}"].model == "A100"'
INDEX = f'device.attributes["{D}"].index >= 2'
MEMORY = f'device.capacity["{D}"].memory.compareTo(quantity("96Gi")) >= 0'
TRICKY = f"device.attributes['{D}'].model != \"a && b || (\""


@pytest.mark.parametrize(
    ("expression", "parts"),
    [
        (MODEL, [MODEL]),
        (f"{MODEL} && {INDEX}&&{MEMORY}", [MODEL, INDEX, MEMORY]),
        (f"({MODEL} && ({INDEX})) && {TRICKY}", [MODEL, INDEX, TRICKY]),
        (f"{MODEL} || {INDEX}", [f"{MODEL} || {INDEX}"]),
        (f"{MODEL} && {INDEX} ? true : {MEMORY}", [f"{MODEL} && {INDEX} ? true : {MEMORY}"]),
        (f"({MODEL} || {INDEX}) && {MEMORY}", [f"{MODEL} || {INDEX}", MEMORY]),
        (f"!({MODEL} && {INDEX})", [f"!({MODEL} && {INDEX})"]),
        ("true && nonsense(", ["true && nonsense("]),
    ],
)
def test_a_conjunction_is_cut_at_its_own_ands(expression, parts):
    assert list(clauses(expression)) == parts


@pytest.mark.parametrize(
    ("clause", "found"),
    [
        (MODEL, Comparison(f"{D}/model", False, "==", "A100")),
        (INDEX, Comparison(f"{D}/index", False, ">=", "2")),
        (MEMORY, Comparison(f"{D}/memory", True, ">=", "96Gi")),
        (
            f'device.capacity["{D}"].memory.isGreaterThan(quantity("1Gi"))',
            Comparison(f"{D}/memory", True, ">", "1Gi"),
        ),
        (f'has(device.attributes["{D}"].model)', None),
        ("true", None),
    ],
)
def test_what_a_simple_clause_compares(clause, found):
    assert comparison(clause) == found


atoms = st.sampled_from([MODEL, INDEX, MEMORY, TRICKY, "true", f'device.driver == "{D}"'])
trees = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: f"({p[0]} && {p[1]})"),
        st.tuples(inner, inner).map(lambda p: f"{p[0]} && {p[1]}"),
        st.tuples(inner, inner).map(lambda p: f"({p[0]} || {p[1]})"),
        inner.map(lambda p: f"!({p})"),
    ),
    max_leaves=6,
)


def outcome(expression, device):
    try:
        return compile_device_selector(expression).matches_prepared(device)
    except CelRuntimeError:
        return None


@settings(deadline=None, max_examples=150)
@given(
    trees, st.sampled_from(["A100", "H100"]), st.integers(0, 3), st.sampled_from(["80Gi", "1Ti"])
)
def test_a_device_matches_if_every_clause_does(expression, model, index, memory):
    attributes = {"model": {"string": model}, "index": {"int": index}}
    device = prepare_device(D, attributes, {"memory": {"value": memory}})
    parts = clauses(expression)
    assert outcome(expression, device) == all(outcome(part, device) for part in parts)


@pytest.mark.parametrize(
    ("clause", "wanted"),
    [
        ('device.attributes["d"].model == "x"', 'has(device.attributes["d"].model)'),
        (
            'device.capacity["d"]["memory"].compareTo(quantity("1Gi")) > 0 '
            '|| device.attributes["d"].old',
            'has(device.capacity["d"].memory) && has(device.attributes["d"].old)',
        ),
        ('has(device.attributes["d"].model) && device.attributes["d"].model == "x"', ""),
        ('device.driver == "d"', ""),
        ("nonsense(", ""),
    ],
)
def test_a_guard_asks_for_all_that_is_read_and_not_asked_for(clause, wanted):
    assert guard(clause) == wanted
