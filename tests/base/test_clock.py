from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.base.clock import parse_rfc3339, rfc3339, rfc3339_micro


@pytest.mark.parametrize("seconds", [-1e30, -(2**62), 2**62, 1e30, float("inf")])
def test_a_moment_without_a_name_is_the_nearest_that_has_one(seconds):
    text = rfc3339(seconds)
    assert text == ("1000-01-01T00:00:00Z" if seconds < 0 else "9999-12-31T23:59:59Z")
    assert rfc3339(parse_rfc3339(text)) == text


@given(st.floats(-3.0e10, 2.5e11))
def test_microseconds_are_those_of_datetime(seconds):
    told = datetime.fromisoformat(rfc3339_micro(seconds))
    assert abs(told - datetime.fromtimestamp(seconds, UTC)) <= timedelta(microseconds=1)
    assert len(rfc3339_micro(seconds)) == len("1970-01-01T00:00:00.000000Z")


def test_microseconds_round_into_the_next_second():
    assert rfc3339_micro(1.9999999) == "1970-01-01T00:00:02.000000Z"
    assert rfc3339_micro(-0.25) == "1969-12-31T23:59:59.750000Z"
