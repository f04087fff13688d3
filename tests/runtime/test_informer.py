import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kubarium.api.kinds import PODS
from kubarium.runtime.informer import SharedInformers, key_of
from kubarium.runtime.virtual import VirtualClock, run


class Log:
    """What a handler was told, checked for order as it comes."""

    def __init__(self):
        self.held = {}
        self.calls = []

    def __call__(self, old, new):
        document = new if new is not None else old
        key = key_of(document)
        if old is None:
            assert key not in self.held
        else:
            assert self.held[key]["metadata"]["uid"] == old["metadata"]["uid"]
        if new is None:
            del self.held[key]
            self.calls.append(("gone", *key))
        else:
            self.held[key] = new
            self.calls.append(("new" if old is None else "changed", *key))


def started(api):
    informers = SharedInformers(api, VirtualClock())
    return informers, informers.get(PODS)


def test_holds_the_list_and_then_follows_the_watch(api):
    async def main():
        api.put("b")
        api.put("a")
        _, informer = started(api)
        log = Log()
        informer.on_change(log)
        await informer.wait_synced()
        await VirtualClock().sleep(0.1)
        api.put("c", namespace="apart")
        api.put("a", labels={"x": "y"})
        api.remove("b")
        await VirtualClock().sleep(0.1)
        assert [key_of(item) for item in informer.items()] == [("apart", "c"), ("default", "a")]
        assert informer.items("default") == [informer.get("a", "default")]
        assert log.calls == [
            ("new", "default", "a"),
            ("new", "default", "b"),
            ("new", "apart", "c"),
            ("changed", "default", "a"),
            ("gone", "default", "b"),
        ]

    run(main())


def test_late_handlers_hear_of_every_object_already_held(api):
    async def main():
        api.put("a")
        _, informer = started(api)
        await informer.wait_synced()
        log = Log()
        informer.on_change(log)
        assert log.calls == [("new", "default", "a")]

    run(main())


def test_a_watch_that_ends_is_resumed_without_a_new_list(api):
    async def main():
        _, informer = started(api)
        await informer.wait_synced()
        await VirtualClock().sleep(0.1)
        api.put("a")
        await VirtualClock().sleep(0.1)
        api.end_watches()
        api.put("b")
        await VirtualClock().sleep(5)
        assert len(informer.items()) == 2
        assert api.lists == 1

    run(main())


def test_after_410_what_went_in_between_is_reported_gone(api):
    async def main():
        api.put("stays")
        api.put("goes")
        api.put("renewed", uid="first")
        _, informer = started(api)
        log = Log()
        informer.on_change(log)
        await informer.wait_synced()
        await VirtualClock().sleep(0.1)
        api.end_watches()
        api.remove("goes")
        api.remove("renewed")
        api.put("renewed", uid="second")
        api.compact()
        await VirtualClock().sleep(5)
        assert api.lists == 2
        assert log.calls[3:] == [
            ("gone", "default", "goes"),
            ("gone", "default", "renewed"),
            ("new", "default", "renewed"),
        ]

    run(main())


def test_observed_writes_are_there_at_once_and_late_events_do_not_undo_them(api):
    async def main():
        api.put("a")
        _, informer = started(api)
        await informer.wait_synced()
        await VirtualClock().sleep(0.1)
        api.put("a", labels={"step": "1"})
        newest = api.put("a", labels={"step": "2"})
        informer.observe(newest)
        log = Log()
        informer.on_change(log)
        await VirtualClock().sleep(0.1)
        assert informer.get("a", "default") is newest
        assert log.calls == [("new", "default", "a")]

    run(main())


def test_observing_what_was_deleted_since_brings_no_ghost(api):
    async def main():
        _, informer = started(api)
        await informer.wait_synced()
        await VirtualClock().sleep(0.1)
        answer = api.put("a")
        api.remove("a")
        await VirtualClock().sleep(0.1)
        informer.observe(answer)
        assert informer.items() == []

    run(main())


def test_forgotten_objects_stay_gone_until_their_name_is_used_again(api):
    async def main():
        old = api.put("a", uid="first")
        _, informer = started(api)
        await informer.wait_synced()
        await VirtualClock().sleep(0.1)
        api.put("a", labels={"late": "event"})
        api.remove("a")
        informer.forget(old)
        assert informer.get("a", "default") is None
        api.put("a", uid="second")
        await VirtualClock().sleep(0.1)
        assert informer.get("a", "default")["metadata"]["uid"] == "second"

    run(main())


def test_indexes_follow_changes(api):
    async def main():
        api.put("a", labels={"app": "x"})
        _, informer = started(api)
        await informer.wait_synced()
        informer.add_index("app", lambda pod: [pod["metadata"].get("labels", {}).get("app", "")])
        await VirtualClock().sleep(0.1)
        api.put("b", labels={"app": "x"})
        api.put("a", labels={"app": "y"})
        await VirtualClock().sleep(0.1)
        assert [key_of(p)[1] for p in informer.by_index("app", "x")] == ["b"]
        assert [key_of(p)[1] for p in informer.by_index("app", "y")] == ["a"]
        api.remove("b")
        await VirtualClock().sleep(0.1)
        assert informer.by_index("app", "x") == []

    run(main())


def test_a_resource_that_is_not_served_is_empty_until_it_is(api):
    async def main():
        api.served = False
        informers, informer = started(api)
        await informer.wait_synced()
        assert informer.items() == []
        assert informers.statistics()["pods"]["served"] is False
        api.served = True
        api.put("a")
        await VirtualClock().sleep(60)
        assert len(informer.items()) == 1

    run(main())


def test_a_raising_handler_does_not_stop_the_others(api):
    async def main():
        _, informer = started(api)

        def broken(old, new):
            raise RuntimeError("broken handler")

        log = Log()
        informer.on_change(broken)
        informer.on_change(log)
        await informer.wait_synced()
        await VirtualClock().sleep(0.1)
        api.put("a")
        await VirtualClock().sleep(0.1)
        assert log.calls == [("new", "default", "a")]
        assert "broken handler" in informer.statistics.last_error

    run(main())


def test_an_object_that_an_index_cannot_read_is_in_no_bucket_and_stops_nothing(api):
    async def main():
        informers, informer = started(api)

        def by_colour(document):
            return [document["metadata"]["labels"]["colour"]]

        informer.add_index("colour", by_colour)
        await informer.wait_synced()
        api.put("a", labels={"colour": "red"})
        await VirtualClock().sleep(0.1)
        api.put("b")  # a KeyError
        api.put("a")
        api.put("c", labels={"colour": "red"})
        await VirtualClock().sleep(60)
        assert [key_of(item)[1] for item in informer.items()] == ["a", "b", "c"]
        assert [key_of(item)[1] for item in informer.by_index("colour", "red")] == ["c"]
        assert informer.statistics.failures == 2
        assert "labels" in informer.statistics.last_error
        assert informers.statistics()["pods"]["lists"] == 1
        informer.add_index("again", by_colour)
        assert [key_of(item)[1] for item in informer.by_index("again", "red")] == ["c"]

    run(main())


def test_an_error_that_nobody_foresaw_is_waited_out(api):
    async def main():
        original, calls = api.list, []

        async def failing(*args, **options):
            calls.append(1)
            if len(calls) == 1:
                raise AttributeError("what a client may let through")
            return await original(*args, **options)

        api.list = failing
        api.put("a")
        _, informer = started(api)
        await VirtualClock().sleep(60)
        assert len(informer.items()) == 1
        assert "let through" in informer.statistics.last_error

    run(main())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abcd")),
        st.tuples(st.just("remove"), st.sampled_from("abcd")),
        st.tuples(st.just("observe"), st.sampled_from("abcd")),
        st.tuples(st.just("forget"), st.sampled_from("abcd")),
        st.tuples(st.sampled_from(["end", "compact", "wait", "yield"]), st.just("")),
    ),
    max_size=40,
)


@given(steps=STEPS)
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_happens_the_copy_ends_equal_to_the_api(api, steps):
    run(follow(type(api)(), steps))


async def follow(api, steps):
    clock = VirtualClock()
    _, informer = started(api)
    informer.add_index("name", lambda pod: [pod["metadata"]["name"]])
    log = Log()
    informer.on_change(log)
    await informer.wait_synced()
    for step, name in steps:
        held = api.objects.get(("default", name))
        if step == "put":
            api.put(name)
        elif step == "remove" and held:
            api.remove(name)
        elif step == "observe" and held:
            informer.observe(held)
            assert informer.get(name, "default") is held
        elif step == "forget" and held:
            api.remove(name)
            informer.forget(held)
            seen = informer.get(name, "default")
            assert seen is None or seen["metadata"]["uid"] != held["metadata"]["uid"]
        elif step == "end":
            api.end_watches()
        elif step == "compact":
            api.compact()
        elif step == "wait":
            await clock.sleep(1)
        elif step == "yield":
            await asyncio.sleep(0)
    await clock.sleep(100)
    expected = [api.objects[key] for key in sorted(api.objects)]
    assert informer.items() == expected
    assert log.held == api.objects
    for name in "abcd":
        held = api.objects.get(("default", name))
        assert informer.by_index("name", name) == ([held] if held else [])
