"""JSON merge patch (RFC 7386)."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.patch import merge_patch
from kubarium.base.errors import ApiError

keys = st.text("abc", max_size=2)
plain = st.recursive(
    st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
documents = st.dictionaries(keys, plain, max_size=5)


def diff(old, new):
    """The merge patch from old to new, for values without null."""
    patch = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            inner = diff(before, value)
            if inner:
                patch[key] = inner
        elif key not in old or before != value or type(before) is not type(value):
            patch[key] = value
    return patch


@given(documents, documents)
def test_applying_a_difference_gives_the_other_document(old, new):
    before = copy.deepcopy(old)
    assert merge_patch(old, diff(old, new)) == new
    assert old == before


@given(documents, documents)
def test_a_patch_applied_twice_is_a_patch_applied_once(document, patch):
    once = merge_patch(document, patch)
    assert merge_patch(once, patch) == once


@pytest.mark.parametrize(
    ("document", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1, None]}, {"a": [1, None]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": "foo"}, {"a": {"b": 1, "c": None}}, {"a": {"b": 1}}),
    ],
)
def test_rules_of_the_standard(document, patch, expected):
    assert merge_patch(document, patch) == expected


@pytest.mark.parametrize("patch", [[], "x", 1, None, True])
def test_a_patch_that_is_no_object_is_400(patch):
    with pytest.raises(ApiError) as caught:
        merge_patch({}, patch)
    assert caught.value.code == 400
    assert "expected an object" in caught.value.message
