import pytest

from kubarium.base.clock import parse_rfc3339, rfc3339


@pytest.mark.parametrize("seconds", [-1e30, -(2**62), 2**62, 1e30, float("inf")])
def test_a_moment_without_a_name_is_the_nearest_that_has_one(seconds):
    text = rfc3339(seconds)
    assert text == ("1000-01-01T00:00:00Z" if seconds < 0 else "9999-12-31T23:59:59Z")
    assert rfc3339(parse_rfc3339(text)) == text
