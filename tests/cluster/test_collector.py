"""The garbage collector of a control plane's process."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from kubarium.cluster import collector
from kubarium.cluster.collector import (
    NEW_OBJECTS,
    THRESHOLDS,
    collect_when_idle,
    tune_collector,
)


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
    gc.set_threshold(20_000, *THRESHOLDS[1:])  # ten million objects would take a second
    gone = weakref.ref(Knot())
    kept = [[] for _ in range(21_000)]
    assert gone() is None
    assert kept


@pytest.mark.parametrize(("idle", "latest"), [(2.0, 600.0), (-1.0, 0.1)])
def test_an_idle_process_looks_once_much_is_new_and_a_busy_one_goes_on(monkeypatch, idle, latest):
    async def scenario():
        looking = asyncio.create_task(collect_when_idle())
        freed = asyncio.Event()
        gone = weakref.ref(Knot(), lambda _: freed.set())
        await asyncio.sleep(0.15)
        assert gone() is not None  # little is new
        kept = [[] for _ in range(NEW_OBJECTS + 1000)]
        monkeypatch.setattr(collector, "IDLE_SHARE", -1.0)  # always busy
        await asyncio.sleep(0.15)
        assert gone() is not None
        monkeypatch.setattr(collector, "IDLE_SHARE", idle)
        monkeypatch.setattr(collector, "LATEST_S", latest)
        async with asyncio.timeout(10):
            await freed.wait()
        assert kept
        looking.cancel()

    monkeypatch.setattr(collector, "LOOK_EVERY_S", 0.05)
    tune_collector()
    asyncio.run(scenario())
