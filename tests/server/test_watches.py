"""Watches: order, completeness, selections, resumption, bookmarks, limits."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubarium.api.catalog import Catalog
from kubarium.api.kinds import CONFIG_MAPS, NAMESPACES, NODES
from kubarium.base.chance import Chance
from kubarium.runtime.virtual import VirtualClock, run
from kubarium.server import watches
from kubarium.server.api_server import ApiServer
from kubarium.server.local import LocalClient
from kubarium.server.requests import WatchOptions
from kubarium.store import MemoryStore


def config_map(name, **labels):
    return {"metadata": {"name": name, "labels": labels}}


def seen(events):
    return [(event.type, event.object["metadata"].get("name")) for event in events]


async def set_labels(w, name, **labels):
    patch = {"metadata": {"labels": labels}}
    return await w.client.patch(CONFIG_MAPS, name, patch, "default")


def test_without_a_version_the_state_comes_first(world):
    async def story(w):
        await w.client.create(CONFIG_MAPS, config_map("a"), "default")
        watch = await w.client.watch(CONFIG_MAPS, "default")
        await w.client.create(CONFIG_MAPS, config_map("b"), "default")
        await set_labels(w, "a", x="1")
        await w.client.delete(CONFIG_MAPS, "b", "default")
        assert seen(await watch.next_batch()) == [
            ("ADDED", "a"),
            ("ADDED", "b"),
            ("MODIFIED", "a"),
            ("DELETED", "b"),
        ]

    world(story)


def test_a_watch_resumes_where_another_stopped(world):
    async def story(w):
        first = await w.client.watch(CONFIG_MAPS)
        made = await w.client.create(CONFIG_MAPS, config_map("a"), "default")
        await w.client.create(CONFIG_MAPS, config_map("b"), "default")
        await w.client.delete(CONFIG_MAPS, "a", "default")
        everything = await first.next_batch()
        version = made["metadata"]["resourceVersion"]
        second = await w.client.watch(CONFIG_MAPS, resource_version=version)
        assert await second.next_batch() == everything[1:]

    world(story)


def test_a_compacted_version_is_expired(world):
    async def story(w):
        made = await w.client.create(CONFIG_MAPS, config_map("a"), "default")
        await set_labels(w, "a", x="1")
        w.store.compact(w.store.revision)
        version = made["metadata"]["resourceVersion"]
        error = await w.refused(w.client.watch(CONFIG_MAPS, resource_version=version))
        assert (error.code, error.reason) == (410, "Expired")
        assert error.message.startswith("too old resource version")

    world(story)


def test_objects_enter_and_leave_a_selection(world):
    async def story(w):
        watch = await w.client.watch(CONFIG_MAPS, label_selector="team=a")
        await w.client.create(CONFIG_MAPS, config_map("x"), "default")
        await set_labels(w, "x", team="a")
        await set_labels(w, "x", team="a", more="1")
        left = await set_labels(w, "x", team="b")
        await set_labels(w, "x", team="c")
        await set_labels(w, "x", team="a")
        await w.client.delete(CONFIG_MAPS, "x", "default")
        events = await watch.next_batch()
        assert [event.type for event in events] == [
            "ADDED",
            "MODIFIED",
            "DELETED",
            "ADDED",
            "DELETED",
        ]
        gone = events[2].object["metadata"]
        assert gone["labels"]["team"] == "a"  # the last state that was selected,
        assert gone["resourceVersion"] == left["metadata"]["resourceVersion"]  # at this moment

    world(story)


def test_a_deletion_carries_its_own_version(world):
    async def story(w):
        made = await w.client.create(CONFIG_MAPS, config_map("a"), "default")
        watch = await w.client.watch(
            CONFIG_MAPS, resource_version=made["metadata"]["resourceVersion"]
        )
        await w.client.delete(CONFIG_MAPS, "a", "default")
        (event,) = await watch.next_batch()
        assert event.object["metadata"]["resourceVersion"] == str(w.store.revision)

    world(story)


def test_a_namespace_sees_only_its_own(world):
    async def story(w):
        await w.client.create(NAMESPACES, {"metadata": {"name": "default2"}})
        watch = await w.client.watch(CONFIG_MAPS, "default")
        await w.client.create(CONFIG_MAPS, config_map("theirs"), "default2")
        await w.client.create(CONFIG_MAPS, config_map("ours"), "default")
        assert seen(await watch.next_batch()) == [("ADDED", "ours")]

    world(story)


def test_initial_events_end_in_a_bookmark(world):
    async def story(w):
        await w.client.create(CONFIG_MAPS, config_map("a"), "default")
        watch = await w.client.watch(CONFIG_MAPS, send_initial_events=True, allow_bookmarks=True)
        added, bookmark = await watch.next_batch()
        assert added.type == "ADDED"
        assert bookmark.type == "BOOKMARK"
        metadata = bookmark.object["metadata"]
        assert metadata["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert metadata["resourceVersion"] == str(w.store.revision)
        assert bookmark.object["kind"] == "ConfigMap"
        watch.close()

    world(story)


def test_bookmarks_come_every_minute_and_the_watch_ends_in_time(world):
    async def story(w):
        watch = await w.client.watch(CONFIG_MAPS, allow_bookmarks=True, timeout_s=150)
        begun = w.clock.monotonic()
        times = []
        while batch := await watch.next_batch():
            assert [event.type for event in batch] == ["BOOKMARK"]
            times.append(w.clock.monotonic() - begun)
        assert times == [60, 120]
        assert w.clock.monotonic() - begun == 150
        assert w.server.watches.open_count == 0

    world(story)


def test_closing_wakes_the_reader(world):
    async def story(w):
        watch = await w.client.watch(CONFIG_MAPS)
        reader = asyncio.ensure_future(watch.next_batch())
        await w.clock.sleep(1)
        watch.close()
        assert await reader == []
        assert await watch.next_batch() == []

    world(story)


def test_a_reader_that_stalls_loses_its_watch_and_no_event(world, monkeypatch):
    monkeypatch.setattr(watches, "WATCH_BUFFER_EVENTS", 3)

    async def story(w):
        watch = await w.client.watch(CONFIG_MAPS)
        for name in "abcde":
            await w.client.create(CONFIG_MAPS, config_map(name), "default")
        batch = await watch.next_batch()
        assert seen(batch) == [("ADDED", "a"), ("ADDED", "b"), ("ADDED", "c")]
        assert await watch.next_batch() == []
        assert watch.overflowed
        last = batch[-1].object["metadata"]["resourceVersion"]
        again = await w.client.watch(CONFIG_MAPS, resource_version=last)
        assert seen(await again.next_batch()) == [("ADDED", "d"), ("ADDED", "e")]

    world(story)


def test_a_version_to_come_is_waited_for_a_moment(world):
    async def story(w):
        kind = w.server.registry.kind_of("", "v1", "configmaps")

        def options(revision):
            return WatchOptions(
                resource_version=str(revision),
                resource_version_match="NotOlderThan",
                send_initial_events=True,
            )

        soon = asyncio.ensure_future(w.server.watch(kind, "", options(w.store.revision + 1)))
        await w.clock.sleep(1)
        await w.client.create(CONFIG_MAPS, config_map("a"), "default")
        assert seen(await (await soon).next_batch()) == [("ADDED", "a")]
        begun = w.clock.monotonic()
        error = await w.refused(w.server.watch(kind, "", options(w.store.revision + 1)))
        assert 3 <= w.clock.monotonic() - begun < 3.2
        assert error.code == 504
        assert error.message.startswith("Too large resource version")
        assert error.details["retryAfterSeconds"] == 1

    world(story)


@pytest.mark.parametrize(
    "options",
    [
        WatchOptions(send_initial_events=True),
        WatchOptions(resource_version_match="NotOlderThan"),
        WatchOptions(send_initial_events=True, resource_version_match="Exact"),
    ],
)
def test_options_that_contradict_each_other_are_refused(world, options):
    async def story(w):
        kind = w.server.registry.kind_of("", "v1", "configmaps")
        error = await w.refused(w.server.watch(kind, "", options))
        assert error.code == 422

    world(story)


STEP = st.tuples(
    st.sampled_from(["put", "delete", "look"]), st.sampled_from("abc"), st.sampled_from("xy")
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=40), st.sampled_from(["", "side=x"]))
def test_replayed_events_give_the_listed_state(steps, selector):
    """A watcher that applies each event holds exactly what a list with its selector gives."""

    async def story():
        server = ApiServer(MemoryStore(), Catalog.builtin(), VirtualClock(), Chance(1))
        client = LocalClient(server, "tester")
        watch = await client.watch(NODES, label_selector=selector)
        held = {}
        last = 0

        async def catch_up():
            nonlocal last
            if not watch._buffer:
                return
            for event in await watch.next_batch():
                metadata = event.object["metadata"]
                assert int(metadata["resourceVersion"]) > last
                last = int(metadata["resourceVersion"])
                if event.type == "DELETED":
                    del held[metadata["name"]]
                else:
                    assert (event.type == "ADDED") == (metadata["name"] not in held)
                    held[metadata["name"]] = event.object

        for action, name, side in steps:
            exists = any(
                item["metadata"]["name"] == name for item in (await client.list(NODES)).items
            )
            labels = {"metadata": {"name": name, "labels": {"side": side}}}
            if action == "put" and exists:
                await client.patch(NODES, name, labels)
            elif action == "put":
                await client.create(NODES, labels)
            elif action == "delete" and exists:
                await client.delete(NODES, name)
            elif action == "look":
                await catch_up()
        await catch_up()
        page = await client.list(NODES, label_selector=selector)
        assert sorted(held) == [item["metadata"]["name"] for item in page.items]
        assert [held[name] for name in sorted(held)] == page.items

    run(story())
