"""SortedKeys against a plain sorted set."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.store import keys as keys_module
from kubarium.store.keys import END, SortedKeys

TEXT = st.text(alphabet="ab/-\0", max_size=4)


@given(st.lists(st.tuples(st.booleans(), TEXT)), TEXT, TEXT)
def test_behaves_as_a_sorted_set(steps, low, high):
    old, keys_module.KEYS_PER_BUCKET = keys_module.KEYS_PER_BUCKET, 3
    try:
        keys, model = SortedKeys(), set()
        for add, key in steps:
            if add and key not in model:
                keys.add(key)
                model.add(key)
            elif not add and key in model:
                keys.remove(key)
                model.remove(key)
            keys.check()
    finally:
        keys_module.KEYS_PER_BUCKET = old
    wanted = sorted(key for key in model if low <= key < high)
    assert list(keys.between(low, high)) == wanted
    assert keys.count(low, high) == len(wanted)
    assert list(keys.between("", END)) == sorted(model)
    assert len(keys) == len(model)


def test_removing_what_is_not_there_is_an_error():
    keys = SortedKeys()
    with pytest.raises(KeyError):
        keys.remove("a")
    keys.add("b")
    with pytest.raises(KeyError):
        keys.remove("a")
