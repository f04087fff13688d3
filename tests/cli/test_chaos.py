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


def test_the_other_side_of_a_partition_is_a_selector_too():
    spec = {"peers": "role=server", "mode": "All"}
    found = fault_document("partition", "app=train", spec)["spec"]
    assert found["action"] == "Partition"
    assert found["peers"]["matchExpressions"][0]["key"] == "role"
    assert fault_document("partition", "", {"peers": "*"})["spec"]["peers"] == {}
    assert "peers" not in fault_document("partition-node", "", {"peers": ""})["spec"]


@pytest.mark.parametrize(
    ("action", "selector", "spec", "text"),
    [
        ("explode", "", {}, "'explode': write one of kill, stop, slow, out-of-memory"),
        ("kill", "a in (", {}, "--selector 'a in \\('"),
        ("partition", "", {"peers": "a in ("}, "--peers 'a in \\('"),
        ("kill", "", {"peers": "a=b"}, "spec.peers: Kill has no other side"),
        ("loss", "", {"amount": 2}, "spec.amount: 2.0 must be above 0 and at most 1"),
        ("partition", "", {"mode": "Some"}, "spec.mode: 'Some' is not one of One, All"),
        ("corrupt-file", "", {}, "spec.path: is empty"),
        ("explode", "", {}, "^action 'explode': "),
        ("kill", "", {"durationSeconds": 5.0}, "^--duration 5.0: kill does nothing with it; leave"),
        ("lose-node", "", {"amount": 0.5}, "^--amount 0.5: lose-node .* with slow, out-of-memory"),
        ("stop", "", {"path": "/x"}, "^--path /x: stop .* or use it with corrupt-file$"),
        ("loss", "", {"container": "main"}, "^--container main: loss does nothing with it"),
        ("slow", "", {"amount": 0.0}, "spec.amount: 0.0 must be above 0 and below 1"),
        ("kill", "", {"schedule": {"times": 0}}, "spec.schedule.times: 0 must be at least 1"),
    ],
)
def test_wrong_options_are_named(action, selector, spec, text):
    with pytest.raises(ConfigError, match=text):
        fault_document(action, selector, spec)
