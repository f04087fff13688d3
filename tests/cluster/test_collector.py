"""The garbage collector of a control plane's process."""

from __future__ import annotations

import gc
import weakref

import pytest

from kubarium.cluster.collector import THRESHOLDS, tune_collector


@pytest.fixture(autouse=True)
def as_before():
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


class Knot:
    """Something that only the collector can free."""

    def __init__(self):
        self.itself = self


def test_what_is_there_is_not_looked_at_again_and_new_garbage_is_still_found():
    tune_collector()
    assert gc.get_threshold() == THRESHOLDS
    assert gc.get_freeze_count() > 0
    gone = weakref.ref(Knot())
    gc.collect()
    assert gone() is None


def test_enough_new_objects_bring_a_collection_by_themselves():
    tune_collector()
    gone = weakref.ref(Knot())
    kept = [[] for _ in range(THRESHOLDS[0] + 1000)]
    assert gone() is None
    assert kept
