import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.runtime.queue import LAST_BACKOFF_S, WorkQueue
from kubarium.runtime.virtual import VirtualClock, run


def test_a_key_added_twice_is_worked_on_once():
    async def main():
        queue = WorkQueue(VirtualClock())
        queue.add(("", "a"))
        queue.add(("", "a"))
        assert len(queue) == 1

    run(main())


def test_a_key_added_during_its_work_is_queued_again_after_it():
    async def main():
        queue = WorkQueue(VirtualClock())
        queue.add(("", "a"))
        key = await queue.take()
        queue.add(key)
        assert len(queue) == 0
        queue.done(key)
        assert await queue.take() == key

    run(main())


def test_back_off_doubles_from_five_milliseconds_to_a_thousand_seconds():
    async def main():
        queue = WorkQueue(VirtualClock())
        delays = [queue.retry(("", "a")) for _ in range(30)]
        assert delays[:4] == [0.005, 0.01, 0.02, 0.04]
        assert delays[-1] == LAST_BACKOFF_S
        queue.forgive(("", "a"))
        assert queue.retry(("", "a")) == 0.005
        queue.close()

    run(main())


def test_a_delayed_key_keeps_its_earliest_time():
    async def main():
        clock = VirtualClock()
        queue = WorkQueue(clock)
        queue.add_after(("", "a"), 10)
        queue.add_after(("", "a"), 3)
        queue.add_after(("", "a"), 5)
        await queue.take()
        assert clock.monotonic() == 3
        await clock.sleep(20)
        assert len(queue) == 0

    run(main())


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.floats(0, 20, allow_nan=False)),
        min_size=1,
        max_size=30,
    )
)
@settings(max_examples=100, deadline=None)
def test_every_key_comes_at_its_earliest_time_and_only_once(adds):
    earliest = {}
    for name, delay_s in adds:
        earliest[name] = min(delay_s, earliest.get(name, delay_s))

    async def main():
        clock = VirtualClock()
        queue = WorkQueue(clock)
        came = {}

        async def worker():
            while True:
                key = await queue.take()
                if earliest[key[1]] > 0:  # zero may be queued, taken and queued again
                    assert key[1] not in came
                came.setdefault(key[1], clock.monotonic())
                queue.done(key)

        for name, delay_s in adds:
            queue.add_after(("", name), delay_s)
        task = asyncio.create_task(worker())
        await clock.sleep(30)
        task.cancel()
        return came

    came = run(main())
    assert came.keys() == earliest.keys()
    for name, at in came.items():
        assert abs(at - earliest[name]) < 1e-6
