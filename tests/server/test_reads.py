"""get and list: revisions, pages, continue tokens, selectors."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.kinds import CONFIG_MAPS, EVENTS, PODS
from kubarium.api.resource import Resource
from kubarium.base.errors import ApiError
from kubarium.server.reads import ContinueToken

NEW_EVENTS = Resource("events.k8s.io", "v1", "events", "Event", True)


async def fill(w, *names, labels=None):
    for name in names:
        metadata = {"name": name, "labels": labels or {}}
        await w.client.create(CONFIG_MAPS, {"metadata": metadata}, "default")


def names_of(page):
    return [item["metadata"]["name"] for item in page.items]


def test_what_is_absent_is_404(world):
    async def story(w):
        error = await w.refused(w.client.get(CONFIG_MAPS, "a", "default"))
        assert error.status() == {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": 'configmaps "a" not found',
            "reason": "NotFound",
            "details": {"name": "a", "kind": "configmaps"},
            "code": 404,
        }

    world(story)


def test_kinds_that_are_not_served_are_404(world):
    async def story(w):
        nothing = Resource("x.example.com", "v1", "things", "Thing", True)
        error = await w.refused(w.client.list(nothing))
        assert error.message == "the server could not find the requested resource"

    world(story)


def test_pages_are_of_one_revision(world):
    async def story(w):
        await fill(w, *"abcde")
        first = await w.client.list(CONFIG_MAPS, "default", limit=2)
        assert names_of(first) == ["a", "b"]
        assert first.remaining == 3
        await w.client.delete(CONFIG_MAPS, "c", "default")
        await fill(w, "bb", "f")
        second = await w.client.list(
            CONFIG_MAPS, "default", limit=2, continue_token=first.continue_token
        )
        assert names_of(second) == ["c", "d"]
        assert second.resource_version == first.resource_version
        third = await w.client.list(
            CONFIG_MAPS, "default", limit=2, continue_token=second.continue_token
        )
        assert names_of(third) == ["e"]
        assert third.continue_token == ""
        assert third.remaining is None

    world(story)


def test_a_compacted_page_gives_an_inconsistent_token_to_go_on_with(world):
    async def story(w):
        await fill(w, *"abc")
        first = await w.client.list(CONFIG_MAPS, "default", limit=1)
        await fill(w, "bb")
        w.store.compact(w.store.revision)
        error = await w.refused(
            w.client.list(CONFIG_MAPS, "default", limit=1, continue_token=first.continue_token)
        )
        assert (error.code, error.reason) == (410, "Expired")
        token = error.status()["metadata"]["continue"]
        rest = await w.client.list(CONFIG_MAPS, "default", continue_token=token)
        assert names_of(rest) == ["b", "bb", "c"]

    world(story)


def test_selected_pages_are_full_and_have_no_remaining_count(world):
    async def story(w):
        await fill(w, "a", "c", "e", labels={"odd": "yes"})
        await fill(w, "b", "d")
        first = await w.client.list(CONFIG_MAPS, "default", label_selector="odd", limit=2)
        assert names_of(first) == ["a", "c"]
        assert first.remaining is None
        second = await w.client.list(
            CONFIG_MAPS,
            "default",
            label_selector="odd",
            limit=2,
            continue_token=first.continue_token,
        )
        assert names_of(second) == ["e"]

    world(story)


def test_versions_say_how_fresh_a_list_must_be(world):
    async def story(w):
        await fill(w, "a")
        old = str(w.store.revision)
        await fill(w, "b")

        async def listed(version, match=""):
            page = await w.client.list(
                CONFIG_MAPS, "default", resource_version=version, resource_version_match=match
            )
            return names_of(page)

        assert await listed("0") == ["a", "b"]
        assert await listed(old) == ["a", "b"]
        assert await listed(old, "NotOlderThan") == ["a", "b"]
        assert await listed(old, "Exact") == ["a"]
        for version, match, code in (
            ("99999", "", 504),
            ("", "Exact", 422),
            ("0", "Exact", 422),
            ("5", "Sometimes", 422),
            ("x", "", 400),
            ("-1", "", 400),
        ):
            error = await w.refused(listed(version, match))
            assert error.code == code, (version, match)
        w.store.compact(w.store.revision)
        assert (await w.refused(listed(old, "Exact"))).code == 410

    world(story)


def test_limit_is_ignored_when_any_version_will_do(world):
    async def story(w):
        await fill(w, *"abc")
        page = await w.client.list(CONFIG_MAPS, "default", resource_version="0", limit=1)
        assert len(page.items) == 3

    world(story)


def test_pods_are_selected_by_their_fields(world):
    async def story(w):
        await w.pod("one")
        await w.pod("two", nodeName="n1")
        c = w.client
        assert names_of(await c.list(PODS, field_selector="spec.nodeName=n1")) == ["two"]
        assert names_of(await c.list(PODS, field_selector="spec.nodeName=")) == ["one"]
        assert names_of(await c.list(PODS, field_selector="metadata.name!=two")) == ["one"]
        assert names_of(await c.list(PODS, field_selector="status.phase=Pending")) == ["one", "two"]
        error = await w.refused(c.list(PODS, field_selector="spec.containers=x"))
        assert error.code == 400
        error = await w.refused(c.list(PODS, label_selector="a in"))
        assert error.code == 400

    world(story)


def test_events_are_one_thing_in_two_groups(world):
    async def story(w):
        event = {
            "metadata": {"name": "e"},
            "regarding": {"kind": "Pod", "name": "web", "namespace": "default"},
            "note": "it started",
            "reason": "Started",
            "type": "Normal",
            "action": "Start",
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "example.com/agent",
            "reportingInstance": "a",
        }
        await w.client.create(NEW_EVENTS, event, "default")
        old = await w.client.get(EVENTS, "e", "default")
        assert old["apiVersion"] == "v1"
        assert old["involvedObject"]["name"] == "web"
        assert old["message"] == "it started"
        assert old["reportingComponent"] == "example.com/agent"
        new = await w.client.get(NEW_EVENTS, "e", "default")
        assert new["apiVersion"] == "events.k8s.io/v1"
        assert new["note"] == "it started"
        series = {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}
        patched = await w.client.patch(NEW_EVENTS, "e", {"series": series}, "default")
        assert patched["series"] == series
        assert (await w.client.get(EVENTS, "e", "default"))["series"] == series
        again = w.client.patch(NEW_EVENTS, "e", {"note": "again"}, "default")
        error = await w.refused(again)
        assert 'message: Invalid value: "again": field is immutable' in error.message

    world(story)


@given(st.integers(min_value=1, max_value=2**53), st.text(min_size=1))
def test_tokens_come_back_as_they_went(revision, start):
    if "/../" in f"/{start}":
        return
    token = ContinueToken(revision, start)
    assert ContinueToken.decode(token.encode()) == token


def encoded(body):
    return base64.urlsafe_b64encode(json.dumps(body).encode()).decode()


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "%%%",
        "AAAA",
        encoded([]),
        encoded({"v": "meta.k8s.io/v2", "rv": 1, "start": "a"}),
        encoded({"v": "meta.k8s.io/v1", "rv": "1", "start": "a"}),
        encoded({"v": "meta.k8s.io/v1", "rv": 0, "start": "a"}),
        encoded({"v": "meta.k8s.io/v1", "rv": 1, "start": ""}),
        encoded({"v": "meta.k8s.io/v1", "rv": 1, "start": "../../secrets"}),
    ],
)
def test_tokens_of_others_are_refused(text):
    with pytest.raises(ApiError, match="continue key is not valid") as caught:
        ContinueToken.decode(text)
    assert caught.value.code == 400
