"""What a selector can see: its outcome depends on nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.api.cel.devices import compile_device_selector, prepare_device
from kubarium.api.cel.environment import CelRuntimeError
from kubarium.api.cel.sight import attributes_read

D = "gpu.example.com"

SELECTORS = {
    f'device.driver == "{D}"': frozenset(),
    f'device.attributes["{D}"].model == "A100"': {f"{D}/model"},
    f'device.attributes["{D}"]["model"].startsWith("A")': {f"{D}/model"},
    f'has(device.attributes["{D}"].model)': {f"{D}/model"},
    f'"model" in device.attributes["{D}"] && device.attributes["o"].n > 1': {f"{D}/model", "o/n"},
    f'device.attributes["{D}"].?model.orValue("x") == "x"': {f"{D}/model"},
    f'device.attributes["{D}"][?"model"].hasValue()': {f"{D}/model"},
    f'device.capacity["{D}"].memory.compareTo(quantity("40Gi")) >= 0': frozenset(),
    f'device.attributes["{D}"].exists(k, k == "uuid")': None,
    f'"{D}" in device.attributes': None,
    f'cel.bind(a, device.attributes["{D}"], a.model == "A100")': None,
    "size(device.attributes) > 1": None,
    "this does not compile": frozenset(),
}


@pytest.mark.parametrize("expression", SELECTORS)
def test_the_attributes_that_a_selector_reads(expression):
    found = SELECTORS[expression]
    assert attributes_read(expression) == (None if found is None else frozenset(found))


def outcome(expression, attributes):
    prepared = prepare_device(D, attributes, {"memory": {"value": "80Gi"}})
    try:
        return compile_device_selector(expression).matches_prepared(prepared)
    except CelRuntimeError as error:
        return str(error)


values = st.sampled_from([None, {"string": "A100"}, {"string": "x"}, {"int": 2}])
names = st.sampled_from([f"{D}/model", "model", "uuid", "o/n", "o/uuid", f"{D}/uuid"])


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from([e for e, seen in SELECTORS.items() if seen is not None and "this" not in e]),
    st.dictionaries(names, values),
    st.dictionaries(names, values),
)
def test_what_is_not_read_does_not_matter(expression, attributes, others):
    seen = attributes_read(expression)
    attributes = {n: v for n, v in attributes.items() if v}
    blind = {n: v for n, v in others.items() if v and n not in seen and f"{D}/{n}" not in seen}
    kept = {n: v for n, v in attributes.items() if n in seen or f"{D}/{n}" in seen}
    assert outcome(expression, attributes) == outcome(expression, kept | blind)
