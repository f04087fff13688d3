"""What a toleration tolerates, and how labels are compared with numbers."""

from __future__ import annotations

import pytest

from kubarium.engine.queueing import flavor
from kubarium.engine.selectors import Requirement
from kubarium.engine.taints import Taint, Toleration

NUMBERS = [
    ("Gt", "950", "990", True),
    ("Gt", "950", "950", False),
    ("Gt", "950", "900", False),
    ("Lt", "950", "900", True),
    ("Lt", "-5", "-6", True),
    ("Lt", "950", "950", False),
    # Only integers as one would write them, of 64 bits.
    ("Gt", "950", "0990", False),
    ("Gt", "950", "99.5", False),
    ("Gt", "950", "", False),
    ("Gt", "1_0", "990", False),
    ("Gt", "5", str(2**63), False),
    ("Lt", "-0", "-1", False),
]


@pytest.mark.parametrize(("operator", "bound", "value", "tolerated"), NUMBERS)
def test_taints_are_compared_as_numbers(operator, bound, value, tolerated):
    """KEP-5471: a node of service level 990 takes a pod that tolerates more than 950."""
    toleration = Toleration("level", operator, bound, "NoSchedule")
    assert toleration.tolerates(Taint("level", value, "NoSchedule")) is tolerated
    assert not toleration.tolerates(Taint("other", value, "NoSchedule"))
    assert not toleration.tolerates(Taint("level", value, "NoExecute"))
    of_flavor = flavor.Toleration("level", operator, bound, "NoSchedule")
    assert of_flavor.tolerates(flavor.Taint("level", value, "NoSchedule")) is tolerated


@pytest.mark.parametrize(
    ("value", "bound", "more"),
    [
        ("10", "9", True),
        ("9", "10", False),
        ("007", "+6", True),  # as strconv.ParseInt reads it
        ("1_000", "5", False),
        ("10", " 5", False),
        ("٣", "1", False),
        (str(2**63), "5", False),
        ("x", "5", False),
    ],
)
def test_labels_are_compared_as_go_reads_numbers(value, bound, more):
    assert Requirement("cores", "Gt", (bound,)).holds(value) is more
