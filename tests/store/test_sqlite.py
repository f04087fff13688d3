"""What the file promises: durability, exclusive use, and clear refusals."""

import asyncio
import sqlite3
import stat
import subprocess
import sys
import threading

import pytest

from kubarium.base.errors import ApiError, ConfigError
from kubarium.store.sqlite import SqliteStore

POD = "/core/pods/default/a"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "store.db"


def write(path, *values):
    store = SqliteStore.open(path)
    for value in values:
        store.put(POD, value)
    store.close()
    return store


def edit(path, *statements):
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_revisions_and_history_survive(path):
    write(path, {"v": 1}, {"v": 2})
    store = SqliteStore.open(path)
    record = store.get(POD)
    assert (record.value, record.create_revision, record.mod_revision) == ({"v": 2}, 2, 3)
    seen = []
    store.watch("/core/pods/", 2, seen.append)
    assert [(change.revision, change.previous.value) for change in seen] == [(3, {"v": 1})]
    assert store.put(POD, {"v": 3}) == 4
    store.check()
    store.close()


def test_the_file_and_its_folder_are_private(path):
    write(path, {})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_idle_store_has_no_thread_and_a_closed_one_leaves_none(path):
    before = threading.active_count()
    store = SqliteStore.open(path)
    assert threading.active_count() == before
    store.put(POD, {})
    store.close()
    assert threading.active_count() == before


def test_writes_made_while_waiting_share_commits(path):
    store = SqliteStore.open(path)
    commits = []
    commit = store._commit_batch
    store._commit_batch = lambda batch: (commits.append(len(batch)), commit(batch))

    async def writer(number):
        for turn in range(20):
            store.put(f"/core/pods/default/p{number}", {"turn": turn})
            await store.durable()

    async def all_writers():
        await asyncio.gather(*(writer(number) for number in range(30)))

    asyncio.run(all_writers())
    store.close()
    assert sum(commits) == 600
    assert len(commits) < 200


def test_durable_returns_at_once_when_nothing_is_open(path):
    store = SqliteStore.open(path)
    asyncio.run(store.durable())
    store.put(POD, {})
    asyncio.run(store.durable())
    asyncio.run(store.durable())
    assert store._committed == store.revision
    store.close()


def test_a_cancelled_waiter_harms_nobody(path):
    store = SqliteStore.open(path)

    async def scenario():
        store.put(POD, {})
        waiter = asyncio.ensure_future(store.durable())
        await asyncio.sleep(0)
        waiter.cancel()
        store.put(POD, {})
        await store.durable()

    asyncio.run(scenario())
    store.close()


def test_compaction_leaves_only_the_last_value_of_live_keys(path):
    store = SqliteStore.open(path)
    for value in range(5):
        store.put(POD, {"v": value})
        store.put("/core/pods/default/gone", {"v": value})
    store.delete("/core/pods/default/gone")
    store.compact(store.revision)
    store.close()
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT revision, key, deleted FROM log").fetchall()
    connection.close()
    assert rows == [(10, POD, 0)]
    again = SqliteStore.open(path)
    assert (again.revision, again.compacted) == (12, 12)
    assert again.get(POD).create_revision == 2
    again.check()
    again.close()


def test_a_full_disk_stops_the_store_and_acknowledges_nothing(path):
    store = SqliteStore.open(path)
    store.put(POD, {"v": 1})
    asyncio.run(store.durable())
    store._connection.execute("PRAGMA max_page_count = 8")
    store.put(POD, {"v": "x" * 100_000})
    with pytest.raises(ApiError, match="database or disk is full") as caught:
        asyncio.run(store.durable())
    assert caught.value.code == 503
    revision = store.revision
    for attempt in (lambda: store.put(POD, {}), lambda: store.delete(POD)):
        with pytest.raises(ApiError, match="can no longer be written"):
            attempt()
    assert store.revision == revision
    with pytest.raises(ApiError, match="can no longer be written"):
        asyncio.run(store.durable())
    store.close()
    again = SqliteStore.open(path)
    assert again.get(POD).value == {"v": 1}
    again.close()


def test_a_value_without_json_form_is_refused_before_anything_changes(path):
    store = SqliteStore.open(path)
    with pytest.raises(ApiError, match=f"{POD} cannot be stored as JSON") as caught:
        store.put(POD, {"v": 2**70})
    assert caught.value.code == 400
    assert (store.revision, store.get(POD)) == (1, None)
    store.check()
    store.close()


def test_a_closed_store_takes_no_writes(path):
    store = write(path, {})
    with pytest.raises(ApiError, match="is closed"):
        store.put(POD, {})


def test_a_store_in_use_is_refused(path):
    store = SqliteStore.open(path)
    with pytest.raises(ConfigError, match=r"store\.db: in use by another process.*kubarium down"):
        SqliteStore.open(path)
    store.close()
    SqliteStore.open(path).close()


def test_no_other_process_gets_in_even_after_we_tried_twice(path):
    store = SqliteStore.open(path)
    with pytest.raises(ConfigError):
        SqliteStore.open(path)
    other = (
        "import sys; from kubarium.store.sqlite import SqliteStore; SqliteStore.open(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", other, str(path)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode != 0
    assert "in use by another process" in done.stderr
    store.close()


def test_a_foreign_database_is_refused_and_left_alone(path):
    path.parent.mkdir()
    edit(path, "CREATE TABLE photos (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"store\.db: this SQLite file was not made by kubarium"):
        SqliteStore.open(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(path):
    path.parent.mkdir()
    path.write_text("dear diary, " * 500)
    with pytest.raises(ConfigError, match=r"store\.db: not a SQLite file"):
        SqliteStore.open(path)
    assert path.read_text().startswith("dear diary")


def test_a_newer_schema_is_refused(path):
    write(path, {})
    edit(path, "PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match=r"schema 99, this one knows 1.*Upgrade kubarium"):
        SqliteStore.open(path)


def test_an_empty_file_is_a_store_not_yet_begun(path):
    path.parent.mkdir()
    path.touch()
    store = SqliteStore.open(path)
    assert store.revision == 1
    store.close()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM log WHERE revision = 3", "revision 3 is missing"),
        ("UPDATE log SET value = '{' WHERE revision = 3", "revision 3 does not hold JSON"),
        ("UPDATE log SET value = '[]' WHERE revision = 3", "does not hold a JSON object"),
        ("UPDATE log SET deleted = 1 WHERE revision = 2", "deletes /core/pods/default/a"),
    ],
)
def test_a_damaged_log_is_refused(path, statement, message):
    write(path, {"v": 1}, {"v": 2}, {"v": 3})
    edit(path, statement)
    with pytest.raises(
        ConfigError, match=rf"store\.db: the cluster's store is damaged: .*{message}"
    ):
        SqliteStore.open(path)


def test_a_place_that_cannot_hold_a_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot open the cluster's store"):
        SqliteStore.open(tmp_path)
