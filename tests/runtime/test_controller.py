import asyncio

from kubarium.api.kinds import PODS
from kubarium.base import errors
from kubarium.base.chance import Chance
from kubarium.runtime.controller import Controller
from kubarium.runtime.informer import SharedInformers
from kubarium.runtime.protocol import Context
from kubarium.runtime.virtual import VirtualClock, run


def context_for(api):
    clock = VirtualClock()
    return Context(api, SharedInformers(api, clock), clock, Chance(0))


def test_watched_objects_are_reconciled_after_the_first_list(api):
    async def main():
        api.put("a")
        context, seen = context_for(api), []

        async def reconcile(key):
            assert informer.get(key[1], key[0]) is not None
            seen.append(key)

        controller = Controller("test", context, reconcile)
        informer = controller.watches(PODS)
        task = asyncio.create_task(controller.run())
        await context.clock.sleep(1)
        api.put("b")
        await context.clock.sleep(1)
        task.cancel()
        assert seen == [("default", "a"), ("default", "b")]

    run(main())


def test_a_failing_key_is_retried_with_back_off_and_recorded(api):
    async def main():
        context, times = context_for(api), []

        async def reconcile(key):
            times.append(context.clock.monotonic())
            if len(times) < 4:
                raise ValueError("not yet")

        controller = Controller("test", context, reconcile)
        controller.enqueue(("", "a"))
        task = asyncio.create_task(controller.run())
        await context.clock.sleep(100)
        task.cancel()
        assert [round(t, 6) for t in times] == [0, 0.005, 0.015, 0.035]
        assert [error.message for error in controller.errors] == ["not yet"] * 3

    run(main())


def test_conflicts_are_retried_quietly(api):
    async def main():
        context, calls = context_for(api), []

        async def reconcile(key):
            calls.append(key)
            if len(calls) == 1:
                raise errors.conflict("pods", "", "a")

        controller = Controller("test", context, reconcile)
        controller.enqueue(("", "a"))
        task = asyncio.create_task(controller.run())
        await context.clock.sleep(1)
        task.cancel()
        assert len(calls) == 2
        assert controller.failures == 0

    run(main())


def test_requeue_after_returned_seconds(api):
    async def main():
        context, times = context_for(api), []

        async def reconcile(key):
            times.append(context.clock.monotonic())
            return 10

        controller = Controller("test", context, reconcile)
        controller.enqueue(("", "a"))
        task = asyncio.create_task(controller.run())
        await context.clock.sleep(25)
        task.cancel()
        assert times == [0, 10, 20]

    run(main())


def test_workers_share_the_keys_but_never_one_key(api):
    async def main():
        context, working, most = context_for(api), {}, [0]

        async def reconcile(key):
            assert key not in working
            working[key] = None
            most[0] = max(most[0], len(working))
            controller.enqueue(key, after_s=0.5)
            await context.clock.sleep(1)
            del working[key]

        controller = Controller("test", context, reconcile, workers=3)
        for name in "abcde":
            controller.enqueue(("", name))
        task = asyncio.create_task(controller.run())
        await context.clock.sleep(20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert most == [3]

    run(main())
