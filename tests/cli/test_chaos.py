"""The options of `kubarium chaos` as a Fault."""

import pytest

from kubarium.base.errors import ConfigError
from kubarium.cli.chaos import fault_document


def test_options_that_were_not_given_are_not_in_the_fault():
    spec = {"rank": 0, "durationSeconds": 0.0, "path": "", "schedule": {"seed": 7, "times": None}}
    found = fault_document("kill", "app=train,tier!=web", spec)
    assert found["spec"] == {
        "action": "Kill",
        "selector": {
            "matchExpressions": [
                {"key": "app", "operator": "In", "values": ["train"]},
                {"key": "tier", "operator": "NotIn", "values": ["web"]},
            ]
        },
        "rank": 0,
        "schedule": {"seed": 7},
    }


@pytest.mark.parametrize(
    ("action", "selector", "spec", "text"),
    [
        ("explode", "", {}, "'explode': write one of kill, stop, slow, out-of-memory"),
        ("kill", "a in (", {}, "--selector 'a in \\('"),
        ("corrupt-file", "", {}, "spec.path: is empty"),
    ],
)
def test_wrong_options_are_named(action, selector, spec, text):
    with pytest.raises(ConfigError, match=text):
        fault_document(action, selector, spec)
