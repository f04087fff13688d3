"""The store against a model of forty lines, in memory and on SQLite, with random histories."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kubarium.base.errors import ApiError
from kubarium.store import CasError, MemoryStore
from kubarium.store.sqlite import SqliteStore


class Model:
    """What a versioned map is: a list of (kind, key, value), one for each revision after 1."""

    def __init__(self):
        self.changes = []
        self.compacted = 0

    @property
    def revision(self):
        return 1 + len(self.changes)

    def state(self, revision):
        """{key: (value, create_revision, mod_revision)} at ``revision``."""
        state = {}
        for at, (kind, key, value) in enumerate(self.changes[: max(0, revision - 1)], start=2):
            if kind == "DELETE":
                del state[key]
            else:
                state[key] = (value, state[key][1] if key in state else at, at)
        return state

    def page(self, prefix, start, limit, revision):
        state = self.state(revision)
        keys = sorted(key for key in state if key.startswith(prefix) and key >= start)
        page = keys[:limit] if limit else keys
        return [(key, *state[key]) for key in page], len(keys)

    def after(self, prefix, revision):
        """[(revision, kind, key, value)] of the changes that a watch has to see."""
        return [
            (at, kind, key, value)
            for at, (kind, key, value) in enumerate(self.changes, start=2)
            if at > revision and key.startswith(prefix)
        ]


KEYS = st.sampled_from(
    [
        f"/{group}/{plural}/{namespace}/{name}"
        for group, plural in (("core", "pods"), ("core", "podsx"), ("apps", "deployments"))
        for namespace in ("-", "a", "ab")
        for name in ("x", "xy", "z")
    ]
)
PREFIXES = st.sampled_from(
    ["", "/", "/core/", "/core/pods/", "/core/pods/a/", "/core/pods/a/x", "/core/pods/a", "/nil/x/"]
)
VALUES = st.dictionaries(st.sampled_from("pq"), st.integers(0, 3), max_size=2)
FRACTION = st.floats(0, 1)


def expect_api_error(code, call):
    with pytest.raises(ApiError) as caught:
        call()
    assert caught.value.code == code


class StoreMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.model = Model()
        self.store = self.new_store()
        self.watches = []  # (prefix, after, received, subscription)

    def new_store(self):
        return MemoryStore()

    def some_revision(self, fraction):
        """From just before the compaction to just after now."""
        low, high = max(0, self.model.compacted - 1), self.model.revision + 1
        return low + round(fraction * (high - low))

    @rule(key=KEYS, value=VALUES, guess=st.sampled_from(["none", "right", "wrong", "new"]))
    def put(self, key, value, guess):
        held = self.model.state(self.model.revision).get(key)
        right = held[2] if held else 0
        expected = {"none": None, "right": right, "wrong": right + 1, "new": 0}[guess]
        if expected in (None, right):
            assert self.store.put(key, value, expected) == self.model.revision + 1
            self.model.changes.append(("PUT", key, value))
            return
        with pytest.raises(CasError) as caught:
            self.store.put(key, value, expected)
        current = caught.value.current
        assert (current and current.mod_revision) == (held and held[2])

    @rule(key=KEYS, final=st.none() | VALUES, guess=st.sampled_from(["none", "right", "wrong"]))
    def delete(self, key, final, guess):
        held = self.model.state(self.model.revision).get(key)
        right = held[2] if held else 0
        expected = {"none": None, "right": right, "wrong": right + 1}[guess]
        if held and expected in (None, right):
            assert self.store.delete(key, expected, final) == self.model.revision + 1
            self.model.changes.append(("DELETE", key, held[0] if final is None else final))
            return
        with pytest.raises(CasError):
            self.store.delete(key, expected, final)

    @rule(prefix=PREFIXES, start=st.just("") | KEYS, limit=st.integers(0, 4), fraction=FRACTION)
    def read_a_page(self, prefix, start, limit, fraction):
        revision = self.some_revision(fraction)
        if 0 < revision < self.model.compacted:
            expect_api_error(410, lambda: self.store.range(prefix, revision=revision))
            return
        if revision > self.model.revision:
            expect_api_error(504, lambda: self.store.range(prefix, revision=revision))
            return
        at = revision or self.model.revision
        result = self.store.range(prefix, start=start, limit=limit, revision=revision)
        records, count = self.model.page(prefix, start, limit, at)
        assert [tuple(record) for record in map(flat, result.records)] == records
        assert (result.revision, result.count) == (at, count)
        assert result.more == (count > len(records))

    @rule(prefix=PREFIXES, limit=st.integers(1, 4))
    def read_all_pages(self, prefix, limit):
        """Pages at one revision are one consistent list, though writes come in between."""
        revision, start, keys = self.model.revision, "", []
        wanted = sorted(key for key in self.model.state(revision) if key.startswith(prefix))
        while True:
            page = self.store.range(prefix, start=start, limit=limit, revision=revision)
            keys += [record.key for record in page.records]
            if not page.more:
                break
            start = page.records[-1].key + "\0"
            self.put("/core/pods/a/x", {"p": len(keys)}, "none")
        assert keys == wanted

    @rule(key=KEYS, fraction=FRACTION)
    def read_one_at(self, key, fraction):
        revision = self.some_revision(fraction)
        if revision < self.model.compacted:
            expect_api_error(410, lambda: self.store.get_at(key, revision))
        elif revision > self.model.revision:
            expect_api_error(504, lambda: self.store.get_at(key, revision))
        else:
            record = self.store.get_at(key, revision)
            held = self.model.state(revision).get(key)
            assert (record and flat(record)[1:]) == held

    @rule(prefix=PREFIXES, fraction=FRACTION)
    def watch(self, prefix, fraction):
        after = self.some_revision(fraction)
        if after < self.model.compacted:
            expect_api_error(410, lambda: self.store.watch(prefix, after, print))
            return
        received = []
        subscription = self.store.watch(prefix, after, received.append)
        self.watches.append((prefix, after, received, subscription, self.model.compacted))

    @precondition(lambda self: self.watches)
    @rule(data=st.data())
    def stop_watch(self, data):
        at = data.draw(st.integers(0, len(self.watches) - 1))
        *_, received, subscription, _ = self.watches.pop(at)
        subscription.close()
        subscription.close()
        before = len(received)
        self.put("/core/pods/a/x", {}, "none")
        assert len(received) == before

    @rule(fraction=FRACTION)
    def compact(self, fraction):
        revision = self.some_revision(fraction)
        if revision > self.model.revision:
            with pytest.raises(ValueError, match="cannot compact"):
                self.store.compact(revision)
            return
        self.store.compact(revision)
        self.model.compacted = max(self.model.compacted, revision)

    @invariant()
    def agrees_with_the_model(self):
        self.store.check()
        assert self.store.revision == self.model.revision
        assert self.store.compacted == self.model.compacted
        state = self.model.state(self.model.revision)
        assert len(self.store) == len(state)
        for key, held in state.items():
            assert flat(self.store.get(key))[1:] == held

    @invariant()
    def watches_saw_exactly_what_happened(self):
        for prefix, after, received, subscription, _ in self.watches:
            assert subscription.error is None
            seen = [(c.revision, c.kind, c.key, c.record.value) for c in received]
            assert seen == self.model.after(prefix, after)
            for change in received:
                before = self.model.state(change.revision - 1).get(change.key)
                assert (change.previous and flat(change.previous)[1:]) == before
                assert change.record.mod_revision == change.revision

    def teardown(self):
        self.store.check()
        self.store.close()


def flat(record):
    return (record.key, record.value, record.create_revision, record.mod_revision)


class SqliteMachine(StoreMachine):
    """The same, and it may be closed and opened at any time without a difference."""

    def new_store(self):
        self.directory = Path(tempfile.mkdtemp())
        return SqliteStore.open(self.directory / "store.db")

    @rule(flush=st.booleans())
    def reopen(self, flush):
        if flush:
            asyncio.run(self.store.durable())
        self.store.close()
        self.store = SqliteStore.open(self.directory / "store.db")
        self.watches.clear()

    def teardown(self):
        super().teardown()
        shutil.rmtree(self.directory)


TestMemoryStore = StoreMachine.TestCase
TestMemoryStore.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSqliteStore = SqliteMachine.TestCase
TestSqliteStore.settings = settings(
    max_examples=20,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
