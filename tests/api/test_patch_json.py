"""JSON patch: RFC 6902's rules, upstream's limits, and a diff that always applies."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.patch import MAX_OPERATIONS, json_patch
from kubarium.api.patch.json_patch import json_equal
from kubarium.base.errors import ApiError

scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab/~", max_size=3)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("ab/~0", max_size=3), inner, max_size=4)
    ),
    max_leaves=15,
)
documents = st.dictionaries(st.text("ab/~0", max_size=3), values, max_size=5)


def pointer(tokens):
    return "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in tokens)


def diff(old, new, at=()):
    """The straightforward difference of two values as operations: an oracle for the property."""
    if isinstance(old, dict) and isinstance(new, dict):
        operations = []
        for key in old:
            path = (*at, key)
            if key not in new:
                operations.append({"op": "remove", "path": pointer(path)})
            elif not json_equal(old[key], new[key]):
                operations += diff(old[key], new[key], path)
        added = [key for key in new if key not in old]
        return operations + [
            {"op": "add", "path": pointer((*at, key)), "value": new[key]} for key in added
        ]
    return [{"op": "replace", "path": pointer(at), "value": new}]


@given(documents, documents)
def test_applying_a_difference_gives_the_other_document(old, new):
    before = copy.deepcopy(old)
    result = json_patch(old, diff(old, new))
    assert json_equal(result, new)
    assert old == before


@given(documents, st.lists(values, max_size=3))
def test_adding_to_the_end_then_removing_gives_the_list_back(document, items):
    document = {**document, "list": items}
    operations = [
        {"op": "add", "path": "/list/-", "value": 1},
        {"op": "remove", "path": f"/list/{len(items)}"},
    ]
    assert json_patch(document, operations) == document


# Own vectors for each rule of RFC 6902 section 4 and RFC 6901 section 4.
GOOD = [
    ({"a": 1}, [{"op": "add", "path": "/b", "value": 2}], {"a": 1, "b": 2}),
    ({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2, 3]}),
    ({"a": [1]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2]}),
    ({"a": 1}, [{"op": "add", "path": "/a", "value": None}], {"a": None}),
    ({"a": 1, "b": 2}, [{"op": "remove", "path": "/a"}], {"b": 2}),
    ({"a": [1, 2, 3]}, [{"op": "remove", "path": "/a/1"}], {"a": [1, 3]}),
    ({"a": 1}, [{"op": "replace", "path": "/a", "value": [1]}], {"a": [1]}),
    ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 1}}], {"b": 1}),
    ({"a": {"b": 1}}, [{"op": "move", "from": "/a/b", "path": "/c"}], {"a": {}, "c": 1}),
    ({"a": [1, 2, 3]}, [{"op": "move", "from": "/a/0", "path": "/a/2"}], {"a": [2, 3, 1]}),
    ({"a": {"b": 1}}, [{"op": "copy", "from": "/a", "path": "/c"}], {"a": {"b": 1}, "c": {"b": 1}}),
    ({"a/b": 1, "m~n": 2}, [{"op": "remove", "path": "/a~1b"}], {"m~n": 2}),
    ({"m~n": 2}, [{"op": "test", "path": "/m~0n", "value": 2}], {"m~n": 2}),
    ({"": 1}, [{"op": "test", "path": "/", "value": 1}], {"": 1}),
    ({"a": 1}, [{"op": "test", "path": "/a", "value": 1.0}], {"a": 1}),
    ({"a": 1}, [{"op": "test", "path": "/nothing", "value": None}], {"a": 1}),
    ({"a": [1, 2]}, [{"op": "remove", "path": "/a/-1"}], {"a": [1]}),
    ({"a": 1}, [], {"a": 1}),
]


@pytest.mark.parametrize(("document", "operations", "expected"), GOOD)
def test_operations_that_fit_are_applied(document, operations, expected):
    assert json_patch(document, operations) == expected


REFUSED = [
    ([{"op": "test", "path": "/a", "value": True}], "testing value /a failed: test failed"),
    ([{"op": "test", "path": "/x", "value": 1}], "error in test for path: '/x': missing value"),
    ([{"op": "add", "path": "/x/y", "value": 1}], 'doc is missing path: "/x/y": missing value'),
    ([{"op": "add", "path": "/list/7", "value": 1}], "Unable to access invalid index: 7"),
    ([{"op": "add", "path": "/list/01", "value": 1}], '"01" is no array index'),
    ([{"op": "remove", "path": "/x"}], "Unable to remove nonexistent key: x"),
    ([{"op": "remove", "path": ""}], "the whole document cannot be removed"),
    ([{"op": "replace", "path": "/x", "value": 1}], 'doc is missing key: "/x"'),
    ([{"op": "move", "from": "/x", "path": "/y"}], 'doc is missing from path: "/x"'),
    ([{"op": "move", "from": "/map", "path": "/map/b"}], 'lies inside "/map"'),
    ([{"op": "add", "path": "a", "value": 1}], 'must be empty or start with "/": "a"'),
    ([{"op": "replace", "path": "", "value": 1}], "not an object"),
    ([{"op": "destroy", "path": "/a"}], "Unexpected kind: destroy"),
]


@pytest.mark.parametrize(("operations", "message"), REFUSED)
def test_operations_that_do_not_fit_are_422_and_say_why(operations, message):
    document = {"a": 1, "list": [1], "map": {}}
    with pytest.raises(ApiError) as caught:
        json_patch(document, operations)
    assert (caught.value.code, caught.value.reason) == (422, "Invalid")
    assert message in caught.value.message
    assert caught.value.message.startswith("the server rejected our request due to an error in our")
    assert document == {"a": 1, "list": [1], "map": {}}


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        ({"op": "add"}, "a JSON patch is an array"),
        (["x"], "operation 0 is not an object"),
        ([{"op": "add", "value": 1}], 'operation 0 (add) has no "path"'),
        ([{"op": "add", "path": "/a"}], 'operation 0 (add) has no "value"'),
        ([{"op": "move", "path": "/a"}], 'operation 0 (move) has no "from"'),
        ([{"op": "remove", "path": 3}], '"path" is no string'),
    ],
)
def test_malformed_patches_are_400(operations, message):
    with pytest.raises(ApiError) as caught:
        json_patch({"a": 1}, operations)
    assert caught.value.code == 400
    assert message in caught.value.message


def test_too_many_operations_are_413():
    operations = [{"op": "test", "path": "", "value": {}}] * (MAX_OPERATIONS + 1)
    with pytest.raises(ApiError) as caught:
        json_patch({}, operations)
    assert caught.value.code == 413
    assert "is 10000, got 10001" in caught.value.message
    assert json_patch({}, operations[:-1]) == {}


def test_copying_a_document_into_itself_again_and_again_is_stopped():
    operations = [{"op": "copy", "from": "/a", "path": f"/a/{n}"} for n in range(40)]
    with pytest.raises(ApiError, match="the copy operations add more than"):
        json_patch({"a": {}}, operations)


@pytest.mark.parametrize("op", ["add", "copy"])
def test_a_document_cannot_be_nested_without_end(op):
    operations = [
        {"op": op, "path": "/a" * depth, "value": {}, "from": "/seed"} for depth in range(1, 300)
    ]
    with pytest.raises(ApiError, match="nests deeper than 200 levels") as caught:
        json_patch({"seed": {}}, operations)
    assert caught.value.code == 422
