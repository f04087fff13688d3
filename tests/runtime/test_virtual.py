import asyncio

import pytest

from kubarium.runtime.virtual import (
    DEFAULT_EPOCH_S,
    VirtualClock,
    VirtualLoopError,
    chance,
    run,
)


def test_a_year_of_sleep_takes_no_time():
    async def main():
        clock = VirtualClock()
        await clock.sleep(365 * 86400)
        return clock.monotonic(), clock.now()

    assert run(main()) == (365 * 86400, DEFAULT_EPOCH_S + 365 * 86400)


def test_equal_timers_fire_in_the_order_in_which_they_were_set():
    async def main():
        clock, order = VirtualClock(), []

        async def sleeper(number):
            await clock.sleep(7)
            order.append(number)

        await asyncio.gather(*(sleeper(number) for number in range(100)))
        return order

    assert run(main()) == list(range(100))


def test_time_stands_still_while_anything_can_run():
    async def main():
        clock = VirtualClock()
        timer = asyncio.ensure_future(clock.sleep(0.001))
        for _ in range(1000):
            await clock.sleep(0)
            assert clock.monotonic() == 0
        await timer
        return clock.monotonic()

    assert run(main()) == 0.001


def test_the_same_seed_draws_the_same():
    async def main():
        return chance().uid()

    assert run(main(), seed=7) == run(main(), seed=7)
    assert run(main(), seed=7) != run(main(), seed=8)


def test_waiting_for_nothing_is_an_error_that_names_the_task():
    async def forgotten():
        await asyncio.Event().wait()

    async def main():
        await asyncio.create_task(forgotten(), name="the-forgotten-one")

    with pytest.raises(VirtualLoopError, match=r"the-forgotten-one at .*forgotten"):
        run(main())


@pytest.mark.parametrize(
    "outside",
    [
        lambda: asyncio.to_thread(print),
        lambda: asyncio.open_connection("localhost", 1),
        lambda: asyncio.create_subprocess_exec("true"),
    ],
)
def test_the_outside_world_is_refused(outside):
    async def main():
        await outside()

    with pytest.raises(VirtualLoopError, match="outside world"):
        run(main())


def test_the_virtual_clock_refuses_a_real_loop():
    async def main():
        VirtualClock().now()

    with pytest.raises(VirtualLoopError, match="real event loop"):
        asyncio.run(main())


def test_timeouts_work_on_virtual_time():
    async def main():
        clock = VirtualClock()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await clock.sleep(31)
        return clock.monotonic()

    assert run(main()) == 30
