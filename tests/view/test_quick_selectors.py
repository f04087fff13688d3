"""Selectors decided without CEL: what they say is what CEL says, and they say nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.api.cel.devices import compile_device_selector, prepare_device
from kubarium.api.cel.environment import CelRuntimeError
from kubarium.view.devices import device_row
from kubarium.view.quick_selectors import quick_selector

NAMES = ["model", "index", "ok", "version", "many"]
OWN = 'device.attributes["d"]'
FAR = 'device.attributes["x.example.com"]'
MEMORY = 'device.capacity["d"].memory'

attributes = st.sampled_from(
    [f"{OWN}.{name}" for name in NAMES] + [f'{OWN}["model"]', f"{FAR}.model", f"{FAR}.index"]
)
constants = st.sampled_from(['"A100"', '"H100"', '""', "0", "3", "-2", "true", "false"])
operators = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
texts = st.sampled_from(['"A"', '"100"', '""', '"x"'])
atoms = st.one_of(
    st.builds("{} {} {}".format, attributes, operators, constants),
    st.builds("{} {} {}".format, constants, operators, attributes),
    st.builds("{}.{}({})".format, attributes, st.sampled_from(["startsWith", "contains"]), texts),
    st.builds("{}.endsWith({})".format, attributes, texts),
    st.builds("{} in [{}, {}]".format, attributes, constants, constants),
    st.builds('"{}" in {}'.format, st.sampled_from(NAMES), st.sampled_from([OWN, FAR])),
    st.builds("has({})".format, attributes.filter(lambda text: "]." in text)),
    st.builds("device.driver {} {}".format, operators, st.sampled_from(['"d"', '"e"'])),
    st.builds(
        '{}.compareTo(quantity("{}")) {} 0'.format,
        st.just(MEMORY),
        st.sampled_from(["40Gi", "80Gi", "1500m", "no"]),
        operators,
    ),
    st.builds('{}.isLessThan(quantity("{}"))'.format, st.just(MEMORY), st.just("80Gi")),
    st.just(f"{OWN}.index + 1 > 2"),
    st.just("device.allowMultipleAllocations"),
)
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.builds("({}) && ({})".format, inner, inner),
        st.builds("({}) || ({})".format, inner, inner),
        st.builds("!({})".format, inner),
        st.builds("(({}) ? ({}) : ({}))".format, inner, inner, inner),
    ),
    max_leaves=5,
)
values = st.one_of(
    st.sampled_from(["A100", "H100", "", "3"]).map(lambda v: {"string": v}),
    st.sampled_from([0, 3, -2]).map(lambda v: {"int": v}),
    st.booleans().map(lambda v: {"bool": v}),
    st.just({"version": "1.2.3"}),
    st.just({"strings": ["A100"]}),
)
rows = st.fixed_dictionaries(
    {},
    optional={
        "attributes": st.dictionaries(
            st.sampled_from([*NAMES, "d/model", "x.example.com/model", "x.example.com/index"]),
            values,
            max_size=6,
        ),
        "capacity": st.dictionaries(
            st.sampled_from(["memory", "d/memory"]),
            st.sampled_from(["40Gi", "80Gi", "1500m"]).map(lambda v: {"value": v}),
        ),
        "allowMultipleAllocations": st.booleans(),
    },
)


def asked(expression, row):
    """CEL's answer; the text of its error."""
    try:
        device = prepare_device(
            "d",
            row.get("attributes", {}),
            row.get("capacity", {}),
            row.get("allowMultipleAllocations", False),
        )
        return compile_device_selector(expression).matches_prepared(device)
    except CelRuntimeError as error:
        return str(error)


@settings(deadline=None, max_examples=1500)
@given(expressions, rows)
def test_a_quick_answer_is_that_of_cel(expression, row):
    try:
        compile_device_selector(expression)
    except Exception:
        assert quick_selector(expression) is None
        return
    quick = quick_selector(expression)
    [answer] = quick("d", [device_row({"name": "g", **row})]) if quick is not None else [None]
    if answer is not None:
        assert answer == asked(expression, row)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (f'{OWN}.uuid == "GPU-1"', True),
        (f'{OWN}.uuid == "GPU-2"', False),
        (f'"GPU-1" == {OWN}.uuid && {OWN}.index >= 3', True),
        (f'{OWN}.uuid in ["GPU-7", "GPU-1"]', True),
        (f'{OWN}.uuid.startsWith("GPU-2") || {OWN}.index + 1 == 4', None),
        (f'{OWN}.uuid.startsWith("GPU-2") && {OWN}.index + 1 == 4', False),
        (f'{MEMORY}.compareTo(quantity("80Gi")) >= 0', True),
        (f'{MEMORY}.isGreaterThan(quantity("80Gi"))', False),
        (f"!has({OWN}.index)", False),
        ('device.driver == "d"', True),
        (f'{OWN}.missing == "x"', None),
        (f'{OWN}.missing == "x" && {OWN}.index == 4', False),
        (f'{OWN}.index == "3"', None),
        (f'{OWN}.uuid.matches("GPU-.*")', None),
    ],
)
def test_what_is_decided_and_what_is_left_to_cel(expression, expected):
    row = device_row(
        {
            "name": "g",
            "attributes": {"uuid": {"string": "GPU-1"}, "index": {"int": 3}},
            "capacity": {"memory": {"value": "80Gi"}},
        }
    )
    quick = quick_selector(expression)
    assert (quick("d", [row, row]) if quick is not None else [None] * 2) == [expected] * 2
