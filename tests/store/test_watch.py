"""The guarantees of a watch, each by the name that etcd gives it."""

import pytest

from kubarium.base.errors import ApiError
from kubarium.store import MemoryStore
from kubarium.store.limits import HISTORY_CHANGES, HISTORY_S, HISTORY_SLACK

PODS = "/core/pods/"


def pod(name, namespace="default"):
    return f"{PODS}{namespace}/{name}"


@pytest.fixture
def store():
    store = MemoryStore()
    yield store
    store.check()


def test_ordered_also_when_a_sink_writes(store):
    first, second = [], []

    def controller(change):
        first.append(change.revision)
        if change.key == pod("a"):
            store.put(pod("child"), {})

    store.watch(PODS, store.revision, controller)
    store.watch(PODS, store.revision, lambda change: second.append(change.revision))
    store.put(pod("a"), {})
    store.put(pod("b"), {})
    assert first == second == [2, 3, 4]


def test_ordered_when_a_sink_writes_during_replay(store):
    store.put(pod("a"), {})
    seen = []

    def controller(change):
        seen.append(change.key)
        if change.key == pod("a"):
            store.put(pod("child"), {})

    store.watch(PODS, 0, controller)
    store.put(pod("b"), {})
    assert seen == [pod("a"), pod("child"), pod("b")]


def test_unique_when_a_watch_starts_within_a_delivery(store):
    late = []

    def starts_another(change):
        if change.key == pod("a"):
            store.watch(PODS, 0, late.append)

    store.watch(PODS, store.revision, starts_another)
    store.put(pod("a"), {})
    store.put(pod("b"), {})
    assert [change.key for change in late] == [pod("a"), pod("b")]


def test_atomic_each_revision_is_one_change(store):
    seen = []
    store.watch("", 0, seen.append)
    store.put(pod("a"), {"v": 1})
    store.put(pod("a"), {"v": 2})
    store.delete(pod("a"))
    assert [change.revision for change in seen] == [2, 3, 4]
    assert [change.kind for change in seen] == ["PUT", "PUT", "DELETE"]


@pytest.mark.parametrize("cut", range(1, 8))
def test_resumable_from_any_revision_without_loss_or_double(store, cut):
    whole, head, tail = [], [], []
    store.watch(PODS, 0, whole.append)
    subscription = store.watch(PODS, 0, head.append)
    for number in range(2, 9):
        store.put(pod(f"p{number % 3}"), {"n": number})
        if number == cut:
            subscription.close()
    last = head[-1].revision if head else 0
    store.watch(PODS, last, tail.append)
    assert head + tail == whole


def test_reliable_a_failing_sink_hurts_nobody_else(store, caplog):
    seen = []

    def fails(change):
        raise RuntimeError("sink is full")

    broken = store.watch(PODS, store.revision, fails)
    store.watch(PODS, store.revision, seen.append)
    assert store.put(pod("a"), {}) == 2
    assert [change.revision for change in seen] == [2]
    assert broken.closed
    assert str(broken.error) == "sink is full"
    assert "cut off" in caplog.text


def test_previous_and_final_state_come_with_a_deletion(store):
    seen = []
    store.put(pod("a"), {"v": 1})
    store.watch(PODS, store.revision, seen.append)
    store.delete(pod("a"), 2, final={"v": 1, "resourceVersion": "3"})
    (change,) = seen
    assert change.previous.value == {"v": 1}
    assert change.record.value == {"v": 1, "resourceVersion": "3"}
    assert (change.record.create_revision, change.record.mod_revision) == (2, 3)


def test_filter_a_watch_sees_its_prefix_alone(store):
    prefixes = ["", "/core/", PODS, PODS + "a/", PODS + "a/x", "/core/nodes/-/"]
    seen = {prefix: [] for prefix in prefixes}
    for prefix in prefixes:
        store.watch(prefix, 0, lambda change, to=seen[prefix]: to.append(change.key))
    keys = [pod("x", "a"), pod("xy", "a"), pod("x", "ab"), "/core/nodes/-/n", "/apps/pods/a/x"]
    for key in keys:
        store.put(key, {})
    for prefix in prefixes:
        assert seen[prefix] == [key for key in keys if key.startswith(prefix)]


def test_a_watch_of_the_future_waits_for_it(store):
    seen = []
    store.watch(PODS, 3, seen.append)
    for name in "abc":
        store.put(pod(name), {})
    assert [change.revision for change in seen] == [4]


def test_closed_sinks_hear_nothing_even_within_the_same_delivery(store):
    seen = []
    subscriptions = []
    store.watch(PODS, 1, lambda change: subscriptions[0].close())
    subscriptions.append(store.watch(PODS, 1, seen.append))
    store.put(pod("a"), {})
    assert seen == []


def test_too_old_a_watch_says_which_revision_it_may_start_from(store):
    for name in "abcd":
        store.put(pod(name), {})
    store.compact(4)
    with pytest.raises(ApiError, match=r"^too old resource version: 3 \(4\)$") as caught:
        store.watch(PODS, 3, print)
    assert (caught.value.code, caught.value.reason) == (410, "Expired")
    seen = []
    store.watch(PODS, 4, seen.append)
    assert [change.revision for change in seen] == [5]


def test_too_old_lists_and_continued_lists_say_so_in_their_own_words(store):
    for name in "abcd":
        store.put(pod(name), {})
    store.compact(4)
    with pytest.raises(ApiError, match=r"^The provided continue parameter is too old"):
        store.range(PODS, start=pod("b"), revision=3)
    with pytest.raises(ApiError, match=r"resourceVersion for the provided list is too old"):
        store.range(PODS, revision=3)
    with pytest.raises(ApiError, match="Too large resource version: 6, current: 5") as caught:
        store.range(PODS, revision=6)
    assert caught.value.details["retryAfterSeconds"] == 1


def test_tick_forgets_what_is_older_than_the_history(store):
    store.put(pod("a"), {})
    store.tick(0.0)
    store.put(pod("a"), {})
    store.tick(HISTORY_S / 2)
    assert store.compacted == 0
    store.tick(HISTORY_S)
    assert store.compacted == 2
    store.tick(HISTORY_S)
    store.tick(HISTORY_S * 1.5)
    assert store.compacted == 3
    assert store.get_at(pod("a"), 3) is not None


def test_history_is_bounded_however_fast_writes_come():
    store = MemoryStore()
    for number in range(HISTORY_CHANGES + HISTORY_SLACK - 1):
        store.put(pod(f"p{number % 7}"), {})
    assert store.compacted == 0
    store.put(pod("last"), {})
    store.put(pod("last"), {})
    assert HISTORY_CHANGES <= store.revision - store.compacted <= HISTORY_CHANGES + HISTORY_SLACK
    store.check()


@pytest.mark.parametrize("key", ["", "pods", "/core", "/core/pods", "core/pods/a/b"])
def test_a_key_that_is_not_one_is_refused(key):
    with pytest.raises(ValueError, match="not a key of the form"):
        MemoryStore().put(key, {})
