"""Against the real API in the process."""

import pytest

from kubarium.api.catalog import Catalog
from kubarium.api.kinds import EVENTS, NAMESPACES
from kubarium.base.chance import Chance
from kubarium.runtime.events import BURST, EventRecorder
from kubarium.runtime.informer import SharedInformers
from kubarium.runtime.protocol import Context
from kubarium.runtime.virtual import VirtualClock, run
from kubarium.server.api_server import ApiServer
from kubarium.server.local import LocalClient
from kubarium.store import MemoryStore

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "a", "namespace": "default", "uid": "u", "resourceVersion": "7"},
}


@pytest.fixture
def story_run():
    def runner(story):
        async def main():
            clock, chance = VirtualClock(), Chance(0)
            server = ApiServer(MemoryStore(), Catalog.builtin(), clock, chance)
            client = LocalClient(server, "system:admin")
            for name in ("default",):
                namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                await client.create(NAMESPACES, namespace)
            context = Context(client, SharedInformers(client, clock), clock, chance)
            await story(context, EventRecorder(context, "tester"))

        run(main())

    return runner


async def events(context):
    return (await context.client.list(EVENTS, "default")).items


def test_an_event_tells_who_what_and_when(story_run):
    async def story(context, recorder):
        recorder.event(POD, "Warning", "Failed", "it broke")
        await recorder.flush()
        [event] = await events(context)
        assert event["involvedObject"] == {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": "default",
            "name": "a",
            "uid": "u",
            "resourceVersion": "7",
        }
        assert (event["type"], event["reason"], event["message"]) == (
            "Warning",
            "Failed",
            "it broke",
        )
        assert event["source"] == {"component": "tester"}
        assert event["count"] == 1
        assert event["firstTimestamp"] == event["lastTimestamp"]
        assert event["metadata"]["name"].startswith("a.")

    story_run(story)


def test_repeats_are_counted_on_one_event(story_run):
    async def story(context, recorder):
        for _ in range(5):
            recorder.event(POD, "Normal", "Pulled", "again")
            await context.clock.sleep(10)
        [event] = await events(context)
        assert event["count"] == 5
        assert event["firstTimestamp"] < event["lastTimestamp"]

    story_run(story)


def test_parts_of_an_object_are_counted_apart_and_the_host_is_named(story_run):
    async def story(context, _):
        recorder = EventRecorder(context, "kubelet", lambda pod: "node-1")
        for part in ("spec.containers{a}", "spec.containers{b}", "spec.containers{b}"):
            recorder.event(POD, "Normal", "Pulled", "it is there", field_path=part)
        await recorder.flush()
        found = sorted(
            (event["involvedObject"]["fieldPath"], event["count"])
            for event in await events(context)
        )
        assert found == [("spec.containers{a}", 1), ("spec.containers{b}", 2)]
        [event, _] = await events(context)
        assert event["source"] == {"component": "kubelet", "host": "node-1"}
        assert event["reportingInstance"] == "node-1"

    story_run(story)


def test_many_similar_events_are_combined(story_run):
    async def story(context, recorder):
        for number in range(20):
            recorder.event(POD, "Normal", "Scaled", f"to {number}")
        await recorder.flush()
        found = await events(context)
        plain = [event for event in found if not event["message"].startswith("(combined")]
        assert len(plain) == 9
        combined = [event for event in found if event["message"].startswith("(combined")]
        assert len(combined) == 1
        assert combined[0]["count"] == 11
        assert combined[0]["message"] == "(combined from similar events): to 19"

    story_run(story)


def test_a_flood_is_cut_and_refills_slowly(story_run):
    async def story(context, recorder):
        for number in range(BURST + 15):
            recorder.event(POD, "Normal", f"Reason{number}", "m")
        await recorder.flush()
        assert len(await events(context)) == BURST
        assert recorder.dropped == 15
        await context.clock.sleep(301)
        recorder.event(POD, "Normal", "Later", "m")
        await recorder.flush()
        assert len(await events(context)) == BURST + 1

    story_run(story)


def test_what_stands_is_one_event_and_always_told(story_run):
    async def story(context, recorder):
        for number in range(BURST + 15):
            text = f"until {number}"
            recorder.event(POD, "Normal", "Rests", text, action="Binding", standing=True)
            await recorder.flush()
            [event] = await events(context)
            assert event["message"] == text
            await context.clock.sleep(30)
        assert event["series"]["count"] == BURST + 15
        assert recorder.dropped == 0

    story_run(story)


def test_an_event_that_was_deleted_is_written_anew(story_run):
    async def story(context, recorder):
        recorder.event(POD, "Normal", "Pulled", "again")
        await recorder.flush()
        [event] = await events(context)
        await context.client.delete(EVENTS, event["metadata"]["name"], "default")
        recorder.event(POD, "Normal", "Pulled", "again")
        await recorder.flush()
        [event] = await events(context)
        assert event["count"] == 1

    story_run(story)


def test_an_event_for_a_namespace_that_is_gone_is_dropped(story_run):
    async def story(context, recorder):
        lost = {**POD, "metadata": {**POD["metadata"], "namespace": "nowhere"}}
        recorder.event(lost, "Normal", "Pulled", "m")
        recorder.event(POD, "Normal", "Pulled", "m")
        await recorder.flush()
        assert recorder.dropped == 1
        assert len(await events(context)) == 1

    story_run(story)


def test_cluster_scoped_objects_have_their_events_in_default(story_run):
    async def story(context, recorder):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "uid": "u"}}
        recorder.event(node, "Normal", "Starting", "m")
        await recorder.flush()
        assert len(await events(context)) == 1

    story_run(story)


def test_an_event_with_an_action_has_the_newer_form_and_counts_as_a_series(story_run):
    async def story(context, recorder):
        other = {**POD, "metadata": {**POD["metadata"], "name": "b", "uid": "v"}}
        for _ in range(3):
            recorder.event(POD, "Normal", "Preempted", "by b", action="Preempting", related=other)
            await context.clock.sleep(10)
        recorder.event(POD, "Normal", "Preempted", "by b")  # without an action: another event
        await recorder.flush()
        new, old = sorted(await events(context), key=lambda e: "count" in e)
        assert (new["action"], new["reportingComponent"]) == ("Preempting", "tester")
        assert new["reportingInstance"] == "tester-kubarium"
        assert new["related"]["uid"] == "v"
        assert new["series"]["count"] == 3
        assert new["eventTime"] < new["series"]["lastObservedTime"]
        assert not {"count", "source"} & set(new)
        assert new["firstTimestamp"] < new["lastTimestamp"], "older clients look for these"
        assert (old["count"], old.get("eventTime")) == (1, None)

    story_run(story)
