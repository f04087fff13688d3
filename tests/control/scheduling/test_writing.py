"""Decisions on their way to the API."""

from __future__ import annotations

import asyncio
import gc
import warnings

from kubarium.control.scheduling.writing import WRITERS, Writing


async def ended(writing, works=()):
    """A scheduler that is over before its writers have begun."""

    async def scheduler():
        async with asyncio.TaskGroup() as tasks:
            writing.start(tasks, "test")
            for work in works:
                writing.put(work)
            await asyncio.Event().wait()

    task = asyncio.create_task(scheduler())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_what_informers_ask_for_after_scheduling_has_ended_is_dropped():
    async def nothing():
        raise AssertionError("nobody does it")

    async def main():
        writing = Writing(*[None] * 9)
        await ended(writing, [nothing()])
        assert writing.is_idle()
        writing.put(nothing())
        assert writing.is_idle()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert [str(w.message) for w in told] == []


def test_what_nobody_has_begun_when_scheduling_ends_is_dropped():
    async def main():
        writing, begun, all_busy = Writing(*[None] * 9), [], asyncio.Event()

        async def work(number):
            begun.append(number)
            if len(begun) == WRITERS:
                all_busy.set()
            await asyncio.Event().wait()

        async def scheduler():
            async with asyncio.TaskGroup() as tasks:
                writing.start(tasks, "test")
                for number in range(WRITERS + 2):
                    writing.put(work(number))

        task = asyncio.create_task(scheduler())
        await all_busy.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert writing.is_idle()
        assert len(begun) == WRITERS

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert [str(w.message) for w in told] == []
