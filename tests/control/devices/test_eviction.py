"""When a device's taint ends a pod, as a function of tolerations and times."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from kubarium.control.devices.eviction import Active, evict_at
from kubarium.engine.devices.model import DeviceTaint

TAINT = DeviceTaint("example.com/broken", "yes", "NoExecute")


def toleration(seconds=None, **fields):
    found = {"key": TAINT.key, "operator": "Exists", **fields}
    return found if seconds is None else found | {"tolerationSeconds": seconds}


def test_an_untolerated_taint_evicts_at_once():
    assert evict_at([], Active(TAINT, 100.0)) == 100.0
    assert evict_at([toleration(key="other.com/key")], Active(TAINT, 100.0)) == 100.0
    assert evict_at([toleration(effect="NoSchedule")], Active(TAINT, 100.0)) == 100.0


def test_a_toleration_without_seconds_is_for_ever():
    assert evict_at([toleration()], Active(TAINT, 100.0)) == math.inf


def test_only_noexecute_evicts():
    for effect in ("None", "NoSchedule"):
        assert evict_at([], Active(DeviceTaint("k", "", effect), 0.0)) == math.inf


@given(st.lists(st.integers(-10, 1000), min_size=1, max_size=4), st.booleans())
def test_the_shortest_toleration_counts_and_negative_ones_are_zero(seconds, unlimited):
    tolerations = [toleration(s) for s in seconds] + ([toleration()] if unlimited else [])
    assert evict_at(tolerations, Active(TAINT, 50.0)) == 50.0 + max(0, min(seconds))
