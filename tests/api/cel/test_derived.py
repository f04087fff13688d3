"""Derived attributes: selectors' language, but values of attributes instead of yes and no."""

from __future__ import annotations

import pytest

from kubarium.api.cel.devices import compile_derived_attribute, prepare_device
from kubarium.api.cel.environment import CelCompileError, CelRuntimeError

DEVICE = prepare_device(
    "d.example.com",
    {
        "model": {"string": "numa1-a100"},
        "index": {"int": 3},
        "version": {"version": "1.2.3"},
        "roots": {"strings": ["r0", "r1"]},
    },
    {"memory": {"value": "80Gi"}},
)
OWN = "device.attributes['d.example.com']"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (f"{OWN}.model", ("string", ("numa1-a100",), False)),
        (f"{OWN}.model.split('-')[0]", ("string", ("numa1",), False)),
        (f"{OWN}.index + 1", ("int", (4,), False)),
        (f"{OWN}.index > 2", ("bool", (True,), False)),
        (f"{OWN}.version", ("version", ("1.2.3",), False)),
        ("semver('2.0.0')", ("version", ("2.0.0",), False)),
        (f"{OWN}.roots", ("string", ("r0", "r1"), True)),
        (f"[int({OWN}.index), 7]", ("int", (3, 7), True)),
        (
            "device.capacity['d.example.com'].memory.isGreaterThan(quantity('40Gi')) ? 'L' : 'S'",
            ("string", ("L",), False),
        ),
    ],
)
def test_values_have_the_types_of_attributes(expression, value):
    assert compile_derived_attribute(expression).value(DEVICE) == value


@pytest.mark.parametrize(
    "expression", ["{'a': 1}", "1.5", "1u", "quantity('1')", "timestamp('2026-01-01T00:00:00Z')"]
)
def test_other_types_are_refused_when_written(expression):
    with pytest.raises(CelCompileError, match="must evaluate to string, int, bool, semver"):
        compile_derived_attribute(expression)


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (f"{OWN}.nothing", "no such key: nothing"),
        (f"[{OWN}.index, {OWN}.model]", "must not mix types"),
        ("[[1]]", "cannot be an attribute"),
        ("dyn({'a': 1})", "cannot be an attribute"),
    ],
)
def test_what_only_the_device_shows_fails_when_asked(expression, text):
    with pytest.raises(CelRuntimeError, match=text):
        compile_derived_attribute(expression).value(DEVICE)


def test_presence_can_be_asked_first():
    guarded = f"'nothing' in {OWN} ? {OWN}.nothing : 'none'"
    assert compile_derived_attribute(guarded).value(DEVICE) == ("string", ("none",), False)
